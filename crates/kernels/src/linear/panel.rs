//! Products of weights that are widened once, into a panel in the scratch buffer.

use std::marker::PhantomData;

use super::{PANEL_ROWS, Strip, X_ROWS};
use crate::element::{Bf16, Element, F32};
use crate::matrix::StoredRows;
use crate::simd::{LANES, Op, Simd};
use crate::tile::{self, Ahead, Arithmetic, InF32, Nothing, Stretch, store_widened};

/// Bytes of a row of x that a register tile takes before it moves on, at most, so that the rows of x stay near.
const K_BLOCK: usize = 4 << 10;
/// Accumulators of a panel: six rows of x, or fewer, against each of its weight rows.
const PARKED: usize = X_ROWS * PANEL_ROWS;
/// Weight rows of a tile whose sums are in parts: with four rows of x as many as sixteen registers allow, which hold a part of the
/// sums, of the weights, and of a row of x.
pub(super) const PACKED_ROWS: usize = 3;

/// f32 elements from row to row of a panel. Rows whose length is a multiple of 1 KiB are set apart, or the rows of
/// a tile would crowd into the same few sets of the L1 cache.
pub(super) fn panel_stride<A: Arithmetic>(cols: usize) -> usize {
    let elements = cols.next_multiple_of(A::STEP) * A::X_BYTES / size_of::<f32>();
    if elements.is_multiple_of(256) { elements + 128 } else { elements }
}

/// Widens the strip's weights into a panel.
pub(super) struct Widen<'a, A: Arithmetic, W: Element> {
    pub(super) strip: &'a Strip<'a>,
    pub(super) element: W,
    pub(super) panel: &'a mut [f32],
    /// f32 elements from row to row of the panel.
    pub(super) stride: usize,
    pub(super) arithmetic: PhantomData<A>,
}

impl<A: Arithmetic, W: Element> Op for Widen<'_, A, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.strip.job.weight.cols();
        for (o, to) in (self.strip.first..self.strip.last).zip(self.panel.chunks_exact_mut(self.stride)) {
            store_widened::<S, A, W>(s, self.element, self.strip.stored_rows(o, 1, 1), cols, to);
        }
    }
}

/// All rows of x against the widened weights, with which `panel` begins.
pub(super) struct Panel<'a, A: Arithmetic> {
    pub(super) strip: &'a Strip<'a>,
    pub(super) panel: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) arithmetic: PhantomData<A>,
}

