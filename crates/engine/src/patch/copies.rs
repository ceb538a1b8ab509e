//! Many copies of one text, which differ in what is done to them.

use rheostat_kernels::KV_UNIT;

use crate::error::Error;
use crate::forward::{Input, Want};
use crate::hooks::Hooks;
use crate::kv::Sequence;
use crate::model::Model;

/// Copies of a text, each of which has read its beginning.
pub(super) struct Copies<'a> {
    tokens: &'a [u32],
    /// Tokens that nothing is done to.
    shared: usize,
    sequences: Vec<Sequence>,
}

impl<'a> Copies<'a> {
    /// None so far, of `tokens`, to the first `shared` of which nothing is done. (The last is always read anew: its logits are wanted.)
    pub(super) fn new(tokens: &'a [u32], shared: usize) -> Copies<'a> {
        Copies { tokens, shared: shared.min(tokens.len() - 1), sequences: Vec::new() }
    }

    /// How many go through a pass together: so many that their rows and their caches fit, and at most as many as logits can be had for.
    pub(super) fn together(&self, model: &Model) -> usize {
        let rows = model.max_rows() / (self.tokens.len() - self.shared);
        let caches = model.plan().tokens / self.tokens.len().next_multiple_of(KV_UNIT);
        rows.min(caches).min(model.max_logit_rows()).max(1)
    }

    /// Reads `count` copies to their end, with `hooks` looking on where they are no longer the same; the logits of each.
    pub(super) fn pass(
        &mut self,
        model: &mut Model,
        count: usize,
        hooks: &mut dyn Hooks,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let count = count.max(1);
        self.sequences.resize_with(count.max(self.sequences.len()), || model.sequence(self.tokens.len()));
        let sequences = &mut self.sequences[..count];
        sequences.iter_mut().for_each(|sequence| sequence.truncate(self.shared));
        // What was lost in going back, or was never read.
        let mut lacking: Vec<&mut Sequence> = sequences.iter_mut().filter(|s| s.len() < self.shared).collect();
        while let Some(from) = lacking.first().map(|sequence| sequence.len()) {
            let (mut now, later): (Vec<_>, Vec<_>) = lacking.into_iter().partition(|s| s.len() == from);
            advance(model, &mut now, &self.tokens[..self.shared], Want::Nothing, None)?;
            lacking = later;
        }
        let mut all: Vec<&mut Sequence> = sequences.iter_mut().collect();
        advance(model, &mut all, self.tokens, Want::Last, Some(hooks))?;
        let vocab = model.decoder().vocab_size;
        Ok(model.last_logits()[..count * vocab].chunks_exact(vocab).map(<[f32]>::to_vec).collect())
    }
}

/// Reads what is left of `tokens` into all of `sequences`, which are equally long, with as many rows in a pass as there is room for.
fn advance(
    model: &mut Model,
    sequences: &mut [&mut Sequence],
    tokens: &[u32],
    want: Want,
    mut hooks: Option<&mut dyn Hooks>,
) -> Result<(), Error> {
    let rows = (model.max_rows() / sequences.len()).max(1);
    let mut at = sequences.first().map_or(0, |sequence| sequence.len());
    while at < tokens.len() {
        let end = tokens.len().min(at + rows);
        let want = if end == tokens.len() { want } else { Want::Nothing };
        let inputs = sequences.iter_mut().map(|sequence| Input { sequence, tokens: &tokens[at..end], want });
        let mut inputs: Vec<Input<'_>> = inputs.collect();
        match &mut hooks {
            Some(hooks) => model.forward_hooked(&mut inputs, &mut **hooks)?,
            None => model.forward(&mut inputs)?,
        };
        at = end;
    }
    Ok(())
}
