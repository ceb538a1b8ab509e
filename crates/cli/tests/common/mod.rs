//! Running the command, and checkpoints to run it on.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

pub mod checkpoint;
pub mod process;
pub mod refusals;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_rheostat");

/// Reference checkpoints with a tokenizer: text in, text out.
pub const TEXT_CASES: [&str; 6] =
    ["text_llama2", "text_llama3", "text_mistral", "text_opensci", "text_qwen2", "text_qwen3"];

/// The folder of a reference checkpoint.
pub fn testdata(case: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(case);
    assert!(dir.is_dir(), "{} is not there", dir.display());
    dir
}

/// A reference checkpoint's folder as an argument.
pub fn dir(case: &str) -> String {
    testdata(case).to_str().unwrap().to_owned()
}

/// `reference.json` of a reference checkpoint.
pub fn reference(case: &str) -> Value {
    serde_json::from_slice(&std::fs::read(testdata(case).join("reference.json")).unwrap()).unwrap()
}

/// What a run left behind.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn new(output: &std::process::Output) -> Outcome {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the command writes UTF-8");
        Outcome { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Standard output as one JSON value; nothing else may be there.
    pub fn json(&self) -> Value {
        assert_eq!(self.stdout.matches('\n').count(), 1, "one line: {self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// The command with `args`, its output captured, in an environment without settings of its own.
pub fn command<S: AsRef<str>>(args: &[S]) -> std::process::Command {
    let mut command = std::process::Command::new(PROGRAM);
    command.args(args.iter().map(AsRef::as_ref)).env_remove("RHEOSTAT_ISA");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the command, whatever comes of it.
pub fn run<S: AsRef<str>>(args: &[S]) -> Outcome {
    run_with(args, b"", &[])
}

/// Runs the command with something on standard input, and with variables in its environment.
pub fn run_with<S: AsRef<str>>(args: &[S], stdin: &[u8], env: &[(&str, &str)]) -> Outcome {
    let mut command = assert_cmd::Command::from_std(command(args));
    Outcome::new(&command.envs(env.iter().copied()).write_stdin(stdin).output().unwrap())
}

/// Runs the command, which must succeed without a word of alarm.
pub fn succeed<S: AsRef<str>>(args: &[S]) -> Outcome {
    succeed_with(args, b"", &[])
}

/// As [`succeed`], with standard input and environment.
pub fn succeed_with<S: AsRef<str>>(args: &[S], stdin: &[u8], env: &[(&str, &str)]) -> Outcome {
    let outcome = run_with(args, stdin, env);
    let shown: Vec<_> = args.iter().map(AsRef::as_ref).collect();
    assert_eq!(outcome.code, Some(0), "{shown:?}: {outcome:?}");
    for word in ["panicked", "error", "warning"] {
        assert!(!outcome.stderr.contains(word), "{shown:?}: {outcome:?}");
    }
    outcome
}

/// A safetensors file's tensors: shape, and the values as f32.
pub fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut all = BTreeMap::new();
    for (name, tensor) in file.tensors() {
        let words = tensor.data().chunks_exact(4).map(|b| b.try_into().unwrap());
        let values = match tensor.dtype() {
            safetensors::Dtype::F32 => words.map(f32::from_le_bytes).collect(),
            safetensors::Dtype::I32 => words.map(|b| i32::from_le_bytes(b) as f32).collect(),
            other => panic!("{other:?} in {}", path.display()),
        };
        all.insert(name, (tensor.shape().to_vec(), values));
    }
    all
}

/// A list of token ids in JSON.
pub fn ids(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}
