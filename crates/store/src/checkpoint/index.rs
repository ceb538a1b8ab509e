//! The shard index: which file each tensor of a large checkpoint is in, checked against the files.
//!
//! The index is as little to be trusted as the headers: it may name files outside its directory,
//! files that were never downloaded, and tensors that are elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::layout::foreign_content;
use super::members::members;
use super::{Checkpoint, TensorInfo};
use crate::error::{StoreError, StoreErrorKind as Kind, quoted};
use crate::source::Source;

/// The longest index, generously: one of a thousand gigabytes has about ten million bytes.
const MAX_INDEX: u64 = 100_000_000;

/// A parsed index, all of whose file names are plain names beside it.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    /// The index in `shards` of every tensor's file.
    placed: BTreeMap<String, usize>,
    /// Sorted, distinct.
    shards: Vec<String>,
}

impl Index {
    /// Reads and parses the index at `path`.
    ///
    /// # Errors
    ///
    /// `BadIndex`, `UnsafePath`, `ForeignFormat` for shards that are pickles, `LfsPointer`, and those
    /// of [`Source`].
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let text = read_text(&Source::open(path)?)?;
        let (placed, shards) = parse(&text).map_err(|error| error.at(path))?;
        Ok(Self { path: path.to_owned(), placed, shards })
    }

    /// The shards' file names in order.
    pub(super) fn shards(&self) -> &[String] {
        &self.shards
    }

    /// Turns "nothing here" for a shard into what the user needs to know about it.
    pub(super) fn explain_missing(&self, shard: &str, error: StoreError) -> StoreError {
        let dangling = error.path().is_some_and(Path::is_symlink);
        if error.kind() != Kind::NotFound || dangling {
            return error;
        }
        let mut explained = StoreError::new(
            Kind::MissingShard,
            format!("the file {}, which this index names, is not there", quoted(shard)),
        )
        .at(&self.path)
        .advise("download it into the same directory");
        if let Some(tensor) = self.first_in(shard) {
            explained = explained.in_tensor(tensor);
        }
        explained
    }

    fn first_in(&self, shard: &str) -> Option<&str> {
        let wanted = self.shards.iter().position(|name| name == shard)?;
        let (tensor, _) = self.placed.iter().find(|&(_, &at)| at == wanted)?;
        Some(tensor)
    }

    /// Checks that the index and the files, which were opened in the order of
    /// [`shards`](Self::shards), place the same tensors in the same files.
    ///
    /// # Errors
    ///
    /// `MissingTensor`, `UnlistedTensor`.
    pub(super) fn check(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        for (name, &shard) in &self.placed {
            let found = checkpoint.tensor(name).map(TensorInfo::shard);
            if found == Some(shard) {
                continue;
            }
            let shard_name = |index: usize| {
                let name = self.shards.get(index);
                quoted(name.map_or("", String::as_str))
            };
            let what = match found {
                None => format!("the index places it in {}, which lacks it", shard_name(shard)),
                Some(other) => {
                    format!("the index places it in {}, but it is in {}", shard_name(shard), shard_name(other))
                }
            };
            return Err(disagreement(Kind::MissingTensor, what).at(&self.path).in_tensor(name));
        }
        let unlisted = |name: &str| !self.placed.contains_key(name);
        match checkpoint.tensors().iter().find(|t| unlisted(t.name())) {
            None => Ok(()),
            Some(tensor) => {
                Err(disagreement(Kind::UnlistedTensor, "the file holds it, but the index does not name it".to_owned())
                    .at(checkpoint.source_of(tensor)?.path())
                    .in_tensor(tensor.name()))
            }
        }
    }
}

fn read_text(source: &Source) -> Result<String, StoreError> {
    let len = source.len();
    let bad = |what: String| bad_index(what).at(source.path());
    let mut bytes = match usize::try_from(len) {
        Ok(len) if len as u64 <= MAX_INDEX => vec![0; len],
        _ => return Err(bad(format!("an index of {len} bytes is too long"))),
    };
    source.read_exact_at(0, &mut bytes)?;
    if bytes.is_empty() {
        return Err(bad("the index is empty".to_owned()));
    }
    if let Some(foreign) = foreign_content(&bytes) {
        return Err(foreign.at(source.path()));
    }
    String::from_utf8(bytes).map_err(|_| bad("the index is not UTF-8".to_owned()))
}

/// Parses `{"metadata": …, "weight_map": {tensor: file, …}}` into placements and the files' names.
fn parse(text: &str) -> Result<(BTreeMap<String, usize>, Vec<String>), StoreError> {
    let mut weight_map = None;
    for (key, value) in members(text).map_err(|error| bad_index(format!("the index is {error}")))? {
        if key == "weight_map" {
            weight_map = Some(value);
        } else if serde_json::from_str::<serde_json::Value>(value).is_err() {
            // The totals and notes beside the map promise nothing worth holding them to.
            return Err(bad_index(format!("the value of {} is not JSON", quoted(&key))));
        }
    }
    let weight_map = weight_map.ok_or_else(|| bad_index("the index lacks `weight_map`"))?;
    let weight_map = members(weight_map).map_err(|error| bad_index(format!("`weight_map` is {error}")))?;
    if weight_map.is_empty() {
        return Err(bad_index("`weight_map` names no tensors"));
    }

    let mut named = Vec::with_capacity(weight_map.len());
    let mut shards = BTreeSet::new();
    for (tensor, file) in weight_map {
        let file: String = serde_json::from_str(file)
            .map_err(|_| bad_index("its file in `weight_map` is not a string").in_tensor(&tensor))?;
        require_plain(&file).map_err(|error| error.in_tensor(&tensor))?;
        shards.insert(file.clone());
        named.push((tensor, file));
    }
    let shards: Vec<String> = shards.into_iter().collect();
    let placed =
        named.into_iter().filter_map(|(tensor, file)| Some((tensor, shards.binary_search(&file).ok()?))).collect();
    Ok((placed, shards))
}

/// Accepts the name of a safetensors file in the index's own directory and nothing else.
fn require_plain(file: &str) -> Result<(), StoreError> {
    let mut components = Path::new(file).components();
    let plain = matches!(components.next(), Some(Component::Normal(name)) if name == file)
        && components.next().is_none()
        && !file.contains(['/', '\\'])
        && !file.chars().any(char::is_control);
    if !plain {
        return Err(StoreError::new(
            Kind::UnsafePath,
            format!("{} is not the plain name of a file beside the index", quoted(file)),
        )
        .advise("do not use this model unless you trust where it comes from"));
    }
    if !file.ends_with(".safetensors") {
        return Err(StoreError::new(Kind::ForeignFormat, format!("{} is not a safetensors file", quoted(file)))
            .advise("use the safetensors release of the model"));
    }
    Ok(())
}

fn bad_index(what: impl Into<String>) -> StoreError {
    StoreError::new(Kind::BadIndex, what).advise("download the index again")
}

fn disagreement(kind: Kind, what: String) -> StoreError {
    StoreError::new(kind, what).advise("download the model again into an empty directory, index and files together")
}
