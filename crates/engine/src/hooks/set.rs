//! Closures at points.

use super::{Hooks, Point, Points, Site, matching};
use crate::decoder::Decoder;
use crate::error::Error;

type Places = Vec<(Point, Option<usize>)>;
type Closure<'a> = Box<dyn FnMut(&Site<'_>, &mut [f32]) -> Result<(), Error> + Send + 'a>;

/// Closures over the values of points, in the order in which they were given.
pub struct HookSet<'a> {
    decoder: Decoder,
    closures: Vec<(Places, Closure<'a>)>,
    points: Points,
}

impl<'a> HookSet<'a> {
    /// None so far, for models that are described by `decoder`.
    #[must_use]
    pub fn new(decoder: &Decoder) -> HookSet<'a> {
        HookSet { decoder: decoder.clone(), closures: Vec::new(), points: Points::NONE }
    }

    /// Calls `closure` with the values of every point that `pattern` matches.
    ///
    /// # Errors
    /// When it matches none; the error has the nearest names.
    pub fn on(
        &mut self,
        pattern: &str,
        mut closure: impl FnMut(&Site<'_>, &mut [f32]) + Send + 'a,
    ) -> Result<&mut Self, Error> {
        self.try_on(pattern, move |site, values| {
            closure(site, values);
            Ok(())
        })
    }

    /// The same with a closure that can fail, which ends the pass.
    ///
    /// # Errors
    /// As [`HookSet::on`].
    pub fn try_on(
        &mut self,
        pattern: &str,
        closure: impl FnMut(&Site<'_>, &mut [f32]) -> Result<(), Error> + Send + 'a,
    ) -> Result<&mut Self, Error> {
        let found: Places =
            matching(&self.decoder, pattern)?.into_iter().map(|info| (info.point, info.block)).collect();
        found.iter().for_each(|(point, _)| self.points.insert(*point));
        self.closures.push((found, Box::new(closure)));
        Ok(self)
    }

    /// The points that they are at.
    #[must_use]
    pub fn points(&self) -> Points {
        self.points
    }
}

impl Hooks for HookSet<'_> {
    fn points(&self) -> Points {
        self.points
    }

    fn wants(&self, point: Point, block: Option<usize>) -> bool {
        self.points.contains(point) && self.closures.iter().any(|(at, _)| at.contains(&(point, block)))
    }

    fn at(&mut self, site: &Site<'_>, values: &mut [f32]) -> Result<(), Error> {
        let here = (site.point, site.block);
        self.closures.iter_mut().filter(|(at, _)| at.contains(&here)).try_for_each(|(_, f)| f(site, values))
    }
}
