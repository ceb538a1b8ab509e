//! Sessions: a text that goes on in another run has the bits and the tokens of one that was never interrupted, and a file that is not
//! the session that is wanted is refused.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::path::Path;

use common::{Case, cases, modes, options, stretched};
use rheostat::session::{self, Contents, Session, SessionErrorKind};
use rheostat::{Compute, Error, Input, KvFormat, Model, Options, Package, Sampler, Sampling, Sequence, Want};

/// Draws `n` tokens after `text`, whose last token is to be read; gives all logits that were drawn from.
fn go_on(model: &mut Model, sequence: &mut Sequence, text: &mut Vec<u32>, sampling: &Sampling, n: usize) -> Vec<u32> {
    let mut sampler = Sampler::new();
    let mut bits = Vec::new();
    for _ in 0..n {
        let unread = text[sequence.len()..].to_vec();
        let logits = model.prefill(sequence, &unread).unwrap().logits;
        bits.extend(logits.iter().map(|x| x.to_bits()));
        let token = sampler.next(sampling, logits, text).unwrap();
        text.push(token);
    }
    bits
}

fn samplings() -> [Sampling; 2] {
    let repetition_penalty = 1.3;
    [
        Sampling { repetition_penalty, ..Sampling::default() },
        Sampling { temperature: 1.0, seed: 7, repetition_penalty, ..Sampling::default() },
    ]
}

fn package(case: &Case) -> Package {
    Package::open(&case.dir).unwrap()
}

fn has_state(case: &Case) -> bool {
    package(case).describe().unwrap().has_state()
}

fn open(path: &Path, case: &Case, options: &Options) -> Result<Session, Error> {
    Session::open(path, &package(case), options.compute, options.kv)
}

#[test]
fn a_text_goes_on_as_if_it_had_never_stopped() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("session");
    for (i, case) in cases().into_iter().enumerate() {
        // Modes and ways to sample in turns: with so many cases, each meets each. The few with states meet all modes.
        let sampling = &samplings()[i / 2 % 2];
        let modes = modes();
        let these = if has_state(&case) { &modes[..] } else { std::slice::from_ref(&modes[i % modes.len()]) };
        for mode in these {
            stop_and_go(&case, mode, sampling, &path);
        }
    }
}

/// Each prompt of the case goes on with and without stops.
fn stop_and_go(case: &Case, mode: &Options, sampling: &Sampling, path: &Path) {
    for (_, prompt) in case.prompts() {
        let context = case.load(mode).decoder().context;
        if prompt.len() + 1 >= context {
            continue;
        }
        let n = 12.min(context - prompt.len() - 1);
        let mut text = prompt.clone();
        let mut model = case.load(mode);
        let mut sequence = model.sequence(prompt.len());
        let want = go_on(&mut model, &mut sequence, &mut text, sampling, n);
        let mut again = prompt.clone();
        let mut got = Vec::new();
        // Before anything was read, after the prompt, in the middle, each time in a fresh model.
        for stop in [0, 1, n / 2, n] {
            let mut model = case.load(mode);
            let mut sequence = match stop {
                0 => model.sequence(prompt.len()),
                _ => {
                    let session = open(path, case, mode).unwrap();
                    again = session.tokens().to_vec();
                    session.restore(&model).unwrap()
                }
            };
            let done = again.len() - prompt.len();
            got.extend(go_on(&mut model, &mut sequence, &mut again, sampling, stop.saturating_sub(done)));
            let contents = Contents { tokens: &again, messages: None };
            session::save(path, &package(case), &model, &sequence, &contents).unwrap();
            let session = open(path, case, mode).unwrap();
            assert_eq!((session.tokens(), session.read_len()), (&again[..], sequence.len()));
        }
        assert_eq!(again, text, "{}", case.name);
        assert!(got == want, "{}: other bits", case.name);
    }
}

/// A long text, saved from disk and from memory, is the same file, and goes on in either.
#[test]
fn long_texts_and_caches_on_disk() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let plain = ["llama_plain", "qwen2_layer_types", "llama_dynamic_rope"];
    for name in plain.into_iter().chain(["qwen3_next_hub", "qwen3_next_switches", "qwen3_5_switches", "lfm2_hub"]) {
        let (case, _kept) = stretched(&common::case(common::testdata().join(name)));
        for kv in [KvFormat::F32, KvFormat::Bf16] {
            let in_memory = Options { context: Some(2048), kv, ..options() };
            let on_disk = Options { kv_disk: Some(dir.path().to_owned()), ..in_memory.clone() };
            let tokens: Vec<u32> = (0..1500).map(|i| i * i % 60).collect();
            let mut files = Vec::new();
            let mut wants = Vec::new();
            for (i, options) in [&in_memory, &on_disk].into_iter().enumerate() {
                let mut model = case.load(options);
                let mut sequence = model.sequence(tokens.len());
                model.prefill(&mut sequence, &tokens).unwrap();
                let path = dir.path().join(i.to_string());
                let contents = Contents { tokens: &tokens, messages: None };
                session::save(&path, &package(&case), &model, &sequence, &contents).unwrap();
                files.push(std::fs::read(&path).unwrap());
                // What was saved goes on as well.
                let mut text = [&tokens[..], &[3]].concat();
                wants.push(go_on(&mut model, &mut sequence, &mut text, &Sampling::default(), 50));
            }
            assert!(files[0] == files[1] && wants[0] == wants[1], "{name} {kv:?}");
            for (options, chunk) in [(&in_memory, None), (&on_disk, None), (&on_disk, Some(100))] {
                let mut model = case.load(&Options { chunk, ..options.clone() });
                let session = open(&dir.path().join("1"), &case, options).unwrap();
                let mut sequence = session.restore(&model).unwrap();
                let mut text = [session.tokens(), &[3]].concat();
                let got = go_on(&mut model, &mut sequence, &mut text, &Sampling::default(), 50);
                assert!(got == wants[0], "{name} {kv:?}");
            }
            let small = case.load(&Options { context: Some(600), ..in_memory.clone() });
            let error = open(&dir.path().join("0"), &case, &in_memory).unwrap().restore(&small).map(drop).unwrap_err();
            assert!(is(&error, &SessionErrorKind::TooLong { tokens: 1500, room: 640 }), "{error}");
        }
    }
}

