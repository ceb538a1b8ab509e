//! Sums, factors, caps, limits, and columns moved about.

use super::activation::sigmoid;
use crate::diff::noise::{Known, Noise};

/// `a + b`.
#[must_use]
pub fn add(a: &Known, b: &Known) -> Known {
    a.zip(b, |a, b| (a + b, [1.0, 1.0], Noise::steps(1.0, a + b)))
}

/// `a + b + c`, in any order.
#[must_use]
pub fn add_three(a: &Known, b: &Known, c: &Known) -> Known {
    let first = a.zip(b, |a, b| (a + b, [1.0, 1.0], Noise::steps(1.0, a.abs() + b.abs())));
    first.zip(c, |sum, c| (sum + c, [1.0, 1.0], Noise::steps(1.0, c.abs()).plus(Noise::steps(1.0, sum + c))))
}

/// `x · by`.
#[must_use]
pub fn scaled(x: &Known, by: f64) -> Known {
    x.map(|x| (x * by, by, Noise::steps(1.0, x * by)))
}

/// `cap · tanh(x / cap)`.
#[must_use]
pub fn capped(x: &Known, cap: f64) -> Known {
    x.map(|x| {
        let t = libm::tanh(x / cap);
        // The quotient is rounded before, which shows where the curve is steep.
        let slope = 1.0 - t * t;
        (cap * t, slope, Noise::steps(2.0, cap * t).plus(Noise::steps(1.0, x * slope)))
    })
}

/// What lies beyond `limit`, or below `-limit`, becomes that.
#[must_use]
pub fn clamped(x: &Known, limit: f64) -> Known {
    // Near the limit noise may bring a value to either side; the slope is that of what is within.
    x.map(|x| (x.clamp(-limit, limit), 1.0, Noise::default()))
}

/// `x · sigmoid(gate)`.
#[must_use]
pub fn sigmoid_gated(x: &Known, gate: &Known) -> Known {
    x.zip(gate, |x, gate| {
        let s = sigmoid(gate);
        (x * s, [s, x * s * (1.0 - s)], Noise::steps(3.0, x * s))
    })
}

/// Of every group of `width` elements of `x` those of `first .. first + len`.
#[must_use]
pub fn columns(x: &Known, width: usize, first: usize, len: usize) -> Known {
    let pick = |i: usize| i / len * width + first + i % len;
    let elements = x.len() / width * len;
    let values = (0..elements).map(|i| x.values[pick(i)]).collect();
    let noise = if x.has_noise() { (0..elements).map(|i| x.noise[pick(i)]).collect() } else { Vec::new() };
    Known { values, noise }
}

/// Heads side by side: of `heads` heads, head `h` of `a` `[rows, heads, a_width]` and then that of `b`, which has as many or one for all.
#[must_use]
pub fn joined(a: &Known, a_width: usize, b: &Known, b_width: usize, heads: usize) -> Known {
    let rows = a.len() / (heads * a_width);
    let b_heads = b.len() / (rows * b_width).max(1);
    let mut out = Known::with_capacity(rows * heads * (a_width + b_width));
    for head in 0..rows * heads {
        let (row, h) = (head / heads, head % heads);
        let from_b = row * b_heads + h * b_heads / heads;
        (head * a_width..(head + 1) * a_width).for_each(|i| out.push(a.values[i], a.noise(i)));
        (from_b * b_width..(from_b + 1) * b_width).for_each(|i| out.push(b.values[i], b.noise(i)));
    }
    out
}

/// The sum over the heads of `[rows, heads, width]`, each of which is a sum of `terms` products.
///
/// Engines sum all products at once, and have what heads give beside that: so the noise is that of one sum over all of them, of whose terms
/// the squares add up to about those of the heads, or to more where products within a head cancel: it is taken for twice as large.
#[must_use]
pub fn sum_of_heads(x: &Known, heads: usize, width: usize, terms: usize) -> Known {
    let rows = x.len() / (heads * width);
    let mut out = Known::with_capacity(rows * width);
    for i in 0..rows * width {
        let at = |h: usize| (i / width * heads + h) * width + i % width;
        let (value, squares) = (0..heads).map(|h| x.values[at(h)]).fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
        let taken = (0..heads).map(|h| x.noise(at(h))).fold(Noise::default(), Noise::beside);
        let written = Noise::steps(1.0, f64::sqrt(squares));
        out.push(value, taken.plus(Noise::dot(heads * terms, value, f64::sqrt(squares)).times(2.0)).plus(written));
    }
    out
}
