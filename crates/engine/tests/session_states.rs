//! Sessions of models that carry states from position to position: what the file has of them, that they go on and nowhere else, and
//! that a file with other states is refused.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{Case, assert_bits, cases, options};
use rheostat::decoder::Mixer;
use rheostat::hooks::{HookSet, Point, Points};
use rheostat::session::{self, Contents, Session, SessionErrorKind};
use rheostat::{
    Compute, DraftModel, Error, Input, Model, Options, Package, Progress, Request, Sampling, Sequence, Speculation,
    Text, Want, Writer, generate,
};
use rheostat_store::{Dtype, NewTensor, SafetensorsFile, SealedWriter};

/// Tokens that a session has read.
const READ: usize = 10;

fn package(case: &Case) -> Package {
    Package::open(&case.dir).unwrap()
}

fn with_states() -> Vec<Case> {
    let cases: Vec<_> = cases().into_iter().filter(|case| package(case).describe().unwrap().has_state()).collect();
    assert!(cases.len() >= 7 || std::env::var("CASES").is_ok(), "only {} cases", cases.len());
    cases
}

fn text(case: &Case) -> Vec<u32> {
    let mut tokens = case.prompts().into_iter().map(|(_, tokens)| tokens).max_by_key(Vec::len).unwrap();
    tokens.truncate(READ + 12);
    assert!(tokens.len() > READ + 5, "{}", case.name);
    tokens
}

fn open(path: &Path, case: &Case) -> Result<Session, Error> {
    Session::open(path, &package(case), options().compute, options().kv)
}

/// Reads `tokens`; gives the logits of all of them.
fn read(model: &mut Model, sequence: &mut Sequence, tokens: &[u32]) -> Vec<f32> {
    model.forward(&mut [Input { sequence, tokens, want: Want::All }]).unwrap().logits.to_vec()
}

/// A session of the first tokens of `tokens` at `path`.
fn save(path: &Path, case: &Case, tokens: &[u32]) {
    let mut model = case.load(&options());
    let mut sequence = model.sequence(tokens.len());
    read(&mut model, &mut sequence, &tokens[..READ]);
    let contents = Contents { tokens: &tokens[..READ], messages: None };
    session::save(path, &package(case), &model, &sequence, &contents).unwrap();
}

/// A state goes on from where it was saved. Going back means the beginning, or where the last pass began; the bits are the same.
#[test]
fn states_go_on_and_nowhere_else() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("session");
    for case in with_states() {
        let tokens = text(&case);
        save(&path, &case, &tokens);
        let hooks: Points = [Point::MlpOut].into_iter().collect();
        let mut model = case.load(&Options { hooks, ..options() });
        let mut whole = model.sequence(tokens.len());
        let want = read(&mut model, &mut whole, &tokens);
        let vocab = model.decoder().vocab_size;
        let session = open(&path, &case).unwrap();
        let mut check = |what: &str, begins: usize, change: &dyn Fn(&mut Model, &mut Sequence)| {
            let mut sequence = session.restore(&model).unwrap();
            assert_eq!(sequence.len(), READ);
            change(&mut model, &mut sequence);
            assert_eq!(sequence.len(), begins, "{}: {what}", case.name);
            let got = read(&mut model, &mut sequence, &tokens[begins..]);
            assert_bits(&format!("{}: {what}", case.name), &got, &want[begins * vocab..]);
        };
        check("as it is", READ, &|_, sequence| sequence.truncate(READ));
        check("a token back", 0, &|_, sequence| sequence.truncate(READ - 1));
        check("to the beginning", 0, &|_, sequence| sequence.truncate(0));
        check("a pass back", READ, &|model, sequence| {
            read(model, sequence, &[tokens[READ], 5, 6]);
            sequence.truncate(READ + 1);
        });
        check("further back than a pass", 0, &|model, sequence| {
            read(model, sequence, &[7, 5, 6]);
            sequence.truncate(READ - 1);
        });
        let fail = |model: &mut Model, sequence: &mut Sequence| {
            let mut hooks = HookSet::new(model.decoder());
            hooks.try_on("blocks.1.hook_mlp_out", |_, _| Err(Error::Cancelled)).unwrap();
            let input = Input { sequence, tokens: &[7, 5, 6], want: Want::All };
            assert!(matches!(model.forward_hooked(&mut [input], &mut hooks), Err(Error::Cancelled)));
        };
        check("after a pass that failed", READ, &fail);
        check("a token back after a pass that failed", 0, &|model, sequence| {
            fail(model, sequence);
            sequence.truncate(READ - 1);
        });
    }
}

