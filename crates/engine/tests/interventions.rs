//! Changed values have the effect that they have in transformers (`testdata/interventions.json`; the form is in `tools/interventions.py`).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop, and says what it found")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{assert_bits, options, testdata};
use rheostat::hooks::{Change, During, Edit, Edits, Hooks, Positions, Values, matching};
use rheostat::{Input, LogitRows, Model, Options, Package, Want};
use serde_json::Value;

/// The largest difference of logits that is allowed.
const BAR: f32 = 1e-4;

fn numbers(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
}

fn positions(rows: &[usize]) -> Positions {
    let rows: Vec<String> = rows.iter().map(ToString::to_string).collect();
    rows.join(",").parse().unwrap()
}

/// One change of an entry; a mask is one for each row.
fn edits(change: &Value, package: &Package, vectors: &BTreeMap<String, Vec<f32>>) -> Vec<Edit> {
    let point = matching(&package.describe().unwrap(), change["point"].as_str().unwrap()).unwrap().swap_remove(0);
    let vector = || Values::Same(vectors[change["vector"].as_str().unwrap()].clone());
    let factor = || change["scale"].as_f64().unwrap() as f32;
    let edit = |positions: Positions, change_to: Change| Edit {
        places: vec![(point.point, point.block, change_to)],
        heads: change.get("head").map(|head| vec![head.as_u64().unwrap() as usize]),
        positions,
        during: During::Both,
    };
    let at = match change.get("positions") {
        Some(Value::Array(_)) => positions(&numbers(&change["positions"])),
        _ => Positions::all(),
    };
    match change["op"].as_str().unwrap() {
        "add" => vec![edit(at, Change::Add(vector(), factor()))],
        "set" => vec![edit(at, Change::Replace(vector()))],
        "scale" => vec![edit(at, Change::Scale(factor()))],
        "zero" => vec![edit(at, Change::Zero)],
        "mask" => {
            let edges = change["edges"].as_array().unwrap().iter().map(numbers);
            edges.map(|e| edit(positions(&e[..1]), Change::Knockout(positions(&e[1..])))).collect()
        }
        other => panic!("{other}"),
    }
}

fn read(model: &mut Model, tokens: &[u32], chunk: usize, hooks: &mut dyn Hooks) -> Vec<f32> {
    let mut sequence = model.sequence(tokens.len());
    let mut logits = Vec::new();
    for tokens in tokens.chunks(chunk) {
        let input = Input { sequence: &mut sequence, tokens, want: Want::All };
        logits.extend_from_slice(model.forward_hooked(&mut [input], hooks).unwrap().logits);
    }
    logits
}

#[test]
fn interventions_do_what_they_do_in_transformers() {
    let entries: Vec<Value> =
        serde_json::from_slice(&std::fs::read(testdata().join("interventions.json")).unwrap()).unwrap();
    let bytes = std::fs::read(testdata().join("interventions.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let vectors: BTreeMap<String, Vec<f32>> = file.tensors().into_iter().map(|(n, t)| (n, values(t.data()))).collect();
    let (mut ops, mut checkpoints) = (BTreeSet::new(), BTreeSet::new());
    for entry in &entries {
        let name = entry["name"].as_str().unwrap();
        let tokens: Vec<u32> = numbers(&entry["tokens"]).iter().map(|t| *t as u32).collect();
        let package = Package::open(&testdata().join(entry["checkpoint"].as_str().unwrap())).unwrap();
        let changes = entry["changes"].as_array().unwrap();
        let edits: Vec<Edit> = changes.iter().flat_map(|change| edits(change, &package, &vectors)).collect();
        let mut edits = Edits::new(edits, tokens.len()).unwrap();
        let options = Options { hooks: edits.points(), logits: LogitRows::All, ..options() };
        let mut model = Model::load(&package, &options).unwrap();
        let got = read(&mut model, &tokens, tokens.len(), &mut edits);
        let want = &vectors[entry["logits"].as_str().unwrap()];
        let largest = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
        assert!(got.len() == want.len() && largest <= BAR, "{name}: {largest}");
        let plain = read(&mut model, &tokens, tokens.len(), &mut Edits::new(Vec::new(), tokens.len()).unwrap());
        let moved = got.iter().zip(&plain).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(changes.is_empty() || moved > 10.0 * BAR, "{name}: nothing follows from it");
        println!("{name:40} moves logits by {moved:.2}, as in transformers within {largest:.1e}");
        // Under the cache, token after token: the same bits.
        for chunk in [1, 4] {
            assert_bits(name, &read(&mut model, &tokens, chunk, &mut edits), &got);
        }
        ops.extend(changes.iter().map(|change| change["op"].as_str().unwrap()));
        checkpoints.insert(entry["checkpoint"].as_str().unwrap());
    }
    assert_eq!(ops.into_iter().collect::<Vec<_>>(), ["add", "mask", "scale", "set", "zero"]);
    assert!(checkpoints.len() >= 6, "{checkpoints:?}");
}
