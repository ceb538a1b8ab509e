//! `rheostat logits`, `prompt` and `inspect`: what they write is what the references say.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use common::checkpoint::Checkpoint;
use common::{dir, ids, reference, run, succeed, succeed_with, tensors, testdata};
use serde_json::{Value, json};

/// The ten likeliest tokens.
fn top(logits: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    order.truncate(10);
    order
}

#[test]
fn logits_are_the_reference_whatever_the_chunk() {
    let cases = ["llama_plain", "mistral_window", "opensci_flags", "qwen2_layer_types", "qwen3_sharded", "text_qwen3"];
    let scratch = tempfile::tempdir().unwrap();
    for case in cases {
        let want = tensors(&testdata(case).join("reference.safetensors"));
        let mut prompts = 0;
        for (name, (_, tokens)) in want.iter().filter(|(name, _)| name.ends_with(".tokens")) {
            let prompt = name.strip_suffix(".tokens").unwrap();
            let list: Vec<String> = tokens.iter().map(ToString::to_string).collect();
            let write = |file: &str, flags: &[&str]| {
                let path = scratch.path().join(file);
                let (model, list, out) = (dir(case), list.join(","), path.to_str().unwrap());
                let outcome = succeed(&[&["logits", &model, "--tokens", &list, "-o", out], flags].concat());
                assert!(outcome.stderr.contains(&format!("[{}, ", tokens.len())), "{outcome:?}");
                assert_eq!(outcome.stdout, "");
                tensors(&path)
            };
            let whole = write("whole", &[]);
            assert_eq!(whole.keys().collect::<Vec<_>>(), ["final_hidden", "logits"]);
            for (tensor, tolerance) in [("logits", 3e-5), ("final_hidden", 3e-5)] {
                let (shape, values) = &want[&format!("{prompt}.{tensor}")];
                assert_eq!(&whole[tensor].0, shape, "{case} {prompt} {tensor}");
                let far = whole[tensor].1.iter().zip(values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(far <= tolerance, "{case} {prompt} {tensor}: {far}");
            }
            let (shape, values) = &want[&format!("{prompt}.logits")];
            for (ours, theirs) in whole["logits"].1.chunks(shape[1]).zip(values.chunks(shape[1])) {
                assert_eq!(top(ours), top(theirs), "{case} {prompt}");
            }
            let bits = |file: &Tensors| -> Vec<u32> {
                file.values().flat_map(|(_, values)| values.iter().map(|v| v.to_bits())).collect()
            };
            for flags in [&["--chunk", "1"][..], &["--chunk", "3", "--threads", "1"], &["--isa", "portable"]] {
                assert_eq!(bits(&write("other", flags)), bits(&whole), "{case} {prompt} {flags:?}");
            }
            prompts += 1;
        }
        assert!(prompts > 0, "{case}");
    }
}

type Tensors = std::collections::BTreeMap<String, (Vec<usize>, Vec<f32>)>;

#[test]
fn logits_of_a_text_and_about_them() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out.safetensors");
    let greedy = &reference("text_llama3")["greedy"][0];
    let prompt = greedy["prompt"].as_str().unwrap();
    let args = ["logits", &dir("text_llama3"), "--prompt", prompt, "-o", out.to_str().unwrap(), "--json"];
    let json = succeed(&args).json();
    assert_eq!(ids(&json["tokens"]), ids(&greedy["prompt_ids"]));
    assert_eq!(json["logits"], json!([4, 365]));
    assert_eq!(json["final_hidden"], json!([4, 48]));
    assert_eq!(json["not_finite"], 0);
    assert_eq!(json["file"], out.to_str().unwrap());
    let (shape, values) = &tensors(&out)["logits"];
    assert_eq!(*shape, [4, 365]);
    assert_eq!(top(&values[3 * 365..])[0] as u64, ids(&greedy["new_ids"])[0]);
    // Readable by whoever may read a new file.
    use std::os::unix::fs::PermissionsExt;
    let fresh = scratch.path().join("fresh");
    std::fs::write(&fresh, b"").unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&out), mode(&fresh));
}

