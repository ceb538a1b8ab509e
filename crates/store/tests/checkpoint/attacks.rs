//! Every way a directory can be wrong, and what the refusal has to say.

mod headers;
mod indices;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use rheostat_store::{Checkpoint, StoreErrorKind as Kind};

use crate::files::{entry, file, index, put, raw, tensors};

/// What to put into an empty directory, and how opening it must fail.
struct Attack {
    name: &'static str,
    build: Box<dyn Fn(&Path)>,
    kind: Kind,
    /// Parts of the message; the first is the file that must be named.
    says: &'static [&'static str],
    tensor: Option<&'static str>,
}

const ONE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const A: &str = "model-00001-of-00002.safetensors";
const B: &str = "model-00002-of-00002.safetensors";

fn attack(name: &'static str, kind: Kind, says: &'static [&'static str], build: impl Fn(&Path) + 'static) -> Attack {
    Attack { name, build: Box::new(build), kind, says, tensor: None }
}

/// An attack that is this content in `model.safetensors`.
fn content(name: &'static str, kind: Kind, says: &'static [&'static str], bytes: impl AsRef<[u8]> + 'static) -> Attack {
    attack(name, kind, says, move |dir| put(dir, ONE, &bytes))
}

impl Attack {
    fn on(mut self, tensor: &'static str) -> Self {
        self.tensor = Some(tensor);
        self
    }
}

fn directories() -> Vec<Attack> {
    vec![
        attack("an empty directory", Kind::NoWeights, &["", "is empty"], |_| {}),
        attack(
            "a directory of something else",
            Kind::NoWeights,
            &["", "no model.safetensors", "\"a.txt\"", "\"config.json\" and 5 more"],
            |dir| {
                put(dir, "config.json", "{}");
                for name in ["a", "b", "c", "b2", "b3", "b4", "b5", "z1", "z2", "z3", "z4", "z5"] {
                    put(dir, &format!("{name}.txt"), "");
                }
            },
        ),
        attack("a hostile file name", Kind::NoWeights, &["", r"\u{1b}[31m"], |dir| put(dir, "\x1b[31m", "")),
        attack("an adapter", Kind::NoWeights, &["", "an adapter, not a model"], |dir| {
            put(dir, "adapter_model.safetensors", tensors(&["a"]));
        }),
        attack(
            "shards without an index",
            Kind::NoWeights,
            &["", A, "download the repository's model.safetensors.index.json"],
            |dir| put(dir, A, tensors(&["a"])),
        ),
        attack(
            "a pickle",
            Kind::ForeignFormat,
            &["", "pytorch_model.bin", "save_pretrained(\"OUT\", safe_serialization=True)"],
            |dir| {
                put(dir, "training_args.bin", "");
                put(dir, "pytorch_model.bin", "");
            },
        ),
        attack("a torch file", Kind::ForeignFormat, &["", "x.pt"], |dir| {
            put(dir, "x.pt", "");
        }),
        attack("a GGUF file", Kind::ForeignFormat, &["", "is a GGUF file"], |dir| {
            put(dir, "x.gguf", "");
        }),
        attack("a TensorFlow file", Kind::ForeignFormat, &["", "tf_model.h5"], |dir| {
            put(dir, "tf_model.h5", "");
        }),
        attack("a directory for a file", Kind::NotAFile, &[ONE, "directory"], |dir| {
            fs::create_dir(dir.join(ONE)).unwrap();
        }),
        attack("a pipe for a file", Kind::NotAFile, &[ONE, "regular"], |dir| {
            use rustix::fs::{CWD, FileType, Mode, mknodat};
            mknodat(CWD, dir.join(ONE), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        }),
        attack("a broken link", Kind::NotFound, &[ONE, "the link leads"], |dir| {
            symlink("../blobs/0123", dir.join(ONE)).unwrap();
            // Not a reason to fall back to the index, which may be of another revision.
            put(dir, INDEX, index(&[("a", A)]));
        }),
        attack("a link to itself", Kind::Unreadable, &[ONE, "cannot be opened"], |dir| {
            symlink(ONE, dir.join(ONE)).unwrap();
        }),
    ]
}

fn contents() -> Vec<Attack> {
    let good = tensors(&["a", "b"]);
    let cut = |by: usize| good[..good.len() - by].to_vec();
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2471645608\n";
    let page = "<!DOCTYPE html><html><head><title>Sign in</title></head></html>";
    vec![
        content("nothing", Kind::Truncated, &[ONE, "empty"], ""),
        content("three bytes", Kind::Truncated, &[ONE, "3 bytes"], "abc"),
        content("a pointer", Kind::LfsPointer, &[ONE, "git lfs pull"], lfs),
        content("a page", Kind::ForeignFormat, &[ONE, "web page"], page),
        content("a zip", Kind::ForeignFormat, &[ONE, "this is a pickle"], b"PK\x03\x04\x14\0\x08\x08"),
        content("GGUF", Kind::ForeignFormat, &[ONE, "this is a GGUF"], b"GGUF\x03\0\0\0\0\0\0\0"),
        content("long", Kind::BadHeader, &[ONE, "18446744073709551615"], raw(u64::MAX, b"{}", 0)),
        content("cut in the header", Kind::Truncated, &[ONE, "inside its header"], raw(99, b"{", 0)),
        content("cut by one byte", Kind::Truncated, &[ONE, "cut short", "download"], cut(1)).on("b"),
        content("cut by a tensor", Kind::Truncated, &[ONE, "cut short"], cut(17)).on("a"),
        content(
            "one byte more",
            Kind::TrailingBytes,
            &[ONE, "1 bytes after the last tensor"],
            [&good[..], b"\n"].concat(),
        ),
        attack("a header of 100000001 bytes", Kind::BadHeader, &[ONE, "100000001"], |dir| {
            put(dir, ONE, raw(100_000_001, b"{}", 0));
            let file = File::options().write(true).open(dir.join(ONE)).unwrap();
            file.set_len(1 << 30).unwrap();
        }),
        content("not UTF-8", Kind::BadHeader, &[ONE, "not UTF-8 (at its byte 2)"], raw(4, b"{\"\xff}", 0)),
        content("no header", Kind::BadHeader, &[ONE, "brace"], raw(0, b"", 0)),
        content("no tensors", Kind::NoWeights, &["", "name no tensors"], file("{}", 0)),
    ]
}

#[test]
fn every_attack_is_refused_in_words() {
    let attacks = [directories(), contents(), headers::headers(), indices::indices()];
    for attack in attacks.into_iter().flatten() {
        let Attack { name, build, kind, says, tensor } = attack;
        let dir = tempfile::tempdir().unwrap();
        build(dir.path());
        let error = match Checkpoint::open(dir.path()) {
            Err(error) => error,
            Ok(opened) => panic!("{name}: opened {opened:?}"),
        };
        let message = error.to_string();
        assert_eq!(error.kind(), kind, "{name}: {message}");
        assert_eq!(error.tensor(), tensor, "{name}: {message}");
        let place = if says[0].is_empty() { dir.path().to_owned() } else { dir.path().join(says[0]) };
        assert_eq!(error.path(), Some(place.as_path()), "{name}: {message}");
        assert!(message.starts_with(&place.display().to_string()), "{name}: {message}");
        for part in &says[1..] {
            assert!(message.contains(part), "{name}: {part:?} is not in {message:?}");
        }
        assert!(error.advice().is_some(), "{name}: no advice in {message:?}");
        assert!(!message.chars().any(char::is_control), "{name}: {message:?}");
        assert!(message.len() < 1000, "{name}: {message:?}");
    }
}

#[test]
fn what_is_no_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = |name: &str| {
        let path = dir.path().join(name);
        let error = Checkpoint::open(&path).unwrap_err();
        assert_eq!(error.path(), Some(path.as_path()));
        (error.kind(), error.to_string())
    };
    put(dir.path(), ONE, tensors(&["a"]));
    put(dir.path(), "x.gguf", "");
    let (kind, message) = refusal(ONE);
    assert_eq!(kind, Kind::NotADirectory);
    assert!(message.contains("pass the directory that holds"), "{message}");
    let (kind, message) = refusal("x.gguf");
    assert_eq!(kind, Kind::ForeignFormat);
    assert!(message.contains("this is a GGUF file"), "{message}");
    assert_eq!(refusal("absent").0, Kind::NotFound);
}

#[test]
fn what_may_not_be_read_is_refused() {
    use std::error::Error as _;
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), ONE, tensors(&["a"]));
    let path = dir.path().join(ONE);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    // The superuser may read everything; there is nothing to test then.
    if File::open(&path).is_err() {
        let error = Checkpoint::open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unreadable);
        assert!(error.to_string().contains("not permitted"), "{error}");
        assert!(error.source().is_some());
    }
}

#[test]
fn a_name_of_any_length_and_content_is_shown_short_and_harmless() {
    let name = format!("\\u001b]0;{}\\u202e", "é".repeat(1 << 16));
    let text = format!("{{{}}}", entry(&name, "I8", "[16]", 0, 16));
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), ONE, file(&text, 16));
    let error = Checkpoint::open(dir.path()).unwrap_err();
    let message = error.to_string();
    assert_eq!(error.kind(), Kind::UnsupportedDtype);
    assert!(message.contains("…") && message.len() < 1000, "{message:?}");
    assert!(!message.contains(['\u{1b}', '\u{202e}']), "{message:?}");
}
