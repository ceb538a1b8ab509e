//! The reference checkpoints of `testdata/` and what transformers says of them.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

pub mod wide;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rheostat::{Compute, Input, KvFormat, LogitRows, Model, Options, Package, Want};

/// The folder of reference checkpoints.
pub fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

/// A reference checkpoint.
#[derive(Clone)]
pub struct Case {
    pub name: String,
    pub dir: PathBuf,
    /// `reference.json`.
    pub info: serde_json::Value,
    /// `reference.safetensors`: shape and values; integers as f32.
    pub tensors: BTreeMap<String, Vec<f32>>,
}

/// All of them, by name; with `CASES=llama,qwen3_moe` in the environment only those whose names begin so.
pub fn cases() -> Vec<Case> {
    let only = std::env::var("CASES").unwrap_or_default();
    let is_meant = |dir: &Path| {
        let name = dir.file_name().unwrap().to_string_lossy();
        only.split(',').any(|start| name.starts_with(start))
    };
    let mut dirs: Vec<PathBuf> = std::fs::read_dir(testdata())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.join("reference.json").exists() && is_meant(p))
        .collect();
    dirs.sort();
    assert!(dirs.len() >= 32 || !only.is_empty(), "only {} reference checkpoints", dirs.len());
    dirs.into_iter().map(case).collect()
}

/// One of them.
pub fn case(dir: PathBuf) -> Case {
    let info = serde_json::from_slice(&std::fs::read(dir.join("reference.json")).unwrap()).unwrap();
    let bytes = std::fs::read(dir.join("reference.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8], dtype| -> Vec<f32> {
        data.chunks_exact(4)
            .map(|b| b.try_into().unwrap())
            .map(|b| match dtype {
                safetensors::Dtype::F32 => f32::from_le_bytes(b),
                safetensors::Dtype::I32 => i32::from_le_bytes(b) as f32,
                other => panic!("{other:?} in a reference"),
            })
            .collect()
    };
    let tensors = file.tensors().into_iter().map(|(name, t)| (name, values(t.data(), t.dtype()))).collect();
    let name = dir.file_name().unwrap().to_string_lossy().into_owned();
    Case { name, dir, info, tensors }
}

impl Case {
    /// The prompts: name and tokens.
    pub fn prompts(&self) -> Vec<(String, Vec<u32>)> {
        let tokens = |(name, values): (&String, &Vec<f32>)| {
            let prompt = name.strip_suffix(".tokens")?;
            Some((prompt.to_owned(), values.iter().map(|t| *t as u32).collect()))
        };
        let prompts: Vec<_> = self.tensors.iter().filter_map(tokens).collect();
        assert!(!prompts.is_empty(), "{} has prompts", self.name);
        prompts
    }

    pub fn load(&self, options: &Options) -> Model {
        let package = rheostat::Package::open(&self.dir).unwrap();
        Model::load(&package, options).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }
}

impl Case {
    /// Whether it has weights that integers can be multiplied with.
    pub fn is_packed(&self) -> bool {
        let options = Options { compute: Compute::Int8, ..options() };
        match Model::load(&Package::open(&self.dir).unwrap(), &options) {
            Ok(_) => true,
            Err(rheostat::Error::NothingPacked) => false,
            Err(error) => panic!("{}: {error}", self.name),
        }
    }
}

/// Options for a model that gives logits of all rows and needs little memory.
pub fn options() -> Options {
    Options {
        memory: Some(4 << 30),
        threads: std::num::NonZeroUsize::new(1),
        context: Some(512),
        logits: LogitRows::All,
        ..Options::default()
    }
}

/// `options` with the bytes for weights that they ask for, or as few as work: experts want room for some of them.
pub fn at_least(case: &Case, options: &Options) -> Options {
    let package = Package::open(&case.dir).unwrap();
    let first = options.weights.unwrap();
    let tried = (0..1000).map(|i| Options { weights: Some(first + i * 2000), ..options.clone() });
    let refused =
        |options: &Options| matches!(Model::load(&package, options), Err(rheostat::Error::BudgetTooSmall { .. }));
    tried.into_iter().find(|options| !refused(options)).unwrap()
}

/// Every mode of computing, as options: products in f32, and in bf16 in both orders, caches in both.
pub fn modes() -> Vec<Options> {
    let mode = |compute, kv| Options { compute, kv, ..options() };
    vec![
        mode(Compute::F32, KvFormat::F32),
        mode(Compute::Bf16, KvFormat::F32),
        mode(Compute::Amx, KvFormat::F32),
        mode(Compute::F32, KvFormat::Bf16),
        mode(Compute::Bf16, KvFormat::Bf16),
    ]
}

/// Every case in every mode that it has: packed weights are also computed with in integers.
pub fn cases_and_modes() -> impl Iterator<Item = (Case, Options)> {
    let integers = Options { compute: Compute::Int8, ..options() };
    cases().into_iter().flat_map(move |case| {
        let integers = case.is_packed().then(|| integers.clone());
        let modes: Vec<_> = modes().into_iter().chain(integers).collect();
        modes.into_iter().map(move |mode| (case.clone(), mode))
    })
}

/// Logits of all of `tokens`, in passes of at most `chunk` rows.
pub fn logits(model: &mut Model, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut sequence = model.sequence(tokens.len());
    let mut all = Vec::new();
    for tokens in tokens.chunks(chunk) {
        let input = Input { sequence: &mut sequence, tokens, want: Want::All };
        all.extend_from_slice(model.forward(&mut [input]).unwrap().logits);
    }
    all
}

/// A case whose context holds several blocks, and whose windows, if it has any, reach over the edge of one; and its directory.
pub fn stretched(case: &Case) -> (Case, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&case.dir).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let path = dir.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let config_of_text = if config["text_config"].is_object() { &mut config["text_config"] } else { &mut config };
    let dynamic = config_of_text.to_string().contains(r#"_type":"dynamic""#);
    // With dynamic frequencies, this is where they begin to change.
    config_of_text["max_position_embeddings"] = serde_json::json!(if dynamic { 700 } else { 4096 });
    if config_of_text["sliding_window"].is_number() {
        config_of_text["sliding_window"] = serde_json::json!(600);
    }
    std::fs::write(&path, config.to_string()).unwrap();
    (Case { dir: dir.path().to_owned(), ..case.clone() }, dir)
}

/// Numbers of the same bits.
#[track_caller]
pub fn assert_bits(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let differ = got.iter().zip(want).filter(|(g, w)| g.to_bits() != w.to_bits()).count();
    assert_eq!(differ, 0, "{what}: {differ} of {} numbers differ", want.len());
}
