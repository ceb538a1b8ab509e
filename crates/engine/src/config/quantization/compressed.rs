//! The form of compressed-tensors (`quantization_config.py`, `pack_quantized`, `float_quantized`): groups of modules by target, each
//! with a scheme for its weights, and modules to ignore.

use regex::Regex;
use rheostat_kernels::Zeros;

use super::{bits, must_be};
use crate::config::{ConfigError, Keys};
use crate::decoder::{Fp8Block, Fp8Scales, Packing, Storage};

/// Which modules are stored how.
#[derive(Debug)]
pub(crate) struct Groups {
    groups: Vec<(Vec<Target>, Storage)>,
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

impl Groups {
    /// The form in which the weight of the linear map `module` is stored.
    pub(super) fn storage(&self, module: &str) -> Storage {
        if self.ignore.iter().any(|t| t.matches(module)) {
            return Storage::Float;
        }
        // A name counts for more than a pattern, and that for more than the class.
        let rank = |t: &Target| match t {
            Target::Name(_) => 0,
            Target::Pattern(_) => 1,
            Target::Linear => 2,
        };
        let matching = self.groups.iter().flat_map(|(targets, storage)| targets.iter().map(move |t| (t, *storage)));
        let best = matching.filter(|(t, _)| t.matches(module)).min_by_key(|(t, _)| rank(t));
        best.map_or(Storage::Float, |(_, storage)| storage)
    }
}

/// The forms of a checkpoint that `format` may name, and of a group. What is called naive is a tensor of plain 8-bit numbers, of
/// which floats are supported.
const FORMATS: [&str; 4] = ["pack-quantized", "float-quantized", "naive-quantized", "mixed-precision"];

/// Reads what `config` asks for.
pub(super) fn read(keys: &Keys<'_>, config: &Keys<'_>) -> Result<Groups, ConfigError> {
    let whole = format(config)?;
    must_be(config, "quantization_status", "compressed")?;
    for absent in ["kv_cache_scheme", "sparsity_config", "transform_config"] {
        if config.opt_object(absent)?.is_some_and(|o| !o.is_empty()) {
            return Err(config.invalid(absent, "absent or empty: it is not supported yet"));
        }
    }
    config.ignore(&["version", "global_compression_ratio", "moe_sparsity_config"]);
    let ignore = targets(config, "ignore")?;
    let groups = config.opt_object("config_groups")?.ok_or_else(|| config.missing("config_groups"))?;
    let mut read = Vec::new();
    for name in groups.names() {
        let group = groups.opt_object(name)?.ok_or_else(|| groups.missing(name))?;
        let own = format(&group)?.or(whole);
        if group.value("output_activations").is_some() {
            return Err(group.invalid("output_activations", "null: only weights can be quantised"));
        }
        let weights = group.opt_object("weights")?.ok_or_else(|| group.missing("weights"))?;
        let storage = storage(weights)?;
        if matches!(storage, Storage::Packed(_)) && matches!(own, Some("float-quantized" | "naive-quantized")) {
            return Err(group.invalid("format", "\"pack-quantized\", for integers"));
        }
        inputs(&group, storage)?;
        read.push((targets(&group, "targets")?, storage));
        group.finish("quantised")?;
    }
    if read.is_empty() {
        return Err(keys.invalid("quantization_config", "one with at least one entry in config_groups"));
    }
    Ok(Groups { groups: read, ignore })
}

fn format<'a>(keys: &Keys<'a>) -> Result<Option<&'a str>, ConfigError> {
    match keys.opt_str("format")? {
        Some(found) if !FORMATS.contains(&found) => {
            Err(keys.invalid("format", format!("one of {}, which are supported", FORMATS.join(", "))))
        }
        found => Ok(found),
    }
}

/// What is done to inputs: nothing, or, of 8-bit floats, rounding as they come, which a run without it does no worse than.
fn inputs(group: &Keys<'_>, storage: Storage) -> Result<(), ConfigError> {
    let Some(inputs) = group.opt_object("input_activations")? else { return Ok(()) };
    if !matches!(storage, Storage::Fp8(_)) || !inputs.bool_or("dynamic", false)? {
        return Err(group.invalid("input_activations", "null, or dynamic 8-bit floats beside such weights"));
    }
    Ok(())
}

