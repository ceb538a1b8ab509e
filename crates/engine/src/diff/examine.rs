//! One operation after the other: A's values beside B's, held against the exact ones where they differ, and read.
//!
//! What differs by no more than a product's rounding is passed quickly; everything else is judged by exact values, of all rows if that is
//! cheap, else of those that differ most.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::compare::{Comparison, Sums, same};
use super::error::{TraceError, TraceErrorKind};
use super::evaluate::{Evaluator, Recorded};
use super::exact::router::{Choice, chosen};
use super::hash::Weights;
use super::judge::{Judgement, Result as Values, Verdict, are_close, judge};
use super::noise::{Known, Precision};
use super::operations::{Op, Operation};
use super::reading::{Evidence, read};
use super::report::{Distance, NotCompared, OperationReport, Outcome, Report, Side, in_common};
use super::tensor::{Axes, Tensor, rows_of};
use super::trace_file::TraceFile;
use crate::error::Error;

/// Multiply-adds that exact values of one operation may take, about: a few seconds.
const MOST_WORK: f64 = 4e9;

/// Values of a point that are looked at, or computed exactly, at a time.
const AT_A_TIME: usize = 1 << 24;

/// What a first look at a point shows.
struct Seen {
    comparison: Comparison,
    /// The largest difference of each row.
    by_row: Vec<f64>,
    /// Whether all rows lie so close together that no exact values are needed.
    close: bool,
}

/// One tensor, as a recording.
struct One<'a> {
    point: &'a str,
    tensor: &'a Tensor,
}

impl Recorded for One<'_> {
    fn shape_of(&self, point: &str) -> Option<Vec<usize>> {
        (point == self.point).then(|| self.tensor.shape.clone())
    }

    fn pick(&self, point: &str, rows: &[usize]) -> Result<Option<Tensor>, Error> {
        Ok((point == self.point).then(|| self.tensor.pick(Axes::of(point), rows)))
    }
}

impl Precision {
    fn values(self, tensor: &Tensor) -> Values<'_> {
        Values { values: &tensor.values, precision: self }
    }
}

/// Compares the points of a recording with those of a model, one by one.
pub struct Examiner<'a> {
    evaluator: &'a Evaluator<'a>,
    ours: Precision,
    theirs: Precision,
    /// Tensors of the weights that are not the same.
    other_weights: HashSet<String>,
    /// Rows whose experts A and B chose differently, by block: what follows from them is not compared.
    other_experts: HashMap<Option<usize>, Vec<usize>>,
    done: Vec<OperationReport>,
}

