//! The shape that Llama and its kin share: pre-norm blocks of rotary attention and a gated feed-forward,
//! with the tensor names of transformers' `modeling_llama.py`.

use rheostat_kernels::Activation;

use super::Tensors;
use crate::config::{ConfigError, Keys, read_rope};
use crate::decoder::{Attention, Block, Decoder, Gated, Head, Linear, Norm, QkNorm, Table};

/// What sets one dense family apart from another.
pub(super) struct Dense {
    pub(super) family: &'static str,
    /// Key-value heads where the config has no such key (null always means: as many as query heads).
    pub(super) default_kv_heads: DefaultKvHeads,
    /// `head_dim` where the config has none; otherwise `hidden_size / num_attention_heads`.
    pub(super) default_head_dim: Option<usize>,
    pub(super) default_context: usize,
    pub(super) biases: Biases,
    pub(super) qk_norm: Option<QkNormNames>,
}

pub(super) enum DefaultKvHeads {
    AsQueryHeads,
    Fixed(usize),
}

/// Which projections have a bias.
#[derive(Default)]
pub(super) struct Biases {
    pub(super) qkv: bool,
    pub(super) o: bool,
    pub(super) mlp: bool,
}

/// The last part of the names of the query and key norms.
pub(super) struct QkNormNames {
    pub(super) q: &'static str,
    pub(super) k: &'static str,
}

impl Dense {
    /// Reads the keys that all dense families share. `windows` gives each layer its sliding window.
    pub(super) fn describe(
        &self,
        keys: &Keys<'_>,
        tensors: &dyn Tensors,
        windows: impl Fn(usize) -> Option<usize>,
    ) -> Result<Decoder, ConfigError> {
        let hidden_size = keys.size("hidden_size")?;
        let vocab_size = keys.size("vocab_size")?;
        let layers = keys.layers("num_hidden_layers")?;
        let intermediate = keys.size("intermediate_size")?;
        let n_heads = keys.size("num_attention_heads")?;
        let n_kv_heads = match (keys.opt_size("num_key_value_heads")?, &self.default_kv_heads) {
            (Some(n), _) => n,
            (None, DefaultKvHeads::Fixed(n)) if !keys.contains("num_key_value_heads") => *n,
            (None, _) => n_heads,
        };
        if !n_heads.is_multiple_of(n_kv_heads) {
            let expected = format!("a divisor of num_attention_heads ({n_heads})");
            return Err(keys.invalid("num_key_value_heads", expected));
        }
        let head_dim = match (keys.opt_size("head_dim")?, self.default_head_dim) {
            (Some(d), _) => d,
            (None, Some(d)) if !keys.contains("head_dim") => d,
            (None, _) if hidden_size.is_multiple_of(n_heads) => hidden_size / n_heads,
            (None, _) => {
                return Err(keys.invalid("hidden_size", format!("a multiple of num_attention_heads ({n_heads})")));
            }
        };
        if head_dim % 2 != 0 || !(4..=4096).contains(&head_dim) {
            return Err(keys.invalid("head_dim", "an even number from 4 to 4096"));
        }
        let eps = keys.opt_positive("rms_norm_eps")?.unwrap_or(1e-6) as f32;
        if !eps.is_finite() {
            return Err(keys.invalid("rms_norm_eps", "a small positive number, such as 1e-6"));
        }
        let act = match keys.opt_str("hidden_act")?.unwrap_or("silu") {
            "silu" | "swish" => Activation::Silu,
            _ => return Err(keys.invalid("hidden_act", "one of silu, swish")),
        };
        let max_position_embeddings = keys.size_or("max_position_embeddings", self.default_context)?;
        let rope = read_rope(keys, self.family, head_dim, max_position_embeddings)?;
        let norm = |tensor: String, width| Norm { tensor, width, eps };
        let blocks = (0..layers)
            .map(|i| {
                let name = |rest: &str| format!("model.layers.{i}.{rest}");
                let linear = |rest: &str, in_features, out_features, bias| Linear {
                    weight: name(&format!("{rest}.weight")),
                    bias: if bias { Some(name(&format!("{rest}.bias"))) } else { None },
                    in_features,
                    out_features,
                    packing: None,
                };
                let Biases { qkv, o, mlp } = self.biases;
                let (width, kv_width) = (n_heads * head_dim, n_kv_heads * head_dim);
                Block {
                    mixer_norm: norm(name("input_layernorm.weight"), hidden_size),
                    mixer: Attention {
                        n_heads,
                        n_kv_heads,
                        head_dim,
                        window: windows(i),
                        scale: (1.0 / (head_dim as f64).sqrt()) as f32,
                        q: linear("self_attn.q_proj", hidden_size, width, qkv),
                        k: linear("self_attn.k_proj", hidden_size, kv_width, qkv),
                        v: linear("self_attn.v_proj", hidden_size, kv_width, qkv),
                        o: linear("self_attn.o_proj", width, hidden_size, o),
                        qk_norm: self.qk_norm.as_ref().map(|names| QkNorm {
                            q: norm(name(&format!("self_attn.{}.weight", names.q)), head_dim),
                            k: norm(name(&format!("self_attn.{}.weight", names.k)), head_dim),
                        }),
                    },
                    ffn_norm: norm(name("post_attention_layernorm.weight"), hidden_size),
                    ffn: Gated {
                        act,
                        gate: linear("mlp.gate_proj", hidden_size, intermediate, mlp),
                        up: linear("mlp.up_proj", hidden_size, intermediate, mlp),
                        down: linear("mlp.down_proj", intermediate, hidden_size, mlp),
                    },
                }
            })
            .collect();
        // A head that is stored is used even where the config ties it, as transformers does: the two may differ.
        let tied = keys.bool_or("tie_word_embeddings", false)?;
        let head = if tied && !tensors.has("lm_head.weight") && !tensors.has("lm_head.weight_packed") {
            Head::Tied
        } else {
            Head::Own(Linear {
                weight: "lm_head.weight".to_owned(),
                bias: None,
                in_features: hidden_size,
                out_features: vocab_size,
                packing: None,
            })
        };
        Ok(Decoder {
            family: self.family,
            vocab_size,
            hidden_size,
            context: rope.context(),
            embed: Table { tensor: "model.embed_tokens.weight".to_owned() },
            rope,
            blocks,
            norm: norm("model.norm.weight".to_owned(), hidden_size),
            head,
        })
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
    let Some(types) = keys.opt_array("layer_types")? else {
        return Ok((0..layers).map(|i| window.filter(|_| i >= first)).collect());
    };
    if types.len() != layers {
        return Err(keys.invalid("layer_types", format!("a list of num_hidden_layers ({layers}) entries")));
    }
    types
        .iter()
        .map(|t| match (t.as_str(), window) {
            (Some("full_attention"), _) => Ok(None),
            (Some("sliding_attention"), Some(w)) => Ok(Some(w)),
            (Some("sliding_attention"), None) => {
                Err(keys.invalid("layer_types", "without sliding_attention unless use_sliding_window is true"))
            }
            _ => Err(keys.invalid("layer_types", "made of full_attention and sliding_attention")),
        })
        .collect()
}
