//! A checkpoint written: headers first, since all sizes are known in advance, then the tensors' bytes, piece by
//! piece, in any order and from any thread.
//!
//! What [`Checkpoint::open`](crate::Checkpoint::open) reads: one `model.safetensors`, or shards with an index.
//! The format allows no gaps between tensors. So within a file those whose length is a multiple of 64 bytes come
//! first, in the order in which they are given, and the others after them, by how much their length is a multiple
//! of: then every tensor of the first kind begins at a multiple of 64, and every other at one of its element size.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use serde_json::{Map, Value, json};

use crate::dtype::Dtype;
use crate::error::{StoreError, StoreErrorKind as Kind};

/// What data begins at a multiple of, where lengths permit.
const ALIGN: u64 = 64;

/// A tensor that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTensor {
    /// Its name, which no other has.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its extents, outermost first.
    pub shape: Vec<usize>,
}

impl NewTensor {
    /// Its length in bytes.
    ///
    /// # Errors
    /// `OutOfRange` if no file could hold it.
    pub fn byte_len(&self) -> Result<u64, StoreError> {
        let elements = self.shape.iter().try_fold(1u64, |n, &extent| n.checked_mul(extent as u64));
        elements
            .and_then(|n| self.dtype.byte_len(n))
            .ok_or_else(|| StoreError::new(Kind::OutOfRange, "no file can hold it").in_tensor(&self.name))
    }
}

/// The files of a checkpoint that is being written.
#[derive(Debug)]
pub struct CheckpointWriter {
    dir: PathBuf,
    files: Vec<(PathBuf, File)>,
    /// Where each tensor goes, in the order in which they were given.
    places: Vec<Place>,
    /// Bytes of all tensors, and how many of them were written.
    total: u64,
    written: AtomicU64,
    index: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    file: usize,
    offset: u64,
    len: u64,
}

impl CheckpointWriter {
    /// Makes the files of a checkpoint in the directory `dir` and takes their room on the disk.
    ///
    /// The tensors of a unit stay in one file. If all do not fit into `shard_bytes`, there are several files, each of
    /// about that size at the most. Tensors are known by their place in the sequence of all units.
    ///
    /// # Errors
    /// `WriteFailed`, when the disk is full among others; `OutOfRange` for a tensor that no file could hold.
    pub fn create(dir: &Path, units: &[Vec<NewTensor>], shard_bytes: u64) -> Result<CheckpointWriter, StoreError> {
        let tensors: Vec<&NewTensor> = units.iter().flatten().collect();
        let lens = tensors.iter().map(|tensor| tensor.byte_len()).collect::<Result<Vec<_>, _>>()?;
        let shards = deal(units, &lens, shard_bytes);
        let mut writer = CheckpointWriter {
            dir: dir.to_owned(),
            files: Vec::new(),
            places: vec![Place { file: 0, offset: 0, len: 0 }; tensors.len()],
            total: lens.iter().sum(),
            written: AtomicU64::new(0),
            index: None,
        };
        let mut weight_map = BTreeMap::new();
        for (i, mut shard) in shards.iter().cloned().enumerate() {
            shard.sort_by_key(|&t| std::cmp::Reverse(1 << lens[t].trailing_zeros().min(ALIGN.trailing_zeros())));
            let (header, len) = header(&shard, &tensors, &lens);
            let name = match shards.len() {
                1 => "model.safetensors".to_owned(),
                n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
            };
            let path = dir.join(&name);
            let file = create(&path, header.len() as u64 + len).map_err(|e| write_error(&path, e))?;
            file.write_all_at(&header, 0).map_err(|e| write_error(&path, e))?;
            let mut offset = header.len() as u64;
            for &t in &shard {
                writer.places[t] = Place { file: i, offset, len: lens[t] };
                offset += lens[t];
                weight_map.insert(tensors[t].name.as_str(), name.clone());
            }
            writer.files.push((path, file));
        }
        if shards.len() > 1 {
            let index = json!({ "metadata": { "total_size": writer.total }, "weight_map": weight_map });
            writer.index = Some(format!("{index:#}\n"));
        }
        Ok(writer)
    }

