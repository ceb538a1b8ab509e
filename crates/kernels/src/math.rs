//! Elementary functions on sixteen lanes, from additions, multiplications, divisions and fused multiply-adds only,
//! so that every instruction set gives the same bits. What is no number stays none.

use crate::simd::Simd;

/// Beyond this, `e^x` is no finite number.
const EXP_HIGH: f32 = 88.722_83;

/// `e^x = 2^n · (1 + r + p · r²)`.
struct Reduced<V> {
    /// An integer, in the low bits of a float near 1.5 · 2²³.
    n: V,
    /// At most about ½ ln 2 in magnitude.
    r: V,
    p: V,
}

/// Cephes' `expf` polynomial on `r = x − n·ln 2`, with `n` found by adding 1.5 · 2²³.
#[inline(always)]
fn reduce<S: Simd>(s: S, x: S::V) -> Reduced<S::V> {
    let magic = s.splat(12_582_912.0);
    let n = s.fma(x, s.splat(std::f32::consts::LOG2_E), magic);
    let k = s.sub(n, magic);
    // ln 2 in two parts: the first has few enough bits that k times it is exact.
    let r = s.fma(k, s.splat(-0.693_359_4), x);
    let r = s.fma(k, s.splat(2.121_944_4e-4), r);
    let coefficients = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5];
    Reduced { n, r, p: polynomial(s, coefficients, r) }
}

/// Highest power first.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, coefficients: [f32; N], x: S::V) -> S::V {
    let mut p = s.splat(coefficients[0]);
    for i in 1..N {
        p = s.fma(p, x, s.splat(coefficients[i]));
    }
    p
}

/// `e^x`, within 2 ulp; 0 below −87.33, +∞ above 88.72.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const LOW: f32 = -87.336_54;
    let Reduced { n, r, p } = reduce(s, x);
    let p = s.fma(p, s.mul(r, r), s.add(r, s.splat(1.0)));
    let y = s.add_exponent(p, n);
    let y = s.select_lt(x, s.splat(LOW), s.zero(), y);
    // Beyond: infinity, or what is no number as it is.
    let beyond = s.select_lt(s.splat(EXP_HIGH), x, s.splat(f32::INFINITY), x);
    s.select_lt(x, s.splat(EXP_HIGH.next_up()), y, beyond)
}

/// `e^x − 1`, within 2 ulp; +∞ above 88.72.
#[inline(always)]
pub(crate) fn expm1<S: Simd>(s: S, x: S::V) -> S::V {
    // Further below it is −1, and 2^n far from the smallest numbers.
    let low = s.splat(-20.0);
    let Reduced { n, r, p } = reduce(s, s.select_lt(x, low, low, x));
    let p = s.fma(p, s.mul(r, r), r);
    // By half of 2^n, then twice: 2^128 is no number yet.
    let half = s.add_exponent(s.splat(0.5), n);
    let y = s.fma(half, p, s.sub(half, s.splat(0.5)));
    let y = s.add(y, y);
    let y = s.select_lt(s.splat(EXP_HIGH), x, s.splat(f32::INFINITY), y);
    // The smallest numbers, and zeros of either sign, are their own results.
    s.select_lt(abs(s, x), s.splat(1e-9), x, y)
}

/// `1 / (1 + e^−x)`, within 4 ulp.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let e = exp(s, s.sub(s.zero(), x));
    s.div(s.splat(1.0), s.add(s.splat(1.0), e))
}

/// `x / (1 + e^−x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    let e = exp(s, s.sub(s.zero(), x));
    s.div(x, s.add(s.splat(1.0), e))
}

/// `tanh x`, within 2 ulp.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    // Minimax polynomial of (tanh √q / √q − 1) / q up to q = 0.625².
    const NEAR: [f32; 5] = [-5.704_960_3e-3, 2.063_906e-2, -5.373_970_4e-2, 0.133_314_42, -0.333_332_8];
    let size = abs(s, x);
    let square = s.mul(x, x);
    let near = s.fma(s.mul(square, polynomial(s, NEAR, square)), x, x);
    let e = exp(s, s.add(size, size));
    let far = s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(e, s.splat(1.0))));
    s.select_lt(size, s.splat(0.625), near, with_sign_of(s, x, far))
}

