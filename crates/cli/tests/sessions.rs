//! `--save-session`, `--load-session` and `--kv-disk` through the command.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::process::Command;

use common::checkpoint::Checkpoint;
use common::{Outcome, PROGRAM, dir, ids, run, succeed, succeed_with, testdata};
use serde_json::{Value, json};

fn generate(args: &[&str]) -> Value {
    succeed(&[&["generate", "--json"], args].concat()).json()
}

#[track_caller]
fn refused(args: &[&str], parts: &[&str]) {
    let outcome = run(args);
    assert_ne!(outcome.code, Some(0), "{args:?}: {outcome:?}");
    assert_eq!(outcome.stdout, "", "{args:?}");
    for part in parts {
        assert!(outcome.stderr.contains(part), "{args:?}: no {part:?} in {outcome:?}");
    }
}

/// The weights of `case`, which carries states, with the tokens of a model that reads text.
fn with_states(case: &str) -> Checkpoint {
    let model = Checkpoint::copy(case);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(testdata("text_qwen3").join(file), model.path(file)).unwrap();
    }
    let vocab = 345;
    model.tensors("model.safetensors", |tensors| {
        for tensor in tensors.iter_mut().filter(|t| t.name.contains("embed_tokens") || t.name.contains("lm_head")) {
            // Rows for the other tokens: those that are there, each time turned by an element more.
            let (rows, width) = (tensor.shape[0], tensor.data.len() / tensor.shape[0]);
            let own = tensor.data.clone();
            tensor.data = (0..vocab).flat_map(|i| turned(&own[i % rows * width..][..width], i / rows)).collect();
            tensor.shape[0] = vocab;
        }
    });
    model.config("vocab_size", json!(vocab));
    model.config("eos_token_id", json!(340));
    model.config("max_position_embeddings", json!(4096));
    model
}

/// A row of bf16, turned by `n` elements.
fn turned(row: &[u8], n: usize) -> Vec<u8> {
    let mut row = row.to_vec();
    row.rotate_left(2 * n);
    row
}

/// What a session says that it has read, and how many tokens it has.
fn read_of(file: &str) -> (usize, usize) {
    let bytes = std::fs::read(file).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let tokens = metadata.info("tokens").unwrap().shape[0];
    (metadata.metadata().as_ref().unwrap()["read"].parse().unwrap(), tokens)
}

const STATES: [&str; 3] = ["lfm2_hub", "qwen3_5_text", "qwen3_next_hub"];

/// The same for models with states; in turns with the cache on disk, and with guesses, after which more is to be read again.
#[test]
fn states_go_on_where_they_stopped() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = place.path().join("session");
    let (file, spool) = (file.to_str().unwrap(), place.path().to_str().unwrap());
    let text = "It rained, and the kettle was on. ".repeat(50);
    for case in STATES {
        let model = with_states(case);
        for flags in [&["--temperature=0.9"][..], &["--kv-disk", spool, "--chunk", "300"], &["--speculate=lookup"]] {
            let flags = &[flags, &["--raw"]].concat();
            let whole = generate(&[&[model.dir(), &text, "-n", "24"], &flags[..]].concat());
            assert!(ids(&whole["prompt_tokens"]).len() > 600 && whole["finish"] == "length", "it ends nowhere else");
            let first = generate(&[&[model.dir(), &text, "-n", "9", "--save-session", file], &flags[..]].concat());
            let both = [model.dir(), "-n", "9", "--load-session", file, "--save-session", file];
            let second = generate(&[&both, &flags[..]].concat());
            let third = generate(&[&[model.dir(), "", "-n", "6", "--load-session", file], &flags[..]].concat());
            let parts = [&first, &second, &third].map(|part| ids(&part["tokens"])).concat();
            assert_eq!(parts, ids(&whole["tokens"]), "{case} {flags:?}");
        }
    }
}

