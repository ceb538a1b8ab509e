//! Walking through the tokens of one tag.

use super::tokens::{Kind, Token};
use super::{Result, error};

/// Deepest nesting of expressions; deeper ones are refused.
const MAX_DEPTH: usize = 60;

/// A cursor over the tokens of one tag.
pub(super) struct Tokens<'a> {
    pub(super) tokens: &'a [Token],
    pub(super) at: usize,
    /// Line of the tag, for errors at its end.
    line: usize,
    depth: usize,
    /// Names read by the expressions so far.
    pub(super) reads: Vec<&'a str>,
}

impl<'a> Tokens<'a> {
    /// A cursor before the first of a tag's tokens.
    pub(super) fn new(tokens: &'a [Token], line: usize) -> Tokens<'a> {
        Tokens { tokens, at: 0, line, depth: 0, reads: Vec::new() }
    }

    /// The current token.
    pub(super) fn peek(&self) -> Option<&'a Kind> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    /// The line of the current token.
    pub(super) fn line(&self) -> usize {
        self.tokens.get(self.at).map_or(self.line, |token| token.line)
    }

    /// Whether the operator comes next.
    pub(super) fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Some(Kind::Op(found)) if *found == op)
    }

    /// Whether the word comes next.
    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Kind::Name(found)) if found == name)
    }

    /// Consumes the operator if it comes next.
    pub(super) fn take_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        self.at += usize::from(found);
        found
    }

    /// Consumes the word if it comes next.
    pub(super) fn take_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    /// Consumes the operator, which has to come next.
    pub(super) fn expect_op(&mut self, op: &str) -> Result<()> {
        if self.take_op(op) {
            return Ok(());
        }
        self.unexpected(&format!("`{op}`"))
    }

    /// Any name.
    pub(super) fn name(&mut self) -> Result<&'a str> {
        match self.peek() {
            Some(Kind::Name(name)) => {
                self.at += 1;
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    /// Whether a name with an attribute comes next.
    pub(super) fn is_attribute(&self) -> bool {
        let next = self.tokens.get(self.at + 1);
        next.is_some_and(|token| token.kind == Kind::Op("."))
    }

    /// Checks that the tag ends here.
    pub(super) fn end(&self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.unexpected("the end of the tag"),
        }
    }

    /// The error for anything but `wanted` coming next.
    pub(super) fn unexpected<T>(&self, wanted: &str) -> Result<T> {
        let found = match self.peek() {
            None => "the end of the tag".to_owned(),
            Some(Kind::Name(name)) => format!("`{name}`"),
            Some(Kind::Op(op)) => format!("`{op}`"),
            Some(Kind::Text(_)) => "a string".to_owned(),
            Some(Kind::Int(_) | Kind::Float(_)) => "a number".to_owned(),
        };
        error(self.line(), format!("expected {wanted}, found {found}"))
    }

    /// Runs `parse` one level deeper.
    pub(super) fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return error(self.line(), "an expression is nested too deep");
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }
}
