//! Qwen2 and Qwen2.5: Llama with biases on q, k and v, and windows in some layers.
//!
//! Mirrors `modeling_qwen2.py`. Switches: `use_sliding_window`, `sliding_window`, `max_window_layers`, `layer_types`.

use super::Tensors;
use super::dense::{Biases, Dense, qwen_windows};
use super::parts::KvHeads;
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let windows = qwen_windows(keys)?;
    keys.must_be("use_mrope", false)?;
    let dense = Dense {
        family: "qwen2",
        kv_heads: KvHeads::Fixed(32),
        context: 32_768,
        biases: Biases { qkv: true, o: false, mlp: false },
        ..Dense::default()
    };
    dense.describe(keys, tensors, |i| windows[i])
}
