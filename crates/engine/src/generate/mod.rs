//! Writing texts: one, or many that advance together. A pass carries a row for each text that is being written, more of
//! them where tokens are guessed ahead, and what there is room for of prompts that are being read.
//!
//! What is written does not depend on any of that: logits are the same bits in whatever company a row is computed, and the
//! draw for a token depends on its position and the seed alone. A guessed token counts only if it is the one that its logits give.

mod drafts;
mod pace;

use std::time::{Duration, Instant};

use crate::decoder::Decoder;
use crate::error::Error;
use crate::forward::{Input, Want};
use crate::kv::Sequence;
use crate::model::{Model, check_tokens};
use crate::profile::Op;
use crate::rope::Rope;
use crate::sampler::{Sampler, Sampling};
use drafts::{Draft, KINDS, Seat, Wish};
pub use drafts::{DraftModel, Speculation};
use pace::{Luck, Pace};

/// How a text is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// New tokens at the most.
    pub max_new_tokens: usize,
    /// Tokens that end the text.
    pub eos: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
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

/// What was guessed ahead.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize)]
pub struct Drafted {
    /// Tokens that were guessed and computed with.
    pub drafted: usize,
    /// Those of them that were right.
    pub accepted: usize,
}

/// A text that is being read and written.
pub struct Text {
    sequence: Sequence,
    /// Prompt and new tokens.
    tokens: Vec<u32>,
    /// Where new tokens begin.
    prompt_len: usize,
    request: Request,
    finish: Option<Result<Finish, Error>>,
    drafted: Drafted,
    /// How often guesses were right, by their kind.
    luck: [Luck; KINDS],
    /// What the draft model has read of it.
    seat: Option<Seat>,
}

impl Text {
    /// A text that begins with `tokens`, of which `sequence` may have read some, but not all.
    ///
    /// # Errors
    /// When there is nothing to read, a token is not in the model's vocabulary, there are too many for its context, or the sampling
    /// makes no sense.
    pub fn new(model: &Model, sequence: Sequence, tokens: Vec<u32>, request: Request) -> Result<Text, Error> {
        request.sampling.check()?;
        if tokens.len() <= sequence.len() {
            return Err(Error::EmptyPrompt);
        }
        check_tokens(model.decoder(), &tokens, 0)?;
        Ok(Text {
            sequence,
            prompt_len: tokens.len(),
            tokens,
            request,
            finish: None,
            drafted: Drafted::default(),
            luck: Default::default(),
            seat: None,
        })
    }

    /// Prompt and new tokens.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The new tokens, the one that ended the text among them.
    #[must_use]
    pub fn new_tokens(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// Why it ended, if it has.
    #[must_use]
    pub fn finish(&self) -> Option<Finish> {
        self.finish.as_ref()?.as_ref().ok().copied()
    }

    /// Whether nothing more will be written.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.finish.is_some()
    }

