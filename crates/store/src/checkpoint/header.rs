//! One safetensors file: its header read, checked and turned into tensors with byte ranges.
//!
//! The file is eight bytes of length (little-endian), a JSON header of that length, then the
//! tensors' bytes without gaps. Only the header is read here. A [`SafetensorsFile`] that exists is
//! one whose tensors have distinct names and cover the rest of the file exactly, so no later code
//! checks a range again.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::layout::foreign_content;
use super::members::members;
use super::tensor::{TensorInfo, shown};
use crate::dtype::Dtype;
use crate::error::{StoreError, StoreErrorKind as Kind, quoted};
use crate::source::Source;

/// The bytes before the header: its length.
const PREFIX: u64 = size_of::<u64>() as u64;

/// The longest header, the same bound that the safetensors library sets.
const MAX_HEADER: u64 = 100_000_000;

/// The longest description of one tensor: real ones have about a hundred bytes.
const MAX_DESCRIPTION: usize = 4096;

const AGAIN: &str = "download or save the file again";

/// One safetensors file with a valid header; its tensors may have any type and any shape.
///
/// The building block of a [`Checkpoint`](super::Checkpoint), and enough by itself for files that
/// are not a model, such as adapters.
#[derive(Clone, Debug)]
pub struct SafetensorsFile {
    source: Source,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

impl SafetensorsFile {
    /// Opens the file at `path` and reads its header.
    ///
    /// # Errors
    ///
    /// Those of [`Source::open`] and [`SafetensorsFile::from_source`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::from_source(Source::open(path)?)
    }

    /// Reads the header of `source`.
    ///
    /// # Errors
    ///
    /// `Truncated`, `TrailingBytes`, `BadHeader`, `BadRange`; `LfsPointer` and `ForeignFormat` for
    /// content that is recognisably something else; `UnsupportedDtype` for an element type that the
    /// format does not define; and those of [`Source::read_exact_at`].
    pub fn from_source(source: Source) -> Result<Self, StoreError> {
        let header = read_header(&source)?;
        let data_start = PREFIX + header.len() as u64;
        let (tensors, metadata) = parse(&header, data_start)
            .and_then(|(mut tensors, metadata)| {
                check_ranges(&mut tensors, data_start, source.len())?;
                Ok((tensors, metadata))
            })
            .map_err(|error| error.at(source.path()))?;
        let by_name = tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), index)).collect();
        Ok(Self { source, tensors, by_name, metadata })
    }

    /// Where the bytes are.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// All tensors in the order of their bytes.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(*self.by_name.get(name)?)
    }

    /// All bytes of `tensor`, which is one of this file.
    ///
    /// # Errors
    ///
    /// `OutOfMemory`, and those of [`Source::read_exact_at`].
    pub fn read_tensor(&self, tensor: &TensorInfo) -> Result<Vec<u8>, StoreError> {
        tensor.read(&self.source)
    }

    /// All elements of `tensor`, which is one of this file, widened exactly to `f32`.
    ///
    /// # Errors
    ///
    /// `UnsupportedDtype`, `OutOfMemory`, and those of [`Source::read_exact_at`].
    pub fn read_tensor_f32(&self, tensor: &TensorInfo) -> Result<Vec<f32>, StoreError> {
        tensor.read_f32(&self.source)
    }

    /// The free-form notes of the header (`__metadata__`); empty when there are none.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    pub(super) fn into_parts(self) -> (Source, Vec<TensorInfo>) {
        (self.source, self.tensors)
    }
}

