//! What a model computes, as data: the description that a family makes of its `config.json`, and that
//! the forward pass walks over.
//!
//! Tensors are named as in the checkpoint; shapes are those of PyTorch (`[out_features, in_features]`).

mod experts;
mod join;
mod linear;
mod mixer;
mod names;
mod words;

pub use experts::{Experts, GroupScore, Groups, Normalise, Router, Scores, Shared};
pub use linear::{
    Fp8Block, Fp8Scales, GptqPacking, Layout, Linear, Norm, NormKind, Packing, Part, Piece, Projection, Slab, Slice,
    Storage,
};
pub use mixer::{Attention, Delta, Latent, LatentQueries, Mixer, QkNorm, QkNormPlace, Rotary, ShortConv};
pub use rheostat_kernels::{Activation, Bits, GptqZeros, Pairing, Zeros};

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
    /// From tokens to the residual stream.
    pub embed: Embedding,
    /// The rotary embeddings that blocks use, by index.
    pub ropes: Vec<Rope>,
    /// The blocks in order.
    pub blocks: Vec<Block>,
    /// The norm after the last block.
    pub norm: Norm,
    /// The output projection `[vocab_size, hidden_size]`.
    pub head: Head,
    /// What becomes of the products with the head.
    pub logits: Logits,
    /// Beginnings of the names of tensors that belong to other parts of the checkpoint (an image encoder, layers that only
    /// training uses), which are left alone.
    pub ignored: Vec<String>,
}

/// From tokens to the residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// The table `[vocab_size, hidden_size]`.
    pub tensor: String,
    /// What its rows are multiplied by.
    pub scale: f32,
    /// Learned positions that are added.
    pub positions: Option<Positions>,
}

/// A table of learned positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions {
    /// The table `[rows, hidden_size]`; row `p` is that of position `p`.
    pub tensor: String,
    /// Its rows: positions beyond do not exist.
    pub rows: usize,
}

/// Where the output projection comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// A tensor of its own.
    Own(Linear),
    /// The embedding table.
    Tied,
}

/// What becomes of the products with the head, in this order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logits {
    /// They are multiplied by this.
    pub scale: f32,
    /// `c · tanh(x / c)`.
    pub soft_cap: Option<f32>,
}

impl Default for Logits {
    fn default() -> Logits {
        Logits { scale: 1.0, soft_cap: None }
    }
}

/// A layer: a mixer and a feed-forward, whose outputs are added to the residual stream.
#[derive(Clone, Debug)]
pub struct Block {
    /// Norm before the mixer.
    pub mixer_norm: Option<Norm>,
    /// What carries information between positions.
    pub mixer: Mixer,
    /// Norm of what the mixer gives, before it is added.
    pub mixer_post_norm: Option<Norm>,
    /// Norm before the feed-forward. Without one, a parallel feed-forward takes what the mixer took, and a serial one the
    /// residual stream as it is.
    pub ffn_norm: Option<Norm>,
    /// What works on each position alone; a layer may have none.
    pub ffn: Ffn,
    /// Norm of what the feed-forward gives, before it is added.
    pub ffn_post_norm: Option<Norm>,
    /// What the feed-forward works on.
    pub flow: Flow,
    /// What both outputs are multiplied by before they are added.
    pub residual_scale: f32,
}

/// What a block's feed-forward works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The residual stream after the mixer.
    Serial,
    /// What the mixer worked on: both are added together.
    Parallel,
}

/// What works on each position alone.
#[derive(Clone, Debug)]
pub enum Ffn {
    /// `down(act(gate(x)) · up(x))`.
    Gated(Gated),
    /// `down(act(up(x)))`.
    Plain(Plain),
    /// A mixture of experts.
    Experts(Box<Experts>),
}

/// `down(act(gate(x)) · up(x))`.
#[derive(Clone, Debug)]
pub struct Gated {
    /// The non-linearity.
    pub act: Activation,
    /// Elements of `gate` and of `up`.
    pub intermediate: usize,
    /// [`Part::Gate`] and [`Part::Up`].
    pub inputs: Vec<Projection>,
    /// Down projection.
    pub down: Linear,
}

/// `down(act(up(x)))`.
#[derive(Clone, Debug)]
pub struct Plain {
    /// The non-linearity.
    pub act: Nonlinearity,
    /// Up projection.
    pub up: Linear,
    /// Down projection.
    pub down: Linear,
}

