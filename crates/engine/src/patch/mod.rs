//! Activation patching and steering: what a change at one place does to what the model says.
//!
//! ```text
//! clean text ── one pass, rows kept ──┐
//! corrupted text ── many copies ──────┴► each with one row (or head) of the clean text put in, many in each pass (copies.rs)
//! one text ──────── many copies ───────► each under its own changes (variants.rs)
//! ```
//!
//! Copies share a pass, so that each sweep over the weights serves as many of them as memory has room for, and they share their
//! beginning: positions before the first change are read once by each copy, and rolled back to.

mod copies;
mod variants;

pub use variants::{Variant, variants};

use crate::decoder::Decoder;
use crate::error::Error;
use crate::hooks::{Hooks, Point, PointInfo, Points, Shape, Site};
use crate::lens::{Kept, LookPlan};
use crate::model::Model;
use crate::ranking::Distribution;
use copies::Copies;

/// What is measured after the last position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Metric {
    /// The logit of the first token less that of the second.
    LogitDifference(u32, u32),
    /// The logarithm of a token's probability.
    LogProbability(u32),
}

impl Metric {
    /// From `logits: [vocab_size]`.
    ///
    /// # Errors
    /// When a logit is not a finite number.
    fn of(self, logits: &[f32]) -> Result<f64, Error> {
        let all = Distribution::new(logits)?;
        Ok(match self {
            Metric::LogitDifference(of, against) => {
                f64::from(logits[of as usize]) - f64::from(logits[against as usize])
            }
            Metric::LogProbability(token) => all.log_probability(token),
        })
    }
}

/// What is put in of the clean text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// What a point has at one position.
    Position,
    /// What one head of a point has, at all positions.
    Head,
}

/// What is to be tried.
#[derive(Clone, Debug)]
pub struct Experiment<'a> {
    /// The text whose values are put in.
    pub clean: &'a [u32],
    /// The text that they are put into; as long as the clean one.
    pub corrupted: &'a [u32],
    /// Where.
    pub sites: Vec<PointInfo>,
    /// What of it.
    pub unit: Unit,
    /// What is measured.
    pub metric: Metric,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Patched {
    /// What the metric is for the clean text.
    pub clean: f64,
    /// What it is for the corrupted one.
    pub corrupted: f64,
    /// The first position at which the texts differ.
    pub first: usize,
    /// By sites, by positions or heads: what the metric becomes. None where a site has no such head.
    pub values: Vec<Vec<Option<f64>>>,
}

impl Patched {
    /// How much of the way from the corrupted to the clean text a value is: 0 for the one, 1 for the other.
    #[must_use]
    pub fn share(&self, value: f64) -> f64 {
        (value - self.corrupted) / (self.clean - self.corrupted)
    }
}

impl Experiment<'_> {
    /// What it asks for.
    #[must_use]
    pub fn plan(&self) -> LookPlan {
        LookPlan::new(&self.sites, self.clean.len(), self.clean.len())
    }

    /// How many copies have something put in.
    #[must_use]
    pub fn copies(&self) -> usize {
        self.places().len()
    }

    /// The first position at which the texts differ.
    #[must_use]
    pub fn first(&self) -> usize {
        self.clean.iter().zip(self.corrupted).take_while(|(a, b)| a == b).count()
    }

    /// What is put in, copy by copy: index of the site, and position or head. Where the texts are still the same, nothing would change.
    fn places(&self) -> Vec<(usize, usize)> {
        let sites = self.sites.iter().enumerate();
        let units = |info: &PointInfo| match self.unit {
            Unit::Position => self.first()..self.clean.len(),
            Unit::Head => 0..info.shape.heads().unwrap_or(0),
        };
        sites.flat_map(|(i, info)| units(info).map(move |unit| (i, unit))).collect()
    }

    /// Heads of the site that has most.
    fn heads(&self) -> usize {
        self.sites.iter().filter_map(|info| info.shape.heads()).max().unwrap_or(0)
    }

    /// Whether it can be done with `decoder`.
    ///
    /// # Errors
    /// When it cannot; the error says why.
    pub fn check(&self, decoder: &Decoder) -> Result<(), Error> {
        if self.clean.len() != self.corrupted.len() {
            return Err(Error::PatchLengths { clean: self.clean.len(), corrupted: self.corrupted.len() });
        }
        if self.clean == self.corrupted {
            return Err(Error::PatchNothing);
        }
        for info in &self.sites {
            if !info.point.can_be_changed() {
                return Err(Error::PointReadOnly { point: info.point });
            }
            // After the last block there are the last position's rows alone.
            if info.point.is_final() {
                return Err(Error::PatchAfterBlocks { point: info.point });
            }
        }
        if self.unit == Unit::Head && self.heads() == 0 {
            let name = self.sites.first().map_or_else(String::new, |info| info.name.clone());
            return Err(Error::PatchNoHeads { name });
        }
        let (Metric::LogitDifference(of, _) | Metric::LogProbability(of)) = self.metric;
        let against = if let Metric::LogitDifference(_, against) = self.metric { against } else { of };
        crate::model::check_vocabulary(decoder, &[of, against], 0)
    }
}

