//! The register tile: `R` rows against `C` weight rows, `R * C` dot products at once.
//!
//! This is the one place where the contract's order of summation is written down: in f32, lane `l` of 16 adds the
//! elements `l, l + 16, l + 32, …` in increasing order by fused multiply-add; in bf16, lane `l` adds the pairs
//! `l, l + 16, …`, of each pair the second element first ([`Simd::add_pairs`]). A short tail counts as zeros, and
//! [`Simd::sum`] adds the lanes. A tile of any size computes each of its dot products so, and therefore tiles
//! may be cut in any way. (`linear/interleaved.rs` adds to the same lanes in the same order.)

use crate::element::Element;
use crate::matrix::StoredRows;
use crate::simd::{LANES, Simd, prefetch, prefetch_stream};

/// In which numbers products are computed.
pub(crate) trait Arithmetic: Copy {
    /// Elements of `x`, and the widened elements of a weight row, that a step takes.
    type X<S: Simd>: Copy;
    /// Elements of a step.
    const STEP: usize;
    /// Bytes of an element of `x`.
    const X_BYTES: usize;
    /// See [`Op::NARROW`](crate::simd::Op::NARROW).
    const NARROW: bool;

    /// # Safety
    /// `p` is valid for reading a step of `x`.
    unsafe fn load_x<S: Simd>(s: S, p: *const u8) -> Self::X<S>;
    /// Zeros after the first `n`.
    ///
    /// # Safety
    /// `p` is valid for reading `n <= STEP` elements of `x`.
    unsafe fn load_x_first<S: Simd>(s: S, p: *const u8, n: usize) -> Self::X<S>;
    /// # Safety
    /// `p` is valid for reading a step of elements of `W`.
    unsafe fn load_w<S: Simd, W: Element>(s: S, p: *const u8, group: W::Group<S>) -> Self::X<S>;
    /// Zeros after the first `n`.
    ///
    /// # Safety
    /// `p` is valid for reading `n <= STEP` elements of `W`.
    unsafe fn load_w_first<S: Simd, W: Element>(s: S, p: *const u8, n: usize, group: W::Group<S>) -> Self::X<S>;
    /// As [`Arithmetic::load_w`], with the lanes of sums in the order of [`Arithmetic::turn`].
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn load_turned_w<S: Simd, W: Element>(s: S, p: *const u8, group: W::Group<S>) -> Self::X<S> {
        // SAFETY: the caller's promise.
        unsafe { Self::load_w::<S, W>(s, p, group) }
    }
    /// As `load_turned_w` for one row of x, as `load_w` for more: `R` of them.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn load_w_for<S: Simd, W: Element, const R: usize>(s: S, p: *const u8, group: W::Group<S>) -> Self::X<S> {
        // SAFETY: the caller's promise.
        unsafe { if R == 1 { Self::load_turned_w::<S, W>(s, p, group) } else { Self::load_w::<S, W>(s, p, group) } }
    }
    /// A step in the order of lanes that suits `W`.
    #[inline(always)]
    fn turn<S: Simd, W: Element>(_s: S, x: Self::X<S>) -> Self::X<S> {
        x
    }
    /// Sums in the order of lanes of turned steps.
    #[inline(always)]
    fn turn_sum<S: Simd, W: Element>(_s: S, sum: S::V) -> S::V {
        sum
    }
    /// Sums of turned steps, in the contract's order of lanes.
    #[inline(always)]
    fn turn_back<S: Simd, W: Element>(_s: S, sum: S::V) -> S::V {
        sum
    }
    /// # Safety
    /// `p` is valid for writing a step of `x`.
    unsafe fn store_x<S: Simd>(s: S, p: *mut u8, x: Self::X<S>);
    fn add<S: Simd>(s: S, x: Self::X<S>, w: Self::X<S>, sum: S::V) -> S::V;
}

/// Everything in f32.
#[derive(Clone, Copy)]
pub(crate) struct InF32;

/// Both factors rounded to bf16, sums in f32.
#[derive(Clone, Copy)]
pub(crate) struct InBf16;

// SAFETY (of the blocks below): each passes the caller's promise on to loads of the same width; arrays on the
// stack hold a whole step.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument, stated above, covers them all")]
mod arithmetics {
    use super::{Arithmetic, Element, InBf16, InF32, LANES, Simd};

    impl Arithmetic for InF32 {
        type X<S: Simd> = S::V;
        const STEP: usize = LANES;
        const X_BYTES: usize = 4;
        const NARROW: bool = false;

