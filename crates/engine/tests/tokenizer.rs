//! The tokenizer against what transformers makes of the same files.
//!
//! The expectations are recorded by `tools/tokenizer_reference.py`, and with
//! the checkpoints in `testdata` that have texts of their own.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rheostat::tokenizer::{AddSpecial, ShowSpecial, StopMatcher, Stopped, Tokenizer, TokenizerError, TokenizerFiles};
use serde_json::Value;

fn testdata() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut roots = manifest.ancestors().map(|root| root.join("testdata"));
    roots.find(|path| path.is_dir()).expect("testdata")
}

const KINDS: [&str; 4] = ["byte_level", "byte_fallback", "unigram", "wordpiece"];

fn load(folder: &Path) -> Tokenizer {
    let files = TokenizerFiles::read(folder).expect("files");
    Tokenizer::load(&files).expect("a tokenizer")
}

fn kind(name: &str) -> Tokenizer {
    load(&testdata().join("tokenizers").join(name))
}

fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("a recorded file");
    serde_json::from_str(&text).expect("JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("ids")
}

#[test]
fn encodes_and_decodes_as_in_transformers() {
    for name in KINDS {
        let tokenizer = kind(name);
        let record = json(&testdata().join("tokenizers").join(name).join("recorded.json"));
        assert_eq!(record["vocab_size"], tokenizer.vocab_size(), "{name}");
        let named: Vec<_> = tokenizer.special().named().collect();
        let expected = record["special_tokens"].as_object().expect("tokens");
        assert_eq!(named.len(), expected.len(), "{name}: {named:?}");
        for (token, text) in named {
            assert_eq!(expected[token], text, "{name}");
        }
        for entry in record["encodings"].as_array().expect("encodings") {
            let text = entry["text"].as_str().expect("text");
            let encode = |add| tokenizer.encode(text, add).expect("ids");
            assert_eq!(ids(&entry["with_special"]), encode(AddSpecial::Add), "{name}: {text:?}");
            assert_eq!(ids(&entry["plain"]), encode(AddSpecial::Omit), "{name}: {text:?}");
        }
        for entry in record["decodings"].as_array().expect("decodings") {
            let ids = ids(&entry["ids"]);
            let decode = |show| tokenizer.decode(&ids, show).expect("text");
            assert_eq!(entry["shown"], decode(ShowSpecial::Show), "{name}: {ids:?}");
            assert_eq!(entry["skipped"], decode(ShowSpecial::Skip), "{name}: {ids:?}");
        }
    }
}

/// Checkpoints elsewhere in `testdata` whose references hold encodings.
#[test]
fn checkpoints_encode_as_in_transformers() {
    for folder in fs::read_dir(testdata()).expect("testdata").flatten() {
        let folder = folder.path();
        let reference = folder.join("reference.json");
        if !folder.join("tokenizer.json").is_file() || !reference.is_file() {
            continue;
        }
        let reference = json(&reference);
        let Some(encodings) = reference["encodings"].as_array() else {
            continue;
        };
        let tokenizer = load(&folder);
        for entry in encodings {
            let text = entry["text"].as_str().expect("text");
            let tokens = tokenizer.encode(text, AddSpecial::Add).expect("ids");
            assert_eq!(ids(&entry["ids"]), tokens, "{}: {text:?}", folder.display());
            let decode = |show| tokenizer.decode(&tokens, show).expect("text");
            assert_eq!(entry["decoded"], decode(ShowSpecial::Show), "{text:?}");
            assert_eq!(entry["decoded_skip_special"], decode(ShowSpecial::Skip), "{text:?}");
            assert_eq!(streamed(&tokenizer, &tokens, ShowSpecial::Skip), decode(ShowSpecial::Skip));
        }
    }
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], show: ShowSpecial) -> String {
    let mut stream = tokenizer.stream(show);
    let mut text = String::new();
    for id in ids {
        text.push_str(&stream.push(*id).expect("text"));
    }
    text + &stream.finish().expect("text")
}

