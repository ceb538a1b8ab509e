//! The operations of feed-forwards: `forward/ffn.rs` and `forward/experts.rs` as lists.

use super::Operation;
use super::list::List;
use crate::decoder::{Experts, Ffn, Gated, Part, Scores};
use crate::diff::exact::router::Choice;

impl List {
    /// A feed-forward from its input `x` to the point `out`.
    pub(super) fn ffn(&mut self, ffn: &Ffn, x: &str, out: &str) {
        match ffn {
            Ffn::Gated(gated) => self.gated("mlp", gated, x, out),
            Ffn::Plain(plain) => {
                self.linear("mlp.hook_pre", x, &plain.up);
                self.push("mlp.hook_post", &["mlp.hook_pre"], Operation::Activation { act: plain.act.clone() });
                self.linear(out, "mlp.hook_post", &plain.down);
            }
            Ffn::Experts(experts) => self.experts(experts, x, out),
        }
    }

    fn gated(&mut self, name: &str, gated: &Gated, x: &str, out: &str) {
        let [pre, linear, post] = ["pre", "pre_linear", "post"].map(|last| format!("{name}.hook_{last}"));
        self.part(&pre, x, &gated.inputs, Part::Gate);
        self.part(&linear, x, &gated.inputs, Part::Up);
        self.push(&post, &[&pre, &linear], Operation::Gate { act: gated.act });
        self.linear(out, &post, &gated.down);
    }

    fn experts(&mut self, experts: &Experts, x: &str, out: &str) {
        let router = &experts.router;
        let choice = Choice {
            n_experts: experts.n_experts,
            top_k: router.top_k,
            scores: router.scores,
            groups: router.groups,
            normalise: router.normalise,
            scaling: f64::from(router.scaling),
        };
        let bias = || router.correction_bias.clone();
        let (logits, indices, weights) =
            ("mlp.hook_router_logits", "mlp.hook_expert_indices", "mlp.hook_chosen_weights");
        self.linear(logits, x, &router.linear);
        if matches!(router.scores, Scores::Softmax | Scores::Sigmoid) {
            self.push("mlp.hook_expert_weights", &[logits], Operation::RouterScores { choice });
        }
        self.push(indices, &[logits], Operation::Choose { choice, bias: bias() });
        self.push(weights, &[logits, indices], Operation::ChosenWeights { choice, bias: bias() });
        let routed = if experts.shared.is_some() { "mlp.hook_experts_out" } else { out };
        self.push(routed, &[x, indices, weights], Operation::Experts { experts: Box::new(experts.clone()) });
        let Some(shared) = &experts.shared else { return };
        let result = if shared.gate.is_some() { "=mlp.shared_out" } else { "mlp.hook_shared_out" };
        self.gated("mlp.shared", &shared.ffn, x, result);
        if let Some(gate) = &shared.gate {
            self.linear("=mlp.shared_gate", x, gate);
            self.push("mlp.hook_shared_out", &[result, "=mlp.shared_gate"], Operation::RowGate);
        }
        self.push(out, &["mlp.hook_experts_out", "mlp.hook_shared_out"], Operation::Add);
    }
}