        #[inline(always)]
        unsafe fn load_x<S: Simd>(s: S, p: *const u8) -> S::V {
            unsafe { s.load(p.cast()) }
        }
        #[inline(always)]
        unsafe fn load_x_first<S: Simd>(s: S, p: *const u8, n: usize) -> S::V {
            unsafe { s.load_first(p.cast(), n) }
        }
        #[inline(always)]
        unsafe fn load_w<S: Simd, W: Element>(s: S, p: *const u8, group: W::Group<S>) -> S::V {
            unsafe { W::load(s, p, group) }
        }
        #[inline(always)]
        unsafe fn load_w_first<S: Simd, W: Element>(s: S, p: *const u8, n: usize, group: W::Group<S>) -> S::V {
            unsafe { W::load_first(s, p, n, group) }
        }
        #[inline(always)]
        unsafe fn load_turned_w<S: Simd, W: Element>(s: S, p: *const u8, group: W::Group<S>) -> S::V {
            unsafe { W::load_turned(s, p, group) }
        }
        #[inline(always)]
        fn turn<S: Simd, W: Element>(s: S, x: S::V) -> S::V {
            W::turn(s, x)
        }
        #[inline(always)]
        fn turn_sum<S: Simd, W: Element>(s: S, sum: S::V) -> S::V {
            W::turn(s, sum)
        }
        #[inline(always)]
        fn turn_back<S: Simd, W: Element>(s: S, sum: S::V) -> S::V {
            W::turn_back(s, sum)
        }
        #[inline(always)]
        unsafe fn store_x<S: Simd>(s: S, p: *mut u8, x: S::V) {
            unsafe { s.store(p.cast(), x) }
        }
        #[inline(always)]
        fn add<S: Simd>(s: S, x: S::V, w: S::V, sum: S::V) -> S::V {
            s.fma(x, w, sum)
        }
    }

    impl Arithmetic for InBf16 {
        type X<S: Simd> = S::P;
        const STEP: usize = 2 * LANES;
        const X_BYTES: usize = 2;
        const NARROW: bool = true;

