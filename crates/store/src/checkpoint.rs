//! A model directory, opened: every tensor's name, type, shape and byte range; no data read.
//!
//! This is where bytes from outside enter the program. A [`Checkpoint`] that exists has been
//! checked against itself: every range lies in its file, every file is covered, shards and index
//! agree on every name, and every tensor is of a type the engine can use. The planner and the
//! loader take it from there.

mod header;
mod index;
mod layout;
mod members;
mod tensor;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub use header::SafetensorsFile;
pub use tensor::TensorInfo;

use crate::error::{StoreError, StoreErrorKind as Kind};
use crate::source::Source;
use index::Index;
use layout::Layout;
use tensor::shown;

/// The tensors of a model and the sources their bytes are in.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    path: PathBuf,
    sources: Vec<Source>,
    /// In the order of shards, then of bytes.
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl Checkpoint {
    /// Opens the model in the directory `dir`: its `model.safetensors`, or else the shards that its
    /// `model.safetensors.index.json` names. Reads headers only. Links are followed.
    ///
    /// With both present the single file is the model, as it is for `transformers`. Everything else
    /// must fit: a tensor the engine cannot use, or one that files and index disagree on, is an
    /// error, never skipped. A tensor without elements is refused because it is what an interrupted
    /// or ungathered save (ZeRO stage 3) leaves in place of a weight.
    ///
    /// # Errors
    ///
    /// Nearly every [`StoreErrorKind`](crate::StoreErrorKind), each naming the file, the tensor where
    /// there is one, and what to do.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        match Layout::find(dir)? {
            Layout::Single(path) => Self::assemble(dir, vec![SafetensorsFile::open(&path)?]),
            Layout::Sharded(path) => {
                let index = Index::open(&path)?;
                let files = index
                    .shards()
                    .iter()
                    .map(|shard| {
                        SafetensorsFile::open(&dir.join(shard)).map_err(|error| index.explain_missing(shard, error))
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                let checkpoint = Self::assemble(dir, files)?;
                index.check(&checkpoint)?;
                Ok(checkpoint)
            }
        }
    }

    /// Opens a model whose single safetensors file is built into the program; `name` stands where a
    /// path would in messages.
    ///
    /// # Errors
    ///
    /// Those of [`SafetensorsFile::from_source`], `NoWeights`, `UnsupportedDtype` and `EmptyTensor`.
    pub fn from_static(name: &'static str, bytes: &'static [u8]) -> Result<Self, StoreError> {
        let file = SafetensorsFile::from_source(Source::from_static(name, bytes))?;
        Self::assemble(Path::new(name), vec![file])
    }

    /// Joins the files into one name space and refuses what is no weight.
    fn assemble(path: &Path, files: Vec<SafetensorsFile>) -> Result<Self, StoreError> {
        let mut sources: Vec<Source> = Vec::with_capacity(files.len());
        let mut tensors: Vec<TensorInfo> = Vec::new();
        let mut by_name = HashMap::new();
        for (shard, file) in files.into_iter().enumerate() {
            let (source, found) = file.into_parts();
            for mut tensor in found {
                require_usable(&source, &tensor)?;
                tensor.shard = shard;
                if let Some(first) = by_name.insert(tensor.name.clone(), tensors.len()) {
                    // Names are distinct within a file, so the first is in an earlier one.
                    let other = tensors
                        .get(first)
                        .and_then(|earlier| sources.get(earlier.shard))
                        .map_or_else(String::new, Source::to_string);
                    return Err(StoreError::new(
                        Kind::DuplicateTensor,
                        format!("{other} holds a tensor of this name as well"),
                    )
                    .at(source.path())
                    .in_tensor(&tensor.name)
                    .advise("download the model again into an empty directory"));
                }
                tensors.push(tensor);
            }
            sources.push(source);
        }
        if tensors.is_empty() {
            return Err(StoreError::new(Kind::NoWeights, "the safetensors headers here name no tensors")
                .at(path)
                .advise("download or save the model again"));
        }
        Ok(Self { path: path.to_owned(), sources, tensors, by_name })
    }

    /// The directory it was opened from; for a model built into the program, its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files, in the order of their names; [`TensorInfo::shard`] is an index into these.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The source that `tensor`, one of this checkpoint, is in.
    ///
    /// # Errors
    ///
    /// `OutOfRange` if the tensor is of a checkpoint with more files.
    pub fn source_of(&self, tensor: &TensorInfo) -> Result<&Source, StoreError> {
        self.sources.get(tensor.shard).ok_or_else(|| {
            StoreError::new(
                Kind::OutOfRange,
                format!("it is in file {} of another checkpoint, this one has {}", tensor.shard, self.sources.len()),
            )
            .at(&self.path)
            .in_tensor(&tensor.name)
        })
    }

    /// All tensors, in the order of their bytes: by file, then by offset.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(*self.by_name.get(name)?)
    }

    /// The bytes of all tensors together, headers not counted.
    pub fn total_bytes(&self) -> u64 {
        // Does not overflow in practice (2^64 bytes of files); saturates rather than panics.
        self.tensors.iter().fold(0, |sum, tensor| sum.saturating_add(tensor.byte_len))
    }

    /// Refuses a tensor whose elements cannot be widened to `f32`.
    ///
    /// # Errors
    ///
    /// `UnsupportedDtype`.
    pub fn require_floats(&self, tensor: &TensorInfo) -> Result<(), StoreError> {
        if tensor.dtype.is_weight() { Ok(()) } else { Err(tensor.unsupported(self.source_of(tensor)?)) }
    }

    /// All bytes of `tensor`.
    ///
    /// # Errors
    ///
    /// `OutOfMemory`, `Shrank`, `ReadFailed`.
    pub fn read_tensor(&self, tensor: &TensorInfo) -> Result<Vec<u8>, StoreError> {
        tensor.read(self.source_of(tensor)?)
    }

    /// All elements of `tensor`, widened exactly to `f32`: for norms and biases, which are small.
    ///
    /// # Errors
    ///
    /// `OutOfMemory`, `Shrank`, `ReadFailed`.
    pub fn read_tensor_f32(&self, tensor: &TensorInfo) -> Result<Vec<f32>, StoreError> {
        tensor.read_f32(self.source_of(tensor)?)
    }

    /// Fills `buf` with the bytes of `tensor` from its byte `start` on.
    ///
    /// # Errors
    ///
    /// `OutOfRange` if the tensor ends before `buf` does; `Shrank`, `ReadFailed`.
    pub fn read_range(&self, tensor: &TensorInfo, start: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        tensor.read_range(self.source_of(tensor)?, start, buf)
    }

    /// Fills each of `pieces` with the bytes of `tensor` from the one that is said on: several at once, which is faster where they come from a
    /// disk.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::read_range`]; `OutOfMemory` if no thread can be started.
    pub fn read_pieces(&self, tensor: &TensorInfo, pieces: &mut [(u64, &mut [u8])]) -> Result<(), StoreError> {
        /// Threads that read, at most.
        const AT_ONCE: usize = 16;
        let read = |pieces: &mut [(u64, &mut [u8])]| {
            pieces.iter_mut().try_for_each(|(start, piece)| self.read_range(tensor, *start, piece))
        };
        if pieces.len() <= 1 {
            return read(pieces);
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = pieces
                .chunks_mut(pieces.len().div_ceil(AT_ONCE))
                .map(|some| {
                    let thread = std::thread::Builder::new().stack_size(256 << 10);
                    thread.spawn_scoped(scope, move || read(some)).map_err(|e| {
                        let what = "a thread that reads cannot be started";
                        StoreError::new(Kind::OutOfMemory, what).at(&self.path).in_tensor(&tensor.name).caused_by(e)
                    })
                })
                .collect();
            // The scope waits for all of them, whatever one says.
            threads.into_iter().try_for_each(|thread| match thread?.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    /// Fills `out` with the elements of `tensor` from element `start` on, widened exactly to `f32`:
    /// row `r` of an embedding `[rows, width]` is `width` elements from `r × width` on.
    ///
    /// # Errors
    ///
    /// `OutOfRange` if the tensor ends before `out` does; `Shrank`, `ReadFailed`.
    pub fn read_range_f32(&self, tensor: &TensorInfo, start: u64, out: &mut [f32]) -> Result<(), StoreError> {
        tensor.read_range_f32(self.source_of(tensor)?, start, out)
    }
}

/// Refuses a tensor that cannot be a weight; here, so that it is not found out in mid-run.
fn require_usable(source: &Source, tensor: &TensorInfo) -> Result<(), StoreError> {
    if tensor.byte_len == 0 {
        return Err(StoreError::new(Kind::EmptyTensor, format!("shape {} has no elements", shown(&tensor.shape)))
            .at(source.path())
            .in_tensor(&tensor.name)
            .advise("save the model again from gathered weights"));
    }
    if !tensor.dtype.is_weight() && !tensor.dtype.is_packing() {
        return Err(tensor.unsupported(source));
    }
    Ok(())
}
