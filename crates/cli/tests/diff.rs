//! `rheostat diff`: faults that were planted are named at the right operation, and healthy runs are called healthy.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use common::refusals::{Refusal, check_all};
use common::{Outcome, dir, run, testdata};
use serde_json::Value;

fn path(of: &str) -> String {
    testdata("traces").join(of).to_str().unwrap().to_owned()
}

/// The first operation that is wrong, and what is said of it; nothing where there is none.
fn found(what: &str, outcome: &Outcome) -> Option<(String, String)> {
    let report = outcome.json();
    let said = &report["outcome"];
    match said["outcome"].as_str().unwrap() {
        "identical" | "noise" => {
            assert_eq!(outcome.code, Some(0), "{what}: {outcome:?}");
            None
        }
        "wrong" => {
            assert_eq!(outcome.code, Some(1), "{what}: {outcome:?}");
            let point = said["point"].as_str().unwrap().to_owned();
            assert!(outcome.stderr.contains(&point), "{what}: {outcome:?}");
            let operation = &report["operations"][said["index"].as_u64().unwrap() as usize];
            let reading: Vec<_> =
                operation["reading"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
            Some((point, reading.join(" ")))
        }
        other => panic!("{what}: {other}"),
    }
}

/// Traces of transformers, healthy and with a planted fault, beside the checkpoint as it is.
#[test]
fn traces_of_transformers() {
    let index: Vec<Value> = serde_json::from_slice(&std::fs::read(path("index.json")).unwrap()).unwrap();
    let (mut healthy, mut faulty) = (0, 0);
    let mut wrong = Vec::new();
    for entry in &index {
        let trace = entry["trace"].as_str().unwrap();
        let outcome = run(&["diff", &dir(entry["checkpoint"].as_str().unwrap()), &path(trace), "--json"]);
        let got = found(trace, &outcome);
        let expected = entry["expect"].as_str();
        if got.as_ref().map(|(point, _)| point.as_str()) != expected {
            wrong.push(format!("{trace}: {got:?}, not {expected:?}"));
        }
        *(if expected.is_some() { &mut faulty } else { &mut healthy }) += 1;
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), index.len(), wrong.join("\n"));
    assert!(healthy >= 50 && faulty >= 20, "{healthy} healthy traces, {faulty} faulty ones");
}

/// What the pattern of a difference suggests.
#[test]
fn readings() {
    for (trace, checkpoint, told) in [
        ("zero_inv_freq", "llama_plain", "inv_freq"),
        ("wrong_rope_theta", "llama_biases", "rope_theta"),
        ("missing_qk_norm", "qwen3_tied", "not normalised"),
        ("norm_plus_one", "mistral_head_dim", "1 + weight"),
        ("wrong_head_mapping", "smollm3_switches", "query head h"),
        ("window_off_by_one", "mistral_window", "off by one"),
        ("interleaved_rope", "qwen2_window", "interleaved"),
        ("dropped_bias", "qwen2_layer_types", "bias"),
        ("tanh_gelu", "gpt_neox_hub", "gelu_pytorch_tanh"),
        ("unscaled_attention", "olmo2_hub", "scales the scores"),
        ("renormalised_router", "olmoe_hub", "norm_topk_prob"),
        ("missing_embedding_scale", "gemma_hub", "factor"),
    ] {
        let outcome = run(&["diff", &dir(checkpoint), &path(&format!("{trace}.safetensors")), "--json"]);
        let (_, reading) = found(trace, &outcome).unwrap();
        assert!(reading.contains(told), "{trace}: {reading}");
        let outcome = run(&["diff", &dir(checkpoint), &path(&format!("{trace}.safetensors"))]);
        assert!(
            outcome.stdout.contains(told) && outcome.stdout.contains("first operation that is wrong"),
            "{outcome:?}"
        );
    }
}

