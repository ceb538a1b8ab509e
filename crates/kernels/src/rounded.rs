//! Rows of activations rounded to bf16, as the reduced mode takes them.

use crate::buffer::Buffer;
use crate::element::F32;
use crate::exec::Exec;
use crate::layout::{RowByRow, store_widened};
use crate::matrix::StoredRows;
use crate::simd::{LANES, Op, Simd};
use crate::tile::InBf16;

/// Rows of activations rounded to bf16, to nearest, ties to even; subnormal numbers become zeros.
pub struct Rounded {
    /// Two bf16 in each f32, rows padded with zeros to whole cache lines.
    buffer: Buffer,
    n: usize,
    cols: usize,
}

impl Rounded {
    /// Room for rows that take [`Rounded::elements`] f32.
    #[must_use]
    pub fn new(elements: usize) -> Rounded {
        Rounded { buffer: Buffer::new(elements), n: 0, cols: 0 }
    }

    /// f32 elements of memory that `n` rows of `cols` take.
    #[must_use]
    pub const fn elements(n: usize, cols: usize) -> usize {
        n * cols.next_multiple_of(2 * LANES) / 2
    }

    /// Holds the rows of `x: [n, cols]` from now on.
    ///
    /// # Panics
    /// When there is no room for them, or `x` has another shape.
    pub fn set(&mut self, exec: &Exec, x: &[f32], n: usize, cols: usize) {
        assert_eq!(x.len(), n * cols, "x is [{n}, {cols}]");
        let stride = Rounded::elements(1, cols);
        (self.n, self.cols) = (n, cols);
        let isa = exec.isa();
        exec.for_rows(&mut self.buffer[..n * stride], stride, |r, to| {
            isa.run(Round { from: &x[r * cols..(r + 1) * cols], to });
        });
    }
}

impl Rounded {
    /// The shape `[n, cols]` of the rows.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.n, self.cols)
    }

    /// The first row, and the bytes from row to row.
    pub(crate) fn rows(&self) -> (*const u8, usize) {
        (self.buffer.as_ptr().cast(), Rounded::elements(1, self.cols) * size_of::<f32>())
    }
}

impl std::fmt::Debug for Rounded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rounded([{}, {}])", self.n, self.cols)
    }
}

struct Round<'a> {
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Op for Round<'_> {
    type Output = ();
    const NARROW: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Round { from, to } = self;
        let (row, stride) = (StoredRows::plain(from.as_ptr().cast(), 0), to.len());
        store_widened::<S, RowByRow<InBf16>, F32>(s, F32, row, from.len(), (to, stride, 0));
    }
}
