//! ERNIE 4.5 without experts: Llama with interleaved rotation.
//!
//! Mirrors `modeling_ernie4_5.py`. Switches: `use_bias` (every map but the head), `head_dim` (128 without the key).

use super::Tensors;
use super::dense::{Biases, Dense};
use super::parts::KvHeads;
use crate::config::{ConfigError, Keys, RopeDefaults};
use crate::decoder::{Decoder, Pairing};

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let bias = keys.bool_or("use_bias", false)?;
    if keys.opt_number("compression_ratio")?.is_some_and(|ratio| ratio != 1.0) {
        return Err(keys.invalid("compression_ratio", "1: positions are not compressed"));
    }
    let dense = Dense {
        family: "ernie4_5",
        kv_heads: KvHeads::Fixed(2),
        head_dim: Some(128),
        context: 131_072,
        biases: Biases { qkv: bias, o: bias, mlp: bias },
        eps: ("rms_norm_eps", 1e-5),
        rope: RopeDefaults { theta: 500_000.0, partial: None },
        pairing: Pairing::Interleaved,
        tied: true,
        ..Dense::default()
    };
    dense.describe(keys, tensors, |_| None)
}
