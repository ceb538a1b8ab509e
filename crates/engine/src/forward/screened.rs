//! The greatest logits of a row, without computing most of the others.

use rheostat_kernels::{Columns, Linear, Matrix, Rows, Screen, linear};
use rheostat_store::Head;

use super::{Compute, Input, Pass, Want, Workspace, stored_together};
use crate::bind::Bound;
use crate::decoder::Decoder;
use crate::error::Error;
use crate::hooks::Look;

/// Weights of an output projection from which on a screen of it pays: fewer are near anyway.
const FROM: usize = 1 << 20;

/// Passes that ask for the greatest logits alone before a screen is made beside the output projection, which takes as long as some tens of such
/// passes save. One in its place is made at once: as much has to be read to make it as to do without.
const PATIENCE: usize = 64;

/// A screen of the output projection, once it is worth while.
#[derive(Debug, Default)]
pub(crate) struct Screening {
    screen: Option<Screen>,
    /// Passes that had no screen.
    passes: usize,
}

/// Bytes of a screen of the output projection, if it can have one: if its products are the logits, and are computed in f32.
pub(crate) fn screen_bytes(decoder: &Decoder, bound: &Bound, compute: Compute) -> Option<u64> {
    let head = &bound.matrices[bound.head.matrix];
    let logits = &decoder.logits;
    let are_products = logits.scale == 1.0 && logits.soft_cap.is_none() && bound.head.bias.is_none();
    let suits = are_products
        && matches!(compute, Compute::F32 | Compute::Int8)
        && Screen::takes(head.format)
        && head.rows.saturating_mul(head.cols) >= FROM;
    suits.then(|| Screen::bytes(head.rows, head.cols))
}

impl<H: Look> Pass<'_, H> {
    /// How many of the greatest logits are all that a pass over `inputs` is asked for, if there may be a screen for it. Who looks on may want to
    /// see all of them.
    pub(super) fn top(&self, inputs: &[Input<'_>]) -> Option<usize> {
        match inputs {
            [Input { want: Want::Top(most), .. }] if !H::ACTIVE && self.screening.is_some() => Some(*most),
            _ => None,
        }
    }

    /// Whether the screen is there that a sweep has in the place of the output projection.
    pub(super) fn is_headless(&self) -> bool {
        let is_there = |screening: &std::cell::RefCell<&mut Screening>| screening.borrow().screen.is_some();
        self.weights.plan().seldom_bytes() > 0 && self.screening.as_ref().is_some_and(is_there)
    }

    /// Sets the logits of the first row of `final_hidden` to what [`Want::Top`] says, or to what they all are; tells whether it did.
    pub(super) fn screened(&self, most: usize, ws: &mut Workspace) -> Result<bool, Error> {
        let Some(screening) = &self.screening else { return Ok(false) };
        let mut screening = screening.borrow_mut();
        let seldom = self.weights.plan().seldom_bytes() > 0;
        let head = self.bound.head.matrix;
        let info = &self.bound.matrices[head];
        let (x, logits) = (&ws.final_hidden[..info.cols], &mut ws.logits[..info.rows]);
        let Some(screen) = &mut screening.screen else {
            if !seldom && screening.passes < PATIENCE {
                screening.passes += 1;
                return Ok(false);
            }
            let mut screen = Screen::new(info.rows, info.cols);
            self.tile_by_tile(head, |first, weight| {
                let out = Columns::new(logits, info.rows, first);
                linear(self.exec, Rows::F32(x), 1, &mut [Linear { weight, bias: None, out }]);
                screen.read_rows(self.exec, first, &weight);
            })?;
            screening.screen = Some(screen);
            return Ok(true);
        };
        let Some(left) = screen.left(self.exec, x, most, logits) else {
            if seldom {
                // The sweep was without it.
                self.weights.begin_sweep(Head::Alone);
            }
            return Ok(false);
        };
        let table = &info.parts[0];
        let row_bytes = info.format.row_bytes(info.cols);
        for rows in left.chunks(stored_together(row_bytes)) {
            self.stored_rows(table, row_bytes, rows, &mut ws.stored, &mut ws.gathered)?;
            let weight = Matrix::new(&ws.stored, &[], info.format, rows.len(), info.cols);
            let mut products = vec![0.0; rows.len()];
            let out = Columns::new(&mut products, rows.len(), 0);
            linear(self.exec, Rows::F32(x), 1, &mut [Linear { weight, bias: None, out }]);
            for (row, product) in rows.iter().zip(products) {
                logits[*row as usize] = product;
            }
        }
        self.recorder.borrow_mut().screened();
        Ok(true)
    }
}
