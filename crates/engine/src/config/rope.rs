//! The spellings of rotary position embedding in `config.json`.
//!
//! transformers 5 has `rope_parameters: {rope_type, rope_theta, …}`; 4.x has `rope_theta` beside
//! `rope_scaling: {rope_type or type, …}`. As in `PreTrainedConfig.__post_init__`, a non-empty `rope_scaling` wins
//! over `rope_parameters` as a whole, and a `rope_theta` inside wins over the one outside.

use super::{ConfigError, ConfigErrorKind, Keys};
use crate::rope::{LongRope, Rope, RopeScaling, YarnRope, yarn_attention_factor};

/// What a family takes where its config is silent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RopeDefaults {
    /// `rope_theta`.
    pub(crate) theta: f64,
    /// `partial_rotary_factor`; `None`: the family rotates heads as a whole.
    pub(crate) partial: Option<f64>,
}

impl Default for RopeDefaults {
    fn default() -> RopeDefaults {
        RopeDefaults { theta: 10_000.0, partial: None }
    }
}

/// Reads the rotary embedding of heads of `head_dim` elements, for a family of `max_position_embeddings`.
pub(crate) fn read_rope(
    keys: &Keys<'_>,
    family: &str,
    head_dim: usize,
    max_position_embeddings: usize,
    defaults: RopeDefaults,
) -> Result<Rope, ConfigError> {
    let scaling = keys.opt_object("rope_scaling")?.filter(|s| !s.is_empty());
    let parameters = keys.opt_object("rope_parameters")?.filter(|p| !p.is_empty());
    parse(keys, scaling.or(parameters), family, head_dim, max_position_embeddings, defaults)
}

/// Reads the rotary embedding of the layers of one of `kinds`, where `rope_parameters` has an object for each; `None` where it has none
/// for any.
pub(crate) fn read_rope_of(
    keys: &Keys<'_>,
    (kind, kinds): (&str, &[&str]),
    family: &str,
    head_dim: usize,
    max_position_embeddings: usize,
    defaults: RopeDefaults,
) -> Result<Option<Rope>, ConfigError> {
    let Some(all) = keys.opt_object("rope_parameters")?.filter(|all| all.names().any(|name| kinds.contains(&name)))
    else {
        return Ok(None);
    };
    if let Some(other) = all.names().find(|name| !kinds.contains(name)) {
        return Err(all.invalid(other, format!("absent: there is an object for each of {}", kinds.join(", "))));
    }
    let inner = all.opt_object(kind)?.ok_or_else(|| all.missing(kind))?;
    parse(keys, Some(inner), family, head_dim, max_position_embeddings, defaults).map(Some)
}

fn parse(
    keys: &Keys<'_>,
    inner: Option<Keys<'_>>,
    family: &str,
    head_dim: usize,
    max_position_embeddings: usize,
    defaults: RopeDefaults,
) -> Result<Rope, ConfigError> {
    let outer_theta = keys.opt_positive("rope_theta")?;
    let outer_original = keys.opt_size("original_max_position_embeddings")?;
    let outer_partial = match defaults.partial {
        Some(_) => keys.opt_positive("partial_rotary_factor")?,
        None => None,
    };
    let rotated = |keys: &Keys<'_>, own: Option<f64>| match own.or(outer_partial).or(defaults.partial) {
        None => Ok(head_dim),
        Some(factor) => {
            let dim = (head_dim as f64 * factor) as usize;
            let expected = format!("such that an even number of the {head_dim} elements of a head is rotated");
            if dim == 0 || dim > head_dim || dim % 2 != 0 {
                Err(keys.invalid("partial_rotary_factor", expected))
            } else {
                Ok(dim)
            }
        }
    };
    let Some(inner) = inner else {
        let theta = outer_theta.unwrap_or(defaults.theta);
        return Ok(Rope::new(rotated(keys, None)?, theta, RopeScaling::Default, max_position_embeddings));
    };
    // Among which axes of an image's positions the frequencies are shared out: of text, all axes say the same.
    inner.ignore(&["mrope_section", "mrope_interleaved"]);
    let theta = inner.opt_positive("rope_theta")?.or(outer_theta).unwrap_or(defaults.theta);
    let legacy = inner.opt_str("type")?;
    let kind = inner.opt_str("rope_type")?.or(legacy).unwrap_or("default");
    let own_partial = inner.opt_positive("partial_rotary_factor")?;
    if defaults.partial.is_none() && own_partial.is_some_and(|f| f != 1.0) {
        return Err(inner.invalid("partial_rotary_factor", format!("1 in the {family} family")));
    }
    let dim = rotated(&inner, own_partial)?;
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
        "longrope" | "su" => {
            let original = original()?;
            let factors = |key: &str| -> Result<Vec<f64>, ConfigError> {
                let list = inner.opt_array(key)?.ok_or_else(|| inner.missing(key))?;
                let numbers: Option<Vec<f64>> = list.iter().map(|v| v.as_f64().filter(|f| *f > 0.0)).collect();
                let expected = format!("a list of {} positive numbers, one for each rotated pair", dim / 2);
                numbers.filter(|n| n.len() == dim / 2).ok_or_else(|| inner.invalid(key, expected))
            };
            let factor = match inner.opt_positive("factor")? {
                Some(factor) => factor,
                None => max_position_embeddings as f64 / original as f64,
            };
            let attention = match inner.opt_positive("attention_factor")? {
                Some(factor) => factor,
                None if factor <= 1.0 => 1.0,
                None => (1.0 + libm::log(factor) / libm::log(original as f64)).sqrt(),
            };
            RopeScaling::LongRope(LongRope {
                short: factors("short_factor")?,
                long: factors("long_factor")?,
                original,
                short_attention: inner.opt_positive("short_mscale")?.unwrap_or(attention),
                long_attention: inner.opt_positive("long_mscale")?.unwrap_or(attention),
            })
        }
        other => {
            let key = if legacy == Some(other) { "type" } else { "rope_type" };
            return Err(inner.invalid(key, "one of default, linear, dynamic, llama3, yarn, longrope"));
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
