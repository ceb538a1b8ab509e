//! The inner loops that are in assembly: what a compiler makes of them spills sums, or reads operands again for every use, depending on
//! what is around them, and was slower by up to two fifths. In go rows of x and of weights where they lie, and sums, which they add to.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::Pair;
use crate::matrix::StoredRows;

/// Steps of a round of [`add_rounds`].
pub(super) const ROUND: usize = 4;

/// Four rows of x against three of weights, as [`super::Simd::add_interleaved`] has it: of sixteen registers twelve are sums, three hold weights and one x.
///
/// # Safety
/// The CPU has AVX2 and FMA; there are `rounds` rounds to read, at least one.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) unsafe fn add_rounds(x: *const f32, w: *const f32, rounds: usize, sums: &mut [[__m256; 3]; 4]) {
    /// A row of x, `$at` bytes from where the round begins.
    #[rustfmt::skip]
    macro_rules! row {
        ($at:literal, $a:literal, $b:literal, $c:literal) => {
            concat!(
                "vmovups {xv}, [{x} + ", $at, "]\n",
                "vfmadd231ps {", $a, "}, {xv}, {w0}\n",
                "vfmadd231ps {", $b, "}, {xv}, {w1}\n",
                "vfmadd231ps {", $c, "}, {xv}, {w2}\n",
            )
        };
    }
    #[rustfmt::skip]
    macro_rules! step {
        ($w0:literal, $w1:literal, $w2:literal, $x0:literal, $x1:literal, $x2:literal, $x3:literal) => {
            concat!(
                "vmovups {w0}, [{w} + ", $w0, "]\n",
                "vmovups {w1}, [{w} + ", $w1, "]\n",
                "vmovups {w2}, [{w} + ", $w2, "]\n",
                row!($x0, "a", "b", "c"),
                row!($x1, "d", "e", "f"),
                row!($x2, "g", "h", "i"),
                row!($x3, "j", "k", "l"),
            )
        };
    }
    let [[a, b, c], [d, e, f], [g, h, i], [j, k, l]] = sums;
    // SAFETY: it reads steps as far as the caller vouches for, and writes nothing.
    unsafe {
        std::arch::asm!(
            "2:",
            step!("0", "32", "64", "0", "32", "64", "96"),
            step!("96", "128", "160", "128", "160", "192", "224"),
            step!("192", "224", "256", "256", "288", "320", "352"),
            step!("288", "320", "352", "384", "416", "448", "480"),
            "add {x}, 512",
            "add {w}, 384",
            "dec {rounds}",
            "jnz 2b",
            x = inout(reg) x => _,
            w = inout(reg) w => _,
            rounds = inout(reg) rounds => _,
            w0 = out(ymm_reg) _,
            w1 = out(ymm_reg) _,
            w2 = out(ymm_reg) _,
            xv = out(ymm_reg) _,
            a = inout(ymm_reg) *a,
            b = inout(ymm_reg) *b,
            c = inout(ymm_reg) *c,
            d = inout(ymm_reg) *d,
            e = inout(ymm_reg) *e,
            f = inout(ymm_reg) *f,
            g = inout(ymm_reg) *g,
            h = inout(ymm_reg) *h,
            i = inout(ymm_reg) *i,
            j = inout(ymm_reg) *j,
            k = inout(ymm_reg) *k,
            l = inout(ymm_reg) *l,
            options(pure, readonly, nostack),
        );
    }
}

/// One row of x against two of packed weights, group after group, round after round: broadcasts the scales of a group to `s0` and `s1`, does what
/// `group` says, and then `round` as often as a group has rounds, after each of which `x` and `w` move on by so many bytes. `t0` and `t1` are free;
/// `a`, `b` and `c`, `d` hold both halves of both sums. What follows are further operands.
macro_rules! two_rows {
    (
        ($x:ident, $w:ident, $groups:ident, $rounds:ident, $sums:ident),
        group: [$($group:expr),*],
        round: [$($round:expr),*],
        move_on: [$by_x:literal, $by_w:literal],
        $($operands:tt)*
    ) => {{
        let [first, second] = $sums;
        std::arch::asm!(
            "2:",
            "vbroadcastss {s0}, [{scales}]",
            "vbroadcastss {s1}, [{scales} + 4 * {scale_stride}]",
            $($group,)*
            "add {scales}, 4",
            "mov {left}, {rounds}",
            "3:",
            $($round,)*
            concat!("add {x}, ", $by_x),
            concat!("add {w}, ", $by_w),
            "dec {left}",
            "jnz 3b",
            "dec {groups}",
            "jnz 2b",
            x = inout(reg) $x => _,
            w = inout(reg) $w.elements => _,
            w_stride = in(reg) $w.stride,
            scales = inout(reg) $w.scales => _,
            scale_stride = in(reg) $w.scale_stride,
            groups = inout(reg) $groups => _,
            rounds = in(reg) $rounds,
            left = out(reg) _,
            s0 = out(ymm_reg) _,
            s1 = out(ymm_reg) _,
            t0 = out(ymm_reg) _,
            t1 = out(ymm_reg) _,
            a = inout(ymm_reg) first.0,
            b = inout(ymm_reg) first.1,
            c = inout(ymm_reg) second.0,
            d = inout(ymm_reg) second.1,
            $($operands)*
        );
    }};
}

