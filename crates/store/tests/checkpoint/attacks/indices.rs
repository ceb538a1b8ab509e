//! Indices that lie about good shards, and shards that lie to a good index.

use std::os::unix::fs::symlink;

use rheostat_store::StoreErrorKind as Kind;

use super::{A, Attack, B, INDEX, attack};
use crate::files::{index, put, tensors};

/// An attack that is this index beside two good shards: `a` in the first, `b` in the second.
fn indexed(kind: Kind, says: &'static [&'static str], text: impl Into<String>) -> Attack {
    let text = text.into();
    attack(says[1], kind, says, move |dir| {
        put(dir, A, tensors(&["a"]));
        put(dir, B, tensors(&["b"]));
        put(dir, INDEX, &text);
    })
}

pub(super) fn indices() -> Vec<Attack> {
    let bad = Kind::BadIndex;
    let naming = |file: &str| index(&[("a", file), ("b", B)]);
    let lost = "model-00003-of-00002.safetensors";
    vec![
        indexed(bad, &[INDEX, "is empty"], ""),
        indexed(bad, &[INDEX, "the index is not a JSON"], "weight_map"),
        indexed(bad, &[INDEX, "\"weight_map\" twice"], r#"{"weight_map":{},"weight_map":{}}"#),
        indexed(bad, &[INDEX, "lacks `weight_map`"], r#"{"metadata":{}}"#),
        indexed(bad, &[INDEX, "\"metadata\" is not JSON"], r#"{"metadata":{x},"weight_map":{}}"#),
        indexed(bad, &[INDEX, "`weight_map` is not a JSON object"], r#"{"weight_map":[]}"#),
        indexed(bad, &[INDEX, "names no tensors"], r#"{"weight_map":{}}"#),
        indexed(bad, &[INDEX, "\"a\" twice"], index(&[("a", A), ("b", B), ("a", B)])),
        indexed(bad, &[INDEX, "not a string"], r#"{"weight_map":{"a":1}}"#).on("a"),
        indexed(Kind::LfsPointer, &[INDEX, "git-lfs"], "version https://git-lfs.github.com/spec/v1\n"),
        indexed(Kind::ForeignFormat, &[INDEX, "not a safetensors file"], naming("m.bin")).on("a"),
        indexed(Kind::UnsafePath, &[INDEX, "\"../x.safetensors\""], naming("../x.safetensors")).on("a"),
        indexed(Kind::UnsafePath, &[INDEX, "\"/x.safetensors\""], naming("/x.safetensors")).on("a"),
        indexed(Kind::UnsafePath, &[INDEX, "\"./x.safetensors\""], naming("./x.safetensors")).on("a"),
        indexed(Kind::UnsafePath, &[INDEX, "\"d/x.safetensors\""], naming("d/x.safetensors")).on("a"),
        indexed(Kind::UnsafePath, &[INDEX, "\"x.safetensors/\""], naming("x.safetensors/")).on("a"),
        indexed(Kind::UnsafePath, &[INDEX, "\"..\""], naming("..")).on("a"),
        indexed(Kind::UnsafePath, &[INDEX, "\"\""], naming("")).on("a"),
        indexed(Kind::UnsafePath, &[INDEX, r#""\0.safetensors""#], r#"{"weight_map":{"a":"\u0000.safetensors"}}"#)
            .on("a"),
        indexed(Kind::MissingShard, &[INDEX, "00003-of-00002", "download it"], index(&[("a", A), ("b", lost)])).on("b"),
        indexed(
            Kind::MissingTensor,
            &[INDEX, "00002.safetensors\", which lacks it"],
            index(&[("a", A), ("b", B), ("c", B)]),
        )
        .on("c"),
        indexed(Kind::MissingTensor, &[INDEX, "but it is in"], index(&[("a", B), ("b", A)])).on("a"),
        attack("an unlisted tensor", Kind::UnlistedTensor, &[B, "the index does not name it"], |dir| {
            put(dir, A, tensors(&["a"]));
            put(dir, B, tensors(&["b", "extra"]));
            put(dir, INDEX, index(&[("a", A), ("b", B)]));
        })
        .on("extra"),
        attack("a tensor in two shards", Kind::DuplicateTensor, &[B, A, "of this name as well"], |dir| {
            put(dir, A, tensors(&["a"]));
            put(dir, B, tensors(&["b", "a"]));
            put(dir, INDEX, index(&[("a", A), ("b", B)]));
        })
        .on("a"),
        attack("a cut shard", Kind::Truncated, &[B, "cut short"], |dir| {
            let b = tensors(&["b"]);
            put(dir, A, tensors(&["a"]));
            put(dir, B, &b[..b.len() - 4]);
            put(dir, INDEX, index(&[("a", A), ("b", B)]));
        })
        .on("b"),
        attack("a shard that links nowhere", Kind::NotFound, &[B, "the link leads"], |dir| {
            put(dir, A, tensors(&["a"]));
            symlink("../blobs/0123", dir.join(B)).unwrap();
            put(dir, INDEX, index(&[("a", A), ("b", B)]));
        }),
    ]
}
