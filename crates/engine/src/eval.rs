//! How well a model predicts a text: the negative log-likelihood of its tokens.
//!
//! The logits are the same bits for every budget, thread count and chunk; what follows from them is computed in f64
//! by portable code, token by token and in their order, so that it is the same bits, too.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

use rheostat_kernels::Exec;

use crate::error::Error;
use crate::forward::{Input, Want};
use crate::model::{Model, check_vocabulary};
use crate::ranking::Distribution;

/// How well tokens were predicted.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Score {
    /// Tokens that were predicted.
    pub tokens: usize,
    /// Their negative log-likelihood together, in nats.
    pub nats: f64,
}

impl Score {
    /// Mean negative log-likelihood of a token, in nats. Not a number without tokens.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.nats / self.tokens as f64
    }

    /// `exp(loss)`: among how many equally likely tokens the model might as well have chosen.
    #[must_use]
    pub fn perplexity(&self) -> f64 {
        libm::exp(self.loss())
    }
}

/// Predicts every token of `ids` but the first, which is only read.
///
/// The predicted tokens are cut into windows of `window`, the last of which may be shorter. A window is read as a
/// text of its own that begins with the one token before the window; each of its tokens is predicted from that one
/// and those before it in the window. `each` is told the score so far after every pass.
///
/// The model must have been loaded with [`LogitRows::All`](crate::LogitRows::All) and a context of a window, or of
/// `ids.len() - 1` tokens if that is less.
///
/// # Errors
/// As [`Model::forward`], or when a logit is not a number.
pub fn score(
    model: &mut Model,
    ids: &[u32],
    window: NonZeroUsize,
    mut each: impl FnMut(Score),
) -> Result<Score, Error> {
    let mut score = Score::default();
    let Some((_, predicted)) = ids.split_first() else { return Ok(score) };
    check_vocabulary(model.decoder(), ids, 0)?;
    let rows = model.max_rows();
    let vocab = model.decoder().vocab_size;
    // What is read is what is predicted, one token earlier.
    for (read, predicted) in ids.chunks(window.get()).zip(predicted.chunks(window.get())) {
        let read = &read[..predicted.len()];
        let mut sequence = model.sequence(read.len());
        for (tokens, targets) in read.chunks(rows).zip(predicted.chunks(rows)) {
            model.forward(&mut [Input { sequence: &mut sequence, tokens, want: Want::All }])?;
            let logits = &model.last_logits()[..tokens.len() * vocab];
            for nats in losses(model.exec(), logits, targets) {
                if !nats.is_finite() {
                    return Err(Error::NotFinite);
                }
                score.nats += nats;
                score.tokens += 1;
            }
            each(score);
        }
    }
    Ok(score)
}

/// The negative log-likelihood of each target in its row of `logits: [targets, vocab_size]`.
fn losses(exec: &Exec, logits: &[f32], targets: &[u32]) -> Vec<f64> {
    let vocab = logits.len() / targets.len();
    let nats: Vec<AtomicU64> = targets.iter().map(|_| AtomicU64::new(0)).collect();
    exec.pool().run(targets.len(), &|row, _| {
        let loss = loss(&logits[row * vocab..][..vocab], targets[row] as usize);
        nats[row].store(loss.to_bits(), Ordering::Relaxed);
    });
    nats.into_iter().map(|bits| f64::from_bits(bits.into_inner())).collect()
}

/// `-log_softmax(logits)[target]` in f64; not a number if one of the logits is none.
fn loss(logits: &[f32], target: usize) -> f64 {
    Distribution::new(logits).map_or(f64::NAN, |all| -all.log_probability(target as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_exact_where_the_answer_is_known() {
        let cases: [(&[f32], usize, f64); 6] = [
            (&[0.0], 0, 0.0),
            (&[0.0; 8], 3, 8f64.ln()),
            (&[3e38; 4], 1, 4f64.ln()),
            (&[-1000.0, 1000.0], 1, 0.0),
            (&[-1000.0, 1000.0], 0, 2000.0),
            (&[0.5, -1.5, 2.0], 1, (2f64.exp() + 1.0 + 3.5f64.exp()).ln()),
        ];
        for (logits, target, want) in cases {
            let got = loss(logits, target);
            assert!((got - want).abs() <= 1e-12 * want.max(1.0), "{logits:?} {target}: {got}, not {want}");
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(loss(&[0.0, bad, 1.0], 2).is_nan(), "{bad}");
        }
    }

    #[test]
    fn a_score_is_a_mean() {
        let score = Score { tokens: 4, nats: 4.0 * 10f64.ln() };
        assert_eq!(score.loss(), 10f64.ln());
        assert!((score.perplexity() - 10.0).abs() < 1e-12);
        assert!(Score::default().loss().is_nan());
    }
}
