//! Sixteen lanes of f32, on every instruction set the crate knows.
//!
//! An algorithm is written once, as an [`Op`] generic over [`Simd`], and runs on the instruction set
//! that an [`Isa`] names. Each implementation of [`Simd`] performs the *same IEEE operations in the same
//! order*, so all of them give the same bits; only the number of registers that hold the sixteen lanes
//! differs (one zmm, two ymm, or an array).

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
#[path = "no_tiles.rs"]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod blocks;
mod isa;
mod portable;
#[cfg(target_arch = "x86_64")]
mod wide_blocks;

use std::ops::Range;

pub(crate) use amx::{AHEAD, Shape, Sums, Tiles};
pub use isa::Isa;

use crate::integers::{EightRows, Integers};
use crate::matrix::StoredRows;

/// The magnitudes of an e2m1 number, by its three lower bits.
const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// For each output of a word of [`crate::Awq`] the bit from which its integer lies on.
const AWQ_SHIFTS: [u8; 8] = [0, 16, 4, 20, 8, 24, 12, 28];

/// Number of f32 lanes in a [`Simd::V`]; the lane count of the numeric contract.
pub(crate) const LANES: usize = 16;

/// Rows and columns of a tile of sums, and pairs in a row of a tile of factors; see [`Isa::tiles`].
pub(crate) const TILE: usize = 16;

/// What raises any normal number so far that a product with another is not subnormal, or small beyond doubt: 2^64.
const RAISE: f32 = f32::from_bits((127 + 64) << 23);
/// The smallest normal number, raised.
const RAISED_NORMAL: f32 = f32::from_bits((127 - 62) << 23);

/// Says that the memory at `p`, which may be any address, is soon read.
#[inline(always)]
pub(crate) fn prefetch(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which every x86-64 CPU has, and which no address makes fault.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Says that a stream of weights, of which the line at `p` is being read, is read on. It is asked for twice: early, and from near,
/// as far ahead as was fastest.
#[inline(always)]
pub(crate) fn prefetch_stream(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(512).cast());
    }
    prefetch(p.wrapping_add(1536));
}

/// An algorithm over any [`Simd`]. Implementations mark `run` `#[inline(always)]`, so that it is
/// compiled with the instruction set of the shell that calls it.
pub(crate) trait Op {
    type Output;
    /// Whether it is faster with bf16, VBMI and VNNI: otherwise it is not compiled for them.
    const NARROW: bool = false;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// What a loop of [`Simd::add_packed`] multiplies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PackedLoop {
    /// x in f32 and nibbles whose scales have at most 11 bits; sums in the order of [`Simd::turn_nibbles`].
    Nibbles,
    /// x in f32 and bytes whose scales have at most 11 bits.
    Bytes,
}

/// The operations on sixteen f32 lanes. Values of implementing types are proofs that the CPU has the
/// instructions. Every method is `#[inline(always)]` in every implementation.
pub(crate) trait Simd: Copy {
    /// Sixteen lanes of f32.
    type V: Copy;
    /// Sixteen pairs of bf16.
    type P: Copy;
    /// What the sixteen values of a packed nibble become.
    type Nibbles: Copy;
    /// The same, with a zero point.
    type ShiftedNibbles: Copy;
    /// What the sixteen values of an e2m1 number become.
    type E2m1: Copy;
    /// 64 bytes.
    type B: Copy;
    /// Sixteen lanes of i32.
    type I: Copy;
    /// 64 bytes, less 128 each, as factors of products that are summed.
    type Factors: Copy;
    /// Sums of products of small bytes, in sixteen lanes.
    type SmallSums: Copy;
    /// What of sixteen lanes of f32 is computed with at a time where registers are few.
    type Part: Copy;

    /// Whether this instruction set has registers for large tiles.
    const WIDE_TILE: bool;
    /// Whether nobody chooses this instruction set for its speed, so that small tiles will do.
    const SMALL_TILE: bool = false;

