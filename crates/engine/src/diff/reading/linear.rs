//! Linear maps: biases, halves that are swapped or interleaved, weights the other way round, another table for the head.

use super::Evidence;
use crate::decoder::{Head, Layout, Linear};
use crate::diff::noise::Known;
use crate::diff::operations::{Operation, Outputs, Run};

impl Evidence<'_> {
    /// Sentences about a linear map.
    pub(super) fn linear(&self, from: &[Outputs], width: usize) -> Option<String> {
        let who = self.who;
        let of = |change: &dyn Fn(&mut Linear)| {
            let mut from = from.to_vec();
            from.iter_mut().for_each(|outputs| change(&mut outputs.linear));
            Operation::Linear { from, width }
        };
        if from.iter().any(|outputs| outputs.linear.bias.is_some()) && self.fits(&of(&|linear| linear.bias = None)) {
            return Some(format!(
                "{who} does not add the bias ({}).",
                from[0].linear.bias.as_deref().unwrap_or_default()
            ));
        }
        if let Some(said) = self.siblings(from, width) {
            return Some(said);
        }
        let square = |linear: &Linear| linear.in_features == linear.out_features && !linear.is_quantized();
        if from.iter().all(|outputs| square(&outputs.linear) && outputs.linear.slice.of == 0) {
            let turned = of(&|linear| {
                linear.layout = match linear.layout {
                    Layout::OutIn => Layout::InOut,
                    Layout::InOut => Layout::OutIn,
                };
            });
            if self.fits(&turned) {
                return Some(format!("{who} multiplies with the transpose of the weight ({}).", from[0].linear.weight));
            }
        }
        if self.op.point == "logits" || self.op.point == "=logits.product" {
            return self.other_head();
        }
        None
    }

    /// Whether the values are those of another map of the same input: the other half of a feed-forward, keys for values; or the two halves
    /// in turn.
    fn siblings(&self, from: &[Outputs], width: usize) -> Option<String> {
        let who = self.who;
        let mine = self.op;
        let siblings = self.evaluator.ops().iter().filter(|op| {
            op.block == mine.block && op.inputs == mine.inputs && op.point != mine.point && op.shape == mine.shape
        });
        for other in siblings {
            if !matches!(other.operation, Operation::Linear { .. }) {
                continue;
            }
            let Ok(known) = self.evaluator.apply(&other.operation, self.inputs, self.rows) else { continue };
            if self.are(&known) {
                return Some(format!("{who} has here what belongs to {}: the two are swapped.", other.place()));
            }
            // Which of the two comes first is seen by the names.
            let mine_first = self.evaluator.ops().iter().position(|op| op.point == mine.point)
                < self.evaluator.ops().iter().position(|op| op.point == other.point);
            let halves = if mine_first { [self.exact, &known] } else { [&known, self.exact] };
            let names = (mine.place(), other.place());
            let half = usize::from(!mine_first);
            let turn = |i: usize| (2 * i + half) / width;
            if self.are(&mixed(halves, width, |i| [turn(i), (2 * i + half) % width])) {
                return Some(format!(
                    "{who} takes the outputs of {} and {} in turn, where A's config has them one after the other.",
                    names.0, names.1
                ));
            }
            if self.are(&mixed(halves, width, |i| [(i + half * width) % 2, (i + half * width) / 2])) {
                return Some(format!(
                    "{who} takes the outputs of {} and {} one after the other, where A's config has them in turn.",
                    names.0, names.1
                ));
            }
        }
        self.other_slice(from, width)
    }

    /// Whether the values are other outputs of the same tensor.
    fn other_slice(&self, from: &[Outputs], width: usize) -> Option<String> {
        let [Outputs { linear, runs }] = from else { return None };
        if linear.slice.of == 0 || linear.slice.of > 4 * linear.out_features.max(1) {
            return None;
        }
        let step = linear.out_features;
        for first in
            (0..linear.slice.of.saturating_sub(step - 1)).step_by(step).filter(|first| *first != linear.slice.first)
        {
            let mut other = linear.clone();
            other.slice.first = first;
            let from = vec![Outputs { linear: other, runs: runs.clone() }];
            if self.fits(&Operation::Linear { from, width }) {
                return Some(format!(
                    "{} multiplies with other rows of {}: from {first} on, where A's config has those from {}.",
                    self.who, linear.weight, linear.slice.first
                ));
            }
        }
        None
    }

    /// A head of another table.
    fn other_head(&self) -> Option<String> {
        let decoder = self.evaluator.decoder();
        let who = self.who;
        let with = |linear: Linear| {
            let run = Run { from: 0, to: 0, len: linear.out_features };
            let width = linear.out_features;
            self.fits(&Operation::Linear { from: vec![Outputs { linear, runs: vec![run] }], width })
        };
        let (hidden, vocab) = (decoder.hidden_size, decoder.vocab_size);
        match &decoder.head {
            Head::Own(own) => with(Linear::new(&decoder.embed.tensor, hidden, vocab)).then(|| {
                format!(
                    "{who} multiplies with the embedding table (tie_word_embeddings), where A has {} of its own.",
                    own.weight
                )
            }),
            Head::Tied => with(Linear::new("lm_head.weight", hidden, vocab)).then(|| {
                format!("{who} multiplies with lm_head.weight, where A's config ties the head to the embedding table.")
            }),
        }
    }

    /// What is left to say of a linear map whose result is unlike all others: its input was right.
    pub(super) fn another_matrix(&self) -> Option<String> {
        let Operation::Linear { from, .. } = &self.op.operation else { return None };
        let who = self.who;
        let name = &from.first()?.linear.weight;
        let head = match (self.op.point.as_str(), &self.evaluator.decoder().head) {
            ("logits" | "=logits.product", Head::Tied) => {
                ": a head of its own where it should be tied, or of another model"
            }
            ("logits" | "=logits.product", Head::Own(_)) => ": a head that is tied or not, or of another model",
            _ => "",
        };
        Some(format!("Since the input was right, {who} multiplied with another matrix than {name}{head}."))
    }

    /// The sum over heads, and the bias of the output projection.
    pub(super) fn sum_of_heads(&self, n_heads: usize, linear: &Linear) -> Option<String> {
        let linear = Linear { bias: None, ..linear.clone() };
        self.fits(&Operation::SumOfHeads { n_heads, linear })
            .then(|| format!("{} does not add the bias of the output projection.", self.who))
    }
}

/// Rows of `width` elements, each from one of two sources, at a place in the row.
fn mixed(sources: [&Known; 2], width: usize, from: impl Fn(usize) -> [usize; 2]) -> Known {
    let mut out = Known::with_capacity(sources[0].len());
    for at in 0..sources[0].len() {
        let [source, i] = from(at % width);
        let (source, at) = (sources[source], at / width * width + i);
        out.push(source.values[at], source.noise(at));
    }
    out
}
