//! Keys and values on disk: the same bits as in memory, whatever the chunks, the batch, the windows and the steps back.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Case, assert_bits, cases, options, stretched};
use rheostat::hooks::{Hooks, Point, Points, Site};
use rheostat::{Error, Input, KvFormat, Model, Options, Sequence, StoreErrorKind, Want};

/// Positions of a block.
const BLOCK: usize = 512;

/// Tokens without end, from the prompts of a case.
fn text(case: &Case, n: usize) -> Vec<u32> {
    let all: Vec<u32> = case.prompts().into_iter().flat_map(|(_, tokens)| tokens).collect();
    (0..n).map(|i| all[(i * 7 + i / all.len()) % all.len()]).collect()
}

fn on_disk(options: &Options, dir: &Path) -> Options {
    Options { kv_disk: Some(dir.to_owned()), ..options.clone() }
}

fn long(kv: KvFormat) -> Options {
    Options { context: Some(2048), chunk: Some(600), kv, ..options() }
}

/// Reads `tokens` after what `sequence` has, `chunk` at a time; all logits.
fn read(model: &mut Model, sequence: &mut Sequence, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut all = Vec::new();
    for tokens in tokens.chunks(chunk) {
        let input = Input { sequence, tokens, want: Want::All };
        all.extend_from_slice(model.forward(&mut [input]).unwrap().logits);
    }
    all
}

fn few(names: &[&str]) -> impl Iterator<Item = (Case, tempfile::TempDir, KvFormat)> {
    let names: Vec<_> = names.iter().map(|name| common::testdata().join(name)).collect();
    names.into_iter().flat_map(|dir| {
        [KvFormat::F32, KvFormat::Bf16].map(|kv| {
            let (case, dir) = stretched(&common::case(dir.clone()));
            (case, dir, kv)
        })
    })
}

/// Several blocks on disk, then token by token over the end of another.
#[test]
fn long_texts() {
    for (i, case) in cases().into_iter().enumerate() {
        if rheostat::Package::open(&case.dir).unwrap().describe().unwrap().embed.positions.is_some() {
            // A table of learned positions is as long as it is.
            continue;
        }
        let (case, _dir) = stretched(&case);
        let spool = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let tokens = text(&case, 3 * BLOCK + 70);
        let (prompt, rest) = tokens.split_at(3 * BLOCK - 3);
        // Chunks that are whole blocks and others, and both formats, in turns.
        let kv = [KvFormat::F32, KvFormat::Bf16][i % 2];
        let (chunk, threads) = [(BLOCK, 1), (100, 2)][i / 2 % 2];
        let mut model = case.load(&long(kv));
        let mut sequence = model.sequence(prompt.len());
        let mut want = read(&mut model, &mut sequence, prompt, 600);
        want.extend(read(&mut model, &mut sequence, rest, 600));
        let reading = model.reading().bytes;
        let threads = std::num::NonZeroUsize::new(threads);
        let mut model = case.load(&Options { threads, ..on_disk(&long(kv), spool.path()) });
        assert!(model.plan().kv_disk > 0);
        let mut sequence = model.sequence(prompt.len());
        let mut got = read(&mut model, &mut sequence, prompt, chunk);
        got.extend(read(&mut model, &mut sequence, rest, 1));
        assert_bits(&format!("{} in chunks of {chunk}, {kv:?}", case.name), &got, &want);
        assert!(model.reading().bytes > reading, "something was read from disk");
        drop(model);
        assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 0, "nothing is left, not even now");
    }
}

/// What the references hold, which is short, in small pieces.
#[test]
fn the_references() {
    let spool = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // Every third: every case in some mode or two, every mode with many cases.
    for (case, mode) in common::cases_and_modes().step_by(3) {
        let mut model = case.load(&mode);
        let mut stored = case.load(&on_disk(&mode, spool.path()));
        for (_, tokens) in case.prompts() {
            let want = common::logits(&mut model, &tokens, usize::MAX);
            assert_bits(&case.name, &common::logits(&mut stored, &tokens, 5), &want);
        }
    }
}

#[test]
fn steps_back_to_everywhere() {
    for (case, _dir, kv) in few(&[
        "llama_plain",
        "mistral_window",
        "qwen2_window",
        "qwen3_tied",
        "quant_qwen3_int8",
        "gpt_oss_hub",
        "deepseek_v3_hub",
        "lfm2_hub",
        "qwen3_next_hub",
    ]) {
        let spool = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let tokens = text(&case, 3 * BLOCK + 70);
        let mut model = case.load(&long(kv));
        let vocab = model.decoder().vocab_size;
        let mut sequence = model.sequence(tokens.len());
        let want = read(&mut model, &mut sequence, &tokens, 600);
        let mut model = case.load(&on_disk(&long(kv), spool.path()));
        let mut sequence = model.sequence(tokens.len());
        read(&mut model, &mut sequence, &tokens, 600);
        for keep in [3 * BLOCK + 69, 3 * BLOCK + 1, 3 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK - 1, BLOCK + 130, BLOCK, 7, 0] {
            sequence.truncate(keep);
            let what = format!("{} back to {keep}, {kv:?}", case.name);
            // With a state, it went further back.
            let start = sequence.len();
            read(&mut model, &mut sequence, &tokens[start..keep], 600);
            // Another text first, then back, a little more, and the real one.
            let other: Vec<u32> = tokens[keep..].iter().take(300).map(|t| (t + 1) % vocab as u32).collect();
            read(&mut model, &mut sequence, &other, 130);
            sequence.truncate(keep);
            sequence.truncate(keep.saturating_sub(2));
            let start = sequence.len();
            let got = read(&mut model, &mut sequence, &tokens[start..], 250);
            assert_bits(&what, &got, &want[start * vocab..]);
        }
    }
}