    /// Parts of sixteen lanes, 1 or 2.
    const PARTS: usize;

    /// See [`crate::cache::asks_ahead`].
    #[inline(always)]
    fn asks_ahead(self) -> bool {
        false
    }

    fn zero(self) -> Self::V;
    fn splat(self, x: f32) -> Self::V;

    /// Reads 16 f32.
    ///
    /// # Safety
    /// `p` is valid for reading 64 bytes; it need not be aligned.
    unsafe fn load(self, p: *const f32) -> Self::V;

    /// Reads 16 bf16 and widens them exactly.
    ///
    /// # Safety
    /// `p` is valid for reading 32 bytes; it need not be aligned.
    unsafe fn load_bf16(self, p: *const u8) -> Self::V;

    /// As [`Simd::load_bf16`], with the lanes in the order in which bf16 are widened with fewest instructions.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn load_mixed_bf16(self, p: *const u8) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { self.load_bf16(p) }
    }

    /// The lanes of [`Simd::load_mixed_bf16`] in their usual order.
    #[inline(always)]
    fn bf16_in_order(self, v: Self::V) -> Self::V {
        v
    }

    /// Reads 16 f16 and widens them exactly.
    ///
    /// # Safety
    /// `p` is valid for reading 32 bytes; it need not be aligned.
    unsafe fn load_f16(self, p: *const u8) -> Self::V;

    /// Reads 16 unsigned bytes and widens them exactly.
    ///
    /// # Safety
    /// `p` is valid for reading 16 bytes; it need not be aligned.
    unsafe fn load_u8(self, p: *const u8) -> Self::V;

    /// What [`Simd::load_raised_u8`] adds: 0 or 2^15.
    const RAISED: f32 = 0.0;

    /// Reads 16 unsigned bytes and widens them, each plus [`Simd::RAISED`], in whichever way takes fewest instructions.
    ///
    /// # Safety
    /// `p` is valid for reading 16 bytes; it need not be aligned.
    #[inline(always)]
    unsafe fn load_raised_u8(self, p: *const u8) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { self.load_u8(p) }
    }

    /// What [`Simd::load_nibbles`] needs for values of `(nibble - 8) * scale`.
    fn nibbles(self, scale: f32) -> Self::Nibbles;

    /// Reads 16 nibbles, the lower half of a byte first, as `(nibble - 8) * scale`, rounded once.
    ///
    /// # Safety
    /// `p` is valid for reading 8 bytes; it need not be aligned.
    unsafe fn load_nibbles(self, p: *const u8, values: Self::Nibbles) -> Self::V;

    /// As [`Simd::load_nibbles`], with the lanes in the order of [`Simd::turn_nibbles`].
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn load_turned_nibbles(self, p: *const u8, values: Self::Nibbles) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { self.load_nibbles(p, values) }
    }

    /// The lanes in the order in which nibbles are unpacked with fewest instructions.
    #[inline(always)]
    fn turn_nibbles(self, v: Self::V) -> Self::V {
        v
    }

    /// Undoes [`Simd::turn_nibbles`].
    #[inline(always)]
    fn turn_nibbles_back(self, v: Self::V) -> Self::V {
        v
    }

    /// What [`Simd::load_shifted_nibbles`] needs for values of `(nibble - 8 - zero) * scale`, `zero` a small integer.
    fn shifted_nibbles(self, scale: f32, zero: f32) -> Self::ShiftedNibbles;

    /// As [`Simd::load_nibbles`], with a zero point.
    ///
    /// # Safety
    /// As there.
    unsafe fn load_shifted_nibbles(self, p: *const u8, values: Self::ShiftedNibbles) -> Self::V;

    /// As [`Simd::load_shifted_nibbles`], with the lanes in the order of [`Simd::turn_nibbles`].
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn load_turned_shifted_nibbles(self, p: *const u8, values: Self::ShiftedNibbles) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { self.load_shifted_nibbles(p, values) }
    }

    /// Reads 16 numbers of 8 bits (torch's `float8_e4m3fn`: sign, 4 bits of exponent, 3 of mantissa; all ones are no
    /// number) and widens them exactly.
    ///
    /// # Safety
    /// `p` is valid for reading 16 bytes; it need not be aligned.
    unsafe fn load_e4m3(self, p: *const u8) -> Self::V;

    /// What [`Simd::load_e2m1`] needs for values times `scale`.
    fn e2m1(self, scale: f32) -> Self::E2m1;

    /// Reads 16 numbers of 4 bits (sign, 2 bits of exponent, 1 of mantissa), the lower half of a byte first, times the
    /// scale, rounded once.
    ///
    /// # Safety
    /// `p` is valid for reading 8 bytes; it need not be aligned.
    unsafe fn load_e2m1(self, p: *const u8, values: Self::E2m1) -> Self::V;

    /// Reads 16 pairs of bf16.
    ///
    /// # Safety
    /// `p` is valid for reading 64 bytes; it need not be aligned.
    unsafe fn load_pairs(self, p: *const u8) -> Self::P;

    /// Writes 16 pairs of bf16.
    ///
    /// # Safety
    /// `p` is valid for writing 64 bytes; it need not be aligned.
    unsafe fn store_pairs(self, p: *mut u8, v: Self::P);

    /// Rounds 32 f32 to bf16, to nearest, ties to even; subnormal numbers become zeros of their sign. `lo` holds
    /// the elements of the first eight pairs.
    fn round_pairs(self, lo: Self::V, hi: Self::V) -> Self::P;

    /// Lane by lane: adds the product of the pairs' second elements, then that of the first, by fused
    /// multiply-add. Subnormal numbers count as zeros, before and after each of the two.
    fn add_pairs(self, a: Self::P, b: Self::P, c: Self::V) -> Self::V;

    /// The first elements of pairs and the second ones, widened; subnormal numbers become zeros of their sign.
    fn halves(self, v: Self::P) -> (Self::V, Self::V);

    /// `a * b + c`, rounded once, of numbers of which none is subnormal. A result that would be subnormal, if it were rounded as
    /// one whose exponent has no end, becomes a zero of its sign: so the CPU's own instructions for bf16 have it.
    fn fma_flushed(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;

    /// `a + b`; a subnormal result, which is always exact, becomes a zero of its sign.
    fn add_flushed(self, a: Self::V, b: Self::V) -> Self::V;

    /// Writes 8 rows of 8 words of 4 bytes, transposed; strides are in bytes.
    ///
    /// # Safety
    /// `from` is valid for reading the rows, and `to` for writing as many; they do not overlap.
    unsafe fn transpose_eight(self, from: *const u8, from_stride: usize, to: *mut u8, to_stride: usize);

    /// Writes 16 rows of 16 words of 4 bytes, transposed; strides are in bytes.
    ///
    /// # Safety
    /// `from` is valid for reading the rows, and `to` for writing as many; they do not overlap.
    #[inline(always)]
    unsafe fn transpose(self, from: *const u8, from_stride: usize, to: *mut u8, to_stride: usize) {
        for (i, j) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
            // SAFETY: the caller's promise.
            unsafe {
                let (from, to) = (from.add(i * from_stride + 4 * j), to.add(j * to_stride + 4 * i));
                self.transpose_eight(from, from_stride, to, to_stride);
            }
        }
    }

    /// Reads 64 bytes.
    ///
    /// # Safety
    /// `p` is valid for reading 64 bytes; it need not be aligned.
    unsafe fn load_bytes(self, p: *const u8) -> Self::B;

    /// The lower and the upper four bits of each byte.
    fn half_bytes(self, b: Self::B) -> (Self::B, Self::B);

    /// Reads 16 i32.
    ///
    /// # Safety
    /// `p` is valid for reading 64 bytes; it need not be aligned.
    unsafe fn load_ints(self, p: *const u8) -> Self::I;

    /// Reads 16 nibbles of two words in the order of [`crate::Awq`], as numbers.
    ///
    /// # Safety
    /// `p` is valid for reading 8 bytes; it need not be aligned.
    unsafe fn load_awq(self, p: *const u8) -> Self::V;

    /// Lane by lane: the bits of `mask` (below 2^24) from bit `shift` (below 32) on, as a number.
    fn field(self, words: Self::I, shift: u32, mask: u32) -> Self::V;

    /// Writes 64 bytes.
    ///
    /// # Safety
    /// `p` is valid for writing 64 bytes; it need not be aligned.
    unsafe fn store_bytes(self, p: *mut u8, b: Self::B);

    /// Reads four bytes, for every lane.
    ///
    /// # Safety
    /// `p` is valid for reading 4 bytes; it need not be aligned.
    unsafe fn splat_word(self, p: *const u8) -> Self::B;

    /// Reads 64 bytes, of which [`Simd::add_factors`] takes 128.
    ///
    /// # Safety
    /// `p` is valid for reading 64 bytes; it need not be aligned.
    unsafe fn load_factors(self, p: *const u8) -> Self::Factors;

    /// What sums of products with [`Simd::Factors`] begin with, where `offset` is -128 times the sum of all that these are multiplied with.
    fn start_sums(self, offset: i32) -> Self::I;

    /// Lane by lane: adds the products of four factors with four signed bytes, of which none is -128.
    fn add_factors(self, a: Self::Factors, b: Self::B, c: Self::I) -> Self::I;

    /// Nothing, to add products of small bytes to.
    fn no_small_sums(self) -> Self::SmallSums;

    /// Lane by lane: adds the products of four bytes below 16 of `a` with four signed bytes of `b`, of which none is -128. Eight times, at most, to
    /// the same sums.
    fn add_small_bytes(self, a: Self::B, b: Self::B, c: Self::SmallSums) -> Self::SmallSums;

    /// The sums, each plus `offset`.
    fn finish_small_sums(self, sums: Self::SmallSums, offset: i32) -> Self::I;

    /// Adds to each of `sums` the products of the row of x and its row of weights, some units of them: of a block the sum of the products, times that of
    /// both scales, by fused multiply-add.
    ///
    /// # Safety
    /// These units of the row of x and of the eight rows are valid for reading, and so are the scales of their blocks.
    unsafe fn add_blocks<W: Integers>(self, rows: EightRows, units: Range<usize>, sums: &mut [f32; 8]);

    /// The same numbers as f32, if they are below 2^24.
    fn ints_to_f32(self, v: Self::I) -> Self::V;

    /// Writes 16 f32.
    ///
    /// # Safety
    /// `p` is valid for writing 64 bytes; it need not be aligned.
    unsafe fn store(self, p: *mut f32, v: Self::V);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;

    /// Adds to each of `sums` the products of its row of x and its row of weights, step by step, for as many of `count` steps as this
    /// instruction set has a loop of its own for; returns how many. A step is a part of the lanes of each row, one row after the other.
    ///
    /// # Safety
    /// `x` and `w` are valid for reading `count` such steps of `R` and of `C` rows.
    #[inline(always)]
    #[expect(unused_variables, reason = "most instruction sets have no such loop")]
    unsafe fn add_interleaved<const R: usize, const C: usize>(
        self,
        x: *const f32,
        w: *const f32,
        count: usize,
        sums: &mut [[Self::Part; C]; R],
    ) -> usize {
        0
    }

    /// Adds, lane by lane, to each of `sums` the products of one row of x and its row of packed integers in groups of `group` elements, element
    /// by element, for as many of the `len` elements as this instruction set has `which` loop for; returns how many: whole groups, or some of the
    /// only one.
    ///
    /// # Safety
    /// `x` and the `C` rows of `w` are valid for reading `len` elements, as `which` has them, and the scales of their groups.
    #[inline(always)]
    #[expect(unused_variables, reason = "most instruction sets have no such loop")]
    unsafe fn add_packed<const C: usize>(
        self,
        which: PackedLoop,
        x: *const u8,
        w: StoredRows<'_>,
        group: usize,
        len: usize,
        sums: &mut [Self::V; C],
    ) -> usize {
        0
    }

    /// Part `P` of the lanes. What makes the others of `v` is left out, if nothing else needs it.
    fn part<const P: usize>(self, v: Self::V) -> Self::Part;
    fn splat_part(self, x: f32) -> Self::Part;
    fn add_part(self, a: Self::Part, b: Self::Part) -> Self::Part;
    /// `a * b + c`, rounded once.
    fn fma_part(self, a: Self::Part, b: Self::Part, c: Self::Part) -> Self::Part;
    /// Reads a part of the lanes.
    ///
    /// # Safety
    /// `p` is valid for reading `16 / PARTS` f32; it need not be aligned.
    unsafe fn load_part(self, p: *const f32) -> Self::Part;
    /// Writes part `P` of 16 f32.
    ///
    /// # Safety
    /// `p` is valid for writing 64 bytes; it need not be aligned.
    unsafe fn store_part<const P: usize>(self, p: *mut f32, v: Self::Part);

    /// Lane-wise `if a > b { a } else { b }`.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise `if a < b { yes } else { no }`.
    fn select_lt(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Adds the low bits of `n` (an integer in the mantissa of a float near 1.5 · 2^23) to the exponent of `v`.
    fn add_exponent(self, v: Self::V, n: Self::V) -> Self::V;

    /// The sum of the lanes in the contract's tree: `l + (l+8)`, then `l + (l+4)`, `l + (l+2)`, `l + (l+1)`.
    fn sum(self, v: Self::V) -> f32;
    /// The largest lane.
    fn max_lane(self, v: Self::V) -> f32;

    /// [`Simd::sum`] of four vectors, with the same tree.
    #[inline(always)]
    fn sum4(self, v: [Self::V; 4]) -> [f32; 4] {
        [self.sum(v[0]), self.sum(v[1]), self.sum(v[2]), self.sum(v[3])]
    }

    /// [`Simd::sum`] of eight vectors, with the same tree.
    #[inline(always)]
    fn sum8(self, [a, b, c, d, e, f, g, h]: [Self::V; 8]) -> [f32; 8] {
        let mut sums = [0.0; 8];
        sums[..4].copy_from_slice(&self.sum4([a, b, c, d]));
        sums[4..].copy_from_slice(&self.sum4([e, f, g, h]));
        sums
    }

    /// [`Simd::sum`] of sixteen vectors, with the same tree.
    #[inline(always)]
    fn sum16(self, v: [Self::V; LANES]) -> [f32; LANES] {
        let mut sums = [0.0; LANES];
        for i in (0..LANES).step_by(8) {
            sums[i..i + 8].copy_from_slice(&self.sum8(std::array::from_fn(|j| v[i + j])));
        }
        sums
    }

    /// Reads the first `n` of 16 f32; the other lanes are zero.
    ///
    /// # Safety
    /// `n <= 16` and `p` is valid for reading `n` f32; it need not be aligned.
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::V {
        let mut lanes = [0.0f32; LANES];
        // SAFETY: the caller vouches for `n` elements at `p`, and `n` fits the array.
        unsafe {
            std::ptr::copy_nonoverlapping(p.cast::<u8>(), lanes.as_mut_ptr().cast(), n * size_of::<f32>());
            self.load(lanes.as_ptr())
        }
    }

    /// Writes the first `n` lanes.
    ///
    /// # Safety
    /// `n <= 16` and `p` is valid for writing `n` f32.
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: Self::V, n: usize) {
        let mut lanes = [0.0f32; LANES];
        // SAFETY: the array holds 16 lanes, and the caller vouches for `n` elements at `p`.
        unsafe {
            self.store(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
        }
    }
}

#[cfg(test)]
mod tests;
