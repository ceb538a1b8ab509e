//! OLMo 2: norms after attention and feed-forward instead of before, and an RMS norm over all queries, and all keys, of a position.
//!
//! Mirrors `modeling_olmo2.py`. Switches: `attention_bias` (q, k, v and o together), `head_dim`.

use super::Tensors;
use super::dense::{Biases, Dense, Norms};
use super::parts::norm_all_heads_together;
use crate::config::{ConfigError, Keys};
use crate::decoder::Decoder;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let mut decoder = dense("olmo2", keys)?.describe(keys, tensors, |_| None)?;
    norm_all_heads_together(&mut decoder);
    Ok(decoder)
}

/// What OLMo 3 has, too.
pub(super) fn dense(family: &'static str, keys: &Keys<'_>) -> Result<Dense, ConfigError> {
    let attention = keys.bool_or("attention_bias", false)?;
    Ok(Dense {
        family,
        biases: Biases { qkv: attention, o: attention, mlp: false },
        qk_norm: Some(["q_norm", "k_norm"]),
        norms: Norms::POST,
        eps: ("rms_norm_eps", 1e-5),
        ..Dense::default()
    })
}