impl<'a> Examiner<'a> {
    /// For values of the two precisions.
    #[must_use]
    pub fn new(evaluator: &'a Evaluator<'a>, ours: Precision, theirs: Precision) -> Examiner<'a> {
        let (other_weights, other_experts) = (HashSet::new(), HashMap::new());
        Examiner { evaluator, ours, theirs, other_weights, other_experts, done: Vec::new() }
    }

    /// Says which weights differ, so that readings can name them.
    pub fn set_weights(&mut self, weights: &Weights) {
        self.other_weights.extend(weights.different.iter().cloned());
    }

    /// Examines a point: `ours` are A's values of all recorded rows, computed from B's inputs, and `free`, if it is known, is the comparison
    /// of A's values when nothing is replaced. Points are to come in the order of the operations. Nothing for one that was not recorded, or that
    /// the model does not have.
    ///
    /// # Errors
    /// When a read fails, or `ours` has another shape than was recorded.
    pub fn examine(
        &mut self,
        point: &str,
        ours: &Tensor,
        free: Option<Comparison>,
    ) -> Result<Option<&OperationReport>, Error> {
        self.examine_with(point, &One { point, tensor: ours }, |_, _, _| Ok(free))
    }

    /// The same with A's values where they were recorded: of both no more is read at a time than has to be.
    ///
    /// # Errors
    /// As [`Examiner::examine`].
    pub fn examine_from(
        &mut self,
        point: &str,
        ours: &dyn Recorded,
        free: Option<&dyn Recorded>,
    ) -> Result<Option<&OperationReport>, Error> {
        self.examine_with(point, ours, |examiner, op, shape| match free {
            Some(free) if free.shape_of(point).as_deref() == Some(shape) => {
                Ok(Some(examiner.look(op, shape, free)?.comparison))
            }
            _ => Ok(None),
        })
    }

    fn examine_with(
        &mut self,
        point: &str,
        ours: &dyn Recorded,
        free: impl FnOnce(&Self, &Op, &[usize]) -> Result<Option<Comparison>, Error>,
    ) -> Result<Option<&OperationReport>, Error> {
        let evaluator = self.evaluator;
        let Some(op) = evaluator.op(point) else { return Ok(None) };
        let theirs = evaluator.recorded();
        let (Some(shape), Some(found)) = (theirs.shape_of(point), ours.shape_of(point)) else { return Ok(None) };
        if shape != found {
            let point = point.to_owned();
            let kind = TraceErrorKind::WrongShape { point, found, expected: shape };
            return Err(Error::Trace(TraceError { at: None, kind }));
        }
        let seen = self.look(op, &shape, ours)?;
        let (_, together_with) = evaluator.rests_on(op);
        let mut report = OperationReport {
            point: point.to_owned(),
            block: op.block,
            what: op.words(),
            verdict: Verdict::Equal,
            comparison: seen.comparison,
            a: None,
            b: None,
            judged_rows: 0,
            unknown: 0,
            together_with,
            reading: Vec::new(),
            free: free(self, op, &shape)?,
        };
        if !report.comparison.is_equal() {
            self.judge(op, &seen.by_row, seen.close, ours, &mut report)?;
        }
        self.done.push(report);
        Ok(self.done.last())
    }

    /// Compares all rows, some at a time.
    fn look(&self, op: &Op, shape: &[usize], ours: &dyn Recorded) -> Result<Seen, Error> {
        let axes = Axes::of(&op.point);
        let positions = &self.evaluator.text().positions;
        let all = rows_of(axes, shape);
        let of_row = shape.iter().product::<usize>() / all.max(1);
        let step = (AT_A_TIME / of_row.max(1)).max(1);
        let mut sums = Sums::default();
        let (mut by_row, mut close) = (Vec::with_capacity(all), true);
        for first in (0..all).step_by(step) {
            let rows: Vec<usize> = (first..(first + step).min(all)).collect();
            let theirs = self.evaluator.recorded();
            let (Some(a), Some(b)) = (ours.pick(&op.point, &rows)?, theirs.pick(&op.point, &rows)?) else { continue };
            let positions: Vec<usize> = rows.iter().map(|row| positions.get(*row).copied().unwrap_or(*row)).collect();
            sums.add(&a.values, &b.values, |index| b.place(axes, index, &positions));
            if let Some(inputs) = terms(op) {
                close &= are_close(self.ours.values(&a), self.theirs.values(&b), of_row, inputs);
            }
            let mut differences = vec![0.0_f64; rows.len()];
            for (i, (x, y)) in a.values.iter().zip(&b.values).enumerate().filter(|(_, (x, y))| !same(**x, **y)) {
                let difference = f64::from((x - y).abs());
                let row = &mut differences[b.row_of(axes, i)];
                *row = row.max(if difference.is_finite() { difference } else { f64::MAX });
            }
            by_row.extend(differences);
        }
        Ok(Seen { comparison: sums.finish(), by_row, close: close && terms(op).is_some() })
    }

    fn judge(
        &mut self,
        op: &Op,
        by_row: &[f64],
        close: bool,
        ours: &dyn Recorded,
        report: &mut OperationReport,
    ) -> Result<(), Error> {
        let evaluator = self.evaluator;
        let skipped = match op.operation {
            // What follows from a choice is computed with it.
            Operation::Experts { .. } | Operation::ChosenWeights { .. } => self.other_experts.get(&op.block),
            _ => None,
        };
        let skipped = skipped.cloned().unwrap_or_default();
        if close && skipped.is_empty() && report.together_with.is_empty() {
            report.verdict = Verdict::Noise;
            return Ok(());
        }
        let mut rows = self.rows(op, by_row);
        rows.retain(|row| !skipped.contains(row));
        let theirs = evaluator.recorded().pick(&op.point, &rows)?;
        let (Some(ours), Some(theirs), false) = (ours.pick(&op.point, &rows)?, theirs, rows.is_empty()) else {
            report.verdict = Verdict::Noise;
            report.reading.push("It follows from another choice of experts, and was not judged.".to_owned());
            return Ok(());
        };
        let inputs = evaluator.inputs(op, &rows)?;
        let (a, b) = (self.ours.values(&ours), self.theirs.values(&theirs));
        let (exact, judged) = match &op.operation {
            Operation::Choose { choice, bias } => {
                let differ = ours.values.chunks(choice.top_k).zip(theirs.values.chunks(choice.top_k));
                let others = differ.enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| rows[at]).collect();
                self.other_experts.insert(op.block, others);
                let bias = bias.as_ref().map(|name| evaluator.vector(name)).transpose()?;
                judge_choices(a, b, choice, bias.as_deref(), &inputs[0])
            }
            operation => {
                let exact = evaluator.apply(operation, &inputs, &rows)?;
                let judged = judge(a, b, &exact);
                (exact, judged)
            }
        };
        let positions: Vec<usize> =
            rows.iter().filter_map(|row| evaluator.text().positions.get(*row).copied()).collect();
        let axes = Axes::of(&op.point);
        let distance = |distance: super::judge::Distance, tensor: &Tensor| Distance {
            factor: distance.factor,
            at: (distance.factor > 0.0).then(|| tensor.place(axes, distance.at, &positions)),
            difference: distance.difference,
            beyond: distance.beyond,
        };
        report.verdict = judged.verdict;
        report.judged_rows = rows.len();
        report.unknown = judged.unknown;
        report.a = Some(distance(judged.ours, &ours));
        report.b = Some(distance(judged.theirs, &theirs));
        if judged.verdict.is_suspicious() {
            report.reading = self.reading(op, &rows, [&ours, &theirs], &exact, &inputs, &judged);
        }
        Ok(())
    }

    /// What the wrong values look like: B's, unless A alone is wrong.
    fn reading(
        &self,
        op: &Op,
        rows: &[usize],
        [ours, theirs]: [&Tensor; 2],
        exact: &Known,
        inputs: &[std::rc::Rc<Known>],
        judged: &Judgement,
    ) -> Vec<String> {
        if judged.verdict == Verdict::Unknown {
            return vec!["What it rests on was not recorded for these positions.".to_owned()];
        }
        let ours_wrong = judged.verdict == Verdict::OursWrong;
        let (who, wrong, precision) = if ours_wrong { ('A', ours, self.ours) } else { ('B', theirs, self.theirs) };
        let mut said = Vec::new();
        let pattern = |name: &str| name.split_once("{}").map(|(start, end)| (start.to_owned(), end.to_owned()));
        for tensor in op.tensors() {
            let is = |other: &&String| match pattern(&tensor) {
                Some((start, end)) => other.starts_with(&start) && other.ends_with(&end),
                None => **other == tensor,
            };
            if let Some(other) = self.other_weights.iter().find(is) {
                said.push(format!("A and B have different weights here: {other}."));
                break;
            }
        }
        let evaluator = self.evaluator;
        said.extend(read(&Evidence { evaluator, op, who, precision, rows, wrong, exact, inputs }));
        said
    }

    /// The rows to judge: all if that is cheap, else those that differ most, the first and the last. Of choices all, since what follows from them
    /// depends on it.
    fn rows(&self, op: &Op, by_row: &[f64]) -> Vec<usize> {
        let all = by_row.len();
        let of_row: usize =
            op.full_shape(1, self.evaluator.text().positions.last().map_or(0, |last| last + 1)).iter().product();
        let affordable = (MOST_WORK / self.evaluator.cost(op).max(1.0)) as usize;
        let most = affordable.min(AT_A_TIME / of_row.max(1)).max(1);
        if most >= all || matches!(op.operation, Operation::Choose { .. }) {
            return (0..all).collect();
        }
        let mut order: Vec<usize> = (0..all).collect();
        order.sort_by(|a, b| by_row[*b].total_cmp(&by_row[*a]).then(a.cmp(b)));
        let mut rows: Vec<usize> = order.into_iter().take(most.saturating_sub(2).max(1)).collect();
        if most > 2 {
            rows.extend([0, all - 1]);
        }
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// The report of all that was examined. `a` and `b` say what they were, `weights` how the tensors of both go together.
    #[must_use]
    pub fn finish(self, a: Side, trace: &TraceFile, weights: Option<Weights>) -> Report {
        let evaluator = self.evaluator;
        let named = evaluator.ops().iter().filter(|op| !op.is_internal() && trace.shape(&op.point).is_none());
        let mut only_a: Vec<String> = named.map(|op| op.point.clone()).collect();
        only_a.dedup();
        let reasons: BTreeMap<String, String> = trace.missing.clone();
        let not_compared = NotCompared { only_a, only_b: trace.foreign(evaluator.ops()), reasons };
        let text = trace.text();
        let b =
            Side { name: trace.path().display().to_string(), engine: trace.engine.clone(), dtype: trace.dtype.clone() };
        Report {
            a,
            b,
            tokens: text.tokens.len(),
            rows: text.positions.len(),
            outcome: Outcome::of(&self.done),
            notes: in_common(&self.done, &evaluator.decoder().kinds()),
            operations: self.done,
            not_compared,
            weights,
        }
    }
}

