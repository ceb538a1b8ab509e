//! `rheostat trace`: values at hook points written to a file, and what becomes of a text when they are changed.

use std::io::BufWriter;

use anyhow::{Context, anyhow, ensure};
use rheostat::hooks::{Both, Capture, Edits, Hooks, PointInfo, TraceInfo, matching};
use rheostat::ranking::Distribution;
use rheostat::tokenizer::ShowSpecial;
use rheostat::{Input, LogitRows, Model, Options, Package, Sampler, Sampling, Want, check_tokens};
use serde_json::json;

use crate::args::TraceCommandArgs;
use crate::edits::{Lengths, edits};
use crate::file::{beside, cannot_write};
use crate::status::Status;
use crate::tokens::Tokens;
use crate::{interrupt, output, session};

/// Tokens that are named as the likeliest.
const LIKELIEST: usize = 5;

pub(crate) fn run(args: &TraceCommandArgs) -> anyhow::Result<()> {
    let package = session::open(&args.model)?;
    let prompt = session::text(&package, args.text.prompt.as_deref(), &args.text.tokens)?;
    let decoder = package.describe()?;
    // The last token that is written is not read.
    let lengths = Lengths { prompt: prompt.len(), all: prompt.len() + args.max_new_tokens.saturating_sub(1) };
    check_tokens(&decoder, &prompt, 0)?;
    ensure!(
        lengths.all <= decoder.context,
        "{} tokens after a prompt of {} are beyond the model's context of {}; ask for fewer",
        args.max_new_tokens,
        prompt.len(),
        decoder.context
    );
    let edits = Edits::new(edits(&args.edits, &decoder, &lengths)?, prompt.len())?;
    let mut wanted: Vec<PointInfo> = Vec::new();
    for pattern in &args.capture {
        wanted.extend(matching(&decoder, pattern)?);
    }
    ensure!(
        !wanted.is_empty() || !edits.is_empty(),
        "nothing to do: name hook points with --capture, or changes such as --zero; `rheostat hooks` lists the points"
    );
    if let Some(part) = args.positions.beyond(lengths.prompt, lengths.all) {
        return Err(anyhow!("the text has no position \"{part}\" (--positions): {} tokens are read", lengths.all));
    }
    let places = args.out.as_deref().map(beside).transpose()?;
    let dir = places.as_ref().and_then(|(_, path)| path.parent()).filter(|dir| !dir.as_os_str().is_empty());
    let spool = match dir {
        Some(dir) => tempfile::tempfile_in(dir),
        None if places.is_some() => tempfile::tempfile_in("."),
        None => tempfile::tempfile(),
    };
    let spool = spool.context("a temporary file cannot be made beside the trace")?;
    let capture = Capture::new(wanted, args.positions.clone(), prompt.len(), spool);
    let mut hooks = Both(edits, capture);
    let finals = hooks.1.points().any_final();
    let options = Options {
        context: Some(lengths.all),
        logits: if finals { LogitRows::All } else { LogitRows::Last },
        hooks: hooks.points(),
        ..session::options(&args.run)
    };
    let mut model = Model::load(&package, &options)?;
    interrupt::listen(model.cancel_switch())?;
    let status = Status::new(model.reading_watch());
    let sweeps = (prompt.len().div_ceil(model.max_rows()) + args.max_new_tokens.saturating_sub(1)) as u64;
    status.begin("reading", 0, model.plan().pinned + sweeps * model.plan().streamed);
    let run = generate(&mut model, &package, &prompt, args.max_new_tokens, finals, &mut hooks)?;
    drop(status);
    let mut written = Vec::new();
    if let (Some(path), Some((file, real))) = (&args.out, places) {
        let trace = TraceInfo {
            model: package.name().to_owned(),
            model_type: decoder.family.to_owned(),
            compute: args.run.compute,
            tokens: prompt.iter().chain(&run.new).copied().collect(),
            prompt_len: prompt.len(),
            weights: if args.hash_weights { Some(session::hash(&package, "hashing the weights")?) } else { None },
        };
        let mut out = BufWriter::with_capacity(1 << 18, file);
        written = hooks.1.finish(&trace, &mut out)?;
        let file = out.into_inner().map_err(std::io::IntoInnerError::into_error);
        let file = file.with_context(|| cannot_write(path))?;
        file.persist(&real).map_err(|e| e.error).with_context(|| cannot_write(path))?;
    }
    report(args, &package, &model, &prompt, &run, &written)
}

