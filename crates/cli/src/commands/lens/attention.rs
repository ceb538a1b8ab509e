//! Patterns of attention.

use anyhow::bail;
use rheostat::LogitRows;
use rheostat::lens::{Patterns, patterns, patterns_plan};
use serde_json::json;

use super::{Look, Shown, counting};
use crate::args::Head;
use crate::grid::{self, Align, Grid};
use crate::page::{Axis, Scale, View};

/// Characters of a column.
const COLUMN: usize = 8;

pub(super) fn run(look: Look<'_>, asked: Head) -> anyhow::Result<()> {
    let decoder = look.package.describe()?;
    if asked.block >= decoder.blocks.len() {
        bail!("--attention: there is no block {}; the model has {}, from 0 on", asked.block, decoder.blocks.len());
    }
    let plan = match patterns_plan(&decoder, asked.block, look.tokens.len()) {
        Ok(plan) => plan,
        Err(_) => {
            let have = (0..decoder.blocks.len()).filter(|block| patterns_plan(&decoder, *block, 1).is_ok());
            let have: Vec<String> = have.map(|block| block.to_string()).collect();
            bail!("--attention: block {} has no patterns of attention; these have: {}", asked.block, have.join(", "));
        }
    };
    let mut model = look.load(plan, LogitRows::Last)?;
    let (status, _) = counting("reading", 0);
    let found = patterns(&mut model, &look.tokens, asked.block)?;
    drop(status);
    let heads: Vec<usize> = match asked.head {
        Some(head) if head >= found.heads => {
            bail!("--attention: block {} has no head {head}; it has {}, from 0 on", asked.block, found.heads)
        }
        Some(head) => vec![head],
        None => (0..found.heads).collect(),
    };
    let shown = show(&look, &found, &heads);
    look.finish(&model, shown)
}

fn show(look: &Look<'_>, found: &Patterns, heads: &[usize]) -> Shown {
    let positions: Vec<usize> = (0..look.tokens.len()).collect();
    let labels = look.words.labels(&look.tokens, &positions);
    let width = grid::width();
    let mut table = String::new();
    for head in heads {
        if !table.is_empty() {
            table.push('\n');
        }
        table += &format!("head {head}, in per cent\n");
        let percent = |weight: &f32| if *weight > 0.0 { format!("{:.0}", 100.0 * weight) } else { String::new() };
        let rows = found.rows[*head].iter().map(|row| row.iter().map(percent).collect());
        let grid = Grid {
            corner: "query".to_owned(),
            columns: labels.clone(),
            rows: labels.iter().cloned().zip(rows).collect(),
            most: COLUMN,
            align: Align::Right,
        };
        table += &grid.text(width);
    }
    let view = |head: &usize| {
        let full = |row: &Vec<f32>| {
            let mut cells: Vec<Option<f64>> = row.iter().map(|weight| Some(f64::from(*weight))).collect();
            cells.resize(positions.len(), None);
            cells
        };
        View {
            name: format!("head {head}"),
            x: Axis { title: "key".to_owned(), ticks: labels.clone() },
            y: Axis { title: "query".to_owned(), ticks: labels.clone() },
            values: found.rows[*head].iter().map(full).collect(),
            texts: None,
            tips: None,
            scale: Scale::Unit,
            legend: "share of attention".to_owned(),
        }
    };
    Shown {
        title: format!("Attention in block {} of {}", found.block, look.package.name()),
        lines: vec![format!("What each position of the text sees in block {}, head by head.", found.block)],
        table,
        views: heads.iter().map(view).collect(),
        object: json!({
            "model": look.package.name(),
            "tokens": look.tokens,
            "texts": look.tokens.iter().map(|token| look.words.text(*token)).collect::<Vec<_>>(),
            "block": found.block,
            "heads": heads.iter().map(|head| json!({"head": head, "pattern": found.rows[*head]})).collect::<Vec<_>>(),
        }),
    }
}
