//! From residual streams to logits, apart from a pass.

use super::Model;
use crate::error::Error;
use crate::forward::{Output, held_norm};

impl Model {
    /// What the final norm and the head make of `residuals: [rows, hidden_size]`, values of the residual stream of wherever: what the
    /// model would say if it ended there. At most [`Model::max_logit_rows`] rows. Of the weights, the head alone is read. The last block's
    /// residual stream gives the bits of [`Model::forward`].
    ///
    /// # Errors
    /// When there are too many rows, or a read fails.
    pub fn unembed(&mut self, residuals: &[f32]) -> Result<Output<'_>, Error> {
        self.check_residuals(residuals)?;
        let (pass, workspace) = self.pass_with((), Vec::new(), Vec::new());
        pass.unembed(residuals, workspace)
    }

    /// What each of `parts: [rows, hidden_size]` adds to the logits of the residual stream `whole: [hidden_size]`, before their soft cap:
    /// `[rows, vocab_size]`. The final norm divides by what it divides `whole` by, so that parts that add up to `whole` give rows that
    /// add up to its logits, but for [what biases add](Model::attribute_biases). At most [`Model::max_logit_rows`] rows. Of the weights,
    /// the head alone is read.
    ///
    /// # Errors
    /// When there are too many rows, or a read fails.
    pub fn attribute(&mut self, parts: &[f32], whole: &[f32]) -> Result<&[f32], Error> {
        self.check_residuals(parts)?;
        self.check_residuals(whole)?;
        let (pass, workspace) = self.pass_with((), Vec::new(), Vec::new());
        pass.attribute(parts, whole, workspace)
    }

    /// What the biases of the final norm and of the head add to the logits, before their soft cap: `[vocab_size]`, zeros if there are none.
    ///
    /// # Errors
    /// When a read fails.
    pub fn attribute_biases(&mut self) -> Result<&[f32], Error> {
        let (pass, workspace) = self.pass_with((), Vec::new(), Vec::new());
        pass.attribute_biases(workspace)
    }

    /// What `part: [hidden_size]` of the output `out` of block `i`'s mixer becomes on its way to the residual stream, the norm after the
    /// mixer, if there is one, dividing by what it divides `out` by; but for that norm's bias.
    pub(crate) fn as_mixer_adds(&self, i: usize, part: &mut [f32], out: &[f32]) {
        if let Some(norm) = &self.bound.blocks[i].mixer_post_norm {
            held_norm(norm, part, out);
        }
        let by = self.decoder.blocks[i].residual_scale;
        part.iter_mut().for_each(|x| *x *= by);
    }

    /// Whether `residuals` are rows, and not too many.
    fn check_residuals(&self, residuals: &[f32]) -> Result<(), Error> {
        let hidden = self.decoder.hidden_size;
        let rows = residuals.len() / hidden;
        if residuals.is_empty() || !residuals.len().is_multiple_of(hidden) {
            return Err(Error::NoResidual { elements: residuals.len(), hidden });
        }
        if rows > self.logit_rows {
            return Err(Error::TooManyRows { rows, max_rows: self.logit_rows });
        }
        Ok(())
    }
}
