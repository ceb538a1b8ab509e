//! Mixers that carry something from position to position: convolutions and the gated delta rule. Rows are positions 0, 1, 2, … here.

use super::activation::{sigmoid, softplus};
use super::norm::{Shape, norm};
use super::reduction_steps;
use crate::decoder::{Activation, NormKind};
use crate::diff::noise::{Known, Noise, Squares};

/// A depthwise causal convolution of `x: [rows, channels]` with `weight: [channels, taps]`, the tap of the oldest input first.
#[must_use]
pub fn convolved(x: &Known, weight: &[f64], bias: Option<&[f64]>, taps: usize) -> Known {
    let channels = weight.len() / taps;
    let mut out = Known::with_capacity(x.len());
    for at in 0..x.len() {
        let (row, channel) = (at / channels, at % channels);
        let first = bias.map_or(0.0, |bias| bias[channel]);
        let (mut value, mut squares, mut taken) = (first, first * first, Squares::default());
        for tap in (taps - 1).saturating_sub(row)..taps {
            let input = at + channels * (tap + 1) - channels * taps;
            let w = weight[channel * taps + tap];
            let term = x.values[input] * w;
            value += term;
            squares += term * term;
            taken.add(x.noise(input), w);
        }
        out.push(value, taken.root().plus(Noise::dot(taps, value, squares.sqrt())));
    }
    out
}

/// `c · conv(b · x)` of rows of `b`, `c` and `x` side by side.
#[must_use]
pub fn gated_convolution(bcx: &Known, weight: &[f64], bias: Option<&[f64]>, taps: usize) -> Known {
    let channels = weight.len() / taps;
    let part = |first: usize| super::elementwise::columns(bcx, 3 * channels, first * channels, channels);
    let product = |a: &Known, b: &Known| a.zip(b, |a, b| (a * b, [b, a], Noise::steps(1.0, a * b)));
    let input = product(&part(0), &part(2));
    product(&part(1), &convolved(&input, weight, bias, taps))
}

/// `g = −e^a_log · softplus(a + dt_bias)`, the logarithm of the decay: `[rows, heads]`.
#[must_use]
pub fn decay(a: &Known, a_log: &[f64], dt_bias: &[f64]) -> Known {
    let heads = a_log.len();
    let mut out = Known::with_capacity(a.len());
    for (i, a_i) in a.values.iter().enumerate() {
        let (rate, x) = (libm::exp(a_log[i % heads]), a_i + dt_bias[i % heads]);
        let g = -rate * softplus(x);
        let slope = rate * sigmoid(x);
        // The rate is computed in f32 whatever tensors are of.
        let own = Noise::steps(4.0, g).plus(Noise::steps(1.0, x * slope)).plus(Noise::sums(g * a_log[i % heads]));
        out.push(g, a.noise(i).times(slope).plus(own));
    }
    out
}

/// The sizes of a gated delta rule: see [`decoder::Delta`](crate::decoder::Delta).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heads {
    /// Heads of queries and keys.
    pub k_heads: usize,
    /// Heads of values.
    pub v_heads: usize,
    /// Elements of a query and key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
}

/// What a gated delta rule gives.
#[derive(Clone, Debug)]
pub struct DeltaRule {
    /// What is read from the state: `[rows, v_heads, v_dim]`.
    pub z: Known,
    /// The states after the rows that were asked for: `[kept rows, v_heads, k_dim, v_dim]`.
    pub states: Known,
}

/// What the sums of squares of queries and keys are added to.
const L2_EPS: f64 = 1e-6;

