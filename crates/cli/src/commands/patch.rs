//! `rheostat patch`: where in a model a difference between two texts comes from.

use std::sync::atomic::Ordering;

use anyhow::{anyhow, bail};
use rheostat::decoder::Decoder;
use rheostat::hooks::{Point, PointInfo, matching};
use rheostat::patch::{Experiment, Metric, Patched, Unit, patch};
use rheostat::{Error, Model, Options, check_tokens};
use serde_json::{Value, json};

use super::lens::{Shown, counting, publish};
use crate::args::{MetricArgs, PatchArgs};
use crate::file::NewFile;
use crate::grid::{self, Align, Grid};
use crate::page::{Axis, Scale, View};
use crate::tokens::Tokens;
use crate::{interrupt, session};

/// Rows that copies of the text should have together in a pass: more make it no faster.
const ROWS: usize = 512;
/// Copies that share a pass at the most.
const MOST_TOGETHER: usize = 128;
/// Characters of a column.
const COLUMN: usize = 10;

pub(crate) fn run(args: &PatchArgs) -> anyhow::Result<()> {
    let package = session::open(&args.model)?;
    let words = Tokens::of(&package);
    let text = |flag: &str, text: &Option<String>, tokens: &[u32]| {
        let tokens = text.as_ref().map_or_else(|| Ok(tokens.to_vec()), |text| words.encode(text))?;
        if tokens.is_empty() { Err(anyhow!("--{flag} is empty; give at least one token")) } else { Ok(tokens) }
    };
    let clean = text("clean", &args.clean, &args.clean_tokens)?;
    let corrupted = text("corrupted", &args.corrupted, &args.corrupted_tokens)?;
    let decoder = package.describe()?;
    check_tokens(&decoder, &clean, 0)?;
    check_tokens(&decoder, &corrupted, 0)?;
    if clean.len() != corrupted.len() {
        bail!(
            "{}; they are {} and {}",
            Error::PatchLengths { clean: clean.len(), corrupted: corrupted.len() },
            spelled(&words, &clean),
            spelled(&words, &corrupted)
        );
    }
    let Some(metric) = metric(&args.metric, &words)? else { bail!("--answer is missing; give the token to measure") };
    let experiment = Experiment {
        clean: &clean,
        corrupted: &corrupted,
        sites: sites(args, &decoder)?,
        unit: if args.heads { Unit::Head } else { Unit::Position },
        metric,
    };
    experiment.check(&decoder)?;
    let html = args.result.html.as_deref().map(NewFile::create).transpose()?;
    let rows = clean.len() - experiment.first().min(clean.len() - 1);
    let most = experiment.copies().min(MOST_TOGETHER).min((ROWS / rows).max(1));
    let (plan, own) = (experiment.plan(), session::options(&args.run));
    let options = session::together(&package, most, |sequences| Options {
        context: Some(clean.len() * sequences),
        sequences,
        hooks: plan.points,
        reserve: own.reserve + plan.bytes,
        ..own.clone()
    })?;
    let mut model = Model::load(&package, &options)?;
    interrupt::listen(model.cancel_switch())?;
    let (status, done) = counting("patched texts", experiment.copies());
    let patched = patch(&mut model, &experiment, |n, _| done.store(n as u64, Ordering::Relaxed))?;
    drop(status);
    let shown = Report { args, name: package.name(), words: &words, experiment: &experiment, patched: &patched };
    publish(&args.result, html, &model, shown.shown())
}

/// A text's tokens in quotes.
fn spelled(words: &Tokens, tokens: &[u32]) -> String {
    let shown: Vec<String> = tokens.iter().map(|token| words.shown(*token)).collect();
    format!("\"{}\"", shown.join("|"))
}

/// What is measured, if anything is.
pub(crate) fn metric(args: &MetricArgs, words: &Tokens) -> anyhow::Result<Option<Metric>> {
    let find = |flag: &str, text: &Option<String>| text.as_deref().map(|text| words.find(flag, text)).transpose();
    Ok(match (find("answer", &args.answer)?, find("wrong", &args.wrong)?) {
        (None, _) => None,
        (Some(answer), None) => Some(Metric::LogProbability(answer)),
        (Some(answer), Some(wrong)) if answer == wrong => {
            bail!("--answer and --wrong are the same token, so that there is no difference to measure; give two")
        }
        (Some(answer), Some(wrong)) => Some(Metric::LogitDifference(answer, wrong)),
    })
}

/// What a metric is, in words.
pub(crate) fn metric_words(metric: Metric, words: &Tokens) -> String {
    match metric {
        Metric::LogitDifference(answer, wrong) => {
            format!("the logit of {:?} less that of {:?}", words.shown(answer), words.shown(wrong))
        }
        Metric::LogProbability(answer) => format!("the logarithm of the probability of {:?}", words.shown(answer)),
    }
}

/// The points that --point names.
fn sites(args: &PatchArgs, decoder: &Decoder) -> anyhow::Result<Vec<PointInfo>> {
    let name = args.point.as_deref().unwrap_or(if args.heads { "attn.hook_z" } else { "hook_resid_post" });
    let whole = name.contains('*') || Point::parse(name).is_some();
    let pattern = if whole { name.to_owned() } else { format!("blocks.*.{name}") };
    Ok(matching(decoder, &pattern)?)
}

struct Report<'a> {
    args: &'a PatchArgs,
    name: &'a str,
    words: &'a Tokens,
    experiment: &'a Experiment<'a>,
    patched: &'a Patched,
}

