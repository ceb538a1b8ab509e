//! Seed-OSS: Llama with biases on q, k and v, and wide attention.
//!
//! Mirrors `modeling_seed_oss.py`. Switches: `attention_bias` (q, k and v; true without the key), `attention_out_bias`, `mlp_bias`,
//! `head_dim` (128 without the key).

use super::Tensors;
use super::dense::{Biases, Dense};
use super::parts::KvHeads;
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let qkv = keys.bool_or("attention_bias", true)?;
    let o = keys.bool_or("attention_out_bias", false)?;
    let mlp = keys.bool_or("mlp_bias", false)?;
    let dense = Dense {
        family: "seed_oss",
        kv_heads: KvHeads::Fixed(8),
        head_dim: Some(128),
        context: 524_288,
        biases: Biases { qkv, o, mlp },
        ..Dense::default()
    };
    dense.describe(keys, tensors, |_| None)
}
