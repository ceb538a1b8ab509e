//! Values of points of one text, kept in memory row by row.

use std::collections::HashMap;

use crate::error::Error;
use crate::forward::{Input, Want};
use crate::hooks::{Hooks, Point, PointInfo, Points, Site};
use crate::model::Model;

/// Values of some points at some positions of one text, the first of each pass.
pub(crate) struct Kept {
    points: Points,
    /// By point: the rows at `positions`, in their order.
    rows: HashMap<(Point, Option<usize>), Vec<Vec<f32>>>,
    /// Index of each position that is kept.
    index: HashMap<usize, usize>,
}

impl Kept {
    /// Nothing so far of `points` at `positions`.
    pub(crate) fn new(points: &[PointInfo], positions: &[usize]) -> Kept {
        let index: HashMap<usize, usize> = positions.iter().enumerate().map(|(i, position)| (*position, i)).collect();
        Kept {
            points: points.iter().map(|info| info.point).collect(),
            rows: points.iter().map(|info| ((info.point, info.block), vec![Vec::new(); positions.len()])).collect(),
            index,
        }
    }

    /// Reads `tokens` with `model` and keeps; gives the logits of the last position.
    pub(crate) fn read(&mut self, model: &mut Model, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let mut sequence = model.sequence(tokens.len());
        Ok(model.prefill_hooked(&mut sequence, tokens, self)?.logits.to_vec())
    }

    /// The same without any logits.
    pub(crate) fn read_only(&mut self, model: &mut Model, tokens: &[u32]) -> Result<(), Error> {
        let mut sequence = model.sequence(tokens.len());
        for tokens in tokens.chunks(model.max_rows()) {
            model.forward_hooked(&mut [Input { sequence: &mut sequence, tokens, want: Want::Nothing }], self)?;
        }
        Ok(())
    }

    /// The row of a point at a position; empty if it was not kept.
    pub(crate) fn row(&self, point: Point, block: Option<usize>, position: usize) -> &[f32] {
        let rows = self.rows.get(&(point, block));
        rows.zip(self.index.get(&position)).map_or(&[], |(rows, i)| rows[*i].as_slice())
    }

    /// Bytes that `points` take at `rows` positions of a text of `tokens`.
    pub(crate) fn bytes(points: &[PointInfo], rows: usize, tokens: usize) -> u64 {
        points.iter().map(|info| 4 * (info.shape.row_len(tokens) * rows) as u64).sum()
    }
}

impl Hooks for Kept {
    fn points(&self) -> Points {
        self.points
    }

    fn wants(&self, point: Point, block: Option<usize>) -> bool {
        self.points.contains(point) && self.rows.contains_key(&(point, block))
    }

    fn at(&mut self, site: &Site<'_>, values: &mut [f32]) -> Result<(), Error> {
        let Some(rows) = self.rows.get_mut(&(site.point, site.block)) else { return Ok(()) };
        for (row, values) in site.rows.iter().zip(values.chunks_exact(site.row_len())) {
            if row.sequence == 0
                && let Some(i) = self.index.get(&row.position)
            {
                rows[*i] = values.to_vec();
            }
        }
        Ok(())
    }
}
