//! Weights as checkpoints store them, read in place, in whatever alignment the file gave them.

use std::ops::Range;

pub(crate) use crate::element::{Bf16, Element, F32};
use crate::format::{Format, MOST_PARTS, Part};

/// A borrowed matrix `[rows, cols]`, `rows` outputs of `cols` inputs each.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    parts: [&'a [u8]; MOST_PARTS],
    format: Format,
    rows: usize,
    cols: usize,
}

impl<'a> Matrix<'a> {
    /// A view of `elements`, and of `scales` if the format has any; neither need be aligned.
    ///
    /// # Panics
    /// As [`Matrix::from_parts`].
    #[must_use]
    pub fn new(elements: &'a [u8], scales: &'a [u8], format: Format, rows: usize, cols: usize) -> Matrix<'a> {
        Matrix::from_parts(&[elements, scales], format, rows, cols)
    }

    /// A view of numbers in memory, `[rows, cols]`.
    ///
    /// # Panics
    /// When there are not so many of them.
    #[must_use]
    pub fn of_f32(elements: &'a [f32], rows: usize, cols: usize) -> Matrix<'a> {
        // SAFETY: the same memory; bytes have no alignment, and those of a number no other meaning.
        let bytes = unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) };
        Matrix::new(bytes, &[], Format::F32, rows, cols)
    }

    /// A view of `elements`, which are stored `[cols, rows]`.
    ///
    /// # Panics
    /// As [`Matrix::from_parts`], and when no elements of `format` may be stored so.
    #[must_use]
    pub fn transposed(elements: &'a [u8], format: Format, rows: usize, cols: usize) -> Matrix<'a> {
        let Some(format) = format.transposed() else { panic!("{format:?} input after input") };
        Matrix::from_parts(&[elements], format, rows, cols)
    }

    /// A view of the format's parts, in their order; none need be aligned. Parts that the format does not have are left
    /// out, or empty.
    ///
    /// # Panics
    /// When they are not of the sizes that the format and the shape ask for, or the kernels do not know such a matrix
    /// ([`Format::fits`]).
    #[must_use]
    pub fn from_parts(parts: &[&'a [u8]], format: Format, rows: usize, cols: usize) -> Matrix<'a> {
        assert!(format.fits(rows, cols), "no [{rows}, {cols}] matrix of {format:?}");
        let mut all = [&[][..]; MOST_PARTS];
        all[..parts.len()].copy_from_slice(parts);
        for (i, (bytes, part)) in all.iter().zip(format.parts(rows, cols)).enumerate() {
            assert_eq!(Some(bytes.len()), part.len(rows), "part {i} of a [{rows}, {cols}] matrix of {format:?}");
        }
        Matrix { parts: all, format, rows, cols }
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

    /// Bytes of all parts.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// `count` of its rows from `first` on.
    ///
    /// # Panics
    /// When there are fewer, or rows of this format are not stored one by one.
    #[must_use]
    pub fn some_rows(&self, first: usize, count: usize) -> Matrix<'a> {
        let mut parts = [&[][..]; MOST_PARTS];
        for ((to, from), part) in parts.iter_mut().zip(self.parts).zip(self.format.parts(self.rows, self.cols)) {
            let Part::Rows { step: 1, bytes } = part else {
                assert!(from.is_empty(), "rows of a matrix of {:?}", self.format);
                continue;
            };
            *to = &from[first * bytes..(first + count) * bytes];
        }
        Matrix::from_parts(&parts, self.format, count, self.cols)
    }

    /// The same elements as the matrix of which this is the transpose: `[cols, rows]`.
    ///
    /// # Panics
    /// When elements of this format cannot be taken so: see [`Format::transposed`].
    #[must_use]
    pub fn turned(&self) -> Matrix<'a> {
        Matrix::transposed(self.parts[0], self.format, self.cols, self.rows)
    }

    /// The bytes of each part.
    pub(crate) fn parts(&self) -> [&'a [u8]; MOST_PARTS] {
        self.parts
    }

    /// The parts of rows in `range` that each row has for itself: its elements and, if any, its scales.
    pub(crate) fn row_parts(&self, range: Range<usize>) -> [&'a [u8]; 2] {
        let rows = |part: &'a [u8], row: usize| &part[range.start * row..range.end * row];
        [
            rows(self.parts[0], self.format.row_bytes(self.cols)),
            rows(self.parts[1], self.format.scale_row_bytes(self.cols)),
        ]
    }

    /// Rows `first`, `first + step`, … up to the `count`-th.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline(always)]
    pub(crate) fn stored_rows(&self, first: usize, step: usize, count: usize) -> StoredRows<'a> {
        assert!(count > 0 && first + step * (count - 1) < self.rows, "{count} rows of {}", self.rows);
        let row = self.format.row_bytes(self.cols);
        StoredRows::plain(self.parts[0][first * row..].as_ptr(), step * row)
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

    /// Those from row `rows` on.
    #[inline(always)]
    pub(crate) fn skip(self, rows: usize) -> StoredRows<'a> {
        StoredRows {
            elements: self.elements.wrapping_add(rows * self.stride),
            scales: self.scales.wrapping_add(rows * self.scale_stride),
            ..self
        }
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
