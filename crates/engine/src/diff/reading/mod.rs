//! What a difference looks like: from the pattern of a wrong result to a sentence on what may have happened.
//!
//! Two ways. *Hypotheses* are other operations than the one that should have been done (the other pairing of a rotation, no window, another
//! activation): each is computed from the same inputs, and the one that gives the wrong values is what happened (`Evidence::fits`). *Patterns*
//! are found in the values: one factor, the same vector in every row, heads in another order, only some positions. Files here have the
//! hypotheses of one kind of operation each; `general.rs` has the patterns.
//!
//! Whoever is wrong, A or B, is called by its letter. A sentence says what the values look like, not what a program does.

mod attention;
mod feed_forward;
mod general;
mod linear;
mod norm;
mod rotation;
mod router;
#[cfg(test)]
pub(in crate::diff) mod tests;

use std::rc::Rc;

use super::compare::same;
use super::evaluate::Evaluator;
use super::judge::{Result as Values, distance};
use super::noise::{Known, Precision};
use super::operations::{Op, Operation};
use super::tensor::{Axes, Place, Tensor};

/// How many sentences are said about one operation.
const SENTENCES: usize = 3;

/// How far beyond rounding a hypothesis may be and still be taken: it stands beside values that are far off.
const FITS: f64 = 2.0;

/// How many times nearer than the right operation it must be.
const NEARER: f64 = 4.0;

/// A wrong result, and what is known about it.
pub struct Evidence<'a> {
    /// The model, its weights and the text.
    pub evaluator: &'a Evaluator<'a>,
    /// The operation.
    pub op: &'a Op,
    /// Whose result it is: `A` or `B`.
    pub who: char,
    /// In which numbers it was computed.
    pub precision: Precision,
    /// The rows that were judged.
    pub rows: &'a [usize],
    /// The wrong values in these rows.
    pub wrong: &'a Tensor,
    /// The exact ones.
    pub exact: &'a Known,
    /// The operation's inputs: see [`Evaluator::inputs`].
    pub inputs: &'a [Rc<Known>],
}

/// What the evidence suggests, the most telling first; at least one sentence.
#[must_use]
pub fn read(evidence: &Evidence<'_>) -> Vec<String> {
    let mut said = evidence.not_finite();
    if said.is_empty() {
        said = evidence.of_its_kind();
    }
    if said.is_empty() {
        said = evidence.patterns();
    }
    let explained = !said.is_empty();
    said.extend(evidence.whereabouts());
    if !explained {
        said.extend(evidence.barely());
        said.extend(evidence.coarser());
        said.extend(evidence.another_matrix());
        said.push(evidence.largest());
    }
    said.truncate(SENTENCES);
    said
}

