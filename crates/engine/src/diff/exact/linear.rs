//! Products of rows with the rows of a matrix, some of them at a time.

use super::dot;
use crate::diff::noise::{Known, Noise, Squares};

/// Sets the outputs `first ..` of every row of `out: [rows, outputs]` to the products of the rows of `x` with `weights: [_, inputs]`.
///
/// `outputs` says where the product with each row of the weights goes; those that go nowhere are left out.
pub fn product(
    x: &Known,
    inputs: usize,
    weights: &[f32],
    out: &mut Known,
    outputs: usize,
    place: impl Fn(usize) -> Option<usize>,
) {
    for (w, weight) in weights.chunks_exact(inputs).enumerate() {
        let Some(to) = place(w) else { continue };
        for (r, row) in x.values.chunks_exact(inputs).enumerate() {
            let (value, l2) = dot(row, weight);
            let mut taken = Squares::default();
            if x.has_noise() {
                let noise = &x.noise[r * inputs..(r + 1) * inputs];
                noise.iter().zip(weight).for_each(|(noise, w)| taken.add(*noise, f64::from(*w)));
            }
            out.set(r * outputs + to, value, taken.root().plus(Noise::dot(inputs, value, l2)));
        }
    }
}

/// `x + bias` for rows of as many elements as the bias has.
#[must_use]
pub fn biased(x: &Known, bias: &[f64]) -> Known {
    let mut out = Known::with_capacity(x.len());
    for (i, x_i) in x.values.iter().enumerate() {
        let value = x_i + bias[i % bias.len()];
        out.push(value, x.noise(i).plus(Noise::steps(1.0, value)));
    }
    out
}
