//! `rheostat chat`: a conversation.

use std::io::{self, BufRead, IsTerminal};
use std::time::Instant;

use anyhow::bail;
use rheostat::chat::{ChatTemplates, Clock, GenerationPrompt, RenderRequest};
use rheostat::tokenizer::{AddSpecial, ShowSpecial, Tokenizer};
use rheostat::{Error, GenerationConfig, Model, Options, Package, Progress, Request, Sampler, Sequence, generate};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::{Map, Value, json};

use crate::args::ChatArgs;
use crate::session::{self, Cost};
use crate::status::Status;
use crate::{interrupt, output};

const HELP: &str = "/clear forgets the conversation, /exit ends it; Ctrl-C cuts an answer short";

pub(crate) fn run(args: &ChatArgs) -> anyhow::Result<()> {
    let package = session::open(&args.model)?;
    let templates = session::chat_templates(&package)?;
    let config = package.generation_config()?;
    session::warn_unsupported(&config);
    let tokenizer = package.tokenizer()?;
    let decoder = package.describe()?;
    let sampler = Sampler::new(session::sampling(&args.sampling, &config), decoder.vocab_size)?;
    let context = args.context.map(std::num::NonZeroUsize::get);
    let mut conversation = Conversation {
        template_args: session::template_args(&args.template)?,
        messages: Vec::new(),
        max_new_tokens: args.max_new_tokens,
        templates,
        tokenizer,
        config,
        sampler,
        sequence: None,
        read: Vec::new(),
    };
    conversation.clear(args.system.as_deref());
    // A template argument that the template does not read is found now, not after the first message.
    conversation.tokens_with("hello")?;
    let mut model = load(&package, &Options { context, ..session::options(&args.run) })?;
    let mut lines = Lines::new()?;
    if lines.is_terminal() {
        eprintln!("{} ({} tokens of context). {HELP}.", package.name(), model.plan().tokens.min(decoder.context));
    }
    while let Some(line) = lines.next()? {
        match line.trim() {
            "" => {}
            "/exit" | "/quit" => break,
            "/clear" => conversation.clear(args.system.as_deref()),
            "/help" => eprintln!("{HELP}."),
            command if command.starts_with('/') && !command.contains(' ') => {
                eprintln!("there is no command {command}; {HELP}.");
            }
            _ => {
                if let Err(error) = conversation.answer(&mut model, &line) {
                    // The conversation stands as it was before this message.
                    match error.downcast_ref::<Error>() {
                        Some(Error::ContextExceeded { .. } | Error::CacheFull { .. }) if lines.is_terminal() => {
                            eprintln!("error: {error:#}; /clear starts anew");
                        }
                        _ => return Err(error),
                    }
                }
            }
        }
    }
    Ok(())
}

fn load(package: &Package, options: &Options) -> anyhow::Result<Model> {
    let model = Model::load(package, options)?;
    interrupt::listen(model.cancel_switch())?;
    Ok(model)
}

/// What was said so far, and what the model has read of it.
struct Conversation {
    templates: ChatTemplates,
    template_args: Map<String, Value>,
    tokenizer: Tokenizer,
    config: GenerationConfig,
    sampler: Sampler,
    messages: Vec<Value>,
    max_new_tokens: usize,
    sequence: Option<Sequence>,
    /// The tokens that `sequence` has read, and the last one generated.
    read: Vec<u32>,
}

impl Conversation {
    fn clear(&mut self, system: Option<&str>) {
        self.messages.clear();
        self.messages.extend(system.map(|text| json!({"role": "system", "content": text})));
    }

    /// The conversation's tokens, with one more message of the user.
    fn tokens_with(&self, message: &str) -> anyhow::Result<Vec<u32>> {
        let mut messages = self.messages.clone();
        messages.push(json!({"role": "user", "content": message}));
        let text = self.templates.render(&RenderRequest {
            messages: &messages,
            tools: None,
            documents: None,
            args: &self.template_args,
            generation_prompt: GenerationPrompt::Add,
            clock: Clock::Local,
        })?;
        Ok(self.tokenizer.encode(&text, AddSpecial::Omit)?)
    }

