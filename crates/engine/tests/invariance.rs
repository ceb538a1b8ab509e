//! The numeric contract from outside: whatever the threads, the instruction set, the chunks, the batch, the
//! residency or the format of the weights, the logits are the same bits.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop")]

mod common;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, OnceLock};

use common::{Case, assert_bits, at_least, cases, cases_and_modes, logits, modes, options};
use rheostat::decoder::{Layout, Linear, Mixer, Packing, Storage, Zeros};
use rheostat::{Compute, Input, Io, Isa, KvFormat, Model, Options, Package, Want, Way};

/// Prompts and their logits.
type Baseline = Arc<Vec<(Vec<u32>, Vec<f32>)>>;

/// The prompts of a case and their logits with one thread, on the portable path, all at once, all resident. Computed once for all tests.
fn baseline(case: &Case, mode: &Options) -> Baseline {
    static KNOWN: OnceLock<Mutex<HashMap<String, Arc<OnceLock<Baseline>>>>> = OnceLock::new();
    let key = format!("{} {:?} {:?}", case.name, mode.compute, mode.kv);
    let known = Arc::clone(KNOWN.get_or_init(Mutex::default).lock().unwrap().entry(key).or_default());
    let compute = || {
        let mut model = case.load(&Options { isa: Isa::by_name("portable"), ..mode.clone() });
        let read = |(_, tokens): (String, Vec<u32>)| {
            let logits = logits(&mut model, &tokens, usize::MAX);
            (tokens, logits)
        };
        Arc::new(case.prompts().into_iter().map(read).collect())
    };
    Arc::clone(known.get_or_init(compute))
}

/// Turns that a case's modes, five or six, begin elsewhere than those of the case before: so each mode meets every way of which a turn takes one.
fn stagger(turn: usize) -> usize {
    turn + turn / 5
}

fn check(case: &Case, what: &str, options: &Options, chunk: usize, baseline: &[(Vec<u32>, Vec<f32>)]) {
    let mut model = case.load(options);
    let what = format!("{what}, {:?} and a cache of {:?}", options.compute, options.kv);
    for (tokens, want) in baseline {
        let what = format!("{} ({what}), {} tokens", case.name, tokens.len());
        assert_bits(&what, &logits(&mut model, tokens, chunk), want);
    }
}

/// Bytes of the checkpoint's matrices: what is in memory when everything is.
fn weight_bytes(case: &Case) -> u64 {
    let model = case.load(&options());
    model.plan().pinned + model.plan().experts
}

#[test]
fn threads_instruction_sets_and_chunks() {
    for (turn, (case, mode)) in cases_and_modes().enumerate() {
        let baseline = baseline(&case, &mode);
        let turn = stagger(turn);
        for (i, isa) in Isa::available().into_iter().enumerate() {
            // In turns: with so many cases and modes, each instruction set meets them with one thread and with two.
            let threads = 1 + (turn + i) % 2;
            let options = Options { isa: Some(isa), threads: NonZeroUsize::new(threads), ..mode.clone() };
            let what = format!("{}, {threads} threads", isa.name());
            check(&case, &what, &options, usize::MAX, &baseline);
        }
        let chunk = [1, 3, 16][turn % 3];
        check(&case, &format!("chunks of {chunk}"), &mode, chunk, &baseline);
    }
}

/// Whether a matrix of it cannot be cut by single rows.
fn takes_wholes(case: &Case) -> bool {
    let decoder = Package::open(&case.dir).unwrap().describe().unwrap();
    // Blocks of rows, and words of zero points, are taken together.
    let plain =
        |l: &Linear| matches!(l.storage, Storage::Float | Storage::Packed(Packing { zeros: Zeros::Absent, .. }));
    let whole = |l: &Linear| l.layout == Layout::InOut || !plain(l);
    decoder.blocks.iter().any(|b| matches!(b.mixer, Mixer::Latent(_)) || b.linears().any(whole))
}