impl<A: Arithmetic> Op for Panel<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Panel { strip, panel, stride, .. } = self;
        // Accumulators wait here between blocks of a dot product.
        let mut parked = [s.zero(); PARKED];
        let parked = &mut parked;
        if A::IN_PARTS && S::PARTS > 1 {
            return strip.packed_panel(s, panel, stride, parked);
        }
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
        for (k, len) in blocks::<A>(cols) {
            let soon = self.soon(r, R, (k + len) * A::X_BYTES, k + len == cols);
            for t in 0..tiles {
                // SAFETY: `R * C` accumulators from `t * R * C` on, by the check above; arrays of arrays lie
                // without gaps.
                let own = unsafe { &mut *parked.as_mut_ptr().add(t * R * C).cast::<[[S::V; C]; R]>() };
                let acc = if k > 0 { one_by_one(s, own) } else { [[s.zero(); C]; R] };
                // SAFETY: `x` holds `R` rows of `cols`; the panel holds `count` rows of `cols`; `k + len <= cols`.
                let acc = unsafe {
                    let w = panel.as_ptr().add(t * C * stride).cast::<u8>().add(k * A::X_BYTES);
                    let (x, w_stride) = (x.add(k * A::X_BYTES), stride * size_of::<f32>());
                    let ahead = soon.part_of_tile(t, len * A::X_BYTES);
                    panel_tile::<S, A, R, C>(s, x, self.x.stride, w, w_stride, len, acc, ahead)
                };
                if k + len == cols {
                    self.put(s, r, self.first + t * C, 1, &acc);
                } else {
                    *own = one_by_one(s, &acc);
                }
            }
        }
        self.single_rows::<S, A, R>(s, r, panel, stride, tiles * C);
        R
    }

    /// All rows of x against the widened weights, in f32, one part of the lanes after the other.
    #[inline(always)]
    fn packed_panel<S: Simd>(&self, s: S, panel: &mut [f32], stride: usize, parked: &mut [S::V; PARKED]) {
        let cols = self.job.weight.cols();
        let count = self.last - self.first;
        let (rows, spare) = panel.split_at_mut(count * stride);
        let tile = PACKED_ROWS * stride;
        // Rows so long that no second tile fits beside the panel stay as they are.
        let tiles = if spare.len() < tile { 0 } else { count / PACKED_ROWS };
        for rows in rows.chunks_exact_mut(tile).take(tiles) {
            let from = &mut spare[..tile];
            from.copy_from_slice(rows);
            for (k, len) in blocks::<InF32>(cols) {
                tile::pack::<S, PACKED_ROWS>(&from[k..], stride, len, &mut rows[k * PACKED_ROWS..]);
            }
        }
        let mut r = self.x_rows.start;
        while r < self.x_rows.end {
            r += match self.x_rows.end - r {
                1 => self.packed_rows::<S, 1>(s, r, rows, stride, tiles, parked),
                2 => self.packed_rows::<S, 2>(s, r, rows, stride, tiles, parked),
                3 => self.packed_rows::<S, 3>(s, r, rows, stride, tiles, parked),
                _ => self.packed_rows::<S, 4>(s, r, rows, stride, tiles, parked),
            };
        }
    }

    /// As [`Strip::panel_rows`], of a panel whose first `tiles` tiles are packed.
    #[inline(always)]
    fn packed_rows<S: Simd, const R: usize>(
        &self,
        s: S,
        r: usize,
        panel: &[f32],
        stride: usize,
        tiles: usize,
        parked: &mut [S::V; PARKED],
    ) -> usize {
        const C: usize = PACKED_ROWS;
        let cols = self.job.weight.cols();
        assert!(S::PARTS == 2 && tiles * R * C <= PARKED && stride >= panel_stride::<InF32>(cols));
        assert!(tiles * C * stride <= panel.len());
        let x = self.x_rows(r, R);
        for (k, len) in blocks::<InF32>(cols) {
            let soon = self.soon(r, R, (k + len) * size_of::<f32>(), k + len == cols);
            for t in 0..tiles {
                // SAFETY: `R * C` accumulators from `t * R * C` on, by the check above; arrays of arrays lie
                // without gaps.
                let own = unsafe { &mut *parked.as_mut_ptr().add(t * R * C).cast::<[[S::V; C]; R]>() };
                if k == 0 {
                    *own = [[s.zero(); C]; R];
                }
                // SAFETY: `x` holds `R` rows of `cols`, a tile `C` rows of `cols` in whole steps; `k + len <= cols`.
                unsafe {
                    let x = x.cast::<f32>().add(k);
                    let w = panel.as_ptr().add(t * C * stride + k * C);
                    let second = w.add(C * len.next_multiple_of(LANES) / 2);
                    let ahead = soon.part_of_tile(t, len * size_of::<f32>());
                    tile::accumulate_packed::<S, R, C, 0>(s, x, self.x.stride, w, len, own, ahead);
                    tile::accumulate_packed::<S, R, C, 1>(s, x, self.x.stride, second, len, own, Nothing);
                }
                if k + len == cols {
                    self.put(s, r, self.first + t * C, 1, &one_by_one(s, own));
                }
            }
        }
        self.single_rows::<S, InF32, R>(s, r, panel, stride, tiles * C);
        R
    }

    /// `R` rows of x from `r` on against each row of the panel from `first` on.
    #[inline(always)]
    fn single_rows<S: Simd, A: Arithmetic, const R: usize>(
        &self,
        s: S,
        r: usize,
        panel: &[f32],
        stride: usize,
        first: usize,
    ) {
        let cols = self.job.weight.cols();
        let x = self.x_rows(r, R);
        for i in first..self.last - self.first {
            let w = panel[i * stride..(i + 1) * stride].as_ptr().cast();
            // SAFETY: `x` holds `R` rows of `cols`, and a row of the panel as many.
            let acc = unsafe {
                let acc = [[s.zero()]; R];
                panel_tile::<S, A, R, 1>(s, x, self.x.stride, w, 0, cols, acc, Nothing)
            };
            self.put(s, r, self.first + i, 1, &acc);
        }
    }

    /// What of x comes after the first `end` bytes of the `count` rows from `r` on: more of them or, after the last block, the
    /// first bytes of the rows after them, as far as there are any.
    #[inline(always)]
    fn soon(&self, r: usize, count: usize, end: usize, last: bool) -> Soon {
        let (x, stride) = (self.x_rows(r, count), self.x.stride);
        match last {
            false => Soon { start: x.wrapping_add(end), rows: count, stride },
            true => {
                Soon { start: x.wrapping_add(count * stride), rows: count.min(self.x_rows.end - r - count), stride }
            }
        }
    }
}

/// Rows that are asked for while tiles are computed.
struct Soon {
    start: *const u8,
    rows: usize,
    stride: usize,
}

impl Soon {
    /// What tile `t` asks for: half of `len` bytes of a row.
    #[inline(always)]
    fn part_of_tile(&self, t: usize, len: usize) -> Stretch {
        // There are more tiles than rows: the others ask for what is there.
        let at = if t / 2 < self.rows { t / 2 * self.stride + len / 2 * (t % 2) } else { 0 };
        Stretch { next: self.start.wrapping_add(at) }
    }
}

/// Where the blocks of dot products of `cols` elements begin, and how many elements each has: whole steps but the last.
fn blocks<A: Arithmetic>(cols: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = (cols * A::X_BYTES).div_ceil(K_BLOCK).max(1);
    let block = cols.div_ceil(count).next_multiple_of(4 * A::STEP).max(1);
    (0..cols).step_by(block).map(move |k| (k, block.min(cols - k)))
}

/// The accumulators, copied one by one: copied as bytes they would not come back from the store buffer.
#[inline(always)]
fn one_by_one<S: Simd, const R: usize, const C: usize>(s: S, from: &[[S::V; C]; R]) -> [[S::V; C]; R] {
    let mut acc = [[s.zero(); C]; R];
    for r in 0..R {
        for c in 0..C {
            acc[r][c] = from[r][c];
        }
    }
    acc
}

/// A tile whose weights are elements like those of `x`.
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
    ahead: impl Ahead,
) -> [[S::V; C]; R] {
    let w = StoredRows::plain(w, stride);
    // SAFETY: the caller's promise.
    unsafe {
        if A::X_BYTES == 2 {
            tile::accumulate::<S, A, Bf16, R, C>(s, Bf16, x, x_stride, w, len, acc, ahead)
        } else {
            tile::accumulate::<S, A, F32, R, C>(s, F32, x, x_stride, w, len, acc, ahead)
        }
    }
}
