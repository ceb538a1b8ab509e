//! Rows rounded to 8-bit integers, for products with packed weights.
//!
//! A row of x is cut into blocks of 32 elements, each an 8-bit integer times its block's scale. The products of a block are summed
//! exactly, as integers; the sum, times the product of both scales, is added to the sum of the blocks before by fused multiply-add. That is
//! the order of this mode: integers may be added in any order, so that the same bits come of a weight row read from where it lies and
//! of sixteen that lie side by side (`linear/integers.rs`).

use std::marker::PhantomData;

use crate::buffer::Buffer;
use crate::exec::Exec;
use crate::format::Bits;
use crate::simd::{LANES, Op, Simd};

/// Elements of x that share a scale.
pub(crate) const BLOCK: usize = 32;

/// Bytes of weights in a unit: x is padded to whole units.
pub(crate) const UNIT_BYTES: usize = 64;

/// A block whose largest magnitude is smaller counts as zeros, so that `127 / largest` is finite.
const SMALLEST: f32 = f32::MIN_POSITIVE * 256.0;

/// Added and subtracted, it rounds a number below 2^22 to the nearest integer, ties to even, which its lowest bits hold.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// Weights as unsigned integers.
pub(crate) trait Integers: Copy {
    /// Whether two of them share a byte, the first in its lower half.
    const NIBBLES: bool;
    /// What is added to an integer in storage.
    const OFFSET: i32 = if Self::NIBBLES { 8 } else { 128 };
    /// Elements of a unit.
    const UNIT: usize = if Self::NIBBLES { 2 * UNIT_BYTES } else { UNIT_BYTES };
    /// Blocks of a unit.
    const BLOCKS: usize = Self::UNIT / BLOCK;

    /// Four elements of each of sixteen rows.
    type Weights<S: Simd>: Copy;
    /// Sums of a block's products, for each of sixteen rows.
    type Sums<S: Simd>: Copy;

    /// # Safety
    /// `p` is valid for reading 64 bytes.
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> Self::Weights<S>;
    /// Sums to begin with, of a block of x with this offset: see [`XBlocks::offsets`].
    fn start<S: Simd>(s: S, offset: i32) -> Self::Sums<S>;
    /// Adds the products of four elements of each row, eight times at most.
    fn add<S: Simd>(s: S, w: Self::Weights<S>, x: S::B, sums: Self::Sums<S>) -> Self::Sums<S>;
    /// The sums of a block, given the offset once more.
    fn finish<S: Simd>(s: S, sums: Self::Sums<S>, offset: i32) -> S::I;
}

/// [`Bits::Eight`]
#[derive(Clone, Copy)]
pub(crate) struct Bytes;

/// [`Bits::Four`]
#[derive(Clone, Copy)]
pub(crate) struct HalfBytes;

impl Integers for Bytes {
    const NIBBLES: bool = false;
    type Weights<S: Simd> = S::Factors;
    type Sums<S: Simd> = S::I;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::Factors {
        // SAFETY: the caller's promise.
        unsafe { s.load_factors(p) }
    }
    #[inline(always)]
    fn start<S: Simd>(s: S, offset: i32) -> S::I {
        s.start_sums(offset)
    }
    #[inline(always)]
    fn add<S: Simd>(s: S, w: S::Factors, x: S::B, sums: S::I) -> S::I {
        s.add_factors(w, x, sums)
    }
    #[inline(always)]
    fn finish<S: Simd>(_: S, sums: S::I, _: i32) -> S::I {
        sums
    }
}

impl Integers for HalfBytes {
    const NIBBLES: bool = true;
    type Weights<S: Simd> = S::B;
    type Sums<S: Simd> = S::SmallSums;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::B {
        // SAFETY: the caller's promise.
        unsafe { s.load_bytes(p) }
    }
    #[inline(always)]
    fn start<S: Simd>(s: S, _: i32) -> S::SmallSums {
        s.no_small_sums()
    }
    #[inline(always)]
    fn add<S: Simd>(s: S, w: S::B, x: S::B, sums: S::SmallSums) -> S::SmallSums {
        s.add_small_bytes(w, x, sums)
    }
    #[inline(always)]
    fn finish<S: Simd>(s: S, sums: S::SmallSums, offset: i32) -> S::I {
        s.finish_small_sums(sums, offset)
    }
}

