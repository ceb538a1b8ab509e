//! Rotary position embedding: from its parameters to angles.
//!
//! Each step is the f32 (or Python float) step of transformers' `modeling_rope_utils.py`, since at position 30,000
//! the order of rounding shows. The one difference: powers are correctly rounded, where torch's are within
//! 1 ulp and differ between CPUs.

use std::f64::consts::PI;

/// A rotary embedding of one head.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    dim: usize,
    theta: f64,
    scaling: RopeScaling,
    max_position_embeddings: usize,
    /// Frequencies `[dim / 2]`: of texts that are not too long, where they depend on that.
    frequencies: Vec<f32>,
    /// Those of longer texts, where these are fixed as well.
    long: Vec<f32>,
}

/// How frequencies are stretched beyond the context of training.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All divided by `factor`.
    Linear {
        /// Stretch of the context.
        factor: f64,
    },
    /// NTK-aware: the base grows with the length of the text, once that exceeds `max_position_embeddings`.
    Dynamic {
        /// Stretch of the context.
        factor: f64,
    },
    /// Low frequencies divided, high ones kept, a smooth passage between.
    Llama3 {
        /// Stretch of the context.
        factor: f64,
        /// Wavelengths above `original / low` are divided by the factor.
        low: f64,
        /// Wavelengths below `original / high` are kept.
        high: f64,
        /// `original_max_position_embeddings`.
        original: usize,
    },
    /// "YaRN: Efficient Context Window Extension" (Peng et al. 2023).
    Yarn(YarnRope),
    /// "LongRoPE" (Ding et al. 2024), as Phi-3 has it: one set of factors for texts within the original context, one for longer ones.
    LongRope(LongRope),
}

/// Parameters of [`RopeScaling::LongRope`].
#[derive(Clone, Debug, PartialEq)]
pub struct LongRope {
    /// What each frequency is divided by in a text within the original context, `[dim / 2]`.
    pub short: Vec<f64>,
    /// The same in a longer text.
    pub long: Vec<f64>,
    /// `original_max_position_embeddings`.
    pub original: usize,
    /// What sine and cosine are multiplied by in a text within the original context.
    pub short_attention: f64,
    /// The same in a longer text.
    pub long_attention: f64,
}

/// Parameters of [`RopeScaling::Yarn`].
#[derive(Clone, Debug, PartialEq)]
pub struct YarnRope {
    /// Stretch of the context.
    pub factor: f64,
    /// `original_max_position_embeddings`.
    pub original: usize,
    /// Rotations in the original context above which a frequency is kept.
    pub beta_fast: f64,
    /// Rotations in the original context below which a frequency is divided.
    pub beta_slow: f64,
    /// Whether the bounds of the passage are rounded outward to whole dimensions.
    pub truncate: bool,
    /// What sine and cosine are multiplied by.
    pub attention_factor: f64,
}

impl Rope {
    /// A rotary embedding of `dim` elements (an even number of them is rotated).
    #[must_use]
    pub fn new(dim: usize, theta: f64, scaling: RopeScaling, max_position_embeddings: usize) -> Rope {
        let mut rope = Rope { dim, theta, scaling, max_position_embeddings, frequencies: Vec::new(), long: Vec::new() };
        rope.frequencies = rope.compute(theta as f32);
        if let RopeScaling::LongRope(long) = &rope.scaling {
            rope.long = rope.stretched(theta as f32, &long.long);
        }
        rope
    }

    /// Rotated elements of a head.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The base of the geometric series of wavelengths.
    #[must_use]
    pub fn theta(&self) -> f64 {
        self.theta
    }

    /// How frequencies are stretched.
    #[must_use]
    pub fn scaling(&self) -> &RopeScaling {
        &self.scaling
    }