#[test]
fn residency() {
    let mut tried = 0;
    for (turn, (case, mode)) in cases_and_modes().enumerate() {
        let baseline = baseline(&case, &mode);
        let all = weight_bytes(&case);
        // Sizes of a tile range from single rows to whole matrices. In turns: with so many cases and modes, each budget and
        // each way of reading meets every family and every mode.
        let budgets = [(all * 3 / 4, 1000), (all / 2, 3000), (all / 4, 1), (12_000, 2000), (4000, 1)];
        let turn = stagger(turn);
        for (weights, tile) in [budgets[turn % 5], budgets[(turn + 2) % 5]] {
            let options = at_least(&case, &Options { weights: Some(weights), tile: Some(tile), ..mode.clone() });
            let model = case.load(&options);
            if takes_wholes(&case) && !model.plan().streams() {
                // The least that works is all of it.
                continue;
            }
            tried += 1;
            assert!(model.plan().streams(), "{}: {weights} bytes for weights stream something", case.name);
            drop(model);
            check(&case, &format!("{weights} bytes in memory"), &options, 16, &baseline);
        }
        // Whole pages, past the page cache: there is room for little more than what is around two tiles.
        let ways = [(Io::Uring, Way::Uring), (Io::Direct, Way::Direct), (Io::Buffered, Way::Buffered)];
        let (io, way) = ways[turn % 3];
        let weights = [50_000, 2 * all + (1 << 20)][turn / 3 % 2];
        let options = at_least(&case, &Options { weights: Some(weights), tile: Some(2000), io, ..mode.clone() });
        match Model::load(&Package::open(&case.dir).unwrap(), &options) {
            Ok(model) => {
                assert_eq!(model.reading_way(), way);
                drop(model);
                check(&case, &format!("{io:?}, {weights} bytes in memory"), &options, 16, &baseline);
            }
            // In some containers, and on some file systems.
            Err(rheostat::Error::Store(e)) if e.kind() == rheostat::StoreErrorKind::IoRefused => {
                println!("not tried: {e}");
            }
            Err(error) => panic!("{}: {error}", case.name),
        }
        // The smallest budget: nothing is pinned.
        let Err(rheostat::Error::BudgetTooSmall { .. }) = Model::load(
            &Package::open(&case.dir).unwrap(),
            &Options { weights: Some(0), tile: Some(1), ..mode.clone() },
        ) else {
            panic!("{}: a budget of nothing works", case.name)
        };
    }
    assert!(tried > 1000, "only {tried} residencies");
}

/// The reduced modes round, and do no more: their logits stay near those in f32.
#[test]
fn reduced_modes_stay_near() {
    let rms = |v: &mut dyn Iterator<Item = f32>| {
        let (sum, n) = v.fold((0.0f64, 0usize), |(sum, n), x| (sum + f64::from(x).powi(2), n + 1));
        (sum / n as f64).sqrt()
    };
    let mut integers = 0;
    for (case, mode) in cases_and_modes() {
        if mode.compute == Compute::F32 {
            continue;
        }
        integers += usize::from(mode.compute == Compute::Int8);
        // A product in integers is off by about 0.6 % (a block of 32 normal numbers reaches 2.2 standard deviations, and
        // a step is a 127th of that), one in bf16 by 0.25 %; the errors of the 14 to 30 products of a case add up as
        // their roots do, and those of early ones grow in later layers. Rows that go to other experts, and states, hand more
        // of it on to later rows.
        let model = case.load(&mode);
        let vocab = model.decoder().vocab_size;
        let bar = match mode.compute {
            Compute::Int8 => 0.05,
            // A head of their rule gives next to nothing in some rows, which its norm enlarges (see `references.rs`).
            _ if ["qwen3_5_wrapper", "qwen3_next_hub"].contains(&case.name.as_str()) => 0.25,
            _ if model.decoder().has_experts() || model.decoder().has_state() => 0.06,
            _ => 0.02,
        };
        let exact = baseline(&case, &Options { compute: Compute::F32, ..mode.clone() });
        for ((_, got), (_, want)) in baseline(&case, &mode).iter().zip(exact.iter()) {
            let error = |(got, want): (&[f32], &[f32])| {
                rms(&mut got.iter().zip(want).map(|(g, w)| g - w)) / rms(&mut want.iter().copied())
            };
            // Of rows, the middle one: where two experts are nearly equal, rounding decides between them.
            let mut errors: Vec<f64> = got.chunks(vocab).zip(want.chunks(vocab)).map(error).collect();
            errors.sort_by(f64::total_cmp);
            let error = errors[errors.len() / 2];
            assert!(error > 0.0, "{} in {:?}: nothing was rounded", case.name, mode.compute);
            assert!(error < bar, "{} in {:?}: off by {error} of the logits", case.name, mode.compute);
        }
    }
    assert!(integers >= 4, "only {integers} references have packed weights");
}

