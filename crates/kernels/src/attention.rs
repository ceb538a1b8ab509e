//! Softmax attention over a blocked cache of keys and values.
//!
//! `attention.rs` has the shape of a layer and shares out the work, `attention/chunk.rs` goes over blocks.
//!
//! The keys of a sequence lie in blocks of [`KV_BLOCK`] positions, aligned to position 0. For each query,
//! each block with a visible key gives a partial result: its scores (sums of eight products each, added in order; scaled, then
//! capped where the layer has a cap), the largest of them `m`, the sum `l` of `e^(s − m)`
//! over 16 lanes by position, and `o = Σ e^(s − m) · v` in order of position. Partial results are merged
//! in order of the blocks; a sink joins the denominator after the last. What a query sees depends on its own position and the window alone, so
//! neither chunking, nor padding, nor the rows beside it, nor the thread changes a bit.

use std::marker::PhantomData;
use std::ops::Range;

use crate::exec::{Exec, SharedMut};
use crate::kv::{KvBlock, KvFormat, KvSource, padded};
use crate::matrix::{Bf16, F32};
use crate::simd::{Isa, LANES, Op, Simd};

mod chunk;

use chunk::{Chunk, Kept, Query, scalar_exp};

/// Query rows in a [`Span`], at most: one item of parallel work for each key-value head.
pub const SPAN_ROWS: usize = 48;

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
pub struct Attention<'a> {
    /// Query heads; head `h` reads key-value head `h / (n_heads / n_kv_heads)`.
    pub n_heads: usize,
    /// Key-value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements of a query and key.
    pub head_dim: usize,
    /// Elements of a value, and of the output of a head.
    pub value_dim: usize,
    /// Factor of the scores, usually `1/√head_dim`.
    pub scale: f32,
    /// A key at `j` is visible from `i` when `i - j < window`, `j <= i`.
    pub window: Option<usize>,
    /// Scaled scores `s` become `tanh(s / cap) · cap`.
    pub softcap: Option<f32>,
    /// `[n_heads]`: the score of a key without a value, which every query of a head sees.
    pub sinks: Option<&'a [f32]>,
}

/// Attention of `q: [n, n_heads, head_dim]` into `out: [n, n_heads, value_dim]`, for the rows of `spans`, which follow one
/// another. The keys and values of the rows
/// themselves are already in the cache.
///
/// # Panics
/// When shapes do not agree, spans overlap, or a block that a row sees is missing.
pub fn attention(exec: &Exec, shape: &Attention<'_>, q: &[f32], spans: &[Span], kv: &dyn KvSource, out: &mut [f32]) {
    over_spans(exec, shape, q, spans, &|seq| (kv.first_block(seq), kv.blocks(seq)), out, None);
}

/// Attention that is given its blocks a few at a time, in order of position: what has been merged so far.
///
/// The totals stand in the output, and become results in [`Gathering::finish`]. The bits are those of [`attention()`].
pub struct Gathering<'a> {
    /// `[n, n_heads, 2]`: the running maximum and sum of every query.
    state: &'a mut [f32],
    /// `[n, n_heads, value_dim]`.
    out: &'a mut [f32],
    rows: Range<usize>,
    /// Where the totals come from.
    isa: Isa,
}

