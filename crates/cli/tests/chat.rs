//! `rheostat chat` in a pipe: a message a line, an answer to each.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use common::checkpoint::Checkpoint;
use common::{Outcome, dir, ids, succeed_with};
use serde_json::{Value, json};

/// A conversation.
fn chat(model: &str, lines: &[&str], flags: &[&str]) -> Outcome {
    let stdin: String = lines.iter().map(|line| format!("{line}\n")).collect();
    succeed_with(&[&["chat", model], flags].concat(), stdin.as_bytes(), &[])
}

/// The answer to `messages`, from a model that has seen nothing else.
fn one_shot(model: &str, messages: &Value, flags: &[&str]) -> String {
    let args = ["prompt", model, "--messages", "-", "--json"];
    let prompt = succeed_with(&args, messages.to_string().as_bytes(), &[]).json();
    let text = prompt["text"].as_str().unwrap();
    let args = [&["generate", model, "-", "--raw", "--json"], flags].concat();
    let generated = succeed_with(&args, text.as_bytes(), &[]).json();
    assert_eq!(ids(&generated["prompt_tokens"]), ids(&prompt["token_ids"]), "the model reads what prompt shows");
    generated["text"].as_str().unwrap().to_owned()
}

fn user(text: &str) -> Value {
    json!({ "role": "user", "content": text })
}

fn assistant(text: &str) -> Value {
    json!({ "role": "assistant", "content": text })
}

/// Three turns give what each would give on its own, though only the first is read from the beginning.
#[test]
fn every_turn_is_what_a_fresh_reading_gives() {
    let dynamic = Checkpoint::copy("text_qwen3");
    dynamic.config("max_position_embeddings", json!(64));
    dynamic.config("rope_scaling", json!({ "rope_type": "dynamic", "factor": 4.0 }));
    let models = [dir("text_qwen2"), dir("text_qwen3"), dynamic.dir().to_owned()];
    let lines = ["Is it rain?", "Or the kettle?", "déjà 雨 🌧"];
    for model in &models {
        for flags in [&["-n", "16"][..], &["-n", "16", "--seed", "3"], &["-n", "1"]] {
            let mut messages = Vec::new();
            let mut want = String::new();
            for line in lines {
                messages.push(user(line));
                let answer = one_shot(model, &json!(messages), flags);
                want += &format!("{answer}\n");
                messages.push(assistant(&answer));
            }
            let outcome = chat(model, &lines, flags);
            assert_eq!(outcome.stdout, want, "{model} {flags:?}");
            assert_eq!(outcome.stderr, "", "{model} {flags:?}");
        }
    }
}

#[test]
fn two_messages_have_two_answers() {
    for case in ["text_qwen2", "text_qwen3"] {
        let first = chat(&dir(case), &["Hello there"], &["-n", "12"]).stdout;
        let both = chat(&dir(case), &["Hello there", "And more"], &["-n", "12"]).stdout;
        let second = both.strip_prefix(&first).unwrap_or_else(|| panic!("{first:?} {both:?}"));
        assert!(!second.trim().is_empty() && second.ends_with('\n'), "{case}: {both:?}");
        assert_ne!(second, first, "{case}");
    }
}

#[test]
fn clear_forgets_and_exit_ends() {
    let model = dir("text_qwen3");
    let flags = ["-n", "12"];
    let first = chat(&model, &["Hello there"], &flags).stdout;
    let again = chat(&model, &["Hello there", "/clear", "Hello there"], &flags);
    assert_eq!((again.stdout.as_str(), again.stderr.as_str()), (format!("{first}{first}").as_str(), ""));
    for exit in ["/exit", "/quit", "  /exit  "] {
        assert_eq!(chat(&model, &["Hello there", exit, "And more"], &flags).stdout, first);
    }
    assert_eq!(chat(&model, &["", "   ", "Hello there", ""], &flags).stdout, first, "empty lines are no messages");
    let nothing = chat(&model, &[], &flags);
    assert_eq!((nothing.stdout, nothing.stderr), (String::new(), String::new()));
}

#[test]
fn commands_that_there_are_not() {
    let model = dir("text_qwen3");
    let first = chat(&model, &["Hello there"], &["-n", "4"]).stdout;
    let outcome = chat(&model, &["/sing", "Hello there", "/help"], &["-n", "4"]);
    assert_eq!(outcome.stdout, first, "a command is no message");
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert!(lines[0].contains("there is no command /sing") && lines[0].contains("/clear"), "{outcome:?}");
    assert!(lines[1].contains("/clear") && lines[1].contains("/exit") && lines.len() == 2, "{outcome:?}");
    // What only begins with a slash is a message.
    let path = chat(&model, &["/etc/hosts is a file"], &["-n", "4"]);
    assert_eq!(
        path.stdout.trim_end_matches('\n'),
        one_shot(&model, &json!([user("/etc/hosts is a file")]), &["-n", "4"])
    );
}

#[test]
fn the_system_is_told_first_and_stays() {
    let model = dir("text_qwen3");
    let system = json!({ "role": "system", "content": "-Be brief." });
    let want = one_shot(&model, &json!([system, user("Is it rain?")]), &["-n", "10"]);
    let outcome = chat(&model, &["Is it rain?", "/clear", "Is it rain?"], &["-n", "10", "--system", "-Be brief."]);
    assert_eq!(outcome.stdout, format!("{want}\n{want}\n"));
    assert_ne!(want, one_shot(&model, &json!([user("Is it rain?")]), &["-n", "10"]));
}

/// An answer ends where the context does; the next message has no room.
#[test]
fn a_conversation_can_be_full() {
    let stdin = b"Is it rain?\nOr the kettle?\n";
    let outcome = common::run_with(&["chat", &dir("text_qwen3"), "--context", "64"], stdin, &[]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let first = chat(&dir("text_qwen3"), &["Is it rain?"], &["--context", "64"]).stdout;
    assert_eq!(outcome.stdout, first, "the first is answered");
    assert!(outcome.stderr.starts_with("error: with this message the conversation has "), "{outcome:?}");
    assert!(outcome.stderr.contains("room for 64") && outcome.stderr.contains("/clear"), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1);
}

/// What a template does not read is found before anything is typed.
#[test]
fn arguments_are_checked_at_once() {
    let outcome = common::run(&["chat", &dir("text_qwen3"), "--template-arg", "enable_thinking=false"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("never reads `enable_thinking`"), "{outcome:?}");
}
