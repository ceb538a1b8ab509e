//! `quantization_config`: which linear maps are stored as packed integers, and how.
//!
//! The form of compressed-tensors (`quantization_config.py`, `pack_quantized`): groups of modules by target, each with
//! a scheme for its weights, and modules to ignore. Symmetric integers of 4 or 8 bits, by group or by channel.

use regex::Regex;

use super::{ConfigError, Keys};
use crate::decoder::Packing;

/// What a `quantization_config` asks for.
#[derive(Debug)]
pub(crate) struct Quantization {
    groups: Vec<(Vec<Target>, Packing)>,
    ignore: Vec<Target>,
}

/// Modules by name.
#[derive(Debug)]
enum Target {
    /// Every linear map.
    Linear,
    /// The module of this name.
    Name(String),
    /// Every module whose name begins with a match.
    Pattern(Regex),
}

impl Target {
    fn matches(&self, module: &str) -> bool {
        match self {
            Target::Linear => true,
            Target::Name(name) => name == module,
            Target::Pattern(pattern) => pattern.is_match(module),
        }
    }
}

impl Quantization {
    /// How the weight of the linear map `module` is packed, if it is.
    pub(crate) fn packing(&self, module: &str) -> Option<Packing> {
        if self.ignore.iter().any(|t| t.matches(module)) {
            return None;
        }
        // A name counts for more than a pattern, and that for more than the class.
        let rank = |t: &Target| match t {
            Target::Name(_) => 0,
            Target::Pattern(_) => 1,
            Target::Linear => 2,
        };
        let matching = self.groups.iter().flat_map(|(targets, packing)| targets.iter().map(move |t| (t, *packing)));
        matching.filter(|(t, _)| t.matches(module)).min_by_key(|(t, _)| rank(t)).map(|(_, packing)| packing)
    }
}

/// Reads `quantization_config`, if there is one.
///
/// # Errors
/// When it asks for anything but packed symmetric integers of 4 or 8 bits.
pub(crate) fn read_quantization(keys: &Keys<'_>) -> Result<Option<Quantization>, ConfigError> {
    let Some(config) = keys.opt_object("quantization_config")? else { return Ok(None) };
    if config.opt_str("quant_method")? != Some("compressed-tensors") {
        return Err(config.invalid("quant_method", "\"compressed-tensors\", the only method that is supported yet"));
    }
    must_be(&config, "format", "pack-quantized")?;
    must_be(&config, "quantization_status", "compressed")?;
    for absent in ["kv_cache_scheme", "sparsity_config", "transform_config"] {
        if config.opt_object(absent)?.is_some_and(|o| !o.is_empty()) {
            return Err(config.invalid(absent, "absent or empty: it is not supported yet"));
        }
    }
    config.ignore(&["version", "global_compression_ratio", "moe_sparsity_config"]);
    let ignore = targets(&config, "ignore")?;
    let groups = config.opt_object("config_groups")?.ok_or_else(|| config.missing("config_groups"))?;
    let mut read = Vec::new();
    for name in groups.names() {
        let group = groups.opt_object(name)?.ok_or_else(|| groups.missing(name))?;
        must_be(&group, "format", "pack-quantized")?;
        for absent in ["input_activations", "output_activations"] {
            if group.value(absent).is_some() {
                return Err(group.invalid(absent, "null: only weights can be quantised"));
            }
        }
        let weights = group.opt_object("weights")?.ok_or_else(|| group.missing("weights"))?;
        read.push((targets(&group, "targets")?, packing(weights)?));
        group.finish("quantised")?;
    }
    config.finish("quantised")?;
    if read.is_empty() {
        return Err(keys.invalid("quantization_config", "one with at least one entry in config_groups"));
    }
    Ok(Some(Quantization { groups: read, ignore }))
}

