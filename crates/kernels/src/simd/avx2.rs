//! The sixteen lanes in two ymm registers: lanes 0 to 7 and lanes 8 to 15.

mod loops;
mod pairs;

use std::arch::x86_64::*;
use std::ops::Range;

pub(super) use pairs::pack_bf16;
use pairs::{add_pairs, first, flush, fma_flushed, second};

use super::{AWQ_SHIFTS, E2M1, Op, PackedLoop, Simd, blocks};
use crate::cache::asks_ahead;
use crate::integers::{EightRows, Integers};
use crate::matrix::StoredRows;

/// Proof that the CPU has AVX2, FMA and F16C. Made only by [`run`].
#[derive(Clone, Copy)]
pub(super) struct Avx2 {
    asks_ahead: bool,
}

/// Runs `op` compiled for AVX2.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<O: Op>(op: O) -> O::Output {
    op.run(Avx2 { asks_ahead: asks_ahead() })
}

type Pair = (__m256, __m256);
type IntPair = (__m256i, __m256i);

// SAFETY (of every block below): a value of `Avx2` exists only inside `run`, whose caller proved the
// features; loads and stores pass on the caller's promise about the pointer.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument, stated above, covers them all")]
impl Simd for Avx2 {
    type V = Pair;
    type P = IntPair;
    type Nibbles = (__m256, __m256);
    /// The scale and the zero point.
    type ShiftedNibbles = (Pair, Pair);
    type E2m1 = __m256;
    type B = IntPair;
    type I = IntPair;
    /// Sizes, and the numbers themselves for their signs.
    type Factors = (IntPair, IntPair);
    /// Of 16 bits, two for each lane.
    type SmallSums = IntPair;
    type Part = __m256;
    const WIDE_TILE: bool = false;
    const PARTS: usize = 2;

