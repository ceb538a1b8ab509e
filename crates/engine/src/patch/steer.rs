//! Steering: a vector is added to what a point has, with one factor after the other.

use super::Metric;
use super::copies::Copies;
use crate::error::Error;
use crate::hooks::{Hooks, Point, PointInfo, Points, Positions, Site};
use crate::lens::LookPlan;
use crate::model::Model;
use crate::ranking::Distribution;

/// What is added, and where.
#[derive(Clone, Debug)]
pub struct Steering<'a> {
    /// The text.
    pub tokens: &'a [u32],
    /// The points.
    pub sites: Vec<PointInfo>,
    /// The head, of points that have heads; none: all of what a point has.
    pub head: Option<usize>,
    /// As many values as a row of the points has, or its head.
    pub vector: &'a [f32],
    /// At which positions.
    pub positions: Positions,
    /// What it is multiplied by, one run after the other.
    pub scales: &'a [f32],
    /// What is measured; none: tokens and their probabilities are enough.
    pub metric: Option<Metric>,
    /// How many of the likeliest tokens are told.
    pub top: usize,
}

/// What came of one factor.
#[derive(Clone, PartialEq, Debug)]
pub struct Steered {
    /// The factor.
    pub scale: f32,
    /// What was measured.
    pub metric: Option<f64>,
    /// The likeliest tokens after the text, with their probabilities.
    pub top: Vec<(u32, f64)>,
}

impl Steering<'_> {
    /// What it asks for.
    #[must_use]
    pub fn plan(&self) -> LookPlan {
        LookPlan::new(&self.sites, 0, 0)
    }

    fn check(&self) -> Result<(), Error> {
        for info in &self.sites {
            if !info.point.can_be_changed() {
                return Err(Error::PointReadOnly { point: info.point });
            }
            let (heads, row) = (info.shape.heads().unwrap_or(1), info.shape.row_len(1));
            let expected = match self.head {
                Some(head) if head >= heads => {
                    return Err(Error::NoSuchHead { name: info.name.clone(), head, heads });
                }
                Some(_) => row / heads,
                None => row,
            };
            // A row over positions grows: there is no vector to add to it.
            if info.point.is_over_keys() || self.vector.len() != expected {
                let values = self.vector.len();
                return Err(Error::ValuesOfOtherShape { name: info.name.clone(), values, expected });
            }
        }
        Ok(())
    }
}

/// Runs a text with each of the factors.
///
/// # Errors
/// As [`Model::forward_hooked`], or when the vector does not go with the points.
pub fn steer(model: &mut Model, steering: &Steering<'_>) -> Result<Vec<Steered>, Error> {
    steering.check()?;
    let len = steering.tokens.len();
    let first = steering.positions.resolve(len, len).into_iter().min().unwrap_or(len);
    let mut copies = Copies::new(steering.tokens, first);
    let mut all = Vec::with_capacity(steering.scales.len());
    while all.len() < steering.scales.len() {
        let count = copies.together(model).min(steering.scales.len() - all.len());
        let scales = &steering.scales[all.len()..all.len() + count];
        let logits = copies.pass(model, count, &mut Adds { steering, scales })?;
        for (scale, logits) in scales.iter().zip(logits) {
            let metric = steering.metric.map(|metric| metric.of(&logits)).transpose()?;
            let top = Distribution::new(&logits)?.top(steering.top);
            all.push(Steered { scale: *scale, metric, top });
        }
    }
    Ok(all)
}

/// Adds the vector to each copy, with its factor.
struct Adds<'a> {
    steering: &'a Steering<'a>,
    /// Of each copy.
    scales: &'a [f32],
}

impl Hooks for Adds<'_> {
    fn points(&self) -> Points {
        self.steering.sites.iter().map(|info| info.point).collect()
    }

    fn wants(&self, point: Point, block: Option<usize>) -> bool {
        self.steering.sites.iter().any(|info| (info.point, info.block) == (point, block))
    }

    fn at(&mut self, site: &Site<'_>, values: &mut [f32]) -> Result<(), Error> {
        let Steering { vector, head, positions, tokens, .. } = self.steering;
        let start = head.map_or(0, |head| head * vector.len());
        for (row, values) in site.rows.iter().zip(values.chunks_exact_mut(site.row_len())) {
            if positions.contains(row.position, tokens.len()) {
                let scale = self.scales[row.sequence];
                values[start..].iter_mut().zip(*vector).for_each(|(x, v)| *x += scale * v);
            }
        }
        Ok(())
    }
}
