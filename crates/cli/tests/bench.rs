//! `rheostat bench`: what it reports. How fast anything was is nobody's promise here.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use common::{dir, run, succeed};

#[test]
fn every_test_is_reported_beside_the_limits() {
    let report =
        succeed(&["bench", "embedded", "-p", "20", "-n", "4", "-d", "0,130", "-r", "3", "-t", "2", "--json"]).json();
    let names: Vec<_> = report["tests"].as_array().unwrap().iter().map(|t| t["test"].as_str().unwrap()).collect();
    assert_eq!(names, ["prefill 20", "decode 4", "decode 4 @ 130"]);
    assert_eq!(report["threads"], 2);
    assert_eq!(report["parameters"], 3_410_688);
    for limit in ["read_bytes_per_second", "f32_flops"] {
        assert!(report["limits"][limit].as_f64().unwrap() > 0.0, "{report}");
    }
    for test in report["tests"].as_array().unwrap() {
        let number = |name: &str| test[name].as_f64().unwrap();
        assert!(0.0 < number("slowest"), "{test}");
        assert!(number("slowest") <= number("tokens_per_second"), "{test}");
        assert!(number("tokens_per_second") <= number("fastest"), "{test}");
        assert!(number("rate") > 0.0 && number("share_of_limit") > 0.0, "{test}");
    }
}

#[test]
fn a_table_for_people() {
    let outcome = succeed(&["bench", &dir("qwen3_tied"), "-p", "8", "-n", "0", "-r", "1"]);
    assert!(outcome.stdout.contains("limits measured in this run"), "{outcome:?}");
    assert!(outcome.stdout.lines().any(|l| l.starts_with("prefill 8 ") && l.contains("GFLOP/s")), "{outcome:?}");
    assert!(!outcome.stdout.contains("decode"), "left out: {outcome:?}");
}

#[test]
fn more_than_the_context_is_refused() {
    for args in [&["-d", "4096"][..], &["-p", "2000"], &["-n", "18446744073709551615"]] {
        let outcome = run(&[&["bench", "embedded"], args].concat());
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains("do not fit the model's context of 1024"), "{outcome:?}");
        assert_eq!(outcome.stdout, "");
    }
}
