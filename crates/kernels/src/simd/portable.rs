//! The sixteen lanes as an array: the meaning that every other instruction set must reproduce.

use super::{LANES, Simd};

/// The portable path. It needs nothing of the CPU, so its token can be made anywhere.
#[derive(Clone, Copy)]
pub(super) struct Portable;

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

impl Simd for Portable {
    type V = Lanes;
    const WIDE_TILE: bool = false;

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