/// A row of x in blocks, for weights of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct XBlocks {
    /// 32 bytes for each block: its integers, for nibbles first those at even places, then the others.
    pub(crate) integers: *const u8,
    /// Their sum times `-OFFSET`, for each block.
    pub(crate) offsets: *const i32,
    pub(crate) scales: *const f32,
}

impl XBlocks {
    /// f32 elements of memory that a block takes: its integers, offset and scale.
    const ELEMENTS: usize = BLOCK / size_of::<f32>() + 2;

    /// Of the row of `blocks` blocks at `row`, as [`Quantized`] has it.
    #[inline(always)]
    pub(crate) fn new(row: *const u8, blocks: usize) -> XBlocks {
        let offsets = row.wrapping_add(blocks * BLOCK);
        let scales = offsets.wrapping_add(blocks * size_of::<i32>());
        XBlocks { integers: row, offsets: offsets.cast(), scales: scales.cast() }
    }
}

/// A row of x and the eight rows of weights that it meets, in whole units.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EightRows {
    pub(crate) x: XBlocks,
    /// The first row of weights.
    pub(crate) elements: *const u8,
    /// Bytes from row to row.
    pub(crate) stride: usize,
    /// The scales of the eight rows for each `1 << shift` blocks.
    pub(crate) scales: *const f32,
    pub(crate) shift: u32,
}

/// Blocks of a row of `cols` elements, padded to whole units.
pub(crate) const fn blocks<W: Integers>(cols: usize) -> usize {
    cols.div_ceil(W::UNIT) * W::BLOCKS
}

/// Rows of activations rounded to 8-bit integers, for products with packed weights of one kind.
///
/// Of each block of 32 elements `d = max |x| / 127` is the scale, and `x · (127 / max |x|)`, rounded to nearest, ties to
/// even, the integers. A block without a magnitude of `2^-118` counts as zeros, one with an infinity or a NaN makes
/// every product of its row NaN.
pub struct Quantized {
    /// For each row what [`XBlocks`] has: bytes, i32 and f32.
    buffer: Buffer,
    n: usize,
    cols: usize,
    bits: Bits,
}

impl Quantized {
    /// Room for rows that take [`Quantized::elements`] f32.
    #[must_use]
    pub fn new(elements: usize) -> Quantized {
        Quantized { buffer: Buffer::new(elements), n: 0, cols: 0, bits: Bits::Eight }
    }

    /// f32 elements of memory that `n` rows of `cols` take at most.
    #[must_use]
    pub const fn elements(n: usize, cols: usize) -> usize {
        n * blocks::<HalfBytes>(cols) * XBlocks::ELEMENTS
    }

    /// Holds the rows of `x: [n, cols]`, for weights of `bits`, from now on.
    ///
    /// # Panics
    /// When there is no room for them, or `x` has another shape.
    pub fn set(&mut self, exec: &Exec, x: &[f32], n: usize, cols: usize, bits: Bits) {
        assert_eq!(x.len(), n * cols, "x is [{n}, {cols}]");
        (self.n, self.cols, self.bits) = (n, cols, bits);
        let stride = self.row_elements();
        let isa = exec.isa();
        exec.for_rows(&mut self.buffer[..n * stride], stride, |r, to| {
            let from = &x[r * cols..(r + 1) * cols];
            match bits {
                Bits::Eight => isa.run(Quantize::<Bytes> { from, to, format: PhantomData }),
                Bits::Four => isa.run(Quantize::<HalfBytes> { from, to, format: PhantomData }),
            }
        });
    }

