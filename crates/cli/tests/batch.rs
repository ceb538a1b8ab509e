//! `rheostat generate --batch`: many texts, none lost, none twice, each as if it were alone.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::checkpoint::Checkpoint;
use common::{Outcome, command, dir, ids, run, run_with, succeed};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with prompts, and a place for results.
struct Batch {
    scratch: TempDir,
}

impl Batch {
    fn new(lines: &[Value]) -> Batch {
        let batch = Batch { scratch: TempDir::new().unwrap() };
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(batch.path("prompts.jsonl"), text).unwrap();
        batch
    }

    /// `n` prompts of various lengths.
    fn of(n: usize) -> Batch {
        let line = |i: usize| json!({"id": i, "prompt": format!("ROMEO {}:", "so ".repeat(i % 9)), "max_new_tokens": 1 + i * 7 % 40, "seed": i});
        Batch::new(&(0..n).map(line).collect::<Vec<_>>())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn args(&self, model: &str, more: &[&str]) -> Vec<String> {
        let files = [self.path("prompts.jsonl"), self.path("out.jsonl")].map(|p| p.to_str().unwrap().to_owned());
        let mut args = vec!["generate".to_owned(), model.to_owned()];
        args.extend(["--batch".to_owned(), files[0].clone(), "--out".to_owned(), files[1].clone()]);
        args.extend(more.iter().map(|s| (*s).to_owned()));
        args
    }

    fn results(&self) -> BTreeMap<u64, Value> {
        results(&self.path("out.jsonl"))
    }
}

/// Results by line; each line is there once.
fn results(path: &Path) -> BTreeMap<u64, Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "whole lines");
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let again = all.insert(value["line"].as_u64().unwrap(), value);
        assert!(again.is_none(), "twice: {line}");
    }
    all
}

/// A batch's texts are those that the command writes one by one.
#[test]
fn each_text_is_as_if_it_were_alone() {
    let lines = [
        json!({"prompt": "The kettle", "id": {"any": ["thing"]}}),
        json!({"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Why?"}]}),
        json!({"prompt": "Once upon a time there was a very long story. ".repeat(5), "max_new_tokens": 30}),
        json!({"tokens": [5, 6, 7, 8], "max_new_tokens": 3}),
        json!({"prompt": "The kettle", "seed": 4, "max_new_tokens": 0}),
        json!({"prompt": "The kettle", "seed": 4}),
    ];
    for options in
        [vec![], vec!["--temperature", "0.9", "--stop", "e"], vec!["--speculate", "lookup", "--parallel", "2"]]
    {
        let batch = Batch::new(&lines);
        let more = [&["-n", "12"], &options[..]].concat();
        let outcome = succeed(&batch.args(&dir("text_qwen3"), &more));
        assert_eq!(outcome.stdout, "");
        assert!(outcome.stderr.starts_with("6 texts, "), "{outcome:?}");
        let results = batch.results();
        assert_eq!(results.len(), 6);
        assert_eq!(results[&1]["id"], json!({"any": ["thing"]}));
        assert_eq!(results[&2].get("id"), None);
        let speculation = options.contains(&"--speculate");
        let options: Vec<_> = options.iter().copied().filter(|_| !speculation).collect();
        for (line, (prompt, n, seed)) in
            [(1, ("The kettle", "12", None)), (5, ("The kettle", "0", Some("4"))), (6, ("The kettle", "12", Some("4")))]
        {
            let mut alone = vec!["generate", "--json", "-n", n];
            alone.extend(seed.iter().flat_map(|seed| ["--seed", seed]));
            alone.extend(&options);
            let model = dir("text_qwen3");
            let alone = succeed(&[&alone[..], &[&model, prompt]].concat()).json();
            for key in ["text", "tokens", "finish"] {
                assert_eq!(results[&line][key], alone[key], "line {line}, {key}, {options:?}");
            }
            assert_eq!(results[&line]["prompt_tokens"], ids(&alone["prompt_tokens"]).len());
        }
        assert!((1..=3).contains(&ids(&results[&4]["tokens"]).len()));
    }
}

/// Memory and the number of texts at a time change no byte but the order.
#[test]
fn whatever_the_memory_the_results_are_the_same() {
    let want = {
        let batch = Batch::of(30);
        succeed(&batch.args("embedded", &["--parallel", "1"]));
        batch.results()
    };
    assert_eq!(want.len(), 30);
    for more in [
        &["--parallel", "30"][..],
        &["--parallel", "7", "--memory", "64M", "-t", "2", "--chunk", "16"],
        &["--draft", "embedded"],
    ] {
        let batch = Batch::of(30);
        succeed(&batch.args("embedded", more));
        assert_eq!(batch.results(), want, "{more:?}");
    }
}

