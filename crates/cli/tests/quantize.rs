//! `rheostat quantize`: what it writes, what it refuses, and that nothing looks finished which is not.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::checkpoint::{Checkpoint, Stored};
use common::process::{end, interrupt, wait_until};
use common::refusals::{Refusal, check_all};
use common::{Outcome, command, run, succeed};
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A model in which all but `down_proj` can be quantised in groups of 64.
const BASE: &str = "mistral_defaults";
const UP: &str = "model.layers.0.mlp.up_proj.weight";

/// A tensor of a file: type, shape and bytes.
type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// All tensors in a directory.
fn stored(dir: &Path) -> BTreeMap<String, Tensor> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let bytes = fs::read(path).unwrap();
            for (name, t) in safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors() {
                all.insert(name, (t.dtype(), t.shape().to_vec(), t.data().to_vec()));
            }
        }
    }
    all
}

/// All files in a directory.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
    };
    fs::read_dir(dir).unwrap().map(file).collect()
}

fn bf16(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16)).collect()
}

/// The values that packed weights with bf16 scales stand for.
fn dequantized(tensors: &BTreeMap<String, Tensor>, module: &str, bits: usize) -> Vec<f32> {
    let get = |suffix: &str| &tensors[&format!("{module}.{suffix}")];
    let (packed, scale, shape) = (get("weight_packed"), get("weight_scale"), get("weight_shape"));
    assert_eq!((packed.0, scale.0, shape.0), (Dtype::I32, Dtype::BF16, Dtype::I64));
    let extents: Vec<_> = shape.2.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as usize).collect();
    let [rows, cols] = extents[..] else { panic!("{extents:?}") };
    assert_eq!(packed.1, [rows, cols * bits / 32]);
    assert_eq!(scale.1[0], rows);
    let group = cols / scale.1[1];
    let scales = bf16(&scale.2);
    assert!(scales.iter().all(|s| *s > 0.0 && s.is_finite()));
    let per_word = 32 / bits;
    let words: Vec<u32> = packed.2.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
    let value = |i: usize| {
        let unsigned = words[i / per_word] >> (i % per_word * bits) & ((1 << bits) - 1);
        (unsigned as f32 - (1 << (bits - 1)) as f32) * scales[i / group]
    };
    (0..rows * cols).map(value).collect()
}

fn original() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny-shakespeare")
}

#[test]
fn the_embedded_model() {
    for (bits, error) in [(4, 0.0105), (8, 4e-5)] {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("out");
        let outcome = succeed(&["quantize", "embedded", out.to_str().unwrap(), "--bits", &bits.to_string(), "--json"]);
        assert_eq!(outcome.stderr, "");
        let told = outcome.json();
        let summary = &told["summary"];
        // The files of the model are all there, as they were but for config.json.
        let (before, after) = (files(&original()), files(&out));
        let names =
            ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
        assert_eq!(after.keys().collect::<Vec<_>>(), names);
        for name in ["generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
            assert_eq!(before[name], after[name], "{name}");
        }
        let text = |files: &BTreeMap<String, Vec<u8>>| String::from_utf8(files["config.json"].clone()).unwrap();
        let unchanged = text(&before);
        let unchanged = unchanged.trim_end().strip_suffix("\n}").unwrap();
        assert!(text(&after).starts_with(&format!("{unchanged},\n  \"quantization_config\": {{\n")));
        let config: Value = serde_json::from_str(&text(&after)).unwrap();
        let config = &config["quantization_config"];
        assert_eq!(config["format"], "pack-quantized");
        assert_eq!(config["ignore"], json!(["lm_head"]));
        assert_eq!(config["config_groups"]["group_0"]["weights"]["num_bits"], bits);
        // Every matrix of a block is within the error that is told; everything else is as it was.
        let (before, after) = (stored(&original()), stored(&out));
        let (mut modules, mut kept) = (0, 0);
        let (mut squared, mut energy) = (0.0, 0.0);
        for (name, tensor) in &before {
            if let Some(same) = after.get(name) {
                assert_eq!(same, tensor, "{name}");
                kept += 1;
                continue;
            }
            modules += 1;
            let weights = bf16(&tensor.2);
            let got = dequantized(&after, name.strip_suffix(".weight").unwrap(), bits);
            assert_eq!(got.len(), weights.len());
            for (g, w) in got.iter().zip(&weights) {
                squared += f64::from(g - w).powi(2);
                energy += f64::from(*w).powi(2);
            }
        }
        assert_eq!((modules, kept, after.len()), (28, before.len() - 28, kept + 3 * modules));
        let relative = squared / energy;
        assert!(relative < error, "{relative}");
        let told_error = summary["all"]["relative_squared_error"].as_f64().unwrap();
        assert!((relative - told_error).abs() < 1e-6 * relative, "{relative} {told_error}");
        assert!(told_error < summary["all"]["relative_squared_error_of_nearest"].as_f64().unwrap());
        assert_eq!((summary["quantized"].as_u64(), summary["kept"].as_u64()), (Some(28), Some(kept as u64)));
        assert_eq!(summary["kinds"]["down_proj"]["tensors"], 4);
        let bytes = |tensors: &BTreeMap<String, Tensor>| tensors.values().map(|t| t.2.len() as u64).sum::<u64>();
        assert_eq!(summary["bytes_before"], bytes(&before));
        assert_eq!(summary["bytes_after"], bytes(&after));
    }
}

