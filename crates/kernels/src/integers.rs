//! Products of packed weights with rows rounded to 8-bit integers.
//!
//! A row of x is cut into blocks of 32 elements, each an 8-bit integer times its block's scale. Weights are taken in
//! units of 64 bytes. Within a unit the elements of a lane (of 16: four neighbours of 8 bits, eight of 4 bits) belong
//! to one block and to one group, so that their products are summed exactly, as integers; the sum, times the product
//! of both scales, is added to the lane by fused multiply-add, unit after unit. [`Simd::sum`] adds the lanes. That is
//! the order of this mode, for any tile.

use std::marker::PhantomData;

use crate::buffer::Buffer;
use crate::exec::Exec;
use crate::format::Bits;
use crate::matrix::StoredRows;
use crate::simd::{LANES, Op, PackedLoop, Simd};

/// Elements of x that share a scale.
pub(crate) const BLOCK: usize = 32;

/// Bytes of weights in a unit.
const UNIT_BYTES: usize = 64;

/// A block whose largest magnitude is smaller counts as zeros, so that `127 / largest` is finite.
const SMALLEST: f32 = f32::MIN_POSITIVE * 256.0;

/// Added and subtracted, it rounds a number below 2^22 to the nearest integer, ties to even, which its lowest bits hold.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// Weights as unsigned integers: 64 bytes of them are a unit.
pub(crate) trait Integers: Copy {
    /// The loop that there may be for one row of x.
    const LOOP: PackedLoop;
    /// What is added to an integer in storage.
    const OFFSET: i32;
    /// Vectors of 64 bytes of x that a unit of weights meets.
    const PARTS: usize;
    /// Elements of a unit.
    const UNIT: usize = 64 * Self::PARTS;
    /// f32 elements of memory that a unit of a row of x takes: its integers, for each lane the sum of them times
    /// `-OFFSET`, and for each lane the scale of its block.
    const X_UNIT: usize = (64 * Self::PARTS + 2 * 64) / size_of::<f32>();

    /// A unit of weights.
    type W<S: Simd>: Copy;

    /// # Safety
    /// `p` is valid for reading 64 bytes.
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> Self::W<S>;

    /// Adds the products of a unit to the sums of its lanes.
    ///
    /// # Safety
    /// `x` is valid for reading the integers of a unit.
    unsafe fn add<S: Simd>(s: S, w: Self::W<S>, x: *const u8, sums: S::I) -> S::I;

    /// The integers of a unit of x in the order of the weights, those after the first `PARTS * 64` without meaning.
    fn arrange(integers: &[i8; 2 * UNIT_BYTES]) -> [i8; 2 * UNIT_BYTES];
}

/// [`Bits::Eight`]: lane `l` has the elements `4 l` to `4 l + 3` of 64.
#[derive(Clone, Copy)]
pub(crate) struct Bytes;

/// [`Bits::Four`]: lane `l` has the elements `8 l` to `8 l + 7` of 128, the even ones in the lower halves of its bytes.
#[derive(Clone, Copy)]
pub(crate) struct HalfBytes;

// SAFETY (of the blocks below): each passes the caller's promise on to loads of the same width.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument, stated above, covers them all")]
mod formats {
    use super::{Bytes, HalfBytes, Integers, PackedLoop, Simd, UNIT_BYTES};

    impl Integers for Bytes {
        const LOOP: PackedLoop = PackedLoop::ByteUnits;
        const OFFSET: i32 = 128;
        const PARTS: usize = 1;
        type W<S: Simd> = S::B;

        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::B {
            unsafe { s.load_bytes(p) }
        }
        #[inline(always)]
        unsafe fn add<S: Simd>(s: S, w: S::B, x: *const u8, sums: S::I) -> S::I {
            unsafe { s.add_bytes(w, s.load_bytes(x), sums) }
        }
        #[inline(always)]
        fn arrange(integers: &[i8; 2 * UNIT_BYTES]) -> [i8; 2 * UNIT_BYTES] {
            *integers
        }
    }

    impl Integers for HalfBytes {
        const LOOP: PackedLoop = PackedLoop::NibbleUnits;
        const OFFSET: i32 = 8;
        const PARTS: usize = 2;
        type W<S: Simd> = (S::B, S::B);

        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8) -> (S::B, S::B) {
            s.half_bytes(unsafe { s.load_bytes(p) })
        }
        #[inline(always)]
        unsafe fn add<S: Simd>(s: S, (even, odd): (S::B, S::B), x: *const u8, sums: S::I) -> S::I {
            unsafe {
                let sums = s.add_small_bytes(even, s.load_bytes(x), sums);
                s.add_small_bytes(odd, s.load_bytes(x.add(64)), sums)
            }
        }
        #[inline(always)]
        fn arrange(integers: &[i8; 2 * UNIT_BYTES]) -> [i8; 2 * UNIT_BYTES] {
            let mut arranged = [0; 2 * UNIT_BYTES];
            let (even, odd) = arranged.split_at_mut(UNIT_BYTES);
            for ((even, odd), pair) in even.iter_mut().zip(odd).zip(integers.as_chunks::<2>().0) {
                (*even, *odd) = (pair[0], pair[1]);
            }
            arranged
        }
    }
}

