//! Softmax attention over a blocked cache of keys and values.
//!
//! The keys of a sequence lie in blocks of [`KV_BLOCK`] positions, aligned to position 0. For each query,
//! each block with a visible key gives a partial result: its scores (sums of [`TERMS`] products each, added in order), the
//! largest of them `m`, the sum `l` of `e^(s − m)`
//! over 16 lanes by position, and `o = Σ e^(s − m) · v` in order of position. Partial results are merged
//! in order of the blocks. What a query sees depends on its own position and the window alone, so
//! neither chunking, nor padding, nor the rows beside it, nor the thread changes a bit.

use std::marker::PhantomData;
use std::ops::Range;

use crate::exec::{Exec, SCRATCH, SharedMut};
use crate::kv::{KV_BLOCK, KvBlock, KvFormat, KvSource, padded};
use crate::math;
use crate::matrix::{Bf16, Element, F32};
use crate::simd::{LANES, Op, Simd};

/// Query rows in a [`Span`], at most: one item of parallel work for each key-value head.
pub const SPAN_ROWS: usize = 48;

/// Terms of a score that are added one to the next. A longer score is the sum of such sums, which keeps more of its bits.
const TERMS: usize = 8;

/// Positions of a block that many queries go over before they go on.
const PART: usize = 128;

/// Queries that go over a block together.
const QUERIES: usize = 96;

/// Rows `row .. row + len` of a batch, which are the positions `pos .. pos + len` of sequence `seq`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// First row of the batch.
    pub row: usize,
    /// Number of rows, 1 to [`SPAN_ROWS`].
    pub len: usize,
    /// Index of the sequence.
    pub seq: usize,
    /// Position of the first row.
    pub pos: usize,
}

/// The shape of an attention layer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Attention {
    /// Query heads; head `h` reads key-value head `h / (n_heads / n_kv_heads)`.
    pub n_heads: usize,
    /// Key-value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements of a query, key and value.
    pub head_dim: usize,
    /// Factor of the scores, usually `1/√head_dim`.
    pub scale: f32,
    /// A key at `j` is visible from `i` when `i - j < window`, `j <= i`.
    pub window: Option<usize>,
}

/// Attention of `q: [n, n_heads, head_dim]` into `out` of the same shape, for the rows of `spans`, which follow one
/// another. The keys and values of the rows
/// themselves are already in the cache.
///
/// # Panics
/// When shapes do not agree, spans overlap, or a block that a row sees is missing.
pub fn attention(exec: &Exec, shape: &Attention, q: &[f32], spans: &[Span], kv: &dyn KvSource, out: &mut [f32]) {
    over_spans(exec, shape, q, spans, &|seq| (kv.first_block(seq), kv.blocks(seq)), out, None);
}

/// Attention that is given its blocks a few at a time, in order of position: what has been merged so far.
///
/// The totals stand in the output, and become results in [`Gathering::finish`]. The bits are those of [`attention()`].
pub struct Gathering<'a> {
    /// `[n, n_heads, 2]`: the running maximum and sum of every query.
    state: &'a mut [f32],
    /// `[n, n_heads, head_dim]`.
    out: &'a mut [f32],
    rows: Range<usize>,
}

impl<'a> Gathering<'a> {
    /// Nothing so far, for `rows` of `out: [n, n_heads, head_dim]`, with room `[n, n_heads, 2]` for what goes with it.
    pub fn new(state: &'a mut [f32], out: &'a mut [f32], shape: &Attention, rows: Range<usize>) -> Gathering<'a> {
        state.as_chunks_mut().0[rows.start * shape.n_heads..rows.end * shape.n_heads].fill([f32::NEG_INFINITY, 0.0]);
        Gathering { state, out, rows }
    }

    /// Goes over `blocks`, the first of which is block `first` of the sequence that all `spans` are of; they lie in the rows. Blocks that follow it come
    /// in later calls, with the same rows.
    ///
    /// # Panics
    /// As [`attention()`], but for missing blocks.
    pub fn over(
        &mut self,
        exec: &Exec,
        shape: &Attention,
        q: &[f32],
        spans: &[Span],
        first: usize,
        blocks: &[KvBlock],
    ) {
        over_spans(exec, shape, q, spans, &|_| (first, blocks), self.out, Some(self.state));
    }

    /// Makes results of the totals: all blocks were seen.
    pub fn finish(self, shape: &Attention) {
        let queries = self.rows.start * shape.n_heads..self.rows.end * shape.n_heads;
        let totals = self.out.chunks_exact_mut(shape.head_dim).zip(self.state.as_chunks::<2>().0);
        for (total, [_, sum]) in totals.take(queries.end).skip(queries.start) {
            total.iter_mut().for_each(|x| *x /= sum);
        }
    }
}

