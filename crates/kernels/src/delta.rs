//! Linear attention by the gated delta rule: a mixer whose past is one matrix for each head, however long the text.
//!
//! Around it, in a block: [`causal_conv`](crate::causal_conv) of q, k and v, [`l2_norm`] of q and k, [`delta_gates`], then
//! [`delta_rule()`]. It mirrors `torch_recurrent_gated_delta_rule` of transformers' `modeling_qwen3_next.py`. For prompts
//! transformers takes `torch_chunk_gated_delta_rule`, which is the same in another order.
//!
//! # The order
//!
//! With the state `S: [k_dim, v_dim]` of a head before a row, `a = e^g` and `S' = a · S`:
//!
//! - `d = β · (v − S'ᵀk)`, the sum over `k_dim` in increasing order by fused multiply-add;
//! - `out = ((q · k) · d + S'ᵀq) · scale`, the sum likewise, `q · k` as every dot product of the numeric contract, and the first sum by fused multiply-add;
//! - `S = S' + k dᵀ`, by fused multiply-add.
//!
//! Since `S` changes by `k dᵀ` after `S'` was read for both sums, one reading of the state is enough for a row: what a row
//! adds is added as the next row reads, or when its pass ends, which gives the same bits.

use std::ops::Range;

use crate::carried::{Carried, checked};
use crate::conv::{load, store};
use crate::exec::{Exec, SCRATCH, SharedMut};
use crate::math;
use crate::simd::{LANES, Op, Simd};

/// Vectors of columns of the state that go over rows together: with `k_dim` of 128, 32 KiB, which stay in L1 or near it.
/// Their sums are chains enough to keep the multipliers busy.
const VECTORS: usize = 4;

/// Rows whose q, k and v are gathered at a time.
const ROWS: usize = 32;

/// Gates that one item of a parallel job takes, about.
const GATES_ITEM: usize = 1 << 11;

/// The shape of a gated delta rule.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct DeltaRule {
    /// Heads of q and k (`linear_num_key_heads`).
    pub k_heads: usize,
    /// Heads of v, a multiple of `k_heads` (`linear_num_value_heads`): head `h` goes with head `h / (v_heads / k_heads)` of q and k.
    pub v_heads: usize,
    /// Elements of a head of q and k (`linear_key_head_dim`).
    pub k_dim: usize,
    /// Elements of a head of v (`linear_value_head_dim`).
    pub v_dim: usize,
    /// What outputs are multiplied by: `1 / √k_dim` in transformers.
    pub scale: f32,
}

impl DeltaRule {
    /// Elements of a row of q, k and v side by side.
    #[must_use]
    pub fn width(&self) -> usize {
        2 * self.k_heads * self.k_dim + self.v_heads * self.v_dim
    }

    /// Elements of the state that a sequence carries, `[v_heads, k_dim, v_dim]`.
    #[must_use]
    pub fn state_len(&self) -> usize {
        self.v_heads * self.k_dim * self.v_dim
    }
}

/// The gates of every row and value head: `g = −e^a_log · ln(1 + e^(a + dt_bias))`, the logarithm of the decay, and
/// `beta = 1 / (1 + e^−b)`. `a`, `b`, `g` and `beta` are `[n, v_heads]`, `a_log` and `dt_bias` `[v_heads]`.
///
/// # Panics
/// When the shapes do not agree.
pub fn delta_gates(exec: &Exec, a: &[f32], b: &[f32], a_log: &[f32], dt_bias: &[f32], g: &mut [f32], beta: &mut [f32]) {
    let heads = a_log.len();
    assert!(heads > 0 && dt_bias.len() == heads && a.len().is_multiple_of(heads), "rows of {heads} heads");
    assert!(b.len() == a.len() && g.len() == a.len() && beta.len() == a.len(), "inputs and outputs of one shape");
    let n = a.len() / heads;
    let step = (GATES_ITEM / heads).max(1);
    let (g, beta) = (SharedMut::new(g), SharedMut::new(beta));
    let isa = exec.isa();
    exec.pool().run(n.div_ceil(step), &|item, _| {
        let at = item * step * heads..((item + 1) * step).min(n) * heads;
        // SAFETY: the items' rows do not overlap.
        let (g, beta) = unsafe { (g.slice(at.clone()), beta.slice(at.clone())) };
        isa.run(Gates { a: &a[at.clone()], b: &b[at], a_log, dt_bias, g, beta });
    });
}

