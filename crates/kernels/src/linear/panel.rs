//! Products of weights that are widened once, into a panel in the scratch buffer.

use std::marker::PhantomData;

use super::{PANEL_ROWS, Strip, X_ROWS};
use crate::element::{Bf16, Element, F32};
use crate::layout::{Layout, store_widened};
use crate::matrix::StoredRows;
use crate::simd::{Op, Simd};
use crate::tile::{self, Arithmetic, Stretch};

/// Bytes of a row of x that a register tile takes before it moves on, at most, so that the rows of x stay near.
const K_BLOCK: usize = 4 << 10;
/// Accumulators of a panel: six rows of x, or fewer, against each of its weight rows.
const PARKED: usize = X_ROWS * PANEL_ROWS;

/// f32 elements from row to row of a panel. Rows whose length is a multiple of 1 KiB are set apart, or the rows of
/// a tile would crowd into the same few sets of the L1 cache.
pub(super) fn panel_stride<A: Arithmetic>(cols: usize) -> usize {
    let elements = cols.next_multiple_of(A::STEP) * A::X_BYTES / size_of::<f32>();
    if elements.is_multiple_of(256) { elements + 128 } else { elements }
}

/// Widens the strip's weights into a panel.
pub(super) struct Widen<'a, L: Layout, W: Element> {
    pub(super) strip: &'a Strip<'a>,
    pub(super) element: W,
    pub(super) panel: &'a mut [f32],
    /// f32 elements from row to row of the panel.
    pub(super) stride: usize,
    pub(super) layout: PhantomData<L>,
}

impl<L: Layout, W: Element> Op for Widen<'_, L, W> {
    type Output = ();
    const NARROW: bool = L::In::NARROW || W::NARROW;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Widen { strip, element, panel, stride, .. } = self;
        for (i, o) in (strip.first..strip.last).enumerate() {
            let cols = strip.job.weight.cols();
            store_widened::<S, L, W>(s, element, strip.stored_rows(o, 1, 1), cols, (&mut *panel, stride, i));
        }
    }
}

/// All rows of x against the widened weights.
pub(super) struct Panel<'a, A: Arithmetic> {
    pub(super) strip: &'a Strip<'a>,
    pub(super) panel: &'a [f32],
    pub(super) stride: usize,
    pub(super) arithmetic: PhantomData<A>,
}

impl<A: Arithmetic> Op for Panel<'_, A> {
    type Output = ();
    const NARROW: bool = A::NARROW;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Panel { strip, panel, stride, .. } = self;
        // Accumulators wait here between blocks of a dot product.
        let mut parked = [s.zero(); PARKED];
        let parked = &mut parked;
        let mut r = strip.x_rows.start;
        while r < strip.x_rows.end {
            let left = strip.x_rows.end - r;
            r += if S::WIDE_TILE {
                match left {
                    1 => strip.panel_rows::<S, A, 1, 4>(s, r, panel, stride, parked),
                    2 => strip.panel_rows::<S, A, 2, 4>(s, r, panel, stride, parked),
                    3 => strip.panel_rows::<S, A, 3, 4>(s, r, panel, stride, parked),
                    4 => strip.panel_rows::<S, A, 4, 4>(s, r, panel, stride, parked),
                    5 => strip.panel_rows::<S, A, 5, 4>(s, r, panel, stride, parked),
                    _ => strip.panel_rows::<S, A, 6, 4>(s, r, panel, stride, parked),
                }
            } else if S::SMALL_TILE {
                match left {
                    1 => strip.panel_rows::<S, A, 1, 2>(s, r, panel, stride, parked),
                    _ => strip.panel_rows::<S, A, 2, 2>(s, r, panel, stride, parked),
                }
            } else {
                match left {
                    1 => strip.panel_rows::<S, A, 1, 4>(s, r, panel, stride, parked),
                    2 => strip.panel_rows::<S, A, 2, 2>(s, r, panel, stride, parked),
                    _ => strip.panel_rows::<S, A, 3, 2>(s, r, panel, stride, parked),
                }
            };
        }
    }
}

