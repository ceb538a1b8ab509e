//! Where only the greatest logit is asked for, most others are not computed, and the text is the same.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use common::{options, wide};
use half::{bf16, f16};
use rheostat::{
    Compute, Input, LogitRows, Model, Options, Package, Progress, Request, Sampling, Speculation, Text, Want, Writer,
    generate,
};
use safetensors::Dtype;
use tempfile::TempDir;

/// Tokens of a text.
const NEW: usize = 100;

/// The reference checkpoint `name` with a vocabulary that is worth a screen.
fn with_many_tokens(name: &str) -> (Package, TempDir) {
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
        let n = shape.iter().product::<usize>();
        *data = match dtype {
            Dtype::F32 => (0..n).flat_map(|_| noise().to_le_bytes()).collect(),
            Dtype::BF16 => (0..n).flat_map(|_| bf16::from_f32(noise()).to_le_bytes()).collect(),
            Dtype::F16 => (0..n).flat_map(|_| f16::from_f32(noise()).to_le_bytes()).collect(),
            other => panic!("{other:?} in {name}"),
        };
    }
    wide::store(dir.path(), &tensors);
    (Package::open(dir.path()).unwrap(), dir)
}

fn load(package: &Package, options: &Options) -> Model {
    Model::load(package, &Options { logits: LogitRows::Last, ..options.clone() }).unwrap()
}

/// What follows `prompt`, token by token, by all logits.
fn by_all(model: &mut Model, prompt: &[u32], new: usize) -> Vec<u32> {
    let mut sequence = model.sequence(prompt.len());
    let mut tokens = prompt.to_vec();
    while tokens.len() < prompt.len() + new {
        let unread = tokens[sequence.len()..].to_vec();
        let logits = model.prefill(&mut sequence, &unread).unwrap().logits;
        tokens.push(argmax(logits));
    }
    tokens
}

/// The place of the greatest, the first among equals.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    best as u32
}

fn greedy(model: &mut Model, prompt: &[u32], new: usize) -> Vec<u32> {
    let request = Request { max_new_tokens: new, eos: vec![], sampling: Sampling::default() };
    let mut text = Text::new(model, model.sequence(prompt.len()), prompt.to_vec(), request).unwrap();
    generate(model, &mut Writer::new(Speculation::Off), &mut text, |_| Progress::Continue).unwrap();
    text.tokens().to_vec()
}

#[test]
fn greedy_texts_are_the_same() {
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
        let (package, _dir) = with_many_tokens(name);
        let prompt = [5, 9, 3, 40, 7];
        let all = Options { compute, ..options() };
        let want = by_all(&mut load(&package, &all), &prompt, NEW);
        let mut model = load(&package, &all);
        let bytes = model.plan().screen;
        assert_eq!(bytes > 0, screens, "{name} in {compute:?}");
        assert_eq!(greedy(&mut model, &prompt, NEW), want, "{name} in {compute:?}");
        let screened = model.profile().overall().screened;
        assert_eq!(screened > 0, screens, "{name} in {compute:?}");
        // The first passes have none yet.
        assert!(screened < NEW as u64 - 50, "{screened} of {NEW} in {name}");
        if !screens {
            continue;
        }
        // Logits of the same model: the greatest has its bits, the others are less.
        let mut sequence = model.sequence(1);
        let mut again = model.sequence(1);
        for token in &want[..20] {
            let input = Input { sequence: &mut again, tokens: &[*token], want: Want::Last };
            let all = model.forward(&mut [input]).unwrap().logits.to_vec();
            let input = Input { sequence: &mut sequence, tokens: &[*token], want: Want::Greatest };
            let some = model.forward(&mut [input]).unwrap().logits;
            let best = argmax(&all);
            assert_eq!(argmax(some), best, "{name}");
            let most = all[best as usize];
            for (some, all) in some.iter().zip(&all) {
                assert!(some.to_bits() == all.to_bits() || *some < most && *all < most, "{name}");
            }
        }
        // Where there is just room for the weights, the model does without.
        let from = model.plan().total() - 4 * bytes;
        let budgets = (0..100).map(|i| Options { memory: Some(from + i * bytes / 4), ..all.clone() });
        let loaded = budgets.filter_map(|options| Model::load(&package, &options).ok());
        let mut model = loaded.into_iter().find(|model| !model.plan().streams()).unwrap();
        assert_eq!(model.plan().screen, 0, "{name}");
        assert_eq!(greedy(&mut model, &prompt, NEW), want, "{name}");
    }
}
