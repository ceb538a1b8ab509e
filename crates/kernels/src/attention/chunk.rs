//! Some queries of one key-value head against block after block: scores, softmax, weighted values, merging.

use std::ops::Range;

use super::Attention;
use crate::kv::{KV_BLOCK, KvBlock, padded};
use crate::math;
use crate::matrix::{Bf16, Element, F32};
use crate::simd::{LANES, Simd, prefetch_stream};

/// Terms of a score that are added one to the next. A longer score is the sum of such sums, which keeps more of its bits.
const TERMS: usize = 8;

/// Positions of a block that many queries go over before they go on.
const PART: usize = 128;

/// Queries that go over keys together in registers, at most.
pub(super) const TILE: usize = 6;

/// Positions of values that one part of the lanes goes over before the other, so that both find them in the innermost cache.
const NEAR: usize = 32;

/// Queries that go over a block together.
const QUERIES: usize = 96;

/// A format of keys and values, with the order of lanes in which most is done with them.
pub(super) trait Kept: Element {
    /// As [`Element::load`], with the lanes in an order that takes fewest instructions.
    ///
    /// # Safety
    /// As there.
    unsafe fn load_mixed<S: Simd>(s: S, p: *const u8) -> S::V;
    /// The lanes of that in their usual order.
    fn in_order<S: Simd>(s: S, v: S::V) -> S::V;
}

impl Kept for F32 {
    #[inline(always)]
    unsafe fn load_mixed<S: Simd>(s: S, p: *const u8) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { F32::load(s, p, ()) }
    }
    #[inline(always)]
    fn in_order<S: Simd>(_s: S, v: S::V) -> S::V {
        v
    }
}

impl Kept for Bf16 {
    #[inline(always)]
    unsafe fn load_mixed<S: Simd>(s: S, p: *const u8) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_mixed_bf16(p) }
    }
    #[inline(always)]
    fn in_order<S: Simd>(s: S, v: S::V) -> S::V {
        s.bf16_in_order(v)
    }
}

/// The queries that go over the blocks together, and their running results.
pub(super) struct Chunk<'a> {
    /// Query vectors `[n, stride]`, of which `d` count.
    q: &'a mut [f32],
    /// Scores, then weights, `[n, KV_BLOCK]`.
    scores: &'a mut [f32],
    /// The block's `Σ weight · value`, `[n, value_stride]`.
    part: &'a mut [f32],
    /// The same merged over blocks, `[n, value_stride]`.
    total: &'a mut [f32],
    /// First and last visible position of each query, its running maximum and sum.
    state: [Query; QUERIES],
    n: usize,
    /// `head_dim`, and the same in whole vectors.
    d: usize,
    stride: usize,
    /// `value_dim` in whole vectors.
    value_stride: usize,
    scale: f32,
    softcap: Option<f32>,
}

#[derive(Clone, Copy)]
pub(super) struct Query {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) max: f32,
    pub(super) sum: f32,
}

/// Queries of this shape that a chunk in a scratch buffer of `room` elements can hold.
pub(super) fn at_once(shape: &Attention<'_>, room: usize) -> usize {
    QUERIES.min(room / (padded(shape.head_dim) + KV_BLOCK + 2 * padded(shape.value_dim)))
}

