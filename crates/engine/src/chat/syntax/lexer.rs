//! Splits a template into data and tags as Jinja's lexer does, with the
//! settings transformers uses: `trim_blocks` and `lstrip_blocks`.

use super::numbers::{self, AfterDot};
use super::tokens::{Kind, OPERATORS, Piece, Token};
use super::{Result, error, strings};
use crate::chat::python::text::is_space;

/// The pieces of a template, in order.
pub(super) fn lex(source: &str) -> Result<Vec<Piece>> {
    let source = normalize(source);
    let mut lexer = Lexer { rest: &source, line: 1, line_starting: true, pieces: Vec::new() };
    lexer.run()?;
    Ok(lexer.pieces)
}

/// One kind of line end, and none at the very end.
fn normalize(source: &str) -> String {
    let mut text = source.replace("\r\n", "\n").replace('\r', "\n");
    if text.ends_with('\n') {
        text.pop();
    }
    text
}

/// The mark after an opening delimiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Minus,
    Plus,
    None,
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    /// Whether what was consumed last ended in a newline.
    line_starting: bool,
    pieces: Vec<Piece>,
}

impl<'a> Lexer<'a> {
    fn run(&mut self) -> Result<()> {
        loop {
            let Some(at) = find_tag(self.rest) else {
                let data = self.rest;
                self.push_data(data);
                return Ok(());
            };
            let data = &self.rest[..at];
            let opening = &self.rest[at..at + 2];
            if opening == "{%"
                && let Some((sign, begin)) = raw_begin(&self.rest[at..], "raw")
                && let Some(end) = raw_begin_end(&self.rest[at + begin..])
            {
                self.data_before(data, sign, LeftStrip::Allowed);
                self.advance(at + begin + end);
                self.raw()?;
                continue;
            }
            let sign = sign_of(&self.rest[at + 2..]);
            let strip = match opening {
                "{{" => LeftStrip::Never,
                _ => LeftStrip::Allowed,
            };
            self.data_before(data, sign, strip);
            self.advance(at + 2 + usize::from(sign != Sign::None));
            match opening {
                "{#" => self.comment()?,
                "{{" => self.tag(Closing::Print)?,
                _ => self.tag(Closing::Block)?,
            }
        }
    }

    /// Consumes `length` bytes.
    fn advance(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.line += taken.matches('\n').count();
        if !taken.is_empty() {
            self.line_starting = taken.ends_with('\n');
        }
        self.rest = rest;
        taken
    }

    fn push_data(&mut self, data: &str) {
        if !data.is_empty() {
            self.pieces.push(Piece::Data(data.to_owned()));
        }
    }

    /// Pushes the data in front of a tag, shortened as its sign demands.
    fn data_before(&mut self, data: &str, sign: Sign, strip: LeftStrip) {
        let kept = match sign {
            Sign::Minus => data.trim_end_matches(is_space),
            Sign::None if strip == LeftStrip::Allowed => {
                let line_start = data.rfind('\n').map_or(0, |at| at + 1);
                let at_line_start = line_start > 0 || self.line_starting;
                let blank = data[line_start..].chars().all(|c| c == ' ' || c == '\t');
                if at_line_start && blank { &data[..line_start] } else { data }
            }
            _ => data,
        };
        self.push_data(kept);
    }

    fn comment(&mut self) -> Result<()> {
        let Some(at) = self.rest.find("#}") else {
            return error(self.line, "a comment is not closed: `#}` is missing");
        };
        let sign = match self.rest.as_bytes().get(at.wrapping_sub(1)) {
            Some(b'-') => Sign::Minus,
            Some(b'+') => Sign::Plus,
            _ => Sign::None,
        };
        self.advance(at + 2);
        self.after_end(sign);
        Ok(())
    }

    /// Consumes the white space a closing delimiter takes along.
    fn after_end(&mut self, sign: Sign) {
        match sign {
            Sign::Minus => {
                let kept = self.rest.trim_start_matches(is_space);
                self.advance(self.rest.len() - kept.len());
            }
            Sign::None if self.rest.starts_with('\n') => {
                self.advance(1);
            }
            _ => {}
        }
    }

    fn raw(&mut self) -> Result<()> {
        let start = self.line;
        let mut from = 0;
        while let Some(at) = self.rest[from..].find("{%").map(|at| at + from) {
            let tail = &self.rest[at..];
            if let Some((sign, begin)) = raw_begin(tail, "endraw")
                && let Some((length, end)) = closing(&tail[begin..], Closing::Block)
            {
                let data = &self.rest[..at];
                self.data_before(data, sign, LeftStrip::Allowed);
                self.advance(at + begin + length);
                self.after_end(end);
                return Ok(());
            }
            from = at + 2;
        }
        error(start, "`{% raw %}` is not closed: `{% endraw %}` is missing")
    }

