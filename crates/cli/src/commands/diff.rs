//! `rheostat diff`: which operation is the first that is wrong, given that its inputs were right.

mod traces;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use rheostat::diff::hash::Weights;
use rheostat::diff::noise::Precision;
use rheostat::diff::report::{Outcome, Side};
use rheostat::diff::{Evaluator, Examiner, Inputs, Recorded, Report, TraceFile, common_points, record};
use rheostat::hooks::{Capture, PointInfo, Points, Positions, TraceInfo, catalog};
use rheostat::{Compute, Error, Input, KvFormat, LogitRows, Model, Options, Package, Want, check_tokens};
use tempfile::TempPath;

use crate::args::DiffArgs;
use crate::status::Status;
use crate::{interrupt, output, session};

pub(crate) fn run(args: &DiffArgs) -> anyhow::Result<()> {
    match (is_trace(&args.a), is_trace(&args.b)) {
        (true, true) => traces::run(args),
        (false, true) => {
            no_text(args)?;
            ensure!(
                args.compute_b.is_none() && args.set_b.is_empty(),
                "{} is a trace, which has no options",
                args.b.display()
            );
            let package = open(&args.a, &args.set)?;
            let trace = TraceFile::open(&args.b)?;
            finish(args, &against(args, &package, args.run.compute, &trace, None)?)
        }
        (true, false) => {
            no_text(args)?;
            // The model is what can be run again, wherever it stands.
            let package = open(&args.b, &args.set_b)?;
            ensure!(
                args.set.is_empty(),
                "{} is a trace, which has no options; the model's are --set-b",
                args.a.display()
            );
            let trace = TraceFile::open(&args.a)?;
            let compute = args.compute_b.unwrap_or(args.run.compute);
            finish(args, &against(args, &package, compute, &trace, None)?)
        }
        (false, false) => models(args),
    }
}

/// Whether a side is a file, as traces are, rather than a model's directory.
fn is_trace(path: &Path) -> bool {
    path.is_file()
}

/// The text of a comparison with a trace is the trace's.
fn no_text(args: &DiffArgs) -> anyhow::Result<()> {
    ensure!(
        args.tokens.is_empty() && args.prompt.is_none(),
        "the text is that of the trace; leave out --tokens and --prompt"
    );
    Ok(())
}

/// Opens a model, with the keys of its configuration that are to be others.
pub(crate) fn open(model: &Path, set: &[String]) -> anyhow::Result<Package> {
    let mut package = session::open(model)?;
    for text in set {
        let Some((key, value)) = text.split_once('=') else {
            bail!("{text}: write KEY=VALUE, such as rope_theta=10000")
        };
        // What is no JSON is a word.
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        package.set_config(key, value)?;
    }
    Ok(package)
}

/// Two models over one text: the second is recorded, then the first is held against that.
fn models(args: &DiffArgs) -> anyhow::Result<()> {
    let (a, b) = (open(&args.a, &args.set)?, open(&args.b, &args.set_b)?);
    ensure!(args.prompt.is_some() || !args.tokens.is_empty(), "two models need a text: give --prompt or --tokens");
    let tokens = session::text(&a, args.prompt.as_deref(), &args.tokens)?;
    let (of_a, of_b) = (a.describe()?, b.describe()?);
    check_tokens(&of_a, &tokens, 0)?;
    check_tokens(&of_b, &tokens, 0)?;
    let compute = args.compute_b.unwrap_or(args.run.compute);
    let own: BTreeMap<String, PointInfo> = catalog(&of_a).into_iter().map(|info| (info.name.clone(), info)).collect();
    let points: Vec<PointInfo> = catalog(&of_b)
        .into_iter()
        .filter(|info| own.get(&info.name).is_none_or(|other| other.shape == info.shape))
        .collect();
    let mut model = load(args, &b, compute, tokens.len(), &points)?;
    let file = temporary()?;
    let trace = {
        let status = reading(&model, "recording B", 1);
        let mut capture = Capture::new(points, Positions::all(), tokens.len(), spool()?);
        let mut sequence = model.sequence(tokens.len());
        for chunk in tokens.chunks(model.max_rows()) {
            model.forward_hooked(
                &mut [Input { sequence: &mut sequence, tokens: chunk, want: Want::All }],
                &mut capture,
            )?;
        }
        drop(status);
        let info = TraceInfo {
            model: b.name().to_owned(),
            model_type: of_b.family.to_owned(),
            compute,
            tokens: tokens.clone(),
            prompt_len: tokens.len(),
            weights: None,
        };
        write(&file, |out| capture.finish(&info, out).map(drop))?;
        TraceFile::open(&file)?
    };
    drop(model);
    let same = std::fs::canonicalize(&args.a).ok().zip(std::fs::canonicalize(&args.b).ok()).is_none_or(|(a, b)| a == b);
    let hashed = if same || args.no_weights { None } else { Some(session::hash(&b, "hashing the weights of B")?) };
    let mut report = against(args, &a, args.run.compute, &trace, hashed)?;
    report.b.name = describe(b.name(), &args.set_b);
    finish(args, &report)
}

