//! Direct logit attribution.

use anyhow::ensure;
use rheostat::LogitRows;
use rheostat::lens::{Attribution, Detail, Difference, Part, PartKind, attribution, attribution_plan};
use serde_json::{Value, json};

use super::{Look, Shown, counting};
use crate::grid::{self, Align, Grid};
use crate::page::{Axis, Scale, View};

/// Characters of a column.
const COLUMN: usize = 24;

pub(super) fn run(look: Look<'_>) -> anyhow::Result<()> {
    let positions = look.positions("-1")?;
    ensure!(positions.len() == 1, "--dla is about one position; give --positions one");
    let find = |flag: &str, text: &Option<String>| text.as_deref().map(|text| look.words.find(flag, text)).transpose();
    let what = Difference { of: find("target", &look.args.target)?, against: find("against", &look.args.against)? };
    let detail = if look.args.heads { Detail::Heads } else { Detail::Blocks };
    let decoder = look.package.describe()?;
    let mut model = look.load(attribution_plan(&decoder, detail), LogitRows::All)?;
    let (status, _) = counting("reading", 0);
    let found = attribution(&mut model, &look.tokens, positions[0], what, detail)?;
    drop(status);
    let shown = show(&look, &found, what, detail, decoder.blocks.len());
    look.finish(&model, shown)
}

fn show(look: &Look<'_>, found: &Attribution, what: Difference, detail: Detail, blocks: usize) -> Shown {
    let words = &look.words;
    let mut logit = format!("the logit of {:?}", words.shown(found.of));
    if let Some(against) = what.against {
        logit += &format!(" less that of {:?}", words.shown(against));
    }
    let mut lines = vec![format!(
        "What is added to {logit} after position {} ({:?}), with the final norm's scale as it is.",
        found.position,
        words.shown(look.tokens[found.position])
    )];
    let mut sum = format!(
        "The sum of all, with {} of biases: {}. The model's own: {}, which is {:.1e} off.",
        number(found.biases),
        number(found.sum),
        number(found.logit),
        (found.sum - found.logit).abs()
    );
    if let Some(capped) = found.capped {
        sum += &format!(" Its soft cap makes {} of that.", number(capped));
    }
    lines.push(sum);
    let map = Map::new(found, detail, blocks);
    let grid = match detail {
        Detail::Heads => map.grid(|part| number(part.value)),
        Detail::Blocks => map.grid(|part| format!("{}  {}", number(part.value), words.shown(part.promotes.0))),
    };
    let mut table = grid.text(grid::width());
    if detail == Detail::Blocks {
        table += "\nBeside each number is the token that is promoted most.\n";
    }
    let tip = |part: &Part| {
        format!(
            "adds {} to {logit}\npromotes {:?} most, by {}",
            number(part.value),
            words.shown(part.promotes.0),
            number(part.promotes.1)
        )
    };
    let view = View {
        name: "what is added".to_owned(),
        x: Axis { title: "part".to_owned(), ticks: map.columns.clone() },
        y: Axis { title: "block".to_owned(), ticks: map.rows.clone() },
        values: map.cells.iter().map(|row| row.iter().map(|part| part.map(|part| part.value)).collect()).collect(),
        texts: None,
        tips: Some(
            map.cells.iter().map(|row| row.iter().map(|part| part.map_or_else(String::new, tip)).collect()).collect(),
        ),
        scale: Scale::Signed,
        legend: format!("added to {logit}"),
    };
    Shown {
        title: format!("Direct logit attribution of {}", look.package.name()),
        lines,
        table,
        views: vec![view],
        object: object(look, found, what),
    }
}

/// Parts as a map: blocks by kinds.
struct Map<'a> {
    columns: Vec<String>,
    rows: Vec<String>,
    cells: Vec<Vec<Option<&'a Part>>>,
}

impl<'a> Map<'a> {
    fn new(found: &'a Attribution, detail: Detail, blocks: usize) -> Map<'a> {
        let heads = found.parts.iter().filter_map(|part| match part.kind {
            PartKind::Head(head) => Some(head + 1),
            _ => None,
        });
        let heads = heads.max().unwrap_or(0);
        let mut columns: Vec<String> = (0..heads).map(|head| format!("head {head}")).collect();
        columns.push(if detail == Detail::Heads { "other".to_owned() } else { "mixer".to_owned() });
        columns.push("feed-forward".to_owned());
        let column = |kind: PartKind| match kind {
            PartKind::Head(head) => head,
            PartKind::Embedding | PartKind::Position | PartKind::Mixer | PartKind::Rest => heads,
            PartKind::FeedForward => heads + 1,
        };
        let has_positions = found.parts.iter().any(|part| part.kind == PartKind::Position);
        let first = 1 + usize::from(has_positions);
        let mut rows = vec!["embed".to_owned()];
        rows.extend(has_positions.then(|| "positions".to_owned()));
        rows.extend((0..blocks).map(|block| block.to_string()));
        let mut cells = vec![vec![None; columns.len()]; rows.len()];
        for part in &found.parts {
            let row = match (part.kind, part.block) {
                (PartKind::Position, _) => 1,
                (_, None) => 0,
                (_, Some(block)) => first + block,
            };
            cells[row][column(part.kind)] = Some(part);
        }
        Map { columns, rows, cells }
    }

    fn grid(&self, cell: impl Fn(&Part) -> String) -> Grid {
        let row = |cells: &Vec<Option<&Part>>| cells.iter().map(|part| part.map_or_else(String::new, &cell)).collect();
        Grid {
            corner: "block".to_owned(),
            columns: self.columns.clone(),
            rows: self.rows.iter().cloned().zip(self.cells.iter().map(row)).collect(),
            most: COLUMN,
            align: Align::Left,
        }
    }
}

/// With its sign; what rounds to zero has none.
fn number(x: f64) -> String {
    let text = format!("{x:+.4}");
    if text == "-0.0000" { "+0.0000".to_owned() } else { text }
}

/// The name of a part for machines.
fn kind(kind: PartKind) -> &'static str {
    match kind {
        PartKind::Embedding => "hook_embed",
        PartKind::Position => "hook_pos_embed",
        PartKind::Mixer => "hook_attn_out",
        PartKind::Head(_) => "attn.hook_result",
        PartKind::Rest => "rest of hook_attn_out",
        PartKind::FeedForward => "hook_mlp_out",
    }
}

fn object(look: &Look<'_>, found: &Attribution, what: Difference) -> Value {
    let part = |part: &Part| {
        json!({
            "point": kind(part.kind),
            "block": part.block,
            "head": match part.kind { PartKind::Head(head) => Some(head), _ => None },
            "value": part.value,
            "promotes": {"token": part.promotes.0, "text": look.words.text(part.promotes.0), "by": part.promotes.1},
        })
    };
    json!({
        "model": look.package.name(),
        "tokens": look.tokens,
        "position": found.position,
        "target": {"token": found.of, "text": look.words.text(found.of)},
        "against": what.against.map(|token| json!({"token": token, "text": look.words.text(token)})),
        "parts": found.parts.iter().map(part).collect::<Vec<_>>(),
        "biases": found.biases,
        "sum": found.sum,
        "logit": found.logit,
        "capped": found.capped,
    })
}