/// A text that stops amid its guesses is rolled back to where their pass began: the session has tokens that are still to be read.
#[test]
fn guesses_and_sessions() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("session");
    let sampling = Sampling { temperature: 0.6, seed: 3, ..Sampling::default() };
    let write = |model: &mut Model, sequence, tokens: Vec<u32>, how, n: usize| {
        let request = Request { max_new_tokens: 100, eos: Vec::new(), sampling: sampling.clone() };
        let end = tokens.len() + n;
        let mut left = n;
        let mut text = Text::new(model, sequence, tokens, request).unwrap();
        let stop = |_| {
            left -= 1;
            if left == 0 { Progress::Stop } else { Progress::Continue }
        };
        generate(model, &mut Writer::new(how), &mut text, stop).unwrap();
        assert_eq!(text.tokens().len(), end);
        text.into_parts()
    };
    let mut unread = 0;
    for case in with_states() {
        let prompt = text(&case);
        let options = Options { drafts: 5, ..options() };
        // The same in numbers that round: right for the most part.
        let rounding = Options { compute: Compute::Bf16, drafts: 0, ..options.clone() };
        let mut model = case.load(&options);
        let none = model.sequence(prompt.len());
        let (_, want) = write(&mut model, none, prompt.clone(), Speculation::Off, 24);
        let mut sequence = model.sequence(prompt.len());
        let mut tokens = prompt.clone();
        for _ in 0..6 {
            let how = Speculation::Model(Box::new(DraftModel::new(case.load(&rounding))));
            (sequence, tokens) = write(&mut model, sequence, tokens, how, 4);
            let contents = Contents { tokens: &tokens, messages: None };
            session::save(&path, &package(&case), &model, &sequence, &contents).unwrap();
            let session = open(&path, &case).unwrap();
            unread += session.tokens().len() - session.read_len() - 1;
            model = case.load(&options);
            sequence = session.restore(&model).unwrap();
        }
        assert_eq!(tokens, want, "{}", case.name);
    }
    assert!(unread > 0, "nothing was to be read again");
}

