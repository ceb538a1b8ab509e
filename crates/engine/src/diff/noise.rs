//! How far rounding may take an engine from the exact result, as far as that can be said without knowing the engine.
//!
//! An exact value ([`Known`]) carries with it how large the terms were that it was made of. Three kinds of rounding are told
//! apart, since they happen in different numbers:
//!
//! - *sums*: a sum of `n` terms is accumulated in f32 by every engine, whatever its tensors are. Each addition rounds a partial sum. A partial
//!   sum is about as large as the result `v` or as the root of the sum of squares `l2` of the terms, whichever is larger (terms of random
//!   signs add like a random walk). So `n` roundings, which are independent, add up to about `u · √n · √(v² + l2²)`.
//! - *steps*: results that are written down, once for each operation, in the numbers of the engine's tensors: `u · |v|` each.
//! - *inputs*: what is multiplied is rounded before the product: by engines that compute products in bf16 or int8 on f32 activations. Independent
//!   again: `u · l2`.
//!
//! What an operation takes over from its inputs is passed on to first order, so that operations between two recorded points can be judged
//! together. Inputs that are recorded have no noise: both engines had the same.

/// Unit roundoff of f32, in which sums are accumulated.
pub const F32: f64 = 1.0 / (1 << 24) as f64;

/// How many times the estimate an error may be. Roundings err by `0.58 u` in the root mean square, and the largest of a million elements
/// lies 5 deviations out: 2.9. The rest is for steps that an engine takes and this model does not know of: what is recorded of an operation's input is rounded, where the
/// engine may go on with more.
const SLACK: f64 = 8.0;

/// Below this nothing is told apart: engines flush such numbers to zero, or do not.
const TINY: f64 = f32::MIN_POSITIVE as f64;

/// In which numbers an engine works.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Precision {
    /// Unit roundoff of tensors.
    pub steps: f64,
    /// That of the inputs of products, if they are rounded apart from that.
    pub inputs: f64,
}

impl Precision {
    /// Tensors of f32.
    pub const F32: Precision = Precision { steps: F32, inputs: 0.0 };
    /// Tensors of bf16, which has 8 bits of precision.
    pub const BF16: Precision = Precision { steps: 1.0 / (1 << 8) as f64, inputs: 1.0 / (1 << 8) as f64 };
    /// Tensors of f16, which has 11 bits.
    pub const F16: Precision = Precision { steps: 1.0 / (1 << 11) as f64, inputs: 1.0 / (1 << 11) as f64 };
    /// Tensors of f32, rounded to bf16 for products, as are weights.
    pub const REDUCED: Precision = Precision { steps: F32, inputs: 1.0 / (1 << 8) as f64 };
    /// Tensors of f32, rounded for products to integers of 8 bits by the largest of 32 neighbours. A neighbour is usually a few times
    /// smaller than that, so its relative error is a few times larger.
    pub const INT8: Precision = Precision { steps: F32, inputs: 1.0 / (1 << 6) as f64 };

    /// By the name that traces have for it (`dtype` in their metadata).
    #[must_use]
    pub fn named(dtype: &str) -> Option<Precision> {
        match dtype {
            "float32" => Some(Precision::F32),
            "bfloat16" => Some(Precision::BF16),
            "float16" => Some(Precision::F16),
            "int8" => Some(Precision::INT8),
            _ => None,
        }
    }

    /// Of a pass of this engine.
    #[must_use]
    pub fn of(compute: crate::Compute) -> Precision {
        match compute {
            crate::Compute::F32 => Precision::F32,
            crate::Compute::Bf16 | crate::Compute::Amx => Precision::REDUCED,
            crate::Compute::Int8 => Precision::INT8,
        }
    }
}

/// Magnitudes of what may be rounded on the way to a value, by kind: see the [module](self).
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Noise {
    /// Of partial sums in f32.
    pub sums: f64,
    /// Of results that are written down.
    pub steps: f64,
    /// Of inputs of products.
    pub inputs: f64,
}

impl Noise {
    /// Of `steps` results of this magnitude.
    #[must_use]
    pub fn steps(steps: f64, magnitude: f64) -> Noise {
        Noise { steps: steps * magnitude.abs(), ..Noise::default() }
    }

    /// Of f32 alone.
    #[must_use]
    pub fn sums(magnitude: f64) -> Noise {
        Noise { sums: magnitude.abs(), ..Noise::default() }
    }

    /// Of a dot product of `n` terms with the result `value`, whose terms have the root of the sum of squares `l2`.
    #[must_use]
    pub fn dot(n: usize, value: f64, l2: f64) -> Noise {
        Noise { sums: (n as f64).sqrt() * value.hypot(l2), steps: value.abs(), inputs: l2 }
    }

