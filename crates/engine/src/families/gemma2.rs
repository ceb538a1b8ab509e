//! Gemma 2: Gemma with norms before and after attention and feed-forward, windows in every other layer, and soft caps on scores and logits.
//!
//! Mirrors `modeling_gemma2.py`. Switches: `query_pre_attn_scalar`, `attn_logit_softcapping`, `final_logit_softcapping` (null: no cap),
//! `sliding_window`, `layer_types`, `attention_bias`, `head_dim`. `hidden_activation` decides, not `hidden_act`.

use super::Tensors;
use super::dense::{Dense, Norms};
use super::gemma;
use super::parts::{KvHeads, attentions, layer_windows};
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let windows = layer_windows(keys, Some(4096), |i| i % 2 == 0)?;
    let soft_cap = soft_cap(keys, "attn_logit_softcapping", Some(50.0))?;
    let scale = score_scale(keys)?;
    let dense = Dense { context: 8192, ..dense("gemma2", keys)? };
    let mut decoder = dense.describe(keys, tensors, |i| windows[i])?;
    gemma::scale_embedding(&mut decoder);
    decoder.logits.soft_cap = self::soft_cap(keys, "final_logit_softcapping", Some(30.0))?;
    for (_, mixer) in attentions(&mut decoder) {
        (mixer.scale, mixer.soft_cap) = (scale, soft_cap);
    }
    keys.ignore(&["hidden_act", "sliding_window_size"]);
    Ok(decoder)
}

/// What Gemma 3 has, too.
pub(super) fn dense(family: &'static str, keys: &Keys<'_>) -> Result<Dense, ConfigError> {
    let dense = gemma::dense(family, keys)?;
    Ok(Dense { kv_heads: KvHeads::Fixed(4), norms: Norms::BOTH, act_key: "hidden_activation", ..dense })
}

/// A cap that null turns off, and that is `default` without the key.
pub(super) fn soft_cap(keys: &Keys<'_>, key: &str, default: Option<f32>) -> Result<Option<f32>, ConfigError> {
    let cap = keys.opt_positive(key)?.map(|cap| cap as f32);
    Ok(if keys.contains(key) { cap } else { default })
}

/// Scores are divided by the root of `query_pre_attn_scalar`.
pub(super) fn score_scale(keys: &Keys<'_>) -> Result<f32, ConfigError> {
    let scalar = keys.opt_positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    Ok((1.0 / scalar.sqrt()) as f32)
}