/// The bits of 2^15, of whose mantissa the second byte is worth the units: with a byte there, the number is 2^15 more than the byte.
const RAISE: i32 = 0x4700_0000;

/// For each byte of eight lanes of 32 bits the byte that goes there: the second one of `bytes`, and otherwise none.
const fn raised(bytes: [u8; 8]) -> [u8; 32] {
    let mut from = [0x80; 32];
    let mut lane = 0;
    while lane < 8 {
        from[4 * lane + 1] = bytes[lane];
        lane += 1;
    }
    from
}

/// Numbers in every lane, in memory.
#[repr(C, align(32))]
struct Splats<const N: usize>([[f32; 8]; N]);

/// One row of x against two of nibbles in storage: adds to `sums`, in the order of lanes of [`super::Simd::turn_nibbles`], the products of
/// `groups` groups of so many `rounds` of 32 elements. Two nibbles lie in one byte, which is raised once for both: of 2^15 + byte, the bits of one nibble
/// are masked out.
///
/// # Safety
/// The CPU has AVX2 and FMA; `x` and the rows of `w` are valid for reading `groups * rounds` rounds, of which there is at least one, and `groups`
/// scales, each of at most 11 bits.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) unsafe fn add_nibbles(x: *const u8, w: StoredRows<'_>, groups: usize, rounds: usize, sums: &mut [Pair; 2]) {
    /// What a scale is multiplied with: for what is added to the lower nibble's product, and to the upper's, and for the upper's scale. All
    /// products are exact.
    static FACTORS: Splats<3> = Splats([[-(32768.0 + 8.0); 8], [-(2048.0 + 8.0); 8], [1.0 / 16.0; 8]]);
    /// The bytes of eight lanes, in the order in which two shuffles have x.
    static BYTES: [u8; 32] = raised([0, 1, 4, 5, 2, 3, 6, 7]);
    #[rustfmt::skip]
    macro_rules! row {
        ($row:literal, $w:literal, $scale:literal, $upper:literal, $offset:literal, $upper_offset:literal, $even:literal, $odd:literal) => {
            concat!(
                "vpbroadcastq {t0}, [", $row, $w, "]\n",
                "vpshufb {t0}, {t0}, {bytes}\n",
                "vpor {t0}, {t0}, {raise}\n",
                "vpand {t1}, {t0}, {high}\n",
                "vpand {t0}, {t0}, {low}\n",
                "vfmadd213ps {t0}, {", $scale, "}, [{offsets} + ", $offset, "]\n",
                "vfmadd213ps {t1}, {", $upper, "}, [{offsets} + ", $upper_offset, "]\n",
                "vfmadd231ps {", $even, "}, {t0}, {x0}\n",
                "vfmadd231ps {", $odd, "}, {t1}, {x1}\n",
            )
        };
    }
    #[rustfmt::skip]
    macro_rules! step {
        ($x:literal, $half:literal, $w:literal) => {
            concat!(
                "vmovups {x0}, [{x} + ", $x, "]\n",
                "vshufps {x1}, {x0}, [{x} + ", $half, "], 0xdd\n",
                "vshufps {x0}, {x0}, [{x} + ", $half, "], 0x88\n",
                row!("{w} + ", $w, "s0", "u0", "0", "32", "a", "b"),
                row!("{w} + {w_stride} + ", $w, "s1", "u1", "64", "96", "c", "d"),
            )
        };
    }
    let mut offsets = MaybeUninit::<Splats<4>>::uninit();
    // SAFETY: it reads rows as far as the caller vouches for, and writes the four vectors of `offsets`.
    unsafe {
        two_rows!(
            (x, w, groups, rounds, sums),
            group: [
                "vmulps {t0}, {s0}, [{factors}]",
                "vmulps {t1}, {s0}, [{factors} + 32]",
                "vmovaps [{offsets}], {t0}",
                "vmovaps [{offsets} + 32], {t1}",
                "vmulps {t0}, {s1}, [{factors}]",
                "vmulps {t1}, {s1}, [{factors} + 32]",
                "vmovaps [{offsets} + 64], {t0}",
                "vmovaps [{offsets} + 96], {t1}",
                "vmulps {u0}, {s0}, [{factors} + 64]",
                "vmulps {u1}, {s1}, [{factors} + 64]"
            ],
            round: [step!("0", "32", "0"), step!("64", "96", "8")],
            move_on: ["128", "16"],
            factors = in(reg) &raw const FACTORS,
            offsets = in(reg) offsets.as_mut_ptr(),
            bytes = in(ymm_reg) _mm256_loadu_si256(BYTES.as_ptr().cast()),
            raise = in(ymm_reg) _mm256_set1_epi32(RAISE),
            low = in(ymm_reg) _mm256_set1_epi32(!0xf000),
            high = in(ymm_reg) _mm256_set1_epi32(!0x0f00),
            u0 = out(ymm_reg) _,
            u1 = out(ymm_reg) _,
            x0 = out(ymm_reg) _,
            x1 = out(ymm_reg) _,
            options(nostack),
        );
    }
}

