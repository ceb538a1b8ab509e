//! The spellings of rotary position embedding in `config.json`.
//!
//! transformers 5 has `rope_parameters: {rope_type, rope_theta, …}`; 4.x has `rope_theta` beside
//! `rope_scaling: {rope_type or type, …}`. As in `PreTrainedConfig.__post_init__`, a non-empty `rope_scaling` wins
//! over `rope_parameters` as a whole, and a `rope_theta` inside wins over the one outside.

use super::{ConfigError, ConfigErrorKind, Keys};
use crate::rope::{Rope, RopeScaling, YarnRope, yarn_attention_factor};

/// What transformers takes where a config names no `rope_theta`.
const DEFAULT_THETA: f64 = 10_000.0;

/// Reads the rotary embedding of `dim` elements a head, for a family of `max_position_embeddings`.
pub(crate) fn read_rope(
    keys: &Keys<'_>,
    family: &str,
    dim: usize,
    max_position_embeddings: usize,
) -> Result<Rope, ConfigError> {
    let outer_theta = keys.opt_positive("rope_theta")?;
    let outer_original = keys.opt_size("original_max_position_embeddings")?;
    let scaling = keys.opt_object("rope_scaling")?.filter(|s| !s.is_empty());
    let parameters = keys.opt_object("rope_parameters")?.filter(|p| !p.is_empty());
    let Some(inner) = scaling.or(parameters) else {
        return Ok(Rope::new(dim, outer_theta.unwrap_or(DEFAULT_THETA), RopeScaling::Default, max_position_embeddings));
    };
    let theta = inner.opt_positive("rope_theta")?.or(outer_theta).unwrap_or(DEFAULT_THETA);
    let legacy = inner.opt_str("type")?;
    let kind = inner.opt_str("rope_type")?.or(legacy).unwrap_or("default");
    if inner.opt_positive("partial_rotary_factor")?.is_some_and(|f| f != 1.0) {
        return Err(inner.invalid("partial_rotary_factor", format!("1 in the {family} family")));
    }
    let original = || -> Result<usize, ConfigError> {
        let own = inner.opt_size("original_max_position_embeddings")?;
        Ok(outer_original.or(own).unwrap_or(max_position_embeddings))
    };
    let scaling = match kind {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: inner.positive("factor")? },
        "dynamic" => {
            inner.ignore(&["original_max_position_embeddings"]);
            RopeScaling::Dynamic { factor: inner.positive("factor")? }
        }
        "llama3" => {
            let (low, high) = (inner.positive("low_freq_factor")?, inner.positive("high_freq_factor")?);
            if high <= low {
                return Err(inner.invalid("high_freq_factor", format!("above low_freq_factor ({low})")));
            }
            RopeScaling::Llama3 { factor: inner.positive("factor")?, low, high, original: original()? }
        }
        "yarn" => {
            let original = original()?;
            let factor = match inner.opt_positive("factor")? {
                Some(factor) => factor,
                None => max_position_embeddings as f64 / original as f64,
            };
            let mscale = inner.opt_number("mscale")?;
            let mscale_all_dim = inner.opt_number("mscale_all_dim")?;
            let attention_factor = inner
                .opt_positive("attention_factor")?
                .unwrap_or_else(|| yarn_attention_factor(factor, mscale, mscale_all_dim));
            let or = |x: Option<f64>, default| x.filter(|x| *x != 0.0).unwrap_or(default);
            RopeScaling::Yarn(YarnRope {
                factor,
                original,
                beta_fast: or(inner.opt_number("beta_fast")?, 32.0),
                beta_slow: or(inner.opt_number("beta_slow")?, 1.0),
                truncate: inner.bool_or("truncate", true)?,
                attention_factor,
            })
        }
        other => {
            let key = if legacy == Some(other) { "type" } else { "rope_type" };
            return Err(inner.invalid(key, "one of default, linear, dynamic, llama3, yarn"));
        }
    };
    let rope = Rope::new(dim, theta, scaling, max_position_embeddings);
    if rope.context() >= 1 << 31 {
        return Err(inner.invalid("factor", "such that the context stays below 2147483648 tokens"));
    }
    if rope.is_degenerate() {
        return Err(keys.error(ConfigErrorKind::Invalid {
            key: "rope".to_owned(),
            value: format!("{kind} with theta {theta}"),
            expected: "such that its frequencies are finite and not all zero".to_owned(),
        }));
    }
    inner.finish(family)?;
    Ok(rope)
}
