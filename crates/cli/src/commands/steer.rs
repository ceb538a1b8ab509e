//! `rheostat steer`: one text under changes, with one factor of what is added after the other.

use std::sync::atomic::Ordering;

use anyhow::{anyhow, ensure};
use rheostat::hooks::{Change, Edit, Edits, Hooks};
use rheostat::patch::{Metric, Variant, variants};
use rheostat::{Model, Options, check_tokens};
use serde_json::{Value, json};

use super::lens::{Shown, counting, publish};
use super::patch::{metric, metric_words};
use crate::args::SteerArgs;
use crate::edits::{Lengths, edits};
use crate::file::NewFile;
use crate::grid::{self, Align, Grid};
use crate::page::{Axis, Scale, View};
use crate::tokens::Tokens;
use crate::{interrupt, session};

/// Texts that share a pass at the most.
const MOST_TOGETHER: usize = 64;
/// Characters of a column.
const COLUMN: usize = 24;

pub(crate) fn run(args: &SteerArgs) -> anyhow::Result<()> {
    ensure!(!args.edits.add.is_empty(), "nothing is added that could be scaled: give --add SITE=VALUES");
    let package = session::open(&args.model)?;
    let words = Tokens::of(&package);
    let tokens = session::text(&package, args.text.prompt.as_deref(), &args.text.tokens)?;
    let decoder = package.describe()?;
    check_tokens(&decoder, &tokens, 0)?;
    let metric = metric(&args.metric, &words)?;
    let lengths = Lengths { prompt: tokens.len(), all: tokens.len() };
    let changes = edits(&args.edits, &decoder, &lengths)?;
    let scaled = args.scales.iter().map(|scale| Edits::new(scaled(&changes, *scale), tokens.len()));
    let all = scaled.collect::<Result<Vec<Edits>, _>>().map_err(|e| anyhow!(e))?;
    let html = args.result.html.as_deref().map(NewFile::create).transpose()?;
    let points = all[0].points();
    let options = session::together(&package, all.len().min(MOST_TOGETHER), |sequences| Options {
        context: Some(tokens.len() * sequences),
        sequences,
        hooks: points,
        ..session::options(&args.run)
    })?;
    let mut model = Model::load(&package, &options)?;
    interrupt::listen(model.cancel_switch())?;
    let (status, done) = counting("factors", all.len());
    let found =
        variants(&mut model, &tokens, all, metric, args.top.get(), |n| done.store(n as u64, Ordering::Relaxed))?;
    drop(status);
    let shown = show(args, package.name(), &words, &tokens, metric, &found);
    publish(&args.result, html, &model, shown)
}

/// `changes` with everything that is added multiplied by `scale`.
fn scaled(changes: &[Edit], scale: f32) -> Vec<Edit> {
    let scaled = |change: &Change| match change {
        Change::Add(values, factor) => Change::Add(values.clone(), factor * scale),
        other => other.clone(),
    };
    let edit = |edit: &Edit| Edit {
        places: edit.places.iter().map(|(point, block, change)| (*point, *block, scaled(change))).collect(),
        ..edit.clone()
    };
    changes.iter().map(edit).collect()
}

fn show(
    args: &SteerArgs,
    name: &str,
    words: &Tokens,
    tokens: &[u32],
    metric: Option<Metric>,
    found: &[Variant],
) -> Shown {
    let mut columns: Vec<String> = metric.iter().map(|_| "measure".to_owned()).collect();
    let places = found.iter().map(|variant| variant.top.len()).max().unwrap_or(0);
    columns.extend((1..=places).map(|place| place.to_string()));
    let labels: Vec<String> = args.scales.iter().map(ToString::to_string).collect();
    let row = |variant: &Variant| {
        let measure = variant.metric.map(|value| format!("{value:.4}"));
        let top = variant.top.iter().map(|(token, p)| format!("{} {:.1}%", words.shown(*token), 100.0 * p));
        measure.into_iter().chain(top).collect()
    };
    let grid = Grid {
        corner: "factor".to_owned(),
        columns,
        rows: labels.iter().cloned().zip(found.iter().map(row)).collect(),
        most: COLUMN,
        align: Align::Left,
    };
    let measured = metric.map(|metric| format!("Measured is {}.", metric_words(metric, words)));
    let mut lines = vec!["What the text is followed by when what is added is multiplied by each factor.".to_owned()];
    lines.extend(measured);
    let tip = |variant: &Variant, (token, probability): &(u32, f64)| {
        let measure = variant.metric.map_or_else(String::new, |value| format!("\nmeasure {value:.5}"));
        format!("{}: {:.4}%{measure}", words.shown(*token), 100.0 * probability)
    };
    let view = View {
        name: "likeliest tokens".to_owned(),
        x: Axis { title: "place".to_owned(), ticks: (1..=places).map(|place| place.to_string()).collect() },
        y: Axis { title: "factor".to_owned(), ticks: labels },
        values: found.iter().map(|variant| variant.top.iter().map(|(_, p)| Some(*p)).collect()).collect(),
        texts: Some(found.iter().map(|v| v.top.iter().map(|(token, _)| words.shown(*token)).collect()).collect()),
        tips: Some(found.iter().map(|variant| variant.top.iter().map(|top| tip(variant, top)).collect()).collect()),
        scale: Scale::Unit,
        legend: "probability".to_owned(),
    };
    Shown {
        title: format!("Steering {name}"),
        lines,
        table: grid.text(grid::width()),
        views: vec![view],
        object: object(args, name, words, tokens, found),
    }
}

fn object(args: &SteerArgs, name: &str, words: &Tokens, tokens: &[u32], found: &[Variant]) -> Value {
    let run = |(scale, variant): (&f32, &Variant)| {
        let top = variant.top.iter().map(
            |(token, probability)| json!({"token": token, "text": words.text(*token), "probability": probability}),
        );
        json!({"scale": scale, "metric": variant.metric, "top": top.collect::<Vec<_>>()})
    };
    json!({
        "model": name,
        "tokens": tokens,
        "metric": args.metric.answer.as_ref().map(|_| if args.metric.wrong.is_some() { "logit difference" } else { "log probability" }),
        "runs": args.scales.iter().zip(found).map(run).collect::<Vec<_>>(),
    })
}
