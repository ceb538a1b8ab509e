//! From a Jinja template to one the engine runs as Python's Jinja would.
//!
//! ```text
//! source --lexer--> data and tags --statements + expressions--> source
//! ```
//!
//! The translation settles what the two template languages read differently:
//! white space around tags, string escapes, `{% generation %}`, and every
//! operator, attribute and item, which become calls of the functions in
//! [`super::python`]. Statements keep their names, so that scopes, loops and
//! macros stay the engine's business. Line numbers survive: each tag stands
//! on the line it had.

mod cursor;
mod expressions;
mod lexer;
mod loops;
mod macros;
mod numbers;
mod postfix;
mod scopes;
mod statements;
mod strings;
mod targets;
mod tokens;

pub(super) use statements::translate;

/// Whether the name is a function every chat template may call.
pub(super) fn is_global(name: &str) -> bool {
    statements::GLOBALS.contains(&name)
}

/// What is wrong with a template's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    /// Line in the template, from 1.
    pub(super) line: usize,
    /// What was found there.
    pub(super) message: String,
}

type Result<T> = std::result::Result<T, SyntaxError>;

fn error<T>(line: usize, message: impl Into<String>) -> Result<T> {
    Err(SyntaxError { line, message: message.into() })
}

/// Begins every name the translation adds; templates may not use it.
pub(super) const PREFIX: &str = "__py_";
