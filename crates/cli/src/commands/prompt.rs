//! `rheostat prompt`: exactly what a model would see of a conversation.

use rheostat::chat::{Clock, GenerationPrompt, RenderRequest};
use rheostat::tokenizer::AddSpecial;
use serde_json::json;

use crate::args::PromptArgs;
use crate::{output, session};

pub(crate) fn run(args: &PromptArgs) -> anyhow::Result<()> {
    let package = session::open(&args.model)?;
    let templates = session::chat_templates(&package)?;
    let messages = session::read_list(&args.messages)?;
    let tools = args.tools.as_deref().map(session::read_list).transpose()?;
    let text = templates.render(&RenderRequest {
        messages: &messages,
        tools: tools.as_deref(),
        documents: None,
        args: &session::template_args(&args.template)?,
        generation_prompt: if args.no_generation_prompt { GenerationPrompt::Omit } else { GenerationPrompt::Add },
        clock: Clock::Local,
    })?;
    if args.json {
        let ids = package.tokenizer()?.encode(&text, AddSpecial::Omit)?;
        return output::print_json(&json!({ "text": text, "token_ids": ids }));
    }
    Ok(output::print(&text)?)
}
