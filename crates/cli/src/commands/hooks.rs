//! `rheostat hooks`: the hook points of a model, and the shapes of what is there.

use std::fmt::Write;

use rheostat::hooks::{PointInfo, Shape, catalog, matching};
use serde_json::{Value, json};

use crate::args::HooksArgs;
use crate::{output, session};

pub(crate) fn run(args: &HooksArgs) -> anyhow::Result<()> {
    let decoder = session::open(&args.model)?.describe()?;
    let points = match &args.pattern {
        Some(pattern) => matching(&decoder, pattern)?,
        None => catalog(&decoder),
    };
    if args.json {
        return output::print_json(&points.iter().map(entry).collect::<Vec<_>>());
    }
    output::print(&table(&points))
}

fn entry(info: &PointInfo) -> Value {
    let shape = match &info.shape {
        Shape::Rows(dims) => [json!("row")].into_iter().chain(dims.iter().map(|dim| json!(dim))).collect(),
        Shape::Keys(heads) => vec![json!(heads), json!("row"), json!("key")],
    };
    json!({
        "name": info.name,
        "shape": shape,
        "dtype": if info.point.is_index() { "int32" } else { "float32" },
        "can_be_changed": info.point.can_be_changed(),
    })
}

fn table(points: &[PointInfo]) -> String {
    let width = points.iter().map(|info| info.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for info in points {
        let note = if info.point.can_be_changed() { "" } else { "  (can only be read)" };
        let _ = writeln!(text, "{:width$}  {}{note}", info.name, info.shape.words());
    }
    text
}
