//! Qwen3: an RMS norm on every query and key head before the rotation.
//!
//! Mirrors `modeling_qwen3.py`. Switches: `attention_bias` (q, k, v and o together), the windows of Qwen2.
//! A config without `head_dim` means 128.

use super::Tensors;
use super::dense::{Biases, Dense, qwen_windows};
use super::parts::KvHeads;
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let windows = qwen_windows(keys)?;
    let attention = keys.bool_or("attention_bias", false)?;
    let dense = Dense {
        family: "qwen3",
        kv_heads: KvHeads::Fixed(32),
        head_dim: Some(128),
        context: 32_768,
        biases: Biases { qkv: attention, o: attention, mlp: false },
        qk_norm: Some(["q_norm", "k_norm"]),
        ..Dense::default()
    };
    dense.describe(keys, tensors, |i| windows[i])
}