impl<'a> Gathering<'a> {
    /// Nothing so far, for `rows` of `out: [n, n_heads, value_dim]`, with room `[n, n_heads, 2]` for what goes with it.
    pub fn new(state: &'a mut [f32], out: &'a mut [f32], shape: &Attention<'_>, rows: Range<usize>) -> Gathering<'a> {
        state.as_chunks_mut().0[rows.start * shape.n_heads..rows.end * shape.n_heads].fill([f32::NEG_INFINITY, 0.0]);
        Gathering { state, out, rows, isa: Isa::PORTABLE }
    }

    /// Goes over `blocks`, the first of which is block `first` of the sequence that all `spans` are of; they lie in the rows. Blocks that follow it come
    /// in later calls, with the same rows.
    ///
    /// # Panics
    /// As [`attention()`], but for missing blocks.
    pub fn over(
        &mut self,
        exec: &Exec,
        shape: &Attention<'_>,
        q: &[f32],
        spans: &[Span],
        first: usize,
        blocks: &[KvBlock],
    ) {
        self.isa = exec.isa();
        over_spans(exec, shape, q, spans, &|_| (first, blocks), self.out, Some(self.state));
    }

    /// Makes results of the totals: all blocks were seen.
    pub fn finish(self, shape: &Attention<'_>) {
        let Gathering { state, out, rows, isa } = self;
        let queries = rows.start * shape.n_heads..rows.end * shape.n_heads;
        let totals = out.chunks_exact_mut(shape.value_dim).zip(state.as_chunks::<2>().0).enumerate();
        for (i, (total, [max, sum])) in totals.take(queries.end).skip(queries.start) {
            let sink = shape.sinks.map(|sinks| sinks[i % shape.n_heads]);
            isa.run(Finish { total, max: *max, sum: *sum, sink });
        }
    }
}

/// One query's total becomes its result, in place.
struct Finish<'a> {
    total: &'a mut [f32],
    max: f32,
    sum: f32,
    sink: Option<f32>,
}

impl Op for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (factor, sum) = with_sink(s, self.max, self.sum, self.sink);
        self.total.iter_mut().for_each(|x| *x = *x * factor / sum);
    }
}

