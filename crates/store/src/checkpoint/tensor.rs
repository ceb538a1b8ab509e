//! One tensor of a checked header, and how its bytes are read from its source.

use crate::dtype::Dtype;
use crate::error::{StoreError, StoreErrorKind as Kind};
use crate::source::Source;

/// Elements widened per read: large enough to make calls rare, small enough to stay in cache.
const CHUNK: usize = 16 * 1024;

/// One tensor of a file or a checkpoint: what it is and where its bytes are.
///
/// Made only from a checked header: the range lies inside the file, and its length is that of the
/// shape and the element type. The offset need not be a multiple of the element size. Parts of a tensor
/// ([`TensorInfo::rows`], [`TensorInfo::entry`]) are tensors, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub(super) name: String,
    pub(super) shard: usize,
    pub(super) offset: u64,
    pub(super) byte_len: u64,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
}

impl TensorInfo {
    /// The name in the header, such as `model.layers.0.mlp.up_proj.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The index of its file in [`Checkpoint::sources`](super::Checkpoint::sources); 0 in a single
    /// file.
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// The first byte, counted from the start of the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The number of bytes.
    pub fn byte_len(&self) -> u64 {
        self.byte_len
    }

    /// The type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The extents, outermost first; empty for a scalar. Elements along the last are contiguous.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements: the product of the shape.
    pub fn elements(&self) -> u64 {
        // Does not overflow: the header's check multiplied the same extents.
        self.shape.iter().map(|&extent| extent as u64).product()
    }

    /// `count` entries along the first axis from `first` on, as a tensor of their own, which keeps the name: of `[rows, …]`
    /// a `[count, …]`, such as the rows of one projection in a fused one. Nothing when it has no such entries, when
    /// `count` is 0, or when packed elements make them end within a byte.
    #[must_use]
    pub fn rows(&self, first: usize, count: usize) -> Option<Self> {
        let (&all, rest) = self.shape.split_first()?;
        let shape = std::iter::once(count).chain(rest.iter().copied()).collect();
        self.entries(first, count, all, shape)
    }

    /// The `index`-th entry along the first axis, without that axis: of `[experts, out, in]` the `[out, in]` of one
    /// expert. Nothing where [`TensorInfo::rows`] gives nothing.
    #[must_use]
    pub fn entry(&self, index: usize) -> Option<Self> {
        let (&all, rest) = self.shape.split_first()?;
        self.entries(index, 1, all, rest.to_vec())
    }

    /// The same bytes with the two outermost axes as one: `[experts, out, in]` as `[experts · out, in]`. Nothing for a
    /// tensor with fewer than two axes.
    #[must_use]
    pub fn flattened(&self) -> Option<Self> {
        let [outer, inner, rest @ ..] = &self.shape[..] else { return None };
        let shape = std::iter::once(outer.checked_mul(*inner)?).chain(rest.iter().copied()).collect();
        Some(Self { shape, ..self.clone() })
    }

    /// `count` of `all` equal entries from `first` on, in the given shape.
    fn entries(&self, first: usize, count: usize, all: usize, shape: Vec<usize>) -> Option<Self> {
        let inside = first.checked_add(count).is_some_and(|end| end <= all);
        let bytes = self.byte_len.checked_div(all as u64)?;
        if count == 0 || !inside || !self.byte_len.is_multiple_of(all as u64) {
            return None;
        }
        Some(Self {
            name: self.name.clone(),
            shard: self.shard,
            offset: self.offset + first as u64 * bytes,
            byte_len: count as u64 * bytes,
            dtype: self.dtype,
            shape,
        })
    }

    /// All bytes, from the source that this tensor's header was read from.
    pub(super) fn read(&self, source: &Source) -> Result<Vec<u8>, StoreError> {
        let mut bytes = self.zeroed(source, self.byte_len)?;
        self.read_range(source, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `buf` from byte `start` of the tensor on.
    pub(super) fn read_range(&self, source: &Source, start: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        self.require_inside(source, start, buf.len() as u64, self.byte_len, "bytes")?;
        source.read_exact_at(self.offset + start, buf).map_err(|error| error.in_tensor(&self.name))
    }

    /// All elements, widened exactly.
    pub(super) fn read_f32(&self, source: &Source) -> Result<Vec<f32>, StoreError> {
        self.require_weight(source)?;
        let mut elements = self.zeroed(source, self.elements())?;
        self.read_range_f32(source, 0, &mut elements)?;
        Ok(elements)
    }

    /// Fills `out` from element `start` of the tensor on, widened exactly.
    pub(super) fn read_range_f32(&self, source: &Source, start: u64, out: &mut [f32]) -> Result<(), StoreError> {
        let element = self.require_weight(source)?;
        self.require_inside(source, start, out.len() as u64, self.elements(), "elements")?;
        let mut bytes = vec![0; out.len().min(CHUNK) * element];
        let mut at = start * element as u64;
        for places in out.chunks_mut(CHUNK) {
            let bytes = &mut bytes[..places.len() * element];
            self.read_range(source, at, bytes)?;
            at += bytes.len() as u64;
            self.dtype.widen(bytes, places).ok_or_else(|| self.unsupported(source))?;
        }
        Ok(())
    }

    /// The size of one element in bytes, if the tensor can be widened at all.
    fn require_weight(&self, source: &Source) -> Result<usize, StoreError> {
        match self.dtype.weight_size() {
            Some(size) => Ok(size),
            None => Err(self.unsupported(source)),
        }
    }

    /// The error for a tensor whose elements the engine cannot compute with.
    pub(super) fn unsupported(&self, source: &Source) -> StoreError {
        StoreError::new(Kind::UnsupportedDtype, format!("dtype {} is not supported yet", self.dtype))
            .at(source.path())
            .in_tensor(&self.name)
            .advise("use a bfloat16, float16 or float32 release of the model")
    }

    fn require_inside(&self, source: &Source, start: u64, count: u64, len: u64, unit: &str) -> Result<(), StoreError> {
        if start.checked_add(count).is_some_and(|end| end <= len) {
            return Ok(());
        }
        Err(StoreError::new(
            Kind::OutOfRange,
            format!("{count} {unit} from {start} on were asked for, the tensor has {len}"),
        )
        .at(source.path())
        .in_tensor(&self.name))
    }

    fn zeroed<T: Clone + Default>(&self, source: &Source, len: u64) -> Result<Vec<T>, StoreError> {
        let mut places = Vec::new();
        let reserved = match usize::try_from(len) {
            Ok(len) if places.try_reserve_exact(len).is_ok() => Some(len),
            _ => None,
        };
        let len = reserved.ok_or_else(|| {
            let bytes = len.saturating_mul(size_of::<T>() as u64);
            StoreError::new(Kind::OutOfMemory, format!("the {bytes} bytes of memory to hold it cannot be had"))
                .at(source.path())
                .in_tensor(&self.name)
        })?;
        places.resize(len, T::default());
        Ok(places)
    }
}

/// A shape as messages show it: a header may give a tensor two thousand extents.
pub(super) fn shown(shape: &[usize]) -> String {
    const SHOWN: usize = 8;
    match shape.get(..SHOWN) {
        Some(first) if shape.len() > SHOWN => {
            format!("{first:?} and {} more extents", shape.len() - SHOWN)
        }
        _ => format!("{shape:?}"),
    }
}
