//! `rheostat profile`: where the time of a run goes.

use std::path::Path;

use rheostat::tokenizer::AddSpecial;
use rheostat::{Error, Model, Options, Progress, Request, Sampling, Speculation, Text, Writer, check_tokens, generate};

use crate::args::ProfileCommandArgs;
use crate::profile::{Looker, Profile, Run};
use crate::session::{self, STDIN};
use crate::status::Status;
use crate::{interrupt, output};

pub(crate) fn run(args: &ProfileCommandArgs) -> anyhow::Result<()> {
    let package = session::open(&args.model)?;
    let decoder = package.describe()?;
    let prompt = match args.prompt.as_deref() {
        Some(STDIN) => package.tokenizer()?.encode(&session::read_text(Path::new(STDIN))?, AddSpecial::Add)?,
        Some(text) => package.tokenizer()?.encode(text, AddSpecial::Add)?,
        None if args.n_prompt.get() > decoder.context => {
            return Err(Error::ContextExceeded { tokens: args.n_prompt.get(), context: decoder.context }.into());
        }
        None => session::meaningless(&decoder, args.n_prompt.get()),
    };
    if prompt.is_empty() {
        return Err(Error::EmptyPrompt.into());
    }
    // As in generation, the context ends a text.
    check_tokens(&decoder, &prompt, 0)?;
    let looker = Looker::new(&args.trace, Profile::Wanted)?;
    let context = prompt.len().saturating_add(args.max_new_tokens).min(decoder.context);
    let sampling = Sampling::default();
    let options = Options { context: Some(context), logits: sampling.logit_rows(), ..session::options(&args.run) };
    let mut model = Model::load(&package, &looker.options(&options))?;
    interrupt::listen(model.cancel_switch())?;
    let status = Status::new(model.reading_watch());
    let streamed = model.plan().streamed;
    status.begin("reading the prompt", 0, model.plan().first_sweep());
    let watch = model.reading_watch();
    // Nothing ends it early, so that runs can be compared.
    let request = Request { max_new_tokens: args.max_new_tokens, eos: Vec::new(), sampling };
    let len = prompt.len();
    let mut text = Text::new(&model, model.sequence(len), prompt, request)?;
    let result = generate(&mut model, &mut Writer::new(Speculation::Off), &mut text, |_| {
        if streamed > 0 {
            status.begin("next token", watch(), streamed);
        }
        Progress::Continue
    });
    match result {
        Ok(_) => {}
        // What there is so far is told.
        Err(Error::Cancelled) if interrupt::happened() => {}
        Err(error) => return Err(error.into()),
    }
    drop(status);
    let run = Run { name: package.name(), texts: 1, prompt: len, new: text.new_tokens().len() };
    let report = looker.report(&mut model, &run);
    if let Some(report) = &report {
        if args.json {
            output::print_json(&report.json())?;
        } else {
            output::print(&report.text())?;
        }
    }
    looker.write(&mut model, package.name(), report.as_ref())
}