/// Killed again and again, a run comes to its end with every line once.
#[test]
fn a_killed_run_goes_on() {
    let lines: Vec<Value> = (0..60).map(|i| json!({"prompt": format!("ACT {i}"), "max_new_tokens": 150})).collect();
    let whole = Batch::new(&lines);
    succeed(&whole.args("embedded", &[]));
    let batch = Batch::new(&lines);
    let out = batch.path("out.jsonl");
    let written = || fs::read_to_string(&out).map_or(0, |text| text.lines().count());
    for _ in 0..3 {
        let before = written();
        let mut child = command(&batch.args("embedded", &["--parallel", "3", "-t", "1"])).spawn().unwrap();
        let start = Instant::now();
        while written() <= before + 2 && child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(60), "something is written");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(written() > before, "results are written as they come");
        assert!(results(&out).len() < 60, "it was killed before its end");
    }
    // What a write leaves that was cut short.
    let mut text = fs::read(&out).unwrap();
    let whole_lines = text.len();
    text.extend_from_slice(b"{\"line\":60,\"text\":\"half a res");
    fs::write(&out, &text).unwrap();
    let outcome = succeed(&batch.args("embedded", &[]));
    assert!(outcome.stderr.contains(" more were done before)"), "{outcome:?}");
    assert_eq!(fs::read(&out).unwrap()[..whole_lines], text[..whole_lines], "what was there is kept");
    assert_eq!(batch.results(), whole.results());
    let again = succeed(&batch.args("embedded", &[]));
    assert!(again.stderr.starts_with("all 60 texts are in "), "{again:?}");
    assert_eq!(batch.results(), whole.results());
}

#[test]
fn a_full_disk_keeps_what_was_written() {
    let batch = Batch::of(40);
    // In blocks of 512 bytes.
    let script = "trap '' XFSZ; ulimit -f 4; exec \"$0\" \"$@\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, common::PROGRAM]).args(batch.args("embedded", &["--parallel", "4"])).stdin(Stdio::null());
    let outcome = Outcome::new(&shell.output().unwrap());
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("a result cannot be written to "), "{outcome:?}");
    assert!(outcome.stderr.ends_with("make room, and give the same command again (File too large)\n"), "{outcome:?}");
    let before = batch.results();
    assert!(!before.is_empty() && before.len() < 40, "{} results", before.len());
    succeed(&batch.args("embedded", &[]));
    let after = batch.results();
    assert_eq!(after.len(), 40);
    assert!(before.iter().all(|(line, result)| after[line] == *result));
}

#[test]
fn results_of_something_else_are_left_alone() {
    let batch = Batch::of(4);
    succeed(&batch.args("embedded", &[]));
    let out = batch.path("out.jsonl");
    let good = fs::read(&out).unwrap();
    let refused = |args: &[String], why: &str| {
        let outcome = run(args);
        assert_eq!(outcome.code, Some(1), "{why}: {outcome:?}");
        assert!(outcome.stderr.contains(why), "{why}: {outcome:?}");
        assert_eq!(fs::read(&out).unwrap(), good, "{why}: nothing was changed");
    };
    refused(&batch.args("embedded", &["--temperature", "1"]), "is of another prompt, another model or other settings");
    refused(&batch.args(&dir("text_qwen3"), &[]), "is of another prompt, another model or other settings");
    let prompts = fs::read_to_string(batch.path("prompts.jsonl")).unwrap();
    fs::write(batch.path("prompts.jsonl"), prompts.lines().take(3).map(|l| format!("{l}\n")).collect::<String>())
        .unwrap();
    refused(&batch.args("embedded", &[]), "has a result for line 4");
    fs::write(batch.path("prompts.jsonl"), prompts).unwrap();
    for (content, why) in [
        ("my precious notes\n", "something else than results in line 1"),
        ("my precious notes", "something else than results in line 1"),
        ("{\"line\":1,\"key\":\"a\"}\n{\"line\":1,\"key\":\"a\"}\n", "two results for line 1"),
    ] {
        fs::write(&out, content).unwrap();
        let outcome = run(&batch.args("embedded", &[]));
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains(why), "{outcome:?}");
        assert_eq!(fs::read_to_string(&out).unwrap(), content, "it is left alone");
    }
    // Another run that is writing.
    fs::write(&out, "").unwrap();
    let held = fs::File::open(&out).unwrap();
    held.lock().unwrap();
    let outcome = run(&batch.args("embedded", &[]));
    assert!(outcome.stderr.contains("in use by another run"), "{outcome:?}");
}