/// One scheme of weights.
fn packing(weights: Keys<'_>) -> Result<Packing, ConfigError> {
    let bits = match weights.size("num_bits")? {
        4 => rheostat_kernels::Bits::Four,
        8 => rheostat_kernels::Bits::Eight,
        _ => return Err(weights.invalid("num_bits", "4 or 8")),
    };
    must_be(&weights, "type", "int")?;
    if !weights.bool_or("symmetric", true)? {
        return Err(weights.invalid("symmetric", "true: zero points are not supported yet"));
    }
    if weights.bool_or("dynamic", false)? {
        return Err(weights.invalid("dynamic", "false: weights are quantised once"));
    }
    for absent in ["actorder", "block_structure"] {
        if weights.value(absent).is_some_and(|v| *v != false) {
            return Err(weights.invalid(absent, "null: it is not supported yet"));
        }
    }
    let size = match weights.value("group_size") {
        // As some writers say "by channel".
        Some(v) if *v == -1 => None,
        _ => weights.opt_size("group_size")?,
    };
    let strategy = weights.opt_str("strategy")?.unwrap_or(if size.is_some() { "group" } else { "channel" });
    let group = match (strategy, size) {
        ("group", Some(size)) if size.is_multiple_of(32) => Some(size),
        ("group", _) => return Err(weights.invalid("group_size", "a multiple of 32")),
        ("channel", None) => None,
        ("channel", Some(_)) => return Err(weights.invalid("group_size", "null, where the strategy is channel")),
        _ => return Err(weights.invalid("strategy", "\"group\" or \"channel\"")),
    };
    // How the integers were found, and types that the tensors themselves tell.
    weights.ignore(&["observer", "observer_kwargs", "scale_dtype", "zp_dtype"]);
    weights.finish("quantised")?;
    Ok(Packing { bits, group })
}

fn must_be(keys: &Keys<'_>, key: &str, value: &str) -> Result<(), ConfigError> {
    match keys.opt_str(key)? {
        Some(found) if found != value => Err(keys.invalid(key, format!("\"{value}\", the only one supported yet"))),
        _ => Ok(()),
    }
}

fn targets(keys: &Keys<'_>, key: &str) -> Result<Vec<Target>, ConfigError> {
    let expected = "a list of module names, \"Linear\" or \"re:\" and a regular expression";
    let target = |text: &str| match text.strip_prefix("re:") {
        Some(pattern) => Regex::new(&format!("^(?:{pattern})")).map(Target::Pattern).ok(),
        None if text == "Linear" => Some(Target::Linear),
        None => Some(Target::Name(text.to_owned())),
    };
    let list = keys.opt_array(key)?.map_or(&[][..], Vec::as_slice);
    list.iter().map(|v| v.as_str().and_then(target).ok_or_else(|| keys.invalid(key, expected))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rheostat_kernels::Bits;
    use serde_json::{Value, json};

    fn read(quantization: &Value) -> Result<Option<Quantization>, String> {
        let config = json!({ "quantization_config": quantization });
        let map = config.as_object().expect("an object");
        read_quantization(&Keys::new("config.json", map)).map_err(|e| e.to_string())
    }

    fn config(weights: &Value) -> Value {
        json!({
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "ignore": ["lm_head", "re:.*down_proj"],
            "config_groups": {
                "group_0": { "targets": ["Linear"], "weights": weights, "input_activations": null },
                "group_1": { "targets": ["model.a"], "weights": { "num_bits": 4, "group_size": 32 } },
            },
        })
    }

    #[test]
    fn names_count_for_more_than_classes_and_ignored_ones_are_plain() {
        let quantization =
            read(&config(&json!({ "num_bits": 8, "group_size": 128, "symmetric": true }))).unwrap().unwrap();
        assert_eq!(quantization.packing("model.b"), Some(Packing { bits: Bits::Eight, group: Some(128) }));
        assert_eq!(quantization.packing("model.a"), Some(Packing { bits: Bits::Four, group: Some(32) }));
        assert_eq!(quantization.packing("lm_head"), None);
        assert_eq!(quantization.packing("model.layers.0.mlp.down_proj"), None);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (weights, says) in [
            (json!({ "num_bits": 3 }), "num_bits"),
            (json!({ "num_bits": 4, "group_size": 24 }), "group_size"),
            (json!({ "num_bits": 4, "symmetric": false }), "zero points"),
            (json!({ "num_bits": 4, "type": "float" }), "type"),
            (json!({ "num_bits": 4, "actorder": "group" }), "actorder"),
            (json!({ "num_bits": 4, "strategy": "tensor" }), "strategy"),
            (json!({ "num_bits": 4, "unheard_of": 1 }), "unheard_of"),
        ] {
            let error = read(&config(&weights)).unwrap_err();
            assert!(
                error.contains("quantization_config.config_groups.group_0.weights") && error.contains(says),
                "{error}"
            );
        }
        for (key, value) in [
            ("quant_method", json!("gptq")),
            ("format", json!("float-quantized")),
            ("kv_cache_scheme", json!({ "num_bits": 8 })),
            ("ignore", json!(["re:["])),
            ("config_groups", json!({})),
            ("unheard_of", json!(true)),
        ] {
            let mut config = config(&json!({ "num_bits": 4 }));
            config[key] = value;
            let error = read(&config).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
    }
}