/// Texts of different lengths side by side; one ends and another begins in what it leaves.
#[test]
fn ragged_batches() {
    for (case, _dir, kv) in
        few(&["llama_plain", "qwen2_layer_types", "llama_dynamic_rope", "deepseek_v2_hub", "qwen3_next_hub"])
    {
        let spool = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let texts: Vec<Vec<u32>> = [1300, 90, 700, 1100]
            .into_iter()
            .enumerate()
            .map(|(i, n)| {
                let mut tokens = text(&case, n);
                tokens.rotate_left(i * 3);
                tokens
            })
            .collect();
        let alone: Vec<Vec<f32>> = texts
            .iter()
            .map(|tokens| {
                let mut model = case.load(&long(kv));
                let mut sequence = model.sequence(tokens.len());
                read(&mut model, &mut sequence, tokens, 600)
            })
            .collect();
        let options = Options { sequences: 3, context: Some(3200), ..on_disk(&long(kv), spool.path()) };
        let mut model = case.load(&options);
        let vocab = model.decoder().vocab_size;
        let mut got: Vec<Vec<f32>> = vec![Vec::new(); texts.len()];
        let mut running: Vec<(usize, Sequence)> = (0..3).map(|i| (i, model.sequence(texts[i].len()))).collect();
        for round in 0.. {
            let mut inputs = Vec::new();
            let mut which = Vec::new();
            for (i, sequence) in &mut running {
                let at = sequence.len();
                let take = (1 + (round * 71 + *i * 113) % 190).min(texts[*i].len() - at);
                which.push((*i, take));
                inputs.push(Input { sequence, tokens: &texts[*i][at..at + take], want: Want::All });
            }
            let mut output = model.forward(&mut inputs).unwrap().logits;
            for (i, take) in which {
                let (own, rest) = output.split_at(take * vocab);
                got[i].extend_from_slice(own);
                output = rest;
            }
            let before = running.len();
            running.retain(|(i, sequence)| sequence.len() < texts[*i].len());
            if running.len() < before && running.iter().all(|(i, _)| *i != 3) && got[3].is_empty() {
                running.push((3, model.sequence(texts[3].len())));
            }
            if running.is_empty() {
                break;
            }
        }
        for (i, (got, want)) in got.iter().zip(&alone).enumerate() {
            assert_bits(&format!("{}, text {i}, {kv:?}", case.name), got, want);
        }
    }
}

/// Gives the pass up after a block.
struct StopAfter(usize, Arc<AtomicBool>);

impl Hooks for StopAfter {
    fn points(&self) -> Points {
        [Point::ResidPost].into_iter().collect()
    }

    fn wants(&self, point: Point, block: Option<usize>) -> bool {
        point == Point::ResidPost && block == Some(self.0)
    }

