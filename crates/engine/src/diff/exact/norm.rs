//! Norms: what they divide by, what they divide, and the weight.

use super::reduction_steps;
use crate::decoder::NormKind;
use crate::diff::noise::{Known, Noise, Squares};

/// What a norm does without its weight.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Shape {
    /// How it normalises.
    pub kind: NormKind,
    /// Elements that are normalised together.
    pub width: usize,
    /// Added to the mean square.
    pub eps: f64,
}

impl From<&crate::decoder::Norm> for Shape {
    fn from(norm: &crate::decoder::Norm) -> Shape {
        Shape { kind: norm.kind, width: norm.width, eps: f64::from(norm.eps) }
    }
}

/// The mean that is taken away, and the mean square of what is left.
#[must_use]
pub fn moments(kind: NormKind, x: &[f64]) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = match kind {
        NormKind::Rms => 0.0,
        NormKind::Layer => x.iter().sum::<f64>() / n,
    };
    (mean, x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n)
}

/// `√(mean(x²) + eps)`, or with the mean taken away first, of every group: `[groups]`.
///
/// The sum of squares has terms of one sign; taking the mean away costs nothing to first order, since the differences sum to zero.
#[must_use]
pub fn scale(x: &Known, shape: Shape) -> Known {
    let Shape { kind, width, eps } = shape;
    let mut out = Known::with_capacity(x.len() / width);
    for (g, group) in x.values.chunks_exact(width).enumerate() {
        let (mean, square) = moments(kind, group);
        let value = (square + eps).sqrt();
        let mut taken = Squares::default();
        if x.has_noise() {
            let by = 1.0 / (width as f64 * value);
            group.iter().enumerate().for_each(|(i, x_i)| taken.add(x.noise(g * width + i), (x_i - mean) * by));
        }
        let sum = Noise::sums((reduction_steps(width) as f64).sqrt() * square / (2.0 * value));
        out.push(value, taken.root().plus(sum).plus(Noise::steps(2.0, value)));
    }
    out
}

/// `x / scale`, or `(x − mean) / scale`, with a scale for each group.
///
/// The mean is a sum that is rounded; where it is much larger than what is left, that shows.
#[must_use]
pub fn normalized(x: &Known, scale: &Known, shape: Shape) -> Known {
    let mut out = Known::with_capacity(x.len());
    for (g, group) in x.values.chunks_exact(shape.width).enumerate() {
        let (mean, _) = moments(shape.kind, group);
        let by = scale.values.get(g).copied().unwrap_or(f64::NAN);
        let l2 = group.iter().map(|x| x * x).sum::<f64>().sqrt() / shape.width as f64;
        let of_mean = match shape.kind {
            NormKind::Rms => Noise::default(),
            NormKind::Layer => Noise::sums((reduction_steps(shape.width) as f64).sqrt() * mean.hypot(l2) / by),
        };
        for (i, x_i) in group.iter().enumerate() {
            let value = (x_i - mean) / by;
            let taken = x.noise(g * shape.width + i).times(1.0 / by).beside(scale.noise(g).times(value / by));
            out.push(value, taken.plus(of_mean).plus(Noise::steps(2.0, value)));
        }
    }
    out
}

/// `x · weight + bias`, where group `g` of a row of `groups` has the weights `g mod k` of `[k, width]`.
///
/// Half-precision engines round what is normalised before they multiply it.
#[must_use]
pub fn weighted(x: &Known, weight: Option<&[f64]>, bias: Option<&[f64]>, width: usize, groups: usize) -> Known {
    let mut out = Known::with_capacity(x.len());
    for (i, x_i) in x.values.iter().enumerate() {
        let (group, element) = (i / width % groups, i % width);
        let of = |v: &[f64]| v[group % (v.len() / width) * width + element];
        let w = weight.map_or(1.0, of);
        let product = x_i * w;
        let value = product + bias.map_or(0.0, of);
        let own = match bias {
            None => Noise::steps(2.0, product),
            Some(_) => Noise::steps(2.0, product).plus(Noise::steps(1.0, value)),
        };
        out.push(value, x.noise(i).times(w).plus(own));
    }
    out
}

/// What the weight of a layer norm adds to the noise of its result: engines multiply `x` and its mean by weight and scale, and take one product from
/// the other. Where the mean is far from zero, or `x` near to it, that shows.
#[must_use]
pub fn about_the_mean(normed: &Known, x: &Known, weight: Option<&[f64]>, shape: Shape) -> Known {
    if shape.kind == NormKind::Rms {
        return normed.clone();
    }
    let mut out = Known::with_capacity(normed.len());
    for (g, group) in x.values.chunks_exact(shape.width).enumerate() {
        let (mean, square) = moments(shape.kind, group);
        let by = 1.0 / (square + shape.eps).sqrt();
        for (i, x_i) in group.iter().enumerate() {
            let at = g * shape.width + i;
            let w = weight.map_or(1.0, |w| w[at % w.len()]) * by;
            out.push(normed.values[at], normed.noise(at).plus(Noise::steps(3.0, (x_i.abs() + mean.abs()) * w)));
        }
    }
    out
}

/// A norm as a whole over rows of `groups`.
#[must_use]
pub fn norm(x: &Known, shape: Shape, weight: Option<&[f64]>, bias: Option<&[f64]>, groups: usize) -> Known {
    let scale = scale(x, shape);
    let normed = weighted(&normalized(x, &scale, shape), weight, bias, shape.width, groups);
    about_the_mean(&normed, x, weight, shape)
}
