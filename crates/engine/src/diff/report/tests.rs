use super::*;
use crate::diff::evaluate::{Evaluator, Recorded};
use crate::diff::examine::Examiner;
use crate::diff::noise::Precision;
use crate::diff::operations::Operation;
use crate::diff::reading::tests::{package, record, text};
use crate::diff::tensor::Tensor;
use crate::diff::trace_file::TraceFile;
use crate::diff::trace_file::tests::write;

/// The report of a trace in which `last` was not done, and some points were not recorded.
fn report(last: &str, left_out: &[&str]) -> Report {
    let package = package("llama_plain");
    let decoder = package.describe().unwrap();
    let text = text(&decoder, 9);
    let mut b = record(&package, &decoder, &text, &|_, op, inputs, _| {
        op.point.ends_with(last).then(|| crate::diff::noise::Known::clone(&inputs[0]))
    });
    b.retain(|point, _| !left_out.iter().any(|last| point.ends_with(last)));
    b.insert("blocks.0.hook_other".to_owned(), Tensor::new(vec![9, 1], vec![0.0; 9]).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.safetensors");
    write(&path, &text, &b, &[("missing", r#"{"blocks.1.attn.hook_z":"the module was not called"}"#)]);
    let trace = TraceFile::open(&path).unwrap();
    let evaluator = Evaluator::new(&decoder, package.checkpoint(), &trace, trace.text()).unwrap();
    trace.check(evaluator.ops(), decoder.vocab_size).unwrap();
    let mut examiner = Examiner::new(&evaluator, Precision::F32, trace.precision().unwrap());
    let rows: Vec<usize> = (0..9).collect();
    for op in evaluator.ops().iter().filter(|op| trace.has(&op.point) && op.only_with.is_none()) {
        let exact = evaluator.evaluate(evaluator.op(&op.point).unwrap(), &rows).unwrap();
        let values = exact.values.iter().map(|x| *x as f32).collect();
        let ours = Tensor::new(op.full_shape(9, 9), values).unwrap();
        let free = matches!(op.operation, Operation::Linear { .. })
            .then(|| Comparison { relative: Some(0.25), ..Comparison::default() });
        examiner.examine(&op.point, &ours, free).unwrap();
    }
    let weights = Weights { same: 12, ..Weights::default() };
    let a = Side { name: "llama".to_owned(), engine: "rheostat".to_owned(), dtype: "float32".to_owned() };
    examiner.finish(a, &trace, Some(weights))
}

#[test]
fn a_report_says_what_is_wrong_first() {
    let report = report("hook_rot_k", &[]);
    let text = report.text();
    let wanted = [
        "The first operation that is wrong is blocks.0.attn.hook_rot_k (rotary position embedding): B is not what A's config asks for.",
        "  B does not rotate",
        "  Only positions from 1 on are wrong; the other positions are right.",
        "The weights of both are the same (12 tensors).",
        "attn.hook_rot_k differs in every block.",
        "Left to itself, A has come 2.5e-1 away from B at logits (relative).",
        "Not in A: hook_other (block 0).",
        "Not recorded: blocks.1.attn.hook_z (the module was not called).",
    ];
    for line in wanted {
        assert!(text.lines().any(|l| l.starts_with(line)), "{line:?} in\n{text}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["outcome"]["outcome"], "wrong");
    assert_eq!(json["outcome"]["point"], "blocks.0.attn.hook_rot_k");
    assert_eq!(json["operations"][0]["verdict"], "equal");
    let wrong = &json["operations"][report.operations.iter().position(|op| op.verdict.is_suspicious()).unwrap()];
    assert_eq!((&wrong["verdict"], &wrong["block"]), (&"theirs_wrong".into(), &0.into()));
    assert!(wrong["b"]["factor"].as_f64().unwrap() > 1e3 && wrong["a"]["factor"].as_f64().unwrap() <= 1.0);
    assert!(wrong["comparison"]["at"]["head"].is_number());
}

#[test]
fn operations_between_recorded_points_are_judged_together() {
    let names =
        ["hook_rot_k", "hook_attn_scores", "hook_pattern", "ln1.hook_scale", "ln1.hook_normalized", "ln1.hook_out"];
    let report = report("hook_rot_k", &names);
    let Outcome::Wrong { point, index, .. } = &report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!(point, "blocks.0.attn.hook_z");
    let between = &report.operations[*index].together_with;
    assert!(between.contains(&"blocks.0.attn.hook_rot_k".to_owned()), "{between:?}");
    assert!(report.text().contains("Judged together with what was not recorded: "));
    assert!(report.text().contains("Not in B: ln1.hook_scale (blocks 0–"));
}

#[test]
fn nothing_wrong_is_said_as_briefly() {
    let report = report("nothing", &["hook_result"]);
    assert!(matches!(report.outcome, Outcome::Identical | Outcome::Noise), "{:?}", report.outcome);
    assert!(report.verdict().starts_with("A and B "), "{}", report.verdict());
    assert!(!report.text().contains("wrong"));
    assert_eq!(Outcome::of(&[]), Outcome::NothingCompared);
}

#[test]
fn numbers_are_listed_in_runs() {
    assert_eq!(list(&[0, 1, 2, 5, 7, 8]), "0–2, 5, 7–8");
}
