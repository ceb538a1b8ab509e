//! A reference: what another program says of a model, as a JSON file.
//!
//! ```json
//! {"model_repo": "Qwen/Qwen3-1.7B", "model_type": "qwen3", "hidden_size": 2048, "num_hidden_layers": 28, "qk_norm": true,
//!  "test_cases": [{"prompt": "The sky is", "tokens": [785, 12884, 374],
//!                  "top_10": [{"index": 6303, "logit": 15.2}], "last_residual_f32": [0.1, -0.2]}]}
//! ```
//!
//! `docs/validate.md` has all keys. A key that nobody reads is remembered, so that it can be told.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

/// Why a file is no reference.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {kind}")]
pub struct ReferenceError {
    /// The file.
    pub file: String,
    /// What is wrong with it.
    pub kind: ReferenceErrorKind,
}

/// What is wrong with a reference.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceErrorKind {
    /// It cannot be read.
    #[error("it cannot be read ({0}); give a reference that you may read")]
    Unreadable(String),
    /// It is not JSON.
    #[error("this is not JSON ({0}); give a reference as docs/validate.md describes it")]
    NotJson(String),
    /// It is JSON of another kind.
    #[error("this is no reference: it has no test_cases; give one as docs/validate.md describes it")]
    NoCases,
    /// A value is not what it must be.
    #[error("\"{place}\" is {found}, but must be {expected}; record the reference again")]
    Wrong {
        /// Where it stands, as `test_cases[0].top_10[3].logit`.
        place: String,
        /// What is there.
        found: String,
        /// What must be there.
        expected: &'static str,
    },
    /// Two spellings of one key say different things.
    #[error("\"{first}\" and \"{second}\" mean the same and differ; record the reference again")]
    Contradiction {
        /// A key.
        first: &'static str,
        /// Another.
        second: &'static str,
    },
    /// A test case with nothing in it that could be checked.
    #[error(
        "\"{0}\" has neither top_10 nor last_residual_f32, so that there is nothing to check; record the reference again"
    )]
    NothingToCheck(String),
    /// A test case without a text.
    #[error("\"{0}\" has neither tokens nor a prompt; record the reference again")]
    NoText(String),
}

/// What another program says of a model.
#[derive(Clone, PartialEq, Debug)]
pub struct Reference {
    /// The file's name.
    pub file: String,
    /// Which model it is about, if it says so.
    pub model_repo: Option<String>,
    /// What it says about the model: `model_type`, sizes, `qk_norm`, by the names of `config.json`.
    pub facts: BTreeMap<&'static str, Value>,
    /// In what numbers it was computed, as `float32`.
    pub dtype: Option<String>,
    /// By which attention, as `eager`.
    pub attention: Option<String>,
    /// What computed it: names and versions.
    pub versions: BTreeMap<String, String>,
    /// The hash of every tensor of the checkpoint that it was computed from.
    pub weights: Option<BTreeMap<String, String>>,
    /// What `last_residual_f32` is, if it says so.
    pub residual_point: Option<ResidualPoint>,
    /// The test cases, at least one.
    pub cases: Vec<Case>,
    /// Keys that are not understood, and what they would say is not checked.
    pub passed_over: Vec<String>,
}

/// A text and what follows from it.
#[derive(Clone, PartialEq, Debug)]
pub struct Case {
    /// The text.
    pub prompt: Option<String>,
    /// Its tokens.
    pub tokens: Option<Vec<u32>>,
    /// The likeliest tokens after it, the likeliest first; at most ten.
    pub top: Option<Vec<Top>>,
    /// The last position's vector, `[hidden_size]`: see [`Reference::residual_point`].
    pub residual: Option<Vec<f64>>,
}

/// A token and its logit.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Top {
    /// The token.
    pub token: u32,
    /// Its logit.
    pub logit: f64,
}

