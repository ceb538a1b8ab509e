//! `rheostat lens`, `patch` and `steer`: what they print is what the model computes, in every form.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::fs;
use std::path::Path;

use common::refusals::{Refusal, check_all};
use common::{dir, ids, run, succeed, tensors};
use serde_json::{Value, json};

/// The embedded model as a directory, whose weights can stream.
fn asset() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny-shakespeare");
    path.to_str().unwrap().to_owned()
}

const TEXT: &str = "ROMEO: My lord, the king is";

/// Logits of every position of TEXT.
fn logits(model: &str) -> (usize, Vec<f32>) {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    succeed(&["logits", model, "--prompt", TEXT, "-o", out.to_str().unwrap()]);
    let (shape, values) = tensors(&out).remove("logits").unwrap();
    (shape[1], values)
}

fn log_probability(row: &[f32], token: usize) -> f64 {
    let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
    f64::from(row[token]) - sum.ln()
}

fn close(what: &str, got: &Value, want: f64) {
    let got = got.as_f64().unwrap_or_else(|| panic!("{what}: {got}"));
    assert!((got - want).abs() < 1e-6 * want.abs().max(1.0), "{what}: {got}, not {want}");
}

/// The data of a page's maps.
fn views(page: &Path) -> Value {
    let text = fs::read_to_string(page).unwrap();
    assert!(text.starts_with("<!DOCTYPE html>") && text.trim_end().ends_with("</html>"));
    assert!(!text.contains("http://") && !text.contains("https://") && !text.contains("src="), "it needs nothing else");
    let data = text.split_once("id=\"data\">").unwrap().1.split_once("</script>").unwrap().0;
    serde_json::from_str(data).unwrap()
}

#[test]
fn the_lens_ends_with_what_the_model_says() {
    let scratch = tempfile::tempdir().unwrap();
    let page = scratch.path().join("lens.html");
    for model in ["embedded", &dir("text_llama2"), &dir("text_qwen3")] {
        let (vocab, logits) = logits(model);
        let args = ["lens", model, "--prompt", TEXT, "--json", "--top", "2", "--html", page.to_str().unwrap()];
        let json = succeed(&args).json();
        let tokens = ids(&json["tokens"]);
        let rows = json["rows"].as_array().unwrap();
        assert_eq!(rows[0]["point"], "blocks.0.hook_resid_pre");
        assert_eq!((&rows[1]["point"], &rows[1]["block"]), (&json!("blocks.0.hook_resid_post"), &json!(0)));
        for (i, cell) in rows.last().unwrap()["cells"].as_array().unwrap().iter().enumerate() {
            let row = &logits[i * vocab..(i + 1) * vocab];
            let best = (0..vocab).reduce(|a, b| if row[b] > row[a] { b } else { a }).unwrap();
            assert_eq!(cell["top"][0]["token"], best, "{model} {i}");
            assert_eq!(cell["top"].as_array().unwrap().len(), 2);
            close("top", &cell["top"][0]["probability"], log_probability(row, best).exp());
            let next = tokens.get(i + 1).map_or(best, |token| *token as usize);
            assert_eq!(json["targets"][i], next, "{model} {i}");
            close("target", &cell["log_probability"], log_probability(row, next));
            assert_eq!(cell["rank"], 1 + row.iter().filter(|x| **x > row[next]).count(), "{model} {i}");
        }
        let views = views(&page);
        assert_eq!(views[0]["values"].as_array().unwrap().len(), rows.len());
        assert_eq!(views[0]["x"]["ticks"].as_array().unwrap().len(), tokens.len());
        assert_eq!(views[0]["values"][0][0], rows[0]["cells"][0]["top"][0]["probability"]);
        // Some positions, and one token.
        let target = rows[1]["cells"][3]["top"][0]["token"].to_string();
        let some =
            ["lens", model, "--prompt", TEXT, "--positions", "3,-1", "--target", &format!("#{target}"), "--json"];
        let some = succeed(&some).json();
        assert_eq!(some["positions"], json!([3, tokens.len() - 1]));
        assert_eq!(some["rows"][1]["cells"][0]["top"][0], rows[1]["cells"][3]["top"][0]);
        assert_eq!(some["rows"][1]["cells"][0]["rank"], 1);
        let last = some["rows"].as_array().unwrap().last().unwrap();
        let row = &logits[logits.len() - vocab..];
        close("target", &last["cells"][1]["log_probability"], log_probability(row, target.parse().unwrap()));
    }
}