    /// Positions that the embedding is made for.
    #[must_use]
    pub fn context(&self) -> usize {
        let stretched = |original: usize, factor: f64| (original as f64 * factor) as usize;
        let max = self.max_position_embeddings;
        match &self.scaling {
            RopeScaling::Default | RopeScaling::LongRope(_) => max,
            RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor } => max.max(stretched(max, *factor)),
            RopeScaling::Llama3 { factor, original, .. } => max.max(stretched(*original, *factor)),
            RopeScaling::Yarn(yarn) => max.max(stretched(yarn.original, yarn.factor)),
        }
    }

    /// What sine and cosine are multiplied by (`attention_scaling`) in a text of `len` tokens so far.
    #[must_use]
    pub fn attention_scaling(&self, len: usize) -> f32 {
        match &self.scaling {
            RopeScaling::Yarn(yarn) => yarn.attention_factor as f32,
            RopeScaling::LongRope(long) if len > long.original => long.long_attention as f32,
            RopeScaling::LongRope(long) => long.short_attention as f32,
            _ => 1.0,
        }
    }

    /// Whether the frequencies depend on how long the text is; then `len` of [`Rope::frequencies`] matters.
    #[must_use]
    pub fn depends_on_length(&self) -> bool {
        matches!(self.scaling, RopeScaling::Dynamic { .. } | RopeScaling::LongRope(_))
    }

    /// Tokens up to which a text has one set of frequencies, and beyond which all of it has another: a text that grows past them is read
    /// anew, as transformers' `Phi3ForCausalLM.prepare_inputs_for_generation` does.
    #[must_use]
    pub fn turning_point(&self) -> Option<usize> {
        match &self.scaling {
            RopeScaling::LongRope(long) => Some(long.original),
            _ => None,
        }
    }

    /// Frequencies (`inv_freq`, radians per position) `[dim / 2]` for a text of `len` tokens so far.
    #[must_use]
    pub fn frequencies(&self, len: usize) -> std::borrow::Cow<'_, [f32]> {
        match &self.scaling {
            RopeScaling::Dynamic { factor } if len > self.max_position_embeddings => {
                self.compute(self.dynamic_base(*factor, len)).into()
            }
            RopeScaling::LongRope(long) if len > long.original => (&self.long).into(),
            _ => (&self.frequencies).into(),
        }
    }

    /// Appends `cos` and `sin`, `[dim / 2]` each, of the angles at `pos` in a text of `len` tokens so far.
    pub(crate) fn angles(&self, pos: usize, len: usize, cos: &mut [f32], sin: &mut [f32]) {
        let scaling = self.attention_scaling(len);
        let frequencies = self.frequencies(len);
        for ((f, cos), sin) in frequencies.iter().zip(cos).zip(sin) {
            let angle = f64::from(pos as f32 * f);
            let (s, c) = libm::sincos(angle);
            *cos = c as f32 * scaling;
            *sin = s as f32 * scaling;
        }
    }

    /// Whether a frequency is not finite, or none turns.
    pub(crate) fn is_degenerate(&self) -> bool {
        let all = || self.frequencies.iter().chain(&self.long);
        all().any(|f| !f.is_finite()) || all().all(|f| *f == 0.0)
    }

    /// `_compute_dynamic_ntk_parameters`, whose `seq_len` is a tensor: f32 but for the exponent.
    fn dynamic_base(&self, factor: f64, len: usize) -> f32 {
        let max = self.max_position_embeddings as f32;
        let x = factor as f32 * len as f32 / max - (factor - 1.0) as f32;
        let dim = self.dim as f64;
        self.theta as f32 * libm::pow(f64::from(x), dim / (dim - 2.0)) as f32
    }

    /// `base ** (arange(0, dim, 2) / dim)`: the quotient is an f32, the power of it correctly rounded.
    fn powers(&self, base: f32) -> impl Iterator<Item = f32> + use<> {
        let dim = self.dim as f32;
        (0..self.dim / 2).map(move |i| libm::pow(f64::from(base), f64::from((2 * i) as f32 / dim)) as f32)
    }

    /// `_compute_longrope_parameters`.
    fn stretched(&self, base: f32, factors: &[f64]) -> Vec<f32> {
        self.powers(base).zip(factors).map(|(p, factor)| 1.0 / (*factor as f32 * p)).collect()
    }

    fn compute(&self, base: f32) -> Vec<f32> {
        let powers = self.powers(base);
        match &self.scaling {
            RopeScaling::LongRope(long) => self.stretched(base, &long.short),
            RopeScaling::Default | RopeScaling::Dynamic { .. } => powers.map(|p| 1.0 / p).collect(),
            RopeScaling::Linear { factor } => powers.map(|p| (1.0 / p) / *factor as f32).collect(),
            RopeScaling::Llama3 { factor, low, high, original } => {
                powers.map(|p| llama3(1.0 / p, *factor, *low, *high, *original as f64)).collect()
            }
            RopeScaling::Yarn(yarn) => {
                let (low, high) = yarn.passage(self.dim as f64, f64::from(base));
                powers.enumerate().map(|(j, p)| yarn.frequency(j, p, low, high)).collect()
            }
        }
    }
}

/// `_compute_llama3_parameters`. A scalar divided by a tensor is, in torch, the tensor's reciprocal times the scalar.
fn llama3(f: f32, factor: f64, low: f64, high: f64, original: f64) -> f32 {
    let wavelength = (1.0 / f) * (2.0 * PI) as f32;
    let low_wavelength = (original / low) as f32;
    let high_wavelength = (original / high) as f32;
    if wavelength > low_wavelength {
        f / factor as f32
    } else if wavelength < high_wavelength {
        f
    } else {
        let smooth = ((1.0 / wavelength) * original as f32 - low as f32) / (high - low) as f32;
        (1.0 - smooth) * f / factor as f32 + smooth * f
    }
}

impl YarnRope {
    /// First and last dimension of the passage from kept to divided frequencies.
    fn passage(&self, dim: f64, base: f64) -> (f64, f64) {
        let at =
            |rotations: f64| dim * libm::log(self.original as f64 / (rotations * 2.0 * PI)) / (2.0 * libm::log(base));
        let (mut low, mut high) = (at(self.beta_fast), at(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        (low, high)
    }

    fn frequency(&self, j: usize, power: f32, low: f64, high: f64) -> f32 {
        let extrapolated = 1.0 / power;
        let interpolated = 1.0 / (self.factor as f32 * power);
        let ramp = ((j as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
        let kept = 1.0 - ramp;
        interpolated * (1.0 - kept) + extrapolated * kept
    }
}

/// `attention_factor` where the config gives none.
pub(crate) fn yarn_attention_factor(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
    let get = |scale: f64, mscale: f64| if scale <= 1.0 { 1.0 } else { 0.1 * mscale * libm::log(scale) + 1.0 };
    match (mscale, mscale_all_dim) {
        (Some(m), Some(all)) if m != 0.0 && all != 0.0 => get(factor, m) / get(factor, all),
        _ => get(factor, 1.0),
    }
}