/// What `last_residual_f32` may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResidualPoint {
    /// The residual stream after the last block, `blocks.{last}.hook_resid_post`.
    ResidPost,
    /// What the final norm makes of it, `ln_final.hook_out`, as the last of transformers' `hidden_states`.
    FinalNorm,
}

impl ResidualPoint {
    /// The name of the hook point, without its block.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ResidualPoint::ResidPost => "hook_resid_post",
            ResidualPoint::FinalNorm => "ln_final.hook_out",
        }
    }
}

/// What a fact must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Text,
    Count,
    Flag,
}

/// What a reference may say about a model, each with the other spellings that are about.
const FACTS: [(&[&str], Kind); 9] = [
    (&["model_type"], Kind::Text),
    (&["hidden_size"], Kind::Count),
    (&["num_hidden_layers", "num_layers"], Kind::Count),
    (&["num_attention_heads"], Kind::Count),
    (&["num_key_value_heads", "num_kv_heads"], Kind::Count),
    (&["head_dim"], Kind::Count),
    (&["vocab_size"], Kind::Count),
    (&["intermediate_size"], Kind::Count),
    (&["qk_norm", "use_qk_norm"], Kind::Flag),
];

/// The names of all facts, in the order in which they are told.
pub(super) fn fact_names() -> impl Iterator<Item = &'static str> {
    FACTS.iter().map(|(names, _)| names[0])
}

/// Where `last_residual_f32` says what it is.
const POINT: &str = "last_residual_point";
/// Most tokens that are recorded of the likeliest.
const PLACES: usize = 10;

impl Reference {
    /// Reads the file `path`.
    ///
    /// # Errors
    /// When it is no reference; the error says why.
    pub fn open(path: &Path) -> Result<Reference, ReferenceError> {
        let file = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => Reference::parse(&file, &bytes),
            Err(error) => {
                let words = error.to_string();
                let system = words.split(" (os error").next().unwrap_or_default().to_owned();
                Err(ReferenceError { file, kind: ReferenceErrorKind::Unreadable(system) })
            }
        }
    }

    /// Reads `bytes`, the contents of `file`.
    ///
    /// # Errors
    /// As [`Reference::open`].
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Reference, ReferenceError> {
        let error = |kind| ReferenceError { file: file.to_owned(), kind };
        let value: Value = serde_json::from_slice(bytes).map_err(|e| {
            let has = |word: &str| bytes.windows(word.len()).any(|w| w == word.as_bytes());
            // Python writes numbers into JSON that JSON does not have.
            let python = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| has(word));
            let hint = python.map_or_else(String::new, |word| format!(", {word} is Python"));
            error(ReferenceErrorKind::NotJson(format!("{e}{hint}")))
        })?;
        let Value::Object(map) = value else { return Err(error(ReferenceErrorKind::NoCases)) };
        Reader { map: &map, place: String::new() }.reference(file).map_err(error)
    }
}

type Read<T> = Result<T, ReferenceErrorKind>;

/// An object and where it stands.
struct Reader<'a> {
    map: &'a Map<String, Value>,
    place: String,
}

