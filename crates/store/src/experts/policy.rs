//! Which experts to keep: those that will be used soonest, as far as the past tells.
//!
//! Each expert has an estimate `p` of how often a request for its layer names it: the mean of two averages that forget
//! at different speeds, over requests for its layer. The slow one knows which experts a text uses at all, the fast one that a router
//! likes to choose again what it has just chosen. A sweep asks for layer after layer, so that an expert named with
//! probability `p` is needed again after `1/p - 1` whole sweeps more than it takes to come to its layer, on average. The
//! expert for which that is longest is the one to give up.
//!
//! Where every expert is used in every sweep (a long prompt), all have `p = 1`, and what remains is the way to their
//! layer: what was used last is given up first, which is the best that can be done with a cyclic sweep, and the reverse
//! of LRU.

/// What an average keeps of the past at each request: half of it after 5 requests, and after 70.
const KEEPS: [f32; 2] = [0.87, 0.99];
/// What is added to the counts: how often experts are named that never were.
const PRIOR: f32 = 0.05;

/// The estimates of all experts.
pub(super) struct Policy {
    /// The first expert of each layer, and the number of all.
    layers: Vec<usize>,
    /// The layer of each expert.
    layer_of: Vec<u32>,
    /// How often each was named, aged.
    named: Vec<[f32; 2]>,
    /// How many requests there were for each layer, aged in the same way.
    requests: Vec<[f32; 2]>,
    /// For each expert, `1/p - 1`: sweeps in which it is not used.
    pauses: Vec<f32>,
    /// For each layer, the part of a sweep until it comes: from just above 0 for the next one to 1 for the one at hand.
    ways: Vec<f32>,
}

impl Policy {
    /// `layers` are the first expert of each layer, and the number of all.
    pub(super) fn new(layers: &[usize]) -> Policy {
        let all = layers.last().copied().unwrap_or(0);
        let count = layers.len().saturating_sub(1);
        let layer_of = layers.windows(2).enumerate().flat_map(|(l, w)| std::iter::repeat_n(l as u32, w[1] - w[0]));
        let mut policy = Policy {
            layers: layers.to_vec(),
            layer_of: layer_of.collect(),
            named: vec![[0.0; 2]; all],
            requests: vec![[0.0; 2]; count],
            pauses: vec![0.0; all],
            ways: vec![1.0; count],
        };
        policy.turn_to(0);
        policy
    }

    pub(super) fn layer_of(&self, expert: usize) -> usize {
        self.layer_of[expert] as usize
    }

    /// `layer` is at hand.
    fn turn_to(&mut self, layer: usize) {
        let count = self.ways.len();
        for (l, way) in self.ways.iter_mut().enumerate() {
            let steps = (l + count - layer - 1) % count + 1;
            *way = steps as f32 / count as f32;
        }
    }

    /// A request for `layer` names `experts`, each once, counted through all layers.
    pub(super) fn request(&mut self, layer: usize, experts: &[u32]) {
        self.turn_to(layer);
        let all = self.layers[layer]..self.layers[layer + 1];
        let age = |counts: &mut [f32; 2]| counts.iter_mut().zip(KEEPS).for_each(|(count, keep)| *count *= keep);
        let add = |counts: &mut [f32; 2]| counts.iter_mut().for_each(|count| *count += 1.0);
        age(&mut self.requests[layer]);
        add(&mut self.requests[layer]);
        self.named[all.clone()].iter_mut().for_each(age);
        for e in experts {
            add(&mut self.named[*e as usize]);
        }
        let [fast, slow] = self.requests[layer].map(|requests| 0.5 / (requests + PRIOR));
        for (pause, named) in self.pauses[all.clone()].iter_mut().zip(&self.named[all]) {
            let p = (named[0] + PRIOR) * fast + (named[1] + PRIOR) * slow;
            *pause = 1.0 / p - 1.0;
        }
    }

    /// Sweeps until an expert is used again, about.
    pub(super) fn wait(&self, expert: usize) -> f32 {
        self.pauses[expert] + self.way(expert)
    }

    /// Sweeps until an expert is used that is used when its layer comes.
    pub(super) fn way(&self, expert: usize) -> f32 {
        self.ways[self.layer_of(expert)]
    }
}
