//! Qwen3: an RMS norm on every query and key head before the rotation.
//!
//! Mirrors `modeling_qwen3.py`. Switches: `attention_bias` (q, k, v and o together), the windows of Qwen2.
//! A config without `head_dim` means 128.

use super::Tensors;
use super::dense::{Biases, DefaultKvHeads, Dense, QkNormNames, qwen_windows};
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let windows = qwen_windows(keys)?;
    let attention = keys.bool_or("attention_bias", false)?;
    let dense = Dense {
        family: "qwen3",
        default_kv_heads: DefaultKvHeads::Fixed(32),
        default_head_dim: Some(128),
        default_context: 32_768,
        biases: Biases { qkv: attention, o: attention, mlp: false },
        qk_norm: Some(QkNormNames { q: "q_norm", k: "k_norm" }),
    };
    dense.describe(keys, tensors, |i| windows[i])
}
