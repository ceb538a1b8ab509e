//! A trace as JSON, in the Trace Event Format that ui.perfetto.dev and chrome://tracing read: complete events (`X`)
//! with times in microseconds, names of threads as metadata (`M`), and counters (`C`).

use std::io::{self, Write};

use rheostat::trace::{Event, Trace, Track, What};
use serde_json::{Value, json};

use super::report::phase_name;

/// The only process.
const PID: u32 = 1;
/// Threads are numbered from 1; reads after them, from here on.
const READS: usize = 100_000;
/// Points of the curve of the reading rate, at the most.
const POINTS: u64 = 2000;
/// Nanoseconds between two of them, at the least.
const STEP: u64 = 10_000_000;

pub(super) fn write(out: &mut dyn Write, trace: &Trace<'_>, model: &str) -> io::Result<()> {
    let facts = json!({
        "model": model,
        "version": env!("CARGO_PKG_VERSION"),
        "bytes_read": trace.bytes_read(),
        "cut": trace.cut().map(|cut| format!("recording ended after {:.3} s, where its memory was full", cut as f64 * 1e-9)),
    });
    write!(out, "{{\"displayTimeUnit\":\"ms\",\"otherData\":{facts},\"traceEvents\":[")?;
    let process =
        json!({ "ph": "M", "pid": PID, "name": "process_name", "args": { "name": format!("rheostat {model}") } });
    write!(out, "\n{process}")?;
    for (index, track) in trace.tracks().enumerate() {
        for (name, value) in [
            ("thread_name", json!({ "name": track_name(track) })),
            ("thread_sort_index", json!({ "sort_index": index })),
        ] {
            let event = json!({ "ph": "M", "pid": PID, "tid": tid(track), "name": name, "args": value });
            write!(out, ",\n{event}")?;
        }
    }
    let mut end = 0;
    for track in trace.tracks() {
        for event in trace.events(track) {
            end = end.max(event.end);
            let name = name(&event.what);
            write!(
                out,
                ",\n{{\"ph\":\"X\",\"pid\":{PID},\"tid\":{},\"ts\":{},\"dur\":{},\"name\":{},\"cat\":\"{}\",\"args\":{}}}",
                tid(track),
                Micros(event.start),
                Micros(event.end - event.start),
                json!(name),
                category(&event.what),
                arguments(&event.what)
            )?;
        }
    }
    rates(out, trace, end)?;
    if let Some(cut) = trace.cut() {
        write!(
            out,
            ",\n{{\"ph\":\"i\",\"s\":\"g\",\"pid\":{PID},\"tid\":1,\"ts\":{},\"name\":\"recording ended: its memory was full\"}}",
            Micros(cut)
        )?;
    }
    out.write_all(b"\n]}\n")
}

/// Nanoseconds, written as microseconds.
struct Micros(u64);

impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

fn tid(track: Track) -> usize {
    match track {
        Track::Thread(thread) => thread + 1,
        Track::Reads(lane) => READS + lane,
    }
}

pub(super) fn track_name(track: Track) -> String {
    match track {
        Track::Thread(0) => "thread 0: the pass".to_owned(),
        Track::Thread(thread) => format!("thread {thread}"),
        Track::Reads(lane) => format!("reads {}", lane + 1),
    }
}

fn name(what: &What<'_>) -> String {
    match what {
        What::Sweep { number, phase, .. } => format!("sweep {number}, {}", phase_name(*phase)),
        What::Op { op, .. } | What::Work { op: Some(op), .. } => op.name().to_owned(),
        What::Wait { .. } => "waiting for the disk".to_owned(),
        What::Work { op: None, .. } => "work".to_owned(),
        What::Read { bytes, .. } => format!("read {}", rheostat::memory::format_size(*bytes)),
    }
}

fn category(what: &What<'_>) -> &'static str {
    match what {
        What::Sweep { .. } => "sweep",
        What::Op { .. } => "operation",
        What::Wait { .. } => "wait",
        What::Work { .. } => "work",
        What::Read { .. } => "read",
    }
}

fn arguments(what: &What<'_>) -> Value {
    let layer = |layer: &Option<usize>| layer.map_or(json!({}), |layer| json!({ "layer": layer }));
    match what {
        What::Sweep { number, phase, rows } => json!({ "number": number, "phase": phase_name(*phase), "rows": rows }),
        What::Op { layer: of, rows, bytes, .. } => {
            let mut arguments = layer(of);
            arguments["rows"] = json!(rows);
            if *bytes > 0 {
                arguments["bytes_read"] = json!(bytes);
            }
            arguments
        }
        What::Wait { layer: of } | What::Work { layer: of, .. } => layer(of),
        What::Read { file, offset, bytes, stays } => {
            json!({ "file": file.to_string_lossy(), "offset": offset, "bytes": bytes, "stays": stays })
        }
    }
}

/// The rate of reading over time: what each read brought is spread evenly over the time it took.
fn rates(out: &mut dyn Write, trace: &Trace<'_>, end: u64) -> io::Result<()> {
    let step = (end / POINTS).max(STEP);
    let mut bytes = vec![0.0f64; (end / step + 2) as usize];
    let reads = trace.tracks().filter(|track| matches!(track, Track::Reads(_)));
    for event in reads.flat_map(|track| trace.events(track)) {
        spread(&mut bytes, step, &event);
    }
    if bytes.iter().all(|b| *b == 0.0) {
        return Ok(());
    }
    for (i, bytes) in bytes.iter().enumerate() {
        let rate = bytes / step as f64;
        let event = json!({ "ph": "C", "pid": PID, "name": "reading", "args": { "GB/s": (rate * 1e3).round() / 1e3 } });
        let text = event.to_string();
        // Times are written as everywhere else.
        write!(out, ",\n{{\"ts\":{},{}", Micros(i as u64 * step), &text[1..])?;
    }
    Ok(())
}

fn spread(into: &mut [f64], step: u64, event: &Event<'_>) {
    let What::Read { bytes, .. } = event.what else { return };
    let (first, last) = (event.start / step, event.end / step);
    let time = (event.end - event.start).max(1) as f64;
    for point in first..=last {
        let (from, to) = ((point * step).max(event.start), ((point + 1) * step).min(event.end));
        let part = if first == last { 1.0 } else { to.saturating_sub(from) as f64 / time };
        into[point as usize] += bytes as f64 * part;
    }
}
