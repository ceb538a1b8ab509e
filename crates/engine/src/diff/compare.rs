//! Two tensors of one shape, element by element: how they differ, and where most.

use serde::Serialize;

use super::tensor::{Axes, Place, Tensor};

/// Scores at least as low as this are masked: eager attention in transformers adds the least finite number where a row is not seen.
const MASKED: f32 = -3e38;

/// How two tensors of one shape differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Elements compared.
    pub elements: usize,
    /// How many of them are not equal; what is no number in both counts as different.
    pub different: usize,
    /// The largest finite difference.
    pub max_abs: f64,
    /// Where that is; or, where a difference is not finite, where the first such is.
    pub at: Option<Place>,
    /// The mean of finite differences.
    pub mean_abs: f64,
    /// The root of their sum of squares, over that of the second tensor. Nothing where that is zero and the difference is not.
    pub relative: Option<f64>,
    /// The cosine of the angle between the two, as far as both are finite. Nothing where one of them is zero.
    pub cosine: Option<f64>,
    /// The largest distance in units in the last place of f32, of finite numbers.
    pub max_ulp: u64,
    /// Elements that are no finite number in one of the two and another thing in the other, or no number in both.
    pub not_finite: usize,
}

/// What an element is, as far as numbers go.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Finite,
    Above,
    Below,
    NotANumber,
}

fn kind(x: f32) -> Kind {
    match x {
        _ if x.is_nan() => Kind::NotANumber,
        _ if x <= MASKED => Kind::Below,
        _ if x == f32::INFINITY => Kind::Above,
        _ => Kind::Finite,
    }
}

/// Units in the last place between two finite numbers: how many f32 lie between them, and one. Zero for zeros of either sign.
#[must_use]
pub fn ulps(a: f32, b: f32) -> u64 {
    // Bits in the order of the numbers.
    let ordered = |x: f32| {
        let bits = i64::from(x.to_bits() & 0x7fff_ffff);
        if x.is_sign_negative() { -bits } else { bits }
    };
    ordered(a).abs_diff(ordered(b))
}

/// Whether two values are the same: of finite numbers equal, else of one kind, and numbers.
#[must_use]
pub fn same(a: f32, b: f32) -> bool {
    match (kind(a), kind(b)) {
        (Kind::Finite, Kind::Finite) => a == b,
        (Kind::NotANumber, _) => false,
        (a, b) => a == b,
    }
}

/// Whether a score is that of a key which is not seen.
#[must_use]
pub fn is_masked(score: f32) -> bool {
    kind(score) == Kind::Below
}

/// Compares `ours` with `theirs`, whose row `r` is the position `positions[r]`. Elements beyond the shorter of the two are not compared.
#[must_use]
pub fn compare(ours: &Tensor, theirs: &Tensor, axes: Axes, positions: &[usize]) -> Comparison {
    let mut sums = Sums::default();
    sums.add(&ours.values, &theirs.values, |index| theirs.place(axes, index, positions));
    sums.finish()
}

/// Sums of a comparison in the making: tensors may come in pieces.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    elements: usize,
    different: usize,
    finite: usize,
    not_finite: usize,
    first_not_finite: Option<Place>,
    max: f64,
    max_at: Option<Place>,
    max_ulp: u64,
    sum: f64,
    squares: f64,
    ours: f64,
    theirs: f64,
    product: f64,
}

