//! Hunyuan without experts: Llama with an RMS norm on every query and key head after the rotation, whose base `alpha` stretches.
//!
//! Mirrors `modeling_hunyuan_v1_dense.py`. Switches: `attention_bias` (q, k, v and o together), `rope_scaling` of type dynamic with
//! `alpha`, which does not depend on the length of the text.

use super::Tensors;
use super::dense::{Biases, Dense};
use super::parts::attentions;
use crate::config::{ConfigError, Keys, RopeDefaults, read_rope, rope_object};
use crate::decoder::{Decoder, QkNormPlace};
use crate::rope::{Rope, RopeScaling};

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    keys.size("head_dim")?;
    let attention = keys.bool_or("attention_bias", false)?;
    keys.must_be("mlp_bias", false)?;
    keys.must_be("use_qk_norm", true)?;
    keys.must_be("use_rotary_pos_emb", true)?;
    for other_layers in ["use_cla", "use_mla", "use_mixed_mlp_moe"] {
        keys.must_be(other_layers, false)?;
    }
    harmless(keys);
    let dense = Dense {
        family: "hunyuan_v1_dense",
        biases: Biases { qkv: attention, o: attention, mlp: false },
        qk_norm: Some(["query_layernorm", "key_layernorm"]),
        eps: ("rms_norm_eps", 1e-5),
        ..Dense::default()
    };
    let mut decoder = dense.describe_turned(
        keys,
        tensors,
        |_| None,
        |sizes, max_positions| {
            let rope = match stretched(keys, sizes.head_dim, max_positions)? {
                Some(rope) => rope,
                None => read_rope(keys, "hunyuan_v1_dense", sizes.head_dim, max_positions, RopeDefaults::default())?,
            };
            Ok(vec![rope])
        },
    )?;
    for (_, mixer) in attentions(&mut decoder) {
        if let Some(norm) = &mut mixer.qk_norm {
            norm.place = QkNormPlace::AfterRotation;
        }
    }
    Ok(decoder)
}

/// The rotation whose base is stretched by `alpha`, if there is one: `compute_ntk_alpha_rope_parameters`.
fn stretched(keys: &Keys<'_>, head_dim: usize, max_positions: usize) -> Result<Option<Rope>, ConfigError> {
    let Some(object) = rope_object(keys)? else { return Ok(None) };
    let legacy = object.opt_str("type")?;
    let dynamic = object.opt_str("rope_type")?.or(legacy) == Some("dynamic");
    let alpha = object.opt_number("alpha")?.filter(|alpha| *alpha != 0.0);
    let Some(alpha) = alpha.filter(|_| dynamic) else { return Ok(None) };
    if alpha < 0.0 {
        return Err(object.invalid("alpha", "a positive number"));
    }
    let outer = keys.opt_positive("rope_theta")?;
    let theta = object.opt_positive("rope_theta")?.or(outer).unwrap_or(10_000.0);
    // Of another kind of stretching, and without effect in this one.
    object.ignore(&["beta_fast", "beta_slow", "factor", "mscale", "mscale_all_dim"]);
    object.finish("hunyuan_v1_dense")?;
    let dim = head_dim as f64;
    let base = theta * libm::pow(alpha, dim / (dim - 2.0));
    Ok(Some(Rope::new(head_dim, base, RopeScaling::Default, max_positions)))
}

/// Keys of image encoders, of experts and of other attention, which configs of this family carry along and transformers does not read.
fn harmless(keys: &Keys<'_>) {
    keys.ignore(&[
        "add_classification_head",
        "attention_head_dim",
        "cla_share_factor",
        "class_num",
        "dense_list",
        "eod_token_id",
        "im_end_id",
        "im_newline_id",
        "im_start_id",
        "image_token_id",
        "kv_lora_rank",
        "mask_init_id",
        "norm_type",
        "num_media_embeds",
        "org_vocab_size",
        "pad_id",
        "pool_type",
        "q_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "skip_cls_token",
        "text_end_id",
        "text_start_id",
        "v_head_dim",
        "video_end_id",
        "video_start_id",
        "vit_path",
    ]);
}
