//! The files of a checkpoint that concern its tokenizer and chat templates.

use std::borrow::Cow;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::TokenizerError;

/// Contents of a file.
type Contents = Cow<'static, [u8]>;

/// The files' contents: read from a folder, or put together from memory for a
/// model that is built in.
#[derive(Debug, Clone, Default)]
pub struct TokenizerFiles {
    /// The checkpoint, as errors name it.
    pub origin: String,
    /// `tokenizer.json`
    pub tokenizer_json: Option<Contents>,
    /// `tokenizer_config.json`
    pub tokenizer_config: Option<Contents>,
    /// `special_tokens_map.json`, of older checkpoints.
    pub special_tokens_map: Option<Contents>,
    /// `added_tokens.json`, of older checkpoints.
    pub added_tokens: Option<Contents>,
    /// `chat_template.jinja`
    pub chat_template: Option<Contents>,
    /// `additional_chat_templates/NAME.jinja`: names and contents.
    pub additional_chat_templates: Vec<(String, Contents)>,
    /// Name of a file with a vocabulary in another format, if there is one.
    pub other_vocabulary: Option<String>,
}

/// Vocabularies in formats that need converting.
const OTHER_VOCABULARIES: &[&str] = &[
    "tokenizer.model",
    "tekken.json",
    "tiktoken.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
];

impl TokenizerFiles {
    /// Reads the files of the folder; any of them may be missing.
    ///
    /// # Errors
    /// [`TokenizerError::Read`] for a file that is there and cannot be read.
    pub fn read(dir: &Path) -> Result<TokenizerFiles, TokenizerError> {
        let file = |name: &str| read(&dir.join(name));
        let other = OTHER_VOCABULARIES.iter().find(|name| dir.join(name).is_file());
        Ok(TokenizerFiles {
            origin: dir.display().to_string(),
            tokenizer_json: file("tokenizer.json")?,
            tokenizer_config: file("tokenizer_config.json")?,
            special_tokens_map: file("special_tokens_map.json")?,
            added_tokens: file("added_tokens.json")?,
            chat_template: file("chat_template.jinja")?,
            additional_chat_templates: additional(&dir.join("additional_chat_templates"))?,
            other_vocabulary: other.map(|&name| name.to_owned()),
        })
    }
}

fn additional(dir: &Path) -> Result<Vec<(String, Contents)>, TokenizerError> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(Vec::new());
    };
    let mut templates = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(|name| name.strip_suffix(".jinja")) else {
            continue;
        };
        if let Some(contents) = read(&path)? {
            templates.push((name.to_owned(), contents));
        }
    }
    templates.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(templates)
}

fn read(path: &Path) -> Result<Option<Contents>, TokenizerError> {
    match fs::read(path) {
        Ok(contents) => Ok(Some(Cow::Owned(contents))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let message = error.to_string();
            let message = message.split(" (os error").next().unwrap_or_default().to_owned();
            Err(TokenizerError::Read { file: path.display().to_string(), message })
        }
    }
}