struct Gates<'a> {
    a: &'a [f32],
    b: &'a [f32],
    a_log: &'a [f32],
    dt_bias: &'a [f32],
    g: &'a mut [f32],
    beta: &'a mut [f32],
}

impl Op for Gates<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let heads = self.a_log.len();
        for row in (0..self.a.len()).step_by(heads) {
            for h in (0..heads).step_by(LANES) {
                let head = h..(h + LANES).min(heads);
                let at = row + head.start..row + head.end;
                let rate = math::exp(s, load(s, &self.a_log[head.clone()]));
                let x = s.add(load(s, &self.a[at.clone()]), load(s, &self.dt_bias[head]));
                store(s, &mut self.g[at.clone()], s.mul(s.sub(s.zero(), rate), softplus(s, x)));
                let b = load(s, &self.b[at.clone()]);
                store(s, &mut self.beta[at], sigmoid(s, b));
            }
        }
    }
}

/// `1 / (1 + e^−x)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, math::exp(s, s.sub(s.zero(), x))))
}

/// `ln(1 + e^x)`, within a few ulp: `max(x, 0) + ln(1 + z)`, `z = e^−|x|`. Above 20 it is x, as torch has it.
#[inline(always)]
fn softplus<S: Simd>(s: S, x: S::V) -> S::V {
    let z = math::exp(s, s.sub(s.zero(), s.max(x, s.sub(s.zero(), x))));
    // ln(1 + z) = 2 artanh(y) = 2 y (1 + y²/3 + y⁴/5 + …), with y = z / (2 + z) of at most 1/3.
    let y = s.div(z, s.add(s.splat(2.0), z));
    let t = s.mul(y, y);
    let mut p = s.splat(1.0 / 15.0);
    for c in [1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0] {
        p = s.fma(p, t, s.splat(c));
    }
    let twice = s.add(y, y);
    let ln = s.fma(s.mul(p, t), twice, twice);
    s.add(s.max(x, s.zero()), ln)
}

/// Divides each of the first `heads` heads of `dim` elements of every row of `x: [n, width]`, in place, by
/// `√(Σx² + eps)`: transformers' `l2norm`, in rows where other things follow the heads.
///
/// # Panics
/// When the shapes do not agree.
pub fn l2_norm(exec: &Exec, x: &mut [f32], width: usize, heads: usize, dim: usize, eps: f32) {
    assert!(dim > 0 && heads * dim <= width, "{heads} heads of {dim} in a row of {width}");
    assert!(x.len().is_multiple_of(width.max(1)), "rows of {width} elements");
    let isa = exec.isa();
    exec.for_rows(x, width, |_, row| isa.run(L2Row { x: &mut row[..heads * dim], dim, eps }));
}

struct L2Row<'a> {
    x: &'a mut [f32],
    dim: usize,
    eps: f32,
}

impl Op for L2Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for head in self.x.chunks_exact_mut(self.dim) {
            let scale = s.splat(1.0 / (dot(s, head, head) + self.eps).sqrt());
            for part in head.chunks_mut(LANES) {
                let v = s.mul(load(s, part), scale);
                store(s, part, v);
            }
        }
    }
}

/// The contract's dot product.
#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = s.zero();
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        sum = s.fma(load(s, a), load(s, b), sum);
    }
    s.sum(sum)
}

