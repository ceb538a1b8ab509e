//! open-sci-ref: Llama with QK-norm and biases on q, k, v, o, gate, up and down.
//!
//! Not in transformers. Two variants are published: one whose QK-norm tensors are called
//! `q_layernorm`/`k_layernorm` and whose config says `qk_layernorm` and `mlp_bias`, and one that calls them
//! `q_norm`/`k_norm` and leaves both keys out, though both are on. `architectures` is spelt `OpenSciForCausalLM`
//! or `OpensciForCausalLM`.

use super::Tensors;
use super::dense::{Biases, Dense};
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let attention = keys.bool_or("attention_bias", true)?;
    let mlp = keys.bool_or("mlp_bias", true)?;
    let names = if tensors.has("model.layers.0.self_attn.q_layernorm.weight") {
        ["q_layernorm", "k_layernorm"]
    } else {
        ["q_norm", "k_norm"]
    };
    let qk_norm = keys.bool_or("qk_layernorm", true)?.then_some(names);
    let dense = Dense {
        family: "opensci",
        context: 2048,
        biases: Biases { qkv: attention, o: attention, mlp },
        qk_norm,
        ..Dense::default()
    };
    dense.describe(keys, tensors, |_| None)
}