/// Logits that are no numbers are written, as this is the place to look at them, and spoken of.
#[test]
fn logits_that_are_not_finite_are_counted() {
    let checkpoint = Checkpoint::copy("text_qwen3");
    checkpoint.tensor("model.embed_tokens.weight", |t| t.data[2 * 40 * 7..][..2].copy_from_slice(&[0xC0, 0x7F]));
    let out = checkpoint.scratch().join("out");
    let args = ["logits", checkpoint.dir(), "--tokens", "1,2,3", "-o", out.to_str().unwrap()];
    let outcome = succeed(&args);
    // Row 7 of the tied head is damaged: one logit at each position.
    assert!(outcome.stderr.starts_with("note: 3 of the logits are not finite"), "{outcome:?}");
    assert_eq!(tensors(&out)["logits"].1.iter().filter(|x| x.is_nan()).count(), 3);
}

#[test]
fn prompts_are_the_reference() {
    let mut compared = 0;
    for case in ["text_qwen2", "text_qwen3"] {
        for chat in reference(case)["chats"].as_array().unwrap() {
            let messages = chat["messages"].to_string();
            let model = dir(case);
            let mut args = vec!["prompt", &model, "--messages", "-"];
            if chat["add_generation_prompt"] == false {
                args.push("--no-generation-prompt");
            }
            assert_eq!(succeed_with(&args, messages.as_bytes(), &[]).stdout, *chat["text"].as_str().unwrap());
            args.push("--json");
            let outcome = succeed_with(&args, messages.as_bytes(), &[]);
            assert_eq!(outcome.json()["text"], chat["text"]);
            assert_eq!(ids(&outcome.json()["token_ids"]), ids(&chat["ids"]));
            assert_eq!(outcome.stderr, "");
            compared += 1;
        }
    }
    assert!(compared >= 8, "{compared} conversations");
}

