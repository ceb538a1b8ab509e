//! The non-linearities of a feed-forward, alone and as gates.

use crate::elementwise::{Binary, Unary, map, zip};
use crate::exec::Exec;
use crate::math;
use crate::simd::Simd;

/// The non-linearity of a feed-forward.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Activation {
    /// `x / (1 + e^−x)`, also called swish.
    Silu,
    /// `x · Φ(x)`, by the error function.
    Gelu,
    /// The same by a hyperbolic tangent of a cubic: `gelu_new`, `gelu_pytorch_tanh`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    Relu2,
    /// `1 / (1 + e^−x)`.
    Sigmoid,
    /// `alpha_p x² + beta x` above zero, else `alpha_n (e^min(x, eps) − 1 − x) + beta x`: transformers'
    /// `XIELUActivation._xielu_python`, with the alphas as they multiply.
    Xielu {
        /// Of the square.
        alpha_p: f32,
        /// Of the exponential.
        alpha_n: f32,
        /// The slope at zero.
        beta: f32,
        /// A negative number near zero.
        eps: f32,
    },
    /// Only as a gate: `(clamp(u, −limit, limit) + 1) · g · sigmoid(alpha g)` with `g = min(gate, limit)`: transformers'
    /// `GptOssExperts._apply_gate`.
    ClampedSwiglu {
        /// Factor within the sigmoid.
        alpha: f32,
        /// The largest gate, and the largest magnitude of what goes through it.
        limit: f32,
    },
}

/// `gate = act(gate) · up`, element by element: the middle of a gated feed-forward.
///
/// # Panics
/// When the lengths differ.
pub fn gate(exec: &Exec, act: Activation, gate: &mut [f32], up: &[f32]) {
    if let Activation::ClampedSwiglu { alpha, limit } = act {
        zip(exec, gate, up, ClampedSwiglu { alpha, limit });
    } else {
        with(act, Gate { exec, gate, up });
    }
}

/// `x = act(x)`, element by element: the middle of a feed-forward without a gate.
///
/// # Panics
/// With [`Activation::ClampedSwiglu`], which is a function of two numbers.
pub fn activate(exec: &Exec, act: Activation, x: &mut [f32]) {
    with(act, Activate { exec, x });
}

/// What is done with a function.
trait With {
    fn run<F: Unary>(self, f: F);
}

/// Chooses the function once, so that no loop has to.
fn with(act: Activation, what: impl With) {
    match act {
        Activation::Silu => what.run(Silu),
        Activation::Gelu => what.run(Gelu),
        Activation::GeluTanh => what.run(GeluTanh),
        Activation::Relu => what.run(Relu),
        Activation::Relu2 => what.run(Relu2),
        Activation::Sigmoid => what.run(Sigmoid),
        Activation::Xielu { alpha_p, alpha_n, beta, eps } => what.run(Xielu { alpha_p, alpha_n, beta, eps }),
        Activation::ClampedSwiglu { .. } => panic!("a clamped SwiGLU is a function of two numbers"),
    }
}

struct Gate<'a> {
    exec: &'a Exec,
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl With for Gate<'_> {
    fn run<F: Unary>(self, f: F) {
        zip(self.exec, self.gate, self.up, Times(f));
    }
}

struct Activate<'a> {
    exec: &'a Exec,
    x: &'a mut [f32],
}

impl With for Activate<'_> {
    fn run<F: Unary>(self, f: F) {
        map(self.exec, self.x, f);
    }
}

/// `f(a) · b`.
#[derive(Clone, Copy)]
struct Times<F>(F);

impl<F: Unary> Binary for Times<F> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V {
        s.mul(self.0.apply(s, a), b)
    }
}

#[derive(Clone, Copy)]
struct ClampedSwiglu {
    alpha: f32,
    limit: f32,
}

impl Binary for ClampedSwiglu {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, gate: S::V, up: S::V) -> S::V {
        let limit = s.splat(self.limit);
        let gate = s.select_lt(limit, gate, limit, gate);
        let up = math::clamp(s, up, self.limit);
        let glu = s.mul(gate, math::sigmoid(s, s.mul(gate, s.splat(self.alpha))));
        s.mul(s.add(up, s.splat(1.0)), glu)
    }
}

#[derive(Clone, Copy)]
struct Silu;

impl Unary for Silu {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        math::silu(s, x)
    }
}

/// In torch's steps, and so, as there, without relative precision far below zero, where the result is next to nothing.
#[derive(Clone, Copy)]
struct Gelu;

impl Unary for Gelu {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        let erf = math::erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
        s.mul(s.mul(x, s.splat(0.5)), s.add(s.splat(1.0), erf))
    }
}

/// In torch's steps.
#[derive(Clone, Copy)]
struct GeluTanh;

impl Unary for GeluTanh {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        // √(2/π)
        let beta = s.splat((std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2) as f32);
        let cube = s.mul(s.mul(x, x), x);
        let inner = s.mul(beta, s.add(x, s.mul(s.splat(0.044_715), cube)));
        s.mul(s.mul(s.splat(0.5), x), s.add(s.splat(1.0), math::tanh(s, inner)))
    }
}

#[derive(Clone, Copy)]
struct Relu;

impl Unary for Relu {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        s.select_lt(x, s.zero(), s.zero(), x)
    }
}

#[derive(Clone, Copy)]
struct Relu2;

impl Unary for Relu2 {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        let x = Relu.apply(s, x);
        s.mul(x, x)
    }
}

#[derive(Clone, Copy)]
struct Sigmoid;

impl Unary for Sigmoid {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        math::sigmoid(s, x)
    }
}

#[derive(Clone, Copy)]
struct Xielu {
    alpha_p: f32,
    alpha_n: f32,
    beta: f32,
    eps: f32,
}

impl Unary for Xielu {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        let linear = s.mul(s.splat(self.beta), x);
        let above = s.add(s.mul(s.mul(s.splat(self.alpha_p), x), x), linear);
        let eps = s.splat(self.eps);
        let curve = s.sub(math::expm1(s, s.select_lt(eps, x, eps, x)), x);
        let below = s.add(s.mul(curve, s.splat(self.alpha_n)), linear);
        s.select_lt(s.zero(), x, above, below)
    }
}
