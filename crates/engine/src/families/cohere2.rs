//! Cohere 2 (Command R7B, Command A): Cohere with windows in most layers; layers without a window do not know positions.
//!
//! Mirrors `modeling_cohere2.py`. Switches: `attention_bias`, `logit_scale`, `sliding_window`, `layer_types`,
//! `sliding_window_pattern` (every so many layers one has no window). A config without `sliding_window` means 4096.

use super::Tensors;
use super::cohere::{dense, logit_scale};
use super::parts::{attentions, layer_windows, must_say, no_own_head_dim};
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let pattern = keys.size_or("sliding_window_pattern", 4)?;
    let windows = layer_windows(keys, Some(4096), |i| (i + 1) % pattern != 0)?;
    no_own_head_dim(keys)?;
    let mut decoder = dense("cohere2", 10_000.0, keys)?.describe(keys, tensors, |i| windows[i])?;
    decoder.logits.scale = logit_scale(keys)?;
    for (_, mixer) in attentions(&mut decoder) {
        mixer.rotary = mixer.rotary.filter(|_| mixer.window.is_some());
    }
    // What the family is, which its configs say, too.
    for key in ["use_gated_activation", "use_parallel_block"] {
        keys.must_be(key, true)?;
    }
    keys.must_be("use_qk_norm", false)?;
    must_say(keys, "position_embedding_type", "rope_gptj")?;
    must_say(keys, "order_of_interleaved_layers", "local_attn_first")?;
    if keys.opt_number("rotary_pct")?.is_some_and(|part| part != 1.0) {
        return Err(keys.invalid("rotary_pct", "1 in this family"));
    }
    keys.ignore(&["_sliding_window_pattern", "layer_switch", "use_embedding_sharing", "use_parallel_embedding"]);
    Ok(decoder)
}
