//! Where bytes come from: the one seam between a file (or bytes in the program) and every reader.
//!
//! A [`Source`] is opened once, by the checkpoint, and cloned to whoever reads: the loader, the
//! prefetch threads, the planner. Reads name their offset, so clones share nothing but the
//! descriptor and need no lock.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{StoreError, StoreErrorKind as Kind};

/// Bytes that can be read at any offset. Cheap to clone; `Send` and `Sync`.
#[derive(Clone, Debug)]
pub struct Source(Backing);

#[derive(Clone, Debug)]
enum Backing {
    File(Arc<OpenFile>),
    Static { name: &'static str, bytes: &'static [u8] },
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    path: PathBuf,
    /// Length when opened. Ranges are checked against it once; a file that shrinks later is found
    /// out by the read that comes up short.
    len: u64,
}

impl Source {
    /// Opens the file at `path`, following links.
    ///
    /// # Errors
    ///
    /// `NotFound`, `NotAFile` (a directory, a pipe, a device) or `Unreadable`.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        // Asked before opening, because opening a pipe waits for a writer.
        let before = fs::metadata(path).map_err(|error| open_error(path, error))?;
        require_file(path, &before)?;
        let file = File::open(path).map_err(|error| open_error(path, error))?;
        let metadata = file.metadata().map_err(|error| open_error(path, error))?;
        require_file(path, &metadata)?;
        Ok(Self(Backing::File(Arc::new(OpenFile { file, path: path.to_owned(), len: metadata.len() }))))
    }

    /// Bytes built into the program; `name` stands where a path would in messages.
    pub fn from_static(name: &'static str, bytes: &'static [u8]) -> Self {
        Self(Backing::Static { name, bytes })
    }

    /// The path it was opened from; for bytes built into the program, their name.
    pub fn path(&self) -> &Path {
        match &self.0 {
            Backing::File(open) => &open.path,
            Backing::Static { name, .. } => Path::new(name),
        }
    }

    /// Length in bytes, as it was when the source was opened.
    pub fn len(&self) -> u64 {
        match &self.0 {
            Backing::File(open) => open.len,
            Backing::Static { bytes, .. } => bytes.len() as u64,
        }
    }

    /// Whether the source has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes themselves, when they are built into the program and need no reading.
    pub fn as_static(&self) -> Option<&'static [u8]> {
        match &self.0 {
            Backing::File(_) => None,
            Backing::Static { bytes, .. } => Some(bytes),
        }
    }

    /// The open file, when there is one: for advice to the kernel and for reads around its cache.
    pub fn file(&self) -> Option<&File> {
        match &self.0 {
            Backing::File(open) => Some(&open.file),
            Backing::Static { .. } => None,
        }
    }

    /// Fills `buf` with the bytes from `offset` on. `buf` holds no promise after an error.
    ///
    /// # Errors
    ///
    /// `OutOfRange` if the range was never inside the source, `Shrank` if the file has become
    /// shorter than it was when opened, `ReadFailed` for an error of the operating system.
    pub fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        let wanted = buf.len() as u64;
        if offset.checked_add(wanted).is_none_or(|end| end > self.len()) {
            return Err(self.out_of_range(offset, wanted));
        }
        match &self.0 {
            Backing::File(open) => open.read_exact_at(offset, buf),
            Backing::Static { bytes, .. } => {
                let from = usize::try_from(offset)
                    .ok()
                    .and_then(|start| bytes.get(start..)?.get(..buf.len()))
                    .ok_or_else(|| self.out_of_range(offset, wanted))?;
                buf.copy_from_slice(from);
                Ok(())
            }
        }
    }

    fn out_of_range(&self, offset: u64, wanted: u64) -> StoreError {
        let len = self.len();
        StoreError::new(
            Kind::OutOfRange,
            format!("a read of {wanted} bytes at offset {offset} does not fit in {len} bytes"),
        )
        .at(self.path())
    }
}

impl OpenFile {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        let wanted = buf.len();
        let mut got = 0;
        while got < wanted {
            match self.file.read_at(&mut buf[got..], offset + got as u64) {
                Ok(0) => {
                    return Err(StoreError::new(
                        Kind::Shrank,
                        format!(
                            "the file shrank while in use: wanted {wanted} bytes at offset \
                             {offset}, got {got}"
                        ),
                    )
                    .at(&self.path)
                    .advise("leave a checkpoint's files alone while a model runs from them"));
                }
                Ok(count) => got += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(StoreError::new(
                        Kind::ReadFailed,
                        format!("reading {wanted} bytes at offset {offset} failed after {got}"),
                    )
                    .at(&self.path)
                    .advise("check the disk and the mount")
                    .caused_by(error));
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().display().fmt(f)
    }
}

/// The store's error for a path that the operating system would not open or describe.
pub(crate) fn open_error(path: &Path, error: io::Error) -> StoreError {
    let refusal = match error.kind() {
        io::ErrorKind::NotFound if path.is_symlink() => {
            StoreError::new(Kind::NotFound, "the link leads to a file that is not there")
                .advise("download the file again")
        }
        io::ErrorKind::NotFound => StoreError::new(Kind::NotFound, "there is nothing here").advise("check the path"),
        io::ErrorKind::PermissionDenied => {
            StoreError::new(Kind::Unreadable, "reading it is not permitted").advise("check who may read it (`ls -l`)")
        }
        _ => StoreError::new(Kind::Unreadable, "it cannot be opened").advise("check the path, the disk and the mount"),
    };
    refusal.at(path).caused_by(error)
}

fn require_file(path: &Path, metadata: &fs::Metadata) -> Result<(), StoreError> {
    if metadata.is_file() {
        return Ok(());
    }
    let what =
        if metadata.is_dir() { "this is a directory where a file should be" } else { "this is not a regular file" };
    Err(StoreError::new(Kind::NotAFile, what).at(path).advise("put the real file in its place"))
}
