//! Guessing tokens ahead, and writing many texts at a time, changes the speed and nothing else: every text is the one that is
//! written token by token, alone.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use common::{Case, at_least, cases, options};
use rheostat::{
    Compute, DraftModel, Drafted, Finish, KvFormat, Model, Options, Package, Progress, Request, Sampling, Speculation,
    Text, Writer, generate,
};

const NEW: usize = 40;

/// How tokens are chosen, one way after another.
fn samplings() -> [Sampling; 3] {
    let greedy = Sampling::default();
    let warm = Sampling { temperature: 0.7, top_p: 0.9, seed: 11, ..Sampling::default() };
    let penalised = Sampling { temperature: 1.3, top_k: 50, repetition_penalty: 1.2, seed: 5, ..Sampling::default() };
    [greedy, warm, penalised]
}

/// The cases whose contexts have room for prompts and what is written after them.
fn roomy_cases() -> Vec<Case> {
    let longest = |case: &Case| case.prompts().iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(0);
    let has_room =
        |case: &Case| Package::open(&case.dir).unwrap().describe().unwrap().context > longest(case) + 2 * NEW;
    let roomy: Vec<Case> = cases().into_iter().filter(has_room).collect();
    assert!(roomy.len() > 100, "only {} cases have room", roomy.len());
    roomy
}

fn request(sampling: &Sampling) -> Request {
    Request { max_new_tokens: NEW, eos: vec![3], sampling: sampling.clone() }
}

/// One text's tokens, and why it ended; what was passed on as it came must be the same.
fn write(model: &mut Model, how: Speculation, prompt: &[u32], sampling: &Sampling) -> (Vec<u32>, Finish, Drafted) {
    let mut text = Text::new(model, model.sequence(prompt.len()), prompt.to_vec(), request(sampling)).unwrap();
    let mut seen = Vec::new();
    let finish = generate(model, &mut Writer::new(how), &mut text, |token| {
        seen.push(token);
        Progress::Continue
    })
    .unwrap();
    let end = if matches!(finish, Finish::Eos(_)) { 1 } else { 0 };
    assert_eq!(seen, text.new_tokens()[..text.new_tokens().len() - end]);
    let drafted = text.drafted();
    let (sequence, tokens) = text.into_parts();
    // A model with a state may have to forget more.
    let exact = !model.decoder().has_state();
    let (read, all) = (sequence.len(), tokens.len() - 1);
    assert!(if exact { read == all } else { read <= all }, "what was read beyond is forgotten: {read} of {all}");
    (tokens, finish, drafted)
}

/// The case's prompts, each with its beginning once more after it, so that there is something to look up.
fn prompts(case: &Case) -> Vec<Vec<u32>> {
    let twice = |(_, tokens): (String, Vec<u32>)| {
        let tokens = &tokens[..tokens.len().min(60)];
        [tokens, &tokens[..tokens.len() / 2]].concat()
    };
    case.prompts().into_iter().map(twice).collect()
}

/// The draft model of a case: the case itself, which guesses right while numbers are the same, or in a mode that rounds, which is
/// sometimes wrong.
fn draft(case: &Case, options: &Options, exact: bool) -> Speculation {
    let compute = if exact { Compute::F32 } else { Compute::Bf16 };
    let kv = if exact { KvFormat::F32 } else { KvFormat::Bf16 };
    let model = case.load(&Options { compute, kv, drafts: 0, ..options.clone() });
    Speculation::Model(Box::new(DraftModel::new(model)))
}

