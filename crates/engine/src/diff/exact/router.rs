//! The router of a mixture of experts: logits → scores → experts → weights.

use super::activation::sigmoid;
use super::attention::softmax;
use crate::decoder::{GroupScore, Groups, Normalise, Scores};
use crate::diff::noise::{Known, Noise};

/// What a router does with its logits.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Choice {
    /// Experts to choose from.
    pub n_experts: usize,
    /// Experts of a row.
    pub top_k: usize,
    /// What the score of an expert is.
    pub scores: Scores,
    /// Experts are chosen within the best groups only.
    pub groups: Option<Groups>,
    /// What the scores of the chosen are divided by.
    pub normalise: Normalise,
    /// What weights are multiplied by in the end.
    pub scaling: f64,
}

/// The score of every expert of every row: the softmax or the sigmoid of its logits; logits where the choice goes by those.
#[must_use]
pub fn scores(logits: &Known, choice: &Choice) -> Known {
    match choice.scores {
        Scores::Sigmoid => logits.map(|x| {
            let s = sigmoid(x);
            (s, s * (1.0 - s), Noise::steps(3.0, s))
        }),
        Scores::Softmax => {
            let mut out = Known::with_capacity(logits.len());
            for (r, row) in logits.values.chunks_exact(choice.n_experts).enumerate() {
                softmax(row, None, |e| logits.noise(r * choice.n_experts + e), &mut out);
            }
            out
        }
        Scores::SoftmaxOfChosen | Scores::SparseMixer { .. } => logits.clone(),
    }
}

/// What experts are ranked by, and the scores that weigh: those of one row. Experts that are out of the question rank as −∞.
fn ranks(row: &[f64], bias: Option<&[f64]>, choice: &Choice) -> (Vec<f64>, Vec<f64>) {
    let mut by: Vec<f64> = row.to_vec();
    if let Some(bias) = bias {
        by.iter_mut().zip(bias).for_each(|(by, bias)| *by += bias);
    }
    let mut weigh = row.to_vec();
    let Some(Groups { n_groups, top_groups, by: kind }) = choice.groups else { return (by, weigh) };
    let size = by.len() / n_groups;
    let score = |group: &[f64]| {
        let mut best: Vec<f64> = group.to_vec();
        best.sort_by(|a, b| b.total_cmp(a));
        match kind {
            GroupScore::Best => best[0],
            GroupScore::BestTwo => best.iter().take(2).sum(),
        }
    };
    let of_groups: Vec<f64> = by.chunks_exact(size).map(score).collect();
    let taken = best(&of_groups, top_groups);
    for g in (0..n_groups).filter(|g| !taken.contains(g)) {
        match kind {
            GroupScore::Best => {
                by[g * size..(g + 1) * size].fill(0.0);
                weigh[g * size..(g + 1) * size].fill(0.0);
            }
            GroupScore::BestTwo => by[g * size..(g + 1) * size].fill(f64::NEG_INFINITY),
        }
    }
    (by, weigh)
}

/// The indices of the `k` largest, of equal ones the lower first.
fn best(of: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..of.len()).collect();
    order.sort_by(|a, b| of[*b].total_cmp(&of[*a]).then(a.cmp(b)));
    order.truncate(k);
    order
}

/// The experts of every row, best first: `[rows, top_k]`; and what they were ranked by: `[rows, n_experts]`.
#[must_use]
pub fn chosen(logits: &Known, bias: Option<&[f64]>, choice: &Choice) -> (Vec<usize>, Known) {
    let scores = scores(logits, choice);
    let (mut experts, mut ranked) = (Vec::new(), Known::with_capacity(scores.len()));
    for (r, row) in scores.values.chunks_exact(choice.n_experts).enumerate() {
        let (by, _) = ranks(row, bias, choice);
        experts.extend(best(&by, choice.top_k));
        for (e, by) in by.iter().enumerate() {
            let sum = if bias.is_some() { Noise::steps(1.0, *by) } else { Noise::default() };
            let noise = scores.noise(r * choice.n_experts + e).plus(sum);
            ranked.push(*by, if by.is_finite() { noise } else { Noise::default() });
        }
    }
    (experts, ranked)
}

