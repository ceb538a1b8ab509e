//! Arcee (AFM): Llama with a plain feed-forward whose non-linearity is the square of ReLU.
//!
//! Mirrors `modeling_arcee.py`. Switches: `attention_bias` (q, k, v and o together), `mlp_bias`, `head_dim`.

use super::Tensors;
use super::dense::{Biases, Dense, FfnStyle};
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let attention = keys.bool_or("attention_bias", false)?;
    let mlp = keys.bool_or("mlp_bias", false)?;
    let dense = Dense {
        family: "arcee",
        context: 4096,
        biases: Biases { qkv: attention, o: attention, mlp },
        eps: ("rms_norm_eps", 1e-5),
        ffn: FfnStyle::Plain(["up_proj", "down_proj"]),
        act: "relu2",
        ..Dense::default()
    };
    dense.describe(keys, tensors, |_| None)
}
