//! The shape that Llama and its kin share: pre-norm blocks of rotary attention and a gated feed-forward,
//! with the tensor names of transformers' `modeling_llama.py`. Families that differ change what comes out.

use super::Tensors;
use super::parts::{KvHeads, Sizes, activation, eps};
use crate::config::{ConfigError, Keys, RopeDefaults, read_rope};
use crate::decoder::{Block, Decoder, Ffn, Gated, Linear, Mixer, Norm, NormKind, QkNorm, QkNormPlace};

/// What sets one dense family apart from another.
pub(super) struct Dense {
    pub(super) family: &'static str,
    /// Key-value heads where the config has no such key (null always means: as many as query heads).
    pub(super) kv_heads: KvHeads,
    /// `head_dim` where the config has none; otherwise `hidden_size / num_attention_heads`.
    pub(super) head_dim: Option<usize>,
    /// `max_position_embeddings` where the config has none.
    pub(super) context: usize,
    pub(super) biases: Biases,
    /// The last part of the names of the query and key norms, over each head.
    pub(super) qk_norm: Option<[&'static str; 2]>,
    /// All norms but those of queries and keys, which are RMS.
    pub(super) norm: NormStyle,
    /// The key of the number that is added in norms, and what it is without the key.
    pub(super) eps: (&'static str, f64),
    /// Where the config says nothing.
    pub(super) rope: RopeDefaults,
    pub(super) tied: bool,
    pub(super) act: &'static str,
}

impl Default for Dense {
    fn default() -> Dense {
        Dense {
            family: "llama",
            kv_heads: KvHeads::AsQueryHeads,
            head_dim: None,
            context: 2048,
            biases: Biases::default(),
            qk_norm: None,
            norm: NormStyle::Rms,
            eps: ("rms_norm_eps", 1e-6),
            rope: RopeDefaults::default(),
            tied: false,
            act: "silu",
        }
    }
}

/// Which projections have a bias.
#[derive(Clone, Copy, Default)]
pub(super) struct Biases {
    pub(super) qkv: bool,
    pub(super) o: bool,
    pub(super) mlp: bool,
}

/// How rows are normalised, and with what.
#[derive(Clone, Copy)]
pub(super) enum NormStyle {
    /// RMS, with a weight.
    Rms,
    /// RMS, with a weight that is stored as a difference from 1.
    ZeroCentred,
    /// Layer norm, with a weight and possibly a bias.
    Layer {
        /// Whether there is a bias.
        bias: bool,
    },
    /// Layer norm without either.
    Bare,
}

impl NormStyle {
    /// The norm of the module `name`.
    pub(super) fn norm(self, name: &str, width: usize, eps: f32) -> Norm {
        match self {
            NormStyle::Rms => Norm::rms(format!("{name}.weight"), width, eps),
            NormStyle::ZeroCentred => Norm::rms(format!("{name}.weight"), width, eps).zero_centred(),
            NormStyle::Layer { bias } => Norm::layer(name, bias, width, eps),
            NormStyle::Bare => Norm::bare(NormKind::Layer, width, eps),
        }
    }
}

impl Dense {
    /// Reads the keys that all dense families share. `windows` gives each layer its sliding window.
    pub(super) fn describe(
        &self,
        keys: &Keys<'_>,
        tensors: &dyn Tensors,
        windows: impl Fn(usize) -> Option<usize>,
    ) -> Result<Decoder, ConfigError> {
        let sizes = Sizes::read(keys, self.kv_heads, self.head_dim)?;
        let intermediate = keys.size("intermediate_size")?;
        let eps = eps(keys, self.eps.0, self.eps.1)?;
        let act = activation(keys, "hidden_act", self.act)?;
        let max_positions = keys.size_or("max_position_embeddings", self.context)?;
        let rope = read_rope(keys, self.family, sizes.head_dim, max_positions, self.rope)?;
        let norm = |name: &str, width| self.norm.norm(name, width, eps);
        let (hidden, biases) = (sizes.hidden, self.biases);
        let block = |i: usize| {
            let name = |rest: &str| format!("model.layers.{i}.{rest}");
            let linear = |rest: &str, in_features, out_features, biased| {
                Linear::new(name(&format!("{rest}.weight")), in_features, out_features).biased(biased)
            };
            let inputs = sizes.qkv(&name("self_attn"), biases.qkv);
            let mut mixer = sizes.attention(inputs, linear("self_attn.o_proj", sizes.width(), hidden, biases.o));
            mixer.window = windows(i);
            let head_norm = |last: &str| {
                let style = if matches!(self.norm, NormStyle::ZeroCentred) { self.norm } else { NormStyle::Rms };
                style.norm(&name(&format!("self_attn.{last}")), sizes.head_dim, eps)
            };
            mixer.qk_norm = self.qk_norm.map(|[q, k]| QkNorm {
                q: head_norm(q),
                k: head_norm(k),
                place: QkNormPlace::BeforeRotation,
            });
            let ffn = Gated::new(
                act,
                linear("mlp.gate_proj", hidden, intermediate, biases.mlp),
                linear("mlp.up_proj", hidden, intermediate, biases.mlp),
                linear("mlp.down_proj", intermediate, hidden, biases.mlp),
            );
            Block::pre_norm(
                norm(&name("input_layernorm"), hidden),
                Mixer::Attention(Box::new(mixer)),
                norm(&name("post_attention_layernorm"), hidden),
                Ffn::Gated(ffn),
            )
        };
        let blocks = (0..sizes.layers).map(block).collect();
        let ends = sizes.ends(keys, tensors, norm("model.norm", hidden), self.tied)?;
        let context = rope.context();
        Ok(sizes.decoder(self.family, vec![rope], context, blocks, ends))
    }
}

/// The windows of the Qwen families: `layer_types` if given, else those from `max_window_layers` on, and
/// only where `use_sliding_window` says so (`configuration_qwen2.py`).
pub(super) fn qwen_windows(keys: &Keys<'_>) -> Result<Vec<Option<usize>>, ConfigError> {
    let layers = keys.layers("num_hidden_layers")?;
    let size = keys.opt_size("sliding_window")?;
    let size = if keys.contains("sliding_window") { size } else { Some(4096) };
    let window = if keys.bool_or("use_sliding_window", false)? { size } else { None };
    let first = keys.count_or("max_window_layers", 28)?;
    let known = ["full_attention", "sliding_attention"];
    let types = super::parts::layer_types(keys, layers, &known, |i| usize::from(window.is_some() && i >= first))?;
    if window.is_none() && types.contains(&1) {
        return Err(keys.invalid("layer_types", "without sliding_attention unless use_sliding_window is true"));
    }
    Ok(types.into_iter().map(|kind| window.filter(|_| kind == 1)).collect())
}
