//! Qwen3-Next: three layers of linear attention to one of gated attention, and Qwen2-MoE's experts in all of them.
//!
//! Mirrors `modeling_qwen3_next.py`. Switches: `layer_types` or `full_attention_interval`, the sizes `linear_…`, `norm_topk_prob`,
//! `decoder_sparse_step` and `mlp_only_layers` (which layers are dense), `attention_bias`, `partial_rotary_factor`. What predicts further tokens
//! (`mtp.…`) is left alone.

use super::Tensors;
use super::gated_delta;
use super::moe::{self, Mixture, Names};
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let mixture = Mixture::read(
        keys,
        &Names {
            n_experts: ["num_experts", "num_local_experts"],
            experts: 512,
            top_k: Some(10),
            intermediate: ("moe_intermediate_size", Some(512)),
        },
    )?;
    let shared = keys.size_or("shared_expert_intermediate_size", 512)?;
    let normalise = moe::norm_topk_prob(keys, true)?;
    let sparse = moe::qwen_sparse(keys)?;
    let mut decoder = gated_delta::describe("qwen3_next", 2, keys, tensors, gated_delta::by_heads)?;
    decoder.ignored = vec!["mtp.".to_owned()];
    moe::put(&mut decoder, sparse, |layer| mixture.qwen(&format!("{layer}.mlp"), normalise, Some(shared)));
    Ok(decoder)
}