/// As [`add_nibbles`], for bytes and in the usual order of lanes.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) unsafe fn add_bytes(x: *const u8, w: StoredRows<'_>, groups: usize, rounds: usize, sums: &mut [Pair; 2]) {
    static LOWER: [u8; 32] = raised([0, 1, 2, 3, 4, 5, 6, 7]);
    static UPPER: [u8; 32] = raised([8, 9, 10, 11, 12, 13, 14, 15]);
    #[rustfmt::skip]
    macro_rules! row {
        ($row:literal, $w:literal, $scale:literal, $offset:literal, $lower:literal, $upper:literal) => {
            concat!(
                "vbroadcasti128 {t0}, [", $row, $w, "]\n",
                "vpshufb {t1}, {t0}, {upper}\n",
                "vpshufb {t0}, {t0}, {lower}\n",
                "vpor {t1}, {t1}, {raise}\n",
                "vpor {t0}, {t0}, {raise}\n",
                "vfmadd213ps {t1}, {", $scale, "}, {", $offset, "}\n",
                "vfmadd213ps {t0}, {", $scale, "}, {", $offset, "}\n",
                "vfmadd231ps {", $upper, "}, {t1}, {x1}\n",
                "vfmadd231ps {", $lower, "}, {t0}, {x0}\n",
            )
        };
    }
    #[rustfmt::skip]
    macro_rules! step {
        ($x:literal, $half:literal, $w:literal) => {
            concat!(
                "vmovups {x0}, [{x} + ", $x, "]\n",
                "vmovups {x1}, [{x} + ", $half, "]\n",
                row!("{w} + ", $w, "s0", "o0", "a", "b"),
                row!("{w} + {w_stride} + ", $w, "s1", "o1", "c", "d"),
            )
        };
    }
    // SAFETY: it reads rows as far as the caller vouches for, and writes nothing.
    unsafe {
        two_rows!(
            (x, w, groups, rounds, sums),
            group: [
                "vmulps {o0}, {s0}, {factor}",
                "vmulps {o1}, {s1}, {factor}"
            ],
            round: [step!("0", "32", "0"), step!("64", "96", "16")],
            move_on: ["128", "32"],
            lower = in(ymm_reg) _mm256_loadu_si256(LOWER.as_ptr().cast()),
            upper = in(ymm_reg) _mm256_loadu_si256(UPPER.as_ptr().cast()),
            raise = in(ymm_reg) _mm256_set1_epi32(RAISE),
            factor = in(ymm_reg) _mm256_set1_ps(-(32768.0 + 128.0)),
            o0 = out(ymm_reg) _,
            o1 = out(ymm_reg) _,
            x0 = out(ymm_reg) _,
            x1 = out(ymm_reg) _,
            options(pure, readonly, nostack),
        );
    }
}
