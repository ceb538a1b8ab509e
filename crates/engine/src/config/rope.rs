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

/// How a family spells what stands beside the object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RopeSpelling {
    /// The key of the base; `None`: there is none.
    pub(crate) theta: Option<&'static str>,
    /// The key of the part of a head that is rotated.
    pub(crate) partial: &'static str,
    /// `original_max_position_embeddings` without the key, in a family that has it beside the object.
    pub(crate) original: Option<usize>,
    /// Whether the object is that of some layers only, for which transformers looks elsewhere for some keys.
    pub(crate) of_layers: bool,
}

impl Default for RopeSpelling {
    fn default() -> RopeSpelling {
        RopeSpelling { theta: Some("rope_theta"), partial: "partial_rotary_factor", original: None, of_layers: false }
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
    read_rope_as(keys, RopeSpelling::default(), family, head_dim, max_position_embeddings, defaults)
}

/// As [`read_rope`], where a family spells it otherwise.
pub(crate) fn read_rope_as(
    keys: &Keys<'_>,
    spelling: RopeSpelling,
    family: &str,
    head_dim: usize,
    max_position_embeddings: usize,
    defaults: RopeDefaults,
) -> Result<Rope, ConfigError> {
    let inner = rope_object(keys)?;
    parse(keys, inner, spelling, family, head_dim, max_position_embeddings, defaults)
}

/// The object that says how a rotary embedding is stretched, if there is one.
pub(crate) fn rope_object<'a>(keys: &Keys<'a>) -> Result<Option<Keys<'a>>, ConfigError> {
    let scaling = keys.opt_object("rope_scaling")?.filter(|s| !s.is_empty());
    let parameters = keys.opt_object("rope_parameters")?.filter(|p| !p.is_empty());
    Ok(scaling.or(parameters))
}

/// A rotary embedding of the layers of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerRope {
    /// The kind, as `layer_types` has it.
    pub(crate) kind: &'static str,
    /// The key of the base, outside; `None`: there is none.
    pub(crate) theta_key: Option<&'static str>,
    /// The base without the key.
    pub(crate) theta: f64,
    /// Whether `rope_scaling` means these layers.
    pub(crate) scaled: bool,
}

/// Reads a rotary embedding for each kind of layer: `rope_parameters` has an object for each, or `rope_scaling` stands for some and
/// bases beside it (`configuration_gemma3.py`, `convert_rope_params_to_dict`).
pub(crate) fn read_layer_ropes(
    keys: &Keys<'_>,
    layers: &[LayerRope],
    family: &str,
    head_dim: usize,
    max_position_embeddings: usize,
) -> Result<Vec<Rope>, ConfigError> {
    let scaling = keys.opt_object("rope_scaling")?.filter(|s| !s.is_empty());
    let parameters = keys.opt_object("rope_parameters")?.filter(|p| !p.is_empty());
    if let Some(all) = &parameters {
        if let Some(other) = all.names().find(|name| layers.iter().all(|l| l.kind != *name)) {
            let kinds: Vec<&str> = layers.iter().map(|l| l.kind).collect();
            return Err(all.invalid(other, format!("absent: there is an object for each of {}", kinds.join(", "))));
        }
        if scaling.is_some() {
            return Err(
                keys.invalid("rope_scaling", "absent, since rope_parameters has an object for each kind of layer")
            );
        }
    }
    let mut scaling = scaling;
    let read = |layer: &LayerRope| {
        let inner = match &parameters {
            Some(all) => all.opt_object(layer.kind)?.filter(|p| !p.is_empty()),
            None if layer.scaled => scaling.take(),
            None => None,
        };
        let spelling = RopeSpelling { theta: layer.theta_key, of_layers: true, ..RopeSpelling::default() };
        let defaults = RopeDefaults { theta: layer.theta, partial: None };
        parse(keys, inner, spelling, family, head_dim, max_position_embeddings, defaults)
    };
    layers.iter().map(read).collect()
}

fn parse(
    keys: &Keys<'_>,
    inner: Option<Keys<'_>>,
    spelling: RopeSpelling,
    family: &str,
    head_dim: usize,
    max_position_embeddings: usize,
    defaults: RopeDefaults,
) -> Result<Rope, ConfigError> {
    let outer_theta = spelling.theta.map_or(Ok(None), |key| keys.opt_positive(key))?;
    let outer_original = match spelling.of_layers {
        true => None,
        false => keys.opt_size("original_max_position_embeddings")?.or(spelling.original),
    };
    let outer_partial = keys.opt_positive(spelling.partial)?;
    if defaults.partial.is_none() && outer_partial.is_some_and(|f| f != 1.0) {
        return Err(keys.invalid(spelling.partial, format!("1 in the {family} family")));
    }
    let rotated = |keys: &Keys<'_>, key: &str, own: Option<f64>| match own.or(outer_partial).or(defaults.partial) {
        None => Ok(head_dim),
        Some(factor) => {
            let dim = (head_dim as f64 * factor) as usize;
            let expected = format!("such that an even number of the {head_dim} elements of a head is rotated");
            if dim == 0 || dim > head_dim || !dim.is_multiple_of(2) {
                Err(keys.invalid(key, expected))
            } else {
                Ok(dim)
            }
        }
    };
    let Some(inner) = inner else {
        let theta = outer_theta.unwrap_or(defaults.theta);
        return Ok(Rope::new(
            rotated(keys, spelling.partial, None)?,
            theta,
            RopeScaling::Default,
            max_position_embeddings,
        ));
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
    let dim = rotated(&inner, "partial_rotary_factor", own_partial)?;
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
            let truncate = inner.bool_or("truncate", true)?;
            if spelling.of_layers && !truncate {
                return Err(inner.invalid("truncate", "true, which is all there is where layers differ"));
            }
            let or = |x: Option<f64>, default| x.filter(|x| *x != 0.0).unwrap_or(default);
            RopeScaling::Yarn(YarnRope {
                factor,
                original,
                beta_fast: or(inner.opt_number("beta_fast")?, 32.0),
                beta_slow: or(inner.opt_number("beta_slow")?, 1.0),
                truncate,
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
