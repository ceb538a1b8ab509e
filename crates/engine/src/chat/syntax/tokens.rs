//! What the lexer makes of a template.

/// A stretch of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    /// Text to print as it is, white space control already applied.
    Data(String),
    /// `{{ … }}`, beginning on that line.
    Print(usize, Vec<Token>),
    /// `{% … %}`, beginning on that line.
    Tag(usize, Vec<Token>),
}

/// A token inside a tag.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

/// The kinds of token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Name(String),
    Text(String),
    Int(i128),
    Float(f64),
    /// An operator or a bracket, by its spelling.
    Op(&'static str),
}

/// Every operator of the language, longest first.
pub(super) const OPERATORS: &[&str] = &[
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];