/// The error function, within 2 ulp.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    // Minimax polynomials of erf √q / √q − 1 up to q = 0.93², and of −ln(1 − erf t) / t − 1 from t = 0.92 to 4, where
    // erf is 1.
    const NEAR: [f32; 6] = [-5.953_726e-4, 4.985_937_4e-3, -2.676_171_8e-2, 0.112_816_826, -0.376_124_8, 0.128_379_15];
    const FAR: [f32; 6] = [-2.139_898_3e-4, 3.214_993_3e-3, -2.289_007_6e-2, 0.105_262, 0.635_718_2, 0.128_514_4];
    let size = abs(s, x);
    let near = s.fma(polynomial(s, NEAR, s.mul(x, x)), x, x);
    let t = s.select_lt(s.splat(4.0), size, s.splat(4.0), size);
    let e = exp(s, s.sub(s.zero(), s.fma(polynomial(s, FAR, t), t, t)));
    let far = with_sign_of(s, x, s.sub(s.splat(1.0), e));
    s.select_lt(size, s.splat(0.93), near, far)
}

/// `ln(1 + e^x)`, within 4 ulp; below −87.33 it is 0.
#[inline(always)]
pub(crate) fn softplus<S: Simd>(s: S, x: S::V) -> S::V {
    // Minimax polynomial of (artanh √q / √q − 1) / q up to q = 1/9.
    const NEAR: [f32; 4] = [0.140_061_54, 0.140_008_63, 0.200_107_66, 0.333_332_1];
    // ln(1 + z) = 2 artanh(z / (2 + z)), with z at most 1.
    let z = exp(s, s.sub(s.zero(), abs(s, x)));
    let t = s.div(z, s.add(z, s.splat(2.0)));
    let square = s.mul(t, t);
    let half = s.fma(s.mul(square, polynomial(s, NEAR, square)), t, t);
    s.add(s.max(x, s.zero()), s.add(half, half))
}

/// `tanh(x / cap) · cap`.
#[inline(always)]
pub(crate) fn soft_cap<S: Simd>(s: S, x: S::V, cap: S::V) -> S::V {
    s.mul(tanh(s, s.div(x, cap)), cap)
}

/// What lies beyond `limit` becomes `limit`, what lies below `-limit` becomes `-limit`.
#[inline(always)]
pub(crate) fn clamp<S: Simd>(s: S, x: S::V, limit: f32) -> S::V {
    let (low, high) = (s.splat(-limit), s.splat(limit));
    let x = s.select_lt(high, x, high, x);
    s.select_lt(x, low, low, x)
}

#[inline(always)]
fn abs<S: Simd>(s: S, x: S::V) -> S::V {
    s.max(x, s.sub(s.zero(), x))
}

