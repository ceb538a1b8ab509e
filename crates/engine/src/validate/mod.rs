//! Whether a model's numbers are those of a reference that another program recorded.
//!
//! ```text
//! Reference::open(file)       reference.rs   what was recorded: facts, texts, likeliest tokens, last residuals
//!  ├ facts(..)                facts.rs       family and sizes, against the description
//!  ├ texts(..)                               the tokens of each test case, against the tokenizer
//!  └ compare(model, ..)                      one pass over as many texts as go together, and for each:
//!     └ top, residual         compare.rs     order, logits and residual, against the bar
//! ```

mod compare;
mod facts;
mod reference;

pub use compare::{Difference, Misplaced, ResidualCheck, TopCheck};
pub use facts::{Fact, FactVerdict};
pub use reference::{Case, Reference, ReferenceError, ReferenceErrorKind, ResidualPoint, Top};

use crate::decoder::Decoder;
use crate::error::Error;
use crate::forward::{Input, Want};
use crate::hooks::{Hooks, Point, Points, Site};
use crate::model::{Model, check_tokens};
use crate::package::Package;
use crate::tokenizer::{AddSpecial, Tokenizer};

/// Differences that are allowed unless the caller says otherwise.
pub const BAR: f64 = 1e-3;

/// The text of a test case.
#[derive(Clone, PartialEq, Debug)]
pub struct CaseText {
    /// Its tokens: those that were recorded, else the tokenizer's. The error says why there are none that the model can read.
    pub tokens: Result<Vec<u32>, String>,
    /// What the tokenizer says of them.
    pub check: TokensCheck,
}

/// What the model's tokenizer says of recorded tokens.
#[derive(Clone, PartialEq, Debug)]
pub enum TokensCheck {
    /// The same.
    Same,
    /// Others.
    Differ {
        /// The first place, from 0, at which they do.
        at: usize,
        /// The tokenizer's tokens.
        found: Vec<u32>,
        /// Whether they would be the same without the special tokens that the tokenizer adds.
        same_without_special: bool,
    },
    /// The reference has no tokens, or no text to make them from.
    NotRecorded,
    /// The model's tokenizer cannot say: why.
    NoTokenizer(String),
}

/// A test case, checked.
#[derive(Clone, PartialEq, Debug)]
pub struct CaseCheck {
    /// Tokens of the text.
    pub tokens: usize,
    /// What the tokenizer says of them.
    pub tokenizer: TokensCheck,
    /// The numbers, or why there are none.
    pub numbers: Result<Numbers, String>,
}

/// What a test case's numbers are like; nothing where nothing was recorded.
#[derive(Clone, PartialEq, Debug)]
pub struct Numbers {
    /// The likeliest tokens.
    pub top: Option<TopCheck>,
    /// The last residual.
    pub residual: Option<ResidualCheck>,
}

impl CaseCheck {
    /// Whether everything that was recorded is as recorded, and no difference is larger than `bar`.
    #[must_use]
    pub fn passes(&self, bar: f64) -> bool {
        let tokens = !matches!(self.tokenizer, TokensCheck::Differ { .. });
        tokens
            && self.numbers.as_ref().is_ok_and(|numbers| {
                let top = numbers.top.as_ref().is_none_or(|top| top.misplaced.is_empty() && top.largest.size <= bar);
                top && numbers.residual.as_ref().is_none_or(|residual| residual.largest.size <= bar)
            })
    }
}

/// Every fact that a reference may have about a model.
#[must_use]
pub fn facts(reference: &Reference, package: &Package, decoder: &Decoder) -> Vec<Fact> {
    facts::facts(reference, package, decoder)
}

/// The tokens of every test case, checked against the model's `tokenizer`, or why there is none.
#[must_use]
pub fn texts(reference: &Reference, decoder: &Decoder, tokenizer: Result<&Tokenizer, &str>) -> Vec<CaseText> {
    reference.cases.iter().map(|case| text(case, decoder, tokenizer)).collect()
}

fn text(case: &Case, decoder: &Decoder, tokenizer: Result<&Tokenizer, &str>) -> CaseText {
    let encode = |prompt: &str, add: AddSpecial| {
        tokenizer.map_err(str::to_owned)?.encode(prompt, add).map_err(|e| e.to_string())
    };
    let found = case.prompt.as_deref().map(|prompt| encode(prompt, AddSpecial::Add));
    let check = match (&case.tokens, &found) {
        (None, _) | (Some(_), None) => TokensCheck::NotRecorded,
        (Some(_), Some(Err(why))) => TokensCheck::NoTokenizer(why.clone()),
        (Some(recorded), Some(Ok(found))) if recorded == found => TokensCheck::Same,
        (Some(recorded), Some(Ok(found))) => {
            let plain = case.prompt.as_deref().map(|prompt| encode(prompt, AddSpecial::Omit));
            let at = recorded.iter().zip(found).take_while(|(a, b)| a == b).count();
            TokensCheck::Differ {
                at,
                found: found.clone(),
                same_without_special: plain.as_ref() == Some(&Ok(recorded.clone())),
            }
        }
    };
    let tokens = match (&case.tokens, found) {
        (Some(recorded), _) => Ok(recorded.clone()),
        (None, Some(found)) => found,
        (None, None) => Ok(Vec::new()),
    };
    let tokens = tokens.and_then(|tokens| match (tokens.is_empty(), check_tokens(decoder, &tokens, 0)) {
        (true, _) => Err(Error::EmptyPrompt.to_string()),
        (false, Err(error)) => Err(error.to_string()),
        (false, Ok(())) => Ok(tokens),
    });
    CaseText { tokens, check }
}

