//! Cohere (Command R, Aya): one layer norm without a bias for attention and feed-forward side by side, interleaved rotation, scaled logits.
//!
//! Mirrors `modeling_cohere.py`. Switches: `attention_bias` (q, k, v and o together), `use_qk_norm` (a layer norm on every query and
//! key head, with weights of its own for each), `logit_scale`, `head_dim`.

use super::Tensors;
use super::dense::{Biases, Dense, NormStyle, Norms};
use super::parts::attentions;
use crate::config::{ConfigError, Keys, RopeDefaults};
use crate::decoder::{Decoder, Norm, Pairing, QkNorm, QkNormPlace};

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let dense = dense("cohere", 500_000.0, keys)?;
    let mut decoder = dense.describe(keys, tensors, |_| None)?;
    decoder.logits.scale = logit_scale(keys)?;
    if keys.bool_or("use_qk_norm", false)? {
        let eps = decoder.norm.eps;
        for (i, mixer) in attentions(&mut decoder) {
            let norm = |which: &str, heads: usize| {
                let name = format!("model.layers.{i}.self_attn.{which}_norm");
                Norm { groups: heads, ..Norm::layer(name, false, mixer.head_dim, eps) }
            };
            let (q, k) = (norm("q", mixer.n_heads), norm("k", mixer.n_kv_heads));
            mixer.qk_norm = Some(QkNorm { q, k, place: QkNormPlace::BeforeRotation });
        }
    }
    keys.ignore(&["model_max_length"]);
    Ok(decoder)
}

/// What both versions have in common.
pub(super) fn dense(family: &'static str, theta: f64, keys: &Keys<'_>) -> Result<Dense, ConfigError> {
    let attention = keys.bool_or("attention_bias", false)?;
    Ok(Dense {
        family,
        context: 8192,
        biases: Biases { qkv: attention, o: attention, mlp: false },
        norm: NormStyle::Layer { bias: false },
        norms: Norms::PARALLEL,
        eps: ("layer_norm_eps", 1e-5),
        rope: RopeDefaults { theta, partial: None },
        pairing: Pairing::Interleaved,
        tied: true,
        ..Dense::default()
    })
}

/// What logits are multiplied by.
pub(super) fn logit_scale(keys: &Keys<'_>) -> Result<f32, ConfigError> {
    Ok(keys.opt_positive("logit_scale")?.unwrap_or(0.0625) as f32)
}