/// [`attention()`], or with `state` a part of it, over the blocks that `blocks` gives for a sequence, and the place of their first.
fn over_spans<'a>(
    exec: &Exec,
    shape: &Attention,
    q: &[f32],
    spans: &[Span],
    blocks: &(dyn Fn(usize) -> (usize, &'a [KvBlock]) + Sync),
    out: &mut [f32],
    state: Option<&mut [f32]>,
) {
    let width = shape.n_heads * shape.head_dim;
    assert_eq!(q.len(), out.len(), "queries and output of one shape");
    assert!(shape.n_kv_heads > 0 && shape.n_heads.is_multiple_of(shape.n_kv_heads), "whole groups of heads");
    assert!(shape.window != Some(0), "a window that shows at least the row itself");
    let n = q.len() / width.max(1);
    let mut free = 0;
    for span in spans {
        let fits = span.row >= free && span.row < n && (1..=SPAN_ROWS.min(n - span.row)).contains(&span.len);
        assert!(fits, "{span:?} among {n} rows, of which the first {free} are taken");
        free = span.row + span.len;
    }
    assert!(
        state.as_ref().is_none_or(|state| state.len() >= 2 * shape.n_heads * n),
        "room for what goes with the totals"
    );
    let out = &SharedMut::new(out);
    let state = state.map(SharedMut::new);
    let state = state.as_ref();
    let isa = exec.isa();
    exec.run_with_scratch(spans.len() * shape.n_kv_heads, &|item, scratch| {
        // The last rows see most: they come first, so that no thread waits long for another.
        let span = spans[spans.len() - 1 - item / shape.n_kv_heads];
        let kv_head = item % shape.n_kv_heads;
        let (first, blocks) = blocks(span.seq);
        let format = blocks.first().map_or(KvFormat::F32, |block| block.format);
        assert!(blocks.iter().all(|block| block.format == format), "blocks of one format");
        let item = Item { shape, span, kv_head, q, first, blocks, out, state, scratch };
        match format {
            KvFormat::F32 => isa.run(Of::<F32>(item, PhantomData)),
            KvFormat::Bf16 => isa.run(Of::<Bf16>(item, PhantomData)),
        }
    });
}

/// One span against one key-value head.
struct Item<'a> {
    shape: &'a Attention,
    span: Span,
    kv_head: usize,
    q: &'a [f32],
    /// Place of the first of `blocks` in the sequence.
    first: usize,
    blocks: &'a [KvBlock],
    out: &'a SharedMut<'a>,
    /// Maximum and sum of every query so far, if there will be more blocks: `out` then holds totals.
    state: Option<&'a SharedMut<'a>>,
    scratch: &'a mut [f32],
}

/// An item over keys and values of one element type.
struct Of<'a, W>(Item<'a>, PhantomData<W>);

/// The queries that go over the blocks together, and their running results.
struct Chunk<'a> {
    /// Query vectors `[n, stride]`, of which `d` count.
    q: &'a mut [f32],
    /// Scores, then weights, `[n, KV_BLOCK]`.
    scores: &'a mut [f32],
    /// The block's `Σ weight · value`, `[n, stride]`.
    part: &'a mut [f32],
    /// The same merged over blocks, `[n, stride]`.
    total: &'a mut [f32],
    /// First and last visible position of each query, its running maximum and sum.
    state: [Query; QUERIES],
    n: usize,
    /// `head_dim`, and the same in whole vectors.
    d: usize,
    stride: usize,
}

#[derive(Clone, Copy)]
struct Query {
    first: usize,
    last: usize,
    max: f32,
    sum: f32,
}

