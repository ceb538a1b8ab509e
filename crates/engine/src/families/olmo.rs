//! OLMo: Llama with layer norms that have neither weight nor bias.
//!
//! Mirrors `modeling_olmo.py`. Switches: `clip_qkv` (queries, keys and values are kept within it), `attention_bias` (q, k, v and o
//! together), `head_dim`.

use super::Tensors;
use super::dense::{Biases, Dense, NormStyle};
use super::parts::attentions;
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let attention = keys.bool_or("attention_bias", false)?;
    let clip = keys.opt_positive("clip_qkv")?.map(|clip| clip as f32);
    let dense = Dense {
        family: "olmo",
        biases: Biases { qkv: attention, o: attention, mlp: false },
        norm: NormStyle::Bare,
        eps: ("", 1e-5),
        ..Dense::default()
    };
    let mut decoder = dense.describe(keys, tensors, |_| None)?;
    attentions(&mut decoder).for_each(|(_, mixer)| mixer.clip = clip);
    Ok(decoder)
}
