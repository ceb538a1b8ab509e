//! Tokens guessed ahead. A right guess saves a pass, a wrong one costs a row of one, and neither changes what is written.

use std::time::{Duration, Instant};

use super::pace::{Luck, Pace};
use crate::error::Error;
use crate::forward::Input;
use crate::kv::Sequence;
use crate::model::Model;
use crate::sampler::{Sampler, Sampling};

/// Kinds of guesses, whose luck is counted apart.
pub(super) const KINDS: usize = 4;

/// The shortest repetition that says anything, in tokens.
const SHORTEST: usize = 2;
/// Where a repetition is long enough.
const LONGEST: usize = 32;

/// How tokens are guessed.
pub enum Speculation {
    /// Not at all.
    Off,
    /// What followed when the text's last tokens were last there.
    Lookup,
    /// What a smaller model would write.
    Model(Box<DraftModel>),
}

/// What is guessed for one text.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) tokens: Vec<u32>,
    /// Whose luck they try; nothing where there was nothing to guess by.
    pub(super) kind: Option<usize>,
}

/// A text for which guesses are wanted.
pub(super) struct Wish<'a> {
    pub(super) text: &'a [u32],
    pub(super) sampling: &'a Sampling,
    pub(super) luck: &'a [Luck; KINDS],
    /// Tokens that may be guessed.
    pub(super) most: usize,
    pub(super) seat: &'a mut Option<Seat>,
    pub(super) draft: &'a mut Draft,
}

impl Speculation {
    /// Fills the drafts of `wishes`, all of which were empty; gives the time that the guesses themselves took.
    pub(super) fn guess(
        &mut self,
        wishes: &mut [Wish<'_>],
        sampler: &mut Sampler,
        pace: &Pace,
    ) -> Result<Duration, Error> {
        match self {
            Speculation::Off => Ok(Duration::ZERO),
            Speculation::Lookup => {
                let start = Instant::now();
                let texts = wishes.len();
                for wish in wishes {
                    let Some(found) = look_up(wish.text) else { continue };
                    wish.draft.kind = Some(found.kind());
                    let n = pace.worth(texts, &wish.luck[found.kind()], wish.most);
                    wish.draft.tokens.extend(found.continuation(wish.text).take(n));
                }
                Ok(start.elapsed())
            }
            Speculation::Model(model) => model.guess(wishes, sampler, pace),
        }
    }
}

/// An earlier place where the text was as it is at its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Found {
    /// Where the text went on there.
    after: usize,
    /// Tokens in common before it.
    common: usize,
}

/// The place with the longest repetition, the latest of several.
fn look_up(text: &[u32]) -> Option<Found> {
    let (last, before) = text.split_last()?;
    let mut best: Option<Found> = None;
    for (i, token) in before.iter().enumerate().rev() {
        if token != last {
            continue;
        }
        let alike = before[..i].iter().rev().zip(before.iter().rev()).take_while(|(a, b)| a == b);
        let common = 1 + alike.take(LONGEST - 1).count();
        if common >= SHORTEST && best.is_none_or(|b| common > b.common) {
            best = Some(Found { after: i + 1, common });
            if common == LONGEST {
                break;
            }
        }
    }
    best
}

impl Found {
    /// Longer repetitions go on alike more often.
    fn kind(self) -> usize {
        match self.common {
            0..=2 => 0,
            3 => 1,
            4..=7 => 2,
            _ => 3,
        }
    }

    /// What followed there; where that reaches the text's end, the repetition is taken to go on.
    fn continuation(self, text: &[u32]) -> impl Iterator<Item = u32> + '_ {
        text[self.after..].iter().copied().cycle()
    }
}

/// A smaller model that guesses what a larger one writes. It must have the same tokens.
pub struct DraftModel {
    model: Model,
}

/// A text as the draft model has read it.
pub(super) struct Seat {
    sequence: Sequence,
    read: Vec<u32>,
}