/// What the documentation says of the file's states: what is seen at the hook points, after the last row.
#[test]
fn anybody_can_look_into_states() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("session");
    let mut found = [0, 0];
    for case in with_states() {
        let tokens = text(&case);
        save(&path, &case, &tokens);
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["read"], READ.to_string());
        let tensor = |name: &str, shape: &[usize]| -> Vec<f32> {
            let tensor = file.tensor(name).unwrap();
            assert_eq!((tensor.dtype(), tensor.shape()), (safetensors::Dtype::F32, shape), "{}: {name}", case.name);
            tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        // The rows that were seen, by name.
        let seen: Arc<Mutex<BTreeMap<String, Vec<Vec<f32>>>>> = Arc::default();
        let hooks: Points = [Point::State, Point::Mixed].into_iter().collect();
        let mut model = case.load(&Options { hooks, ..options() });
        let mut hooks = HookSet::new(model.decoder());
        let patterns = if case.name.starts_with("lfm2") { &["hook_mixed"][..] } else { &["hook_mixed", "hook_state"] };
        for pattern in patterns {
            let seen = Arc::clone(&seen);
            let keep = move |site: &rheostat::hooks::Site<'_>, values: &mut [f32]| {
                let rows = values.chunks_exact(site.row_len()).map(<[f32]>::to_vec);
                seen.lock().unwrap().entry(site.name()).or_default().extend(rows);
            };
            hooks.on(&format!("blocks.*.attn.{pattern}"), keep).unwrap();
        }
        let mut sequence = model.sequence(tokens.len());
        let input = Input { sequence: &mut sequence, tokens: &tokens[..READ], want: Want::Nothing };
        model.forward_hooked(&mut [input], &mut hooks).unwrap();
        let seen = seen.lock().unwrap();
        for (i, block) in model.decoder().blocks.iter().enumerate() {
            let name = |tensor: &str| format!("blocks.{i}.attn.{tensor}");
            let last = |n: usize| &seen[&name("hook_mixed")][READ - n..];
            match &block.mixer {
                Mixer::Delta(m) => {
                    let state = tensor(&name("hook_state"), &[m.v_heads, m.k_dim, m.v_dim]);
                    assert_bits(&case.name, &state, seen[&name("hook_state")].last().unwrap());
                    let conv = tensor(&name("conv_state"), &[m.kernel - 1, m.channels()]);
                    assert_bits(&case.name, &conv, &last(m.kernel - 1).concat());
                    found[0] += 1;
                }
                Mixer::Conv(m) => {
                    // Of b, c and x side by side: b · x.
                    let inputs = last(m.kernel - 1).iter().flat_map(|row| {
                        let (b, x) = (&row[..m.channels], &row[2 * m.channels..]);
                        b.iter().zip(x).map(|(b, x)| b * x).collect::<Vec<_>>()
                    });
                    let conv = tensor(&name("conv_state"), &[m.kernel - 1, m.channels]);
                    assert_bits(&case.name, &conv, &inputs.collect::<Vec<_>>());
                    found[1] += 1;
                }
                _ => assert!(file.tensor(&name("conv_state")).is_err() && file.tensor(&name("hook_state")).is_err()),
            }
        }
    }
    assert!(found.iter().all(|n| *n > 2) || std::env::var("CASES").is_ok(), "{found:?}");
}

type Tensors = Vec<(NewTensor, Vec<u8>)>;

/// Writes the session at `from` to `to` with a change, sealed anew: whole, but not what a session of its model holds.
fn resealed(from: &Path, to: &Path, change: impl FnOnce(&mut Tensors, &mut BTreeMap<String, String>)) {
    let file = SafetensorsFile::open(from).unwrap();
    let mut metadata = file.metadata().clone();
    let own = file.tensors().iter().filter(|t| t.name() != "checksum");
    let mut tensors: Tensors = own
        .map(|t| {
            let new = NewTensor { name: t.name().to_owned(), dtype: t.dtype(), shape: t.shape().to_vec() };
            (new, file.read_tensor(t).unwrap())
        })
        .collect();
    change(&mut tensors, &mut metadata);
    let headers: Vec<_> = tensors.iter().map(|(t, _)| t.clone()).collect();
    let mut writer = SealedWriter::create(to, &headers, &metadata).unwrap();
    tensors.iter().for_each(|(_, bytes)| writer.append(bytes).unwrap());
    writer.finish().unwrap();
}