impl<'a> Chunk<'a> {
    /// Room for `n` queries in `scratch`, at most [`at_once`].
    #[inline(always)]
    pub(super) fn new(shape: &Attention<'_>, n: usize, scratch: &'a mut [f32]) -> Chunk<'a> {
        let (d, stride, value_stride) = (shape.head_dim, padded(shape.head_dim), padded(shape.value_dim));
        let (q, rest) = scratch.split_at_mut(n * stride);
        let (scores, rest) = rest.split_at_mut(n * KV_BLOCK);
        let (part, rest) = rest.split_at_mut(n * value_stride);
        let total = &mut rest[..n * value_stride];
        let nothing = Query { first: 0, last: 0, max: f32::NEG_INFINITY, sum: 0.0 };
        let (scale, softcap) = (shape.scale, shape.softcap);
        Chunk { q, scores, part, total, state: [nothing; QUERIES], n, d, stride, value_stride, scale, softcap }
    }

    /// Query `i`: its vector, first and last visible position.
    #[inline(always)]
    pub(super) fn set(&mut self, i: usize, q: &[f32], first: usize, last: usize) {
        self.q[i * self.stride..][..self.d].copy_from_slice(q);
        (self.state[i].first, self.state[i].last) = (first, last);
    }

    /// What was merged before into query `i`.
    #[inline(always)]
    pub(super) fn resume(&mut self, i: usize, total: &[f32], max: f32, sum: f32) {
        self.total[i * self.value_stride..][..total.len()].copy_from_slice(total);
        (self.state[i].max, self.state[i].sum) = (max, sum);
    }

    /// What is merged of query `i`: `value_dim` in whole vectors, and what goes with it.
    #[inline(always)]
    pub(super) fn result(&self, i: usize) -> (&[f32], Query) {
        (&self.total[i * self.value_stride..(i + 1) * self.value_stride], self.state[i])
    }

    /// The blocks in which some query sees something.
    pub(super) fn blocks_seen(&self) -> Range<usize> {
        // Positions grow with the index, so the first query sees furthest back and the last furthest on.
        self.state[0].first / KV_BLOCK..self.state[self.n - 1].last / KV_BLOCK + 1
    }

    /// Merges what the queries see of `block`, which is block `b` of the sequence.
    #[inline(always)]
    pub(super) fn over_block<S: Simd, W: Kept>(&mut self, s: S, b: usize, block: &KvBlock, kv_head: usize) {
        let start = b * KV_BLOCK;
        let keys = of_head(block.keys.bytes(), kv_head, W::bytes(KV_BLOCK * self.d));
        let values = of_head(block.values.bytes(), kv_head, W::bytes(KV_BLOCK * self.value_stride));
        // What of this block each query sees, relative to its start; possibly nothing.
        let mut seen = [(0usize, 0usize); QUERIES];
        for i in 0..self.n {
            let Query { first, last, .. } = self.state[i];
            let lo = first.max(start) - start;
            let hi = (last + 1).clamp(start, start + KV_BLOCK) - start;
            seen[i] = if lo < hi { (lo, hi) } else { (0, 0) };
        }
        // One tile of queries goes over the whole block in long runs; many go over a part of it, which stays near.
        let step = if self.n <= TILE { KV_BLOCK } else { PART };
        for part in (0..KV_BLOCK).step_by(step) {
            self.score::<S, W>(s, keys, part..part + step, &seen);
        }
        let mut stats = [(0.0f32, 0.0f32); QUERIES];
        for i in 0..self.n {
            if seen[i].0 < seen[i].1 {
                // The vectors of what it sees; the rest would add zeros.
                let row = i * KV_BLOCK..(i + 1) * KV_BLOCK;
                let (first, end) = (seen[i].0 / LANES * LANES, seen[i].1.next_multiple_of(LANES));
                let row = &mut self.scores[row][first..end];
                finish_scores::<S, W>(s, row, self.scale, self.softcap);
                row[..seen[i].0 - first].fill(f32::NEG_INFINITY);
                row[seen[i].1 - first..].fill(f32::NEG_INFINITY);
                stats[i] = softmax_block(s, row);
            }
        }
        self.part.fill(0.0);
        for part in (0..KV_BLOCK).step_by(step) {
            self.weigh_all::<S, W>(s, values, part..part + step, &seen);
        }
        for i in 0..self.n {
            if seen[i].0 < seen[i].1 {
                self.merge::<S, W>(s, i, stats[i]);
            }
        }
    }

    /// Dot products of every query with the keys of `part` that it sees, and with some that it does not see, with the lanes of each vector in the
    /// order of [`Kept::load_mixed`]; the rest of `scores` is left as it was.
    #[inline(always)]
    fn score<S: Simd, W: Kept>(&mut self, s: S, keys: &[u8], part: Range<usize>, seen: &[(usize, usize); QUERIES]) {
        let mut i = 0;
        while i < self.n {
            let left = self.n - i;
            i += if S::WIDE_TILE {
                match left {
                    1 => self.score_rows::<S, W, 1, 8>(s, i, keys, part.clone(), seen),
                    2 => self.score_rows::<S, W, 2, 8>(s, i, keys, part.clone(), seen),
                    3 => self.score_rows::<S, W, 3, 8>(s, i, keys, part.clone(), seen),
                    4 | 5 => self.score_rows::<S, W, 4, 4>(s, i, keys, part.clone(), seen),
                    _ => self.score_rows::<S, W, 6, 4>(s, i, keys, part.clone(), seen),
                }
            } else if S::SMALL_TILE {
                match left {
                    1 => self.score_rows::<S, W, 1, 2>(s, i, keys, part.clone(), seen),
                    _ => self.score_rows::<S, W, 2, 2>(s, i, keys, part.clone(), seen),
                }
            } else {
                match left {
                    1 => self.score_rows::<S, W, 1, 8>(s, i, keys, part.clone(), seen),
                    2 => self.score_rows::<S, W, 2, 4>(s, i, keys, part.clone(), seen),
                    3..=5 => self.score_rows::<S, W, 3, 4>(s, i, keys, part.clone(), seen),
                    _ => self.score_rows::<S, W, 6, 2>(s, i, keys, part.clone(), seen),
                }
            };
        }
    }

    /// `R` queries from `i` on, `C` vectors of keys at once. Returns `R`.
    #[inline(always)]
    fn score_rows<S: Simd, W: Kept, const R: usize, const C: usize>(
        &mut self,
        s: S,
        i: usize,
        keys: &[u8],
        part: Range<usize>,
        seen: &[(usize, usize); QUERIES],
    ) -> usize {
        let seen = seen[i..i + R].iter().map(|seen| within(*seen, &part)).filter(|r| r.0 < r.1);
        let start = seen.clone().map(|r| r.0 / LANES).min().unwrap_or(0);
        let end = seen.map(|r| r.1.div_ceil(LANES)).max().unwrap_or(0);
        // A tile's vectors lie a `C`-th of the range apart, so that each of `C` runs goes on in the next tile.
        let run = (end - start) / C;
        for g in start..start + run {
            self.score_tile::<S, W, R, C>(s, i, keys, g, run);
        }
        let mut g = start + C * run;
        while g + 2 <= end {
            self.score_tile::<S, W, R, 2>(s, i, keys, g, 1);
            g += 2;
        }
        if g < end {
            self.score_tile::<S, W, R, 1>(s, i, keys, g, 1);
        }
        R
    }

    /// The vectors of keys `g`, `g + step`, ….
    #[inline(always)]
    fn score_tile<S: Simd, W: Kept, const R: usize, const C: usize>(
        &mut self,
        s: S,
        i: usize,
        keys: &[u8],
        g: usize,
        step: usize,
    ) {
        let (d, stride) = (self.d, self.stride);
        let size = W::bytes(LANES * d);
        let keys = &keys[g * size..(g + step * (C - 1) + 1) * size];
        let q = &self.q[i * stride..(i + R) * stride];
        let scores = &mut self.scores[i * KV_BLOCK..(i + R) * KV_BLOCK];
        assert!(d <= stride && (g + step * (C - 1) + 1) * LANES <= KV_BLOCK);
        // SAFETY: `keys` holds `C` groups of `d` vectors, `step` groups apart, `q` and `scores` hold `R` rows, and the tile lies in them.
        unsafe {
            for first in (0..d).step_by(TERMS) {
                let terms = first..d.min(first + TERMS);
                let scores = scores.as_mut_ptr().add(g * LANES);
                add_terms::<S, W, R, C, 0>(
                    s,
                    q.as_ptr(),
                    stride,
                    keys.as_ptr(),
                    step * size,
                    terms.clone(),
                    scores,
                    step,
                );
                if S::PARTS == 2 {
                    add_terms::<S, W, R, C, 1>(s, q.as_ptr(), stride, keys.as_ptr(), step * size, terms, scores, step);
                }
            }
        }
    }

    /// `self.part += weights · values` for every query, over what it sees of `part`, in order, with the lanes of each vector in the order of
    /// [`Kept::load_mixed`].
    #[inline(always)]
    fn weigh_all<S: Simd, W: Kept>(
        &mut self,
        s: S,
        values: &[u8],
        part: Range<usize>,
        seen: &[(usize, usize); QUERIES],
    ) {
        let mut i = 0;
        while i < self.n {
            let left = self.n - i;
            i += if S::WIDE_TILE {
                match left {
                    1 => self.weigh::<S, W, 1>(s, i, values, part.clone(), seen),
                    2 | 3 => self.weigh::<S, W, 2>(s, i, values, part.clone(), seen),
                    4 | 5 => self.weigh::<S, W, 4>(s, i, values, part.clone(), seen),
                    _ => self.weigh::<S, W, 6>(s, i, values, part.clone(), seen),
                }
            } else {
                match left {
                    1 => self.weigh::<S, W, 1>(s, i, values, part.clone(), seen),
                    6.. if !S::SMALL_TILE => self.weigh::<S, W, 6>(s, i, values, part.clone(), seen),
                    _ => self.weigh::<S, W, 2>(s, i, values, part.clone(), seen),
                }
            };
        }
    }

    /// The same for `R` queries from `i` on. Returns `R`.
    #[inline(always)]
    fn weigh<S: Simd, W: Kept, const R: usize>(
        &mut self,
        s: S,
        i: usize,
        values: &[u8],
        part: Range<usize>,
        seen: &[(usize, usize); QUERIES],
    ) -> usize {
        let seen: [_; R] = std::array::from_fn(|r| within(seen[i + r], &part));
        let lo = seen.iter().map(|r| r.0).max().unwrap_or(0);
        let hi = seen.iter().map(|r| r.1).min().unwrap_or(0);
        if lo < hi {
            // Before and after what all see in common, one query at a time.
            for (r, own) in seen.iter().enumerate() {
                self.weigh_range::<S, W, 1>(s, i + r, values, own.0, lo);
            }
            self.weigh_range::<S, W, R>(s, i, values, lo, hi);
            for (r, own) in seen.iter().enumerate() {
                self.weigh_range::<S, W, 1>(s, i + r, values, hi, own.1);
            }
        } else {
            for (r, own) in seen.iter().enumerate() {
                self.weigh_range::<S, W, 1>(s, i + r, values, own.0, own.1);
            }
        }
        R
    }

    #[inline(always)]
    fn weigh_range<S: Simd, W: Kept, const R: usize>(&mut self, s: S, i: usize, values: &[u8], lo: usize, hi: usize) {
        if lo >= hi {
            return;
        }
        let mut k = 0;
        // As much of a value at once as there are registers for.
        while !S::SMALL_TILE && (R == 1 || S::WIDE_TILE && R == 2) && k + 8 * LANES <= self.value_stride {
            self.weigh_columns::<S, W, R, 8>(s, i, values, lo, hi, k);
            k += 8 * LANES;
        }
        while !S::SMALL_TILE && (R <= 2 || S::WIDE_TILE) && k + 4 * LANES <= self.value_stride {
            self.weigh_columns::<S, W, R, 4>(s, i, values, lo, hi, k);
            k += 4 * LANES;
        }
        while k + 2 * LANES <= self.value_stride {
            self.weigh_columns::<S, W, R, 2>(s, i, values, lo, hi, k);
            k += 2 * LANES;
        }
        while k < self.value_stride {
            self.weigh_columns::<S, W, R, 1>(s, i, values, lo, hi, k);
            k += LANES;
        }
    }

    /// `D` vectors of the value dimension from element `k` on.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "the coordinates of a tile")]
    fn weigh_columns<S: Simd, W: Kept, const R: usize, const D: usize>(
        &mut self,
        s: S,
        i: usize,
        values: &[u8],
        lo: usize,
        hi: usize,
        k: usize,
    ) {
        let stride = self.value_stride;
        assert!(k + D * LANES <= stride && W::bytes(KV_BLOCK * stride) <= values.len() && hi <= KV_BLOCK);
        let weights = &self.scores[i * KV_BLOCK..(i + R) * KV_BLOCK];
        let part = &mut self.part[i * stride..(i + R) * stride];
        // SAFETY: by the checks and slices above, every access lies within `values` and `part`.
        unsafe {
            let (values, part) = (values.as_ptr().add(W::bytes(k * KV_BLOCK)), part.as_mut_ptr().add(k));
            if S::PARTS == 1 {
                return add_values::<S, W, R, D, 0>(s, weights.as_ptr(), values, lo..hi, part, stride);
            }
            // What one part of the lanes was read for is near when the other's turn comes.
            for first in (lo..hi).step_by(NEAR) {
                let range = first..hi.min(first + NEAR);
                add_values::<S, W, R, D, 0>(s, weights.as_ptr(), values, range.clone(), part, stride);
                add_values::<S, W, R, D, 1>(s, weights.as_ptr(), values, range, part, stride);
            }
        }
    }

    /// Merges the block's partial result of query `i` into its running one.
    #[inline(always)]
    fn merge<S: Simd, W: Kept>(&mut self, s: S, i: usize, (max, sum): (f32, f32)) {
        let range = i * self.value_stride..(i + 1) * self.value_stride;
        let total = &mut self.total[range.clone()];
        let part = &self.part[range];
        let state = &mut self.state[i];
        // SAFETY: `part` holds whole vectors.
        let part_at = |k: usize| W::in_order(s, unsafe { s.load(part[k..k + LANES].as_ptr()) });
        if state.max == f32::NEG_INFINITY {
            for (to, k) in total.chunks_exact_mut(LANES).zip((0..).step_by(LANES)) {
                // SAFETY: whole vectors.
                unsafe { s.store(to.as_mut_ptr(), part_at(k)) };
            }
            (state.max, state.sum) = (max, sum);
            return;
        }
        let new_max = if max > state.max { max } else { state.max };
        let old = scalar_exp(s, state.max - new_max);
        let new = scalar_exp(s, max - new_max);
        state.max = new_max;
        state.sum = (sum * new) + (state.sum * old);
        let (old, new) = (s.splat(old), s.splat(new));
        for k in (0..total.len()).step_by(LANES) {
            // SAFETY: `total` holds `value_stride` elements, a multiple of 16.
            unsafe {
                let scaled = s.mul(s.load(total.as_ptr().add(k)), old);
                let merged = s.fma(part_at(k), new, scaled);
                s.store(total.as_mut_ptr().add(k), merged);
            }
        }
    }
}

