//! The operations of a model, in the order in which they are computed, each with the hook point that it gives, those that it takes, and its
//! parameters: the forward pass once more, as a list.
//!
//! It follows `forward/` step by step. Where the pass has a step between two hook points that has no name of its own, the list has an
//! *internal* point (its name begins with `=`): nobody records it, and it is always computed from what was.

mod ffn;
mod list;
mod mixers;
mod words;

use crate::decoder::{Activation, Decoder, Experts, Linear, Nonlinearity, Norm, Pairing};
use crate::diff::exact::recurrent::Heads;
use crate::diff::exact::router::Choice;
use crate::diff::tensor::Axes;
use list::List;

/// An operation: what gives the value of a hook point.
#[derive(Clone, Debug)]
pub struct Op {
    /// The point that it gives.
    pub point: String,
    /// The block it is in.
    pub block: Option<usize>,
    /// The points that it takes, in the order that the operation says.
    pub inputs: Vec<String>,
    /// What it does.
    pub operation: Operation,
    /// Only where this point was recorded: then it comes before the operation of the same point that follows.
    pub only_with: Option<String>,
    /// The extents of a row of the point; of scores and patterns, the heads.
    pub shape: Vec<usize>,
}

/// Consecutive outputs of a linear map, and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first of them.
    pub from: usize,
    /// The first element of the point.
    pub to: usize,
    /// How many.
    pub len: usize,
}

/// A linear map of which some outputs are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outputs {
    /// The map.
    pub linear: Linear,
    /// The outputs.
    pub runs: Vec<Run>,
}