impl<'a> Reader<'a> {
    fn reference(&self, file: &str) -> Read<Reference> {
        let Some(cases) = self.list("test_cases")? else { return Err(ReferenceErrorKind::NoCases) };
        if cases.is_empty() {
            return Err(wrong("test_cases", &Value::Array(Vec::new()), "a list with at least one test case"));
        }
        let mut facts = BTreeMap::new();
        let mut known = vec!["test_cases", "model_repo", "dtype", "attention", "versions", "weights", POINT];
        for (names, kind) in FACTS {
            known.extend(names);
            if let Some(value) = self.fact(names, kind)? {
                facts.insert(names[0], value);
            }
        }
        let mut versions = self.texts("versions")?.unwrap_or_default();
        for (key, library) in [("torch_version", "torch"), ("transformers_version", "transformers")] {
            known.push(key);
            if let Some(version) = self.text(key)? {
                versions.entry(library.to_owned()).or_insert(version);
            }
        }
        let mut passed_over: Vec<String> =
            self.map.keys().filter(|key| !known.contains(&key.as_str())).cloned().collect();
        let cases = cases.iter().enumerate().map(|(i, case)| {
            let place = format!("test_cases[{i}]");
            let map = case.as_object().ok_or_else(|| wrong(&place, case, "an object"))?;
            let (case, unknown) = Reader { map, place }.case()?;
            for key in unknown.into_iter().map(|key| format!("test_cases[].{key}")) {
                if !passed_over.contains(&key) {
                    passed_over.push(key);
                }
            }
            Ok(case)
        });
        let cases = cases.collect::<Read<Vec<_>>>()?;
        Ok(Reference {
            file: file.to_owned(),
            model_repo: self.text("model_repo")?,
            facts,
            dtype: self.text("dtype")?.map(|dtype| dtype.trim_start_matches("torch.").to_owned()),
            attention: self.text("attention")?,
            versions,
            weights: self.texts("weights")?,
            residual_point: self.point()?,
            cases,
            passed_over,
        })
    }

    fn case(&self) -> Read<(Case, Vec<String>)> {
        let case = Case {
            prompt: self.text("prompt")?,
            tokens: self.tokens()?,
            top: self.top()?,
            residual: self.numbers("last_residual_f32")?,
        };
        if case.prompt.is_none() && case.tokens.is_none() {
            return Err(ReferenceErrorKind::NoText(self.place.clone()));
        }
        if case.top.is_none() && case.residual.is_none() {
            return Err(ReferenceErrorKind::NothingToCheck(self.place.clone()));
        }
        let known = ["prompt", "tokens", "top_10", "last_residual_f32"];
        Ok((case, self.map.keys().filter(|key| !known.contains(&key.as_str())).cloned().collect()))
    }

