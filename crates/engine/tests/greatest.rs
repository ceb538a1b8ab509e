//! Where only the greatest logits are asked for, most others are not computed, and the text is the same.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use common::{options, wide};
use half::{bf16, f16};
use rheostat::{
    Compute, Input, LogitRows, MemoryPlan, Model, Options, Package, Progress, Request, Sampler, Sampling, Speculation,
    Text, Want, Writer, generate, plan_memory,
};
use safetensors::Dtype;
use tempfile::TempDir;

/// One test at a time: a plan counts what the process has taken.
static ALONE: Mutex<()> = Mutex::new(());

/// Tokens of a text in which a screen is made beside the head, and of one in which it is there from the first on.
const NEW: usize = 100;
const SOME: usize = 25;

/// The reference checkpoint `name` with a vocabulary that is worth a screen; all tokens are `equal`, or none.
fn with_many_tokens(name: &str, equal: bool) -> (Package, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    wide::copy_model(&common::testdata().join(name), dir.path());
    let path = dir.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let few = config["vocab_size"].as_u64().unwrap() as usize;
    let hidden = config["hidden_size"].as_u64().unwrap() as usize;
    let many = (1 << 20) / hidden + 3;
    config["vocab_size"] = many.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let mut tensors = wide::stored(dir.path());
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) % 2001) as f32 / 5000.0 - 0.2
    };
    for (dtype, shape, data) in tensors.values_mut().filter(|(_, shape, _)| shape[0] == few) {
        shape[0] = many;
        let (own, times) = if equal { (hidden, many) } else { (shape.iter().product(), 1) };
        let values = (0..own).map(|_| noise());
        let bytes: Vec<u8> = match dtype {
            Dtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
            Dtype::BF16 => values.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
            Dtype::F16 => values.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
            other => panic!("{other:?} in {name}"),
        };
        *data = bytes.repeat(times);
    }
    wide::store(dir.path(), &tensors);
    (Package::open(dir.path()).unwrap(), dir)
}

fn load(package: &Package, options: &Options) -> Model {
    Model::load(package, &Options { logits: LogitRows::Last, ..options.clone() }).unwrap()
}

/// Ways to choose a token by the greatest logits alone.
fn ways() -> [Sampling; 2] {
    [Sampling::default(), Sampling { temperature: 0.8, top_k: 20, top_p: 0.95, seed: 3, ..Sampling::default() }]
}

/// What follows `prompt`, token by token, by all logits.
fn by_all(model: &mut Model, sampling: &Sampling, prompt: &[u32], new: usize) -> Vec<u32> {
    let mut sequence = model.sequence(prompt.len());
    let mut sampler = Sampler::new();
    let mut tokens = prompt.to_vec();
    while tokens.len() < prompt.len() + new {
        let unread = tokens[sequence.len()..].to_vec();
        let logits = model.prefill(&mut sequence, &unread).unwrap().logits;
        let next = sampler.next(sampling, logits, &tokens).unwrap();
        tokens.push(next);
    }
    tokens
}

fn write(model: &mut Model, sampling: &Sampling, prompt: &[u32], new: usize) -> Vec<u32> {
    let request = Request { max_new_tokens: new, eos: vec![], sampling: sampling.clone() };
    let mut text = Text::new(model, model.sequence(prompt.len()), prompt.to_vec(), request).unwrap();
    generate(model, &mut Writer::new(Speculation::Off), &mut text, |_| Progress::Continue).unwrap();
    text.tokens().to_vec()
}

/// Logits of the same `model`: the `most` greatest have their bits and places, the others are less. All of them are `want`, for the
/// tokens of `text` one by one.
fn check_logits(model: &mut Model, text: &[u32], most: usize, want: &[Vec<f32>], what: &str) {
    let mut sequence = model.sequence(1);
    let mut again = model.sequence(1);
    for (token, want) in text.iter().zip(want) {
        let input = Input { sequence: &mut sequence, tokens: &[*token], want: Want::Top(most) };
        let some = model.forward(&mut [input]).unwrap().logits.to_vec();
        let input = Input { sequence: &mut again, tokens: &[*token], want: Want::Last };
        let all = model.forward(&mut [input]).unwrap().logits;
        assert!(all.iter().zip(want).all(|(a, b)| a.to_bits() == b.to_bits()), "{what}");
        let mut falling = all.to_vec();
        falling.sort_by(|a, b| b.total_cmp(a));
        let least = falling[most - 1];
        for (some, all) in some.iter().zip(all) {
            assert!(some.to_bits() == all.to_bits() || *some < least && *all < least, "{what}");
        }
    }
}

/// All logits of the tokens of `text`, one by one.
fn all_logits(model: &mut Model, text: &[u32]) -> Vec<Vec<f32>> {
    let mut sequence = model.sequence(1);
    let mut read = |token: &u32| model.prefill(&mut sequence, &[*token]).unwrap().logits.to_vec();
    text.iter().map(&mut read).collect()
}

