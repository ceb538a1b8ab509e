//! GPTQ and AWQ, as auto-gptq, gptqmodel, AutoAWQ and transformers write them: words of integers, for the modules that have them, and rules for
//! modules with settings of their own.

use regex::Regex;
use rheostat_kernels::{Bits, GptqZeros};

use super::{bits, group, must_be};
use crate::config::{ConfigError, Keys};
use crate::decoder::{GptqPacking, Storage};

/// Which modules are stored how, of those that are.
#[derive(Debug)]
pub(crate) struct Words {
    storage: Storage,
    /// What is said of modules whose names begin with a match: the first that has one counts, and may say that they are not quantised.
    rules: Vec<(Regex, Storage)>,
}

/// How the numbers were found, how programs are to run them, and what tensors tell.
const NO_MATTER: &[&str] = &[
    "act_group_aware",
    "backend",
    "batch_size",
    "block_name_to_quantize",
    "cache_block_outputs",
    "damp_auto_increment",
    "damp_percent",
    "dataset",
    "desc_act",
    "disable_exllama",
    "do_fuse",
    "exllama_config",
    "fuse_max_seq_len",
    "hyb_act",
    "is_marlin_format",
    "lm_head",
    "max_input_length",
    "meta",
    "model_file_base_name",
    "model_name_or_path",
    "model_seqlen",
    "module_name_preceding_first_block",
    "modules_in_block_to_quantize",
    "modules_to_fuse",
    "modules_to_not_convert",
    "mse",
    "pack_impl",
    "pad_token_id",
    "quantizer",
    "static_groups",
    "sym",
    "tokenizer",
    "true_sequential",
    "use_cuda_fp16",
    "use_exllama",
];

impl Words {
    /// The form in which `module`, which has words, is stored.
    pub(super) fn storage(&self, module: &str) -> Storage {
        let rule = self.rules.iter().find(|(pattern, _)| pattern.is_match(module));
        rule.map_or(self.storage, |(_, storage)| *storage)
    }
}

/// GPTQ.
pub(super) fn gptq(config: &Keys<'_>) -> Result<Words, ConfigError> {
    let bits = bits(config, "bits")?;
    let zeros = match format(config, &["checkpoint_format", "format"])?.as_deref() {
        None | Some("gptq") => GptqZeros::MinusOne,
        Some("gptq_v2") => GptqZeros::Plain,
        _ => return Err(config.invalid("checkpoint_format", "\"gptq\" or \"gptq_v2\"")),
    };
    let storage = Storage::Gptq(GptqPacking { bits, group: group(config, "group_size")?, zeros });
    read(config, storage)
}

/// AWQ, in the layout called GEMM.
pub(super) fn awq(config: &Keys<'_>) -> Result<Words, ConfigError> {
    only_four(config)?;
    if format(config, &["version", "format", "checkpoint_format"])?.is_some_and(|found| found != "gemm") {
        return Err(config.invalid("version", "\"gemm\", the only one supported yet"));
    }
    if config.opt_str("backend")?.is_some_and(|found| found.eq_ignore_ascii_case("llm-awq")) {
        return Err(config.invalid("backend", "another than \"llm-awq\", whose layout is not supported yet"));
    }
    // Where there are no zero points but the middle of the range, they are stored all the same.
    config.opt_bool("zero_point")?;
    let key = if config.contains("q_group_size") { "q_group_size" } else { "group_size" };
    read(config, Storage::Awq { group: group(config, key)? })
}

/// The layout that one or several of `keys` name, in lower case.
fn format(config: &Keys<'_>, keys: &[&str]) -> Result<Option<String>, ConfigError> {
    let mut format: Option<String> = None;
    for key in keys {
        match (config.opt_str(key)?.map(str::to_lowercase), &format) {
            (Some(found), Some(other)) if found != *other => {
                return Err(config.invalid(key, format!("\"{other}\", as another key says")));
            }
            (Some(found), _) => format = Some(found),
            (None, _) => {}
        }
    }
    Ok(format)
}

fn only_four(config: &Keys<'_>) -> Result<(), ConfigError> {
    match bits(config, "bits")? {
        Bits::Four => Ok(()),
        Bits::Eight => Err(config.invalid("bits", "4")),
    }
}

/// The rest, which both have in common.
fn read(config: &Keys<'_>, storage: Storage) -> Result<Words, ConfigError> {
    must_be(config, "pack_dtype", "int32")?;
    config.ignore(NO_MATTER);
    let Some(stored) = config.opt_object("dynamic")? else { return Ok(Words { storage, rules: Vec::new() }) };
    let mut rules = Vec::new();
    for name in stored.map().keys() {
        let (kept, pattern) = match name.strip_prefix("-:") {
            Some(pattern) => (true, pattern),
            None => (false, name.strip_prefix("+:").unwrap_or(name)),
        };
        let Ok(pattern) = Regex::new(&format!("^(?:{pattern})")) else {
            return Err(stored.invalid(name, "under the name of a regular expression without look-around"));
        };
        let own = match stored.opt_object(name)? {
            _ if kept => Storage::Float,
            None => storage,
            Some(settings) => {
                let own = changed(storage, &settings)?;
                settings.finish("quantised")?;
                own
            }
        };
        rules.push((pattern, own));
    }
    Ok(Words { storage, rules })
}

/// `storage` with the settings of a rule.
fn changed(storage: Storage, settings: &Keys<'_>) -> Result<Storage, ConfigError> {
    settings.ignore(NO_MATTER);
    let size = |old| if settings.contains("group_size") { group(settings, "group_size") } else { Ok(old) };
    Ok(match storage {
        Storage::Gptq(old) => {
            let bits = if settings.contains("bits") { bits(settings, "bits")? } else { old.bits };
            Storage::Gptq(GptqPacking { bits, group: size(old.group)?, ..old })
        }
        Storage::Awq { group } => {
            if settings.contains("bits") {
                only_four(settings)?;
            }
            Storage::Awq { group: size(group)? }
        }
        other => other,
    })
}
