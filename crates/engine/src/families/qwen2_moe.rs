//! Qwen1.5-MoE and Qwen2-57B-A14B: Qwen2 with experts, one of which is shared by all rows and gated.
//!
//! Mirrors `modeling_qwen2_moe.py`. Switches: `qkv_bias`, `norm_topk_prob`, `decoder_sparse_step` and `mlp_only_layers` (which layers are
//! dense), `use_sliding_window` with `sliding_window`, `max_window_layers` and `layer_types`.

use super::Tensors;
use super::dense::{Biases, Dense};
use super::moe::{self, Mixture, Names};
use super::parts::{KvHeads, layer_types, opt_or};
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let mixture = Mixture::read(
        keys,
        &Names {
            n_experts: ["num_experts", "num_local_experts"],
            experts: 60,
            top_k: Some(4),
            intermediate: ("moe_intermediate_size", Some(1408)),
        },
    )?;
    let shared = keys.size_or("shared_expert_intermediate_size", 5632)?;
    let normalise = moe::norm_topk_prob(keys, false)?;
    let sparse = moe::qwen_sparse(keys)?;
    let windows = windows(keys)?;
    let dense = Dense {
        family: "qwen2_moe",
        kv_heads: KvHeads::Fixed(16),
        context: 32_768,
        biases: Biases { qkv: keys.bool_or("qkv_bias", true)?, ..Biases::default() },
        ..Dense::default()
    };
    let mut decoder = dense.describe(keys, tensors, |i| windows[i])?;
    moe::put(&mut decoder, sparse, |layer| mixture.qwen(&format!("{layer}.mlp"), normalise, Some(shared)));
    Ok(decoder)
}

/// The windows of this family: where they are used at all, every other layer below `max_window_layers` has one, from the first on
/// (`configuration_qwen2_moe.py`, otherwise than in Qwen2).
fn windows(keys: &Keys<'_>) -> Result<Vec<Option<usize>>, ConfigError> {
    let layers = keys.layers("num_hidden_layers")?;
    let size = opt_or(keys, "sliding_window", Some(4096))?;
    let used = keys.bool_or("use_sliding_window", false)?;
    let below = keys.count_or("max_window_layers", 28)?;
    let default = |i: usize| usize::from(used && i.is_multiple_of(2) && i < below);
    let types = layer_types(keys, layers, &["full_attention", "sliding_attention"], default)?;
    let window = if used { size } else { None };
    if window.is_none() && types.contains(&1) {
        return Err(
            keys.invalid("use_sliding_window", "true, with a sliding_window, where layer_types has layers with one")
        );
    }
    Ok(types.into_iter().map(|kind| window.filter(|_| kind == 1)).collect())
}
