//! `quantization_config`: which linear maps are stored in which quantised form.
//!
//! Forms: compressed-tensors (integers of 4 or 8 bits and 8-bit floats, by group, channel, block or tensor), fine-grained FP8 as
//! Qwen3 and DeepSeek have it, MXFP4 as gpt-oss has it, GPTQ and AWQ. Weights alone count: where a checkpoint would have
//! activations rounded as it runs, they are not.

mod compressed;

use rheostat_kernels::{Bits, GptqZeros};

use self::compressed::Groups;
use super::{ConfigError, Keys};
use crate::decoder::{Fp8Block, Fp8Scales, GptqPacking, Linear, Storage};
use crate::families::Tensors;

/// What a `quantization_config` asks for.
#[derive(Debug)]
pub(crate) enum Quantization {
    /// Of compressed-tensors: by groups of modules.
    Compressed(Groups),
    /// Blocks of FP8, for the modules that have scales.
    Fp8(usize, usize),
    /// MXFP4, for the experts that have scales.
    Mxfp4,
    /// GPTQ, for the modules that have it.
    Gptq(GptqPacking),
    /// AWQ, for the modules that have it.
    Awq(Option<usize>),
}

impl Quantization {
    /// The form in which `linear` is stored.
    pub(crate) fn storage(&self, linear: &Linear, tensors: &dyn Tensors) -> Storage {
        // Experts of a layer are alike: the first speaks for all, and binding makes sure.
        let module = linear.module().replace("{}", "0");
        let has = |suffix: &str| tensors.has(&format!("{module}{suffix}"));
        match self {
            Quantization::Compressed(groups) => groups.storage(&module),
            Quantization::Fp8(rows, cols) if has(".weight_scale_inv") => {
                Storage::Fp8(Fp8Scales { suffix: ".weight_scale_inv", block: Fp8Block::Block(*rows, *cols) })
            }
            Quantization::Mxfp4 if has("_blocks") => Storage::Mxfp4,
            Quantization::Gptq(packing) if has(".qweight") => Storage::Gptq(*packing),
            Quantization::Awq(group) if has(".qweight") => Storage::Awq { group: *group },
            Quantization::Fp8(..) | Quantization::Mxfp4 | Quantization::Gptq(_) | Quantization::Awq(_) => {
                Storage::Float
            }
        }
    }
}

/// Reads `quantization_config`, if there is one.
///
/// # Errors
/// When it asks for a form that is not supported.
pub(crate) fn read_quantization(keys: &Keys<'_>) -> Result<Option<Quantization>, ConfigError> {
    let Some(config) = keys.opt_object("quantization_config")? else { return Ok(None) };
    let quantization = match config.opt_str("quant_method")? {
        Some("compressed-tensors") => Quantization::Compressed(compressed::read(keys, &config)?),
        Some("fp8") => fp8(&config)?,
        Some("mxfp4") => {
            // Experts alone have it, and their tensors tell.
            config.ignore(&["modules_to_not_convert", "dequantize"]);
            Quantization::Mxfp4
        }
        Some("gptq") => gptq(&config)?,
        Some("awq") => awq(&config)?,
        _ => {
            let expected = "one of \"compressed-tensors\", \"fp8\", \"mxfp4\", \"gptq\", \"awq\", which are supported";
            return Err(config.invalid("quant_method", expected));
        }
    };
    config.finish("quantised")?;
    Ok(Some(quantization))
}

/// Fine-grained FP8 (`transformers/integrations/finegrained_fp8.py`).
fn fp8(config: &Keys<'_>) -> Result<Quantization, ConfigError> {
    must_be(config, "activation_scheme", "dynamic")?;
    // MiniMax calls it so.
    if config.opt_str("fmt")? != Some("float8_e4m3fn") {
        must_be(config, "fmt", "e4m3")?;
    }
    // Which modules have it, their tensors tell.
    config.ignore(&["modules_to_not_convert", "ignored_layers", "dequantize", "scale_fmt"]);
    let expected = "a list of two whole numbers, rows and columns of a block; the columns a multiple of 32";
    let block = config.opt_array("weight_block_size")?.ok_or_else(|| config.missing("weight_block_size"))?;
    let sizes: Vec<usize> = block.iter().filter_map(serde_json::Value::as_u64).map(|n| n as usize).collect();
    match sizes[..] {
        [rows, cols] if block.len() == 2 && rows > 0 && cols > 0 && cols.is_multiple_of(32) => {
            Ok(Quantization::Fp8(rows, cols))
        }
        _ => Err(config.invalid("weight_block_size", expected)),
    }
}

