//! Apertus: a plain feed-forward with xIELU, whose parameters are trained, and an RMS norm on every query and key head.
//!
//! Mirrors `modeling_apertus.py`. Switches: `attention_bias` (q, k, v and o together), `head_dim`. A config that says nothing of
//! rotation means that of Llama 3 with a theta of 12000000.

use super::Tensors;
use super::dense::{Biases, Dense, FfnStyle, Norms};
use super::parts::must_say;
use crate::config::{ConfigError, Keys, RopeDefaults, read_rope, rope_object};
use crate::decoder::{Decoder, Flow};
use crate::rope::{Rope, RopeScaling};

const THETA: f64 = 12e6;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    must_say(keys, "hidden_act", "xielu")?;
    keys.must_be("post_norm", false)?;
    keys.must_be("qk_norm", true)?;
    keys.must_be("mlp_bias", false)?;
    let attention = keys.bool_or("attention_bias", false)?;
    let dense = Dense {
        family: "apertus",
        context: 65_536,
        biases: Biases { qkv: attention, o: attention, mlp: false },
        qk_norm: Some(["q_norm", "k_norm"]),
        norms: Norms {
            mixer: [Some("attention_layernorm"), None],
            ffn: [Some("feedforward_layernorm"), None],
            flow: Flow::Serial,
        },
        eps: ("rms_norm_eps", 1e-5),
        ffn: FfnStyle::Xielu,
        ..Dense::default()
    };
    dense.describe_turned(
        keys,
        tensors,
        |_| None,
        |sizes, max_positions| {
            if rope_object(keys)?.is_some() {
                let defaults = RopeDefaults { theta: THETA, partial: None };
                return Ok(vec![read_rope(keys, "apertus", sizes.head_dim, max_positions, defaults)?]);
            }
            // transformers then has an object of its own, theta included.
            if keys.opt_positive("rope_theta")?.is_some_and(|theta| theta != THETA) {
                return Err(keys.invalid("rope_theta", format!("{THETA} where there is no rope_scaling")));
            }
            let scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192 };
            Ok(vec![Rope::new(sizes.head_dim, THETA, scaling, max_positions)])
        },
    )
}
