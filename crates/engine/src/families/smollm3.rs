//! SmolLM3: Llama whose every fourth layer is not rotated.
//!
//! Mirrors `modeling_smollm3.py`. Switches: `no_rope_layers` (a list: 1 where a layer is rotated, 0 where not),
//! `no_rope_layer_interval`, `use_sliding_window`, `sliding_window`, `layer_types`, `attention_bias` (q, k, v and o together),
//! `mlp_bias`, `head_dim`.

use super::Tensors;
use super::dense::{Biases, Dense};
use super::parts::{KvHeads, attentions, layer_windows};
use crate::config::{ConfigError, Keys, RopeDefaults};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let rotated = rotated(keys)?;
    let window = keys.opt_size("sliding_window")?;
    let slides = keys.bool_or("use_sliding_window", false)? && window.is_some();
    // The mask goes by `layer_types` alone, whatever `use_sliding_window` says.
    let windows = layer_windows(keys, None, |i| slides && !rotated[i])?;
    let attention = keys.bool_or("attention_bias", false)?;
    let mlp = keys.bool_or("mlp_bias", false)?;
    keys.ignore(&["max_window_layers"]);
    let dense = Dense {
        family: "smollm3",
        kv_heads: KvHeads::Fixed(4),
        context: 32_768,
        biases: Biases { qkv: attention, o: attention, mlp },
        rope: RopeDefaults { theta: 2e6, partial: None },
        tied: true,
        ..Dense::default()
    };
    let mut decoder = dense.describe(keys, tensors, |i| windows[i])?;
    for (i, mixer) in attentions(&mut decoder) {
        mixer.rotary = mixer.rotary.filter(|_| rotated[i]);
    }
    Ok(decoder)
}

/// Whether each layer is rotated.
fn rotated(keys: &Keys<'_>) -> Result<Vec<bool>, ConfigError> {
    let layers = keys.layers("num_hidden_layers")?;
    let interval = keys.size_or("no_rope_layer_interval", 4)?;
    let Some(list) = keys.opt_array("no_rope_layers")? else {
        return Ok((0..layers).map(|i| (i + 1) % interval != 0).collect());
    };
    let flags: Option<Vec<bool>> = list.iter().map(|v| v.as_bool().or_else(|| Some(v.as_u64()? != 0))).collect();
    let expected = || format!("a list of 0 or 1 for each of num_hidden_layers ({layers}) layers");
    flags.filter(|flags| flags.len() >= layers).ok_or_else(|| keys.invalid("no_rope_layers", expected()))
}
