//! `rheostat generate`: the text, its cost, and everything that must not change it.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use common::checkpoint::Checkpoint;
use common::{TEXT_CASES, dir, ids, reference, succeed, succeed_with};
use rheostat::Isa;
use rheostat::tokenizer::{ShowSpecial, Tokenizer, TokenizerFiles};
use serde_json::{Value, json};

/// Generates and gives the JSON object.
fn generate(args: &[&str]) -> Value {
    succeed(&[&["generate", "--json"], args].concat()).json()
}

/// The first thing that anybody tries.
#[test]
fn without_arguments_the_embedded_model_speaks() {
    let outcome = succeed(&["generate"]);
    let text = outcome.stdout.strip_prefix("ROMEO:\n").expect("the prompt is shown");
    assert!(text.len() > 200, "{text}");
    assert!(text.chars().all(|c| c.is_ascii_graphic() || c == ' ' || c == '\n'), "{text}");
    let words = text.split_whitespace().count();
    assert!(words > 40, "it is made of words: {text}");
    assert_eq!(outcome.stderr.lines().count(), 1, "one line about the cost and nothing else: {outcome:?}");
    assert!(outcome.stderr.starts_with("256 tokens, "), "{outcome:?}");
    for part in [" tok/s, ", "first token after ", " GB read, ", "peak memory "] {
        assert!(outcome.stderr.contains(part), "{part}: {outcome:?}");
    }
    assert_eq!(outcome.stdout, succeed(&["generate"]).stdout, "the same text every time");
    assert_ne!(outcome.stdout, succeed(&["generate", "--seed", "1"]).stdout);
}

/// Greedy text through the command is what transformers' `generate` gives.
#[test]
fn greedy_text_is_the_reference() {
    let mut compared = 0;
    for case in TEXT_CASES {
        for greedy in reference(case)["greedy"].as_array().unwrap() {
            let prompt = greedy["prompt"].as_str().unwrap();
            let text = greedy["text"].as_str().unwrap();
            let args = ["generate", &dir(case), prompt, "--raw", "-n", "64"];
            assert_eq!(succeed(&args).stdout, format!("{text}\n"), "{case}: {prompt:?}");
            let json = generate(&args[1..]);
            assert_eq!(ids(&json["prompt_tokens"]), ids(&greedy["prompt_ids"]), "{case}: {prompt:?}");
            assert_eq!(ids(&json["tokens"]), ids(&greedy["new_ids"]), "{case}: {prompt:?}");
            assert_eq!(json["text"], *text, "{case}: {prompt:?}");
            let finish = if greedy["stopped_by_eos"] == true { "eos" } else { "length" };
            assert_eq!(json["finish"], finish, "{case}: {prompt:?}");
            compared += 1;
        }
    }
    assert!(compared >= 15, "{compared} continuations");
}

#[test]
fn json_has_tokens_text_and_cost() {
    let json = generate(&[&dir("text_qwen3"), "The kettle", "--raw", "-n", "20"]);
    let dir = common::testdata("text_qwen3");
    let tokenizer = Tokenizer::load(&TokenizerFiles::read(&dir).unwrap()).unwrap();
    let tokens: Vec<u32> = ids(&json["tokens"]).iter().map(|id| *id as u32).collect();
    assert_eq!(tokens.len(), 20);
    assert_eq!(json["text"], tokenizer.decode(&tokens, ShowSpecial::Skip).unwrap());
    assert_eq!(json["model"], dir.to_str().unwrap());
    assert_eq!(json["finish"], "length");
    let cost = &json["cost"];
    assert_eq!(cost["new_tokens"], 20);
    assert!(cost["tokens_per_second"].as_f64().unwrap() > 0.0);
    assert!(cost["seconds_to_first_token"].as_f64().unwrap() > 0.0);
    let weights = std::fs::metadata(dir.join("model.safetensors")).unwrap().len();
    assert!(cost["bytes_read"].as_u64().unwrap() >= weights / 2, "{cost}");
    assert!(cost["peak_memory_bytes"].as_u64().unwrap() > 1 << 20, "{cost}");
    assert!(json["plan"]["budget"].as_u64().unwrap() > 0);
    let outcome = succeed(&["generate", "embedded", "ROMEO:", "-n", "2", "--json"]);
    assert_eq!(outcome.stderr, "", "the cost is in the object");
}