/// The bytes of one head, of which each has `len`.
#[inline(always)]
fn of_head(all: &[u8], kv_head: usize, len: usize) -> &[u8] {
    &all[kv_head * len..(kv_head + 1) * len]
}

/// What of `(first, end)` lies in `part`.
#[inline(always)]
fn within((lo, hi): (usize, usize), part: &Range<usize>) -> (usize, usize) {
    let (lo, hi) = (lo.max(part.start), hi.min(part.end));
    if lo < hi { (lo, hi) } else { (0, 0) }
}

#[inline(always)]
pub(super) fn scalar_exp<S: Simd>(s: S, x: f32) -> f32 {
    s.max_lane(math::exp(s, s.splat(x)))
}

/// Adds to `sums` the products of `R` factors, `stride` apart, and part `P` of the lanes of `C` vectors, `apart` bytes from each other.
///
/// # Safety
/// The pointers are valid for reading as much.
#[inline(always)]
unsafe fn add_products<S: Simd, W: Kept, const R: usize, const C: usize, const P: usize>(
    s: S,
    factors: *const f32,
    stride: usize,
    vectors: *const u8,
    apart: usize,
    sums: &mut [[S::Part; C]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut v = [s.splat_part(0.0); C];
        for c in 0..C {
            v[c] = s.part::<P>(W::load_mixed(s, vectors.add(c * apart)));
        }
        // Few queries wait for memory; of lines that two vectors share, the first is asked for.
        if s.asks_ahead() && P == 0 && R < 4 && vectors.addr() % 64 < W::bytes(LANES) {
            for c in 0..C {
                prefetch_stream(vectors.wrapping_add(c * apart));
            }
        }
        for r in 0..R {
            let factor = s.splat_part(*factors.add(r * stride));
            for c in 0..C {
                sums[r][c] = s.fma_part(factor, v[c], sums[r][c]);
            }
        }
    }
}