/// The reverse: our own side is the one whose configuration is wrong.
#[test]
fn faults_on_our_side() {
    for (trace, checkpoint, set, expected, told) in [
        ("llama_plain", "llama_plain", "rope_theta=5000", "blocks.0.attn.hook_rot_q", "rope_theta"),
        ("llama_plain", "llama_plain", "rms_norm_eps=0.01", "blocks.0.ln1.hook_scale", ""),
        ("mistral_window", "mistral_window", "sliding_window=7", "blocks.0.attn.hook_attn_scores", "window"),
        ("gemma2_switches", "gemma2_switches", "final_logit_softcapping=11", "logits", ""),
        ("gpt_neox_hub", "gpt_neox_hub", "hidden_act=\"gelu_new\"", "blocks.0.mlp.hook_post", "gelu"),
        ("granite_switches", "granite_switches", "embedding_multiplier=1.5", "hook_embed", ""),
    ] {
        let trace = path(&format!("{trace}.safetensors"));
        let outcome = run(&["diff", &dir(checkpoint), &trace, "--set", set, "--json"]);
        let (point, reading) = found(set, &outcome).unwrap_or_else(|| panic!("{set} was not seen"));
        assert_eq!(point, expected, "{set}: {reading}");
        assert!(reading.contains(told), "{set}: {reading}");
        // The trace may come first.
        let turned = run(&["diff", &trace, &dir(checkpoint), "--set-b", set, "--json"]);
        assert_eq!(found(set, &turned).unwrap().0, expected, "{set}");
    }
}

/// Two models of this engine.
#[test]
fn two_models() {
    let model = dir("text_qwen3");
    let text = ["--tokens", "3,14,15,9,2,6,5"];
    let of = |flags: &[&str]| {
        found(&format!("{flags:?}"), &run(&[&["diff", &model, &model, "--json"], &text[..], flags].concat()))
    };
    assert_eq!(of(&[]), None);
    assert_eq!(of(&["--compute-b", "bf16"]), None);
    assert_eq!(of(&["--threads", "1", "--chunk", "2"]), None);
    let (point, reading) = of(&["--set-b", "rms_norm_eps=0.1"]).unwrap();
    assert_eq!(point, "blocks.0.ln1.hook_scale", "{reading}");
    // Another model of the same shape.
    let other = common::checkpoint::Checkpoint::copy("text_qwen3");
    let outcome = run(&[&["diff", &model, other.dir(), "--json"], &text[..]].concat());
    assert_eq!(found("a copy", &outcome), None);
    assert_eq!(outcome.json()["weights"]["different"], serde_json::json!([]));
}

/// Two traces, neither of which can be run again.
#[test]
fn two_traces() {
    let (healthy, faulty) = (path("llama_plain.safetensors"), path("zero_inv_freq.safetensors"));
    let outcome = run(&["diff", &healthy, &healthy]);
    assert!(outcome.code == Some(0) && outcome.stdout.contains("identical"), "{outcome:?}");
    let outcome = run(&["diff", &healthy, &faulty]);
    assert!(
        outcome.code == Some(1) && outcome.stdout.contains("come apart at blocks.0.attn.hook_rot_q"),
        "{outcome:?}"
    );
}

#[test]
fn what_is_refused() {
    macro_rules! told {
        ($name:literal, $code:literal, [$($arg:literal),*], $($told:literal),+) => {
            Refusal::args($name, $code, &["diff", $($arg),*], &[$($told),+])
        };
    }
    check_all(
        &[
            told!("one side", 2, ["{dir}"], "<B>"),
            told!("two models without a text", 1, ["{dir}", "{dir}"], "--prompt", "--tokens"),
            told!("a side that is not there", 1, ["{dir}", "{scratch}/none"], "{scratch}/none"),
            told!("a file that is no trace", 2, ["{dir}", "{dir}/model.safetensors"], "model.safetensors", "trace"),
            told!("a file that is nothing", 1, ["{dir}", "{dir}/config.json"], "config.json"),
            told!("a key without a value", 1, ["{dir}", "{dir}", "--tokens", "1", "--set", "rope_theta"], "KEY=VALUE"),
            told!(
                "a key within what is not there",
                1,
                ["{dir}", "{dir}", "--tokens", "1", "--set", "a.b=1"],
                "\"a.b\"",
                "no object"
            ),
            told!(
                "a key that nobody knows",
                1,
                ["{dir}", "{dir}", "--tokens", "1", "--set", "rope_tehta=1"],
                "rope_tehta"
            ),
            told!("a token beyond the vocabulary", 1, ["{dir}", "{dir}", "--tokens", "99999999"], "99999999"),
        ],
        9,
    );
    let trace = path("llama_plain.safetensors");
    let outcome = run(&["diff", &dir("text_qwen3"), &trace]);
    assert_eq!(outcome.code, Some(2), "a trace of another model: {outcome:?}");
    let outcome = run(&["diff", &dir("llama_plain"), &trace, "--tokens", "1,2"]);
    assert!(outcome.code == Some(1) && outcome.stderr.contains("that of the trace"), "{outcome:?}");
    let outcome = run(&["diff", &dir("llama_plain"), &trace, "--memory", "1M"]);
    assert!(outcome.code == Some(1) && outcome.stderr.contains("the smallest that works"), "{outcome:?}");
}
