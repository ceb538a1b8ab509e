//! Products in f32 for instruction sets with few registers: rows of x and widened rows of weights lie interleaved.
//!
//! Four rows of x against three of weights are twelve sums, of half of the lanes at a time twelve registers of sixteen; what is left takes in
//! three vectors of weights and one of x. That is seven loads for twelve multiply-adds, and these lie one after the other: rows that lie apart by a
//! power of two, as those of x do, would crowd into the same few sets of the L1 cache.

use std::ops::Range;

use super::{PANEL_ROWS, SharedRows, Strip};
use crate::element::F32;
use crate::exec::{Exec, INTERLEAVED, SCRATCH, SharedMut};
use crate::format::Format;
use crate::layout::{Interleaved, store_widened};
use crate::matrix::StoredRows;
use crate::simd::{LANES, Op, Simd};

/// Rows of x that lie interleaved.
pub(super) const X_ROWS: usize = 4;
/// Rows of weights that lie interleaved.
pub(super) const W_ROWS: usize = 3;
/// Steps of a dot product before a tile moves on, at most, so that the rows of x stay near.
const BLOCK: usize = 64;
/// Tiles of a panel, at most.
const TILES: usize = PANEL_ROWS.div_ceil(W_ROWS);

/// f32 elements that a row takes among others.
pub(super) fn row_elements(cols: usize) -> usize {
    cols.next_multiple_of(LANES)
}

/// Whether there are rows and room enough for `n` rows of x and weights of `format`.
pub(super) fn fits(n: usize, format: Format, cols: usize) -> bool {
    let row = row_elements(cols);
    n >= X_ROWS && cols > 0 && W_ROWS * (row + format.scratch_of_row(cols)) <= SCRATCH && X_ROWS * row <= INTERLEAVED
}

/// Rows of x that lie interleaved at a time, at most: whole groups.
pub(super) fn most_rows(cols: usize) -> usize {
    INTERLEAVED / row_elements(cols) / X_ROWS * X_ROWS
}

/// Lays out `rows` of `x: [.., cols]`. They are found by their numbers in `x`.
pub(super) fn lay_out(exec: &Exec, x: &[f32], cols: usize, rows: Range<usize>, to: &mut [f32]) -> SharedRows {
    let stride = row_elements(cols);
    let room = SharedMut::new(&mut *to);
    let isa = exec.isa();
    exec.pool().run(rows.len().div_ceil(X_ROWS), &|group, _| {
        let first = rows.start + group * X_ROWS;
        let from = &x[first * cols..(first + X_ROWS).min(rows.end) * cols];
        // SAFETY: the groups do not overlap.
        let to = unsafe { room.slice(group * X_ROWS * stride..(group + 1) * X_ROWS * stride) };
        isa.run(LayOut { from, cols, to });
    });
    let bytes = stride * size_of::<f32>();
    SharedRows { start: to.as_ptr().cast::<u8>().wrapping_sub(rows.start * bytes), stride: bytes }
}

/// Lays out at most [`X_ROWS`] rows, and zeros in the place of those that are missing.
struct LayOut<'a> {
    /// `[rows, cols]`.
    from: &'a [f32],
    cols: usize,
    /// [`X_ROWS`] times [`row_elements`].
    to: &'a mut [f32],
}

impl Op for LayOut<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let LayOut { from, cols, to } = self;
        let stride = row_elements(cols);
        assert!(from.len() <= X_ROWS * cols && to.len() == X_ROWS * stride);
        if from.len() < X_ROWS * cols {
            to.fill(0.0);
        }
        for (r, row) in from.chunks_exact(cols).enumerate() {
            let row = StoredRows::plain(row.as_ptr().cast(), 0);
            store_widened::<S, Interleaved<X_ROWS>, F32>(s, F32, row, cols, (&mut *to, stride, r));
        }
    }
}

