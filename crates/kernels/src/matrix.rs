//! Weights as checkpoints store them: row-major, read in place, in whatever alignment the file gave them.

use crate::simd::{LANES, Simd};

/// How a stored matrix keeps its elements.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// IEEE binary32, little-endian.
    F32,
    /// bfloat16, little-endian.
    Bf16,
    /// IEEE binary16, little-endian.
    F16,
    /// Small integers, each row in groups that share a scale.
    Packed(Packed),
}

/// Signed integers `q` of 4 or 8 bits, stored as `q + 2^(bits-1)`, the first in the lowest bits, a row padded to
/// 32 bits: compressed-tensors' `pack-quantized`. An element is `q · scale`, rounded once to f32 (with scales of 16
/// bits there is nothing to round).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Packed {
    /// Bits of an element.
    pub bits: Bits,
    /// Consecutive elements of a row that share a scale: a multiple of 32, or at least the row.
    pub group: usize,
    /// Format of the scales.
    pub scales: Scales,
}

/// Bits of a packed element.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Bits {
    /// From -8 to 7.
    Four,
    /// From -128 to 127.
    Eight,
}

/// Format of the scales of packed elements.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scales {
    /// IEEE binary32, little-endian.
    F32,
    /// bfloat16, little-endian.
    Bf16,
    /// IEEE binary16, little-endian.
    F16,
}

impl Bits {
    /// Elements in 32 bits.
    #[must_use]
    pub const fn per_word(self) -> usize {
        match self {
            Bits::Four => 8,
            Bits::Eight => 4,
        }
    }
}

impl Scales {
    /// Bytes of one scale.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Scales::F32 => 4,
            Scales::Bf16 | Scales::F16 => 2,
        }
    }
}

impl Packed {
    /// Groups in a row of `cols` elements.
    #[must_use]
    pub const fn groups(&self, cols: usize) -> usize {
        cols.div_ceil(self.group)
    }
}

impl Format {
    /// Bytes of the elements of a row of `cols`.
    #[must_use]
    pub const fn row_bytes(self, cols: usize) -> usize {
        match self {
            Format::F32 => cols * 4,
            Format::Bf16 | Format::F16 => cols * 2,
            Format::Packed(packed) => cols.div_ceil(packed.bits.per_word()) * 4,
        }
    }

    /// Bytes of the scales of a row of `cols`.
    #[must_use]
    pub const fn scale_row_bytes(self, cols: usize) -> usize {
        match self {
            Format::F32 | Format::Bf16 | Format::F16 => 0,
            Format::Packed(packed) => packed.groups(cols) * packed.scales.bytes(),
        }
    }
}

/// A borrowed row-major matrix `[rows, cols]`, `rows` outputs of `cols` inputs each.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    elements: &'a [u8],
    scales: &'a [u8],
    format: Format,
    rows: usize,
    cols: usize,
}

impl<'a> Matrix<'a> {
    /// A view of `elements`, and of `scales` `[rows, groups]` if the format has any; neither need be aligned.
    ///
    /// # Panics
    /// When they are not of the size that the format and the shape ask for, or a group is of a size that this crate
    /// does not know.
    #[must_use]
    pub fn new(elements: &'a [u8], scales: &'a [u8], format: Format, rows: usize, cols: usize) -> Matrix<'a> {
        let fits = |bytes: &[u8], row: usize| Some(bytes.len()) == rows.checked_mul(row);
        assert!(fits(elements, format.row_bytes(cols)), "a [{rows}, {cols}] matrix of {format:?}");
        assert!(fits(scales, format.scale_row_bytes(cols)), "scales of a [{rows}, {cols}] matrix of {format:?}");
        if let Format::Packed(Packed { group, .. }) = format {
            assert!(group > 0 && (group.is_multiple_of(32) || group >= cols), "groups of {group}");
        }
        Matrix { elements, scales, format, rows, cols }
    }

    /// Outputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The element format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of elements and scales.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.elements.len() + self.scales.len()
    }

    /// Rows `first`, `first + step`, … up to the `count`-th.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline(always)]
    pub(crate) fn stored_rows(&self, first: usize, step: usize, count: usize) -> StoredRows<'a> {
        assert!(count > 0 && first + step * (count - 1) < self.rows, "{count} rows of {}", self.rows);
        let row = self.format.row_bytes(self.cols);
        StoredRows::plain(self.elements[first * row..].as_ptr(), step * row)
    }

    /// The stored scales of the rows in `range`, and their format.
    pub(crate) fn stored_scales(&self, range: std::ops::Range<usize>) -> Option<(&'a [u8], Scales)> {
        match self.format {
            Format::Packed(packed) => {
                let row = self.format.scale_row_bytes(self.cols);
                Some((&self.scales[range.start * row..range.end * row], packed.scales))
            }
            Format::F32 | Format::Bf16 | Format::F16 => None,
        }
    }
}

