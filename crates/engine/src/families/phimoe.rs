//! Phi-3.5-MoE and Phi-mini-MoE: layer norms, and a router that weighs each of two experts among those near it.
//!
//! Mirrors `modeling_phimoe.py`. Switches: `router_jitter_noise` (how near: it is no noise here), `attention_bias` (q, k, v and o together),
//! `lm_head_bias`, `sliding_window` (of all layers), LongRoPE with `short_mscale` and `long_mscale`. Texts longer than the original
//! context turn by `long_factor`, as in the models' own code; transformers 5.24 goes on with `short_factor`.

use super::Tensors;
use super::dense::{Biases, Dense, NormStyle};
use super::moe::{self, Mixture, Names, W};
use super::parts::KvHeads;
use crate::config::{ConfigError, Keys, RopeDefaults};
use crate::decoder::{Decoder, Head, Router, Scores};
use crate::rope::RopeScaling;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let mixture = Mixture::read(
        keys,
        &Names {
            n_experts: ["num_local_experts", "num_experts"],
            experts: 16,
            top_k: Some(2),
            intermediate: ("intermediate_size", None),
        },
    )?;
    if mixture.top_k != 2 {
        return Err(keys.invalid("num_experts_per_tok", "2: the router of this family takes two"));
    }
    let jitter = keys.opt_number("router_jitter_noise")?.unwrap_or(0.01);
    if jitter < 0.0 {
        return Err(keys.invalid("router_jitter_noise", "a number that is not negative"));
    }
    // Noise that only training adds.
    keys.ignore(&["input_jitter_noise"]);
    let window = keys.opt_size("sliding_window")?;
    let attention = keys.bool_or("attention_bias", false)?;
    let dense = Dense {
        family: "phimoe",
        kv_heads: KvHeads::Fixed(8),
        context: 131_072,
        biases: Biases { qkv: attention, o: attention, mlp: false },
        norm: NormStyle::Layer { bias: true },
        eps: ("rms_norm_eps", 1e-5),
        rope: RopeDefaults { theta: 1e6, partial: None },
        ..Dense::default()
    };
    let mut decoder = dense.describe(keys, tensors, |_| window)?;
    check_rope(keys, &decoder)?;
    if keys.bool_or("lm_head_bias", false)? {
        let Head::Own(head) = &mut decoder.head else {
            return Err(keys.invalid("lm_head_bias", "false where the head is the embedding"));
        };
        head.bias = Some("lm_head.bias".to_owned());
    }
    moe::put(
        &mut decoder,
        |_| true,
        |layer| {
            let name = format!("{layer}.block_sparse_moe");
            let router = mixture.router(format!("{name}.gate.weight"));
            let router = Router { scores: Scores::SparseMixer { jitter: jitter as f32 }, ..router };
            mixture.of(router, mixture.apart(&format!("{name}.experts"), W))
        },
    );
    Ok(decoder)
}

/// The family has the plain rotation, and LongRoPE with both of its factors of sine and cosine.
fn check_rope(keys: &Keys<'_>, decoder: &Decoder) -> Result<(), ConfigError> {
    match decoder.ropes[0].scaling() {
        RopeScaling::Default => return Ok(()),
        RopeScaling::LongRope(_) => {}
        _ => return Err(keys.invalid("rope_scaling", "of the type default or longrope in this family")),
    }
    for key in ["rope_scaling", "rope_parameters"] {
        if let Some(rope) = keys.opt_object(key)?.filter(|rope| !rope.is_empty()) {
            rope.positive("short_mscale")?;
            rope.positive("long_mscale")?;
            break;
        }
    }
    Ok(())
}
