//! Nemotron-4 and Minitron: layer norms by `1 + weight`, a plain feed-forward whose non-linearity is the square of ReLU; a part of each
//! head is rotated.
//!
//! Mirrors `modeling_nemotron.py`. Switches: `attention_bias` (q, k, v and o together), `mlp_bias`, `partial_rotary_factor`, `head_dim`.

use super::Tensors;
use super::dense::{Biases, Dense, FfnStyle, NormStyle};
use super::parts::must_say;
use crate::config::{ConfigError, Keys, RopeDefaults};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let attention = keys.bool_or("attention_bias", false)?;
    let mlp = keys.bool_or("mlp_bias", false)?;
    must_say(keys, "normalization", "layernorm1p")?;
    // Older spellings of partial_rotary_factor, which transformers does not read.
    keys.ignore(&["rope_percent", "rotary_percent"]);
    let dense = Dense {
        family: "nemotron",
        context: 4096,
        biases: Biases { qkv: attention, o: attention, mlp },
        norm: NormStyle::LayerZeroCentred,
        eps: ("norm_eps", 1e-5),
        rope: RopeDefaults { theta: 10_000.0, partial: Some(0.5) },
        ffn: FfnStyle::Plain(["up_proj", "down_proj"]),
        act: "relu2",
        ..Dense::default()
    };
    let decoder = dense.describe(keys, tensors, |_| None)?;
    // The same as `head_dim`, which transformers does not read.
    let head_dim = decoder.blocks[0].mixer.attention().map(|mixer| mixer.head_dim);
    if keys.opt_size("kv_channels")?.is_some_and(|d| Some(d) != head_dim) {
        return Err(keys.invalid("kv_channels", "absent, or head_dim"));
    }
    Ok(decoder)
}
