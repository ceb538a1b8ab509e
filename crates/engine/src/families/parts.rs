//! What the pages of families are written with: the keys that most of them share, and the pieces of a description.

use rheostat_kernels::Activation;

use super::Tensors;
use crate::config::{ConfigError, Keys};
use crate::decoder::{Attention, Decoder, Embedding, Head, Linear, Logits, Norm, Part, Projection, Rotary};
use crate::decoder::{Block, Mixer, Pairing};
use crate::rope::Rope;

/// The sizes of a model whose blocks are alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) vocab: usize,
    pub(super) hidden: usize,
    pub(super) layers: usize,
    pub(super) n_heads: usize,
    pub(super) n_kv_heads: usize,
    pub(super) head_dim: usize,
}

/// Key-value heads where the config has no such key; null always means: as many as query heads.
#[derive(Clone, Copy, Debug)]
pub(super) enum KvHeads {
    AsQueryHeads,
    Fixed(usize),
}

impl Sizes {
    /// Reads the keys that Llama has. `head_dim` is that of the config, else `head_dim`, else `hidden_size / num_attention_heads`.
    pub(super) fn read(keys: &Keys<'_>, kv_heads: KvHeads, head_dim: Option<usize>) -> Result<Sizes, ConfigError> {
        let hidden = keys.size("hidden_size")?;
        let n_heads = keys.size("num_attention_heads")?;
        let n_kv_heads = match (keys.opt_size("num_key_value_heads")?, kv_heads) {
            (Some(n), _) => n,
            (None, KvHeads::Fixed(n)) if !keys.contains("num_key_value_heads") => n,
            (None, _) => n_heads,
        };
        if !n_heads.is_multiple_of(n_kv_heads) {
            let expected = format!("a divisor of num_attention_heads ({n_heads})");
            return Err(keys.invalid("num_key_value_heads", expected));
        }
        let head_dim = match (keys.opt_size("head_dim")?, head_dim) {
            (Some(d), _) => d,
            (None, Some(d)) if !keys.contains("head_dim") => d,
            (None, _) => divided(keys, "hidden_size", hidden, n_heads)?,
        };
        check_head_dim(keys, head_dim)?;
        let (vocab, layers) = (keys.size("vocab_size")?, keys.layers("num_hidden_layers")?);
        Ok(Sizes { vocab, hidden, layers, n_heads, n_kv_heads, head_dim })
    }

    /// Elements of a row's queries.
    pub(super) fn width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Elements of a row's keys, and of its values.
    pub(super) fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// `q_proj`, `k_proj` and `v_proj` of the module `name`.
    pub(super) fn qkv(&self, name: &str, biased: bool) -> Vec<Projection> {
        let part = |part, which: &str, width| {
            let linear = Linear::new(format!("{name}.{which}_proj.weight"), self.hidden, width).biased(biased);
            Projection::whole(linear, part)
        };
        vec![
            part(Part::Query, "q", self.width()),
            part(Part::Key, "k", self.kv_width()),
            part(Part::Value, "v", self.kv_width()),
        ]
    }

    /// Queries, keys and values one below the other in the weight `tensor`.
    pub(super) fn stacked_qkv(&self, tensor: &str, biased: bool) -> Vec<Projection> {
        let (q, kv) = (self.width(), self.kv_width());
        let of = q + 2 * kv;
        let part = |part, first, width| {
            Projection::whole(Linear::new(tensor, self.hidden, width).biased(biased).rows(first, of), part)
        };
        vec![part(Part::Query, 0, q), part(Part::Key, q, kv), part(Part::Value, q + kv, kv)]
    }

    /// Plain softmax attention: all positions, scores by `1/√head_dim`, rotated as a whole in halves by the first rotary embedding.
    pub(super) fn attention(&self, inputs: Vec<Projection>, o: Linear) -> Attention {
        Attention {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            window: None,
            scale: (1.0 / (self.head_dim as f64).sqrt()) as f32,
            soft_cap: None,
            sinks: None,
            inputs,
            clip: None,
            qk_norm: None,
            rotary: Some(Rotary { rope: 0, first: 0, pairing: Pairing::Half }),
            o,
        }
    }

    /// A model of `blocks`, whose embedding is `embed`.
    pub(super) fn decoder(
        &self,
        family: &'static str,
        ropes: Vec<Rope>,
        context: usize,
        blocks: Vec<Block>,
        ends: Ends,
    ) -> Decoder {
        Decoder {
            family,
            vocab_size: self.vocab,
            hidden_size: self.hidden,
            context,
            embed: Embedding { tensor: ends.embed, scale: 1.0, positions: None },
            ropes,
            blocks,
            norm: ends.norm,
            head: ends.head,
            logits: Logits::default(),
            ignored: Vec::new(),
        }
    }

    /// The embedding, the norm and the head of a model that is called as Llama is.
    pub(super) fn ends(
        &self,
        keys: &Keys<'_>,
        tensors: &dyn Tensors,
        norm: Norm,
        tied: bool,
    ) -> Result<Ends, ConfigError> {
        let embed = "model.embed_tokens.weight".to_owned();
        let head = head(keys, tensors, Linear::new("lm_head.weight", self.hidden, self.vocab), tied)?;
        Ok(Ends { embed, norm, head })
    }
}

/// Both ends of a model.
pub(super) struct Ends {
    /// The tensor of the embedding table.
    pub(super) embed: String,
    pub(super) norm: Norm,
    pub(super) head: Head,
}

