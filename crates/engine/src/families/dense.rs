//! The shape that Llama and its kin share: pre-norm blocks of rotary attention and a gated feed-forward,
//! with the tensor names of transformers' `modeling_llama.py`. Families that differ change what comes out.

use super::Tensors;
use super::parts::{KvHeads, Sizes, activation, eps};
use crate::config::{ConfigError, Keys, RopeDefaults, read_rope};
use crate::decoder::{
    Activation, Attention, Block, Decoder, Ffn, Flow, Gated, Linear, Mixer, Nonlinearity, Norm, NormKind, Pairing,
    Plain, QkNorm, QkNormPlace, Rotary, Xielu,
};
use crate::rope::Rope;

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
    /// Which norms a block has.
    pub(super) norms: Norms,
    /// The key of the number that is added in norms, and what it is without the key; an empty one where no key says so.
    pub(super) eps: (&'static str, f64),
    /// Where the config says nothing.
    pub(super) rope: RopeDefaults,
    /// Which elements of a head turn together.
    pub(super) pairing: Pairing,
    pub(super) tied: bool,
    /// How the maps of the feed-forward are called.
    pub(super) ffn: FfnStyle,
    /// Its non-linearity where the config has none.
    pub(super) act: &'static str,
    /// The key of it.
    pub(super) act_key: &'static str,
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
            norms: Norms::PRE,
            eps: ("rms_norm_eps", 1e-6),
            rope: RopeDefaults::default(),
            pairing: Pairing::Half,
            tied: false,
            ffn: FfnStyle::Gated,
            act: "silu",
            act_key: "hidden_act",
        }
    }
}

