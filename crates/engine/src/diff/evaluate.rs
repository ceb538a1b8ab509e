//! What an operation gives, exactly, from what was recorded: its own inputs where they were, else what the operations before it give.

mod apply;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::noise::Known;
use super::operations::{Op, Operation, operations};
use super::stored::Stored;
use super::tensor::{Axes, Tensor, rows_of};
use crate::decoder::{Decoder, Linear};
use crate::error::Error;

/// Recorded values, by hook point.
pub trait Recorded {
    /// The shape of a point; nothing if it was not recorded.
    fn shape_of(&self, point: &str) -> Option<Vec<usize>>;

    /// The values of some rows of a point, in the order in which they are given; nothing if it was not recorded.
    ///
    /// # Errors
    /// When a read fails.
    fn pick(&self, point: &str, rows: &[usize]) -> Result<Option<Tensor>, Error>;

    /// Whether the point was recorded.
    fn has(&self, point: &str) -> bool {
        self.shape_of(point).is_some()
    }

    /// The values of all rows of a point.
    ///
    /// # Errors
    /// As [`Recorded::pick`].
    fn tensor(&self, point: &str) -> Result<Option<Tensor>, Error> {
        let Some(shape) = self.shape_of(point) else { return Ok(None) };
        let rows: Vec<usize> = (0..rows_of(Axes::of(point), &shape)).collect();
        self.pick(point, &rows)
    }
}

impl Recorded for BTreeMap<String, Tensor> {
    fn shape_of(&self, point: &str) -> Option<Vec<usize>> {
        self.get(point).map(|tensor| tensor.shape.clone())
    }

    fn pick(&self, point: &str, rows: &[usize]) -> Result<Option<Tensor>, Error> {
        Ok(self.get(point).map(|tensor| tensor.pick(Axes::of(point), rows)))
    }
}

/// The text of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// All tokens.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt.
    pub prompt_len: usize,
    /// The positions of recorded rows, in order.
    pub positions: Vec<usize>,
}

impl Text {
    /// Which row each position up to the last recorded one is.
    #[must_use]
    pub fn rows_by_position(&self) -> Vec<Option<usize>> {
        let mut rows = vec![None; self.positions.last().map_or(0, |last| last + 1)];
        for (row, position) in self.positions.iter().enumerate() {
            if let Some(to) = rows.get_mut(*position) {
                *to = Some(row);
            }
        }
        rows
    }

    /// Tokens that count at `position`, where rotations depend on the length of the text.
    fn len_at(&self, position: usize) -> usize {
        self.prompt_len.max(position + 1)
    }
}

/// Values by point and rows.
type OnTheWay = HashMap<(String, Vec<usize>), Rc<Known>>;

/// The operations of a model over the recorded values of one text.
pub struct Evaluator<'a> {
    decoder: &'a Decoder,
    stored: Stored<'a>,
    recorded: &'a dyn Recorded,
    text: &'a Text,
    ops: Vec<Op>,
    by_point: HashMap<String, Vec<usize>>,
    /// What was computed on the way to the result at hand, by point and rows.
    on_the_way: RefCell<OnTheWay>,
}

