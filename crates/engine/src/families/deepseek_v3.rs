//! DeepSeek-V3, R1 and Moonlight: latent attention, and experts chosen by sigmoids and a bias, within the best groups.
//!
//! Mirrors `modeling_deepseek_v3.py`. Switches: `q_lora_rank` (null: queries by one map), `n_group` with `topk_group`,
//! `norm_topk_prob`, `routed_scaling_factor`, `first_k_dense_replace`, `attention_bias`, `rope_interleave`, YaRN's `mscale_all_dim` in
//! the scale of attention. Layers that predict further tokens are left alone.

use super::Tensors;
use super::latent::LatentModel;
use super::moe::{self, Mixture, Names, SigmoidDefaults};
use crate::config::{ConfigError, Keys};
use crate::decoder::{Decoder, Pairing};

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let mixture = Mixture::read(
        keys,
        &Names {
            n_experts: ["n_routed_experts", "num_local_experts"],
            experts: 256,
            top_k: Some(8),
            intermediate: ("moe_intermediate_size", Some(2048)),
        },
    )?;
    let router = mixture.by_sigmoid(keys, SigmoidDefaults { n_groups: 8, top_groups: 4, scaling: 2.5 })?;
    let interleaved = keys.bool_or("rope_interleave", true)?;
    keys.must_be("mlp_bias", false)?;
    let model = LatentModel {
        family: "deepseek_v3",
        context: 4096,
        pairing: if interleaved { Pairing::Interleaved } else { Pairing::Half },
        mixture: &mixture,
        router,
        n_shared: keys.size_or("n_shared_experts", 1)?,
        dense_layers: keys.count_or("first_k_dense_replace", 3)?,
        mlp_bias: false,
    };
    let mut decoder = model.describe(keys, tensors)?;
    decoder.ignored = moe::further_layers(keys, tensors)?;
    Ok(decoder)
}