/// What is written computes, bit for bit, as a model that stores what the integers stand for.
#[test]
fn what_is_written_runs() {
    for bits in ["4", "8"] {
        let model = Checkpoint::copy(BASE);
        let path = |name: &str| model.scratch().join(name).to_str().unwrap().to_owned();
        let out = path("out");
        let how = ["--bits", bits, "--group", "32", "--keep", "*.down_proj", "--head"];
        succeed(&[&["quantize", model.dir(), &out], &how[..]].concat());
        let logits = |model: &str, file: &str| {
            let file = path(file);
            succeed(&["logits", model, "--tokens", "1,2,3,60,5", "-o", &file]);
            fs::read(file).unwrap()
        };
        let before = logits(model.dir(), "before");
        let got = logits(&out, "got");
        let quantized = stored(Path::new(&out));
        model.tensors("model.safetensors", |tensors| {
            for t in tensors.iter_mut().filter(|t| !quantized.contains_key(&t.name)) {
                let values = dequantized(&quantized, t.name.strip_suffix(".weight").unwrap(), bits.parse().unwrap());
                t.dtype = "F32".to_owned();
                t.data = values.into_iter().flat_map(f32::to_le_bytes).collect();
            }
        });
        assert!(got == logits(model.dir(), "twin"), "{bits} bits");
        assert!(got != before);
    }
}

/// Neither threads nor memory change a byte.
#[test]
fn the_same_bytes_whatever_the_threads() {
    let scratch = tempfile::tempdir().unwrap();
    let write = |name: &str, flags: &[&str]| {
        let out = scratch.path().join(name);
        let outcome =
            succeed(&[&["quantize", "embedded", out.to_str().unwrap(), "--bits", "4", "--json"], flags].concat());
        (files(&out), outcome.json()["summary"].clone())
    };
    let one = write("one", &["-t", "1"]);
    for (name, flags) in
        [("two", &["-t", "2"][..]), ("seven", &["-t", "7"]), ("little", &["-t", "2", "--memory", "48M"])]
    {
        assert!(write(name, flags) == one, "{name}");
    }
}

#[test]
fn what_is_named_is_kept() {
    const DOWN: &str = "model.layers.0.mlp.down_proj";
    let cases: [(&[&str], &[&str]); 4] = [
        (&["--keep", "*.down_proj"], &[DOWN, "lm_head"]),
        (&["--keep", "*.down_proj", "--head"], &[DOWN]),
        // Of what is kept anyway nothing is said; spaces after commas do no harm.
        (
            &["--keep", "model.embed_tokens, *norm*,*.mlp"],
            &["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj", DOWN, "lm_head"],
        ),
        // A tensor, a pattern, and a module that others are in.
        (
            &["--keep", "model.layers.0.mlp.up_proj.weight,*.d*n_proj", "--keep", "model.layers.0.self_attn"],
            &[
                "model.layers.0.self_attn.q_proj",
                "model.layers.0.self_attn.k_proj",
                "model.layers.0.self_attn.v_proj",
                "model.layers.0.self_attn.o_proj",
                "model.layers.0.mlp.up_proj",
                DOWN,
                "lm_head",
            ],
        ),
    ];
    for (flags, ignore) in cases {
        let model = Checkpoint::copy(BASE);
        let out = model.scratch().join("out");
        let args = ["quantize", model.dir(), out.to_str().unwrap(), "--bits", "8", "--group", "64", "--json"];
        let summary = succeed(&[&args[..], flags].concat()).json()["summary"].clone();
        assert_eq!(summary["ignore"], json!(ignore));
        let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["quantization_config"]["ignore"], json!(ignore));
        let tensors = stored(&out);
        for module in ignore {
            assert!(tensors.contains_key(&format!("{module}.weight")), "{module}");
        }
        assert_eq!(tensors.contains_key("lm_head.weight_packed"), flags.contains(&"--head"));
        let packed = tensors.keys().filter(|name| name.ends_with("_packed")).count();
        assert_eq!(summary["quantized"], packed);
        assert_eq!(packed + ignore.len(), 8);
    }
}

