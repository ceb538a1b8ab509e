//! The sixteen lanes in one zmm register.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{AWQ_SHIFTS, E2M1, LANES, Op, RAISE, RAISED_NORMAL, Simd, blocks, wide_blocks};
use crate::cache::asks_ahead;
use crate::integers::{EightRows, Integers};

/// Proof that the CPU has AVX-512 F, BW, DQ and VL and, with `BF16`, also BF16, VBMI and VNNI. Made only by [`run`] and
/// [`run_bf16`].
#[derive(Clone, Copy)]
pub(super) struct Avx512<const BF16: bool> {
    /// For each byte of a lane of 32 bits the byte of the 16 that goes there, as [`Simd::load_raised_u8`] has them.
    raise: __m512i,
    /// What [`pair`] takes for halves of 8, 4, 2 and 1 lanes.
    pairs: [__m512i; 4],
    asks_ahead: bool,
}

impl<const BF16: bool> Avx512<BF16> {
    /// # Safety
    /// The CPU has what the type says.
    #[inline(always)]
    unsafe fn new() -> Avx512<BF16> {
        let bytes: [i32; LANES] = std::array::from_fn(|l| (l as i32) << 8);
        // SAFETY: the caller vouches for the features; an array of 64 bytes.
        let raise = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        let pairs = [8, 4, 2, 1].map(|width| {
            // Of two vectors' lanes, the second's after the first's.
            let lanes: [usize; LANES] = std::array::from_fn(|l| (l ^ width) + if l & width == 0 { 0 } else { LANES });
            let lanes = lanes.map(|l| l as i32);
            // SAFETY: as above.
            unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
        });
        // A compiler that sees these numbers takes two instructions in place of the one shuffle that they are for.
        std::hint::black_box(Avx512 { raise, pairs, asks_ahead: asks_ahead() })
    }
}

/// Runs `op` compiled for AVX-512.
///
/// # Safety
/// The CPU has AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn run<O: Op>(op: O) -> O::Output {
    // SAFETY: the caller's promise.
    op.run(unsafe { Avx512::<false>::new() })
}

/// Runs `op` compiled for AVX-512 with BF16, VBMI and VNNI.
///
/// # Safety
/// As [`run`], and the CPU has AVX-512 BF16, VBMI and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn run_bf16<O: Op>(op: O) -> O::Output {
    // SAFETY: the caller's promise.
    op.run(unsafe { Avx512::<true>::new() })
}

/// Runs `op` with whichever of both suits it.
///
/// # Safety
/// As [`run_bf16`].
pub(super) unsafe fn run_widest<O: Op>(op: O) -> O::Output {
    // SAFETY: the caller's promise.
    unsafe { if O::NARROW { run_bf16(op) } else { run(op) } }
}

// SAFETY (of every block below): a value of `Avx512` exists only inside its `run`, whose caller proved the
// features; loads and stores pass on the caller's promise about the pointer.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument, stated above, covers them all")]
impl<const BF16: bool> Simd for Avx512<BF16> {
    type V = __m512;
    type P = __m512i;
    /// The sixteen values.
    type Nibbles = __m512;
    /// The sixteen values.
    type ShiftedNibbles = __m512;
    /// The sixteen values.
    type E2m1 = __m512;
    type B = __m512i;
    type I = __m512i;
    type Factors = __m512i;
    type SmallSums = __m512i;
    type Part = __m512;
    const WIDE_TILE: bool = true;
    const PARTS: usize = 1;