/// All prompts of a case advance together, in passes of uneven sizes; some sequences join late, some end early.
#[test]
fn ragged_batches() {
    for (turn, (case, mode)) in cases_and_modes().enumerate() {
        let baseline = baseline(&case, &mode);
        let many = Options { sequences: 8, context: Some(2000), ..mode };
        let mut model = if stagger(turn).is_multiple_of(2) {
            case.load(&many)
        } else {
            let weights = Some(weight_bytes(&case) / 2);
            let half = Options { weights, tile: Some(1000), threads: NonZeroUsize::new(2), ..many };
            case.load(&at_least(&case, &half))
        };
        // Every prompt twice, so that a batch has at least two sequences.
        let prompts: Vec<_> = baseline.iter().chain(baseline.iter()).collect();
        let mut sequences: Vec<_> = prompts.iter().map(|(t, _)| model.sequence(t.len())).collect();
        let mut got: Vec<Vec<f32>> = vec![Vec::new(); prompts.len()];
        let vocab = model.decoder().vocab_size;
        for round in 0.. {
            let mut inputs = Vec::new();
            let mut which = Vec::new();
            for (i, (sequence, (tokens, _))) in sequences.iter_mut().zip(&prompts).enumerate() {
                let at = sequence.len();
                let take = (1 + (round * 5 + i * 3) % 13).min(tokens.len() - at);
                if round >= i && take > 0 {
                    which.push((i, take));
                    inputs.push(Input { sequence, tokens: &tokens[at..at + take], want: Want::All });
                }
            }
            if inputs.is_empty() && round > prompts.len() {
                break;
            }
            if inputs.is_empty() {
                continue;
            }
            let mut output = model.forward(&mut inputs).unwrap().logits;
            for (i, take) in which {
                let (own, rest) = output.split_at(take * vocab);
                got[i].extend_from_slice(own);
                output = rest;
            }
        }
        for (got, (tokens, want)) in got.iter().zip(prompts) {
            assert_bits(&format!("{}, {} tokens in a batch", case.name, tokens.len()), got, want);
        }
    }
}

#[test]
fn a_sequence_rolled_back_and_refilled() {
    for case in cases() {
        let baseline = baseline(&case, &options());
        let mut model = case.load(&options());
        let vocab = model.decoder().vocab_size;
        let (tokens, want) = baseline.iter().max_by_key(|(t, _)| t.len()).unwrap();
        let mut sequence = model.sequence(tokens.len());
        for keep in [tokens.len() / 2, 1, 0, tokens.len() - 1] {
            sequence.truncate(keep);
            // What is rolled back to was read before, or is read now.
            let start = sequence.len();
            let rest = &tokens[start..keep.max(start)];
            if !rest.is_empty() {
                model.forward(&mut [Input { sequence: &mut sequence, tokens: rest, want: Want::Nothing }]).unwrap();
            }
            // Another text first, then back, then the real one.
            let other: Vec<u32> = tokens[keep..].iter().map(|t| (t + 1) % vocab as u32).collect();
            model.forward(&mut [Input { sequence: &mut sequence, tokens: &other, want: Want::Nothing }]).unwrap();
            sequence.truncate(keep);
            let input = Input { sequence: &mut sequence, tokens: &tokens[keep..], want: Want::All };
            let output = model.forward(&mut [input]).unwrap();
            assert_bits(&format!("{} from {keep} on", case.name), output.logits, &want[keep * vocab..]);
        }
    }
}