/// Threads, instruction sets, memory and chunks change the speed and nothing else.
#[test]
fn nothing_but_the_model_decides_the_tokens() {
    let prompt = "Over the café the rain, and the kettle's letter to a friend.";
    for case in ["text_llama3", "text_mistral", "text_qwen2"] {
        let model = dir(case);
        let base = ["--raw", &model, prompt, "-n", "48"];
        let want = generate(&base)["tokens"].clone();
        assert!(want.as_array().unwrap().len() >= 12, "{case}");
        // A budget is named for the arguments that were refused: each thread takes memory of its own.
        let small = smallest(&base);
        let small_for_three = smallest(&[&base[..], &["--threads", "3"]].concat());
        let mut ways: Vec<Vec<String>> = [
            vec!["--threads", "1"],
            vec!["--threads", "2"],
            vec!["--threads", "5"],
            vec!["--memory", &small],
            vec!["--memory", &small_for_three, "--threads", "3"],
            vec!["--memory", "1GiB"],
            vec!["--chunk", "1"],
            vec!["--chunk", "7"],
        ]
        .map(|way| way.into_iter().map(str::to_owned).collect())
        .into();
        ways.extend(Isa::available().iter().map(|isa| vec!["--isa".to_owned(), isa.name().to_owned()]));
        for way in ways {
            let args: Vec<&str> = base.iter().copied().chain(way.iter().map(String::as_str)).collect();
            assert_eq!(generate(&args)["tokens"], want, "{case} {way:?}");
        }
        for isa in Isa::available() {
            let args = [&["generate", "--json"], &base[..]].concat();
            let json = succeed_with(&args, b"", &[("RHEOSTAT_ISA", isa.name())]).json();
            assert_eq!(json["tokens"], want, "{case} RHEOSTAT_ISA={}", isa.name());
        }
    }
}

/// The smallest budget for these arguments.
fn smallest(args: &[&str]) -> String {
    let refused = common::run(&[&["generate", "--memory", "1M"], args].concat());
    let budget = refused.stderr.trim().rsplit(" is ").next().unwrap().to_owned();
    assert!(budget.ends_with(" MiB"), "{refused:?}");
    budget
}

/// With a budget that holds only a part of the weights, the rest is read again for each token.
#[test]
fn weights_that_do_not_fit_are_read_again() {
    let checkpoint = Checkpoint::copy("text_llama2");
    // A wider feed-forward: 60 MiB of weights, of which the smallest budget holds next to nothing.
    checkpoint.config("intermediate_size", json!(1 << 17));
    checkpoint.tensors("model.safetensors", |tensors| {
        for t in tensors.iter_mut().filter(|t| t.name.contains(".mlp.")) {
            let width = if t.name.contains("down_proj") { 1 } else { 0 };
            t.shape[width] = 1 << 17;
            let small = t.data.clone();
            t.data = small.iter().copied().cycle().take(2 * 40 * (1 << 17)).collect();
        }
    });
    let args = [checkpoint.dir(), "The kettle", "-n", "8"];
    let all = generate(&args);
    let (bytes, streamed) = (&all["cost"]["bytes_read"], &all["plan"]["streamed"]);
    assert_eq!(*streamed, 0, "{all}");
    let small = generate(&[&args[..], &["--memory", &smallest(&args)]].concat());
    assert_eq!(small["tokens"], all["tokens"]);
    assert!(small["plan"]["streamed"].as_u64().unwrap() > 32 << 20, "{small}");
    assert!(small["cost"]["bytes_read"].as_u64().unwrap() > 5 * bytes.as_u64().unwrap(), "{small} {all}");
    let (peak, budget) = (&small["cost"]["peak_memory_bytes"], &small["plan"]["budget"]);
    assert!(peak.as_u64().unwrap() <= budget.as_u64().unwrap(), "{small}");
}

#[test]
fn stop_strings_cut_the_text_before_them() {
    let whole = succeed(&["generate", "embedded", "ROMEO:\n", "-n", "120"]).stdout;
    for stop in ["\n", "I'll", ", sir", "gone.\n\nROMEO:"] {
        let json = generate(&["embedded", "ROMEO:\n", "-n", "120", "--stop", stop, "--stop", "never in it"]);
        let (before, _) = whole.split_once(stop).unwrap_or_else(|| panic!("{stop:?} in {whole}"));
        assert_eq!((&json["text"], &json["finish"]), (&json!(before), &json!("stop")), "{stop:?}");
    }
    let outcome = succeed(&["generate", "embedded", "ROMEO:\n", "-n", "120", "--stop", "never in it"]);
    assert_eq!(outcome.stdout, whole);
}