/// The scales of some weight rows as a kernel reads them.
#[derive(Clone, Copy)]
pub(crate) enum Groups {
    /// One for so many units: a group is a whole number of them, or the row.
    Units(usize),
    /// One for each [`BLOCK`], rows padded to whole units.
    Blocks,
}

impl Groups {
    /// How scales of groups of `group` elements, a multiple of 32 or at least the row, are read.
    pub(crate) fn of<W: Integers>(group: usize, cols: usize) -> Groups {
        if group >= cols {
            Groups::Units(usize::MAX)
        } else if group.is_multiple_of(W::UNIT) {
            Groups::Units(group / W::UNIT)
        } else {
            Groups::Blocks
        }
    }

    /// Scales that a row of `cols` has in this form.
    pub(crate) fn row<W: Integers>(self, cols: usize) -> usize {
        match self {
            Groups::Units(units) => cols.div_ceil(W::UNIT).div_ceil(units),
            Groups::Blocks => cols.div_ceil(W::UNIT) * (W::UNIT / BLOCK),
        }
    }
}

/// Dot products of `R` rows of x with `C` weight rows, in lanes.
///
/// # Safety
/// `x + r * x_stride` (in bytes) is valid for reading the units of row `r < R`; the rows of `w` are valid for reading
/// `cols` elements and their scales in the form of `groups`.
#[inline(always)]
pub(crate) unsafe fn accumulate<S: Simd, W: Integers, const R: usize, const C: usize>(
    s: S,
    x: *const u8,
    x_stride: usize,
    w: StoredRows<'_>,
    groups: Groups,
    cols: usize,
) -> [[S::V; C]; R] {
    let mut acc = [[s.zero(); C]; R];
    let units = cols.div_ceil(W::UNIT);
    let whole = cols / W::UNIT;
    let mut u = 0;
    // SAFETY: unit `u < units` of each row lies within what the caller vouches for, and so do its scales.
    unsafe {
        match groups {
            Groups::Units(per_group) => {
                if R == 1 {
                    let group = per_group.saturating_mul(W::UNIT);
                    u = s.add_packed(W::LOOP, x, w, group, whole * W::UNIT, &mut acc[0]) / W::UNIT;
                }
                let mut scale = w.scales.add(u / per_group);
                while u < units {
                    let mut scales = [s.zero(); C];
                    for c in 0..C {
                        scales[c] = s.splat(*scale.add(c * w.scale_stride));
                    }
                    scale = scale.add(1);
                    let end = u.saturating_add(per_group).min(units);
                    while u < end.min(whole) {
                        add_unit::<S, W, R, C>(s, x, x_stride, w.elements, w.stride, u, &scales, &mut acc);
                        u += 1;
                    }
                    if u < end {
                        add_last_unit::<S, W, R, C>(s, x, x_stride, w, u, cols, &scales, &mut acc);
                        u = end;
                    }
                }
            }
            Groups::Blocks => {
                while u < units {
                    let mut scales = [s.zero(); C];
                    for c in 0..C {
                        let p = w.scales.add(c * w.scale_stride + u * (W::UNIT / BLOCK));
                        scales[c] = if W::PARTS == 1 { s.spread::<2>(p) } else { s.spread::<4>(p) };
                    }
                    if u < whole {
                        add_unit::<S, W, R, C>(s, x, x_stride, w.elements, w.stride, u, &scales, &mut acc);
                    } else {
                        add_last_unit::<S, W, R, C>(s, x, x_stride, w, u, cols, &scales, &mut acc);
                    }
                    u += 1;
                }
            }
        }
    }
    acc
}

/// Unit `u` of `R` rows of x, and of `C` weight rows that begin at `elements`, `stride` bytes apart.
///
/// # Safety
/// Both are readable.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "pointers and strides of two operands")]
unsafe fn add_unit<S: Simd, W: Integers, const R: usize, const C: usize>(
    s: S,
    x: *const u8,
    x_stride: usize,
    elements: *const u8,
    stride: usize,
    u: usize,
    scales: &[S::V; C],
    acc: &mut [[S::V; C]; R],
) {
    // SAFETY: the caller vouches for the unit of each row.
    unsafe {
        let p = elements.add(u * UNIT_BYTES);
        let mut wv = [W::load(s, p); C];
        for c in 1..C {
            wv[c] = W::load(s, p.add(c * stride));
        }
        for r in 0..R {
            let x = x.add(r * x_stride + u * W::X_UNIT * size_of::<f32>());
            let offset = s.load_ints(x.add(64 * W::PARTS));
            let scale = s.load(x.add(64 * W::PARTS + 64).cast());
            for c in 0..C {
                let sums = s.ints_to_f32(W::add(s, wv[c], x, offset));
                acc[r][c] = s.fma(sums, s.mul(scale, scales[c]), acc[r][c]);
            }
        }
    }
}

