//! What a model is given: a text, or a conversation through its chat template, as tokens.

use anyhow::bail;
use rheostat::chat::ChatTemplates;
use rheostat::tokenizer::{AddSpecial, Tokenizer};
use rheostat::{Error, Package};
use serde_json::{Map, Value, json};

use crate::args::GenerateArgs;
use crate::session;

/// Turns texts into tokens as the command line asks.
pub(super) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The model's templates, if it has any that can be used.
    templates: Option<ChatTemplates>,
    template_args: Map<String, Value>,
    /// Whether texts go through the template.
    chat: bool,
    /// Whether texts that do not begin with special tokens.
    add: AddSpecial,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(args: &GenerateArgs, package: &Package, tokenizer: &'a Tokenizer) -> anyhow::Result<Encoder<'a>> {
        let template_args = session::template_args(&args.template)?;
        let templates = match package.chat_templates()? {
            None if args.chat => Some(session::chat_templates(package)?),
            templates => templates,
        };
        let goes_on = args.load_session.is_some();
        let chat = templates.is_some() && !args.raw && !goes_on;
        if !chat && !template_args.is_empty() && args.batch.is_none() {
            bail!("--template-arg sets what a chat template reads, and none is in use here; leave it out");
        }
        // What goes on has had its beginning.
        let add = if goes_on { AddSpecial::Omit } else { AddSpecial::Add };
        Ok(Encoder { tokenizer, templates, template_args, chat, add })
    }

    /// Whether a text goes through the chat template.
    pub(super) fn uses_template(&self) -> bool {
        self.chat
    }

    /// A text's tokens: through the chat template if the model has one, unless told otherwise.
    pub(super) fn text(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        if !self.chat {
            return Ok(self.tokenizer.encode(text, self.add)?);
        }
        if text.is_empty() {
            return Err(Error::EmptyPrompt.into());
        }
        self.messages(&[json!({"role": "user", "content": text})])
    }

    /// A conversation's tokens.
    pub(super) fn messages(&self, messages: &[Value]) -> anyhow::Result<Vec<u32>> {
        let Some(templates) = &self.templates else {
            bail!("the model has no chat template, which a list of messages needs; give a \"prompt\"");
        };
        session::conversation(templates, &self.template_args, self.tokenizer, messages)
    }
}
