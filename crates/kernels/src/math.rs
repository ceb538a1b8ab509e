//! Elementary functions on sixteen lanes, from additions, multiplications and fused multiply-adds only,
//! so that every instruction set gives the same bits.

use crate::simd::Simd;

/// `e^x`, within 2 ulp; 0 below −87.33, +∞ above 88.72.
///
/// Cephes' `expf` polynomial on `x − n·ln 2`, with `n` found by adding 1.5 · 2²³.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const LOW: f32 = -87.336_54;
    const HIGH: f32 = 88.722_83;
    let magic = s.splat(12_582_912.0);
    let n = s.fma(x, s.splat(std::f32::consts::LOG2_E), magic);
    let k = s.sub(n, magic);
    // ln 2 in two parts: the first has few enough bits that k times it is exact.
    let r = s.fma(k, s.splat(-0.693_359_4), x);
    let r = s.fma(k, s.splat(2.121_944_4e-4), r);
    let p = s.splat(1.987_569_1e-4);
    let p = s.fma(p, r, s.splat(1.398_2e-3));
    let p = s.fma(p, r, s.splat(8.333_452e-3));
    let p = s.fma(p, r, s.splat(4.166_579_6e-2));
    let p = s.fma(p, r, s.splat(0.166_666_65));
    let p = s.fma(p, r, s.splat(0.5));
    let p = s.fma(p, s.mul(r, r), s.add(r, s.splat(1.0)));
    let y = s.add_exponent(p, n);
    let y = s.select_lt(x, s.splat(LOW), s.zero(), y);
    // Beyond: infinity, or what is no number as it is.
    let beyond = s.select_lt(s.splat(HIGH), x, s.splat(f32::INFINITY), x);
    s.select_lt(x, s.splat(HIGH.next_up()), y, beyond)
}

/// `x / (1 + e^−x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    let e = exp(s, s.sub(s.zero(), x));
    s.div(x, s.add(s.splat(1.0), e))
}
