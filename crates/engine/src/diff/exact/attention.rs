//! Scores, patterns and what they weigh.

use super::{dot, reduction_steps};
use crate::diff::noise::{Known, Noise, Squares};

/// Heads and rows of an attention. Row `r` of what asks is the position `positions[r]`; of what is seen, the position `k` is row `keys[k]`,
/// if it is there.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// Query heads.
    pub n_heads: usize,
    /// Heads of keys and values: query head `h` sees head `h · n_kv_heads / n_heads`.
    pub n_kv_heads: usize,
    /// The position of every row that asks.
    pub positions: &'a [usize],
    /// Where the keys and values of each position are.
    pub keys: &'a [Option<usize>],
}

/// What becomes of products of queries and keys.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Scoring {
    /// Elements of a query and key.
    pub head_dim: usize,
    /// Their factor.
    pub scale: f64,
    /// They become `c · tanh(score / c)`.
    pub soft_cap: Option<f64>,
    /// A key at `j` is visible from `i` when `i - j < window`.
    pub window: Option<usize>,
}

impl Scoring {
    /// Whether position `key` is seen from `from`.
    #[must_use]
    pub fn sees(&self, from: usize, key: usize) -> bool {
        key <= from && self.window.is_none_or(|window| from - key < window)
    }
}

/// `[n_heads, rows, keys]` of queries `[rows, n_heads, d]` and keys `[_, n_kv_heads, d]`: −∞ where a key is not seen, not known where it is
/// not there.
#[must_use]
pub fn scores(q: &Known, k: &Known, view: &View<'_>, scoring: &Scoring) -> Known {
    let View { n_heads, n_kv_heads, positions, keys } = *view;
    let Scoring { head_dim: d, scale, soft_cap, .. } = *scoring;
    let mut out = Known::with_capacity(n_heads * positions.len() * keys.len());
    for head in 0..n_heads {
        for (row, position) in positions.iter().enumerate() {
            let at_q = (row * n_heads + head) * d;
            for (key, at) in keys.iter().enumerate() {
                if !scoring.sees(*position, key) {
                    out.push(f64::NEG_INFINITY, Noise::default());
                    continue;
                }
                let Some(at) = at else {
                    out.push(f64::NAN, Noise::default());
                    continue;
                };
                let at_k = (at * n_kv_heads + head * n_kv_heads / n_heads) * d;
                let (value, noise) = product(q, at_q, k, at_k, d);
                let mut score = value * scale;
                // Engines write the product, the scaled one, and that with the mask.
                let mut noise = noise.times(scale).plus(Noise::steps(2.0, score));
                if let Some(cap) = soft_cap {
                    let t = libm::tanh(score / cap);
                    noise = noise.times(1.0 - t * t).plus(Noise::steps(3.0, cap * t));
                    score = cap * t;
                }
                out.push(score, noise);
            }
        }
    }
    out
}

/// The dot product of `d` elements of `a` and `b`.
fn product(a: &Known, at_a: usize, b: &Known, at_b: usize, d: usize) -> (f64, Noise) {
    let (x, y) = (&a.values[at_a..at_a + d], &b.values[at_b..at_b + d]);
    let (value, l2) = dot(x, y);
    let mut taken = Squares::default();
    if a.has_noise() {
        y.iter().enumerate().for_each(|(i, y)| taken.add(a.noise[at_a + i], *y));
    }
    if b.has_noise() {
        x.iter().enumerate().for_each(|(i, x)| taken.add(b.noise[at_b + i], *x));
    }
    (value, taken.root().plus(Noise::dot(d, value, l2)))
}

/// The softmax of every row of `scores: [n_heads, rows, keys]`, with a sink for each head, if there are sinks. A row of −∞ alone gives zeros.
#[must_use]
pub fn pattern(scores: &Known, rows: usize, keys: usize, sinks: Option<&[f64]>) -> Known {
    let mut out = Known::with_capacity(scores.len());
    for (i, row) in scores.values.chunks_exact(keys).enumerate() {
        let sink = sinks.map(|sinks| sinks[i / rows]);
        let noise = |k: usize| scores.noise(i * keys + k);
        softmax(row, sink, noise, &mut out);
    }
    out
}

/// Appends the softmax of `row`, with what its inputs bring.
///
/// The difference from the maximum is rounded before the exponential, which makes of that a relative error.
pub(crate) fn softmax(row: &[f64], sink: Option<f64>, noise: impl Fn(usize) -> Noise, out: &mut Known) {
    let unknown = row.iter().any(|x| x.is_nan());
    let max = row.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
    let e = |x: f64| if max == f64::NEG_INFINITY { 0.0 } else { libm::exp(x - max) };
    let sum: f64 = row.iter().copied().chain(sink).map(e).sum();
    let mut of_sum = Squares::default();
    for (k, x) in row.iter().enumerate() {
        of_sum.add(noise(k), e(*x) / sum.max(f64::MIN_POSITIVE));
    }
    let of_sum = of_sum.root().plus(Noise::sums((reduction_steps(row.len()) as f64).sqrt()));
    for (k, x) in row.iter().enumerate() {
        if unknown {
            out.push(f64::NAN, Noise::default());
        } else if sum == 0.0 || *x == f64::NEG_INFINITY {
            out.push(0.0, Noise::default());
        } else {
            let p = e(*x) / sum;
            let of_exponent = Noise::sums(max - x);
            out.push(p, noise(k).beside(of_sum).plus(of_exponent).times(p).plus(Noise::steps(3.0, p)));
        }
    }
}

/// What an engine that weighs by exponentials and divides in the end has beside the pattern, in roundings of each term.
const FUSED: f64 = 4.0;

/// `[rows, n_heads, value_dim]`: values `[_, n_kv_heads, value_dim]` weighted by `pattern: [n_heads, rows, keys]`.
#[must_use]
pub fn weighted(pattern: &Known, v: &Known, view: &View<'_>, value_dim: usize) -> Known {
    let View { n_heads, n_kv_heads, positions, keys } = *view;
    let rows = positions.len();
    let mut out = Known::unknown(rows * n_heads * value_dim);
    for head in 0..n_heads {
        let kv_head = head * n_kv_heads / n_heads;
        for row in 0..rows {
            let at_p = (head * rows + row) * keys.len();
            let weights = &pattern.values[at_p..at_p + keys.len()];
            let weighs = |k: usize| weights[k] != 0.0;
            if weights.iter().enumerate().any(|(k, p)| p.is_nan() || (keys[k].is_none() && weighs(k))) {
                continue;
            }
            let seen = (0..keys.len()).filter(|k| weighs(*k)).count();
            for c in 0..value_dim {
                let (mut value, mut squares, mut taken) = (0.0, 0.0, Squares::default());
                for (k, at) in keys.iter().enumerate() {
                    let (Some(at), true) = (at, weighs(k)) else { continue };
                    let at_v = (at * n_kv_heads + kv_head) * value_dim + c;
                    let term = weights[k] * v.values[at_v];
                    value += term;
                    squares += term * term;
                    taken.add(pattern.noise(at_p + k), v.values[at_v]);
                    taken.add(v.noise(at_v), weights[k]);
                }
                let sum = Noise::dot(seen, value, squares.sqrt());
                let fused = Noise::sums(FUSED * value.hypot(squares.sqrt()));
                let noise = taken.root().plus(sum).plus(fused);
                out.set((row * n_heads + head) * value_dim + c, value, noise);
            }
        }
    }
    out
}
