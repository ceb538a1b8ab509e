//! Matrices that are stored input after input, as kernels read them: sixteen outputs of one input at a time.

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::element::{Element, load_scales};
use crate::format::{Awq, Bits, Gptq, GptqZeros, Order, Scales};
use crate::matrix::Matrix;
use crate::simd::{LANES, Simd, prefetch};

/// A format as a type. Outputs are read from multiples of eight on; where fewer than sixteen are left, the other lanes
/// have no meaning.
pub(crate) trait InputMajor: Copy + Sync {
    /// Writes the weights of `to.len()` inputs from `k` on, a multiple of sixteen, for the outputs from `o` on, input by input.
    fn widen<S: Simd>(self, s: S, k: usize, o: usize, to: &mut [[f32; LANES]]);

    /// Says that the weights of `inputs` for the outputs from `o` on, if there are such inputs, are soon read.
    fn ask(self, inputs: Range<usize>, o: usize);
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

impl<W: Element> Floats<'_, W> {
    /// Where input `k` of the outputs from `o` on is.
    #[inline(always)]
    fn at(&self, k: usize, o: usize) -> usize {
        W::bytes(LANES) / LANES * (k * self.rows + o)
    }
}

impl<W: Element> InputMajor for Floats<'_, W> {
    #[inline(always)]
    fn widen<S: Simd>(self, s: S, k: usize, o: usize, to: &mut [[f32; LANES]]) {
        for (i, to) in to.iter_mut().enumerate() {
            let mut spare = Spare::uninit();
            // SAFETY: such elements have no scales; a window of 16 of them, and an array of as many.
            unsafe {
                let elements = window(self.elements, self.at(k + i, o), W::bytes(LANES), &mut spare);
                s.store(to.as_mut_ptr(), W::load(s, elements, W::open(s, std::ptr::null())));
            }
        }
    }
    #[inline(always)]
    fn ask(self, inputs: Range<usize>, o: usize) {
        for k in inputs {
            prefetch(self.elements.as_ptr().wrapping_add(self.at(k, o)));
        }
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

impl Gptqs<'_> {
    /// The scales and the zero points of group `g`.
    #[inline(always)]
    fn open<S: Simd>(&self, s: S, g: usize, o: usize) -> (S::V, S::V) {
        let zeros = self.groups.zeros(s, g, o, self.bits, |word| word.wrapping_add(self.increment));
        (self.groups.scales(s, g, o), zeros)
    }

    /// Where the word of input `k` of output `o` is.
    #[inline(always)]
    fn at(&self, k: usize, o: usize) -> usize {
        (k / self.bits.per_word() * self.groups.rows + o) * 4
    }

    /// [`InputMajor::widen`] where a word holds `PER` inputs of `32 / PER` bits.
    #[inline(always)]
    fn widen_words<S: Simd, const PER: usize>(&self, s: S, k: usize, o: usize, to: &mut [[f32; LANES]]) {
        let width = 32 / PER as u32;
        let mut groups = Runs::new(self.group);
        let (mut g, mut group) = (usize::MAX, (s.zero(), s.zero()));
        for (w, to) in to.chunks_mut(PER).enumerate() {
            let k = k + w * PER;
            let mut spare = Spare::uninit();
            // SAFETY: a window of 16 words.
            let words = unsafe { s.load_ints(window(self.words, self.at(k, o), LANES * 4, &mut spare)) };
            let mut widen = |place: usize, to: &mut [f32; LANES]| {
                let own = match self.order {
                    Some(order) => (u32::from_le_bytes(order[k + place]) as usize).min(self.last_group),
                    None => groups.of(k + place),
                };
                if own != g {
                    (g, group) = (own, self.open(s, own, o));
                }
                let (scale, zero) = group;
                // Differences of small integers are exact, so that the product is rounded once.
                let weight = s.mul(s.sub(s.field(words, width * place as u32, (1 << width) - 1), zero), scale);
                // SAFETY: an array of 16.
                unsafe { s.store(to.as_mut_ptr(), weight) };
            };
            match to.as_chunks_mut::<PER>().0 {
                // Known places make known shifts.
                [whole] => {
                    for place in 0..PER {
                        widen(place, &mut whole[place]);
                    }
                }
                _ => to.iter_mut().enumerate().for_each(|(place, to)| widen(place, to)),
            }
        }
    }
}

impl InputMajor for Gptqs<'_> {
    #[inline(always)]
    fn widen<S: Simd>(self, s: S, k: usize, o: usize, to: &mut [[f32; LANES]]) {
        match self.bits {
            Bits::Four => self.widen_words::<S, 8>(s, k, o, to),
            Bits::Eight => self.widen_words::<S, 4>(s, k, o, to),
        }
    }
    #[inline(always)]
    fn ask(self, inputs: Range<usize>, o: usize) {
        for k in inputs.step_by(self.bits.per_word()) {
            prefetch(self.words.as_ptr().wrapping_add(self.at(k, o)));
        }
    }
}

/// The groups of inputs that come one after another, `len` in each, without a division for every one.
struct Runs {
    len: usize,
    /// The group of the last input that was asked for, and the first input beyond it.
    group: usize,
    end: usize,
}

impl Runs {
    fn new(len: usize) -> Runs {
        Runs { len, group: 0, end: 0 }
    }

    #[inline(always)]
    fn of(&mut self, k: usize) -> usize {
        if k >= self.end {
            self.group = k / self.len;
            self.end = (self.group + 1).saturating_mul(self.len);
        }
        self.group
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

/// For each output of a word of [`Awq`] the bit from which its integer lies on.
const AWQ_SHIFTS: [i32; 8] = [0, 16, 4, 20, 8, 24, 12, 28];

impl Awqs<'_> {
    /// Where the word of input `k` of the outputs from `o` on is.
    #[inline(always)]
    fn at(&self, k: usize, o: usize) -> usize {
        (k * (self.groups.rows / 8) + o / 8) * 4
    }
}

impl InputMajor for Awqs<'_> {
    #[inline(always)]
    fn widen<S: Simd>(self, s: S, k: usize, o: usize, to: &mut [[f32; LANES]]) {
        let shifts: [i32; LANES] = std::array::from_fn(|l| AWQ_SHIFTS[l % 8]);
        // SAFETY: an array of 16.
        let shifts = unsafe { s.load_ints(shifts.as_ptr().cast()) };
        let mut groups = Runs::new(self.group);
        let (mut g, mut group) = (usize::MAX, (s.zero(), s.zero()));
        for (i, to) in to.iter_mut().enumerate() {
            let own = groups.of(k + i);
            if own != g {
                (g, group) = (own, (self.groups.scales(s, own, o), self.groups.zeros(s, own, o, Bits::Four, in_order)));
            }
            let (scale, zero) = group;
            let mut spare = Spare::uninit();
            // SAFETY: a window of two words, and an array of 16.
            unsafe {
                let words = s.load_two_ints(window(self.words, self.at(k + i, o), 8, &mut spare));
                // Exact, as above.
                s.store(to.as_mut_ptr(), s.mul(s.sub(s.fields(words, shifts, 15), zero), scale));
            }
        }
    }
    #[inline(always)]
    fn ask(self, inputs: Range<usize>, o: usize) {
        // A cache line has the weights of so many outputs.
        if o.is_multiple_of(128) {
            for k in inputs {
                prefetch(self.words.as_ptr().wrapping_add(self.at(k, o)));
            }
        }
    }
}
