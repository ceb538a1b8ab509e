//! Arguments that make no sense, and budgets and places that do not do.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use common::checkpoint::Checkpoint;
use common::refusals::{Refusal, check_all};
use common::{run, run_with, succeed, succeed_with};
use serde_json::json;

#[test]
fn arguments_that_make_no_sense() {
    macro_rules! flag {
        ($name:literal, $code:literal, [$($flag:literal),+], $($told:literal),+) => {
            Refusal::args($name, $code, &["generate", "{dir}", "Hello", $($flag),+], &[$($told),+])
        };
    }
    let table = [
        flag!("memory in words", 2, ["--memory", "plenty"], "--memory", "\"plenty\"", "such as 6GiB or 512M"),
        flag!("unit that is none", 2, ["--memory", "5Q"], "--memory", "\"5Q\"", "such as 6GiB or 512M"),
        flag!("no memory at all", 2, ["--memory", "0"], "--memory", "such as 6GiB or 512M"),
        flag!("less than no memory", 2, ["--memory=-1G"], "--memory", "such as 6GiB or 512M"),
        flag!("no threads", 2, ["--threads", "0"], "--threads", "a whole number from 1 to 4096"),
        flag!("threads beyond reason", 2, ["--threads", "100000"], "--threads", "a whole number from 1 to 4096"),
        flag!("half a thread", 2, ["--threads", "1.5"], "--threads", "a whole number from 1"),
        flag!("temperature below zero", 1, ["--temperature", "-1"], "--temperature is -1", "0 (greedy) or more"),
        flag!(
            "temperature that is no number",
            1,
            ["--temperature", "nan"],
            "--temperature is NaN",
            "0 (greedy) or more"
        ),
        flag!("infinite temperature", 1, ["--temperature", "inf"], "--temperature is inf", "must be"),
        flag!("temperature in words", 2, ["--temperature", "hot"], "--temperature", "'hot'", "such as 0.7"),
        flag!("top-p of nothing", 1, ["--top-p", "0"], "--top-p is 0", "above 0 and at most 1"),
        flag!("top-p of more than all", 1, ["--top-p", "2"], "--top-p is 2", "above 0 and at most 1"),
        flag!("min-p of more than all", 1, ["--min-p", "1.5"], "--min-p is 1.5", "from 0 to 1"),
        flag!("no penalty factor", 1, ["--repetition-penalty", "0"], "--repetition-penalty is 0", "from 0.01 to 100"),
        flag!("negative top-k", 2, ["--top-k", "-1"], "--top-k", "'-1'", "a whole number, 0 or more"),
        flag!("seed in words", 2, ["--seed", "lucky"], "--seed", "'lucky'", "a whole number"),
        flag!("negative number of tokens", 2, ["-n", "-5"], "--max-new-tokens", "'-5'", "a whole number, 0 or more"),
        flag!("end at nothing", 2, ["--stop", ""], "--stop", "never ends anything"),
        flag!("raw and chat", 2, ["--raw", "--chat"], "'--raw'", "'--chat'", "cannot be used with"),
        flag!("third argument", 2, ["again"], "unexpected argument 'again'", "Usage: rheostat generate"),
        flag!("unknown flag", 2, ["--fast"], "unexpected argument '--fast'", "Usage: rheostat generate"),
        flag!("instruction set", 2, ["--isa", "mmx"], "'mmx'", "--isa", "portable"),
        Refusal {
            env: &[("RHEOSTAT_ISA", "nonsense")],
            ..flag!("instruction set by variable", 2, ["--raw"], "'nonsense'", "RHEOSTAT_ISA", "portable")
        },
        Refusal::args(
            "unknown command",
            2,
            &["sing"],
            &["unrecognized subcommand 'sing'", "Usage: rheostat <COMMAND>"],
        ),
        Refusal::args(
            "conversation beyond the model",
            1,
            &["chat", "{dir}", "--context", "257"],
            &["--context 257", "the model's context of 256 tokens", "at most that"],
        ),
        Refusal::args(
            "plan beyond the model",
            1,
            &["inspect", "{dir}", "--context", "18446744073709551615"],
            &["--context 18446744073709551615", "the model's context of 256 tokens"],
        ),
        Refusal::args("plan for nothing", 2, &["inspect", "{dir}", "--context", "0"], &["--context", "1 or more"]),
        Refusal::args(
            "tokens and text",
            2,
            &["logits", "{dir}", "--tokens", "1", "--prompt", "a", "-o", "{scratch}/out"],
            &["'--tokens", "cannot be used with '--prompt"],
        ),
        Refusal::args(
            "neither tokens nor text",
            2,
            &["logits", "{dir}", "-o", "{scratch}/out"],
            &["--tokens <IDS>|--prompt <TEXT>", "Usage: rheostat logits"],
        ),
        Refusal::args("nowhere to write", 2, &["logits", "{dir}", "--tokens", "1"], &["--out <FILE>", "Usage"]),
        Refusal::args("no messages", 2, &["prompt", "{dir}"], &["--messages <FILE>", "Usage: rheostat prompt"]),
    ];
    check_all(&table, 32);
}

