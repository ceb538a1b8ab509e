//! Mistral: Llama with a sliding window in every layer.
//!
//! Mirrors `modeling_mistral.py`. A config without `sliding_window` means 4096; null means none.

use super::Tensors;
use super::dense::{Biases, Dense};
use super::parts::KvHeads;
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let window = keys.opt_size("sliding_window")?;
    let window = if keys.contains("sliding_window") { window } else { Some(4096) };
    // One mask serves all layers, so a list that says otherwise cannot be what the model was trained with.
    let kind = if window.is_some() { "sliding_attention" } else { "full_attention" };
    if keys.opt_array("layer_types")?.is_some_and(|types| types.iter().any(|t| t.as_str() != Some(kind))) {
        return Err(keys.invalid("layer_types", format!("{kind} in every layer, as sliding_window says")));
    }
    keys.must_be("attention_bias", false)?;
    keys.must_be("mlp_bias", false)?;
    let dense = Dense { family: "mistral", kv_heads: KvHeads::Fixed(8), context: 131_072, ..Dense::default() };
    dense.describe(keys, tensors, |_| window)
}
