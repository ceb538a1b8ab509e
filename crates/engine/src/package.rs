//! A model as it is given: a directory with a checkpoint, or the small one that is part of the program.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use rheostat_store::Checkpoint;
use serde_json::{Map, Value};

use crate::chat::ChatTemplates;
use crate::config::{ConfigError, ConfigErrorKind};
use crate::decoder::Decoder;
use crate::error::Error;
use crate::families::{self, Tensors};
use crate::generation_config::GenerationConfig;
use crate::tokenizer::{Tokenizer, TokenizerFiles};

/// What a model consists of, before any weight is read.
#[derive(Debug)]
pub struct Package {
    name: String,
    origin: Origin,
    checkpoint: Checkpoint,
    config_file: String,
    config: Map<String, Value>,
    generation_config: Option<(String, Map<String, Value>)>,
    tokenizer_files: TokenizerFiles,
}

/// Where a package's files are.
#[derive(Debug)]
pub(crate) enum Origin {
    Directory(PathBuf),
    /// Part of the program: names and contents of all but the weights.
    Embedded(&'static [(&'static str, &'static [u8])]),
}

impl Tensors for Checkpoint {
    fn has(&self, name: &str) -> bool {
        self.tensor(name).is_some()
    }

    fn any(&self, start: &str) -> bool {
        self.tensors().iter().any(|tensor| tensor.name().starts_with(start))
    }
}

impl Package {
    /// Opens a directory as `save_pretrained` writes it. Reads headers and small files only.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn open(dir: &Path) -> Result<Package, Error> {
        let checkpoint = Checkpoint::open(dir)?;
        let config_path = dir.join("config.json");
        let text = read(&config_path)?.ok_or_else(|| Error::File {
            path: config_path.clone(),
            what: "there is no such file; a model directory has one, beside its weights".to_owned(),
        })?;
        let config_file = config_path.display().to_string();
        let config = object(&config_file, &text)?;
        let generation_path = dir.join("generation_config.json");
        let generation_config = match read(&generation_path)? {
            None => None,
            Some(text) => {
                let name = generation_path.display().to_string();
                let map = object(&name, &text)?;
                Some((name, map))
            }
        };
        Ok(Package {
            name: dir.display().to_string(),
            origin: Origin::Directory(dir.to_owned()),
            checkpoint,
            config_file,
            config,
            generation_config,
            tokenizer_files: TokenizerFiles::read(dir)?,
        })
    }

    /// The small model that is part of the program: Shakespeare, of a kind.
    ///
    /// # Errors
    /// None that a build which passed its tests can have.
    pub fn embedded() -> Result<Package, Error> {
        macro_rules! asset {
            ($name:literal) => {
                include_bytes!(concat!("../../../assets/tiny-shakespeare/", $name))
            };
        }
        const CONFIG: &[u8] = asset!("config.json");
        const GENERATION: &[u8] = asset!("generation_config.json");
        const TOKENIZER: &[u8] = asset!("tokenizer.json");
        const TOKENIZER_CONFIG: &[u8] = asset!("tokenizer_config.json");
        let name = |file: &str| format!("<embedded>/{file}");
        let config_file = name("config.json");
        let generation_file = name("generation_config.json");
        let config = object(&config_file, CONFIG)?;
        let generation_config = object(&generation_file, GENERATION)?;
        Ok(Package {
            name: "<embedded>".to_owned(),
            origin: Origin::Embedded(&[
                ("config.json", CONFIG),
                ("generation_config.json", GENERATION),
                ("tokenizer.json", TOKENIZER),
                ("tokenizer_config.json", TOKENIZER_CONFIG),
            ]),
            checkpoint: Checkpoint::from_static("<embedded>/model.safetensors", asset!("model.safetensors"))?,
            config,
            config_file,
            generation_config: Some((generation_file, generation_config)),
            tokenizer_files: TokenizerFiles {
                origin: "<embedded>".to_owned(),
                tokenizer_json: Some(Cow::Borrowed(TOKENIZER)),
                tokenizer_config: Some(Cow::Borrowed(TOKENIZER_CONFIG)),
                ..TokenizerFiles::default()
            },
        })
    }

    /// Sets a key of the configuration, whatever `config.json` says, to see what comes of it. Keys of objects within are written with dots:
    /// `rope_parameters.rope_theta`.
    ///
    /// # Errors
    /// When something on the way there is no object.
    pub fn set_config(&mut self, key: &str, value: Value) -> Result<(), Error> {
        let mut map = &mut self.config;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                map.insert(part.to_owned(), value);
                break;
            }
            map = match map.get_mut(part) {
                Some(Value::Object(inner)) => inner,
                _ => return Err(Error::NoSuchObject { key: key.to_owned(), part: part.to_owned() }),
            };
        }
        Ok(())
    }

    /// The directory, or a name for the embedded model.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its files are.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The weights' files.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// `config.json`.
    #[must_use]
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// What the model computes, according to `config.json`.
    ///
    /// # Errors
    /// When a key is missing, wrong or not understood, or no family claims the `model_type`.
    pub fn describe(&self) -> Result<Decoder, Error> {
        Ok(families::describe(&self.config_file, &self.config, &self.checkpoint)?)
    }

    /// How the model's makers would have it generate: `generation_config.json`, alone if it is there, else the
    /// keys of `config.json`.
    ///
    /// # Errors
    /// When a key is wrong.
    pub fn generation_config(&self) -> Result<GenerationConfig, Error> {
        let (file, map) = match &self.generation_config {
            Some((file, map)) => (file, map),
            None => (&self.config_file, &self.config),
        };
        Ok(GenerationConfig::read(file, map)?)
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        Ok(Tokenizer::load(&self.tokenizer_files)?)
    }

    /// The chat templates, if the model has any.
    ///
    /// # Errors
    /// When they are damaged.
    pub fn chat_templates(&self) -> Result<Option<ChatTemplates>, Error> {
        Ok(ChatTemplates::load(&self.tokenizer_files)?)
    }
}

fn read(path: &PathBuf) -> Result<Option<Vec<u8>>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => {
            let e = e.to_string();
            let system = e.split(" (os error").next().unwrap_or_default();
            let what = format!("it cannot be read ({system}); put the model's own file in its place");
            Err(Error::File { path: path.clone(), what })
        }
    }
}

fn object(file: &str, text: &[u8]) -> Result<Map<String, Value>, ConfigError> {
    serde_json::from_slice(text).map_err(|e| {
        // Python writes numbers into JSON that JSON does not have.
        let has = |word: &str| text.windows(word.len()).any(|w| w == word.as_bytes());
        let python = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| has(word));
        let hint = python.map_or_else(String::new, |word| format!(" ({word} is Python, not JSON)"));
        ConfigError { file: file.to_owned(), kind: ConfigErrorKind::NotJson(format!("{e}{hint}")) }
    })
}
