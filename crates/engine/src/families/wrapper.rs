//! Models that are more than a language model: of these the language model alone is described, whose keys are those of
//! `text_config` and whose tensors are called otherwise.
//!
//! Three ways of calling them are about: transformers 5 has `model.language_model.…` beside `lm_head.weight` in memory; what is stored
//! has `language_model.model.…`, and `language_model.lm_head.weight` if anything.

use serde_json::{Map, Value, json};

use super::Tensors;
use crate::config::{ConfigError, Keys};

/// A model that has a language model among its parts.
pub(super) struct Wrapper {
    pub(super) model_type: &'static str,
    /// The `model_type` of its language model.
    pub(super) inner: &'static str,
    /// Whether the head is the embedding table if no key says so.
    pub(super) tied: bool,
    /// Keys beside `text_config` that are about the other parts.
    pub(super) harmless: &'static [&'static str],
    /// Keys within `text_config` that the whole does not heed, and that must be null therefore.
    pub(super) unheeded: &'static [&'static str],
    /// Beginnings of the names of the other parts' tensors.
    pub(super) others: &'static [&'static str],
}

/// All of them, in alphabetical order.
pub(super) const WRAPPERS: &[Wrapper] = &[
    Wrapper {
        model_type: "gemma3",
        inner: "gemma3_text",
        tied: true,
        harmless: &["boi_token_index", "eoi_token_index", "image_token_index", "mm_tokens_per_image", "vision_config"],
        unheeded: &["final_logit_softcapping"],
        others: &["model.multi_modal_projector.", "model.vision_tower.", "multi_modal_projector.", "vision_tower."],
    },
    Wrapper {
        model_type: "qwen3_5",
        inner: "qwen3_5_text",
        tied: false,
        harmless: &[
            "image_token_id",
            "video_token_id",
            "vision_config",
            "vision_end_token_id",
            "vision_start_token_id",
        ],
        unheeded: &[],
        others: &["model.visual.", "mtp.", "visual."],
    },
];

impl Wrapper {
    /// What `text_config` says, with what the whole says about the head.
    pub(super) fn text_config(&self, keys: &Keys<'_>) -> Result<Map<String, Value>, ConfigError> {
        let inner = keys.opt_object("text_config")?.ok_or_else(|| keys.missing("text_config"))?;
        let model_type = inner.opt_str("model_type")?;
        if model_type.is_some_and(|found| found != self.inner) {
            return Err(inner.invalid("model_type", format!("\"{}\" in a {}", self.inner, self.model_type)));
        }
        for key in self.unheeded {
            if inner.value(key).is_some() {
                return Err(inner.invalid(key, format!("null: a {} does not heed it", self.model_type)));
            }
        }
        let mut config = inner.map().clone();
        let tied = keys.bool_or("tie_word_embeddings", self.tied)?;
        config.insert("tie_word_embeddings".to_owned(), json!(tied));
        keys.ignore(self.harmless);
        Ok(config)
    }
}

/// How the tensors of the language model are called in a checkpoint that has more.
pub(super) struct Stored<'a> {
    tensors: &'a dyn Tensors,
    /// What stands for `model.`.
    body: &'static str,
    /// What stands before `lm_head.`.
    head: &'static str,
}

impl<'a> Stored<'a> {
    pub(super) fn new(tensors: &'a dyn Tensors) -> Stored<'a> {
        let old = tensors.any("language_model.model.");
        let body = if old { "language_model.model." } else { "model.language_model." };
        let head = if tensors.any("language_model.lm_head.") { "language_model." } else { "" };
        Stored { tensors, body, head }
    }

    /// The name in the checkpoint of what the language model alone would call `name`.
    pub(super) fn name(&self, name: &str) -> String {
        match name.strip_prefix("model.") {
            Some(rest) => format!("{}{rest}", self.body),
            None => format!("{}{name}", self.head),
        }
    }
}

impl Tensors for Stored<'_> {
    fn has(&self, name: &str) -> bool {
        self.tensors.has(&self.name(name))
    }

    fn any(&self, start: &str) -> bool {
        self.tensors.any(&self.name(start))
    }
}