#[test]
fn places_that_cannot_be_written() {
    let table = [
        Refusal::args(
            "directory",
            1,
            &["logits", "{dir}", "--tokens", "1,2", "-o", "{scratch}"],
            &["{scratch} is a directory", "give the name of a file"],
        ),
        Refusal::args(
            "in a directory that is not there",
            1,
            &["logits", "{dir}", "--tokens", "1,2", "-o", "{scratch}/new/out"],
            &["{scratch}/new/out cannot be written", "there is no directory {scratch}/new", "make it first"],
        ),
        Refusal::args(
            "in a file",
            1,
            &["logits", "{dir}", "--tokens", "1,2", "-o", "{dir}/config.json/out"],
            &["there is no directory {dir}/config.json"],
        ),
        Refusal::args(
            "where nobody may write",
            1,
            &["logits", "{dir}", "--tokens", "1,2", "-o", "/proc/rheostat-out"],
            &["/proc/rheostat-out cannot be written", "check the directory"],
        ),
    ];
    check_all(&table, 4);
}

/// A file that is there already is replaced when the new one is whole, and stays as it is when there is none.
#[test]
fn what_was_there_stays_until_it_is_replaced() {
    let checkpoint = Checkpoint::copy("text_qwen3");
    let out = checkpoint.scratch().join("out.safetensors");
    let args = |tokens| ["logits", checkpoint.dir(), "--tokens", tokens, "-o", out.to_str().unwrap()];
    std::fs::write(&out, b"precious").unwrap();
    assert_eq!(run(&args("999")).code, Some(1));
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    succeed(&args("1,2"));
    assert_eq!(common::tensors(&out)["logits"].0, [2, 345]);
    assert_eq!(std::fs::read_dir(checkpoint.scratch()).unwrap().count(), 1, "nothing else is left there");
}

/// What a message names as the smallest budget that works does work, and half of it does not.
#[test]
fn the_budget_that_a_refusal_names_works() {
    let large = Checkpoint::copy("text_qwen3");
    large.config("max_position_embeddings", json!(1 << 20));
    let dir = common::dir("text_llama3");
    let out = large.scratch().join("out.safetensors");
    let cases: [&[&str]; 7] = [
        &["generate", "embedded", "ROMEO:", "-n", "20"],
        &["generate", &dir, "Hello", "-n", "20", "--threads", "1"],
        &["generate", large.dir(), "Hello", "-n", "300000", "--stop", "!"],
        &["logits", &dir, "--prompt", "Hello", "-o", out.to_str().unwrap()],
        &["eval", "ppl", &dir, "--text", "-"],
        &["chat", large.dir(), "-n", "4"],
        &["chat", large.dir(), "-n", "4", "--context", "100000"],
    ];
    for args in cases {
        let with = |memory: &str| run_with(&[args, &["--memory", memory]].concat(), b"Hello\n", &[]);
        let refused = with("1M");
        let told = refused.stderr.strip_prefix("error: a memory budget of 1.00 MiB is too small for this model; ");
        let told = told.unwrap_or_else(|| panic!("{args:?}: {refused:?}"));
        let smallest = told.trim().strip_prefix("the smallest that works here is ").unwrap();
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{args:?}");
        succeed_with(&[args, &["--memory", smallest]].concat(), b"Hello\n", &[]);
        let half: u64 = smallest.strip_suffix(" MiB").unwrap().parse::<u64>().unwrap() / 2;
        let refused = with(&format!("{half}MiB"));
        assert!(refused.code == Some(1) && refused.stderr.contains("too small"), "{args:?} {half}: {refused:?}");
    }
}

/// A budget that is too small is an answer of `inspect`, not the end of it.
#[test]
fn a_budget_that_is_too_small_is_inspected() {
    let json = succeed(&["inspect", "embedded", "--memory", "1M", "--json"]).json();
    assert!(json["plan"].is_null(), "{json}");
    assert!(json["plan_error"].as_str().unwrap().contains("too small"), "{json}");
    let table = succeed(&["inspect", "embedded", "--memory", "1M"]).stdout;
    assert!(table.contains("the smallest that works here is"), "{table}");
}

/// Without arguments the command shows what it can do, and that this was no use of it.
#[test]
fn no_arguments() {
    let outcome = run::<&str>(&[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{outcome:?}");
    for command in ["generate", "chat", "logits", "prompt", "inspect", "bench", "quantize", "eval"] {
        assert!(outcome.stderr.contains(command), "{outcome:?}");
    }
}