#[test]
fn shards_and_other_files() {
    let model = Checkpoint::copy("text_llama2");
    model.write("chat_template.jinja", "{{ messages }}");
    model.write("LICENSE", "as you like it");
    model.write("README.md", "about another model");
    model.write("pytorch_model.bin", "other weights");
    fs::create_dir(model.path("additional_chat_templates")).unwrap();
    model.write("additional_chat_templates/tool_use.jinja", "{{ tools }}");
    widen(&model, 64);
    // On one line, and with a key that has no value yet.
    model.config("quantization_config", Value::Null);
    let out = model.scratch().join("out");
    let args = ["quantize", model.dir(), out.to_str().unwrap(), "--bits", "8", "--group", "32", "--shard", "40K"];
    let outcome = succeed(&args);
    assert!(outcome.stderr.starts_with("wrote ") && outcome.stderr.contains("int8"), "{outcome:?}");
    let mut names: Vec<String> =
        fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let index: Value = serde_json::from_slice(&fs::read(out.join("model.safetensors.index.json")).unwrap()).unwrap();
    let shards: std::collections::BTreeSet<_> =
        index["weight_map"].as_object().unwrap().values().map(|v| v.as_str().unwrap().to_owned()).collect();
    assert!(shards.len() > 1);
    let mut want: Vec<String> = shards.into_iter().collect();
    want.extend(
        [
            "LICENSE",
            "additional_chat_templates",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model.safetensors.index.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
        .map(str::to_owned),
    );
    want.sort();
    assert_eq!(names, want);
    assert_eq!(fs::read(out.join("additional_chat_templates/tool_use.jinja")).unwrap(), b"{{ tools }}");
    assert_eq!(
        stored(&out).keys().collect::<Vec<_>>(),
        index["weight_map"].as_object().unwrap().keys().collect::<Vec<_>>()
    );
    let config: Map<String, Value> = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["quantization_config"]["quant_method"], "compressed-tensors");
    assert_eq!(config["hidden_size"], 64);
}

/// Makes a model's matrices `width` wide, with four heads, and fills them with noise.
fn widen(model: &Checkpoint, width: usize) {
    let inner = 2 * width;
    for (key, value) in
        [("hidden_size", width), ("intermediate_size", inner), ("num_attention_heads", 4), ("num_key_value_heads", 4)]
    {
        model.config(key, json!(value));
    }
    let mut state = 1u64;
    model.tensors("model.safetensors", |tensors| {
        for t in tensors {
            let old = t.shape.clone();
            t.shape = match t.name.rsplit('.').nth(1).unwrap() {
                "down_proj" => vec![width, inner],
                "gate_proj" | "up_proj" => vec![inner, width],
                "embed_tokens" | "lm_head" => vec![old[0], width],
                name if name.ends_with("_proj") => vec![width, width],
                _ => vec![width],
            };
            t.dtype = "BF16".to_owned();
            t.data = (0..t.shape.iter().product())
                .flat_map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    // A sign, an exponent of some octaves below 1, and noise.
                    let bits = (state >> 48) as u16;
                    (0x3C00 | bits & 0x8000 | bits & 0x01FF).to_le_bytes()
                })
                .collect();
        }
    });
}

/// A model that takes a moment.
fn large() -> Checkpoint {
    let model = Checkpoint::copy(BASE);
    widen(&model, 1536);
    model
}

fn slowly(model: &Checkpoint, out: &Path) -> Command {
    command(&["quantize", model.dir(), out.to_str().unwrap(), "--bits", "4", "-t", "1"])
}