/// One scheme of weights.
fn storage(weights: Keys<'_>) -> Result<Storage, ConfigError> {
    let bits = bits(&weights, "num_bits")?;
    let float = match weights.opt_str("type")? {
        None | Some("int") => false,
        Some("float") if bits == rheostat_kernels::Bits::Eight => true,
        Some("float") => return Err(weights.invalid("num_bits", "8, for floating-point numbers")),
        Some(_) => return Err(weights.invalid("type", "\"int\" or \"float\"")),
    };
    let symmetric = weights.bool_or("symmetric", true)?;
    if float && !symmetric {
        return Err(weights.invalid("symmetric", "true, for floating-point numbers"));
    }
    if weights.bool_or("dynamic", false)? {
        return Err(weights.invalid("dynamic", "false: weights are quantised once"));
    }
    let strategy = weights.opt_str("strategy")?;
    // An order of its own is told of by a tensor.
    let order = weights.value("actorder").filter(|v| **v != false);
    if order.is_some_and(|v| float || !["group", "weight", "static"].iter().any(|known| v.as_str() == Some(known))) {
        return Err(weights.invalid("actorder", "null, \"group\", \"weight\" or \"static\""));
    }
    let size = match weights.value("group_size") {
        // As some writers say "by channel".
        Some(v) if *v == -1 => None,
        _ => weights.opt_size("group_size")?,
    };
    // How the numbers were found, and types that the tensors themselves tell.
    weights.ignore(&["observer", "observer_kwargs", "scale_dtype", "zp_dtype"]);
    let storage = if float {
        let block = match (strategy.unwrap_or("tensor"), size) {
            ("tensor", None) => Fp8Block::Tensor,
            ("channel", None) => Fp8Block::Row,
            ("block", None) => block(&weights)?,
            ("tensor" | "channel" | "block", Some(_)) => {
                return Err(weights.invalid("group_size", "null, for 8-bit floats of this strategy"));
            }
            _ => return Err(weights.invalid("strategy", "\"tensor\", \"channel\" or \"block\", for 8-bit floats")),
        };
        Storage::Fp8(Fp8Scales { suffix: ".weight_scale", block })
    } else {
        let group = match (strategy.unwrap_or(if size.is_some() { "group" } else { "channel" }), size) {
            ("group", Some(size)) if size.is_multiple_of(32) => Some(size),
            ("group", _) => return Err(weights.invalid("group_size", "a multiple of 32")),
            ("channel", None) => None,
            ("channel", Some(_)) => {
                return Err(weights.invalid("group_size", "null, where the strategy is channel"));
            }
            _ => return Err(weights.invalid("strategy", "\"group\" or \"channel\"")),
        };
        Storage::Packed(Packing { bits, group, zeros: if symmetric { Zeros::Absent } else { Zeros::Stored } })
    };
    if weights.value("block_structure").is_some_and(|v| *v != false) && !matches!(storage, Storage::Fp8(_)) {
        return Err(weights.invalid("block_structure", "null, for integers"));
    }
    weights.finish("quantised")?;
    Ok(storage)
}

/// Rows and columns of a block.
fn block(weights: &Keys<'_>) -> Result<Fp8Block, ConfigError> {
    let list = weights.opt_array("block_structure")?.ok_or_else(|| weights.missing("block_structure"))?;
    let sizes: Vec<usize> = list.iter().filter_map(serde_json::Value::as_u64).map(|n| n as usize).collect();
    match sizes[..] {
        [rows, cols] if list.len() == 2 && rows > 0 && cols > 0 && cols.is_multiple_of(32) => {
            Ok(Fp8Block::Block(rows, cols))
        }
        _ => Err(weights.invalid("block_structure", "a list of two whole numbers, the second a multiple of 32")),
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
