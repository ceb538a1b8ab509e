//! Matrices that are stored input after input, as kernels read them: sixteen outputs of one input at a time.

use std::mem::MaybeUninit;

use crate::element::{Element, load_scales};
use crate::format::{Awq, Bits, Gptq, GptqZeros, Order, Scales};
use crate::matrix::Matrix;
use crate::simd::{LANES, Simd};

/// A format as a type. Outputs are read from multiples of eight on; where fewer than sixteen are left, the other lanes
/// have no meaning.
pub(crate) trait InputMajor: Copy + Sync {
    /// What inputs of a group have in common.
    type Group<S: Simd>: Copy;

    /// The group of input `k`.
    fn group(self, k: usize) -> usize;

    /// Group `g` of the outputs from `o` on.
    fn open<S: Simd>(self, s: S, g: usize, o: usize) -> Self::Group<S>;

    /// The weights of input `k`, which is in `group`, for the outputs from `o` on.
    fn load<S: Simd>(self, s: S, k: usize, o: usize, group: Self::Group<S>) -> S::V;

    /// Where the weights of input `k` for the outputs from `o` on lie, or would if there were such an input.
    fn place(self, k: usize, o: usize) -> *const u8;
}

/// Floating-point numbers.
#[derive(Clone, Copy)]
pub(crate) struct Floats<'a, W> {
    elements: &'a [u8],
    rows: usize,
    element: std::marker::PhantomData<W>,
}

/// Scales and zero points `[groups, rows]`.
#[derive(Clone, Copy)]
struct Groups<'a> {
    scales: &'a [u8],
    format: Scales,
    zeros: &'a [u8],
    rows: usize,
}

/// [`Gptq`].
#[derive(Clone, Copy)]
pub(crate) struct Gptqs<'a> {
    words: &'a [u8],
    groups: Groups<'a>,
    /// The group of each input, if it is stored.
    order: Option<&'a [[u8; 4]]>,
    /// Inputs of a group, if not.
    group: usize,
    last_group: usize,
    bits: Bits,
    /// What is added to a word of zero points.
    increment: u32,
}

/// [`Awq`].
#[derive(Clone, Copy)]
pub(crate) struct Awqs<'a> {
    words: &'a [u8],
    groups: Groups<'a>,
    /// Inputs of a group.
    group: usize,
}

/// Room for what is read where fewer bytes are left than a vector takes.
type Spare = MaybeUninit<[u8; 64]>;

/// Where the `len` bytes from `at` on are, up to 64: in place or, if some of them lie beyond the end, in `spare`, with zeros
/// in their place.
#[inline(always)]
fn window(bytes: &[u8], at: usize, len: usize, spare: &mut Spare) -> *const u8 {
    match bytes.get(at..at + len) {
        Some(window) => window.as_ptr(),
        None => last_window(bytes, at, spare),
    }
}

#[cold]
fn last_window(bytes: &[u8], at: usize, spare: &mut Spare) -> *const u8 {
    let rest = bytes.get(at..).unwrap_or_default();
    let window = spare.write([0; 64]);
    window[..rest.len()].copy_from_slice(rest);
    window.as_ptr()
}

impl<'a, W: Element> Floats<'a, W> {
    pub(crate) fn new(matrix: &Matrix<'a>, _element: W) -> Floats<'a, W> {
        Floats { elements: matrix.parts()[0], rows: matrix.rows(), element: std::marker::PhantomData }
    }
}

impl<W: Element> InputMajor for Floats<'_, W> {
    type Group<S: Simd> = W::Group<S>;

    #[inline(always)]
    fn group(self, _k: usize) -> usize {
        0
    }
    #[inline(always)]
    fn open<S: Simd>(self, s: S, _g: usize, _o: usize) -> W::Group<S> {
        // SAFETY: such elements have no scales.
        unsafe { W::open(s, std::ptr::null()) }
    }
    #[inline(always)]
    fn load<S: Simd>(self, s: S, k: usize, o: usize, group: W::Group<S>) -> S::V {
        let (at, mut spare) = (W::bytes(LANES) / LANES * (k * self.rows + o), Spare::uninit());
        // SAFETY: a window of 16 elements.
        unsafe { W::load(s, window(self.elements, at, W::bytes(LANES), &mut spare), group) }
    }
    #[inline(always)]
    fn place(self, k: usize, o: usize) -> *const u8 {
        self.elements.as_ptr().wrapping_add(W::bytes(LANES) / LANES * (k * self.rows + o))
    }
}

impl Groups<'_> {
    #[inline(always)]
    fn scales<S: Simd>(&self, s: S, g: usize, o: usize) -> S::V {
        let (size, mut spare) = (self.format.bytes(), Spare::uninit());
        // SAFETY: a window of 16 scales.
        unsafe {
            load_scales(s, window(self.scales, (g * self.rows + o) * size, LANES * size, &mut spare), self.format)
        }
    }

    /// The zero points, word by word as `change` makes them.
    #[inline(always)]
    fn zeros<S: Simd>(&self, s: S, g: usize, o: usize, bits: Bits, change: impl Fn(u32) -> u32) -> S::V {
        let first = (g * self.rows + o) / bits.per_word() * 4;
        match bits {
            Bits::Four => widen_nibbles(s, two_words(self.zeros, first, change)),
            Bits::Eight => {
                let both = [two_words(self.zeros, first, &change), two_words(self.zeros, first + 8, change)];
                // SAFETY: an array of 16 bytes.
                unsafe { s.load_u8(both.as_ptr().cast()) }
            }
        }
    }
}