/// Reads the header's text. What stands in the file instead is recognised only after the length has
/// proved absurd, so that no valid file is ever mistaken for another format.
fn read_header(source: &Source) -> Result<String, StoreError> {
    let here = |error: StoreError| error.at(source.path());
    let file_len = source.len();
    if file_len < PREFIX {
        let what = match file_len {
            0 => "the file is empty".to_owned(),
            len => format!("the file has {len} bytes, too few for a safetensors header"),
        };
        return Err(here(StoreError::new(Kind::Truncated, what).advise(AGAIN)));
    }
    let mut prefix = [0; size_of::<u64>()];
    source.read_exact_at(0, &mut prefix)?;
    let header_len = u64::from_le_bytes(prefix);
    if header_len > MAX_HEADER || header_len > file_len - PREFIX {
        let mut start = [0; 64];
        let seen = start.len().min(usize::try_from(file_len).unwrap_or(usize::MAX));
        source.read_exact_at(0, &mut start[..seen])?;
        let refusal = foreign_content(&start[..seen]).unwrap_or_else(|| {
            if header_len > MAX_HEADER {
                StoreError::new(
                    Kind::BadHeader,
                    format!("this is not a safetensors file: its header would have {header_len} bytes"),
                )
            } else {
                StoreError::new(
                    Kind::Truncated,
                    format!(
                        "the file is cut short inside its header: {} bytes are needed, the file \
                         has {file_len}",
                        PREFIX + header_len
                    ),
                )
            }
            .advise(AGAIN)
        });
        return Err(here(refusal));
    }
    // At most MAX_HEADER, which fits every address space; the conversion only satisfies the types.
    let mut header = vec![0; usize::try_from(header_len).unwrap_or_default()];
    source.read_exact_at(PREFIX, &mut header)?;
    String::from_utf8(header).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        here(bad_header(format!("the header is not UTF-8 (at its byte {at})")))
    })
}

/// Every tensor of the header, in any order, ranges not yet checked against each other; and the
/// `__metadata__`.
fn parse(header: &str, data_start: u64) -> Result<(Vec<TensorInfo>, BTreeMap<String, String>), StoreError> {
    // The format demands the brace first; tolerating white space would make polyglot files valid.
    if !header.starts_with('{') {
        return Err(bad_header("the header does not begin with a brace"));
    }
    let entries = members(header).map_err(|error| bad_header(format!("the header is {error}")))?;
    let mut tensors = Vec::with_capacity(entries.len());
    let mut metadata = BTreeMap::new();
    for (name, description) in entries {
        if name == "__metadata__" {
            metadata = parse_metadata(description)?;
        } else {
            let tensor = parse_tensor(name.clone(), description, data_start).map_err(|error| error.in_tensor(&name))?;
            tensors.push(tensor);
        }
    }
    Ok((tensors, metadata))
}

fn parse_metadata(text: &str) -> Result<BTreeMap<String, String>, StoreError> {
    members(text)
        .map_err(|error| bad_header(format!("`__metadata__` is {error}")))?
        .into_iter()
        .map(|(key, value)| match serde_json::from_str(value) {
            Ok(value) => Ok((key, value)),
            Err(_) => Err(bad_header(format!("the value of {} in `__metadata__` is not a string", quoted(&key)))),
        })
        .collect()
}

/// Parses `{"dtype": …, "shape": […], "data_offsets": [begin, end]}` and checks the three against
/// each other.
fn parse_tensor(name: String, text: &str, data_start: u64) -> Result<TensorInfo, StoreError> {
    if text.len() > MAX_DESCRIPTION {
        return Err(bad_header(format!("its description has {} bytes, more than {MAX_DESCRIPTION}", text.len())));
    }
    let fields = members(text).map_err(|error| bad_header(format!("its description is {error}")))?;
    let (mut dtype, mut shape, mut range) = (None, None, None);
    for (key, value) in fields {
        match key.as_str() {
            "dtype" => dtype = Some(parse_dtype(value)?),
            "shape" => {
                shape = Some(
                    serde_json::from_str::<Vec<usize>>(value)
                        .map_err(|_| bad_header("its `shape` is not a list of whole numbers that fit in memory"))?,
                );
            }
            "data_offsets" => {
                range = Some(
                    serde_json::from_str::<[u64; 2]>(value)
                        .map_err(|_| bad_header("its `data_offsets` is not a pair of whole numbers"))?,
                );
            }
            other => {
                let what = format!("its description has an unknown field {}", quoted(other));
                return Err(bad_header(what));
            }
        }
    }
    let missing = |field: &str| bad_header(format!("its description lacks `{field}`"));
    let dtype = dtype.ok_or_else(|| missing("dtype"))?;
    let shape = shape.ok_or_else(|| missing("shape"))?;
    let [begin, end] = range.ok_or_else(|| missing("data_offsets"))?;

    let byte_len = end
        .checked_sub(begin)
        .ok_or_else(|| bad_range(format!("its bytes end at {end}, before they begin at {begin}")))?;
    let needed = shape
        .iter()
        .try_fold(1_u64, |product, &extent| product.checked_mul(extent as u64))
        .and_then(|elements| dtype.byte_len(elements))
        .ok_or_else(|| {
            bad_range(format!("shape {} of {dtype} is no whole number of bytes below 2^61", shown(&shape)))
        })?;
    if needed != byte_len {
        return Err(bad_range(format!(
            "shape {} of {dtype} takes {needed} bytes, the header gives it {byte_len}",
            shown(&shape)
        )));
    }
    let offset = data_start
        .checked_add(begin)
        .filter(|offset| offset.checked_add(byte_len).is_some())
        .ok_or_else(|| bad_range(format!("its bytes begin at {begin}, past any file's end")))?;
    Ok(TensorInfo { name, shard: 0, offset, byte_len, dtype, shape })
}