/// Whether writing of weights has begun.
fn begun(out: &Path) -> bool {
    partial(out).join("model.safetensors").exists()
}

/// Runs it and stops it while it writes. Where it was too fast for that, it is run again.
fn stopped(model: &Checkpoint, out: &Path, stop: fn(&mut Child)) -> Outcome {
    for _ in 0..5 {
        let mut child = slowly(model, out).spawn().unwrap();
        wait_until("it to begin", || begun(out) || child.try_wait().unwrap().is_some());
        stop(&mut child);
        let outcome = end(child);
        if outcome.code != Some(0) {
            return outcome;
        }
        fs::remove_dir_all(out).unwrap();
    }
    panic!("it is never caught while it writes");
}

fn partial(out: &Path) -> PathBuf {
    out.with_file_name("out.partial")
}

/// What a killed run leaves does not look finished, and is no obstacle.
#[test]
fn a_killed_run_leaves_nothing_that_looks_finished() {
    let model = large();
    let out = model.scratch().join("out");
    assert_eq!(stopped(&model, &out, |child| child.kill().unwrap()).code, None);
    assert!(!out.exists() && partial(&out).is_dir());
    let outcome = succeed(&["quantize", model.dir(), out.to_str().unwrap(), "--bits", "4"]);
    assert!(outcome.stderr.starts_with("note: ") && outcome.stderr.contains("out.partial"), "{outcome:?}");
    assert!(!partial(&out).exists());
    let fresh = model.scratch().join("fresh");
    let outcome = succeed(&["quantize", model.dir(), fresh.to_str().unwrap(), "--bits", "4"]);
    assert!(outcome.stderr.starts_with("wrote "), "{outcome:?}");
    assert!(files(&out) == files(&fresh));
}

#[test]
fn ctrl_c_leaves_nothing() {
    let model = large();
    let out = model.scratch().join("out");
    let outcome = stopped(&model, &out, |child| interrupt(child));
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(130), "error: interrupted\n"), "{outcome:?}");
    assert_eq!(fs::read_dir(model.scratch()).unwrap().count(), 0);
}

#[test]
fn two_runs_do_not_write_one_model() {
    let model = large();
    let out = model.scratch().join("out");
    let mut first = slowly(&model, &out).spawn().unwrap();
    wait_until("it to begin", || begun(&out) || first.try_wait().unwrap().is_some());
    let second = run(&["quantize", "embedded", out.to_str().unwrap(), "--bits", "4"]);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(
        second.stderr.contains("another run is writing it") || second.stderr.contains("there already"),
        "{second:?}"
    );
    assert_eq!(end(first).code, Some(0));
    assert!(out.join("model.safetensors").exists());
}

/// A disk that holds no more: here, a limit on the size of files.
#[test]
fn a_full_disk_leaves_nothing() {
    let scratch = TempDir::new().unwrap();
    let out = scratch.path().join("out");
    for (blocks, file) in [(2000, "model.safetensors"), (16, "tokenizer.json")] {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" quantize embedded \"$1\" --bits 8");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, common::PROGRAM, out.to_str().unwrap()]).stdin(Stdio::null());
        let outcome = Outcome::new(&shell.output().unwrap());
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let told = format!(
            "out.partial/{file}: it cannot be written; check the directory and the room on its disk (File too large)\n"
        );
        assert!(outcome.stderr.ends_with(&told), "{outcome:?}");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing is left");
    }
}

/// What a message names as the smallest budget that works does work, and is kept to.
#[test]
fn memory_is_kept_to() {
    let model = large();
    for (model, threads) in [(model.dir(), "1"), (model.dir(), "4"), ("embedded", "2")] {
        let scratch = TempDir::new().unwrap();
        let out = scratch.path().join("out");
        let with = |memory: &str| {
            run(&["quantize", model, out.to_str().unwrap(), "--bits", "8", "-t", threads, "--json", "--memory", memory])
        };
        let refused = with("1M");
        let smallest = refused.stderr.trim().strip_prefix(
            "error: a memory budget of 1.00 MiB is too small for this model; the smallest that works here is ",
        );
        let smallest = smallest.unwrap_or_else(|| panic!("{refused:?}"));
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
        let mib: u64 = smallest.strip_suffix(" MiB").unwrap().parse().unwrap();
        assert_eq!(with(&format!("{}M", mib / 2)).code, Some(1));
        let outcome = with(smallest);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let peak = outcome.json()["peak_memory_bytes"].as_u64().unwrap();
        assert!(peak <= mib << 20, "{peak} of {mib} MiB");
    }
}

