//! What can go wrong between the disk and a slice in memory, in words a user can act on.
//!
//! Every function of this crate that can fail returns a [`StoreError`]. Its `Display` is one
//! sentence: where (file, tensor), what, and what to do about it. Its [`StoreErrorKind`] is for
//! programs and tests.

use std::io;
use std::path::{Path, PathBuf};

/// The kinds of failure this crate reports; the match is never exhaustive outside the crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// There is nothing at the path, or it is a link to nothing.
    NotFound,
    /// A directory was wanted and the path is something else.
    NotADirectory,
    /// A regular file was wanted and the path is a directory, a pipe or a device.
    NotAFile,
    /// The operating system refused to open, list or measure the path.
    Unreadable,
    /// No model weights in safetensors form: none of the expected files, or files without tensors.
    NoWeights,
    /// Weights in another format: pickle (`.bin`, `.pt`), GGUF, and so on.
    ForeignFormat,
    /// A git-lfs pointer stands where the content should be.
    LfsPointer,
    /// The file ends before its header or its last tensor does.
    Truncated,
    /// The file goes on after its last tensor.
    TrailingBytes,
    /// The header is not what the safetensors format prescribes.
    BadHeader,
    /// A tensor's byte range overlaps another, leaves a hole, or disagrees with its shape.
    BadRange,
    /// The shard index is not what `transformers` writes.
    BadIndex,
    /// The shard index names a file that is not a plain file name beside it.
    UnsafePath,
    /// A file that the shard index names is not there.
    MissingShard,
    /// A tensor is not in the file where the shard index places it.
    MissingTensor,
    /// A shard holds a tensor that the shard index does not name.
    UnlistedTensor,
    /// Two shards hold a tensor of the same name.
    DuplicateTensor,
    /// A tensor's element type cannot be used as a weight.
    UnsupportedDtype,
    /// A tensor of a checkpoint has no elements.
    EmptyTensor,
    /// A read outside the tensor or the source was asked for.
    OutOfRange,
    /// The memory for a tensor cannot be had.
    OutOfMemory,
    /// The file became shorter after it was opened.
    Shrank,
    /// The operating system failed a read.
    ReadFailed,
    /// The operating system refuses the way of reading that was asked for.
    IoRefused,
    /// A file cannot be made or written.
    WriteFailed,
}

/// A failure of the store: its kind, its place, and a sentence for the user.
///
/// The operating system's own error, where there is one, is the [`source`](std::error::Error::source)
/// and is not repeated in the sentence.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct StoreError {
    kind: StoreErrorKind,
    path: Option<PathBuf>,
    tensor: Option<String>,
    what: String,
    advice: Option<String>,
    source: Option<io::Error>,
}

impl StoreError {
    /// A failure of `kind`; `what` continues the sentence "path: tensor: …" and has no full stop.
    pub(crate) fn new(kind: StoreErrorKind, what: impl Into<String>) -> Self {
        Self { kind, path: None, tensor: None, what: what.into(), advice: None, source: None }
    }

    /// Adds the file or directory the failure is about.
    pub(crate) fn at(mut self, path: &Path) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// Adds the tensor the failure is about.
    pub(crate) fn in_tensor(mut self, name: &str) -> Self {
        self.tensor = Some(name.to_owned());
        self
    }

    /// Adds what the user can do, as an imperative without a full stop.
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Adds the operating system's error.
    pub(crate) fn caused_by(mut self, source: io::Error) -> Self {
        self.source = Some(source);
        self
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// The file or directory it is about (the name, for bytes built into the program).
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The full name of the tensor it is about.
    pub fn tensor(&self) -> Option<&str> {
        self.tensor.as_deref()
    }

    /// What the user can do about it, as an imperative without a full stop.
    pub fn advice(&self) -> Option<&str> {
        self.advice.as_deref()
    }

    /// "where: what; what to do", with the parts that are known.
    fn sentence(&self) -> String {
        let path = self.path.as_ref().map(|path| path.display().to_string());
        let tensor = self.tensor.as_deref().map(quoted);
        let parts = [path, tensor.map(|name| format!("tensor {name}")), Some(self.what.clone())];
        let text = parts.into_iter().flatten().collect::<Vec<_>>().join(": ");
        match &self.advice {
            Some(advice) => format!("{text}; {advice}"),
            None => text,
        }
    }
}

/// `text` in double quotes, with control characters escaped and a long middle left out.
///
/// Names in headers are written by whoever wrote the file: neither an escape sequence nor a
/// megabyte of them may reach a terminal.
pub(crate) fn quoted(text: &str) -> String {
    const HEAD: usize = 96;
    const TAIL: usize = 24;
    let count = text.chars().count();
    if count <= HEAD + TAIL {
        return format!("\"{}\"", text.escape_debug());
    }
    let head: String = text.chars().take(HEAD).collect();
    let tail: String = text.chars().skip(count - TAIL).collect();
    format!("\"{}…{}\"", head.escape_debug(), tail.escape_debug())
}