    #[inline(always)]
    fn asks_ahead(self) -> bool {
        self.asks_ahead
    }
    #[inline(always)]
    fn zero(self) -> Pair {
        unsafe { (_mm256_setzero_ps(), _mm256_setzero_ps()) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Pair {
        unsafe { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Pair {
        unsafe { (_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> Pair {
        unsafe {
            let lo = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            let hi = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(16).cast()));
            (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(lo)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(hi)))
        }
    }
    #[inline(always)]
    unsafe fn load_mixed_bf16(self, p: *const u8) -> Pair {
        unsafe {
            let both = _mm256_loadu_si256(p.cast());
            let odd = _mm256_and_si256(both, _mm256_set1_epi32(!0xffff));
            (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(both)), _mm256_castsi256_ps(odd))
        }
    }
    #[inline(always)]
    fn bf16_in_order(self, (even, odd): Pair) -> Pair {
        // Both with the middle two of their quarters swapped.
        let swapped = |v| unsafe { _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(v))) };
        self.turn_nibbles_back((swapped(even), swapped(odd)))
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> Pair {
        unsafe { (_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(16).cast()))) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Pair {
        unsafe {
            let bytes = _mm_loadu_si128(p.cast());
            let hi = _mm_unpackhi_epi64(bytes, bytes);
            (_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(hi)))
        }
    }
    #[inline(always)]
    fn nibbles(self, scale: f32) -> (__m256, __m256) {
        // -8 * scale is exact, so that nibble * scale - 8 * scale by one fused operation is rounded once.
        unsafe { (_mm256_set1_ps(scale), _mm256_set1_ps(-8.0 * scale)) }
    }
    #[inline(always)]
    unsafe fn load_nibbles(self, p: *const u8, (scale, offset): (__m256, __m256)) -> Pair {
        unsafe {
            let shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
            let half = |p: *const u8| {
                let word = _mm256_set1_epi32(p.cast::<i32>().read_unaligned());
                let nibbles = _mm256_and_si256(_mm256_srlv_epi32(word, shifts), _mm256_set1_epi32(15));
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(nibbles), scale, offset)
            };
            (half(p), half(p.add(4)))
        }
    }
    #[inline(always)]
    unsafe fn load_turned_nibbles(self, p: *const u8, (scale, offset): (__m256, __m256)) -> Pair {
        unsafe {
            let nibbles = turned_nibbles(p);
            (_mm256_fmadd_ps(nibbles.0, scale, offset), _mm256_fmadd_ps(nibbles.1, scale, offset))
        }
    }
    #[inline(always)]
    fn turn_nibbles(self, v: Pair) -> Pair {
        // The even ones and the odd ones.
        unsafe { (_mm256_shuffle_ps::<0x88>(v.0, v.1), _mm256_shuffle_ps::<0xdd>(v.0, v.1)) }
    }
    #[inline(always)]
    fn turn_nibbles_back(self, v: Pair) -> Pair {
        unsafe { (_mm256_unpacklo_ps(v.0, v.1), _mm256_unpackhi_ps(v.0, v.1)) }
    }
    #[inline(always)]
    fn shifted_nibbles(self, scale: f32, zero: f32) -> (Pair, Pair) {
        (self.splat(scale), self.splat(zero))
    }
    #[inline(always)]
    unsafe fn load_shifted_nibbles(self, p: *const u8, (scale, zero): (Pair, Pair)) -> Pair {
        // Differences of small integers are exact, so that the product is rounded once.
        self.mul(self.sub(unsafe { self.load_nibbles(p, self.nibbles(1.0)) }, zero), scale)
    }
    #[inline(always)]
    unsafe fn load_turned_shifted_nibbles(self, p: *const u8, (scale, zero): (Pair, Pair)) -> Pair {
        let nibbles = self.sub(unsafe { turned_nibbles(p) }, self.splat(8.0));
        self.mul(self.sub(nibbles, zero), scale)
    }
    #[inline(always)]
    unsafe fn load_e4m3(self, p: *const u8) -> Pair {
        unsafe {
            let half = halves_of_e4m3(p);
            let widen = |half| _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0));
            (widen(_mm256_castsi256_si128(half)), widen(_mm256_extracti128_si256::<1>(half)))
        }
    }
    #[inline(always)]
    fn e2m1(self, scale: f32) -> __m256 {
        unsafe { _mm256_set1_ps(scale) }
    }
    #[inline(always)]
    unsafe fn load_e2m1(self, p: *const u8, scale: __m256) -> Pair {
        unsafe {
            let shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
            let sizes = _mm256_loadu_ps(E2M1.as_ptr());
            let half = |p: *const u8| {
                // Lane l gets the nibble l in its lowest bits; the look-up takes three of them.
                let own = _mm256_srlv_epi32(_mm256_set1_epi32(p.cast::<i32>().read_unaligned()), shifts);
                let sign = _mm256_and_ps(_mm256_castsi256_ps(_mm256_slli_epi32::<28>(own)), _mm256_set1_ps(-0.0));
                _mm256_mul_ps(_mm256_or_ps(_mm256_permutevar8x32_ps(sizes, own), sign), scale)
            };
            (half(p), half(p.add(4)))
        }
    }
    #[inline(always)]
    unsafe fn load_pairs(self, p: *const u8) -> IntPair {
        unsafe { (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())) }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> IntPair {
        unsafe { (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())) }
    }
    #[inline(always)]
    fn half_bytes(self, b: IntPair) -> (IntPair, IntPair) {
        unsafe {
            let mask = _mm256_set1_epi8(15);
            let low = |v| _mm256_and_si256(v, mask);
            ((low(b.0), low(b.1)), (low(_mm256_srli_epi16::<4>(b.0)), low(_mm256_srli_epi16::<4>(b.1))))
        }
    }
    #[inline(always)]
    unsafe fn load_ints(self, p: *const u8) -> IntPair {
        unsafe { (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())) }
    }
    #[inline(always)]
    unsafe fn load_awq(self, p: *const u8) -> Pair {
        unsafe {
            let shifts = _mm256_cvtepu8_epi32(_mm_loadu_si64(AWQ_SHIFTS.as_ptr()));
            let [first, second] = p.cast::<[i32; 2]>().read_unaligned();
            let half = |word| {
                let own = _mm256_srlv_epi32(_mm256_set1_epi32(word), shifts);
                _mm256_cvtepi32_ps(_mm256_and_si256(own, _mm256_set1_epi32(15)))
            };
            (half(first), half(second))
        }
    }
    #[inline(always)]
    fn field(self, words: IntPair, shift: u32, mask: u32) -> Pair {
        unsafe {
            let (shift, mask) = (_mm_cvtsi32_si128(shift.cast_signed()), _mm256_set1_epi32(mask.cast_signed()));
            let half = |words| _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srl_epi32(words, shift), mask));
            (half(words.0), half(words.1))
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, b: IntPair) {
        unsafe {
            _mm256_storeu_si256(p.cast(), b.0);
            _mm256_storeu_si256(p.add(32).cast(), b.1);
        }
    }
    #[inline(always)]
    unsafe fn splat_word(self, p: *const u8) -> IntPair {
        unsafe {
            let word = _mm256_set1_epi32(p.cast::<i32>().read_unaligned());
            (word, word)
        }
    }
    #[inline(always)]
    unsafe fn load_factors(self, p: *const u8) -> (IntPair, IntPair) {
        unsafe {
            let (lo, hi) = (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast()));
            let middle = _mm256_set1_epi8(-128);
            let (lo, hi) = (_mm256_xor_si256(lo, middle), _mm256_xor_si256(hi, middle));
            ((_mm256_abs_epi8(lo), _mm256_abs_epi8(hi)), (lo, hi))
        }
    }
    #[inline(always)]
    fn start_sums(self, _: i32) -> IntPair {
        unsafe { (_mm256_setzero_si256(), _mm256_setzero_si256()) }
    }
    #[inline(always)]
    fn add_factors(self, (size, sign): (IntPair, IntPair), b: IntPair, c: IntPair) -> IntPair {
        // A product of two bytes is that of the one's size and the other with its sign.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let lo = _mm256_maddubs_epi16(size.0, _mm256_sign_epi8(b.0, sign.0));
            let hi = _mm256_maddubs_epi16(size.1, _mm256_sign_epi8(b.1, sign.1));
            (_mm256_add_epi32(c.0, _mm256_madd_epi16(lo, ones)), _mm256_add_epi32(c.1, _mm256_madd_epi16(hi, ones)))
        }
    }
    #[inline(always)]
    fn no_small_sums(self) -> IntPair {
        unsafe { (_mm256_setzero_si256(), _mm256_setzero_si256()) }
    }
    #[inline(always)]
    fn add_small_bytes(self, a: IntPair, b: IntPair, c: IntPair) -> IntPair {
        // Sixteen products at most, which fit 16 bits.
        unsafe {
            (
                _mm256_add_epi16(c.0, _mm256_maddubs_epi16(a.0, b.0)),
                _mm256_add_epi16(c.1, _mm256_maddubs_epi16(a.1, b.1)),
            )
        }
    }
    #[inline(always)]
    fn finish_small_sums(self, sums: IntPair, offset: i32) -> IntPair {
        unsafe {
            let (ones, offset) = (_mm256_set1_epi16(1), _mm256_set1_epi32(offset));
            let (lo, hi) = (_mm256_madd_epi16(sums.0, ones), _mm256_madd_epi16(sums.1, ones));
            (_mm256_add_epi32(lo, offset), _mm256_add_epi32(hi, offset))
        }
    }
    #[inline(always)]
    unsafe fn add_blocks<W: Integers>(self, rows: EightRows, units: Range<usize>, sums: &mut [f32; 8]) {
        unsafe { blocks::add::<W>(rows, units, self.asks_ahead, sums) }
    }
    #[inline(always)]
    unsafe fn transpose_eight(self, from: *const u8, from_stride: usize, to: *mut u8, to_stride: usize) {
        unsafe { blocks::transpose(from, from_stride, to, to_stride) }
    }
    #[inline(always)]
    fn ints_to_f32(self, v: IntPair) -> Pair {
        unsafe { (_mm256_cvtepi32_ps(v.0), _mm256_cvtepi32_ps(v.1)) }
    }
    #[inline(always)]
    unsafe fn store_pairs(self, p: *mut u8, v: IntPair) {
        unsafe {
            _mm256_storeu_si256(p.cast(), v.0);
            _mm256_storeu_si256(p.add(32).cast(), v.1);
        }
    }
    #[inline(always)]
    fn round_pairs(self, lo: Pair, hi: Pair) -> IntPair {
        unsafe { (pack_bf16(lo), pack_bf16(hi)) }
    }
    #[inline(always)]
    fn add_pairs(self, a: IntPair, b: IntPair, c: Pair) -> Pair {
        unsafe { (add_pairs(a.0, b.0, c.0), add_pairs(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    fn halves(self, v: IntPair) -> (Pair, Pair) {
        unsafe { ((first(v.0), first(v.1)), (second(v.0), second(v.1))) }
    }
    #[inline(always)]
    fn fma_flushed(self, a: Pair, b: Pair, c: Pair) -> Pair {
        unsafe { (fma_flushed(a.0, b.0, c.0), fma_flushed(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    fn add_flushed(self, a: Pair, b: Pair) -> Pair {
        unsafe { (flush(_mm256_add_ps(a.0, b.0)), flush(_mm256_add_ps(a.1, b.1))) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Pair) {
        unsafe {
            _mm256_storeu_ps(p, v.0);
            _mm256_storeu_ps(p.add(8), v.1);
        }
    }
    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        unsafe { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        unsafe { (_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn div(self, a: Pair, b: Pair) -> Pair {
        unsafe { (_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn fma(self, a: Pair, b: Pair, c: Pair) -> Pair {
        unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    unsafe fn add_interleaved<const R: usize, const C: usize>(
        self,
        x: *const f32,
        w: *const f32,
        count: usize,
        sums: &mut [[__m256; C]; R],
    ) -> usize {
        let rounds = count / loops::ROUND;
        if rounds == 0 || (R, C) != (4, 3) {
            return 0;
        }
        // Twelve sums, as was just made sure of.
        unsafe { loops::add_rounds(x, w, rounds, &mut *sums.as_mut_ptr().cast()) };
        rounds * loops::ROUND
    }
    #[inline(always)]
    unsafe fn add_packed<const C: usize>(
        self,
        which: PackedLoop,
        x: *const u8,
        w: StoredRows<'_>,
        group: usize,
        len: usize,
        sums: &mut [Pair; C],
    ) -> usize {
        /// Elements of a round of either loop.
        const ROUND: usize = 32;
        // Whole groups or, if a single one is longer, the whole rounds of it.
        let (groups, rounds) = if group <= len { (len / group, group / ROUND) } else { (1, len / ROUND) };
        if groups * rounds == 0 || !C.is_multiple_of(2) {
            return 0;
        }
        for (pair, sums) in sums.as_chunks_mut().0.iter_mut().enumerate() {
            let w = w.skip(2 * pair);
            unsafe {
                match which {
                    PackedLoop::Nibbles => loops::add_nibbles(x, w, groups, rounds, sums),
                    PackedLoop::Bytes => loops::add_bytes(x, w, groups, rounds, sums),
                }
            }
        }
        groups * rounds * ROUND
    }
    #[inline(always)]
    fn part<const P: usize>(self, v: Pair) -> __m256 {
        if P == 0 { v.0 } else { v.1 }
    }
    #[inline(always)]
    fn splat_part(self, x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn add_part(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn fma_part(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store_part<const P: usize>(self, p: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(p.add(8 * P), v) }
    }
    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        unsafe { (_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn select_lt(self, a: Pair, b: Pair, yes: Pair, no: Pair) -> Pair {
        unsafe {
            (
                _mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0)),
                _mm256_blendv_ps(no.1, yes.1, _mm256_cmp_ps::<_CMP_LT_OQ>(a.1, b.1)),
            )
        }
    }
    #[inline(always)]
    fn add_exponent(self, v: Pair, n: Pair) -> Pair {
        unsafe { (add_exponent(v.0, n.0), add_exponent(v.1, n.1)) }
    }
    #[inline(always)]
    fn sum(self, v: Pair) -> f32 {
        unsafe { sum_folded(_mm256_add_ps(v.0, v.1)) }
    }
    #[inline(always)]
    fn max_lane(self, v: Pair) -> f32 {
        unsafe { max_folded(_mm256_max_ps(v.0, v.1)) }
    }
    #[inline(always)]
    fn sum4(self, v: [Pair; 4]) -> [f32; 4] {
        let [a, b, c, d] = v;
        unsafe {
            sum4_folded([
                _mm256_add_ps(a.0, a.1),
                _mm256_add_ps(b.0, b.1),
                _mm256_add_ps(c.0, c.1),
                _mm256_add_ps(d.0, d.1),
            ])
        }
    }
}

/// Reads sixteen nibbles as numbers, in the order of [`Simd::turn_nibbles`]: of the bytes 0, 1, 4, 5, 2, 3, 6 and 7, the lower ones and the
/// upper ones.
///
/// # Safety
/// The CPU has AVX2, and `p` is valid for reading 8 bytes.
#[inline(always)]
unsafe fn turned_nibbles(p: *const u8) -> Pair {
    // SAFETY: the caller vouches for both.
    unsafe {
        let order = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, -1, -1, -1, -1, -1, -1, -1, -1);
        let bytes = _mm256_cvtepu8_epi32(_mm_shuffle_epi8(_mm_loadl_epi64(p.cast()), order));
        (
            _mm256_cvtepi32_ps(_mm256_and_si256(bytes, _mm256_set1_epi32(15))),
            _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(bytes)),
        )
    }
}

/// Reads sixteen e4m3 numbers as f16, divided by 256: the mantissas are three of ten bits, the exponents four of five.
///
/// # Safety
/// The CPU has AVX2, and `p` is valid for reading 16 bytes.
#[inline(always)]
pub(super) unsafe fn halves_of_e4m3(p: *const u8) -> __m256i {
    // SAFETY: the caller vouches for both.
    unsafe {
        // The sign goes into all the upper bits, of which two are too many.
        let wide = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())));
        let half = _mm256_and_si256(wide, _mm256_set1_epi16(0xbf80_u16.cast_signed()));
        let ones = _mm256_set1_epi16(0x3f80);
        let none = _mm256_cmpeq_epi16(_mm256_and_si256(half, ones), ones);
        _mm256_or_si256(half, _mm256_and_si256(none, _mm256_set1_epi16(0x7c00)))
    }
}

/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn add_exponent(v: __m256, n: __m256) -> __m256 {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(n));
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), n))
    }
}

/// The rest of the tree, from `l + (l + 4)` on.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn sum_folded(v: __m256) -> f32 {
    // SAFETY: the caller vouches for AVX.
    unsafe {
        let v = fold128(v);
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }
}

/// The largest of eight lanes.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn max_folded(v: __m256) -> f32 {
    // SAFETY: the caller vouches for AVX.
    unsafe {
        let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
    }
}

/// The rest of the tree, from `l + (l + 4)` on, for four vectors at once.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn sum4_folded(v: [__m256; 4]) -> [f32; 4] {
    // SAFETY: the caller vouches for AVX; the store goes to a local array of its size.
    unsafe {
        let (a, b, c, d) = (fold128(v[0]), fold128(v[1]), fold128(v[2]), fold128(v[3]));
        // [a0+a2, a1+a3, b0+b2, b1+b3] and the same of c and d.
        let ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
        let cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
        let even = _mm_shuffle_ps::<0b10_00_10_00>(ab, cd);
        let odd = _mm_shuffle_ps::<0b11_01_11_01>(ab, cd);
        let mut out = [0.0; 4];
        _mm_storeu_ps(out.as_mut_ptr(), _mm_add_ps(even, odd));
        out
    }
}

/// Lanes `l + (l + 4)`.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
unsafe fn fold128(v: __m256) -> __m128 {
    // SAFETY: the caller vouches for AVX.
    unsafe { _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v)) }
}