/// Attends by the gated delta rule, row after row of each sequence, in the order that this file's head states.
///
/// `qkv: [n, k_heads · k_dim + k_heads · k_dim + v_heads · v_dim]` holds q, k (both normalised) and v side by side, as the
/// convolution leaves them; `g` (the logarithm of the decay) and `beta` are `[n, v_heads]`, `out` is `[n, v_heads, v_dim]`.
/// A sequence's state is [`DeltaRule::state_len`] elements.
///
/// # Panics
/// When the shapes do not agree.
pub fn delta_rule(
    exec: &Exec,
    rule: &DeltaRule,
    qkv: &[f32],
    g: &[f32],
    beta: &[f32],
    sequences: &mut [Carried<'_>],
    out: &mut [f32],
) {
    let DeltaRule { k_heads, v_heads, k_dim, v_dim, .. } = *rule;
    assert!(k_heads > 0 && k_dim > 0 && v_dim > 0 && v_heads.is_multiple_of(k_heads) && v_heads > 0, "{rule:?}");
    assert!(
        k_dim * VECTORS * LANES + Gathered::len(rule) <= SCRATCH,
        "a block and a row of {rule:?} in {SCRATCH} elements"
    );
    let n = g.len() / v_heads;
    assert!(g.len() == n * v_heads && beta.len() == g.len(), "gates for each row and head");
    assert!(qkv.len() == n * rule.width() && out.len() == n * v_heads * v_dim, "inputs and outputs of {n} rows");
    let sequences = checked(sequences, n, rule.state_len());
    let rows = Rows { rule, qkv, g, beta, out: SharedMut::new(out) };
    let isa = exec.isa();
    exec.run_with_scratch(sequences.len() * v_heads, &|item, scratch| {
        let (sequence, head) = (&sequences[item / v_heads], item % v_heads);
        isa.run(Head { rows: &rows, sequence, head, scratch });
    });
}

/// What all items of a job read and write.
struct Rows<'a> {
    rule: &'a DeltaRule,
    qkv: &'a [f32],
    g: &'a [f32],
    beta: &'a [f32],
    out: SharedMut<'a>,
}

/// All rows of a sequence in one value head.
struct Head<'a> {
    rows: &'a Rows<'a>,
    sequence: &'a Carried<'a>,
    head: usize,
    scratch: &'a mut [f32],
}

impl Op for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Head { rows, sequence, head, scratch } = self;
        let rule = rows.rule;
        let (block, scratch) = scratch.split_at_mut(rule.k_dim * VECTORS * LANES);
        let at_once = (scratch.len() / Gathered::len(rule)).min(ROWS);
        let all = sequence.rows();
        for first in all.clone().step_by(at_once) {
            let gathered = Gathered::new(s, rows, first..(first + at_once).min(all.end), head, scratch);
            for column in (0..rule.v_dim).step_by(VECTORS * LANES) {
                match (rule.v_dim - column).div_ceil(LANES) {
                    1 => gathered.over::<S, 1>(s, sequence, column, block),
                    2 => gathered.over::<S, 2>(s, sequence, column, block),
                    3 => gathered.over::<S, 3>(s, sequence, column, block),
                    _ => gathered.over::<S, VECTORS>(s, sequence, column, block),
                }
            }
        }
    }
}

/// What some rows have of a value head, side by side. In the rows of all heads they lie so far apart, often a power of two,
/// that a row would wait for memory, again for each block of columns.
struct Gathered<'a> {
    rows: &'a Rows<'a>,
    first: usize,
    head: usize,
    /// `[rows, k_dim + k_dim + v_dim]`: q, k and v.
    qkv: &'a [f32],
    /// `e^g` of each row.
    decay: &'a [f32],
    /// `q · k` of each row.
    qk: &'a [f32],
}

impl<'a> Gathered<'a> {
    /// Elements of scratch that a row takes.
    fn len(rule: &DeltaRule) -> usize {
        2 * rule.k_dim + rule.v_dim + 2
    }

