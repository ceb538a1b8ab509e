//! Tables of input that must be refused, and how.

use std::fs;

use super::checkpoint::Checkpoint;
use super::{Outcome, run_with};

/// One thing that is wrong, and what the user must be told about it.
///
/// In `args` and `told`, `{dir}` is the checkpoint and `{scratch}` an empty folder beside it.
pub struct Refusal {
    pub name: &'static str,
    /// The reference checkpoint that is copied.
    pub base: &'static str,
    pub make: fn(&Checkpoint),
    pub args: &'static [&'static str],
    pub stdin: &'static [u8],
    pub env: &'static [(&'static str, &'static str)],
    pub code: i32,
    pub told: &'static [&'static str],
}

/// What most commands here are.
const GENERATE: &[&str] = &["generate", "{dir}", "Hello"];

impl Refusal {
    /// A checkpoint, made from `text_qwen3`, that generation refuses.
    pub const fn checkpoint(name: &'static str, make: fn(&Checkpoint), told: &'static [&'static str]) -> Refusal {
        Refusal { name, base: "text_qwen3", make, args: GENERATE, stdin: b"", env: &[], code: 1, told }
    }

    /// Arguments that are refused with an intact checkpoint.
    pub const fn args(
        name: &'static str,
        code: i32,
        args: &'static [&'static str],
        told: &'static [&'static str],
    ) -> Refusal {
        Refusal { name, base: "text_qwen3", make: |_| {}, args, stdin: b"", env: &[], code, told }
    }

    /// Checks the refusal; what is wrong with it is the error.
    fn check(&self) -> Result<(), String> {
        let checkpoint = Checkpoint::copy(self.base);
        (self.make)(&checkpoint);
        let scratch = checkpoint.scratch().to_str().unwrap().to_owned();
        let fill = |text: &&str| text.replace("{dir}", checkpoint.dir()).replace("{scratch}", &scratch);
        let args: Vec<String> = self.args.iter().map(fill).collect();
        let before = listing(&checkpoint);
        let outcome = run_with(&args, self.stdin, self.env);
        let mut wrong = Vec::new();
        if outcome.code != Some(self.code) {
            wrong.push(format!("the exit code is {:?}, not {}", outcome.code, self.code));
        }
        if !outcome.stdout.is_empty() {
            wrong.push(format!("standard output has {:?}", outcome.stdout));
        }
        wrong.extend(form(&outcome));
        for told in self.told.iter().map(fill).filter(|told| !outcome.stderr.contains(told)) {
            wrong.push(format!("{told:?} is not told"));
        }
        if listing(&checkpoint) != before {
            wrong.push("files were left behind or taken away".to_owned());
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(format!("{}: {}\n  {}", self.name, wrong.join("; "), outcome.stderr))
        }
    }
}

/// What is wrong with the form of a message: one line, or what clap makes of bad usage.
fn form(outcome: &Outcome) -> Vec<String> {
    let mut wrong = Vec::new();
    let stderr = &outcome.stderr;
    let lines = stderr.lines().count();
    if outcome.code != Some(2) && lines != 1 {
        wrong.push(format!("standard error has {lines} lines"));
    }
    if !stderr.starts_with("error: ") {
        wrong.push("the message does not begin with error:".to_owned());
    }
    if stderr.contains("panicked") || stderr.contains("RUST_BACKTRACE") {
        wrong.push("it panicked".to_owned());
    }
    if stderr.contains("os error") || stderr.contains(".rs:") || stderr.contains("NonZero") {
        wrong.push("the message speaks of the program's insides".to_owned());
    }
    wrong
}

/// Everything in and beside the checkpoint.
fn listing(checkpoint: &Checkpoint) -> Vec<String> {
    let mut names = Vec::new();
    for dir in [checkpoint.path(""), checkpoint.scratch().to_owned()] {
        names.extend(fs::read_dir(dir).unwrap().map(|e| e.unwrap().path().display().to_string()));
    }
    names.sort();
    names
}

/// Checks a table, of at least `least` kinds, and reports every failure in it.
pub fn check_all(table: &[Refusal], least: usize) {
    assert!(table.len() >= least, "{} kinds, once there were {least}", table.len());
    for (i, refusal) in table.iter().enumerate() {
        assert!(!refusal.told.is_empty(), "{} expects to be told nothing", refusal.name);
        assert!(table[..i].iter().all(|other| other.name != refusal.name), "two are called {}", refusal.name);
    }
    let failures: Vec<String> = table.iter().filter_map(|refusal| refusal.check().err()).collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), table.len(), failures.join("\n"));
}
