//! The formats whose rows a kernel multiplies from where they lie, as types.

use crate::format::Scales;
use crate::simd::{LANES, PackedLoop, Simd};

/// A format as a type, so that a kernel is compiled once for each.
pub(crate) trait Element: Copy + Sync {
    /// What the elements of a group have in common.
    type Group<S: Simd>: Copy;

    /// f32 that each group of a row has: its scale and, after that, a zero point.
    const SCALES: usize = 1;
    /// See [`Op::NARROW`](crate::simd::Op::NARROW).
    const NARROW: bool = false;

    /// Elements of a group: a multiple of 32, or at least the row.
    #[inline(always)]
    fn group(self) -> usize {
        usize::MAX
    }

    /// Bytes of `n` elements, `n` a multiple of 16.
    fn bytes(n: usize) -> usize;

    /// # Safety
    /// `scale` is valid for reading [`Element::SCALES`], if the format has scales.
    unsafe fn open<S: Simd>(s: S, scale: *const f32) -> Self::Group<S>;

    /// Reads 16 elements of a group and widens them.
    ///
    /// # Safety
    /// `p` is valid for reading 16 elements.
    unsafe fn load<S: Simd>(s: S, p: *const u8, group: Self::Group<S>) -> S::V;

    /// Reads `n` elements and widens them; the other lanes are zero.
    ///
    /// # Safety
    /// `n <= 16` and `p` is valid for reading `n` elements.
    #[inline(always)]
    unsafe fn load_first<S: Simd>(s: S, p: *const u8, n: usize, group: Self::Group<S>) -> S::V {
        let mut bytes = [0u8; LANES * 4];
        let mut lanes = [0.0f32; LANES];
        // SAFETY: the caller vouches for `n` elements at `p`; the arrays hold 16.
        unsafe {
            // Packed elements may end within a byte.
            std::ptr::copy_nonoverlapping(p, bytes.as_mut_ptr(), (n * Self::bytes(LANES)).div_ceil(LANES));
            s.store(lanes.as_mut_ptr(), Self::load(s, bytes.as_ptr(), group));
            lanes[n..].fill(0.0);
            s.load(lanes.as_ptr())
        }
    }