    #[inline(always)]
    fn new<S: Simd>(s: S, rows: &'a Rows<'a>, of: Range<usize>, head: usize, scratch: &'a mut [f32]) -> Gathered<'a> {
        let &DeltaRule { k_heads, v_heads, k_dim, v_dim, .. } = rows.rule;
        let (decay, scratch) = scratch.split_at_mut(of.len());
        let (qk, scratch) = scratch.split_at_mut(of.len());
        let qkv = &mut scratch[..of.len() * (2 * k_dim + v_dim)];
        let k_head = head / (v_heads / k_heads);
        for (i, r) in of.clone().enumerate() {
            let row = &rows.qkv[r * rows.rule.width()..(r + 1) * rows.rule.width()];
            let (q, rest) = qkv[i * (2 * k_dim + v_dim)..(i + 1) * (2 * k_dim + v_dim)].split_at_mut(k_dim);
            let (k, v) = rest.split_at_mut(k_dim);
            q.copy_from_slice(&row[k_head * k_dim..][..k_dim]);
            k.copy_from_slice(&row[(k_heads + k_head) * k_dim..][..k_dim]);
            v.copy_from_slice(&row[2 * k_heads * k_dim + head * v_dim..][..v_dim]);
            qk[i] = dot(s, q, k);
            decay[i] = rows.g[r * v_heads + head];
        }
        for part in decay.chunks_mut(LANES) {
            let v = math::exp(s, load(s, part));
            store(s, part, v);
        }
        Gathered { rows, first: of.start, head, qkv, decay, qk }
    }

    /// These rows over `C` vectors of columns of the state, of which the last may be short. The columns are worked on in a block
    /// of their own, side by side: in the state they lie a power of two apart, where few of them would stay in L1.
    #[inline(always)]
    fn over<S: Simd, const C: usize>(&self, s: S, sequence: &Carried<'_>, column: usize, block: &mut [f32]) {
        let &DeltaRule { v_heads, k_dim, v_dim, scale, .. } = self.rows.rule;
        let head = self.head;
        let block = &mut block[..k_dim * C * LANES];
        let width = (v_dim - column).min(C * LANES);
        let part = |c: usize| c * LANES..((c + 1) * LANES).min(width);
        // SAFETY: no other item has this head of the sequence's state, and no part outlives its use.
        let state = |i: usize, c: usize| unsafe {
            let at = (head * k_dim + i) * v_dim + column;
            sequence.state(at + part(c).start..at + part(c).end)
        };
        for (i, row) in block.chunks_exact_mut(C * LANES).enumerate() {
            for (c, lanes) in row.chunks_exact_mut(LANES).enumerate() {
                store(s, lanes, load(s, state(i, c)));
            }
        }

        let mut before: Option<Added<'_, S, C>> = None;
        for (i, row) in self.qkv.chunks_exact(2 * k_dim + v_dim).enumerate() {
            let (q, rest) = row.split_at(k_dim);
            let (k, v) = rest.split_at(k_dim);
            let v = &v[column..column + width];
            let decay = s.splat(self.decay[i]);
            let (sum_k, sum_q) = match &before {
                None => read::<S, C, false>(s, block, decay, &Added { k, d: [s.zero(); C] }, k, q),
                Some(before) => read::<S, C, true>(s, block, decay, before, k, q),
            };
            let r = self.first + i;
            let (beta, qk) = (s.splat(self.rows.beta[r * v_heads + head]), s.splat(self.qk[i]));
            let mut d = [s.zero(); C];
            for c in 0..C {
                d[c] = s.mul(s.sub(load(s, &v[part(c)]), sum_k[c]), beta);
                let y = s.mul(s.fma(qk, d[c], sum_q[c]), s.splat(scale));
                let at = (r * v_heads + head) * v_dim + column;
                // SAFETY: no other item has this head of the output.
                store(s, unsafe { self.rows.out.slice(at + part(c).start..at + part(c).end) }, y);
            }
            before = Some(Added { k, d });
        }

        let Some(last) = before else { return };
        for (i, row) in block.chunks_exact(C * LANES).enumerate() {
            for (c, lanes) in row.chunks_exact(LANES).enumerate() {
                store(s, state(i, c), s.fma(s.splat(last.k[i]), last.d[c], load(s, lanes)));
            }
        }
    }
}

/// What a row adds to the state: `k dᵀ`.
struct Added<'a, S: Simd, const C: usize> {
    k: &'a [f32],
    d: [S::V; C],
}

/// One reading of a block of the state: with `ADD`, what the row before adds; then the decay; then the sums with k and with q.
#[inline(always)]
fn read<S: Simd, const C: usize, const ADD: bool>(
    s: S,
    block: &mut [f32],
    decay: S::V,
    before: &Added<'_, S, C>,
    k: &[f32],
    q: &[f32],
) -> ([S::V; C], [S::V; C]) {
    let k_dim = k.len();
    assert!(block.len() == k_dim * C * LANES && q.len() == k_dim && before.k.len() == k_dim);
    let (mut sum_k, mut sum_q) = ([s.zero(); C], [s.zero(); C]);
    for i in 0..k_dim {
        let (added, k, q) = (s.splat(before.k[i]), s.splat(k[i]), s.splat(q[i]));
        for c in 0..C {
            // SAFETY: vector `i * C + c` of the block, which has `k_dim * C` of them.
            unsafe {
                let at = block.as_mut_ptr().add((i * C + c) * LANES);
                let mut v = s.load(at);
                if ADD {
                    v = s.fma(added, before.d[c], v);
                }
                v = s.mul(v, decay);
                s.store(at, v);
                sum_k[c] = s.fma(v, k, sum_k[c]);
                sum_q[c] = s.fma(v, q, sum_q[c]);
            }
        }
    }
    (sum_k, sum_q)
}
