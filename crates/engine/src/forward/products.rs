//! Products of rows with the matrices of a sweep, tile after tile, and with those of experts.

use rheostat_kernels as kernels;
use rheostat_kernels::{Buffer, Columns, Linear, Matrix, Rows};
use rheostat_store::{Place, Tile, TileBytes};

use super::Pass;
use super::workspace::Prepared;
use crate::bind::BoundLinear;
use crate::decoder::{Part, Projection};
use crate::error::Error;
use crate::hooks::Look;

/// One linear map of [`Pass::products`].
pub(super) struct Product<'a> {
    pub(super) linear: &'a BoundLinear,
    /// `[n, out_features]`.
    pub(super) out: &'a mut [f32],
}

/// Where projections put their parts.
pub(super) struct Targets<'a> {
    pub(super) parts: &'a mut [Buffer],
    /// For outputs that are cut up.
    pub(super) whole: &'a mut [f32],
}

impl Targets<'_> {
    /// Elements of a row of `part` in the outputs of `inputs`.
    fn width(inputs: &[Projection], part: Part) -> usize {
        let pieces = inputs.iter().flat_map(|p| &p.pieces);
        pieces.filter(|piece| piece.part == part).map(|piece| piece.to + piece.len).max().unwrap_or(0)
    }
}

impl<H: Look> Pass<'_, H> {
    /// The projections `inputs` of `x: [n, in_features]`, each part into its buffer, `[n, width of the part]`.
    pub(super) fn project(
        &self,
        x: &[f32],
        n: usize,
        prepared: &mut Prepared,
        inputs: &[Projection],
        linears: &[BoundLinear],
        to: &mut Targets<'_>,
    ) -> Result<(), Error> {
        if inputs.iter().all(Projection::is_whole) {
            let mut free: Vec<Option<&mut Buffer>> = to.parts.iter_mut().map(Some).collect();
            let mut products = Vec::with_capacity(inputs.len());
            for (projection, linear) in inputs.iter().zip(linears) {
                let part = projection.pieces[0].part as usize;
                let buffer = free[part].take().expect("a part comes from one projection");
                products.push(Product { linear, out: &mut buffer[..n * projection.linear.out_features] });
            }
            return self.products(x, n, prepared, &mut products);
        }
        for (projection, linear) in inputs.iter().zip(linears) {
            let width = projection.linear.out_features;
            if projection.is_whole() {
                let out = &mut to.parts[projection.pieces[0].part as usize][..n * width];
                self.products(x, n, prepared, &mut [Product { linear, out }])?;
                continue;
            }
            let whole = &mut to.whole[..n * width];
            self.products(x, n, prepared, &mut [Product { linear, out: whole }])?;
            for (part, runs) in &linear.runs {
                let part_width = Targets::width(inputs, *part);
                let out = &mut to.parts[*part as usize][..n * part_width];
                kernels::copy_columns(self.exec, whole, width, runs, out, part_width);
            }
        }
        Ok(())
    }

    /// Products of the same `x: [n, in_features]`, in their order, those together whose weights take it in one form.
    pub(super) fn products(
        &self,
        x: &[f32],
        n: usize,
        prepared: &mut Prepared,
        products: &mut [Product<'_>],
    ) -> Result<(), Error> {
        let format = |p: &Product<'_>| self.bound.matrices[p.linear.matrix].format;
        let integers = prepared.in_integers();
        let bits = |p: &Product<'_>| format(p).takes_integers();
        for alike in products.chunk_by_mut(|a, b| !integers || bits(a) == bits(b)) {
            self.products_alike(prepared.rows(self.exec, x, n, format(&alike[0])), n, alike)?;
        }
        Ok(())
    }

    /// Products of the same rows, tile after tile. Matrices that are in memory as a whole go together, as one
    /// parallel job.
    fn products_alike(&self, x: Rows<'_>, n: usize, products: &mut [Product<'_>]) -> Result<(), Error> {
        let tiles = self.weights.plan().tiles();
        let range = |p: &Product<'_>| self.weights.plan().tiles_of(p.linear.matrix);
        let whole = |p: &Product<'_>| range(p).len() == 1 && tiles[range(p).start].place != Place::Streamed;
        if products.iter().all(whole) {
            let mut held = Vec::with_capacity(products.len());
            for p in &*products {
                held.push(self.acquire(range(p).start)?);
            }
            let mut jobs = Vec::with_capacity(products.len());
            for (p, tile) in products.iter_mut().zip(&held) {
                let info = &self.bound.matrices[p.linear.matrix];
                jobs.push(Linear {
                    weight: info.matrix(tile.parts(), info.rows),
                    bias: p.linear.bias.as_deref(),
                    out: Columns::new(p.out, info.rows, 0),
                });
            }
            kernels::linear(self.exec, x, n, &mut jobs);
            return Ok(());
        }
        for p in products {
            let rows = self.bound.matrices[p.linear.matrix].rows;
            self.tile_by_tile(p.linear.matrix, |first, weight| {
                let job = Linear {
                    weight,
                    bias: p.linear.bias.as_deref().map(|b| &b[first..first + weight.rows()]),
                    out: Columns::new(p.out, rows, first),
                };
                kernels::linear(self.exec, x, n, &mut [job]);
            })?;
        }
        Ok(())
    }

    /// Calls `each` with the rows of a matrix, tile after tile, and with which of them is the tile's first.
    pub(super) fn tile_by_tile(&self, matrix: usize, mut each: impl FnMut(usize, Matrix<'_>)) -> Result<(), Error> {
        let plan = self.weights.plan();
        for t in plan.tiles_of(matrix) {
            let tile = self.acquire(t)?;
            let Tile { first_row, rows, .. } = plan.tiles()[t];
            each(first_row, self.bound.matrices[matrix].matrix(tile.parts(), rows));
        }
        Ok(())
    }

    /// A tile, for which the wait is counted apart.
    pub(super) fn acquire(&self, tile: usize) -> Result<TileBytes<'_>, Error> {
        self.recorder.borrow_mut().pause();
        let tile = self.weights.acquire(tile);
        self.recorder.borrow_mut().resume();
        Ok(tile?)
    }

    /// `out = x · weightᵀ + bias` with a matrix that is at hand.
    pub(super) fn product(
        &self,
        x: &[f32],
        n: usize,
        prepared: &mut Prepared,
        weight: Matrix<'_>,
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let width = weight.rows();
        let job = Linear { weight, bias, out: Columns::new(out, width, 0) };
        kernels::linear(self.exec, prepared.rows(self.exec, x, n, weight.format()), n, &mut [job]);
    }
}