/// `terms` of the dot products of `R` queries, `stride` apart, with `C` vectors of keys, `apart` bytes from each other: part `P` of the lanes is added to
/// `scores`, of which those of neighbouring vectors lie `step` vectors apart.
///
/// # Safety
/// All of that lies in what the pointers are valid for.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "pointers and strides of three operands")]
unsafe fn add_terms<S: Simd, W: Kept, const R: usize, const C: usize, const P: usize>(
    s: S,
    q: *const f32,
    stride: usize,
    keys: *const u8,
    apart: usize,
    terms: Range<usize>,
    scores: *mut f32,
    step: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[s.splat_part(0.0); C]; R];
        for k in terms.clone() {
            add_products::<S, W, R, C, P>(s, q.add(k), stride, keys.add(W::bytes(k * LANES)), apart, &mut sums);
        }
        for r in 0..R {
            for c in 0..C {
                let score = scores.add(r * KV_BLOCK + c * step * LANES);
                let before = if terms.start == 0 { s.splat_part(0.0) } else { s.part::<P>(s.load(score)) };
                s.store_part::<P>(score, s.add_part(before, sums[r][c]));
            }
        }
    }
}

/// Adds the values of `range`, each times its weight, to part `P` of the lanes of `D` vectors of each of `R` queries: `to`, whose rows are `stride` apart.
///
/// # Safety
/// All of that lies in what the pointers are valid for.
#[inline(always)]
unsafe fn add_values<S: Simd, W: Kept, const R: usize, const D: usize, const P: usize>(
    s: S,
    weights: *const f32,
    values: *const u8,
    range: Range<usize>,
    to: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[s.splat_part(0.0); D]; R];
        for r in 0..R {
            for c in 0..D {
                sums[r][c] = s.part::<P>(s.load(to.add(r * stride + c * LANES)));
            }
        }
        for j in range {
            let (weights, values) = (weights.add(j), values.add(W::bytes(j * LANES)));
            add_products::<S, W, R, D, P>(s, weights, KV_BLOCK, values, W::bytes(KV_BLOCK * LANES), &mut sums);
        }
        for r in 0..R {
            for c in 0..D {
                s.store_part::<P>(to.add(r * stride + c * LANES), sums[r][c]);
            }
        }
    }
}

