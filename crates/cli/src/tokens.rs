//! Tokens as people read and write them.

use anyhow::{anyhow, bail};
use rheostat::tokenizer::{AddSpecial, ShowSpecial, Tokenizer};
use rheostat::{Error, Package};

/// A model's tokens, or their numbers where it has no tokenizer that can be used.
pub(crate) struct Tokens(Result<Tokenizer, Error>);

impl Tokens {
    pub(crate) fn of(package: &Package) -> Tokens {
        Tokens(package.tokenizer())
    }

    /// The tokens of a text, with the special tokens that the tokenizer adds.
    pub(crate) fn encode(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        Ok(self.tokenizer()?.encode(text, AddSpecial::Add)?)
    }

    fn tokenizer(&self) -> anyhow::Result<&Tokenizer> {
        self.0.as_ref().map_err(|error| anyhow!("{error}"))
    }

    /// The token's text, as it is within a longer one.
    pub(crate) fn text(&self, token: u32) -> Option<String> {
        let tokenizer = self.0.as_ref().ok()?;
        let spelling = tokenizer.token(token)?;
        match tokenizer.decode(&[token], ShowSpecial::Show) {
            // A space that a decoder takes for that of the text's beginning, and bytes that are no text alone.
            Ok(text) if spelling.starts_with('\u{2581}') && !text.starts_with(' ') => Some(format!(" {text}")),
            Ok(text) if !text.is_empty() && !text.contains('\u{fffd}') => Some(text),
            _ => Some(spelling),
        }
    }

    /// The token as it can be seen: spaces as dots, line ends as arrows; without a tokenizer its number.
    pub(crate) fn shown(&self, token: u32) -> String {
        let Some(text) = self.text(token) else { return format!("#{token}") };
        let visible = |c: char| match c {
            ' ' => "·".to_owned(),
            '\n' => "⏎".to_owned(),
            c if c.is_control() => c.escape_default().to_string(),
            c => c.to_string(),
        };
        text.chars().map(visible).collect()
    }

    /// The same with a position before each.
    pub(crate) fn labels(&self, tokens: &[u32], positions: &[usize]) -> Vec<String> {
        positions.iter().map(|position| format!("{position} {}", self.shown(tokens[*position]))).collect()
    }

    /// The token that `flag` names: a text that is one token, the vocabulary's spelling of one, or a number after a hash.
    pub(crate) fn find(&self, flag: &str, text: &str) -> anyhow::Result<u32> {
        if let Some(id) = text.strip_prefix('#').and_then(|id| id.parse().ok()) {
            return Ok(id);
        }
        let tokenizer = match self.tokenizer() {
            Ok(tokenizer) => tokenizer,
            Err(error) => bail!("--{flag} {text:?}: give a token by its number, such as #1234 ({error})"),
        };
        let pieces = tokenizer.encode(text, AddSpecial::Omit)?;
        match (pieces.as_slice(), tokenizer.id(text)) {
            ([token], _) => Ok(*token),
            (_, Some(token)) => Ok(token),
            (pieces, None) => {
                let words: Vec<String> = pieces.iter().map(|token| format!("{:?}", self.shown(*token))).collect();
                bail!(
                    "--{flag} {text:?} is not one token but {}: {}; choose another, mind the space before a word, or give a \
                     number such as #1234",
                    pieces.len(),
                    words.join(", ")
                )
            }
        }
    }
}