/// Changes one weight of `UP`: row 5, column 7.
fn damage(model: &Checkpoint, bits: u16) {
    model.tensor(UP, |t: &mut Stored| t.data[2 * (5 * 64 + 7)..][..2].copy_from_slice(&bits.to_le_bytes()));
}

#[test]
fn what_cannot_be_quantised() {
    macro_rules! refusal {
        ($name:literal, $code:literal, [$($flag:literal),+], [$($told:literal),+]) => {
            Refusal {
                base: BASE,
                ..Refusal::args($name, $code, &["quantize", "{dir}", "{scratch}/out", $($flag),+], &[$($told),+])
            }
        };
    }
    let table = [
        refusal!("no bits", 2, ["--group", "64"], ["--bits <8|4>", "Usage: rheostat quantize"]),
        refusal!("bits that are not offered", 2, ["--bits", "5"], ["--bits", "'5'", "write 8 or 4"]),
        refusal!("group in words", 2, ["--bits", "4", "--group", "few"], ["--group", "'few'", "a whole number"]),
        refusal!("group too small", 1, ["--bits", "4", "--group", "16"], ["groups of 16", "give 32, 64 or 128"]),
        refusal!("group too large", 1, ["--bits", "4", "--group", "256"], ["groups of 256", "give 32, 64 or 128"]),
        refusal!("group between", 1, ["--bits", "4", "--group", "96"], ["groups of 96", "give 32, 64 or 128"]),
        refusal!("no group", 1, ["--bits", "4", "--group", "0"], ["groups of 0", "give 32, 64 or 128"]),
        refusal!(
            "group that some can have",
            1,
            ["--bits", "4", "--group", "64"],
            ["{dir}: groups of 64 do not divide the 56 inputs of the tensor \"model.layers.0.mlp.down_proj.weight\"; \
                 keep *.down_proj as they are\n"]
        ),
        refusal!(
            "group that is too large for all",
            1,
            ["--bits", "4", "--keep", "*.down_proj"],
            ["groups of 128", "the 64 inputs", "self_attn.q_proj.weight", "groups of 32 or 64 would\n"]
        ),
        Refusal {
            base: "qwen3_sharded",
            ..refusal!(
                "no group at all",
                1,
                ["--bits", "4"],
                ["groups of 128", "neither would groups of 32, 64 or 128", "cannot be quantised"]
            )
        },
        Refusal {
            base: "text_qwen3",
            ..refusal!("tied head", 1, ["--bits", "8", "--head"], ["{dir}", "is the embedding table", "leave the head"])
        },
        refusal!(
            "head asked for and kept",
            1,
            ["--bits", "8", "--head", "--keep", "*.down_proj,lm_*"],
            ["the head is to be quantised, but \"lm_*\" keeps it", "one of the two"]
        ),
        refusal!(
            "kept name that is none",
            1,
            ["--bits", "8", "--keep", "*.down_proj,model.layers.0.mlp.gate"],
            ["no tensor or module is called \"model.layers.0.mlp.gate\"", "the nearest name is \"model.layers.0.mlp\""]
        ),
        refusal!(
            "kept pattern that is none",
            1,
            ["--bits", "8", "--keep", "*.downproj"],
            ["no tensor or module is called \"*.downproj\"", "\"model.layers.0.mlp.down_proj\""]
        ),
        refusal!(
            "kept name that is empty",
            2,
            ["--bits", "8", "--keep", "a,,b"],
            ["--keep", "names with commas between"]
        ),
        refusal!(
            "everything kept",
            1,
            ["--bits", "8", "--keep", "model.layers"],
            ["nothing is left to quantise", "keep less"]
        ),
        refusal!(
            "too little memory",
            1,
            ["--bits", "8", "--keep", "*.down_proj", "--group", "64", "--memory", "2M"],
            ["2.00 MiB is too small", "the smallest that works here is"]
        ),
        Refusal {
            make: |c| c.config("quantization_config", json!({"quant_method": "compressed-tensors"})),
            ..refusal!(
                "quantised already",
                1,
                ["--bits", "8"],
                ["{dir}/config.json", "quantised already", "that it was made from"]
            )
        },
        Refusal {
            make: |c| damage(c, 0x7FC0),
            ..refusal!(
                "weight that is no number",
                1,
                ["--bits", "8", "--keep", "*.down_proj", "--group", "64"],
                [
                    "{dir}/model.safetensors",
                    "\"model.layers.0.mlp.up_proj.weight\" holds NaN in row 5, column 7",
                    "damaged"
                ]
            )
        },
        Refusal {
            make: |c| damage(c, 0xFF80),
            ..refusal!(
                "infinite weight",
                1,
                ["--bits", "4", "--keep", "*.down_proj", "--group", "32", "-t", "3"],
                ["{dir}/model.safetensors", "holds -inf in row 5, column 7"]
            )
        },
        Refusal {
            make: |c| c.tensors("model.safetensors", |t| t.retain(|t| t.name != UP)),
            ..refusal!("missing tensor", 1, ["--bits", "8"], ["mlp.up_proj.weight", "is missing"])
        },
        Refusal {
            make: |c| c.config("hidden_act", json!("snake")),
            ..refusal!("model that is not understood", 1, ["--bits", "8"], ["config.json", "hidden_act"])
        },
    ];
    check_all(&table, 22);
}

