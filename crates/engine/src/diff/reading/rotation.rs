//! Rotations: not done, the other way round, other pairs, other frequencies.

use std::f64::consts::PI;

use super::Evidence;
use crate::decoder::Pairing;
use crate::diff::exact::rotation::{Angles, pair, rotated};
use crate::diff::noise::Known;
use crate::diff::operations::Operation;
use crate::rope::{Rope, RopeScaling};

/// How near frequencies must be to be the same: angles are measured from values in f32, or in coarser numbers.
const NEAR: f64 = 2e-3;

/// A rotation as the operation has it.
#[derive(Clone, Copy)]
struct Rotation {
    rope: usize,
    pairing: Pairing,
    first: usize,
    heads: usize,
    head_dim: usize,
}

/// What turns each pair, as far as values say.
#[derive(Debug)]
struct Measured {
    /// Frequencies `[half]`, in radians per position.
    frequencies: Vec<f64>,
    /// What lengths are multiplied by.
    factor: f64,
}

impl Evidence<'_> {
    fn rotation_of(&self) -> Option<Rotation> {
        match self.op.operation {
            Operation::Rotate { rope, pairing, first, heads, head_dim } => {
                Some(Rotation { rope, pairing, first, heads, head_dim })
            }
            _ => None,
        }
    }

    fn rope(&self, rotation: Rotation) -> &Rope {
        &self.evaluator.decoder().ropes[rotation.rope]
    }

    /// Sentences about a rotation.
    pub(super) fn rotation(&self) -> Option<String> {
        let rotation = self.rotation_of()?;
        let Rotation { rope, pairing, first, heads, head_dim } = rotation;
        let who = self.who;
        let dim = self.rope(rotation).dim();
        if self.is_input(0) {
            return Some(format!(
                "{who} does not rotate: its values are those before, as if all frequencies (inv_freq) were zero."
            ));
        }
        let other = match pairing {
            Pairing::Half => Pairing::Interleaved,
            Pairing::Interleaved => Pairing::Half,
        };
        let words = |pairing| match pairing {
            Pairing::Half => "element i with element i + half (half-split, rotate_half)",
            Pairing::Interleaved => "neighbours (interleaved)",
        };
        if self.fits(&Operation::Rotate { rope, pairing: other, first, heads, head_dim }) {
            return Some(format!("{who} turns {}, where A's config asks for {}.", words(other), words(pairing)));
        }
        for first in [0, head_dim.saturating_sub(dim)] {
            for pairing in [pairing, other] {
                if self.fits(&Operation::Rotate { rope, pairing, first, heads, head_dim }) {
                    let and = if pairing == other { format!(", {}", words(other)) } else { String::new() };
                    return Some(format!("{who} turns other elements of a head: {first} to {}{and}.", first + dim - 1));
                }
            }
        }
        for rope in (0..self.evaluator.decoder().ropes.len()).filter(|other| *other != rope) {
            if self.fits(&Operation::Rotate { rope, pairing, first, heads, head_dim }) {
                let theta = self.evaluator.decoder().ropes[rope].theta();
                return Some(format!(
                    "{who} turns by the frequencies of the model's other kind of layers (rope_theta {theta}): the kinds are confused."
                ));
            }
        }
        self.turned_otherwise(rotation)
    }

    /// The same frequencies from other positions, or other frequencies.
    fn turned_otherwise(&self, rotation: Rotation) -> Option<String> {
        let who = self.who;
        let x = self.inputs.first()?;
        let positions = self.positions();
        let rope = self.rope(rotation);
        let len = self.evaluator.text().tokens.len();
        let Rotation { pairing, first, heads, head_dim, .. } = rotation;
        let is = |angles: &Angles| self.are(&rotated(x, heads, head_dim, first, pairing, angles));
        let back =
            Angles { sin: negated(&Angles::of(rope, &positions, |_| len)), ..Angles::of(rope, &positions, |_| len) };
        if is(&back) {
            return Some(format!("{who} turns the other way round: the sign of the sine is the opposite."));
        }
        for shift in [1_isize, -1, 2] {
            let shifted: Option<Vec<usize>> = positions.iter().map(|p| p.checked_add_signed(shift)).collect();
            if shifted.is_some_and(|shifted| is(&Angles::of(rope, &shifted, |_| len))) {
                return Some(format!(
                    "{who} counts positions from {shift}: each row is turned as that {shift} further on."
                ));
            }
        }
        // More or less of a head.
        let (theta, scaling) = (rope.theta(), rope.scaling().clone());
        for part in [1.0, 0.75, 0.5, 0.4, 0.25] {
            let dim = (head_dim as f64 * part) as usize / 2 * 2;
            let fits =
                matches!(scaling, RopeScaling::Default | RopeScaling::Linear { .. }) && dim > 0 && dim != rope.dim();
            let other = Rope::new(dim.max(2), theta, scaling.clone(), rope.context());
            let angles = Angles::of(&other, &positions, |_| len);
            if fits && self.are(&rotated(x, heads, head_dim, 0, pairing, &angles)) {
                return Some(format!(
                    "{who} turns the first {dim} elements of a head of {head_dim}, where A's config asks for {} (partial_rotary_factor).",
                    rope.dim()
                ));
            }
        }
        // What the whole of a head is turned by, if more of it turns than should.
        for (dim, first) in [(rope.dim(), first), (head_dim, 0)] {
            for pairing in [pairing, other_pairing(pairing)] {
                let wide = Rotation { pairing, first, ..rotation };
                let Some(measured) = self.measure(wide, dim / 2, x, &positions) else { continue };
                let angles = Angles::of_frequencies(&measured.frequencies, measured.factor, &positions);
                if !self.nearly(&rotated(x, heads, head_dim, first, pairing, &angles)) {
                    continue;
                }
                let mut said = self.frequencies(rope, &measured, len);
                if dim != rope.dim() {
                    said += &format!(" It turns {dim} elements of a head, where A's config asks for {}.", rope.dim());
                }
                if pairing != rotation.pairing {
                    said += " It pairs elements otherwise, too.";
                }
                return Some(said);
            }
        }
        None
    }

    /// Whether the wrong values are these, as far as measured angles can tell; they must be much nearer than what is exact.
    fn nearly(&self, known: &Known) -> bool {
        let (mut left, mut all, mut off) = (0.0, 0.0, 0.0);
        for ((wrong, value), exact) in self.wrong.values.iter().zip(&known.values).zip(&self.exact.values) {
            let wrong = f64::from(*wrong);
            left += (wrong - value).powi(2);
            off += (wrong - exact).powi(2);
            all += value * value;
        }
        left.sqrt() < 5.0 * NEAR * f64::sqrt(all) && left < 0.04 * off
    }

    /// By what the pairs of `rotation` are turned: from rows of neighbouring positions first, whose angles differ by less than half a turn, then
    /// from rows further and further apart, which say it more exactly.
    fn measure(&self, rotation: Rotation, half: usize, x: &Known, positions: &[usize]) -> Option<Measured> {
        let Rotation { pairing, first, heads, head_dim, .. } = rotation;
        let wrong = &self.wrong.values;
        if first + 2 * half > head_dim {
            return None;
        }
        // Of each row and pair the sum over heads of (input conjugate) · output: its angle is that of the pair.
        let (mut turned, mut lengths) = (vec![[0.0; 2]; positions.len() * half], [0.0; 2]);
        for row in 0..positions.len() {
            for head in 0..heads {
                for i in 0..half {
                    let [a, b] = pair(pairing, half, i).map(|at| (row * heads + head) * head_dim + first + at);
                    let (x1, x2, y1, y2) = (x.values[a], x.values[b], f64::from(wrong[a]), f64::from(wrong[b]));
                    let sum = &mut turned[row * half + i];
                    sum[0] += x1 * y1 + x2 * y2;
                    sum[1] += x1 * y2 - x2 * y1;
                    lengths[0] += x1 * x1 + x2 * x2;
                    lengths[1] += y1 * y1 + y2 * y2;
                }
            }
        }
        let angle = |row: usize, i: usize| turned[row * half + i][1].atan2(turned[row * half + i][0]);
        let wrapped = |x: f64| x - (x / (2.0 * PI)).round() * 2.0 * PI;
        let step = positions.windows(2).position(|pair| pair[1] - pair[0] == 1)?;
        let mut frequencies = Vec::with_capacity(half);
        for i in 0..half {
            let mut f = wrapped(angle(step + 1, i) - angle(step, i));
            let mut span = 2;
            while step + span < positions.len() {
                let distance = (positions[step + span] - positions[step]) as f64;
                let measured = wrapped(angle(step + span, i) - angle(step, i));
                f = (measured + ((f * distance - measured) / (2.0 * PI)).round() * 2.0 * PI) / distance;
                span *= 2;
            }
            frequencies.push(f);
        }
        let factor = (lengths[1] / lengths[0]).sqrt();
        factor.is_finite().then_some(Measured { frequencies, factor })
    }

    /// What measured frequencies say, beside those that they should be.
    fn frequencies(&self, rope: &Rope, measured: &Measured, len: usize) -> String {
        let who = self.who;
        let ours: Vec<f64> = rope.frequencies(len).iter().map(|f| f64::from(*f)).collect();
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < NEAR;
        let factor = f64::from(rope.attention_scaling(len));
        let mut said = String::new();
        if !near(measured.factor, factor) {
            said = format!(
                " It multiplies sine and cosine by {:.4}, where A's config asks for {factor:.4} (attention_factor).",
                measured.factor
            );
        }
        let f = &measured.frequencies;
        if f.len() == ours.len() && f.iter().zip(&ours).all(|(f, o)| near(*f, *o)) {
            return match said.is_empty() {
                true => format!("{who} turns by nearly the same angles: as if they were computed in coarser numbers."),
                false => format!("{who} turns by the right angles.{said}"),
            };
        }
        let fitted = base(f);
        let what = match fitted {
            Some(theta) if near(theta, rope.theta()) && *rope.scaling() != RopeScaling::Default => {
                format!(
                    "{who} turns by the plain frequencies of rope_theta {}: rope scaling was left out.",
                    rope.theta()
                )
            }
            Some(theta) if f.len() == ours.len() => {
                format!(
                    "{who} turns by a base (rope_theta) of about {theta:.0}, where A's config says {}.",
                    rope.theta()
                )
            }
            _ => self.stretched(f, &ours),
        };
        what + &said
    }

    /// Frequencies that are ours times something.
    fn stretched(&self, f: &[f64], ours: &[f64]) -> String {
        let who = self.who;
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 5.0 * NEAR;
        let ratios: Vec<f64> = f.iter().zip(ours).map(|(f, o)| f / o).collect();
        let (Some(first), Some(last), true) = (ratios.first(), ratios.last(), f.len() == ours.len()) else {
            return format!("{who} turns by other frequencies than A's config asks for.");
        };
        if ratios.iter().all(|r| near(*r, *first)) {
            return format!(
                "{who}'s frequencies are all {first:.4} times those of A: rope scaling by a factor of {:.4} that one of them has.",
                1.0 / first
            );
        }
        let kept = ratios.iter().take_while(|r| near(**r, 1.0)).count();
        if kept > 0 {
            return format!(
                "{who}'s frequencies are those of A up to pair {}, and slower or faster from there on, up to {last:.4} times: rope \
                 scaling (llama3, yarn) that one of them has, or has otherwise.",
                kept - 1
            );
        }
        format!(
            "{who} turns by other frequencies: {first:.4} times those of A in the first pair, {last:.4} times in the last."
        )
    }
}

