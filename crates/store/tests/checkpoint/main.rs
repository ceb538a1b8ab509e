//! Opening checkpoints and reading tensors: what works, what is refused, what cannot happen.

#![allow(clippy::unwrap_used)]

mod attacks;
mod files;
mod mutations;
mod views;

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use files::{entry, file, index, put, tensors};
use rheostat_store::{Checkpoint, Dtype, SafetensorsFile, Source, StoreError, StoreErrorKind as Kind, TensorInfo};

const ONE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A file of one tensor `a` with these bytes.
fn one(dtype: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{{}}}", entry("a", dtype, shape, 0, data.len()));
    [file(&header, 0), data.to_vec()].concat()
}

fn names(checkpoint: &Checkpoint) -> Vec<&str> {
    checkpoint.tensors().iter().map(TensorInfo::name).collect()
}

#[test]
fn a_single_file_is_described_in_the_order_of_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let header = format!("{{{},{}}}   ", entry("late", "BF16", "[2,3]", 4, 16), entry("early", "F32", "[]", 0, 4));
    put(dir.path(), ONE, file(&header, 16));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(names(&checkpoint), ["early", "late"]);
    let late = checkpoint.tensor("late").unwrap();
    assert_eq!(late.offset(), 8 + header.len() as u64 + 4);
    assert_eq!((late.byte_len(), late.elements(), late.shard()), (12, 6, 0));
    assert_eq!((late.dtype(), late.shape()), (Dtype::Bf16, &[2, 3][..]));
    assert_eq!(checkpoint.tensor("early").unwrap().elements(), 1);
    assert_eq!(checkpoint.tensor("absent"), None);
    assert_eq!(checkpoint.total_bytes(), 16);
    assert_eq!(checkpoint.path(), dir.path());
    assert!(checkpoint.sources()[0].file().is_some());
    assert_eq!(checkpoint.sources()[0].as_static(), None);
}

#[test]
fn shards_are_joined_in_the_order_of_their_names() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "2.safetensors", tensors(&["b", "c"]));
    put(dir.path(), "1.safetensors", tensors(&["d"]));
    put(dir.path(), "not-named.safetensors", "");
    let map = [("b", "2.safetensors"), ("c", "2.safetensors"), ("d", "1.safetensors")];
    put(dir.path(), INDEX, index(&map));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(names(&checkpoint), ["d", "b", "c"]);
    assert_eq!(checkpoint.sources().len(), 2);
    let c = checkpoint.tensor("c").unwrap();
    assert_eq!(c.shard(), 1);
    let source = checkpoint.source_of(c).unwrap();
    assert_eq!(source.path(), dir.path().join("2.safetensors"));
}

#[test]
fn a_single_file_goes_before_an_index() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), ONE, tensors(&["single"]));
    put(dir.path(), INDEX, "not even JSON");
    assert_eq!(names(&Checkpoint::open(dir.path()).unwrap()), ["single"]);
}

#[test]
fn links_are_followed_as_in_the_hub_cache() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("snapshots/main");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir(dir.path().join("blobs")).unwrap();
    put(dir.path(), "blobs/0123", tensors(&["a"]));
    symlink("../../blobs/0123", snapshot.join(ONE)).unwrap();
    assert_eq!(names(&Checkpoint::open(&snapshot).unwrap()), ["a"]);
}

#[test]
fn only_the_header_is_read() {
    const LEN: u64 = 1 << 36;
    let dir = tempfile::tempdir().unwrap();
    let header = format!("{{{}}}", entry("a", "F32", "[17179869184]", 0, 1 << 36));
    put(dir.path(), ONE, file(&header, 0));
    let sparse = File::options().write(true).open(dir.path().join(ONE));
    let len = 8 + header.len() as u64 + LEN;
    sparse.unwrap().set_len(len).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.total_bytes(), LEN);
    let mut last = [1; 2];
    let a = checkpoint.tensor("a").unwrap();
    checkpoint.read_range(a, LEN - 2, &mut last).unwrap();
    assert_eq!(last, [0, 0]);
}

