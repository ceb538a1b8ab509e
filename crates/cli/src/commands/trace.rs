//! `rheostat trace`: values at hook points written to a file, and what becomes of a text when they are changed.

use std::io::BufWriter;

use anyhow::{Context, anyhow, ensure};
use rheostat::hooks::{Both, Capture, Edits, Hooks, PointInfo, TraceInfo, matching};
use rheostat::tokenizer::{AddSpecial, ShowSpecial, Tokenizer};
use rheostat::{Error, Input, LogitRows, Model, Options, Package, Sampler, Sampling, Want, check_tokens};
use serde_json::json;

use crate::args::{TextArgs, TraceCommandArgs};
use crate::edits::{Lengths, edits};
use crate::file::{beside, cannot_write};
use crate::status::Status;
use crate::{interrupt, output, session};

/// Tokens that are named as the likeliest.
const LIKELIEST: usize = 5;

pub(crate) fn run(args: &TraceCommandArgs) -> anyhow::Result<()> {
    let package = session::open(&args.model)?;
    let prompt = tokens(&args.text, &package)?;
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
    let finals = wanted.iter().any(|info| info.point.is_final());
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

/// The tokens of a prompt.
pub(crate) fn tokens(args: &TextArgs, package: &Package) -> anyhow::Result<Vec<u32>> {
    let tokens = match &args.prompt {
        Some(text) => package.tokenizer()?.encode(text, AddSpecial::Add)?,
        None => args.tokens.clone(),
    };
    if tokens.is_empty() {
        return Err(Error::EmptyPrompt.into());
    }
    Ok(tokens)
}

/// What came of it.
struct Run {
    /// Tokens that were written.
    new: Vec<u32>,
    /// The likeliest after the prompt, and the logarithms of their probabilities.
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
            run.likeliest = likeliest(logits);
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

/// The tokens with the greatest logits, and the logarithms of their probabilities.
fn likeliest(logits: &[f32]) -> Vec<(u32, f64)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
    order.truncate(LIKELIEST);
    order.iter().map(|token| (*token, f64::from(logits[*token as usize] - max) - sum.ln())).collect()
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
    let word = |token: u32| word(tokenizer.as_ref(), token);
    let text = tokenizer.as_ref().map(|t| t.decode(&run.new, ShowSpecial::Show)).transpose()?;
    if args.json {
        let likeliest =
            |(token, logprob): &(u32, f64)| json!({ "token": token, "text": word(*token), "logprob": logprob });
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
    for (token, logprob) in &run.likeliest {
        lines.push_str(&format!("  {:>7.4}  {:?}\n", logprob.exp(), word(*token)));
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

/// A token as people read it; its number where there is no tokenizer.
fn word(tokenizer: Option<&Tokenizer>, token: u32) -> String {
    let decoded = tokenizer.and_then(|t| t.decode(&[token], ShowSpecial::Show).ok());
    decoded.filter(|text| !text.is_empty()).unwrap_or_else(|| token.to_string())
}
