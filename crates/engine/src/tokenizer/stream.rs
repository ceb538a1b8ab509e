//! Text from token ids that arrive one by one.

use super::special::Cleanup;
use super::{ShowSpecial, Tokenizer, TokenizerError};

/// Tokens kept for context before a window of ids is cut.
const WINDOW: usize = 16;
/// Characters that the clean-up of spaces may still change at the end.
const CLEANUP_REACH: usize = 8;

/// Turns ids into text as they come, never with half a character.
///
/// All that [`push`](Self::push) and [`finish`](Self::finish) return, put
/// together, is what [`Tokenizer::decode`] gives for all ids at once.
///
/// Text is held back while it may still change: bytes of an unfinished
/// character, a run of byte tokens (`<0xE4>`), which is read as a whole, and
/// for the few tokenizers with clean-up of spaces the last characters.
#[derive(Debug)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    show: ShowSpecial,
    /// The window: ids whose text is still looked at. Its beginning has been
    /// given out; decoders treat what follows as they would after the rest.
    ids: Vec<u32>,
    /// Bytes of the window's text that were given out.
    given: usize,
    /// Whether the text so far ends in a byte token.
    run: ByteRun,
}

/// A run of byte tokens is read as a whole: whether one is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByteRun {
    Open,
    Closed,
}

impl<'t> StreamDecoder<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer, show: ShowSpecial) -> StreamDecoder<'t> {
        StreamDecoder { tokenizer, show, ids: Vec::new(), given: 0, run: ByteRun::Closed }
    }

    /// Takes the next id and returns the text that has become certain.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.ids.push(id);
        if self.tokenizer.is_byte(id) {
            self.run = ByteRun::Open;
        } else if !self.is_silent(id) {
            self.run = ByteRun::Closed;
        }
        if self.run == ByteRun::Open {
            return Ok(String::new());
        }
        let text = self.tokenizer.decode(&self.ids, self.show)?;
        let certain = match self.tokenizer.cleanup {
            Cleanup::Off => text.strip_suffix('\u{fffd}').unwrap_or(&text).len(),
            Cleanup::On => text.char_indices().nth_back(CLEANUP_REACH - 1).map_or(0, |(at, _)| at),
        };
        let new = text.get(self.given..certain).unwrap_or("").to_owned();
        self.given = self.given.max(certain);
        if certain == text.len() && self.ids.len() >= 2 * WINDOW {
            self.cut()?;
        }
        Ok(new)
    }

    /// The text that was still held back.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(self) -> Result<String, TokenizerError> {
        let text = self.tokenizer.decode(&self.ids, self.show)?;
        Ok(text.get(self.given..).unwrap_or("").to_owned())
    }

    /// Whether the decoder never gets to see the token.
    fn is_silent(&self, id: u32) -> bool {
        let skipped = self.show == ShowSpecial::Skip && self.tokenizer.is_special(id);
        skipped || self.tokenizer.token(id).is_none()
    }

    /// Shortens the window to its last tokens.
    ///
    /// Only where these have text of their own: decoders drop a space from
    /// the first token that has text, which then must not be a new one.
    fn cut(&mut self) -> Result<(), TokenizerError> {
        let kept = &self.ids[self.ids.len() - WINDOW..];
        let text = self.tokenizer.decode(kept, self.show)?;
        if !text.is_empty() {
            self.given = text.len();
            self.ids = kept.to_vec();
        }
        Ok(())
    }
}
