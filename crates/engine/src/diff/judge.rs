//! Who is right: two results of one operation on the same inputs, beside the exact one.
//!
//! The floor of an element is how far rounding may have taken an engine from the exact result (`noise.rs`), and the factor of a result its
//! distance from that, in floors. What lies within 1 is noise.

use serde::Serialize;

use super::compare::is_masked;
use super::noise::{Known, Precision};

/// Who is right about an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Both results are the same, element by element.
    Equal,
    /// Both are as near to the exact result as rounding lets them be.
    Noise,
    /// Those of B are not, and those of A are.
    TheirsWrong,
    /// Those of A are not, and those of B are.
    OursWrong,
    /// Neither are.
    BothWrong,
    /// They differ by more than rounding, and the exact result is not known, since what it depends on was not recorded.
    Unknown,
}

impl Verdict {
    /// Of two factors, of results that are not the same.
    #[must_use]
    pub fn of(ours: f64, theirs: f64) -> Verdict {
        match (ours > 1.0, theirs > 1.0) {
            (false, false) => Verdict::Noise,
            (false, true) => Verdict::TheirsWrong,
            (true, false) => Verdict::OursWrong,
            (true, true) => Verdict::BothWrong,
        }
    }

    /// Whether a result is wrong, or may be.
    #[must_use]
    pub fn is_suspicious(self) -> bool {
        !matches!(self, Verdict::Equal | Verdict::Noise)
    }
}

/// One engine's result.
#[derive(Clone, Copy, Debug)]
pub struct Result<'a> {
    /// Its values.
    pub values: &'a [f32],
    /// In which numbers they were computed.
    pub precision: Precision,
}

/// How far one engine's result is from the exact one.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Distance {
    /// The largest distance in floors. Infinite where something is not finite that should be, or the other way round.
    pub factor: f64,
    /// The element where that is.
    #[serde(skip)]
    pub at: usize,
    /// The distance there.
    pub difference: f64,
    /// How many elements are beyond their floors.
    pub beyond: usize,
}

/// What was found.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Judgement {
    /// Who is right.
    pub verdict: Verdict,
    /// Of A's values.
    pub ours: Distance,
    /// Of B's.
    pub theirs: Distance,
    /// Elements whose exact values are not known.
    pub unknown: usize,
}

/// Judges `ours` and `theirs` by what is exact, all of one length.
#[must_use]
pub fn judge(ours: Result<'_>, theirs: Result<'_>, exact: &Known) -> Judgement {
    let unknown = exact.values.iter().filter(|x| x.is_nan()).count();
    let (a, b) = (distance(ours, exact), distance(theirs, exact));
    let verdict = if unknown == exact.len() && unknown > 0 {
        let equal = ours.values.iter().zip(theirs.values).all(|(a, b)| super::compare::same(*a, *b));
        if equal { Verdict::Equal } else { Verdict::Unknown }
    } else {
        Verdict::of(a.factor, b.factor)
    };
    Judgement { verdict, ours: a, theirs: b, unknown }
}

/// How far `result` is from what is exact.
#[must_use]
pub fn distance(result: Result<'_>, exact: &Known) -> Distance {
    let mut worst = Distance::default();
    for (i, (x, exact_value)) in result.values.iter().zip(&exact.values).enumerate() {
        if exact_value.is_nan() {
            continue;
        }
        let (difference, factor) = if exact_value.is_finite() && x.is_finite() && !is_masked(*x) {
            let difference = (f64::from(*x) - exact_value).abs();
            (difference, difference / exact.noise(i).floor(result.precision))
        } else if *exact_value == f64::NEG_INFINITY && is_masked(*x) || f64::from(*x) == *exact_value {
            (0.0, 0.0)
        } else {
            (f64::INFINITY, f64::INFINITY)
        };
        worst.beyond += usize::from(factor > 1.0);
        if factor > worst.factor {
            worst = Distance { factor, at: i, difference, ..worst };
        }
    }
    worst
}

