//! `generation_config.json`: when to stop, and how the model's makers would have it sample.

use serde_json::{Map, Value};

use crate::config::{ConfigError, Keys};

/// What of `generation_config.json` matters here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a text. They are not part of it.
    pub eos: Vec<u32>,
    /// Whether the makers would have it sample.
    pub do_sample: Option<bool>,
    /// Temperature, when sampling.
    pub temperature: Option<f64>,
    /// Only the `top_k` likeliest tokens, when sampling.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together have this probability, when sampling.
    pub top_p: Option<f64>,
    /// Only tokens with at least this share of the likeliest one's probability, when sampling.
    pub min_p: Option<f64>,
    /// Divides positive and multiplies negative logits of tokens that the text has, sampling or not.
    pub repetition_penalty: Option<f64>,
    /// Keys that would change what transformers generates and that are not supported.
    pub unsupported: Vec<String>,
}

/// Keys that change which tokens transformers' `generate` picks, with the value that changes nothing.
const UNSUPPORTED: &[(&str, &[&str])] = &[
    ("bad_words_ids", &[]),
    ("begin_suppress_tokens", &[]),
    ("encoder_no_repeat_ngram_size", &["0"]),
    ("epsilon_cutoff", &["0", "0.0"]),
    ("eta_cutoff", &["0", "0.0"]),
    ("exponential_decay_length_penalty", &[]),
    ("forced_bos_token_id", &[]),
    ("forced_eos_token_id", &[]),
    ("guidance_scale", &["1", "1.0"]),
    ("min_length", &["0"]),
    ("min_new_tokens", &["0"]),
    ("no_repeat_ngram_size", &["0"]),
    ("num_beams", &["1"]),
    ("penalty_alpha", &["0", "0.0"]),
    ("sequence_bias", &[]),
    ("suppress_tokens", &[]),
    ("top_h", &[]),
    ("typical_p", &["1", "1.0"]),
    ("watermarking_config", &[]),
];

impl GenerationConfig {
    /// Reads the keys of `map`, which `file` names.
    pub(crate) fn read(file: &str, map: &Map<String, Value>) -> Result<GenerationConfig, ConfigError> {
        let keys = Keys::new(file, map);
        let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
        let eos = match keys.value("eos_token_id") {
            None => Vec::new(),
            Some(Value::Array(ids)) => ids
                .iter()
                .map(id)
                .collect::<Option<_>>()
                .ok_or_else(|| keys.invalid("eos_token_id", "a token id or a list of them"))?,
            Some(one) => vec![id(one).ok_or_else(|| keys.invalid("eos_token_id", "a token id or a list of them"))?],
        };
        let unsupported = UNSUPPORTED
            .iter()
            .filter(|(key, neutral)| keys.value(key).is_some_and(|v| !neutral.contains(&v.to_string().as_str())))
            .map(|(key, _)| (*key).to_owned())
            .collect();
        Ok(GenerationConfig {
            eos,
            do_sample: keys.opt_bool("do_sample")?,
            temperature: keys.opt_number("temperature")?,
            top_k: Some(keys.count_or("top_k", 0)?).filter(|k| *k > 0),
            top_p: keys.opt_number("top_p")?,
            min_p: keys.opt_number("min_p")?,
            repetition_penalty: keys.opt_positive("repetition_penalty")?,
            unsupported,
        })
    }
}
