//! One chat template, ready to render.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::fmt;

use minijinja::{Environment, Error, Value as Template};
use serde_json::Value;

use super::environment::{self, Raised};
use super::error::ChatError;
use super::{RenderRequest, context, syntax};
use crate::tokenizer::SpecialTokens;

/// Name of the only template in an environment.
const NAME: &str = "chat";

/// A chat template of a checkpoint, translated and compiled.
pub struct ChatTemplate {
    origin: String,
    source: String,
    compiled: Result<Compiled, ChatError>,
    special: SpecialTokens,
}

struct Compiled {
    environment: Environment<'static>,
    reads: BTreeSet<String>,
    /// Variables that Jinja would not find where this template reads them.
    hidden: BTreeSet<String>,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Prepares a template.
    ///
    /// `origin` says where the text is from, for errors. A template that is
    /// not valid is reported when it is used: a checkpoint with a broken one
    /// can still complete plain text.
    pub fn new(origin: &str, source: &str, special: &SpecialTokens) -> ChatTemplate {
        ChatTemplate {
            origin: origin.to_owned(),
            source: source.to_owned(),
            compiled: compile(origin, source),
            special: special.clone(),
        }
    }

    /// The template as the checkpoint has it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where the template is from: a file's name, and the template's own
    /// where the file has several.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Names of the variables the template reads and does not set itself.
    ///
    /// # Errors
    /// The template's syntax error, if it has one.
    pub fn reads(&self) -> Result<&BTreeSet<String>, ChatError> {
        match &self.compiled {
            Ok(compiled) => Ok(&compiled.reads),
            Err(error) => Err(error.clone()),
        }
    }

    /// Renders a conversation to the text of its prompt.
    ///
    /// # Errors
    /// [`ChatError::Raised`] with the template's own message when it refuses
    /// the conversation; [`ChatError::UnknownArgument`] for an argument it
    /// never reads; [`ChatError::Syntax`] and [`ChatError::Render`] when the
    /// template cannot be run.
    pub fn render(&self, request: &RenderRequest<'_>) -> Result<String, ChatError> {
        let compiled = self.compiled.as_ref().map_err(Clone::clone)?;
        self.check_arguments(request, &compiled.reads)?;
        let mut variables = context::variables(request, &self.special)?;
        if let Some((name, _)) = variables.iter().find(|(name, _)| compiled.hidden.contains(name)) {
            return Err(ChatError::Render {
                template: self.origin.clone(),
                line: 0,
                message: format!(
                    "`{name}` is read in an inner block before the template itself sets it, which \
                     Jinja takes for undefined; this is not supported"
                ),
            });
        }
        let clock = request.clock;
        let strftime_now = move |format: &str| clock.format(format);
        let strftime_now = Template::from_function(strftime_now);
        // A variable of that name would hide the function in Jinja too.
        if !variables.iter().any(|(name, _)| name == "strftime_now") {
            variables.push(("strftime_now".to_owned(), strftime_now));
        }
        let rendered = compiled
            .environment
            .get_template(NAME)
            .and_then(|template| template.render(Template::from_pairs(variables)));
        rendered.map_err(|error| self.render_error(&error))
    }

    fn check_arguments(&self, request: &RenderRequest<'_>, reads: &BTreeSet<String>) -> Result<(), ChatError> {
        for name in request.args.keys() {
            if context::FROM_REQUEST.contains(&name.as_str()) {
                return Err(ChatError::ReservedArgument { argument: name.clone() });
            }
            if !reads.contains(name) {
                let (standard, others) = reads.iter().cloned().partition(|name| self.is_standard(name));
                return Err(ChatError::UnknownArgument {
                    template: self.origin.clone(),
                    argument: name.clone(),
                    reads: others,
                    standard,
                });
            }
        }
        Ok(())
    }

    /// Whether transformers fills the variable in by itself.
    fn is_standard(&self, name: &str) -> bool {
        const TOKENS: &[&str] =
            &["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
        context::FROM_REQUEST.contains(&name)
            || TOKENS.contains(&name)
            || self.special.named().any(|(known, _)| known == name)
    }

    fn render_error(&self, error: &Error) -> ChatError {
        let mut cause = error.source();
        while let Some(inner) = cause {
            if let Some(Raised(message)) = inner.downcast_ref::<Raised>() {
                return ChatError::Raised { template: self.origin.clone(), message: message.clone() };
            }
            cause = inner.source();
        }
        ChatError::Render { template: self.origin.clone(), line: error.line().unwrap_or(0), message: describe(error) }
    }
}

fn compile(origin: &str, source: &str) -> Result<Compiled, ChatError> {
    let translated = syntax::translate(source).map_err(|error| ChatError::Syntax {
        template: origin.to_owned(),
        line: error.line,
        message: error.message,
    })?;
    let invalid = |error: Error| ChatError::Syntax {
        template: origin.to_owned(),
        line: error.line().unwrap_or(0),
        message: describe(&error),
    };
    let environment = environment::build(NAME, translated.source).map_err(invalid)?;
    let mut reads = translated.reads;
    reads.retain(|name| !syntax::is_global(name));
    Ok(Compiled { environment, reads, hidden: translated.hidden })
}

fn describe(error: &Error) -> String {
    match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    }
}

/// Reads a template argument as the command line gives it: `name=value`, the
/// value as JSON where it is JSON and as a string where it is not.
///
/// `None` if there is no `=` or no name before it.
pub fn parse_argument(text: &str) -> Option<(String, Value)> {
    let (name, value) = text.split_once('=')?;
    let name = name.trim();
    if name.is_empty() {
        return None;
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Some((name.to_owned(), value))
}
