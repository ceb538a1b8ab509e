//! The sixteen lanes as an array: the meaning that every other instruction set must reproduce.

use std::ops::Range;

use super::{AWQ_SHIFTS, E2M1, LANES, RAISE, RAISED_NORMAL, Simd};
use crate::integers::{BLOCK, EightRows, Integers, UNIT_BYTES};

/// The portable path. It needs nothing of the CPU, so its token can be made anywhere.
#[derive(Clone, Copy)]
pub(super) struct Portable;

/// Lanes of a part.
const HALF: usize = LANES / 2;

type Half = [f32; HALF];

#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Lanes([f32; LANES]);

#[inline(always)]
fn zip(a: Lanes, b: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
    Lanes(std::array::from_fn(|l| f(a.0[l], b.0[l])))
}

/// Folds the upper half onto the lower half until one lane is left.
#[inline(always)]
fn tree(v: Lanes, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut v = v.0;
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            v[l] = f(v[l], v[l + half]);
        }
    }
    v[0]
}

/// Sixteen pairs of bf16, as bits.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Pairs([[u16; 2]; LANES]);

/// 64 bytes.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Bytes([u8; 4 * LANES]);

/// Sixteen lanes of i32.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Ints([i32; LANES]);

/// A subnormal number becomes a zero of its sign.
#[inline(always)]
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// [`Simd::fma_flushed`] of a lane.
#[inline(always)]
fn fma_flushed(a: f32, b: f32, c: f32) -> f32 {
    let sum = a.mul_add(b, c);
    // One just below the smallest normal number may have been rounded to it, which with another exponent it would not have been.
    if sum.abs() <= f32::MIN_POSITIVE && (a * RAISE).mul_add(b, c * RAISE).abs() < RAISED_NORMAL {
        return 0.0f32.copysign(sum);
    }
    sum
}

#[inline(always)]
fn round_bf16(x: f32) -> u16 {
    half::bf16::from_f32(flush(x)).to_bits()
}

#[inline(always)]
fn widen_bf16(bits: u16) -> f32 {
    flush(f32::from_bits(u32::from(bits) << 16))
}

#[inline(always)]
fn widen_e4m3(bits: u8) -> f32 {
    let (sign, size) = (u32::from(bits & 0x80) << 24, u32::from(bits & 0x7f));
    if size == 0x7f {
        return f32::from_bits(sign | 0x7ff0_0000);
    }
    // Exponent and mantissa in their places, and the difference of both exponents' offsets: 2^(127 - 7).
    f32::from_bits(sign | size << 20) * f32::from_bits((127 + 120) << 23)
}

impl Simd for Portable {
    type V = Lanes;
    type P = Pairs;
    type Nibbles = f32;
    /// The scale and the zero point.
    type ShiftedNibbles = (f32, f32);
    type E2m1 = f32;
    type B = Bytes;
    type I = Ints;
    type Factors = Bytes;
    type SmallSums = Ints;
    type Part = Half;
    const WIDE_TILE: bool = false;
    const PARTS: usize = 2;
    const SMALL_TILE: bool = cfg!(target_arch = "x86_64");

