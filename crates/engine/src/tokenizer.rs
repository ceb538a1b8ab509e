//! Between text and token ids.
//!
//! ```text
//! TokenizerFiles ──► Tokenizer ── encode ──► ids ──► model
//!                        └────── StreamDecoder ◄──── ids, one at a time
//!                                     └──► StopMatcher ──► text
//! ```
//!
//! A thin layer over the `tokenizers` crate: it adds what transformers keeps
//! in the files beside `tokenizer.json`, and text that can be shown while it
//! is still being generated. The pipeline is the one in `tokenizer.json`,
//! with the post-processor that is there; `add_bos_token` and `add_eos_token`
//! in `tokenizer_config.json` have no say beside it, as in transformers 5.

mod error;
mod files;
mod special;
mod stop;
mod stream;

pub use error::TokenizerError;
pub use files::TokenizerFiles;
pub use special::SpecialTokens;
pub use stop::{StopMatcher, Stopped};
pub use stream::StreamDecoder;

use std::collections::HashSet;
use std::fmt;

use tokenizers::ModelWrapper;

use special::{Cleanup, Config};

/// Whether encoding adds what the tokenizer puts around a text, such as a
/// beginning-of-sequence token.
///
/// A prompt from a chat template has these in its text already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddSpecial {
    /// For plain text.
    Add,
    /// For rendered chat templates.
    Omit,
}

/// Whether decoding shows special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShowSpecial {
    /// Leave them out.
    Skip,
    /// Show them as their text.
    Show,
}

/// A checkpoint's tokenizer.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    cleanup: Cleanup,
    bytes_in_tokens: bool,
    /// Ids that decoding can leave out.
    special_ids: HashSet<u32>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("special", &self.special)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Builds the tokenizer of a checkpoint.
    ///
    /// # Errors
    /// [`TokenizerError::Missing`] without a `tokenizer.json`, which says how
    /// to make one; [`TokenizerError::Invalid`] for a file that is not what
    /// it should be.
    pub fn load(files: &TokenizerFiles) -> Result<Tokenizer, TokenizerError> {
        let Some(json) = &files.tokenizer_json else {
            return Err(TokenizerError::Missing {
                origin: files.origin.clone(),
                found: files.other_vocabulary.clone(),
            });
        };
        let invalid = |message: String| TokenizerError::Invalid { file: "tokenizer.json".to_owned(), message };
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(|error| invalid(error.to_string()))?;
        // Settings of batches for training, which transformers drops as well.
        inner.with_truncation(None).map_err(|error| invalid(error.to_string()))?;
        inner.with_padding(None);
        let config = Config::load(files)?;
        config.add_tokens_to(&mut inner);
        let cleanup = match inner.get_model() {
            ModelWrapper::BPE(_) => config.cleanup_of_bpe,
            _ => config.cleanup,
        };
        let decoder = inner.get_decoder().and_then(|decoder| serde_json::to_string(decoder).ok());
        let added = inner.get_added_tokens_decoder();
        let special_ids = added.iter().filter(|(_, token)| token.special);
        Ok(Tokenizer {
            special_ids: special_ids.map(|(id, _)| *id).collect(),
            bytes_in_tokens: decoder.is_some_and(|decoder| decoder.contains("\"ByteFallback\"")),
            special: config.special,
            cleanup,
            inner,
        })
    }

    /// The token ids of a text.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] where the vocabulary cannot express it.
    pub fn encode(&self, text: &str, add: AddSpecial) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self
            .inner
            .encode_fast(text, add == AddSpecial::Add)
            .map_err(|error| TokenizerError::Encode { message: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`Tokenizer::encode`], with the byte of the text at which each token ends.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_ends(&self, text: &str, add: AddSpecial) -> Result<(Vec<u32>, Vec<usize>), TokenizerError> {
        let encoding = self
            .inner
            .encode(text, add == AddSpecial::Add)
            .map_err(|error| TokenizerError::Encode { message: error.to_string() })?;
        Ok((encoding.get_ids().to_vec(), encoding.get_offsets().iter().map(|(_, end)| *end).collect()))
    }

    /// The text of token ids. Ids outside the vocabulary add nothing to it.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`] if the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], show: ShowSpecial) -> Result<String, TokenizerError> {
        let text = self.decode_raw(ids, show)?;
        Ok(match self.cleanup {
            Cleanup::On => special::clean_up(&text),
            Cleanup::Off => text,
        })
    }

    /// The text before transformers' clean-up of spaces.
    fn decode_raw(&self, ids: &[u32], show: ShowSpecial) -> Result<String, TokenizerError> {
        self.inner
            .decode(ids, show == ShowSpecial::Skip)
            .map_err(|error| TokenizerError::Decode { message: error.to_string() })
    }

    /// A decoder for ids that arrive one by one.
    pub fn stream(&self, show: ShowSpecial) -> StreamDecoder<'_> {
        StreamDecoder::new(self, show)
    }

    /// Number of tokens, added ones included. A model's embedding may have
    /// more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token of an id as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token as the vocabulary spells it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether decoding can leave the token out as special.
    pub fn is_special(&self, id: u32) -> bool {
        self.special_ids.contains(&id)
    }

    /// The special tokens by name.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The id of a special token by its name, such as `eos_token`.
    pub fn special_id(&self, name: &str) -> Option<u32> {
        self.id(self.special.get(name)?)
    }

    /// Whether the token is one byte that waits for others, as `<0xE4>`.
    fn is_byte(&self, id: u32) -> bool {
        self.bytes_in_tokens
            && self.token(id).is_some_and(|token| token.len() == 6 && token.starts_with("<0x") && token.ends_with('>'))
    }
}
