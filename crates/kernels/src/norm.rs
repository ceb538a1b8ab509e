//! Normalisation of rows, and of the heads of rows.

use crate::elementwise::{TimesSilu, Zip};
use crate::exec::Exec;
use crate::matrix::{F32, StoredRows};
use crate::simd::{LANES, Op, Simd};
use crate::tile::{self, InF32, Nothing};

/// What a norm divides by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NormKind {
    /// `x · 1/√(mean(x²) + eps)`, as transformers' `LlamaRMSNorm.forward`.
    Rms,
    /// `(x − mean(x)) · 1/√(mean((x − mean(x))²) + eps)`, as torch's `layer_norm`.
    Layer,
}

/// A norm over groups of `width` elements: those of a row, or of a head. The result is multiplied by the weight, then the
/// bias is added. (Of a norm by `1 + w` the weight is `1 + w`.)
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Norm<'a> {
    /// What it divides by.
    pub kind: NormKind,
    /// `[k, width]`: group `g` of a row has weight `g mod k`. `None`: all are 1.
    pub weight: Option<&'a [f32]>,
    /// Of the same shape. `None`: all are 0.
    pub bias: Option<&'a [f32]>,
    /// Elements that are normalised together.
    pub width: usize,
    /// What keeps the root from zero.
    pub eps: f32,
}

/// Normalises `x: [n, groups_per_row, norm.width]` into `out`, group by group.
///
/// # Panics
/// When the lengths do not agree.
pub fn norm(exec: &Exec, norm: &Norm<'_>, groups_per_row: usize, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "input and output of one shape");
    over_groups(exec, Kind::from(norm.kind), norm, groups_per_row, Some(x), out);
}

/// As [`norm()`], in place.
///
/// # Panics
/// When the lengths do not agree.
pub fn norm_in_place(exec: &Exec, norm: &Norm<'_>, groups_per_row: usize, x: &mut [f32]) {
    over_groups(exec, Kind::from(norm.kind), norm, groups_per_row, None, x);
}

/// `x · 1/√(Σ x² + eps)` of every group of `x: [n, groups_per_row, width]`, in place: transformers'
/// `modeling_qwen3_next.py::l2norm`.
///
/// # Panics
/// When the lengths do not agree.
pub fn l2_norm_in_place(exec: &Exec, groups_per_row: usize, width: usize, eps: f32, x: &mut [f32]) {
    let norm = Norm { kind: NormKind::Rms, weight: None, bias: None, width, eps };
    over_groups(exec, Kind::L2, &norm, groups_per_row, None, x);
}

/// `weight · (x · 1/√(mean(x²) + eps)) · silu(gate)` of every row of `x: [n, width]`, in place; `gate` has its shape:
/// transformers' `Qwen3NextRMSNormGated.forward`.
///
/// # Panics
/// When the lengths do not agree.
pub fn gated_rms_norm(exec: &Exec, weight: &[f32], eps: f32, gate: &[f32], x: &mut [f32], width: usize) {
    assert!(width > 0 && x.len().is_multiple_of(width), "rows of {width} elements");
    assert!(
        weight.len() == width && gate.len() == x.len(),
        "a weight for each element of a row, a gate for each element"
    );
    let isa = exec.isa();
    exec.for_rows(x, width, |r, row| {
        isa.run(Row { kind: Kind::Rms, x: None, weight: Some(weight), bias: None, eps, out: row });
        isa.run(Zip(row, &gate[r * width..(r + 1) * width], TimesSilu));
    });
}

/// [`NormKind`], and the norm that has no parameters.
#[derive(Clone, Copy)]
enum Kind {
    Rms,
    Layer,
    L2,
}

impl From<NormKind> for Kind {
    fn from(kind: NormKind) -> Kind {
        match kind {
            NormKind::Rms => Kind::Rms,
            NormKind::Layer => Kind::Layer,
        }
    }
}

