//! The greatest logit of a row, without computing most of the others.

use rheostat_kernels::Screen;

use super::{Compute, Pass, Workspace};
use crate::bind::Bound;
use crate::decoder::Decoder;
use crate::error::Error;
use crate::hooks::Look;

/// Weights of an output projection from which on a screen of it pays: fewer are near anyway.
const FROM: usize = 1 << 20;

/// Passes that ask for the greatest logit alone before a screen is made, which takes as long as some tens of such passes save.
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
    /// Sets the logits of the first row of `final_hidden` to what [`Want::Greatest`](super::Want::Greatest) says; tells whether it did.
    pub(super) fn screened(&self, ws: &mut Workspace) -> Result<bool, Error> {
        let Some(screening) = &self.screening else { return Ok(false) };
        let mut screening = screening.borrow_mut();
        if screening.screen.is_none() && screening.passes < PATIENCE {
            screening.passes += 1;
            return Ok(false);
        }
        let head = self.bound.head.matrix;
        let info = &self.bound.matrices[head];
        // In memory as a whole, or no screen was planned.
        let tile = self.acquire(self.weights.plan().tiles_of(head).start)?;
        let weight = info.matrix(tile.parts(), info.rows);
        let screen = screening.screen.get_or_insert_with(|| Screen::new(self.exec, &weight));
        let did = screen.greatest(self.exec, &weight, &ws.final_hidden[..info.cols], &mut ws.logits[..info.rows]);
        if did {
            self.recorder.borrow_mut().screened();
        }
        Ok(did)
    }
}