/// Turns a block's raw dot products into scores: their lanes in order, scaled and capped.
#[inline(always)]
fn finish_scores<S: Simd, W: Kept>(s: S, row: &mut [f32], scale: f32, cap: Option<f32>) {
    let scale = s.splat(scale);
    for vector in row.chunks_exact_mut(LANES) {
        let p = vector.as_mut_ptr();
        // SAFETY: a whole vector.
        unsafe {
            let score = s.mul(W::in_order(s, s.load(p)), scale);
            s.store(p, cap.map_or(score, |cap| math::soft_cap(s, score, s.splat(cap))));
        }
    }
}

/// Turns a block's scores into `e^(score − max)`; returns `(max, Σ)`.
#[inline(always)]
fn softmax_block<S: Simd>(s: S, row: &mut [f32]) -> (f32, f32) {
    assert!(row.len().is_multiple_of(LANES), "whole vectors");
    let p = row.as_mut_ptr();
    // SAFETY: `row` holds whole vectors.
    unsafe {
        let mut max = s.splat(f32::NEG_INFINITY);
        for k in (0..row.len()).step_by(LANES) {
            max = s.max(max, s.load(p.add(k)));
        }
        let max = s.max_lane(max);
        let top = s.splat(max);
        let mut sum = s.zero();
        for k in (0..row.len()).step_by(LANES) {
            let e = math::exp(s, s.sub(s.load(p.add(k)), top));
            s.store(p.add(k), e);
            sum = s.add(sum, e);
        }
        (max, s.sum(sum))
    }
}