/// All rows of x against the widened weights.
pub(super) struct Multiply<'a> {
    /// Its rows of x begin with a group of them.
    pub(super) strip: &'a Strip<'a>,
    /// Groups of [`W_ROWS`] rows.
    pub(super) panel: &'a [f32],
}

impl Op for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Multiply { strip, panel } = self;
        let stride = row_elements(strip.job.weight.cols());
        let (steps, count) = (stride / LANES, strip.last - strip.first);
        let tiles = count.div_ceil(W_ROWS);
        assert!(tiles <= TILES && panel.len() >= tiles * W_ROWS * stride);
        // Sums wait here between parts of the lanes, and of a dot product.
        let mut parked = [[[[0.0; LANES]; W_ROWS]; X_ROWS]; TILES];
        for r in strip.x_rows.clone().step_by(X_ROWS) {
            let rows = X_ROWS.min(strip.x_rows.end - r);
            let x = strip.x_rows(r, rows).cast::<f32>();
            for step in (0..steps).step_by(BLOCK) {
                let some = BLOCK.min(steps - step);
                for t in 0..tiles {
                    let w = panel[t * W_ROWS * stride..].as_ptr();
                    // Nothing has to wait where a block is all.
                    let sums = &mut parked[if some < steps { t } else { 0 }];
                    // SAFETY: there are whole groups of `steps` steps, of which there are `some` from `step` on.
                    unsafe {
                        add_part::<S, 0>(s, x, w, stride, step, some, sums);
                        if S::PARTS == 2 {
                            add_part::<S, 1>(s, x, w, stride, step, some, sums);
                        }
                    }
                    if step + some == steps {
                        let mut acc = [[s.zero(); W_ROWS]; X_ROWS];
                        for (acc, sums) in acc.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
                            // SAFETY: an array of 16.
                            *acc = unsafe { s.load(sums.as_ptr()) };
                        }
                        let cols = W_ROWS.min(count - t * W_ROWS);
                        strip.put(s, r, strip.first + t * W_ROWS, 1, &acc, (rows, cols));
                    }
                }
            }
        }
    }
}

/// Adds to part `P` of the lanes of `sums`, which begin with step 0, the products of `count` steps from `step` on.
///
/// # Safety
/// `x` and `w` are groups of rows that take `stride` elements, at least as many as those steps.
#[inline(always)]
unsafe fn add_part<S: Simd, const P: usize>(
    s: S,
    x: *const f32,
    w: *const f32,
    stride: usize,
    step: usize,
    count: usize,
    sums: &mut [[[f32; LANES]; W_ROWS]; X_ROWS],
) {
    let part = LANES / S::PARTS;
    let at = |group: *const f32, rows: usize| group.wrapping_add(rows * (P * stride / S::PARTS + step * part));
    let (mut x, mut w) = (at(x, X_ROWS), at(w, W_ROWS));
    let mut acc = [[s.splat_part(0.0); W_ROWS]; X_ROWS];
    // SAFETY: parts of arrays of 16; the caller's promise.
    unsafe {
        if step > 0 {
            for (acc, sums) in acc.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
                *acc = s.load_part(sums.as_ptr().add(P * part));
            }
        }
        let done = s.add_interleaved(x, w, count, &mut acc);
        (x, w) = (x.add(done * X_ROWS * part), w.add(done * W_ROWS * part));
        for _ in done..count {
            let mut weights = [s.splat_part(0.0); W_ROWS];
            for c in 0..W_ROWS {
                weights[c] = s.load_part(w.add(c * part));
            }
            for r in 0..X_ROWS {
                let xv = s.load_part(x.add(r * part));
                for c in 0..W_ROWS {
                    acc[r][c] = s.fma_part(xv, weights[c], acc[r][c]);
                }
            }
            (x, w) = (x.add(X_ROWS * part), w.add(W_ROWS * part));
        }
        for (acc, sums) in acc.as_flattened().iter().zip(sums.as_flattened_mut()) {
            s.store_part::<P>(sums.as_mut_ptr(), *acc);
        }
    }
}