    /// Why it could not go on, if it is over for that.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.finish.as_ref()?.as_ref().err()
    }

    /// What was guessed ahead for it.
    #[must_use]
    pub fn drafted(&self) -> Drafted {
        self.drafted
    }

    /// Tokens that it will have at the most.
    pub(crate) fn most_tokens(&self) -> usize {
        self.prompt_len.saturating_add(self.request.max_new_tokens)
    }

    /// What it is made of: its sequence and all its tokens. The sequence has read all but the last; or less while the prompt was being
    /// read; or all if no new tokens were asked for.
    #[must_use]
    pub fn into_parts(self) -> (Sequence, Vec<u32>) {
        (self.sequence, self.tokens)
    }

    /// Lets the sequence begin anew where the text has grown past a point beyond which all of its frequencies are others.
    fn turn(&mut self, decoder: &Decoder) {
        let points = || decoder.ropes.iter().filter_map(Rope::turning_point);
        // Read already as what it has grown to, or a part of that.
        let (read, known) = (self.sequence.len(), self.sequence.prompt_len());
        if points().any(|point| (1..=point).contains(&read) && known <= point && self.tokens.len() > point) {
            self.sequence.restart(self.tokens.len());
        }
    }

    /// Guesses that the text has room for before it turns.
    fn room_before_turning(&self, decoder: &Decoder) -> usize {
        let points = decoder.ropes.iter().filter_map(Rope::turning_point);
        let ahead = points.filter(|point| self.tokens.len() <= *point).map(|point| point - self.tokens.len());
        ahead.min().unwrap_or(usize::MAX)
    }

    /// Tokens that are not read yet.
    fn unread(&self) -> &[u32] {
        &self.tokens[self.sequence.len()..]
    }

    /// Whether reading one token gives the next.
    fn is_writing(&self) -> bool {
        !self.is_over() && self.unread().len() == 1
    }

    /// Tokens that it makes sense to guess: the last new one is never read, and the context ends somewhere.
    fn room_for_guesses(&self, context: usize) -> usize {
        let new = self.request.max_new_tokens - self.new_tokens().len();
        new.saturating_sub(1).min(context - self.tokens.len())
    }

    /// Goes on by the `logits` of the last token read and of those that were guessed after it; how long choosing took.
    fn take(
        &mut self,
        logits: &[f32],
        draft: &Draft,
        sampler: &mut Sampler,
        context: usize,
        mut each: impl FnMut(u32) -> Progress,
    ) -> Duration {
        let mut choosing = Duration::ZERO;
        if self.request.max_new_tokens == 0 {
            self.finish = Some(Ok(Finish::Length));
            return choosing;
        }
        let mut right = 0;
        let mut wrong = false;
        for (i, row) in logits.chunks_exact(logits.len() / (draft.tokens.len() + 1)).enumerate() {
            let start = Instant::now();
            let next = sampler.next(&self.request.sampling, row, &self.tokens);
            choosing += start.elapsed();
            match next {
                Ok(token) => {
                    self.push(token, context, &mut each);
                    wrong = draft.tokens.get(i).is_some_and(|guess| *guess != token);
                    right += usize::from(draft.tokens.get(i) == Some(&token));
                }
                Err(error) => self.finish = Some(Err(error)),
            }
            if self.is_over() || wrong {
                break;
            }
        }
        self.drafted.drafted += draft.tokens.len();
        self.drafted.accepted += right;
        if let Some(kind) = draft.kind {
            self.luck[kind].learn(right, wrong);
        }
        // What was read beyond is forgotten.
        self.sequence.truncate(self.tokens.len() - 1);
        choosing
    }

    /// Takes a new token.
    fn push(&mut self, token: u32, context: usize, each: &mut impl FnMut(u32) -> Progress) {
        self.tokens.push(token);
        let finish = if self.request.eos.contains(&token) {
            Finish::Eos(token)
        } else if each(token) == Progress::Stop {
            Finish::Stopped
        } else if self.new_tokens().len() == self.request.max_new_tokens {
            Finish::Length
        } else if self.tokens.len() > context {
            Finish::Context
        } else {
            return;
        };
        self.finish = Some(Ok(finish));
    }
}

/// Writes texts: chooses tokens, and guesses some ahead if it is told to.
pub struct Writer {
    sampler: Sampler,
    speculation: Speculation,
    pace: Pace,
    /// For each text, what is guessed of it.
    drafts: Vec<Draft>,
}

/// What of a text takes part in a pass.
#[derive(Clone, Copy, Default)]
struct Part {
    /// Unread tokens that it reads.
    rows: usize,
    /// Whether these are all, so that a token follows.
    wanted: bool,
}

impl Writer {
    /// One that guesses as `speculation` says. Guessing takes rows of logits, which the model must have been
    /// [given](crate::Options::drafts).
    #[must_use]
    pub fn new(speculation: Speculation) -> Writer {
        Writer { sampler: Sampler::new(), speculation, pace: Pace::default(), drafts: Vec::new() }
    }

    /// One pass over those of `texts` that are not over. Each new token is passed to `each` with its text's index as it comes,
    /// but for one that ends the text.
    ///
    /// Texts advance together. Those that are being written come first; what a pass has room for beyond them goes to
    /// guesses and to prompts, in their order. A text whose logits are not numbers is over, with an [error](Text::error).
    ///
    /// # Errors
    /// As [`Model::forward`]. No text has changed then.
    pub fn step(
        &mut self,
        model: &mut Model,
        texts: &mut [Text],
        mut each: impl FnMut(usize, u32) -> Progress,
    ) -> Result<(), Error> {
        let start = Instant::now();
        texts.iter_mut().for_each(|text| text.turn(model.decoder()));
        self.guess(model, texts)?;
        if !matches!(self.speculation, Speculation::Off) {
            model.count(Op::Guessing, start, start.elapsed());
        }
        let parts = self.share(model, texts);
        let rows_of = |((text, part), draft): ((&Text, &Part), &Draft)| match part.rows {
            0 => Vec::new(),
            rows => [&text.unread()[..rows], &draft.tokens].concat(),
        };
        let rows: Vec<_> = texts.iter().zip(&parts).zip(&self.drafts).map(rows_of).collect();
        let mut inputs = Vec::new();
        for (i, text) in texts.iter_mut().enumerate().filter(|(i, _)| parts[*i].rows > 0) {
            let want = match self.drafts[i].tokens.len() {
                _ if !parts[i].wanted => Want::Nothing,
                0 => text.request.sampling.want(),
                drafted => Want::Tail(1 + drafted),
            };
            inputs.push(Input { sequence: &mut text.sequence, tokens: &rows[i], want });
        }
        if inputs.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        let context = model.decoder().context;
        let vocab = model.decoder().vocab_size;
        let mut logits = model.forward(&mut inputs)?.logits;
        if parts.iter().all(|p| p.rows <= 1) {
            self.pace.passed(rows.iter().map(Vec::len).sum(), start.elapsed().as_secs_f64());
        }
        let (start, mut choosing) = (Instant::now(), Duration::ZERO);
        for (i, text) in texts.iter_mut().enumerate().filter(|(i, _)| parts[*i].wanted) {
            let draft = &self.drafts[i];
            let (own, others) = logits.split_at((1 + draft.tokens.len()) * vocab);
            logits = others;
            choosing += text.take(own, draft, &mut self.sampler, context, |token| each(i, token));
        }
        if parts.iter().any(|part| part.wanted) {
            model.count(Op::Sampling, start, choosing);
        }
        Ok(())
    }