fn is(error: &Error, kind: &SessionErrorKind) -> bool {
    matches!(error, Error::Session(error) if error.kind == *kind)
}

/// The file is what its documentation says, for anybody who reads safetensors.
#[test]
fn anybody_can_look_into_it() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("session");
    let case = common::case(common::testdata().join("qwen3_tied"));
    let mut model = case.load(&options());
    let mut sequence = model.sequence(9);
    let tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    model.forward(&mut [Input { sequence: &mut sequence, tokens: &tokens[..8], want: Want::Last }]).unwrap();
    let messages = [serde_json::json!({ "role": "user", "content": "é" })];
    let contents = Contents { tokens: &tokens, messages: Some(&messages) };
    session::save(&path, &package(&case), &model, &sequence, &contents).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = metadata.metadata().as_ref().unwrap();
    assert_eq!((metadata["format"].as_str(), metadata["version"].as_str()), ("rheostat-session", "1"));
    assert_eq!(metadata["numbers"], "--compute f32 --kv-cache f32");
    assert_eq!((file.tensor("tokens").unwrap().shape(), file.len()), (&[9][..], 2 + 2 * 3));
    for (i, block) in model.decoder().blocks.iter().enumerate() {
        let kv = block.kv().unwrap();
        for (hook, width) in [("hook_rot_k", kv.head_dim), ("hook_v", kv.value_dim)] {
            let tensor = file.tensor(&format!("blocks.{i}.attn.{hook}")).unwrap();
            assert_eq!(tensor.shape(), [8, kv.n_kv_heads, width]);
            let numbers = tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
            assert!(numbers.clone().all(f32::is_finite) && numbers.map(f32::abs).sum::<f32>() > 1.0);
        }
    }
    let session = open(&path, &case, &options()).unwrap();
    assert_eq!(session.messages().unwrap(), messages);
    // An empty one is one, too.
    let empty = Contents { tokens: &[], messages: Some(&[]) };
    session::save(&path, &package(&case), &model, &model.sequence(0), &empty).unwrap();
    let session = open(&path, &case, &options()).unwrap();
    assert!(session.tokens().is_empty() && session.restore(&model).unwrap().is_empty());
}

#[test]
fn what_is_not_the_session_is_refused() {
    let names = ["llama_plain", "qwen3_next_hub", "qwen3_5_text", "lfm2_hub"];
    names.into_iter().for_each(|name| refusals(&common::case(common::testdata().join(name))));
}

/// Every way in which a file is not the session that is wanted of `case`.
fn refusals(case: &Case) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("session");
    let mut model = case.load(&options());
    let mut sequence = model.sequence(3);
    model.prefill(&mut sequence, &[1, 2, 3]).unwrap();
    let contents = Contents { tokens: &[1, 2, 3], messages: None };
    session::save(&path, &package(case), &model, &sequence, &contents).unwrap();
    let good = std::fs::read(&path).unwrap();
    let check = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        open(&path, case, &options())
    };
    assert!(check(&good).is_ok());
    // Any byte, and any cut.
    for i in (0..good.len()).step_by(3 + good.len() / 9000).chain(good.len() - 8..good.len()) {
        let mut bytes = good.clone();
        bytes[i] ^= 1 << (i % 8);
        let error = check(&bytes).map(drop).expect_err(&format!("byte {i} was flipped"));
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        assert!(check(&good[..i]).is_err(), "{i} of {} bytes", good.len());
    }
    let version = good.windows(13).position(|bytes| bytes == br#""version":"1""#).unwrap();
    let mut other = good.clone();
    other[version + 11] = b'2';
    assert!(is(&check(&other).unwrap_err(), &SessionErrorKind::Version("2".to_owned())));
    let error = open(&case.dir.join("model.safetensors"), case, &options()).unwrap_err();
    assert!(is(&error, &SessionErrorKind::NotASession), "{error}");
    assert!(open(&dir.path().join("missing"), case, &options()).is_err());
    // Other numbers, another model, and one of the same shape.
    let session = check(&good).unwrap();
    assert!(is(&session.messages().unwrap_err(), &SessionErrorKind::NoConversation));
    for other in [
        Options { kv: KvFormat::Bf16, ..options() },
        Options { compute: Compute::Bf16, ..options() },
        Options { compute: Compute::Bf16, kv: KvFormat::Bf16, ..options() },
    ] {
        let error = open(&path, case, &other).unwrap_err().to_string();
        assert!(error.contains("run with --compute f32 --kv-cache f32, or"), "{error}");
    }
    for other in cases().iter().filter(|other| other.name != case.name) {
        let error = open(&path, other, &options()).unwrap_err();
        assert!(is(&error, &SessionErrorKind::OtherModel), "{}: {error}", other.name);
    }
    let (tuned, tuned_dir) = stretched(case);
    std::fs::copy(case.dir.join("config.json"), tuned_dir.path().join("config.json")).unwrap();
    assert!(open(&path, &tuned, &options()).is_ok(), "a copy is the same model");
    let weights = tuned_dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let error = open(&path, &tuned, &options()).unwrap_err();
    assert!(is(&error, &SessionErrorKind::OtherModel), "{error}");
}