/// What an operation does with its inputs, row by row unless it says otherwise.
#[derive(Clone, Debug)]
pub enum Operation {
    /// The token's row of a table, times a factor. Takes no point.
    Embed {
        /// The table `[vocab_size, hidden_size]`.
        tensor: String,
        /// The factor.
        scale: f32,
    },
    /// The position's row of a table. Takes no point.
    Positions {
        /// The table `[positions, hidden_size]`.
        tensor: String,
    },
    /// The same.
    Copy,
    /// The sum of two or three points.
    Add,
    /// Times a factor.
    Scale {
        /// The factor.
        by: f32,
    },
    /// `cap · tanh(x / cap)`.
    SoftCap {
        /// The cap.
        cap: f32,
    },
    /// Kept within `[-limit, limit]`.
    Clamp {
        /// The limit.
        limit: f32,
    },
    /// Of every group of elements some that follow each other.
    Columns {
        /// Elements of a group.
        width: usize,
        /// The first that is taken.
        first: usize,
        /// How many are.
        len: usize,
    },
    /// The heads of two points side by side; the second may have one head for all.
    Join {
        /// Heads.
        heads: usize,
        /// Elements of a head of either.
        widths: [usize; 2],
    },
    /// What a norm divides by.
    NormScale {
        /// The norm.
        norm: Norm,
    },
    /// The first point normalised by the second, which is the scale.
    Normalize {
        /// The norm.
        norm: Norm,
    },
    /// Weight and bias of a norm, over the first point; the second is what was normalised.
    NormWeight {
        /// The norm.
        norm: Norm,
    },
    /// A norm as a whole, over the groups of a row.
    Norm {
        /// The norm.
        norm: Norm,
        /// Groups of a row.
        groups: usize,
    },
    /// A linear map, or parts of several.
    Linear {
        /// Where outputs come from.
        from: Vec<Outputs>,
        /// Elements of a row of the result.
        width: usize,
    },
    /// Rotary position embedding.
    Rotate {
        /// Index in [`Decoder::ropes`].
        rope: usize,
        /// Which elements turn together.
        pairing: Pairing,
        /// The first that turns.
        first: usize,
        /// Heads of a row.
        heads: usize,
        /// Elements of a head.
        head_dim: usize,
    },
    /// Scores of queries (the first point) and keys (the second), of all rows.
    Scores {
        /// Query heads.
        n_heads: usize,
        /// Key heads.
        n_kv_heads: usize,
        /// Elements of a head.
        head_dim: usize,
        /// Their factor.
        scale: f32,
        /// `cap · tanh(x / cap)`.
        soft_cap: Option<f32>,
        /// Positions that are seen.
        window: Option<usize>,
    },
    /// The softmax of scores.
    Pattern {
        /// Heads.
        n_heads: usize,
        /// The tensor `[n_heads]` of sinks.
        sinks: Option<String>,
    },
    /// Values (the second point, all rows) weighted by a pattern (the first).
    Weigh {
        /// Query heads.
        n_heads: usize,
        /// Value heads.
        n_kv_heads: usize,
        /// Elements of a value.
        value_dim: usize,
    },
    /// The first point times the sigmoid of the second, which has as many elements.
    SigmoidGate,
    /// The first point times the sigmoid of the second, which has one element for a row.
    RowGate,
    /// What each head adds to the output of a linear map.
    HeadOutputs {
        /// Heads.
        n_heads: usize,
        /// Elements of a head.
        value_dim: usize,
        /// The map.
        linear: Linear,
    },
    /// The sum of that, and the bias.
    SumOfHeads {
        /// Heads.
        n_heads: usize,
        /// The map.
        linear: Linear,
    },
    /// The non-linearity of a feed-forward without a gate.
    Activation {
        /// The function.
        act: Nonlinearity,
    },
    /// `act(first) · second`.
    Gate {
        /// The function.
        act: Activation,
    },
    /// The scores of experts from their logits.
    RouterScores {
        /// The router.
        choice: Choice,
    },
    /// The chosen experts from logits.
    Choose {
        /// The router.
        choice: Choice,
        /// The tensor that is added for the choice.
        bias: Option<String>,
    },
    /// The weights of chosen experts: from logits, and the choice.
    ChosenWeights {
        /// The router.
        choice: Choice,
        /// The tensor that is added for the choice.
        bias: Option<String>,
    },
    /// The sum over chosen experts: of rows (the first point), the choice and the weights.
    Experts {
        /// The mixture.
        experts: Box<Experts>,
    },
    /// A convolution over positions and its SiLU; takes all rows.
    Convolution {
        /// The tensor `[channels, 1, taps]`.
        tensor: String,
        /// Positions that it sees.
        taps: usize,
    },
    /// The logarithm of the decay of a state.
    Decay {
        /// The tensor `[heads]` of rates.
        a_log: String,
        /// The tensor `[heads]` that is added.
        dt_bias: String,
    },
    /// `1 / (1 + e^−x)`.
    Sigmoid,
    /// The state of a gated delta rule after a row: from what was convolved, decays and shares of all rows.
    DeltaState {
        /// Its sizes.
        heads: Heads,
    },
    /// What is read from the state, likewise.
    DeltaRead {
        /// Its sizes.
        heads: Heads,
    },
    /// The norm of the first point times the SiLU of the second.
    GatedNorm {
        /// The norm.
        norm: Norm,
    },
    /// `c · conv(b · x)` of rows of `b`, `c` and `x`; takes all rows.
    GatedConvolution {
        /// The tensor `[channels, 1, taps]`.
        tensor: String,
        /// The tensor of the bias.
        bias: Option<String>,
        /// Positions that it sees.
        taps: usize,
    },
}

impl Op {
    /// The shape of the point with `rows` rows, of a text whose last recorded position is `keys - 1`.
    #[must_use]
    pub fn full_shape(&self, rows: usize, keys: usize) -> Vec<usize> {
        match Axes::of(&self.point) {
            Axes::Rows => std::iter::once(rows).chain(self.shape.iter().copied()).collect(),
            Axes::Heads => self.shape.iter().copied().chain([rows, keys]).collect(),
        }
    }

