//! The list of operations, in f64 from the tokens on, against what transformers says of every reference checkpoint: the list is complete and in
//! order, and every operation is what it should be.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop, and reports what it measured")]

mod common;

use std::collections::BTreeMap;

use common::cases;
use rheostat::Package;
use rheostat::diff::noise::Precision;
use rheostat::diff::{Evaluator, Tensor, Text};

/// As far as transformers may be from the exact logits. Where a norm enlarges next to nothing, one rounding of its own is more: see
/// `references.rs`.
fn bar_of(case: &str) -> f64 {
    if ["qwen3_next_hub", "qwen3_5_wrapper"].contains(&case) { 1.5e-4 } else { 3e-5 }
}

#[test]
fn operations_in_f64_give_what_transformers_gives() {
    let nothing: BTreeMap<String, Tensor> = BTreeMap::new();
    let mut worst = (0.0, String::new());
    for case in cases() {
        let package = Package::open(&case.dir).unwrap();
        let decoder = package.describe().unwrap();
        let mut largest = [0.0f64; 2];
        for (prompt, tokens) in case.prompts() {
            let Some(want) = case.tensors.get(&format!("{prompt}.logits")) else { continue };
            let text = Text { prompt_len: tokens.len(), positions: (0..tokens.len()).collect(), tokens };
            let evaluator = Evaluator::new(&decoder, package.checkpoint(), &nothing, &text).unwrap();
            let rows = &text.positions;
            let logits = evaluator.known("logits", rows).unwrap();
            assert_eq!(logits.len(), want.len(), "{}", case.name);
            for (i, want) in want.iter().enumerate() {
                let difference = (f64::from(*want) - logits.values[i]).abs();
                assert!(difference.is_finite(), "{}", case.name);
                largest[0] = largest[0].max(difference);
                largest[1] = largest[1].max(difference / logits.noise(i).floor(Precision::F32));
            }
        }
        println!("{:30} {:.1e}, {:.1e} of what rounding explains", case.name, largest[0], largest[1]);
        // transformers' own rounding, through all layers.
        assert!(largest[0] <= bar_of(&case.name), "{}: {:e} from transformers", case.name, largest[0]);
        assert!(largest[1] <= 0.2, "{}: {} of what rounding explains", case.name, largest[1]);
        if largest[0] > worst.0 {
            worst = (largest[0], case.name.clone());
        }
    }
    println!("largest difference: {:.1e} in {}", worst.0, worst.1);
}
