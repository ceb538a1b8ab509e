//! Mixtral: Mistral with a mixture of experts in every layer.
//!
//! Mirrors `modeling_mixtral.py`. Switches: `num_local_experts`, `num_experts_per_tok`, `sliding_window` (of all layers). The weights of a
//! row's experts are their softmax, divided by its sum over them.

use super::Tensors;
use super::dense::Dense;
use super::moe::{self, Mixture, Names, W};
use super::parts::KvHeads;
use crate::config::{ConfigError, Keys, RopeDefaults};
use crate::decoder::{Decoder, Normalise, Router};

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let window = keys.opt_size("sliding_window")?;
    let mixture = Mixture::read(
        keys,
        &Names {
            n_experts: ["num_local_experts", "num_experts"],
            experts: 8,
            top_k: Some(2),
            intermediate: ("intermediate_size", None),
        },
    )?;
    keys.must_be("attention_bias", false)?;
    // Noise that only training adds.
    keys.ignore(&["router_jitter_noise"]);
    let dense = Dense {
        family: "mixtral",
        kv_heads: KvHeads::Fixed(8),
        context: 131_072,
        eps: ("rms_norm_eps", 1e-5),
        rope: RopeDefaults { theta: 1e6, partial: None },
        ..Dense::default()
    };
    let mut decoder = dense.describe(keys, tensors, |_| window)?;
    moe::put(
        &mut decoder,
        |_| true,
        |layer| {
            let name = format!("{layer}.block_sparse_moe");
            let router = mixture.router(format!("{name}.gate.weight"));
            let router = Router { normalise: Normalise::Sum { plus: 0.0 }, ..router };
            mixture.of(router, mixture.apart(&format!("{name}.experts"), W))
        },
    );
    Ok(decoder)
}
