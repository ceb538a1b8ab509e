//! Activations and gates of feed-forwards, and what has parameters as simple: factors, caps, sums, embeddings, convolutions.

use std::rc::Rc;

use super::Evidence;
use crate::decoder::{Activation, Nonlinearity};
use crate::diff::exact::activation::{activated, gated};
use crate::diff::exact::recurrent::{convolved, decay};
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
        let (_, found) = KNOWN.into_iter().find(|(act, name)| *name != asked && self.are(&of(*act)))?;
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
        let other = self.cap_of(self.inputs.first()?)?;
        Some(format!("{} caps its values at about {other:.4}, where A's config says {cap}.", self.who))
    }

    /// The soft cap that makes the wrong values of `uncapped` ones, if there is one.
    pub(super) fn cap_of(&self, uncapped: &Known) -> Option<f64> {
        let finite = |i: &usize| uncapped.values[*i].is_finite() && self.wrong.values[*i].is_finite();
        let seen = (0..uncapped.len().min(self.wrong.values.len())).filter(finite);
        // Where most is taken away, the cap shows best. The larger it is, the larger is what comes out.
        let largest = seen.max_by(|a, b| uncapped.values[*a].abs().total_cmp(&uncapped.values[*b].abs()))?;
        let (x, y) = (uncapped.values[largest].abs(), f64::from(self.wrong.values[largest]).abs());
        let (mut low, mut high) = (y, 1e3 * x);
        for _ in 0..200 {
            let cap = 0.5 * (low + high);
            if cap * libm::tanh(x / cap) < y { low = cap } else { high = cap }
        }
        let known = |cap: f64| {
            let mut all = crate::diff::exact::elementwise::capped(uncapped, cap);
            // Masks come after.
            let masked = all.values.iter_mut().zip(&uncapped.values).filter(|(_, x)| x.is_infinite());
            masked.for_each(|(value, x)| *value = *x);
            all
        };
        let rounded = (low * 1e3).round() / 1e3;
        [rounded, low].into_iter().find(|cap| *cap < 100.0 * x && self.are(&known(*cap)))
    }

    /// One of those that should be added and was not.
    pub(super) fn sum(&self) -> Option<String> {
        let name = |i: usize| self.op.inputs[i].trim_start_matches('=');
        if let Some(only) = (0..self.inputs.len()).find(|i| self.is_input(*i)) {
            let others: Vec<&str> = (0..self.inputs.len()).filter(|i| *i != only).map(name).collect();
            return Some(format!(
                "{} does not add {}: its values are {} alone.",
                self.who,
                others.join(" and "),
                name(only)
            ));
        }
        let [a, b, c] = self.inputs else { return None };
        let pairs = [(0, [b, c]), (1, [a, c]), (2, [a, b])];
        let (missing, _) =
            pairs.into_iter().find(|(_, [a, b])| self.are(&crate::diff::exact::elementwise::add(a, b)))?;
        Some(format!("{} does not add {}.", self.who, name(missing)))
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

    /// The decay of a state.
    pub(super) fn decay(&self, a_log: &str, dt_bias: &str) -> Option<String> {
        let who = self.who;
        let x = self.inputs.first()?;
        let (a_log, dt_bias) = (self.evaluator.vector(a_log).ok()?, self.evaluator.vector(dt_bias).ok()?);
        let zeros = vec![0.0; dt_bias.len()];
        if self.are(&decay(x, &a_log, &zeros)) {
            return Some(format!("{who} does not add dt_bias."));
        }
        if self.are(&decay(x, &zeros, &dt_bias)) {
            return Some(format!("{who} leaves out the rates (A_log)."));
        }
        let unexponentiated: Vec<f64> = a_log.iter().map(|a| libm::log(a.abs())).collect();
        self.are(&decay(x, &unexponentiated, &dt_bias))
            .then(|| format!("{who} takes A_log for the rates, not for their logarithms."))
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
