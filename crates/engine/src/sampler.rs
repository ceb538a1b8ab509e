//! From logits to the next token.
//!
//! The steps and their order are those of transformers' `generate`: repetition penalty, then (when sampling)
//! temperature, top-k, top-p and min-p, then one draw. The draw for the token at a position depends on the
//! seed and that position alone, so that it does not matter how the text up to there was computed.

use std::cmp::Ordering;

use crate::budget::LogitRows;
use crate::error::Error;
use crate::forward::Want;

/// Among more of the greatest logits too many others might be, for want of a closer look.
const MOST_DECISIVE: usize = 64;

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 means greedy: the likeliest token, the lowest id among equals.
    pub temperature: f64,
    /// Only the `top_k` likeliest tokens; 0 means all.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this probability; 1 means all.
    pub top_p: f64,
    /// Only tokens with at least this share of the likeliest one's probability; 0 means all.
    pub min_p: f64,
    /// Divides positive and multiplies negative logits of tokens that the text already has; 1 means no change.
    pub repetition_penalty: f64,
    /// Picks the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// Whether the next token is that of the greatest logit.
    fn takes_greatest(&self) -> bool {
        self.temperature == 0.0 && self.repetition_penalty == 1.0
    }

    /// How many of the greatest logits decide, if they alone do.
    fn decisive(&self) -> Option<usize> {
        match self {
            _ if self.takes_greatest() => Some(1),
            // A penalty can bring others to the top.
            Sampling { top_k: 1..=MOST_DECISIVE, repetition_penalty: 1.0, .. } => Some(self.top_k),
            _ => None,
        }
    }

    /// What it needs of a text's last row.
    pub(crate) fn want(&self) -> Want {
        self.decisive().map_or(Want::Last, Want::Top)
    }

    /// For which logits a model that writes this way should be [loaded](crate::Options::logits).
    #[must_use]
    pub fn logit_rows(&self) -> LogitRows {
        if self.decisive().is_some() { LogitRows::Top } else { LogitRows::Last }
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// When a parameter is out of its range; the error says which.
    pub fn check(&self) -> Result<(), Error> {
        let cases = [
            ("temperature", self.temperature, self.temperature >= 0.0, "0 (greedy) or more"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                (0.01..=100.0).contains(&self.repetition_penalty),
                "from 0.01 to 100",
            ),
        ];
        for (name, value, good, expected) in cases {
            if !good || !value.is_finite() {
                return Err(Error::Sampling { name, value, expected });
            }
        }
        Ok(())
    }
}

/// Chooses tokens, with buffers of its own.
#[derive(Default)]
pub struct Sampler {
    scores: Vec<f32>,
    /// Tokens by falling score.
    order: Vec<u32>,
    seen: Vec<bool>,
}

impl Sampler {
    /// A sampler, which takes memory when it is first used.
    #[must_use]
    pub fn new() -> Sampler {
        Sampler::default()
    }

    /// The token that follows `text`, given its `logits: [vocab_size]` and a `sampling` that
    /// [makes sense](Sampling::check).
    ///
    /// # Errors
    /// When the logits are not finite numbers.
    pub fn next(&mut self, sampling: &Sampling, logits: &[f32], text: &[u32]) -> Result<u32, Error> {
        // Some at a time without a branch: a vocabulary is long.
        let finite = |some: &[f32]| some.iter().fold(true, |all, l| all & l.is_finite());
        if !logits.chunks(SOME).all(finite) {
            return Err(Error::NotFinite);
        }
        if sampling.takes_greatest() {
            return Ok(argmax(logits));
        }
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        self.penalise(sampling.repetition_penalty as f32, text);
        if sampling.temperature == 0.0 {
            return Ok(argmax(&self.scores));
        }
        self.keep_top(sampling.top_k);
        // In f64 and from the largest down, so that no temperature is too small: 0 is then the largest.
        let max = largest(&self.scores);
        for token in &self.order {
            let score = &mut self.scores[*token as usize];
            *score = (f64::from(*score - max) / sampling.temperature) as f32;
        }
        self.keep_likeliest(sampling);
        let uniform = uniform(sampling.seed, text.len() as u64);
        Ok(self.draw(uniform))
    }

    fn penalise(&mut self, penalty: f32, text: &[u32]) {
        if penalty == 1.0 {
            return;
        }
        self.seen.clear();
        self.seen.resize(self.scores.len(), false);
        for token in text {
            let token = *token as usize;
            if let (Some(score), Some(seen)) = (self.scores.get_mut(token), self.seen.get_mut(token))
                && !*seen
            {
                *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
                *seen = true;
            }
        }
    }

    /// Sets `order` to the `top_k` tokens of the greatest scores, or to all.
    fn keep_top(&mut self, top_k: usize) {
        self.order.clear();
        self.order.extend(0..self.scores.len() as u32);
        if top_k > 0 && top_k < self.order.len() {
            self.order.select_nth_unstable_by(top_k - 1, falling(&self.scores));
            self.order.truncate(top_k);
        }
    }

