//! A report and its trace as one page that needs nothing else: text, and a timeline that a small script draws from
//! numbers in the page.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use rheostat::profile::Op;
use rheostat::trace::{Event, Trace, Track, What};
use serde_json::json;

use super::perfetto::track_name;
use super::report::{Report, phase_name};
use crate::page::{escape, fill, script_json};

/// The page, with marks where things go.
const PAGE: &str = include_str!("page.html");

/// Kinds of events after the operations: how the page knows them.
const WAIT: usize = Op::COUNT;
const PREFILL: usize = Op::COUNT + 1;
const DECODE: usize = Op::COUNT + 2;
const STREAMED: usize = Op::COUNT + 3;
const STAYS: usize = Op::COUNT + 4;
const WORK: usize = Op::COUNT + 5;

pub(super) fn write(out: &mut dyn Write, trace: &Trace<'_>, report: &Report) -> io::Result<()> {
    fill(PAGE, out, |mark, out| match mark {
        "title" => escape(out, &report.name),
        "report" => escape(out, &report.text()),
        "verdicts" => report.phases.iter().try_for_each(|p| {
            out.write_all(b"<p><b>")?;
            escape(out, phase_name(p.phase))?;
            out.write_all(b"</b> ")?;
            escape(out, &p.verdict.sentence)?;
            out.write_all(b"</p>\n")
        }),
        "data" => data(out, trace, report),
        mark => Err(io::Error::other(format!("the template has an unknown mark {mark}"))),
    })
}

/// What the script draws. An event is six numbers: nanoseconds after the start of the one before it on its track, how
/// many it took, its kind, and three that depend on that.
fn data(out: &mut dyn Write, trace: &Trace<'_>, report: &Report) -> io::Result<()> {
    let mut kinds: Vec<&str> = Op::ALL.iter().map(|op| op.name()).collect();
    kinds.extend(["waiting for the disk", "prefill", "decode", "read, streams", "read, stays", "work"]);
    let mut files: BTreeMap<&Path, usize> = BTreeMap::new();
    let reads = trace.tracks().filter(|track| matches!(track, Track::Reads(_)));
    for event in reads.flat_map(|track| trace.events(track)) {
        if let What::Read { file, .. } = event.what {
            let next = files.len();
            files.entry(file).or_insert(next);
        }
    }
    let mut names = vec![String::new(); files.len()];
    for (path, index) in &files {
        names[*index] = path.to_string_lossy().into_owned();
    }
    let facts = json!({ "model": report.name, "kinds": kinds, "ops": Op::COUNT, "files": names, "cut": trace.cut() });
    let text = script_json(&facts)?;
    write!(out, "{},\"tracks\":[", text.trim_end_matches('}'))?;
    for (i, track) in trace.tracks().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        write!(out, "{comma}\n{{\"name\":{},\"e\":[", script_json(&json!(track_name(track)))?)?;
        let mut before = 0;
        for (j, event) in trace.events(track).enumerate() {
            let comma = if j == 0 { "" } else { "," };
            let [kind, a, b, c] = numbers(&event, &files);
            write!(out, "{comma}{},{},{kind},{a},{b},{c}", event.start - before, event.end - event.start)?;
            before = event.start;
        }
        out.write_all(b"]}")?;
    }
    out.write_all(b"]}")
}

/// The kind of an event, and what else is to be known of it. A layer is counted from 1; 0 is none.
fn numbers(event: &Event<'_>, files: &BTreeMap<&Path, usize>) -> [u64; 4] {
    let layer = |layer: Option<usize>| layer.map_or(0, |layer| layer as u64 + 1);
    let phase = |phase| if phase_name(phase) == "prefill" { PREFILL } else { DECODE } as u64;
    match event.what {
        What::Sweep { number, phase: of, rows } => [phase(of), number, rows as u64, 0],
        What::Op { op, layer: of, rows, bytes } => [op as u64, layer(of), rows as u64, bytes],
        What::Wait { layer: of } => [WAIT as u64, layer(of), 0, 0],
        // What is worked on is the third number, also counted from 1.
        What::Work { op, layer: of } => [WORK as u64, layer(of), op.map_or(0, |op| op as u64 + 1), 0],
        What::Read { file, offset, bytes, stays } => {
            let kind = if stays { STAYS } else { STREAMED };
            [kind as u64, files.get(file).copied().unwrap_or(0) as u64, offset, bytes]
        }
    }
}
