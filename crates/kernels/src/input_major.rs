//! Matrices that are stored input after input, as kernels read them: some inputs of sixteen outputs become f32, input by
//! input ([`InputMajor::widen`]), from where they are stored or from a copy nearby ([`Near`]).

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::element::{Element, load_scales};
use crate::format::{Awq, Bits, Gptq, GptqZeros, Order, Scales};
use crate::matrix::Matrix;
use crate::simd::{LANES, Simd, prefetch};

/// A format as a type. Outputs are read from multiples of eight on; where fewer than sixteen are left, the other lanes
/// have no meaning.
pub(crate) trait InputMajor: Copy + Sync {
    /// Inputs that a row has: a whole word of them, or one.
    fn inputs(self) -> usize;

    /// Bytes that so many outputs, a multiple of eight, take in a row.
    fn bytes(self, outputs: usize) -> usize;

    /// The weights as they are stored, `[rows, outputs]`: the bytes, and how many there are from row to row.
    fn stored(&self) -> (&[u8], usize);

    /// Writes the weights of `to.len()` inputs from `k` on, a multiple of sixteen, for the outputs from `o` on, input by input.
    /// They are read from `near`, which has them.
    fn widen<S: Simd>(self, s: S, near: Near<'_>, k: usize, o: usize, to: &mut [[f32; LANES]]);

    /// Says that the outputs from `o` on of `rows`, if there are such rows, are soon read.
    #[inline(always)]
    fn ask(self, rows: Range<usize>, o: usize) {
        let (bytes, stride) = self.stored();
        // Once for each cache line.
        if self.bytes(o) % 64 < self.bytes(LANES) {
            for row in rows {
                prefetch(bytes.as_ptr().wrapping_add(row * stride + self.bytes(o)));
            }
        }
    }
}

/// Some rows of stored weights for some outputs, in whole sixteens: a copy, or where they are.
#[derive(Clone, Copy)]
pub(crate) struct Near<'a> {
    bytes: &'a [u8],
    /// Bytes from row to row.
    stride: usize,
    /// Rows `first_row..end_row`, and the first output of each.
    first_row: usize,
    end_row: usize,
    output: usize,
}