#[test]
fn places_that_do_not_do() {
    macro_rules! place {
        ($name:literal, $out:literal, $make:expr, [$($told:literal),+]) => {
            Refusal {
                base: BASE,
                make: $make,
                ..Refusal::args(
                    $name,
                    1,
                    &["quantize", "{dir}", $out, "--bits", "8", "--group", "64", "--keep", "*.down_proj"],
                    &[$($told),+],
                )
            }
        };
    }
    let mut table = vec![
        place!("the model itself", "{dir}", |_| {}, ["{dir}", "the model itself", "not there yet"]),
        place!("the model by another name", "{scratch}/../model", |_| {}, ["the model itself"]),
        place!("inside the model", "{dir}/small", |_| {}, ["{dir}/small", "inside the model", "outside of it"]),
        place!("there already", "{scratch}", |_| {}, ["{scratch}", "there already", "remove it first"]),
        place!(
            "file",
            "{scratch}/a",
            |c| fs::write(c.scratch().join("a"), "").unwrap(),
            ["{scratch}/a", "there already"]
        ),
        place!(
            "link to nothing",
            "{scratch}/a",
            |c| std::os::unix::fs::symlink("gone", c.scratch().join("a")).unwrap(),
            ["{scratch}/a", "there already"]
        ),
        place!(
            "in a directory that is not there",
            "{scratch}/new/out",
            |_| {},
            ["{scratch}/new/out", "is not there", "make that first"]
        ),
        place!("in a file", "{dir}/config.json/out", |_| {}, ["{dir}/config.json/out", "is not there"]),
        place!("no name", "..", |_| {}, ["..", "names no new directory"]),
        place!(
            "where nobody may write",
            "/proc/rheostat-out",
            |_| {},
            ["/proc/rheostat-out.partial", "cannot be written"]
        ),
        place!(
            "somebody else's partial directory",
            "{scratch}/a",
            |c| {
                fs::create_dir(c.scratch().join("a.partial")).unwrap();
                fs::write(c.scratch().join("a.partial/precious"), "").unwrap();
            },
            ["{scratch}/a.partial", "in the way", "move it"]
        ),
        place!(
            "partial file",
            "{scratch}/a",
            |c| fs::write(c.scratch().join("a.partial"), "precious").unwrap(),
            ["{scratch}/a.partial", "in the way"]
        ),
    ];
    // The model is called what the new directory would be called for a while.
    table.push(Refusal {
        args: &[
            "quantize",
            "{scratch}/a.partial",
            "{scratch}/a",
            "--bits",
            "8",
            "--group",
            "64",
            "--keep",
            "*.down_proj",
        ],
        ..place!(
            "in the model's place",
            "",
            |c| {
                let model = c.scratch().join("a.partial");
                fs::create_dir(&model).unwrap();
                for file in ["config.json", "model.safetensors"] {
                    fs::copy(c.path(file), model.join(file)).unwrap();
                }
            },
            ["{scratch}/a", "in the model's place", "another name"]
        )
    });
    check_all(&table, 13);
}
