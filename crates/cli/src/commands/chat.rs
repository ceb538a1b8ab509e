//! `rheostat chat`: a conversation.

use std::io::{self, BufRead, IsTerminal};
use std::path::Path;
use std::time::Instant;

use anyhow::bail;
use rheostat::chat::ChatTemplates;
use rheostat::rope::Rope;
use rheostat::session::{Contents, Session};
use rheostat::tokenizer::{ShowSpecial, Tokenizer};
use rheostat::{
    Error, GenerationConfig, Model, Options, Package, Progress, Request, Sampling, Sequence, Text, Writer, generate,
};
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
    let sampling = session::sampling(&args.sampling, &config);
    session::check_sampling(&sampling, &args.sampling)?;
    let context = session::context(args.context, &decoder)?;
    let (load_path, save_path) = (args.load_session.as_deref(), args.save_session.as_deref());
    let loaded = session::sessions(load_path, save_path, &package, &args.run)?;
    let mut conversation = Conversation {
        template_args: session::template_args(&args.template)?,
        messages: Vec::new(),
        max_new_tokens: args.max_new_tokens,
        context,
        templates,
        tokenizer,
        config,
        sampling,
        sequence: None,
        read: Vec::new(),
        goes_on: false,
    };
    let messages = loaded.as_ref().map(Session::messages).transpose()?;
    let system = match messages {
        // What the model was told then.
        Some(messages) => messages.first().filter(|m| m["role"] == "system").and_then(|m| m["content"].as_str()),
        None => args.system.as_deref(),
    };
    conversation.clear(system);
    // A template argument that the template does not read is found now, not after the first message.
    conversation.tokens_with("hello")?;
    let options = Options { context, logits: conversation.sampling.logit_rows(), ..session::options(&args.run) };
    let (mut model, mut writer) = session::Guesser::open(&package, &args.speculation)?.load(&package, &options)?;
    interrupt::listen(model.cancel_switch())?;
    if let (Some(loaded), Some(messages)) = (&loaded, messages) {
        conversation.sequence = Some(loaded.restore(&model)?);
        conversation.read = loaded.tokens().to_vec();
        conversation.messages = messages.to_vec();
        conversation.goes_on = true;
    }
    let talked = talk(&mut conversation, &mut model, &mut writer, &package, system);
    // Whatever ended it, what was said is kept.
    let saved = save_path.map_or(Ok(()), |path| conversation.save(path, &package, &model));
    talked.and(saved)
}

/// Answers line by line, to the end.
fn talk(
    conversation: &mut Conversation,
    model: &mut Model,
    writer: &mut Writer,
    package: &Package,
    system: Option<&str>,
) -> anyhow::Result<()> {
    let mut lines = Lines::new()?;
    if lines.is_terminal() {
        let room = conversation.room(model);
        output::tell(&format!("{} ({room} tokens of context). {HELP}.", package.name()));
    }
    while let Some(line) = lines.next()? {
        match line.trim() {
            "" => {}
            "/exit" | "/quit" => break,
            "/clear" => conversation.clear(system),
            "/help" => output::tell(&format!("{HELP}.")),
            command if command.starts_with('/') && !command.contains(' ') => {
                output::tell(&format!("there is no command {command}; {HELP}."));
            }
            _ => {
                if let Err(error) = conversation.answer(model, writer, &line) {
                    // The conversation stands as it was before this message.
                    let message_is_to_blame = error.is::<Full>()
                        || matches!(error.downcast_ref(), Some(Error::Chat(_) | Error::Tokenizer(_)));
                    if !(message_is_to_blame && lines.is_terminal()) {
                        return Err(error);
                    }
                    output::tell(&format!("error: {}", output::sentence(&error)));
                }
            }
        }
    }
    Ok(())
}

/// A conversation that has grown too long.
#[derive(Debug)]
struct Full {
    tokens: usize,
    room: usize,
}

impl std::error::Error for Full {}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Full { tokens, room } = self;
        write!(
            f,
            "with this message the conversation has {tokens} tokens, and there is room for {room} with the answer; \
             shorten the message, or forget the conversation with /clear"
        )
    }
}

/// What was said so far, and what the model has read of it.
struct Conversation {
    templates: ChatTemplates,
    template_args: Map<String, Value>,
    tokenizer: Tokenizer,
    config: GenerationConfig,
    sampling: Sampling,
    messages: Vec<Value>,
    max_new_tokens: usize,
    /// Tokens of the whole conversation that were asked for.
    context: Option<usize>,
    sequence: Option<Sequence>,
    /// The tokens that `sequence` has read, and possibly the last one written.
    read: Vec<u32>,
    /// Whether they are those of a loaded session, and the next message is to follow it.
    goes_on: bool,
}