    #[inline(always)]
    fn asks_ahead(self) -> bool {
        self.asks_ahead
    }
    #[inline(always)]
    fn zero(self) -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> __m512 {
        unsafe {
            let h = _mm256_loadu_si256(p.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(h)))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    const RAISED: f32 = 32768.0;
    #[inline(always)]
    unsafe fn load_raised_u8(self, p: *const u8) -> __m512 {
        unsafe {
            // The bits of 2^15, whose second byte is worth the units.
            let bits = _mm512_castps_si512(_mm512_set1_ps(Self::RAISED));
            let all = _mm512_broadcast_i32x4(_mm_loadu_si128(p.cast()));
            _mm512_castsi512_ps(_mm512_mask_shuffle_epi8(bits, 0x2222_2222_2222_2222, all, self.raise))
        }
    }
    #[inline(always)]
    fn nibbles(self, scale: f32) -> __m512 {
        unsafe {
            let values =
                _mm512_setr_ps(-8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0);
            _mm512_mul_ps(values, _mm512_set1_ps(scale))
        }
    }
    #[inline(always)]
    unsafe fn load_nibbles(self, p: *const u8, values: __m512) -> __m512 {
        unsafe {
            let all = _mm512_set1_epi64(p.cast::<i64>().read_unaligned());
            // Lane l gets the nibble l in its lowest bits; the look-up ignores the others.
            let own = if BF16 {
                // Byte 0 of lane l: the eight bits from bit 4 l on.
                let from = _mm512_set_epi64(
                    0x3c_0000_0038,
                    0x34_0000_0030,
                    0x2c_0000_0028,
                    0x24_0000_0020,
                    0x1c_0000_0018,
                    0x14_0000_0010,
                    0x0c_0000_0008,
                    0x04_0000_0000,
                );
                _mm512_multishift_epi64_epi8(from, all)
            } else {
                let bytes = _mm512_srlv_epi64(all, _mm512_setr_epi64(0, 8, 16, 24, 32, 40, 48, 56));
                let twice = _mm512_shuffle_epi32::<0b10_10_00_00>(bytes);
                _mm512_srlv_epi32(twice, _mm512_set1_epi64(4 << 32))
            };
            _mm512_permutexvar_ps(own, values)
        }
    }
    #[inline(always)]
    unsafe fn load_turned_nibbles(self, p: *const u8, values: __m512) -> __m512 {
        unsafe {
            let all = _mm512_set1_epi64(p.cast::<i64>().read_unaligned());
            // Lane 2 l gets the nibble l in its lowest bits, lane 2 l + 1 the nibble l + 8.
            let own = _mm512_srlv_epi64(all, _mm512_setr_epi64(0, 4, 8, 12, 16, 20, 24, 28));
            _mm512_permutexvar_ps(own, values)
        }
    }
    #[inline(always)]
    fn turn_nibbles(self, v: __m512) -> __m512 {
        unsafe { _mm512_permutexvar_ps(_mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15), v) }
    }
    #[inline(always)]
    fn turn_nibbles_back(self, v: __m512) -> __m512 {
        unsafe { _mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15), v) }
    }
    #[inline(always)]
    fn shifted_nibbles(self, scale: f32, zero: f32) -> __m512 {
        // Differences of small integers are exact, so that the products are rounded once.
        unsafe { _mm512_mul_ps(_mm512_sub_ps(self.nibbles(1.0), _mm512_set1_ps(zero)), _mm512_set1_ps(scale)) }
    }
    #[inline(always)]
    unsafe fn load_shifted_nibbles(self, p: *const u8, values: __m512) -> __m512 {
        unsafe { self.load_nibbles(p, values) }
    }
    #[inline(always)]
    unsafe fn load_turned_shifted_nibbles(self, p: *const u8, values: __m512) -> __m512 {
        unsafe { self.load_turned_nibbles(p, values) }
    }
    #[inline(always)]
    unsafe fn load_e4m3(self, p: *const u8) -> __m512 {
        unsafe { _mm512_mul_ps(_mm512_cvtph_ps(super::avx2::halves_of_e4m3(p)), _mm512_set1_ps(256.0)) }
    }
    #[inline(always)]
    fn e2m1(self, scale: f32) -> __m512 {
        unsafe {
            let sizes = _mm256_loadu_ps(E2M1.as_ptr());
            let negative = _mm256_xor_ps(sizes, _mm256_set1_ps(-0.0));
            let values = _mm512_insertf32x8::<1>(_mm512_castps256_ps512(sizes), negative);
            _mm512_mul_ps(values, _mm512_set1_ps(scale))
        }
    }
    #[inline(always)]
    unsafe fn load_e2m1(self, p: *const u8, values: __m512) -> __m512 {
        unsafe { self.load_nibbles(p, values) }
    }
    #[inline(always)]
    unsafe fn load_pairs(self, p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    fn half_bytes(self, b: __m512i) -> (__m512i, __m512i) {
        unsafe {
            let mask = _mm512_set1_epi8(15);
            (_mm512_and_si512(b, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(b), mask))
        }
    }
    #[inline(always)]
    unsafe fn load_ints(self, p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_awq(self, p: *const u8) -> __m512 {
        unsafe {
            let own = if BF16 {
                // Byte 0 of lane l: the eight bits of both words from where its nibble begins.
                let from: [u32; LANES] = std::array::from_fn(|l| l as u32 / 8 * 32 + u32::from(AWQ_SHIFTS[l % 8]));
                let all = _mm512_set1_epi64(p.cast::<i64>().read_unaligned());
                _mm512_multishift_epi64_epi8(_mm512_loadu_si512(from.as_ptr().cast()), all)
            } else {
                let shifts = _mm256_cvtepu8_epi32(_mm_loadu_si64(AWQ_SHIFTS.as_ptr()));
                let [first, second] = p.cast::<[i32; 2]>().read_unaligned();
                let half = |word| _mm256_srlv_epi32(_mm256_set1_epi32(word), shifts);
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(half(first)), half(second))
            };
            _mm512_cvtepi32_ps(_mm512_and_si512(own, _mm512_set1_epi32(15)))
        }
    }
    #[inline(always)]
    fn field(self, words: __m512i, shift: u32, mask: u32) -> __m512 {
        unsafe {
            let moved = _mm512_srl_epi32(words, _mm_cvtsi32_si128(shift.cast_signed()));
            _mm512_cvtepi32_ps(_mm512_and_si512(moved, _mm512_set1_epi32(mask.cast_signed())))
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, b: __m512i) {
        unsafe { _mm512_storeu_si512(p.cast(), b) }
    }
    #[inline(always)]
    unsafe fn splat_word(self, p: *const u8) -> __m512i {
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn load_factors(self, p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    fn start_sums(self, offset: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(offset) }
    }
    #[inline(always)]
    fn add_factors(self, a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        unsafe {
            if BF16 {
                _mm512_dpbusd_epi32(c, a, b)
            } else {
                // Sums of two products of whole bytes would not fit 16 bits; those of seven bits fit, and those of the eighth.
                let eighth = _mm512_set1_epi8(-128);
                let seven = self.add_small_bytes(_mm512_andnot_si512(eighth, a), b, c);
                self.add_small_bytes(_mm512_and_si512(a, eighth), b, seven)
            }
        }
    }
    #[inline(always)]
    fn no_small_sums(self) -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    fn add_small_bytes(self, a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        unsafe {
            if BF16 {
                _mm512_dpbusd_epi32(c, a, b)
            } else {
                let pairs = _mm512_maddubs_epi16(a, b);
                _mm512_add_epi32(c, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
            }
        }
    }
    #[inline(always)]
    fn finish_small_sums(self, sums: __m512i, offset: i32) -> __m512i {
        unsafe { _mm512_add_epi32(sums, _mm512_set1_epi32(offset)) }
    }
    #[inline(always)]
    unsafe fn add_blocks<W: Integers>(self, rows: EightRows, units: Range<usize>, sums: &mut [f32; 8]) {
        unsafe {
            if BF16 {
                wide_blocks::add::<W>(rows, units, self.asks_ahead, sums);
            } else {
                blocks::add::<W>(rows, units, self.asks_ahead, sums);
            }
        }
    }
    #[inline(always)]
    fn ints_to_f32(self, v: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    unsafe fn store_pairs(self, p: *mut u8, v: __m512i) {
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    fn round_pairs(self, lo: __m512, hi: __m512) -> __m512i {
        unsafe {
            if BF16 {
                // Same size, same bits.
                std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(hi, lo))
            } else {
                let halves = |v| (_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
                let (lo, hi) = (super::avx2::pack_bf16(halves(lo)), super::avx2::pack_bf16(halves(hi)));
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(lo), hi)
            }
        }
    }
    #[inline(always)]
    fn add_pairs(self, a: __m512i, b: __m512i, c: __m512) -> __m512 {
        unsafe {
            if BF16 {
                let bf16 = |v| std::mem::transmute::<__m512i, __m512bh>(v);
                _mm512_dpbf16_ps(c, bf16(a), bf16(b))
            } else {
                let ((first_a, second_a), (first_b, second_b)) = (self.halves(a), self.halves(b));
                self.fma_flushed(first_a, first_b, self.fma_flushed(second_a, second_b, flush(c)))
            }
        }
    }
    #[inline(always)]
    fn halves(self, v: __m512i) -> (__m512, __m512) {
        unsafe {
            let second = _mm512_and_si512(v, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            (flush(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(v))), flush(_mm512_castsi512_ps(second)))
        }
    }
    #[inline(always)]
    fn fma_flushed(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe {
            let raise = _mm512_set1_ps(RAISE);
            // What is small, its size tells where nothing is subnormal.
            let raised = _mm512_fmadd_ps(_mm512_mul_ps(a, raise), b, _mm512_mul_ps(c, raise));
            zero_below(_mm512_fmadd_ps(a, b, c), raised, RAISED_NORMAL)
        }
    }
    #[inline(always)]
    fn add_flushed(self, a: __m512, b: __m512) -> __m512 {
        unsafe { flush(_mm512_add_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn transpose_eight(self, from: *const u8, from_stride: usize, to: *mut u8, to_stride: usize) {
        unsafe { blocks::transpose(from, from_stride, to, to_stride) }
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const u8, from_stride: usize, to: *mut u8, to_stride: usize) {
        unsafe {
            let mut rows = [_mm512_setzero_si512(); LANES];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = _mm512_loadu_si512(from.add(i * from_stride).cast());
            }
            for (j, column) in transposed(rows).into_iter().enumerate() {
                _mm512_storeu_si512(to.add(j * to_stride).cast(), column);
            }
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn part<const P: usize>(self, v: __m512) -> __m512 {
        v
    }
    #[inline(always)]
    fn splat_part(self, x: f32) -> __m512 {
        self.splat(x)
    }
    #[inline(always)]
    fn add_part(self, a: __m512, b: __m512) -> __m512 {
        self.add(a, b)
    }
    #[inline(always)]
    fn fma_part(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        self.fma(a, b, c)
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32) -> __m512 {
        unsafe { self.load(p) }
    }
    #[inline(always)]
    unsafe fn store_part<const P: usize>(self, p: *mut f32, v: __m512) {
        unsafe { self.store(p, v) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes) }
    }
    #[inline(always)]
    fn add_exponent(self, v: __m512, n: __m512) -> __m512 {
        unsafe {
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(n));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), n))
        }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        unsafe { super::avx2::sum_folded(fold256(v)) }
    }
    #[inline(always)]
    fn max_lane(self, v: __m512) -> f32 {
        unsafe {
            let v = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            super::avx2::max_folded(v)
        }
    }
    #[inline(always)]
    fn sum4(self, [a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        unsafe { super::avx2::sum4_folded([fold256(a), fold256(b), fold256(c), fold256(d)]) }
    }
    #[inline(always)]
    fn sum8(self, v: [__m512; 8]) -> [f32; 8] {
        let [by8, by4, by2, _] = self.pairs;
        let mut sums = [0.0; 8];
        unsafe {
            let mut s = [_mm512_setzero_ps(); 4];
            for i in 0..4 {
                s[i] = pair::<0xff00>(v[i], v[i + 4], by8);
            }
            for i in 0..2 {
                s[i] = pair::<0xf0f0>(s[i], s[i + 2], by4);
            }
            let sum = pair::<0xcccc>(s[0], s[1], by2);
            // Every sum in two lanes.
            let sum = _mm512_add_ps(sum, _mm512_permute_ps::<0b10_11_00_01>(sum));
            _mm256_storeu_ps(sums.as_mut_ptr(), _mm512_castps512_ps256(_mm512_maskz_compress_ps(0x5555, sum)));
        }
        sums
    }
    #[inline(always)]
    fn sum16(self, v: [__m512; LANES]) -> [f32; LANES] {
        let [by8, by4, by2, by1] = self.pairs;
        let mut sums = [0.0; LANES];
        unsafe {
            let mut s = [_mm512_setzero_ps(); 8];
            for i in 0..8 {
                s[i] = pair::<0xff00>(v[i], v[i + 8], by8);
            }
            for i in 0..4 {
                s[i] = pair::<0xf0f0>(s[i], s[i + 4], by4);
            }
            for i in 0..2 {
                s[i] = pair::<0xcccc>(s[i], s[i + 2], by2);
            }
            _mm512_storeu_ps(sums.as_mut_ptr(), pair::<0xaaaa>(s[0], s[1], by1));
        }
        sums
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(first(n), p) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: __m512, n: usize) {
        unsafe { _mm512_mask_storeu_ps(p, first(n), v) }
    }
}

#[inline(always)]
fn first(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

/// A subnormal number becomes a zero of its sign.
///
/// # Safety
/// The CPU has AVX-512 DQ.
#[inline(always)]
unsafe fn flush(v: __m512) -> __m512 {
    // SAFETY: the caller vouches for the features.
    unsafe { zero_below(v, v, f32::MIN_POSITIVE) }
}

/// Lanes of `v`, those as zeros of their sign of which `size` is smaller than `least`.
///
/// # Safety
/// The CPU has AVX-512 DQ.
#[inline(always)]
unsafe fn zero_below(v: __m512, size: __m512, least: f32) -> __m512 {
    // SAFETY: the caller vouches for the features.
    unsafe {
        let small = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(size), _mm512_set1_ps(least));
        _mm512_mask_and_ps(v, small, v, _mm512_set1_ps(-0.0))
    }
}

/// One level of the tree of [`Simd::sum`] for two vectors at once: the lanes of `UPPER`, which are those with the bit of the
/// level's width, are the second's. `by` exchanges the halves.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn pair<const UPPER: u16>(first: __m512, second: __m512, by: __m512i) -> __m512 {
    // SAFETY: the caller vouches for the features.
    unsafe {
        let own = _mm512_mask_blend_ps(UPPER, first, second);
        _mm512_add_ps(own, _mm512_permutex2var_ps(first, by, second))
    }
}

/// The columns of sixteen rows of sixteen words.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn transposed(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    // SAFETY: the caller vouches for the features.
    unsafe {
        let mut words = rows;
        // Pairs of rows by words, then fours of rows by pairs of words, within each quarter of a register.
        for i in (0..LANES).step_by(2) {
            words[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
            words[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
        }
        let mut quarters = words;
        for i in (0..LANES).step_by(4) {
            // Of rows `i` to `i + 3`: word `c` of each quarter.
            quarters[i] = _mm512_unpacklo_epi64(words[i], words[i + 2]);
            quarters[i + 1] = _mm512_unpackhi_epi64(words[i], words[i + 2]);
            quarters[i + 2] = _mm512_unpacklo_epi64(words[i + 1], words[i + 3]);
            quarters[i + 3] = _mm512_unpackhi_epi64(words[i + 1], words[i + 3]);
        }
        // Then the quarters, of fours of rows.
        let mut columns = rows;
        for c in 0..4 {
            let [a, b, c0, d] = [quarters[c], quarters[4 + c], quarters[8 + c], quarters[12 + c]];
            let (even_ab, even_cd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c0, d));
            let (odd_ab, odd_cd) = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c0, d));
            columns[c] = _mm512_shuffle_i32x4::<0x88>(even_ab, even_cd);
            columns[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd_ab, odd_cd);
            columns[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even_ab, even_cd);
            columns[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd_ab, odd_cd);
        }
        columns
    }
}

/// Lanes `l + (l + 8)`.
///
/// # Safety
/// The CPU has AVX-512 DQ.
#[inline(always)]
unsafe fn fold256(v: __m512) -> __m256 {
    // SAFETY: the caller vouches for the features.
    unsafe { _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v)) }
}
