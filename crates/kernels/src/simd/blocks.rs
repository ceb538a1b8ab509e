//! Products of a row of x, rounded to 8-bit integers, with eight rows of weights, in registers of 32 bytes and without VNNI: with it there is
//! [`super::wide_blocks`].
//!
//! Lanes of a product belong to one row. Pairs of rows are added crosswise until there is a lane for each of the eight.

use std::arch::x86_64::*;
use std::ops::Range;

use super::prefetch_stream;
use crate::integers::{EightRows, Integers, UNIT_BYTES};

/// Bytes of a register.
const REGISTER: usize = 32;

// Helpers are functions, since a closure may be compiled on its own, without the instructions.

/// In lanes of 32 bits sums of the products of four bytes of a row, less 128 each, with x.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn bytes(row: __m256i, x: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        // A product of two bytes is that of the one's size and the other with its sign.
        let w = _mm256_xor_si256(row, _mm256_set1_epi8(-128));
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
        _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
    }
}

/// In each half of a register the sums of its products of four rows of nibbles, with x at even and at odd places.
///
/// # Safety
/// As above.
#[inline(always)]
unsafe fn nibbles([a, b, c, d]: [__m256i; 4], even: __m256i, odd: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        // Sums of sixteen products fit 16 bits.
        let rows = [pairs(a, even, odd), pairs(b, even, odd), pairs(c, even, odd), pairs(d, even, odd)];
        _mm256_madd_epi16(sum_four_in_16(rows), _mm256_set1_epi16(1))
    }
}

/// In each half of a register the sums of its lanes of 32 bits, of four rows.
///
/// # Safety
/// As above.
#[inline(always)]
unsafe fn sum_four([a, b, c, d]: [__m256i; 4]) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd))
    }
}

/// The same, with two numbers of 16 bits in each lane.
///
/// # Safety
/// As above.
#[inline(always)]
unsafe fn sum_four_in_16([a, b, c, d]: [__m256i; 4]) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let ab = _mm256_add_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let cd = _mm256_add_epi16(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        _mm256_add_epi16(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd))
    }
}

/// Sums of two products of lower halves of bytes and of two of upper ones, in 16 bits.
///
/// # Safety
/// As above.
#[inline(always)]
unsafe fn pairs(row: __m256i, even: __m256i, odd: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let mask = _mm256_set1_epi8(15);
        let (low, high) = (_mm256_and_si256(row, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(row), mask));
        _mm256_add_epi16(_mm256_maddubs_epi16(low, even), _mm256_maddubs_epi16(high, odd))
    }
}

/// The sums of eight rows.
struct Sums {
    rows: EightRows,
    acc: __m256,
}

impl Sums {
    /// Adds the products of block `b`; with `OFFSET`, they are of weights as stored, to which the offset of x is to be added.
    ///
    /// # Safety
    /// The CPU has AVX2 and FMA, and the block is one of x and of the scales.
    #[inline(always)]
    unsafe fn add<const OFFSET: bool>(&mut self, b: usize, mut products: __m256i) {
        // SAFETY: the caller's promise.
        unsafe {
            if OFFSET {
                products = _mm256_add_epi32(products, _mm256_set1_epi32(*self.rows.x.offsets.add(b)));
            }
            let scale = _mm256_loadu_ps(self.rows.scales.add((b >> self.rows.shift) * 8));
            let scale = _mm256_mul_ps(_mm256_broadcast_ss(&*self.rows.x.scales.add(b)), scale);
            self.acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), scale, self.acc);
        }
    }
}

/// Four rows of a unit's part.
///
/// # Safety
/// They are valid for reading 32 bytes each.
#[inline(always)]
unsafe fn load(first: *const u8, stride: usize) -> [__m256i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            _mm256_loadu_si256(first.cast()),
            _mm256_loadu_si256(first.add(stride).cast()),
            _mm256_loadu_si256(first.add(2 * stride).cast()),
            _mm256_loadu_si256(first.add(3 * stride).cast()),
        ]
    }
}

/// As [`super::Simd::add_blocks`]; with `asks_ahead`, meanwhile what comes next is asked for.
///
/// # Safety
/// As there, and the CPU has AVX2 and FMA.
#[inline(always)]
pub(super) unsafe fn add<W: Integers>(rows: EightRows, units: Range<usize>, asks_ahead: bool, sums: &mut [f32; 8]) {
    // SAFETY: the caller's promise: each register is a part of a unit of a row.
    unsafe {
        let EightRows { x, elements, stride, .. } = rows;
        let mut acc = Sums { rows, acc: _mm256_loadu_ps(sums.as_ptr()) };
        const PER_UNIT: usize = UNIT_BYTES / REGISTER;
        for i in units.start * PER_UNIT..units.end * PER_UNIT {
            let first = elements.add(i * REGISTER);
            if asks_ahead && i % PER_UNIT == 0 {
                for row in 0..8 {
                    prefetch_stream(first.wrapping_add(row * stride));
                }
            }
            let (four, other) = (load(first, stride), load(first.add(4 * stride), stride));
            if W::NIBBLES {
                let x = x.integers.add(2 * i * REGISTER).cast();
                let (a, b) = (_mm256_loadu_si256(x), _mm256_loadu_si256(x.add(1)));
                let (even, odd) = (_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b));
                let (four, other) = (nibbles(four, even, odd), nibbles(other, even, odd));
                acc.add::<true>(2 * i, _mm256_permute2x128_si256::<0x20>(four, other));
                acc.add::<true>(2 * i + 1, _mm256_permute2x128_si256::<0x31>(four, other));
            } else {
                let x = _mm256_loadu_si256(x.integers.add(i * REGISTER).cast());
                let [a, b, c, d] = four;
                let lower_four = sum_four([bytes(a, x), bytes(b, x), bytes(c, x), bytes(d, x)]);
                let [a, b, c, d] = other;
                let upper_four = sum_four([bytes(a, x), bytes(b, x), bytes(c, x), bytes(d, x)]);
                let lower = _mm256_permute2x128_si256::<0x20>(lower_four, upper_four);
                let upper = _mm256_permute2x128_si256::<0x31>(lower_four, upper_four);
                acc.add::<false>(i, _mm256_add_epi32(lower, upper));
            }
        }
        _mm256_storeu_ps(sums.as_mut_ptr(), acc.acc);
    }
}

/// Writes 8 rows of 8 words of 4 bytes, transposed; strides are in bytes.
///
/// # Safety
/// The CPU has AVX2; `from` is valid for reading the rows, and `to` for writing as many.
#[inline(always)]
pub(super) unsafe fn transpose(from: *const u8, from_stride: usize, to: *mut u8, to_stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let first = four_transposed(load(from, from_stride));
        let second = four_transposed(load(from.add(4 * from_stride), from_stride));
        for (j, (a, b)) in first.into_iter().zip(second).enumerate() {
            _mm256_storeu_si256(to.add(j * to_stride).cast(), _mm256_permute2x128_si256::<0x20>(a, b));
            _mm256_storeu_si256(to.add((j + 4) * to_stride).cast(), _mm256_permute2x128_si256::<0x31>(a, b));
        }
    }
}

/// In each half of a register: word 0 of four rows, then word 1, and so on.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn four_transposed([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        // Pairs of rows by words, then fours of rows by pairs of words.
        let (ab, ab_upper) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (cd, cd_upper) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(ab_upper, cd_upper),
            _mm256_unpackhi_epi64(ab_upper, cd_upper),
        ]
    }
}
