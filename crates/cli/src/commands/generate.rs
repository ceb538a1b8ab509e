//! `rheostat generate`: continue a text.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::bail;
use rheostat::chat::{Clock, GenerationPrompt, RenderRequest};
use rheostat::session::{Contents, Session};
use rheostat::tokenizer::{AddSpecial, ShowSpecial, StopMatcher, Tokenizer};
use rheostat::{Error, Finish, Model, Options, Package, Progress, Request, check_tokens, generate};
use serde_json::json;

use crate::args::GenerateArgs;
use crate::session::{self, Cost, EMBEDDED, STDIN};
use crate::status::Status;
use crate::{interrupt, output};

/// What the embedded model continues when nothing else is asked for.
const OUR_PROMPT: &str = "ROMEO:\nWhat light is this, that through the window breaks?\n\nJULIET:\n";

pub(crate) fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    let model_path = args.model.clone().unwrap_or_else(|| PathBuf::from(EMBEDDED));
    let package = session::open(&model_path)?;
    let config = package.generation_config()?;
    session::warn_unsupported(&config);
    let tokenizer = package.tokenizer()?;
    let text = prompt_text(args, &model_path)?;
    let (load, save) = (args.load_session.as_deref(), args.save_session.as_deref());
    let loaded = session::sessions(load, save, &package, &args.run)?;
    let Prompt { tokens: given, through } = encode(args, &package, &tokenizer, &text)?;
    let decoder = package.describe()?;
    let (known, prompt) = after(loaded.as_ref(), &given);
    check_tokens(&decoder, &prompt, known.len())?;
    if prompt.is_empty() {
        return Err(Error::EmptyPrompt.into());
    }
    let mut sampling = session::sampling(&args.sampling, &config);
    // The very first thing that a newcomer sees: a small model repeats itself when greedy.
    let demo = args.model.is_none() && args.sampling.temperature.is_none();
    if demo {
        sampling.temperature = config.temperature.unwrap_or(0.8);
        sampling.top_p = args.sampling.top_p.or(config.top_p).unwrap_or(1.0);
    }
    let mut sampler = session::sampler(sampling, &args.sampling, decoder.vocab_size)?;
    let before = known.len() + prompt.len();
    let tokens = before.saturating_add(args.max_new_tokens).min(decoder.context);
    let mut model = Model::load(&package, &Options { context: Some(tokens), ..session::options(&args.run) })?;
    interrupt::listen(model.cancel_switch())?;

    let status = Status::new(model.reading_watch());
    let first_sweep = model.plan().pinned + model.plan().streamed;
    status.begin("reading the prompt", 0, first_sweep);
    if args.model.is_none() && !args.json {
        output::print(&text)?;
    }
    let mut sequence = match &loaded {
        Some(loaded) => loaded.restore(&model)?,
        None => model.sequence(prompt.len()),
    };
    sequence.truncate(known.len());
    let mut decoded = tokenizer.stream(ShowSpecial::Skip);
    let mut stops = StopMatcher::new(args.stop.iter().map(String::as_str));
    let mut out = Out { all: String::new(), quiet: args.json, status: &status, failed: None };
    let mut first = None;
    let mut stopped = false;
    let streamed = model.plan().streamed;
    let watch = model.reading_watch();
    let request = Request { prompt: &prompt, max_new_tokens: args.max_new_tokens, eos: &config.eos };
    let mut all_tokens = known.to_vec();
    let result = generate(&mut model, &mut sequence, &mut all_tokens, &mut sampler, &request, |token| {
        first.get_or_insert_with(|| start.elapsed().as_secs_f64());
        let piece = match decoded.push(token) {
            Ok(piece) => piece,
            Err(error) => return out.fail(error.into()),
        };
        let progress = match stops.push(&piece) {
            Ok(text) => out.write(&text),
            Err(cut) => {
                stopped = true;
                out.write(&cut.text);
                Progress::Stop
            }
        };
        if streamed > 0 {
            status.begin("next token", watch(), streamed);
        }
        progress
    });
    let generation = match result {
        Ok(generation) => Some(generation),
        Err(Error::Cancelled) if interrupt::happened() => None,
        Err(error) => return Err(error.into()),
    };
    if !stopped && out.failed.is_none() {
        match stops.push(&decoded.finish()?) {
            Ok(text) => {
                out.write(&text);
                out.write(&stops.finish());
            }
            Err(cut) => {
                stopped = true;
                out.write(&cut.text);
            }
        }
    }
    let Out { all, failed, .. } = out;
    if let Some(path) = save {
        if all_tokens.len() < before {
            // Interrupted: what was not read of the prompt is read when the session goes on.
            all_tokens = [known, &prompt[..]].concat();
        }
        let contents = Contents { tokens: &all_tokens, messages: None };
        rheostat::session::save(path, &package, &model, &sequence, &contents)?;
    }
    if let Some(error) = failed {
        return Err(error);
    }
    drop(status);
    let new_tokens = all_tokens.len().saturating_sub(before);
    let cost = Cost::new(&model, 0, new_tokens, first, start.elapsed().as_secs_f64());
    let finish = generation.map(|g| g.finish);
    if args.json {
        let finish = match finish {
            None => json!("interrupted"),
            Some(_) if stopped => json!("stop"),
            Some(Finish::Eos(_)) => json!("eos"),
            Some(other) => json!(other),
        };
        return output::print_json(&json!({
            "model": package.name(),
            "chat_template": through == Through::ChatTemplate,
            "session_tokens": loaded.as_ref().map(|loaded| loaded.tokens().len()),
            "prompt_tokens": given,
            "tokens": &all_tokens[before.min(all_tokens.len())..],
            "text": all,
            "finish": finish,
            "cost": cost,
            "plan": model.plan(),
        }));
    }
    output::print("\n")?;
    let mut line = cost.line();
    if finish == Some(Finish::Context) {
        line += &format!(" (the model's context of {} tokens is full)", decoder.context);
    }
    if through == Through::ChatTemplate && !args.chat {
        line += " (the prompt went through the model's chat template; --raw gives it as it is)";
    }
    output::tell(&line);
    Ok(())
}