impl Evidence<'_> {
    fn axes(&self) -> Axes {
        Axes::of(&self.op.point)
    }

    /// The position of each row.
    fn positions(&self) -> Vec<usize> {
        let all = &self.evaluator.text().positions;
        self.rows.iter().filter_map(|row| all.get(*row).copied()).collect()
    }

    fn place(&self, index: usize) -> Place {
        self.wrong.place(self.axes(), index, &self.positions())
    }

    /// Hypotheses for the kind of the operation.
    fn of_its_kind(&self) -> Vec<String> {
        let found = match &self.op.operation {
            Operation::Rotate { .. } => self.rotation(),
            Operation::Scores { .. } => self.scores(),
            Operation::Pattern { .. } => self.pattern(),
            Operation::Weigh { .. } => self.weighted(),
            Operation::NormScale { norm } => self.norm_scale(norm),
            Operation::Normalize { norm } => self.normalized(norm),
            Operation::NormWeight { norm } => self.norm_weight(norm),
            Operation::Norm { norm, groups } => self.norm(norm, *groups),
            Operation::Linear { from, width } => self.linear(from, *width),
            Operation::SumOfHeads { n_heads, linear } => self.sum_of_heads(*n_heads, linear),
            Operation::Activation { .. } | Operation::Gate { .. } => self.activation(),
            Operation::RouterScores { choice } => self.router_scores(choice),
            Operation::Choose { choice, bias } => self.choice(choice, bias.as_ref()),
            Operation::ChosenWeights { choice, bias } => self.chosen_weights(choice, bias.as_ref()),
            Operation::Experts { experts } => self.experts(experts),
            Operation::GatedNorm { norm } => self.gated_norm(norm),
            Operation::SigmoidGate | Operation::RowGate => self.sigmoid_gate(),
            Operation::Convolution { tensor, taps } => self.convolution(tensor, *taps),
            Operation::Decay { a_log, dt_bias } => self.decay(a_log, dt_bias),
            Operation::Positions { tensor } => self.learned_positions(tensor),
            Operation::Embed { tensor, .. } => self.embedding(tensor),
            Operation::Add => self.sum(),
            Operation::Scale { by } => self.factor_left_out(*by),
            Operation::SoftCap { cap } => self.cap_left_out(*cap),
            _ => None,
        };
        found.into_iter().collect()
    }

    /// Whether the wrong values are what `operation` gives.
    fn fits(&self, operation: &Operation) -> bool {
        self.fits_with(operation, self.inputs)
    }

    /// Whether they are what it gives of other inputs.
    fn fits_with(&self, operation: &Operation, inputs: &[Rc<Known>]) -> bool {
        self.evaluator.apply(operation, inputs, self.rows).is_ok_and(|known| self.are(&known))
    }

    /// Whether the wrong values are these, but for rounding. Those that are not known say nothing; something must be.
    fn are(&self, known: &Known) -> bool {
        let values = Values { values: &self.wrong.values, precision: self.precision };
        known.len() == self.wrong.values.len()
            && known.values.iter().any(|x| x.is_finite())
            && distance(values, known).factor <= FITS.min(self.factor() / NEARER)
    }

    /// How far off the wrong values are.
    fn factor(&self) -> f64 {
        distance(Values { values: &self.wrong.values, precision: self.precision }, self.exact).factor
    }

    /// Whether they are those of an input, as they are.
    fn is_input(&self, i: usize) -> bool {
        self.inputs.get(i).is_some_and(|input| self.are(&rounded_once(input)))
    }

    /// What stands where a number should, or the other way round, where that is not a matter of masks.
    fn not_finite(&self) -> Vec<String> {
        let masks = matches!(self.op.operation, Operation::Scores { .. });
        let odd = |(i, x): (usize, &f32)| {
            let exact = self.exact.values[i];
            let infinite = !x.is_finite() && exact.is_finite();
            x.is_nan() && !exact.is_nan() || infinite && !masks
        };
        let all: Vec<usize> =
            self.wrong.values.iter().enumerate().filter(|(i, x)| odd((*i, x))).map(|(i, _)| i).collect();
        let Some(first) = all.first() else { return Vec::new() };
        let what = if self.wrong.values[*first].is_nan() { "no numbers (NaN)" } else { "infinite" };
        vec![format!(
            "{} has {} values that are {what}, the first at {}: they overflowed, or come from a division by zero.",
            self.who,
            all.len(),
            self.place(*first)
        )]
    }

    /// Pairs of wrong and exact values, as far as both are finite.
    fn pairs(&self) -> impl Iterator<Item = (f64, f64)> {
        let both = self.wrong.values.iter().zip(&self.exact.values);
        both.map(|(wrong, exact)| (f64::from(*wrong), *exact)).filter(|(w, e)| w.is_finite() && e.is_finite())
    }

    /// For each element whether it is beyond its floor.
    fn beyond(&self) -> Vec<bool> {
        let each = self.wrong.values.iter().enumerate().map(|(i, x)| {
            let exact = self.exact.values[i];
            if exact.is_finite() && x.is_finite() {
                (f64::from(*x) - exact).abs() > self.exact.noise(i).floor(self.precision)
            } else {
                !exact.is_nan() && !same(*x, exact as f32)
            }
        });
        each.collect()
    }
}

/// Values that were written down once more: of recorded ones, too, which have no noise.
fn rounded_once(x: &Known) -> Known {
    x.map(|x| (x, 1.0, super::noise::Noise::steps(1.0, x)))
}
