//! Rotary position embedding.

use crate::decoder::Pairing;
use crate::diff::noise::{Known, Noise};
use crate::rope::Rope;

/// Angles `[rows, half]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Angles {
    /// Pairs that turn.
    pub half: usize,
    /// Their cosines, times what the embedding multiplies by.
    pub cos: Vec<f64>,
    /// Their sines, likewise.
    pub sin: Vec<f64>,
    /// How uncertain an angle is, in units of the roundoff of f32.
    pub noise: Vec<f64>,
}

impl Angles {
    /// Those of `rope` at `positions`, in a text of which `len(position)` tokens count.
    ///
    /// Position times frequency is an f32 in every engine, and part of what the embedding is. Frequencies are powers, which are right within
    /// one unit in the last place, and angles are as uncertain; but for the first, which is 1.
    #[must_use]
    pub fn of(rope: &Rope, positions: &[usize], len: impl Fn(usize) -> usize) -> Angles {
        let mut angles = Angles { half: rope.dim() / 2, ..Angles::default() };
        for position in positions {
            let factor = f64::from(rope.attention_scaling(len(*position)));
            for f in rope.frequencies(len(*position)).iter() {
                let angle = f64::from(*position as f32 * f);
                angles.push(angle, factor, if *f == 1.0 { 0.0 } else { 2.0 * angle.abs() });
            }
        }
        angles
    }

    /// Those of frequencies in f64.
    #[must_use]
    pub fn of_frequencies(frequencies: &[f64], factor: f64, positions: &[usize]) -> Angles {
        let mut angles = Angles { half: frequencies.len(), ..Angles::default() };
        for position in positions {
            for f in frequencies {
                let angle = *position as f64 * f;
                angles.push(angle, factor, 2.0 * angle.abs());
            }
        }
        angles
    }

    fn push(&mut self, angle: f64, factor: f64, noise: f64) {
        let (sin, cos) = libm::sincos(angle);
        self.cos.push(cos * factor);
        self.sin.push(sin * factor);
        self.noise.push(noise);
    }
}

/// Where the elements of pair `i` of `half` lie, from the first rotated element on.
#[must_use]
pub fn pair(pairing: Pairing, half: usize, i: usize) -> [usize; 2] {
    match pairing {
        Pairing::Half => [i, i + half],
        Pairing::Interleaved => [2 * i, 2 * i + 1],
    }
}

/// `x: [rows, heads, head_dim]`, of every head the elements `first .. first + 2 · half` rotated.
///
/// Both products and their sum are rounded, and so are sine and cosine in half precision.
#[must_use]
pub fn rotated(x: &Known, heads: usize, head_dim: usize, first: usize, pairing: Pairing, angles: &Angles) -> Known {
    let mut out = Known { values: x.values.clone(), noise: x.noise.clone() };
    out.noise.resize(x.len(), Noise::default());
    let half = angles.half;
    for head in 0..x.len() / head_dim {
        let row = head / heads;
        for i in 0..half {
            let [a, b] = pair(pairing, half, i).map(|at| head * head_dim + first + at);
            let (x1, x2) = (x.values[a], x.values[b]);
            let at = row * half + i;
            let (cos, sin, angle) = (angles.cos[at], angles.sin[at], angles.noise[at]);
            let own = |p: f64, q: f64, across: f64| {
                let written = Noise::steps(2.0, p.abs() + q.abs());
                written.plus(Noise::steps(1.0, p + q)).plus(Noise::sums(across * angle))
            };
            let taken = |by_a: f64, by_b: f64| x.noise(a).times(by_a).beside(x.noise(b).times(by_b));
            let (y1, y2) = (x1 * cos - x2 * sin, x2 * cos + x1 * sin);
            out.set(a, y1, taken(cos, sin).plus(own(x1 * cos, -x2 * sin, y2)));
            out.set(b, y2, taken(sin, cos).plus(own(x2 * cos, x1 * sin, y1)));
        }
    }
    out
}
