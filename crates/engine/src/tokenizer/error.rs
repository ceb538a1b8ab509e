//! What can go wrong with a tokenizer.

/// Why a tokenizer could not be loaded or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The checkpoint has no `tokenizer.json`.
    #[error("{}", missing(.origin, .found))]
    Missing {
        /// The checkpoint.
        origin: String,
        /// Another file with a vocabulary, which it has instead.
        found: Option<String>,
    },
    /// A file is not what it should be.
    #[error("{file}: {message}; save the tokenizer anew with save_pretrained() or correct the file")]
    Invalid {
        /// The file.
        file: String,
        /// What is wrong with it.
        message: String,
    },
    /// A file could not be read.
    #[error("{file}: cannot be read ({message}); put the model's own file in its place")]
    Read {
        /// The file, with its folder.
        file: String,
        /// The system's message.
        message: String,
    },
    /// A text could not be encoded.
    #[error(
        "tokenizer.json: the text cannot be encoded: {message}; its vocabulary lacks a token for \
         unknown text"
    )]
    Encode {
        /// The tokenizer's message.
        message: String,
    },
    /// Ids could not be decoded.
    #[error("tokenizer.json: ids cannot be decoded: {message}; its decoder does not fit its vocabulary")]
    Decode {
        /// The tokenizer's message.
        message: String,
    },
}

impl TokenizerError {
    /// The file the error is about.
    pub fn file(&self) -> &str {
        match self {
            TokenizerError::Invalid { file, .. } | TokenizerError::Read { file, .. } => file,
            _ => "tokenizer.json",
        }
    }
}

fn missing(origin: &str, found: &Option<String>) -> String {
    let save = "AutoTokenizer.from_pretrained(\"…\").save_pretrained(\"…\") in Python";
    match found.as_deref() {
        Some(file) if file.ends_with(".model") && !file.starts_with("tiktoken") => format!(
            "{origin} has no tokenizer.json, only {file}, whose sentencepiece format has to be \
             converted: run {save} with the packages transformers, sentencepiece and protobuf \
             installed, and put the tokenizer.json it writes into the folder"
        ),
        Some(file) => format!(
            "{origin} has no tokenizer.json, only {file}, which has to be converted: run {save} \
             and put the tokenizer.json it writes into the folder"
        ),
        None => format!(
            "{origin} has no tokenizer.json; if the tokenizer is elsewhere, save it with {save} \
             and put the tokenizer.json it writes into the folder"
        ),
    }
}