#[test]
fn draws_depend_on_the_seed_alone() {
    let model = dir("text_qwen2");
    let text = |args: &[&str]| {
        let all = [&[model.as_str(), "The kettle", "--raw", "-n", "32"], args].concat();
        generate(&all)["tokens"].clone()
    };
    let seven = text(&["--seed", "7"]);
    assert_eq!(seven, text(&["--seed", "7", "--threads", "1", "--chunk", "2"]));
    assert_ne!(seven, text(&["--seed", "8"]));
    assert_eq!(text(&["--seed", "0"]), text(&["--top-k", "20"]), "0 is the seed unless one is given");
    let greedy = text(&[]);
    assert_ne!(seven, greedy);
    assert_eq!(text(&["--temperature", "0", "--seed", "7"]), greedy);
    assert_eq!(text(&["--top-k", "1", "--seed", "7"]), greedy);
    assert_ne!(text(&["--repetition-penalty", "1.8"]), greedy);
    assert_eq!(text(&["--repetition-penalty", "1.8"]), text(&["--repetition-penalty", "1.8", "--temperature", "0"]));
}

/// The makers' settings hold where no flag speaks: with their `top_k` of 1, sampling is greedy.
#[test]
fn sampling_takes_the_rest_from_the_model() {
    let checkpoint = Checkpoint::copy("text_qwen3");
    checkpoint.generation("top_k", json!(1));
    let text = |args: &[&str]| generate(&[&[checkpoint.dir(), "The kettle", "--raw", "-n", "32"], args].concat());
    let greedy = text(&[])["tokens"].clone();
    assert_eq!(text(&["--seed", "7"])["tokens"], greedy);
    assert_ne!(text(&["--seed", "7", "--top-k", "0"])["tokens"], greedy);
}

#[test]
fn few_tokens() {
    let json = generate(&["embedded", "ROMEO:", "-n", "0"]);
    assert_eq!((&json["tokens"], &json["text"], &json["finish"]), (&json!([]), &json!(""), &json!("length")));
    assert!(json["cost"]["seconds_to_first_token"].is_null(), "{json}");
    let outcome = succeed(&["generate", "embedded", "ROMEO:", "-n", "0"]);
    assert_eq!(outcome.stdout, "\n");
    assert!(outcome.stderr.starts_with("0 tokens, ") && !outcome.stderr.contains("tok/s"), "{outcome:?}");
    let json = generate(&["embedded", "ROMEO:", "-n", "1"]);
    assert_eq!(json["tokens"].as_array().unwrap().len(), 1);
    let outcome = succeed(&["generate", "embedded", "ROMEO:", "-n", "1"]);
    assert!(outcome.stderr.starts_with("1 token, first token after "), "{outcome:?}");
}

/// A text ends where the model's context does, however many tokens were asked for.
#[test]
fn the_context_ends_a_text() {
    for tokens in ["5000", "18446744073709551615"] {
        let json = generate(&[&dir("text_mistral"), "The kettle", "-n", tokens]);
        assert_eq!(json["finish"], "context");
        // The last token is not read any more.
        assert_eq!(json["tokens"].as_array().unwrap().len(), 256 - 4 + 1);
    }
    let outcome = succeed(&["generate", &dir("text_mistral"), "The kettle", "-n", "5000"]);
    assert!(outcome.stderr.contains("the model's context of 256 tokens is full"), "{outcome:?}");
}

#[test]
fn a_prompt_from_standard_input() {
    let greedy = &reference("text_qwen3")["greedy"][1];
    let prompt = greedy["prompt"].as_str().unwrap();
    assert!(prompt.contains('\n'));
    let args = ["generate", &dir("text_qwen3"), "-", "--raw", "-n", "64"];
    let outcome = succeed_with(&args, prompt.as_bytes(), &[]);
    assert_eq!(outcome.stdout, format!("{}\n", greedy["text"].as_str().unwrap()));
}

/// A model with a chat template is given a message, unless it is told to continue the text.
#[test]
fn a_chat_model_is_given_a_message() {
    for case in ["text_qwen2", "text_qwen3"] {
        let chat = &reference(case)["chats"][0];
        let message = chat["messages"][0]["content"].as_str().unwrap();
        for flags in [&[][..], &["--chat"]] {
            let json = generate(&[&[dir(case).as_str(), message, "-n", "1"], flags].concat());
            assert_eq!(ids(&json["prompt_tokens"]), ids(&chat["ids"]), "{case} {flags:?}");
        }
        let raw = generate(&[&dir(case), message, "-n", "1", "--raw"]);
        assert!(raw["prompt_tokens"].as_array().unwrap().len() < 20, "{case}");
    }
}
