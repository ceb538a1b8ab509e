//! Gemma: embeddings scaled by the root of their width, RMS norms by `1 + weight`, wide heads.
//!
//! Mirrors `modeling_gemma.py`. Switches: `attention_bias` (q, k, v and o together), `head_dim` (256 without the key). `hidden_act`
//! decides, not `hidden_activation`, and `gelu` means its approximation by a hyperbolic tangent.

use super::Tensors;
use super::dense::{Biases, Dense, NormStyle};
use super::parts::KvHeads;
use crate::config::{ConfigError, Keys};
use crate::decoder::{Activation, Decoder, Ffn};

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let dense = Dense { kv_heads: KvHeads::Fixed(16), context: 8192, ..dense("gemma", keys)? };
    let mut decoder = dense.describe(keys, tensors, |_| None)?;
    scale_embedding(&mut decoder);
    for block in &mut decoder.blocks {
        if let Ffn::Gated(gated) = &mut block.ffn
            && matches!(gated.act, Activation::Gelu)
        {
            gated.act = Activation::GeluTanh;
        }
    }
    keys.ignore(&["hidden_activation"]);
    Ok(decoder)
}

/// What all versions have in common.
pub(super) fn dense(family: &'static str, keys: &Keys<'_>) -> Result<Dense, ConfigError> {
    keys.must_be("use_bidirectional_attention", false)?;
    let attention = keys.bool_or("attention_bias", false)?;
    Ok(Dense {
        family,
        head_dim: Some(256),
        biases: Biases { qkv: attention, o: attention, mlp: false },
        norm: NormStyle::ZeroCentred,
        tied: true,
        act: "gelu_pytorch_tanh",
        ..Dense::default()
    })
}

/// Rows of the embedding are multiplied by the root of their width.
pub(super) fn scale_embedding(decoder: &mut Decoder) {
    decoder.embed.scale = (decoder.hidden_size as f64).sqrt() as f32;
}
