//! Phi-3, Phi-3.5-mini, Phi-4 and Phi-4-mini: Llama with q, k and v in one map, gate and up in another, and a rotation that is another one in
//! long texts.
//!
//! Mirrors `modeling_phi3.py`. Switches: `rope_scaling` of type longrope, `original_max_position_embeddings` (which stands outside),
//! `partial_rotary_factor`, `sliding_window` (in every layer), `head_dim`.

use super::Tensors;
use super::dense::{Dense, FfnStyle};
use super::parts::{KvHeads, Sizes, attentions};
use crate::config::{ConfigError, Keys, RopeDefaults, RopeSpelling, read_rope_as, rope_object};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let window = keys.opt_size("sliding_window")?;
    for bias in ["attention_bias", "lm_head_bias", "mlp_bias"] {
        keys.must_be(bias, false)?;
    }
    for key in ["full_attn_mod", "interpolate_factor"] {
        if keys.opt_number(key)?.is_some_and(|n| n != 1.0) {
            return Err(keys.invalid(key, "1 in this family"));
        }
    }
    let dense = Dense {
        family: "phi3",
        context: 4096,
        eps: ("rms_norm_eps", 1e-5),
        ffn: FfnStyle::Stacked,
        ..Dense::default()
    };
    let mut decoder = dense.describe_turned(
        keys,
        tensors,
        |_| window,
        |sizes, max_positions| {
            let spelling = RopeSpelling { original: Some(4096), ..RopeSpelling::default() };
            if let Some(object) = rope_object(keys)? {
                let legacy = object.opt_str("type")?;
                let kind = object.opt_str("rope_type")?.or(legacy);
                if kind.is_some_and(|kind| !["default", "longrope", "su"].contains(&kind)) {
                    let key = if legacy.is_some() { "type" } else { "rope_type" };
                    return Err(object.invalid(key, "default or longrope in this family"));
                }
            }
            let defaults = RopeDefaults { theta: 10_000.0, partial: Some(1.0) };
            Ok(vec![read_rope_as(keys, spelling, "phi3", sizes.head_dim, max_positions, defaults)?])
        },
    )?;
    let sizes = Sizes::read(keys, KvHeads::AsQueryHeads, None)?;
    for (i, mixer) in attentions(&mut decoder) {
        mixer.inputs = sizes.stacked_qkv(&format!("model.layers.{i}.self_attn.qkv_proj.weight"), false);
    }
    Ok(decoder)
}