/// Logits asked for one row only are those of that row among all.
#[test]
fn wanting_less_changes_nothing() {
    for case in cases() {
        let baseline = baseline(&case, &options());
        let mut model = case.load(&options());
        let vocab = model.decoder().vocab_size;
        for (tokens, want) in baseline.iter() {
            let mut sequence = model.sequence(tokens.len());
            let output = model.prefill(&mut sequence, tokens).unwrap();
            assert_bits(&case.name, output.logits, &want[want.len() - vocab..]);
        }
    }
}

/// The same values stored as f32, and as bf16, f16 or packed integers with scales, give the same bits.
#[test]
fn storage_formats() {
    use safetensors::Dtype;
    use safetensors::tensor::{SafeTensors, TensorView};
    let (mut narrow, mut packed) = (0, 0);
    for case in cases() {
        let file = case.dir.join("model.safetensors");
        let Ok(bytes) = std::fs::read(&file) else { continue };
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        if tensors.tensors().iter().all(|(_, t)| t.dtype() == Dtype::F32) {
            continue;
        }
        narrow += 1;
        let package = Package::open(&case.dir).unwrap();
        let checkpoint = package.checkpoint();
        // Other quantised forms are held against their libraries in `quantised.rs`.
        let config = package.config().get("quantization_config");
        if config.is_some_and(|config| config["format"] != "pack-quantized")
            || has(checkpoint, "_zero_point")
            || has(checkpoint, "_g_idx")
        {
            continue;
        }
        let mut wide: HashMap<String, (Vec<usize>, Vec<u8>)> = HashMap::new();
        for t in checkpoint.tensors() {
            let (name, shape, values) = if let Some(module) = t.name().strip_suffix(".weight_packed") {
                let (shape, values) = unpack(checkpoint, module);
                packed += 1;
                (format!("{module}.weight"), shape, values)
            } else if t.name().ends_with(".weight_scale")
                || t.name().ends_with(".weight_shape")
                || checkpoint.require_floats(t).is_err()
            {
                continue;
            } else {
                (t.name().to_owned(), t.shape().to_vec(), checkpoint.read_tensor_f32(t).unwrap())
            };
            wide.insert(name, (shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
        }
        let views: HashMap<&String, TensorView<'_>> = wide
            .iter()
            .map(|(name, (shape, data))| (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()))
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let config = std::fs::read(case.dir.join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        config.as_object_mut().unwrap().remove("quantization_config");
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        std::fs::write(dir.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        for mode in modes() {
            let mut model = Model::load(&Package::open(dir.path()).unwrap(), &mode).unwrap();
            for (tokens, want) in baseline(&case, &mode).iter() {
                assert_bits(&format!("{} in f32", case.name), &logits(&mut model, tokens, usize::MAX), want);
            }
        }
    }
    assert!(packed > 20, "only {packed} packed matrices");
    assert!(narrow >= 5, "only {narrow} references in bf16 or f16");
}

/// Whether a tensor's name ends so.
fn has(checkpoint: &rheostat::Checkpoint, end: &str) -> bool {
    checkpoint.tensors().iter().any(|t| t.name().ends_with(end))
}

/// Shape and values of the packed weight of `module`, by the definition of the form.
fn unpack(checkpoint: &rheostat::Checkpoint, module: &str) -> (Vec<usize>, Vec<f32>) {
    let tensor = |part: &str| checkpoint.tensor(&format!("{module}.weight_{part}")).unwrap();
    let ints = checkpoint.read_tensor(tensor("shape")).unwrap();
    let shape: Vec<usize> = ints.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as usize).collect();
    let scales = checkpoint.read_tensor_f32(tensor("scale")).unwrap();
    let packed = checkpoint.read_tensor(tensor("packed")).unwrap();
    let words: Vec<u32> = packed.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    let (rows, cols) = (shape[0], shape[1]);
    let (row_words, groups) = (words.len() / rows, scales.len() / rows);
    let per_word = if row_words == cols.div_ceil(8) { 8 } else { 4 };
    let bits = 32 / per_word;
    let values = (0..rows * cols).map(|i| {
        let (r, k) = (i / cols, i % cols);
        let stored = words[r * row_words + k / per_word] >> (bits * (k % per_word)) & ((1 << bits) - 1);
        (stored as i32 - (1 << (bits - 1))) as f32 * scales[r * groups + k / (cols / groups)]
    });
    (shape.clone(), values.collect())
}

#[test]
fn integers_without_packed_weights_are_refused() {
    let case = common::case(common::testdata().join("qwen3_tied"));
    let options = Options { compute: Compute::Int8, ..options() };
    let refused = Model::load(&Package::open(&case.dir).unwrap(), &options);
    assert!(matches!(refused, Err(rheostat::Error::NothingPacked)));
}

/// A product with more inputs than the order of the matrix unit is defined for; f32 takes them.
#[test]
fn rows_too_long_for_tiles_are_refused() {
    use safetensors::Dtype;
    let case = common::case(common::testdata().join("qwen3_tied"));
    let dir = tempfile::tempdir().unwrap();
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(case.dir.join("config.json")).unwrap()).unwrap();
    let (hidden, inner) = (config["hidden_size"].as_u64().unwrap() as usize, (1 << 18) + 1);
    config["num_hidden_layers"] = 1.into();
    config["intermediate_size"] = inner.into();
    config.as_object_mut().unwrap().remove("layer_types");
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let mut tensors = common::wide::stored(&case.dir);
    tensors.retain(|name, _| !name.starts_with("model.layers.") || name.starts_with("model.layers.0."));
    for (part, shape) in [("gate", [inner, hidden]), ("up", [inner, hidden]), ("down", [hidden, inner])] {
        let zeros = vec![0; shape.iter().product::<usize>() * 2];
        tensors.insert(format!("model.layers.0.mlp.{part}_proj.weight"), (Dtype::BF16, shape.to_vec(), zeros));
    }
    common::wide::store(dir.path(), &tensors);
    let package = Package::open(dir.path()).unwrap();
    let refused = Model::load(&package, &Options { compute: Compute::Amx, ..options() });
    assert!(matches!(refused, Err(rheostat::Error::RowsTooLong { cols }) if cols == inner));
    assert!(logits(&mut Model::load(&package, &options()).unwrap(), &[1, 2], 2).iter().all(|x| x.is_finite()));
}

/// What one sequence gives back, another may take; and what it reads then has the same bits.
#[test]
fn rolled_back_memory_is_free_again() {
    let case = common::case(common::testdata().join("text_qwen3"));
    let tokens: Vec<u32> = (0..256).map(|i| i % 50).collect();
    for kv in [KvFormat::F32, KvFormat::Bf16] {
        let mut model = case.load(&Options { context: Some(256), sequences: 2, kv, ..options() });
        let (mut first, mut second) = (model.sequence(256), model.sequence(256));
        let want = model.prefill(&mut first, &tokens).unwrap().logits.to_vec();
        let error = model.prefill(&mut second, &tokens).unwrap_err();
        assert!(matches!(error, rheostat::Error::CacheFull { .. }), "{error}");
        second.truncate(0);
        first.truncate(100);
        assert_bits("the other", model.prefill(&mut second, &tokens).unwrap().logits, &want);
        second.truncate(3);
        assert_bits("the same", model.prefill(&mut first, &tokens[100..]).unwrap().logits, &want);
    }
}

/// A block that a prompt will fill takes its memory as a whole, and a text takes no more than it needs in the end; the bits are the same.
#[test]
fn blocks_that_will_be_full() {
    let (case, _dir) = common::stretched(&common::case(common::testdata().join("text_qwen3")));
    let tokens: Vec<u32> = (0..1100).map(|i| i % 50).collect();
    for kv in [KvFormat::F32, KvFormat::Bf16] {
        let mut model = case.load(&Options { context: Some(1152), chunk: Some(100), kv, ..options() });
        let mut unforeseen = model.sequence(1);
        let want = model.prefill(&mut unforeseen, &tokens).unwrap().logits.to_vec();
        let mut foreseen = model.sequence(tokens.len());
        let full = model.prefill(&mut foreseen, &tokens[..1]).unwrap_err();
        assert!(matches!(full, rheostat::Error::CacheFull { .. }), "{full}");
        // 640 positions are left to others: 512 of the 1152 are spoken for as soon as the first token is read.
        unforeseen.truncate(640);
        foreseen.truncate(0);
        model.prefill(&mut foreseen, &tokens[..1]).unwrap();
        let mut third = model.sequence(1);
        let full = model.prefill(&mut third, &[1]).unwrap_err();
        assert!(matches!(full, rheostat::Error::CacheFull { planned: 1152, .. }), "{full}");
        // All of a text that was foreseen fits a cache of its length, after a step back into a full block, too.
        unforeseen.truncate(0);
        assert_bits("foreseen", model.prefill(&mut foreseen, &tokens[1..]).unwrap().logits, &want);
        foreseen.truncate(300);
        assert_bits("again", model.prefill(&mut foreseen, &tokens[300..]).unwrap().logits, &want);
    }
}

/// A pass that cannot be made says why, and leaves everything as it was.
#[test]
fn passes_that_are_refused() {
    let case = common::case(common::testdata().join("qwen3_tied"));
    let mut model = case.load(&Options { context: Some(128), chunk: Some(8), ..options() });
    let vocab = model.decoder().vocab_size as u32;
    let baseline = baseline(&case, &options());
    let (tokens, want) = &baseline[0];
    let mut other = case.load(&options()).sequence(1);
    let mut sequence = model.sequence(1);
    let many = vec![1; 9];
    let long = vec![1; 1 << 16];
    for (tokens, expected) in [
        (&[][..], "the prompt is empty"),
        (&[1, vocab], "is out of range"),
        (&many, "9 rows in one pass, but memory was planned for 8"),
    ] {
        let input = Input { sequence: &mut sequence, tokens, want: Want::Last };
        let error = model.forward(&mut [input]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(sequence.is_empty());
    }
    let error = model.forward(&mut [Input { sequence: &mut other, tokens: &[1], want: Want::Last }]).unwrap_err();
    assert!(matches!(error, rheostat::Error::ForeignSequence), "{error}");
    let error = model.prefill(&mut sequence, &long).unwrap_err();
    assert!(matches!(error, rheostat::Error::ContextExceeded { tokens: 65_536, .. }), "{error}");
    let error = model.prefill(&mut sequence, &many.repeat(15)).unwrap_err();
    assert!(matches!(error, rheostat::Error::CacheFull { planned: 128, .. }), "{error}");
    // What was taken by the refused sequence is free again, and the model computes what it always does.
    sequence.truncate(0);
    assert_bits("after all this", &logits(&mut model, tokens, 8), want);
    model.cancel_switch().store(true, std::sync::atomic::Ordering::Relaxed);
    let error = model.prefill(&mut sequence, &[1]).unwrap_err();
    assert!(matches!(error, rheostat::Error::Cancelled), "{error}");
    model.cancel_switch().store(false, std::sync::atomic::Ordering::Relaxed);
    assert_bits("after an interruption", &logits(&mut model, tokens, 8), want);
}
