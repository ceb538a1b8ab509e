//! `quantization_config`: which linear maps are stored in which quantised form.
//!
//! Forms: compressed-tensors (integers of 4 or 8 bits and 8-bit floats, by group, channel, block or tensor), fine-grained FP8 as
//! Qwen3 and DeepSeek have it, MXFP4 as gpt-oss has it, GPTQ and AWQ. Weights alone count: where a checkpoint would have
//! activations rounded as it runs, they are not.

mod compressed;
mod words;

use rheostat_kernels::Bits;

use self::compressed::Groups;
use self::words::Words;
use super::{ConfigError, Keys};
use crate::decoder::{Fp8Block, Fp8Scales, Linear, Storage};
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
    /// GPTQ or AWQ, for the modules that have it.
    Words(Words),
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
            Quantization::Words(words) if has(".qweight") => words.storage(&module),
            Quantization::Fp8(..) | Quantization::Mxfp4 | Quantization::Words(_) => Storage::Float,
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
        Some("gptq") => Quantization::Words(words::gptq(&config)?),
        Some("awq") => Quantization::Words(words::awq(&config)?),
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
