//! What carries information between positions: attention and its alternatives.

use super::{KvShape, Linear, Norm, Part, Projection};
use rheostat_kernels::Pairing;

/// What carries information between positions.
#[derive(Clone, Debug)]
pub enum Mixer {
    /// Softmax attention.
    Attention(Box<Attention>),
    /// Softmax attention over a compressed cache (multi-head latent attention).
    Latent(Box<Latent>),
    /// Linear attention by the gated delta rule.
    Delta(Box<Delta>),
    /// A short convolution between gates.
    Conv(Box<ShortConv>),
}

/// Softmax attention with grouped queries.
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
    /// Scores become `c · tanh(score / c)`.
    pub soft_cap: Option<f32>,
    /// The tensor `[n_heads]` of scores that take part in the softmax and have no value.
    pub sinks: Option<String>,
    /// [`Part::Query`] `[n_heads, head_dim]`, [`Part::Key`] and [`Part::Value`] `[n_kv_heads, head_dim]`, and possibly
    /// [`Part::Gate`] `[n_heads, head_dim]`, by whose sigmoid the result is multiplied.
    pub inputs: Vec<Projection>,
    /// Queries, keys and values are kept within `[-clip, clip]`: after norms that come before the rotation.
    pub clip: Option<f32>,
    /// Norms of queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// The rotation of queries and keys; none: they do not know their position.
    pub rotary: Option<Rotary>,
    /// Output projection.
    pub o: Linear,
}

/// Norms of queries and keys: over each head, or over all heads together.
#[derive(Clone, Debug, PartialEq)]
pub struct QkNorm {
    /// Of queries.
    pub q: Norm,
    /// Of keys.
    pub k: Norm,
    /// When.
    pub place: QkNormPlace,
}

/// When queries and keys are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNormPlace {
    /// Before they are rotated.
    BeforeRotation,
    /// After.
    AfterRotation,
}

/// A rotation of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotary {
    /// Index in [`Decoder::ropes`](super::Decoder::ropes), which says how many elements of a head are rotated.
    pub rope: usize,
    /// The first of them.
    pub first: usize,
    /// Which elements turn together.
    pub pairing: Pairing,
}

impl Attention {
    /// Elements of a row's queries.
    #[must_use]
    pub fn width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Elements of a row's keys, and of its values.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Whether its result is gated.
    #[must_use]
    pub fn is_gated(&self) -> bool {
        self.inputs.iter().flat_map(|p| &p.pieces).any(|piece| piece.part == Part::Gate)
    }
}

/// Multi-head latent attention (DeepSeek-V2, section 2.1): the cache holds one compressed vector of `kv_rank` and one rotated
/// key of `rope_dim` elements for all heads.
#[derive(Clone, Debug)]
pub struct Latent {
    /// Heads.
    pub n_heads: usize,
    /// Elements of a query and key that are not rotated.
    pub nope_dim: usize,
    /// Elements that are.
    pub rope_dim: usize,
    /// Elements of a value.
    pub value_dim: usize,
    /// Elements of the compressed vector.
    pub kv_rank: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Queries `[n_heads, nope_dim + rope_dim]`.
    pub q: LatentQueries,
    /// To the compressed vector and the key to be rotated, `[kv_rank + rope_dim]`.
    pub kv_a: Linear,
    /// Norm of the compressed vector.
    pub kv_norm: Norm,
    /// From it to keys and values `[n_heads, nope_dim + value_dim]`.
    pub kv_b: Linear,
    /// The rotation.
    pub rotary: Rotary,
    /// Output projection, of `[n_heads, value_dim]`.
    pub o: Linear,
}

/// How the queries of latent attention are made.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "one for each layer")]
pub enum LatentQueries {
    /// By one map.
    Direct(Linear),
    /// By two, with a norm between.
    Compressed {
        /// To the compressed vector.
        a: Linear,
        /// Its norm.
        norm: Norm,
        /// From it to the queries.
        b: Linear,
    },
}

/// Linear attention by the gated delta rule (Gated DeltaNet; Qwen3-Next): a state `[v_heads, k_dim, v_dim]` instead of a cache.
#[derive(Clone, Debug)]
pub struct Delta {
    /// Heads of queries and keys.
    pub k_heads: usize,
    /// Heads of values; a multiple of `k_heads`.
    pub v_heads: usize,
    /// Elements of a query and key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// Positions that the convolution sees.
    pub kernel: usize,
    /// [`Part::Mixed`] (queries `[k_heads, k_dim]`, keys, values `[v_heads, v_dim]`), [`Part::Gate`] `[v_heads, v_dim]`,
    /// [`Part::Write`] and [`Part::Decay`] `[v_heads]`.
    pub inputs: Vec<Projection>,
    /// The tensor of the convolution `[channels, 1, kernel]` over what is mixed.
    pub conv: String,
    /// The tensor `[v_heads]` of the logarithms of the decay.
    pub a_log: String,
    /// The tensor `[v_heads]` that is added to what decides the decay.
    pub dt_bias: String,
    /// Norm of each head of the result, before it is multiplied by the gate.
    pub norm: Norm,
    /// Output projection, of `[v_heads, v_dim]`.
    pub o: Linear,
}

impl Delta {
    /// Channels of the convolution.
    #[must_use]
    pub fn channels(&self) -> usize {
        2 * self.k_heads * self.k_dim + self.v_heads * self.v_dim
    }
}

