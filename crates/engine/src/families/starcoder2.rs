//! StarCoder2: layer norms, a plain feed-forward, biases, and a window in every layer.
//!
//! Mirrors `modeling_starcoder2.py`. Switches: `use_bias` (every map but the head; true without the key), `sliding_window` (in every
//! layer), `head_dim`.

use super::Tensors;
use super::dense::{Biases, Dense, FfnStyle, NormStyle};
use super::parts::{KvHeads, must_say};
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let bias = keys.bool_or("use_bias", true)?;
    let window = keys.opt_size("sliding_window")?;
    must_say(keys, "norm_type", "layer_norm")?;
    must_say(keys, "mlp_type", "default")?;
    keys.must_be("scale_attn_weights", true)?;
    // How and with what it was trained, and another name of the non-linearity and of the norms' number, which transformers does not read.
    keys.ignore(&[
        "activation_function",
        "attention_softmax_in_fp32",
        "layer_norm_epsilon",
        "scale_attention_softmax_in_fp32",
    ]);
    let dense = Dense {
        family: "starcoder2",
        kv_heads: KvHeads::Fixed(2),
        context: 4096,
        biases: Biases { qkv: bias, o: bias, mlp: bias },
        norm: NormStyle::Layer { bias: true },
        eps: ("norm_epsilon", 1e-5),
        ffn: FfnStyle::Plain(["c_fc", "c_proj"]),
        act: "gelu_pytorch_tanh",
        tied: true,
        ..Dense::default()
    };
    dense.describe(keys, tensors, |_| window)
}