/// The model of `package`, computing in `compute`, against a trace; `weights` are the hashes of the trace's, if it has none itself.
fn against(
    args: &DiffArgs,
    package: &Package,
    compute: Compute,
    trace: &TraceFile,
    weights: Option<BTreeMap<String, String>>,
) -> anyhow::Result<Report> {
    let decoder = package.describe()?;
    let text = trace.text();
    let evaluator = Evaluator::new(&decoder, package.checkpoint(), trace, text)?;
    trace.check(evaluator.ops(), decoder.vocab_size)?;
    check_tokens(&decoder, &text.tokens[..text.positions.last().map_or(0, |last| last + 1)], 0)?;
    let points = common_points(trace, &decoder);
    ensure!(
        !points.is_empty(),
        "{} and {} have no hook point in common; what the model has is listed by `rheostat hooks`",
        package.name(),
        trace.path().display()
    );
    let mut model = load(args, package, compute, text.tokens.len(), &points)?;
    let (own, put) = (temporary()?, temporary()?);
    let status = reading(&model, "computing", 2);
    let spools = (spool()?, spool()?);
    write(&own, |out| record(&mut model, trace, Inputs::Own, points.clone(), spools.0, out))?;
    write(&put, |out| record(&mut model, trace, Inputs::Recorded, points.clone(), spools.1, out))?;
    drop(status);
    drop(model);
    let (own, put) = (TraceFile::open(&own)?, TraceFile::open(&put)?);
    let theirs = weights.or_else(|| trace.weights.clone());
    let weights = match theirs.filter(|_| !args.no_weights) {
        Some(theirs) => Some(Weights::compare(&session::hash(package, "hashing the weights")?, &theirs)),
        None => None,
    };
    let ours = match args.run.kv_cache {
        KvFormat::F32 => Precision::of(compute),
        // Keys and values are rounded to bf16 where they are kept.
        KvFormat::Bf16 => Precision::REDUCED,
    };
    let mut examiner = Examiner::new(&evaluator, ours, trace.precision()?);
    weights.iter().for_each(|weights| examiner.set_weights(weights));
    let mut names: Vec<&str> = Vec::new();
    for op in evaluator.ops() {
        if trace.has(&op.point) && !names.contains(&op.point.as_str()) {
            names.push(&op.point);
        }
    }
    for name in names {
        examiner.examine_from(name, &put, Some(&own))?;
        if interrupt::happened() {
            return Err(Error::Cancelled.into());
        }
    }
    let side = Side {
        name: describe(package.name(), if is_trace(&args.a) { &args.set_b } else { &args.set }),
        engine: format!("rheostat {}", env!("CARGO_PKG_VERSION")),
        dtype: compute.name().to_owned(),
    };
    Ok(examiner.finish(side, trace, weights))
}

/// A model and what was set for it.
fn describe(name: &str, set: &[String]) -> String {
    if set.is_empty() { name.to_owned() } else { format!("{name} with {}", set.join(", ")) }
}

fn load(
    args: &DiffArgs,
    package: &Package,
    compute: Compute,
    tokens: usize,
    points: &[PointInfo],
) -> anyhow::Result<Model> {
    let hooks: Points = points.iter().map(|info| info.point).collect();
    let logits = if hooks.any_final() { LogitRows::All } else { LogitRows::Last };
    let options = Options { context: Some(tokens), hooks, logits, compute, ..session::options(&args.run) };
    let model = Model::load(package, &options)?;
    interrupt::listen(model.cancel_switch())?;
    Ok(model)
}

fn reading(model: &Model, what: &str, passes: u64) -> Status {
    let status = Status::new(model.reading_watch());
    status.begin(what, 0, model.plan().pinned + passes * model.plan().streamed);
    status
}

/// A file for a trace that only this comparison needs.
fn temporary() -> anyhow::Result<TempPath> {
    let file = tempfile::Builder::new().prefix("rheostat-diff").tempfile();
    Ok(file.context("a temporary file cannot be made; check TMPDIR and the room there")?.into_temp_path())
}

fn spool() -> anyhow::Result<File> {
    tempfile::tempfile().context("a temporary file cannot be made; check TMPDIR and the room there")
}

fn write(path: &TempPath, write: impl FnOnce(&mut dyn Write) -> Result<(), Error>) -> anyhow::Result<()> {
    let what = || format!("{} cannot be written; check TMPDIR and the room there", path.display());
    let mut out = BufWriter::with_capacity(1 << 18, File::create(path).with_context(what)?);
    write(&mut out)?;
    out.flush().with_context(what)
}

fn finish(args: &DiffArgs, report: &Report) -> anyhow::Result<()> {
    if args.json {
        output::print_json(report)?;
    } else {
        output::print(&report.text())?;
    }
    match &report.outcome {
        Outcome::Identical | Outcome::Noise => Ok(()),
        Outcome::Wrong { point, .. } => bail!("{} and {} part at {point}", report.a.name, report.b.name),
        Outcome::NothingCompared => bail!("nothing could be compared"),
    }
}
