//! Activations and gates of feed-forwards, and what has parameters as simple: factors, caps, sums, embeddings, convolutions.

use std::rc::Rc;

use super::Evidence;
use crate::decoder::{Activation, Nonlinearity};
use crate::diff::exact::activation::{activated, gated};
use crate::diff::exact::recurrent::convolved;
use crate::diff::noise::Known;
use crate::diff::operations::Operation;

/// The functions that families have, as `config.json` calls them.
const KNOWN: [(Activation, &str); 6] = [
    (Activation::Silu, "silu"),
    (Activation::Gelu, "gelu (by the error function)"),
    (Activation::GeluTanh, "gelu_pytorch_tanh (gelu_new)"),
    (Activation::Relu, "relu"),
    (Activation::Relu2, "relu2 (its square)"),
    (Activation::Sigmoid, "sigmoid"),
];

fn name(act: Activation) -> &'static str {
    match act {
        Activation::Xielu { .. } => "xielu",
        Activation::ClampedSwiglu { .. } => "the clamped SwiGLU of gpt_oss",
        _ => KNOWN.iter().find(|(known, _)| *known == act).map_or("another", |(_, name)| name),
    }
}

impl Evidence<'_> {
    /// Sentences about an activation, with a gate or without.
    pub(super) fn activation(&self) -> Option<String> {
        match (&self.op.operation, self.inputs) {
            (Operation::Activation { act }, [x]) => {
                let asked = match act {
                    Nonlinearity::Fixed(act) => name(*act),
                    Nonlinearity::Xielu(_) => "xielu",
                };
                self.acts(asked, |act| activated(x, act))
            }
            (Operation::Gate { act }, [gate, up]) => self.gate(*act, gate, up),
            _ => None,
        }
    }

    /// Which function gives the wrong values.
    fn acts(&self, asked: &str, of: impl Fn(Activation) -> Known) -> Option<String> {
        let (_, found) = KNOWN.into_iter().find(|(act, _)| self.are(&of(*act)))?;
        Some(format!("{}'s activation is {found}, where A's config asks for {asked}.", self.who))
    }

    fn gate(&self, act: Activation, gate: &Rc<Known>, up: &Rc<Known>) -> Option<String> {
        let who = self.who;
        if let Some(said) = self.acts(name(act), |act| gated(gate, up, act)) {
            return Some(said);
        }
        if self.are(&gated(up, gate, act)) {
            return Some(format!("{who} applies the activation to the other half: gate and up are swapped."));
        }
        if self.are(&activated(gate, act)) {
            return Some(format!("{who} does not multiply by the other half (hook_pre_linear)."));
        }
        if self.are(&gate.zip(up, |a, b| (a * b, [b, a], crate::diff::noise::Noise::steps(1.0, a * b)))) {
            return Some(format!("{who} multiplies both halves without an activation."));
        }
        if let Activation::ClampedSwiglu { alpha, limit } = act {
            let unlimited = Activation::ClampedSwiglu { alpha, limit: f32::MAX };
            if self.are(&gated(gate, up, unlimited)) {
                return Some(format!("{who} does not keep gate and up within {limit}."));
            }
            if self.are(&gated(gate, up, Activation::ClampedSwiglu { alpha: 1.0, limit })) {
                return Some(format!("{who} leaves out the factor {alpha} within the sigmoid."));
            }
        }
        None
    }

    /// A factor that is left out.
    pub(super) fn factor_left_out(&self, by: f32) -> Option<String> {
        self.is_input(0).then(|| format!("{} leaves out the factor {by}.", self.who))
    }

    /// A cap that is left out.
    pub(super) fn cap_left_out(&self, cap: f32) -> Option<String> {
        if self.is_input(0) {
            return Some(format!("{} does not cap its values (softly, at {cap}).", self.who));
        }
        let most = self.wrong.values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        [15.0, 20.0, 30.0, 50.0, 100.0]
            .into_iter()
            .find(|other| *other != cap && self.fits(&Operation::SoftCap { cap: *other }))
            .map(|other| {
                format!(
                    "{} caps its values at {other}, where A's config says {cap} (its largest is {most:.3}).",
                    self.who
                )
            })
    }

    /// One of two that was not added.
    pub(super) fn sum(&self) -> Option<String> {
        let only = (0..2).find(|i| self.is_input(*i))?;
        Some(format!(
            "{} does not add {}: its values are {} alone.",
            self.who,
            self.op.inputs[1 - only].trim_start_matches('='),
            self.op.inputs[only].trim_start_matches('=')
        ))
    }

    /// The embedding of tokens.
    pub(super) fn embedding(&self, tensor: &str) -> Option<String> {
        let plain = Operation::Embed { tensor: tensor.to_owned(), scale: 1.0 };
        self.fits(&plain).then(|| format!("{} does not multiply the embedding by a factor.", self.who))
    }

    /// Learned positions that are counted otherwise.
    pub(super) fn learned_positions(&self, tensor: &str) -> Option<String> {
        let width = self.evaluator.decoder().hidden_size;
        let positions = self.positions();
        for shift in [1, 2] {
            let row = |p: &usize| self.evaluator.table_row(tensor, p + shift, width).ok();
            let rows: Option<Vec<Vec<f32>>> = positions.iter().map(row).collect();
            if rows.is_some_and(|rows| self.are(&Known::recorded(&rows.concat()))) {
                return Some(format!("{} counts positions from {shift}.", self.who));
            }
        }
        None
    }

    /// The convolution of linear attention.
    pub(super) fn convolution(&self, tensor: &str, taps: usize) -> Option<String> {
        let who = self.who;
        let x = self.inputs.first()?;
        let weight = self.evaluator.vector(tensor).ok()?;
        let channels = weight.len() / taps;
        let contiguous =
            self.rows.iter().enumerate().all(|(i, row)| i == *row && self.evaluator.text().positions[i] == i);
        if !contiguous || channels * self.rows.len() != self.wrong.values.len() || x.len() < self.wrong.values.len() {
            return None;
        }
        let x = x.slice(0..self.wrong.values.len());
        let plain = convolved(&x, &weight, None, taps);
        if self.are(&plain) {
            return Some(format!("{who} does not apply the SiLU after the convolution."));
        }
        if self.are(&activated(&x, Activation::Silu)) {
            return Some(format!("{who} does not convolve: its values are the SiLU of the input."));
        }
        let turned: Vec<f64> = weight.chunks_exact(taps).flat_map(|taps| taps.iter().rev()).copied().collect();
        self.are(&activated(&convolved(&x, &turned, None, taps), Activation::Silu))
            .then(|| format!("{who} takes the taps of the convolution in the opposite order."))
    }
}