/// Runs `model` over `texts`, which are those of `reference`, and compares. As many go through it together as its passes have
/// rows for. `each` is told how many test cases are done.
///
/// The model must have been loaded with [`points`] as its hooks, for the texts' tokens together, or for the longest and one sequence.
///
/// # Errors
/// As [`Model::forward`].
pub fn compare(
    model: &mut Model,
    reference: &Reference,
    texts: &[CaseText],
    mut each: impl FnMut(usize),
) -> Result<Vec<CaseCheck>, Error> {
    let mut numbers: Vec<Option<Numbers>> = vec![None; texts.len()];
    let readable: Vec<(usize, &[u32])> =
        texts.iter().enumerate().filter_map(|(i, text)| Some((i, text.tokens.as_deref().ok()?))).collect();
    let mut rest = &readable[..];
    while !rest.is_empty() {
        let count = together(model, rest.iter().map(|(_, tokens)| tokens.len()));
        let (now, later) = rest.split_at(count);
        pass(model, now, |i, last| {
            let case = &reference.cases[i];
            numbers[i] = Some(Numbers {
                top: case.top.as_ref().map(|top| compare::top(last.logits, top)),
                residual: case.residual.as_ref().map(|recorded| {
                    compare::residual(last.resid_post, last.final_hidden, recorded, reference.residual_point)
                }),
            });
        })?;
        each(readable.len() - later.len());
        rest = later;
    }
    let checks = texts.iter().zip(numbers).map(|(text, numbers)| CaseCheck {
        tokens: text.tokens.as_ref().map_or(0, Vec::len),
        tokenizer: text.check.clone(),
        numbers: match (&text.tokens, numbers) {
            (Err(why), _) => Err(why.clone()),
            (Ok(_), Some(numbers)) => Ok(numbers),
            (Ok(_), None) => Err(Error::EmptyPrompt.to_string()),
        },
    });
    Ok(checks.collect())
}

/// How many of the texts with so many tokens go through one pass: at least the first.
fn together(model: &Model, lengths: impl Iterator<Item = usize>) -> usize {
    let mut rows = 0;
    let fitting = lengths.take(model.max_logit_rows()).take_while(|len| {
        rows += len;
        rows <= model.max_rows()
    });
    fitting.count().max(1)
}

/// What a pass says of the last position of a text.
struct Last<'a> {
    /// `[vocab_size]`.
    logits: &'a [f32],
    /// `[hidden_size]`, after the last block.
    resid_post: &'a [f32],
    /// `[hidden_size]`, after the final norm.
    final_hidden: &'a [f32],
}

/// The hook points that [`compare`] looks at, for [`Options::hooks`](crate::Options::hooks).
#[must_use]
pub fn points() -> Points {
    [Point::ResidPost].into_iter().collect()
}

/// The residual stream after the last block, of the last position of each text.
struct LastResidual {
    /// The last block.
    block: usize,
    hidden: usize,
    /// The last position of each text.
    ends: Vec<usize>,
    /// `[texts, hidden_size]`.
    found: Vec<f32>,
}

impl Hooks for LastResidual {
    fn points(&self) -> Points {
        points()
    }

    fn wants(&self, point: Point, block: Option<usize>) -> bool {
        point == Point::ResidPost && block == Some(self.block)
    }

    fn at(&mut self, site: &Site<'_>, values: &mut [f32]) -> Result<(), Error> {
        for (row, values) in site.rows.iter().zip(values.chunks_exact(self.hidden)) {
            if self.ends[row.sequence] == row.position {
                self.found[row.sequence * self.hidden..][..self.hidden].copy_from_slice(values);
            }
        }
        Ok(())
    }
}

/// Reads texts, which are numbered, and tells what there is at the end of each. A text that is too long for one pass is alone.
fn pass(model: &mut Model, texts: &[(usize, &[u32])], mut each: impl FnMut(usize, &Last<'_>)) -> Result<(), Error> {
    let (hidden, vocab) = (model.decoder().hidden_size, model.decoder().vocab_size);
    let mut sequences: Vec<_> = texts.iter().map(|(_, tokens)| model.sequence(tokens.len())).collect();
    let rows = model.max_rows();
    let mut ends: Vec<&[u32]> = Vec::with_capacity(texts.len());
    for ((_, tokens), sequence) in texts.iter().zip(&mut sequences) {
        let before = if texts.len() == 1 { (tokens.len() - 1) / rows * rows } else { 0 };
        for tokens in tokens[..before].chunks(rows) {
            model.forward(&mut [Input { sequence, tokens, want: Want::Nothing }])?;
        }
        ends.push(&tokens[before..]);
    }
    let block = model.decoder().blocks.len().saturating_sub(1);
    let last = texts.iter().map(|(_, tokens)| tokens.len() - 1);
    let mut seen = LastResidual { block, hidden, ends: last.collect(), found: vec![0.0; texts.len() * hidden] };
    let inputs = sequences.iter_mut().zip(&ends);
    let mut inputs: Vec<_> = inputs.map(|(sequence, tokens)| Input { sequence, tokens, want: Want::Last }).collect();
    let output = model.forward_hooked(&mut inputs, &mut seen)?;
    let logits = output.logits.chunks_exact(vocab);
    let residuals = seen.found.chunks_exact(hidden).zip(output.final_hidden.chunks_exact(hidden));
    for (((i, _), logits), (resid_post, final_hidden)) in texts.iter().zip(logits).zip(residuals) {
        each(*i, &Last { logits, resid_post, final_hidden });
    }
    Ok(())
}
