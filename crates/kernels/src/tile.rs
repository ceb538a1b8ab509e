//! The register tile: `R` rows against `C` weight rows, `R * C` dot products at once.
//!
//! This is the one place where the contract's order of summation is written down: lane `l` of 16 adds the
//! elements `l, l + 16, l + 32, …` in increasing order by fused multiply-add, a short tail counts as
//! zeros, and [`Simd::sum`] adds the lanes. A tile of any size computes each of its dot products so,
//! and therefore tiles may be cut in any way.

use crate::matrix::Element;
use crate::simd::{LANES, Simd};

/// Adds the products of elements `0..len` to the lanes of each of the tile's accumulators.
///
/// Lines that lie `AHEAD` bytes after the elements of `w` in use are asked for, unless it is 0.
/// `len` is a multiple of 16 unless the tile ends the dot products.
///
/// # Safety
/// For every `r < R`, `x + r * x_stride` is valid for reading `len` f32, and for every `c < C`,
/// `w + c * w_stride` (in bytes) is valid for reading `len` elements of `W`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "pointers and strides of two operands")]
pub(crate) unsafe fn accumulate<S: Simd, W: Element, const R: usize, const C: usize, const AHEAD: usize>(
    s: S,
    x: *const f32,
    x_stride: usize,
    w: *const u8,
    w_stride: usize,
    len: usize,
    acc: &mut [[S::V; C]; R],
) {
    // A copy that never leaves the registers.
    let mut a = *acc;
    let whole = len - len % LANES;
    let mut k = 0;
    // Four steps a round leave the ports to the multiply-adds rather than to the loop.
    while k + 4 * LANES <= whole {
        for step in 0..4 {
            let k = k + step * LANES;
            // SAFETY: `k + 16 <= len`, within what the caller vouches for.
            unsafe { add_step::<S, W, R, C, AHEAD>(s, x.add(k), x_stride, w.add(k * W::BYTES), w_stride, &mut a) };
        }
        k += 4 * LANES;
    }
    while k < whole {
        // SAFETY: as above.
        unsafe { add_step::<S, W, R, C, AHEAD>(s, x.add(k), x_stride, w.add(k * W::BYTES), w_stride, &mut a) };
        k += LANES;
    }
    let rest = len - whole;
    if rest > 0 {
        // SAFETY: `rest < 16` elements are left at `whole`.
        unsafe {
            let mut wv = [s.zero(); C];
            for c in 0..C {
                wv[c] = W::load_first(s, w.add(c * w_stride + whole * W::BYTES), rest);
            }
            for r in 0..R {
                let xv = s.load_first(x.add(r * x_stride + whole), rest);
                for c in 0..C {
                    a[r][c] = s.fma(xv, wv[c], a[r][c]);
                }
            }
        }
    }
    *acc = a;
}

/// Sixteen elements of every row.
///
/// # Safety
/// As [`accumulate`], with 16 elements.
#[inline(always)]
unsafe fn add_step<S: Simd, W: Element, const R: usize, const C: usize, const AHEAD: usize>(
    s: S,
    x: *const f32,
    x_stride: usize,
    w: *const u8,
    w_stride: usize,
    a: &mut [[S::V; C]; R],
) {
    // SAFETY: the caller vouches for 16 elements of each row.
    unsafe {
        let mut wv = [s.zero(); C];
        for c in 0..C {
            let p = w.add(c * w_stride);
            if AHEAD > 0 {
                s.prefetch(p.wrapping_add(AHEAD));
            }
            wv[c] = W::load(s, p);
        }
        for r in 0..R {
            let xv = s.load(x.add(r * x_stride));
            for c in 0..C {
                a[r][c] = s.fma(xv, wv[c], a[r][c]);
            }
        }
    }
}

/// Hands the sums of all accumulators to `put`: for each row `r` some neighbours, from column `c` on.
#[inline(always)]
pub(crate) fn finish<S: Simd, const R: usize, const C: usize>(
    s: S,
    acc: &[[S::V; C]; R],
    mut put: impl FnMut(usize, usize, &[f32]),
) {
    for r in 0..R {
        if C.is_multiple_of(4) {
            for c in (0..C).step_by(4) {
                let sums = s.sum4([acc[r][c], acc[r][c + 1], acc[r][c + 2], acc[r][c + 3]]);
                put(r, c, &sums);
            }
        } else {
            for c in 0..C {
                put(r, c, &[s.sum(acc[r][c])]);
            }
        }
    }
}