/// Of a document that is only read, the last token is left for what follows: a state could not go back by it.
#[test]
fn a_document_that_is_only_read_with_states() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (file, other) = (place.path().join("session"), place.path().join("other"));
    let (file, other) = (file.to_str().unwrap(), other.to_str().unwrap());
    let document = "The kettle was on. It rained, and rained again.";
    for case in STATES {
        let model = with_states(case);
        let read = generate(&[model.dir(), document, "--raw", "-n", "0", "--save-session", file]);
        let n = ids(&read["prompt_tokens"]).len();
        assert_eq!((&read["finish"], read_of(file)), (&json!("length"), (n - 1, n)));
        for question in [" What was on?", ""] {
            let whole = generate(&[model.dir(), &format!("{document}{question}"), "--raw", "-n", "12"]);
            let asked = succeed(&["generate", "--json", model.dir(), question, "-n", "12", "--load-session", file]);
            assert_eq!(asked.json()["tokens"], whole["tokens"], "{case}: {question}");
            assert!(!asked.stderr.contains("note:"), "{}", asked.stderr);
        }
        // Where the last token is all that there is to read, it is read, and the text begins anew: it says so, and is the same.
        let args = ["generate", "--json", model.dir(), "", "-n", "0", "--load-session", file, "--save-session", other];
        succeed(&args);
        assert_eq!(read_of(other), (n, n));
        let whole = generate(&[model.dir(), document, "--raw", "-n", "12"]);
        let anew = succeed(&["generate", "--json", model.dir(), "-n", "12", "--load-session", other]);
        assert_eq!(anew.json()["tokens"], whole["tokens"], "{case}");
        let said = format!("only up to token {} of {n}, and this model carries states", n - 1);
        assert!(anew.stderr.contains(&said), "{}", anew.stderr);
        // One token has nothing before it to be read alone.
        generate(&[model.dir(), "T", "--raw", "-n", "0", "--save-session", file]);
        assert_eq!(read_of(file), (1, 1));
    }
}

/// A conversation whose template forgets what was answered follows the session only to there.
#[test]
fn a_conversation_with_states_goes_on() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = place.path().join("session");
    let file = file.to_str().unwrap();
    for case in STATES {
        let model = with_states(case);
        let lines = ["Is it rain?", "Or the kettle?", "And then?"];
        for forgetful in [false, true] {
            if forgetful {
                model.template(
                    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + \
                     ('' if message.role == 'assistant' else message.content) + '<|im_end|>' }}{%- endfor %}\
                     {{- '<|im_start|>assistant\\n' }}",
                );
            }
            let whole = chat(model.dir(), &lines, &[]).stdout;
            let first = chat(model.dir(), &lines[..1], &["--save-session", file]).stdout;
            let rest = chat(model.dir(), &lines[1..], &["--load-session", file, "--save-session", file]);
            assert_eq!(format!("{first}{}", rest.stdout), whole, "{case}");
            let notes = rest.stderr.matches("this model carries states, which cannot go back").count();
            assert!(if forgetful { notes == 1 } else { notes <= 1 }, "{case}: {}", rest.stderr);
        }
        refused(&["chat", &dir("text_qwen3"), "--load-session", file], &["another model made the session"]);
    }
}

#[test]
fn a_text_goes_on_where_it_stopped() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = place.path().join("session");
    let file = file.to_str().unwrap();
    for (case, sampling) in [("text_qwen3", "--repetition-penalty=1.2"), ("text_llama2", "--temperature=0.9")] {
        for cache in ["f32", "bf16"] {
            let model = dir(case);
            let flags = ["--raw", sampling, "--kv-cache", cache];
            let whole = generate(&[&[&model, "The kettle", "-n", "24"], &flags[..]].concat());
            let first = generate(&[&[&model, "The kettle", "-n", "9", "--save-session", file], &flags[..]].concat());
            // The same file, read and written.
            let args = [&model, "-n", "9", "--load-session", file, "--save-session", file];
            let second = generate(&[&args, &flags[..]].concat());
            assert_eq!(second["session_tokens"], ids(&first["prompt_tokens"]).len() + 9);
            let third = generate(&[&[&model, "", "-n", "6", "--load-session", file], &flags[..]].concat());
            let parts = [&first, &second, &third].map(|part| ids(&part["tokens"])).concat();
            assert_eq!(parts, ids(&whole["tokens"]), "{case} {cache}");
        }
    }
}

