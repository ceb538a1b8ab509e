//! Linear maps and norms, and how checkpoints store them: alone, or as parts of larger tensors.

use rheostat_kernels::{Bits, GptqZeros, Zeros};

/// A linear map, `[out_features, in_features]` in the checkpoint unless its layout says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    /// The tensor of its weight. In an expert that stands for all, `{}` in a name is the number of the expert.
    pub weight: String,
    /// The tensor of its bias.
    pub bias: Option<String>,
    /// Elements of an input row.
    pub in_features: usize,
    /// Elements of an output row.
    pub out_features: usize,
    /// The order of its elements.
    pub layout: Layout,
    /// Which part of the tensors it is, if they hold more.
    pub slice: Slice,
    /// The form in which its elements are stored.
    pub storage: Storage,
}

/// The order of the elements of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[out_features, in_features]`, as `nn.Linear` has it.
    OutIn,
    /// `[in_features, out_features]`, as GPT-2's `Conv1D` has it.
    InOut,
}

/// Which part of a tensor belongs to a linear map: of its slab, rows from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Slice {
    /// Of a tensor with one more axis in front: the place along it.
    pub slab: Option<Slab>,
    /// The first of its rows; a bias is cut alike.
    pub first: usize,
    /// Rows of the tensor (or slab); 0: just those of the map.
    pub of: usize,
}

/// One of the slabs that a tensor `[of, …]` consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slab {
    /// Which.
    pub index: usize,
    /// How many there are.
    pub of: usize,
}

/// The form in which the elements of a linear map are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Floating-point numbers of 16 or 32 bits.
    Float,
    /// Small integers as compressed-tensors packs them: `….weight_packed`, `….weight_scale`, `….weight_shape` and, as far as there are
    /// such, `….weight_zero_point` and `….weight_g_idx`; `[out_features, in_features]` whatever the layout.
    Packed(Packing),
    /// Numbers of 8 bits (e4m3) and their scales.
    Fp8(Fp8Scales),
    /// Numbers of 4 bits with a scale for each 32 (`…_blocks` and `…_scales`), `[out_features, in_features]` whatever the layout.
    Mxfp4,
    /// GPTQ: `….qweight`, `….qzeros`, `….scales` and possibly `….g_idx`.
    Gptq(GptqPacking),
    /// AWQ, in the layout called GEMM: `….qweight`, `….qzeros` and `….scales`.
    Awq {
        /// Consecutive inputs that share a scale; `None`: all.
        group: Option<usize>,
    },
}

/// How the weight of a linear map is stored as small integers with scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Bits of an element.
    pub bits: Bits,
    /// Consecutive elements of a row that share a scale; `None`: the whole row.
    pub group: Option<usize>,
    /// Whether there are zero points.
    pub zeros: Zeros,
}

/// Scales of numbers of 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fp8Scales {
    /// What follows the name of the module in that of their tensor.
    pub suffix: &'static str,
    /// Which elements share one.
    pub block: Fp8Block,
}

/// Which elements of a matrix share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fp8Block {
    /// All.
    Tensor,
    /// Those of a row.
    Row,
    /// Those of a block of rows and columns.
    Block(usize, usize),
}

/// How GPTQ packed a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GptqPacking {
    /// Bits of an element.
    pub bits: Bits,
    /// Consecutive inputs that share a scale; `None`: all.
    pub group: Option<usize>,
    /// How zero points are stored.
    pub zeros: GptqZeros,
}

impl Linear {
    /// A map whose weight is the tensor `weight`, without a bias.
    #[must_use]
    pub fn new(weight: impl Into<String>, in_features: usize, out_features: usize) -> Linear {
        Linear {
            weight: weight.into(),
            bias: None,
            in_features,
            out_features,
            layout: Layout::OutIn,
            slice: Slice::default(),
            storage: Storage::Float,
        }
    }

    /// With a bias called as the weight, if `has` says so.
    #[must_use]
    pub fn biased(mut self, has: bool) -> Linear {
        self.bias = has.then(|| format!("{}.bias", self.module()));
        self
    }

    /// With the bias `tensor`.
    #[must_use]
    pub fn with_bias(mut self, tensor: impl Into<String>) -> Linear {
        self.bias = Some(tensor.into());
        self
    }

    /// Rows `first ..` of tensors that have `of` of them.
    #[must_use]
    pub fn rows(mut self, first: usize, of: usize) -> Linear {
        (self.slice.first, self.slice.of) = (first, of);
        self
    }

    /// One slab of a tensor `[of, …]`, which the number of the expert chooses.
    #[must_use]
    pub fn slab(mut self, of: usize) -> Linear {
        self.slice.slab = Some(Slab { index: 0, of });
        self
    }

    /// Stored as `[in_features, out_features]`.
    #[must_use]
    pub fn transposed(mut self) -> Linear {
        self.layout = Layout::InOut;
        self
    }

    /// The name of the module: that of the weight without its last part.
    #[must_use]
    pub fn module(&self) -> &str {
        self.weight.strip_suffix(".weight").unwrap_or(&self.weight)
    }

