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
//! adds is added as the next row reads, or at the end of the pass, which gives the same bits.

use crate::carried::{Carried, checked};
use crate::conv::{load, store};
use crate::exec::{Exec, SCRATCH, SharedMut};
use crate::math;
use crate::simd::{LANES, Op, Simd};

/// Vectors of columns of the state that go over all rows together: with `k_dim` of 128, 16 KiB, which stay in L1.
const VECTORS: usize = 2;

/// Columns of the state that one item of a parallel job takes.
const ITEM: usize = VECTORS * LANES;

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
    assert!(k_dim * ITEM <= SCRATCH, "at most {} elements of a key", SCRATCH / ITEM);
    let n = g.len() / v_heads;
    assert!(g.len() == n * v_heads && beta.len() == g.len(), "gates for each row and head");
    assert!(qkv.len() == n * rule.width() && out.len() == n * v_heads * v_dim, "inputs and outputs of {n} rows");
    let sequences = checked(sequences, n, rule.state_len());
    let strips = v_dim.div_ceil(ITEM);
    let rows = Rows { rule, qkv, g, beta, out: SharedMut::new(out) };
    let isa = exec.isa();
    exec.run_with_scratch(sequences.len() * v_heads * strips, &|item, scratch| {
        let sequence = &sequences[item / strips / v_heads];
        if !sequence.rows().is_empty() {
            let (head, column) = (item / strips % v_heads, item % strips * ITEM);
            isa.run(Strip { rows: &rows, sequence, head, column, block: scratch });
        }
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

/// Up to [`ITEM`] columns, from `column` on, of a sequence's state of a head.
struct Strip<'a> {
    rows: &'a Rows<'a>,
    sequence: &'a Carried<'a>,
    head: usize,
    column: usize,
    /// At least `k_dim * ITEM` elements.
    block: &'a mut [f32],
}

impl Op for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.rows.rule.v_dim - self.column > LANES { self.over::<S, VECTORS>(s) } else { self.over::<S, 1>(s) }
    }
}

impl Strip<'_> {
    /// All rows over `C` vectors of columns, of which the last may be short. The columns are worked on in a block of their own, side
    /// by side: in the state they lie a power of two apart, where few of them would stay in L1.
    #[inline(always)]
    fn over<S: Simd, const C: usize>(self, s: S) {
        let Strip { rows, sequence, head, column, block } = self;
        let DeltaRule { k_heads, v_heads, k_dim, v_dim, scale } = *rows.rule;
        let block = &mut block[..k_dim * C * LANES];
        let width = (v_dim - column).min(C * LANES);
        let part = |c: usize| c * LANES..((c + 1) * LANES).min(width);
        // SAFETY: no other item has these columns of the sequence's state.
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
        for r in sequence.rows() {
            let row = &rows.qkv[r * rows.rule.width()..(r + 1) * rows.rule.width()];
            let k_head = head / (v_heads / k_heads);
            let q = &row[k_head * k_dim..(k_head + 1) * k_dim];
            let k = &row[(k_heads + k_head) * k_dim..(k_heads + k_head + 1) * k_dim];
            let v = &row[2 * k_heads * k_dim + head * v_dim + column..][..width];
            let decay = math::exp(s, s.splat(rows.g[r * v_heads + head]));
            let (sum_k, sum_q) = match &before {
                None => read::<S, C, false>(s, block, decay, &Added { k, d: [s.zero(); C] }, k, q),
                Some(before) => read::<S, C, true>(s, block, decay, before, k, q),
            };
            let (beta, qk, scale) = (s.splat(rows.beta[r * v_heads + head]), s.splat(dot(s, q, k)), s.splat(scale));
            let mut d = [s.zero(); C];
            for c in 0..C {
                d[c] = s.mul(s.sub(load(s, &v[part(c)]), sum_k[c]), beta);
                let y = s.mul(s.fma(qk, d[c], sum_q[c]), scale);
                let at = (r * v_heads + head) * v_dim + column;
                // SAFETY: no other item has these columns of the output.
                store(s, unsafe { rows.out.slice(at + part(c).start..at + part(c).end) }, y);
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