#[test]
fn templates_read_tools_and_arguments() {
    let checkpoint = Checkpoint::copy("text_qwen3");
    checkpoint.template("{{ tools[0].name }} {{ mood }} {{ count + 1 }} {% if quiet %}quiet{% else %}loud{% endif %}");
    let (messages, tools) = (checkpoint.scratch().join("m"), checkpoint.scratch().join("t"));
    std::fs::write(&messages, r#"[{"role": "user", "content": "Hello"}]"#).unwrap();
    std::fs::write(&tools, r#"[{"name": "now"}]"#).unwrap();
    let args = ["prompt", checkpoint.dir(), "--messages", messages.to_str().unwrap()];
    let args = [&args[..], &["--tools", tools.to_str().unwrap()]].concat();
    for (set, want) in [
        (&["mood=a=b", "count=2", "quiet=true"][..], "now a=b 3 quiet"),
        (&["mood=\"7\"", "count=-1", "quiet=false"], "now 7 0 loud"),
        (&["mood=calm and merry", "count=0", "quiet=\"\""], "now calm and merry 1 loud"),
    ] {
        let flags = set.iter().flat_map(|arg| ["--template-arg", arg]);
        assert_eq!(succeed(&args.iter().copied().chain(flags).collect::<Vec<_>>()).stdout, want);
    }
}

#[test]
fn inspection_says_what_a_model_is() {
    let fields = |case: &str| succeed(&["inspect", case, "--json"]).json();
    let json = fields("embedded");
    for (field, want) in [
        ("family", json!("qwen3")),
        ("parameters", json!(3_410_688)),
        ("num_hidden_layers", json!(4)),
        ("hidden_size", json!(256)),
        ("head_dim", json!(64)),
        ("vocab_size", json!(1024)),
        ("context", json!(1024)),
        ("tied_head", json!(true)),
        ("tokenizer", json!(true)),
        ("chat_template", json!(false)),
        ("odd", json!([])),
        ("plan_error", Value::Null),
    ] {
        assert_eq!(json[field], want, "{field}");
    }
    let json = fields(&dir("qwen3_sharded"));
    let sizes = ["files", "num_attention_heads", "num_key_value_heads", "intermediate_size", "bytes"];
    assert_eq!(sizes.map(|key| json[key].clone()), [json!(3), json!(4), json!(1), json!(88), json!(200_960)]);
    assert_eq!(json["dtypes"], json!({ "BF16": 200_960 }));
    assert!(json["rope"][0].as_str().unwrap().contains("yarn × 4 from 64"), "{json}");
    assert_eq!(json["tokenizer"], false);
    assert!(fields(&dir("qwen3_head_differs"))["odd"].to_string().contains("the stored one is used"));
    assert_eq!(fields(&dir("text_qwen2"))["chat_template"], true);
}

#[test]
fn inspection_is_a_table() {
    let outcome = succeed(&["inspect", &dir("qwen2_layer_types"), "--context", "100"]);
    for (row, want) in [
        ("family", "qwen2"),
        ("shape", "3 layers, hidden 56, vocabulary 131, context 256"),
        (
            "blocks",
            "layers 0, 2: RMS norm, attention, 7 heads over 1 of 8, window 11; RMS norm, gated feed-forward of 72 (silu)",
        ),
        ("blocks", "biases on q_proj, k_proj, v_proj"),
        ("rope", "theta 1000000"),
        ("tokenizer", "has no tokenizer.json"),
        ("streams", "nothing: all weights stay in memory"),
    ] {
        let line = outcome.stdout.lines().find(|l| l.split("  ").next() == Some(row));
        assert!(line.is_some_and(|l| l.contains(want)), "{row}: {}", outcome.stdout);
    }
    assert!(
        outcome.stdout.contains("\n              layer 1: RMS norm, attention, 7 heads over 1 of 8; "),
        "{}",
        outcome.stdout
    );
    assert_eq!(outcome.stderr, "");
    let plan = |flags: &[&str]| succeed(&[&["inspect", "embedded", "--json"], flags].concat()).json()["plan"].clone();
    assert!(plan(&["--context", "64"])["kv_cache"].as_u64() < plan(&["--context", "1024"])["kv_cache"].as_u64());
    assert_eq!(plan(&["--memory", "100MiB"])["budget"], 100 << 20);
    assert!(plan(&["--threads", "9"])["threads"].as_u64() > plan(&["--threads", "1"])["threads"].as_u64());
}

/// What streams, what stays, and how long it should take; the disk's rate is measured once and then known.
#[test]
fn a_plan_tells_what_to_expect() {
    let cache = tempfile::tempdir().unwrap();
    let env = [("XDG_CACHE_HOME", cache.path().to_str().unwrap())];
    let model = dir("text_qwen3");
    let outcome = succeed_with(&["plan", &model, "--context", "50", "--batch", "3"], b"", &env);
    for (row, want) in [
        ("model", "text_qwen3"),
        ("memory", " of a budget of "),
        ("streams", "nothing: all weights stay in memory"),
        ("measured", " GFLOP/s"),
        ("a sweep", "a token for each of 3 texts in about "),
        ("a prompt", "of 50 tokens in about "),
        ("advice", " decides: "),
    ] {
        let line = outcome.stdout.lines().find(|l| l.split("  ").next() == Some(row));
        assert!(line.is_some_and(|l| l.contains(want)), "{row}: {}", outcome.stdout);
    }
    // Half a gigabyte of holes, which take no room on the disk.
    let large = Checkpoint::of_holes("text_qwen3", 1_000_000);
    let plan = |flags: &[&str]| {
        let args = [&["plan", large.dir(), "--json", "--memory", "150MiB", "--context", "64"], flags].concat();
        succeed_with(&args, b"", &env).json()
    };
    let first = plan(&[]);
    let streamed = first["plan"]["streamed"].as_f64().unwrap();
    assert!(streamed > 0.0, "{first}");
    let rate = &first["rates"]["disk_bytes_per_second"];
    // Some file systems do not read past the page cache, and then there is nothing to measure.
    if let Some(rate) = rate.as_f64() {
        assert!((first["sweep"]["disk_seconds"].as_f64().unwrap() - streamed / rate).abs() < 1e-6, "{first}");
        assert_eq!(plan(&[])["rates"]["disk_bytes_per_second"], rate, "it is known by now");
        let known = std::fs::read(cache.path().join("rheostat/disks.json")).unwrap();
        plan(&["--measure"]);
        assert_ne!(std::fs::read(cache.path().join("rheostat/disks.json")).unwrap(), known, "it is measured again");
    }
    // Rates are measured anew each time; within one plan a sweep carries as many tokens as there are texts.
    for (plan, texts) in [(first, 1.0), (plan(&["--batch", "2"]), 2.0)] {
        let number = |value: &Value| value.as_f64().unwrap();
        let carried = number(&plan["tokens_per_second"]) * number(&plan["sweep"]["seconds"]);
        assert!((carried - texts).abs() < 1e-6, "{plan}");
    }
}

/// A budget larger than what there is is cut down to that, and said so.
#[test]
fn a_budget_is_never_more_than_there_is() {
    let plan = succeed(&["inspect", "embedded", "--json", "--memory", "1000TiB"]).json()["plan"].clone();
    assert_eq!(plan["asked"].as_u64(), Some(1000 << 40));
    assert!(plan["budget"].as_u64() < Some(1 << 50), "{plan}");
    let outcome = succeed(&["inspect", "embedded", "--memory", "1000TiB"]);
    assert!(outcome.stdout.contains("(1000 TiB were asked for, and no more is free)"), "{outcome:?}");
}

/// Every command has a page of help on standard output, with a sentence for every argument.
#[test]
fn help() {
    for (command, words) in [
        (
            "generate",
            &["MODEL", "--raw", "--stop", "--memory", "Sampling", "Resources", "--batch", "--speculate", "--draft"][..],
        ),
        ("chat", &["MODEL", "--system", "--context", "--temperature"]),
        ("logits", &["--tokens", "--prompt", "--out", "safetensors"]),
        ("prompt", &["--messages", "--tools", "--template-arg"]),
        ("inspect", &["--context", "--json", "--memory"]),
        ("eval ppl", &["MODEL", "--text", "--window", "--tokens", "--json", "--memory", "bos_token", "nats", "f64"]),
        ("plan", &["--context", "--batch", "--measure", "--json", "--memory"]),
        ("bench", &["--n-prompt", "--n-depth", "--repetitions", "--json", "--memory"]),
    ] {
        let outcome = succeed(&command.split(' ').chain(["--help"]).collect::<Vec<_>>());
        assert!(words.iter().all(|word| outcome.stdout.contains(word)), "{command}: {}", outcome.stdout);
        assert_eq!(outcome.stderr, "");
        assert!(!outcome.stdout.contains("--isa"), "what only tests need is not shown");
    }
    assert!(succeed(&["--help"]).stdout.starts_with("Run Hugging Face language models"));
    assert_eq!(succeed(&["--version"]).stdout, format!("rheostat {}\n", env!("CARGO_PKG_VERSION")));
}

/// What is not a regular file cannot be written out of order, and a link leads to what is written.
#[test]
fn logits_go_where_the_name_leads() {
    let dir = tempfile::tempdir().unwrap();
    let (target, link) = (dir.path().join("target"), dir.path().join("link"));
    std::fs::write(&target, "old").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let out = link.to_str().unwrap();
    succeed(&["logits", "embedded", "--tokens", "1,2", "--out", out]);
    assert!(link.is_symlink(), "the link stays a link");
    let bytes = std::fs::read(&target).unwrap();
    assert_eq!(safetensors::SafeTensors::deserialize(&bytes).unwrap().tensor("logits").unwrap().shape(), [2, 1024]);
    let outcome = run(&["logits", "embedded", "--tokens", "1,2", "--out", "/dev/null"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("/dev/null is no regular file"), "{outcome:?}");
}

/// A prompt that goes through a chat template says so; one that does not has nothing to say.
#[test]
fn the_chat_template_is_not_used_in_silence() {
    let words = "went through the model's chat template; --raw";
    let model = dir("text_qwen3");
    assert!(succeed(&["generate", &model, "hi", "-n", "2"]).stderr.contains(words));
    assert!(!succeed(&["generate", &model, "hi", "-n", "2", "--raw"]).stderr.contains(words));
    assert_eq!(succeed(&["generate", &model, "hi", "-n", "2", "--json"]).json()["chat_template"], true);
    assert_eq!(succeed(&["generate", &model, "hi", "-n", "2", "--json", "--raw"]).json()["chat_template"], false);
}

/// Keys that published checkpoints carry and that change nothing.
#[test]
fn harmless_keys_are_no_obstacle() {
    for (case, key, value) in [
        ("text_llama3", "rope_interleaved", json!(false)),
        ("text_llama3", "is_llama_config", json!(true)),
        ("text_llama3", "pretraining_tp", json!(1)),
        ("text_qwen2", "use_mrope", json!(false)),
        ("text_qwen2", "add_cross_attention", json!(false)),
        ("text_mistral", "no_repeat_ngram_size", json!(0)),
    ] {
        let copy = Checkpoint::copy(case);
        copy.config(key, value);
        let outcome = succeed(&["inspect", copy.dir(), "--json"]);
        assert_eq!(outcome.json()["odd"], json!([]), "{case} with {key}");
    }
    for (case, key) in [("text_llama3", "rope_interleaved"), ("text_qwen2", "use_mrope")] {
        let copy = Checkpoint::copy(case);
        copy.config(key, json!(true));
        let outcome = run(&["inspect", copy.dir()]);
        assert!(outcome.stderr.contains(key) && outcome.stderr.contains("must be false"), "{outcome:?}");
    }
}