#[test]
fn other_states_are_refused() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, other) = (dir.path().join("session"), dir.path().join("other"));
    for case in with_states() {
        save(&path, &case, &text(&case));
        resealed(&path, &other, |_, _| {});
        assert!(
            std::fs::read(&path).unwrap() == std::fs::read(&other).unwrap(),
            "the way to change it changes nothing"
        );
        let refused = |what: &str| {
            let error = open(&other, &case).map(drop).expect_err(what);
            let damaged = matches!(&error, Error::Session(e) if e.kind == SessionErrorKind::Damaged);
            assert!(damaged, "{}: {what}: {error}", case.name);
        };
        let is_state = |t: &NewTensor| t.name.ends_with("_state");
        let file = SafetensorsFile::open(&path).unwrap();
        let states: Vec<_> =
            file.tensors().iter().map(|t| t.name().to_owned()).filter(|n| n.ends_with("_state")).collect();
        assert!(!states.is_empty());
        for name in &states {
            resealed(&path, &other, |tensors, _| tensors.retain(|(t, _)| t.name != *name));
            refused(&format!("without {name}"));
            let change = |what: &str, f: fn(&mut NewTensor)| {
                resealed(&path, &other, |tensors, _| {
                    tensors.iter_mut().filter(|(t, _)| t.name == *name).for_each(|(t, _)| f(t));
                });
                refused(&format!("{name} {what}"));
            };
            change("turned around", |t| {
                t.shape.reverse();
                t.shape.push(1);
            });
            change("flat", |t| t.shape = vec![t.shape.iter().product()]);
            change("of integers", |t| t.dtype = Dtype::I32);
            change("of another layer", |t| t.name = t.name.replacen("blocks.", "blocks.9", 1));
        }
        resealed(&path, &other, |tensors, _| tensors.retain(|(t, _)| !is_state(t)));
        refused("without any state");
        resealed(&path, &other, |_, metadata| _ = metadata.remove("read"));
        refused("at no position");
        for position in ["9", "11", "0", "-1", "18446744073709551616", "", "ten"] {
            resealed(&path, &other, |_, metadata| _ = metadata.insert("read".to_owned(), position.to_owned()));
            refused(&format!("at {position:?}"));
        }
    }
}

/// Files that do not say how many tokens were read: the cache does.
#[test]
fn sessions_from_before_there_were_states() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, old) = (dir.path().join("session"), dir.path().join("old"));
    for name in ["llama_plain", "deepseek_v2_hub", "mistral_window"] {
        let case = common::case(common::testdata().join(name));
        let tokens = text(&case);
        save(&path, &case, &tokens);
        resealed(&path, &old, |_, metadata| assert!(metadata.remove("read").is_some()));
        let mut model = case.load(&options());
        let mut whole = model.sequence(tokens.len());
        let want = read(&mut model, &mut whole, &tokens);
        let session = open(&old, &case).unwrap();
        assert_eq!(session.read_len(), READ);
        let mut sequence = session.restore(&model).unwrap();
        let got = read(&mut model, &mut sequence, &tokens[READ..]);
        assert_bits(name, &got, &want[READ * model.decoder().vocab_size..]);
    }
}

/// A model of convolutions alone, which has no cache: what was read is known all the same.
#[test]
fn states_without_a_cache() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("session");
    let (case, kept) = common::stretched(&common::case(common::testdata().join("lfm2_hub")));
    let weights = kept.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let first = |name: &str| !["model.layers.2.", "model.layers.3."].iter().any(|start| name.starts_with(start));
    let tensors = file.tensors().into_iter().filter(|(name, _)| first(name));
    std::fs::write(&weights, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let config = kept.path().join("config.json");
    let mut map: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    map["num_hidden_layers"] = serde_json::json!(2);
    map["full_attn_idxs"] = serde_json::json!([]);
    std::fs::write(&config, map.to_string()).unwrap();
    let tokens = text(&case);
    let mut model = case.load(&options());
    assert!(model.decoder().blocks.iter().all(|block| block.kv().is_none()));
    let mut whole = model.sequence(tokens.len());
    let want = read(&mut model, &mut whole, &tokens);
    save(&path, &case, &tokens);
    let mut sequence = open(&path, &case).unwrap().restore(&model).unwrap();
    let got = read(&mut model, &mut sequence, &tokens[READ..]);
    assert_bits(&case.name, &got, &want[READ * model.decoder().vocab_size..]);
    // Its position is in the metadata alone, and not beyond the text.
    resealed(&path, &dir.path().join("other"), |_, metadata| _ = metadata.insert("read".to_owned(), "11".to_owned()));
    assert!(open(&dir.path().join("other"), &case).is_err());
}