/// Which norms a block has, by the last part of their names, and what its feed-forward works on.
#[derive(Clone, Copy)]
pub(super) struct Norms {
    /// Of the mixer's input and of its output.
    pub(super) mixer: [Option<&'static str>; 2],
    /// Of the feed-forward's input and of its output.
    pub(super) ffn: [Option<&'static str>; 2],
    pub(super) flow: Flow,
}

impl Norms {
    /// `x + f(norm(x))`, as Llama has it.
    pub(super) const PRE: Norms = Norms {
        mixer: [Some("input_layernorm"), None],
        ffn: [Some("post_attention_layernorm"), None],
        flow: Flow::Serial,
    };
    /// `x + norm(f(x))`, as OLMo 2 has it.
    pub(super) const POST: Norms = Norms {
        mixer: [None, Some("post_attention_layernorm")],
        ffn: [None, Some("post_feedforward_layernorm")],
        flow: Flow::Serial,
    };
    /// `x + norm(f(norm(x)))`, as Gemma 2 has it.
    pub(super) const BOTH: Norms = Norms {
        mixer: [Some("input_layernorm"), Some("post_attention_layernorm")],
        ffn: [Some("pre_feedforward_layernorm"), Some("post_feedforward_layernorm")],
        flow: Flow::Serial,
    };
    /// One norm for mixer and feed-forward, whose outputs are added together.
    pub(super) const PARALLEL: Norms =
        Norms { mixer: [Some("input_layernorm"), None], ffn: [None, None], flow: Flow::Parallel };
}

/// How the maps of a feed-forward are called.
#[derive(Clone, Copy)]
pub(super) enum FfnStyle {
    /// `gate_proj`, `up_proj` and `down_proj`.
    Gated,
    /// `gate_up_proj`, which has the rows of the gate before those of up, and `down_proj`.
    Stacked,
    /// Up and down under these names, without a gate.
    Plain([&'static str; 2]),
    /// `up_proj` and `down_proj` without a gate, and the parameters of xIELU in `act_fn`.
    Xielu,
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
    /// Layer norm with a weight that is stored as a difference from 1, and a bias.
    LayerZeroCentred,
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
            NormStyle::LayerZeroCentred => Norm::layer(name, true, width, eps).zero_centred(),
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
        self.describe_turned(keys, tensors, windows, |sizes, max_positions| {
            Ok(vec![read_rope(keys, self.family, sizes.head_dim, max_positions, self.rope)?])
        })
    }

    /// As [`Dense::describe`], with rotary embeddings that `ropes` reads, given `max_position_embeddings`. All layers use the first.
    pub(super) fn describe_turned(
        &self,
        keys: &Keys<'_>,
        tensors: &dyn Tensors,
        windows: impl Fn(usize) -> Option<usize>,
        ropes: impl FnOnce(&Sizes, usize) -> Result<Vec<Rope>, ConfigError>,
    ) -> Result<Decoder, ConfigError> {
        let sizes = Sizes::read(keys, self.kv_heads, self.head_dim)?;
        let intermediate = keys.size("intermediate_size")?;
        let eps = eps(keys, self.eps.0, self.eps.1)?;
        let act = match self.ffn {
            FfnStyle::Xielu => None,
            _ => Some(activation(keys, self.act_key, self.act)?),
        };
        let max_positions = keys.size_or("max_position_embeddings", self.context)?;
        let ropes = ropes(&sizes, max_positions)?;
        let block = |i: usize| {
            let name = |last: &str| format!("model.layers.{i}.{last}");
            let norm = |last: Option<&str>| last.map(|last| self.norm.norm(&name(last), sizes.hidden, eps));
            let [mixer_norm, mixer_post_norm] = self.norms.mixer.map(norm);
            let [ffn_norm, ffn_post_norm] = self.norms.ffn.map(norm);
            let mixer = self.attention(&sizes, &name("self_attn"), eps, windows(i));
            Block {
                mixer_norm,
                mixer: Mixer::Attention(Box::new(mixer)),
                mixer_post_norm,
                ffn_norm,
                ffn: self.feed_forward(&sizes, &name("mlp"), act, intermediate),
                ffn_post_norm,
                flow: self.norms.flow,
                residual_scale: 1.0,
            }
        };
        let blocks = (0..sizes.layers).map(block).collect();
        let ends = sizes.ends(keys, tensors, self.norm.norm("model.norm", sizes.hidden, eps), self.tied)?;
        let context = ropes.iter().map(Rope::context).max().unwrap_or(max_positions);
        Ok(sizes.decoder(self.family, ropes, context, blocks, ends))
    }

    fn attention(&self, sizes: &Sizes, name: &str, eps: f32, window: Option<usize>) -> Attention {
        let inputs = sizes.qkv(name, self.biases.qkv);
        let o = Linear::new(format!("{name}.o_proj.weight"), sizes.width(), sizes.hidden).biased(self.biases.o);
        let mut mixer = sizes.attention(inputs, o);
        mixer.window = window;
        mixer.rotary = mixer.rotary.map(|rotary| Rotary { pairing: self.pairing, ..rotary });
        let head_norm = |last: &str| {
            let style = if matches!(self.norm, NormStyle::ZeroCentred) { self.norm } else { NormStyle::Rms };
            style.norm(&format!("{name}.{last}"), sizes.head_dim, eps)
        };
        mixer.qk_norm =
            self.qk_norm.map(|[q, k]| QkNorm { q: head_norm(q), k: head_norm(k), place: QkNormPlace::BeforeRotation });
        mixer
    }

    fn feed_forward(&self, sizes: &Sizes, name: &str, act: Option<Activation>, intermediate: usize) -> Ffn {
        let hidden = sizes.hidden;
        let linear = |last: &str, in_features, out_features| {
            Linear::new(format!("{name}.{last}.weight"), in_features, out_features).biased(self.biases.mlp)
        };
        let (up, down) = (|last| linear(last, hidden, intermediate), |last| linear(last, intermediate, hidden));
        match (self.ffn, act) {
            (FfnStyle::Gated, Some(act)) => {
                Ffn::Gated(Gated::new(act, up("gate_proj"), up("up_proj"), down("down_proj")))
            }
            (FfnStyle::Stacked, Some(act)) => {
                let half = |first| up("gate_up_proj").rows(first, 2 * intermediate);
                Ffn::Gated(Gated::new(act, half(0), half(intermediate), down("down_proj")))
            }
            (FfnStyle::Plain([first, last]), Some(act)) => {
                Ffn::Plain(Plain { act: Nonlinearity::Fixed(act), up: up(first), down: down(last) })
            }
            (FfnStyle::Xielu, _) | (_, None) => {
                let act = Nonlinearity::Xielu(Xielu::new(&format!("{name}.act_fn")));
                Ffn::Plain(Plain { act, up: up("up_proj"), down: down("down_proj") })
            }
        }
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