/// The same in a budget through which the weights stream.
#[test]
fn numbers_are_the_same_however_they_are_computed() {
    let model = asset();
    let clean = ["--clean", TEXT, "--corrupted", "ROMEO: My love, the king is", "--answer", " dead", "--wrong", " not"];
    let lens = ["lens", &model, "--prompt", TEXT];
    for command in [
        lens.to_vec(),
        [&lens[..], &["--dla", "--heads"]].concat(),
        [&lens[..], &["--attention", "1"]].concat(),
        [&["patch", &model], &clean[..]].concat(),
        [&["patch", &model, "--heads"], &clean[..]].concat(),
    ] {
        let numbers = |flags: &[&str]| {
            let mut json = succeed(&[&command[..], flags, &["--json"]].concat()).json();
            let map = json.as_object_mut().unwrap();
            let read = map.remove("bytes_read").unwrap();
            map.remove("peak_memory_bytes").unwrap();
            (json, read.as_u64().unwrap())
        };
        let (want, whole) = numbers(&[]);
        let refused = run(&[&command[..], &["--memory", "1M"]].concat());
        let smallest = refused.stderr.trim().rsplit(" is ").next().unwrap().to_owned();
        assert!(smallest.ends_with(" MiB"), "{refused:?}");
        let (small, streamed) = numbers(&["--memory", &smallest, "--threads", "1"]);
        assert!(small == want, "{command:?}");
        assert!(streamed > 0 && whole > 0);
        assert!(numbers(&["--chunk", "3", "--isa", "portable"]).0 == want, "{command:?}");
    }
}

#[test]
fn tables_tell_the_same_in_words() {
    let scratch = tempfile::tempdir().unwrap();
    let page = scratch.path().join("out.html");
    let html = page.to_str().unwrap();
    let outcome = succeed(&["lens", "embedded", "--prompt", TEXT, "--target", " dead", "--html", html]);
    assert!(outcome.stdout.contains("embed  ") && outcome.stdout.contains("probability of \"·dead\""), "{outcome:?}");
    assert!(outcome.stdout.lines().all(|line| line.chars().count() <= 140), "in a pipe, lines have an end");
    assert_eq!(outcome.stderr, format!("wrote {html}\n"));
    let outcome = succeed(&["lens", "embedded", "--prompt", TEXT, "--dla", "--target", " dead", "--against", " not"]);
    assert!(outcome.stdout.contains("the logit of \"·dead\" less that of \"·not\""), "{outcome:?}");
    let outcome = succeed(&["lens", "embedded", "--prompt", TEXT, "--attention", "1.2", "--html", html]);
    assert!(outcome.stdout.contains("head 2, in per cent") && !outcome.stdout.contains("head 1"), "{outcome:?}");
    assert_eq!(views(&page).as_array().unwrap().len(), 1);
    let outcome = succeed(&["lens", "embedded", "--prompt", TEXT, "--attention", "1", "--html", html]);
    assert!(outcome.stdout.contains("head 0") && outcome.stdout.contains("head 3"), "{outcome:?}");
    assert_eq!(views(&page).as_array().unwrap().len(), 4);
    // A model without a tokenizer: tokens are numbers.
    let outcome = succeed(&["lens", &dir("qwen3_tied"), "--tokens", "1,2,3"]);
    assert!(outcome.stdout.contains("0 #1") && outcome.stdout.contains("2 #3"), "{outcome:?}");
}

#[test]
fn what_is_added_adds_up() {
    for (model, target) in [("embedded", "#300"), (&dir("text_qwen3"), "#7"), (&dir("gemma2_hub"), "#7")] {
        let text = if model.contains("gemma2") { ["--tokens", "3,1,4,1,5"] } else { ["--prompt", TEXT] };
        let args = ["lens", model, text[0], text[1], "--dla", "--target", target, "--json"];
        let (blocks, heads) = (succeed(&args).json(), succeed(&[&args[..], &["--heads"]].concat()).json());
        for json in [&blocks, &heads] {
            let parts = json["parts"].as_array().unwrap();
            let sum: f64 = parts.iter().map(|part| part["value"].as_f64().unwrap()).sum();
            close("sum", &json["sum"], sum + json["biases"].as_f64().unwrap());
            assert!((json["sum"].as_f64().unwrap() - json["logit"].as_f64().unwrap()).abs() < 1e-4, "{json}");
        }
        assert_eq!(blocks["logit"], heads["logit"]);
        assert_eq!(blocks["capped"].is_number(), model.contains("gemma2"));
        let of_heads = heads["parts"].as_array().unwrap().iter().filter(|part| part["head"].is_number());
        assert!(of_heads.count() >= 8, "{heads}");
    }
}