    fn at(&mut self, _: &Site<'_>, _: &mut [f32]) -> Result<(), Error> {
        self.1.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// A pass that ends in the middle, after some layers have put blocks away, leaves a sequence as it was.
#[test]
fn interrupted_passes() {
    for (case, _dir, kv) in few(&["qwen3_tied", "mistral_window", "deepseek_v2_hub", "qwen3_next_hub", "lfm2_hub"]) {
        let spool = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let tokens = text(&case, 2 * BLOCK + 200);
        let mut model = case.load(&long(kv));
        let mut sequence = model.sequence(tokens.len());
        let want = read(&mut model, &mut sequence, &tokens, 600);
        let hooks = [Point::ResidPost].into_iter().collect();
        let mut model = case.load(&Options { hooks, ..on_disk(&long(kv), spool.path()) });
        let switch = model.cancel_switch();
        let mut sequence = model.sequence(tokens.len());
        let mut got = Vec::new();
        // After the last block a pass is as good as done.
        let last = model.decoder().blocks.len() - 2;
        for piece in [0..500, 500..1020, 1020..1200, 1200..2 * BLOCK + 200] {
            for layer in [0, last, 0] {
                let input = Input { sequence: &mut sequence, tokens: &tokens[piece.clone()], want: Want::All };
                let error = model.forward_hooked(&mut [input], &mut StopAfter(layer, Arc::clone(&switch)));
                assert!(matches!(error, Err(Error::Cancelled)), "{}, {layer}: {:?}", case.name, error.err());
                assert_eq!(sequence.len(), piece.start);
                switch.store(false, Ordering::Relaxed);
            }
            got.extend(read(&mut model, &mut sequence, &tokens[piece], 600));
        }
        assert_bits(&format!("{}, {kv:?}", case.name), &got, &want);
    }
}

/// The file of `dir` that has no name, by way of this process's descriptors.
fn unnamed_file(dir: &Path) -> std::fs::File {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let of_dir = |path: &std::path::PathBuf| std::fs::read_link(path).is_ok_and(|to| to.starts_with(dir));
    let path = entries.into_iter().find(of_dir).expect("a file in the directory");
    std::fs::File::options().read(true).write(true).open(path).unwrap()
}

/// A file that loses its bytes is an error that names it, and what is read again later is right.
#[test]
fn a_file_that_cannot_be_read() {
    for (case, _dir, kv) in few(&["llama_plain"]) {
        let spool = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let tokens = text(&case, 2 * BLOCK + 10);
        let mut model = case.load(&Options { chunk: Some(BLOCK), ..on_disk(&long(kv), spool.path()) });
        let mut sequence = model.sequence(tokens.len());
        model.prefill(&mut sequence, &tokens[..2 * BLOCK]).unwrap();
        let file = unnamed_file(spool.path());
        let len = file.metadata().unwrap().len();
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        file.set_len(0).unwrap();
        // What was read ahead may still be there, for a pass.
        let error = (0..100).find_map(|_| {
            let result =
                model.forward(&mut [Input { sequence: &mut sequence, tokens: &tokens[..1], want: Want::Last }]);
            result.map(drop).err()
        });
        let Some(Error::Store(error)) = error else { panic!("no error but {error:?}") };
        assert_eq!(error.kind(), StoreErrorKind::Shrank);
        assert!(error.to_string().contains(&spool.path().display().to_string()), "{error}");
        file.write_all_at(&bytes, 0).unwrap();
        sequence.truncate(2 * BLOCK);
        let got = model.prefill(&mut sequence, &tokens[2 * BLOCK..]).unwrap().logits.to_vec();
        let mut model = case.load(&long(kv));
        let mut sequence = model.sequence(tokens.len());
        model.prefill(&mut sequence, &tokens[..2 * BLOCK]).unwrap();
        assert_bits("later", &got, model.prefill(&mut sequence, &tokens[2 * BLOCK..]).unwrap().logits);
    }
}

#[test]
fn what_cannot_work_is_refused() {
    let (case, _dir) = stretched(&common::case(common::testdata().join("llama_plain")));
    let spool = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let load = |options: &Options| Model::load(&rheostat::Package::open(&case.dir).unwrap(), options).map(drop);
    let missing = spool.path().join("missing");
    let error = load(&on_disk(&long(KvFormat::F32), &missing)).unwrap_err().to_string();
    assert!(error.contains("missing: there is no such directory"), "{error}");
    // More than any disk holds.
    let vast = Options { context: Some(1 << 45), ..on_disk(&long(KvFormat::F32), spool.path()) };
    let error = load(&vast).unwrap_err();
    assert!(matches!(error, Error::KvDiskRoom { .. }), "{error}");
    assert!(error.to_string().contains("there is room for"), "{error}");
    // Each text keeps its end in memory: no more of them than were planned for.
    let mut model = case.load(&on_disk(&long(KvFormat::F32), spool.path()));
    let (mut first, mut second) = (model.sequence(1), model.sequence(1));
    model.prefill(&mut first, &[1, 2, 3]).unwrap();
    let error = model.prefill(&mut second, &[1, 2, 3]).unwrap_err();
    assert!(matches!(error, Error::TooManySequences { planned: 1 }), "{error}");
    first.truncate(0);
    model.prefill(&mut second, &[1, 2, 3]).unwrap();
    // The context is the model's own unless asked for, where in memory it would be what an eighth of the budget holds.
    let own = Options { context: None, memory: Some(200 << 20), ..on_disk(&long(KvFormat::F32), spool.path()) };
    let plan = case.load(&own).plan().clone();
    assert_eq!(plan.tokens, 4096);
    // The ends of the texts take what they take, however long the context is.
    let kv = |context, sequences, dir: Option<&Path>| {
        let options = Options { context: Some(context), sequences, ..long(KvFormat::F32) };
        case.load(&dir.map_or(options.clone(), |dir| on_disk(&options, dir))).plan().kv_cache
    };
    let (disk, position) = (Some(spool.path()), plan.kv_disk / 4096);
    assert_eq!(kv(1 << 20, 1, disk), kv(1 << 16, 1, disk));
    assert!(kv(1 << 20, 9, disk) - kv(1 << 20, 1, disk) <= 8 * 1024 * position);
    assert!(kv(1 << 20, 1, None) > 20 * kv(1 << 20, 1, disk));
}
