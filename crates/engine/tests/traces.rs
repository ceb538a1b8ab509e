//! Every hook point is transformers' own tensor: traces recorded there (`testdata/traces`), for every family.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop, and says what it found")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

use common::{options, testdata};
use rheostat::hooks::{Capture, Hooks, Positions, TraceInfo, catalog};
use rheostat::{Compute, Input, LogitRows, Model, Options, Package, Want};
use serde_json::Value;

/// The largest difference that is allowed at any point.
const BAR: f32 = 1e-4;

/// Tensors of a safetensors file by name: shape and values.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn tensors(bytes: &[u8]) -> Tensors {
    let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let all = file.tensors().into_iter().map(|(name, tensor)| {
        let words = tensor.data().chunks_exact(4).map(|b| b.try_into().unwrap());
        let values = match tensor.dtype() {
            safetensors::Dtype::F32 => words.map(f32::from_le_bytes).collect(),
            safetensors::Dtype::I32 => words.map(|b| i32::from_le_bytes(b) as f32).collect(),
            other => panic!("{other:?} in a trace"),
        };
        (name, (tensor.shape().to_vec(), values))
    });
    all.collect()
}

/// What our engine has at every point.
fn ours(model: &mut Model, tokens: &[u32], positions: Positions, chunk: usize) -> Tensors {
    let points = catalog(model.decoder());
    let mut capture = Capture::new(points, positions, tokens.len(), Cursor::new(Vec::new()));
    let mut sequence = model.sequence(tokens.len());
    for tokens in tokens.chunks(chunk) {
        let input = Input { sequence: &mut sequence, tokens, want: Want::All };
        model.forward_hooked(&mut [input], &mut capture).unwrap();
    }
    let info = TraceInfo {
        model: "model".to_owned(),
        model_type: model.decoder().family.to_owned(),
        compute: Compute::F32,
        tokens: tokens.to_vec(),
        prompt_len: tokens.len(),
        weights: None,
    };
    let mut file = Vec::new();
    capture.finish(&info, &mut file).unwrap();
    tensors(&file)
}

#[test]
fn every_point_is_transformers_own() {
    let index = std::fs::read(testdata().join("traces/index.json")).unwrap();
    let index: Vec<Value> = serde_json::from_slice(&index).unwrap();
    let mut families = BTreeSet::new();
    let healthy = |entry: &&Value| entry["fault"].is_null() && entry["dtype"] == "float32";
    for entry in index.iter().filter(healthy) {
        let checkpoint = entry["checkpoint"].as_str().unwrap();
        let tokens: Vec<u32> = entry["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
        let bytes = std::fs::read(testdata().join("traces").join(entry["trace"].as_str().unwrap())).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().as_ref().unwrap();
        let missing = metadata.get("missing").cloned().unwrap_or("{}".to_owned());
        let positions = metadata["positions"].trim_matches(['[', ']']).replace(' ', "").parse().unwrap();
        let missing: BTreeMap<String, String> = serde_json::from_str(&missing).unwrap();
        let theirs = tensors(&bytes);
        let package = Package::open(&testdata().join(checkpoint)).unwrap();
        let hooks = rheostat::hooks::points_of(&package.describe().unwrap());
        let mut model = Model::load(&package, &Options { hooks, logits: LogitRows::All, ..options() }).unwrap();
        let ours = ours(&mut model, &tokens, positions, 4);
        let mut worst = (0.0f32, "");
        for (name, (shape, values)) in &ours {
            let Some((their_shape, theirs)) = theirs.get(name) else {
                assert!(missing.contains_key(name), "{checkpoint}: transformers' trace has no {name}, and no reason");
                continue;
            };
            assert_eq!(shape, their_shape, "{checkpoint}: {name}");
            for (a, b) in values.iter().zip(theirs) {
                let difference = if a == b { 0.0 } else { (a - b).abs() };
                assert!(difference <= BAR, "{checkpoint}: {name}: {a} for {b}");
                if difference > worst.0 {
                    worst = (difference, name);
                }
            }
        }
        let unknown: Vec<_> = theirs.keys().filter(|name| !ours.contains_key(*name)).collect();
        assert!(unknown.is_empty(), "{checkpoint}: transformers' trace has more: {unknown:?}");
        println!("{checkpoint:30} {:3} points, largest difference {:.1e} at {}", ours.len(), worst.0, worst.1);
        families.insert(model.decoder().family);
    }
    assert!(families.len() >= 44, "only {} families: {families:?}", families.len());
}

/// Whoever looks on need not hold the whole of what is captured.
#[test]
fn captured_positions_are_those_that_were_asked_for() {
    let package = Package::embedded().unwrap();
    let decoder = package.describe().unwrap();
    let points = rheostat::hooks::matching(&decoder, "blocks.*.hook_resid_post").unwrap();
    let mut capture = Capture::new(points.clone(), "1,-1".parse().unwrap(), 5, Cursor::new(Vec::new()));
    let options = Options { hooks: capture.points(), ..options() };
    let mut model = Model::load(&package, &options).unwrap();
    let mut sequence = model.sequence(5);
    model.prefill_hooked(&mut sequence, &[5, 6, 7, 8, 9], &mut capture).unwrap();
    model.prefill_hooked(&mut sequence, &[5], &mut capture).unwrap();
    let info = TraceInfo {
        model: "model".to_owned(),
        model_type: decoder.family.to_owned(),
        compute: Compute::F32,
        tokens: vec![5, 6, 7, 8, 9, 5],
        prompt_len: 5,
        weights: Some([("a".to_owned(), "0".to_owned())].into()),
    };
    let mut file = Vec::new();
    let written = capture.finish(&info, &mut file).unwrap();
    assert_eq!(written.len(), points.len());
    let (_, header) = safetensors::SafeTensors::read_metadata(&file).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    assert_eq!(metadata["positions"], "[1,4]");
    assert_eq!(metadata["weights"], "{\"a\":\"0\"}");
    assert!(tensors(&file).values().all(|(shape, _)| shape == &[2, decoder.hidden_size]));
}
