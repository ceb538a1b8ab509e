//! Hook points: the tensors of the forward pass by their names, to be seen and to be changed.
//!
//! `docs/hooks.md` is the list of points with their shapes and meanings; [`catalog()`] is the list for a model. Whoever looks on implements
//! [`Hooks`], or puts closures together in a [`HookSet`]:
//!
//! ```no_run
//! # use rheostat::{Model, Options, Package, hooks::{HookSet, Point}};
//! # fn main() -> Result<(), rheostat::Error> {
//! let package = Package::open("./Qwen3-8B".as_ref())?;
//! let mut norms = Vec::new();
//! let mut hooks = HookSet::new(&package.describe()?);
//! hooks.on("blocks.*.hook_resid_post", |site, values| {
//!     for row in values.chunks_exact(site.row_len()) {
//!         norms.push((site.block, row.iter().map(|x| x * x).sum::<f32>().sqrt()));
//!     }
//! })?;
//! hooks.on("blocks.8.attn.hook_z", |site, values| site.head_mut(values, 3).for_each(|z| z.fill(0.0)))?;
//! let options = Options { hooks: hooks.points(), ..Options::default() };
//! let mut model = Model::load(&package, &options)?;
//! let mut sequence = model.sequence(2);
//! model.prefill_hooked(&mut sequence, &[9707, 11], &mut hooks)?;
//! # Ok(())
//! # }
//! ```
//!
//! A pass without hooks is compiled without any point: `Look` is what it is generic over.

mod capture;
mod catalog;
mod edit;
mod names;
mod point;
mod positions;
mod set;

pub use capture::{Capture, TraceInfo};
pub use catalog::{PointInfo, Shape, catalog, points_of};
pub(crate) use catalog::{ffn_out_is_apart, mixer_out_is_apart, normed_place, scores_all};
pub use edit::{Change, During, Edit, Edits, Values};
pub use names::{matching, nearest};
pub use point::{Point, Points};
pub use positions::Positions;
pub use set::HookSet;

use crate::error::Error;

/// A row of a pass: a position of a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// Index of the sequence among the inputs of the pass.
    pub sequence: usize,
    /// Position in the sequence.
    pub position: usize,
}

/// Where values were seen.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The point.
    pub point: Point,
    /// Its block, if it is in one.
    pub block: Option<usize>,
    /// The rows of the values. A point may come several times in a pass, each time with some of its rows.
    pub rows: &'a [Row],
    /// What a row has: heads (1 where there are none), and elements of each. Where a row has an element for each position
    /// ([`Point::is_over_keys`]), those are the positions up to its own.
    pub shape: [usize; 2],
}

impl Site<'_> {
    /// The name of the point: `blocks.3.attn.hook_q`.
    #[must_use]
    pub fn name(&self) -> String {
        self.point.name(self.block)
    }

    /// Elements of a row.
    #[must_use]
    pub fn row_len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// What head `head` has of every row of `values`.
    ///
    /// # Panics
    /// When there is no such head.
    pub fn head_mut<'v>(&self, values: &'v mut [f32], head: usize) -> impl Iterator<Item = &'v mut [f32]> + use<'v> {
        let [heads, width] = self.shape;
        assert!(head < heads, "head {head} of {heads}");
        values.chunks_exact_mut(heads * width).map(move |row| &mut row[head * width..(head + 1) * width])
    }
}

/// Looks on while a pass goes by, and may change what it sees.
pub trait Hooks {
    /// The points that it may ask for, so that room can be planned for them: see [`Options::hooks`](crate::Options::hooks).
    fn points(&self) -> Points;

    /// Whether it wants to see `point` of `block` in this pass. Points that nobody wants are not computed.
    fn wants(&self, point: Point, block: Option<usize>) -> bool;

    /// `values: [rows, heads, width]` (see [`Site`]) at a point that it wants; what follows is computed from what it leaves there, if
    /// the point [can be changed](Point::can_be_changed).
    ///
    /// # Errors
    /// An error ends the pass, and is what it returns.
    fn at(&mut self, site: &Site<'_>, values: &mut [f32]) -> Result<(), Error>;
}

/// What a pass is compiled for: somebody who looks on, or nobody.
pub(crate) trait Look {
    /// Whether there are any points at all.
    const ACTIVE: bool;
    fn wants(&self, point: Point, block: Option<usize>) -> bool;
    fn at(&mut self, site: &Site<'_>, values: &mut [f32]) -> Result<(), Error>;
}

/// Nobody looks on.
impl Look for () {
    const ACTIVE: bool = false;

    #[inline(always)]
    fn wants(&self, _point: Point, _block: Option<usize>) -> bool {
        false
    }

    #[inline(always)]
    fn at(&mut self, _site: &Site<'_>, _values: &mut [f32]) -> Result<(), Error> {
        Ok(())
    }
}

impl Look for &mut dyn Hooks {
    const ACTIVE: bool = true;

    fn wants(&self, point: Point, block: Option<usize>) -> bool {
        (**self).wants(point, block)
    }

    fn at(&mut self, site: &Site<'_>, values: &mut [f32]) -> Result<(), Error> {
        (**self).at(site, values)
    }
}

/// Two who look on, one after the other: what the first leaves is what the second sees.
pub struct Both<A, B>(pub A, pub B);

impl<A: Hooks, B: Hooks> Hooks for Both<A, B> {
    fn points(&self) -> Points {
        self.0.points() | self.1.points()
    }

    fn wants(&self, point: Point, block: Option<usize>) -> bool {
        self.0.wants(point, block) || self.1.wants(point, block)
    }

    fn at(&mut self, site: &Site<'_>, values: &mut [f32]) -> Result<(), Error> {
        if self.0.wants(site.point, site.block) {
            self.0.at(site, values)?;
        }
        if self.1.wants(site.point, site.block) {
            self.1.at(site, values)?;
        }
        Ok(())
    }
}
