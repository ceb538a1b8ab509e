//! One text under several sets of changes: what each makes of what the model says.

use super::Metric;
use super::copies::Copies;
use crate::error::Error;
use crate::hooks::{Edits, Hooks, Point, Points, Row, Site};
use crate::model::Model;
use crate::ranking::Distribution;

/// What came of a set of changes.
#[derive(Clone, PartialEq, Debug)]
pub struct Variant {
    /// What was measured, if anything was.
    pub metric: Option<f64>,
    /// The likeliest tokens after the text, with their probabilities.
    pub top: Vec<(u32, f64)>,
}

/// Runs `tokens` under each of `edits`, as many in each pass as there is room for, and tells the `top` likeliest tokens after it.
///
/// The model must have been loaded for the points of all edits, with room for as many texts as are to share a pass.
///
/// # Errors
/// As [`Model::forward_hooked`], or as the changes have it.
pub fn variants(
    model: &mut Model,
    tokens: &[u32],
    edits: Vec<Edits>,
    metric: Option<Metric>,
    top: usize,
    mut each: impl FnMut(usize),
) -> Result<Vec<Variant>, Error> {
    let first = edits.iter().filter_map(Edits::first).min().unwrap_or(tokens.len());
    let mut copies = Copies::new(tokens, first);
    let count = edits.len();
    let mut all = Vec::with_capacity(count);
    let mut rest = edits.into_iter();
    while all.len() < count {
        let mut hooks = Each(rest.by_ref().take(copies.together(model)).collect());
        let now = hooks.0.len();
        for logits in copies.pass(model, now, &mut hooks)? {
            let metric = metric.map(|metric| metric.of(&logits)).transpose()?;
            all.push(Variant { metric, top: Distribution::new(&logits)?.top(top) });
        }
        each(all.len());
    }
    Ok(all)
}

/// Changes of the sequences of a pass, each its own.
struct Each(Vec<Edits>);

impl Hooks for Each {
    fn points(&self) -> Points {
        self.0.iter().fold(Points::NONE, |points, edits| points | edits.points())
    }

    fn wants(&self, point: Point, block: Option<usize>) -> bool {
        self.0.iter().any(|edits| edits.wants(point, block))
    }

    fn at(&mut self, site: &Site<'_>, values: &mut [f32]) -> Result<(), Error> {
        for (row, values) in site.rows.iter().zip(values.chunks_exact_mut(site.row_len())) {
            let edits = &mut self.0[row.sequence];
            if edits.wants(site.point, site.block) {
                // To each, its text is the only one.
                let rows = [Row { sequence: 0, ..*row }];
                edits.at(&Site { rows: &rows, ..*site }, values)?;
            }
        }
        Ok(())
    }
}