fn other_pairing(pairing: Pairing) -> Pairing {
    match pairing {
        Pairing::Half => Pairing::Interleaved,
        Pairing::Interleaved => Pairing::Half,
    }
}

fn negated(angles: &Angles) -> Vec<f64> {
    angles.sin.iter().map(|sin| -sin).collect()
}

/// The base of which `frequencies` are the powers `base^(−i / half)`, if they are.
fn base(frequencies: &[f64]) -> Option<f64> {
    let half = frequencies.len() as f64;
    let (first, rest) = frequencies.split_first()?;
    if (first - 1.0).abs() > NEAR || rest.is_empty() {
        return None;
    }
    // Of the first powers, which are measured best, their mean; the others must agree.
    let mut sum = 0.0;
    let mut n = 0.0;
    for (i, f) in rest.iter().enumerate().take(4) {
        if *f <= 0.0 {
            return None;
        }
        sum += -libm::log(*f) * half / (i as f64 + 1.0);
        n += 1.0;
    }
    let log = sum / n;
    let agrees = |(i, f): (usize, &f64)| (libm::log(*f) + log * (i as f64 + 1.0) / half).abs() < 10.0 * NEAR;
    (rest.iter().all(|f| *f > 0.0) && rest.iter().enumerate().all(agrees)).then(|| libm::exp(log))
}