/// What came of it.
struct Run {
    /// Tokens that were written.
    new: Vec<u32>,
    /// The likeliest after the prompt, and their probabilities; none where logits are not finite.
    likeliest: Vec<(u32, f64)>,
}

/// Reads the prompt and writes up to `n` tokens, each the likeliest, while `hooks` look on.
fn generate(
    model: &mut Model,
    package: &Package,
    prompt: &[u32],
    n: usize,
    all_logits: bool,
    hooks: &mut dyn Hooks,
) -> anyhow::Result<Run> {
    let ends = package.generation_config()?.eos;
    let mut sequence = model.sequence(prompt.len());
    let mut sampler = Sampler::new();
    let mut run = Run { new: Vec::new(), likeliest: Vec::new() };
    let mut text = prompt.to_vec();
    let chunks: Vec<&[u32]> = prompt.chunks(model.max_rows()).collect();
    for (i, tokens) in chunks.iter().enumerate() {
        let want = match (all_logits, i + 1 == chunks.len()) {
            (true, _) => Want::All,
            (false, true) => Want::Last,
            (false, false) => Want::Nothing,
        };
        let input = Input { sequence: &mut sequence, tokens, want };
        let output = model.forward_hooked(&mut [input], hooks)?;
        if i + 1 == chunks.len() {
            let vocab = output.logits.len() / if all_logits { tokens.len() } else { 1 };
            let logits = &output.logits[output.logits.len() - vocab..];
            // What is damaged has none, and is still worth a trace.
            run.likeliest = Distribution::new(logits).map_or_else(|_| Vec::new(), |all| all.top(LIKELIEST));
            if n > 0 {
                run.new.push(sampler.next(&Sampling::default(), logits, &text)?);
            }
        }
    }
    while run.new.len() < n && run.new.last().is_some_and(|token| !ends.contains(token)) {
        let token = run.new[run.new.len() - 1];
        text.push(token);
        let input = Input { sequence: &mut sequence, tokens: &[token], want: Want::Last };
        let output = model.forward_hooked(&mut [input], hooks)?;
        let next = sampler.next(&Sampling::default(), output.logits, &text)?;
        run.new.push(next);
    }
    Ok(run)
}

fn report(
    args: &TraceCommandArgs,
    package: &Package,
    model: &Model,
    prompt: &[u32],
    run: &Run,
    written: &[(String, Vec<usize>)],
) -> anyhow::Result<()> {
    // A model without one shows the numbers of tokens.
    let tokenizer = package.tokenizer().ok();
    let words = Tokens::of(package);
    let word = |token: u32| words.text(token).unwrap_or_else(|| token.to_string());
    let text = tokenizer.as_ref().map(|t| t.decode(&run.new, ShowSpecial::Show)).transpose()?;
    if args.json {
        let likeliest = |(token, p): &(u32, f64)| json!({ "token": token, "text": word(*token), "logprob": p.ln() });
        return output::print_json(&json!({
            "file": args.out,
            "tensors": written.iter().map(|(name, shape)| json!({ "name": name, "shape": shape })).collect::<Vec<_>>(),
            "tokens": prompt,
            "new_tokens": run.new,
            "text": text,
            "next": run.likeliest.iter().map(likeliest).collect::<Vec<_>>(),
            "bytes_read": model.reading().bytes,
            "peak_memory_bytes": rheostat::memory::peak(),
        }));
    }
    let mut lines = String::from("after the prompt:\n");
    if run.likeliest.is_empty() {
        lines.push_str("  logits that are not finite numbers\n");
    }
    for (token, p) in &run.likeliest {
        lines.push_str(&format!("  {:>7.4}  {:?}\n", p, word(*token)));
    }
    if !run.new.is_empty() {
        lines.push_str(&match text {
            Some(text) => format!("text: {text:?}\n"),
            None => format!("tokens: {:?}\n", run.new),
        });
    }
    output::print(&lines)?;
    if let Some(path) = &args.out {
        output::tell(&format!("wrote {}: {} tensors", path.display(), written.len()));
    }
    Ok(())
}
