//! A safetensors file that is written from its beginning to its end, has its name when it is whole, and can be checked.
//!
//! Its last tensor, `checksum`, is the CRC-32 (that of zlib) of all bytes before it, header and all.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use serde_json::{Map, json};

use crate::checkpoint::SafetensorsFile;
use crate::dtype::Dtype;
use crate::error::{StoreError, StoreErrorKind as Kind};
use crate::writer::{NewTensor, header_bytes, write_error};

/// The name of the last tensor.
const CHECKSUM: &str = "checksum";
/// Bytes of it.
const CHECKSUM_BYTES: u64 = 4;
/// Bytes that are checked at a time.
const PIECE: usize = 1 << 20;

/// A file that is being written. Until it is [finished](SealedWriter::finish) it is `FILE.PROCESS.partial`; given up, it goes away.
pub struct SealedWriter {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    at: u64,
    end: u64,
    crc: crc32fast::Hasher,
    finished: bool,
}

impl SealedWriter {
    /// Begins a file at `path` that will hold `tensors` in this order, and takes its room on the disk.
    ///
    /// # Errors
    /// `WriteFailed`, when the disk is full among others; `OutOfRange` for a tensor that no file could hold.
    pub fn create(
        path: &Path,
        tensors: &[NewTensor],
        metadata: &BTreeMap<String, String>,
    ) -> Result<SealedWriter, StoreError> {
        let mut entries = Map::new();
        entries.insert("__metadata__".to_owned(), json!(metadata));
        let checksum = NewTensor { name: CHECKSUM.to_owned(), dtype: Dtype::U32, shape: vec![1] };
        let mut at = 0;
        for tensor in tensors.iter().chain([&checksum]) {
            let end = at + tensor.byte_len()?;
            let NewTensor { name, dtype, shape } = tensor;
            entries.insert(name.clone(), json!({ "dtype": dtype.name(), "shape": shape, "data_offsets": [at, end] }));
            at = end;
        }
        let header = header_bytes(entries);
        // Through a link, not over it; and beside whoever else writes there.
        let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut partial = OsString::from(path);
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = PathBuf::from(partial);
        let end = header.len() as u64 + at;
        let file = File::create_new(&partial).map_err(|e| write_error(path, e))?;
        let mut writer = SealedWriter {
            path: path.to_owned(),
            partial,
            file,
            at: 0,
            end,
            crc: crc32fast::Hasher::new(),
            finished: false,
        };
        // Not every file system can promise room.
        if let Err(full @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) =
            fallocate(&writer.file, FallocateFlags::empty(), 0, end)
        {
            return Err(write_error(path, full.into()));
        }
        writer.put(&header)?;
        Ok(writer)
    }

    /// Writes the bytes that follow, of as many tensors as they are of.
    ///
    /// # Errors
    /// `WriteFailed`; `OutOfRange` when the last tensor ends before `bytes` do.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if bytes.len() as u64 > self.end - CHECKSUM_BYTES - self.at {
            let what = format!("{} bytes are more than its tensors have left", bytes.len());
            return Err(StoreError::new(Kind::OutOfRange, what).at(&self.path));
        }
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all_at(bytes, self.at).map_err(|e| write_error(&self.path, e))?;
        self.crc.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Ends the file: when this returns, it is on the disk and has its name. What had it before is gone then, and not earlier.
    ///
    /// # Errors
    /// `WriteFailed`; `Truncated` if bytes of a tensor were not written.
    pub fn finish(mut self) -> Result<(), StoreError> {
        let left = self.end - CHECKSUM_BYTES - self.at;
        if left > 0 {
            return Err(StoreError::new(Kind::Truncated, format!("{left} bytes were not written")).at(&self.path));
        }
        let sum = self.crc.clone().finalize();
        self.put(&sum.to_le_bytes())?;
        let named = || -> io::Result<()> {
            self.file.sync_all()?;
            std::fs::rename(&self.partial, &self.path)
        };
        named().map_err(|e| write_error(&self.path, e))?;
        self.finished = true;
        // The name, too, if the system has a way to say so.
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _ = File::open(parent).and_then(|dir| dir.sync_all());
        Ok(())
    }
}

impl Drop for SealedWriter {
    fn drop(&mut self) {
        if !self.finished {
            // It may be gone already; there is nothing more to do.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

/// Reads all of `file` and says whether it is as [`SealedWriter`] wrote it.
///
/// # Errors
/// When it cannot be read.
pub fn seal_is_intact(file: &SafetensorsFile) -> Result<bool, StoreError> {
    let source = file.source();
    let end = source.len() - CHECKSUM_BYTES.min(source.len());
    let last = file.tensors().last();
    if !last.is_some_and(|t| t.name() == CHECKSUM && t.byte_len() == CHECKSUM_BYTES && t.offset() == end) {
        return Ok(false);
    }
    let mut piece = vec![0; PIECE];
    let mut crc = crc32fast::Hasher::new();
    let mut at = 0;
    while at < end {
        let piece = &mut piece[..PIECE.min((end - at) as usize)];
        source.read_exact_at(at, piece)?;
        crc.update(piece);
        at += piece.len() as u64;
    }
    let mut sum = [0; CHECKSUM_BYTES as usize];
    source.read_exact_at(end, &mut sum)?;
    Ok(u32::from_le_bytes(sum) == crc.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, values: &[u8]) -> Result<(), StoreError> {
        let tensors = [
            NewTensor { name: "a".to_owned(), dtype: Dtype::U8, shape: vec![3] },
            NewTensor { name: "none".to_owned(), dtype: Dtype::F32, shape: vec![0, 7] },
            NewTensor { name: "b".to_owned(), dtype: Dtype::U8, shape: vec![values.len() - 3] },
        ];
        let metadata = BTreeMap::from([("format".to_owned(), "test".to_owned())]);
        let mut writer = SealedWriter::create(path, &tensors, &metadata)?;
        for piece in values.chunks(5) {
            writer.append(piece)?;
        }
        assert_eq!(writer.append(&[0]).unwrap_err().kind(), Kind::OutOfRange);
        writer.finish()
    }

    #[test]
    fn whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let values: Vec<u8> = (0..100).collect();
        write(&path, &values).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let library = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(library.tensor("b").unwrap().data(), &values[3..]);
        assert!(seal_is_intact(&SafetensorsFile::open(&path).unwrap()).unwrap());
        // A writer that gives up leaves what was there.
        let tensors = [NewTensor { name: "a".to_owned(), dtype: Dtype::U8, shape: vec![3] }];
        let mut writer = SealedWriter::create(&path, &tensors, &BTreeMap::new()).unwrap();
        writer.append(&[1]).unwrap();
        assert_eq!(writer.finish().unwrap_err().kind(), Kind::Truncated);
        assert!(std::fs::read(&path).unwrap() == bytes);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        assert!(SealedWriter::create(&dir.path().join("no/file"), &tensors, &BTreeMap::new()).is_err());
    }

    #[test]
    fn every_flipped_byte_and_every_cut_shows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path, &[7; 40]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let intact = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            SafetensorsFile::open(&path).and_then(|file| seal_is_intact(&file)).unwrap_or(false)
        };
        assert!(intact(&bytes));
        for i in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[i] ^= 1 << (i % 8);
            assert!(!intact(&flipped), "byte {i}");
            assert!(!intact(&bytes[..i]), "{i} bytes");
        }
        assert!(!intact(&[&bytes[..], &[0]].concat()));
    }
}