/// Judges choices of experts: an expert that was chosen is right if what it was ranked by is no further from what the one in its place should be
/// ranked by than rounding explains. How far the numbers of experts lie apart means nothing.
fn judge_choices(
    ours: Values<'_>,
    theirs: Values<'_>,
    choice: &Choice,
    bias: Option<&[f64]>,
    logits: &Known,
) -> (Known, Judgement) {
    let (exact, ranked) = chosen(logits, bias, choice);
    let rank = |at: usize, e: usize| {
        let i = at / choice.top_k * choice.n_experts + e;
        (e < choice.n_experts).then(|| (ranked.values[i], ranked.noise(i)))
    };
    let distance = |values: Values<'_>| {
        let mut worst = super::judge::Distance::default();
        for (at, e) in exact.iter().enumerate() {
            let chosen = values.values[at];
            let (difference, factor) = match (rank(at, *e), rank(at, chosen as usize)) {
                _ if chosen == *e as f32 => continue,
                (Some((a, of_a)), Some((b, of_b))) if chosen >= 0.0 => {
                    ((a - b).abs(), (a - b).abs() / of_a.plus(of_b).floor(values.precision))
                }
                _ => (f64::INFINITY, f64::INFINITY),
            };
            // Experts that are out of the question rank infinitely low.
            let factor = if factor.is_nan() { f64::INFINITY } else { factor };
            worst.beyond += usize::from(factor > 1.0);
            if factor > worst.factor {
                worst = super::judge::Distance { factor, at, difference, ..worst };
            }
        }
        worst
    };
    let (a, b) = (distance(ours), distance(theirs));
    let judged = Judgement { verdict: Verdict::of(a.factor, b.factor), ours: a, theirs: b, unknown: 0 };
    (Known::exact(exact.into_iter().map(|e| e as f64).collect()), judged)
}

/// The terms of a sum, of operations that are sums of products and little else: what comes out of them is as coarse as its row.
fn terms(op: &Op) -> Option<usize> {
    match &op.operation {
        Operation::Linear { from, .. } => from.iter().map(|outputs| outputs.linear.in_features).max(),
        Operation::HeadOutputs { value_dim, .. } => Some(*value_dim),
        _ => None,
    }
}
