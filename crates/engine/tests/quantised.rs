//! Quantised checkpoints of `testdata/`: every recorded matrix has the very values that the libraries widen it to.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::collections::BTreeSet;

use common::{cases, options, testdata};
use rheostat::decoder::{Linear, Storage};
use rheostat::{Model, Package, dequantize};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// The name under which `reference.safetensors` has the matrix.
fn recorded(linear: &Linear) -> String {
    let expert = linear.slice.slab.map_or_else(String::new, |slab| format!(".{}", slab.index));
    format!("dequantized.{}{expert}", linear.module())
}

fn form(storage: Storage) -> &'static str {
    match storage {
        Storage::Float => "not quantised",
        Storage::Packed(_) => "packed",
        Storage::Fp8(_) => "FP8",
        Storage::Mxfp4 => "MXFP4",
        Storage::Gptq(_) => "GPTQ",
        Storage::Awq { .. } => "AWQ",
    }
}

#[test]
fn dequantised_matrices_are_those_of_the_libraries_bit_for_bit() {
    let mut forms = BTreeSet::new();
    for case in cases().into_iter().filter(|c| c.tensors.keys().any(|name| name.starts_with("dequantized."))) {
        let package = Package::open(&case.dir).unwrap();
        let decoder = package.describe().unwrap();
        let mut left: BTreeSet<&str> =
            case.tensors.keys().map(String::as_str).filter(|name| name.starts_with("dequantized.")).collect();
        for linear in decoder.all_linears() {
            let name = recorded(&linear);
            let Some(want) = case.tensors.get(&name) else { continue };
            let got = dequantize(&package, &linear).unwrap();
            let (rows, cols) = (linear.out_features, linear.in_features);
            // Of a matrix that several maps share, its part.
            let want = &want[linear.slice.first * cols..][..rows * cols];
            assert_eq!(got.len(), want.len(), "{}, {name}", case.name);
            for (i, (g, w)) in got.iter().zip(want).enumerate() {
                // What goes through a sum has no negative zero.
                let same = g.to_bits() == (w + 0.0).to_bits();
                assert!(same, "{}, {name}: {g:e} in place of {w:e}, row {}, column {}", case.name, i / cols, i % cols);
            }
            left.remove(name.as_str());
            forms.insert(form(linear.storage));
        }
        assert!(left.is_empty(), "{} has no {left:?}", case.name);
    }
    assert_eq!(forms, BTreeSet::from(["AWQ", "FP8", "GPTQ", "MXFP4", "packed"]));
}

/// Why the case `name` is refused when its tensors are called, and their types are, as `change` makes them, and `config` is merged
/// into its `config.json`.
fn refusal(name: &str, config: &Value, change: impl Fn(&mut String, &mut Dtype)) -> String {
    let (from, dir) = (testdata().join(name), tempfile::tempdir().unwrap());
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let changed = stored.iter().map(|(name, view)| {
        let (mut name, mut dtype) = (name.to_owned(), view.dtype());
        change(&mut name, &mut dtype);
        (name, TensorView::new(dtype, view.shape().to_vec(), view.data()).unwrap())
    });
    safetensors::serialize_to_file(changed, None, &dir.path().join("model.safetensors")).unwrap();
    let mut all: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    std::fs::write(dir.path().join("config.json"), all.to_string()).unwrap();
    let package = Package::open(dir.path()).unwrap();
    Model::load(&package, &options()).err().unwrap().to_string()
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    // Nobody packs the experts of a layer into one tensor of words.
    let gptq = json!({ "quantization_config": { "quant_method": "gptq", "bits": 4, "group_size": 32 } });
    let error = refusal("granitemoe_hub", &gptq, |name, _| {
        if let Some(module) = name.strip_suffix("input_linear.weight") {
            *name = format!("{module}input_linear.qweight");
        }
    });
    assert!(
        error.contains("layers.0.block_sparse_moe.input_linear.qweight") && error.contains("taken apart"),
        "{error}"
    );
    let error = refusal("quant_mixtral_awq", &json!({}), |name, dtype| {
        if name.ends_with("layers.1.block_sparse_moe.experts.2.w2.scales") {
            *dtype = Dtype::BF16;
        }
    });
    assert!(error.contains("experts.2.w2.qweight") && error.contains("must be alike"), "{error}");
}