impl<W: Element> Op for Of<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Item { shape, span, kv_head, q, first, blocks, out, state, scratch } = self.0;
        let d = shape.head_dim;
        let group = shape.n_heads / shape.n_kv_heads;
        let stride = padded(d);
        let at_once = QUERIES.min(SCRATCH / (3 * stride + KV_BLOCK));
        assert!(at_once > 0, "head_dim {d} is beyond this kernel");
        let all = span.len * group;
        let mut done = 0;
        while done < all {
            let n = at_once.min(all - done);
            let (q_part, rest) = scratch.split_at_mut(n * stride);
            let (scores, rest) = rest.split_at_mut(n * KV_BLOCK);
            let (part, rest) = rest.split_at_mut(n * stride);
            let total = &mut rest[..n * stride];
            let nothing = Query { first: 0, last: 0, max: f32::NEG_INFINITY, sum: 0.0 };
            let mut chunk = Chunk { q: q_part, scores, part, total, state: [nothing; QUERIES], n, d, stride };
            // Element of `q` and `out` at which a query's head begins.
            let offset = |i: usize| {
                let (row, head) = ((done + i) / group, (done + i) % group);
                ((span.row + row) * shape.n_heads + kv_head * group + head) * d
            };
            for i in 0..n {
                let to = &mut chunk.q[i * stride..(i + 1) * stride];
                to[..d].copy_from_slice(&q[offset(i)..][..d]);
                let last = span.pos + (done + i) / group;
                chunk.state[i].last = last;
                chunk.state[i].first = shape.window.map_or(0, |w| (last + 1).saturating_sub(w));
            }
            let mut range = chunk.blocks_seen();
            if let Some(state) = state {
                // Of the blocks that are seen, those that are here.
                range = range.start.max(first)..range.end.min(first + blocks.len());
                for i in 0..n {
                    // SAFETY: each (row, head) belongs to one item, and to one query of it.
                    let (total, so_far) = unsafe {
                        (out.slice(offset(i)..offset(i) + d), state.slice(2 * offset(i) / d..2 * offset(i) / d + 2))
                    };
                    chunk.total[i * stride..][..d].copy_from_slice(total);
                    (chunk.state[i].max, chunk.state[i].sum) = (so_far[0], so_far[1]);
                }
            }
            assert!(range.is_empty() || first <= range.start, "the blocks that a row sees");
            for b in range {
                chunk.over_block::<S, W>(s, b, &blocks[b - first], kv_head, shape.scale);
            }
            for i in 0..n {
                // SAFETY: as above.
                let to = unsafe { out.slice(offset(i)..offset(i) + d) };
                let (total, query) = (&chunk.total[i * stride..], chunk.state[i]);
                match state {
                    None => divide(s, total, query.sum, to),
                    Some(state) => {
                        to.copy_from_slice(&total[..d]);
                        // SAFETY: as above.
                        let so_far = unsafe { state.slice(2 * offset(i) / d..2 * offset(i) / d + 2) };
                        so_far.copy_from_slice(&[query.max, query.sum]);
                    }
                }
            }
            done += n;
        }
    }
}

#[inline(always)]
fn divide<S: Simd>(s: S, from: &[f32], by: f32, to: &mut [f32]) {
    let by = s.splat(by);
    assert!(from.len() >= padded(to.len()));
    for k in (0..to.len()).step_by(LANES) {
        let n = (to.len() - k).min(LANES);
        // SAFETY: `from` is padded to whole vectors, and `to` holds `k + n` elements.
        unsafe { s.store_first(to.as_mut_ptr().add(k), s.div(s.load(from.as_ptr().add(k)), by), n) };
    }
}

