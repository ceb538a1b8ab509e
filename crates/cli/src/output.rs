//! Standard output and standard error, whose readers may go away at any time.

use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;

/// Writes `text` as it comes to standard output.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("standard output cannot be written")
}

/// Writes one JSON value and a line end to standard output.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    print(&text)
}

/// Writes a line to standard error, if anybody reads it.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether the reader of standard output went away, which is its right.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(closed))
}

/// The error and its causes as one line. Whoever wrote a checkpoint has no say over the terminal: what they have
/// in a message is shown without control characters.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let words = cause.to_string();
        if text.is_empty() {
            text = words;
        } else if cause.is::<io::Error>() {
            // What the system says comes after what to do about it.
            let words = words.split(" (os error").next().unwrap_or_default();
            text += &format!(" ({words})");
        } else if !text.contains(&words) {
            text += &format!(": {words}");
        }
    }
    shown(&text)
}

/// `text` on a line, without control characters: these are shown as what they are.
pub(crate) fn shown(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' => " ".to_owned(),
            c if c.is_control() => c.escape_default().to_string(),
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_names_each_cause_once_and_keeps_to_its_line() {
        let denied = || io::Error::from_raw_os_error(13);
        let cases = [
            (anyhow::anyhow!("plain"), "plain"),
            (anyhow::Error::from(denied()).context("x; do y"), "x; do y (Permission denied)"),
            (anyhow::anyhow!("inner").context("outer"), "outer: inner"),
            (anyhow::anyhow!("inner").context("outer and inner"), "outer and inner"),
            (anyhow::anyhow!("a\nb\x1b[2Jc"), "a b\\u{1b}[2Jc"),
        ];
        for (error, want) in cases {
            assert_eq!(sentence(&error), want);
        }
    }
}
