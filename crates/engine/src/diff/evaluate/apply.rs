//! What each operation makes of its inputs, with the weights that it takes.

use std::rc::Rc;

use super::Evaluator;
use crate::decoder::{Activation, Experts, Linear, Nonlinearity, Xielu};
use crate::diff::error::TraceError;
use crate::diff::exact::attention::{self, Scoring, View};
use crate::diff::exact::experts::{Expert, Mixture};
use crate::diff::exact::rotation::Angles;
use crate::diff::exact::{activation, elementwise, linear, norm, recurrent, rotation, router};
use crate::diff::noise::{Known, Noise};
use crate::diff::operations::{Operation, Outputs, Run};
use crate::diff::stored::places;
use crate::error::Error;

impl Evaluator<'_> {
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
                return Err(Error::Trace(TraceError::wrong_inputs(inputs)));
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

    /// Rows of a table. Half-precision engines have rounded the table itself.
    fn table(&self, name: &str, rows: impl Iterator<Item = usize>) -> Result<Known, Error> {
        let mut all = Vec::new();
        for row in rows {
            all.extend(self.stored.row(name, row, self.decoder.hidden_size)?);
        }
        Ok(Known::recorded(&all).map(|x| (x, 1.0, Noise { inputs: x.abs(), ..Noise::default() })))
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
        let runs = [Run { from: 0, to: 0, len: outputs }];
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
