//! Passes of a model: their input is checked, then the forward pass runs, for whoever looks on.

use std::cell::RefCell;

use super::Model;
use crate::error::Error;
use crate::forward::{Input, Output, Pass, Want, Workspace, rows, wanted_rows};
use crate::hooks::{Hooks, Look, Row};
use crate::kv::Sequence;

impl Model {
    /// One pass: every input's tokens follow what its sequence has read.
    ///
    /// # Errors
    /// When a token is out of range, the context or the planned memory is exceeded, or a read fails. No
    /// sequence has grown then.
    pub fn forward(&mut self, inputs: &mut [Input<'_>]) -> Result<Output<'_>, Error> {
        match self.hooks.take() {
            None => self.pass(inputs, ()),
            Some(mut hooks) => {
                // Taken out, so that they and the model can be borrowed apart; the output borrows the model alone.
                let result = self.pass(inputs, &mut *hooks as &mut dyn Hooks).map(drop);
                self.hooks = Some(hooks);
                result?;
                Ok(self.last_output(inputs))
            }
        }
    }

    /// As [`Model::forward`], with somebody who looks on, in this pass alone.
    ///
    /// # Errors
    /// As [`Model::forward`], or when `hooks` ask for points that [`Options::hooks`](crate::Options::hooks) did not plan, or with the error they return.
    pub fn forward_hooked(&mut self, inputs: &mut [Input<'_>], hooks: &mut dyn Hooks) -> Result<Output<'_>, Error> {
        self.planned(hooks)?;
        self.pass(inputs, hooks)
    }

    /// Lets somebody look on in every pass from now on, or nobody; gives back who did so far.
    ///
    /// # Errors
    /// When `hooks` ask for points that [`Options::hooks`](crate::Options::hooks) did not plan.
    pub fn set_hooks(&mut self, hooks: Option<Box<dyn Hooks + Send>>) -> Result<Option<Box<dyn Hooks + Send>>, Error> {
        if let Some(hooks) = &hooks {
            self.planned(&**hooks)?;
        }
        Ok(std::mem::replace(&mut self.hooks, hooks))
    }

    /// Whether there is room for what `hooks` ask for.
    fn planned(&self, hooks: &dyn Hooks) -> Result<(), Error> {
        match hooks.points().beyond(self.planned_hooks) {
            Some(point) => Err(Error::PointNotPlanned { point }),
            None => Ok(()),
        }
    }

    fn pass<H: Look>(&mut self, inputs: &mut [Input<'_>], hooks: H) -> Result<Output<'_>, Error> {
        let n: usize = inputs.iter().map(|i| i.tokens.len()).sum();
        let wanted: usize = inputs.iter().map(wanted_rows).sum();
        if inputs.iter().any(|i| i.tokens.is_empty()) {
            return Err(Error::EmptyPrompt);
        }
        if inputs.iter().any(|i| !i.sequence.is_of(&self.kv)) {
            return Err(Error::ForeignSequence);
        }
        if n > self.plan.rows {
            return Err(Error::TooManyRows { rows: n, max_rows: self.plan.rows });
        }
        if wanted > self.logit_rows {
            return Err(Error::TooManyRows { rows: wanted, max_rows: self.logit_rows });
        }
        for input in inputs.iter() {
            self.check(input.tokens, input.sequence.len())?;
        }
        let (rows, wanted) = if H::ACTIVE { rows(inputs) } else { (Vec::new(), Vec::new()) };
        let (pass, workspace) = self.pass_with(hooks, rows, wanted);
        pass.run(inputs, workspace)
    }

    /// A pass over `rows`, and the buffers that it works with.
    pub(super) fn pass_with<H: Look>(
        &mut self,
        hooks: H,
        rows: Vec<Row>,
        wanted: Vec<Row>,
    ) -> (Pass<'_, H>, &mut Workspace) {
        let pass = Pass {
            decoder: &self.decoder,
            checkpoint: &self.checkpoint,
            bound: &self.bound,
            weights: &self.weights,
            experts: self.experts.as_ref(),
            exec: &self.exec,
            cancel: &self.cancel,
            recorder: RefCell::new(&mut self.recorder),
            hooks: RefCell::new(hooks),
            rows,
            wanted,
            kv_format: self.kv.format(),
            screening: (self.plan.screen > 0).then(|| RefCell::new(&mut self.screening)),
        };
        (pass, &mut self.workspace)
    }

    /// The output of the pass that read `inputs` last.
    fn last_output(&self, inputs: &[Input<'_>]) -> Output<'_> {
        self.workspace.output(&self.decoder, inputs.iter().map(wanted_rows).sum())
    }

    /// The logits of the last pass, in the first rows, where they can be read beside everything else.
    pub(crate) fn last_logits(&self) -> &[f32] {
        self.workspace.logits()
    }

    /// Reads `tokens` into `sequence`, in as few passes as memory allows; the output is the last token's.
    ///
    /// # Errors
    /// As [`Model::forward`]. Passes before the one that failed have been read.
    pub fn prefill(&mut self, sequence: &mut Sequence, tokens: &[u32]) -> Result<Output<'_>, Error> {
        let last = self.chunks(sequence, tokens, |model, input| model.forward(&mut [input]).map(drop))?;
        self.forward(&mut [Input { sequence, tokens: &tokens[last..], want: Want::Last }])
    }

    /// As [`Model::prefill`], with somebody who looks on.
    ///
    /// # Errors
    /// As [`Model::forward_hooked`].
    pub fn prefill_hooked(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[u32],
        hooks: &mut dyn Hooks,
    ) -> Result<Output<'_>, Error> {
        let last = self.chunks(sequence, tokens, |model, input| model.forward_hooked(&mut [input], hooks).map(drop))?;
        self.forward_hooked(&mut [Input { sequence, tokens: &tokens[last..], want: Want::Last }], hooks)
    }

    /// Reads all but the last chunk of `tokens`, and says where that begins.
    fn chunks(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[u32],
        mut read: impl FnMut(&mut Model, Input<'_>) -> Result<(), Error>,
    ) -> Result<usize, Error> {
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        self.check(tokens, sequence.len())?;
        let last = (tokens.len() - 1) / self.plan.rows * self.plan.rows;
        for chunk in tokens[..last].chunks(self.plan.rows) {
            read(self, Input { sequence, tokens: chunk, want: Want::Nothing })?;
        }
        Ok(last)
    }
}
