//! Generation of one text: prefill, then one token after the other, until something ends it.

use std::time::Instant;

use crate::error::Error;
use crate::forward::{Input, Want};
use crate::kv::Sequence;
use crate::model::Model;
use crate::sampler::Sampler;

/// What is to be generated.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Tokens that `sequence` has not read yet, at least one.
    pub prompt: &'a [u32],
    /// New tokens at the most.
    pub max_new_tokens: usize,
    /// Tokens that end the text.
    pub eos: &'a [u32],
}

/// Why a text ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended it, with this token.
    Eos(u32),
    /// As many new tokens as were asked for.
    Length,
    /// The model's context is full.
    Context,
    /// The caller had enough.
    Stopped,
}

/// What the caller says to a new token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Go on.
    Continue,
    /// That is enough.
    Stop,
}

/// What was generated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Generation {
    /// The new tokens, the one that ended the text among them.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// Generates a text after `request.prompt`. `text` holds the tokens of `sequence` so far and grows by the prompt
/// and the new tokens; each new token is passed to `each` as it comes, but for one that ends the text.
///
/// Afterwards `sequence` has read `text` but for its last token.
///
/// # Errors
/// As [`Model::prefill`], or when a logit is not a number.
pub fn generate(
    model: &mut Model,
    sequence: &mut Sequence,
    text: &mut Vec<u32>,
    sampler: &mut Sampler,
    request: &Request<'_>,
    mut each: impl FnMut(u32) -> Progress,
) -> Result<Generation, Error> {
    let mut tokens = Vec::new();
    let context = model.decoder().context;
    let mut output = model.prefill(sequence, request.prompt)?;
    text.extend_from_slice(request.prompt);
    let finish = loop {
        if tokens.len() == request.max_new_tokens {
            break Finish::Length;
        }
        let start = Instant::now();
        let token = sampler.next(output.logits, text)?;
        model.count_sampling(start);
        tokens.push(token);
        text.push(token);
        if request.eos.contains(&token) {
            break Finish::Eos(token);
        }
        if each(token) == Progress::Stop {
            break Finish::Stopped;
        }
        if tokens.len() == request.max_new_tokens {
            break Finish::Length;
        }
        if sequence.len() == context {
            break Finish::Context;
        }
        output = model.forward(&mut [Input { sequence, tokens: &[token], want: Want::Last }])?;
    };
    Ok(Generation { tokens, finish })
}