/// Where new text goes.
struct Out<'a> {
    all: String,
    quiet: bool,
    status: &'a Status,
    failed: Option<anyhow::Error>,
}

impl Out<'_> {
    fn write(&mut self, text: &str) -> Progress {
        self.all.push_str(text);
        if !self.quiet && !text.is_empty() {
            self.status.clear();
            if let Err(error) = output::print(text) {
                return self.fail(error);
            }
        }
        Progress::Continue
    }

    fn fail(&mut self, error: anyhow::Error) -> Progress {
        self.failed.get_or_insert(error);
        Progress::Stop
    }
}

fn prompt_text(args: &GenerateArgs, model: &Path) -> anyhow::Result<String> {
    match args.prompt.as_deref() {
        Some(STDIN) => session::read_text(Path::new(STDIN)),
        Some(text) => Ok(text.to_owned()),
        None if args.load_session.is_some() => Ok(String::new()),
        None if model == Path::new(EMBEDDED) => Ok(OUR_PROMPT.to_owned()),
        None => bail!("there is no prompt; give one after the model, or \"-\" to read it from standard input"),
    }
}

/// What the model is given.
struct Prompt {
    tokens: Vec<u32>,
    through: Through,
}

/// What a prompt went through before it was encoded.
#[derive(PartialEq, Eq)]
enum Through {
    Nothing,
    ChatTemplate,
}

/// What is known of a text, and what is to be read next: what its session has not read, and what is `given` now. At least one
/// token is left to read, if there is one.
fn after<'a>(loaded: Option<&'a Session>, given: &[u32]) -> (&'a [u32], Vec<u32>) {
    let Some(loaded) = loaded else { return (&[], given.to_vec()) };
    let tokens = loaded.tokens();
    let mut read = loaded.read_len();
    if read == tokens.len() && given.is_empty() {
        read = read.saturating_sub(1);
    }
    let (known, rest) = tokens.split_at(read);
    (known, [rest, given].concat())
}

/// The prompt's tokens: through the chat template if the model has one, unless told otherwise.
fn encode(args: &GenerateArgs, package: &Package, tokenizer: &Tokenizer, text: &str) -> anyhow::Result<Prompt> {
    let template_args = session::template_args(&args.template)?;
    let templates = match package.chat_templates()? {
        _ if args.raw || args.load_session.is_some() => None,
        None if args.chat => Some(session::chat_templates(package)?),
        templates => templates,
    };
    let Some(templates) = templates else {
        if !template_args.is_empty() {
            bail!("--template-arg sets what a chat template reads, and none is in use here; leave it out");
        }
        // What goes on has had its beginning.
        let add = if args.load_session.is_some() { AddSpecial::Omit } else { AddSpecial::Add };
        return Ok(Prompt { tokens: tokenizer.encode(text, add)?, through: Through::Nothing });
    };
    if text.is_empty() {
        return Err(Error::EmptyPrompt.into());
    }
    let rendered = templates.render(&RenderRequest {
        messages: &[json!({"role": "user", "content": text})],
        tools: None,
        documents: None,
        args: &template_args,
        generation_prompt: GenerationPrompt::Add,
        clock: Clock::Local,
    })?;
    Ok(Prompt { tokens: tokenizer.encode(&rendered, AddSpecial::Omit)?, through: Through::ChatTemplate })
}