/// Options under which a model whose plan has room for everything has a screen in the place of the head: with as little room for weights as
/// works, and with more, as soon as something else is kept that streamed before.
fn tight(package: &Package, plan: &MemoryPlan, options: &Options) -> Vec<(Options, MemoryPlan)> {
    let all = plan.pinned + plan.experts;
    let rooms = (0..200).map(|i| Options { weights: Some(i * all / 200), logits: LogitRows::Top, ..options.clone() });
    let planned = rooms.filter_map(|options| Some((plan_memory(package, &options).ok()?, options)));
    let mut tight: Vec<_> =
        planned.filter(|(plan, _)| plan.seldom > 0).map(|(plan, options)| (options, plan)).collect();
    tight.dedup_by_key(|(_, plan)| what_streams(plan));
    tight
}

/// Whether weights of every sweep stream, and whether experts do.
fn what_streams(plan: &MemoryPlan) -> (bool, bool) {
    (plan.streamed > 0, !plan.experts_fit)
}

#[test]
fn texts_are_the_same() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut kinds = BTreeSet::new();
    for (name, compute, screens) in [
        ("llama_plain", Compute::F32, true),
        ("qwen3_tied", Compute::F32, true),
        ("qwen3_moe_hub", Compute::F32, true),
        ("quant_qwen3_int8", Compute::Int8, true),
        // Their logits are not the products themselves, or those are in other numbers.
        ("phi_hub", Compute::F32, false),
        ("gemma2_hub", Compute::F32, false),
        ("granite_hub", Compute::F32, false),
        ("llama_plain", Compute::Bf16, false),
    ] {
        let (package, _dir) = with_many_tokens(name, false);
        let prompt = [5, 9, 3, 40, 7];
        let all = Options { compute, ..options() };
        let plan = load(&package, &all).plan().clone();
        assert_eq!(plan.screen > 0, screens, "{name} in {compute:?}");
        let tight = if screens { tight(&package, &plan, &all) } else { Vec::new() };
        let new = if screens { NEW } else { SOME };
        for sampling in ways() {
            let most = sampling.top_k.max(1);
            let what = format!("{name} in {compute:?}, the {most} greatest");
            let mut model = load(&package, &all);
            let want = by_all(&mut model, &sampling, &prompt, new);
            let logits = all_logits(&mut model, &want[..20]);
            let mut model = load(&package, &all);
            assert_eq!(write(&mut model, &sampling, &prompt, new), want, "{what}");
            let screened = model.profile().overall().screened;
            assert_eq!(screened > 0, screens, "{what}");
            check_logits(&mut model, &want, most, &logits, &what);
            if !screens {
                continue;
            }
            // The first passes have none yet.
            assert!(screened < NEW as u64 - 50, "{screened} of {NEW}, {what}");
            // Where weights would stream otherwise, it takes the head's place.
            for (options, planned) in &tight {
                let what = format!("{what}, {} of {} bytes stream", planned.streamed, planned.weights);
                let mut model = Model::load(&package, options).unwrap();
                assert_eq!(model.plan().seldom, model.head_bytes(), "{what}");
                assert_eq!(write(&mut model, &sampling, &prompt, SOME), want[..prompt.len() + SOME], "{what}");
                let screened = model.profile().overall().screened;
                assert!(screened > SOME as u64 / 2, "{screened} of {SOME}, {what}");
                // Less than half of the heads.
                let most_read = planned.first_sweep() + (planned.streamed + planned.seldom / 2) * SOME as u64;
                let read = model.reading().bytes;
                assert!(!planned.experts_fit || read < most_read, "{read} bytes, {what}");
                check_logits(&mut model, &want, most, &logits, &what);
                kinds.insert(what_streams(planned));
            }
            // Where there is just room for the weights, and all logits are as likely to be asked for, the model does without.
            // What the process takes by now is part of a plan.
            let from = plan_memory(&package, &all).unwrap().total() - 4 * plan.screen;
            let budgets = (0..100).map(|i| Options { memory: Some(from + i * plan.screen / 4), ..all.clone() });
            let loaded = budgets.filter_map(|options| Model::load(&package, &options).ok());
            let mut without = loaded.into_iter().filter(|model| !model.plan().streams() && model.plan().screen == 0);
            let mut model = without.next().expect(&what);
            assert_eq!(model.plan().seldom, 0, "{what}");
            assert_eq!(write(&mut model, &sampling, &prompt, NEW), want, "{what}");
        }
    }
    assert_eq!(kinds.len(), 3, "weights of every sweep stream, or experts, too, or neither: {kinds:?}");
}

/// A screen that cannot tell leaves all logits to compute, wherever the head is.
#[test]
fn equal_tokens() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for name in ["llama_plain", "qwen3_tied"] {
        let (package, _dir) = with_many_tokens(name, true);
        let prompt = [5, 9, 3, 40, 7];
        let all = options();
        for sampling in ways() {
            let mut model = load(&package, &all);
            let plan = model.plan().clone();
            let want = by_all(&mut model, &sampling, &prompt, NEW);
            assert_eq!(write(&mut model, &sampling, &prompt, NEW), want, "{name}");
            assert_eq!(model.profile().overall().screened, 0, "{name}");
            for (options, planned) in tight(&package, &plan, &all) {
                let mut model = Model::load(&package, &options).unwrap();
                let text = write(&mut model, &sampling, &prompt, SOME);
                assert_eq!(text, want[..prompt.len() + SOME], "{name}, {} bytes stream", planned.streamed);
                assert_eq!(model.profile().overall().screened, 0, "{name}");
            }
        }
    }
}