    /// Leaves in `order` the tokens that may be drawn, by falling score.
    fn keep_likeliest(&mut self, sampling: &Sampling) {
        let Sampling { top_p, min_p, .. } = *sampling;
        let scores = &self.scores;
        self.order.sort_unstable_by(falling(scores));
        let top = scores[self.order[0] as usize];
        let weight = |t: &u32| libm::exp(f64::from(scores[*t as usize] - top));
        if top_p < 1.0 {
            let total: f64 = self.order.iter().map(weight).sum();
            let mut before = 0.0;
            let kept = self.order.iter().take_while(|t| {
                let keep = before < top_p * total;
                before += weight(t);
                keep
            });
            let kept = kept.count().max(1);
            self.order.truncate(kept);
        }
        if min_p > 0.0 {
            let kept = self.order.iter().take_while(|t| weight(t) >= min_p).count().max(1);
            self.order.truncate(kept);
        }
    }

    /// Draws one of `order` in proportion to its probability.
    fn draw(&self, uniform: f64) -> u32 {
        let top = self.scores[self.order[0] as usize];
        // libm's, not the platform's: a draw must be the same everywhere.
        let weight = |t: &u32| libm::exp(f64::from(self.scores[*t as usize] - top));
        let mut left = uniform * self.order.iter().map(weight).sum::<f64>();
        for token in &self.order {
            left -= weight(token);
            if left < 0.0 {
                return *token;
            }
        }
        self.order[self.order.len() - 1]
    }
}

/// Tokens by falling score, equals by their ids.
fn falling(scores: &[f32]) -> impl Fn(&u32, &u32) -> Ordering {
    |a, b| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b))
}

/// Scores that are looked at together.
const SOME: usize = 256;

