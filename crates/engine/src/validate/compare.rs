//! Numbers against those of a reference: the order of the likeliest tokens, their logits, the last residual.

use super::reference::{ResidualPoint, Top};
use crate::ranking::likeliest;

/// Two logits closer than this share of their size are a near tie: 32 units in the last place of f32 at the most. Sums of
/// thousands of products in f32 are not known more exactly, so that their order may depend on the order of the sums.
const NEAR_TIE: f64 = 1.0 / (1 << 18) as f64;

/// How far a number is from the one that was recorded.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Difference {
    /// The distance; infinite where one of the two is not a finite number, or not there.
    pub size: f64,
    /// Of logits the token, of a residual the element.
    pub at: usize,
    /// The number, if it is there.
    pub found: Option<f32>,
    /// The number that was recorded.
    pub recorded: f64,
}

/// The likeliest tokens against those that were recorded.
#[derive(Clone, PartialEq, Debug)]
pub struct TopCheck {
    /// Tokens that were recorded.
    pub places: usize,
    /// Places, from 1, where another token stands.
    pub misplaced: Vec<Misplaced>,
    /// The largest difference of a recorded token's logit.
    pub largest: Difference,
}

/// A place of the likeliest tokens at which another one stands than was recorded.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Misplaced {
    /// The place, from 1.
    pub place: usize,
    /// The token that was recorded.
    pub recorded: u32,
    /// The token that stands there, if the vocabulary has so many.
    pub found: Option<u32>,
    /// How far the recorded logit is from a neighbour's, if that is so near that rounding may turn the two around.
    pub near_tie: Option<f64>,
}

/// The last residual against the one that was recorded.
#[derive(Clone, PartialEq, Debug)]
pub struct ResidualCheck {
    /// What it was compared with.
    pub point: ResidualPoint,
    /// Whether the reference says that this is what it is; else it is the nearer of the two.
    pub point_recorded: bool,
    /// Elements that were recorded, and elements that the model has.
    pub lengths: [usize; 2],
    /// The largest difference of an element.
    pub largest: Difference,
}

impl Difference {
    fn new(at: usize, found: Option<f32>, recorded: f64) -> Difference {
        let distance = found.map_or(f64::INFINITY, |found| (f64::from(found) - recorded).abs());
        let size = if distance.is_finite() { distance } else { f64::INFINITY };
        Difference { size, at, found, recorded }
    }
}

/// The largest of differences; of equal ones the first.
fn largest(differences: impl Iterator<Item = Difference>) -> Difference {
    differences.reduce(|a, b| if b.size > a.size { b } else { a }).unwrap_or(Difference::new(0, Some(0.0), 0.0))
}

/// Compares `logits: [vocab_size]` with `recorded`.
pub(super) fn top(logits: &[f32], recorded: &[Top]) -> TopCheck {
    let order = likeliest(logits, recorded.len());
    let places = recorded.iter().enumerate();
    let misplaced = places.filter(|(i, top)| order.get(*i) != Some(&top.token)).map(|(i, top)| Misplaced {
        place: i + 1,
        recorded: top.token,
        found: order.get(i).copied(),
        near_tie: near_tie(recorded, i),
    });
    let differences = recorded.iter().map(|top| {
        let at = top.token as usize;
        Difference::new(at, logits.get(at).copied(), top.logit)
    });
    TopCheck { places: recorded.len(), misplaced: misplaced.collect(), largest: largest(differences) }
}

/// The distance of the logit at `i` from the nearer of its neighbours, if that is a near tie.
fn near_tie(recorded: &[Top], i: usize) -> Option<f64> {
    let logit = recorded[i].logit;
    let neighbours = [i.checked_sub(1), Some(i + 1)].into_iter().flatten().filter_map(|j| recorded.get(j));
    let gap = neighbours.map(|top| (top.logit - logit).abs()).fold(f64::INFINITY, f64::min);
    (gap <= NEAR_TIE * logit.abs()).then_some(gap)
}

/// Compares the last position's vectors with `recorded`, which is the one or the other.
pub(super) fn residual(
    resid_post: &[f32],
    final_hidden: &[f32],
    recorded: &[f64],
    point: Option<ResidualPoint>,
) -> ResidualCheck {
    let check = |point: ResidualPoint, point_recorded: bool| {
        let found = match point {
            ResidualPoint::ResidPost => resid_post,
            ResidualPoint::FinalNorm => final_hidden,
        };
        let pairs = found.iter().zip(recorded).enumerate();
        let largest = largest(pairs.map(|(at, (f, r))| Difference::new(at, Some(*f), *r)));
        let lengths = [recorded.len(), found.len()];
        let largest = if lengths[0] == lengths[1] { largest } else { Difference { size: f64::INFINITY, ..largest } };
        ResidualCheck { point, point_recorded, lengths, largest }
    };
    match point {
        Some(point) => check(point, true),
        None => {
            let [post, normed] = [ResidualPoint::ResidPost, ResidualPoint::FinalNorm].map(|point| check(point, false));
            if normed.largest.size < post.largest.size { normed } else { post }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(top: &[(u32, f64)]) -> Vec<Top> {
        top.iter().map(|(token, logit)| Top { token: *token, logit: *logit }).collect()
    }

    #[test]
    fn the_order_is_exact_and_near_ties_are_told() {
        let logits = [1.0, 5.0, 3.0, 5.0, 4.0];
        let same = top(&logits, &recorded(&[(1, 5.0), (3, 5.0), (4, 4.0)]));
        assert!(same.misplaced.is_empty() && same.largest.size == 0.0);
        // A tie the other way around, then places that are clear.
        let other = top(&logits, &recorded(&[(3, 5.0), (1, 5.0 - 1e-6), (2, 3.0), (4, 4.25)]));
        let told: Vec<_> =
            other.misplaced.iter().map(|m| (m.place, m.recorded, m.found, m.near_tie.is_some())).collect();
        assert_eq!(
            told,
            [(1, 3, Some(1), true), (2, 1, Some(3), true), (3, 2, Some(4), false), (4, 4, Some(2), false)]
        );
        assert_eq!((other.largest.size, other.largest.at), (0.25, 4));
        // A token that the model does not have.
        let beyond = top(&logits, &recorded(&[(1, 5.0), (9, 4.5)]));
        assert_eq!((beyond.misplaced.len(), beyond.largest.size), (1, f64::INFINITY));
        // What is not a number agrees with nothing.
        assert_eq!(top(&[f32::NAN, 1.0], &recorded(&[(0, 2.0)])).largest.size, f64::INFINITY);
    }

    #[test]
    fn a_residual_is_compared_with_what_it_is() {
        let (post, normed) = ([1.0, 2.0, 3.0], [0.5, 1.0, 1.5]);
        let check = |recorded: &[f64], point| residual(&post, &normed, recorded, point);
        let nearer = check(&[0.5, 1.0, 1.75], None);
        assert_eq!((nearer.point, nearer.point_recorded), (ResidualPoint::FinalNorm, false));
        assert_eq!(nearer.largest, Difference { size: 0.25, at: 2, found: Some(1.5), recorded: 1.75 });
        assert_eq!(check(&[1.0, 2.0, 3.0], None).point, ResidualPoint::ResidPost);
        let said = check(&[0.5, 1.0, 1.5], Some(ResidualPoint::ResidPost));
        assert_eq!((said.largest.size, said.largest.at, said.point_recorded), (1.5, 2, true));
        let short = check(&[1.0, 2.0], None);
        assert_eq!((short.largest.size, short.lengths), (f64::INFINITY, [2, 3]));
    }
}