impl Sums {
    /// Goes on with more elements; `place` says where the element of an index among them is.
    pub fn add(&mut self, ours: &[f32], theirs: &[f32], place: impl Fn(usize) -> Place) {
        for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
            self.elements += 1;
            match (kind(*a), kind(*b)) {
                (Kind::Finite, Kind::Finite) => {
                    let (x, y) = (f64::from(*a), f64::from(*b));
                    let difference = (x - y).abs();
                    self.finite += 1;
                    self.different += usize::from(a != b);
                    self.max_ulp = self.max_ulp.max(ulps(*a, *b));
                    self.sum += difference;
                    self.squares += difference * difference;
                    self.ours += x * x;
                    self.theirs += y * y;
                    self.product += x * y;
                    if difference > self.max {
                        (self.max, self.max_at) = (difference, Some(place(index)));
                    }
                }
                (a, b) if a == b && a != Kind::NotANumber => {}
                _ => {
                    self.different += 1;
                    self.not_finite += 1;
                    self.first_not_finite.get_or_insert_with(|| place(index));
                }
            }
        }
    }

    /// The comparison.
    #[must_use]
    pub fn finish(&self) -> Comparison {
        let relative = match (self.squares, self.theirs) {
            (0.0, _) => Some(0.0),
            (_, 0.0) => None,
            (squares, theirs) => Some((squares / theirs).sqrt()),
        };
        let norms = (self.ours * self.theirs).sqrt();
        Comparison {
            elements: self.elements,
            different: self.different,
            max_abs: self.max,
            at: self.first_not_finite.or(self.max_at),
            mean_abs: if self.finite == 0 { 0.0 } else { self.sum / self.finite as f64 },
            relative,
            cosine: (norms > 0.0).then(|| (self.product / norms).clamp(-1.0, 1.0)),
            max_ulp: self.max_ulp,
            not_finite: self.not_finite,
        }
    }
}

impl Comparison {
    /// Whether every element is the same.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.different == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ours: &[f32], theirs: &[f32]) -> Comparison {
        let tensor = |v: &[f32]| Tensor::new(vec![1, v.len()], v.to_vec()).unwrap();
        compare(&tensor(ours), &tensor(theirs), Axes::Rows, &[4])
    }

    #[test]
    fn differences_are_measured() {
        let c = of(&[1.0, 2.0, -3.0, 0.0], &[1.0, 2.5, -3.0, -0.0]);
        assert_eq!((c.elements, c.different, c.max_abs, c.mean_abs), (4, 1, 0.5, 0.125));
        assert_eq!(c.at, Some(Place { position: 4, head: None, key: None, dim: Some(1) }));
        assert!((c.relative.unwrap() - 0.5 / 16.25f64.sqrt()).abs() < 1e-12);
        assert!((c.cosine.unwrap() - 15.0 / (14.0f64 * 16.25).sqrt()).abs() < 1e-12);
        assert_eq!(c.max_ulp, 0x4020_0000 - 0x4000_0000);
        let none = of(&[1.0, -0.0], &[1.0, 0.0]);
        assert!(none.is_equal() && none.at.is_none() && none.max_ulp == 0 && none.relative == Some(0.0));
        assert_eq!(of(&[0.0], &[0.0]).cosine, None);
        assert_eq!(of(&[1.0], &[0.0]).relative, None);
    }

    #[test]
    fn units_in_the_last_place_cross_zero() {
        assert_eq!(ulps(1.0, 1.0f32.next_up()), 1);
        assert_eq!(ulps(0.0, -0.0), 0);
        assert_eq!(ulps(f32::from_bits(1), -f32::from_bits(1)), 2);
    }

    #[test]
    fn what_is_not_finite_never_passes_silently() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        // The same infinities, or a mask in either spelling.
        assert!(of(&[-inf, inf, -inf], &[-inf, inf, f32::MIN]).is_equal());
        for (a, b) in [(nan, nan), (nan, 1.0), (1.0, nan), (-inf, 1.0), (1.0, inf), (inf, -inf), (nan, -inf)] {
            let c = of(&[5.0, a, 7.0], &[4.0, b, 7.0]);
            assert_eq!((c.not_finite, c.different), (1, 2), "{a} {b}");
            assert_eq!(c.at.unwrap().dim, Some(1), "the one that is not finite comes first: {a} {b}");
            assert_eq!(c.max_abs, 1.0);
            assert!(!same(a, b));
        }
        assert!(is_masked(-inf) && is_masked(f32::MIN) && !is_masked(-65504.0) && !is_masked(nan));
    }
}
