//! GLM-4-0414 and GLM-Z1: GLM with norms before and after attention and feed-forward.
//!
//! Mirrors `modeling_glm4.py`. Switches: those of GLM.

use super::Tensors;
use super::dense::{Dense, Norms};
use super::glm;
use crate::config::{ConfigError, Keys};
use crate::decoder::{Decoder, Flow};

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let norms = Norms {
        mixer: [Some("input_layernorm"), Some("post_self_attn_layernorm")],
        ffn: [Some("post_attention_layernorm"), Some("post_mlp_layernorm")],
        flow: Flow::Serial,
    };
    Dense { norms, ..glm::dense("glm4", keys)? }.describe(keys, tensors, |_| None)
}
