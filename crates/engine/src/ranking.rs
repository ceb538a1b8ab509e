//! What a row of logits says: the likeliest tokens, probabilities and ranks, in f64 and in a fixed order.

use crate::error::Error;

/// A row of logits as a distribution.
#[derive(Clone, Copy, Debug)]
pub struct Distribution<'a> {
    logits: &'a [f32],
    max: f64,
    /// The logarithm of the sum of `exp(logit - max)`.
    log_sum: f64,
}

impl<'a> Distribution<'a> {
    /// Of `logits: [vocab_size]`.
    ///
    /// # Errors
    /// When one of them is not a finite number.
    pub fn new(logits: &'a [f32]) -> Result<Distribution<'a>, Error> {
        if !logits.iter().all(|x| x.is_finite()) {
            return Err(Error::NotFinite);
        }
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|x| libm::exp(f64::from(*x) - max)).sum();
        Ok(Distribution { logits, max, log_sum: libm::log(sum) })
    }

    /// The logarithm of a token's probability.
    ///
    /// # Panics
    /// When there is no such token, as everywhere here.
    #[must_use]
    pub fn log_probability(&self, token: u32) -> f64 {
        -(self.log_sum + (self.max - f64::from(self.logits[token as usize])))
    }

    /// A token's probability.
    #[must_use]
    pub fn probability(&self, token: u32) -> f64 {
        libm::exp(self.log_probability(token))
    }

    /// The `count` likeliest tokens with their probabilities.
    #[must_use]
    pub fn top(&self, count: usize) -> Vec<(u32, f64)> {
        likeliest(self.logits, count).into_iter().map(|token| (token, self.probability(token))).collect()
    }

    /// A token's place among all, from 1.
    #[must_use]
    pub fn rank(&self, token: u32) -> usize {
        let own = self.logits[token as usize];
        let before = |(other, logit): (usize, &f32)| *logit > own || (*logit == own && other < token as usize);
        1 + self.logits.iter().enumerate().filter(|x| before(*x)).count()
    }
}

/// The `count` tokens with the largest of `logits`, the largest first, of equals the one with the smaller id.
#[must_use]
pub fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let larger = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if count < order.len() {
        order.select_nth_unstable_by(count, larger);
        order.truncate(count);
    }
    order.sort_unstable_by(larger);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_and_ranks() {
        let logits = [1.0, 3.0, 3.0, -2.0];
        let all = Distribution::new(&logits).unwrap();
        let sum: f64 = (0..4).map(|token| all.probability(token)).sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert!((all.log_probability(1) - all.log_probability(0) - 2.0).abs() < 1e-12);
        assert_eq!([0, 1, 2, 3].map(|token| all.rank(token)), [3, 1, 2, 4]);
        assert_eq!(all.top(2).iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(likeliest(&logits, 9), [1, 2, 0, 3]);
        assert!(Distribution::new(&[0.0, f32::NAN]).is_err());
    }
}
