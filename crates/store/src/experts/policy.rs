//! Which experts to keep: those that will be used soonest, as far as the past tells.
//!
//! Each expert has an estimate `p` of how likely the next request for its layer names it. It is a mixture of averages over past
//! requests for the layer that forget at different speeds: the slow ones know which experts a text uses at all, the fast ones
//! that some routers choose again what they have just chosen. How much each of them counts is learned, layer by layer: every expert that
//! is named speaks for the averages that expected it (a step of expectation and maximisation).
//!
//! A sweep asks for layer after layer, so that an expert named with probability `p` is used again after `1/p - 1` whole sweeps
//! more than it takes to come to its layer, on average. The one for which that is longest is the one to give up.
//!
//! Where every expert is used in every sweep (a long prompt), all have `p = 1`, and what remains is the way to their
//! layer: what was used last is given up first, which is the best that can be done with a cyclic sweep, and the reverse
//! of LRU. `simulation.rs` has how it compares.

/// What each average keeps of the past at a request: nothing, half of it after 3 requests, after 14, after 140.
const KEEPS: Averages = [0.0, 0.8, 0.95, 0.995];
/// What is added to the counts: how often experts are named that never were.
const PRIOR: f32 = 0.02;
/// How fast it is learned how much each average counts: by so much of what one request says.
const RATE: f32 = 0.02;

/// A number for each of the averages.
type Averages = [f32; 4];

/// The estimates of all experts.
pub(super) struct Policy {
    /// The first expert of each layer, and the number of all.
    layers: Vec<usize>,
    /// The layer of each expert.
    layer_of: Vec<u32>,
    /// How often each was named, aged.
    named: Vec<Averages>,
    /// How many requests there were for each layer, aged in the same way.
    requests: Vec<Averages>,
    /// For each layer, how much each average counts: 1 in all.
    shares: Vec<Averages>,
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
            named: vec![Averages::default(); all],
            requests: vec![Averages::default(); count],
            shares: vec![[1.0 / KEEPS.len() as f32; KEEPS.len()]; count],
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
        self.learn(layer, experts);
        let all = self.layers[layer]..self.layers[layer + 1];
        let age = |counts: &mut Averages| counts.iter_mut().zip(KEEPS).for_each(|(count, keep)| *count *= keep);
        let add = |counts: &mut Averages| counts.iter_mut().for_each(|count| *count += 1.0);
        age(&mut self.requests[layer]);
        add(&mut self.requests[layer]);
        self.named[all.clone()].iter_mut().for_each(age);
        for e in experts {
            add(&mut self.named[*e as usize]);
        }
        for e in all {
            let p: f32 = self.expected(layer, e).iter().sum();
            self.pauses[e] = 1.0 / p - 1.0;
        }
    }

    /// What each average adds to the `p` of an expert.
    fn expected(&self, layer: usize, expert: usize) -> Averages {
        std::array::from_fn(|i| {
            let p = (self.named[expert][i] + PRIOR) / (self.requests[layer][i] + PRIOR);
            self.shares[layer][i] * p
        })
    }

    /// `experts` are named: averages that expected them will count for more.
    fn learn(&mut self, layer: usize, experts: &[u32]) {
        if experts.is_empty() {
            return;
        }
        let mut credit = Averages::default();
        for e in experts {
            let expected = self.expected(layer, *e as usize);
            let p: f32 = expected.iter().sum();
            credit.iter_mut().zip(expected).for_each(|(credit, part)| *credit += part / p);
        }
        for (share, credit) in self.shares[layer].iter_mut().zip(credit) {
            *share += RATE * (credit / experts.len() as f32 - *share);
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