/// The head: `own` if it is stored, even where the config ties it, as transformers does, since the two may differ. Without the key
/// `tie_word_embeddings` the config means `tied`.
pub(super) fn head(keys: &Keys<'_>, tensors: &dyn Tensors, own: Linear, tied: bool) -> Result<Head, ConfigError> {
    let tied = keys.bool_or("tie_word_embeddings", tied)?;
    let quantized = [".weight_packed", ".qweight"].map(|last| format!("{}{last}", own.module()));
    let stored = tensors.has(&own.weight) || quantized.iter().any(|name| tensors.has(name));
    Ok(if tied && !stored { Head::Tied } else { Head::Own(own) })
}

/// `size / by`, where `by` divides it.
pub(super) fn divided(keys: &Keys<'_>, key: &str, size: usize, by: usize) -> Result<usize, ConfigError> {
    if size.is_multiple_of(by) { Ok(size / by) } else { Err(keys.invalid(key, format!("a multiple of {by}"))) }
}

pub(super) fn check_head_dim(keys: &Keys<'_>, head_dim: usize) -> Result<(), ConfigError> {
    if !head_dim.is_multiple_of(2) || !(4..=512).contains(&head_dim) {
        return Err(keys.invalid("head_dim", "an even number from 4 to 512"));
    }
    Ok(())
}

/// The number that is added in norms.
pub(super) fn eps(keys: &Keys<'_>, key: &str, default: f64) -> Result<f32, ConfigError> {
    let eps = keys.opt_positive(key)?.unwrap_or(default) as f32;
    if eps.is_finite() { Ok(eps) } else { Err(keys.invalid(key, "a small positive number, such as 1e-6")) }
}

/// The non-linearity that `key` names.
pub(super) fn activation(keys: &Keys<'_>, key: &str, default: &str) -> Result<Activation, ConfigError> {
    Ok(match keys.opt_str(key)?.unwrap_or(default) {
        "silu" | "swish" => Activation::Silu,
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        "relu2" => Activation::Relu2,
        _ => return Err(keys.invalid(key, "one of silu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu, relu2")),
    })
}

/// The window of each layer: `sliding_window` (`size` without the key, null: none) in the layers that `layer_types` calls sliding;
/// without that key in those for which `slides` says so.
pub(super) fn layer_windows(
    keys: &Keys<'_>,
    size: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, ConfigError> {
    let window = opt_or(keys, "sliding_window", size)?;
    let layers = keys.layers("num_hidden_layers")?;
    let types = layer_types(keys, layers, &["full_attention", "sliding_attention"], |i| usize::from(slides(i)))?;
    if window.is_none() && types.contains(&1) {
        return Err(keys.invalid("sliding_window", "a number, since there are layers of sliding_attention"));
    }
    Ok(types.into_iter().map(|kind| window.filter(|_| kind == 1)).collect())
}

/// `key` must be absent or hold `value`: the family has no other.
pub(super) fn must_say(keys: &Keys<'_>, key: &str, value: &str) -> Result<(), ConfigError> {
    match keys.opt_str(key)? {
        Some(found) if found != value => Err(keys.invalid(key, format!("\"{value}\" in this family"))),
        _ => Ok(()),
    }
}

/// A size that null turns off, and that is `default` without the key.
pub(super) fn opt_or(keys: &Keys<'_>, key: &str, default: Option<usize>) -> Result<Option<usize>, ConfigError> {
    let size = keys.opt_size(key)?;
    Ok(if keys.contains(key) { size } else { default })
}

/// In a family whose heads always share `hidden_size`, `head_dim` may not say otherwise.
pub(super) fn no_own_head_dim(keys: &Keys<'_>) -> Result<(), ConfigError> {
    let (hidden, n_heads) = (keys.size("hidden_size")?, keys.size("num_attention_heads")?);
    match keys.opt_size("head_dim")? {
        Some(d) if d.checked_mul(n_heads) != Some(hidden) => {
            Err(keys.invalid("head_dim", "absent, or hidden_size / num_attention_heads"))
        }
        _ => Ok(()),
    }
}

/// The attention of every layer that has one.
pub(super) fn attentions(decoder: &mut Decoder) -> impl Iterator<Item = (usize, &mut Attention)> {
    let blocks = decoder.blocks.iter_mut().enumerate();
    blocks.filter_map(|(i, block)| match &mut block.mixer {
        Mixer::Attention(mixer) => Some((i, &mut **mixer)),
        _ => None,
    })
}

/// Norms of queries and of keys become norms over all heads together.
pub(super) fn norm_all_heads_together(decoder: &mut Decoder) {
    for (_, mixer) in attentions(decoder) {
        let (width, kv_width) = (mixer.width(), mixer.kv_width());
        if let Some(norms) = &mut mixer.qk_norm {
            (norms.q.width, norms.k.width) = (width, kv_width);
        }
    }
}

/// The kinds of all layers by the key `layer_types`, as indices in `known`; without the key as `default` says.
pub(super) fn layer_types(
    keys: &Keys<'_>,
    layers: usize,
    known: &[&str],
    default: impl Fn(usize) -> usize,
) -> Result<Vec<usize>, ConfigError> {
    let Some(types) = keys.opt_array("layer_types")? else { return Ok((0..layers).map(default).collect()) };
    if types.len() != layers {
        return Err(keys.invalid("layer_types", format!("a list of num_hidden_layers ({layers}) entries")));
    }
    let kind = |t: &serde_json::Value| known.iter().position(|k| t.as_str() == Some(k));
    let all: Option<Vec<usize>> = types.iter().map(kind).collect();
    all.ok_or_else(|| keys.invalid("layer_types", format!("made of {}", known.join(" and "))))
}
