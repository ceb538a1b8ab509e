//! What transformers recorded, with and without faults: right operations are within rounding of what is exact, the first wrong one is found, and
//! what was done instead is said.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop, and reports what it measured")]

mod common;

use std::io::Cursor;

use common::{cases_and_modes, testdata};
use rheostat::diff::hash::{Weights, hashes};
use rheostat::diff::judge::Verdict;
use rheostat::diff::noise::Precision;
use rheostat::diff::report::{Outcome, Report, Side};
use rheostat::diff::{Evaluator, Examiner, Recorded, Tensor, TraceFile};
use rheostat::hooks::{Capture, Positions, TraceInfo, catalog, points_of};
use rheostat::{Input, KvFormat, Model, Options, Package, Want};

/// What is to be read out of each fault.
const READINGS: &[(&str, &str)] = &[
    ("zero_inv_freq", "does not rotate"),
    ("wrong_rope_theta", "a base (rope_theta) of about"),
    ("wrong_eps", "epsilon would be about"),
    ("missing_qk_norm", "not normalised"),
    ("norm_plus_one", "by 1 + weight"),
    ("wrong_head_mapping", "key-value head h mod"),
    ("window_off_by_one", "(off by one)"),
    ("interleaved_rope", "turns neighbours (interleaved)"),
    ("wrong_partial_rotary", "turns other elements of a head"),
    ("dropped_bias", "does not add the bias"),
    ("wrong_soft_cap", "caps the scores at about"),
    ("unscaled_attention", "no factor"),
    ("missing_sink", "leaves the sinks out"),
    ("tanh_gelu", "gelu_pytorch_tanh"),
    ("swapped_gate_and_up", "the two are swapped"),
    ("renormalised_router", "norm_topk_prob"),
    ("choice_without_bias", "without the correction bias"),
    ("transposed_expert", "transpose"),
    ("missing_shared_gate", "does not multiply by the gate"),
    ("reversed_convolution", "opposite order"),
    ("forgotten_decay_bias", "dt_bias"),
    ("missing_embedding_scale", "does not multiply the embedding by a factor"),
    ("positions_from_one", "counts positions from 1"),
    ("missing_residual_multiplier", "leaves out the factor"),
    ("untied_head", "another matrix"),
    ("missing_final_soft_cap", "does not cap"),
];

/// The report of a trace, with an A that gives the exact values, rounded.
fn report(trace: &TraceFile, package: &Package) -> Report {
    let decoder = package.describe().unwrap();
    let evaluator = Evaluator::new(&decoder, package.checkpoint(), trace, trace.text()).unwrap();
    trace.check(evaluator.ops(), decoder.vocab_size).unwrap();
    let mut examiner = Examiner::new(&evaluator, Precision::F32, trace.precision().unwrap());
    let own = hashes(package.checkpoint(), |_| true).unwrap();
    let weights = trace.weights.as_ref().map(|theirs| Weights::compare(&own, theirs));
    weights.iter().for_each(|weights| examiner.set_weights(weights));
    let rows: Vec<usize> = (0..trace.text().positions.len()).collect();
    for op in evaluator.ops().iter().filter(|op| trace.has(&op.point) && op.only_with.is_none()) {
        let exact = evaluator.evaluate(evaluator.op(&op.point).unwrap(), &rows).unwrap();
        let values = exact.values.iter().map(|x| *x as f32).collect();
        let ours = Tensor::new(trace.shape(&op.point).unwrap().to_vec(), values).unwrap();
        examiner.examine(&op.point, &ours, None).unwrap();
    }
    let a = Side { name: package.name().to_owned(), engine: "exact".to_owned(), dtype: "float32".to_owned() };
    examiner.finish(a, trace, weights)
}

#[test]
fn faults_are_found_and_nothing_else() {
    let index: Vec<serde_json::Value> =
        serde_json::from_slice(&std::fs::read(testdata().join("traces/index.json")).unwrap()).unwrap();
    let only = std::env::var("CASES").unwrap_or_default();
    let mut failed = Vec::new();
    for entry in index {
        let name = entry["trace"].as_str().unwrap();
        if !name.starts_with(&only) {
            continue;
        }
        let trace = TraceFile::open(&testdata().join("traces").join(name)).unwrap();
        let package = Package::open(&testdata().join(entry["checkpoint"].as_str().unwrap())).unwrap();
        let report = report(&trace, &package);
        println!("{name:45} {:?} {}", most(&report), report.operations.len());
        let fault = entry["fault"].as_str();
        match (&report.outcome, entry["expect"].as_str()) {
            (Outcome::Wrong { point, index, .. }, Some(expected)) => {
                let reading = &report.operations[*index].reading;
                let wanted = READINGS.iter().find(|(name, _)| Some(*name) == fault).map_or("?", |(_, words)| words);
                println!("    {point}: {reading:?}");
                if point != expected || !reading.iter().any(|sentence| sentence.contains(wanted)) {
                    failed.push(format!("{name}: {point} {reading:?}"));
                }
            }
            (Outcome::Noise | Outcome::Identical, None) => {}
            _ => failed.push(format!("{name}:\n{}", report.text())),
        }
        if !report.not_compared.only_b.is_empty() {
            failed.push(format!("{name}: {:?}", report.not_compared.only_b));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The largest distance from what is exact, of points that are right, and where.
fn most(report: &Report) -> (f64, &str) {
    let right = report.operations.iter().filter(|op| op.verdict == Verdict::Noise);
    let each = right.filter_map(|op| Some((op.b?.factor, op.point.as_str())));
    each.fold((0.0, ""), |a, b| if b.0 > a.0 { b } else { a })
}

/// In every mode and for every family, what this engine has at every point is within rounding of what is exact.
#[test]
fn this_engine_is_right_at_every_point() {
    let (mut worst, mut failed) = ((0.0, String::new()), Vec::new());
    for (case, options) in cases_and_modes() {
        if options.kv == KvFormat::Bf16 {
            continue;
        }
        let package = Package::open(&case.dir).unwrap();
        let decoder = package.describe().unwrap();
        let (_, mut tokens) = case.prompts().swap_remove(0);
        tokens.truncate(24);
        let mut model = Model::load(&package, &Options { hooks: points_of(&decoder), ..options.clone() }).unwrap();
        let mut capture = Capture::new(catalog(&decoder), Positions::all(), tokens.len(), Cursor::new(Vec::new()));
        let mut sequence = model.sequence(tokens.len());
        let input = Input { sequence: &mut sequence, tokens: &tokens, want: Want::All };
        model.forward_hooked(&mut [input], &mut capture).unwrap();
        let info = TraceInfo {
            model: case.name.clone(),
            model_type: decoder.family.to_owned(),
            compute: options.compute,
            prompt_len: tokens.len(),
            tokens,
            weights: None,
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        capture.finish(&info, &mut file.as_file()).unwrap();
        let trace = TraceFile::open(file.path()).unwrap();
        let report = report(&trace, &package);
        assert!(
            report.not_compared.only_a.is_empty() && report.not_compared.only_b.is_empty(),
            "{:?}",
            report.not_compared
        );
        let wrong = matches!(report.outcome, Outcome::Wrong { .. } | Outcome::NothingCompared);
        if wrong {
            failed.push(format!("{} in {}:\n{}", case.name, options.compute.name(), report.text()));
        }
        let (factor, point) = most(&report);
        println!("{:30} {:5} {factor:.2} at {point}", case.name, options.compute.name());
        if factor > worst.0 {
            worst = (factor, format!("{} in {}, {point}", case.name, options.compute.name()));
        }
    }
    println!("most: {worst:?}");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