#[test]
fn elements_widen_exactly() {
    let read = |dtype, bytes: &[u8]| {
        let shape = format!("[{}]", bytes.len() / if dtype == "F32" { 4 } else { 2 });
        let bytes = one(dtype, &shape, bytes).leak();
        let checkpoint = Checkpoint::from_static("small", bytes).unwrap();
        checkpoint.read_tensor_f32(&checkpoint.tensors()[0]).unwrap()
    };
    let halves = |values: &[u16]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();

    let f16 = read("F16", &halves(&[0x3c00, 0x8000, 0x0001, 0xfbff, 0x7c00, 0x3555]));
    let expected = [1.0, -0.0, 2f32.powi(-24), -65504.0, f32::INFINITY, 0.333_251_95];
    assert_eq!(bits(f16), bits(expected.to_vec()));

    let every: Vec<u16> = (0..=u16::MAX).filter(|v| v & 0x7f80 != 0x7f80).collect();
    let expected: Vec<u32> = every.iter().map(|v| u32::from(*v) << 16).collect();
    assert_eq!(bits(read("BF16", &halves(&every))), expected);

    let f32s = [1.5, f32::MIN_POSITIVE / 2.0, f32::NEG_INFINITY];
    let bytes: Vec<u8> = f32s.iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(bits(read("F32", &bytes)), bits(f32s.to_vec()));
}

#[test]
fn ranges_are_read_by_bytes_and_by_elements() {
    // Long enough that widening takes several reads, at an odd offset.
    let data: Vec<u8> = (0..40_000_u32).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), ONE, one("F32", "[ 400, 100 ]", &data));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let a = checkpoint.tensor("a").unwrap();

    assert_eq!(checkpoint.read_tensor(a).unwrap(), data);
    let mut bytes = [0; 6];
    checkpoint.read_range(a, 7, &mut bytes).unwrap();
    assert_eq!(bytes, data[7..13]);
    let mut rows = vec![0.0; 39_900];
    checkpoint.read_range_f32(a, 100, &mut rows).unwrap();
    assert!(rows.iter().enumerate().all(|(i, &v)| v == (i + 100) as f32));

    for (start, len) in [(0, 40_001), (40_000, 1), (40_001, 0), (u64::MAX, 2)] {
        let mut places = vec![0.0; len];
        let error = checkpoint.read_range_f32(a, start, &mut places).unwrap_err();
        assert_eq!((error.kind(), error.tensor()), (Kind::OutOfRange, Some("a")));
    }
    assert!(checkpoint.read_range_f32(a, 40_000, &mut []).is_ok());
    let error = checkpoint.read_range(a, 159_999, &mut [0; 2]).unwrap_err();
    assert_eq!(error.kind(), Kind::OutOfRange);

    // Several pieces at once: as many as one thread takes, and many more, of any length.
    for count in [0, 1, 2, 16, 17, 100] {
        let starts = (0..count).map(|i| (i * 1_579 % 39_000, i % 7));
        let mut pieces: Vec<(usize, Vec<u8>)> = starts.map(|(start, len)| (start, vec![0; len])).collect();
        let mut wanted: Vec<_> = pieces.iter_mut().map(|(start, piece)| (*start as u64, &mut piece[..])).collect();
        checkpoint.read_pieces(a, &mut wanted).unwrap();
        assert!(pieces.iter().all(|(start, piece)| *piece == data[*start..start + piece.len()]));
        if count > 0 {
            let mut wanted: Vec<_> = pieces.iter_mut().map(|(start, piece)| (*start as u64, &mut piece[..])).collect();
            let mut beyond = [0; 2];
            wanted.insert(count / 2, (159_999, &mut beyond));
            let error = checkpoint.read_pieces(a, &mut wanted).unwrap_err();
            assert_eq!((error.kind(), error.tensor()), (Kind::OutOfRange, Some("a")));
        }
    }
}

