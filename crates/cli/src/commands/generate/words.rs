//! The words of a text as its tokens come, up to a string that ends it.

use rheostat::tokenizer::{ShowSpecial, StopMatcher, StreamDecoder, Tokenizer, TokenizerError};

/// What is known at the end.
pub(super) struct Ended {
    /// Text that was held back.
    pub(super) rest: String,
    /// All text.
    pub(super) all: String,
    /// Whether a string ended it.
    pub(super) stopped: bool,
}

/// New tokens as text.
pub(super) struct Words<'t> {
    decoded: StreamDecoder<'t>,
    kept: Kept,
}

/// What of the text comes before any string that ends it.
struct Kept {
    stops: StopMatcher,
    stopped: bool,
    all: String,
}

impl Kept {
    fn push(&mut self, piece: &str) -> String {
        let text = match self.stops.push(piece) {
            Ok(text) => text,
            Err(cut) => {
                self.stopped = true;
                cut.text
            }
        };
        self.all.push_str(&text);
        text
    }
}

impl<'t> Words<'t> {
    /// Of a text that ends before any of `stops`.
    pub(super) fn new(tokenizer: &'t Tokenizer, stops: &[String]) -> Words<'t> {
        let stops = StopMatcher::new(stops.iter().map(String::as_str));
        Words { decoded: tokenizer.stream(ShowSpecial::Skip), kept: Kept { stops, stopped: false, all: String::new() } }
    }

    /// Takes a token; gives the text that has become certain.
    pub(super) fn push(&mut self, token: u32) -> Result<String, TokenizerError> {
        Ok(self.kept.push(&self.decoded.push(token)?))
    }

    /// Whether a string that ends the text has come.
    pub(super) fn stopped(&self) -> bool {
        self.kept.stopped
    }

    /// Takes the end.
    pub(super) fn finish(self) -> Result<Ended, TokenizerError> {
        let Words { decoded, mut kept } = self;
        let mut rest = String::new();
        if !kept.stopped {
            rest = kept.push(&decoded.finish()?);
        }
        let Kept { stops, stopped, mut all } = kept;
        if !stopped {
            let held = stops.finish();
            all.push_str(&held);
            rest.push_str(&held);
        }
        Ok(Ended { rest, all, stopped })
    }
}
