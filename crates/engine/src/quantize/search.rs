//! The scale of a group: the one of several whose integers lie closest to the weights.
//!
//! A weight `w` becomes `q = round(w / scale)`, ties to even, within `-2^(bits-1) ..= 2^(bits-1) - 1`, and stands for
//! `q × scale` from then on. The usual scale maps the largest magnitude to the largest integer. Better ones are often
//! near: rounding falls otherwise, an outlier may be cut off so that the others are met more closely, and the lowest
//! integer has no positive counterpart. So the largest magnitude is mapped to each of a list of numbers (`STEPS`), the
//! scale is rounded to the type in which it is stored, and the least sum of squared errors wins.

use half::{bf16, f16};
use rheostat_store::Dtype;

use super::Bits;

/// Values that are summed at once: a sum of squares has one order, whatever the machine.
const LANES: usize = 16;

/// What the largest magnitude of a group may become, beside 7: the integers below, so that a group which holds
/// multiples of some scale is met exactly; 7.5, which is compressed-tensors' own choice; and beyond it what cuts
/// outliers off.
const STEPS_4: [f32; 38] = [
    1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 6.25, 6.5, 6.75, 7.125, 7.25, 7.375, 7.5, 7.625, 7.75, 7.875, 8.0, 8.125, 8.25,
    8.375, 8.5, 8.625, 8.75, 8.875, 9.0, 9.25, 9.5, 9.75, 10.0, 10.25, 10.5, 10.75, 11.0, 11.5, 12.0, 12.5, 13.0, 14.0,
];

/// The same beside 127.
const STEPS_8: [f32; 16] =
    [120.0, 121.0, 122.0, 123.0, 124.0, 125.0, 126.0, 127.5, 128.0, 129.0, 130.0, 131.0, 132.0, 133.0, 134.0, 136.0];

/// How groups of one matrix are quantised.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    /// The lowest and the highest integer.
    low: f32,
    high: f32,
    steps: &'static [f32],
    scales: ScaleType,
}

/// What became of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    /// The scale, which is a value of its type.
    pub(super) scale: f32,
    /// The sum of squared errors, with this scale and with the usual one.
    pub(super) error: f64,
    pub(super) usual_error: f64,
    /// The sum of the squared weights.
    pub(super) energy: f64,
}

/// The type in which scales are stored: that of the weights, as compressed-tensors has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScaleType {
    F32,
    Bf16,
    F16,
}

impl ScaleType {
    /// That of weights of type `dtype`.
    pub(super) fn of(dtype: Dtype) -> ScaleType {
        match dtype {
            Dtype::F16 => ScaleType::F16,
            Dtype::Bf16 => ScaleType::Bf16,
            _ => ScaleType::F32,
        }
    }

    pub(super) fn dtype(self) -> Dtype {
        match self {
            ScaleType::F32 => Dtype::F32,
            ScaleType::Bf16 => Dtype::Bf16,
            ScaleType::F16 => Dtype::F16,
        }
    }

    fn round(self, scale: f32) -> f32 {
        match self {
            ScaleType::F32 => scale,
            ScaleType::Bf16 => bf16::from_f32(scale).to_f32(),
            ScaleType::F16 => f16::from_f32(scale).to_f32(),
        }
    }

    /// Appends a scale as it is stored.
    pub(super) fn store(self, scale: f32, out: &mut Vec<u8>) {
        match self {
            ScaleType::F32 => out.extend(scale.to_le_bytes()),
            ScaleType::Bf16 => out.extend(bf16::from_f32(scale).to_le_bytes()),
            ScaleType::F16 => out.extend(f16::from_f32(scale).to_le_bytes()),
        }
    }

    /// The least scale. In f16, whose normal numbers end at 6e-5, the subnormal ones are needed and serve as well.
    fn least(self) -> f32 {
        match self {
            ScaleType::F32 | ScaleType::Bf16 => f32::MIN_POSITIVE,
            ScaleType::F16 => f16::MIN_POSITIVE_SUBNORMAL.to_f32(),
        }
    }

    fn greatest(self) -> f32 {
        match self {
            ScaleType::F32 => f32::MAX,
            ScaleType::Bf16 => bf16::MAX.to_f32(),
            ScaleType::F16 => f16::MAX.to_f32(),
        }
    }
}

impl Search {
    pub(super) fn new(bits: Bits, scales: ScaleType) -> Search {
        let (high, steps): (f32, &[f32]) = match bits {
            Bits::Four => (7.0, &STEPS_4),
            Bits::Eight => (127.0, &STEPS_8),
        };
        Search { low: -high - 1.0, high, steps, scales }
    }

