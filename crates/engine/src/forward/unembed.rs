//! Final norm and head of rows that the caller has: what a residual stream would say if it ended here, and what parts of it add.

use rheostat_kernels as kernels;

use super::look::moments;
use super::products::Product;
use super::workspace::Workspace;
use super::{Output, Pass};
use crate::bind::{BoundLinear, BoundNorm};
use crate::decoder::Logits;
use crate::error::Error;
use crate::hooks::Look;
use crate::model::all_reads;
use crate::profile::Phase;
use rheostat_store::Head;

impl<H: Look> Pass<'_, H> {
    /// What the final norm and the head make of `residuals: [n, hidden]`, which fit `ws`.
    pub(crate) fn unembed<'w>(&self, residuals: &[f32], ws: &'w mut Workspace) -> Result<Output<'w>, Error> {
        let n = residuals.len() / self.decoder.hidden_size;
        self.with_head(n, || {
            ws.delta[..residuals.len()].copy_from_slice(residuals);
            self.head_of_rows(n, None, ws)
        })?;
        Ok(ws.output(self.decoder, n))
    }

    /// What each of `parts: [n, hidden]` of the residual stream `whole: [hidden]` adds to the logits before their soft cap, the final
    /// norm dividing by what it divides `whole` by, but for what norm and head add by their biases. `[n, vocab]`.
    pub(crate) fn attribute<'w>(
        &self,
        parts: &[f32],
        whole: &[f32],
        ws: &'w mut Workspace,
    ) -> Result<&'w [f32], Error> {
        let hidden = self.decoder.hidden_size;
        let rows = &mut ws.final_hidden[..parts.len()];
        rows.copy_from_slice(parts);
        rows.chunks_exact_mut(hidden).for_each(|row| held_norm(&self.bound.norm, row, whole));
        self.bare_head(parts.len() / hidden, ws)
    }

    /// What norm and head add to the logits before their soft cap by their biases, whatever there is: `[vocab]`.
    pub(crate) fn attribute_biases<'w>(&self, ws: &'w mut Workspace) -> Result<&'w [f32], Error> {
        let hidden = self.decoder.hidden_size;
        match self.bound.norm.norm().bias {
            Some(bias) => ws.final_hidden[..hidden].copy_from_slice(bias),
            None => ws.final_hidden[..hidden].fill(0.0),
        }
        self.bare_head(1, ws)?;
        let logits = &mut ws.logits[..self.decoder.vocab_size];
        if let Some(bias) = &self.bound.head.bias {
            let factor = self.decoder.logits.scale;
            logits.iter_mut().zip(bias).for_each(|(y, b)| *y += b * factor);
        }
        Ok(logits)
    }

    /// The products of the first `n` rows of `final_hidden` with the head, without its bias, times the factor: `[n, vocab]`.
    fn bare_head<'w>(&self, n: usize, ws: &'w mut Workspace) -> Result<&'w [f32], Error> {
        let (hidden, vocab) = (self.decoder.hidden_size, self.decoder.vocab_size);
        let bare = BoundLinear { matrix: self.bound.head.matrix, bias: None, runs: Vec::new() };
        self.with_head(n, || {
            let out = &mut ws.logits[..n * vocab];
            self.products(&ws.final_hidden[..n * hidden], n, &mut ws.prepared, &mut [Product { linear: &bare, out }])
        })?;
        let logits = &mut ws.logits[..n * vocab];
        let Logits { scale, .. } = self.decoder.logits;
        if scale != 1.0 {
            kernels::scale(self.exec, logits, scale);
        }
        Ok(logits)
    }

    /// Does `work` in a sweep of the head alone, for `n` rows.
    fn with_head(&self, n: usize, work: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        if self.cancel.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        self.recorder.borrow_mut().begin(Phase::Prefill, n, n, all_reads(self.weights, self.experts));
        self.weights.begin_sweep(Head::Alone);
        let result = work();
        self.recorder.borrow_mut().end();
        result
    }
}

/// What `norm` makes of `part: [width]`, but for its bias, dividing by what it divides `whole` by: so it is linear.
pub(crate) fn held_norm(norm: &BoundNorm, part: &mut [f32], whole: &[f32]) {
    let (mean, scale) = (moments(norm, part).0, moments(norm, whole).1);
    part.iter_mut().for_each(|x| *x = (*x - mean) / scale);
    if let Some(weight) = norm.norm().weight {
        part.iter_mut().zip(weight).for_each(|(x, w)| *x *= w);
    }
}