impl DraftModel {
    /// `model` as a draft model. It was loaded for as many sequences and tokens as the model that it guesses for.
    #[must_use]
    pub fn new(model: Model) -> DraftModel {
        DraftModel { model }
    }

    fn guess(&mut self, wishes: &mut [Wish<'_>], sampler: &mut Sampler, pace: &Pace) -> Result<Duration, Error> {
        let texts = wishes.len();
        let context = self.model.decoder().context.min(self.model.plan().tokens);
        let vocab = self.model.decoder().vocab_size;
        let mut going = Vec::new();
        for wish in wishes {
            let most = wish.most.min(context.saturating_sub(wish.text.len()));
            wish.draft.kind = Some(0);
            let wanted = pace.worth(texts, &wish.luck[0], most);
            // A model that has fewer tokens than the other has no word for some texts.
            if wanted > 0 && wish.text.iter().all(|token| (*token as usize) < vocab) {
                going.push(Going { text: wish.text.to_vec(), wanted, wish });
            }
        }
        for one in &mut going {
            let Wish { seat, text, .. } = &mut *one.wish;
            let seat = seat.get_or_insert_with(|| Seat { sequence: self.model.sequence(text.len()), read: Vec::new() });
            let common = seat.read.iter().zip(*text).take_while(|(a, b)| a == b).count().min(text.len() - 1);
            seat.sequence.truncate(common);
            let common = seat.sequence.len();
            seat.read.truncate(common);
            // All but the last token; the last goes together with those of the other texts.
            let rest = &text[common..text.len() - 1];
            if !rest.is_empty() {
                self.model.prefill(&mut seat.sequence, rest)?;
                seat.read.extend_from_slice(rest);
            }
        }
        // What a text has that was not read yet is read once, however much is guessed.
        let start = Instant::now();
        while !going.is_empty() {
            let mut inputs = Vec::new();
            for one in &mut going {
                let Some(seat) = one.wish.seat else { continue };
                inputs.push(Input {
                    sequence: &mut seat.sequence,
                    tokens: &one.text[one.text.len() - 1..],
                    want: one.wish.sampling.want(),
                });
            }
            let logits = self.model.forward(&mut inputs)?.logits;
            for (one, logits) in going.iter_mut().zip(logits.chunks_exact(vocab)) {
                if let Some(seat) = one.wish.seat {
                    seat.read.extend(one.text.last());
                }
                match sampler.next(one.wish.sampling, logits, &one.text) {
                    Ok(token) => {
                        one.text.push(token);
                        one.wish.draft.tokens.push(token);
                        one.wanted -= 1;
                    }
                    // A guess that cannot be made is none.
                    Err(_) => one.wanted = 0,
                }
            }
            going.retain(|one| one.wanted > 0);
        }
        Ok(start.elapsed())
    }
}

/// A text for which the draft model is guessing.
struct Going<'w, 'a> {
    wish: &'w mut Wish<'a>,
    /// The text and the guesses so far.
    text: Vec<u32>,
    wanted: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_found_the_longest_first_and_the_latest_of_equals() {
        let found = |text: &[u32]| look_up(text).map(|f| (f.after, f.common));
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[5]), None);
        assert_eq!(found(&[1, 2, 3, 9, 2]), None, "one token says nothing");
        assert_eq!(found(&[1, 2, 3, 9, 1, 2]), Some((2, 2)));
        assert_eq!(found(&[1, 2, 7, 1, 2, 8, 1, 2]), Some((5, 2)));
        assert_eq!(found(&[9, 1, 2, 7, 1, 2, 8, 9, 1, 2]), Some((3, 3)));
        let long: Vec<u32> = (0..100).chain(0..100).collect();
        assert_eq!(found(&long), Some((100, LONGEST)));
    }

    #[test]
    fn what_followed_goes_around_where_it_meets_the_end() {
        let text = [1, 2, 3, 1, 2, 3, 1, 2, 3];
        let found = look_up(&text).unwrap();
        let next: Vec<u32> = found.continuation(&text).take(7).collect();
        assert_eq!(next, [1, 2, 3, 1, 2, 3, 1]);
    }
}
