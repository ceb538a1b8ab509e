//! From a conversation to the text of its prompt.
//!
//! ```text
//! tokenizer files ──► ChatTemplates ──select──► ChatTemplate
//! messages, tools, arguments ─────────────────► render ──► prompt ──► tokenizer
//! ```
//!
//! A checkpoint's chat template is a program in Jinja, written for Python's
//! implementation and the functions transformers adds to it. The prompt must
//! be the one the model was trained on to the last byte, so a template is
//! first translated (`syntax`) into one whose every operation is a function
//! with Python's meaning (`python`), and then run by `minijinja`. Whatever
//! cannot be done as Python does it is an error, never a different prompt.
//!
//! # What is refused
//!
//! - the tags `include`, `import`, `extends` (transformers has nothing to
//!   include either), `block`, `autoescape`, `print`;
//! - `break` and `continue` out of a `with`, `filter`, `set` or `generation`
//!   block, or in a loop with an `else` or a macro in it; a recursive loop with
//!   a macro in it;
//! - a variable that is passed in, read in an inner block, and only then set
//!   by the template in the block around it, which Jinja takes for undefined;
//! - `*args` and `**kwargs` in calls, `varargs` and `kwargs` in macros, a
//!   chained comparison whose middle is more than a name or a constant;
//! - names beyond ASCII, `\N{…}` escapes, whole numbers beyond 128 bits;
//! - `//` and `%` on floats, `**` but with whole numbers, division of whole
//!   numbers beyond 2^53, `sum` of floats;
//! - `%` formatting other than `%s %r %d %i %f`, `str.format` but with plain
//!   fields filled by strings and whole numbers;
//! - `isalpha`, `isdigit`, `isalnum`, `title` on text beyond ASCII, and the
//!   rarer string methods (`encode`, `translate`, `center` and the like);
//! - the filters `attr batch center filesizeformat forceescape groupby pprint
//!   random slice striptags truncate urlencode urlize wordcount wordwrap
//!   xmlattr`, and working further on what `safe` and `escape` give;
//! - printing generators, namespaces, methods, macros and functions;
//! - `strftime_now` with directives that depend on a locale.

mod clock;
mod context;
mod environment;
mod error;
mod filters;
mod predicates;
mod python;
mod sources;
mod syntax;
mod template;

pub use clock::Clock;
pub use error::ChatError;
pub use sources::ChatTemplates;
pub use template::{ChatTemplate, parse_argument};

use serde_json::{Map, Value};

/// Whether the prompt ends with the opening of the assistant's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationPrompt {
    /// For generation: the model continues as the assistant.
    Add,
    /// For a conversation that is complete.
    Omit,
}

/// A conversation to render.
#[derive(Debug, Clone, Copy)]
pub struct RenderRequest<'a> {
    /// The messages, each an object with at least a `role`.
    pub messages: &'a [Value],
    /// Tools the model may call, as JSON schemas.
    pub tools: Option<&'a [Value]>,
    /// Documents for retrieval, objects with `title` and `text`.
    pub documents: Option<&'a [Value]>,
    /// Template arguments of the user's, such as `enable_thinking`.
    pub args: &'a Map<String, Value>,
    /// Whether to open the assistant's turn.
    pub generation_prompt: GenerationPrompt,
    /// What `strftime_now` tells the template.
    pub clock: Clock,
}