    /// Finds the scale of `group`, whose length is a multiple of 16. `None` if a weight is not a finite number.
    pub(super) fn scale(&self, group: &[f32]) -> Option<Found> {
        let largest = largest_magnitude(group)?;
        if largest == 0.0 {
            // Any scale does; this one harms nobody who multiplies or divides by it.
            return Some(Found { scale: 1.0, error: 0.0, usual_error: 0.0, energy: 0.0 });
        }
        let usual = self.stored(largest / self.high);
        let (mut best, mut least) = (usual, self.error(group, usual));
        let mut last = usual;
        for step in self.steps {
            let scale = self.stored(largest / step);
            if scale == last || scale == usual {
                continue;
            }
            last = scale;
            let error = self.error(group, scale);
            if error < least {
                (best, least) = (scale, error);
            }
        }
        let usual_error = self.exact_error(group, usual);
        let error = if best == usual { usual_error } else { self.exact_error(group, best) };
        // What looked better in f32 must be so.
        let (scale, error) = if error < usual_error { (best, error) } else { (usual, usual_error) };
        let energy = group.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        Some(Found { scale, error, usual_error, energy })
    }

    /// The integers of `group`.
    pub(super) fn integers(&self, group: &[f32], scale: f32, out: &mut [i8]) {
        for (q, w) in out.iter_mut().zip(group) {
            *q = self.nearest(w / scale) as i8;
        }
    }

    /// `scale` in its type: never zero, and so that no integer times it leaves the type.
    fn stored(&self, scale: f32) -> f32 {
        self.scales.round(scale).max(self.scales.least()).min(self.scales.greatest() / -self.low)
    }

    /// The whole number nearest to `x` in the range of integers; ties go to the even one.
    fn nearest(&self, x: f32) -> f32 {
        /// From here to twice as far, floats are the whole numbers: adding rounds.
        const WHOLE: f32 = 12_582_912.0;
        let x = if x < self.low { self.low } else { x };
        let x = if x > self.high { self.high } else { x };
        (x + WHOLE) - WHOLE
    }

    fn error(&self, group: &[f32], scale: f32) -> f32 {
        let mut lanes = [0.0f32; LANES];
        for weights in group.as_chunks::<LANES>().0 {
            for (lane, w) in lanes.iter_mut().zip(weights) {
                let d = w - self.nearest(w / scale) * scale;
                *lane += d * d;
            }
        }
        lanes.iter().sum()
    }

    fn exact_error(&self, group: &[f32], scale: f32) -> f64 {
        let mut lanes = [0.0f64; LANES];
        for weights in group.as_chunks::<LANES>().0 {
            for (lane, w) in lanes.iter_mut().zip(weights) {
                let d = f64::from(*w) - f64::from(self.nearest(w / scale)) * f64::from(scale);
                *lane += d * d;
            }
        }
        lanes.iter().sum()
    }
}