/// The weights of the experts `chosen: [rows, top_k]`.
///
/// A weight depends on all logits of its row; it is taken to be as uncertain as its own and the most uncertain of them.
#[must_use]
pub fn weights(logits: &Known, bias: Option<&[f64]>, chosen: &[usize], choice: &Choice) -> Known {
    let &Choice { n_experts, top_k, normalise, scaling, .. } = choice;
    let mut out = Known::with_capacity(chosen.len());
    let scores = scores(logits, choice);
    for (r, (row, experts)) in scores.values.chunks_exact(n_experts).zip(chosen.chunks_exact(top_k)).enumerate() {
        let logits = &logits.values[r * n_experts..(r + 1) * n_experts];
        let known = experts.iter().all(|e| *e < n_experts);
        let raw: Vec<f64> = match choice.scores {
            _ if !known => vec![f64::NAN; top_k],
            Scores::SparseMixer { jitter } => sparse_mixer(logits, experts, f64::from(jitter)),
            Scores::SoftmaxOfChosen => {
                let max = experts.iter().map(|e| row[*e]).fold(f64::NEG_INFINITY, f64::max);
                let e: Vec<f64> = experts.iter().map(|e| libm::exp(row[*e] - max)).collect();
                let sum: f64 = e.iter().sum();
                e.iter().map(|e| e / sum).collect()
            }
            Scores::Softmax | Scores::Sigmoid => {
                let (_, weigh) = ranks(row, bias, choice);
                experts.iter().map(|e| weigh[*e]).collect()
            }
        };
        let sum: f64 = raw.iter().sum();
        let divisor = match normalise {
            Normalise::No => 1.0,
            Normalise::Sum { plus } => sum + f64::from(plus),
            Normalise::SumAtLeast(least) => sum.max(f64::from(least)),
        };
        let noise = |e: usize| scores.noise(r * n_experts + e);
        let most = (0..n_experts).map(noise).fold(Noise::default(), |a, b| Noise {
            sums: a.sums.max(b.sums),
            steps: a.steps.max(b.steps),
            inputs: a.inputs.max(b.inputs),
        });
        // Noise of logits is relative to what their exponential is; that of scores is not.
        let relative = matches!(choice.scores, Scores::SoftmaxOfChosen | Scores::SparseMixer { .. });
        for (e, raw) in experts.iter().zip(&raw) {
            let w = raw / divisor * scaling;
            let own = if known { noise(*e) } else { Noise::default() };
            let by = if relative { w } else { scaling / divisor };
            let range = if relative { Noise::sums(w * spread(logits)) } else { Noise::default() };
            out.push(w, own.plus(most).times(by).plus(Noise::steps(5.0, w)).plus(range));
        }
    }
    out
}

/// How far the logits of a row lie apart: what is subtracted before an exponential.
fn spread(row: &[f64]) -> f64 {
    let (least, most) = row.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(*x), b.max(*x)));
    (most - least).abs()
}

/// The weights of two experts: each one's softmax among those that are left and near it.
fn sparse_mixer(logits: &[f64], experts: &[usize], jitter: f64) -> Vec<f64> {
    let mut weights = Vec::new();
    for (choice, chosen) in experts.iter().enumerate() {
        let left = |e: usize| !experts[..choice].contains(&e);
        let most = logits[*chosen];
        let near = |e: usize| {
            let factor = logits[e].abs().max(most);
            let far = (most - logits[e]) / factor > 2.0 * jitter;
            left(e) && !far
        };
        let sum: f64 = (0..logits.len()).filter(|e| near(*e)).map(|e| libm::exp(logits[e] - most)).sum();
        weights.push(1.0 / sum);
    }
    weights
}