/// A document is read once, and asked several things.
#[test]
fn a_document_that_is_only_read() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = place.path().join("session");
    let file = file.to_str().unwrap();
    let model = dir("text_qwen3");
    let document = "The kettle was on. It rained, and rained again.";
    let read = generate(&[&model, document, "--raw", "-n", "0", "--save-session", file]);
    assert_eq!((&read["finish"], ids(&read["tokens"]).len()), (&json!("length"), 0));
    let before = std::fs::read(file).unwrap();
    for question in [" What was on?", " And then?", ""] {
        let whole = generate(&[&model, &format!("{document}{question}"), "--raw", "-n", "12"]);
        let asked = generate(&[&model, question, "-n", "12", "--load-session", file]);
        // The two are cut into the same tokens here, or this says nothing.
        let cut = [ids(&read["prompt_tokens"]), ids(&asked["prompt_tokens"])].concat();
        assert_eq!(cut, ids(&whole["prompt_tokens"]), "{question}");
        assert_eq!(asked["text"], whole["text"], "{question}");
        assert_eq!(asked["tokens"], whole["tokens"], "{question}");
    }
    assert_eq!(std::fs::read(file).unwrap(), before, "loading leaves it as it was");
}

fn chat(model: &str, lines: &[&str], flags: &[&str]) -> Outcome {
    let stdin: String = lines.iter().map(|line| format!("{line}\n")).collect();
    succeed_with(&[&["chat", model, "-n", "12"], flags].concat(), stdin.as_bytes(), &[])
}

#[test]
fn a_conversation_goes_on() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = place.path().join("session");
    let file = file.to_str().unwrap();
    let spool = place.path().to_str().unwrap();
    let dynamic = Checkpoint::copy("text_qwen3");
    dynamic.config("max_position_embeddings", json!(64));
    dynamic.config("rope_scaling", json!({ "rope_type": "dynamic", "factor": 4.0 }));
    for model in [dir("text_qwen2"), dir("text_qwen3"), dynamic.dir().to_owned()] {
        let lines = ["Is it rain?", "Or the kettle?", "And then?"];
        let whole = chat(&model, &lines, &["--system", "Be brief."]).stdout;
        let first = chat(&model, &lines[..1], &["--system", "Be brief.", "--save-session", file]).stdout;
        let both = ["--load-session", file, "--save-session", file];
        let second = chat(&model, &lines[1..2], &both).stdout;
        let third = chat(&model, &lines[2..], &[&both[..2], &["--kv-disk", spool]].concat()).stdout;
        assert_eq!(format!("{first}{second}{third}"), whole, "{model}");
        // What the model was told is not forgotten with the rest.
        let cleared = chat(&model, &["/clear", lines[0]], &both[..2]).stdout;
        assert_eq!(cleared, first, "{model}");
        refused(&["chat", &model, "--system", "x", "--load-session", file], &["cannot be used with"]);
        refused(&["generate", &model, "x", "--chat", "--load-session", file], &["cannot be used with"]);
    }
}