/// Whether two results of a product of rows of `inputs` elements lie so close together, row by row, that they need no exact one: a
/// quarter of what rounding of sums may do to a typical element of the row, in the coarser numbers of the two.
///
/// For tensors whose exact values are expensive. What passes here is noise, but for elements much smaller than those beside them.
#[must_use]
pub fn are_close(ours: Result<'_>, theirs: Result<'_>, width: usize, inputs: usize) -> bool {
    let steps = ours.precision.steps.max(theirs.precision.steps);
    let rounding = ours.precision.inputs.max(theirs.precision.inputs);
    let unit = super::noise::F32 * (inputs as f64).sqrt() + steps + rounding;
    let rows = ours.values.chunks(width.max(1)).zip(theirs.values.chunks(width.max(1)));
    rows.into_iter().all(|(a, b)| {
        let square: f64 = b.iter().filter(|x| !is_masked(**x)).map(|x| f64::from(*x).powi(2)).sum();
        let typical = (square / b.len() as f64).sqrt();
        a.iter().zip(b).all(|(x, y)| {
            let near = || f64::from((x - y).abs()) <= unit * typical.max(f64::from(y.abs()));
            super::compare::same(*x, *y) || x.is_finite() && y.is_finite() && near()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::noise::{F32, Noise};
    use super::*;

    fn exact(values: &[f64]) -> Known {
        let noise = values.iter().map(|v| Noise::steps(1.0, if v.is_finite() { *v } else { 0.0 }));
        Known { values: values.to_vec(), noise: noise.collect() }
    }

    fn of(ours: &[f32], theirs: &[f32], values: &[f64], precision: Precision) -> Judgement {
        judge(Result { values: ours, precision: Precision::F32 }, Result { values: theirs, precision }, &exact(values))
    }

    #[test]
    fn who_is_far_from_the_exact_result_is_wrong() {
        let right = [1.0f32, -2.0, 0.0];
        let near = [1.0f32.next_up(), -2.0, 0.0];
        let far = [1.0f32, -2.001, 0.0];
        let values = [1.0, -2.0, 0.0];
        let verdict = |a, b| of(a, b, &values, Precision::F32).verdict;
        assert_eq!(verdict(&right, &near), Verdict::Noise);
        assert_eq!(verdict(&right, &far), Verdict::TheirsWrong);
        assert_eq!(verdict(&far, &near), Verdict::OursWrong);
        assert_eq!(verdict(&far, &far), Verdict::BothWrong);
        let judged = of(&right, &far, &values, Precision::F32);
        assert_eq!((judged.theirs.at, judged.theirs.beyond, judged.ours.factor), (1, 1, 0.0));
        let expected = f64::from(-2.0 - far[1]) / (8.0 * F32 * 2.0);
        assert!((judged.theirs.factor / expected - 1.0).abs() < 1e-6);
        // In bf16 it is noise.
        assert_eq!(of(&right, &far, &values, Precision::BF16).verdict, Verdict::Noise);
    }

    #[test]
    fn what_is_not_finite_is_infinitely_far_unless_it_should_be() {
        let values = [f64::NEG_INFINITY, 1.0];
        let inf = f32::INFINITY;
        assert_eq!(of(&[-inf, 1.0], &[f32::MIN, 1.0], &values, Precision::F32).verdict, Verdict::Noise);
        for wrong in [[0.0, 1.0], [-inf, f32::NAN], [-inf, -inf], [inf, 1.0], [f32::NAN, 1.0]] {
            let judged = of(&[-inf, 1.0], &wrong, &values, Precision::F32);
            assert_eq!((judged.verdict, judged.theirs.factor), (Verdict::TheirsWrong, f64::INFINITY), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_judged() {
        let nan = f64::NAN;
        let judged = of(&[1.0, 2.0], &[1.0, 9.0], &[1.0, nan], Precision::F32);
        assert_eq!((judged.verdict, judged.unknown), (Verdict::Noise, 1));
        assert_eq!(of(&[1.0], &[2.0], &[nan], Precision::F32).verdict, Verdict::Unknown);
        assert_eq!(of(&[1.0], &[1.0], &[nan], Precision::F32).verdict, Verdict::Equal);
    }

    #[test]
    fn results_that_lie_close_together_need_no_exact_one() {
        let a = [1.0f32, 2.0, 3.0, 4.0];
        let close = |b: &[f32]| {
            let result = |values| Result { values, precision: Precision::F32 };
            are_close(result(&a), result(b), 2, 16)
        };
        assert!(close(&a) && close(&[1.0, 2.0f32.next_up(), 3.0, 4.0]));
        assert!(!close(&[1.0, 2.0, 3.0, 4.0001]));
        assert!(!close(&[1.0, f32::NAN, 3.0, 4.0]));
        assert!(!close(&[1.0, f32::NEG_INFINITY, 3.0, 4.0]));
    }
}