        #[inline(always)]
        unsafe fn load_x<S: Simd>(s: S, p: *const u8) -> S::P {
            unsafe { s.load_pairs(p) }
        }
        #[inline(always)]
        unsafe fn load_x_first<S: Simd>(s: S, p: *const u8, n: usize) -> S::P {
            let mut all = [0u8; 4 * LANES];
            unsafe {
                std::ptr::copy_nonoverlapping(p, all.as_mut_ptr(), n * 2);
                s.load_pairs(all.as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn load_w<S: Simd, W: Element>(s: S, p: *const u8, group: W::Group<S>) -> S::P {
            unsafe { W::load_pairs(s, p, group) }
        }
        #[inline(always)]
        unsafe fn load_w_first<S: Simd, W: Element>(s: S, p: *const u8, n: usize, group: W::Group<S>) -> S::P {
            let first = n.min(LANES);
            unsafe {
                let lo = W::load_first(s, p, first, group);
                let hi = match n - first {
                    0 => s.zero(),
                    rest => W::load_first(s, p.add(W::bytes(LANES)), rest, group),
                };
                s.round_pairs(lo, hi)
            }
        }
        #[inline(always)]
        unsafe fn store_x<S: Simd>(s: S, p: *mut u8, x: S::P) {
            unsafe { s.store_pairs(p, x) }
        }
        #[inline(always)]
        fn add<S: Simd>(s: S, x: S::P, w: S::P, sum: S::V) -> S::V {
            s.add_pairs(x, w, sum)
        }
    }
}

/// What is wanted soon, and can be asked for in passing.
pub(crate) trait Ahead {
    /// Asks for a part of it: called once in four steps.
    fn ask(&mut self);
}

/// Nothing.
pub(crate) struct Nothing;

impl Ahead for Nothing {
    #[inline(always)]
    fn ask(&mut self) {}
}

/// Memory from `next` on, [`Stretch::STEP`] bytes at a time.
pub(crate) struct Stretch {
    pub(crate) next: *const u8,
}

impl Stretch {
    /// Half of the bytes that a row of x has in four steps.
    pub(crate) const STEP: usize = 128;
}

impl Ahead for Stretch {
    #[inline(always)]
    fn ask(&mut self) {
        prefetch(self.next);
        prefetch(self.next.wrapping_add(64));
        self.next = self.next.wrapping_add(Stretch::STEP);
    }
}

/// What comes next in `C` streams of weights, of which four steps take `bytes` each.
pub(crate) struct Streams<const C: usize> {
    pub(crate) next: *const u8,
    pub(crate) stride: usize,
    pub(crate) bytes: usize,
}

impl<const C: usize> Ahead for Streams<C> {
    #[inline(always)]
    fn ask(&mut self) {
        for c in 0..C {
            for line in (0..self.bytes).step_by(64) {
                prefetch_stream(self.next.wrapping_add(c * self.stride + line));
            }
        }
        self.next = self.next.wrapping_add(self.bytes);
    }
}

/// The tile's accumulators `acc` with the products of elements `0..len` added to their lanes.
///
/// `len` is a multiple of [`Arithmetic::STEP`] unless the tile ends the dot products. Meanwhile `ahead` is asked for.
///
/// # Safety
/// For every `r < R`, `x + r * x_stride` (in bytes) is valid for reading `len` elements of `x`, and the `C` rows of
/// `w` for reading `len` elements and their scales.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "pointers and strides of two operands")]
pub(crate) unsafe fn accumulate<S: Simd, A: Arithmetic, W: Element, const R: usize, const C: usize>(
    s: S,
    element: W,
    x: *const u8,
    x_stride: usize,
    w: StoredRows<'_>,
    len: usize,
    acc: [[S::V; C]; R],
    mut ahead: impl Ahead,
) -> [[S::V; C]; R] {
    let mut a = acc;
    if R == 1 {
        for sum in a.as_flattened_mut() {
            *sum = A::turn_sum::<S, W>(s, *sum);
        }
    }
    let (mut k, mut index) = (0, 0);
    if R == 1
        && A::X_BYTES == size_of::<f32>()
        && let Some(which) = element.packed_loop()
    {
        // SAFETY: the caller's promise.
        k = unsafe { s.add_packed(which, x, w, element.group(), len, &mut a[0]) };
        index = k / element.group() * W::SCALES;
    }
    while k < len {
        let end = k.saturating_add(element.group()).min(len);
        // SAFETY: group `index` of each row begins at element `k < len`.
        let groups = unsafe {
            let scale = w.scales.wrapping_add(index);
            let mut groups = [W::open(s, scale); C];
            for c in 1..C {
                groups[c] = W::open(s, scale.wrapping_add(c * w.scale_stride));
            }
            groups
        };
        let whole = end - (end - k) % A::STEP;
        // Four steps a round leave the ports to the multiply-adds rather than to the loop.
        while k + 4 * A::STEP <= whole {
            ahead.ask();
            for _ in 0..4 {
                // SAFETY: `k + STEP <= len`, within what the caller vouches for.
                unsafe { add_step::<S, A, W, R, C>(s, x, x_stride, w, k, &groups, &mut a) };
                k += A::STEP;
            }
        }
        while k < whole {
            // SAFETY: as above.
            unsafe { add_step::<S, A, W, R, C>(s, x, x_stride, w, k, &groups, &mut a) };
            k += A::STEP;
        }
        if k < end {
            let rest = end - k;
            // SAFETY: `rest < STEP` elements are left at `k`.
            unsafe {
                let p = w.elements.add(W::bytes(k));
                let mut wv = [A::load_w_first::<S, W>(s, p, rest, groups[0]); C];
                for c in 1..C {
                    wv[c] = A::load_w_first::<S, W>(s, p.add(c * w.stride), rest, groups[c]);
                }
                for r in 0..R {
                    let mut xv = A::load_x_first(s, x.add(r * x_stride + k * A::X_BYTES), rest);
                    if R == 1 {
                        xv = A::turn::<S, W>(s, xv);
                        for w in &mut wv {
                            *w = A::turn::<S, W>(s, *w);
                        }
                    }
                    for c in 0..C {
                        a[r][c] = A::add(s, xv, wv[c], a[r][c]);
                    }
                }
            }
            k = end;
        }
        index += W::SCALES;
    }
    if R == 1 {
        for sum in a.as_flattened_mut() {
            *sum = A::turn_back::<S, W>(s, *sum);
        }
    }
    a
}

/// One step of every row, from element `k` on.
///
/// # Safety
/// As [`accumulate`], with [`Arithmetic::STEP`] elements.
#[inline(always)]
unsafe fn add_step<S: Simd, A: Arithmetic, W: Element, const R: usize, const C: usize>(
    s: S,
    x: *const u8,
    x_stride: usize,
    w: StoredRows<'_>,
    k: usize,
    groups: &[W::Group<S>; C],
    a: &mut [[S::V; C]; R],
) {
    // SAFETY: the caller vouches for a step of each row.
    unsafe {
        let p = w.elements.add(W::bytes(k));
        let mut wv = [A::load_w_for::<S, W, R>(s, p, groups[0]); C];
        for c in 1..C {
            wv[c] = A::load_w_for::<S, W, R>(s, p.add(c * w.stride), groups[c]);
        }
        for r in 0..R {
            let mut xv = A::load_x(s, x.add(r * x_stride + k * A::X_BYTES));
            if R == 1 {
                xv = A::turn::<S, W>(s, xv);
            }
            for c in 0..C {
                a[r][c] = A::add(s, xv, wv[c], a[r][c]);
            }
        }
    }
}

/// The sums of the accumulators.
#[inline(always)]
pub(crate) fn finish<S: Simd, const R: usize, const C: usize>(s: S, acc: &[[S::V; C]; R]) -> [[f32; C]; R] {
    let mut sums = [[0.0; C]; R];
    let (from, to) = (acc.as_flattened(), sums.as_flattened_mut());
    let mut i = 0;
    // The more of them at once, the fewer instructions for each.
    while i + LANES <= R * C {
        let mut v = [s.zero(); LANES];
        v.copy_from_slice(&from[i..i + LANES]);
        to[i..i + LANES].copy_from_slice(&s.sum16(v));
        i += LANES;
    }
    if i + 8 <= R * C {
        let mut v = [s.zero(); 8];
        v.copy_from_slice(&from[i..i + 8]);
        to[i..i + 8].copy_from_slice(&s.sum8(v));
        i += 8;
    }
    if i + 4 <= R * C {
        to[i..i + 4].copy_from_slice(&s.sum4([from[i], from[i + 1], from[i + 2], from[i + 3]]));
        i += 4;
    }
    while i < R * C {
        to[i] = s.sum(from[i]);
        i += 1;
    }
    sums
}
