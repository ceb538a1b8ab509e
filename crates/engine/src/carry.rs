//! What a sequence carries from position to position where its past is not in a cache: the states of convolutions and
//! recurrences, as they are and as they were before the last pass.

use crate::decoder::{Block, Decoder};

/// The states of all layers.
pub(crate) struct Carry {
    layers: Vec<State>,
    /// Where the last pass began, if it can be gone back to.
    before: Option<usize>,
}

/// The state of one layer: of its convolution, and of its recurrence. Empty until it is used.
struct State {
    lens: [usize; 2],
    now: [Vec<f32>; 2],
    before: [Vec<f32>; 2],
    /// Whether the pass under way has kept it.
    kept: bool,
}

impl Carry {
    pub(crate) fn new(decoder: &Decoder) -> Carry {
        let state = |block: &Block| State {
            lens: block.mixer.state(),
            now: Default::default(),
            before: Default::default(),
            kept: false,
        };
        Carry { layers: decoder.blocks.iter().map(state).collect(), before: None }
    }

    /// Keeps the state of `layer` as it is: the pass under way will change it.
    pub(crate) fn keep(&mut self, layer: usize) {
        let state = &mut self.layers[layer];
        for (len, (now, before)) in state.lens.into_iter().zip(state.now.iter_mut().zip(&mut state.before)) {
            now.resize(len, 0.0);
            before.clear();
            before.extend_from_slice(now);
        }
        state.kept = true;
    }

    /// The state of `layer`, which was kept.
    pub(crate) fn state(&mut self, layer: usize) -> &mut [Vec<f32>; 2] {
        &mut self.layers[layer].now
    }

    /// A part of the state of `layer` as it is; empty before it was ever used, which stands for zeros.
    pub(crate) fn now(&self, layer: usize, part: usize) -> &[f32] {
        &self.layers[layer].now[part]
    }

    /// Takes over a part of the state of `layer`, which another sequence had at the same position.
    pub(crate) fn put(&mut self, layer: usize, part: usize, values: Vec<f32>) {
        self.layers[layer].now[part] = values;
        self.before = None;
    }

    /// A pass that began at `len` is over. Where states were not kept, since positions were taken over and not computed, nothing
    /// is known of how they were.
    pub(crate) fn passed(&mut self, len: usize) {
        let kept = self.layers.iter().all(|state| state.kept || state.lens == [0, 0]);
        self.before = kept.then_some(len);
        self.layers.iter_mut().for_each(|state| state.kept = false);
    }

    /// A pass has failed: what it changed is as it was.
    pub(crate) fn undo(&mut self) {
        let mut changed = false;
        for state in self.layers.iter_mut().filter(|state| state.kept) {
            std::mem::swap(&mut state.now, &mut state.before);
            state.kept = false;
            changed = true;
        }
        if changed {
            self.before = None;
        }
    }

    /// Goes back to at most `len` tokens; returns to how many.
    pub(crate) fn back_to(&mut self, len: usize) -> usize {
        if self.layers.iter().all(|state| state.lens == [0, 0]) {
            return len;
        }
        match self.before.take() {
            Some(before) if before <= len => {
                for state in &mut self.layers {
                    std::mem::swap(&mut state.now, &mut state.before);
                }
                before
            }
            _ => {
                self.layers.iter_mut().flat_map(|state| &mut state.now).for_each(|now| now.fill(0.0));
                0
            }
        }
    }
}