#[test]
fn a_patch_ends_where_the_clean_text_does() {
    let scratch = tempfile::tempdir().unwrap();
    let page = scratch.path().join("patch.html");
    let corrupted = "ROMEO: My love, the king is";
    let args = ["patch", "embedded", "--clean", TEXT, "--corrupted", corrupted, "--answer", " dead", "--wrong", " not"];
    let json = succeed(&[&args[..], &["--json", "--html", page.to_str().unwrap()]].concat()).json();
    let first = json["first_difference"].as_u64().unwrap() as usize;
    let rows = json["rows"].as_array().unwrap();
    let n = json["clean"].as_array().unwrap().len();
    for row in rows {
        let shares = row["shares"].as_array().unwrap();
        assert_eq!(shares.len(), n);
        assert!(shares[..first].iter().all(|share| *share == 0.0), "nothing is different there");
    }
    let last = rows.last().unwrap()["shares"].as_array().unwrap();
    assert_eq!(last[n - 1], 1.0);
    assert!(last[..n - 1].iter().all(|share| *share == 0.0));
    // One of them by the way of a trace.
    let trace = scratch.path().join("clean");
    let trace = trace.to_str().unwrap();
    let point = "blocks.1.hook_resid_post";
    succeed(&["trace", "embedded", "--prompt", TEXT, "--capture", point, "--out", trace]);
    let patch = format!("{point}@{first}={trace}");
    let next = succeed(&["trace", "embedded", "--prompt", corrupted, "--patch", &patch, "--json"]).json();
    let steered =
        ["steer", "embedded", "--prompt", corrupted, "--patch", &patch, "--add", &format!("{point}@0=0*{trace}")];
    let steered = [&steered[..], &["--scales", "1", "--answer", " dead", "--wrong", " not", "--json"]].concat();
    let steered = succeed(&steered).json();
    assert_eq!(steered["runs"][0]["metric"], rows[1]["values"][first]);
    assert_eq!(steered["runs"][0]["top"][0]["token"], next["next"][0]["token"]);
    let views = views(&page);
    assert_eq!(views[0]["values"][1][first], rows[1]["shares"][first]);
    assert!(views[0]["x"]["ticks"][first].as_str().unwrap().contains("·lord/·love"), "{views}");
    // Heads, and another measure.
    let json = succeed(&[&args[..8], &["--heads", "--json"]].concat()).json();
    assert_eq!((&json["by"], &json["metric"]), (&json!("head"), &json!("log probability")));
    assert_eq!(json["rows"][0]["values"].as_array().unwrap().len(), 4);
    let table = succeed(&args);
    assert!(table.stdout.contains("4 ·lord/·…") && table.stdout.contains("1.000"), "{table:?}");
}

#[test]
fn steering_is_stronger_with_larger_factors() {
    let scratch = tempfile::tempdir().unwrap();
    let (trace, page) = (scratch.path().join("trace"), scratch.path().join("steer.html"));
    let trace = trace.to_str().unwrap();
    succeed(&["trace", "embedded", "--prompt", "love", "--capture", "blocks.2.hook_resid_post", "--out", trace]);
    let add = format!("blocks.2.hook_resid_post={trace}@-1");
    let args = ["steer", "embedded", "--prompt", TEXT, "--add", &add, "--scales=-1,0,1,4", "--top", "3"];
    let json = succeed(&[&args[..], &["--json", "--html", page.to_str().unwrap()]].concat()).json();
    let runs = json["runs"].as_array().unwrap();
    assert_eq!(runs.iter().map(|run| run["scale"].as_f64().unwrap()).collect::<Vec<_>>(), [-1.0, 0.0, 1.0, 4.0]);
    assert!(runs.iter().all(|run| run["metric"].is_null() && run["top"].as_array().unwrap().len() == 3));
    let (vocab, logits) = logits("embedded");
    let row = &logits[logits.len() - vocab..];
    let token = runs[1]["top"][0]["token"].as_u64().unwrap() as usize;
    assert!(row.iter().all(|x| *x <= row[token]), "a factor of 0 changes nothing");
    close("0", &runs[1]["top"][0]["probability"], log_probability(row, token).exp());
    assert_ne!(runs[2], runs[3]);
    let table = succeed(&args);
    assert!(table.stdout.contains("factor") && table.stdout.contains("\n     4  "), "{table:?}");
    assert_eq!(views(&page)[0]["y"]["ticks"], json!(["-1", "0", "1", "4"]));
}

