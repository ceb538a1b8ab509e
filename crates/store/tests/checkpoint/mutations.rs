//! Random files: valid ones are read exactly, damaged ones are refused or read consistently, and no
//! bytes whatever make the reader panic.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;
use rheostat_store::{Checkpoint, Dtype, SafetensorsFile, Source};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::files::{entry, index, put, tensors};

/// One edit of a file's bytes; positions wrap around.
#[derive(Clone, Debug)]
enum Edit {
    Set(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    /// Copies a stretch to another place: makes duplicates and nests objects.
    Copy(usize, usize, usize),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let at = 0..512_usize;
    let byte = prop_oneof![
        3 => proptest::sample::select(&b"{}[]\",:\\0129-. abF"[..]),
        1 => any::<u8>(),
    ];
    let edit = prop_oneof![
        4 => (at.clone(), byte.clone()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        2 => (at.clone(), vec(byte, 1..4)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        1 => (at.clone(), 1..24_usize).prop_map(|(at, count)| Edit::Remove(at, count)),
        1 => (at.clone(), 1..96_usize, at).prop_map(|(from, count, to)| Edit::Copy(from, count, to)),
    ];
    vec(edit, 1..5)
}

fn apply(bytes: &mut Vec<u8>, edits: &[Edit]) {
    for edit in edits {
        let len = bytes.len().max(1);
        let range = |from: usize, count: usize| {
            let from = (from % len).min(bytes.len());
            from..(from + count).min(bytes.len())
        };
        match edit {
            Edit::Set(at, byte) => {
                let range = range(*at, 1);
                bytes[range].fill(*byte);
            }
            Edit::Insert(at, new) => {
                let range = range(*at, 0);
                bytes.splice(range, new.iter().copied());
            }
            Edit::Remove(at, count) => {
                let range = range(*at, *count);
                bytes.drain(range);
            }
            Edit::Copy(from, count, to) => {
                let (from, to) = (range(*from, *count), range(*to, 0));
                let copy = bytes[from].to_vec();
                bytes.splice(to, copy);
            }
        }
    }
}

/// A header of tensors, scalars and packed elements among them, with its data length.
fn valid_header() -> (String, usize) {
    let entries = [
        r#""__metadata__":{"format":"pt"}"#.to_owned(),
        entry("a.weight", "F32", "[2,3]", 0, 24),
        entry("b", "BF16", "[]", 24, 26),
        entry("e", "I64", "[0]", 26, 26),
        entry("c.\\u00e9", "F4", "[12]", 26, 32),
        entry("d", "F16", "[1,4]", 32, 40),
    ];
    (format!("{{{}}}", entries.join(",")), 40)
}

/// Opens `bytes`; what opens must be sound, and be the same to the safetensors library.
fn open_and_check(bytes: Vec<u8>) -> Result<(), TestCaseError> {
    // Leaked: the source of bytes in memory is for bytes that live as long as the program.
    let bytes: &'static [u8] = bytes.leak();
    let Ok(file) = SafetensorsFile::from_source(Source::from_static("mutant", bytes)) else {
        return Ok(());
    };
    let theirs = SafeTensors::deserialize(bytes);
    prop_assert!(theirs.is_ok(), "only we accept it: {:?}", theirs.err());
    let theirs = theirs.map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(file.tensors().len(), theirs.len());
    for tensor in file.tensors() {
        let end = tensor.offset().checked_add(tensor.byte_len());
        prop_assert!(end.is_some_and(|end| end <= bytes.len() as u64));
        let view = theirs.tensor(tensor.name());
        let view = view.map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(view.shape(), tensor.shape());
        prop_assert_eq!(view.dtype().to_string(), tensor.dtype().name());
        prop_assert_eq!(view.data(), file.read_tensor(tensor).unwrap());
        prop_assert_eq!(file.tensor(tensor.name()), Some(tensor));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4096) })]

