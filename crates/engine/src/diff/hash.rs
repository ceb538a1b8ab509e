//! Hashes of a checkpoint's tensors, by which two recordings know whether they are of the same weights. `docs/hooks.md` says what is hashed.

use std::collections::BTreeMap;

use rheostat_store::{Checkpoint, TensorInfo};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::Error;

/// Bytes that are read at a time.
const PIECE: usize = 4 << 20;

/// Hexadecimal digits of a hash.
const DIGITS: usize = 16;

/// The hash of every tensor of `checkpoint`, by name. All of it is read; `progress` is told how many bytes were, again and again, and
/// stops the reading by returning `false`.
///
/// # Errors
/// When a read fails, or progress stopped it ([`Error::Cancelled`]).
pub fn hashes(
    checkpoint: &Checkpoint,
    mut progress: impl FnMut(u64) -> bool,
) -> Result<BTreeMap<String, String>, Error> {
    let mut done = 0;
    let mut all = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let hash = hash(checkpoint, tensor, |bytes| {
            done += bytes;
            progress(done)
        })?;
        all.insert(tensor.name().to_owned(), hash);
    }
    Ok(all)
}

/// The hash of one tensor; `progress` is told of each piece of bytes that was read.
///
/// # Errors
/// As [`hashes`].
pub fn hash(
    checkpoint: &Checkpoint,
    tensor: &TensorInfo,
    mut progress: impl FnMut(u64) -> bool,
) -> Result<String, Error> {
    let shape: Vec<String> = tensor.shape().iter().map(ToString::to_string).collect();
    let mut hasher = Sha256::new();
    hasher.update(tensor.dtype().name());
    hasher.update([0]);
    hasher.update(shape.join(","));
    hasher.update([0]);
    let mut piece = vec![0; PIECE.min(usize::try_from(tensor.byte_len()).unwrap_or(PIECE))];
    let mut at = 0;
    while at < tensor.byte_len() {
        let len = (tensor.byte_len() - at).min(PIECE as u64) as usize;
        checkpoint.read_range(tensor, at, &mut piece[..len])?;
        hasher.update(&piece[..len]);
        at += len as u64;
        if !progress(len as u64) {
            return Err(Error::Cancelled);
        }
    }
    let mut hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    hex.truncate(DIGITS);
    Ok(hex)
}

/// How the tensors of two checkpoints go together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Weights {
    /// How many are the same.
    pub same: usize,
    /// Those that differ.
    pub different: Vec<String>,
    /// Those that A alone has.
    pub only_a: Vec<String>,
    /// Those that B alone has.
    pub only_b: Vec<String>,
}

impl Weights {
    /// Compares the hashes of two checkpoints.
    #[must_use]
    pub fn compare(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Weights {
        let lacks = |of: &BTreeMap<String, String>, other: &BTreeMap<String, String>| -> Vec<String> {
            of.keys().filter(|name| !other.contains_key(*name)).cloned().collect()
        };
        let both = a.iter().filter_map(|(name, hash)| Some((name, hash == b.get(name)?)));
        let (same, different): (Vec<_>, Vec<_>) = both.partition(|(_, equal)| *equal);
        Weights {
            same: same.len(),
            different: different.into_iter().map(|(name, _)| name.clone()).collect(),
            only_a: lacks(a, b),
            only_b: lacks(b, a),
        }
    }

    /// Whether all are the same, and there are any.
    #[must_use]
    pub fn are_the_same(&self) -> bool {
        self.same > 0 && self.different.is_empty() && self.only_a.is_empty() && self.only_b.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_format() {
        let dir = tempfile::tempdir().unwrap();
        let values: Vec<u8> = [1.0f32, -2.5, 0.0, 3.0, 4.0, 5.5].iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = |shape: &[usize], data: &'static [u8]| {
            safetensors::tensor::TensorView::new(safetensors::Dtype::U8, shape.to_vec(), data).unwrap()
        };
        let matrix = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 3], &values).unwrap();
        let tensors = [("a", matrix), ("b.weight", view(&[3], &[7, 8, 9]))];
        safetensors::serialize_to_file(tensors, None, &dir.path().join("model.safetensors")).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let mut seen = Vec::new();
        let got = hashes(&checkpoint, |bytes| {
            seen.push(bytes);
            true
        })
        .unwrap();
        // python: hashlib.sha256(b"F32\0" b"2,3\0" + struct.pack("<6f", 1, -2.5, 0, 3, 4, 5.5)).hexdigest()[:16], and so on.
        assert_eq!(got["a"], "a97ea36c9707e036");
        assert_eq!(got["b.weight"], "731cf319a2abb238");
        assert_eq!(seen.last(), Some(&27));
        assert!(matches!(hashes(&checkpoint, |_| false), Err(Error::Cancelled)));
    }

    #[test]
    fn two_checkpoints_are_held_against_each_other() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
        };
        let a = map(&[("x", "1"), ("y", "2"), ("z", "3")]);
        let got = Weights::compare(&a, &map(&[("x", "1"), ("y", "9"), ("w", "3")]));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let expected = Weights { same: 1, different: names(&["y"]), only_a: names(&["z"]), only_b: names(&["w"]) };
        assert_eq!(got, expected);
        assert!(!got.are_the_same() && Weights::compare(&a, &a).are_the_same());
        assert!(!Weights::compare(&map(&[]), &map(&[])).are_the_same());
    }
}