impl Near<'_> {
    /// The outputs `from..end` of `rows` where they are stored, if whole sixteens of them can be read there.
    pub(crate) fn in_place<I: InputMajor>(inputs: &I, rows: Range<usize>, from: usize, end: usize) -> Option<Near<'_>> {
        let (bytes, stride) = inputs.stored();
        let last = (rows.end - 1) * stride + inputs.bytes(from + (end - from).next_multiple_of(LANES));
        let bytes = bytes.get(rows.start * stride..last)?;
        Some(Near { bytes, stride, first_row: rows.start, end_row: rows.end, output: 0 })
    }

    /// Copies the outputs `from..end` of `rows` to `to`, where they lie side by side; what is beyond the matrix has no meaning.
    ///
    /// Where they are stored, rows lie so far apart that they crowd into the same few sets of a cache, which has forgotten
    /// a line when the next outputs in it are wanted.
    ///
    /// # Panics
    /// When there is no room for them.
    pub(crate) fn copy<'a>(
        inputs: &impl InputMajor,
        rows: Range<usize>,
        from: usize,
        end: usize,
        to: &'a mut [u8],
    ) -> Near<'a> {
        let (bytes, stored) = inputs.stored();
        let len = inputs.bytes((end - from).next_multiple_of(LANES));
        // An odd number of cache lines, so that rows spread over a cache.
        let stride = (len.div_ceil(64) | 1) * 64;
        let to = &mut to[..rows.len() * stride];
        for (row, to) in rows.clone().zip(to.chunks_exact_mut(stride)) {
            let rest = bytes.get(row * stored + inputs.bytes(from)..).unwrap_or_default();
            let len = len.min(rest.len());
            to[..len].copy_from_slice(&rest[..len]);
        }
        Near { bytes: to, stride, first_row: rows.start, end_row: rows.end, output: from }
    }

    /// Where the sixteen outputs from `o` on begin in row `rows.start`; those of the other rows follow, a stride apart.
    ///
    /// # Panics
    /// When they are not here.
    #[inline(always)]
    fn outputs(&self, inputs: impl InputMajor, rows: Range<usize>, o: usize) -> *const u8 {
        assert!(
            self.first_row <= rows.start && rows.start < rows.end && rows.end <= self.end_row,
            "rows that are here"
        );
        let from = (rows.start - self.first_row) * self.stride + inputs.bytes(o - self.output);
        let end = from + (rows.len() - 1) * self.stride + inputs.bytes(LANES);
        self.bytes[from..end].as_ptr()
    }
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
    #[inline(always)]
    fn inputs(self) -> usize {
        1
    }
    #[inline(always)]
    fn bytes(self, outputs: usize) -> usize {
        W::bytes(LANES) / LANES * outputs
    }
    #[inline(always)]
    fn stored(&self) -> (&[u8], usize) {
        (self.elements, self.bytes(1) * self.rows)
    }
    #[inline(always)]
    fn widen<S: Simd>(self, s: S, near: Near<'_>, k: usize, o: usize, to: &mut [[f32; LANES]]) {
        let mut elements = near.outputs(self, k..k + to.len(), o);
        for to in to {
            // SAFETY: such elements have no scales; sixteen of them that were copied, and an array of as many.
            unsafe { s.store(to.as_mut_ptr(), W::load(s, elements, W::open(s, std::ptr::null()))) };
            elements = elements.wrapping_add(near.stride);
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

    /// [`InputMajor::widen`] where a word holds `PER` inputs of `32 / PER` bits.
    #[inline(always)]
    fn widen_words<S: Simd, const PER: usize>(self, s: S, near: Near<'_>, k: usize, o: usize, to: &mut [[f32; LANES]]) {
        let (width, mask) = (32 / PER as u32, u32::MAX >> (32 - 32 / PER));
        let first = near.outputs(self, k / PER..(k + to.len()).div_ceil(PER), o);
        // SAFETY (of what uses it): sixteen words that were copied, of a row that holds some of these inputs.
        let words = |i: usize| first.wrapping_add(i / PER * near.stride);
        let mut i = 0;
        if let Some(order) = self.order {
            return self.widen_ordered::<S, PER>(s, order, k, o, first, near.stride, to);
        }
        while i < to.len() {
            let g = (k + i) / self.group;
            let group = self.open(s, g, o);
            let end = (g + 1).saturating_mul(self.group).min(k + to.len()) - k;
            // Known places make known shifts.
            while i.is_multiple_of(PER) && i + PER <= end {
                let Some(to) = to[i..].first_chunk_mut::<PER>() else { break };
                // SAFETY: as above, and arrays of 16.
                unsafe {
                    let words = s.load_ints(words(i));
                    for place in 0..PER {
                        let q = s.field(words, width * place as u32, mask);
                        s.store(to[place].as_mut_ptr(), weight(s, q, group));
                    }
                }
                i += PER;
            }
            if i < end {
                // SAFETY: as above, and an array of 16.
                unsafe {
                    let q = s.field(s.load_ints(words(i)), width * (i % PER) as u32, mask);
                    s.store(to[i].as_mut_ptr(), weight(s, q, group));
                }
                i += 1;
            }
        }
    }

    /// The same where each input says of which group it is.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "the coordinates of a block")]
    fn widen_ordered<S: Simd, const PER: usize>(
        self,
        s: S,
        order: &[[u8; 4]],
        k: usize,
        o: usize,
        words: *const u8,
        stride: usize,
        to: &mut [[f32; LANES]],
    ) {
        let (width, mask) = (32 / PER as u32, u32::MAX >> (32 - 32 / PER));
        // Next to each other are inputs of any groups, so all of them are opened once, unless they are very many.
        let mut table = [[[0.0; LANES]; 2]; OPEN_GROUPS];
        let known = self.last_group < OPEN_GROUPS;
        if known {
            for (g, to) in table[..=self.last_group].iter_mut().enumerate() {
                let (scale, zero) = self.open(s, g, o);
                // SAFETY: arrays of 16.
                unsafe {
                    s.store(to[0].as_mut_ptr(), scale);
                    s.store(to[1].as_mut_ptr(), zero);
                }
            }
        }
        for (i, (to, g)) in to.iter_mut().zip(&order[k..]).enumerate() {
            let g = (u32::from_le_bytes(*g) as usize).min(self.last_group);
            // SAFETY: sixteen words of a row that the caller vouches for, and arrays of 16.
            unsafe {
                let group = if known {
                    (s.load(table[g][0].as_ptr()), s.load(table[g][1].as_ptr()))
                } else {
                    self.open(s, g, o)
                };
                let words = s.load_ints(words.wrapping_add(i / PER * stride));
                s.store(to.as_mut_ptr(), weight(s, s.field(words, width * (i % PER) as u32, mask), group));
            }
        }
    }
}

/// Groups whose scales and zero points are held for sixteen outputs, at most.
const OPEN_GROUPS: usize = 96;

/// `(q - zero) · scale`: differences of small integers are exact, so that the product is rounded once.
#[inline(always)]
fn weight<S: Simd>(s: S, q: S::V, (scale, zero): (S::V, S::V)) -> S::V {
    s.mul(s.sub(q, zero), scale)
}

impl InputMajor for Gptqs<'_> {
    #[inline(always)]
    fn inputs(self) -> usize {
        self.bits.per_word()
    }
    #[inline(always)]
    fn bytes(self, outputs: usize) -> usize {
        4 * outputs
    }
    #[inline(always)]
    fn stored(&self) -> (&[u8], usize) {
        (self.words, 4 * self.groups.rows)
    }
    #[inline(always)]
    fn widen<S: Simd>(self, s: S, near: Near<'_>, k: usize, o: usize, to: &mut [[f32; LANES]]) {
        match self.bits {
            Bits::Four => self.widen_words::<S, 8>(s, near, k, o, to),
            Bits::Eight => self.widen_words::<S, 4>(s, near, k, o, to),
        }
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
    #[inline(always)]
    fn inputs(self) -> usize {
        1
    }
    #[inline(always)]
    fn bytes(self, outputs: usize) -> usize {
        outputs / 8 * 4
    }
    #[inline(always)]
    fn stored(&self) -> (&[u8], usize) {
        (self.words, self.groups.rows / 8 * 4)
    }
    #[inline(always)]
    fn widen<S: Simd>(self, s: S, near: Near<'_>, k: usize, o: usize, to: &mut [[f32; LANES]]) {
        let mut words = near.outputs(self, k..k + to.len(), o);
        let mut i = 0;
        while i < to.len() {
            let g = (k + i) / self.group;
            let group = (self.groups.scales(s, g, o), self.groups.zeros(s, g, o, Bits::Four, in_order));
            let end = (g + 1).saturating_mul(self.group).min(k + to.len()) - k;
            for to in &mut to[i..end] {
                // SAFETY: two words that were copied, and an array of 16.
                unsafe { s.store(to.as_mut_ptr(), weight(s, s.load_awq(words), group)) };
                words = words.wrapping_add(near.stride);
            }
            i = end;
        }
    }
}
