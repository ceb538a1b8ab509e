//! Mixtures of experts: a router gives each row to a few of many feed-forwards.

use super::{Gated, Linear, Projection};

pub use rheostat_kernels::{GroupScore, Groups, Normalise, Scores};

/// A mixture of experts.
#[derive(Clone, Debug)]
pub struct Experts {
    /// How many there are.
    pub n_experts: usize,
    /// Who decides.
    pub router: Router,
    /// The expert that stands for all: see [`Experts::expert`].
    pub expert: Gated,
    /// A feed-forward that every row passes through besides.
    pub shared: Option<Shared>,
}

/// How rows find their experts.
#[derive(Clone, Debug)]
pub struct Router {
    /// From a row to a number for each expert.
    pub linear: Linear,
    /// Experts of a row.
    pub top_k: usize,
    /// What becomes of the numbers.
    pub scores: Scores,
    /// What the scores of a row's experts are divided by.
    pub normalise: Normalise,
    /// What weights are multiplied by in the end.
    pub scaling: f32,
    /// The tensor `[n_experts]` that is added to scores for the choice alone.
    pub correction_bias: Option<String>,
    /// Experts are chosen within the best of these groups only.
    pub groups: Option<Groups>,
}

/// A feed-forward that every row passes through.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The feed-forward.
    pub ffn: Gated,
    /// To one number, by whose sigmoid its output is multiplied.
    pub gate: Option<Linear>,
}

impl Experts {
    /// Expert `e`.
    #[must_use]
    pub fn expert(&self, e: usize) -> Gated {
        let input = |p: &Projection| Projection { linear: p.linear.of_expert(e), pieces: p.pieces.clone() };
        Gated {
            act: self.expert.act,
            intermediate: self.expert.intermediate,
            inputs: self.expert.inputs.iter().map(input).collect(),
            down: self.expert.down.of_expert(e),
        }
    }

    /// Linear maps that every row passes through, in the order of use.
    #[must_use]
    pub fn linears(&self) -> Vec<&Linear> {
        let shared = self.shared.iter().flat_map(|s| s.gate.iter().chain(s.ffn.linears()));
        [&self.router.linear].into_iter().chain(shared).collect()
    }

    /// The same, and those of the expert that stands for all, to change them.
    pub(super) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let shared = self.shared.iter_mut().flat_map(|s| s.gate.iter_mut().chain(s.ffn.linears_mut()));
        [&mut self.router.linear].into_iter().chain(shared).chain(self.expert.linears_mut()).collect()
    }
}