    #[test]
    fn a_damaged_header_is_refused_or_sound(edits in edits()) {
        let (header, data) = valid_header();
        let mut header = header.into_bytes();
        apply(&mut header, &edits);
        // The length is kept true, so that the damage reaches the parser.
        open_and_check(crate::files::raw(header.len() as u64, &header, data))?;
    }

    #[test]
    fn a_damaged_file_is_refused_or_sound(edits in edits()) {
        let (header, data) = valid_header();
        let mut bytes = crate::files::file(&header, data);
        apply(&mut bytes, &edits);
        open_and_check(bytes)?;
    }

    #[test]
    fn other_numbers_are_refused_or_sound(
        shape in vec(prop_oneof![0..5_u64, any::<u64>()], 0..4),
        begin in prop_oneof![0..40_u64, any::<u64>()],
        end in prop_oneof![0..40_u64, any::<u64>()],
        dtype in proptest::sample::select(Dtype::ALL),
        data in 0..40_usize,
    ) {
        let header = format!(
            r#"{{"a":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}}}"#
        );
        open_and_check(crate::files::file(&header, data))?;
    }

    #[test]
    fn any_bytes_are_refused_or_sound(bytes in vec(any::<u8>(), 0..64)) {
        open_and_check(bytes)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn a_damaged_index_never_leads_outside(edits in edits()) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("model");
        std::fs::create_dir(&dir).unwrap();
        // Bait: what a path out of the directory would find.
        put(root.path(), "1.safetensors", tensors(&["a"]));
        put(&dir, "1.safetensors", tensors(&["a"]));
        put(&dir, "2.safetensors", tensors(&["b"]));
        let mut text = index(&[("a", "1.safetensors"), ("b", "2.safetensors")]).into_bytes();
        apply(&mut text, &edits);
        put(&dir, "model.safetensors.index.json", text.clone());
        if let Ok(checkpoint) = Checkpoint::open(&dir) {
            for source in checkpoint.sources() {
                prop_assert_eq!(source.path().parent(), Some(dir.as_path()));
            }
            // An edit may have cut out a whole entry, and nothing else.
            let named: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let named = named["weight_map"].as_object().unwrap();
            prop_assert!(!named.is_empty());
            prop_assert_eq!(checkpoint.tensors().len(), named.len());
            prop_assert!(checkpoint.tensors().iter().all(|t| named.contains_key(t.name())));
        }
    }

    #[test]
    fn what_the_library_writes_is_read_back(
        made in vec((proptest::sample::select(Dtype::ALL), vec(0..4_usize, 0..4)), 0..8),
        note in proptest::option::of(".*"),
    ) {
        // Extents doubled where elements are packed, so that they end on a byte.
        let made: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = made
            .into_iter()
            .enumerate()
            .map(|(i, (dtype, mut shape))| {
                shape.push(4);
                let elements: usize = shape.iter().product();
                let len = dtype.byte_len(elements as u64).unwrap() as usize;
                let data = (0..len).map(|at| (at * 31 + i) as u8).collect();
                (format!("layer.{i}.\"é\n"), dtype, shape, data)
            })
            .collect();
        let views = made.iter().map(|(name, dtype, shape, data)| {
            let theirs = serde_json::from_value(dtype.name().into()).unwrap();
            (name, TensorView::new(theirs, shape.clone(), data).unwrap())
        });
        let notes = note.clone().map(|note| HashMap::from([("note".to_owned(), note)]));
        let bytes: &'static [u8] = safetensors::serialize(views, notes).unwrap().leak();
        let file = SafetensorsFile::from_source(Source::from_static("made", bytes)).unwrap();
        prop_assert_eq!(file.metadata().get("note"), note.as_ref());
        prop_assert_eq!(file.tensors().len(), made.len());
        for (name, dtype, shape, data) in &made {
            let tensor = file.tensor(name).unwrap();
            prop_assert_eq!((tensor.dtype(), tensor.shape()), (*dtype, &shape[..]));
            prop_assert_eq!(tensor.elements(), shape.iter().product::<usize>() as u64);
            prop_assert_eq!(&file.read_tensor(tensor).unwrap(), data);
        }
    }
}