/// The non-linearity of a feed-forward without a gate.
#[derive(Clone, Debug, PartialEq)]
pub enum Nonlinearity {
    /// One without parameters.
    Fixed(Activation),
    /// xIELU, whose parameters are tensors.
    Xielu(Xielu),
}

/// The tensors of xIELU, of one element each (`activations.py::XIELUActivation`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xielu {
    /// Its softplus is the factor of the square above zero.
    pub alpha_p: String,
    /// Its softplus and `beta` are the factor of the exponential below.
    pub alpha_n: String,
    /// The slope at zero.
    pub beta: String,
    /// Where the exponential ends below zero.
    pub eps: String,
}

impl Xielu {
    /// The tensors of the module `name`.
    #[must_use]
    pub fn new(name: &str) -> Xielu {
        let tensor = |last: &str| format!("{name}.{last}");
        Xielu { alpha_p: tensor("alpha_p"), alpha_n: tensor("alpha_n"), beta: tensor("beta"), eps: tensor("eps") }
    }

    /// The names of the tensors, in the order that `Xielu::activation` takes them in.
    #[must_use]
    pub fn tensors(&self) -> [&str; 4] {
        [&self.alpha_p, &self.alpha_n, &self.beta, &self.eps]
    }

    /// The function, from what the tensors hold.
    pub(crate) fn activation([alpha_p, alpha_n, beta, eps]: [f32; 4]) -> Activation {
        // As torch's softplus, which is the identity above 20.
        let softplus = |x: f32| if x > 20.0 { x } else { libm::log1p(libm::exp(f64::from(x))) as f32 };
        Activation::Xielu { alpha_p: softplus(alpha_p), alpha_n: beta + softplus(alpha_n), beta, eps }
    }
}

impl Gated {
    /// Of separate gate and up projections.
    #[must_use]
    pub fn new(act: Activation, gate: Linear, up: Linear, down: Linear) -> Gated {
        let intermediate = gate.out_features;
        let inputs = vec![Projection::whole(gate, Part::Gate), Projection::whole(up, Part::Up)];
        Gated { act, intermediate, inputs, down }
    }

    /// Its linear maps, in the order of use.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.inputs.iter().map(|p| &p.linear).chain([&self.down])
    }

    fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.inputs.iter_mut().map(|p| &mut p.linear).chain([&mut self.down])
    }
}

impl Ffn {
    /// Its linear maps that every row passes through, in the order of use; routed experts are not among them.
    #[must_use]
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Ffn::Gated(gated) => gated.linears().collect(),
            Ffn::Plain(plain) => vec![&plain.up, &plain.down],
            Ffn::Experts(experts) => experts.linears(),
        }
    }

    /// The same to change them, and those of the expert that stands for all.
    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Ffn::Gated(gated) => gated.linears_mut().collect(),
            Ffn::Plain(plain) => vec![&mut plain.up, &mut plain.down],
            Ffn::Experts(experts) => experts.linears_mut(),
        }
    }

    /// The routed experts, if it has any.
    #[must_use]
    pub fn experts(&self) -> Option<&Experts> {
        match self {
            Ffn::Experts(experts) => Some(experts),
            Ffn::Gated(_) | Ffn::Plain(_) => None,
        }
    }

    /// Elements of a row between its products, at the widest.
    #[must_use]
    pub fn intermediate(&self) -> usize {
        match self {
            Ffn::Gated(gated) => gated.intermediate,
            Ffn::Plain(plain) => plain.up.out_features,
            Ffn::Experts(experts) => {
                experts.shared.as_ref().map_or(0, |s| s.ffn.intermediate).max(experts.expert.intermediate)
            }
        }
    }
}

impl Block {
    /// A pre-norm block, as Llama's: `x + mixer(norm(x))`, then `x + ffn(norm(x))`.
    #[must_use]
    pub fn pre_norm(mixer_norm: Norm, mixer: Mixer, ffn_norm: Norm, ffn: Ffn) -> Block {
        Block {
            mixer_norm: Some(mixer_norm),
            mixer,
            mixer_post_norm: None,
            ffn_norm: Some(ffn_norm),
            ffn,
            ffn_post_norm: None,
            flow: Flow::Serial,
            residual_scale: 1.0,
        }
    }