/// The largest magnitude; `None` if a weight is not a finite number.
fn largest_magnitude(group: &[f32]) -> Option<f32> {
    // Magnitudes are ordered as their bits are, with what is not finite above all that is.
    let bits = group.iter().fold(0, |most, w| i32::max(most, (w.to_bits() & 0x7FFF_FFFF) as i32));
    let largest = f32::from_bits(bits as u32);
    largest.is_finite().then_some(largest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TYPES: [ScaleType; 3] = [ScaleType::F32, ScaleType::Bf16, ScaleType::F16];
    const BITS: [Bits; 2] = [Bits::Four, Bits::Eight];

    /// The error of `scale`, written down anew: rounding by the standard library, in f64.
    fn error(bits: Bits, group: &[f32], scale: f32) -> f64 {
        let high = f32::exp2(bits.number() as f32 - 1.0) - 1.0;
        let one = |w: &f32| {
            let q = (w / scale).round_ties_even().clamp(-high - 1.0, high);
            (f64::from(*w) - f64::from(q) * f64::from(scale)).powi(2)
        };
        group.iter().map(one).sum()
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
    }

    proptest! {
        /// Never worse than the usual scale, for weights of any size; and what is claimed is so.
        #[test]
        fn never_worse_than_rounding_to_nearest(
            weights in proptest::collection::vec(-1.0f32..1.0, 128),
            outlier in 1.0f32..12.0,
            exponent in -40i32..38,
            len in prop_oneof![Just(32usize), Just(64), Just(128)],
        ) {
            let mut group: Vec<f32> = weights[..len].iter().map(|w| w * 10f32.powi(exponent)).collect();
            group[0] *= outlier;
            for (bits, scales) in BITS.into_iter().flat_map(|bits| TYPES.map(|scales| (bits, scales))) {
                if scales == ScaleType::F16 && exponent > 2 {
                    continue;
                }
                let search = Search::new(bits, scales);
                let found = search.scale(&group).unwrap();
                prop_assert!(found.scale > 0.0 && found.scale.is_finite());
                prop_assert_eq!(scales.round(found.scale), found.scale);
                let high = f32::exp2(bits.number() as f32 - 1.0) - 1.0;
                let largest = group.iter().fold(0.0f32, |m, w| m.max(w.abs()));
                let usual = error(bits, &group, search.stored(largest / high));
                prop_assert!(error(bits, &group, found.scale) <= usual);
                prop_assert!(close(found.error, error(bits, &group, found.scale)));
                prop_assert!(close(found.usual_error, usual));
                let mut integers = vec![0; len];
                search.integers(&group, found.scale, &mut integers);
                for (q, w) in integers.iter().zip(&group) {
                    let want = (w / found.scale).round_ties_even().clamp(-high - 1.0, high);
                    prop_assert_eq!(f32::from(*q), want);
                    prop_assert!((f32::from(*q) * found.scale).is_finite());
                }
            }
        }

        /// Multiples of a scale come out as they went in.
        #[test]
        fn exact_where_it_can_be(
            integers in proptest::collection::vec(-8i8..=7, 32),
            large in proptest::collection::vec(-128i8..=127, 32),
            scale in 1e-3f32..10.0,
        ) {
            for scales in TYPES {
                let scale = scales.round(scale);
                for (bits, mut integers) in [(Bits::Four, integers.clone()), (Bits::Eight, large.clone())] {
                    if bits == Bits::Eight {
                        integers[3] = 121;
                    }
                    let group: Vec<f32> = integers.iter().map(|q| f32::from(*q) * scale).collect();
                    let found = Search::new(bits, scales).scale(&group).unwrap();
                    let mut out = vec![0; 32];
                    Search::new(bits, scales).integers(&group, found.scale, &mut out);
                    // With scales in f32 the products themselves are rounded.
                    let tolerance = if scales == ScaleType::F32 { 1e-13 * found.energy } else { 0.0 };
                    prop_assert!(found.error <= tolerance, "{scales:?} {bits:?} {}", found.error);
                    for (q, w) in out.iter().zip(&group) {
                        prop_assert!((f32::from(*q) * found.scale - w).abs() <= 1e-6 * w.abs());
                    }
                }
            }
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        for (bits, scales) in BITS.into_iter().flat_map(|bits| TYPES.map(|scales| (bits, scales))) {
            let search = Search::new(bits, scales);
            let found = search.scale(&[0.0, -0.0].repeat(16)).unwrap();
            assert_eq!(found, Found { scale: 1.0, error: 0.0, usual_error: 0.0, energy: 0.0 });
            let mut out = [1; 32];
            search.integers(&[0.0; 32], found.scale, &mut out);
            assert_eq!(out, [0; 32]);
        }
    }

    /// The ends of each type: scales stay finite and above zero, and so do their multiples.
    #[test]
    fn the_smallest_and_the_largest_weights() {
        for (bits, scales) in BITS.into_iter().flat_map(|bits| TYPES.map(|scales| (bits, scales))) {
            let search = Search::new(bits, scales);
            let least = if scales == ScaleType::F16 { 6e-8 } else { f32::from_bits(1) };
            for w in [least, -least, scales.greatest(), -scales.greatest(), f32::MIN_POSITIVE] {
                let mut group = [0.0; 32];
                group[5] = w;
                let found = search.scale(&group).unwrap();
                let mut out = [0; 32];
                search.integers(&group, found.scale, &mut out);
                assert!(found.scale >= scales.least() && found.scale.is_finite(), "{found:?}");
                assert_eq!(scales.round(found.scale), found.scale);
                for q in out {
                    let value = f32::from(q) * found.scale;
                    assert!(value.abs() <= scales.greatest(), "{w} {value}");
                    assert!(q == 0 || value.signum() == w.signum());
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_not_quantised() {
        for w in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut group = [1.0; 32];
            group[31] = w;
            assert_eq!(Search::new(Bits::Four, ScaleType::Bf16).scale(&group), None);
        }
    }

    /// The choice of compressed-tensors is among those that are tried (`tools/packing_reference.py`).
    #[test]
    fn the_scale_of_compressed_tensors_is_tried() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/packing.json");
        let recorded: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        for case in recorded["cases"].as_array().unwrap() {
            let bits = if case["bits"] == 4 { Bits::Four } else { Bits::Eight };
            for (scales, name) in TYPES.into_iter().zip(["float32", "bfloat16", "float16"]) {
                let search = Search::new(bits, scales);
                let want = case["scale_of_one"][name].as_f64().unwrap() as f32;
                assert!(search.steps.iter().any(|step| search.stored(1.0 / step) == want), "{bits:?} {scales:?}");
            }
        }
    }

    /// Without the lowest integer the largest magnitude could only be positive.
    #[test]
    fn the_lowest_integer_is_used() {
        assert!(STEPS_4.contains(&8.0) && STEPS_8.contains(&128.0));
        assert!(STEPS_4.is_sorted() && STEPS_8.is_sorted());
    }
}
