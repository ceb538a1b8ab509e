//! The keys of a JSON object, read by name, with a memory of which were read.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{ConfigError, ConfigErrorKind};

/// Keys that say nothing about what the model computes, whatever they hold.
const HARMLESS: &[&str] = &[
    // Where it comes from and how it was stored.
    "_name_or_path",
    "is_llama_config",
    "transformers.js_config",
    "architectures",
    "auto_map",
    "dtype",
    "model_type",
    "name_or_path",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    // Tokens and generation, which `generation_config.json` and the tokenizer decide.
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "sep_token_id",
    "unk_token_id",
    "decoder_start_token_id",
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "remove_invalid_values",
    "max_length",
    "max_new_tokens",
    "min_length",
    "num_beams",
    "num_return_sequences",
    "prefix",
    "repetition_penalty",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    // Training and implementation.
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_flash_attn_2_enabled",
    "_num_labels",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_implementation",
    "attn_pdrop",
    "cache_implementation",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "embd_pdrop",
    "embedding_dropout",
    "finetuning_task",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pretraining_tp",
    "problem_type",
    "resid_pdrop",
    "residual_dropout",
    "return_dict",
    "return_dict_in_generate",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "torchscript",
    "use_bfloat16",
    "use_cache",
];

/// A JSON object that remembers which of its keys were read.
pub(crate) struct Keys<'a> {
    file: String,
    /// What stands before a key in messages: `rope_scaling.` for a nested object.
    prefix: String,
    map: &'a Map<String, Value>,
    /// Whether it says what a model is, as the file as a whole does: then there are keys that are harmless.
    whole: bool,
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(file: &str, map: &'a Map<String, Value>) -> Keys<'a> {
        Keys { file: file.to_owned(), prefix: String::new(), map, whole: true, read: RefCell::default() }
    }

    /// Of an object under `key` that says what a model is, as the file of another model would.
    pub(crate) fn of_part(file: &str, key: &str, map: &'a Map<String, Value>) -> Keys<'a> {
        Keys { prefix: format!("{key}."), ..Keys::new(file, map) }
    }

    /// The value of `key`, unless it is absent or null.
    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(key.to_owned());
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Whether `key` is there at all, be it null. Does not count as reading it.
    pub(crate) fn contains(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub(crate) fn error(&self, kind: ConfigErrorKind) -> ConfigError {
        ConfigError { file: self.file.clone(), kind }
    }

    pub(crate) fn missing(&self, key: &str) -> ConfigError {
        self.error(ConfigErrorKind::Missing { key: format!("{}{key}", self.prefix) })
    }

    pub(crate) fn invalid(&self, key: &str, expected: impl Into<String>) -> ConfigError {
        let value = self.map.get(key).map_or("absent".to_owned(), brief);
        self.error(ConfigErrorKind::Invalid { key: format!("{}{key}", self.prefix), value, expected: expected.into() })
    }

    fn opt<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => convert(value).map(Some).ok_or_else(|| self.invalid(key, expected)),
        }
    }

    /// A size: at least 1, and below 2^31 so that no product of a few of them overflows.
    pub(crate) fn opt_size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.opt(key, "a whole number from 1 to 2147483647", |v| {
            v.as_u64().filter(|n| (1..1 << 31).contains(n)).map(|n| n as usize)
        })
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.opt_size(key)?.ok_or_else(|| self.missing(key))
    }

    /// A number of layers: a size within reason, as a description is made of each.
    pub(crate) fn layers(&self, key: &str) -> Result<usize, ConfigError> {
        match self.size(key)? {
            n if n > 10_000 => Err(self.invalid(key, "a whole number from 1 to 10000")),
            n => Ok(n),
        }
    }

    pub(crate) fn size_or(&self, key: &str, default: usize) -> Result<usize, ConfigError> {
        Ok(self.opt_size(key)?.unwrap_or(default))
    }

    /// As a size, but 0 is allowed.
    pub(crate) fn count_or(&self, key: &str, default: usize) -> Result<usize, ConfigError> {
        let count = self.opt(key, "a whole number from 0 to 2147483647", |v| {
            v.as_u64().filter(|n| *n < 1 << 31).map(|n| n as usize)
        })?;
        Ok(count.unwrap_or(default))
    }

    pub(crate) fn opt_positive(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.opt(key, "a positive number", |v| v.as_f64().filter(|x| x.is_finite() && *x > 0.0))
    }

    pub(crate) fn positive(&self, key: &str) -> Result<f64, ConfigError> {
        self.opt_positive(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn opt_number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.opt(key, "a finite number", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    pub(crate) fn opt_bool(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.opt(key, "true or false", Value::as_bool)
    }

    pub(crate) fn bool_or(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        Ok(self.opt_bool(key)?.unwrap_or(default))
    }

    pub(crate) fn opt_str(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        self.opt(key, "a string", Value::as_str)
    }

    pub(crate) fn opt_array(&self, key: &str) -> Result<Option<&'a Vec<Value>>, ConfigError> {
        self.opt(key, "a list", Value::as_array)
    }

    pub(crate) fn opt_object(&self, key: &str) -> Result<Option<Keys<'a>>, ConfigError> {
        let map = self.opt(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Keys {
            file: self.file.clone(),
            prefix: format!("{}{key}.", self.prefix),
            map,
            whole: false,
            read: RefCell::default(),
        }))
    }

    /// The object itself.
    pub(crate) fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// The names of all keys that do not hold null.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.map.iter().filter(|(_, v)| !v.is_null()).map(|(k, _)| k.as_str())
    }

    /// Whether no key is there, or only keys that hold null.
    pub(crate) fn is_empty(&self) -> bool {
        self.map.values().all(Value::is_null)
    }

    /// `key` must be absent or hold `value`: the family has no other.
    pub(crate) fn must_be(&self, key: &str, value: bool) -> Result<(), ConfigError> {
        match self.opt_bool(key)? {
            Some(found) if found != value => Err(self.invalid(key, format!("{value} in this family"))),
            _ => Ok(()),
        }
    }

    /// Marks keys as read that the family is known to ignore.
    pub(crate) fn ignore(&self, keys: &[&str]) {
        self.read.borrow_mut().extend(keys.iter().map(|k| (*k).to_owned()));
    }

    /// Refuses what nobody read, unless it is null or harmless.
    pub(crate) fn finish(self, family: &str) -> Result<(), ConfigError> {
        let read = self.read.borrow();
        for (key, value) in self.map {
            let known = read.contains(key) || self.whole && HARMLESS.contains(&key.as_str());
            if !known && !value.is_null() {
                return Err(self.error(ConfigErrorKind::NotUnderstood {
                    key: format!("{}{key}", self.prefix),
                    value: brief(value),
                    family: family.to_owned(),
                }));
            }
        }
        Ok(())
    }
}

/// A value for a message: whole if short.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
