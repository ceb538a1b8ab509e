//! What is quantised, what is kept, and in which order it is written.

use std::collections::{BTreeMap, BTreeSet};

use rheostat_store::{Checkpoint, TensorInfo};

use super::error::QuantizeError;
use super::{GROUPS, Options, Part, kind, module, names};
use crate::decoder::{Decoder, Experts, Head, Linear, Slice};
use crate::names::matches;

/// Which linear maps are quantised, and the modules that `ignore` is to name.
pub(super) struct Choice {
    pub(super) quantized: Vec<Linear>,
    pub(super) ignore: Vec<String>,
}

/// Chooses what is quantised.
pub(super) fn choose(checkpoint: &Checkpoint, decoder: &Decoder, options: &Options) -> Result<Choice, QuantizeError> {
    let path = || checkpoint.path().to_owned();
    let names = || checkpoint.tensors().iter().map(TensorInfo::name);
    let means = |pattern: &str, tensor: &str| names::names_of(tensor).any(|name| matches(pattern, name));
    for pattern in &options.keep {
        if !names().any(|name| means(pattern, name)) {
            let nearest = names::nearest(pattern, names()).unwrap_or_default().to_owned();
            return Err(QuantizeError::NothingMatches { path: path(), pattern: pattern.clone(), nearest });
        }
    }
    let kept_by = |linear: &Linear| options.keep.iter().find(|pattern| means(pattern, &linear.weight));
    let mut choice = Choice { quantized: Vec::new(), ignore: Vec::new() };
    let routers = routers(decoder);
    for linear in stored(decoder) {
        // A router decides too much by too little.
        if routers.contains(&linear.weight) || kept_by(&linear).is_some() {
            choice.ignore.push(module(&linear.weight).to_owned());
        } else {
            choice.quantized.push(linear);
        }
    }
    match &decoder.head {
        Head::Tied if options.head => return Err(QuantizeError::TiedHead { path: path() }),
        Head::Own(linear) if options.head => {
            if let Some(pattern) = kept_by(linear) {
                return Err(QuantizeError::HeadKept { pattern: pattern.clone() });
            }
            choice.quantized.push(linear.clone());
        }
        // A tied head is a module all the same.
        Head::Tied => choice.ignore.push("lm_head".to_owned()),
        Head::Own(linear) => choice.ignore.push(module(&linear.weight).to_owned()),
    }
    if choice.quantized.is_empty() {
        return Err(QuantizeError::NothingLeft { path: path() });
    }
    Ok(choice)
}

/// The matrices of all blocks as they are stored: each tensor once, as a whole (with all its slabs).
fn stored(decoder: &Decoder) -> Vec<Linear> {
    let head = match &decoder.head {
        Head::Own(head) => Some(head.weight.as_str()),
        Head::Tied => None,
    };
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for mut linear in decoder.all_linears() {
        if Some(linear.weight.as_str()) == head || !seen.insert(linear.weight.clone()) {
            continue;
        }
        if linear.slice.of > 0 {
            linear.out_features = linear.slice.of;
        }
        linear.slice = Slice { first: 0, of: 0, ..linear.slice };
        all.push(linear);
    }
    all
}

/// The weights that decide which experts work, and how much.
fn routers(decoder: &Decoder) -> BTreeSet<String> {
    let experts = decoder.blocks.iter().filter_map(|block| block.ffn.experts());
    let gates = |e: &Experts| {
        let shared = e.shared.as_ref().and_then(|shared| shared.gate.as_ref());
        [Some(&e.router.linear), shared].into_iter().flatten().map(|linear| linear.weight.clone()).collect::<Vec<_>>()
    };
    experts.flat_map(gates).collect()
}

/// Whether groups divide the rows of all that is quantised.
pub(super) fn check_groups(checkpoint: &Checkpoint, quantized: &[Linear], group: usize) -> Result<(), QuantizeError> {
    let divides = |linear: &Linear, group: usize| linear.in_features.is_multiple_of(group);
    let Some(linear) = quantized.iter().find(|linear| !divides(linear, group)) else { return Ok(()) };
    let keep: BTreeSet<String> = quantized
        .iter()
        .filter(|linear| !divides(linear, group))
        .map(|linear| format!("*.{}", kind(&linear.weight)))
        .collect();
    let some_are_left = quantized.iter().any(|linear| !keep.contains(&format!("*.{}", kind(&linear.weight))));
    Err(QuantizeError::GroupDoesNotDivide {
        path: checkpoint.path().to_owned(),
        tensor: linear.weight.clone(),
        in_features: linear.in_features,
        group,
        works: GROUPS.into_iter().filter(|size| quantized.iter().all(|linear| divides(linear, *size))).collect(),
        keep: if some_are_left { keep.into_iter().collect() } else { Vec::new() },
    })
}

/// All tensors in the order in which the engine uses them; those that it does not know come last.
pub(super) fn parts(checkpoint: &Checkpoint, decoder: &Decoder, quantized: &[Linear]) -> Vec<Part> {
    let all: Vec<Linear> = decoder.all_linears().collect();
    let mut order: Vec<&str> = vec![&decoder.embed.tensor];
    order.extend(decoder.embed.positions.as_ref().map(|positions| positions.tensor.as_str()));
    for block in &decoder.blocks {
        order.extend(block.norms().flat_map(|norm| norm.weights.iter().map(String::as_str)));
        order.extend(block.norms().filter_map(|norm| norm.bias.as_deref()));
        order.extend(block.vectors().into_iter().map(|(name, _)| name));
    }
    order.extend(all.iter().filter_map(|linear| linear.bias.as_deref()));
    order.extend(all.iter().map(|linear| linear.weight.as_str()));
    order.extend(decoder.norm.weights.iter().map(String::as_str));
    let place: BTreeMap<&str, usize> = order.into_iter().enumerate().map(|(i, name)| (name, i)).collect();
    let quantized: BTreeMap<&str, &Linear> = quantized.iter().map(|linear| (linear.weight.as_str(), linear)).collect();
    let mut tensors: Vec<&TensorInfo> = checkpoint.tensors().iter().collect();
    tensors.sort_by_key(|tensor| place.get(tensor.name()).copied().unwrap_or(usize::MAX));
    let part = |tensor: &TensorInfo| Part {
        tensor: tensor.clone(),
        linear: quantized.get(tensor.name()).map(|linear| (*linear).clone()),
    };
    tensors.into_iter().map(part).collect()
}