    /// How far the first row, rounded for weights of [`Bits::Eight`], is from `x: [cols]`.
    pub(crate) fn distance(&self, x: &[f32]) -> f64 {
        assert!(self.n > 0 && self.cols == x.len() && self.bits == Bits::Eight, "the row that was rounded");
        let count = blocks::<Bytes>(self.cols);
        let (integers, rest) = self.buffer.split_at(count * BLOCK / size_of::<f32>());
        let (integers, scales) = (integers.as_chunks::<{ BLOCK / size_of::<f32>() }>().0, &rest[count..]);
        let mut squares = 0.0;
        for ((x, integers), scale) in x.chunks(BLOCK).zip(integers).zip(scales) {
            for (x, q) in x.iter().zip(integers.iter().flat_map(|four| four.to_ne_bytes())) {
                squares += (f64::from(*x) - f64::from(q.cast_signed()) * f64::from(*scale)).powi(2);
            }
        }
        squares.sqrt()
    }

    /// f32 elements from row to row.
    fn row_elements(&self) -> usize {
        XBlocks::ELEMENTS
            * match self.bits {
                Bits::Eight => blocks::<Bytes>(self.cols),
                Bits::Four => blocks::<HalfBytes>(self.cols),
            }
    }

    /// The shape `[n, cols]` of the rows, and the kind of weights that they are for.
    pub(crate) fn shape(&self) -> (usize, usize, Bits) {
        (self.n, self.cols, self.bits)
    }

    /// The first row, and the bytes from row to row.
    pub(crate) fn rows(&self) -> (*const u8, usize) {
        (self.buffer.as_ptr().cast(), self.row_elements() * size_of::<f32>())
    }
}

impl std::fmt::Debug for Quantized {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Quantized([{}, {}], {:?})", self.n, self.cols, self.bits)
    }
}

struct Quantize<'a, W> {
    from: &'a [f32],
    to: &'a mut [f32],
    format: PhantomData<W>,
}

impl<W: Integers> Op for Quantize<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let round = s.splat(ROUND);
        let count = blocks::<W>(self.from.len());
        let (integers, rest) = self.to.split_at_mut(count * BLOCK / size_of::<f32>());
        let (offsets, scales) = rest.split_at_mut(count);
        let of_blocks = integers.as_chunks_mut::<{ BLOCK / size_of::<f32>() }>().0.iter_mut().zip(offsets).zip(scales);
        for (b, ((to, offset), to_scale)) in of_blocks.enumerate() {
            let from = &self.from[(b * BLOCK).min(self.from.len())..];
            let mut x = [0.0f32; BLOCK];
            let len = from.len().min(BLOCK);
            x[..len].copy_from_slice(&from[..len]);
            // SAFETY: a block is two vectors.
            unsafe {
                let p = x.as_mut_ptr();
                let (lo, hi) = (s.load(p), s.load(p.add(LANES)));
                let size = |v| s.max(v, s.sub(s.zero(), v));
                let largest = s.max_lane(s.max(size(lo), size(hi)));
                let (factor, scale) = if largest < SMALLEST { (0.0, 0.0) } else { (127.0 / largest, largest / 127.0) };
                // Zero, unless one of them is not finite.
                let poison = s.sum(s.fma(lo, s.zero(), s.mul(hi, s.zero())));
                *to_scale = scale + poison;
                let factor = s.splat(factor);
                s.store(p, s.add(s.mul(lo, factor), round));
                s.store(p.add(LANES), s.add(s.mul(hi, factor), round));
            }
            let integers = x.map(|x| x.to_bits().wrapping_sub(ROUND.to_bits()) as i8);
            let sum: i32 = integers.iter().map(|q| i32::from(*q)).sum();
            *offset = f32::from_bits((-W::OFFSET * sum).cast_unsigned());
            let at = |i: usize| if W::NIBBLES { 2 * i % BLOCK + 2 * i / BLOCK } else { i };
            let bytes: [u8; BLOCK] = std::array::from_fn(|i| integers[at(i)].cast_unsigned());
            for (to, bytes) in to.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *to = f32::from_ne_bytes(*bytes);
            }
        }
    }
}
