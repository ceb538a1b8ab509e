//! OLMo 3: OLMo 2 with windows in three of four layers; stretched rotation is that of the others.
//!
//! Mirrors `modeling_olmo3.py`. Switches: `sliding_window` (4096 without the key), `layer_types`, `attention_bias`, `head_dim`;
//! `rope_theta` and `rope_scaling` are those of layers without a window, `rope_parameters` has an object for each kind.

use super::Tensors;
use super::olmo2::dense;
use super::parts::{attentions, layer_windows, norm_all_heads_together};
use crate::config::{ConfigError, Keys, LayerRope, read_layer_ropes};
use crate::decoder::Decoder;

/// The rotations of layers with a window, and of those without.
const ROPES: [LayerRope; 2] = [
    LayerRope { kind: "sliding_attention", theta_key: None, theta: 500_000.0, scaled: false },
    LayerRope { kind: "full_attention", theta_key: Some("rope_theta"), theta: 500_000.0, scaled: true },
];

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let windows = layer_windows(keys, Some(4096), |i| (i + 1) % 4 != 0)?;
    let dense = dense("olmo3", keys)?;
    let mut decoder = dense.describe_turned(
        keys,
        tensors,
        |i| windows[i],
        |sizes, max_positions| read_layer_ropes(keys, &ROPES, "olmo3", sizes.head_dim, max_positions),
    )?;
    // The stretched rotation is what makes this context, not more.
    decoder.context = keys.size_or("max_position_embeddings", dense.context)?;
    norm_all_heads_together(&mut decoder);
    for (_, mixer) in attentions(&mut decoder) {
        if let Some(rotary) = &mut mixer.rotary {
            rotary.rope = usize::from(mixer.window.is_none());
        }
    }
    Ok(decoder)
}
