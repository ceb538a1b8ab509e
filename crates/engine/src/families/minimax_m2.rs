//! MiniMax-M2: many experts chosen by sigmoids and a bias, norms over all queries and all keys of a row, half of each head rotated.
//!
//! Mirrors `modeling_minimax_m2.py`. Switches: `rotary_dim` or `partial_rotary_factor`, `num_local_experts`, `num_experts_per_tok`. Keys
//! that name what all of these models have in common are read and have to say so.

use super::Tensors;
use super::dense::Dense;
use super::moe::{self, Mixture, Names, W};
use super::parts::{KvHeads, attentions, must_say};
use crate::config::{ConfigError, Keys, RopeDefaults};
use crate::decoder::{Decoder, Normalise, Router, Scores};

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let mixture = Mixture::read(
        keys,
        &Names {
            n_experts: ["num_local_experts", "num_experts"],
            experts: 256,
            top_k: Some(8),
            intermediate: ("intermediate_size", None),
        },
    )?;
    as_all_are(keys)?;
    let head_dim = keys.opt_size("head_dim")?.unwrap_or(128);
    let partial = match keys.opt_size("rotary_dim")? {
        Some(rotated) if rotated > head_dim => {
            return Err(keys.invalid("rotary_dim", format!("at most head_dim ({head_dim})")));
        }
        Some(rotated) => rotated as f64 / head_dim as f64,
        None => 1.0,
    };
    let dense = Dense {
        family: "minimax_m2",
        kv_heads: KvHeads::Fixed(8),
        head_dim: Some(128),
        context: 196_608,
        qk_norm: Some(["q_norm", "k_norm"]),
        rope: RopeDefaults { theta: 5e6, partial: Some(partial) },
        ..Dense::default()
    };
    let mut decoder = dense.describe(keys, tensors, |_| None)?;
    for (_, mixer) in attentions(&mut decoder) {
        let (width, kv_width) = (mixer.width(), mixer.kv_width());
        if let Some(norms) = &mut mixer.qk_norm {
            (norms.q.width, norms.k.width) = (width, kv_width);
        }
    }
    moe::put(
        &mut decoder,
        |_| true,
        |layer| {
            let name = format!("{layer}.block_sparse_moe");
            let router = Router {
                scores: Scores::Sigmoid,
                normalise: Normalise::Sum { plus: 0.0 },
                correction_bias: Some(format!("{name}.e_score_correction_bias")),
                ..mixture.router(format!("{name}.gate.weight"))
            };
            mixture.of(router, mixture.apart(&format!("{name}.experts"), W))
        },
    );
    Ok(decoder)
}

/// What the published configs say and the family's code takes for granted.
fn as_all_are(keys: &Keys<'_>) -> Result<(), ConfigError> {
    must_say(keys, "scoring_func", "sigmoid")?;
    must_say(keys, "qk_norm_type", "per_layer")?;
    keys.must_be("use_routing_bias", true)?;
    keys.must_be("use_qk_norm", true)?;
    if keys.count_or("shared_intermediate_size", 0)? != 0 {
        return Err(keys.invalid("shared_intermediate_size", "0: no expert is shared in this family"));
    }
    if keys.opt_array("attn_type_list")?.is_some_and(|list| list.iter().any(|kind| *kind != 1)) {
        return Err(keys.invalid("attn_type_list", "1 for every layer: softmax attention"));
    }
    let kinds = ["full_attention", "linear_attention", "mlp"];
    for key in kinds.iter().flat_map(|kind| ["alpha", "beta"].map(|which| format!("layernorm_{kind}_{which}"))) {
        if keys.opt_number(&key)?.is_some_and(|x| x != 1.0) {
            return Err(keys.invalid(&key, "1 in this family"));
        }
    }
    // Heads that predict further tokens, which are not published; sizes of layers that there are none of; training.
    keys.ignore(&["use_mtp", "num_mtp_modules", "mtp_transformer_layers", "mlp_intermediate_size", "shared_moe_mode"]);
    keys.ignore(&["router_jitter_noise"]);
    Ok(())
}