/// `size`, which is not negative, or its negative where `x` is.
#[inline(always)]
fn with_sign_of<S: Simd>(s: S, x: S::V, size: S::V) -> S::V {
    s.select_lt(x, s.zero(), s.sub(s.zero(), size), size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, LANES, Op};

    /// A function under test.
    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Expm1,
        Sigmoid,
        Tanh,
        Erf,
        Softplus,
    }

    use Function::*;

    impl Function {
        fn in_f64(self, x: f64) -> f64 {
            match self {
                Exp => libm::exp(x),
                Expm1 => libm::expm1(x),
                Sigmoid => 1.0 / (1.0 + libm::exp(-x)),
                Tanh => libm::tanh(x),
                Erf => libm::erf(x),
                Softplus => x.max(0.0) + libm::log1p(libm::exp(-x.abs())),
            }
        }
    }

    struct Apply<'a>(Function, &'a [f32; LANES]);

    impl Op for Apply<'_> {
        type Output = [f32; LANES];

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [f32; LANES] {
            let mut out = [0.0; LANES];
            // SAFETY: arrays of sixteen.
            unsafe {
                let x = s.load(self.1.as_ptr());
                let y = match self.0 {
                    Exp => exp(s, x),
                    Expm1 => expm1(s, x),
                    Sigmoid => sigmoid(s, x),
                    Tanh => tanh(s, x),
                    Erf => erf(s, x),
                    Softplus => softplus(s, x),
                };
                s.store(out.as_mut_ptr(), y);
            }
            out
        }
    }

    /// Numbers of every size and sign: some thousands in each binade, and all near where something changes.
    fn inputs() -> Vec<f32> {
        let mut all: Vec<f32> = (0..f32::INFINITY.to_bits()).step_by(4801).map(f32::from_bits).collect();
        for edge in [1e-9, 0.34657, 0.625, 0.92, 0.93, 1.0, 1.0397, 4.0, 9.0, 17.3, 20.0, 87.336_54, 88.37, EXP_HIGH] {
            let bits = f32::to_bits(edge);
            all.extend((bits - 3000..bits + 3000).map(f32::from_bits));
        }
        all.extend((0..400_000).map(|i| i as f32 * (100.0 / 400_000.0)));
        let negative: Vec<f32> = all.iter().map(|x| -x).collect();
        all.extend(negative);
        all.resize(all.len().next_multiple_of(LANES), 0.0);
        all
    }

    /// The distance in units of the last place of `want` in f32, of a normal number at least.
    fn ulps(got: f32, want: f64) -> f64 {
        let exponent = want.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor();
        (f64::from(got) - want).abs() / (exponent - 23.0).exp2()
    }

    /// Every function, over everything, against f64; and the same bits from every instruction set.
    #[test]
    fn functions_are_as_near_as_they_say() {
        let inputs = inputs();
        let cases = [(Exp, 2.0), (Expm1, 2.0), (Sigmoid, 4.0), (Tanh, 2.0), (Erf, 2.0), (Softplus, 4.0)];
        for (function, most) in cases {
            let mut worst = (0.0, 0.0, 0.0);
            for x in inputs.as_chunks::<LANES>().0 {
                let got = Isa::detect().run(Apply(function, x));
                for isa in Isa::available() {
                    let same = isa.run(Apply(function, x)).map(f32::to_bits) == got.map(f32::to_bits);
                    assert!(same, "{function:?} of {x:?} on {}", isa.name());
                }
                for (x, got) in x.iter().zip(got) {
                    let want = function.in_f64(f64::from(*x));
                    // What is next to nothing may be nothing, what is next to infinite may be that.
                    let nothing = want.abs() < 1.2e-38 && (0.0..1.3e-38).contains(&got.abs());
                    let beyond = want > f64::from(f32::MAX) * (1.0 - 1e-6) && got == f32::INFINITY;
                    if !nothing && !beyond && ulps(got, want) > worst.0 {
                        worst = (ulps(got, want), *x, got);
                    }
                }
            }
            assert!(worst.0 <= most, "{function:?} of {:e} is {:e}, {} ulp off", worst.1, worst.2, worst.0);
        }
    }

    #[test]
    fn functions_at_the_ends() {
        let ends = [f32::NEG_INFINITY, f32::MIN, -0.0, 0.0, f32::MAX, f32::INFINITY, f32::NAN];
        let mut x = [0.0; LANES];
        x[..ends.len()].copy_from_slice(&ends);
        let infinity = f32::INFINITY;
        for isa in Isa::available() {
            let check = |function, want: [f32; 6]| {
                let got = isa.run(Apply(function, &x));
                for ((got, want), x) in got.iter().zip(want).zip(ends) {
                    assert!(*got == want, "{function:?} of {x:e} is {got:e}, on {}", isa.name());
                }
                assert!(got[6].is_nan(), "{function:?} of what is no number, on {}", isa.name());
            };
            check(Exp, [0.0, 0.0, 1.0, 1.0, infinity, infinity]);
            check(Expm1, [-1.0, -1.0, -0.0, 0.0, infinity, infinity]);
            check(Sigmoid, [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]);
            check(Tanh, [-1.0, -1.0, -0.0, 0.0, 1.0, 1.0]);
            check(Erf, [-1.0, -1.0, -0.0, 0.0, 1.0, 1.0]);
            let ln_2 = isa.run(Apply(Softplus, &[0.0; LANES]))[0];
            check(Softplus, [0.0, 0.0, ln_2, ln_2, f32::MAX, infinity]);
        }
    }
}