/// GPTQ, as auto-gptq and gptqmodel write it.
fn gptq(config: &Keys<'_>) -> Result<Quantization, ConfigError> {
    let bits = bits(config, "bits")?;
    let zeros = match config.opt_str("checkpoint_format")?.unwrap_or("gptq") {
        "gptq" => GptqZeros::MinusOne,
        "gptq_v2" => GptqZeros::Plain,
        _ => return Err(config.invalid("checkpoint_format", "\"gptq\" or \"gptq_v2\"")),
    };
    must_be(config, "pack_dtype", "int32")?;
    if config.opt_bool("lm_head")? == Some(true) {
        return Err(config.invalid("lm_head", "false: a quantised head is not supported yet in this form"));
    }
    // How it was found, and what tensors tell (`g_idx`).
    config.ignore(&[
        "desc_act",
        "act_group_aware",
        "sym",
        "static_groups",
        "damp_percent",
        "damp_auto_increment",
        "true_sequential",
        "mse",
        "model_name_or_path",
        "model_file_base_name",
        "quantizer",
        "meta",
        "is_marlin_format",
        "dataset",
        "tokenizer",
        "batch_size",
        "block_name_to_quantize",
        "cache_block_outputs",
        "exllama_config",
        "max_input_length",
        "model_seqlen",
        "module_name_preceding_first_block",
        "modules_in_block_to_quantize",
        "pad_token_id",
        "use_cuda_fp16",
        "use_exllama",
        "backend",
        "disable_exllama",
        "modules_to_not_convert",
        "hyb_act",
        "dynamic",
    ]);
    if config.opt_object("dynamic")?.is_some_and(|rules| !rules.is_empty()) {
        return Err(
            config.invalid("dynamic", "absent or empty: modules with settings of their own are not supported yet")
        );
    }
    Ok(Quantization::Gptq(GptqPacking { bits, group: group(config, "group_size")?, zeros }))
}

/// AWQ, in the layout called GEMM.
fn awq(config: &Keys<'_>) -> Result<Quantization, ConfigError> {
    if bits(config, "bits")? != Bits::Four {
        return Err(config.invalid("bits", "4"));
    }
    for (key, value) in [("version", "gemm"), ("backend", "autoawq")] {
        let found = config.opt_str(key)?.map(str::to_lowercase);
        if found.is_some_and(|found| found != value) {
            return Err(config.invalid(key, format!("\"{value}\", the only one supported yet")));
        }
    }
    if !config.bool_or("zero_point", true)? {
        return Err(config.invalid("zero_point", "true"));
    }
    config.ignore(&["modules_to_not_convert", "do_fuse", "fuse_max_seq_len", "modules_to_fuse", "exllama_config"]);
    let key = if config.contains("q_group_size") { "q_group_size" } else { "group_size" };
    Ok(Quantization::Awq(group(config, key)?))
}

fn bits(config: &Keys<'_>, key: &str) -> Result<Bits, ConfigError> {
    match config.size(key)? {
        4 => Ok(Bits::Four),
        8 => Ok(Bits::Eight),
        _ => Err(config.invalid(key, "4 or 8")),
    }
}

/// Consecutive inputs that share a scale; all, where the size is -1.
fn group(config: &Keys<'_>, key: &str) -> Result<Option<usize>, ConfigError> {
    match config.value(key) {
        Some(v) if *v == -1 => Ok(None),
        _ => config.opt_size(key),
    }
}

fn must_be(keys: &Keys<'_>, key: &str, value: &str) -> Result<(), ConfigError> {
    match keys.opt_str(key)? {
        Some(found) if found != value => Err(keys.invalid(key, format!("\"{value}\", the only one supported yet"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
