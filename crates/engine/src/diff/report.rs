//! The result of a comparison as a whole, for machines (it is `Serialize`) and for people ([`Report::text`]).

mod text;

use std::collections::BTreeMap;

use serde::Serialize;

use super::compare::Comparison;
use super::hash::Weights;
use super::judge::Verdict;
use super::tensor::Place;

/// A comparison of two models over one text.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The model on this engine.
    pub a: Side,
    /// The recording.
    pub b: Side,
    /// Tokens of the text.
    pub tokens: usize,
    /// Positions that were recorded.
    pub rows: usize,
    /// What came out.
    pub outcome: Outcome,
    /// Every point that was compared, in the order of the operations.
    pub operations: Vec<OperationReport>,
    /// What was not.
    pub not_compared: NotCompared,
    /// The weights of both, if both were hashed.
    pub weights: Option<Weights>,
    /// What holds for several operations together.
    pub notes: Vec<String>,
}

/// One of the two.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Side {
    /// The model, or the file.
    pub name: String,
    /// What computed it.
    pub engine: String,
    /// In which numbers.
    pub dtype: String,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Every value that was compared is the same.
    Identical,
    /// What differs does so by rounding alone.
    Noise,
    /// An operation differs by more.
    Wrong {
        /// The point of the first that does.
        point: String,
        /// Its index in [`Report::operations`].
        index: usize,
        /// Who is wrong there.
        verdict: Verdict,
    },
    /// There was no point that both have.
    NothingCompared,
}

/// An operation whose result was compared.
#[derive(Clone, Debug, Serialize)]
pub struct OperationReport {
    /// The hook point.
    pub point: String,
    /// Its block.
    pub block: Option<usize>,
    /// The operation in words.
    pub what: String,
    /// Who is right.
    pub verdict: Verdict,
    /// A's values, computed from B's inputs, beside B's.
    pub comparison: Comparison,
    /// How far A's values are from the exact ones, if those were computed.
    pub a: Option<Distance>,
    /// How far B's are.
    pub b: Option<Distance>,
    /// Rows that were held against exact values.
    pub judged_rows: usize,
    /// Elements of these whose exact values are not known, since what they rest on was not recorded.
    pub unknown: usize,
    /// Operations that are judged together with it, since their points were not recorded.
    pub together_with: Vec<String>,
    /// What the difference looks like.
    pub reading: Vec<String>,
    /// A's values when nothing is replaced, beside B's: how far the two have come apart here.
    pub free: Option<Comparison>,
}

/// How far values are from the exact ones.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Distance {
    /// The largest distance, in multiples of what rounding explains.
    pub factor: f64,
    /// Where that is.
    pub at: Option<Place>,
    /// The distance there.
    pub difference: f64,
    /// Elements that are further off than rounding explains.
    pub beyond: usize,
}

/// What was not compared.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NotCompared {
    /// Points of the model that were not recorded.
    pub only_a: Vec<String>,
    /// Points that were recorded and that the model does not have.
    pub only_b: Vec<String>,
    /// Points that the recorder says it could not record, with the reason.
    pub reasons: BTreeMap<String, String>,
}

impl Outcome {
    /// What came out of `operations`.
    #[must_use]
    pub fn of(operations: &[OperationReport]) -> Outcome {
        let suspicious = operations.iter().position(|op| op.verdict.is_suspicious());
        match suspicious {
            Some(index) => {
                let op = &operations[index];
                Outcome::Wrong { point: op.point.clone(), index, verdict: op.verdict }
            }
            None if operations.is_empty() => Outcome::NothingCompared,
            None if operations.iter().all(|op| op.verdict == Verdict::Equal) => Outcome::Identical,
            None => Outcome::Noise,
        }
    }
}

/// What operations that are wrong have in common: the same point in some blocks only, and which kind of blocks that is. `kinds` are the kinds of
/// blocks in words, and the blocks that are so ([`Decoder::kinds`](crate::decoder::Decoder::kinds)).
#[must_use]
pub fn in_common(operations: &[OperationReport], kinds: &[(String, Vec<usize>)]) -> Vec<String> {
    let mut by_place: BTreeMap<&str, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    let mut order = Vec::new();
    for op in operations {
        let Some(block) = op.block else { continue };
        let place = op.point.split_once('.').and_then(|(_, rest)| rest.split_once('.')).map_or("", |(_, place)| place);
        let (wrong, right) = by_place.entry(place).or_default();
        if wrong.is_empty() && op.verdict.is_suspicious() {
            order.push(place);
        }
        if op.verdict.is_suspicious() { wrong.push(block) } else { right.push(block) }
    }
    let mut notes = Vec::new();
    for place in order {
        let (wrong, right) = &by_place[place];
        let both = wrong.len() > 1 || !right.is_empty();
        if !both {
            continue;
        }
        if right.is_empty() {
            notes.push(format!("{place} differs in every block."));
            continue;
        }
        let of_kind =
            |blocks: &[usize]| wrong.iter().all(|b| blocks.contains(b)) && !right.iter().any(|b| blocks.contains(b));
        match kinds.iter().find(|(_, blocks)| kinds.len() > 1 && of_kind(blocks)) {
            Some((words, _)) => {
                notes.push(format!("{place} differs in all blocks of one kind, and in no others: {words}."));
            }
            None => notes.push(format!(
                "{place} differs in block{} {}.",
                if wrong.len() == 1 { "" } else { "s" },
                list(wrong)
            )),
        }
    }
    notes
}

/// Numbers, and runs of numbers.
pub(super) fn list(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for n in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *n => *last = *n,
            _ => runs.push((*n, *n)),
        }
    }
    let word =
        |(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}–{last}") };
    runs.iter().map(word).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
