//! Readers that go away, disks that are full, and Ctrl-C.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::io::{Read, Write};
use std::process::{Child, Stdio};

use common::checkpoint::Checkpoint;
use common::process::{end, interrupt, listens, wait_until};
use common::{Outcome, command, dir};
use serde_json::json;

/// A model that goes on for as long as anybody listens.
fn endless() -> Checkpoint {
    let checkpoint = Checkpoint::copy("text_qwen3");
    checkpoint.config("max_position_embeddings", json!(1 << 20));
    checkpoint.generation("eos_token_id", json!(null));
    checkpoint
}

/// The first bytes of standard output.
fn first_bytes(child: &mut Child, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    child.stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

/// A pipe that nobody reads any more.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// As with `| head`: the command ends in silence, long before it would have.
#[test]
fn a_reader_may_leave_in_the_middle() {
    let model = endless();
    let mut child = command(&["generate", model.dir(), "Hello", "-n", "1000000"]).spawn().unwrap();
    first_bytes(&mut child, 100);
    drop(child.stdout.take());
    let outcome = end(child);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome:?}");
}

#[test]
fn nobody_may_be_reading_at_all() {
    let model = dir("text_qwen3");
    let messages = r#"[{"role": "user", "content": "Hello"}]"#;
    for args in [
        &["generate"][..],
        &["generate", "embedded", "ROMEO:", "--json"],
        &["inspect", &model],
        &["inspect", &model, "--json"],
        &["prompt", &model, "--messages", "-"],
        &["eval", "ppl", &model, "--text", "-"],
        &["chat", &model, "-n", "5"],
        &["--help"],
    ] {
        for (stdout, stderr) in [(true, false), (true, true), (false, true)] {
            let mut command = command(args);
            command.stdin(Stdio::piped());
            if stdout {
                command.stdout(closed());
            }
            if stderr {
                command.stderr(closed());
            }
            let mut child = command.spawn().unwrap();
            // It may be gone before it reads.
            let _ = child.stdin.take().unwrap().write_all(messages.as_bytes());
            let outcome = end(child);
            assert_eq!(outcome.code, Some(0), "{args:?} {stdout} {stderr}: {outcome:?}");
            assert_eq!(outcome.stderr, if stdout || stderr { "" } else { "never" }, "{args:?}");
            assert_eq!(outcome.stdout.is_empty(), stdout, "{args:?}");
        }
    }
    // A failure is one, even if nobody hears of it.
    let outcome = end(command(&["generate", "/nowhere", "Hello"]).stderr(closed()).spawn().unwrap());
    assert_eq!(outcome.code, Some(1));
}

#[test]
fn a_full_disk_is_an_error() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    for args in [&["generate"][..], &["generate", "--json"], &["inspect", "embedded"]] {
        let outcome = end(command(args).stdout(full()).spawn().unwrap());
        assert_eq!(outcome.code, Some(1), "{args:?}: {outcome:?}");
        assert_eq!(outcome.stderr, "error: standard output cannot be written (No space left on device)\n", "{args:?}");
    }
}

/// Ctrl-C: the text so far, its cost, and the exit code that shells know.
#[test]
fn ctrl_c_ends_a_text() {
    let model = endless();
    let args = ["generate", model.dir(), "The kettle", "--raw", "-n", "1000000"];
    let mut child = command(&args).spawn().unwrap();
    let mut text = first_bytes(&mut child, 300);
    interrupt(&child);
    let outcome = end_after(child, &mut text);
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
    let greedy = &common::reference("text_qwen3")["greedy"][0];
    let start: String = greedy["text"].as_str().unwrap().chars().take(60).collect();
    assert!(outcome.stdout.starts_with(&start) && outcome.stdout.ends_with('\n'), "{start:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    assert!(outcome.stderr.contains(" tok/s, ") && outcome.stderr.contains("peak memory"), "{}", outcome.stderr);
}

/// As [`end`], where `begun` of standard output was read before; it may have ended within a character.
fn end_after(mut child: Child, begun: &mut Vec<u8>) -> Outcome {
    let mut pipe = child.stdout.take().unwrap();
    let mut begun = std::mem::take(begun);
    let reader = std::thread::spawn(move || {
        pipe.read_to_end(&mut begun).unwrap();
        begun
    });
    let outcome = end(child);
    Outcome { stdout: String::from_utf8(reader.join().unwrap()).unwrap(), ..outcome }
}

#[test]
fn ctrl_c_leaves_an_object() {
    let model = endless();
    let mut child = command(&["generate", model.dir(), "The kettle", "-n", "1000000", "--json"]).spawn().unwrap();
    // Nothing tells when it listens; before that, Ctrl-C ends it at once.
    wait_until("it to listen", || listens(child.id()) || child.try_wait().unwrap().is_some());
    interrupt(&child);
    let outcome = end(child);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(130), ""), "{outcome:?}");
    let json = outcome.json();
    assert_eq!(json["finish"], "interrupted");
    assert_eq!(json["cost"]["new_tokens"], json["tokens"].as_array().unwrap().len());
}

/// Of half a text nothing is known, and nothing is said.
#[test]
fn ctrl_c_ends_an_evaluation() {
    let text = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(text.path(), "Now is the winter of our discontent\n".repeat(20_000)).unwrap();
    let args = ["eval", "ppl", "embedded", "--text", text.path().to_str().unwrap()];
    let child = command(&args).spawn().unwrap();
    wait_until("it to listen", || listens(child.id()));
    interrupt(&child);
    let outcome = end(child);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(130), "error: interrupted\n"), "{outcome:?}");
    assert_eq!(outcome.stdout, "");
}

/// No half of a file is left behind, under any name.
#[test]
fn ctrl_c_leaves_no_file() {
    let model = endless();
    let tokens = vec!["7"; 40_000].join(",");
    let out = model.scratch().join("out.safetensors");
    let files = || std::fs::read_dir(model.scratch()).unwrap().count();
    let args = ["logits", model.dir(), "--tokens", &tokens, "-o", out.to_str().unwrap()];
    let mut child = command(&args).spawn().unwrap();
    wait_until("a file", || files() > 0 || child.try_wait().unwrap().is_some());
    interrupt(&child);
    let outcome = end(child);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(130), "error: interrupted\n"), "{outcome:?}");
    assert_eq!(files(), 0);
}

/// In a conversation it cuts the answer, and the conversation goes on.
#[test]
fn ctrl_c_cuts_an_answer() {
    let model = endless();
    let args = ["chat", model.dir(), "-n", "1000000", "--context", "500000"];
    let mut child = command(&args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"Hello there\n").unwrap();
    let mut text = first_bytes(&mut child, 300);
    interrupt(&child);
    stdin.write_all(b"/sing\n/exit\n").unwrap();
    let outcome = end_after(child, &mut text);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.ends_with('\n'));
    assert!(outcome.stderr.starts_with("there is no command /sing"), "it goes on after the cut: {}", outcome.stderr);
}

/// While it waits for a message, there is nothing to cut: it ends.
#[test]
fn ctrl_c_ends_a_conversation_that_waits() {
    let model = dir("text_qwen3");
    let mut child = command(&["chat", &model, "-n", "3"]).stdin(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    wait_until("it to listen", || listens(child.id()));
    // One that comes before it waits is for whatever was going on then.
    wait_until("the end", || {
        interrupt(&child);
        child.try_wait().unwrap().is_some()
    });
    let outcome = end(child);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(130), ""), "{outcome:?}");
    drop(stdin);
}