impl Chunk<'_> {
    /// The blocks in which some query sees something.
    fn blocks_seen(&self) -> Range<usize> {
        // Positions grow with the index, so the first query sees furthest back and the last furthest on.
        self.state[0].first / KV_BLOCK..self.state[self.n - 1].last / KV_BLOCK + 1
    }

    /// Merges what the queries see of `block`, which is block `b` of the sequence.
    #[inline(always)]
    fn over_block<S: Simd, W: Element>(&mut self, s: S, b: usize, block: &KvBlock, kv_head: usize, scale: f32) {
        let start = b * KV_BLOCK;
        let keys = of_head(block.keys.bytes(), kv_head, W::bytes(KV_BLOCK * self.d));
        let values = of_head(block.values.bytes(), kv_head, W::bytes(KV_BLOCK * self.stride));
        // What of this block each query sees, relative to its start; possibly nothing.
        let mut seen = [(0usize, 0usize); QUERIES];
        for i in 0..self.n {
            let Query { first, last, .. } = self.state[i];
            let lo = first.max(start) - start;
            let hi = (last + 1).clamp(start, start + KV_BLOCK) - start;
            seen[i] = if lo < hi { (lo, hi) } else { (0, 0) };
        }
        // One tile of queries goes over the whole block in long runs; many go over a part of it, which stays near.
        let step = if self.n <= 6 { KV_BLOCK } else { PART };
        for part in (0..KV_BLOCK).step_by(step) {
            self.score::<S, W>(s, keys, part..part + step, &seen);
        }
        let mut stats = [(0.0f32, 0.0f32); QUERIES];
        for i in 0..self.n {
            if seen[i].0 < seen[i].1 {
                let row = &mut self.scores[i * KV_BLOCK..(i + 1) * KV_BLOCK];
                row[..seen[i].0].fill(f32::NEG_INFINITY);
                row[seen[i].1..].fill(f32::NEG_INFINITY);
                stats[i] = softmax_block(s, row, scale);
            }
        }
        self.part.fill(0.0);
        for part in (0..KV_BLOCK).step_by(step) {
            self.weigh_all::<S, W>(s, values, part..part + step, &seen);
        }
        for i in 0..self.n {
            if seen[i].0 < seen[i].1 {
                self.merge(s, i, stats[i]);
            }
        }
    }

    /// Dot products of every query with the keys of `part` that it sees, and with some that it does not see; the rest of `scores`
    /// is left as it was.
    #[inline(always)]
    fn score<S: Simd, W: Element>(&mut self, s: S, keys: &[u8], part: Range<usize>, seen: &[(usize, usize); QUERIES]) {
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
            } else {
                match left {
                    1 => self.score_rows::<S, W, 1, 4>(s, i, keys, part.clone(), seen),
                    2 => self.score_rows::<S, W, 2, 2>(s, i, keys, part.clone(), seen),
                    _ => self.score_rows::<S, W, 3, 2>(s, i, keys, part.clone(), seen),
                }
            };
        }
    }

    /// `R` queries from `i` on, `C` vectors of keys at once. Returns `R`.
    #[inline(always)]
    fn score_rows<S: Simd, W: Element, const R: usize, const C: usize>(
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
    fn score_tile<S: Simd, W: Element, const R: usize, const C: usize>(
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
            let group = W::open(s, std::ptr::null());
            for first in (0..d).step_by(TERMS) {
                let mut sums = [[s.zero(); C]; R];
                for k in first..d.min(first + TERMS) {
                    let mut key = [s.zero(); C];
                    for c in 0..C {
                        key[c] = W::load(s, keys.as_ptr().add(c * step * size + W::bytes(k * LANES)), group);
                    }
                    for r in 0..R {
                        let q = s.splat(*q.get_unchecked(r * stride + k));
                        for c in 0..C {
                            sums[r][c] = s.fma(q, key[c], sums[r][c]);
                        }
                    }
                }
                for r in 0..R {
                    for c in 0..C {
                        let score = scores.as_mut_ptr().add(r * KV_BLOCK + (g + c * step) * LANES);
                        let before = if first == 0 { s.zero() } else { s.load(score) };
                        s.store(score, s.add(before, sums[r][c]));
                    }
                }
            }
        }
    }

    /// `self.part += weights · values` for every query, over what it sees of `part`, in order.
    #[inline(always)]
    fn weigh_all<S: Simd, W: Element>(
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
                    _ => self.weigh::<S, W, 2>(s, i, values, part.clone(), seen),
                }
            };
        }
    }

    /// The same for `R` queries from `i` on. Returns `R`.
    #[inline(always)]
    fn weigh<S: Simd, W: Element, const R: usize>(
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
    fn weigh_range<S: Simd, W: Element, const R: usize>(
        &mut self,
        s: S,
        i: usize,
        values: &[u8],
        lo: usize,
        hi: usize,
    ) {
        if lo >= hi {
            return;
        }
        let mut k = 0;
        // As much of a value at once as there are registers for.
        while S::WIDE_TILE && R <= 2 && k + 8 * LANES <= self.stride {
            self.weigh_columns::<S, W, R, 8>(s, i, values, lo, hi, k);
            k += 8 * LANES;
        }
        while k + 4 * LANES <= self.stride {
            self.weigh_columns::<S, W, R, 4>(s, i, values, lo, hi, k);
            k += 4 * LANES;
        }
        while k < self.stride {
            self.weigh_columns::<S, W, R, 1>(s, i, values, lo, hi, k);
            k += LANES;
        }
    }

    /// `D` vectors of the value dimension from element `k` on.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "the coordinates of a tile")]
    fn weigh_columns<S: Simd, W: Element, const R: usize, const D: usize>(
        &mut self,
        s: S,
        i: usize,
        values: &[u8],
        lo: usize,
        hi: usize,
        k: usize,
    ) {
        let stride = self.stride;
        assert!(k + D * LANES <= stride && W::bytes(KV_BLOCK * stride) <= values.len() && hi <= KV_BLOCK);
        let weights = &self.scores[i * KV_BLOCK..(i + R) * KV_BLOCK];
        let part = &mut self.part[i * stride..(i + R) * stride];
        // SAFETY: by the checks and slices above, every access lies within `values` and `part`.
        unsafe {
            let group = W::open(s, std::ptr::null());
            let mut acc = [[s.zero(); D]; R];
            for r in 0..R {
                for c in 0..D {
                    acc[r][c] = s.load(part.as_ptr().add(r * stride + k + c * LANES));
                }
            }
            for j in lo..hi {
                let row = values.as_ptr().add(W::bytes(k * KV_BLOCK + j * LANES));
                let mut v = [s.zero(); D];
                for c in 0..D {
                    v[c] = W::load(s, row.add(W::bytes(c * KV_BLOCK * LANES)), group);
                }
                for r in 0..R {
                    let w = s.splat(*weights.get_unchecked(r * KV_BLOCK + j));
                    for c in 0..D {
                        acc[r][c] = s.fma(w, v[c], acc[r][c]);
                    }
                }
            }
            for r in 0..R {
                for c in 0..D {
                    s.store(part.as_mut_ptr().add(r * stride + k + c * LANES), acc[r][c]);
                }
            }
        }
    }

    /// Merges the block's partial result of query `i` into its running one.
    #[inline(always)]
    fn merge<S: Simd>(&mut self, s: S, i: usize, (max, sum): (f32, f32)) {
        let range = i * self.stride..(i + 1) * self.stride;
        let total = &mut self.total[range.clone()];
        let part = &self.part[range];
        let state = &mut self.state[i];
        if state.max == f32::NEG_INFINITY {
            total.copy_from_slice(part);
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
            // SAFETY: `total` and `part` hold `stride` elements, a multiple of 16.
            unsafe {
                let scaled = s.mul(s.load(total.as_ptr().add(k)), old);
                let merged = s.fma(s.load(part.as_ptr().add(k)), new, scaled);
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
fn scalar_exp<S: Simd>(s: S, x: f32) -> f32 {
    s.max_lane(math::exp(s, s.splat(x)))
}

/// Turns a block's raw dot products into `e^(score − max)`; returns `(max, Σ)`.
#[inline(always)]
fn softmax_block<S: Simd>(s: S, row: &mut [f32], scale: f32) -> (f32, f32) {
    assert_eq!(row.len(), KV_BLOCK);
    let p = row.as_mut_ptr();
    // SAFETY: `row` holds KV_BLOCK elements, a multiple of 16.
    unsafe {
        let scale = s.splat(scale);
        let mut max = s.splat(f32::NEG_INFINITY);
        for k in (0..KV_BLOCK).step_by(LANES) {
            let v = s.mul(s.load(p.add(k)), scale);
            s.store(p.add(k), v);
            max = s.max(max, v);
        }
        let max = s.max_lane(max);
        let top = s.splat(max);
        let mut sum = s.zero();
        for k in (0..KV_BLOCK).step_by(LANES) {
            let e = math::exp(s, s.sub(s.load(p.add(k)), top));
            s.store(p.add(k), e);
            sum = s.add(sum, e);
        }
        (max, s.sum(sum))
    }
}
