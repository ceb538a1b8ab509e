//! Rows of activations rounded to bf16, laid out for tiles of sixteen of them.

use crate::buffer::Buffer;
use crate::exec::{Exec, SCRATCH, SharedMut};
use crate::simd::{LANES, Op, Simd, TILE};

/// Elements of each row that are multiplied together: sixteen pairs.
pub(crate) const STEP: usize = 2 * TILE;

/// Rows of activations rounded to bf16, to nearest, ties to even; subnormal numbers become zeros.
///
/// Sixteen rows are stored together, or the few that are left at the end: step after step of 32 elements, padded with zeros to
/// whole steps, of each step sixteen pairs, of each pair row after row.
pub struct Tiled {
    /// A pair in each f32.
    buffer: Buffer,
    n: usize,
    cols: usize,
}

impl Tiled {
    /// Elements of a row, at most, of weights of any format: as many as a thread's scratch buffer takes.
    pub const MOST_COLS: usize = SCRATCH;

    /// Room for rows that take [`Tiled::elements`] f32.
    #[must_use]
    pub fn new(elements: usize) -> Tiled {
        Tiled { buffer: Buffer::new(elements), n: 0, cols: 0 }
    }

    /// f32 elements of memory that `n` rows of `cols` take.
    #[must_use]
    pub const fn elements(n: usize, cols: usize) -> usize {
        n * cols.next_multiple_of(STEP) / 2
    }

    /// Holds the rows of `x: [n, cols]` from now on.
    ///
    /// # Panics
    /// When there is no room for them, or `x` has another shape.
    pub fn set(&mut self, exec: &Exec, x: &[f32], n: usize, cols: usize) {
        assert_eq!(x.len(), n * cols, "x is [{n}, {cols}]");
        (self.n, self.cols) = (n, cols);
        let stride = Tiled::elements(1, cols);
        let to = SharedMut::new(&mut self.buffer[..n * stride]);
        let isa = exec.isa();
        exec.pool().run(n.div_ceil(TILE), &|block, _| {
            let (first, last) = (block * TILE, ((block + 1) * TILE).min(n));
            // SAFETY: the blocks' rows do not overlap.
            let to = unsafe { to.slice(first * stride..last * stride) };
            isa.run(Pack { from: &x[first * cols..last * cols], rows: last - first, cols, to });
        });
    }

    /// The shape `[n, cols]` of the rows.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.n, self.cols)
    }

    /// The first block of rows, and the bytes that each row takes.
    pub(crate) fn rows(&self) -> (*const u8, usize) {
        (self.buffer.as_ptr().cast(), Tiled::elements(1, self.cols) * size_of::<f32>())
    }
}

impl std::fmt::Debug for Tiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tiled([{}, {}])", self.n, self.cols)
    }
}

/// Rounds and lays out at most sixteen rows.
struct Pack<'a> {
    from: &'a [f32],
    rows: usize,
    cols: usize,
    to: &'a mut [f32],
}

impl Op for Pack<'_> {
    type Output = ();
    const NARROW: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Pack { from, rows, cols, to } = self;
        assert!(rows <= TILE && from.len() == rows * cols && to.len() == Tiled::elements(rows, cols));
        // [row, pair] of a step
        let mut step = [[0.0f32; LANES]; TILE];
        for (index, to) in to.chunks_exact_mut(TILE * rows).enumerate() {
            let k = index * STEP;
            let (first, second) = ((cols - k).min(LANES), (cols - k).min(STEP).saturating_sub(LANES));
            for (row, step) in from.chunks_exact(cols).zip(&mut step) {
                let row = &row[k..k + first + second];
                // SAFETY: `first + second` elements, of which no more than 16 are in either half; an array of 64 bytes.
                unsafe {
                    let lo = s.load_first(row.as_ptr(), first);
                    let hi = s.load_first(row[first..].as_ptr(), second);
                    s.store_pairs(step.as_mut_ptr().cast(), s.round_pairs(lo, hi));
                }
            }
            match rows {
                1 => to.copy_from_slice(&step[0]),
                TILE => {
                    // SAFETY: sixteen rows of sixteen words each.
                    unsafe { s.transpose(step.as_ptr().cast(), 64, to.as_mut_ptr().cast(), 64) };
                }
                _ => {
                    for (pair, to) in to.chunks_exact_mut(rows).enumerate() {
                        for (to, step) in to.iter_mut().zip(&step) {
                            *to = step[pair];
                        }
                    }
                }
            }
        }
    }
}