    /// A key's value; null is none.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn at(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) }
    }

    /// A fact by any of its names.
    fn fact(&self, names: &'static [&'static str], kind: Kind) -> Read<Option<Value>> {
        let mut found: Option<(&'static str, &Value)> = None;
        for name in names {
            let Some(value) = self.get(name) else { continue };
            let expected = match kind {
                Kind::Text if value.is_string() => None,
                Kind::Count if value.as_u64().is_some() => None,
                Kind::Flag if value.is_boolean() => None,
                Kind::Text => Some("a text"),
                Kind::Count => Some("a whole number, 0 or more"),
                Kind::Flag => Some("true or false"),
            };
            if let Some(expected) = expected {
                return Err(wrong(name, value, expected));
            }
            match found {
                Some((first, other)) if other != value => {
                    return Err(ReferenceErrorKind::Contradiction { first, second: name });
                }
                _ => found = Some((name, value)),
            }
        }
        Ok(found.map(|(_, value)| value.clone()))
    }

    fn text(&self, key: &str) -> Read<Option<String>> {
        let text =
            |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| wrong(&self.at(key), value, "a text"));
        self.get(key).map(text).transpose()
    }

    /// An object of texts.
    fn texts(&self, key: &str) -> Read<Option<BTreeMap<String, String>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| wrong(&self.at(key), value, "an object of texts"))?;
        let text = |(name, value): (&String, &Value)| match value.as_str() {
            Some(text) => Ok((name.clone(), text.to_owned())),
            None => Err(wrong(&format!("{}.{name}", self.at(key)), value, "a text")),
        };
        map.iter().map(text).collect::<Read<_>>().map(Some)
    }

    fn list(&self, key: &str) -> Read<Option<&'a Vec<Value>>> {
        let list = |value: &'a Value| value.as_array().ok_or_else(|| wrong(&self.at(key), value, "a list"));
        self.get(key).map(list).transpose()
    }

    fn tokens(&self) -> Read<Option<Vec<u32>>> {
        let Some(list) = self.list("tokens")? else { return Ok(None) };
        if list.is_empty() {
            return Err(wrong(&self.at("tokens"), &Value::Array(Vec::new()), "a list with at least one token"));
        }
        let tokens = list.iter().enumerate();
        tokens.map(|(i, value)| token(value, || self.at(&format!("tokens[{i}]")))).collect::<Read<_>>().map(Some)
    }

    fn numbers(&self, key: &str) -> Read<Option<Vec<f64>>> {
        let Some(list) = self.list(key)? else { return Ok(None) };
        let numbers = list.iter().enumerate();
        numbers.map(|(i, value)| number(value, || self.at(&format!("{key}[{i}]")))).collect::<Read<_>>().map(Some)
    }

    fn top(&self) -> Read<Option<Vec<Top>>> {
        let Some(list) = self.list("top_10")? else { return Ok(None) };
        if list.is_empty() || list.len() > PLACES {
            let found = Value::String(format!("{} entries", list.len()));
            return Err(wrong(&self.at("top_10"), &found, "a list of one to ten tokens with their logits"));
        }
        let mut top: Vec<Top> = Vec::with_capacity(list.len());
        for (i, entry) in list.iter().enumerate() {
            let at = |key: &str| self.at(&format!("top_10[{i}]{key}"));
            let entry_of = |key: &str| entry.get(key).unwrap_or(&Value::Null);
            let (index, logit) = (entry_of("index"), entry_of("logit"));
            let next = Top { token: token(index, || at(".index"))?, logit: number(logit, || at(".logit"))? };
            if top.iter().any(|t| t.token == next.token) {
                return Err(wrong(&at(".index"), index, "a token that is not in the list already"));
            }
            top.push(next);
        }
        Ok(Some(top))
    }

    fn point(&self) -> Read<Option<ResidualPoint>> {
        let Some(name) = self.text(POINT)? else { return Ok(None) };
        let is_last_block = |name: &str| {
            name.strip_prefix("blocks.").and_then(|rest| rest.strip_suffix(".hook_resid_post")).is_some_and(|block| {
                // Which block is the last one is for the model to say.
                block.parse::<usize>().is_ok()
            })
        };
        match name.as_str() {
            "ln_final.hook_out" => Ok(Some(ResidualPoint::FinalNorm)),
            "hook_resid_post" => Ok(Some(ResidualPoint::ResidPost)),
            name if is_last_block(name) => Ok(Some(ResidualPoint::ResidPost)),
            name => Err(wrong(
                POINT,
                &Value::String(name.to_owned()),
                "\"blocks.N.hook_resid_post\" of the last block or \"ln_final.hook_out\"",
            )),
        }
    }
}

fn token(value: &Value, place: impl Fn() -> String) -> Read<u32> {
    let token = value.as_u64().and_then(|token| u32::try_from(token).ok());
    token.ok_or_else(|| wrong(&place(), value, "a token, as a whole number"))
}

fn number(value: &Value, place: impl Fn() -> String) -> Read<f64> {
    value.as_f64().ok_or_else(|| wrong(&place(), value, "a number"))
}

/// Characters of a value that are shown.
const SHOWN: usize = 60;

