//! What an operation gives, exactly, from what was recorded: its own inputs where they were, else what the operations before it give.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::exact::attention::{self, Scoring, View};
use super::exact::experts::{Expert, Mixture};
use super::exact::rotation::Angles;
use super::exact::{activation, elementwise, linear, norm, recurrent, rotation, router};
use super::noise::{Known, Noise};
use super::operations::{Op, Operation, Outputs, operations};
use super::stored::{Stored, places};
use super::tensor::{Axes, Tensor};
use crate::decoder::{Activation, Decoder, Experts, Linear, Nonlinearity, Xielu};
use crate::error::Error;

/// Recorded values, by hook point.
pub trait Recorded {
    /// Whether the point was recorded.
    fn has(&self, point: &str) -> bool;

    /// Its values, of all recorded rows; nothing if it was not recorded.
    ///
    /// # Errors
    /// When a read fails.
    fn tensor(&self, point: &str) -> Result<Option<Tensor>, Error>;
}

impl Recorded for BTreeMap<String, Tensor> {
    fn has(&self, point: &str) -> bool {
        self.contains_key(point)
    }

    fn tensor(&self, point: &str) -> Result<Option<Tensor>, Error> {
        Ok(self.get(point).cloned())
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

/// The operations of a model over the recorded values of one text.
pub struct Evaluator<'a> {
    decoder: &'a Decoder,
    stored: Stored<'a>,
    recorded: &'a dyn Recorded,
    text: &'a Text,
    ops: Vec<Op>,
    by_point: HashMap<String, Vec<usize>>,
    /// What was computed on the way to the result at hand, by point and rows.
    on_the_way: RefCell<HashMap<(String, Vec<usize>), Rc<Known>>>,
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
        if let Some(tensor) = self.recorded.tensor(point)? {
            return Ok(Rc::new(Known::recorded(&tensor.pick(Axes::of(point), rows).values)));
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

    /// What `operation` makes of `inputs` in some rows: of what [`Evaluator::inputs`] gives, or of others in their place.
    ///
    /// # Errors
    /// When a read fails, or tensors are not what the model says.
    pub fn apply(&self, operation: &Operation, inputs: &[Rc<Known>], rows: &[usize]) -> Result<Known, Error> {
        let stored = &self.stored;
        let x = inputs.first();
        let positions: Vec<usize> = rows.iter().filter_map(|row| self.text.positions.get(*row).copied()).collect();
        let known = match (operation, inputs) {
            (Operation::Embed { tensor, scale }, _) => {
                let tokens = positions.iter().map(|p| self.text.tokens.get(*p).map_or(usize::MAX, |t| *t as usize));
                let rows = self.table(tensor, tokens)?;
                if *scale == 1.0 { rows } else { elementwise::scaled(&rows, f64::from(*scale)) }
            }
            (Operation::Positions { tensor }, _) => self.table(tensor, positions.iter().copied())?,
            (Operation::Copy, [x]) => Known::clone(x),
            (Operation::Add, [a, b]) => elementwise::add(a, b),
            (Operation::Add, [a, b, c]) => elementwise::add_three(a, b, c),
            (Operation::Scale { by }, [x]) => elementwise::scaled(x, f64::from(*by)),
            (Operation::SoftCap { cap }, [x]) => elementwise::capped(x, f64::from(*cap)),
            (Operation::Clamp { limit }, [x]) => elementwise::clamped(x, f64::from(*limit)),
            (Operation::Columns { width, first, len }, [x]) => elementwise::columns(x, *width, *first, *len),
            (Operation::Join { heads, widths: [a_width, b_width] }, [a, b]) => {
                elementwise::joined(a, *a_width, b, *b_width, *heads)
            }
            (Operation::NormScale { norm }, [x]) => norm::scale(x, norm.into()),
            (Operation::Normalize { norm }, [x, scale]) => norm::normalized(x, scale, norm.into()),
            (Operation::NormWeight { norm }, [normed, x]) => {
                let (weight, bias) = stored.norm(norm)?;
                let out = norm::weighted(normed, weight.as_deref(), bias.as_deref(), norm.width, 1);
                norm::about_the_mean(&out, x, weight.as_deref(), norm.into())
            }
            (Operation::Norm { norm, groups }, [x]) => {
                let (weight, bias) = stored.norm(norm)?;
                norm::norm(x, norm.into(), weight.as_deref(), bias.as_deref(), *groups)
            }
            (Operation::Linear { from, width }, [x]) => self.linear(x, from, *width, rows.len())?,
            (Operation::Rotate { rope, pairing, first, heads, head_dim }, [x]) => {
                let angles = Angles::of(&self.decoder.ropes[*rope], &positions, |p| self.text.len_at(p));
                rotation::rotated(x, *heads, *head_dim, *first, *pairing, &angles)
            }
            (&Operation::Scores { n_heads, n_kv_heads, head_dim, scale, soft_cap, window }, [q, k]) => {
                let keys = self.text.rows_by_position();
                let view = View { n_heads, n_kv_heads, positions: &positions, keys: &keys };
                let (scale, soft_cap) = (f64::from(scale), soft_cap.map(f64::from));
                attention::scores(q, k, &view, &Scoring { head_dim, scale, soft_cap, window })
            }
            (Operation::Pattern { n_heads, sinks }, [scores]) => {
                let sinks = sinks.as_ref().map(|name| stored.vector_f64(name)).transpose()?;
                let keys = scores.len() / (n_heads * rows.len()).max(1);
                attention::pattern(scores, rows.len(), keys.max(1), sinks.as_deref())
            }
            (&Operation::Weigh { n_heads, n_kv_heads, value_dim }, [pattern, v]) => {
                let keys = self.text.rows_by_position();
                let view = View { n_heads, n_kv_heads, positions: &positions, keys: &keys };
                attention::weighted(pattern, v, &view, value_dim)
            }
            (Operation::SigmoidGate, [x, gate]) => elementwise::sigmoid_gated(x, gate),
            (Operation::RowGate, [x, gate]) => {
                let width = x.len() / gate.len().max(1);
                let spread = |of: &Known| {
                    let mut all = Known::default();
                    for i in 0..x.len() {
                        all.push(of.values[i / width], of.noise(i / width));
                    }
                    all
                };
                elementwise::sigmoid_gated(x, &spread(gate))
            }
            (Operation::HeadOutputs { n_heads, value_dim, linear }, [z]) => {
                self.head_outputs(z, *n_heads, *value_dim, linear)?
            }
            (Operation::SumOfHeads { n_heads, linear }, [x]) => {
                let terms = linear.in_features / n_heads;
                let sum = elementwise::sum_of_heads(x, *n_heads, linear.out_features, terms);
                match stored.bias(linear)? {
                    Some(bias) => linear::biased(&sum, &bias),
                    None => sum,
                }
            }
            (Operation::Activation { act }, [x]) => activation::activated(x, self.activation(act)?),
            (Operation::Gate { act }, [gate, up]) => activation::gated(gate, up, *act),
            (Operation::RouterScores { choice }, [logits]) => router::scores(logits, choice),
            (Operation::Choose { choice, bias }, [logits]) => {
                let (chosen, _) = router::chosen(logits, self.optional(bias.as_ref())?.as_deref(), choice);
                Known::exact(chosen.into_iter().map(|e| e as f64).collect())
            }
            (Operation::ChosenWeights { choice, bias }, [logits, chosen]) => {
                router::weights(logits, self.optional(bias.as_ref())?.as_deref(), &indices(chosen), choice)
            }
            (Operation::Experts { experts }, [x, chosen, weights]) => self.experts(experts, x, chosen, weights)?,
            (Operation::Convolution { tensor, taps }, [x]) => {
                let weight = stored.vector_f64(tensor)?;
                let channels = weight.len() / taps;
                let conv =
                    |x: &Known| activation::activated(&recurrent::convolved(x, &weight, None, *taps), Activation::Silu);
                self.convolved(x, channels, *taps, rows, conv)
            }
            (Operation::GatedConvolution { tensor, bias, taps }, [x]) => {
                let weight = stored.vector_f64(tensor)?;
                let bias = self.optional(bias.as_ref())?;
                let conv = |x: &Known| recurrent::gated_convolution(x, &weight, bias.as_deref(), *taps);
                self.convolved(x, weight.len() / taps, *taps, rows, conv)
            }
            (Operation::Decay { a_log, dt_bias }, [a]) => {
                recurrent::decay(a, &stored.vector_f64(a_log)?, &stored.vector_f64(dt_bias)?)
            }
            (Operation::Sigmoid, [x]) => activation::activated(x, Activation::Sigmoid),
            (Operation::DeltaState { heads }, [conv, decay, beta]) => {
                let width = heads.v_heads * heads.k_dim * heads.v_dim;
                if !self.begins_at_zero(rows) {
                    return Ok(Known::unknown(rows.len() * width));
                }
                let kept = recurrent::delta_rule(conv, decay, beta, *heads, |row| rows.contains(&row)).states;
                let mut order: Vec<usize> = rows.to_vec();
                order.sort_unstable();
                order.dedup();
                pick(&kept, width, &rows.iter().filter_map(|row| order.binary_search(row).ok()).collect::<Vec<_>>())
            }
            (Operation::DeltaRead { heads }, [conv, decay, beta]) => {
                let width = heads.v_heads * heads.v_dim;
                if !self.begins_at_zero(rows) {
                    return Ok(Known::unknown(rows.len() * width));
                }
                pick(&recurrent::delta_rule(conv, decay, beta, *heads, |_| false).z, width, rows)
            }
            (Operation::GatedNorm { norm }, [z, gate]) => {
                let (weight, _) = stored.norm(norm)?;
                recurrent::gated_norm(z, gate, weight.as_deref(), norm.width, f64::from(norm.eps))
            }
            _ => {
                let inputs = x.map_or(0, |_| inputs.len());
                return Err(Error::Trace(super::TraceError::wrong_inputs(inputs)));
            }
        };
        Ok(known)
    }
}

impl Evaluator<'_> {
    /// The numbers that a tensor of the checkpoint holds.
    pub(crate) fn vector(&self, name: &str) -> Result<Vec<f64>, Error> {
        self.stored.vector_f64(name)
    }

    /// A row of a table of the checkpoint.
    pub(crate) fn table_row(&self, name: &str, row: usize, width: usize) -> Result<Vec<f32>, Error> {
        self.stored.row(name, row, width)
    }

    /// The numbers that the tensor of an optional name holds.
    fn optional(&self, name: Option<&String>) -> Result<Option<Vec<f64>>, Error> {
        name.map(|name| self.stored.vector_f64(name)).transpose()
    }

    /// A non-linearity with its parameters.
    pub(crate) fn activation(&self, act: &Nonlinearity) -> Result<Activation, Error> {
        match act {
            Nonlinearity::Fixed(act) => Ok(*act),
            Nonlinearity::Xielu(tensors) => {
                let mut of = [0.0; 4];
                for (value, name) in of.iter_mut().zip(tensors.tensors()) {
                    *value = self.stored.vector(name)?.first().copied().unwrap_or(f32::NAN);
                }
                Ok(Xielu::activation(of))
            }
        }
    }

    /// Rows of a table.
    fn table(&self, name: &str, rows: impl Iterator<Item = usize>) -> Result<Known, Error> {
        let mut all = Vec::new();
        for row in rows {
            all.extend(self.stored.row(name, row, self.decoder.hidden_size)?);
        }
        Ok(Known::recorded(&all))
    }

    fn linear(&self, x: &Known, from: &[Outputs], width: usize, rows: usize) -> Result<Known, Error> {
        let mut out = Known::unknown(rows * width);
        for Outputs { linear, runs } in from {
            let to = places(runs, linear.out_features);
            self.stored.rows(linear, runs, |first, weights| {
                linear::product(x, linear.in_features, weights, &mut out, width, |w| to[first + w]);
            })?;
            let Some(bias) = self.stored.bias(linear)? else { continue };
            for (bias, to) in bias.iter().zip(&to) {
                for at in to.iter().flat_map(|to| (0..rows).map(move |row| row * width + to)) {
                    let value = out.values[at] + bias;
                    out.set(at, value, out.noise[at].plus(Noise::steps(1.0, value)));
                }
            }
        }
        Ok(out)
    }

    fn head_outputs(&self, z: &Known, n_heads: usize, value_dim: usize, map: &Linear) -> Result<Known, Error> {
        let (inputs, outputs) = (map.in_features, map.out_features);
        let mut out = Known::unknown(z.len() / inputs * n_heads * outputs);
        let runs = [super::operations::Run { from: 0, to: 0, len: outputs }];
        // Heads are rows of their own, each with its columns of the weights.
        let heads: Vec<Known> =
            (0..n_heads).map(|h| elementwise::columns(z, inputs, h * value_dim, value_dim)).collect();
        self.stored.rows(map, &runs, |first, weights| {
            for (h, z) in heads.iter().enumerate() {
                let part: Vec<f32> = weights
                    .chunks_exact(inputs)
                    .flat_map(|w| &w[h * value_dim..(h + 1) * value_dim])
                    .copied()
                    .collect();
                let to = |w: usize| Some(h * outputs + first + w);
                linear::product(z, value_dim, &part, &mut out, n_heads * outputs, to);
            }
        })?;
        Ok(out)
    }

    fn experts(&self, experts: &Experts, x: &Known, chosen: &Known, weights: &Known) -> Result<Known, Error> {
        self.experts_with(experts, x, chosen, weights, &|_, _| {})
    }

    /// The sum over experts whose weights are changed first.
    pub(crate) fn experts_with(
        &self,
        experts: &Experts,
        x: &Known,
        chosen: &Known,
        weights: &Known,
        change: &dyn Fn(usize, &mut Expert),
    ) -> Result<Known, Error> {
        let hidden = self.decoder.hidden_size;
        let top_k = experts.router.top_k;
        let chosen = indices(chosen);
        let mut sum = Mixture::new(chosen.len() / top_k, hidden);
        // In the order of experts, as everybody adds them.
        for e in 0..experts.n_experts {
            let places: Vec<usize> = (0..chosen.len()).filter(|at| chosen[*at] == e).collect();
            if places.is_empty() {
                continue;
            }
            let mut expert = self.stored.expert(&experts.expert(e))?;
            change(e, &mut expert);
            for at in places {
                let row = at / top_k;
                let out = expert.of(&x.slice(row * hidden..(row + 1) * hidden), hidden, experts.expert.act);
                sum.add(row, &out, weights.values[at], weights.noise(at));
            }
        }
        Ok(sum.finish())
    }

    /// A convolution of all rows, of which `rows` are wanted. Those that see rows that are not there are not known.
    fn convolved(
        &self,
        x: &Known,
        channels: usize,
        taps: usize,
        rows: &[usize],
        conv: impl Fn(&Known) -> Known,
    ) -> Known {
        let positions = &self.text.positions;
        let whole = |row: &usize| {
            // Before position 0 there are zeros.
            let seen = positions[*row].min(taps - 1);
            *row >= seen && positions[*row - seen] + seen == positions[*row]
        };
        let mut all = conv(x);
        for row in (0..positions.len()).filter(|row| !whole(row)) {
            let unknown = Known::unknown(channels);
            let at = row * channels..(row + 1) * channels;
            all.values[at.clone()].copy_from_slice(&unknown.values);
        }
        pick(&all, channels, rows)
    }

    /// Whether every position up to the last of `rows` was recorded.
    fn begins_at_zero(&self, rows: &[usize]) -> bool {
        rows.iter().max().is_none_or(|last| self.text.positions.get(*last) == Some(last))
    }
}

/// Some rows of `width` elements.
fn pick(x: &Known, width: usize, rows: &[usize]) -> Known {
    let mut out = Known::with_capacity(rows.len() * width);
    for at in rows.iter().flat_map(|row| row * width..(row + 1) * width) {
        out.push(x.values[at], x.noise(at));
    }
    out
}

/// Indices of experts; what is none is out of range.
fn indices(chosen: &Known) -> Vec<usize> {
    chosen.values.iter().map(|e| if *e >= 0.0 { *e as usize } else { usize::MAX }).collect()
}
