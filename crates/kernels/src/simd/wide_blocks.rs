//! The products of [`super::blocks`] in registers of 64 bytes, with VNNI: one holds two blocks of a row of bytes, four of a row of nibbles.

use std::arch::x86_64::*;
use std::ops::Range;

use super::prefetch_stream;
use crate::integers::{EightRows, Integers, UNIT_BYTES};

/// A row of x, as the units of rows meet it.
#[derive(Clone, Copy)]
struct XUnit {
    /// Its integers: for nibbles those at even places, then those at odd ones, and otherwise the same twice.
    integers: [__m512i; 2],
    /// For each block its offset, in one of the lanes that are summed.
    start: __m512i,
}

/// As [`super::Simd::add_blocks`]; with `asks_ahead`, meanwhile what comes next is asked for.
///
/// # Safety
/// As there, and the CPU has AVX-512 F, BW, DQ and VNNI, AVX2 and FMA.
#[inline(always)]
pub(super) unsafe fn add<W: Integers>(rows: EightRows, units: Range<usize>, asks_ahead: bool, sums: &mut [f32; 8]) {
    // SAFETY: the caller's promise: each register is a unit of a row, or of x.
    unsafe {
        let EightRows { x, elements, stride, .. } = rows;
        let mut acc = Sums { rows, acc: _mm256_loadu_ps(sums.as_ptr()) };
        for unit in units {
            let first = elements.add(unit * UNIT_BYTES);
            if asks_ahead {
                for row in 0..8 {
                    prefetch_stream(first.wrapping_add(row * stride));
                }
            }
            let b = unit * W::BLOCKS;
            let (p, offsets) = (x.integers.add(unit * W::UNIT).cast::<__m512i>(), x.offsets.add(b));
            let first_of_x = _mm512_loadu_si512(p);
            if W::NIBBLES {
                let second = _mm512_loadu_si512(p.add(1));
                let even = _mm512_shuffle_i64x2::<0x88>(first_of_x, second);
                let odd = _mm512_shuffle_i64x2::<0xdd>(first_of_x, second);
                let x = XUnit { integers: [even, odd], start: _mm512_maskz_expandloadu_epi32(0x1111, offsets) };
                let four = four_rows::<W>(first, stride, x);
                let other = four_rows::<W>(first.add(4 * stride), stride, x);
                let blocks = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
                acc.add(b, _mm512_permutex2var_epi64(four, blocks, other));
                let blocks = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
                acc.add(b + 2, _mm512_permutex2var_epi64(four, blocks, other));
            } else {
                let start = _mm512_maskz_expandloadu_epi32(0x0101, offsets);
                let x = XUnit { integers: [first_of_x; 2], start };
                let four = four_rows::<W>(first, stride, x);
                let other = four_rows::<W>(first.add(4 * stride), stride, x);
                let lower = _mm512_permutex2var_epi64(four, _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), other);
                let upper = _mm512_permutex2var_epi64(four, _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15), other);
                acc.add(b, _mm512_add_epi32(lower, upper));
            }
        }
        _mm256_storeu_ps(sums.as_mut_ptr(), acc.acc);
    }
}

/// In each quarter of a register the sums of its products of four rows with x.
///
/// # Safety
/// The CPU has AVX-512 F, BW and VNNI, and each row a unit.
#[inline(always)]
unsafe fn four_rows<W: Integers>(first: *const u8, stride: usize, x: XUnit) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let a = products::<W>(first, x);
        let b = products::<W>(first.add(stride), x);
        let c = products::<W>(first.add(2 * stride), x);
        let d = products::<W>(first.add(3 * stride), x);
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
    }
}

/// In lanes of 32 bits sums of products of a unit, added to where x starts.
///
/// # Safety
/// As [`four_rows`].
#[inline(always)]
unsafe fn products<W: Integers>(row: *const u8, x: XUnit) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let row = _mm512_loadu_si512(row.cast());
        if W::NIBBLES {
            let mask = _mm512_set1_epi8(15);
            let low = _mm512_dpbusd_epi32(x.start, _mm512_and_si512(row, mask), x.integers[0]);
            _mm512_dpbusd_epi32(low, _mm512_and_si512(_mm512_srli_epi16::<4>(row), mask), x.integers[1])
        } else {
            _mm512_dpbusd_epi32(x.start, row, x.integers[0])
        }
    }
}

/// The sums of eight rows.
struct Sums {
    rows: EightRows,
    acc: __m256,
}

impl Sums {
    /// Adds the products of blocks `b`, an even number, and `b + 1`.
    ///
    /// # Safety
    /// The CPU has AVX-512 F and DQ and FMA, and the blocks are some of x and of the scales.
    #[inline(always)]
    unsafe fn add(&mut self, b: usize, products: __m512i) {
        // SAFETY: the caller's promise.
        unsafe {
            let EightRows { x, scales, shift, .. } = self.rows;
            let scales = match shift {
                0 => _mm512_loadu_ps(scales.add(b * 8)),
                _ => _mm512_broadcast_f32x8(_mm256_loadu_ps(scales.add((b >> shift) * 8))),
            };
            let both = _mm512_castpd_ps(_mm512_set1_pd(x.scales.add(b).cast::<f64>().read_unaligned()));
            let of_x = _mm512_permutevar_ps(both, _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
            let scales = _mm512_mul_ps(of_x, scales);
            let products = _mm512_cvtepi32_ps(products);
            self.acc = _mm256_fmadd_ps(_mm512_castps512_ps256(products), _mm512_castps512_ps256(scales), self.acc);
            let (products, scales) = (_mm512_extractf32x8_ps::<1>(products), _mm512_extractf32x8_ps::<1>(scales));
            self.acc = _mm256_fmadd_ps(products, scales, self.acc);
        }
    }
}