    /// The block's linear maps that every row passes through, in the order in which the forward pass uses them. Routed
    /// experts are not among them.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.mixer.linears().into_iter().chain(self.ffn.linears())
    }

    /// The block's norms.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        let own = [&self.mixer_norm, &self.mixer_post_norm, &self.ffn_norm, &self.ffn_post_norm];
        own.into_iter().flatten().chain(self.mixer.norms())
    }

    /// Every vector besides norms and biases: names and number of elements.
    #[must_use]
    pub fn vectors(&self) -> Vec<(&str, usize)> {
        let mut all = self.mixer.vectors();
        match &self.ffn {
            Ffn::Gated(_) | Ffn::Plain(Plain { act: Nonlinearity::Fixed(_), .. }) => {}
            Ffn::Plain(Plain { act: Nonlinearity::Xielu(act), .. }) => {
                all.extend(act.tensors().map(|name| (name, 1)));
            }
            Ffn::Experts(experts) => {
                all.extend(experts.router.correction_bias.as_deref().map(|name| (name, experts.n_experts)));
            }
        }
        all
    }

    /// Keys and values that it keeps of a position, if it keeps any.
    #[must_use]
    pub fn kv(&self) -> Option<KvShape> {
        self.mixer.kv()
    }

    /// f32 elements of the state that it carries from position to position besides.
    #[must_use]
    pub fn state(&self) -> usize {
        self.mixer.state().iter().sum()
    }
}

/// What a block keeps of a position in the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvShape {
    /// Key-value heads.
    pub n_kv_heads: usize,
    /// Elements of a key.
    pub head_dim: usize,
    /// Elements of a value.
    pub value_dim: usize,
    /// What its queries see: see [`Attention::window`].
    pub window: Option<usize>,
}

impl Decoder {
    /// Every linear map, to change it; of routed experts the one that stands for all.
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let blocks = self.blocks.iter_mut().flat_map(|block| {
            let mut all = block.mixer.linears_mut();
            all.extend(block.ffn.linears_mut());
            all
        });
        let head = match &mut self.head {
            Head::Own(linear) => Some(linear),
            Head::Tied => None,
        };
        blocks.chain(head)
    }

    /// Every linear map of every block and the head, those of every expert among them, in the order of use.
    pub fn all_linears(&self) -> impl Iterator<Item = Linear> {
        let blocks = self.blocks.iter().flat_map(|block| {
            let own: Vec<Linear> = block.linears().cloned().collect();
            let routed = block.ffn.experts().map(|experts| {
                (0..experts.n_experts).flat_map(|e| experts.expert(e).linears().cloned().collect::<Vec<_>>())
            });
            own.into_iter().chain(routed.into_iter().flatten())
        });
        let head = match &self.head {
            Head::Own(own) => Some(own.clone()),
            Head::Tied => None,
        };
        blocks.chain(head)
    }

    /// Whether a block carries a state from position to position that cannot be rolled back as a cache can.
    #[must_use]
    pub fn has_state(&self) -> bool {
        self.blocks.iter().any(|b| b.state() > 0)
    }

    /// Whether any block has routed experts.
    #[must_use]
    pub fn has_experts(&self) -> bool {
        self.blocks.iter().any(|b| b.ffn.experts().is_some())
    }

    /// Parameters that the description asks for (a tied head counts once).
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let block = |b: &Block| {
            let routed = b.ffn.experts().map_or(0, |experts| {
                experts.n_experts as u64 * experts.expert.linears().map(Linear::parameters).sum::<u64>()
            });
            let vectors: usize = b.norms().map(Norm::parameters).sum::<usize>();
            let others: usize = b.vectors().iter().map(|(_, n)| n).sum();
            routed + b.linears().map(Linear::parameters).sum::<u64>() + (vectors + others) as u64
        };
        let head = match &self.head {
            Head::Own(own) => own.parameters(),
            Head::Tied => 0,
        };
        let positions = self.embed.positions.as_ref().map_or(0, |p| p.rows * self.hidden_size) as u64;
        let table = self.vocab_size as u64 * self.hidden_size as u64;
        let norm = self.norm.parameters() as u64;
        table + positions + self.blocks.iter().map(block).sum::<u64>() + norm + head
    }
}