#[test]
fn a_file_that_shrinks_in_use_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), ONE, tensors(&["a", "b"]));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let path = dir.path().join(ONE);
    let len = fs::metadata(&path).unwrap().len();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(len - 6).unwrap();
    let b = checkpoint.tensor("b").unwrap();
    let error = checkpoint.read_tensor(b).unwrap_err();
    assert_eq!((error.kind(), error.tensor()), (Kind::Shrank, Some("b")));
    let expected = format!("the file shrank while in use: wanted 16 bytes at offset {}, got 10", b.offset());
    assert!(error.to_string().contains(&expected), "{error}");
    assert_eq!(error.path(), Some(path.as_path()));
    assert!(checkpoint.read_tensor(checkpoint.tensor("a").unwrap()).is_ok());
}

#[test]
fn bytes_in_the_program_are_a_checkpoint_too() {
    let bytes: &'static [u8] = tensors(&["a", "b"]).leak();
    let checkpoint = Checkpoint::from_static("tiny (built in)", bytes).unwrap();
    let source = &checkpoint.sources()[0];
    assert_eq!(source.as_static(), Some(bytes));
    assert!(source.file().is_none() && !source.is_empty());
    assert_eq!(source.to_string(), "tiny (built in)");
    assert_eq!(names(&checkpoint), ["a", "b"]);
    let error = source.read_exact_at(u64::MAX, &mut [0; 2]).unwrap_err();
    assert_eq!(error.kind(), Kind::OutOfRange);

    let cut = Checkpoint::from_static("tiny", &bytes[..bytes.len() - 1]).unwrap_err();
    assert_eq!(cut.kind(), Kind::Truncated);
    assert!(cut.to_string().starts_with("tiny: tensor \"b\": "), "{cut}");
}

#[test]
fn a_file_alone_may_hold_what_a_checkpoint_may_not() {
    let dir = tempfile::tempdir().unwrap();
    let header = format!(
        r#"{{"__metadata__":{{"format":"pt"}},{},{}}}"#,
        entry("empty", "F32", "[0]", 0, 0),
        entry("mask", "BOOL", "[8]", 0, 8)
    );
    put(dir.path(), "adapter_model.safetensors", file(&header, 8));
    let file = SafetensorsFile::open(&dir.path().join("adapter_model.safetensors")).unwrap();
    assert_eq!(file.metadata()["format"], "pt");
    let mask = file.tensor("mask").unwrap();
    assert_eq!(file.read_tensor(mask).unwrap(), [0; 8]);
    assert_eq!(file.source().len(), 8 + header.len() as u64 + 8);
    let error = file.read_tensor_f32(mask).unwrap_err();
    assert_eq!((error.kind(), error.tensor()), (Kind::UnsupportedDtype, Some("mask")));
    assert!(file.read_tensor(file.tensor("empty").unwrap()).unwrap().is_empty());
}

#[test]
fn a_tensor_of_another_checkpoint_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "1.safetensors", tensors(&["a"]));
    put(dir.path(), "2.safetensors", tensors(&["b"]));
    let map = [("a", "1.safetensors"), ("b", "2.safetensors")];
    put(dir.path(), INDEX, index(&map));
    let sharded = Checkpoint::open(dir.path()).unwrap();
    let small = Checkpoint::from_static("small", one("F32", "[1]", &[0; 4]).leak()).unwrap();
    for tensor in sharded.tensors() {
        let error = small.read_tensor(tensor).unwrap_err();
        assert_eq!(error.kind(), Kind::OutOfRange, "{error}");
    }
}

#[test]
fn element_types_are_those_of_the_library() {
    for &dtype in Dtype::ALL {
        let theirs: safetensors::Dtype = serde_json::from_value(dtype.name().into()).unwrap();
        assert_eq!(theirs.bitsize() as u64, dtype.bits(), "{dtype}");
        assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
    }
    assert_eq!(Dtype::ALL.len(), 22);
    assert_eq!(Dtype::from_name("f32"), None);
    let weights = Dtype::ALL.iter().filter(|dtype| dtype.is_weight());
    assert_eq!(weights.count(), 3);
    assert_eq!(Dtype::F4.byte_len(6), Some(3));
    assert_eq!(Dtype::F4.byte_len(3), None);
    assert_eq!(Dtype::F32.byte_len(u64::MAX / 8), None);
}

#[test]
fn everything_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Checkpoint>();
    shared::<Source>();
    shared::<StoreError>();
}