/// Does `experiment`. `each` is told how many copies are done, and of how many.
///
/// The model must have been loaded for what [`Experiment::plan`] says, with room for as many texts as are to share a pass.
///
/// # Errors
/// As [`Model::forward_hooked`], or when the experiment cannot be done.
pub fn patch(
    model: &mut Model,
    experiment: &Experiment<'_>,
    mut each: impl FnMut(usize, usize),
) -> Result<Patched, Error> {
    experiment.check(model.decoder())?;
    let positions: Vec<usize> = (0..experiment.clean.len()).collect();
    let mut kept = Kept::new(&experiment.sites, &positions);
    let clean = experiment.metric.of(&kept.read(model, experiment.clean)?)?;
    let first = experiment.first();
    let mut copies = Copies::new(experiment.corrupted, first);
    let places = experiment.places();
    let corrupted = experiment.metric.of(&copies.pass(model, 1, &mut NoChange)?[0])?;
    let width = match experiment.unit {
        Unit::Position => experiment.clean.len(),
        Unit::Head => experiment.heads(),
    };
    let untouched = if experiment.unit == Unit::Position { Some(corrupted) } else { None };
    let mut values = vec![vec![untouched; width]; experiment.sites.len()];
    let mut done = 0;
    while done < places.len() {
        let count = copies.together(model).min(places.len() - done);
        let now = &places[done..done + count];
        let mut hooks = PutIn { experiment, kept: &kept, places: now };
        for ((site, unit), logits) in now.iter().zip(copies.pass(model, count, &mut hooks)?) {
            values[*site][*unit] = Some(experiment.metric.of(&logits)?);
        }
        done += count;
        each(done, places.len());
    }
    Ok(Patched { clean, corrupted, first, values })
}

/// Nobody changes anything.
struct NoChange;

impl Hooks for NoChange {
    fn points(&self) -> Points {
        Points::NONE
    }

    fn wants(&self, _: Point, _: Option<usize>) -> bool {
        false
    }

    fn at(&mut self, _: &Site<'_>, _: &mut [f32]) -> Result<(), Error> {
        Ok(())
    }
}

/// Puts values of the clean text into copies of the corrupted one.
struct PutIn<'a> {
    experiment: &'a Experiment<'a>,
    kept: &'a Kept,
    /// Of each copy: index of the site, and position or head.
    places: &'a [(usize, usize)],
}

impl PutIn<'_> {
    /// The site of a copy.
    fn site(&self, copy: usize) -> (&PointInfo, usize) {
        let (site, unit) = self.places[copy];
        (&self.experiment.sites[site], unit)
    }
}

impl Hooks for PutIn<'_> {
    fn points(&self) -> Points {
        self.places.iter().map(|(site, _)| self.experiment.sites[*site].point).collect()
    }

    fn wants(&self, point: Point, block: Option<usize>) -> bool {
        (0..self.places.len()).any(|copy| {
            let info = self.site(copy).0;
            (info.point, info.block) == (point, block)
        })
    }

    fn at(&mut self, site: &Site<'_>, values: &mut [f32]) -> Result<(), Error> {
        let [heads, width] = site.shape;
        for (row, values) in site.rows.iter().zip(values.chunks_exact_mut(heads * width)) {
            let (info, unit) = self.site(row.sequence);
            if (info.point, info.block) != (site.point, site.block) {
                continue;
            }
            let clean = self.kept.row(site.point, site.block, row.position);
            let at = match self.experiment.unit {
                Unit::Position if row.position != unit => continue,
                Unit::Position => 0..values.len(),
                // Heads as the list has them: what a pass shows as one vector may be heads side by side.
                Unit::Head => {
                    let all = match &info.shape {
                        Shape::Rows(dims) => dims[0],
                        Shape::Keys(heads) => *heads,
                    };
                    let width = values.len() / all;
                    unit * width..(unit + 1) * width
                }
            };
            values[at.clone()].copy_from_slice(&clean[at]);
        }
        Ok(())
    }
}
