//! `rheostat prompt`: exactly what a model would see of a conversation.

use std::path::Path;

use anyhow::bail;
use rheostat::chat::{Clock, GenerationPrompt, RenderRequest};
use rheostat::tokenizer::AddSpecial;
use serde_json::json;

use crate::args::PromptArgs;
use crate::session::STDIN;
use crate::{output, session};

pub(crate) fn run(args: &PromptArgs) -> anyhow::Result<()> {
    if args.messages == Path::new(STDIN) && args.tools.as_deref() == Some(Path::new(STDIN)) {
        bail!("--messages and --tools cannot both be standard input; give one of them as a file");
    }
    let package = session::open(&args.model)?;
    let templates = session::chat_templates(&package)?;
    let messages = session::read_list(&args.messages, r#"[{"role": "user", "content": "Hello"}]"#)?;
    let tools = match &args.tools {
        Some(path) => Some(session::read_list(path, r#"[{"type": "function", "function": {"name": "now"}}]"#)?),
        None => None,
    };
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
    output::print(&text)
}
