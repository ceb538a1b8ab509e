//! `rheostat eval ppl`: the loss is the one that follows from the logits, whatever it is computed with.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::path::{Path, PathBuf};

use common::refusals::{Refusal, check_all};
use common::{dir, ids, run, succeed, succeed_with, tensors};
use serde_json::Value;

/// Two lines, one of which is not in English.
const TEXT: &str =
    "What light is this, that through the window breaks?\nÜber allen Gipfeln ist Ruh', in allen Wipfeln.\n";

/// The embedded model as a directory, whose weights can stream.
fn asset() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny-shakespeare");
    path.to_str().unwrap().to_owned()
}

/// What the command says of TEXT.
fn ppl(model: &str, flags: &[&str]) -> Value {
    let outcome =
        succeed_with(&[&["eval", "ppl", model, "--text", "-", "--json"], flags].concat(), TEXT.as_bytes(), &[]);
    assert_eq!(outcome.stderr, "", "in a pipe there is no progress");
    outcome.json()
}

/// Files that `rheostat logits` writes.
struct Logits {
    dir: tempfile::TempDir,
}

impl Logits {
    fn out(&self) -> PathBuf {
        self.dir.path().join("out.safetensors")
    }

    /// TEXT as tokens, with the special tokens that the tokenizer adds.
    fn encode(&self, model: &str) -> Vec<u64> {
        let out = self.out();
        ids(&succeed(&["logits", model, "--prompt", TEXT, "-o", out.to_str().unwrap(), "--json"]).json()["tokens"])
    }

    /// Negative log-likelihood of every token of `tokens` but the first.
    fn nats(&self, model: &str, tokens: &[u64]) -> f64 {
        let out = self.out();
        let read: Vec<_> = tokens[..tokens.len() - 1].iter().map(ToString::to_string).collect();
        succeed(&["logits", model, "--tokens", &read.join(","), "-o", out.to_str().unwrap()]);
        let (shape, logits) = &tensors(&out)["logits"];
        let rows = logits.chunks_exact(shape[1]).zip(&tokens[1..]);
        rows.map(|(row, target)| {
            let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            sum.ln() - f64::from(row[*target as usize])
        })
        .sum()
    }
}

/// Every window by itself through `rheostat logits`, with and without a token to begin with.
#[test]
fn the_loss_is_what_the_logits_say() {
    let logits = Logits { dir: tempfile::tempdir().unwrap() };
    for (model, bos) in [("embedded", Some(0)), (&dir("text_llama3"), Some(360)), (&dir("text_qwen3"), None)] {
        let mut text = logits.encode(model);
        if text.first() == bos.as_ref() {
            text.remove(0);
        }
        for (window, limit) in [(None, None), (Some(11), None), (Some(11), Some(23)), (Some(1), Some(3))] {
            let tokens = text.len().min(limit.unwrap_or(usize::MAX));
            let all: Vec<u64> = bos.into_iter().chain(text[..tokens].iter().copied()).collect();
            let size = window.unwrap_or(all.len());
            let starts = (0..all.len() - 1).step_by(size);
            let want: f64 = starts.clone().map(|at| logits.nats(model, &all[at..all.len().min(at + size + 1)])).sum();
            let flags = [window.map(|n| format!("--window={n}")), limit.map(|n| format!("--tokens={n}"))];
            let flags: Vec<&str> = flags.iter().flatten().map(String::as_str).collect();
            let json = ppl(model, &flags);
            let number = |key: &str| json[key].as_f64().unwrap();
            let close = |key: &str, want: f64| {
                assert!(
                    (number(key) - want).abs() < 1e-9 * want,
                    "{model} {flags:?} {key}: {}, not {want}",
                    number(key)
                );
            };
            let predicted = all.len() - 1;
            assert_eq!(json["tokens"], tokens, "{model} {flags:?}");
            assert_eq!(json["predicted"], predicted, "{model} {flags:?}");
            assert_eq!(json["windows"], starts.count(), "{model} {flags:?}");
            assert_eq!(json["bos"], bos.is_some(), "{model}");
            close("loss", want / predicted as f64);
            close("perplexity", (want / predicted as f64).exp());
            close("bits_per_byte", want / std::f64::consts::LN_2 / number("bytes"));
            match (limit, bos) {
                (None, Some(_)) => assert_eq!(json["bytes"], TEXT.len()),
                // The first token is one byte.
                (None, None) => assert_eq!(json["bytes"], TEXT.len() - 1),
                (Some(_), _) => assert!((1.0..TEXT.len() as f64).contains(&number("bytes")), "{json}"),
            }
        }
    }
}

