//! Gemma 3, its language model: Gemma 2 with an RMS norm on every query and key head instead of soft caps, five layers with a window to one
//! without, and a rotation of its own for each of both kinds.
//!
//! Mirrors `modeling_gemma3.py`. Switches: `query_pre_attn_scalar`, `final_logit_softcapping`, `sliding_window`, `layer_types`,
//! `sliding_window_pattern`, `rope_local_base_freq`, `attention_bias`, `head_dim`. Many configs leave most keys to the defaults.

use super::Tensors;
use super::dense::Dense;
use super::parts::{attentions, layer_windows};
use super::{gemma, gemma2};
use crate::config::{ConfigError, Keys, LayerRope, read_layer_ropes};
use crate::decoder::Decoder;

/// The rotations of layers with a window, and of those without.
const ROPES: [LayerRope; 2] = [
    LayerRope { kind: "sliding_attention", theta_key: Some("rope_local_base_freq"), theta: 1e4, scaled: false },
    LayerRope { kind: "full_attention", theta_key: Some("rope_theta"), theta: 1e6, scaled: true },
];

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let pattern = keys.size_or("sliding_window_pattern", 6)?;
    let windows = layer_windows(keys, Some(4096), |i| (i + 1) % pattern != 0)?;
    let scale = gemma2::score_scale(keys)?;
    let dense = Dense { context: 131_072, qk_norm: Some(["q_norm", "k_norm"]), ..gemma2::dense("gemma3_text", keys)? };
    let mut decoder = dense.describe_turned(
        keys,
        tensors,
        |i| windows[i],
        |sizes, max_positions| read_layer_ropes(keys, &ROPES, "gemma3_text", sizes.head_dim, max_positions),
    )?;
    gemma::scale_embedding(&mut decoder);
    // The stretched rotation is what makes this context, not more.
    decoder.context = keys.size_or("max_position_embeddings", dense.context)?;
    decoder.logits.soft_cap = gemma2::soft_cap(keys, "final_logit_softcapping", None)?;
    for (_, mixer) in attentions(&mut decoder) {
        mixer.scale = scale;
        if let Some(rotary) = &mut mixer.rotary {
            rotary.rope = usize::from(mixer.window.is_none());
        }
    }
    if keys.opt_positive("attn_logit_softcapping")?.is_some() {
        return Err(keys.invalid("attn_logit_softcapping", "null: the family does not cap scores"));
    }
    keys.ignore(&["_sliding_window_pattern", "hidden_act"]);
    Ok(decoder)
}