impl Strip<'_> {
    /// `R` rows of x from `r` on against the widened panel, at most [`K_BLOCK`] bytes of each at a time. Returns `R`.
    #[inline(always)]
    fn panel_rows<S: Simd, A: Arithmetic, const R: usize, const C: usize>(
        &self,
        s: S,
        r: usize,
        panel: &[f32],
        stride: usize,
        parked: &mut [S::V; PARKED],
    ) -> usize {
        let cols = self.job.weight.cols();
        let count = self.last - self.first;
        let tiles = count / C;
        assert!(tiles * R * C <= PARKED && panel.len() >= count * stride && stride >= panel_stride::<A>(cols));
        let x = self.x_rows(r, R);
        let panel: *const u8 = panel.as_ptr().cast();
        let stride = stride * size_of::<f32>();
        let blocks = (cols * A::X_BYTES).div_ceil(K_BLOCK).max(1);
        let block = cols.div_ceil(blocks).next_multiple_of(4 * A::STEP);
        let mut k = 0;
        while k < cols {
            let len = (cols - k).min(block);
            // What comes after this block: the next of these rows, or the first of the next ones, as far as there are any.
            let (next, next_rows) = match k + len < cols {
                true => (x.wrapping_add((k + len) * A::X_BYTES), R),
                false => (x.wrapping_add(R * self.x.stride), R.min(self.x_rows.end - r - R)),
            };
            for t in 0..tiles {
                // Half a row of it in each tile.
                let half = len * A::X_BYTES / 2 * (t % 2);
                let ahead = if t / 2 < next_rows { next.wrapping_add(t / 2 * self.x.stride + half) } else { x };
                // SAFETY: `R * C` accumulators from `t * R * C` on, by the check above; arrays of arrays lie
                // without gaps.
                let own = unsafe { &mut *parked.as_mut_ptr().add(t * R * C).cast::<[[S::V; C]; R]>() };
                let mut acc = [[s.zero(); C]; R];
                if k > 0 {
                    // One by one: copied as bytes they would not come back from the store buffer.
                    for r in 0..R {
                        for c in 0..C {
                            acc[r][c] = own[r][c];
                        }
                    }
                }
                // SAFETY: `x` holds `R` rows of `cols`; the panel holds `count` rows of `cols`; `k + len <= cols`.
                let acc = unsafe {
                    let w = panel.add(t * C * stride + k * A::X_BYTES);
                    let x = x.add(k * A::X_BYTES);
                    panel_tile::<S, A, R, C>(s, x, self.x.stride, w, stride, len, acc, ahead)
                };
                if k + len == cols {
                    self.put(s, r, self.first + t * C, 1, &acc, (R, C));
                } else {
                    for r in 0..R {
                        for c in 0..C {
                            own[r][c] = acc[r][c];
                        }
                    }
                }
            }
            k += len;
        }
        for i in tiles * C..count {
            // SAFETY: as above, one whole row of the panel.
            let acc = unsafe {
                let acc = [[s.zero()]; R];
                panel_tile::<S, A, R, 1>(s, x, self.x.stride, panel.add(i * stride), stride, cols, acc, x)
            };
            self.put(s, r, self.first + i, 1, &acc, (R, 1));
        }
        R
    }
}

/// A tile whose weights are elements like those of `x`. Meanwhile what is at `ahead` is asked for.
///
/// # Safety
/// As [`tile::accumulate`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "pointers and strides of two operands")]
unsafe fn panel_tile<S: Simd, A: Arithmetic, const R: usize, const C: usize>(
    s: S,
    x: *const u8,
    x_stride: usize,
    w: *const u8,
    stride: usize,
    len: usize,
    acc: [[S::V; C]; R],
    ahead: *const u8,
) -> [[S::V; C]; R] {
    // SAFETY: the caller's promise.
    unsafe {
        let (w, ahead) = (StoredRows::plain(w, stride), Stretch { next: ahead });
        if A::X_BYTES == size_of::<f32>() {
            tile::accumulate::<S, A, F32, R, C>(s, F32, x, x_stride, w, len, acc, ahead)
        } else {
            tile::accumulate::<S, A, Bf16, R, C>(s, Bf16, x, x_stride, w, len, acc, ahead)
        }
    }
}