    /// The tokens of a tag, up to and including its end.
    fn tag(&mut self, kind: Closing) -> Result<()> {
        let start = self.line;
        let mut tokens: Vec<Token> = Vec::new();
        let mut brackets: Vec<&str> = Vec::new();
        loop {
            let space = self.rest.len() - self.rest.trim_start_matches(is_space).len();
            self.advance(space);
            if brackets.is_empty()
                && let Some((length, sign)) = closing(self.rest, kind)
            {
                self.advance(length);
                match (kind, sign) {
                    // Printing tags leave a newline behind them alone.
                    (Closing::Print, Sign::None) => {}
                    _ => self.after_end(sign),
                }
                self.pieces.push(match kind {
                    Closing::Print => Piece::Print(start, tokens),
                    Closing::Block => Piece::Tag(start, tokens),
                });
                return Ok(());
            }
            let line = self.line;
            let after_dot = match tokens.last() {
                Some(token) if space == 0 && token.kind == Kind::Op(".") => AfterDot::Yes,
                _ => AfterDot::No,
            };
            let (kind, length) = self.token(after_dot, start)?;
            if let Kind::Op(op) = kind {
                match op {
                    "(" => brackets.push(")"),
                    "[" => brackets.push("]"),
                    "{" => brackets.push("}"),
                    ")" | "]" | "}" if brackets.pop() != Some(op) => {
                        return error(line, format!("`{op}` closes nothing"));
                    }
                    _ => {}
                }
            }
            self.advance(length);
            tokens.push(Token { line, kind });
        }
    }

    fn token(&self, after_dot: AfterDot, start: usize) -> Result<(Kind, usize)> {
        let Some(first) = self.rest.chars().next() else {
            return error(start, "a tag is not closed before the template ends");
        };
        match first {
            '0'..='9' => match numbers::read(self.rest, after_dot) {
                Some(number) => Ok(number),
                None => error(self.line, "a number is too large or not well formed"),
            },
            '"' | '\'' => self.text(first),
            c if c.is_alphabetic() || c == '_' => {
                let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
                let name = &self.rest[..end];
                if !name.is_ascii() {
                    return error(self.line, format!("the name `{name}` is not plain ASCII"));
                }
                if name.starts_with(super::PREFIX) {
                    return error(self.line, format!("the name `{name}` is reserved"));
                }
                Ok((Kind::Name(name.to_owned()), end))
            }
            c => match OPERATORS.iter().find(|op| self.rest.starts_with(**op)) {
                Some(op) => Ok((Kind::Op(op), op.len())),
                None => error(self.line, format!("unexpected character `{c}`")),
            },
        }
    }

    fn text(&self, quote: char) -> Result<(Kind, usize)> {
        let mut escaped = false;
        for (at, c) in self.rest.char_indices().skip(1) {
            if escaped {
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if c == quote {
                return match strings::decode(&self.rest[1..at]) {
                    Ok(text) => Ok((Kind::Text(text), at + 1)),
                    Err(what) => error(self.line, format!("a string holds {what}")),
                };
            }
        }
        error(self.line, "a string is not closed")
    }
}

/// Whether `lstrip_blocks` applies before this tag.
#[derive(Clone, Copy, PartialEq)]
enum LeftStrip {
    Allowed,
    Never,
}

/// The two kinds of tag with tokens in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    Print,
    Block,
}

fn find_tag(text: &str) -> Option<usize> {
    text.as_bytes().windows(2).position(|pair| matches!(pair, b"{{" | b"{%" | b"{#"))
}

fn sign_of(text: &str) -> Sign {
    match text.as_bytes().first() {
        Some(b'-') => Sign::Minus,
        Some(b'+') => Sign::Plus,
        _ => Sign::None,
    }
}

/// Length of the closing delimiter at the beginning of `text`, and its sign.
fn closing(text: &str, kind: Closing) -> Option<(usize, Sign)> {
    let delimiter = match kind {
        Closing::Print => "}}",
        Closing::Block => "%}",
    };
    if text.starts_with(delimiter) {
        return Some((2, Sign::None));
    }
    let sign = sign_of(text);
    let signed = text.get(1..).is_some_and(|rest| rest.starts_with(delimiter));
    match sign {
        Sign::Minus if signed => Some((3, sign)),
        Sign::Plus if signed && kind == Closing::Block => Some((3, sign)),
        _ => None,
    }
}

/// Matches `{%`, a sign, and the word at the beginning of `text`: the sign
/// and the length up to the end of the spaces after the word.
fn raw_begin(text: &str, word: &str) -> Option<(Sign, usize)> {
    let after = text.strip_prefix("{%")?;
    let sign = sign_of(after);
    let after = &after[usize::from(sign != Sign::None)..];
    let after = after.trim_start_matches(is_space).strip_prefix(word)?;
    let after = after.trim_start_matches(is_space);
    Some((sign, text.len() - after.len()))
}

/// Length of what ends an opening `raw` tag; it takes no newline along.
fn raw_begin_end(text: &str) -> Option<usize> {
    if text.starts_with("%}") {
        return Some(2);
    }
    let rest = text.strip_prefix("-%}")?;
    let kept = rest.trim_start_matches(is_space);
    Some(text.len() - kept.len())
}
