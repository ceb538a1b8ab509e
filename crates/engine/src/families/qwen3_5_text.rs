//! The text model of Qwen3.5: Qwen3-Next's layers with dense feed-forwards, and each projection in a tensor of its own.
//!
//! Mirrors `modeling_qwen3_5.py`. Switches: `layer_types` or `full_attention_interval`, the sizes `linear_…`, `attention_bias`,
//! `partial_rotary_factor`. Positions of text are the same along all axes of its rotation (`mrope_section`), which is then the plain
//! one. What predicts further tokens (`mtp.…`) is left alone.

use super::Tensors;
use super::gated_delta;
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    // The states are f32 here as they are in transformers, and further tokens are not predicted.
    keys.ignore(&["mamba_ssm_dtype", "mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "mlp_only_layers"]);
    let mut decoder = gated_delta::describe("qwen3_5_text", 4, keys, tensors, gated_delta::apart)?;
    decoder.ignored = vec!["mtp.".to_owned()];
    Ok(decoder)
}
