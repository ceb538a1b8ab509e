//! Scores, patterns and what they weigh: masks, windows, groups of heads, factors, caps, sinks, gates.

use std::rc::Rc;

use super::Evidence;
use crate::diff::compare::is_masked;
use crate::diff::noise::Known;
use crate::diff::operations::Operation;

impl Evidence<'_> {
    /// Sentences about scores.
    pub(super) fn scores(&self) -> Option<String> {
        let Operation::Scores { n_heads, n_kv_heads, head_dim, scale, soft_cap, window } = self.op.operation else {
            return None;
        };
        if let Some(said) = self.masks(window) {
            return Some(said);
        }
        let who = self.who;
        let with = |scale, soft_cap| Operation::Scores { n_heads, n_kv_heads, head_dim, scale, soft_cap, window };
        if soft_cap.is_some() && self.fits(&with(scale, None)) {
            return Some(format!("{who} does not cap the scores (softly, at {}).", soft_cap.unwrap_or_default()));
        }
        let d = head_dim as f32;
        let hidden = self.evaluator.decoder().hidden_size as f32;
        let known = [
            (1.0, "1: no factor".to_owned()),
            (1.0 / d.sqrt(), format!("1/√{head_dim}")),
            (1.0 / d, format!("1/{head_dim}")),
            (d.sqrt(), format!("√{head_dim}")),
            (scale / d.sqrt(), format!("A's, and once more 1/√{head_dim}")),
            (
                1.0 / (hidden / n_heads as f32).sqrt(),
                format!("1/√({hidden}/{n_heads}), of the width of the residual stream by heads"),
            ),
        ];
        for (other, words) in known {
            for cap in [soft_cap, None] {
                if other != scale && self.fits(&with(other, cap)) {
                    let capped = if cap == soft_cap { "" } else { ", and does not cap them" };
                    return Some(format!(
                        "{who} scales the scores by {words}{capped}; A's config asks for {scale:.6}."
                    ));
                }
            }
        }
        if let Some(said) = self.groups(n_heads, n_kv_heads, head_dim) {
            return Some(said);
        }
        let uncapped = self.evaluator.apply(&with(scale, None), self.inputs, self.rows).ok()?;
        if let Some(cap) = self.cap_of(&uncapped) {
            return Some(match soft_cap {
                Some(asked) => format!("{who} caps the scores at about {cap:.4}, where A's config says {asked}."),
                None => {
                    format!("{who} caps the scores (softly, at about {cap:.4}), and A's config does not ask for it.")
                }
            });
        }
        self.unrotated()
    }

    /// Which keys are seen.
    fn masks(&self, window: Option<usize>) -> Option<String> {
        let who = self.who;
        let keys = *self.wrong.shape.last()?;
        let positions = self.positions();
        let (mut hidden, mut shown) = (0, 0);
        // Of each row the first and the last key that is seen, and of how many, in any head.
        let mut seen: Vec<Option<(usize, usize)>> = vec![None; positions.len()];
        for (i, score) in self.wrong.values.iter().enumerate() {
            let (row, key) = (i / keys % positions.len(), i % keys);
            let masked = is_masked(*score);
            hidden += usize::from(masked && self.exact.values[i].is_finite());
            shown += usize::from(!masked && self.exact.values[i] == f64::NEG_INFINITY);
            if !masked {
                let (first, last) = seen[row].unwrap_or((key, key));
                seen[row] = Some((first.min(key), last.max(key)));
            }
        }
        if hidden + shown == 0 {
            return None;
        }
        let rows: Vec<(usize, usize, usize)> =
            positions.iter().zip(&seen).filter_map(|(p, seen)| seen.map(|(first, last)| (*p, first, last))).collect();
        if let Some((position, _, last)) = rows.iter().find(|(position, _, last)| last > position) {
            return Some(format!(
                "{who} sees later positions (from position {position} up to {last}): its mask is not causal, or shifted."
            ));
        }
        if let Some((position, _, last)) = rows.iter().find(|(position, _, last)| last < position) {
            return Some(format!(
                "{who} does not see a position from itself (from {position} only up to {last}): its mask is shifted."
            ));
        }
        // Where keys are hidden, how many are left.
        let widths: Vec<usize> =
            rows.iter().filter(|(_, first, _)| *first > 0).map(|(p, first, _)| p - first + 1).collect();
        let asked = window.map_or("all positions".to_owned(), |window| format!("a window of {window}"));
        match widths.first() {
            Some(width) if widths.iter().all(|other| other == width) => {
                let off = window.map_or(String::new(), |window| {
                    let by = width.abs_diff(window);
                    if by == 1 { " (off by one)".to_owned() } else { String::new() }
                });
                Some(format!("{who} sees a window of {width} positions{off}, where A's config asks for {asked}."))
            }
            None if shown > 0 => Some(format!("{who} sees all positions before, where A's config asks for {asked}.")),
            _ => Some(format!(
                "{who} hides {hidden} scores that should be seen, and shows {shown} that should not: its mask is another one."
            )),
        }
    }

    /// Which heads of keys, or values, go with which queries.
    fn groups(&self, n_heads: usize, n_kv_heads: usize, width: usize) -> Option<String> {
        let second = self.inputs.get(1)?;
        if n_kv_heads == n_heads || n_kv_heads == 1 {
            return None;
        }
        let spread = Rc::new(spread(second, n_heads, n_kv_heads, width));
        let operation = match self.op.operation.clone() {
            Operation::Scores { head_dim, scale, soft_cap, window, .. } => {
                Operation::Scores { n_heads, n_kv_heads: n_heads, head_dim, scale, soft_cap, window }
            }
            Operation::Weigh { value_dim, .. } => Operation::Weigh { n_heads, n_kv_heads: n_heads, value_dim },
            _ => return None,
        };
        self.fits_with(&operation, &[Rc::clone(&self.inputs[0]), spread]).then(|| {
            format!(
                "In {}, query head h goes with key-value head h mod {n_kv_heads}; A's config asks for groups of neighbours, h / {}.",
                self.who,
                n_heads / n_kv_heads
            )
        })
    }

    /// Scores of queries or keys before their rotation.
    fn unrotated(&self) -> Option<String> {
        let before = |i: usize| {
            let op = self.evaluator.op(&self.op.inputs[i])?;
            let rows: Vec<usize> =
                if i == 0 { self.rows.to_vec() } else { (0..self.evaluator.text().positions.len()).collect() };
            let rotates = matches!(op.operation, Operation::Rotate { .. });
            rotates.then(|| self.evaluator.known(&op.inputs[0], &rows).ok()).flatten()
        };
        let (q, k) = (before(0)?, before(1)?);
        let [own_q, own_k] = self.inputs else { return None };
        let ways = [
            ([Rc::clone(&q), Rc::clone(&k)], "queries and keys"),
            ([Rc::clone(own_q), k], "keys"),
            ([q, Rc::clone(own_k)], "queries"),
        ];
        let (_, what) = ways.into_iter().find(|(inputs, _)| self.fits_with(&self.op.operation, inputs))?;
        Some(format!("{}'s scores are those of {what} before the rotation.", self.who))
    }

    /// Sentences about a softmax.
    pub(super) fn pattern(&self) -> Option<String> {
        let Operation::Pattern { n_heads, sinks } = &self.op.operation else { return None };
        let who = self.who;
        if sinks.is_some() && self.fits(&Operation::Pattern { n_heads: *n_heads, sinks: None }) {
            return Some(format!("{who} leaves the sinks out of the softmax."));
        }
        let keys = *self.wrong.shape.last()?;
        let sums: Vec<f64> =
            self.wrong.values.chunks_exact(keys).map(|row| row.iter().map(|p| f64::from(*p)).sum()).collect();
        let (least, most) = sums.iter().fold((f64::INFINITY, 0.0_f64), |(a, b), x| (a.min(*x), b.max(*x)));
        if sinks.is_none() && most < 1.0 - 1e-3 {
            return Some(format!(
                "{who}'s rows sum to {least:.4} to {most:.4}, not to 1: as with a sink, or without a part of the keys."
            ));
        }
        if most > 1.0 + 1e-2 {
            return Some(format!("{who}'s rows sum to up to {most:.4}: they are not normalised."));
        }
        // log p is the score and a constant: a factor between the two is a temperature.
        let scores = self.inputs.first()?;
        let pairs = self.wrong.values.chunks_exact(keys).zip(scores.values.chunks_exact(keys)).flat_map(|(p, s)| {
            let seen = p.iter().zip(s).filter(|(p, s)| **p > 1e-6 && s.is_finite());
            let logs: Vec<(f64, f64)> = seen.map(|(p, s)| (libm::log(f64::from(*p)), *s)).collect();
            let n = logs.len().max(1) as f64;
            let mean = logs.iter().fold((0.0, 0.0), |(a, b), (p, s)| (a + p / n, b + s / n));
            logs.into_iter().map(move |(p, s)| (p - mean.0, s - mean.1))
        });
        let by = self.ratio_of(pairs.collect::<Vec<_>>().into_iter())?;
        Some(format!("{who} multiplies the scores by {by:.4} before the softmax."))
    }

    /// Sentences about weighted values.
    pub(super) fn weighted(&self) -> Option<String> {
        let Operation::Weigh { n_heads, n_kv_heads, value_dim } = self.op.operation else { return None };
        self.groups(n_heads, n_kv_heads, value_dim)
    }

    /// Sentences about a gate by a sigmoid.
    pub(super) fn sigmoid_gate(&self) -> Option<String> {
        let [x, gate] = self.inputs else { return None };
        let who = self.who;
        if self.is_input(0) {
            return Some(format!("{who} does not multiply by the gate."));
        }
        if gate.len() != x.len() {
            return None;
        }
        use crate::decoder::Activation;
        use crate::diff::exact::activation::gated;
        if self.are(&gated(gate, x, Activation::Silu)) {
            return Some(format!("{who} multiplies by the SiLU of the gate, where A's config asks for its sigmoid."));
        }
        self.are(&crate::diff::exact::elementwise::sigmoid_gated(gate, x))
            .then(|| format!("{who} takes the gate for what is gated, and the other way round."))
    }
}

/// Keys or values `[rows, n_kv_heads, width]` for each query head that of its number modulo the heads that there are.
pub(super) fn spread(x: &Known, n_heads: usize, n_kv_heads: usize, width: usize) -> Known {
    let rows = x.len() / (n_kv_heads * width);
    let mut out = Known::with_capacity(rows * n_heads * width);
    for row in 0..rows {
        for head in 0..n_heads {
            let at = (row * n_kv_heads + head % n_kv_heads) * width;
            (at..at + width).for_each(|i| out.push(x.values[i], x.noise(i)));
        }
    }
    out
}