/// `x: None`: what `out` holds.
fn over_groups(exec: &Exec, kind: Kind, norm: &Norm<'_>, groups_per_row: usize, x: Option<&[f32]>, out: &mut [f32]) {
    let width = norm.width;
    assert!(width > 0 && groups_per_row > 0, "rows of {groups_per_row} groups of {width} elements");
    assert!(out.len().is_multiple_of(groups_per_row * width), "rows of {groups_per_row} groups of {width} elements");
    let whole = |v: Option<&[f32]>| v.is_none_or(|v| !v.is_empty() && v.len().is_multiple_of(width));
    assert!(whole(norm.weight) && whole(norm.bias), "a weight and a bias for each of {width} elements");
    let isa = exec.isa();
    exec.for_rows(out, width, |r, out| {
        let x = x.map(|x| &x[r * width..(r + 1) * width]);
        let of_group = |v: &[f32]| r % groups_per_row % (v.len() / width) * width;
        let weight = norm.weight.map(|w| &w[of_group(w)..][..width]);
        let bias = norm.bias.map(|b| &b[of_group(b)..][..width]);
        isa.run(Row { kind, x, weight, bias, eps: norm.eps, out });
    });
}

/// One group.
struct Row<'a> {
    kind: Kind,
    /// `None`: what `out` holds.
    x: Option<&'a [f32]>,
    weight: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    eps: f32,
    out: &'a mut [f32],
}

impl Op for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.out.len();
        let out = self.out.as_mut_ptr();
        let x = self.x.map_or(out.cast_const(), <[f32]>::as_ptr);
        let fits = |v: Option<&[f32]>| v.is_none_or(|v| v.len() == n);
        assert!(fits(self.x) && fits(self.weight) && fits(self.bias), "operands of one length");
        // SAFETY: `x` holds `n` elements.
        let (mean, square) = unsafe {
            match self.kind {
                Kind::Rms => (0.0, sum_of_squares(s, x, n) / n as f32),
                Kind::L2 => (0.0, sum_of_squares(s, x, n)),
                Kind::Layer => {
                    let mean = sum(s, x, n) / n as f32;
                    (mean, sum_of_squares_about(s, x, n, mean) / n as f32)
                }
            }
        };
        let pointer = |v: Option<&[f32]>| v.map_or(std::ptr::null(), <[f32]>::as_ptr);
        let terms = Terms {
            x,
            mean: s.splat(mean),
            scale: s.splat(1.0 / (square + self.eps).sqrt()),
            weight: pointer(self.weight),
            bias: pointer(self.bias),
            out,
        };
        let centred = matches!(self.kind, Kind::Layer);
        // SAFETY: `x` and `out` hold `n` elements, as do `weight` and `bias` where they are read.
        unsafe {
            match (centred, self.weight.is_some(), self.bias.is_some()) {
                (false, false, false) => terms.write::<S, false, false, false>(s, n),
                (false, false, true) => terms.write::<S, false, false, true>(s, n),
                (false, true, false) => terms.write::<S, false, true, false>(s, n),
                (false, true, true) => terms.write::<S, false, true, true>(s, n),
                (true, false, false) => terms.write::<S, true, false, false>(s, n),
                (true, false, true) => terms.write::<S, true, false, true>(s, n),
                (true, true, false) => terms.write::<S, true, true, false>(s, n),
                (true, true, true) => terms.write::<S, true, true, true>(s, n),
            }
        }
    }
}

/// `out = (x − mean) · scale · weight + bias`, with those terms that there are.
struct Terms<V> {
    x: *const f32,
    mean: V,
    scale: V,
    weight: *const f32,
    bias: *const f32,
    out: *mut f32,
}

