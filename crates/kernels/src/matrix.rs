//! Weights as checkpoints store them: row-major, read in place, in whatever alignment the file gave them.

use crate::simd::{LANES, Simd};

/// The element format of a stored matrix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// IEEE binary32, little-endian.
    F32,
    /// bfloat16, little-endian.
    Bf16,
    /// IEEE binary16, little-endian.
    F16,
}

impl Format {
    /// Bytes that one element takes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::Bf16 | Format::F16 => 2,
        }
    }
}

/// A borrowed row-major matrix `[rows, cols]`, `rows` outputs of `cols` inputs each.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    bytes: &'a [u8],
    format: Format,
    rows: usize,
    cols: usize,
}

impl<'a> Matrix<'a> {
    /// A view of `bytes`, which need not be aligned.
    ///
    /// # Panics
    /// When `bytes` does not hold exactly `rows * cols` elements.
    #[must_use]
    pub fn new(bytes: &'a [u8], format: Format, rows: usize, cols: usize) -> Matrix<'a> {
        assert_eq!(
            Some(bytes.len()),
            rows.checked_mul(cols).and_then(|n| n.checked_mul(format.bytes())),
            "a [{rows}, {cols}] matrix of {format:?}"
        );
        Matrix { bytes, format, rows, cols }
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

    /// The bytes of all rows.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes of one row.
    #[must_use]
    pub fn row(&self, row: usize) -> &'a [u8] {
        let len = self.cols * self.format.bytes();
        &self.bytes[row * len..(row + 1) * len]
    }
}

/// A format as a type, so that a kernel is compiled once for each.
pub(crate) trait Element: Copy {
    const BYTES: usize;

    /// Reads 16 elements and widens them exactly.
    ///
    /// # Safety
    /// `p` is valid for reading `16 * BYTES` bytes.
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::V;

    /// Reads `n` elements and widens them exactly; the other lanes are zero.
    ///
    /// # Safety
    /// `n <= 16` and `p` is valid for reading `n * BYTES` bytes.
    #[inline(always)]
    unsafe fn load_first<S: Simd>(s: S, p: *const u8, n: usize) -> S::V {
        let mut bytes = [0u8; LANES * 4];
        // SAFETY: the caller vouches for `n` elements at `p`; the array holds 16 of up to 4 bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(p, bytes.as_mut_ptr(), n * Self::BYTES);
            Self::load(s, bytes.as_ptr())
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct F32;
#[derive(Clone, Copy)]
pub(crate) struct Bf16;
#[derive(Clone, Copy)]
pub(crate) struct F16;

// SAFETY (of the blocks below): each passes the caller's promise on to the load of the same width.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument, stated above, covers them all")]
mod elements {
    use super::{Bf16, Element, F16, F32, Simd};

    impl Element for F32 {
        const BYTES: usize = 4;
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::V {
            unsafe { s.load(p.cast()) }
        }
        #[inline(always)]
        unsafe fn load_first<S: Simd>(s: S, p: *const u8, n: usize) -> S::V {
            unsafe { s.load_first(p.cast(), n) }
        }
    }

    impl Element for Bf16 {
        const BYTES: usize = 2;
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::V {
            unsafe { s.load_bf16(p) }
        }
    }

    impl Element for F16 {
        const BYTES: usize = 2;
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::V {
            unsafe { s.load_f16(p) }
        }
    }
}
