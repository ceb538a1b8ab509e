//! Ending a text at a stop string.

/// Passes text on until one of several stop strings occurs in it.
///
/// A stop string may be spread over any number of pieces; text that may be
/// the beginning of one is held back. The occurrence that is complete first
/// counts, and among those complete at the same character the longest, so
/// the outcome does not depend on how the text is cut into pieces.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

/// A stop string has occurred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// What comes before the stop string and was not passed on yet.
    pub text: String,
    /// The stop string.
    pub stop: String,
}

impl StopMatcher {
    /// A matcher for these strings; empty ones never occur.
    pub fn new<S: Into<String>>(stops: impl IntoIterator<Item = S>) -> StopMatcher {
        let mut stops: Vec<String> = stops.into_iter().map(Into::into).collect();
        stops.retain(|stop| !stop.is_empty());
        stops.sort_by_key(|stop| std::cmp::Reverse(stop.len()));
        StopMatcher { stops, held: String::new() }
    }

    /// Takes the next piece and returns the text that can be passed on, or
    /// what ends it. After that the matcher starts anew.
    ///
    /// # Errors
    /// [`Stopped`] is the error, so that `?` leaves a loop of generation.
    pub fn push(&mut self, text: &str) -> Result<String, Stopped> {
        let mut passed = String::new();
        for c in text.chars() {
            self.held.push(c);
            if let Some(stop) = self.stops.iter().find(|stop| self.held.ends_with(*stop)) {
                passed.push_str(&self.held[..self.held.len() - stop.len()]);
                let stop = stop.clone();
                self.held.clear();
                return Err(Stopped { text: passed, stop });
            }
            let keep = self.possible();
            passed.extend(self.held.drain(..keep));
        }
        Ok(passed)
    }

    /// The text still held back, once no more will come.
    pub fn finish(self) -> String {
        self.held
    }

    /// Where the longest end of the held text begins that a stop string
    /// begins with.
    fn possible(&self) -> usize {
        let starts = self.held.char_indices().map(|(at, _)| at);
        let begins = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        starts.into_iter().find(begins).unwrap_or(self.held.len())
    }
}