/// Some rows of a matrix as a kernel reads them.
#[derive(Clone, Copy)]
pub(crate) struct StoredRows<'a> {
    /// The first element of the first row.
    pub(crate) elements: *const u8,
    /// Bytes from row to row.
    pub(crate) stride: usize,
    /// The first scale of the first row, widened.
    pub(crate) scales: *const f32,
    /// Scales from row to row.
    pub(crate) scale_stride: usize,
    matrix: std::marker::PhantomData<&'a [u8]>,
}

impl<'a> StoredRows<'a> {
    /// The rows with the scales `scales[first..]`, `step` of them further on those of the next row, and so on.
    #[inline(always)]
    pub(crate) fn with_scales(self, scales: &'a [f32], first: usize, step: usize) -> StoredRows<'a> {
        if scales.is_empty() {
            return self;
        }
        StoredRows { scales: scales[first..].as_ptr(), scale_stride: step, ..self }
    }

    /// Rows without scales that begin at `elements`.
    #[inline(always)]
    pub(crate) fn plain(elements: *const u8, stride: usize) -> StoredRows<'a> {
        StoredRows {
            elements,
            stride,
            scales: std::ptr::NonNull::dangling().as_ptr(),
            scale_stride: 0,
            matrix: std::marker::PhantomData,
        }
    }
}

/// A format as a type, so that a kernel is compiled once for each.
pub(crate) trait Element: Copy + Sync {
    /// What the elements of a group have in common.
    type Group<S: Simd>: Copy;

    /// Elements of a group: a multiple of 32, or at least the row.
    #[inline(always)]
    fn group(self) -> usize {
        usize::MAX
    }

    /// Bytes of `n` elements, `n` a multiple of 16.
    fn bytes(n: usize) -> usize;

    /// # Safety
    /// `scale` is valid for reading, if the format has scales.
    unsafe fn open<S: Simd>(s: S, scale: *const f32) -> Self::Group<S>;

    /// Reads 16 elements of a group and widens them.
    ///
    /// # Safety
    /// `p` is valid for reading 16 elements.
    unsafe fn load<S: Simd>(s: S, p: *const u8, group: Self::Group<S>) -> S::V;

    /// Reads `n` elements and widens them; the other lanes are zero.
    ///
    /// # Safety
    /// `n <= 16` and `p` is valid for reading `n` elements.
    #[inline(always)]
    unsafe fn load_first<S: Simd>(s: S, p: *const u8, n: usize, group: Self::Group<S>) -> S::V {
        let mut bytes = [0u8; LANES * 4];
        let mut lanes = [0.0f32; LANES];
        // SAFETY: the caller vouches for `n` elements at `p`; the arrays hold 16.
        unsafe {
            // Packed elements may end within a byte.
            std::ptr::copy_nonoverlapping(p, bytes.as_mut_ptr(), (n * Self::bytes(LANES)).div_ceil(LANES));
            s.store(lanes.as_mut_ptr(), Self::load(s, bytes.as_ptr(), group));
            lanes[n..].fill(0.0);
            s.load(lanes.as_ptr())
        }
    }

