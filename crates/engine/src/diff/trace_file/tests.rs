use std::collections::HashMap;

use super::*;
use crate::diff::operations::operations;
use crate::diff::reading::tests::{package, record, text};

/// Writes a trace; `metadata` are put over what is usual.
pub(in crate::diff) fn write(path: &Path, text: &Text, points: &BTreeMap<String, Tensor>, metadata: &[(&str, &str)]) {
    let mut all: HashMap<String, String> = [
        ("format", FORMAT.to_owned()),
        ("version", VERSION.to_owned()),
        ("engine", "transformers 5.24.0".to_owned()),
        ("libraries", r#"{"torch":"2.15.0"}"#.to_owned()),
        ("model", "a model".to_owned()),
        ("model_type", "llama".to_owned()),
        ("dtype", "float32".to_owned()),
        ("attention", "eager".to_owned()),
        ("tokens", serde_json::to_string(&text.tokens).unwrap()),
        ("prompt_len", text.prompt_len.to_string()),
        ("positions", serde_json::to_string(&text.positions).unwrap()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    for (key, value) in metadata {
        if value.is_empty() {
            all.remove(*key);
        } else {
            all.insert((*key).to_owned(), (*value).to_owned());
        }
    }
    let bytes: Vec<(String, safetensors::Dtype, &Tensor, Vec<u8>)> = points
        .iter()
        .map(|(name, tensor)| {
            let indices = name.ends_with("hook_expert_indices");
            let bytes = |x: &f32| if indices { (*x as i32).to_le_bytes() } else { x.to_le_bytes() };
            let dtype = if indices { safetensors::Dtype::I32 } else { safetensors::Dtype::F32 };
            (name.clone(), dtype, tensor, tensor.values.iter().flat_map(bytes).collect())
        })
        .collect();
    let views = bytes.iter().map(|(name, dtype, tensor, bytes)| {
        (name, safetensors::tensor::TensorView::new(*dtype, tensor.shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, Some(all), path).unwrap();
}

fn kind(error: Error) -> Kind {
    match error {
        Error::Trace(error) => {
            assert!(error.to_string().contains(".safetensors: "), "{error}");
            error.kind
        }
        other => panic!("{other}"),
    }
}

#[test]
fn traces_are_read_as_a_whole_and_by_rows() {
    let package = package("qwen3_moe_hub");
    let decoder = package.describe().unwrap();
    let text = text(&decoder, 7);
    let points = record(&package, &decoder, &text, &|_, _, _, _| None);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.safetensors");
    let more = [("weights", r#"{"a":"0123456789abcdef"}"#), ("missing", r#"{"x":"why"}"#)];
    write(&path, &text, &points, &more);
    let trace = TraceFile::open(&path).unwrap();
    assert_eq!((trace.text(), trace.engine.as_str()), (&text, "transformers 5.24.0"));
    assert_eq!(trace.weights.as_ref().unwrap()["a"], "0123456789abcdef");
    assert_eq!((trace.missing["x"].as_str(), trace.libraries["torch"].as_str()), ("why", "2.15.0"));
    assert_eq!(trace.precision().unwrap(), Precision::F32);
    assert_eq!(trace.points().count(), points.len());
    let ops = operations(&decoder);
    trace.check(&ops, decoder.vocab_size).unwrap();
    assert!(trace.foreign(&ops).is_empty());
    for (name, tensor) in &points {
        assert_eq!(trace.tensor(name).unwrap().as_ref(), Some(tensor), "{name}");
        let some = trace.rows(name, 2, 3).unwrap().unwrap();
        assert_eq!(some, tensor.pick(Axes::of(name), &[2, 3, 4]), "{name}");
        assert_eq!(trace.rows(name, 6, 3).unwrap().unwrap(), tensor.pick(Axes::of(name), &[6]), "{name}");
        for rows in [&[0, 1, 4, 2, 6][..], &[5], &[], &[3, 3, 9]] {
            assert_eq!(trace.pick(name, rows).unwrap().unwrap(), tensor.pick(Axes::of(name), rows), "{name} {rows:?}");
        }
    }
    assert!(trace.tensor("blocks.9.hook_resid_pre").unwrap().is_none());
    trace.require(&text.tokens, &text.positions).unwrap();
    let mut other = text.tokens.clone();
    other[4] = 1;
    let Kind::OtherTokens { position, what } = kind(trace.require(&other, &text.positions).unwrap_err()) else {
        panic!()
    };
    assert!(position == 4 && what.ends_with("in the trace, token 1 here"), "{what}");
    assert!(matches!(
        kind(trace.require(&text.tokens[..5], &text.positions).unwrap_err()),
        Kind::OtherTokens { position: 5, .. }
    ));
    assert_eq!(kind(trace.require(&text.tokens, &[1]).unwrap_err()), Kind::OtherPositions);
    assert!(matches!(kind(trace.check(&ops, 3).unwrap_err()), Kind::Token { vocab_size: 3, .. }));
}

#[test]
fn what_is_no_trace_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.safetensors");
    let text = Text { tokens: vec![1, 2, 3], prompt_len: 2, positions: vec![0, 2] };
    let point = |shape: &[usize]| Tensor::new(shape.to_vec(), vec![0.0; shape.iter().product()]).unwrap();
    let points = |name: &str, shape: &[usize]| BTreeMap::from([(name.to_owned(), point(shape))]);
    let plain = points("hook_embed", &[2, 4]);
    let refused = |metadata: &[(&str, &str)]| {
        write(&path, &text, &plain, metadata);
        kind(TraceFile::open(&path).unwrap_err())
    };
    assert_eq!(refused(&[("format", "")]), Kind::NotATrace);
    assert_eq!(refused(&[("version", "9")]), Kind::Version("9".to_owned()));
    let bad = [
        ("tokens", ""),
        ("tokens", "[1, -2]"),
        ("tokens", "[]"),
        ("prompt_len", "4"),
        ("prompt_len", "0"),
        ("positions", "[2, 0]"),
        ("positions", "[0, 3]"),
        ("positions", "[]"),
        ("weights", "7"),
        ("missing", "{"),
        ("engine", ""),
    ];
    for (key, value) in bad {
        let found = refused(&[(key, value)]);
        assert!(matches!(found, Kind::Metadata { key: k, .. } if k == key), "{key} {value}: {found:?}");
    }
    write(&path, &text, &plain, &[("dtype", "float8")]);
    let trace = TraceFile::open(&path).unwrap();
    assert!(matches!(kind(trace.precision().unwrap_err()), Kind::Metadata { key: "dtype", .. }));
    std::fs::write(&path, b"nothing").unwrap();
    assert!(matches!(TraceFile::open(&path).unwrap_err(), Error::Store(_)));

    let decoder = package("llama_plain").describe().unwrap();
    let ops = operations(&decoder);
    for (name, shape) in [("hook_embed", &[2, 4][..]), ("blocks.0.attn.hook_attn_scores", &[2, 3]), ("logits", &[])] {
        write(&path, &text, &points(name, shape), &[]);
        let trace = TraceFile::open(&path).unwrap();
        let found = kind(trace.check(&ops, decoder.vocab_size).unwrap_err());
        assert!(matches!(&found, Kind::WrongShape { point, .. } if point == name), "{found:?}");
    }
    write(&path, &text, &points("blocks.0.attn.hook_pattern", &[6]), &[]);
    assert!(matches!(
        kind(TraceFile::open(&path).unwrap().tensor("blocks.0.attn.hook_pattern").unwrap_err()),
        Kind::WrongShape { .. }
    ));
    // Elements of a type that traces do not have.
    let half = [0_u8; 4];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, vec![2], &half).unwrap();
    let metadata: HashMap<String, String> = TraceFileMetadata::of(&text);
    safetensors::serialize_to_file([("hook_embed", view)], Some(metadata), &path).unwrap();
    assert!(matches!(
        kind(TraceFile::open(&path).unwrap().tensor("hook_embed").unwrap_err()),
        Kind::Dtype { dtype: "BF16", .. }
    ));
}

/// The least that the metadata of a trace must say.
struct TraceFileMetadata;

impl TraceFileMetadata {
    fn of(text: &Text) -> HashMap<String, String> {
        let pairs = [
            ("format", FORMAT.to_owned()),
            ("version", VERSION.to_owned()),
            ("engine", "x".to_owned()),
            ("model", "x".to_owned()),
            ("model_type", "x".to_owned()),
            ("dtype", "float32".to_owned()),
            ("tokens", serde_json::to_string(&text.tokens).unwrap()),
            ("prompt_len", "1".to_owned()),
            ("positions", serde_json::to_string(&text.positions).unwrap()),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}
