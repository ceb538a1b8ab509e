//! The passes of a comparison: a model over the text of a trace, by itself and with the trace's values put in place of its own.

use std::collections::BTreeMap;
use std::io::{Read, Seek, Write};

use super::trace_file::TraceFile;
use crate::error::Error;
use crate::forward::{Input, Want};
use crate::hooks::{Capture, Hooks, Point, PointInfo, Points, Positions, Site, TraceInfo, catalog};
use crate::model::Model;

/// The points that a trace and a model both have.
#[must_use]
pub fn common_points(trace: &TraceFile, decoder: &crate::decoder::Decoder) -> Vec<PointInfo> {
    catalog(decoder).into_iter().filter(|info| trace.shape(&info.name).is_some()).collect()
}

/// What operations work on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inputs {
    /// What the model has computed itself.
    Own,
    /// The trace's values, which are put in place of the model's at each point, after those were captured.
    Recorded,
}

/// The values of `points` in a pass over the text of `trace`, at its positions, written as a trace to `out`, by way of an empty file.
///
/// # Errors
/// When a read fails, or what is captured cannot be written.
pub fn record<S: Read + Write + Seek>(
    model: &mut Model,
    trace: &TraceFile,
    inputs: Inputs,
    points: Vec<PointInfo>,
    spool: S,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let text = trace.text();
    let capture = Capture::new(points, Positions::of(&text.positions), text.prompt_len, spool);
    let capture = match inputs {
        Inputs::Own => {
            let mut capture = capture;
            read(model, trace, &mut capture)?;
            capture
        }
        Inputs::Recorded => {
            let rows = text.positions.iter().enumerate().map(|(row, position)| (*position, row)).collect();
            let mut forced = Forced { trace, rows, capture };
            read(model, trace, &mut forced)?;
            forced.capture
        }
    };
    let info = TraceInfo {
        model: trace.model.clone(),
        model_type: model.decoder().family.to_owned(),
        compute: model.numbers().0,
        tokens: text.tokens.clone(),
        prompt_len: text.prompt_len,
        weights: None,
    };
    capture.finish(&info, out).map(drop)
}

/// Reads the text up to the last recorded position, all of it as a prompt.
fn read(model: &mut Model, trace: &TraceFile, hooks: &mut dyn Hooks) -> Result<(), Error> {
    let text = trace.text();
    let end = text.positions.last().map_or(0, |last| last + 1);
    let tokens = &text.tokens[..end];
    let mut sequence = model.sequence(text.prompt_len);
    let want = if hooks.points().any_final() { Want::All } else { Want::Nothing };
    let mut begin = 0;
    while begin < end {
        // As it was computed: the prompt at once, and what was generated one by one, where the length of the text matters.
        let most = if begin < text.prompt_len { text.prompt_len.min(end) } else { end };
        let piece = begin..most.min(begin + model.max_rows());
        begin = piece.end;
        model.forward_hooked(&mut [Input { sequence: &mut sequence, tokens: &tokens[piece], want }], hooks)?;
    }
    Ok(())
}

/// Captures what a model computes, and puts what a trace has in its place.
struct Forced<'a, S: Write> {
    trace: &'a TraceFile,
    /// The trace's rows by position.
    rows: BTreeMap<usize, usize>,
    capture: Capture<S>,
}

impl<S: Read + Write + Seek> Hooks for Forced<'_, S> {
    fn points(&self) -> Points {
        self.capture.points()
    }

    fn wants(&self, point: Point, block: Option<usize>) -> bool {
        self.capture.wants(point, block)
    }

    fn at(&mut self, site: &Site<'_>, values: &mut [f32]) -> Result<(), Error> {
        self.capture.at(site, values)?;
        if !site.point.can_be_changed() {
            return Ok(());
        }
        let (name, len) = (site.name(), site.row_len());
        let row_of = |i: usize| self.rows.get(&site.rows[i].position).copied();
        let mut i = 0;
        while i < site.rows.len() {
            let Some(first) = row_of(i) else {
                i += 1;
                continue;
            };
            // Rows that lie together are read together; those that grow, one by one.
            let mut count = 1;
            while !site.point.is_over_keys() && i + count < site.rows.len() && row_of(i + count) == Some(first + count)
            {
                count += 1;
            }
            let theirs = self.trace.rows(&name, first, count)?.map(|tensor| tensor.values).unwrap_or_default();
            let ours = &mut values[i * len..(i + count) * len];
            if site.point.is_over_keys() {
                let [heads, keys] = site.shape;
                let width = theirs.len() / heads;
                for (ours, theirs) in ours.chunks_exact_mut(keys).zip(theirs.chunks_exact(width.max(1))) {
                    ours.copy_from_slice(&theirs[..keys]);
                }
            } else {
                ours.copy_from_slice(&theirs);
            }
            i += count;
        }
        Ok(())
    }
}