    /// Reads 32 elements of a group, rounded to bf16.
    ///
    /// # Safety
    /// `p` is valid for reading 32 elements.
    #[inline(always)]
    unsafe fn load_pairs<S: Simd>(s: S, p: *const u8, group: Self::Group<S>) -> S::P {
        // SAFETY: the caller vouches for 32 elements.
        unsafe { s.round_pairs(Self::load(s, p, group), Self::load(s, p.add(Self::bytes(LANES)), group)) }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct F32;
#[derive(Clone, Copy)]
pub(crate) struct Bf16;
#[derive(Clone, Copy)]
pub(crate) struct F16;
/// [`Bits::Four`], in groups of so many.
#[derive(Clone, Copy)]
pub(crate) struct Int4(pub(crate) usize);
/// [`Bits::Eight`], in groups of so many.
#[derive(Clone, Copy)]
pub(crate) struct Int8(pub(crate) usize);

// SAFETY (of the blocks below): each passes the caller's promise on to the load of the same width.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument, stated above, covers them all")]
mod elements {
    use super::{Bf16, Element, F16, F32, Int4, Int8, Simd};

    impl Element for F32 {
        type Group<S: Simd> = ();
        #[inline(always)]
        fn bytes(n: usize) -> usize {
            n * 4
        }
        #[inline(always)]
        unsafe fn open<S: Simd>(_s: S, _scale: *const f32) {}
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8, (): ()) -> S::V {
            unsafe { s.load(p.cast()) }
        }
        #[inline(always)]
        unsafe fn load_first<S: Simd>(s: S, p: *const u8, n: usize, (): ()) -> S::V {
            unsafe { s.load_first(p.cast(), n) }
        }
    }

    impl Element for Bf16 {
        type Group<S: Simd> = ();
        #[inline(always)]
        fn bytes(n: usize) -> usize {
            n * 2
        }
        #[inline(always)]
        unsafe fn open<S: Simd>(_s: S, _scale: *const f32) {}
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8, (): ()) -> S::V {
            unsafe { s.load_bf16(p) }
        }
        #[inline(always)]
        unsafe fn load_pairs<S: Simd>(s: S, p: *const u8, (): ()) -> S::P {
            unsafe { s.load_pairs(p) }
        }
    }

    impl Element for F16 {
        type Group<S: Simd> = ();
        #[inline(always)]
        fn bytes(n: usize) -> usize {
            n * 2
        }
        #[inline(always)]
        unsafe fn open<S: Simd>(_s: S, _scale: *const f32) {}
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8, (): ()) -> S::V {
            unsafe { s.load_f16(p) }
        }
    }

    impl Element for Int8 {
        /// The scale, and the offset -128 · scale.
        type Group<S: Simd> = (S::V, S::V);
        #[inline(always)]
        fn group(self) -> usize {
            self.0
        }
        #[inline(always)]
        fn bytes(n: usize) -> usize {
            n
        }
        #[inline(always)]
        unsafe fn open<S: Simd>(s: S, scale: *const f32) -> (S::V, S::V) {
            let scale = s.splat(unsafe { scale.read() });
            (scale, s.mul(scale, s.splat(-128.0)))
        }
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8, (scale, offset): (S::V, S::V)) -> S::V {
            // The offset is exact, so that (q + 128) · scale - 128 · scale is rounded once.
            unsafe { s.fma(s.load_u8(p), scale, offset) }
        }
    }

    impl Element for Int4 {
        type Group<S: Simd> = S::Nibbles;
        #[inline(always)]
        fn group(self) -> usize {
            self.0
        }
        #[inline(always)]
        fn bytes(n: usize) -> usize {
            n / 2
        }
        #[inline(always)]
        unsafe fn open<S: Simd>(s: S, scale: *const f32) -> S::Nibbles {
            s.nibbles(unsafe { scale.read() })
        }
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8, group: S::Nibbles) -> S::V {
            unsafe { s.load_nibbles(p, group) }
        }
    }
}