/// The words from byte `at` on, as `change` makes them, the first in the lower half.
#[inline(always)]
fn two_words(bytes: &[u8], at: usize, change: impl Fn(u32) -> u32) -> u64 {
    let mut spare = Spare::uninit();
    // SAFETY: a window of 8 bytes.
    let both = u64::from_le_bytes(unsafe { window(bytes, at, 8, &mut spare).cast::<[u8; 8]>().read_unaligned() });
    u64::from(change((both >> 32) as u32)) << 32 | u64::from(change(both as u32))
}

/// Sixteen unsigned integers of 4 bits, the first in the lowest bits.
#[inline(always)]
fn widen_nibbles<S: Simd>(s: S, nibbles: u64) -> S::V {
    let bytes = nibbles.to_le_bytes();
    // SAFETY: an array of 8 bytes.
    s.add(unsafe { s.load_nibbles(bytes.as_ptr(), s.nibbles(1.0)) }, s.splat(8.0))
}

impl<'a> Gptqs<'a> {
    pub(crate) fn new(matrix: &Matrix<'a>, format: Gptq) -> Gptqs<'a> {
        let [words, scales, zeros, order] = matrix.parts();
        let ones = match format.bits {
            Bits::Four => 0x1111_1111,
            Bits::Eight => 0x0101_0101,
        };
        Gptqs {
            words,
            groups: Groups { scales, format: format.scales, zeros, rows: matrix.rows() },
            order: (format.order == Order::Stored).then_some(order.as_chunks().0),
            group: format.group,
            last_group: matrix.cols().div_ceil(format.group).saturating_sub(1),
            bits: format.bits,
            increment: if format.zeros == GptqZeros::MinusOne { ones } else { 0 },
        }
    }
}

impl InputMajor for Gptqs<'_> {
    /// The scales and the zero points.
    type Group<S: Simd> = (S::V, S::V);

    #[inline(always)]
    fn group(self, k: usize) -> usize {
        match self.order {
            Some(order) => (u32::from_le_bytes(order[k]) as usize).min(self.last_group),
            None => k / self.group,
        }
    }
    #[inline(always)]
    fn open<S: Simd>(self, s: S, g: usize, o: usize) -> (S::V, S::V) {
        let zeros = self.groups.zeros(s, g, o, self.bits, |word| word.wrapping_add(self.increment));
        (self.groups.scales(s, g, o), zeros)
    }
    #[inline(always)]
    fn load<S: Simd>(self, s: S, k: usize, o: usize, (scale, zero): (S::V, S::V)) -> S::V {
        let (word, place) = (k / self.bits.per_word(), k % self.bits.per_word());
        let shift = self.bits.width() * place as u32;
        let mut spare = Spare::uninit();
        let words = window(self.words, (word * self.groups.rows + o) * 4, LANES * 4, &mut spare);
        // SAFETY: a window of 16 words.
        let q = unsafe { s.load_fields(words, shift, self.bits.mask()) };
        // Differences of small integers are exact, so that the product is rounded once.
        s.mul(s.sub(q, zero), scale)
    }
    #[inline(always)]
    fn place(self, k: usize, o: usize) -> *const u8 {
        self.words.as_ptr().wrapping_add((k / self.bits.per_word() * self.groups.rows + o) * 4)
    }
}

impl<'a> Awqs<'a> {
    pub(crate) fn new(matrix: &Matrix<'a>, format: Awq) -> Awqs<'a> {
        let [words, scales, zeros, _] = matrix.parts();
        Awqs {
            words,
            groups: Groups { scales, format: format.scales, zeros, rows: matrix.rows() },
            group: format.group,
        }
    }
}

/// The nibbles of a word of [`Awq`] in the order of their outputs.
#[inline(always)]
fn in_order(word: u32) -> u32 {
    // Four nibbles, each followed by an empty one.
    let spread = |four: u32| {
        let two = (four | four << 8) & 0x00ff_00ff;
        (two | two << 4) & 0x0f0f_0f0f
    };
    spread(word & 0xffff) | spread(word >> 16) << 4
}

impl InputMajor for Awqs<'_> {
    /// The scales and the zero points.
    type Group<S: Simd> = (S::V, S::V);

    #[inline(always)]
    fn group(self, k: usize) -> usize {
        k / self.group
    }
    #[inline(always)]
    fn open<S: Simd>(self, s: S, g: usize, o: usize) -> (S::V, S::V) {
        (self.groups.scales(s, g, o), self.groups.zeros(s, g, o, Bits::Four, in_order))
    }
    #[inline(always)]
    fn load<S: Simd>(self, s: S, k: usize, o: usize, (scale, zero): (S::V, S::V)) -> S::V {
        let first = k * (self.groups.rows / 8) + o / 8;
        let q = widen_nibbles(s, two_words(self.words, first * 4, in_order));
        s.mul(s.sub(q, zero), scale)
    }
    #[inline(always)]
    fn place(self, k: usize, o: usize) -> *const u8 {
        self.words.as_ptr().wrapping_add((k * (self.groups.rows / 8) + o / 8) * 4)
    }
}
