//! Operations in words, for people.

use super::{Op, Operation};

impl Op {
    /// What the operation is, such as "norm before the mixer: what it divides by".
    #[must_use]
    pub fn words(&self) -> String {
        let place = self.place();
        let norm = |what: &str| {
            let which = match place.split('.').next().unwrap_or_default() {
                "ln1" => "norm before the mixer",
                "ln1_post" | "hook_attn_out" => "norm after the mixer",
                "ln2" => "norm before the feed-forward",
                "ln2_post" | "hook_mlp_out" => "norm after the feed-forward",
                _ => "final norm",
            };
            format!("{which}: {what}")
        };
        match &self.operation {
            Operation::Embed { .. } => "embedding of tokens".to_owned(),
            Operation::Positions { .. } => "embedding of positions".to_owned(),
            Operation::Copy => "residual stream".to_owned(),
            Operation::Add => "sum".to_owned(),
            Operation::Scale { .. } => "factor".to_owned(),
            Operation::SoftCap { .. } => "soft cap".to_owned(),
            Operation::Clamp { .. } => "clipping".to_owned(),
            Operation::Columns { .. } | Operation::Join { .. } => "parts of heads".to_owned(),
            Operation::NormScale { .. } => norm("what it divides by"),
            Operation::Normalize { .. } => norm("the division"),
            Operation::NormWeight { .. } => norm("weight and bias"),
            Operation::Norm { .. } => "norm of queries or keys".to_owned(),
            Operation::Linear { .. } if place == "logits" => "output projection".to_owned(),
            Operation::Linear { .. } => "linear map".to_owned(),
            Operation::Rotate { .. } => "rotary position embedding".to_owned(),
            Operation::Scores { .. } => "attention scores".to_owned(),
            Operation::Pattern { .. } => "softmax of the scores".to_owned(),
            Operation::Weigh { .. } => "weighted sum of values".to_owned(),
            Operation::SigmoidGate | Operation::RowGate => "sigmoid gate".to_owned(),
            Operation::HeadOutputs { .. } => "output projection, by heads".to_owned(),
            Operation::SumOfHeads { .. } => "sum over heads, and bias".to_owned(),
            Operation::Activation { .. } => "activation".to_owned(),
            Operation::Gate { .. } => "activation of the gate, times the other half".to_owned(),
            Operation::RouterScores { .. } => "router: scores of experts".to_owned(),
            Operation::Choose { .. } => "router: choice of experts".to_owned(),
            Operation::ChosenWeights { .. } => "router: weights of the chosen".to_owned(),
            Operation::Experts { .. } => "sum over the chosen experts".to_owned(),
            Operation::Convolution { .. } => "convolution and SiLU".to_owned(),
            Operation::Decay { .. } => "decay of the state".to_owned(),
            Operation::Sigmoid => "share of what is written".to_owned(),
            Operation::DeltaState { .. } => "gated delta rule: the state".to_owned(),
            Operation::DeltaRead { .. } => "gated delta rule: what is read".to_owned(),
            Operation::GatedNorm { .. } => "norm of heads, times the SiLU of the gate".to_owned(),
            Operation::GatedConvolution { .. } => "convolution between gates".to_owned(),
        }
    }
}
