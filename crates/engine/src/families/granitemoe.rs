//! Granite 3 MoE: Granite's multipliers, and experts that lie in one tensor.
//!
//! Mirrors `modeling_granitemoe.py`. Switches: `embedding_multiplier`, `attention_multiplier`, `residual_multiplier`, `logits_scaling`,
//! `attention_bias` (q, k, v and o together). The router's softmax goes over the experts that it chose.

use super::Tensors;
use super::dense::{Biases, Dense};
use super::granite;
use super::moe::{self, Mixture, Names};
use crate::config::{ConfigError, Keys};
use crate::decoder::{Decoder, Router, Scores};

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let mixture = Mixture::read(
        keys,
        &Names {
            n_experts: ["num_local_experts", "num_experts"],
            experts: 8,
            top_k: Some(2),
            intermediate: ("intermediate_size", None),
        },
    )?;
    let biased = keys.bool_or("attention_bias", false)?;
    keys.must_be("mlp_bias", false)?;
    let dense =
        Dense { family: "granitemoe", biases: Biases { qkv: biased, o: biased, mlp: false }, ..Dense::default() };
    let mut decoder = dense.describe(keys, tensors, |_| None)?;
    granite::multiply(&mut decoder, keys)?;
    moe::put(
        &mut decoder,
        |_| true,
        |layer| {
            let name = format!("{layer}.block_sparse_moe");
            let router = mixture.router(format!("{name}.router.layer.weight"));
            let router = Router { scores: Scores::SoftmaxOfChosen, ..router };
            let [inputs, down] = ["input_linear", "output_linear"].map(|which| format!("{name}.{which}.weight"));
            mixture.of(router, mixture.stacked(&inputs, &down))
        },
    );
    Ok(decoder)
}
