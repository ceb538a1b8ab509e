//! What transformers keeps about a tokenizer outside `tokenizer.json`.

use std::borrow::Cow;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::{TokenizerError, TokenizerFiles};

/// The names transformers gives to tokens with a role, in its order.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A tokenizer's special tokens by name, such as `eos_token`.
///
/// Chat templates see these as variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    tokens: Vec<(String, String)>,
}

impl SpecialTokens {
    /// The special tokens named in a checkpoint's files.
    ///
    /// # Errors
    /// [`TokenizerError::Invalid`] for a file that is not what it should be.
    pub fn load(files: &TokenizerFiles) -> Result<SpecialTokens, TokenizerError> {
        Ok(Config::load(files)?.special)
    }

    /// Name and text of each.
    pub fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tokens.iter().map(|(name, token)| (name.as_str(), token.as_str()))
    }

    /// The token of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.named().find(|(known, _)| *known == name).map(|(_, token)| token)
    }

    /// The token that ends a sequence.
    pub fn eos(&self) -> Option<&str> {
        self.get("eos_token")
    }

    /// The token that begins a sequence.
    pub fn bos(&self) -> Option<&str> {
        self.get("bos_token")
    }
}

impl<N: Into<String>, T: Into<String>> FromIterator<(N, T)> for SpecialTokens {
    fn from_iter<I: IntoIterator<Item = (N, T)>>(tokens: I) -> SpecialTokens {
        let tokens = tokens.into_iter();
        SpecialTokens { tokens: tokens.map(|(name, token)| (name.into(), token.into())).collect() }
    }
}

/// Whether decoded text goes through [`clean_up`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cleanup {
    On,
    Off,
}

/// What the files beside `tokenizer.json` say.
pub(super) struct Config {
    pub(super) special: SpecialTokens,
    pub(super) cleanup: Cleanup,
    /// The same for byte-pair vocabularies, which the clean-up would damage.
    pub(super) cleanup_of_bpe: Cleanup,
    /// Tokens listed by id, in order of their ids.
    listed: Vec<AddedToken>,
    /// Tokens with a role, and further special ones.
    named: Vec<AddedToken>,
}

impl Config {
    pub(super) fn load(files: &TokenizerFiles) -> Result<Config, TokenizerError> {
        let mut config = object("tokenizer_config.json", &files.tokenizer_config)?;
        let mut listed = listed(&config);
        if !config.contains_key("added_tokens_decoder") {
            // Older checkpoints: the map of special tokens has the last word.
            config.extend(object("special_tokens_map.json", &files.special_tokens_map)?);
            listed = legacy(&config, &object("added_tokens.json", &files.added_tokens)?);
        }
        let cleanup = |name: &str| match config.get(name) {
            Some(Value::Bool(true)) => Cleanup::On,
            _ => Cleanup::Off,
        };
        let force = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output";
        let (cleanup, forced) = (cleanup("clean_up_tokenization_spaces"), cleanup(force));
        let cleanup_of_bpe = match forced {
            Cleanup::On => cleanup,
            Cleanup::Off => Cleanup::Off,
        };
        let mut tokens = Vec::new();
        let mut named = Vec::new();
        let own = |name: &&String| name.ends_with("_token") && !NAMES.contains(&name.as_str());
        for name in NAMES.into_iter().chain(config.keys().filter(own).map(String::as_str)) {
            let value = config.get(name);
            // Of the model's own names only plain strings are tokens.
            let value = value.filter(|value| NAMES.contains(&name) || value.is_string());
            if let Some(token) = value.and_then(special_token) {
                tokens.push((name.to_owned(), token.content.clone()));
                named.push(token);
            }
        }
        let extra = ["extra_special_tokens", "additional_special_tokens"]
            .into_iter()
            .find_map(|name| config.get(name).filter(|value| !is_empty(value)));
        match extra {
            Some(Value::Object(extra)) => {
                for (name, value) in extra {
                    if let Some(token) = special_token(value) {
                        tokens.push((name.clone(), token.content.clone()));
                        named.push(token);
                    }
                }
            }
            Some(Value::Array(extra)) => named.extend(extra.iter().filter_map(special_token)),
            _ => {}
        }
        Ok(Config { special: SpecialTokens { tokens }, cleanup, cleanup_of_bpe, listed, named })
    }

