//! Qwen3-30B-A3B and its kin: Qwen3 with a mixture of experts.
//!
//! Mirrors `modeling_qwen3_moe.py`. Switches: `norm_topk_prob`, `decoder_sparse_step` and `mlp_only_layers` (which layers are dense),
//! `attention_bias` (q, k, v and o together), `use_sliding_window` (then `sliding_window` is that of all layers).

use super::Tensors;
use super::dense::{Biases, Dense};
use super::moe::{self, Mixture, Names};
use super::parts::{KvHeads, opt_or};
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let mixture = Mixture::read(
        keys,
        &Names {
            n_experts: ["num_experts", "num_local_experts"],
            experts: 128,
            top_k: Some(8),
            intermediate: ("moe_intermediate_size", Some(768)),
        },
    )?;
    let normalise = moe::norm_topk_prob(keys, false)?;
    let sparse = moe::qwen_sparse(keys)?;
    let size = opt_or(keys, "sliding_window", Some(4096))?;
    let window = if keys.bool_or("use_sliding_window", false)? { size } else { None };
    // Which layers Qwen2 would give a window.
    keys.ignore(&["max_window_layers"]);
    let attention = keys.bool_or("attention_bias", false)?;
    let dense = Dense {
        family: "qwen3_moe",
        kv_heads: KvHeads::Fixed(4),
        context: 32_768,
        biases: Biases { qkv: attention, o: attention, mlp: false },
        qk_norm: Some(["q_norm", "k_norm"]),
        ..Dense::default()
    };
    let mut decoder = dense.describe(keys, tensors, |_| window)?;
    moe::put(&mut decoder, sparse, |layer| mixture.qwen(&format!("{layer}.mlp"), normalise, None));
    Ok(decoder)
}
