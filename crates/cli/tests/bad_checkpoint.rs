//! Weights that cannot be used: every kind is refused in one sentence that says what, where and what to do.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use common::checkpoint::{Checkpoint, Stored, joined};
use common::refusals::{Refusal, check_all};
use serde_json::json;

const FILE: &str = "model.safetensors";
const NORM: &str = "model.norm.weight";
const INDEX: &str = "model.safetensors.index.json";

/// A checkpoint of three shards that is refused; it has no tokenizer.
const fn sharded(name: &'static str, make: fn(&Checkpoint), told: &'static [&'static str]) -> Refusal {
    const LOGITS: &[&str] = &["logits", "{dir}", "--tokens", "1,2", "--out", "{scratch}/out.safetensors"];
    Refusal { base: "qwen3_sharded", args: LOGITS, ..Refusal::checkpoint(name, make, told) }
}

#[test]
fn files_that_are_no_safetensors() {
    check_all(
        &[
            Refusal::checkpoint(
                "truncated data",
                |c| c.write(FILE, &c.read(FILE)[..90_000]),
                &["{dir}/model.safetensors", "download the file again"],
            ),
            Refusal::checkpoint(
                "truncated header",
                |c| c.write(FILE, &c.read(FILE)[..200]),
                &["{dir}/model.safetensors", "inside its header", "download or save the file again"],
            ),
            Refusal::checkpoint("empty file", |c| c.write(FILE, b""), &["{dir}/model.safetensors", "download"]),
            Refusal::checkpoint(
                "header longer than the file",
                |c| c.write(FILE, [&50_000_000u64.to_le_bytes(), &c.read(FILE)[8..]].concat()),
                &["{dir}/model.safetensors", "50000008 bytes are needed, the file has 95848", "download"],
            ),
            Refusal::checkpoint(
                "header longer than anything",
                |c| c.write(FILE, [&[0xFF; 8], &c.read(FILE)[8..]].concat()),
                &["{dir}/model.safetensors", "18446744073709551615", "download"],
            ),
            Refusal::checkpoint(
                "header shorter than it is",
                |c| c.write(FILE, [&100u64.to_le_bytes(), &c.read(FILE)[8..]].concat()),
                &["{dir}/model.safetensors", "header", "download"],
            ),
            Refusal::checkpoint(
                "header that is no JSON",
                |c| c.write(FILE, joined(b"{this is not JSON", &[0; 8])),
                &["{dir}/model.safetensors", "JSON", "download"],
            ),
            Refusal::checkpoint(
                "header that is a list",
                |c| c.write(FILE, joined(b"[]", &[])),
                &["{dir}/model.safetensors", "header", "download"],
            ),
            Refusal::checkpoint(
                "header without tensors",
                |c| c.write(FILE, joined(b"{}", &[])),
                &["{dir}", "no tensors", "download or save the model again"],
            ),
            Refusal::checkpoint(
                "bytes after the last tensor",
                |c| c.write(FILE, [c.read(FILE), vec![0; 3]].concat()),
                &["{dir}/model.safetensors", "3 bytes", "download"],
            ),
            Refusal::checkpoint(
                "git-lfs pointer",
                |c| c.write(FILE, "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n"),
                &["{dir}/model.safetensors", "git lfs pull"],
            ),
            Refusal::checkpoint(
                "web page",
                |c| c.write(FILE, "<!DOCTYPE html><html><body>Sign in to continue, please.</body></html>"),
                &["{dir}/model.safetensors", "web page", "download the file again"],
            ),
            Refusal::checkpoint(
                "directory in the place of a file",
                |c| c.make_directory(FILE),
                &["{dir}/model.safetensors", "directory", "put the real file in its place"],
            ),
            Refusal::checkpoint(
                "link to nothing",
                |c| {
                    c.remove(FILE);
                    std::os::unix::fs::symlink("gone", c.path(FILE)).unwrap();
                },
                &["{dir}/model.safetensors", "link", "download"],
            ),
        ],
        14,
    );
}

#[test]
fn tensors_that_do_not_fit() {
    let table = [
        Refusal::checkpoint(
            "missing tensor",
            |c| c.tensors(FILE, |t| t.retain(|t| t.name != NORM)),
            &["{dir}", "model.norm.weight", "missing", "incomplete or of another model"],
        ),
        Refusal::checkpoint(
            "extra tensor",
            |c| c.tensors(FILE, |t| t.push(Stored { name: "model.extra.weight".to_owned(), ..t[0].clone() })),
            &["{dir}/model.safetensors", "model.extra.weight", "no place", "config.json"],
        ),
        Refusal::checkpoint(
            "bias that the config does not have",
            |c| {
                let name = "model.layers.0.self_attn.q_proj.bias".to_owned();
                let data = vec![0; 128];
                c.tensors(FILE, |t| t.push(Stored { name, dtype: "BF16".to_owned(), shape: vec![64], data }));
            },
            &["model.layers.0.self_attn.q_proj.bias", "[64]", "no place"],
        ),
        Refusal::checkpoint(
            "wrong shape",
            |c| c.entry(NORM, "shape", json!([20, 2])),
            &["{dir}", "model.norm.weight", "[20, 2]", "[40]", "config.json"],
        ),
        Refusal::checkpoint(
            "shape that disagrees with the bytes",
            |c| c.entry(NORM, "shape", json!([41])),
            &["{dir}/model.safetensors", "model.norm.weight", "[41]", "download"],
        ),
        Refusal::checkpoint(
            "shape that overflows",
            |c| c.entry(NORM, "shape", json!([u64::MAX, u64::MAX])),
            &["{dir}/model.safetensors", "model.norm.weight", "download"],
        ),
        Refusal::checkpoint(
            "tensor without elements",
            |c| {
                c.tensor(NORM, |t| {
                    t.shape = vec![0];
                    t.data.clear();
                });
            },
            &["{dir}/model.safetensors", "model.norm.weight", "no elements", "save the model again"],
        ),
        Refusal::checkpoint(
            "integers",
            |c| {
                c.tensor(NORM, |t| {
                    t.dtype = "I64".to_owned();
                    t.data.resize(40 * 8, 0);
                });
            },
            &["{dir}/model.safetensors", "model.norm.weight", "I64", "bfloat16"],
        ),
        Refusal::checkpoint(
            "8-bit floats",
            |c| {
                c.tensor(NORM, |t| {
                    t.dtype = "F8_E4M3".to_owned();
                    t.data.truncate(40);
                });
            },
            &["{dir}/model.safetensors", "model.norm.weight", "F8_E4M3", "bfloat16"],
        ),
        Refusal::checkpoint(
            "dtype that nobody knows",
            |c| c.entry(NORM, "dtype", json!("Q4_K")),
            &["{dir}/model.safetensors", "model.norm.weight", "Q4_K", "bfloat16"],
        ),
        Refusal::checkpoint(
            "overlapping ranges",
            |c| {
                c.header(FILE, |header| {
                    header[NORM]["data_offsets"] =
                        header["model.layers.0.input_layernorm.weight"]["data_offsets"].clone();
                });
            },
            &["{dir}/model.safetensors", "overlap", "download"],
        ),
        Refusal::checkpoint(
            "range that ends before it begins",
            |c| c.entry(NORM, "data_offsets", json!([80, 0])),
            &["{dir}/model.safetensors", "model.norm.weight", "download"],
        ),
        Refusal::checkpoint(
            "name that plays with the terminal",
            |c| c.tensors(FILE, |t| t.push(Stored { name: "\u{1b}[2Jgone\n".to_owned(), ..t[0].clone() })),
            &["\\u{1b}[2Jgone", "no place"],
        ),
        Refusal::checkpoint(
            "weights that are not numbers",
            |c| c.tensor("model.layers.1.mlp.up_proj.weight", |t| t.data[..2].copy_from_slice(&[0xC0, 0x7F])),
            &["not a finite number", "damaged"],
        ),
        Refusal::checkpoint(
            "infinite weights in the head",
            |c| c.tensor("model.embed_tokens.weight", |t| t.data = [0x80, 0x7F].repeat(t.data.len() / 2)),
            &["not a finite number", "damaged"],
        ),
    ];
    check_all(&table, 15);
}

#[test]
fn shards_and_index_that_disagree() {
    const SECOND: &str = "model-00002-of-00003.safetensors";
    let table = [
        sharded("missing shard", |c| c.remove(SECOND), &["{dir}", "model-00002-of-00003.safetensors", "download"]),
        sharded("index that is no JSON", |c| c.write(INDEX, b"{"), &["{dir}/model.safetensors.index.json", "download"]),
        sharded(
            "index without a map",
            |c| c.edit(INDEX, |map| _ = map.remove("weight_map")),
            &["{dir}/model.safetensors.index.json", "weight_map", "download"],
        ),
        sharded(
            "index that leads elsewhere",
            |c| c.edit(INDEX, |map| map["weight_map"][NORM] = json!("../other.safetensors")),
            &["{dir}/model.safetensors.index.json", "../other.safetensors"],
        ),
        sharded(
            "tensor in another shard than the index says",
            |c| c.edit(INDEX, |map| map["weight_map"]["lm_head.weight"] = json!(SECOND)),
            &["lm_head.weight", "model-00002-of-00003.safetensors", "download"],
        ),
        sharded(
            "tensor that the index does not name",
            |c| {
                c.edit(INDEX, |map| _ = map["weight_map"].as_object_mut().unwrap().remove("lm_head.weight"));
            },
            &["lm_head.weight", "{dir}/model-00001-of-00003.safetensors", "the index does not name it", "download"],
        ),
        sharded(
            "tensor in two shards",
            |c| {
                let mut head = None;
                c.tensors("model-00001-of-00003.safetensors", |t| {
                    head = t.iter().find(|t| t.name == "lm_head.weight").cloned();
                });
                c.tensors(SECOND, |t| t.extend(head));
            },
            &["lm_head.weight", "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"],
        ),
        sharded(
            "truncated shard",
            |c| c.write(SECOND, &c.read(SECOND)[..5000]),
            &["{dir}/model-00002-of-00003.safetensors", "download"],
        ),
    ];
    check_all(&table, 8);
}

#[test]
fn directories_that_are_no_checkpoint() {
    let table = [
        Refusal::checkpoint("empty", |c| c.only(&[]), &["{dir}", "empty", "pass the directory of a model"]),
        Refusal::checkpoint(
            "pickle",
            |c| c.only(&["config.json", "pytorch_model.bin"]),
            &["{dir}", "pytorch_model.bin", "pickle", "save_pretrained"],
        ),
        Refusal::checkpoint("GGUF", |c| c.only(&["model.Q4_K.gguf"]), &["{dir}", "model.Q4_K.gguf", "gguf_file"]),
        Refusal::checkpoint(
            "adapter",
            |c| c.only(&["adapter_config.json", "adapter_model.safetensors"]),
            &["{dir}", "adapter", "pass the directory of the model"],
        ),
        Refusal::checkpoint(
            "shards without an index",
            |c| c.only(&["config.json", "model-00001-of-00002.safetensors"]),
            &["{dir}", "model-00001-of-00002.safetensors", "index.json"],
        ),
        Refusal::checkpoint(
            "other things",
            |c| c.only(&["README.md", "notes.txt"]),
            &["{dir}", "README.md", "notes.txt", "pass the directory of a model"],
        ),
        Refusal::args(
            "nothing there",
            1,
            &["generate", "{scratch}/nowhere", "Hello"],
            &["{scratch}/nowhere", "check the path"],
        ),
        Refusal::args(
            "name on the hub",
            1,
            &["generate", "Somebody/Some-Model-8B", "Hello"],
            &[
                "there is no directory Somebody/Some-Model-8B",
                "hf download Somebody/Some-Model-8B --local-dir Some-Model-8B",
            ],
        ),
        Refusal::args(
            "file",
            1,
            &["generate", "{dir}/model.safetensors", "Hello"],
            &["{dir}/model.safetensors", "is a file", "pass the directory"],
        ),
        Refusal::args("empty name", 2, &["generate", "", "Hello"], &["[MODEL]", "--help"]),
    ];
    check_all(&table, 10);
}

/// Weights that one may not read. A superuser may read anything: for it there is nothing to see here, and the
/// directory in the place of a file stands for the rest.
#[test]
fn weights_that_may_not_be_read() {
    use std::os::unix::fs::PermissionsExt;
    let checkpoint = Checkpoint::copy("text_qwen3");
    let path = checkpoint.path(FILE);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    let outcome = common::run(&["inspect", checkpoint.dir()]);
    if std::fs::read(&path).is_ok() {
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    } else {
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains("not permitted") && outcome.stderr.contains("ls -l"), "{outcome:?}");
    }
}