/// A window beyond the end of the text is as good as one that ends with it.
#[test]
fn a_window_ends_with_the_text() {
    let whole = ppl("embedded", &[]);
    let tokens = whole["tokens"].as_u64().unwrap();
    assert_eq!((&whole["window"], &whole["windows"]), (&1024.into(), &1.into()));
    for window in [tokens, tokens + 1, 1023] {
        assert_eq!(ppl("embedded", &["--window", &window.to_string()])["loss"], whole["loss"], "{window}");
    }
    let model = dir("text_qwen3");
    assert_eq!(ppl(&model, &[])["window"], 256, "the model's context");
    assert_eq!(ppl("embedded", &["--tokens", "1000000"])["bits_per_byte"], whole["bits_per_byte"]);
}

#[test]
fn the_loss_is_the_same_bits_however_it_is_computed() {
    let model = asset();
    for mode in [&[][..], &["--compute", "bf16"], &["--kv-cache", "bf16"]] {
        let loss = |flags: &[&str]| {
            let json = ppl(&model, &[&["--window", "40"], mode, flags].concat());
            (json["loss"].to_string(), json["plan"]["streamed"].as_u64().unwrap() > 0)
        };
        let (want, _) = loss(&[]);
        // The smallest budget that works, as the refusal of a smaller one has it.
        let args = ["eval", "ppl", &model, "--text", "-", "--window", "40", "--memory", "1M"];
        let refused = common::run_with(&[&args[..], mode].concat(), TEXT.as_bytes(), &[]);
        let (_, smallest) = refused.stderr.trim().rsplit_once(" is ").unwrap();
        assert_eq!(loss(&["--memory", smallest]), (want.clone(), true), "{mode:?} {smallest}");
        // Through the page cache as well as past it, where the disk allows that.
        assert_eq!(loss(&["--memory", smallest, "--io", "buffered"]), (want.clone(), true), "{mode:?} buffered");
        for flags in [&["-t", "1"][..], &["-t", "3"], &["--chunk", "1"], &["--chunk", "17"], &["--isa", "portable"]] {
            assert_eq!(loss(flags).0, want, "{mode:?} {flags:?}");
        }
        assert_eq!(ppl("embedded", &[&["--window", "40"], mode].concat())["loss"].to_string(), want, "{mode:?}");
    }
}

#[test]
fn rounding_is_asked_for_and_reported() {
    let exact = ppl("embedded", &[]);
    assert_eq!([&exact["compute"], &exact["kv_cache"]], ["f32", "f32"]);
    for flag in ["--compute", "--kv-cache"] {
        let rounded = ppl("embedded", &[flag, "bf16"]);
        assert_eq!(rounded[&flag[2..].replace('-', "_")], "bf16");
        let change = (rounded["loss"].as_f64().unwrap() - exact["loss"].as_f64().unwrap()).abs();
        assert!(0.0 < change && change < 0.02, "{flag}: {change}");
    }
}