    /// How many files hold the tensors.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Writes bytes of a tensor, from its byte `start` on. Each byte of each tensor is to be written once.
    ///
    /// # Errors
    /// `WriteFailed`; `OutOfRange` if the tensor ends before `bytes` do.
    pub fn write(&self, tensor: usize, start: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let place = self.places.get(tensor).copied();
        let fits = |place: &Place| start.checked_add(bytes.len() as u64).is_some_and(|end| end <= place.len);
        let Some((place, (path, file))) =
            place.filter(fits).and_then(|place| Some((place, self.files.get(place.file)?)))
        else {
            let what = format!("{} bytes from {start} on do not fit into tensor {tensor}", bytes.len());
            return Err(StoreError::new(Kind::OutOfRange, what).at(&self.dir));
        };
        file.write_all_at(bytes, place.offset + start).map_err(|e| write_error(path, e))?;
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the checkpoint: the index, if there is one, is written, and all files are on the disk when this returns.
    ///
    /// # Errors
    /// `WriteFailed`; `Truncated` if bytes of a tensor were not written.
    pub fn finish(self) -> Result<(), StoreError> {
        let written = self.written.into_inner();
        if written != self.total {
            let what = format!("{written} of {} bytes were written", self.total);
            return Err(StoreError::new(Kind::Truncated, what).at(&self.dir));
        }
        for (path, file) in &self.files {
            file.sync_all().map_err(|e| write_error(path, e))?;
        }
        if let Some(index) = &self.index {
            let path = self.dir.join("model.safetensors.index.json");
            let file = File::create(&path).and_then(|file| {
                file.write_all_at(index.as_bytes(), 0)?;
                file.sync_all()
            });
            file.map_err(|e| write_error(&path, e))?;
        }
        Ok(())
    }
}

/// Deals tensors out to files: as many units to each as fit.
fn deal(units: &[Vec<NewTensor>], lens: &[u64], shard_bytes: u64) -> Vec<Vec<usize>> {
    let mut shards = vec![Vec::new()];
    let (mut next, mut used) = (0, 0u64);
    for unit in units {
        let range = next..next + unit.len();
        next = range.end;
        let bytes: u64 = lens[range.clone()].iter().sum();
        if used > 0 && used.saturating_add(bytes) > shard_bytes {
            shards.push(Vec::new());
            used = 0;
        }
        if let Some(shard) = shards.last_mut() {
            shard.extend(range);
        }
        used += bytes;
    }
    shards
}

/// What stands before the data of a file, its length included; and the length of the data.
fn header(shard: &[usize], tensors: &[&NewTensor], lens: &[u64]) -> (Vec<u8>, u64) {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut at = 0;
    for &t in shard {
        let NewTensor { name, dtype, shape } = tensors[t];
        let end = at + lens[t];
        entries.insert(name.clone(), json!({ "dtype": dtype.name(), "shape": shape, "data_offsets": [at, end] }));
        at = end;
    }
    (header_bytes(entries), at)
}

/// The beginning of a safetensors file: the length of its header, then the header with `entries`, filled up so that data begin at a
/// multiple of 64 bytes.
#[must_use]
pub fn header_bytes(entries: Map<String, Value>) -> Vec<u8> {
    let mut text = Value::Object(entries).to_string().into_bytes();
    // The format's own library fills up to 8 bytes; 64 is a multiple of that.
    let len = (text.len() + size_of::<u64>()).next_multiple_of(ALIGN as usize) - size_of::<u64>();
    text.resize(len, b' ');
    [&(len as u64).to_le_bytes(), &text[..]].concat()
}

/// A new file of `len` bytes, which are there to be written.
fn create(path: &Path, len: u64) -> io::Result<File> {
    let file = File::create_new(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, len) {
        Err(full @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => return Err(full.into()),
        // Not every file system can promise room.
        Ok(()) | Err(_) => file.set_len(len)?,
    }
    Ok(file)
}

pub(crate) fn write_error(path: &Path, error: io::Error) -> StoreError {
    StoreError::new(Kind::WriteFailed, "it cannot be written")
        .at(path)
        .advise("check the directory and the room on its disk")
        .caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;

    fn tensor(name: &str, dtype: Dtype, shape: &[usize]) -> NewTensor {
        NewTensor { name: name.to_owned(), dtype, shape: shape.to_vec() }
    }

    /// Two matrices with scales and shapes, and vectors of awkward lengths.
    fn units() -> Vec<Vec<NewTensor>> {
        let matrix = |name: &str, rows| {
            vec![
                tensor(&format!("{name}_packed"), Dtype::I32, &[rows, 16]),
                tensor(&format!("{name}_scale"), Dtype::Bf16, &[rows, 3]),
                tensor(&format!("{name}_shape"), Dtype::I64, &[2]),
            ]
        };
        vec![
            vec![tensor("odd \"vector\"", Dtype::Bf16, &[33])],
            matrix("a", 32),
            vec![tensor("f32", Dtype::F32, &[5])],
            matrix("b", 7),
        ]
    }

    fn bytes(tensor: usize, len: u64) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + tensor as u64 * 31) as u8).collect()
    }

    /// Writes all tensors, each in two pieces, the second first.
    fn write(dir: &Path, shard_bytes: u64) -> usize {
        let writer = CheckpointWriter::create(dir, &units(), shard_bytes).unwrap();
        for (t, tensor) in units().iter().flatten().enumerate() {
            let data = bytes(t, tensor.byte_len().unwrap());
            let (first, second) = data.split_at(data.len() / 3);
            writer.write(t, first.len() as u64, second).unwrap();
            writer.write(t, 0, first).unwrap();
        }
        let files = writer.files();
        writer.finish().unwrap();
        files
    }

    #[test]
    fn what_is_written_is_read_by_the_library_and_by_us() {
        for (shard_bytes, count) in [(1 << 30, 1), (2500, 2), (1, 4)] {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(write(dir.path(), shard_bytes), count);
            let mut found = 0;
            for entry in std::fs::read_dir(dir.path()).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().unwrap() != "safetensors" {
                    continue;
                }
                let file = std::fs::read(&path).unwrap();
                let library = safetensors::SafeTensors::deserialize(&file).unwrap();
                let ours = crate::SafetensorsFile::open(&path).unwrap();
                assert_eq!(ours.metadata()["format"], "pt");
                for (t, tensor) in units().iter().flatten().enumerate() {
                    let Some(info) = ours.tensor(&tensor.name) else { continue };
                    let data = bytes(t, tensor.byte_len().unwrap());
                    assert_eq!(library.tensor(&tensor.name).unwrap().data(), data);
                    assert_eq!(ours.read_tensor(info).unwrap(), data);
                    assert_eq!((info.dtype(), info.shape()), (tensor.dtype, &tensor.shape[..]));
                    assert!(info.offset().is_multiple_of(tensor.dtype.bits() / 8), "{} is aligned", tensor.name);
                    if data.len().is_multiple_of(64) {
                        assert!(info.offset().is_multiple_of(64), "{} is at {}", tensor.name, info.offset());
                    }
                    found += 1;
                }
            }
            assert_eq!(found, 8);
            assert_eq!(dir.path().join("model.safetensors.index.json").exists(), count > 1);
        }
    }

    #[test]
    fn an_index_leads_to_every_tensor() {
        let dir = tempfile::tempdir().unwrap();
        let weights = |name: &str| vec![tensor(name, Dtype::F32, &[4])];
        let writer = CheckpointWriter::create(dir.path(), &[weights("a"), weights("b")], 16).unwrap();
        writer.write(0, 0, &[0; 16]).unwrap();
        writer.write(1, 0, &[1; 16]).unwrap();
        writer.finish().unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.sources().len(), 2);
        assert_eq!(checkpoint.total_bytes(), 32);
    }

    #[test]
    fn too_much_and_too_little_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let one = [vec![tensor("a", Dtype::F32, &[4])]];
        let writer = CheckpointWriter::create(dir.path(), &one, 100).unwrap();
        for (t, start, len) in [(0, 0, 17), (0, 16, 1), (0, u64::MAX, 1), (1, 0, 0)] {
            assert_eq!(writer.write(t, start, &vec![0; len]).unwrap_err().kind(), Kind::OutOfRange);
        }
        writer.write(0, 0, &[0; 12]).unwrap();
        assert_eq!(writer.finish().unwrap_err().kind(), Kind::Truncated);
        // A file that is there is not written over.
        assert_eq!(CheckpointWriter::create(dir.path(), &one, 100).unwrap_err().kind(), Kind::WriteFailed);
        let vast = [vec![tensor("a", Dtype::F32, &[usize::MAX, usize::MAX])]];
        assert_eq!(CheckpointWriter::create(dir.path(), &vast, 100).unwrap_err().kind(), Kind::OutOfRange);
    }
}