#[test]
fn guesses_change_nothing() {
    let mut found = Drafted::default();
    let mut modelled = Drafted::default();
    let mut rounded = Drafted::default();
    for (turn, case) in roomy_cases().into_iter().enumerate() {
        let mut plain = case.load(&options());
        let weights = plain.plan().pinned;
        let many = Options { drafts: 7, ..options() };
        let half = Options { weights: Some(weights / 2), tile: Some(2000), ..many.clone() };
        // In turns: with so many cases and prompts, each way to choose and each way to have the weights meet most families.
        let mut model = case.load(&if turn.is_multiple_of(2) { many } else { at_least(&case, &half) });
        for (i, prompt) in prompts(&case).into_iter().enumerate() {
            let sampling = &samplings()[(turn + i) % 3];
            let (want, finish, none) = write(&mut plain, Speculation::Off, &prompt, sampling);
            assert_eq!(none, Drafted::default());
            for (how, counts) in [
                (Speculation::Lookup, &mut found),
                (draft(&case, &options(), true), &mut modelled),
                (draft(&case, &options(), false), &mut rounded),
            ] {
                let (got, why, drafted) = write(&mut model, how, &prompt, sampling);
                assert_eq!(got, want, "{}: {sampling:?}", case.name);
                assert_eq!(why, finish, "{}", case.name);
                counts.drafted += drafted.drafted;
                counts.accepted += drafted.accepted;
            }
        }
    }
    // Otherwise nothing was tested.
    assert!(found.accepted > 100 && found.accepted < found.drafted, "{found:?}");
    assert!(rounded.accepted > 100 && rounded.accepted < rounded.drafted, "{rounded:?}");
    // Only with a frequency that depends on the length does a model differ from itself: what its draft read before is another text's.
    assert!(modelled.accepted > 1000 && modelled.accepted * 10 >= modelled.drafted * 9, "{modelled:?}");
}

#[test]
fn texts_that_advance_together_are_the_same_as_alone() {
    for (turn, case) in roomy_cases().into_iter().enumerate() {
        let mut alone = case.load(&options());
        let wanted: Vec<_> = prompts(&case)
            .into_iter()
            .flat_map(|prompt| samplings().map(|sampling| (prompt.clone(), sampling)))
            .map(|(prompt, sampling)| {
                let (tokens, finish, _) = write(&mut alone, Speculation::Off, &prompt, &sampling);
                (prompt, sampling, tokens, finish)
            })
            .collect();
        let together = Options { sequences: 4, context: Some(4 * 256), drafts: 3, chunk: Some(24), ..options() };
        // One way beside none, in turns.
        let guessing = if turn.is_multiple_of(2) { Speculation::Lookup } else { draft(&case, &together, true) };
        for how in [Speculation::Off, guessing] {
            let mut model = case.load(&together);
            let mut writer = Writer::new(how);
            let mut waiting: Vec<_> = wanted.iter().enumerate().rev().collect();
            let (mut texts, mut which) = (Vec::new(), Vec::new());
            let mut done = 0;
            // They join when there is room and leave when they are done, so that no two passes are alike.
            while done < wanted.len() {
                while let Some((i, (prompt, sampling, ..))) = waiting.last()
                    && texts.len() < 4
                    && model.has_room(&texts, prompt.len() + NEW)
                {
                    let sequence = model.sequence(prompt.len());
                    texts.push(Text::new(&model, sequence, prompt.clone(), request(sampling)).unwrap());
                    which.push(*i);
                    waiting.pop();
                }
                assert!(!texts.is_empty(), "{}: there is room for one", case.name);
                writer.step(&mut model, &mut texts, |_, _| Progress::Continue).unwrap();
                for i in (0..texts.len()).rev() {
                    if texts[i].is_over() {
                        let (_, _, tokens, finish) = &wanted[which.swap_remove(i)];
                        let text = texts.swap_remove(i);
                        assert_eq!(text.finish(), Some(*finish), "{}", case.name);
                        assert_eq!(text.tokens(), tokens, "{}", case.name);
                        done += 1;
                    }
                }
            }
        }
    }
}

#[test]
fn a_text_without_new_tokens_is_read_to_its_end() {
    let case = roomy_cases().into_iter().find(|case| case.name == "qwen3_defaults").unwrap();
    let mut model = case.load(&Options { chunk: Some(5), ..options() });
    let prompt = prompts(&case).remove(0);
    let none = Request { max_new_tokens: 0, ..request(&Sampling::default()) };
    let mut text = Text::new(&model, model.sequence(prompt.len()), prompt.clone(), none).unwrap();
    let finish = generate(&mut model, &mut Writer::new(Speculation::Lookup), &mut text, |_| Progress::Continue);
    assert_eq!(finish.unwrap(), Finish::Length);
    let (sequence, tokens) = text.into_parts();
    assert_eq!((sequence.len(), tokens), (prompt.len(), prompt));
}
