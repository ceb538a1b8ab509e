//! DeepSeek-V2, V2-Lite and Coder-V2: latent attention, and experts chosen by their softmax, perhaps within the best groups only.
//!
//! Mirrors `modeling_deepseek_v2.py`. Switches: `q_lora_rank` (null: queries by one map), `topk_method` (`greedy` or
//! `group_limited_greedy` with `n_group` and `topk_group`), `routed_scaling_factor`, `first_k_dense_replace`, `attention_bias`,
//! `mlp_bias`, YaRN's `mscale_all_dim` in the scale of attention.

use super::Tensors;
use super::latent::LatentModel;
use super::moe::{Mixture, Names};
use super::parts::must_say;
use crate::config::{ConfigError, Keys};
use crate::decoder::{Decoder, GroupScore, Pairing, Router};

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let mixture = Mixture::read(
        keys,
        &Names {
            n_experts: ["n_routed_experts", "num_experts"],
            experts: 64,
            top_k: None,
            intermediate: ("moe_intermediate_size", Some(1407)),
        },
    )?;
    must_say(keys, "scoring_func", "softmax")?;
    // The authors' code would divide by the sum then, transformers' does not; no published model has it.
    keys.must_be("norm_topk_prob", false)?;
    let groups = match keys.opt_str("topk_method")?.unwrap_or("greedy") {
        "greedy" => {
            keys.ignore(&["n_group", "topk_group"]);
            None
        }
        "group_limited_greedy" => {
            let (n_groups, top_groups) = (keys.size("n_group")?, keys.size("topk_group")?);
            mixture.groups(keys, n_groups, top_groups, GroupScore::Best)?
        }
        _ => return Err(keys.invalid("topk_method", "\"greedy\" or \"group_limited_greedy\"")),
    };
    let scaling = keys.opt_positive("routed_scaling_factor")?.unwrap_or(1.0) as f32;
    let model = LatentModel {
        family: "deepseek_v2",
        context: 2048,
        pairing: Pairing::Interleaved,
        mixture: &mixture,
        router: Router { groups, scaling, ..mixture.router("") },
        n_shared: keys.size_or("n_shared_experts", 2)?,
        dense_layers: keys.count_or("first_k_dense_replace", 0)?,
        mlp_bias: keys.bool_or("mlp_bias", false)?,
    };
    model.describe(keys, tensors)
}