/// A short convolution between two gates (LFM2): `o(c · conv(b · x))`.
#[derive(Clone, Debug)]
pub struct ShortConv {
    /// Channels.
    pub channels: usize,
    /// Positions that it sees.
    pub kernel: usize,
    /// [`Part::Mixed`]: `b`, `c` and `x` side by side, each `[channels]`.
    pub inputs: Vec<Projection>,
    /// The tensor of the convolution `[channels, 1, kernel]`.
    pub conv: String,
    /// The tensor of its bias `[channels]`.
    pub conv_bias: Option<String>,
    /// Output projection.
    pub o: Linear,
}

impl Mixer {
    /// Softmax attention, if it is that.
    #[must_use]
    pub fn attention(&self) -> Option<&Attention> {
        match self {
            Mixer::Attention(attention) => Some(attention),
            Mixer::Latent(_) | Mixer::Delta(_) | Mixer::Conv(_) => None,
        }
    }

    /// Multiply-adds of a query position with each position that it sees: all its query heads' keys and values.
    #[must_use]
    pub fn attention_width(&self) -> usize {
        match self {
            Mixer::Attention(m) => 2 * m.width(),
            Mixer::Latent(m) => m.n_heads * (2 * m.kv_rank + m.rope_dim),
            Mixer::Delta(_) | Mixer::Conv(_) => 0,
        }
    }

    /// Its linear maps in the order of use.
    #[must_use]
    pub fn linears(&self) -> Vec<&Linear> {
        let (inputs, last) = match self {
            Mixer::Attention(m) => (&m.inputs, &m.o),
            Mixer::Delta(m) => (&m.inputs, &m.o),
            Mixer::Conv(m) => (&m.inputs, &m.o),
            Mixer::Latent(m) => {
                let mut linears = match &m.q {
                    LatentQueries::Direct(q) => vec![q],
                    LatentQueries::Compressed { a, b, .. } => vec![a, b],
                };
                linears.extend([&m.kv_a, &m.kv_b, &m.o]);
                return linears;
            }
        };
        inputs.iter().map(|p| &p.linear).chain([last]).collect()
    }

    pub(super) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let (inputs, last) = match self {
            Mixer::Attention(m) => (&mut m.inputs, &mut m.o),
            Mixer::Delta(m) => (&mut m.inputs, &mut m.o),
            Mixer::Conv(m) => (&mut m.inputs, &mut m.o),
            Mixer::Latent(m) => {
                let mut linears = match &mut m.q {
                    LatentQueries::Direct(q) => vec![q],
                    LatentQueries::Compressed { a, b, .. } => vec![a, b],
                };
                linears.extend([&mut m.kv_a, &mut m.kv_b, &mut m.o]);
                return linears;
            }
        };
        inputs.iter_mut().map(|p| &mut p.linear).chain([last]).collect()
    }

    /// Its norms.
    #[must_use]
    pub fn norms(&self) -> Vec<&Norm> {
        match self {
            Mixer::Attention(m) => m.qk_norm.iter().flat_map(|n| [&n.q, &n.k]).collect(),
            Mixer::Latent(m) => match &m.q {
                LatentQueries::Direct(_) => vec![&m.kv_norm],
                LatentQueries::Compressed { norm, .. } => vec![norm, &m.kv_norm],
            },
            Mixer::Delta(m) => vec![&m.norm],
            Mixer::Conv(_) => Vec::new(),
        }
    }

    /// Vectors besides norms and biases: names and number of elements.
    #[must_use]
    pub fn vectors(&self) -> Vec<(&str, usize)> {
        match self {
            Mixer::Attention(m) => m.sinks.iter().map(|name| (name.as_str(), m.n_heads)).collect(),
            Mixer::Latent(_) => Vec::new(),
            Mixer::Delta(m) => {
                vec![(&m.conv, m.channels() * m.kernel), (&m.a_log, m.v_heads), (&m.dt_bias, m.v_heads)]
            }
            Mixer::Conv(m) => {
                let bias = m.conv_bias.iter().map(|name| (name.as_str(), m.channels));
                [(m.conv.as_str(), m.channels * m.kernel)].into_iter().chain(bias).collect()
            }
        }
    }

    /// Keys and values that it keeps of a position, if it keeps any.
    #[must_use]
    pub fn kv(&self) -> Option<KvShape> {
        match self {
            Mixer::Attention(m) => Some(KvShape {
                n_kv_heads: m.n_kv_heads,
                head_dim: m.head_dim,
                value_dim: m.head_dim,
                window: m.window,
            }),
            Mixer::Latent(m) => {
                Some(KvShape { n_kv_heads: 1, head_dim: m.kv_rank + m.rope_dim, value_dim: m.kv_rank, window: None })
            }
            Mixer::Delta(_) | Mixer::Conv(_) => None,
        }
    }

    /// f32 elements of the state that it carries from position to position besides: of its convolution, and of its recurrence.
    #[must_use]
    pub fn state(&self) -> [usize; 2] {
        self.state_shapes().map(|shape| shape.map_or(0, |shape| shape.iter().product()))
    }

    /// Shapes of that state: the last inputs of its convolution `[kernel - 1, channels]`, the oldest first, and the matrices of
    /// its recurrence `[v_heads, k_dim, v_dim]`.
    #[must_use]
    pub fn state_shapes(&self) -> [Option<Vec<usize>>; 2] {
        match self {
            Mixer::Attention(_) | Mixer::Latent(_) => [None, None],
            Mixer::Delta(m) => [Some(vec![m.kernel - 1, m.channels()]), Some(vec![m.v_heads, m.k_dim, m.v_dim])],
            Mixer::Conv(m) => [Some(vec![m.kernel - 1, m.channels]), None],
        }
    }
}