#[test]
fn streams_the_text_of_the_whole() {
    for name in KINDS {
        let tokenizer = kind(name);
        let record = json(&testdata().join("tokenizers").join(name).join("recorded.json"));
        for entry in record["decodings"].as_array().expect("decodings") {
            let ids = ids(&entry["ids"]);
            for show in [ShowSpecial::Show, ShowSpecial::Skip] {
                let whole = tokenizer.decode(&ids, show).expect("text");
                assert_eq!(streamed(&tokenizer, &ids, show), whole, "{name}: {ids:?}");
            }
        }
    }
}

#[test]
fn streams_without_half_characters_and_without_delay() {
    let tokenizer = kind("byte_level");
    let text = "Zürich 👋🏽 你好 end";
    let ids = tokenizer.encode(text, AddSpecial::Omit).expect("ids");
    let mut stream = tokenizer.stream(ShowSpecial::Skip);
    let mut shown = String::new();
    for id in &ids {
        let piece = stream.push(*id).expect("text");
        assert!(!piece.contains('\u{fffd}'));
        shown.push_str(&piece);
    }
    assert_eq!(shown, text, "nothing is left for the end");
    assert_eq!(stream.finish().expect("text"), "");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_ids_stream_to_their_text(
        name in prop::sample::select(KINDS.to_vec()),
        ids in prop::collection::vec(0_u32..520, 0..120),
    ) {
        let tokenizer = kind(name);
        for show in [ShowSpecial::Show, ShowSpecial::Skip] {
            let whole = tokenizer.decode(&ids, show).expect("text");
            prop_assert_eq!(streamed(&tokenizer, &ids, show), whole);
        }
    }

    #[test]
    fn stops_do_not_depend_on_the_pieces(
        text in "[abc]{0,40}",
        stops in prop::collection::vec("[abc]{1,4}", 0..4),
        cuts in prop::collection::vec(0_usize..40, 0..6),
    ) {
        let whole = stopped(&stops, &[&text]);
        let singles: Vec<String> = text.chars().map(String::from).collect();
        let singles: Vec<&str> = singles.iter().map(String::as_str).collect();
        prop_assert_eq!(&stopped(&stops, &singles), &whole);
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= text.len()).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
        prop_assert_eq!(&stopped(&stops, &pieces), &whole);
        let (shown, stop) = whole;
        match stop {
            None => prop_assert_eq!(shown, text),
            Some(stop) => prop_assert!(text.starts_with(&(shown + &stop))),
        }
    }
}

/// The text shown and the stop string that ended it.
fn stopped(stops: &[String], pieces: &[&str]) -> (String, Option<String>) {
    let mut matcher = StopMatcher::new(stops.to_vec());
    let mut shown = String::new();
    for piece in pieces {
        match matcher.push(piece) {
            Ok(text) => shown.push_str(&text),
            Err(Stopped { text, stop }) => return (shown + &text, Some(stop)),
        }
    }
    (shown + &matcher.finish(), None)
}

#[test]
fn stop_strings_are_held_back_and_cut() {
    let mut matcher = StopMatcher::new(["</end>", "\nUser:"]);
    assert_eq!(matcher.push("Hello <"), Ok("Hello ".to_owned()));
    assert_eq!(matcher.push("/en"), Ok(String::new()));
    assert_eq!(matcher.push("joy>\n"), Ok("</enjoy>".to_owned()));
    let stopped = Stopped { text: String::new(), stop: "\nUser:".to_owned() };
    assert_eq!(matcher.push("User: more"), Err(stopped));
    let mut matcher = StopMatcher::new(["ab"]);
    assert_eq!(matcher.push("xa"), Ok("x".to_owned()));
    assert_eq!(matcher.finish(), "a");
}

#[test]
fn missing_and_broken_files_say_what_to_do() {
    let dir = tempfile::tempdir().expect("a folder");
    let error = |dir: &Path| {
        let files = TokenizerFiles::read(dir).expect("files");
        Tokenizer::load(&files).expect_err("no tokenizer")
    };
    assert!(error(dir.path()).to_string().contains("save_pretrained"));
    fs::write(dir.path().join("tokenizer.model"), b"x").expect("written");
    let message = error(dir.path()).to_string();
    assert!(message.contains("tokenizer.model") && message.contains("sentencepiece"), "{message}");
    fs::write(dir.path().join("tokenizer.json"), b"{}").expect("written");
    assert!(matches!(error(dir.path()), TokenizerError::Invalid { .. }));
}
