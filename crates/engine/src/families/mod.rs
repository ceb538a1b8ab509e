//! The model families: each a page that maps its `config.json` and tensor names to a [`Decoder`].

mod deepseek_v2;
mod deepseek_v3;
mod dense;
mod gated_delta;
mod glm4_moe;
mod gpt_oss;
mod granitemoe;
mod latent;
mod lfm2;
mod llama;
mod minimax_m2;
mod mistral;
mod mixtral;
mod moe;
mod olmoe;
mod opensci;
mod parts;
mod phimoe;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_5_text;
mod qwen3_moe;
mod qwen3_next;

use serde_json::{Map, Value};

use crate::config::{ConfigError, ConfigErrorKind, Keys, read_quantization};
use crate::decoder::{Decoder, Storage};

/// A family: the `model_type` it claims and how it describes a model.
struct Family {
    model_type: &'static str,
    describe: fn(&Keys<'_>, &dyn Tensors) -> Result<Decoder, ConfigError>,
}

/// Every family, in alphabetical order.
const FAMILIES: &[Family] = &[
    Family { model_type: "deepseek_v2", describe: deepseek_v2::describe },
    Family { model_type: "deepseek_v3", describe: deepseek_v3::describe },
    Family { model_type: "glm4_moe", describe: glm4_moe::describe },
    Family { model_type: "gpt_oss", describe: gpt_oss::describe },
    Family { model_type: "granitemoe", describe: granitemoe::describe },
    Family { model_type: "lfm2", describe: lfm2::describe },
    Family { model_type: "llama", describe: llama::describe },
    Family { model_type: "minimax_m2", describe: minimax_m2::describe },
    Family { model_type: "mistral", describe: mistral::describe },
    Family { model_type: "mixtral", describe: mixtral::describe },
    Family { model_type: "olmoe", describe: olmoe::describe },
    Family { model_type: "opensci", describe: opensci::describe },
    Family { model_type: "phimoe", describe: phimoe::describe },
    Family { model_type: "qwen2", describe: qwen2::describe },
    Family { model_type: "qwen2_moe", describe: qwen2_moe::describe },
    Family { model_type: "qwen3", describe: qwen3::describe },
    Family { model_type: "qwen3_5_text", describe: qwen3_5_text::describe },
    Family { model_type: "qwen3_moe", describe: qwen3_moe::describe },
    Family { model_type: "qwen3_next", describe: qwen3_next::describe },
];

/// What a family may ask of the checkpoint: variants of one family differ in what they store.
pub(crate) trait Tensors {
    /// Whether the checkpoint has a tensor called `name`.
    fn has(&self, name: &str) -> bool;

    /// Whether the checkpoint has a tensor whose name begins so.
    fn any(&self, start: &str) -> bool;
}

/// Describes the model that the `config.json` called `file` asks for.
///
/// # Errors
/// When a key is missing, wrong or not understood, or no family claims the `model_type`.
pub(crate) fn describe(file: &str, config: &Map<String, Value>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let keys = Keys::new(file, config);
    let model_type = keys.opt_str("model_type")?.ok_or_else(|| keys.missing("model_type"))?;
    let family = FAMILIES.iter().find(|f| f.model_type == model_type).ok_or_else(|| {
        keys.error(ConfigErrorKind::UnknownFamily {
            model_type: model_type.to_owned(),
            known: FAMILIES.iter().map(|f| f.model_type).collect(),
        })
    })?;
    let quantization = read_quantization(&keys)?;
    keys.must_be("is_encoder_decoder", false)?;
    keys.must_be("add_cross_attention", false)?;
    let mut decoder = (family.describe)(&keys, tensors)?;
    if let Some(quantization) = quantization {
        for linear in decoder.linears_mut() {
            linear.storage = quantization.storage(linear, tensors);
            // Older writers of GPTQ give every map a bias, of zeros where the model has none.
            if matches!(linear.storage, Storage::Gptq(_)) && linear.bias.is_none() {
                let bias = format!("{}.bias", linear.module());
                linear.bias = tensors.has(&bias.replace("{}", "0")).then_some(bias);
            }
        }
    }
    keys.finish(family.model_type)?;
    Ok(decoder)
}