impl<'a> Evaluator<'a> {
    /// The operations of `decoder`, whose weights are in `checkpoint`.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(
        decoder: &'a Decoder,
        checkpoint: &'a rheostat_store::Checkpoint,
        recorded: &'a dyn Recorded,
        text: &'a Text,
    ) -> Result<Evaluator<'a>, Error> {
        let ops = operations(decoder);
        let mut by_point: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, op) in ops.iter().enumerate() {
            by_point.entry(op.point.clone()).or_default().push(i);
        }
        Ok(Evaluator {
            decoder,
            stored: Stored::new(checkpoint)?,
            recorded,
            text,
            ops,
            by_point,
            on_the_way: RefCell::default(),
        })
    }

    /// All operations, in order.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &Text {
        self.text
    }

    /// The model.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        self.decoder
    }

    /// What was recorded.
    #[must_use]
    pub fn recorded(&self) -> &dyn Recorded {
        self.recorded
    }

    /// The operation that gives a point, with what was recorded; nothing if the model has no such point.
    #[must_use]
    pub fn op(&self, point: &str) -> Option<&Op> {
        let ops = self.by_point.get(point)?.iter().map(|i| &self.ops[*i]);
        ops.into_iter().find(|op| op.only_with.as_ref().is_none_or(|with| self.recorded.has(with)))
    }

    /// The points that `op` rests on: recorded ones, or those that need no others; and the points between that were not recorded.
    #[must_use]
    pub fn rests_on(&self, op: &Op) -> (Vec<String>, Vec<String>) {
        let (mut recorded, mut between) = (Vec::new(), Vec::new());
        let mut next: Vec<&str> = op.inputs.iter().map(String::as_str).collect();
        while let Some(point) = next.pop() {
            let list = if self.recorded.has(point) { &mut recorded } else { &mut between };
            if list.iter().any(|known| known == point) {
                continue;
            }
            list.push(point.to_owned());
            if !self.recorded.has(point)
                && let Some(op) = self.op(point)
            {
                next.extend(op.inputs.iter().map(String::as_str));
            }
        }
        between.retain(|point| !point.starts_with('='));
        (recorded, between)
    }

    /// Multiply-adds of one row of an operation, about, with those of the operations between it and what was recorded.
    #[must_use]
    pub fn cost(&self, op: &Op) -> f64 {
        let keys = self.text.positions.last().map_or(0, |last| last + 1) as f64;
        let linear = |linear: &Linear| linear.in_features as f64 * linear.out_features as f64;
        let own = match &op.operation {
            Operation::Linear { from, .. } => from.iter().map(|outputs| linear(&outputs.linear)).sum(),
            Operation::HeadOutputs { linear: map, .. } => linear(map),
            Operation::Experts { experts } => {
                experts.router.top_k as f64 * experts.expert.linears().map(linear).sum::<f64>()
            }
            Operation::Scores { n_heads, head_dim, .. } => keys * (n_heads * head_dim) as f64,
            Operation::Weigh { n_heads, value_dim, .. } => 4.0 * keys * (n_heads * value_dim) as f64,
            Operation::DeltaRead { heads } | Operation::DeltaState { heads } => {
                10.0 * (heads.v_heads * heads.k_dim * heads.v_dim) as f64
            }
            _ => self.decoder.hidden_size as f64,
        };
        let all_rows = self.takes_all_rows(&op.operation);
        let inputs = op.inputs.iter().enumerate().filter(|(_, point)| !self.recorded.has(point));
        let of_inputs = inputs.filter_map(|(i, point)| {
            let times = if all_rows(i) { self.text.positions.len() as f64 } else { 1.0 };
            Some(times * self.cost(self.op(point)?))
        });
        own + of_inputs.sum::<f64>()
    }

    /// Whether an operation takes all rows of its input `i`, whichever are asked for.
    fn takes_all_rows(&self, operation: &Operation) -> impl Fn(usize) -> bool + use<> {
        let from = match operation {
            Operation::Scores { .. } | Operation::Weigh { .. } => 1,
            Operation::Convolution { .. } | Operation::GatedConvolution { .. } => 0,
            Operation::DeltaState { .. } | Operation::DeltaRead { .. } => 0,
            _ => usize::MAX,
        };
        move |i| i >= from
    }

    /// The values of a point in some rows: recorded, or computed.
    ///
    /// # Errors
    /// When a read fails, or tensors are not what the model says.
    pub fn known(&self, point: &str, rows: &[usize]) -> Result<Rc<Known>, Error> {
        let known = self.on_the_way_to(point, rows);
        self.on_the_way.borrow_mut().clear();
        known
    }

    /// What `op` gives in some rows, whether its point was recorded or not.
    ///
    /// # Errors
    /// As [`Evaluator::known`].
    pub fn evaluate(&self, op: &Op, rows: &[usize]) -> Result<Known, Error> {
        self.apply(&op.operation, &self.inputs(op, rows)?, rows)
    }

    /// What `op` takes to give some rows, in the order of its inputs.
    ///
    /// # Errors
    /// As [`Evaluator::known`].
    pub fn inputs(&self, op: &Op, rows: &[usize]) -> Result<Vec<Rc<Known>>, Error> {
        let inputs = self.inputs_on_the_way(op, rows);
        self.on_the_way.borrow_mut().clear();
        inputs
    }

    fn inputs_on_the_way(&self, op: &Op, rows: &[usize]) -> Result<Vec<Rc<Known>>, Error> {
        let all: Vec<usize> = (0..self.text.positions.len()).collect();
        let all_rows = self.takes_all_rows(&op.operation);
        let inputs = op.inputs.iter().enumerate();
        inputs.map(|(i, point)| self.on_the_way_to(point, if all_rows(i) { &all } else { rows })).collect()
    }

    /// As [`Evaluator::known`]; what was computed is kept.
    fn on_the_way_to(&self, point: &str, rows: &[usize]) -> Result<Rc<Known>, Error> {
        if let Some(tensor) = self.recorded.pick(point, rows)? {
            return Ok(Rc::new(Known::recorded(&tensor.values)));
        }
        let key = (point.to_owned(), rows.to_vec());
        let kept = self.on_the_way.borrow().get(&key).cloned();
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let op = self.op(point).ok_or_else(|| Error::Trace(super::TraceError::unknown_point(point)))?;
        let known = Rc::new(self.apply(&op.operation, &self.inputs_on_the_way(op, rows)?, rows)?);
        self.on_the_way.borrow_mut().insert(key, Rc::clone(&known));
        Ok(known)
    }
}