    /// Adds the tokens that `tokenizer.json` does not have in this form.
    pub(super) fn add_tokens_to(&self, tokenizer: &mut tokenizers::Tokenizer) {
        let known = tokenizer.get_added_tokens_decoder();
        let mut adding: Vec<AddedToken> = Vec::new();
        for token in &self.listed {
            if !known.values().any(|other| same(other, token)) {
                adding.push(token.clone());
            }
        }
        for token in &self.named {
            let content = &token.content;
            let is_known = known.values().any(|other| other.content == *content);
            match adding.iter_mut().find(|other| other.content == *content) {
                Some(other) => other.special = true,
                None if !is_known => adding.push(token.clone()),
                None => {}
            }
        }
        tokenizer.add_tokens(&adding);
    }
}

/// Equality in every property; the crate's own looks at the text only.
fn same(a: &AddedToken, b: &AddedToken) -> bool {
    let key = |token: &AddedToken| (token.single_word, token.lstrip, token.rstrip, token.normalized, token.special);
    a.content == b.content && key(a) == key(b)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        value => value.is_null(),
    }
}

fn object(file: &str, contents: &Option<Cow<'static, [u8]>>) -> Result<Map<String, Value>, TokenizerError> {
    let Some(contents) = contents else {
        return Ok(Map::new());
    };
    serde_json::from_slice(contents)
        .map_err(|error| TokenizerError::Invalid { file: file.to_owned(), message: error.to_string() })
}

/// The tokens of `added_tokens_decoder`, by id.
fn listed(config: &Map<String, Value>) -> Vec<AddedToken> {
    let Some(Value::Object(entries)) = config.get("added_tokens_decoder") else {
        return Vec::new();
    };
    let mut tokens: Vec<(u32, AddedToken)> =
        entries.iter().filter_map(|(id, token)| Some((id.parse().ok()?, added_token(token)?))).collect();
    tokens.sort_by_key(|(id, _)| *id);
    tokens.into_iter().map(|(_, token)| token).collect()
}

/// The tokens of `added_tokens.json`, by id.
fn legacy(config: &Map<String, Value>, added: &Map<String, Value>) -> Vec<AddedToken> {
    let is_special = |content: &str| {
        let named = NAMES.iter().filter_map(|name| config.get(*name));
        named.filter_map(special_token).any(|token| token.content == content)
    };
    let mut tokens: Vec<(u64, AddedToken)> = added
        .iter()
        .filter_map(|(content, id)| Some((id.as_u64()?, AddedToken::from(content.as_str(), is_special(content)))))
        .collect();
    tokens.sort_by_key(|(id, _)| *id);
    tokens.into_iter().map(|(_, token)| token).collect()
}

/// A token given as its text or as an object with its properties.
fn added_token(value: &Value) -> Option<AddedToken> {
    if let Value::String(content) = value {
        return Some(AddedToken::from(content.as_str(), false));
    }
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(false);
    let token = AddedToken::from(value.get("content")?.as_str()?, special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .normalized(flag("normalized").unwrap_or(!special));
    Some(token)
}

fn special_token(value: &Value) -> Option<AddedToken> {
    match value {
        Value::String(content) => Some(AddedToken::from(content.as_str(), true)),
        value => added_token(value).map(|token| token.special(true)),
    }
}

/// transformers' `clean_up_tokenization`: takes back spaces before punctuation
/// and English contractions.
pub(super) fn clean_up(text: &str) -> String {
    const REPLACED: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    REPLACED.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
