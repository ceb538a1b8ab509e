//! Numbers of bf16, and sums without subnormal ones.

use std::arch::x86_64::*;

use super::Pair;
use crate::simd::{RAISE, RAISED_NORMAL};

/// A subnormal number becomes a zero of its sign.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn flush(v: __m256) -> __m256 {
    // SAFETY: the caller vouches for AVX.
    unsafe {
        let sign = _mm256_set1_ps(-0.0);
        let small = _mm256_cmp_ps::<_CMP_LT_OQ>(_mm256_andnot_ps(sign, v), _mm256_set1_ps(f32::MIN_POSITIVE));
        _mm256_andnot_ps(_mm256_andnot_ps(sign, small), v)
    }
}

/// Eight lanes of [`Simd::add_pairs`].
///
/// # Safety
/// The CPU has AVX2 and FMA.
#[inline(always)]
pub(super) unsafe fn add_pairs(a: __m256i, b: __m256i, c: __m256) -> __m256 {
    // SAFETY: the caller vouches for the features.
    unsafe {
        let sum = fma_flushed(second(a), second(b), flush(c));
        fma_flushed(first(a), first(b), sum)
    }
}

/// The first elements of pairs, without subnormal ones.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn first(v: __m256i) -> __m256 {
    // SAFETY: the caller vouches for the features.
    unsafe { flush(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(v))) }
}

/// As [`first`], the second ones.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn second(v: __m256i) -> __m256 {
    // SAFETY: the caller vouches for the features.
    unsafe { flush(_mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(0xffff_0000_u32 as i32)))) }
}

/// Eight lanes of [`Simd::fma_flushed`].
///
/// # Safety
/// The CPU has AVX2 and FMA.
#[inline(always)]
pub(super) unsafe fn fma_flushed(a: __m256, b: __m256, c: __m256) -> __m256 {
    // SAFETY: the caller vouches for the features.
    unsafe {
        let (sign, raise) = (_mm256_set1_ps(-0.0), _mm256_set1_ps(RAISE));
        // What is small, its size tells where nothing is subnormal.
        let raised = _mm256_fmadd_ps(_mm256_mul_ps(a, raise), b, _mm256_mul_ps(c, raise));
        let small = _mm256_cmp_ps::<_CMP_LT_OQ>(_mm256_andnot_ps(sign, raised), _mm256_set1_ps(RAISED_NORMAL));
        _mm256_andnot_ps(_mm256_andnot_ps(sign, small), _mm256_fmadd_ps(a, b, c))
    }
}

/// Rounds sixteen f32 to bf16, to nearest, ties to even; subnormal numbers become zeros, no number stays none.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
pub(in crate::simd) unsafe fn pack_bf16(v: Pair) -> __m256i {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let round = |v: __m256| {
            let bits = _mm256_castps_si256(flush(v));
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let none = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, none))
        };
        // The packing goes by halves of 128 bits: put the quarters back in order.
        _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(round(v.0), round(v.1)))
    }
}
