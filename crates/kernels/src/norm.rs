//! Normalisation of rows.

use crate::exec::Exec;
use crate::matrix::{F32, StoredRows};
use crate::simd::{LANES, Op, Simd};
use crate::tile::{self, InF32};

/// RMS normalisation of every row of `x: [n, width]`, `width = weight.len()`:
/// `out = (x · 1/√(mean(x²) + eps)) · weight`, the order of transformers' `LlamaRMSNorm.forward`.
///
/// # Panics
/// When the lengths do not agree.
pub fn rms_norm(exec: &Exec, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "input and output of one shape");
    norm(exec, Source::Other(x), weight, eps, out);
}

/// As [`rms_norm`], in place: with `x: [n, heads, width]` the norm of every query or key head.
///
/// # Panics
/// When the lengths do not agree.
pub fn rms_norm_in_place(exec: &Exec, x: &mut [f32], weight: &[f32], eps: f32) {
    norm(exec, Source::InPlace, weight, eps, x);
}

#[derive(Clone, Copy)]
enum Source<'a> {
    InPlace,
    Other(&'a [f32]),
}

fn norm(exec: &Exec, x: Source<'_>, weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    assert!(width > 0 && out.len().is_multiple_of(width), "rows of {width} elements");
    let isa = exec.isa();
    exec.for_rows(out, width, |r, out| {
        let x = match x {
            Source::InPlace => None,
            Source::Other(x) => Some(&x[r * width..(r + 1) * width]),
        };
        isa.run(RmsRow { x, weight, eps, out });
    });
}

struct RmsRow<'a> {
    /// `None`: what `out` holds.
    x: Option<&'a [f32]>,
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Op for RmsRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.out.len();
        let out = self.out.as_mut_ptr();
        let x = self.x.map_or(out.cast_const(), <[f32]>::as_ptr);
        assert!(self.weight.len() == n && self.x.is_none_or(|x| x.len() == n));
        // SAFETY: `x`, `weight` and `out` hold `n` elements; each is read before it is overwritten.
        unsafe {
            let row = StoredRows::plain(x.cast(), 0);
            let acc = tile::accumulate::<S, InF32, F32, 1, 1>(s, F32, x.cast(), 0, row, n, [[s.zero()]]);
            let mean = s.sum(acc[0][0]) / n as f32;
            let scale = s.splat(1.0 / (mean + self.eps).sqrt());
            let whole = n - n % LANES;
            let weight = self.weight.as_ptr();
            for k in (0..whole).step_by(LANES) {
                let y = s.mul(s.mul(s.load(x.add(k)), scale), s.load(weight.add(k)));
                s.store(out.add(k), y);
            }
            let rest = n - whole;
            if rest > 0 {
                let v = s.load_first(x.add(whole), rest);
                let y = s.mul(s.mul(v, scale), s.load_first(weight.add(whole), rest));
                s.store_first(out.add(whole), y, rest);
            }
        }
    }
}