    /// As [`Element::load`], with the lanes in the order of [`Element::turn`]: for one row of x, which is turned once for
    /// many rows of weights.
    ///
    /// # Safety
    /// As [`Element::load`].
    #[inline(always)]
    unsafe fn load_turned<S: Simd>(s: S, p: *const u8, group: Self::Group<S>) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { Self::load(s, p, group) }
    }

    /// The lanes in the order in which elements are widened with fewest instructions.
    #[inline(always)]
    fn turn<S: Simd>(_s: S, v: S::V) -> S::V {
        v
    }

    /// Undoes [`Element::turn`].
    #[inline(always)]
    fn turn_back<S: Simd>(_s: S, v: S::V) -> S::V {
        v
    }

    /// The loop that there may be for a row of x in f32: see [`Simd::add_packed`].
    #[inline(always)]
    fn packed_loop(self) -> Option<PackedLoop> {
        None
    }

    /// Reads 32 elements of a group, rounded to bf16.
    ///
    /// # Safety
    /// `p` is valid for reading 32 elements.
    #[inline(always)]
    unsafe fn load_pairs<S: Simd>(s: S, p: *const u8, group: Self::Group<S>) -> S::P {
        // SAFETY: the caller vouches for 32 elements.
        unsafe { s.round_pairs(Self::load(s, p, group), Self::load(s, p.add(Self::bytes(LANES)), group)) }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct F32;
#[derive(Clone, Copy)]
pub(crate) struct Bf16;
#[derive(Clone, Copy)]
pub(crate) struct F16;
/// A power of two in a byte: [`Scales::E8m0`].
#[derive(Clone, Copy)]
pub(crate) struct E8m0;
/// Integers of [`Bits::Four`](crate::Bits::Four), in groups of so many; whether their scales have 16 bits or fewer.
#[derive(Clone, Copy)]
pub(crate) struct Int4(pub(crate) usize, pub(crate) bool);
/// Integers of [`Bits::Eight`](crate::Bits::Eight), in groups of so many. `SHORT`: their scales have 16 bits or fewer.
#[derive(Clone, Copy)]
pub(crate) struct Int8<const SHORT: bool>(pub(crate) usize);
/// Integers of [`Bits::Four`](crate::Bits::Four) and zero points, in groups of so many.
#[derive(Clone, Copy)]
pub(crate) struct Affine4(pub(crate) usize);
/// Integers of [`Bits::Eight`](crate::Bits::Eight) and zero points, in groups of so many.
#[derive(Clone, Copy)]
pub(crate) struct Affine8(pub(crate) usize);
/// The numbers of [`Fp8`](crate::Fp8), in groups of so many.
#[derive(Clone, Copy)]
pub(crate) struct E4m3(pub(crate) usize);
/// The numbers of [`Format::Mxfp4`](crate::Format::Mxfp4), in groups of 32.
#[derive(Clone, Copy)]
pub(crate) struct E2m1;

/// Reads 16 scales and widens them.
///
/// # Safety
/// `p` is valid for reading 16 scales of `format`.
#[inline(always)]
pub(crate) unsafe fn load_scales<S: Simd>(s: S, p: *const u8, format: Scales) -> S::V {
    // SAFETY: the caller's promise; such elements have no scales of their own.
    unsafe {
        match format {
            Scales::F32 => F32::load(s, p, ()),
            Scales::Bf16 => Bf16::load(s, p, ()),
            Scales::F16 => F16::load(s, p, ()),
            Scales::E8m0 => E8m0::load(s, p, ()),
        }
    }
}

// SAFETY (of the blocks below): each passes the caller's promise on to the load of the same width.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument, stated above, covers them all")]
mod elements {
    use super::{Affine4, Affine8, Bf16, E2m1, E4m3, E8m0, Element, F16, F32, Int4, Int8, LANES, PackedLoop, Simd};

    impl Element for F32 {
        type Group<S: Simd> = ();
        #[inline(always)]
        fn bytes(n: usize) -> usize {
            n * 4
        }
        #[inline(always)]
        unsafe fn open<S: Simd>(_s: S, _scale: *const f32) {}
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8, (): ()) -> S::V {
            unsafe { s.load(p.cast()) }
        }
        #[inline(always)]
        unsafe fn load_first<S: Simd>(s: S, p: *const u8, n: usize, (): ()) -> S::V {
            unsafe { s.load_first(p.cast(), n) }
        }
    }

    impl Element for Bf16 {
        type Group<S: Simd> = ();
        #[inline(always)]
        fn bytes(n: usize) -> usize {
            n * 2
        }
        #[inline(always)]
        unsafe fn open<S: Simd>(_s: S, _scale: *const f32) {}
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8, (): ()) -> S::V {
            unsafe { s.load_bf16(p) }
        }
        #[inline(always)]
        unsafe fn load_pairs<S: Simd>(s: S, p: *const u8, (): ()) -> S::P {
            unsafe { s.load_pairs(p) }
        }
    }

    impl Element for F16 {
        type Group<S: Simd> = ();
        #[inline(always)]
        fn bytes(n: usize) -> usize {
            n * 2
        }
        #[inline(always)]
        unsafe fn open<S: Simd>(_s: S, _scale: *const f32) {}
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8, (): ()) -> S::V {
            unsafe { s.load_f16(p) }
        }
    }

    impl Element for E8m0 {
        type Group<S: Simd> = ();
        #[inline(always)]
        fn bytes(n: usize) -> usize {
            n
        }
        #[inline(always)]
        unsafe fn open<S: Simd>(_s: S, _scale: *const f32) {}
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8, (): ()) -> S::V {
            let power = |b: u8| match b {
                // Subnormal.
                0 => f32::from_bits(0x0040_0000),
                255 => f32::NAN,
                b => f32::from_bits(u32::from(b) << 23),
            };
            unsafe { s.load(p.cast::<[u8; LANES]>().read_unaligned().map(power).as_ptr()) }
        }
    }

    impl<const SHORT: bool> Element for Int8<SHORT> {
        /// The scale, and the offset -128 · scale, or -(128 + what bytes are raised by) · scale.
        type Group<S: Simd> = (S::V, S::V);
        #[inline(always)]
        fn group(self) -> usize {
            self.0
        }
        #[inline(always)]
        fn bytes(n: usize) -> usize {
            n
        }
        #[inline(always)]
        unsafe fn open<S: Simd>(s: S, scale: *const f32) -> (S::V, S::V) {
            let scale = s.splat(unsafe { scale.read() });
            let raised = if SHORT { S::RAISED } else { 0.0 };
            (scale, s.mul(scale, s.splat(-(raised + 128.0))))
        }
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8, (scale, offset): (S::V, S::V)) -> S::V {
            // The offset is exact (raised, it has 9 bits times the 11 of a short scale), so that q · scale is rounded once.
            let q = unsafe { if SHORT { s.load_raised_u8(p) } else { s.load_u8(p) } };
            s.fma(q, scale, offset)
        }
        #[inline(always)]
        fn packed_loop(self) -> Option<PackedLoop> {
            SHORT.then_some(PackedLoop::Bytes)
        }
    }

    impl Element for Int4 {
        type Group<S: Simd> = S::Nibbles;
        const NARROW: bool = true;
        #[inline(always)]
        fn group(self) -> usize {
            self.0
        }
        #[inline(always)]
        fn bytes(n: usize) -> usize {
            n / 2
        }
        #[inline(always)]
        unsafe fn open<S: Simd>(s: S, scale: *const f32) -> S::Nibbles {
            s.nibbles(unsafe { scale.read() })
        }
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8, group: S::Nibbles) -> S::V {
            unsafe { s.load_nibbles(p, group) }
        }
        #[inline(always)]
        unsafe fn load_turned<S: Simd>(s: S, p: *const u8, group: S::Nibbles) -> S::V {
            unsafe { s.load_turned_nibbles(p, group) }
        }
        #[inline(always)]
        fn turn<S: Simd>(s: S, v: S::V) -> S::V {
            s.turn_nibbles(v)
        }
        #[inline(always)]
        fn turn_back<S: Simd>(s: S, v: S::V) -> S::V {
            s.turn_nibbles_back(v)
        }
        #[inline(always)]
        fn packed_loop(self) -> Option<PackedLoop> {
            self.1.then_some(PackedLoop::Nibbles)
        }
    }

    impl Element for Affine8 {
        /// The scale and the zero point.
        type Group<S: Simd> = (S::V, S::V);
        const SCALES: usize = 2;
        #[inline(always)]
        fn group(self) -> usize {
            self.0
        }
        #[inline(always)]
        fn bytes(n: usize) -> usize {
            n
        }
        #[inline(always)]
        unsafe fn open<S: Simd>(s: S, scale: *const f32) -> (S::V, S::V) {
            unsafe { (s.splat(scale.read()), s.splat(scale.add(1).read())) }
        }
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8, (scale, zero): (S::V, S::V)) -> S::V {
            // Differences of small integers are exact, so that the product is rounded once.
            let q = s.sub(unsafe { s.load_u8(p) }, s.splat(128.0));
            s.mul(s.sub(q, zero), scale)
        }
    }

    impl Element for Affine4 {
        type Group<S: Simd> = S::ShiftedNibbles;
        const SCALES: usize = 2;
        const NARROW: bool = true;
        #[inline(always)]
        fn group(self) -> usize {
            self.0
        }
        #[inline(always)]
        fn bytes(n: usize) -> usize {
            n / 2
        }
        #[inline(always)]
        unsafe fn open<S: Simd>(s: S, scale: *const f32) -> S::ShiftedNibbles {
            unsafe { s.shifted_nibbles(scale.read(), scale.add(1).read()) }
        }
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8, group: S::ShiftedNibbles) -> S::V {
            unsafe { s.load_shifted_nibbles(p, group) }
        }
        #[inline(always)]
        unsafe fn load_turned<S: Simd>(s: S, p: *const u8, group: S::ShiftedNibbles) -> S::V {
            unsafe { s.load_turned_shifted_nibbles(p, group) }
        }
        #[inline(always)]
        fn turn<S: Simd>(s: S, v: S::V) -> S::V {
            s.turn_nibbles(v)
        }
        #[inline(always)]
        fn turn_back<S: Simd>(s: S, v: S::V) -> S::V {
            s.turn_nibbles_back(v)
        }
    }

    impl Element for E4m3 {
        type Group<S: Simd> = S::V;
        #[inline(always)]
        fn group(self) -> usize {
            self.0
        }
        #[inline(always)]
        fn bytes(n: usize) -> usize {
            n
        }
        #[inline(always)]
        unsafe fn open<S: Simd>(s: S, scale: *const f32) -> S::V {
            s.splat(unsafe { scale.read() })
        }
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8, scale: S::V) -> S::V {
            s.mul(unsafe { s.load_e4m3(p) }, scale)
        }
    }

    impl Element for E2m1 {
        type Group<S: Simd> = S::E2m1;
        #[inline(always)]
        fn group(self) -> usize {
            32
        }
        #[inline(always)]
        fn bytes(n: usize) -> usize {
            n / 2
        }
        #[inline(always)]
        unsafe fn open<S: Simd>(s: S, scale: *const f32) -> S::E2m1 {
            s.e2m1(unsafe { scale.read() })
        }
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, p: *const u8, values: S::E2m1) -> S::V {
            unsafe { s.load_e2m1(p, values) }
        }
    }
}
