//! StableLM 2 and StableLM 3B: Llama with layer norms and a part of each head rotated.
//!
//! Mirrors `modeling_stablelm.py`. Switches: `use_qkv_bias`, `use_parallel_residual` (one norm for attention and feed-forward side by
//! side), `qk_layernorm` (a layer norm on every query and key head, with weights of its own for each), `partial_rotary_factor`.

use super::Tensors;
use super::dense::{Biases, Dense, NormStyle, Norms};
use super::parts::{KvHeads, attentions, no_own_head_dim};
use crate::config::{ConfigError, Keys, RopeDefaults};
use crate::decoder::{Decoder, Norm, NormKind, QkNorm, QkNormPlace};

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    no_own_head_dim(keys)?;
    let qkv = keys.bool_or("use_qkv_bias", false)?;
    let parallel = keys.bool_or("use_parallel_residual", false)?;
    let dense = Dense {
        family: "stablelm",
        kv_heads: KvHeads::Fixed(32),
        context: 4096,
        biases: Biases { qkv, o: false, mlp: false },
        norm: NormStyle::Layer { bias: true },
        norms: if parallel { Norms::PARALLEL } else { Norms::PRE },
        eps: ("layer_norm_eps", 1e-5),
        rope: RopeDefaults { theta: 10_000.0, partial: Some(0.25) },
        ..Dense::default()
    };
    let mut decoder = dense.describe(keys, tensors, |_| None)?;
    if keys.bool_or("qk_layernorm", false)? {
        let eps = decoder.norm.eps;
        for (i, mixer) in attentions(&mut decoder) {
            let norm = |which: &str, heads: usize| {
                let tensor = |h| format!("model.layers.{i}.self_attn.{which}_layernorm.norms.{h}.weight");
                let weights = (0..heads).map(tensor).collect();
                Norm { weights, groups: heads, ..Norm::bare(NormKind::Layer, mixer.head_dim, eps) }
            };
            let (q, k) = (norm("q", mixer.n_heads), norm("k", mixer.n_kv_heads));
            mixer.qk_norm = Some(QkNorm { q, k, place: QkNormPlace::BeforeRotation });
        }
    }
    Ok(decoder)
}
