//! What the pages of mixtures of experts share: how experts are stored, who chooses among them, and which layers have them.
//! A page describes its model as a dense one and puts [`Experts`] into layers that have them.

use rheostat_kernels::Activation;

use super::Tensors;
use super::parts::{activation, must_say};
use crate::config::{ConfigError, Keys};
use crate::decoder::{Decoder, Experts, Ffn, Gated, GroupScore, Groups, Linear, Normalise, Router, Scores, Shared};

/// More experts than any model has; a description is made of each.
const MOST_EXPERTS: usize = 1 << 16;

/// The sizes of a mixture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mixture {
    pub(super) n_experts: usize,
    /// Experts of a row.
    pub(super) top_k: usize,
    pub(super) hidden: usize,
    /// Elements between the two products of an expert.
    pub(super) intermediate: usize,
    pub(super) act: Activation,
}

/// What a family calls the sizes of its mixture, and what they are where the config is silent.
pub(super) struct Names {
    /// How many experts there are: the key, and another that means the same.
    pub(super) n_experts: [&'static str; 2],
    /// Without the keys.
    pub(super) experts: usize,
    /// `num_experts_per_tok` without the key; none: the key has to be there.
    pub(super) top_k: Option<usize>,
    /// Elements between the two products of an expert.
    pub(super) intermediate: (&'static str, Option<usize>),
}

impl Mixture {
    /// Reads the keys that all mixtures have.
    pub(super) fn read(keys: &Keys<'_>, names: &Names) -> Result<Mixture, ConfigError> {
        let [key, other] = names.n_experts;
        let (own, also) = (keys.opt_size(key)?, keys.opt_size(other)?);
        if let (Some(own), Some(also)) = (own, also)
            && own != also
        {
            return Err(keys.invalid(other, format!("{own}, as {key} says")));
        }
        let n_experts = own.or(also).unwrap_or(names.experts);
        if n_experts > MOST_EXPERTS {
            let key = if own.is_some() { key } else { other };
            return Err(keys.invalid(key, format!("a whole number from 1 to {MOST_EXPERTS}")));
        }
        let per_token = keys.opt_size("num_experts_per_tok")?.or(names.top_k);
        let top_k = per_token.ok_or_else(|| keys.missing("num_experts_per_tok"))?;
        if top_k > n_experts {
            return Err(keys.invalid("num_experts_per_tok", format!("at most the number of experts ({n_experts})")));
        }
        let (key, default) = names.intermediate;
        let intermediate = keys.opt_size(key)?.or(default).ok_or_else(|| keys.missing(key))?;
        let act = activation(keys, "hidden_act", "silu")?;
        // How much training minds that experts are used unequally.
        keys.ignore(&["router_aux_loss_coef", "output_router_logits", "aux_loss_alpha", "seq_aux", "ep_size"]);
        Ok(Mixture { n_experts, top_k, hidden: keys.size("hidden_size")?, intermediate, act })
    }

    /// Experts that are stored one by one, as `{name}.{number}.{gate, up or down}.weight`.
    pub(super) fn apart(&self, name: &str, [gate, up, down]: [&str; 3]) -> Gated {
        let linear = |which: &str, in_features, out_features| {
            Linear::new(format!("{name}.{{}}.{which}.weight"), in_features, out_features)
        };
        let (hidden, inner) = (self.hidden, self.intermediate);
        Gated::new(self.act, linear(gate, hidden, inner), linear(up, hidden, inner), linear(down, inner, hidden))
    }

    /// Experts that lie in two tensors, `[n_experts, 2 · intermediate, hidden]` with the rows of the gate before those of up,
    /// and `[n_experts, hidden, intermediate]`.
    pub(super) fn stacked(&self, inputs: &str, down: &str) -> Gated {
        let (hidden, inner) = (self.hidden, self.intermediate);
        let half = |first| Linear::new(inputs, hidden, inner).slab(self.n_experts).rows(first, 2 * inner);
        Gated::new(self.act, half(0), half(inner), Linear::new(down, inner, hidden).slab(self.n_experts))
    }

    /// A feed-forward `{name}.{gate,up,down}_proj` that every row passes through.
    pub(super) fn shared(&self, name: &str, intermediate: usize, biased: bool) -> Gated {
        let linear = |which: &str, in_features, out_features| {
            Linear::new(format!("{name}.{which}_proj.weight"), in_features, out_features).biased(biased)
        };
        let hidden = self.hidden;
        let [gate, up] = ["gate", "up"].map(|which| linear(which, hidden, intermediate));
        Gated::new(self.act, gate, up, linear("down", intermediate, hidden))
    }

    /// A router that takes the best by their softmax, which are their weights as they are.
    pub(super) fn router(&self, weight: impl Into<String>) -> Router {
        Router {
            linear: Linear::new(weight, self.hidden, self.n_experts),
            top_k: self.top_k,
            scores: Scores::Softmax,
            normalise: Normalise::No,
            scaling: 1.0,
            correction_bias: None,
            groups: None,
        }
    }

    /// Groups of experts, of which only the best are chosen from; `None` where all are.
    pub(super) fn groups(
        &self,
        keys: &Keys<'_>,
        n_groups: usize,
        top_groups: usize,
        by: GroupScore,
    ) -> Result<Option<Groups>, ConfigError> {
        let least = if by == GroupScore::BestTwo { 2 } else { 1 };
        if n_groups == 1 && top_groups == 1 {
            return Ok(None);
        }
        if !self.n_experts.is_multiple_of(n_groups) || self.n_experts / n_groups < least {
            let n = self.n_experts;
            return Err(keys.invalid("n_group", format!("a divisor of {n}, with {least} or more experts in a group")));
        }
        if top_groups > n_groups {
            return Err(keys.invalid("topk_group", format!("at most n_group ({n_groups})")));
        }
        Ok((top_groups < n_groups).then_some(Groups { n_groups, top_groups, by }))
    }

    /// The mixture of `expert`, without a shared one.
    pub(super) fn of(&self, router: Router, expert: Gated) -> Experts {
        Experts { n_experts: self.n_experts, router, expert, shared: None }
    }

    /// The mixture of Qwen2-MoE, of which Qwen3-Next has made use since: with a shared expert, whose part each row decides.
    pub(super) fn qwen(&self, name: &str, normalise: Normalise, shared: Option<usize>) -> Experts {
        let router = Router { normalise, ..self.router(format!("{name}.gate.weight")) };
        let shared = shared.map(|intermediate| Shared {
            ffn: self.shared(&format!("{name}.shared_expert"), intermediate, false),
            gate: Some(Linear::new(format!("{name}.shared_expert_gate.weight"), self.hidden, 1)),
        });
        let expert = self.apart(&format!("{name}.experts"), PROJ);
        Experts { shared, ..self.of(router, expert) }
    }

    /// The mixture of DeepSeek, of which GLM-4.5 has made use since: `router` says how experts are chosen, and `n_shared` experts side by
    /// side work on every row.
    pub(super) fn deepseek(&self, name: &str, router: &Router, n_shared: usize, biased: bool) -> Experts {
        let gate = format!("{name}.gate");
        let correction_bias = (router.scores == Scores::Sigmoid).then(|| format!("{gate}.e_score_correction_bias"));
        let linear = Linear { weight: format!("{gate}.weight"), ..router.linear.clone() };
        let router = Router { linear, correction_bias, ..router.clone() };
        let ffn = self.shared(&format!("{name}.shared_experts"), self.intermediate * n_shared, biased);
        let experts = self.of(router, self.apart(&format!("{name}.experts"), PROJ));
        Experts { shared: Some(Shared { ffn, gate: None }), ..experts }
    }

    /// The router of DeepSeek-V3, and of GLM-4.5 since: sigmoids, and a bias that takes part in the choice alone.
    pub(super) fn by_sigmoid(&self, keys: &Keys<'_>, defaults: SigmoidDefaults) -> Result<Router, ConfigError> {
        must_say(keys, "scoring_func", "sigmoid")?;
        must_say(keys, "topk_method", "noaux_tc")?;
        let n_groups = keys.size_or("n_group", defaults.n_groups)?;
        let top_groups = keys.size_or("topk_group", defaults.top_groups)?;
        let normalised = keys.bool_or("norm_topk_prob", true)?;
        Ok(Router {
            scores: Scores::Sigmoid,
            normalise: if normalised { Normalise::Sum { plus: 1e-20 } } else { Normalise::No },
            scaling: keys.opt_positive("routed_scaling_factor")?.unwrap_or(defaults.scaling) as f32,
            groups: self.groups(keys, n_groups, top_groups, GroupScore::BestTwo)?,
            ..self.router("")
        })
    }
}

/// What [`Mixture::by_sigmoid`] takes where the config is silent.
#[derive(Clone, Copy)]
pub(super) struct SigmoidDefaults {
    pub(super) n_groups: usize,
    pub(super) top_groups: usize,
    pub(super) scaling: f64,
}

/// What most call the three maps of an expert.
pub(super) const PROJ: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// What Mixtral calls them.
pub(super) const W: [&str; 3] = ["w1", "w3", "w2"];

/// The router's weights are divided by their sum if `norm_topk_prob` says so.
pub(super) fn norm_topk_prob(keys: &Keys<'_>, default: bool) -> Result<Normalise, ConfigError> {
    Ok(if keys.bool_or("norm_topk_prob", default)? { Normalise::Sum { plus: 0.0 } } else { Normalise::No })
}

/// Puts experts into the layers that `sparse` names; `experts` is given the beginning of the names of a layer's tensors.
pub(super) fn put(decoder: &mut Decoder, sparse: impl Fn(usize) -> bool, experts: impl Fn(&str) -> Experts) {
    for (i, block) in decoder.blocks.iter_mut().enumerate().filter(|(i, _)| sparse(*i)) {
        block.ffn = Ffn::Experts(Box::new(experts(&format!("model.layers.{i}"))));
    }
}

/// Qwen's layers with experts: every `decoder_sparse_step`-th that is not among `mlp_only_layers`.
pub(super) fn qwen_sparse(keys: &Keys<'_>) -> Result<impl Fn(usize) -> bool + use<>, ConfigError> {
    let step = keys.size_or("decoder_sparse_step", 1)?;
    let expected = "a list of the numbers of layers";
    let dense: Option<Vec<u64>> = keys
        .opt_array("mlp_only_layers")?
        .map_or(Some(Vec::new()), |list| list.iter().map(serde_json::Value::as_u64).collect());
    let dense = dense.ok_or_else(|| keys.invalid("mlp_only_layers", expected))?;
    Ok(move |i: usize| !dense.contains(&(i as u64)) && (i + 1).is_multiple_of(step))
}

/// Beginnings of the names of the tensors of layers behind the last, which predict further tokens (multi-token prediction) and are left
/// alone; at most as many layers as the config says, or one.
pub(super) fn further_layers(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Vec<String>, ConfigError> {
    let layers = keys.layers("num_hidden_layers")?;
    let also = keys.count_or("num_mtp_layers", 1)?;
    let further = keys.count_or("num_nextn_predict_layers", also)?;
    let names = (layers..layers + further).map(|i| format!("model.layers.{i}."));
    Ok(names.take_while(|name| tensors.any(name)).collect())
}