/// Another model of the same shape under the same name, and one whose numbers are none.
#[test]
fn results_are_of_one_model() {
    let model = Checkpoint::copy("text_qwen3");
    let batch = Batch::new(&[json!({"prompt": "The kettle"}), json!({"prompt": "Once upon"})]);
    let args = batch.args(model.dir(), &["-n", "5"]);
    succeed(&args);
    let good = fs::read(batch.path("out.jsonl")).unwrap();
    model.config("transformers_version", json!("another"));
    assert!(succeed(&args).stderr.starts_with("all 2 texts are in "), "what changes nothing is no other model");
    model.tensor("model.norm.weight", |t| t.data[1] ^= 0x80);
    let outcome = run(&args);
    assert!(outcome.stderr.contains("is of another prompt, another model or other settings"), "{outcome:?}");
    assert_eq!(fs::read(batch.path("out.jsonl")).unwrap(), good);
    // A text that cannot be written is told of, now and whenever it is asked for again.
    fs::remove_file(batch.path("out.jsonl")).unwrap();
    model.tensor("model.norm.weight", |t| t.data[..2].copy_from_slice(&[0xC0, 0x7F]));
    for _ in 0..2 {
        let outcome = run(&args);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains("error: 2 of 2 texts could not be written; "), "{outcome:?}");
        for result in batch.results().values() {
            assert!(result["error"].as_str().unwrap().contains("not a finite number"), "{result}");
        }
    }
}

#[test]
fn bad_prompts_are_refused_before_anything_is_done() {
    for (text, why) in [
        ("", "has no prompts"),
        ("\n \n", "has no prompts"),
        ("{\"prompt\": \"a\"}\n{\"promt\": \"b\"}\n", "line 2 of "),
        ("{\"promt\": \"b\"}\n", "unknown field `promt`"),
        ("{\"prompt\": \"a\", \"tokens\": [1]}\n", "write one of \"prompt\", \"messages\" and \"tokens\""),
        ("{\"id\": 3}\n", "write one of \"prompt\", \"messages\" and \"tokens\""),
        ("{\"prompt\": \"\"}\n", "the prompt is empty"),
        ("{\"tokens\": []}\n", "the prompt is empty"),
        ("{\"tokens\": [99999999]}\n", "token 99999999 at position 0 is out of range"),
        ("{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n", "has no chat template"),
        ("not JSON\n", "write an object such as"),
        ("{\"prompt\": \"a\", \"max_new_tokens\": -1}\n", "line 1 of "),
    ] {
        let batch = Batch::new(&[]);
        fs::write(batch.path("prompts.jsonl"), text).unwrap();
        let outcome = run(&batch.args("embedded", &[]));
        assert_eq!(outcome.code, Some(1), "{text:?}: {outcome:?}");
        assert!(outcome.stderr.contains(why), "{text:?}: {outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert!(!batch.path("out.jsonl").exists(), "{text:?}");
    }
    let long = json!({"prompt": "word ".repeat(3000)}).to_string();
    let batch = Batch::new(&[]);
    fs::write(batch.path("prompts.jsonl"), long).unwrap();
    let outcome = run(&batch.args("embedded", &[]));
    assert!(outcome.stderr.contains("do not fit the model's context of 1024"), "{outcome:?}");
    for args in [
        &["generate", "embedded", "--batch", "x"][..],
        &["generate", "embedded", "--out", "x"],
        &["generate", "embedded", "prompt", "--batch", "x", "--out", "y"],
        &["generate", "embedded", "x", "--speculate", "hard"],
        &["generate", "embedded", "x", "--speculate", "lookup", "--draft", "embedded"],
        &["generate", "embedded", "x", "--draft-tokens", "0"],
        &["generate", "embedded", "--batch", "x", "--out", "y", "--parallel", "99999999"],
    ] {
        assert_eq!(run(args).code, Some(2), "{args:?}");
    }
}

#[test]
fn prompts_come_from_standard_input_too() {
    let scratch = TempDir::new().unwrap();
    let out = scratch.path().join("out.jsonl");
    let args = ["generate", "embedded", "--batch", "-", "--out", out.to_str().unwrap(), "-n", "3"];
    let outcome = run_with(&args, b"{\"prompt\": \"ROMEO:\"}\n", &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(results(&out).len(), 1);
}

#[test]
fn a_draft_model_must_fit() {
    let outcome = run(&["generate", &dir("text_qwen3"), "x", "--draft", "embedded"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("embedded has other tokens than the model (token 0 is "), "{outcome:?}");
    let outcome = run(&["generate", &dir("text_qwen3"), "x", "--draft", "nowhere"]);
    assert!(outcome.stderr.contains("nowhere: there is nothing here"), "{outcome:?}");
    let model = dir("text_qwen3");
    let args = ["generate", &model, "The kettle", "-n", "30", "--json"];
    let plain = succeed(&args).json();
    let drafted = succeed(&[&args[..], &["--draft", &model]].concat()).json();
    assert_eq!(drafted["tokens"], plain["tokens"]);
    let counts = &drafted["speculation"];
    assert!(counts["drafted"].as_u64().unwrap() > 0, "{counts}");
    assert_eq!(counts["accepted"], counts["drafted"], "a model guesses itself");
}