    #[inline(always)]
    fn zero(self) -> Lanes {
        Lanes([0.0; LANES])
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Lanes {
        Lanes([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Lanes {
        // SAFETY: the caller vouches for 64 readable bytes.
        Lanes(unsafe { p.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> Lanes {
        // SAFETY: the caller vouches for 32 readable bytes.
        let bits = unsafe { p.cast::<[[u8; 2]; LANES]>().read_unaligned() };
        // A shift, not a conversion: even a signalling NaN keeps its bits, as on the other paths.
        Lanes(bits.map(|b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)))
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> Lanes {
        // SAFETY: the caller vouches for 32 readable bytes.
        let bits = unsafe { p.cast::<[[u8; 2]; LANES]>().read_unaligned() };
        Lanes(bits.map(|b| half::f16::from_le_bytes(b).to_f32()))
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Lanes {
        // SAFETY: the caller vouches for 16 readable bytes.
        Lanes(unsafe { p.cast::<[u8; LANES]>().read_unaligned() }.map(f32::from))
    }
    #[inline(always)]
    fn nibbles(self, scale: f32) -> f32 {
        scale
    }
    #[inline(always)]
    unsafe fn load_nibbles(self, p: *const u8, scale: f32) -> Lanes {
        // SAFETY: the caller vouches for 8 readable bytes.
        let bytes = unsafe { p.cast::<[u8; LANES / 2]>().read_unaligned() };
        Lanes(std::array::from_fn(|l| (f32::from(bytes[l / 2] >> (4 * (l % 2)) & 15) - 8.0) * scale))
    }
    #[inline(always)]
    fn shifted_nibbles(self, scale: f32, zero: f32) -> (f32, f32) {
        (scale, zero)
    }
    #[inline(always)]
    unsafe fn load_shifted_nibbles(self, p: *const u8, (scale, zero): (f32, f32)) -> Lanes {
        // SAFETY: the caller's promise.
        let Lanes(values) = unsafe { self.load_nibbles(p, 1.0) };
        Lanes(values.map(|value| (value - zero) * scale))
    }
    #[inline(always)]
    unsafe fn load_e4m3(self, p: *const u8) -> Lanes {
        // SAFETY: the caller vouches for 16 readable bytes.
        Lanes(unsafe { p.cast::<[u8; LANES]>().read_unaligned() }.map(widen_e4m3))
    }
    #[inline(always)]
    fn e2m1(self, scale: f32) -> f32 {
        scale
    }
    #[inline(always)]
    unsafe fn load_e2m1(self, p: *const u8, scale: f32) -> Lanes {
        // SAFETY: the caller vouches for 8 readable bytes.
        let bytes = unsafe { p.cast::<[u8; LANES / 2]>().read_unaligned() };
        Lanes(std::array::from_fn(|l| {
            let bits = bytes[l / 2] >> (4 * (l % 2));
            let size = E2M1[usize::from(bits & 7)];
            (if bits & 8 == 0 { size } else { -size }) * scale
        }))
    }
    #[inline(always)]
    unsafe fn load_pairs(self, p: *const u8) -> Pairs {
        // SAFETY: the caller vouches for 64 readable bytes.
        let bytes = unsafe { p.cast::<[[[u8; 2]; 2]; LANES]>().read_unaligned() };
        Pairs(bytes.map(|pair| pair.map(u16::from_le_bytes)))
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> Bytes {
        // SAFETY: the caller vouches for 64 readable bytes.
        Bytes(unsafe { p.cast::<[u8; 4 * LANES]>().read_unaligned() })
    }
    #[inline(always)]
    fn half_bytes(self, b: Bytes) -> (Bytes, Bytes) {
        (Bytes(b.0.map(|b| b & 15)), Bytes(b.0.map(|b| b >> 4)))
    }
    #[inline(always)]
    unsafe fn load_ints(self, p: *const u8) -> Ints {
        // SAFETY: the caller vouches for 64 readable bytes.
        Ints(unsafe { p.cast::<[i32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_awq(self, p: *const u8) -> Lanes {
        // SAFETY: the caller vouches for 8 readable bytes.
        let both = unsafe { p.cast::<[[u8; 4]; 2]>().read_unaligned() };
        Lanes(std::array::from_fn(|l| (u32::from_le_bytes(both[l / 8]) >> AWQ_SHIFTS[l % 8] & 15) as f32))
    }
    #[inline(always)]
    fn field(self, words: Ints, shift: u32, mask: u32) -> Lanes {
        Lanes(words.0.map(|word| (word.cast_unsigned() >> shift & mask) as f32))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, b: Bytes) {
        // SAFETY: the caller vouches for 64 writable bytes.
        unsafe { p.cast::<[u8; 4 * LANES]>().write_unaligned(b.0) }
    }
    #[inline(always)]
    unsafe fn splat_word(self, p: *const u8) -> Bytes {
        // SAFETY: the caller vouches for 4 readable bytes.
        let word = unsafe { p.cast::<[u8; 4]>().read_unaligned() };
        Bytes(std::array::from_fn(|i| word[i % 4]))
    }
    #[inline(always)]
    unsafe fn load_factors(self, p: *const u8) -> Bytes {
        // SAFETY: the caller's promise.
        unsafe { self.load_bytes(p) }
    }
    #[inline(always)]
    fn start_sums(self, offset: i32) -> Ints {
        Ints([offset; LANES])
    }
    #[inline(always)]
    fn add_factors(self, a: Bytes, b: Bytes, c: Ints) -> Ints {
        self.add_small_bytes(a, b, c)
    }
    #[inline(always)]
    fn no_small_sums(self) -> Ints {
        Ints([0; LANES])
    }
    #[inline(always)]
    fn add_small_bytes(self, a: Bytes, b: Bytes, c: Ints) -> Ints {
        let product = |i: usize| i32::from(a.0[i]) * i32::from(b.0[i].cast_signed());
        Ints(std::array::from_fn(|l| c.0[l] + (4 * l..4 * l + 4).map(product).sum::<i32>()))
    }
    #[inline(always)]
    fn finish_small_sums(self, sums: Ints, offset: i32) -> Ints {
        Ints(sums.0.map(|sum| sum + offset))
    }
    #[inline(always)]
    unsafe fn add_blocks<W: Integers>(self, rows: EightRows, units: Range<usize>, sums: &mut [f32; 8]) {
        let EightRows { x, elements, stride, scales, shift } = rows;
        let bytes = UNIT_BYTES / W::BLOCKS;
        for b in units.start * W::BLOCKS..units.end * W::BLOCKS {
            // SAFETY: the caller's promise.
            let (integers, offset, x_scale) = unsafe {
                (x.integers.add(b * BLOCK).cast::<[i8; BLOCK]>().read(), *x.offsets.add(b), *x.scales.add(b))
            };
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let (row, scale) = unsafe { (elements.add(i * stride + b * bytes), *scales.add((b >> shift) * 8 + i)) };
                let mut products = offset;
                for k in 0..bytes {
                    // SAFETY: as above.
                    let byte = i32::from(unsafe { *row.add(k) });
                    products += if W::NIBBLES {
                        (byte & 15) * i32::from(integers[k]) + (byte >> 4) * i32::from(integers[BLOCK / 2 + k])
                    } else {
                        byte * i32::from(integers[k])
                    };
                }
                *sum = (products as f32).mul_add(x_scale * scale, *sum);
            }
        }
    }
    #[inline(always)]
    unsafe fn transpose_eight(self, from: *const u8, from_stride: usize, to: *mut u8, to_stride: usize) {
        for i in 0..8 {
            for j in 0..8 {
                // SAFETY: the caller vouches for both words.
                unsafe {
                    let word = from.add(i * from_stride + 4 * j).cast::<[u8; 4]>().read();
                    to.add(j * to_stride + 4 * i).cast::<[u8; 4]>().write(word);
                }
            }
        }
    }
    #[inline(always)]
    fn ints_to_f32(self, v: Ints) -> Lanes {
        Lanes(v.0.map(|i| i as f32))
    }
    #[inline(always)]
    unsafe fn store_pairs(self, p: *mut u8, v: Pairs) {
        // SAFETY: the caller vouches for 64 writable bytes.
        unsafe { p.cast::<[[[u8; 2]; 2]; LANES]>().write_unaligned(v.0.map(|pair| pair.map(u16::to_le_bytes))) }
    }
    #[inline(always)]
    fn round_pairs(self, lo: Lanes, hi: Lanes) -> Pairs {
        let at = |i: usize| round_bf16(if i < LANES { lo.0[i] } else { hi.0[i - LANES] });
        Pairs(std::array::from_fn(|l| [at(2 * l), at(2 * l + 1)]))
    }
    #[inline(always)]
    fn add_pairs(self, a: Pairs, b: Pairs, c: Lanes) -> Lanes {
        Lanes(std::array::from_fn(|l| {
            let product = |i: usize, sum: f32| fma_flushed(widen_bf16(a.0[l][i]), widen_bf16(b.0[l][i]), sum);
            product(0, product(1, flush(c.0[l])))
        }))
    }
    #[inline(always)]
    fn halves(self, v: Pairs) -> (Lanes, Lanes) {
        (Lanes(v.0.map(|pair| widen_bf16(pair[0]))), Lanes(v.0.map(|pair| widen_bf16(pair[1]))))
    }
    #[inline(always)]
    fn fma_flushed(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        Lanes(std::array::from_fn(|l| fma_flushed(a.0[l], b.0[l], c.0[l])))
    }
    #[inline(always)]
    fn add_flushed(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |x, y| flush(x + y))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Lanes) {
        // SAFETY: the caller vouches for 64 writable bytes.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(v.0) }
    }
    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |x, y| x + y)
    }
    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |x, y| x - y)
    }
    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |x, y| x * y)
    }
    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |x, y| x / y)
    }
    #[inline(always)]
    fn fma(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        Lanes(std::array::from_fn(|l| a.0[l].mul_add(b.0[l], c.0[l])))
    }
    #[inline(always)]
    fn part<const P: usize>(self, v: Lanes) -> Half {
        std::array::from_fn(|l| v.0[P * HALF + l])
    }
    #[inline(always)]
    fn splat_part(self, x: f32) -> Half {
        [x; HALF]
    }
    #[inline(always)]
    fn add_part(self, a: Half, b: Half) -> Half {
        std::array::from_fn(|l| a[l] + b[l])
    }
    #[inline(always)]
    fn fma_part(self, a: Half, b: Half, c: Half) -> Half {
        std::array::from_fn(|l| a[l].mul_add(b[l], c[l]))
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32) -> Half {
        // SAFETY: the caller vouches for the elements.
        unsafe { p.cast::<Half>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_part<const P: usize>(self, p: *mut f32, v: Half) {
        // SAFETY: the caller vouches for 64 writable bytes.
        unsafe { p.add(P * HALF).cast::<Half>().write_unaligned(v) }
    }
    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    fn select_lt(self, a: Lanes, b: Lanes, yes: Lanes, no: Lanes) -> Lanes {
        Lanes(std::array::from_fn(|l| if a.0[l] < b.0[l] { yes.0[l] } else { no.0[l] }))
    }
    #[inline(always)]
    fn add_exponent(self, v: Lanes, n: Lanes) -> Lanes {
        zip(v, n, |v, n| f32::from_bits(v.to_bits().wrapping_add(n.to_bits() << 23)))
    }
    #[inline(always)]
    fn sum(self, v: Lanes) -> f32 {
        tree(v, |x, y| x + y)
    }
    #[inline(always)]
    fn max_lane(self, v: Lanes) -> f32 {
        tree(v, |x, y| if x > y { x } else { y })
    }
}