    /// Guesses what follows the texts that are being written.
    fn guess(&mut self, model: &Model, texts: &mut [Text]) -> Result<(), Error> {
        self.drafts.resize_with(texts.len(), Draft::default);
        for draft in &mut self.drafts {
            draft.tokens.clear();
            draft.kind = None;
        }
        let context = model.decoder().context;
        let writing = texts.iter().filter(|t| t.is_writing()).count();
        if writing == 0 {
            return Ok(());
        }
        // Every sequence has a row and its guesses for itself, so that nobody waits for anybody's luck.
        let rows = model.max_logit_rows().min(model.max_rows());
        let each = model.max_drafts().min((rows / writing).saturating_sub(1));
        let mut wishes: Vec<_> = texts
            .iter_mut()
            .zip(&mut self.drafts)
            .filter(|(text, _)| text.is_writing())
            .map(|(text, draft)| Wish {
                most: text.room_for_guesses(context).min(each).min(text.room_before_turning(model.decoder())),
                text: &text.tokens,
                sampling: &text.request.sampling,
                luck: &text.luck,
                seat: &mut text.seat,
                draft,
            })
            .collect();
        let spent = self.speculation.guess(&mut wishes, &mut self.sampler, &self.pace)?;
        // Another model may have tokens that this one has not.
        let vocab = model.decoder().vocab_size;
        for draft in &mut self.drafts {
            let known = draft.tokens.iter().position(|token| *token as usize >= vocab);
            draft.tokens.truncate(known.unwrap_or(draft.tokens.len()));
        }
        self.pace.guessed(self.drafts.iter().map(|d| d.tokens.len()).sum(), spent.as_secs_f64());
        Ok(())
    }

    /// Shares the rows of a pass; gives what each text takes of them, by index.
    fn share(&self, model: &Model, texts: &[Text]) -> Vec<Part> {
        let mut parts = vec![Part::default(); texts.len()];
        let (mut rows, mut logits) = (model.max_rows(), model.max_logit_rows());
        for (i, _) in texts.iter().enumerate().filter(|(_, text)| text.is_writing()) {
            let all = 1 + self.drafts[i].tokens.len();
            if all <= rows && all <= logits {
                (rows, logits) = (rows - all, logits - all);
                parts[i] = Part { rows: 1, wanted: true };
            }
        }
        for (i, text) in texts.iter().enumerate().filter(|(_, text)| !text.is_over() && !text.is_writing()) {
            let unread = text.unread().len();
            let wanted = unread <= rows && logits > 0;
            let take = if wanted { unread } else { rows.min(unread - 1) };
            (rows, logits) = (rows - take, logits - usize::from(wanted));
            parts[i] = Part { rows: take, wanted };
        }
        parts
    }
}

/// Writes `text` until it is over; each new token is passed to `each` as it comes, but for one that ends it.
///
/// # Errors
/// As [`Model::forward`], or when a logit is not a number. The text is then as it was before the last pass.
pub fn generate(
    model: &mut Model,
    writer: &mut Writer,
    text: &mut Text,
    mut each: impl FnMut(u32) -> Progress,
) -> Result<Finish, Error> {
    loop {
        if let Some(finish) = text.finish.take_if(|finish| finish.is_err()) {
            return finish;
        }
        if let Some(finish) = text.finish() {
            return Ok(finish);
        }
        writer.step(model, std::slice::from_mut(text), |_, token| each(token))?;
    }
}
