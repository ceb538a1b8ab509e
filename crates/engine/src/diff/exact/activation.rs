//! The non-linearities of feed-forwards.

use crate::decoder::Activation;
use crate::diff::noise::{Known, Noise};

/// `1 / (1 + e^−x)`.
#[must_use]
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// `ln(1 + e^x)`.
#[must_use]
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + libm::log1p(libm::exp(-x.abs()))
}

/// A function of one number. [`Activation::ClampedSwiglu`], which is a function of two, is that of the gate.
#[must_use]
pub fn value(act: Activation, x: f64) -> f64 {
    use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
    match act {
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x * FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            let inner = FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + libm::tanh(inner))
        }
        Activation::Relu => x.max(0.0),
        Activation::Relu2 => x.max(0.0).powi(2),
        Activation::Sigmoid => sigmoid(x),
        Activation::Xielu { alpha_p, alpha_n, beta, eps } => {
            let [alpha_p, alpha_n, beta, eps] = [alpha_p, alpha_n, beta, eps].map(f64::from);
            if x > 0.0 { alpha_p * x * x + beta * x } else { alpha_n * (libm::expm1(x.min(eps)) - x) + beta * x }
        }
        Activation::ClampedSwiglu { alpha, limit } => {
            let x = x.min(f64::from(limit));
            x * sigmoid(f64::from(alpha) * x)
        }
    }
}

/// What the function may be off by besides three roundings of its value: where a result is small that is made of terms which are not.
fn terms(act: Activation, x: f64) -> f64 {
    match act {
        // `1 + erf` and `1 + tanh` are rounded as numbers near 1 before they vanish; and polynomials for erf that are in use are within a few
        // roundings of 1, not of what they give.
        Activation::Gelu => 2.0 * x.abs(),
        Activation::GeluTanh => x.abs(),
        Activation::Xielu { alpha_n, beta, .. } => (f64::from(alpha_n.abs()) + f64::from(beta.abs())) * x.abs(),
        _ => 0.0,
    }
}

/// By how much the function changes with its argument.
fn slope(act: Activation, x: f64) -> f64 {
    let step = 1e-6 * x.abs().max(1.0);
    (value(act, x + step) - value(act, x - step)) / (2.0 * step)
}

fn own(act: Activation, x: f64, value: f64) -> Noise {
    Noise::steps(3.0, value).plus(Noise::steps(1.0, terms(act, x)))
}

/// `act(x)`.
#[must_use]
pub fn activated(x: &Known, act: Activation) -> Known {
    x.map(|x| {
        let y = value(act, x);
        (y, slope(act, x), own(act, x, y))
    })
}

/// `act(gate) · up`.
#[must_use]
pub fn gated(gate: &Known, up: &Known, act: Activation) -> Known {
    let limit = match act {
        Activation::ClampedSwiglu { limit, .. } => Some(f64::from(limit)),
        _ => None,
    };
    gate.zip(up, |gate, up| {
        let y = value(act, gate);
        let up = limit.map_or(up, |limit| up.clamp(-limit, limit) + 1.0);
        let own = own(act, gate, y).times(up).plus(Noise::steps(1.0, y * up));
        (y * up, [slope(act, gate) * up, y], own)
    })
}
