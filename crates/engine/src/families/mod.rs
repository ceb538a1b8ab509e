//! The model families: each a page that maps its `config.json` and tensor names to a [`Decoder`].

mod apertus;
mod arcee;
mod cohere;
mod cohere2;
mod deepseek_v2;
mod deepseek_v3;
mod dense;
mod ernie4_5;
mod exaone4;
mod falcon;
mod gated_delta;
mod gemma;
mod gemma2;
mod gemma3;
mod glm;
mod glm4;
mod glm4_moe;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod granite;
mod granitemoe;
mod hunyuan_v1_dense;
mod latent;
mod lfm2;
mod llama;
mod minimax_m2;
mod mistral;
mod mixtral;
mod moe;
mod nemotron;
mod olmo;
mod olmo2;
mod olmo3;
mod olmoe;
mod opensci;
mod parts;
mod phi;
mod phi3;
mod phimoe;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_5_text;
mod qwen3_moe;
mod qwen3_next;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;
#[cfg(test)]
mod tests;
mod wrapper;

use serde_json::{Map, Value};

use crate::config::{ConfigError, ConfigErrorKind, Keys, read_quantization};
use crate::decoder::{Decoder, Storage};
use wrapper::{Stored, WRAPPERS};

/// A family: the `model_type` it claims and how it describes a model.
struct Family {
    model_type: &'static str,
    describe: fn(&Keys<'_>, &dyn Tensors) -> Result<Decoder, ConfigError>,
}

/// Every family, in alphabetical order.
const FAMILIES: &[Family] = &[
    Family { model_type: "apertus", describe: apertus::describe },
    Family { model_type: "arcee", describe: arcee::describe },
    Family { model_type: "cohere", describe: cohere::describe },
    Family { model_type: "cohere2", describe: cohere2::describe },
    Family { model_type: "deepseek_v2", describe: deepseek_v2::describe },
    Family { model_type: "deepseek_v3", describe: deepseek_v3::describe },
    Family { model_type: "ernie4_5", describe: ernie4_5::describe },
    Family { model_type: "exaone4", describe: exaone4::describe },
    Family { model_type: "falcon", describe: falcon::describe },
    Family { model_type: "gemma", describe: gemma::describe },
    Family { model_type: "gemma2", describe: gemma2::describe },
    Family { model_type: "gemma3_text", describe: gemma3::describe },
    Family { model_type: "glm", describe: glm::describe },
    Family { model_type: "glm4", describe: glm4::describe },
    Family { model_type: "glm4_moe", describe: glm4_moe::describe },
    Family { model_type: "gpt2", describe: gpt2::describe },
    Family { model_type: "gpt_neox", describe: gpt_neox::describe },
    Family { model_type: "gpt_oss", describe: gpt_oss::describe },
    Family { model_type: "granite", describe: granite::describe },
    Family { model_type: "granitemoe", describe: granitemoe::describe },
    Family { model_type: "hunyuan_v1_dense", describe: hunyuan_v1_dense::describe },
    Family { model_type: "lfm2", describe: lfm2::describe },
    Family { model_type: "llama", describe: llama::describe },
    Family { model_type: "minimax_m2", describe: minimax_m2::describe },
    Family { model_type: "mistral", describe: mistral::describe },
    Family { model_type: "mixtral", describe: mixtral::describe },
    Family { model_type: "nemotron", describe: nemotron::describe },
    Family { model_type: "olmo", describe: olmo::describe },
    Family { model_type: "olmo2", describe: olmo2::describe },
    Family { model_type: "olmo3", describe: olmo3::describe },
    Family { model_type: "olmoe", describe: olmoe::describe },
    Family { model_type: "opensci", describe: opensci::describe },
    Family { model_type: "phi", describe: phi::describe },
    Family { model_type: "phi3", describe: phi3::describe },
    Family { model_type: "phimoe", describe: phimoe::describe },
    Family { model_type: "qwen2", describe: qwen2::describe },
    Family { model_type: "qwen2_moe", describe: qwen2_moe::describe },
    Family { model_type: "qwen3", describe: qwen3::describe },
    Family { model_type: "qwen3_5_text", describe: qwen3_5_text::describe },
    Family { model_type: "qwen3_moe", describe: qwen3_moe::describe },
    Family { model_type: "qwen3_next", describe: qwen3_next::describe },
    Family { model_type: "seed_oss", describe: seed_oss::describe },
    Family { model_type: "smollm3", describe: smollm3::describe },
    Family { model_type: "stablelm", describe: stablelm::describe },
    Family { model_type: "starcoder2", describe: starcoder2::describe },
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
    let quantization = read_quantization(&keys)?;
    let mut decoder = match WRAPPERS.iter().find(|w| w.model_type == model_type) {
        Some(wrapper) => {
            let text = wrapper.text_config(&keys)?;
            let stored = Stored::new(tensors);
            let inner = Keys::of_part(file, "text_config", &text);
            let mut decoder = describe_text(inner, wrapper.inner, &stored)?;
            decoder.rename(|name| stored.name(name));
            decoder.family = wrapper.model_type;
            decoder.ignored.extend(wrapper.others.iter().map(|start| (*start).to_owned()));
            keys.finish(model_type)?;
            decoder
        }
        None => describe_text(keys, model_type, tensors)?,
    };
    if let Some(quantization) = quantization {
        let mut found = false;
        for linear in decoder.linears_mut() {
            linear.storage = quantization.storage(linear, tensors);
            // Older writers of GPTQ give every map a bias, of zeros where the model has none.
            if matches!(linear.storage, Storage::Gptq(_)) && linear.bias.is_none() {
                let bias = format!("{}.bias", linear.module());
                linear.bias = tensors.has(&bias.replace("{}", "0")).then_some(bias);
            }
            found |= linear.is_quantized();
        }
        decoder.join_what_cannot_be_cut();
        if !found {
            let method = config.get("quantization_config").and_then(|q| q.get("quant_method"));
            return Err(ConfigError {
                file: file.to_owned(),
                kind: ConfigErrorKind::Invalid {
                    key: "quantization_config.quant_method".to_owned(),
                    value: method.map_or_else(String::new, Value::to_string),
                    expected: "absent: no weight of this checkpoint is stored in that form".to_owned(),
                },
            });
        }
    }
    Ok(decoder)
}

/// Describes the language model whose keys are `keys`.
fn describe_text(keys: Keys<'_>, model_type: &str, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let family = FAMILIES.iter().find(|f| f.model_type == model_type).ok_or_else(|| {
        let wrappers = WRAPPERS.iter().map(|w| w.model_type);
        let mut known: Vec<&'static str> = FAMILIES.iter().map(|f| f.model_type).chain(wrappers).collect();
        known.sort_unstable();
        keys.error(ConfigErrorKind::UnknownFamily { model_type: model_type.to_owned(), known })
    })?;
    keys.must_be("is_encoder_decoder", false)?;
    keys.must_be("add_cross_attention", false)?;
    let decoder = (family.describe)(&keys, tensors)?;
    keys.finish(family.model_type)?;
    Ok(decoder)
}
