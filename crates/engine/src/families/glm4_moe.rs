//! GLM-4.5, 4.5-Air and 4.6: a few dense layers, then DeepSeek-V3's router over experts and one that all rows share.
//!
//! Mirrors `modeling_glm4_moe.py`. Switches: `use_qk_norm`, `attention_bias` (q, k and v), `first_k_dense_replace`, `n_group` with
//! `topk_group`, `norm_topk_prob`, `routed_scaling_factor`, `partial_rotary_factor`. Layers that predict further tokens are left alone.

use super::Tensors;
use super::dense::{Biases, Dense};
use super::moe::{self, Mixture, Names, SigmoidDefaults};
use super::parts::KvHeads;
use crate::config::{ConfigError, Keys, RopeDefaults};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let mixture = Mixture::read(
        keys,
        &Names {
            n_experts: ["n_routed_experts", "num_local_experts"],
            experts: 128,
            top_k: Some(8),
            intermediate: ("moe_intermediate_size", Some(1408)),
        },
    )?;
    let router = mixture.by_sigmoid(keys, SigmoidDefaults { n_groups: 1, top_groups: 1, scaling: 1.0 })?;
    let n_shared = keys.size_or("n_shared_experts", 1)?;
    let dense_layers = keys.count_or("first_k_dense_replace", 1)?;
    let dense = Dense {
        family: "glm4_moe",
        kv_heads: KvHeads::Fixed(8),
        context: 131_072,
        biases: Biases { qkv: keys.bool_or("attention_bias", false)?, ..Biases::default() },
        qk_norm: keys.bool_or("use_qk_norm", false)?.then_some(["q_norm", "k_norm"]),
        eps: ("rms_norm_eps", 1e-5),
        rope: RopeDefaults { theta: 1e4, partial: Some(0.5) },
        ..Dense::default()
    };
    let mut decoder = dense.describe(keys, tensors, |_| None)?;
    decoder.ignored = moe::further_layers(keys, tensors)?;
    moe::put(
        &mut decoder,
        |i| i >= dense_layers,
        |layer| mixture.deepseek(&format!("{layer}.mlp"), &router, n_shared, false),
    );
    Ok(decoder)
}
