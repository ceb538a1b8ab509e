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
use std::sync::{Arc, OnceLock};

use crate::error::{StoreError, StoreErrorKind as Kind};
use crate::plan::PAGE;

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
    /// The same file for reads past the page cache, opened when first asked for; nothing where that is refused.
    direct: OnceLock<Option<File>>,
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
        Ok(Self(Backing::File(Arc::new(OpenFile {
            file,
            path: path.to_owned(),
            len: metadata.len(),
            direct: OnceLock::new(),
        }))))
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

    /// The file opened for reads past the page cache, if the system allows that.
    pub(crate) fn direct(&self) -> Option<&File> {
        match &self.0 {
            Backing::File(open) => open.direct.get_or_init(|| open_direct(&open.file)).as_ref(),
            Backing::Static { .. } => None,
        }
    }

    /// Fills the first `need` bytes of `buf` from `offset` on, past the page cache if the system allows it. Offset, address and
    /// length are multiples of [`PAGE`](crate::plan::PAGE); the file may end within `buf`, which is then not all written.
    ///
    /// # Errors
    ///
    /// As [`Source::read_exact_at`].
    pub(crate) fn read_pages_at(&self, offset: u64, buf: &mut [u8], need: usize) -> Result<(), StoreError> {
        let Some(file) = self.direct() else {
            return self.read_exact_at(offset, &mut buf[..need]);
        };
        let mut got = 0;
        while got < need {
            // A read that came up short goes on with the page in which it ended.
            let start = got / PAGE * PAGE;
            match file.read_at(&mut buf[start..], offset + start as u64) {
                Ok(count) if start + count > got => got = start + count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It has come to its end, or accepted the flag and refuses the read: the page cache knows more.
                Ok(_) => return self.read_exact_at(offset, &mut buf[..need]),
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    return self.read_exact_at(offset, &mut buf[..need]);
                }
                Err(error) => return Err(self.read_failed(offset, need, got, error)),
            }
        }
        Ok(())
    }

    /// The file ended after `got` of `wanted` bytes at `offset`.
    pub(crate) fn shrank(&self, offset: u64, wanted: usize, got: usize) -> StoreError {
        let what = format!("the file shrank while in use: wanted {wanted} bytes at offset {offset}, got {got}");
        StoreError::new(Kind::Shrank, what)
            .at(self.path())
            .advise("leave a checkpoint's files alone while a model runs from them")
    }

    /// The system failed a read after `got` of `wanted` bytes at `offset`.
    pub(crate) fn read_failed(&self, offset: u64, wanted: usize, got: usize, error: io::Error) -> StoreError {
        let what = format!("reading {wanted} bytes at offset {offset} failed after {got}");
        StoreError::new(Kind::ReadFailed, what).at(self.path()).advise("check the disk and the mount").caused_by(error)
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
            Backing::File(open) => self.read_file(&open.file, offset, buf),
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

    fn read_file(&self, file: &File, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        let wanted = buf.len();
        let mut got = 0;
        while got < wanted {
            match file.read_at(&mut buf[got..], offset + got as u64) {
                Ok(0) => return Err(self.shrank(offset, wanted, got)),
                Ok(count) => got += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.read_failed(offset, wanted, got, error)),
            }
        }
        Ok(())
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

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().display().fmt(f)
    }
}

/// `file` once more, for reads past the page cache. By its descriptor, since its path may lead elsewhere by now.
#[cfg(target_os = "linux")]
fn open_direct(file: &File) -> Option<File> {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let flag = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::OpenOptions::new().read(true).custom_flags(flag).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &File) -> Option<File> {
    None
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