    fn answer(&mut self, model: &mut Model, message: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        let tokens = self.tokens_with(message)?;
        let room = model.plan().tokens.min(model.decoder().context);
        if tokens.len() >= room {
            return Err(Error::ContextExceeded { tokens: tokens.len(), context: room }.into());
        }
        let mut sequence = self.reuse(model, &tokens);
        let known = sequence.len();
        let mut text = tokens[..known].to_vec();
        let status = Status::new(model.reading_watch());
        status.begin("reading", model.reading().bytes, model.plan().streamed);
        let mut decoded = self.tokenizer.stream(ShowSpecial::Skip);
        let (mut answer, mut first, mut failed) = (String::new(), None, None);
        let request = Request {
            prompt: &tokens[known..],
            max_new_tokens: self.max_new_tokens.min(room - tokens.len()),
            eos: &self.config.eos,
        };
        let mut say = |piece: &str| {
            status.clear();
            answer.push_str(piece);
            output::print(piece)
        };
        let result = generate(model, &mut sequence, &mut text, &mut self.sampler, &request, |token| {
            first.get_or_insert_with(|| start.elapsed().as_secs_f64());
            match decoded.push(token).map_err(anyhow::Error::from).and_then(|piece| Ok(say(&piece)?)) {
                Ok(()) => Progress::Continue,
                Err(error) => {
                    failed = Some(error);
                    Progress::Stop
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        say(&decoded.finish()?)?;
        drop(status);
        output::print("\n")?;
        let new_tokens = text.len().saturating_sub(tokens.len());
        // Whatever was read stays known, so that the next turn begins after it.
        text.truncate(sequence.len());
        (self.read, self.sequence) = (text, Some(sequence));
        match result {
            Ok(_) => {}
            Err(Error::Cancelled) if interrupt::happened() => interrupt::forget(),
            Err(error) => return Err(error.into()),
        }
        self.messages.push(json!({"role": "user", "content": message}));
        self.messages.push(json!({"role": "assistant", "content": answer}));
        if io::stderr().is_terminal() {
            let cost = Cost::new(model, new_tokens, first, start.elapsed().as_secs_f64());
            eprintln!("({})", cost.line());
        }
        Ok(())
    }

    /// The sequence, rolled back to what it shares with `tokens`; at least one token is left to read.
    fn reuse(&mut self, model: &Model, tokens: &[u32]) -> Sequence {
        // Frequencies that depend on the length of the text do not allow an old beginning in a longer text.
        let sequence = self.sequence.take().filter(|_| !model.decoder().rope.depends_on_length());
        let mut sequence = sequence.unwrap_or_else(|| model.sequence(tokens.len()));
        let shared = self.read.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        sequence.truncate(shared.min(tokens.len() - 1));
        sequence
    }
}

/// Where messages come from: a terminal with editing and history, or lines in a pipe.
enum Lines {
    Terminal(Box<DefaultEditor>),
    Pipe(io::Lines<io::StdinLock<'static>>),
}

impl Lines {
    fn new() -> anyhow::Result<Lines> {
        if io::stdin().is_terminal() {
            Ok(Lines::Terminal(Box::new(DefaultEditor::new()?)))
        } else {
            Ok(Lines::Pipe(io::stdin().lock().lines()))
        }
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Lines::Terminal(_))
    }

    fn next(&mut self) -> anyhow::Result<Option<String>> {
        match self {
            Lines::Pipe(lines) => match lines.next() {
                None => Ok(None),
                Some(Ok(line)) => Ok(Some(line)),
                Some(Err(error)) => bail!("standard input cannot be read as text: {error}"),
            },
            Lines::Terminal(editor) => match editor.readline("> ") {
                Ok(line) => {
                    editor.add_history_entry(&line)?;
                    Ok(Some(line))
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }
}
