//! EXAONE 4: norms after attention and feed-forward, an RMS norm on every query and key head, and, in hybrids, windows in most layers
//! and no rotation in the others.
//!
//! Mirrors `modeling_exaone4.py`. Switches: `sliding_window` (4096 without the key; null: every layer sees all and is rotated),
//! `layer_types`, `sliding_window_pattern` (every so many layers one has no window), `head_dim`.

use super::Tensors;
use super::dense::{Dense, Norms};
use super::parts::{KvHeads, attentions, layer_windows, opt_or};
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let hybrid = opt_or(keys, "sliding_window", Some(4096))?.is_some();
    let pattern = if !hybrid || keys.value("layer_types").is_some() {
        // It may be a word such as "LLLG", which only `layer_types` spells out.
        keys.ignore(&["sliding_window_pattern"]);
        1
    } else {
        keys.size_or("sliding_window_pattern", 4)?
    };
    let windows = layer_windows(keys, Some(4096), |i| (i + 1) % pattern != 0)?;
    let dense = Dense {
        family: "exaone4",
        kv_heads: KvHeads::Fixed(32),
        qk_norm: Some(["q_norm", "k_norm"]),
        norms: Norms::POST,
        eps: ("rms_norm_eps", 1e-5),
        ..Dense::default()
    };
    let mut decoder = dense.describe(keys, tensors, |i| windows[i])?;
    for (_, mixer) in attentions(&mut decoder) {
        mixer.rotary = mixer.rotary.filter(|_| !hybrid || mixer.window.is_some());
    }
    Ok(decoder)
}
