//! Quantised checkpoints of `testdata/`: every recorded matrix has the very values that the libraries widen it to.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::collections::BTreeSet;

use common::cases;
use rheostat::decoder::{Linear, Storage};
use rheostat::{Package, dequantize};

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