impl Report<'_> {
    fn shown(&self) -> Shown {
        let Patched { clean, corrupted, first, .. } = *self.patched;
        let what = metric_words(self.experiment.metric, self.words);
        let mut lines = vec![format!(
            "Measured is {what}, after the last position: {clean:.4} for the clean text, {corrupted:.4} for the corrupted one."
        )];
        let same_points = self.experiment.sites.iter().all(|info| info.point == self.experiment.sites[0].point);
        let point =
            if same_points { self.experiment.sites[0].point.suffix().to_owned() } else { "several points".to_owned() };
        lines.push(match self.experiment.unit {
            Unit::Position => format!(
                "Each cell: {point} of one position taken from the clean text. 0 is the corrupted text, 1 the clean one. (Before position \
                 {first} the texts are the same.)"
            ),
            Unit::Head => format!(
                "Each cell: {point} of one head taken from the clean text, at all positions. 0 is the corrupted text, 1 the clean one."
            ),
        });
        if clean == corrupted {
            lines.push(
                "Both texts measure the same, so that shares have no meaning: the measure itself is shown.".to_owned(),
            );
        }
        let columns = self.columns();
        let rows = self.rows();
        // What is the same in both texts needs no room on a terminal.
        let from = if self.experiment.unit == Unit::Position { first } else { 0 };
        let cells = |row: &Vec<Option<f64>>| row[from..].iter().map(|value| self.cell(*value)).collect();
        let grid = Grid {
            corner: if same_points { "block".to_owned() } else { "point".to_owned() },
            columns: columns[from..].to_vec(),
            rows: rows.iter().cloned().zip(self.patched.values.iter().map(cells)).collect(),
            most: COLUMN,
            align: Align::Right,
        };
        let tip = |value: &Option<f64>| {
            value
                .map_or_else(String::new, |value| format!("share {:.4}\n{what}: {value:.5}", self.patched.share(value)))
        };
        let values = |row: &Vec<Option<f64>>| row.iter().map(|value| value.map(|value| self.share(value))).collect();
        let view = View {
            name: point.clone(),
            x: Axis { title: if self.args.heads { "head" } else { "position" }.to_owned(), ticks: columns },
            y: Axis { title: grid.corner.clone(), ticks: rows },
            values: self.patched.values.iter().map(values).collect(),
            texts: None,
            tips: Some(self.patched.values.iter().map(|row| row.iter().map(tip).collect()).collect()),
            scale: Scale::Share,
            legend: "0: as the corrupted text, 1: as the clean one".to_owned(),
        };
        Shown {
            title: format!("Activation patching of {point} in {}", self.name),
            lines,
            table: grid.text(grid::width()),
            views: vec![view],
            object: self.object(),
        }
    }

    /// A share, or the measure itself where there are no shares.
    fn share(&self, value: f64) -> f64 {
        if self.patched.clean == self.patched.corrupted { value } else { self.patched.share(value) }
    }

    fn cell(&self, value: Option<f64>) -> String {
        value.map_or_else(String::new, |value| format!("{:.3}", self.share(value)))
    }

    /// Positions with the tokens of both texts, or heads.
    fn columns(&self) -> Vec<String> {
        let Experiment { clean, corrupted, .. } = self.experiment;
        match self.experiment.unit {
            Unit::Head => (0..self.patched.values.first().map_or(0, Vec::len)).map(|head| head.to_string()).collect(),
            Unit::Position => {
                let shown = |token: u32| self.words.shown(token);
                let both = clean.iter().zip(*corrupted).enumerate();
                both.map(|(i, (a, b))| match a == b {
                    true => format!("{i} {}", shown(*a)),
                    false => format!("{i} {}/{}", shown(*a), shown(*b)),
                })
                .collect()
            }
        }
    }

    fn rows(&self) -> Vec<String> {
        let same_points = self.experiment.sites.iter().all(|info| info.point == self.experiment.sites[0].point);
        let name = |info: &PointInfo| match info.block {
            Some(block) if same_points => block.to_string(),
            _ => info.name.clone(),
        };
        self.experiment.sites.iter().map(name).collect()
    }

    fn object(&self) -> Value {
        let Patched { clean, corrupted, first, values } = self.patched;
        let row = |(info, values): (&PointInfo, &Vec<Option<f64>>)| {
            let shares: Vec<Option<f64>> = values
                .iter()
                .map(|value| value.map(|value| self.patched.share(value)).filter(|share| share.is_finite()))
                .collect();
            json!({"point": info.name, "block": info.block, "values": values, "shares": shares})
        };
        let (answer, wrong) = match self.experiment.metric {
            Metric::LogitDifference(answer, wrong) => (answer, Some(wrong)),
            Metric::LogProbability(answer) => (answer, None),
        };
        json!({
            "model": self.name,
            "clean": self.experiment.clean,
            "corrupted": self.experiment.corrupted,
            "answer": {"token": answer, "text": self.words.text(answer)},
            "wrong": wrong.map(|wrong| json!({"token": wrong, "text": self.words.text(wrong)})),
            "metric": if wrong.is_some() { "logit difference" } else { "log probability" },
            "by": if self.args.heads { "head" } else { "position" },
            "clean_value": clean,
            "corrupted_value": corrupted,
            "first_difference": first,
            "rows": self.experiment.sites.iter().zip(values).map(row).collect::<Vec<_>>(),
        })
    }
}