#[test]
fn what_cannot_be_loaded_or_saved() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = place.path().join("session");
    let file = path.to_str().unwrap();
    let model = dir("text_qwen3");
    generate(&[&model, "The kettle", "--raw", "-n", "4", "--save-session", file]);
    let load = |model: &str, flags: &[&str]| {
        let args = ["generate", model, "x", "--load-session", file];
        run(&[&args, flags].concat()).stderr
    };
    assert!(load(&dir("text_qwen2"), &[]).contains("another model made the session"), "{}", load("text_qwen2", &[]));
    assert!(load(&model, &["--kv-cache", "bf16"]).contains("run with --compute f32 --kv-cache f32, or"));
    assert!(load(&model, &["--template-arg", "a=1"]).contains("none is in use here"));
    refused(&["chat", &model, "--load-session", file], &["holds a text and no conversation"]);
    let long = "kettle ".repeat(300);
    refused(&["generate", &model, &long, "--load-session", file], &["do not fit the model's context of 256"]);
    // An attempt that fails leaves the file as it was, and nothing beside it.
    let good = std::fs::read(&path).unwrap();
    refused(&["generate", &model, &long, "--load-session", file, "--save-session", file], &["do not fit"]);
    assert_eq!(std::fs::read(&path).unwrap(), good);
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 4;
    std::fs::write(&path, damaged).unwrap();
    assert!(load(&model, &[]).contains("session: the session is damaged; read the text again"));
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    assert!(load(&model, &[]).contains("damaged"));
    std::fs::write(&path, "hello, this is a letter and no session").unwrap();
    assert!(load(&model, &[]).contains("this is no session"), "{}", load(&model, &[]));
    for (path, part) in [
        (place.path().to_str().unwrap(), "this is a directory"),
        (&format!("{file}/x"), "no file can be made in this directory"),
        ("/missing/x", "no file can be made in this directory"),
        ("/dev/null", "this is no regular file"),
    ] {
        refused(&["generate", &model, "x", "--save-session", path], &[path, part]);
    }
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
    // Through a link, not over it.
    let link = place.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    generate(&[&model, "The kettle", "--raw", "-n", "4", "--save-session", link.to_str().unwrap()]);
    assert!(link.is_symlink());
    assert_eq!(std::fs::read(&path).unwrap(), good, "the same run, the same bytes");
}

/// A model whose context holds several blocks.
fn long_model() -> Checkpoint {
    let model = Checkpoint::copy("text_qwen3");
    model.config("max_position_embeddings", json!(4096));
    model
}

#[test]
fn a_cache_on_disk_changes_nothing() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let spool = place.path().to_str().unwrap();
    let model = long_model();
    let text = "It rained, and the kettle was on. ".repeat(160);
    for cache in ["f32", "bf16"] {
        let args = [model.dir(), &text, "--raw", "-n", "40", "--kv-cache", cache];
        let in_memory = generate(&args);
        assert!(ids(&in_memory["prompt_tokens"]).len() > 1100);
        let on_disk = generate(&[&args[..], &["--kv-disk", spool, "--chunk", "300"]].concat());
        assert_eq!(on_disk["tokens"], in_memory["tokens"]);
        assert!(on_disk["plan"]["kv_disk"].as_u64().unwrap() > 0 && in_memory["plan"]["kv_disk"] == 0);
        let read = |run: &Value| run["cost"]["bytes_read"].as_u64().unwrap();
        assert!(read(&on_disk) > read(&in_memory) + (1 << 20));
    }
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    let inspected = succeed(&["inspect", model.dir(), "--kv-disk", spool]).stdout;
    assert!(inspected.contains("on disk"), "{inspected}");
    let missing = format!("{spool}/missing");
    refused(&["generate", model.dir(), "x", "--kv-disk", &missing], &["--kv-disk", "give a directory that is there"]);
    refused(&["generate", model.dir(), "x", "--kv-disk", "/proc"], &["/proc: no temporary file can be made there"]);
}

/// A disk that fills up in the middle of a run, as a limit on the size of files has it.
#[test]
fn a_disk_that_fills_up() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let model = long_model();
    let text = "It rained, and the kettle was on. ".repeat(60);
    let limited = |blocks: u32, flags: &[&str]| {
        // A signal that is ignored stays so: the write fails, and the program has to say it.
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, PROGRAM, "generate", model.dir(), &text, "--raw", "-n", "4"]);
        Outcome::new(&command.args(flags).output().unwrap())
    };
    let spool = place.path().to_str().unwrap();
    let outcome = limited(128, &["--kv-disk", spool]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:?}");
    let part = format!("{spool}: writing");
    assert!(outcome.stderr.contains(&part) && outcome.stderr.contains("File too large"), "{outcome:?}");
    // The same for a session: what was there stays.
    let file = place.path().join("session");
    std::fs::write(&file, "what was there").unwrap();
    let outcome = limited(128, &["--save-session", file.to_str().unwrap()]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("session: it cannot be written"), "{outcome:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"what was there");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
}
