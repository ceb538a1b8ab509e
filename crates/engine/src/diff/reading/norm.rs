//! Norms: another epsilon, another kind, weights as differences from one, weights of another norm.

use std::rc::Rc;

use super::Evidence;
use crate::decoder::{Norm, NormKind};
use crate::diff::exact::norm::{Shape, moments};
use crate::diff::noise::Known;
use crate::diff::operations::Operation;

/// The other kind of norm.
fn other(kind: NormKind) -> NormKind {
    match kind {
        NormKind::Rms => NormKind::Layer,
        NormKind::Layer => NormKind::Rms,
    }
}

fn words(kind: NormKind) -> &'static str {
    match kind {
        NormKind::Rms => "an RMS norm, which leaves the mean",
        NormKind::Layer => "a layer norm, which takes the mean away",
    }
}

impl Evidence<'_> {
    /// What a norm divides by.
    pub(super) fn norm_scale(&self, norm: &Norm) -> Option<String> {
        let who = self.who;
        if self.fits(&Operation::NormScale { norm: Norm { kind: other(norm.kind), ..norm.clone() } }) {
            return Some(format!("{who} has {}.", words(other(norm.kind))));
        }
        let x = self.inputs.first()?;
        let scales: Vec<f64> = self.wrong.values.iter().map(|x| f64::from(*x)).collect();
        if let Some(eps) = self.eps_of(norm, x, &scales) {
            return Some(self.eps_sentence(norm, eps));
        }
        let squares: Vec<f64> = x.values.chunks_exact(norm.width).map(|group| moments(norm.kind, group).1).collect();
        let n = norm.width as f64;
        let sample = |square: &f64| (square * n / (n - 1.0) + f64::from(norm.eps)).sqrt();
        if norm.width > 1 && self.are(&with_noise(self.exact, squares.iter().map(sample))) {
            return Some(format!("{who} divides the sum of squares by {} instead of {}.", norm.width - 1, norm.width));
        }
        let outside = |square: &f64| square.sqrt() + f64::from(norm.eps);
        if self.are(&with_noise(self.exact, squares.iter().map(outside))) {
            return Some(format!("{who} adds epsilon after the root, where A's config asks for it under the root."));
        }
        let sum = |square: &f64| (square * n + f64::from(norm.eps)).sqrt();
        if self.are(&with_noise(self.exact, squares.iter().map(sum))) {
            return Some(format!("{who} takes the sum of squares, not their mean."));
        }
        None
    }

    /// The epsilon with which a norm of `x` would divide by `scales`, if there is one for all groups.
    fn eps_of(&self, norm: &Norm, x: &Known, scales: &[f64]) -> Option<f64> {
        let shape = Shape::from(norm);
        let groups = x.values.chunks_exact(norm.width).zip(scales);
        let each: Vec<(f64, f64)> = groups
            .map(|(group, scale)| {
                let (_, square) = moments(norm.kind, group);
                // Small groups say it best: the weight is the inverse of the error of their square.
                (scale * scale - square, 1.0 / (square + shape.eps).powi(2))
            })
            .collect();
        let weight: f64 = each.iter().map(|(_, w)| w).sum();
        let eps = each.iter().map(|(eps, w)| eps * w).sum::<f64>() / weight;
        if !(eps.is_finite() && eps > -shape.eps) {
            return None;
        }
        let fits = |eps: &f64| self.are(&crate::diff::exact::norm::scale(x, Shape { eps: *eps, ..shape }));
        [nice(eps), eps].into_iter().find(fits)
    }

    fn eps_sentence(&self, norm: &Norm, eps: f64) -> String {
        format!("{}'s epsilon would be about {eps:.2e}, where A's config says {:.0e}.", self.who, norm.eps)
    }

    /// The division of a norm.
    pub(super) fn normalized(&self, norm: &Norm) -> Option<String> {
        if self.is_input(0) {
            return Some(format!("{}'s values are not normalised: they are the input of the norm.", self.who));
        }
        let kind = other(norm.kind);
        if self.fits(&Operation::Normalize { norm: Norm { kind, ..norm.clone() } }) {
            return Some(format!("{} has {}.", self.who, words(kind)));
        }
        None
    }

    /// The weight of a norm.
    pub(super) fn norm_weight(&self, norm: &Norm) -> Option<String> {
        self.weight_of(norm, &|norm| Operation::NormWeight { norm })
    }

    /// A norm as a whole.
    pub(super) fn norm(&self, norm: &Norm, groups: usize) -> Option<String> {
        let who = self.who;
        let of = |norm: Norm| Operation::Norm { norm, groups };
        if self.is_input(0) {
            return Some(format!("{who}'s values are not normalised: they are the input of the norm."));
        }
        if let Some(said) = self.weight_of(norm, &of) {
            return Some(said);
        }
        let kind = other(norm.kind);
        if self.fits(&of(Norm { kind, ..norm.clone() })) {
            return Some(format!("{who} has {}.", words(kind)));
        }
        for eps in [1e-5, 1e-6, 1e-8, 1e-12, 1e-3, 0.0] {
            if eps != norm.eps && self.fits(&of(Norm { eps, ..norm.clone() })) {
                return Some(format!("{who}'s epsilon is {eps:.0e}, where A's config says {:.0e}.", norm.eps));
            }
        }
        // Heads each by themselves, or all together, where the weight goes with both.
        for width in [norm.width * groups, self.op.shape.last().copied().unwrap_or(norm.width)] {
            let other = Norm { width, groups: 1, ..norm.clone() };
            let bare = Norm { weights: Vec::new(), bias: None, ..other };
            let heads = self.evaluator.apply(
                &Operation::Norm { norm: bare, groups: norm.width * groups / width },
                self.inputs,
                self.rows,
            );
            let Ok(normed) = heads else { continue };
            let inputs = [Rc::new(normed), Rc::clone(&self.inputs[0])];
            if width != norm.width && self.fits_with(&Operation::NormWeight { norm: norm.clone() }, &inputs) {
                let (ours, theirs) =
                    if width > norm.width { ("each head", "all heads") } else { ("all heads", "each head") };
                return Some(format!(
                    "{who} normalises over {theirs} {}, where A's config asks for {ours} {}.",
                    together(theirs),
                    together(ours)
                ));
            }
        }
        None
    }

    /// Weights as differences from one, or not; none; no bias; those of another norm.
    fn weight_of(&self, norm: &Norm, operation: &dyn Fn(Norm) -> Operation) -> Option<String> {
        let who = self.who;
        let fits = |norm: Norm| self.fits(&operation(norm));
        if fits(Norm { offset: 1.0 - norm.offset, ..norm.clone() }) {
            return Some(match norm.offset == 0.0 {
                true => {
                    format!("{who} multiplies by 1 + weight, where A's config asks for the weight as it is stored.")
                }
                false => {
                    format!("{who} multiplies by the weight as it is stored, where A's config asks for 1 + weight.")
                }
            });
        }
        if !norm.weights.is_empty() && fits(Norm { weights: Vec::new(), ..norm.clone() }) {
            return Some(format!("{who} does not multiply by the weight of the norm ({}).", norm.weights[0]));
        }
        if norm.bias.is_some() && fits(Norm { bias: None, ..norm.clone() }) {
            return Some(format!("{who} does not add the bias of the norm."));
        }
        let decoder = self.evaluator.decoder();
        let of_blocks = decoder.blocks.iter().flat_map(crate::decoder::Block::norms);
        let others = of_blocks.chain([&decoder.norm]).filter(|other| other.weights != norm.weights);
        let alike = |other: &&Norm| other.width * other.groups == norm.width * norm.groups && !other.weights.is_empty();
        for other in others.filter(alike) {
            let (weights, bias, offset) = (other.weights.clone(), norm.bias.clone(), other.offset);
            if fits(Norm { weights, bias, offset, ..norm.clone() }) {
                return Some(format!(
                    "{who} multiplies by the weight of another norm, {}, instead of {}.",
                    other.weights[0],
                    norm.weights.first().map_or("none", String::as_str)
                ));
            }
        }
        None
    }

    /// The norm of linear attention's result, and its gate.
    pub(super) fn gated_norm(&self, norm: &Norm) -> Option<String> {
        let [z, gate] = self.inputs else { return None };
        let who = self.who;
        let whole = |x: &Rc<Known>| {
            let groups = Operation::Norm { norm: norm.clone(), groups: 1 };
            self.evaluator.apply(&groups, std::slice::from_ref(x), self.rows).ok()
        };
        use crate::decoder::Activation;
        use crate::diff::exact::activation::gated;
        let first = gated(gate, z, Activation::Silu);
        if whole(&Rc::new(first)).is_some_and(|known| self.are(&known)) {
            return Some(format!("{who} multiplies by the gate before the norm, where A's config asks for it after."));
        }
        let normed = whole(z)?;
        if self.are(&normed) {
            return Some(format!("{who} does not multiply by the gate."));
        }
        if self.are(&crate::diff::exact::elementwise::sigmoid_gated(&normed, gate)) {
            return Some(format!("{who} multiplies by the sigmoid of the gate, where A's config asks for its SiLU."));
        }
        if self.are(&gated(gate, z, Activation::Silu)) {
            return Some(format!("{who} does not normalise before it multiplies by the gate."));
        }
        None
    }
}

fn together(what: &str) -> &'static str {
    if what == "all heads" { "together" } else { "by itself" }
}

/// `values` with the noise of others.
fn with_noise(noise: &Known, values: impl Iterator<Item = f64>) -> Known {
    Known { values: values.collect(), noise: noise.noise.clone() }
}

/// The power of ten near `eps`, if there is one.
fn nice(eps: f64) -> f64 {
    if eps <= 0.0 {
        return eps;
    }
    let power = libm::pow(10.0, libm::log10(eps).round());
    if (eps / power - 1.0).abs() < 0.2 { power } else { eps }
}