#[test]
fn a_table_for_people() {
    for (model, told) in [("embedded", "in windows of 1024"), (&dir("text_qwen3"), "as there is no bos_token")] {
        let outcome = succeed_with(&["eval", "ppl", model, "--text", "-"], TEXT.as_bytes(), &[]);
        let json = ppl(model, &[]);
        let names: Vec<_> = outcome.stdout.lines().map(|line| line.split("  ").next().unwrap()).collect();
        assert_eq!(names, ["loss", "perplexity", "bits per byte", "predicted"], "{outcome:?}");
        assert!(outcome.stdout.contains(&format!(" {:.5} nats", json["loss"].as_f64().unwrap())), "{outcome:?}");
        assert!(outcome.stdout.contains(told), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert!(outcome.stderr.contains(" tok/s, ") && outcome.stderr.contains("peak memory"), "{outcome:?}");
    }
    let typo = run(&["eval", "ppl", "embedded", "--text", "-", "--io", "urnig"]);
    assert!(typo.stderr.contains("write auto, uring, direct or buffered"), "{typo:?}");
    // Without a subcommand there is nothing to do but to say which there are.
    let outcome = run(&["eval"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{outcome:?}");
    assert!(outcome.stderr.contains("ppl") && !outcome.stderr.contains("panicked"), "{outcome:?}");
}

#[test]
fn what_cannot_be_evaluated() {
    const PPL: &[&str] = &["eval", "ppl", "{dir}", "--text", "-"];
    let stdin = |name, stdin, told| Refusal { stdin, ..Refusal::args(name, 1, PPL, told) };
    macro_rules! flag {
        ($name:literal, $code:literal, [$($flag:literal),+], $($told:literal),+) => {
            Refusal {
                stdin: b"Hello there",
                ..Refusal::args($name, $code, &["eval", "ppl", "{dir}", "--text", "-", $($flag),+], &[$($told),+])
            }
        };
    }
    let table = [
        Refusal::args(
            "no such file",
            1,
            &["eval", "ppl", "{dir}", "--text", "{scratch}/none"],
            &["{scratch}/none cannot be read", "check that it is a file", "No such file"],
        ),
        Refusal::args(
            "directory",
            1,
            &["eval", "ppl", "{dir}", "--text", "{scratch}"],
            &["{scratch} cannot be read", "Is a directory"],
        ),
        Refusal {
            make: |c| std::fs::write(c.scratch().join("empty"), b"").unwrap(),
            ..Refusal::args(
                "empty file",
                1,
                &["eval", "ppl", "{dir}", "--text", "{scratch}/empty"],
                &["{scratch}/empty is empty", "give a text to predict"],
            )
        },
        stdin("nothing", b"", &["standard input is empty", "give a text to predict"]),
        stdin("not UTF-8", b"caf\xE9 au lait", &["standard input is not text in UTF-8", "byte 3", "convert it"]),
        stdin("one token", b"a", &["standard input has fewer than two tokens", "give a longer text"]),
        flag!(
            "window beyond the model",
            1,
            ["--window", "257"],
            "--window 257",
            "context of 256 tokens",
            "at most that"
        ),
        flag!("window of nothing", 2, ["--window", "0"], "--window", "a whole number, 1 or more"),
        flag!("one token of many", 2, ["--tokens", "1"], "--tokens", "a whole number, 2 or more"),
        flag!("negative number of tokens", 2, ["--tokens", "-2"], "--tokens", "a whole number, 2 or more"),
        flag!("budget that cannot work", 1, ["--memory", "1M"], "too small", "the smallest that works here is"),
        Refusal::args("no text", 2, &["eval", "ppl", "{dir}"], &["--text <FILE>", "Usage: rheostat eval ppl"]),
        Refusal::args("another measure", 2, &["eval", "wit"], &["unrecognized subcommand 'wit'", "rheostat eval"]),
        Refusal {
            make: |c| c.remove("tokenizer.json"),
            ..stdin("no tokenizer", b"Hello there", &["{dir} has no tokenizer.json", "save_pretrained"])
        },
        Refusal {
            make: |c| {
                c.config("vocab_size", 60.into());
                c.tensor("model.embed_tokens.weight", |t| {
                    t.shape[0] = 60;
                    t.data.truncate(60 * 40 * 2);
                });
            },
            ..stdin("tokens beyond the vocabulary", b"Hello there", &["out of range", "60 tokens, 0 to 59"])
        },
        Refusal {
            make: |c| {
                c.tensor("model.embed_tokens.weight", |t| t.data[2 * 40 * 7..][..2].copy_from_slice(&[0xC0, 0x7F]));
            },
            ..stdin("weights that are no numbers", b"Hello there", &["not a finite number", "damaged"])
        },
    ];
    check_all(&table, 16);
}