#[test]
fn what_makes_no_sense_is_refused() {
    macro_rules! with {
        ($($arg:literal),*) => { &["lens", "{dir}", "--prompt", "Hello", $($arg),*] };
    }
    check_all(
        &[
            Refusal::args(
                "a target of several tokens",
                1,
                with!["--target", "Hello there"],
                &["--target", "is not one token"],
            ),
            Refusal::args(
                "a target beyond the vocabulary",
                1,
                with!["--target", "#99999"],
                &["token 99999", "out of range"],
            ),
            Refusal::args("a position beyond the text", 1, with!["--positions", "99"], &["no position \"99\""]),
            Refusal::args("a block that is not there", 1, with!["--attention", "9"], &["no block 9"]),
            Refusal::args("a head that is not there", 1, with!["--attention", "0.9"], &["no head 9"]),
            Refusal::args("no block", 2, with!["--attention", "x"], &["write a block"]),
            Refusal::args("two ways of looking", 2, with!["--attention", "0", "--dla"], &["cannot be used with"]),
            Refusal::args("heads of nothing", 2, with!["--heads"], &["--dla"]),
            Refusal::args("positions of --dla", 1, with!["--dla", "--positions", "0:2"], &["one position"]),
            Refusal::args("a page that cannot be written", 1, with!["--html", "/nowhere/x.html"], &["/nowhere"]),
            Refusal::args("no text", 2, &["lens", "{dir}"], &["--tokens", "--prompt"]),
            Refusal::args("no answer", 2, &["patch", "{dir}", "--clean", "a", "--corrupted", "b"], &["--answer"]),
            Refusal::args(
                "texts of different lengths",
                1,
                &["patch", "{dir}", "--clean-tokens", "1,2,3", "--corrupted-tokens", "1,2", "--answer", "#1"],
                &["3 tokens and the corrupted one 2"],
            ),
            Refusal::args(
                "the same text twice",
                1,
                &["patch", "{dir}", "--clean-tokens", "1,2", "--corrupted-tokens", "1,2", "--answer", "#1"],
                &["the same tokens"],
            ),
            Refusal::args(
                "an answer that is wrong",
                1,
                &[
                    "patch",
                    "{dir}",
                    "--clean-tokens",
                    "1,2",
                    "--corrupted-tokens",
                    "1,3",
                    "--answer",
                    "#1",
                    "--wrong",
                    "#1",
                ],
                &["the same token"],
            ),
            Refusal::args(
                "a point that is not there",
                1,
                &[
                    "patch",
                    "{dir}",
                    "--clean-tokens",
                    "1,2",
                    "--corrupted-tokens",
                    "1,3",
                    "--answer",
                    "#1",
                    "--point",
                    "hook_mpl_out",
                ],
                &["hook_mlp_out"],
            ),
            Refusal::args(
                "a point after the blocks",
                1,
                &[
                    "patch",
                    "{dir}",
                    "--clean-tokens",
                    "1,2",
                    "--corrupted-tokens",
                    "1,3",
                    "--answer",
                    "#1",
                    "--point",
                    "logits",
                ],
                &["comes after the blocks"],
            ),
            Refusal::args(
                "heads where there are none",
                1,
                &[
                    "patch",
                    "{dir}",
                    "--clean-tokens",
                    "1,2",
                    "--corrupted-tokens",
                    "1,3",
                    "--answer",
                    "#1",
                    "--heads",
                    "--point",
                    "hook_mlp_out",
                ],
                &["has no heads"],
            ),
            Refusal::args("nothing to scale", 1, &["steer", "{dir}", "--prompt", "a", "--scales", "1"], &["--add"]),
            Refusal::args("no factors", 2, &["steer", "{dir}", "--prompt", "a", "--add", "x=y"], &["--scales"]),
        ],
        20,
    );
}

#[test]
fn blocks_without_attention_are_named() {
    let outcome = run(&["lens", &dir("qwen3_next_hub"), "--tokens", "1,2,3", "--attention", "0"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("block 0 has no patterns of attention; these have: 3"), "{outcome:?}");
}