/// [`attention()`], or with `state` a part of it, over the blocks that `blocks` gives for a sequence, and the place of their first.
fn over_spans<'a>(
    exec: &Exec,
    shape: &Attention<'_>,
    q: &[f32],
    spans: &[Span],
    blocks: &(dyn Fn(usize) -> (usize, &'a [KvBlock]) + Sync),
    out: &mut [f32],
    state: Option<&mut [f32]>,
) {
    let n = q.len() / (shape.n_heads * shape.head_dim).max(1);
    assert!(shape.head_dim > 0 && shape.value_dim > 0, "heads of some elements");
    assert!(q.len() == n * shape.n_heads * shape.head_dim, "queries of the layer's shape");
    assert!(out.len() == n * shape.n_heads * shape.value_dim, "output of the layer's shape, for as many rows");
    assert!(shape.sinks.is_none_or(|sinks| sinks.len() == shape.n_heads), "a sink for each head");
    assert!(shape.n_kv_heads > 0 && shape.n_heads.is_multiple_of(shape.n_kv_heads), "whole groups of heads");
    assert!(shape.window != Some(0), "a window that shows at least the row itself");
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
    let group = shape.n_heads / shape.n_kv_heads;
    // Queries of a key-value head go over it together, unless there are many of them and threads without work.
    let most = spans.iter().map(|span| span.len).max().unwrap_or(0) * group;
    let heads = spans.len() * shape.n_kv_heads;
    let parts = (exec.threads() / heads.max(1)).clamp(1, most.div_ceil(chunk::TILE).max(1));
    let part = most.div_ceil(parts).next_multiple_of(chunk::TILE);
    exec.run_with_scratch(heads * parts, &|item, scratch| {
        let (item, queries) = (item / parts, item % parts * part..(item % parts + 1) * part);
        // The last rows see most: they come first, so that no thread waits long for another.
        let span = spans[spans.len() - 1 - item / shape.n_kv_heads];
        let kv_head = item % shape.n_kv_heads;
        let (first, blocks) = blocks(span.seq);
        let format = blocks.first().map_or(KvFormat::F32, |block| block.format);
        assert!(blocks.iter().all(|block| block.format == format), "blocks of one format");
        let queries = queries.start..queries.end.min(span.len * group);
        let item = Item { shape, span, kv_head, queries, q, first, blocks, out, state, scratch };
        match format {
            KvFormat::F32 => isa.run(Of::<F32>(item, PhantomData)),
            KvFormat::Bf16 => isa.run(Of::<Bf16>(item, PhantomData)),
        }
    });
}

/// One span against one key-value head, or some of its queries.
struct Item<'a> {
    shape: &'a Attention<'a>,
    span: Span,
    kv_head: usize,
    /// Among those of the span `[len, n_heads / n_kv_heads]`.
    queries: Range<usize>,
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

impl<W: Kept> Op for Of<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Item { shape, span, kv_head, queries, q, first, blocks, out, state, scratch } = self.0;
        let (d, value_dim) = (shape.head_dim, shape.value_dim);
        let group = shape.n_heads / shape.n_kv_heads;
        let at_once = chunk::at_once(shape, scratch.len());
        assert!(at_once > 0, "heads of {d} and {value_dim} elements are beyond this kernel");
        let mut done = queries.start;
        while done < queries.end {
            let n = at_once.min(queries.end - done);
            let mut chunk = Chunk::new(shape, n, scratch);
            // Head of the chunk's query, and its place among all queries `[n, n_heads]`.
            let head = |i: usize| kv_head * group + (done + i) % group;
            let place = |i: usize| (span.row + (done + i) / group) * shape.n_heads + head(i);
            // SAFETY (of what uses these): each (row, head) belongs to one item, and to one query of it.
            let of_out = |i: usize| place(i) * value_dim..(place(i) + 1) * value_dim;
            let of_state = |i: usize| 2 * place(i)..2 * place(i) + 2;
            for i in 0..n {
                let last = span.pos + (done + i) / group;
                let first = shape.window.map_or(0, |w| (last + 1).saturating_sub(w));
                chunk.set(i, &q[place(i) * d..(place(i) + 1) * d], first, last);
            }
            let mut range = chunk.blocks_seen();
            if let Some(state) = state {
                // Of the blocks that are seen, those that are here.
                range = range.start.max(first)..range.end.min(first + blocks.len());
                for i in 0..n {
                    // SAFETY: as above.
                    let (total, so_far) = unsafe { (out.slice(of_out(i)), state.slice(of_state(i))) };
                    chunk.resume(i, total, so_far[0], so_far[1]);
                }
            }
            assert!(range.is_empty() || first <= range.start, "the blocks that a row sees");
            for b in range {
                chunk.over_block::<S, W>(s, b, &blocks[b - first], kv_head);
            }
            for i in 0..n {
                // SAFETY: as above.
                let to = unsafe { out.slice(of_out(i)) };
                let (total, Query { max, sum, .. }) = chunk.result(i);
                match state {
                    None => finish(s, total, with_sink(s, max, sum, shape.sinks.map(|sinks| sinks[head(i)])), to),
                    Some(state) => {
                        to.copy_from_slice(&total[..value_dim]);
                        // SAFETY: as above.
                        unsafe { state.slice(of_state(i)) }.copy_from_slice(&[max, sum]);
                    }
                }
            }
            done += n;
        }
    }
}

/// The factor of a query's total, and what it is divided by, with what its sink adds to that.
#[inline(always)]
fn with_sink<S: Simd>(s: S, max: f32, sum: f32, sink: Option<f32>) -> (f32, f32) {
    let Some(sink) = sink else { return (1.0, sum) };
    let top = if sink > max { sink } else { max };
    let factor = scalar_exp(s, max - top);
    (factor, sum * factor + scalar_exp(s, sink - top))
}

/// `to = from · factor / by`.
#[inline(always)]
fn finish<S: Simd>(s: S, from: &[f32], (factor, by): (f32, f32), to: &mut [f32]) {
    let (factor, by) = (s.splat(factor), s.splat(by));
    assert!(from.len() >= padded(to.len()));
    for k in (0..to.len()).step_by(LANES) {
        let n = (to.len() - k).min(LANES);
        // SAFETY: `from` is padded to whole vectors, and `to` holds `k + n` elements.
        unsafe {
            let scaled = s.mul(s.load(from.as_ptr().add(k)), factor);
            s.store_first(to.as_mut_ptr().add(k), s.div(scaled, by), n);
        }
    }
}