    /// Times a factor, without sign.
    #[must_use]
    pub fn times(self, by: f64) -> Noise {
        let by = by.abs();
        Noise { sums: self.sums * by, steps: self.steps * by, inputs: self.inputs * by }
    }

    /// What comes on top.
    #[must_use]
    pub fn plus(self, other: Noise) -> Noise {
        Noise { sums: self.sums + other.sums, steps: self.steps + other.steps, inputs: self.inputs + other.inputs }
    }

    /// What comes on top independently.
    #[must_use]
    pub fn beside(self, other: Noise) -> Noise {
        Noise {
            sums: self.sums.hypot(other.sums),
            steps: self.steps.hypot(other.steps),
            inputs: self.inputs.hypot(other.inputs),
        }
    }

    /// How far from the exact result a value may be that was computed in these numbers.
    #[must_use]
    pub fn floor(self, precision: Precision) -> f64 {
        let Precision { steps, inputs } = precision;
        SLACK * (F32 * self.sums + steps * self.steps + inputs * self.inputs) + TINY
    }
}

/// A sum of squares of noise that comes from many independent inputs.
#[derive(Clone, Copy, Default)]
pub(crate) struct Squares(Noise);

impl Squares {
    /// Adds the noise of an input, times what the result changes by with it.
    #[inline]
    pub(crate) fn add(&mut self, noise: Noise, by: f64) {
        let by = by * by;
        self.0.sums += noise.sums * noise.sums * by;
        self.0.steps += noise.steps * noise.steps * by;
        self.0.inputs += noise.inputs * noise.inputs * by;
    }

    pub(crate) fn root(self) -> Noise {
        Noise { sums: self.0.sums.sqrt(), steps: self.0.steps.sqrt(), inputs: self.0.inputs.sqrt() }
    }
}

/// Values in f64, and how far rounding may take an engine from each of them. What is not a number is not known: it depends on rows that are not
/// there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// The values.
    pub values: Vec<f64>,
    /// For each of them; empty where there is none, since the values were recorded.
    pub noise: Vec<Noise>,
}

impl Known {
    /// Recorded values.
    #[must_use]
    pub fn recorded(values: &[f32]) -> Known {
        Known { values: values.iter().map(|x| f64::from(*x)).collect(), noise: Vec::new() }
    }

    /// Values without noise.
    #[must_use]
    pub fn exact(values: Vec<f64>) -> Known {
        Known { values, noise: Vec::new() }
    }

    pub(crate) fn with_capacity(elements: usize) -> Known {
        Known { values: Vec::with_capacity(elements), noise: Vec::with_capacity(elements) }
    }

    /// Of `elements` values that are not known yet.
    pub(crate) fn unknown(elements: usize) -> Known {
        Known { values: vec![f64::NAN; elements], noise: vec![Noise::default(); elements] }
    }

    pub(crate) fn push(&mut self, value: f64, noise: Noise) {
        self.values.push(value);
        self.noise.push(noise);
    }

    pub(crate) fn set(&mut self, at: usize, value: f64, noise: Noise) {
        self.values[at] = value;
        self.noise[at] = noise;
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The noise of a value.
    #[must_use]
    pub fn noise(&self, at: usize) -> Noise {
        self.noise.get(at).copied().unwrap_or_default()
    }

    /// Whether there is any.
    #[must_use]
    pub fn has_noise(&self) -> bool {
        !self.noise.is_empty()
    }

    /// Some consecutive values.
    #[must_use]
    pub fn slice(&self, range: std::ops::Range<usize>) -> Known {
        let noise = if self.has_noise() { self.noise[range.clone()].to_vec() } else { Vec::new() };
        Known { values: self.values[range].to_vec(), noise }
    }

    /// Each value by a function that also says by how much its result changes with the value, and the noise of its own.
    pub(crate) fn map(&self, f: impl Fn(f64) -> (f64, f64, Noise)) -> Known {
        let mut out = Known::with_capacity(self.len());
        for (i, x) in self.values.iter().enumerate() {
            let (value, slope, own) = f(*x);
            out.push(value, self.noise(i).times(slope).plus(own));
        }
        out
    }

    /// Each pair of values by a function that also says by how much its result changes with either, and the noise of its own.
    pub(crate) fn zip(&self, other: &Known, f: impl Fn(f64, f64) -> (f64, [f64; 2], Noise)) -> Known {
        let mut out = Known::with_capacity(self.len());
        for (i, (a, b)) in self.values.iter().zip(&other.values).enumerate() {
            let (value, [by_a, by_b], own) = f(*a, *b);
            let taken = self.noise(i).times(by_a).beside(other.noise(i).times(by_b));
            out.push(value, taken.plus(own));
        }
        out
    }
}