/// As [`add_unit`] for the last unit, of which the weight rows have a part only.
///
/// # Safety
/// As [`accumulate`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "pointers and strides of two operands")]
unsafe fn add_last_unit<S: Simd, W: Integers, const R: usize, const C: usize>(
    s: S,
    x: *const u8,
    x_stride: usize,
    w: StoredRows<'_>,
    u: usize,
    cols: usize,
    scales: &[S::V; C],
    acc: &mut [[S::V; C]; R],
) {
    let rest = (cols - u * W::UNIT).div_ceil(W::PARTS);
    let mut bytes = [[0u8; UNIT_BYTES]; C];
    for (c, bytes) in bytes.iter_mut().enumerate() {
        // SAFETY: the row has `rest < 64` bytes more, and the array 64.
        unsafe {
            let from = w.elements.add(c * w.stride + u * UNIT_BYTES);
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), rest);
        }
    }
    // SAFETY: the arrays hold a unit each; the unit of x is whole, its integers zero where no weights are.
    unsafe {
        let x = x.add(u * W::X_UNIT * size_of::<f32>());
        add_unit::<S, W, R, C>(s, x, x_stride, bytes.as_ptr().cast(), UNIT_BYTES, 0, scales, acc);
    }
}

/// Rows of activations rounded to 8-bit integers, for products with packed weights of one kind.
///
/// Of each block of 32 elements `d = max |x| / 127` is the scale, and `x · (127 / max |x|)`, rounded to nearest, ties to
/// even, the integers. A block without a magnitude of `2^-118` counts as zeros, one with an infinity or a NaN makes
/// every product of its row NaN.
pub struct Quantized {
    /// For each row the units of [`Integers::X_UNIT`] f32, which are bytes, i32 and f32.
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
        let bytes = cols.div_ceil(Bytes::UNIT) * Bytes::X_UNIT;
        let half_bytes = cols.div_ceil(HalfBytes::UNIT) * HalfBytes::X_UNIT;
        n * if bytes > half_bytes { bytes } else { half_bytes }
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
        const LANE: usize = Bytes::UNIT / LANES;
        let mut squares = 0.0;
        for (x, unit) in x.chunks(Bytes::UNIT).zip(self.buffer.chunks_exact(Bytes::X_UNIT)) {
            let (integers, rest) = unit.split_at(LANES);
            let lanes = x.chunks(LANE).zip(integers).zip(&rest[LANES..]);
            for ((x, integers), scale) in lanes {
                for (x, q) in x.iter().zip(integers.to_ne_bytes()) {
                    squares += (f64::from(*x) - f64::from(q.cast_signed()) * f64::from(*scale)).powi(2);
                }
            }
        }
        squares.sqrt()
    }

    /// f32 elements from row to row.
    fn row_elements(&self) -> usize {
        match self.bits {
            Bits::Eight => self.cols.div_ceil(Bytes::UNIT) * Bytes::X_UNIT,
            Bits::Four => self.cols.div_ceil(HalfBytes::UNIT) * HalfBytes::X_UNIT,
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
        let lane = W::UNIT / LANES;
        let round = s.splat(ROUND);
        for (from, to) in self.from.chunks(W::UNIT).zip(self.to.chunks_exact_mut(W::X_UNIT)) {
            let mut x = [0.0f32; 2 * UNIT_BYTES];
            x[..from.len()].copy_from_slice(from);
            let (to_integers, rest) = to.split_at_mut(W::UNIT / size_of::<f32>());
            let (to_offsets, to_scales) = rest.split_at_mut(LANES);
            for b in 0..W::UNIT / BLOCK {
                let block = &mut x[b * BLOCK..(b + 1) * BLOCK];
                // SAFETY: a block is two vectors.
                unsafe {
                    let p = block.as_mut_ptr();
                    let (lo, hi) = (s.load(p), s.load(p.add(LANES)));
                    let size = |v| s.max(v, s.sub(s.zero(), v));
                    let largest = s.max_lane(s.max(size(lo), size(hi)));
                    let (factor, scale) =
                        if largest < SMALLEST { (0.0, 0.0) } else { (127.0 / largest, largest / 127.0) };
                    // Zero, unless one of them is not finite.
                    let poison = s.sum(s.fma(lo, s.zero(), s.mul(hi, s.zero())));
                    to_scales[b * BLOCK / lane..(b + 1) * BLOCK / lane].fill(scale + poison);
                    let factor = s.splat(factor);
                    s.store(p, s.add(s.mul(lo, factor), round));
                    s.store(p.add(LANES), s.add(s.mul(hi, factor), round));
                }
            }
            let integers = x.map(|x| x.to_bits().wrapping_sub(ROUND.to_bits()) as i8);
            for (to, integers) in to_offsets.iter_mut().zip(integers.chunks_exact(lane)) {
                let sum: i32 = integers.iter().map(|q| i32::from(*q)).sum();
                *to = f32::from_bits((-W::OFFSET * sum).cast_unsigned());
            }
            for (to, bytes) in to_integers.iter_mut().zip(W::arrange(&integers).as_chunks::<4>().0) {
                *to = f32::from_bits(u32::from_ne_bytes(bytes.map(i8::cast_unsigned)));
            }
        }
    }
}