impl Conversation {
    fn clear(&mut self, system: Option<&str>) {
        self.goes_on = false;
        self.messages.clear();
        self.messages.extend(system.map(|text| json!({"role": "system", "content": text})));
    }

    /// Tokens that the conversation may have.
    fn room(&self, model: &Model) -> usize {
        model.plan().tokens.min(model.decoder().context).min(self.context.unwrap_or(usize::MAX))
    }

    /// The conversation's tokens, with one more message of the user.
    fn tokens_with(&self, message: &str) -> anyhow::Result<Vec<u32>> {
        let mut messages = self.messages.clone();
        messages.push(json!({"role": "user", "content": message}));
        session::conversation(&self.templates, &self.template_args, &self.tokenizer, &messages)
    }

    fn answer(&mut self, model: &mut Model, writer: &mut Writer, message: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        let tokens = self.tokens_with(message)?;
        let room = self.room(model);
        if tokens.len() >= room {
            return Err(Full { tokens: tokens.len(), room }.into());
        }
        let sequence = self.reuse(model, &tokens);
        let request = Request {
            max_new_tokens: self.max_new_tokens.min(room - tokens.len()),
            eos: self.config.eos.clone(),
            sampling: self.sampling.clone(),
        };
        let mut text = Text::new(model, sequence, tokens, request)?;
        let status = Status::new(model.reading_watch());
        let (read, streamed, watch) = (model.reading().bytes, model.plan().streamed, model.reading_watch());
        let first_sweep = if read == 0 { model.plan().first_sweep() } else { streamed };
        status.begin("reading", watch(), first_sweep);
        let mut decoded = self.tokenizer.stream(ShowSpecial::Skip);
        let (mut answer, mut first, mut failed) = (String::new(), None, None);
        let mut say = |piece: &str| {
            status.clear();
            answer.push_str(piece);
            output::print(piece)
        };
        let result = generate(model, writer, &mut text, |token| {
            first.get_or_insert_with(|| start.elapsed().as_secs_f64());
            match decoded.push(token).map_err(anyhow::Error::from).and_then(|piece| say(&piece)) {
                Ok(()) => {
                    if streamed > 0 {
                        status.begin("next token", watch(), streamed);
                    }
                    Progress::Continue
                }
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
        let new_tokens = text.new_tokens().len();
        // Whatever was read stays known, so that the next turn begins after it.
        let (sequence, mut tokens) = text.into_parts();
        if tokens.len() > sequence.len() + 1 {
            // Of a message whose reading was cut short, nothing more.
            tokens.truncate(sequence.len());
        }
        (self.read, self.sequence) = (tokens, Some(sequence));
        match result {
            Ok(_) => {}
            Err(Error::Cancelled) if interrupt::happened() => {}
            Err(error) => return Err(error.into()),
        }
        interrupt::forget();
        self.messages.push(json!({"role": "user", "content": message}));
        self.messages.push(json!({"role": "assistant", "content": answer}));
        if io::stderr().is_terminal() {
            let cost = Cost::new(model, read, new_tokens, first, start.elapsed().as_secs_f64());
            output::tell(&format!("({})", cost.line()));
        }
        Ok(())
    }

    /// Writes the conversation to `path`.
    fn save(&self, path: &Path, package: &Package, model: &Model) -> anyhow::Result<()> {
        let none = model.sequence(0);
        let sequence = self.sequence.as_ref().unwrap_or(&none);
        let contents = Contents { tokens: &self.read, messages: Some(&self.messages) };
        Ok(rheostat::session::save(path, package, model, sequence, &contents)?)
    }

    /// The sequence, rolled back to what it shares with `tokens`; at least one token is left to read.
    fn reuse(&mut self, model: &Model, tokens: &[u32]) -> Sequence {
        // Frequencies that depend on the length of the text do not allow an old beginning in a longer text.
        let depends = model.decoder().ropes.iter().any(Rope::depends_on_length);
        let sequence = self.sequence.take().filter(|_| !depends);
        let mut sequence = sequence.unwrap_or_else(|| model.sequence(tokens.len()));
        let shared = self.read.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let len = shared.min(tokens.len() - 1);
        if std::mem::take(&mut self.goes_on) {
            session::go_back(&mut sequence, len);
        } else {
            sequence.truncate(len);
        }
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
            Lines::Pipe(lines) => match interrupt::idle(|| lines.next()) {
                None => Ok(None),
                Some(Ok(line)) => Ok(Some(line)),
                Some(Err(error)) => bail!("standard input cannot be read as text in UTF-8: {error}"),
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
