//! Llama 2, 3 and 3.x, and the many checkpoints that call themselves so.
//!
//! Mirrors `modeling_llama.py`. Switches: `attention_bias` (q, k, v and o together), `mlp_bias`, `head_dim`.

use super::Tensors;
use super::dense::{Biases, Dense};
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    keys.must_be("rope_interleaved", false)?;
    let attention = keys.bool_or("attention_bias", false)?;
    let mlp = keys.bool_or("mlp_bias", false)?;
    let dense = Dense {
        family: "llama",
        context: 2048,
        biases: Biases { qkv: attention, o: attention, mlp },
        ..Dense::default()
    };
    dense.describe(keys, tensors, |_| None)
}
