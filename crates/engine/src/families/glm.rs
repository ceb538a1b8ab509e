//! GLM-4 as of 2024, and GLM-Edge: half of each head is rotated, interleaved; gate and up are one map.
//!
//! Mirrors `modeling_glm.py`. Switches: `attention_bias` (q, k and v; true without the key), `partial_rotary_factor`,
//! `head_dim` (128 without the key).

use super::Tensors;
use super::dense::{Biases, Dense, FfnStyle};
use super::parts::KvHeads;
use crate::config::{ConfigError, Keys, RopeDefaults};
use crate::decoder::{Decoder, Pairing};

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    dense("glm", keys)?.describe(keys, tensors, |_| None)
}

/// What GLM-4-0414 has, too.
pub(super) fn dense(family: &'static str, keys: &Keys<'_>) -> Result<Dense, ConfigError> {
    let attention = keys.bool_or("attention_bias", true)?;
    Ok(Dense {
        family,
        kv_heads: KvHeads::Fixed(2),
        head_dim: Some(128),
        context: 131_072,
        biases: Biases { qkv: attention, o: false, mlp: false },
        eps: ("rms_norm_eps", 1.5625e-7),
        rope: RopeDefaults { theta: 10_000.0, partial: Some(0.5) },
        pairing: Pairing::Interleaved,
        ffn: FfnStyle::Stacked,
        ..Dense::default()
    })
}
