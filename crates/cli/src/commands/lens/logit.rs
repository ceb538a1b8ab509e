//! The logit lens.

use std::sync::atomic::Ordering;

use rheostat::LogitRows;
use rheostat::lens::{Lens, LensCell, LensRow, Target, lens_plan, logit_lens};
use serde_json::{Value, json};

use super::{Look, Shown, counting};
use crate::grid::{self, Align, Grid};
use crate::page::{Axis, Scale, View};
use crate::tokens::Tokens;

/// Characters of a column.
const COLUMN: usize = 16;

pub(super) fn run(look: Look<'_>) -> anyhow::Result<()> {
    let positions = look.positions(":")?;
    let asked = look.args.target.as_deref().map(|text| look.words.find("target", text)).transpose()?;
    let target = asked.map_or(Target::Next, Target::Token);
    let decoder = look.package.describe()?;
    let mut model = look.load(lens_plan(&decoder, positions.len()), LogitRows::All)?;
    let (status, done) = counting("places", (decoder.blocks.len() + 1) * positions.len());
    let top = look.args.top.get();
    let lens = logit_lens(&mut model, &look.tokens, &positions, target, top, |n, _| {
        done.store(n as u64, Ordering::Relaxed);
    })?;
    drop(status);
    let shown = show(&look, &lens, asked);
    look.finish(&model, shown)
}

fn show(look: &Look<'_>, lens: &Lens, asked: Option<u32>) -> Shown {
    let words = &look.words;
    let labels = words.labels(&look.tokens, &lens.positions);
    let grid = |cell: &dyn Fn(&LensCell) -> String| Grid {
        corner: "block".to_owned(),
        columns: labels.clone(),
        rows: lens.rows.iter().map(|row| (name(row), row.cells.iter().map(cell).collect())).collect(),
        most: COLUMN,
        align: Align::Left,
    };
    let width = grid::width();
    let likeliest = grid(&|cell| {
        let (token, probability) = cell.top.first().copied().unwrap_or_default();
        format!("{} {:.0}%", words.shown(token), 100.0 * probability)
    });
    let mut table = likeliest.text(width);
    if let Some(target) = asked {
        table += &format!("\nprobability of {:?}, and its rank\n\n", words.shown(target));
        let target = grid(&|cell| format!("{} {}", percent(cell.log_probability.exp()), cell.rank));
        table += &target.text(width);
    }
    let mut views = vec![view(words, lens, labels.clone(), None)];
    views.push(view(words, lens, labels, Some("the target")));
    Shown {
        title: format!("Logit lens of {}", look.package.name()),
        lines: vec![
            "The likeliest token after each position, if the residual stream went from there to the final norm and the head."
                .to_owned(),
        ],
        table,
        views,
        object: object(look, lens),
    }
}

/// The name of a row.
fn name(row: &LensRow) -> String {
    row.block.map_or_else(|| "embed".to_owned(), |block| block.to_string())
}

fn percent(probability: f64) -> String {
    let percent = 100.0 * probability;
    if percent >= 0.1 || percent == 0.0 { format!("{percent:.1}%") } else { format!("{percent:.0e}%") }
}

/// The map of the likeliest tokens, or of the targets.
fn view(words: &Tokens, lens: &Lens, ticks: Vec<String>, of_target: Option<&str>) -> View {
    let probability = |cell: &LensCell| match of_target {
        Some(_) => cell.log_probability.exp(),
        None => cell.top.first().map_or(0.0, |(_, probability)| *probability),
    };
    let text = |cell: &LensCell| match of_target {
        Some(_) => percent(cell.log_probability.exp()),
        None => cell.top.first().map_or_else(String::new, |(token, _)| words.shown(*token)),
    };
    let tip = |i: usize, cell: &LensCell| {
        let mut tip: String = cell
            .top
            .iter()
            .map(|(token, probability)| format!("{:>7}  {}\n", percent(*probability), words.shown(*token)))
            .collect();
        let target = words.shown(lens.targets[i]);
        tip += &format!("target {target}: {}, rank {}", percent(cell.log_probability.exp()), cell.rank);
        tip
    };
    let rows = |f: &dyn Fn(usize, &LensCell) -> String| -> Vec<Vec<String>> {
        lens.rows.iter().map(|row| row.cells.iter().enumerate().map(|(i, cell)| f(i, cell)).collect()).collect()
    };
    View {
        name: of_target.unwrap_or("the likeliest token").to_owned(),
        x: Axis { title: "position".to_owned(), ticks },
        y: Axis { title: "block".to_owned(), ticks: lens.rows.iter().map(name).collect() },
        values: lens.rows.iter().map(|row| row.cells.iter().map(|cell| Some(probability(cell))).collect()).collect(),
        texts: Some(rows(&|_, cell| text(cell))),
        tips: Some(rows(&tip)),
        scale: Scale::Unit,
        legend: format!("probability of {}", of_target.unwrap_or("the likeliest token")),
    }
}

fn object(look: &Look<'_>, lens: &Lens) -> Value {
    let word = |token: u32| look.words.text(token);
    let cell = |cell: &LensCell| {
        json!({
            "top": cell.top.iter().map(|(token, probability)| json!({
                "token": token, "text": word(*token), "probability": probability,
            })).collect::<Vec<_>>(),
            "log_probability": cell.log_probability,
            "rank": cell.rank,
        })
    };
    json!({
        "model": look.package.name(),
        "tokens": look.tokens,
        "texts": look.tokens.iter().map(|token| word(*token)).collect::<Vec<_>>(),
        "positions": lens.positions,
        "targets": lens.targets,
        "rows": lens.rows.iter().map(|row| json!({
            "point": row.point,
            "block": row.block,
            "cells": row.cells.iter().map(cell).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}
