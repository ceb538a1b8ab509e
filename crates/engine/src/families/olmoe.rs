//! OLMoE: many small experts, and norms over all queries and all keys of a row.
//!
//! Mirrors `modeling_olmoe.py`. Switches: `norm_topk_prob`, `clip_qkv`, `attention_bias` (q, k, v and o together).

use super::Tensors;
use super::dense::{Biases, Dense};
use super::moe::{self, Mixture, Names};
use super::parts::attentions;
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let mixture = Mixture::read(
        keys,
        &Names {
            n_experts: ["num_experts", "num_local_experts"],
            experts: 64,
            top_k: Some(8),
            intermediate: ("intermediate_size", None),
        },
    )?;
    let normalise = moe::norm_topk_prob(keys, false)?;
    let clip = keys.opt_positive("clip_qkv")?;
    let attention = keys.bool_or("attention_bias", false)?;
    let dense = Dense {
        family: "olmoe",
        context: 4096,
        biases: Biases { qkv: attention, o: attention, mlp: false },
        qk_norm: Some(["q_norm", "k_norm"]),
        eps: ("rms_norm_eps", 1e-5),
        ..Dense::default()
    };
    let mut decoder = dense.describe(keys, tensors, |_| None)?;
    for (_, mixer) in attentions(&mut decoder) {
        mixer.clip = clip.map(|clip| clip as f32);
        let (width, kv_width) = (mixer.width(), mixer.kv_width());
        if let Some(norms) = &mut mixer.qk_norm {
            (norms.q.width, norms.k.width) = (width, kv_width);
        }
    }
    moe::put(&mut decoder, |_| true, |layer| mixture.qwen(&format!("{layer}.mlp"), normalise, None));
    Ok(decoder)
}
