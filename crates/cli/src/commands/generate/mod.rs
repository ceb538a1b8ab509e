//! `rheostat generate`: continue a text, or every text of a file.

mod batch;
mod prompt;
mod results;
mod words;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::bail;
use rheostat::session::{Contents, Session};
use rheostat::{Error, Finish, Options, Progress, Request, Text, check_tokens, generate};
use serde_json::json;

use self::prompt::Encoder;
use self::words::Words;
use crate::args::GenerateArgs;
use crate::profile::{Looker, Profile, Run};
use crate::session::{self, Cost, EMBEDDED, STDIN};
use crate::status::Status;
use crate::{interrupt, output};

/// What the embedded model continues when nothing else is asked for.
const OUR_PROMPT: &str = "ROMEO:\nWhat light is this, that through the window breaks?\n\nJULIET:\n";

pub(crate) fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    match (&args.batch, &args.out) {
        (Some(prompts), Some(out)) => batch::run(args, prompts, out),
        _ => one(args),
    }
}

/// The model that is asked for.
fn model_path(args: &GenerateArgs) -> PathBuf {
    args.model.clone().unwrap_or_else(|| PathBuf::from(EMBEDDED))
}

/// Continues one text.
fn one(args: &GenerateArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    let model_path = model_path(args);
    let package = session::open(&model_path)?;
    let config = package.generation_config()?;
    session::warn_unsupported(&config);
    let tokenizer = package.tokenizer()?;
    let text = prompt_text(args, &model_path)?;
    let (load, save) = (args.load_session.as_deref(), args.save_session.as_deref());
    let loaded = session::sessions(load, save, &package, &args.run)?;
    let encoder = Encoder::new(args, &package, &tokenizer)?;
    let given = encoder.text(&text)?;
    let decoder = package.describe()?;
    let known = loaded.as_ref().map_or(&[][..], Session::tokens);
    let mut prompt = [known, &given].concat();
    check_tokens(&decoder, &prompt, 0)?;
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
    session::check_sampling(&sampling, &args.sampling)?;
    let tokens = prompt.len().saturating_add(args.max_new_tokens).min(decoder.context);
    let looker = Looker::new(&args.trace, profile(args))?;
    let options = looker.options(&Options {
        context: Some(tokens),
        logits: sampling.logit_rows(),
        ..session::options(&args.run)
    });
    let (mut model, mut writer) = session::Guesser::open(&package, &args.speculation)?.load(&package, &options)?;
    interrupt::listen(model.cancel_switch())?;

    let status = Status::new(model.reading_watch());
    let first_sweep = model.plan().first_sweep();
    status.begin("reading the prompt", 0, first_sweep);
    if args.model.is_none() && !args.json {
        output::print(&text)?;
    }
    let request = Request { max_new_tokens: args.max_new_tokens, eos: config.eos.clone(), sampling };
    let mut words = Words::new(&tokenizer, &args.stop);
    let mut out = Out { quiet: args.json, status: &status, failed: None };
    let mut first = None;
    let streamed = model.plan().streamed;
    let watch = model.reading_watch();
    let mut sequence = match &loaded {
        Some(loaded) => loaded.restore(&model)?,
        None => model.sequence(prompt.len()),
    };
    // The last token is read again, if nothing follows it.
    session::go_back(&mut sequence, prompt.len() - 1);
    // States cannot go back by a token: in a session of a prompt that is only read, its last is left to be read when the text goes on.
    let leave = save.is_some() && args.max_new_tokens == 0 && decoder.has_state() && prompt.len() - sequence.len() > 1;
    let left = prompt.split_off(prompt.len() - usize::from(leave));
    let mut text = Text::new(&model, sequence, prompt, request)?;
    let result = generate(&mut model, &mut writer, &mut text, |token| {
        first.get_or_insert_with(|| start.elapsed().as_secs_f64());
        let progress = match words.push(token) {
            Ok(piece) if words.stopped() => {
                out.write(&piece);
                Progress::Stop
            }
            Ok(piece) => out.write(&piece),
            Err(error) => return out.fail(error.into()),
        };
        if streamed > 0 {
            status.begin("next token", watch(), streamed);
        }
        progress
    });
    let finish = match result {
        Ok(finish) => Some(finish),
        Err(Error::Cancelled) if interrupt::happened() => None,
        Err(error) => return Err(error.into()),
    };
    let ended = words.finish()?;
    out.write(&ended.rest);
    let failed = out.failed;
    let (new, drafted) = (text.new_tokens().to_vec(), text.drafted());
    if let Some(path) = save {
        let (sequence, mut tokens) = text.into_parts();
        tokens.extend(left);
        let contents = Contents { tokens: &tokens, messages: None };
        rheostat::session::save(path, &package, &model, &sequence, &contents)?;
    }
    if let Some(error) = failed {
        return Err(error);
    }
    drop(status);
    let cost = Cost::new(&model, 0, new.len(), first, start.elapsed().as_secs_f64());
    let run = Run { name: package.name(), texts: 1, prompt: given.len(), new: new.len() };
    let report = looker.report(&mut model, &run);
    if args.json {
        let mut object = json!({
            "model": package.name(),
            "chat_template": encoder.uses_template(),
            "session_tokens": loaded.as_ref().map(|loaded| loaded.tokens().len()),
            "prompt_tokens": given,
            "tokens": new,
            "text": ended.all,
            "finish": finish_name(finish, ended.stopped),
            "speculation": drafted,
            "cost": cost,
            "plan": model.plan(),
        });
        if let Some(report) = report.as_ref().filter(|_| args.profile) {
            object["profile"] = report.json();
        }
        output::print_json(&object)?;
        return looker.write(&mut model, package.name(), report.as_ref());
    }
    output::print("\n")?;
    let mut line = cost.line();
    line += &guesses(drafted);
    if finish == Some(Finish::Context) {
        line += &format!(" (the model's context of {} tokens is full)", decoder.context);
    }
    if encoder.uses_template() && !args.chat {
        line += " (the prompt went through the model's chat template; --raw gives it as it is)";
    }
    output::tell(&line);
    if let Some(report) = report.as_ref().filter(|_| args.profile) {
        output::tell(&format!("\n{}", report.text().trim_end()));
    }
    looker.write(&mut model, package.name(), report.as_ref())
}

/// Whether a profile is wanted.
fn profile(args: &GenerateArgs) -> Profile {
    if args.profile { Profile::Wanted } else { Profile::Unwanted }
}

/// Why a text ended, as JSON has it; `None`: it was broken off.
fn finish_name(finish: Option<Finish>, stopped: bool) -> serde_json::Value {
    match finish {
        None => json!("interrupted"),
        Some(_) if stopped => json!("stop"),
        Some(Finish::Eos(_)) => json!("eos"),
        Some(other) => json!(other),
    }
}

/// What guessing brought, for the line about the cost; nothing where nothing was guessed.
fn guesses(rheostat::Drafted { drafted, accepted }: rheostat::Drafted) -> String {
    if drafted == 0 { String::new() } else { format!(", {accepted} of {drafted} guesses right") }
}

/// Where new text goes.
struct Out<'a> {
    quiet: bool,
    status: &'a Status,
    failed: Option<anyhow::Error>,
}

impl Out<'_> {
    fn write(&mut self, text: &str) -> Progress {
        if !self.quiet && !text.is_empty() && self.failed.is_none() {
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
