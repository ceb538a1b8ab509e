//! gpt-oss: sinks in the softmax of attention, windows in every other layer, and experts with biases and a clamped gate.
//!
//! Mirrors `modeling_gpt_oss.py`. Switches: `layer_types`, `sliding_window`, `swiglu_alpha`, `swiglu_limit`, `attention_bias` (q, k, v and o
//! together). The experts' weights are stored `[in, out]`, with gate and up interleaved. Without any rotary parameters the config means
//! YaRN by 32.

use super::Tensors;
use super::dense::{Biases, Dense};
use super::moe::{self, Mixture, Names};
use super::parts::{KvHeads, attentions, layer_windows, must_say};
use crate::config::{ConfigError, Keys, RopeDefaults};
use crate::decoder::{Activation, Decoder, Gated, Linear, Part, Projection, Router, Scores};
use crate::rope::{Rope, RopeScaling, YarnRope, yarn_attention_factor};

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    must_say(keys, "hidden_act", "silu")?;
    let mixture = Mixture::read(
        keys,
        &Names {
            n_experts: ["num_local_experts", "num_experts"],
            experts: 128,
            top_k: Some(4),
            intermediate: ("intermediate_size", None),
        },
    )?;
    if keys.opt_size("experts_per_token")?.is_some_and(|k| k != mixture.top_k) {
        return Err(keys.invalid("experts_per_token", format!("{}, as num_experts_per_tok says", mixture.top_k)));
    }
    // What the model's own code calls the original context.
    keys.ignore(&["initial_context_length"]);
    let factor = |key: &str, default| Ok(keys.opt_positive(key)?.unwrap_or(default) as f32);
    let act = Activation::ClampedSwiglu { alpha: factor("swiglu_alpha", 1.702)?, limit: factor("swiglu_limit", 7.0)? };
    let windows = layer_windows(keys, Some(128), |i| i.is_multiple_of(2))?;
    let biased = keys.bool_or("attention_bias", true)?;
    let dense = Dense {
        family: "gpt_oss",
        kv_heads: KvHeads::Fixed(8),
        head_dim: Some(64),
        context: 131_072,
        biases: Biases { qkv: biased, o: biased, mlp: false },
        eps: ("rms_norm_eps", 1e-5),
        rope: RopeDefaults { theta: 150_000.0, partial: None },
        ..Dense::default()
    };
    let mut decoder = dense.describe(keys, tensors, |i| windows[i])?;
    if keys.opt_object("rope_scaling")?.is_none_or(|rope| rope.is_empty()) && keys.value("rope_parameters").is_none() {
        let rope = yarn(keys, &decoder.ropes[0], decoder.context)?;
        decoder.context = rope.context();
        decoder.ropes = vec![rope];
    }
    for (i, mixer) in attentions(&mut decoder) {
        mixer.sinks = Some(format!("model.layers.{i}.self_attn.sinks"));
    }
    moe::put(
        &mut decoder,
        |_| true,
        |layer| {
            let router = mixture.router(format!("{layer}.mlp.router.weight"));
            let router =
                Router { linear: router.linear.clone().biased(true), scores: Scores::SoftmaxOfChosen, ..router };
            mixture.of(router, expert(&mixture, act, &format!("{layer}.mlp.experts")))
        },
    );
    Ok(decoder)
}

/// The expert that stands for all of the tensors `name`….
fn expert(mixture: &Mixture, act: Activation, name: &str) -> Gated {
    let linear = |which: &str, in_features, out_features| {
        Linear::new(format!("{name}.{which}"), in_features, out_features)
            .slab(mixture.n_experts)
            .transposed()
            .with_bias(format!("{name}.{which}_bias"))
    };
    let (hidden, inner) = (mixture.hidden, mixture.intermediate);
    let both = linear("gate_up_proj", hidden, 2 * inner);
    let inputs = vec![Projection::grouped(both, inner, &[(Part::Gate, 1), (Part::Up, 1)])];
    Gated { act, intermediate: inner, inputs, down: linear("down_proj", inner, hidden) }
}

/// The rotary embedding of a config that says nothing of one (`configuration_gpt_oss.py`); `plain` is that without scaling.
fn yarn(keys: &Keys<'_>, plain: &Rope, context: usize) -> Result<Rope, ConfigError> {
    let factor = 32.0;
    let scaling = RopeScaling::Yarn(YarnRope {
        factor,
        original: keys.opt_size("original_max_position_embeddings")?.unwrap_or(4096),
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: false,
        attention_factor: yarn_attention_factor(factor, None, None),
    });
    Ok(Rope::new(plain.dim(), plain.theta(), scaling, context))
}
