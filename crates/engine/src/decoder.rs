//! What a model computes, as data: the description that a family makes of its `config.json`, and that
//! the forward pass walks over.
//!
//! Tensors are named as in the checkpoint; shapes are those of PyTorch (`[out_features, in_features]`).

use rheostat_kernels::{Activation, Bits};

use crate::rope::Rope;

/// A decoder-only language model.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// The family that described it (its `model_type`).
    pub family: &'static str,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Positions that the model is made for.
    pub context: usize,
    /// Embedding table `[vocab_size, hidden_size]`.
    pub embed: Table,
    /// The rotary embedding of every block.
    pub rope: Rope,
    /// The blocks in order.
    pub blocks: Vec<Block>,
    /// The norm after the last block.
    pub norm: Norm,
    /// The output projection `[vocab_size, hidden_size]`.
    pub head: Head,
}

/// A stored table of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The tensor.
    pub tensor: String,
}

/// Where the output projection comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// A tensor of its own.
    Own(Linear),
    /// The embedding table.
    Tied,
}

/// `x + mixer(norm(x))`, then `x + ffn(norm(x))`.
#[derive(Clone, Debug)]
pub struct Block {
    /// Norm before the mixer.
    pub mixer_norm: Norm,
    /// What carries information between positions.
    pub mixer: Attention,
    /// Norm before the feed-forward.
    pub ffn_norm: Norm,
    /// What works on each position alone.
    pub ffn: Gated,
}

/// RMS normalisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// The tensor of its weight.
    pub tensor: String,
    /// Elements that it normalises over.
    pub width: usize,
    /// Added to the mean square.
    pub eps: f32,
}

/// A linear map, `[out_features, in_features]` in the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    /// The tensor of its weight.
    pub weight: String,
    /// The tensor of its bias.
    pub bias: Option<String>,
    /// Elements of an input row.
    pub in_features: usize,
    /// Elements of an output row.
    pub out_features: usize,
    /// How the weight is packed, if it is: it is then stored as `….weight_packed`, `….weight_scale` and
    /// `….weight_shape`.
    pub packing: Option<Packing>,
}

/// How the weight of a linear map is stored as small integers with scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Bits of an element.
    pub bits: Bits,
    /// Consecutive elements of a row that share a scale; `None`: the whole row.
    pub group: Option<usize>,
}

impl Linear {
    /// The name of the module: that of the weight without its last part.
    #[must_use]
    pub fn module(&self) -> &str {
        self.weight.strip_suffix(".weight").unwrap_or(&self.weight)
    }
}

/// Softmax attention with grouped queries and rotary positions.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Query heads.
    pub n_heads: usize,
    /// Key-value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements of a query, key and value.
    pub head_dim: usize,
    /// A key at `j` is visible from `i` when `i - j < window`.
    pub window: Option<usize>,
    /// Factor of the scores.
    pub scale: f32,
    /// Query projection.
    pub q: Linear,
    /// Key projection.
    pub k: Linear,
    /// Value projection.
    pub v: Linear,
    /// Output projection.
    pub o: Linear,
    /// Norms of each query and key head, before the rotation.
    pub qk_norm: Option<QkNorm>,
}

/// Norms of each query and key head.
#[derive(Clone, Debug, PartialEq)]
pub struct QkNorm {
    /// Of queries.
    pub q: Norm,
    /// Of keys.
    pub k: Norm,
}

/// `down(act(gate(x)) · up(x))`.
#[derive(Clone, Debug)]
pub struct Gated {
    /// The non-linearity.
    pub act: Activation,
    /// Gate projection.
    pub gate: Linear,
    /// Up projection.
    pub up: Linear,
    /// Down projection.
    pub down: Linear,
}

impl Block {
    /// The block's linear maps, in the order in which the forward pass uses them.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let Attention { q, k, v, o, .. } = &self.mixer;
        let Gated { gate, up, down, .. } = &self.ffn;
        [q, k, v, o, gate, up, down].into_iter()
    }

    /// The block's norms.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        let qk = self.mixer.qk_norm.iter().flat_map(|n| [&n.q, &n.k]);
        [&self.mixer_norm, &self.ffn_norm].into_iter().chain(qk)
    }
}

impl Decoder {
    /// Every linear map, to change it.
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let blocks = self.blocks.iter_mut().flat_map(|block| {
            let Attention { q, k, v, o, .. } = &mut block.mixer;
            let Gated { gate, up, down, .. } = &mut block.ffn;
            [q, k, v, o, gate, up, down]
        });
        let head = match &mut self.head {
            Head::Own(linear) => Some(linear),
            Head::Tied => None,
        };
        blocks.chain(head)
    }

    /// Parameters that the description asks for (a tied head counts once).
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let linear = |l: &Linear| {
            let bias = if l.bias.is_some() { l.out_features } else { 0 };
            l.in_features as u64 * l.out_features as u64 + bias as u64
        };
        let block = |b: &Block| b.linears().map(linear).sum::<u64>() + b.norms().map(|n| n.width as u64).sum::<u64>();
        let head = match &self.head {
            Head::Own(own) => linear(own),
            Head::Tied => 0,
        };
        let table = self.vocab_size as u64 * self.hidden_size as u64;
        table + self.blocks.iter().map(block).sum::<u64>() + self.norm.width as u64 + head
    }
}