    /// Whether the point has no name that anybody records.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.point.starts_with('=')
    }

    /// The point without its block.
    #[must_use]
    pub fn place(&self) -> &str {
        let rest = self.point.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
        rest.map_or(self.point.as_str(), |(_, place)| place)
    }

    /// Whether values of the point can be replaced in a pass; else they are only read.
    #[must_use]
    pub fn can_be_replaced(&self) -> bool {
        !["hook_expert_weights", "hook_expert_indices", "hook_state"].iter().any(|last| self.point.ends_with(last))
    }

    /// The linear maps whose weights it multiplies with; of routed experts the one that stands for all.
    #[must_use]
    pub fn linears(&self) -> Vec<&Linear> {
        match &self.operation {
            Operation::Linear { from, .. } => from.iter().map(|outputs| &outputs.linear).collect(),
            Operation::HeadOutputs { linear, .. } | Operation::SumOfHeads { linear, .. } => vec![linear],
            Operation::Experts { experts } => experts.expert.linears().collect(),
            _ => Vec::new(),
        }
    }

    /// The names of the tensors it computes with; in those of routed experts `{}` stands for the number.
    #[must_use]
    pub fn tensors(&self) -> Vec<String> {
        let some = |names: &[Option<&String>]| names.iter().flatten().map(|name| (*name).clone()).collect();
        match &self.operation {
            Operation::Embed { tensor, .. } | Operation::Positions { tensor } => vec![tensor.clone()],
            Operation::NormWeight { norm } | Operation::Norm { norm, .. } | Operation::GatedNorm { norm } => {
                norm.weights.iter().chain(&norm.bias).cloned().collect()
            }
            Operation::SumOfHeads { linear, .. } => linear.bias.iter().cloned().collect(),
            Operation::Pattern { sinks, .. } => some(&[sinks.as_ref()]),
            Operation::Activation { act: Nonlinearity::Xielu(act) } => act.tensors().map(str::to_owned).to_vec(),
            Operation::Choose { bias, .. } | Operation::ChosenWeights { bias, .. } => some(&[bias.as_ref()]),
            Operation::Convolution { tensor, .. } => vec![tensor.clone()],
            Operation::GatedConvolution { tensor, bias, .. } => some(&[Some(tensor), bias.as_ref()]),
            Operation::Decay { a_log, dt_bias } => vec![a_log.clone(), dt_bias.clone()],
            _ => self.linears().iter().flat_map(|l| [Some(&l.weight), l.bias.as_ref()]).flatten().cloned().collect(),
        }
    }
}

/// All operations of `decoder`, in order. Every point that one of them takes is given by one before it.
#[must_use]
pub fn operations(decoder: &Decoder) -> Vec<Op> {
    let mut list = List { hidden: decoder.hidden_size, ..List::default() };
    let embed = &decoder.embed;
    list.push("hook_embed", &[], Operation::Embed { tensor: embed.tensor.clone(), scale: embed.scale });
    if let Some(positions) = &embed.positions {
        list.push("hook_pos_embed", &[], Operation::Positions { tensor: positions.tensor.clone() });
    }
    for (i, block) in decoder.blocks.iter().enumerate() {
        list.block = Some(i);
        match (i, &embed.positions) {
            (0, Some(_)) => list.push("hook_resid_pre", &["^hook_embed", "^hook_pos_embed"], Operation::Add),
            (0, None) => list.push("hook_resid_pre", &["^hook_embed"], Operation::Copy),
            _ => {
                let before = format!("^blocks.{}.hook_resid_post", i - 1);
                list.push("hook_resid_pre", &[&before], Operation::Copy);
            }
        }
        list.block(block);
    }
    list.block = None;
    let last = match decoder.blocks.len() {
        0 => "hook_embed".to_owned(),
        n => format!("blocks.{}.hook_resid_post", n - 1),
    };
    let normed = list.norm("ln_final", &last, &decoder.norm, Some("ln_final.hook_out"));
    list.head(decoder, &normed);
    list.ops
}

#[cfg(test)]
mod tests;