    /// Whether its elements are quantised.
    #[must_use]
    pub fn is_quantized(&self) -> bool {
        self.storage != Storage::Float
    }

    /// Elements of weight and bias.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let bias = if self.bias.is_some() { self.out_features } else { 0 };
        self.in_features as u64 * self.out_features as u64 + bias as u64
    }

    /// The map of expert `e`, of one that stands for all.
    #[must_use]
    pub(super) fn of_expert(&self, e: usize) -> Linear {
        let named = |name: &String| name.replace("{}", &e.to_string());
        let slab = self.slice.slab.map(|slab| Slab { index: e, ..slab });
        Linear {
            weight: named(&self.weight),
            bias: self.bias.as_ref().map(named),
            slice: Slice { slab, ..self.slice },
            ..*self
        }
    }
}

/// What a part of a projection's output is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Queries.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
    /// What gates the output of a mixer, or the gate of a feed-forward.
    Gate,
    /// The other factor of a gated feed-forward.
    Up,
    /// Of linear attention: queries, keys and values side by side, before the convolution; of a short convolution, what
    /// gates its input, what gates its output, and the input.
    Mixed,
    /// Of linear attention: what decides the decay.
    Decay,
    /// Of linear attention: what decides how much is written.
    Write,
}

/// A linear map of a sublayer's input and what its output is for.
#[derive(Clone, Debug)]
pub struct Projection {
    /// The map.
    pub linear: Linear,
    /// Where its outputs go; all of them go somewhere.
    pub pieces: Vec<Piece>,
}

/// Consecutive outputs of a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What they are for.
    pub part: Part,
    /// First output.
    pub from: usize,
    /// First element of the part.
    pub to: usize,
    /// How many.
    pub len: usize,
}

impl Projection {
    /// One whose output is a part as a whole.
    #[must_use]
    pub fn whole(linear: Linear, part: Part) -> Projection {
        let len = linear.out_features;
        Projection { linear, pieces: vec![Piece { part, from: 0, to: 0, len }] }
    }

    /// One whose output is made of `groups` groups, each of which has `len` elements of every part in turn.
    #[must_use]
    pub fn grouped(linear: Linear, groups: usize, parts: &[(Part, usize)]) -> Projection {
        let width: usize = parts.iter().map(|(_, len)| len).sum();
        let pieces = (0..groups).flat_map(|g| {
            let mut from = g * width;
            parts.iter().map(move |(part, len)| {
                let piece = Piece { part: *part, from, to: g * len, len: *len };
                from += len;
                piece
            })
        });
        Projection { pieces: pieces.collect(), linear }
    }

    /// Whether its output is one part from the first element on.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self.pieces[..], [Piece { from: 0, to: 0, len, .. }] if len == self.linear.out_features)
    }
}

/// How rows are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Divided by the root of the mean square.
    Rms,
    /// The mean taken away, divided by the standard deviation.
    Layer,
}

/// Normalisation over `width` elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// How.
    pub kind: NormKind,
    /// The tensor of its weight, or several that lie one after the other; none: no weight.
    pub weights: Vec<String>,
    /// The tensor of its bias.
    pub bias: Option<String>,
    /// Elements that it normalises over.
    pub width: usize,
    /// Weights of its own has each of so many neighbouring groups of `width`.
    pub groups: usize,
    /// Added to the mean square, or to the variance.
    pub eps: f32,
    /// Added to the stored weight: 1 where it is stored as a difference from 1.
    pub offset: f32,
}

impl Norm {
    /// RMS norm with the weight `tensor`.
    #[must_use]
    pub fn rms(tensor: impl Into<String>, width: usize, eps: f32) -> Norm {
        Norm { kind: NormKind::Rms, weights: vec![tensor.into()], bias: None, width, groups: 1, eps, offset: 0.0 }
    }

    /// Layer norm of the module `name`, whose weight is `name.weight` and whose bias, if it `has` one, is `name.bias`.
    #[must_use]
    pub fn layer(name: impl AsRef<str>, has: bool, width: usize, eps: f32) -> Norm {
        let name = name.as_ref();
        let bias = has.then(|| format!("{name}.bias"));
        Norm { kind: NormKind::Layer, bias, ..Norm::rms(format!("{name}.weight"), width, eps) }
    }

    /// Without weight and bias.
    #[must_use]
    pub fn bare(kind: NormKind, width: usize, eps: f32) -> Norm {
        Norm { kind, weights: Vec::new(), bias: None, width, groups: 1, eps, offset: 0.0 }
    }

    /// With a weight that is stored as a difference from 1.
    #[must_use]
    pub fn zero_centred(self) -> Norm {
        Norm { offset: 1.0, ..self }
    }

    /// Elements of weight and bias.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let weight = if self.weights.is_empty() { 0 } else { self.width * self.groups };
        let bias = if self.bias.is_some() { self.width * self.groups } else { 0 };
        weight + bias
    }
}
