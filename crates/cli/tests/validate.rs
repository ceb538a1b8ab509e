//! `rheostat validate`: what transformers recorded passes, and whatever is changed in it is found and named.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::path::PathBuf;

use common::{Outcome, dir, ids, reference, run, succeed, tensors, testdata};
use serde_json::{Value, json};

/// Sizes that reference.json and validate both have.
const SIZES: [&str; 7] = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
];

/// A reference in a file of its own.
struct Recorded {
    case: String,
    value: Value,
    scratch: tempfile::TempDir,
}

/// The ten likeliest tokens with their logits.
fn top_10(logits: &[f32]) -> Value {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    order[..10].iter().map(|i| json!({"index": i, "logit": logits[*i]})).collect()
}

impl Recorded {
    /// What transformers recorded of a reference checkpoint, as validate wants it.
    fn new(case: &str) -> Recorded {
        let info = reference(case);
        let all = tensors(&testdata(case).join("reference.safetensors"));
        let config: Value =
            serde_json::from_slice(&std::fs::read(testdata(case).join("config.json")).unwrap()).unwrap();
        let mut value = json!({
            "model_repo": case,
            "model_type": config["model_type"],
            "dtype": info["dtype"],
            "attention": info["attention"],
            "versions": info["versions"],
            "last_residual_point": "hook_resid_post",
        });
        for size in SIZES {
            value[size] = info["sizes"][size].clone();
        }
        let mut cases = Vec::new();
        for (name, (_, tokens)) in all.iter().filter(|(name, _)| name.ends_with(".tokens")) {
            let prompt = name.strip_suffix(".tokens").unwrap();
            let last = |tensor: &str| {
                let (shape, values) = all.get(&format!("{prompt}.{tensor}"))?;
                Some(values[values.len() - shape[1]..].to_vec())
            };
            let blocks = (0..).take_while(|i| all.contains_key(&format!("{prompt}.hidden.{i}"))).count();
            let residual = blocks.checked_sub(1).and_then(|block| last(&format!("hidden.{block}")));
            cases.push(json!({
                "tokens": tokens.iter().map(|t| *t as u64).collect::<Vec<_>>(),
                "top_10": top_10(&last("logits").unwrap()),
                "last_residual_f32": residual,
            }));
        }
        value["test_cases"] = cases.into();
        Recorded { case: case.to_owned(), value, scratch: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        let file = self.scratch.path().join("r.json");
        std::fs::write(&file, self.value.to_string()).unwrap();
        file
    }

    fn validate(&self, flags: &[&str]) -> Outcome {
        let (dir, file) = (dir(&self.case), self.file());
        run(&[&["validate", &dir, "--reference", file.to_str().unwrap()], flags].concat())
    }
}

/// Residuals of a few units of their own allow for more than the default bar would.
#[test]
fn what_transformers_recorded_passes() {
    let (mut cases, mut sizes) = (0, 0);
    for entry in std::fs::read_dir(testdata("qwen3_tied").parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if !path.join("reference.safetensors").is_file() || !path.join("config.json").is_file() {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let recorded = Recorded::new(&name);
        let outcome = recorded.validate(&["--json"]);
        assert_eq!(outcome.code, Some(0), "{name}: {outcome:?}");
        let json = outcome.json();
        assert_eq!(
            (&json["passed"], &json["complaints"], &json["passed_over"]),
            (&json!(true), &json!([]), &json!([]))
        );
        assert!(json["largest"]["difference"].as_f64().unwrap() < 1e-3, "{json}");
        let facts = json["facts"].as_array().unwrap();
        let verdict = |fact: &str| &facts.iter().find(|f| f["name"] == fact).unwrap()["verdict"];
        assert_eq!(verdict("model_type"), "same", "{name}");
        for size in SIZES.iter().filter(|size| recorded.value[size].is_number()) {
            assert_ne!(verdict(size), "differs", "{name}: {size}");
            sizes += usize::from(verdict(size) == "same");
        }
        cases += json["cases"].as_array().unwrap().len();
    }
    assert!(cases > 200 && sizes > 800, "only {cases} test cases and {sizes} sizes");
}

#[test]
fn whether_queries_and_keys_are_normed_is_compared() {
    for (case, qk_norm) in [
        ("qwen3_tied", true),
        ("llama_plain", false),
        ("opensci_flags", true),
        ("cohere_hub", false),
        ("deepseek_v3_hub", false),
        ("qwen3_next_hub", true),
    ] {
        let mut recorded = Recorded::new(case);
        recorded.value["qk_norm"] = qk_norm.into();
        assert_eq!(recorded.validate(&[]).code, Some(0), "{case}");
        recorded.value["qk_norm"] = (!qk_norm).into();
        let outcome = recorded.validate(&[]);
        assert_eq!(outcome.code, Some(1), "{case}");
        let told = format!("qk_norm is {qk_norm} here and {} in the reference", !qk_norm);
        assert!(outcome.stderr.contains(&told), "{case}: {outcome:?}");
    }
}

/// What is wrong, which test case it is in, and what must be said.
type Damage = (&'static str, fn(&mut Value), &'static [&'static str]);

#[test]
fn whatever_is_changed_is_found_and_named() {
    let damages: &[Damage] = &[
        (
            "a logit is off",
            |r| {
                let logit = &mut r["test_cases"][1]["top_10"][3]["logit"];
                *logit = json!(logit.as_f64().unwrap() + 2e-3);
            },
            &["test case 2: the logit of token", "2.0e-3 apart, and 1e-3 is allowed"],
        ),
        (
            "two of the ten are swapped",
            |r| r["test_cases"][0]["top_10"].as_array_mut().unwrap().swap(4, 5),
            &["in 2 ways", "test case 1: place 5 of the top 10 is token"],
        ),
        (
            "the residual is another position's",
            |r| r["test_cases"][1]["last_residual_f32"] = r["test_cases"][0]["last_residual_f32"].take(),
            &["test case 2: element", "of the last residual (after the last block)"],
        ),
        (
            "the residual is of another size",
            |r| _ = r["test_cases"][0]["last_residual_f32"].as_array_mut().unwrap().pop(),
            &["test case 1: the last residual has 40 elements here and 39 in the reference"],
        ),
        ("a size is wrong", |r| r["head_dim"] = json!(128), &["head_dim is 24 here and 128 in the reference"]),
        ("the depth is wrong", |r| r["num_hidden_layers"] = json!(4), &["num_hidden_layers is 3 here and 4"]),
        ("the family is wrong", |r| r["model_type"] = json!("llama"), &["model_type is qwen3 here and llama"]),
        ("there are no QK norms", |r| r["qk_norm"] = json!(false), &["qk_norm is true here and false"]),
        (
            "a token is not in the vocabulary",
            |r| r["test_cases"][0]["tokens"][0] = json!(199),
            &["test case 1: it cannot be run: token 199 at position 0 is out of range"],
        ),
        (
            "one of the ten is not in the vocabulary",
            |r| r["test_cases"][0]["top_10"][9]["index"] = json!(4000),
            &["place 10 of the top 10 is token", "and token 4000 in the reference"],
        ),
    ];
    for (name, damage, told) in damages {
        let mut recorded = Recorded::new("qwen3_tied");
        assert_eq!(recorded.validate(&[]).code, Some(0));
        damage(&mut recorded.value);
        for flags in [&[][..], &["--json"]] {
            let outcome = recorded.validate(flags);
            assert_eq!(outcome.code, Some(1), "{name}: {outcome:?}");
            for words in *told {
                assert!(outcome.stderr.contains(words), "{name}: {outcome:?}");
            }
            if flags.is_empty() {
                assert!(outcome.stdout.contains("largest difference: "), "{name}: {outcome:?}");
            } else {
                assert_eq!(outcome.json()["passed"], false);
            }
        }
    }
}

#[test]
fn a_near_tie_is_told_but_not_excused() {
    let mut recorded = Recorded::new("qwen3_tied");
    let top = recorded.value["test_cases"][0]["top_10"].as_array_mut().unwrap();
    top[1]["logit"] = top[0]["logit"].clone();
    top.swap(0, 1);
    let outcome = recorded.validate(&["--bar", "10"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("in 2 ways") && outcome.stderr.contains("a near tie"), "{outcome:?}");
}

#[test]
fn a_bar_is_kept() {
    let mut recorded = Recorded::new("qwen3_tied");
    let logit = &mut recorded.value["test_cases"][0]["top_10"][0]["logit"];
    *logit = json!(logit.as_f64().unwrap() + 2e-3);
    assert_eq!(recorded.validate(&["--bar", "0.0021"]).code, Some(0));
    assert_eq!(recorded.validate(&["--bar", "0.0019"]).code, Some(1));
    assert_eq!(Recorded::new("qwen3_tied").validate(&["--bar", "1e-9"]).code, Some(1));
    assert_eq!(Recorded::new("qwen3_tied").validate(&["--bar", "-1"]).code, Some(2));
}

/// Less is recorded, by other names, and of the residual not what it is.
#[test]
fn files_of_others_are_read_and_what_they_lack_is_told() {
    let mut recorded = Recorded::new("qwen3_tied");
    let all = tensors(&testdata("qwen3_tied").join("reference.safetensors"));
    let (shape, values) = &all["p0.final_hidden"];
    let last = &values[values.len() - shape[1]..];
    let case = &recorded.value["test_cases"][0];
    recorded.value = json!({
        "methodology": "by hand\u{1b}[2J", "torch_version": "2.1", "num_layers": 3, "num_kv_heads": 2, "use_qk_norm": true,
        "test_cases": [{"tokens": case["tokens"], "top_10": case["top_10"], "last_residual_f32": last, "seed": 1}],
    });
    let outcome = recorded.validate(&[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for told in [
        "passed over (not understood, not checked): methodology, test_cases[].seed",
        "not recorded: model_repo, model_type, hidden_size, num_attention_heads, head_dim",
        "after the final norm, as the nearer one",
        "torch 2.1",
        "The model agrees with the reference",
    ] {
        assert!(outcome.stdout.contains(told), "{told}: {outcome:?}");
    }
    assert!(!outcome.stdout.contains('\u{1b}'));
    let json = recorded.validate(&["--json"]).json();
    assert_eq!(json["cases"][0]["residual"]["point"], "ln_final.hook_out");
    assert_eq!(json["cases"][0]["residual"]["point_recorded"], false);
    // Said to be what it is not, it does not agree.
    recorded.value["last_residual_point"] = "blocks.2.hook_resid_post".into();
    assert_eq!(recorded.validate(&[]).code, Some(1));
}

#[test]
fn tokens_are_compared_with_the_tokenizers() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out.safetensors");
    for case in ["text_qwen3", "text_llama3"] {
        let text = reference(case)["greedy"][0]["prompt"].as_str().unwrap().to_owned();
        let written = succeed(&["logits", &dir(case), "--prompt", &text, "-o", out.to_str().unwrap(), "--json"]).json();
        let (shape, values) = &tensors(&out)["logits"];
        let tokens = ids(&written["tokens"]);
        let entry = json!({"prompt": text, "tokens": tokens, "top_10": top_10(&values[values.len() - shape[1]..])});
        let mut recorded = Recorded { value: json!({"test_cases": [entry]}), ..Recorded::new(case) };
        let json = recorded.validate(&["--json"]).json();
        assert_eq!(
            (&json["passed"], &json["cases"][0]["tokenizer"]["verdict"]),
            (&json!(true), &json!("same")),
            "{case}"
        );
        // Without tokens they are the tokenizer's.
        recorded.value["test_cases"][0].as_object_mut().unwrap().remove("tokens");
        let json = recorded.validate(&["--json"]).json();
        assert_eq!(json["cases"][0]["tokenizer"]["verdict"], "not recorded", "{case}");
        assert_eq!((&json["passed"], &json["cases"][0]["tokens"]), (&json!(true), &json!(tokens.len())), "{case}");
        // Tokens of another text.
        let mut other = tokens.clone();
        *other.last_mut().unwrap() ^= 1;
        recorded.value["test_cases"][0]["tokens"] = json!(other);
        let outcome = recorded.validate(&[]);
        let told = format!("the tokenizer gives other tokens than recorded, first at position {}", tokens.len() - 1);
        assert_eq!(outcome.code, Some(1));
        assert!(outcome.stderr.contains(&told), "{case}: {outcome:?}");
    }
}

/// A model without a tokenizer: the recorded tokens are run, and that nobody checked them is told.
#[test]
fn without_a_tokenizer_recorded_tokens_are_run() {
    let mut recorded = Recorded::new("qwen3_tied");
    recorded.value["test_cases"][0]["prompt"] = "some text".into();
    let json = recorded.validate(&["--json"]).json();
    assert_eq!(json["passed"], true);
    assert_eq!(json["cases"][0]["tokenizer"]["verdict"], "no tokenizer");
    recorded.value["test_cases"][0].as_object_mut().unwrap().remove("tokens");
    let outcome = recorded.validate(&[]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("test case 1: it cannot be run: "), "{outcome:?}");
}

#[test]
fn numbers_are_the_same_however_they_are_computed() {
    let recorded = Recorded::new("qwen3_tied");
    let numbers = |flags: &[&str]| {
        let outcome = recorded.validate(&[flags, &["--json"]].concat());
        assert_eq!(outcome.code, Some(0), "{flags:?}: {outcome:?}");
        outcome.json()["cases"].clone()
    };
    let want = numbers(&[]);
    for flags in [&["--chunk", "1"][..], &["--chunk", "3", "--threads", "1"], &["--memory", "200M", "--io", "buffered"]]
    {
        assert_eq!(numbers(flags), want, "{flags:?}");
    }
}

#[test]
fn what_is_no_reference_is_refused_with_2() {
    let recorded = Recorded::new("qwen3_tied");
    let file = recorded.file();
    for (contents, told) in [
        (&b"{}"[..], "no test_cases"),
        (b"\xff", "not JSON"),
        (b"{\"test_cases\": [{\"tokens\": [1], \"top_10\": 4}]}", "\"test_cases[0].top_10\" is 4"),
    ] {
        std::fs::write(&file, contents).unwrap();
        let outcome = run(&["validate", &dir("qwen3_tied"), "--reference", file.to_str().unwrap()]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains(told) && outcome.stdout.is_empty(), "{outcome:?}");
    }
    let outcome = run(&["validate", &dir("qwen3_tied"), "--reference", "/nowhere/r.json"]);
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("cannot be read (No such file or directory)"), "{outcome:?}");
    // A model that cannot be opened is another matter.
    std::fs::write(&file, recorded.value.to_string()).unwrap();
    assert_eq!(run(&["validate", "/nowhere", "--reference", file.to_str().unwrap()]).code, Some(1));
}