/// The gated delta rule over `conv: [rows, channels]` (queries, keys, values), `decay` and `beta`: `[rows, v_heads]`, from a state of zeros. States
/// are kept of the rows that `keep` says.
///
/// Noise is followed through the state, in one kind: an engine may take the rows in chunks, which is the same in another order, and
/// writes no state in half precision. That queries, keys and what is written are rounded in half precision counts as steps.
#[must_use]
pub fn delta_rule(conv: &Known, decay: &Known, beta: &Known, heads: Heads, keep: impl Fn(usize) -> bool) -> DeltaRule {
    let Heads { k_heads, v_heads, k_dim, v_dim } = heads;
    let channels = 2 * k_heads * k_dim + v_heads * v_dim;
    let rows = conv.len() / channels;
    let scale = 1.0 / (k_dim as f64).sqrt();
    let of_sums = |n: Noise| n.sums + n.steps + n.inputs;
    let mut z = Known::unknown(rows * v_heads * v_dim);
    let mut kept: Vec<(usize, usize, Vec<f64>, Vec<f64>)> = Vec::new();
    for head in 0..v_heads {
        let k_head = head * k_heads / v_heads;
        let mut state = vec![0.0; k_dim * v_dim];
        // Squares of noise.
        let mut noise = vec![0.0; k_dim * v_dim];
        for row in 0..rows {
            let part = |first: usize, len: usize| row * channels + first..row * channels + first + len;
            let unit = |range: std::ops::Range<usize>| {
                let x = &conv.values[range];
                let by = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() + L2_EPS).sqrt();
                x.iter().map(|x| x * by).collect::<Vec<f64>>()
            };
            let (q, k) = (unit(part(k_head * k_dim, k_dim)), unit(part((k_heads + k_head) * k_dim, k_dim)));
            let v = part(2 * k_heads * k_dim + head * v_dim, v_dim);
            let at = row * v_heads + head;
            let (a, b) = (libm::exp(decay.values[at]), beta.values[at]);
            // A relative error of the decay, and of keys.
            let of_decay = of_sums(decay.noise(at)) + decay.values[at].abs() + 2.0;
            let of_key = (reduction_steps(k_dim) as f64).sqrt() + 3.0;
            for (s, n) in state.iter_mut().zip(&mut noise) {
                *s *= a;
                *n = *n * a * a + (*s * of_decay).powi(2);
            }
            for (c, at_v) in v.enumerate() {
                let (mut said, mut squares, mut square_noise) = (0.0, 0.0, 0.0);
                for i in 0..k_dim {
                    let term = state[i * v_dim + c] * k[i];
                    said += term;
                    squares += term * term;
                    square_noise += noise[i * v_dim + c] * k[i] * k[i] + (term * of_key).powi(2);
                }
                let left = conv.values[at_v] - said;
                let d = b * left;
                let own = (k_dim as f64 * (said * said + squares)).sqrt() * b.abs();
                let taken = of_sums(conv.noise(at_v)).hypot(square_noise.sqrt()) * b.abs();
                let of_write = taken.hypot(own).hypot(3.0 * d).hypot(of_sums(beta.noise(at)) * left);
                let (mut value, mut squares, mut square_noise) = (0.0, 0.0, 0.0);
                for i in 0..k_dim {
                    let s = &mut state[i * v_dim + c];
                    let n = &mut noise[i * v_dim + c];
                    *s += k[i] * d;
                    *n += (k[i] * of_write).powi(2) + (k[i] * d * of_key).powi(2) + *s * *s;
                    let term = *s * q[i];
                    value += term;
                    squares += term * term;
                    square_noise += *n * q[i] * q[i] + (term * of_key).powi(2);
                }
                let sums = (k_dim as f64 * (value * value + squares)).sqrt().hypot(square_noise.sqrt()) * scale;
                let steps = 4.0 * value.hypot(squares.sqrt()) * scale;
                z.set(at * v_dim + c, value * scale, Noise { sums, steps, inputs: 0.0 });
            }
            if keep(row) {
                kept.push((row, head, state.clone(), noise.clone()));
            }
        }
    }
    kept.sort_by_key(|(row, head, ..)| (*row, *head));
    let mut states = Known::default();
    for (_, _, state, noise) in kept {
        for (s, n) in state.into_iter().zip(noise) {
            states.push(s, Noise { sums: f64::sqrt(n), steps: s.abs(), inputs: 0.0 });
        }
    }
    DeltaRule { z, states }
}

/// `weight · (z / √(mean(z²) + eps)) · silu(gate)` of every head.
#[must_use]
pub fn gated_norm(z: &Known, gate: &Known, weight: Option<&[f64]>, width: usize, eps: f64) -> Known {
    let shape = Shape { kind: NormKind::Rms, width, eps };
    super::activation::gated(gate, &norm(z, shape, weight, None, 1), Activation::Silu)
}
