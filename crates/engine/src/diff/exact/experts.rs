//! Routed experts: a sum of gated feed-forwards over those that were chosen for a row.

use super::activation::gated;
use super::linear::{biased, product};
use crate::decoder::Activation;
use crate::diff::noise::{Known, Noise};

/// The weights of one expert, each matrix row after row.
#[derive(Clone, Debug, Default)]
pub struct Expert {
    /// `[intermediate, hidden]`, the gate.
    pub gate: Vec<f32>,
    /// Its bias.
    pub gate_bias: Option<Vec<f64>>,
    /// `[intermediate, hidden]`, the other factor.
    pub up: Vec<f32>,
    /// Its bias.
    pub up_bias: Option<Vec<f64>>,
    /// `[hidden, intermediate]`.
    pub down: Vec<f32>,
    /// Its bias.
    pub down_bias: Option<Vec<f64>>,
}

/// The product of `x` with a matrix, and its bias.
#[must_use]
pub fn linear(x: &Known, inputs: usize, weight: &[f32], bias: Option<&[f64]>) -> Known {
    let outputs = weight.len() / inputs;
    let mut out = Known::unknown(x.len() / inputs * outputs);
    product(x, inputs, weight, &mut out, outputs, Some);
    match bias {
        Some(bias) => biased(&out, bias),
        None => out,
    }
}

impl Expert {
    /// What it makes of rows of `hidden` elements.
    #[must_use]
    pub fn of(&self, x: &Known, hidden: usize, act: Activation) -> Known {
        let intermediate = self.gate.len() / hidden;
        let gate = linear(x, hidden, &self.gate, self.gate_bias.as_deref());
        let up = linear(x, hidden, &self.up, self.up_bias.as_deref());
        linear(&gated(&gate, &up, act), intermediate, &self.down, self.down_bias.as_deref())
    }
}

/// A sum over the experts of a row, in the making.
#[derive(Clone, Debug)]
pub struct Mixture {
    width: usize,
    values: Vec<f64>,
    squares: Vec<f64>,
    noise: Vec<Noise>,
    terms: Vec<usize>,
}

impl Mixture {
    /// Of `rows` rows of `width` elements, to which nothing was added.
    #[must_use]
    pub fn new(rows: usize, width: usize) -> Mixture {
        let elements = rows * width;
        Mixture {
            width,
            values: vec![0.0; elements],
            squares: vec![0.0; elements],
            noise: vec![Noise::default(); elements],
            terms: vec![0; rows],
        }
    }

    /// Adds `weight · x` to a row; the weight has a noise of its own.
    pub fn add(&mut self, row: usize, x: &Known, weight: f64, noise: Noise) {
        self.terms[row] += 1;
        for (i, x_i) in x.values.iter().enumerate() {
            let (at, term) = (row * self.width + i, x_i * weight);
            self.values[at] += term;
            self.squares[at] += term * term;
            let taken = x.noise(i).times(weight).beside(noise.times(*x_i)).plus(Noise::steps(1.0, term));
            self.noise[at] = self.noise[at].beside(taken);
        }
    }

    /// The sums. Each of the partial sums is written down.
    #[must_use]
    pub fn finish(self) -> Known {
        let mut out = Known::with_capacity(self.values.len());
        for (i, value) in self.values.iter().enumerate() {
            let terms = self.terms[i / self.width] as f64;
            let sum = Noise::steps(terms.sqrt(), value.hypot(self.squares[i].sqrt()));
            out.push(*value, self.noise[i].plus(sum));
        }
        out
    }
}