/// The largest of finite values.
fn largest(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (some, rest) = values.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for some in some {
        for (lane, value) in lanes.iter_mut().zip(some) {
            *lane = larger(*lane, *value);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

/// The lowest index of the largest of finite values.
fn argmax(values: &[f32]) -> u32 {
    let top = largest(values);
    let has_it = |some: &[f32]| some.iter().fold(false, |found, v| found | (*v == top));
    let before = values.chunks(SOME).take_while(|some| !has_it(some)).count() * SOME;
    let within = values[before.min(values.len())..].iter().position(|v| *v == top);
    (before + within.unwrap_or(0)) as u32
}

/// A number in [0, 1) that depends on `seed` and `position` alone: SplitMix64's finaliser
/// (Steele, Lea and Flood 2014), over both.
fn uniform(seed: u64, position: u64) -> f64 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let gamma = 0x9e37_79b9_7f4a_7c15u64;
    let z = mix(mix(seed.wrapping_add(gamma)).wrapping_add(position.wrapping_mul(gamma)).wrapping_add(gamma));
    (z >> 11) as f64 * (0.5f64).powi(53)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sampler that always chooses the same way.
    struct Fixed(Sampler, Sampling);

    impl Fixed {
        fn next(&mut self, logits: &[f32], text: &[u32]) -> Result<u32, Error> {
            self.0.next(&self.1, logits, text)
        }
    }

    fn sampler(sampling: Sampling) -> Fixed {
        sampling.check().unwrap();
        Fixed(Sampler::new(), sampling)
    }

    const LOGITS: [f32; 6] = [1.0, 3.0, -2.0, 3.0, 0.5, 2.0];

    /// Which tokens come up in many draws.
    fn support(sampling: Sampling) -> Vec<u32> {
        let mut sampler = sampler(sampling);
        let mut text = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..4000 {
            seen.insert(sampler.next(&LOGITS, &text).unwrap());
            text.push(0);
        }
        seen.into_iter().collect()
    }

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        assert_eq!(sampler(Sampling::default()).next(&LOGITS, &[]).unwrap(), 1);
        // Rows of many lengths, with the likeliest in many places.
        for len in [1, 15, 16, 17, 255, 256, 257, 1000] {
            for first in [0, 1, 14, 15, 16, 254, 255, 256, 700, 999].into_iter().filter(|first| *first < len) {
                let mut logits: Vec<f32> = (0..len).map(|i| -1.0 - (i % 7) as f32).collect();
                logits[first] = -0.5;
                logits[len - 1] = -0.5;
                assert_eq!(sampler(Sampling::default()).next(&logits, &[]).unwrap(), first as u32, "of {len}");
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    logits[first] = bad;
                    assert!(sampler(Sampling::default()).next(&logits, &[]).is_err(), "{bad} at {first} of {len}");
                }
            }
        }
    }

    #[test]
    fn the_penalty_counts_each_token_once_and_in_its_direction() {
        let mut sampler = sampler(Sampling { repetition_penalty: 2.0, ..Sampling::default() });
        assert_eq!(sampler.next(&LOGITS, &[1, 1, 1]).unwrap(), 3);
        assert_eq!(sampler.next(&LOGITS, &[1, 3]).unwrap(), 5, "3.0 / 2 is below 2.0");
        assert_eq!(sampler.next(&[-1.0, -1.5, -9.0, -9.0, -9.0, -9.0], &[0]).unwrap(), 1, "−1 · 2 is below −1.5");
        assert_eq!(sampler.next(&LOGITS, &[77]).unwrap(), 1, "a token beyond the vocabulary changes nothing");
    }

    #[test]
    fn filters_leave_what_they_should() {
        let hot = Sampling { temperature: 3.0, ..Sampling::default() };
        assert_eq!(support(hot.clone()), [0, 1, 2, 3, 4, 5]);
        assert_eq!(support(Sampling { top_k: 3, ..hot.clone() }), [1, 3, 5]);
        assert_eq!(support(Sampling { top_k: 1, ..hot.clone() }), [1]);
        assert_eq!(support(Sampling { top_p: 1e-9, ..hot.clone() }), [1]);
        // At temperature 3 the weights are 1, 1, .717, .513, .435, .189: the first two are 52 % of the whole.
        assert_eq!(support(Sampling { top_p: 0.5, ..hot.clone() }), [1, 3]);
        assert_eq!(support(Sampling { top_p: 0.6, ..hot.clone() }), [1, 3, 5]);
        assert_eq!(support(Sampling { min_p: 0.6, ..hot.clone() }), [1, 3, 5]);
        assert_eq!(support(Sampling { min_p: 1.0, ..hot }), [1, 3]);
    }

    #[test]
    fn the_likeliest_are_found_before_the_temperature_rounds() {
        // Less the largest, the first two are one number in f32.
        let logits = [5.0, 5.000_001, 1000.0];
        assert_eq!(logits[0] - 1000.0f32, logits[1] - 1000.0f32);
        let mut sampler = sampler(Sampling { temperature: 1000.0, top_k: 2, ..Sampling::default() });
        let draws: Vec<u32> = (0..200).map(|n| sampler.next(&logits, &vec![0; n]).unwrap()).collect();
        assert!(draws.contains(&1) && draws.contains(&2) && !draws.contains(&0), "{draws:?}");
    }

    #[test]
    fn the_smallest_temperature_is_greedy() {
        for temperature in [1e-3, 1e-40, 1e-300, f64::MIN_POSITIVE] {
            let sampling = Sampling { temperature, ..Sampling::default() };
            assert_eq!(support(sampling), [1, 3], "{temperature}: one of the two likeliest");
        }
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let mut sampler = sampler(Sampling { temperature: 1.0, seed: 7, ..Sampling::default() });
        let mut counts = [0.0f64; 6];
        let text = vec![0; 20_000];
        for n in 0..text.len() {
            counts[sampler.next(&LOGITS, &text[..n]).unwrap() as usize] += 1.0 / text.len() as f64;
        }
        let total: f64 = LOGITS.iter().map(|l| f64::from(*l).exp()).sum();
        for (count, logit) in counts.iter().zip(LOGITS) {
            let want = f64::from(logit).exp() / total;
            assert!((count - want).abs() < 0.015, "{count} against {want}");
        }
    }

    #[test]
    fn a_draw_depends_on_seed_and_position_alone() {
        let draws = |seed| {
            let mut sampler = sampler(Sampling { temperature: 2.0, seed, ..Sampling::default() });
            let mut draw = |n| sampler.next(&LOGITS, &vec![0; n]).unwrap();
            let forward: Vec<u32> = (0..50).map(&mut draw).collect();
            let backward: Vec<u32> = (0..50).rev().map(&mut draw).collect();
            assert!(forward.iter().eq(backward.iter().rev()));
            forward
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn nonsense_is_refused() {
        for (sampling, name) in [
            (Sampling { temperature: -1.0, ..Sampling::default() }, "temperature"),
            (Sampling { temperature: f64::NAN, ..Sampling::default() }, "temperature"),
            (Sampling { top_p: 0.0, ..Sampling::default() }, "top_p"),
            (Sampling { min_p: 1.5, ..Sampling::default() }, "min_p"),
            (Sampling { repetition_penalty: 0.0, ..Sampling::default() }, "repetition_penalty"),
        ] {
            let error = sampling.check().unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("must be"), "{error}");
        }
        let mut sampler = sampler(Sampling::default());
        assert!(matches!(sampler.next(&[0.0, f32::NAN], &[]), Err(Error::NotFinite)));
        assert!(matches!(sampler.next(&[0.0, f32::INFINITY], &[]), Err(Error::NotFinite)));
    }
}