fn wrong(place: &str, value: &Value, expected: &'static str) -> ReferenceErrorKind {
    let mut found = match value {
        Value::Null => "missing".to_owned(),
        value => value.to_string(),
    };
    if found.chars().count() > SHOWN {
        found = found.chars().take(SHOWN).chain(['…']).collect();
    }
    ReferenceErrorKind::Wrong { place: place.to_owned(), found, expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Reference, String> {
        Reference::parse("r.json", text.as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_there_is_read_and_what_is_not_understood_is_told() {
        let text = r#"{"model_repo": "a/b", "num_layers": 3, "num_hidden_layers": 3, "use_qk_norm": false, "dtype": "torch.float32",
            "torch_version": "2.1", "rms_norm_eps": 1e-6, "hidden_size": null, "methodology": "by hand",
            "test_cases": [{"prompt": "x", "tokens": [1, 2], "top_10": [{"index": 4, "logit": -1}], "seed": 3},
                           {"prompt": "y", "last_residual_f32": [0.5, 1e-3], "seed": 4}]}"#;
        let reference = parse(text).unwrap();
        assert_eq!(reference.facts.keys().copied().collect::<Vec<_>>(), ["num_hidden_layers", "qk_norm"]);
        assert_eq!(reference.passed_over, ["rms_norm_eps", "methodology", "test_cases[].seed"]);
        assert_eq!((reference.dtype.as_deref(), reference.residual_point), (Some("float32"), None));
        assert_eq!(reference.versions["torch"], "2.1");
        assert_eq!(reference.cases[0].top, Some(vec![Top { token: 4, logit: -1.0 }]));
        assert_eq!(reference.cases[1].residual, Some(vec![0.5, 1e-3]));
        assert_eq!(reference.cases[1].tokens, None);
    }

    #[test]
    fn what_the_residual_is_may_be_said() {
        let point = |name: &str| {
            let case = r#"[{"tokens": [1], "last_residual_f32": [1]}]"#;
            parse(&format!(r#"{{"last_residual_point": "{name}", "test_cases": {case}}}"#)).map(|r| r.residual_point)
        };
        assert_eq!(point("blocks.27.hook_resid_post"), Ok(Some(ResidualPoint::ResidPost)));
        assert_eq!(point("ln_final.hook_out"), Ok(Some(ResidualPoint::FinalNorm)));
        assert!(point("blocks.x.hook_resid_post").is_err() && point("hook_embed").is_err());
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let cases = [
            ("", "not JSON"),
            ("[1]", "no reference"),
            ("{}", "no test_cases"),
            (r#"{"test_cases": null}"#, "no test_cases"),
            (r#"{"test_cases": 3}"#, r#""test_cases" is 3, but must be a list"#),
            (r#"{"test_cases": []}"#, "at least one test case"),
            (r#"{"test_cases": [1]}"#, r#""test_cases[0]" is 1"#),
            (r#"{"test_cases": [{"tokens": [1]}]}"#, "nothing to check"),
            (r#"{"test_cases": [{"top_10": [{"index": 1, "logit": 2}]}]}"#, "neither tokens nor a prompt"),
            (r#"{"test_cases": [{"tokens": [], "last_residual_f32": []}]}"#, "at least one token"),
            (r#"{"test_cases": [{"tokens": [-1], "last_residual_f32": []}]}"#, r#""test_cases[0].tokens[0]" is -1"#),
            (r#"{"test_cases": [{"tokens": [1], "last_residual_f32": ["a"]}]}"#, "last_residual_f32[0]\" is \"a\""),
            (r#"{"test_cases": [{"tokens": [1], "last_residual_f32": [NaN]}]}"#, "NaN is Python"),
            (r#"{"test_cases": [{"tokens": [1], "top_10": []}]}"#, "one to ten tokens"),
            (r#"{"test_cases": [{"tokens": [1], "top_10": [{"index": 1}]}]}"#, r#"top_10[0].logit" is missing"#),
            (r#"{"test_cases": [{"tokens": [1], "top_10": [7]}]}"#, r#"top_10[0].index" is missing"#),
            (
                r#"{"test_cases": [{"tokens": [1], "top_10": [{"index": 1, "logit": 2}, {"index": 1, "logit": 1}]}]}"#,
                "not in the list already",
            ),
            (
                r#"{"hidden_size": "x", "test_cases": [{"tokens": [1], "top_10": [{"index": 1, "logit": 2}]}]}"#,
                "hidden_size",
            ),
            (
                r#"{"num_layers": 1, "num_hidden_layers": 2, "test_cases": [{"tokens": [1], "last_residual_f32": [1]}]}"#,
                "mean the same and differ",
            ),
        ];
        for (text, told) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with("r.json: ") && error.contains(told), "{text}: {error}");
        }
    }
}
