//! Routers: scores, choices, weights, and the sum over experts.

use std::rc::Rc;

use super::Evidence;
use crate::decoder::{Experts, Normalise, Scores};
use crate::diff::exact::experts::Expert;
use crate::diff::exact::router::{Choice, chosen};
use crate::diff::noise::Known;
use crate::diff::operations::Operation;

fn words(scores: Scores) -> &'static str {
    match scores {
        Scores::Softmax => "a softmax over all experts",
        Scores::Sigmoid => "a sigmoid of each",
        Scores::SoftmaxOfChosen => "a softmax over the chosen",
        Scores::SparseMixer { .. } => "the sparse mixer",
    }
}

const SCORES: [Scores; 3] = [Scores::Softmax, Scores::Sigmoid, Scores::SoftmaxOfChosen];

impl Evidence<'_> {
    /// The scores of experts.
    pub(super) fn router_scores(&self, choice: &Choice) -> Option<String> {
        let other = |scores: &Scores| {
            *scores != choice.scores
                && self.fits(&Operation::RouterScores { choice: Choice { scores: *scores, ..*choice } })
        };
        let found = SCORES[..2].iter().find(|scores| other(scores))?;
        Some(format!(
            "{} scores experts by {}, where A's config asks for {}.",
            self.who,
            words(*found),
            words(choice.scores)
        ))
    }

    /// The chosen experts.
    pub(super) fn choice(&self, choice: &Choice, bias: Option<&String>) -> Option<String> {
        let logits = self.inputs.first()?;
        let who = self.who;
        let own: Vec<usize> = self.wrong.values.iter().map(|e| *e as usize).collect();
        let bias = bias.and_then(|name| self.evaluator.vector(name).ok());
        let is =
            |choice: &Choice, bias: Option<&[f64]>| self.same_sets(&chosen(logits, bias, choice).0, &own, choice.top_k);
        let exact = chosen(logits, bias.as_deref(), choice).0;
        let rows = own.chunks_exact(choice.top_k).zip(exact.chunks_exact(choice.top_k));
        let wrong_rows = rows.filter(|(a, b)| a != b).count();
        if is(choice, bias.as_deref()) {
            return Some(format!("{who} chose the same experts in another order, in {wrong_rows} rows."));
        }
        let said = if bias.is_some() && is(choice, None) {
            "by scores without the correction bias".to_owned()
        } else if choice.groups.is_some() && is(&Choice { groups: None, ..*choice }, bias.as_deref()) {
            "from all experts, where A's config asks for the best groups first".to_owned()
        } else if let Some(scores) = SCORES.iter().find(|s| is(&Choice { scores: **s, ..*choice }, bias.as_deref())) {
            format!("by {}, where A's config asks for {}", words(*scores), words(choice.scores))
        } else {
            let row = own.chunks_exact(choice.top_k).zip(exact.chunks_exact(choice.top_k)).position(|(a, b)| a != b)?;
            let at = row * choice.top_k..(row + 1) * choice.top_k;
            let position = self.positions().get(row).copied().unwrap_or(row);
            return Some(format!(
                "{who} chose other experts in {wrong_rows} rows: at position {position} {:?} instead of {:?}.",
                &own[at.clone()],
                &exact[at]
            ));
        };
        Some(format!("{who} chooses {said}."))
    }

    /// Whether two choices have the same experts in each row.
    fn same_sets(&self, a: &[usize], b: &[usize], top_k: usize) -> bool {
        let sorted = |row: &[usize]| {
            let mut row = row.to_vec();
            row.sort_unstable();
            row
        };
        a.len() == b.len() && a.chunks(top_k).zip(b.chunks(top_k)).all(|(a, b)| sorted(a) == sorted(b))
    }

    /// The weights of the chosen.
    pub(super) fn chosen_weights(&self, choice: &Choice, bias: Option<&String>) -> Option<String> {
        let who = self.who;
        let fits = |choice: Choice| self.fits(&Operation::ChosenWeights { choice, bias: bias.cloned() });
        let normalised = |normalise: Normalise| {
            if normalise == Normalise::No { Normalise::Sum { plus: 0.0 } } else { Normalise::No }
        };
        let other = Choice { normalise: normalised(choice.normalise), ..*choice };
        if fits(other) {
            return Some(match choice.normalise {
                Normalise::No => {
                    format!(
                        "{who} divides the weights of the chosen experts by their sum (norm_topk_prob), where A's config does not ask for it."
                    )
                }
                _ => format!("{who} does not divide the weights of the chosen experts by their sum (norm_topk_prob)."),
            });
        }
        if choice.scaling != 1.0 {
            for (choice, and) in [(*choice, ""), (other, ", and normalises them otherwise")] {
                if fits(Choice { scaling: 1.0, ..choice }) {
                    return Some(format!(
                        "{who} leaves out the factor of the weights (routed_scaling_factor {}){and}.",
                        choice.scaling
                    ));
                }
            }
        }
        for scores in SCORES.into_iter().filter(|scores| *scores != choice.scores) {
            for normalise in [choice.normalise, normalised(choice.normalise)] {
                if fits(Choice { scores, normalise, ..*choice }) {
                    return Some(format!(
                        "{who} weighs experts by {}, where A's config asks for {}.",
                        words(scores),
                        words(choice.scores)
                    ));
                }
            }
        }
        if let (Some(name), [logits, indices]) = (bias, self.inputs)
            && let Ok(bias) = self.evaluator.vector(name)
        {
            // Scores with the bias, for which the logits stand that would give them.
            let scores = crate::diff::exact::router::scores(logits, choice);
            let biased: Vec<f64> = scores.values.iter().enumerate().map(|(i, s)| s + bias[i % bias.len()]).collect();
            let inverse = |s: &f64| libm::log(s / (1.0 - s));
            let logits = Rc::new(Known { values: biased.iter().map(inverse).collect(), noise: logits.noise.clone() });
            let inputs = [logits, Rc::clone(indices)];
            let own = Operation::ChosenWeights { choice: *choice, bias: Some(name.clone()) };
            if choice.scores == Scores::Sigmoid && self.fits_with(&own, &inputs) {
                return Some(format!(
                    "{who} weighs experts by scores with the correction bias, which is for the choice alone."
                ));
            }
        }
        None
    }

    /// The sum over experts.
    pub(super) fn experts(&self, experts: &Experts) -> Option<String> {
        let [x, indices, weights] = self.inputs else { return None };
        let who = self.who;
        let with = |weights: Known| {
            let inputs = [Rc::clone(x), Rc::clone(indices), Rc::new(weights)];
            self.fits_with(&self.op.operation, &inputs)
        };
        let ones = Known::exact(vec![1.0; weights.len()]);
        if with(ones) {
            return Some(format!("{who} adds the experts' outputs without their weights."));
        }
        let top_k = experts.router.top_k;
        let sums: Vec<f64> = weights.values.chunks_exact(top_k).map(|row| row.iter().sum()).collect();
        let normalised = Known::exact(weights.values.iter().enumerate().map(|(i, w)| w / sums[i / top_k]).collect());
        if with(normalised) {
            return Some(format!("{who} divides the weights by their sum once more."));
        }
        let mut swapped = experts.clone();
        for piece in swapped.expert.inputs.iter_mut().flat_map(|projection| &mut projection.pieces) {
            use crate::decoder::Part;
            piece.part = match piece.part {
                Part::Gate => Part::Up,
                Part::Up => Part::Gate,
                other => other,
            };
        }
        if self.fits(&Operation::Experts { experts: Box::new(swapped) }) {
            return Some(format!("{who} swaps gate and up in the experts."));
        }
        if let Some(said) = self.some_experts(experts, x, indices, weights) {
            return Some(said);
        }
        use crate::decoder::Activation;
        for act in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            let mut other = experts.clone();
            other.expert.act = act;
            if act != experts.expert.act && self.fits(&Operation::Experts { experts: Box::new(other) }) {
                return Some(format!(
                    "{who}'s experts have another activation ({act:?}), where A's config asks for {:?}.",
                    experts.expert.act
                ));
            }
        }
        None
    }

    /// Experts that are wrong where others are right: every row that one of them has a part in is wrong, and no other.
    fn some_experts(&self, experts: &Experts, x: &Known, indices: &Known, weights: &Known) -> Option<String> {
        let who = self.who;
        let hidden = self.evaluator.decoder().hidden_size;
        let beyond = self.beyond();
        let wrong: Vec<bool> = beyond.chunks_exact(hidden).map(|row| row.iter().any(|b| *b)).collect();
        let rows = || indices.values.chunks_exact(experts.router.top_k).zip(&wrong);
        let of = |e: usize| rows().filter(move |(row, _)| row.contains(&(e as f64)));
        let suspects: Vec<usize> =
            (0..experts.n_experts).filter(|e| of(*e).next().is_some() && of(*e).all(|(_, wrong)| *wrong)).collect();
        let explained = rows().all(|(row, wrong)| !wrong || suspects.iter().any(|e| row.contains(&(*e as f64))));
        let some = wrong.iter().any(|wrong| !wrong);
        // A matrix that was read with its axes the other way round.
        for e in suspects.iter().chain((0..experts.n_experts).collect::<Vec<_>>().iter()).take(8) {
            for (which, name) in ["gate", "up", "down"].into_iter().enumerate() {
                let turned = |i: usize, expert: &mut Expert| {
                    let width = [hidden, hidden, expert.gate.len() / hidden][which];
                    let matrix = [&mut expert.gate, &mut expert.up, &mut expert.down].into_iter().nth(which);
                    if let (true, Some(matrix)) = (i == *e, matrix) {
                        *matrix = read_across(matrix, width);
                    }
                };
                let known = self.evaluator.experts_with(experts, x, indices, weights, &turned);
                if known.is_ok_and(|known| self.are(&known)) {
                    return Some(format!(
                        "{who} reads the {name} projection of expert {e} as its transpose: with its axes the other way round."
                    ));
                }
            }
        }
        if !some || !explained || suspects.is_empty() {
            return None;
        }
        let names: Vec<String> = suspects.iter().take(8).map(usize::to_string).collect();
        Some(format!(
            "{who} is wrong in those rows alone that expert{} {} ha{} a part in: look at the weights of {}.",
            if suspects.len() == 1 { "" } else { "s" },
            names.join(", "),
            if suspects.len() == 1 { "s" } else { "ve" },
            if suspects.len() == 1 { "that" } else { "those" }
        ))
    }
}

/// A matrix of rows of `width` whose bytes are taken for those of its transpose.
fn read_across(matrix: &[f32], width: usize) -> Vec<f32> {
    let rows = matrix.len() / width;
    (0..matrix.len()).map(|i| matrix[i % width * rows + i / width]).collect()
}