fn parse_dtype(value: &str) -> Result<Dtype, StoreError> {
    let name: String = serde_json::from_str(value).map_err(|_| bad_header("its `dtype` is not a string"))?;
    Dtype::from_name(&name).ok_or_else(|| {
        StoreError::new(Kind::UnsupportedDtype, format!("dtype {} is not one that this version knows", quoted(&name)))
            .advise("convert the checkpoint to bfloat16, float16 or float32")
    })
}

/// Puts `tensors` in the order of their bytes and proves that they cover `data_start..file_len`
/// exactly.
fn check_ranges(tensors: &mut [TensorInfo], data_start: u64, file_len: u64) -> Result<(), StoreError> {
    // By name last, so that tensors without bytes have one order, whatever the header's.
    tensors.sort_by(|a, b| (a.offset, a.byte_len, &a.name).cmp(&(b.offset, b.byte_len, &b.name)));
    let mut end = data_start;
    let mut before: Option<&str> = None;
    for tensor in &*tensors {
        let neighbour = match before {
            Some(name) => format!("tensor {}", quoted(name)),
            None => "the header".to_owned(),
        };
        let what = match tensor.offset.cmp(&end) {
            Ordering::Equal => None,
            Ordering::Less => Some(format!("its bytes overlap those of {neighbour} by {}", end - tensor.offset)),
            Ordering::Greater => {
                Some(format!("{} bytes between {neighbour} and this tensor belong to nothing", tensor.offset - end))
            }
        };
        if let Some(what) = what {
            return Err(bad_range(what).in_tensor(&tensor.name));
        }
        // Does not overflow: `parse_tensor` has added the same two.
        end = tensor.offset + tensor.byte_len;
        before = Some(&tensor.name);
    }
    match end.cmp(&file_len) {
        Ordering::Equal => Ok(()),
        Ordering::Greater => {
            let cut = tensors.iter().find(|t| t.offset + t.byte_len > file_len);
            let error = StoreError::new(
                Kind::Truncated,
                format!("the file is cut short: its header describes {end} bytes, it has {file_len}"),
            )
            .advise("download the file again");
            Err(match cut {
                Some(tensor) => error.in_tensor(&tensor.name),
                None => error,
            })
        }
        Ordering::Less => Err(StoreError::new(
            Kind::TrailingBytes,
            format!(
                "{} bytes after the last tensor belong to nothing: the header describes {end} \
                 bytes, the file has {file_len}",
                file_len - end
            ),
        )
        .advise("download the file again")),
    }
}

fn bad_header(what: impl Into<String>) -> StoreError {
    StoreError::new(Kind::BadHeader, what).advise(AGAIN)
}

fn bad_range(what: impl Into<String>) -> StoreError {
    StoreError::new(Kind::BadRange, what).advise(AGAIN)
}