impl<V: Copy> Terms<V> {
    /// # Safety
    /// `x` and `out` are valid for `n` elements, as are `weight` with `WEIGHT` and `bias` with `BIAS`.
    #[inline(always)]
    unsafe fn write<S: Simd<V = V>, const CENTRED: bool, const WEIGHT: bool, const BIAS: bool>(self, s: S, n: usize) {
        let whole = n - n % LANES;
        // SAFETY: the caller vouches for `n` elements.
        unsafe {
            for k in (0..whole).step_by(LANES) {
                self.part::<S, CENTRED, WEIGHT, BIAS>(s, k, LANES);
            }
            if whole < n {
                self.part::<S, CENTRED, WEIGHT, BIAS>(s, whole, n - whole);
            }
        }
    }

    /// The elements `k .. k + n`, `n <= LANES`.
    ///
    /// # Safety
    /// They lie within what the pointers are valid for.
    #[inline(always)]
    unsafe fn part<S: Simd<V = V>, const CENTRED: bool, const WEIGHT: bool, const BIAS: bool>(
        &self,
        s: S,
        k: usize,
        n: usize,
    ) {
        // SAFETY: the caller vouches for the elements.
        unsafe {
            let mut v = read(s, self.x.add(k), n);
            if CENTRED {
                v = s.sub(v, self.mean);
            }
            v = s.mul(v, self.scale);
            if WEIGHT {
                v = s.mul(v, read(s, self.weight.add(k), n));
            }
            if BIAS {
                v = s.add(v, read(s, self.bias.add(k), n));
            }
            if n == LANES {
                s.store(self.out.add(k), v);
            } else {
                s.store_first(self.out.add(k), v, n);
            }
        }
    }
}

/// # Safety
/// `p` is valid for reading `n <= LANES` elements.
#[inline(always)]
unsafe fn read<S: Simd>(s: S, p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller vouches for `n` elements.
    unsafe { if n == LANES { s.load(p) } else { s.load_first(p, n) } }
}

/// The dot product of `x` with itself.
///
/// # Safety
/// `x` is valid for reading `n` elements.
#[inline(always)]
unsafe fn sum_of_squares<S: Simd>(s: S, x: *const f32, n: usize) -> f32 {
    // SAFETY: the caller vouches for `n` elements of the only row.
    unsafe {
        let row = StoredRows::plain(x.cast(), 0);
        let acc = tile::accumulate::<S, InF32, F32, 1, 1>(s, F32, x.cast(), 0, row, n, [[s.zero()]], Nothing);
        s.sum(acc[0][0])
    }
}

/// `Σ x`, in the order of a dot product.
///
/// # Safety
/// `x` is valid for reading `n` elements.
#[inline(always)]
unsafe fn sum<S: Simd>(s: S, x: *const f32, n: usize) -> f32 {
    let mut sum = s.zero();
    for k in (0..n).step_by(LANES) {
        // SAFETY: the caller vouches for `n` elements.
        sum = s.add(sum, unsafe { read(s, x.add(k), LANES.min(n - k)) });
    }
    s.sum(sum)
}

/// `Σ (x − mean)²`, in the order of a dot product.
///
/// # Safety
/// `x` is valid for reading `n` elements.
#[inline(always)]
unsafe fn sum_of_squares_about<S: Simd>(s: S, x: *const f32, n: usize, mean: f32) -> f32 {
    let mean = s.splat(mean);
    let whole = n - n % LANES;
    let mut sum = s.zero();
    // SAFETY: the caller vouches for `n` elements; the array holds 16.
    unsafe {
        for k in (0..whole).step_by(LANES) {
            let v = s.sub(s.load(x.add(k)), mean);
            sum = s.fma(v, v, sum);
        }
        if whole < n {
            // Beyond the end the differences, not the elements, are zeros.
            let v = s.sub(s.load_first(x.add(whole), n - whole), mean);
            let mut rest = [0.0; LANES];
            s.store_first(rest.as_mut_ptr(), v, n - whole);
            let v = s.load(rest.as_ptr());
            sum = s.fma(v, v, sum);
        }
    }
    s.sum(sum)
}
