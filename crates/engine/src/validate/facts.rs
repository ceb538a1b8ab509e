//! What a reference says about a model, against the description that the model's `config.json` became.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::reference::{Reference, fact_names};
use crate::decoder::{Decoder, Ffn, Mixer};
use crate::package::Package;

/// A fact about a model.
#[derive(Clone, PartialEq, Debug)]
pub struct Fact {
    /// Its name, as in `config.json`.
    pub name: &'static str,
    /// What the reference says.
    pub recorded: Option<Value>,
    /// What the model says: several values where its blocks differ, none where it has no such thing.
    pub model: Vec<Value>,
}

/// Whether a fact is as it was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FactVerdict {
    /// It is.
    Same,
    /// It is not.
    Differs,
    /// The reference does not say.
    NotRecorded,
    /// The model has no such thing.
    NotThere,
}

impl FactVerdict {
    /// The name that reports have for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            FactVerdict::Same => "same",
            FactVerdict::Differs => "differs",
            FactVerdict::NotRecorded => "not recorded",
            FactVerdict::NotThere => "not there",
        }
    }
}

impl Fact {
    /// Whether it is as it was recorded.
    #[must_use]
    pub fn verdict(&self) -> FactVerdict {
        match &self.recorded {
            None => FactVerdict::NotRecorded,
            Some(recorded) if self.model.contains(recorded) => FactVerdict::Same,
            Some(_) if self.model.is_empty() => FactVerdict::NotThere,
            Some(_) => FactVerdict::Differs,
        }
    }
}

/// Every fact that a reference may have.
pub(super) fn facts(reference: &Reference, package: &Package, decoder: &Decoder) -> Vec<Fact> {
    let fact =
        |name| Fact { name, recorded: reference.facts.get(name).cloned(), model: values(name, package, decoder) };
    fact_names().map(fact).collect()
}

/// What the model says of `name`.
fn values(name: &'static str, package: &Package, decoder: &Decoder) -> Vec<Value> {
    let config = package.config();
    match name {
        "model_type" => {
            // Of a model that has a language model among its parts, both names are right.
            let whole = config.get("model_type").filter(|whole| *whole != decoder.family);
            [json!(decoder.family)].into_iter().chain(whole.cloned()).collect()
        }
        "hidden_size" => vec![json!(decoder.hidden_size)],
        "num_hidden_layers" => vec![json!(decoder.blocks.len())],
        "vocab_size" => vec![json!(decoder.vocab_size)],
        "qk_norm" => vec![json!(
            decoder.blocks.iter().filter_map(|b| b.mixer.attention()).any(|attention| attention.qk_norm.is_some())
        )],
        _ => {
            let sizes: BTreeSet<usize> = decoder.blocks.iter().flat_map(|block| sizes(name, block)).collect();
            let own = sizes.into_iter().map(|size| json!(size));
            // What config.json says without meaning it (the width of dense layers in a model that has none, a head's size in
            // latent attention) is what other programs record.
            let says = || {
                let inner = config.get("text_config").and_then(|inner| inner.get(name));
                inner.or_else(|| config.get(name)).filter(|value| value.is_u64()).cloned()
            };
            let is_loose = decoder.has_experts() || decoder.blocks.iter().any(|b| matches!(b.mixer, Mixer::Latent(_)));
            own.chain(is_loose.then(says).flatten()).collect()
        }
    }
}

/// What a block has of a size.
fn sizes(name: &str, block: &crate::decoder::Block) -> Vec<usize> {
    match (name, &block.mixer) {
        ("num_attention_heads", Mixer::Attention(m)) => vec![m.n_heads],
        ("num_attention_heads", Mixer::Latent(m)) => vec![m.n_heads],
        ("num_key_value_heads", Mixer::Attention(m)) => vec![m.n_kv_heads],
        ("head_dim", Mixer::Attention(m)) => vec![m.head_dim],
        ("intermediate_size", _) => match &block.ffn {
            Ffn::Gated(_) | Ffn::Plain(_) => vec![block.ffn.intermediate()],
            Ffn::Experts(experts) => {
                let shared = experts.shared.as_ref().map(|shared| shared.ffn.intermediate);
                [experts.expert.intermediate].into_iter().chain(shared).collect()
            }
        },
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_is_as_recorded_or_it_is_told_why_not() {
        let fact = |recorded: Option<Value>, model: &[u64]| {
            Fact { name: "head_dim", recorded, model: model.iter().map(|n| json!(n)).collect() }.verdict()
        };
        assert_eq!(fact(Some(json!(8)), &[8]), FactVerdict::Same);
        assert_eq!(fact(Some(json!(8)), &[4, 8]), FactVerdict::Same);
        assert_eq!(fact(Some(json!(8)), &[16]), FactVerdict::Differs);
        assert_eq!(fact(None, &[16]), FactVerdict::NotRecorded);
        assert_eq!(fact(Some(json!(8)), &[]), FactVerdict::NotThere);
    }
}
