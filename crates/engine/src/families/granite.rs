//! Granite 3: Llama with four multipliers.
//!
//! Mirrors `modeling_granite.py`. Switches: `embedding_multiplier`, `attention_multiplier` (which is the factor of the scores),
//! `residual_multiplier`, `logits_scaling` (by which logits are divided), `attention_bias` (q, k, v and o together), `mlp_bias`, `head_dim`.

use super::Tensors;
use super::dense::{Biases, Dense};
use super::parts::attentions;
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let attention = keys.bool_or("attention_bias", false)?;
    let mlp = keys.bool_or("mlp_bias", false)?;
    let dense = Dense { family: "granite", biases: Biases { qkv: attention, o: attention, mlp }, ..Dense::default() };
    let mut decoder = dense.describe(keys, tensors, |_| None)?;
    multiply(&mut decoder, keys)?;
    Ok(decoder)
}

/// The four multipliers.
pub(super) fn multiply(decoder: &mut Decoder, keys: &Keys<'_>) -> Result<(), ConfigError> {
    let factor = |key: &str| Ok(keys.opt_positive(key)?.unwrap_or(1.0));
    decoder.embed.scale = factor("embedding_multiplier")? as f32;
    decoder.logits.scale = (1.0 / factor("logits_scaling")?) as f32;
    let residual = factor("residual_multiplier")? as f32;
    decoder.blocks.iter_mut().for_each(|block| block.residual_scale = residual);
    let scale = factor("attention_multiplier")? as f32;
    attentions(decoder).for_each(|(_, mixer)| mixer.scale = scale);
    Ok(())
}
