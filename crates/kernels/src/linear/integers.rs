//! Products in integers: one row of x over stored weights, more over panels.
//!
//! One row: eight rows of weights at a time, an eighth of the strip apart, so that a thread reads eight long streams. More rows: a panel has four elements of sixteen
//! rows side by side, then the next four, so that a sum has a lane for each of the rows and nothing is added across lanes.

use std::hint::black_box;
use std::marker::PhantomData;

use super::{PANEL_ROWS, Strip, widen_row_scales};
use crate::buffer::as_bytes_mut;
use crate::exec::SCRATCH;
use crate::format::{Bits, Format, Packed};
use crate::integers::{BLOCK, Bytes, EightRows, HalfBytes, Integers, UNIT_BYTES, XBlocks, blocks};
use crate::simd::{Isa, LANES, Op, Simd, prefetch};

/// Rows of weights that one row of x meets together.
const ROWS: usize = 8;
/// Rows of a panel that lie side by side.
pub(super) const SIDE_BY_SIDE: usize = LANES;
/// Bytes of a word of a row of a panel, for all of them.
const WORDS: usize = 4 * SIDE_BY_SIDE;
/// Words of a block.
const BLOCK_WORDS: usize = BLOCK / 4;

/// f32 elements of the scratch buffer that a row of a strip takes: its scales, once as they are stored and once by blocks, and, with `in_panel`,
/// its elements.
fn row_elements(packed: Packed, cols: usize, in_panel: bool) -> usize {
    let (scales, elements) = match packed.bits {
        Bits::Eight => (Steps::new::<Bytes>(packed.group, cols).count, blocks::<Bytes>(cols) * BLOCK_WORDS),
        Bits::Four => (Steps::new::<HalfBytes>(packed.group, cols).count, blocks::<HalfBytes>(cols) * BLOCK_WORDS),
    };
    packed.groups(cols) + scales + if in_panel { elements } else { 0 }
}

/// Rows of x up to which no panel is made: laying it out costs as much as some rows of x, and each row of x costs less than half with it.
pub(super) fn most_without_panel(packed: Packed, cols: usize) -> usize {
    match packed.bits {
        _ if SIDE_BY_SIDE * row_elements(packed, cols, true) > SCRATCH => usize::MAX,
        Bits::Eight => 2,
        Bits::Four => 4,
    }
}

/// Rows without a panel for which there is room in the scratch buffer.
pub(super) fn direct_rows(packed: Packed, cols: usize) -> usize {
    let count = SCRATCH / row_elements(packed, cols, false);
    // Of fewer than eight, the scales by blocks take as much as those of eight: see [`Format::fits`].
    if count < ROWS { 1 } else { count - count % ROWS }
}

/// Rows of a panel for which there is room, in `bytes` and the scratch buffer.
pub(super) fn panel_rows(packed: Packed, cols: usize, bytes: usize) -> usize {
    let row = row_elements(packed, cols, true);
    let count = (bytes / (row * size_of::<f32>())).min(PANEL_ROWS).min(SCRATCH / row);
    (count - count % SIDE_BY_SIDE).max(SIDE_BY_SIDE)
}

/// Computes the strip, in a panel or not.
pub(super) fn run(isa: Isa, strip: Strip<'_>, in_panel: bool, scratch: &mut [f32]) {
    let Format::Packed(packed) = strip.job.weight.format() else { unreachable!("`linear` checked the formats") };
    match packed.bits {
        Bits::Four => run_of::<HalfBytes>(isa, strip, packed.group, in_panel, scratch),
        Bits::Eight => run_of::<Bytes>(isa, strip, packed.group, in_panel, scratch),
    }
}

fn run_of<W: Integers>(isa: Isa, strip: Strip<'_>, group: usize, in_panel: bool, scratch: &mut [f32]) {
    let steps = Steps::new::<W>(group, strip.job.weight.cols());
    let (scales, rest) = widen_row_scales(isa, &strip, scratch);
    let rows = strip.last - strip.first;
    let strip = &Strip { scales, ..strip };
    if in_panel {
        let (by_blocks, panel) = rest.split_at_mut(rows.next_multiple_of(SIDE_BY_SIDE) * steps.count);
        let rows = |group| (group * SIDE_BY_SIDE, 1);
        isa.run(Turn::<_, SIDE_BY_SIDE> { strip, steps, rows, to: &mut *by_blocks });
        let panel = as_bytes_mut(panel);
        isa.run(LayOut { strip, panel: &mut *panel, format: PhantomData::<W> });
        isa.run(Multiply { strip, panel, scales: by_blocks, steps, format: PhantomData::<W> });
    } else {
        let by_blocks = &mut rest[..rows.next_multiple_of(ROWS) * steps.count];
        let rows = |group| streams(strip, group);
        isa.run(Turn::<_, ROWS> { strip, steps, rows, to: &mut *by_blocks });
        isa.run(Direct { strip, scales: by_blocks, steps, format: PhantomData::<W> });
    }
}

/// Where group `group` of [`ROWS`] rows begins in the strip, and how far apart its rows are; those after the last whole one are the rows that are left.
fn streams(strip: &Strip<'_>, group: usize) -> (usize, usize) {
    let run = (strip.last - strip.first) / ROWS;
    if group < run { (group, run) } else { (run * ROWS, 1) }
}

/// The scales of rows as the kernels read them: one for each `1 << shift` blocks.
#[derive(Clone, Copy)]
struct Steps {
    shift: u32,
    /// Scales of a row.
    count: usize,
    /// How many of them share a scale in storage.
    repeat: usize,
}

impl Steps {
    /// For groups of `group` elements, a multiple of [`BLOCK`] or at least the row.
    fn new<W: Integers>(group: usize, cols: usize) -> Steps {
        let blocks = blocks::<W>(cols);
        if group >= cols {
            Steps { shift: usize::BITS - 1, count: 1, repeat: 1 }
        } else if (group / BLOCK).is_power_of_two() {
            let shift = (group / BLOCK).trailing_zeros();
            Steps { shift, count: blocks.div_ceil(1 << shift), repeat: 1 }
        } else {
            Steps { shift: 0, count: blocks, repeat: group / BLOCK }
        }
    }
}

/// Writes the scales of the strip's rows, those of `L` rows side by side.
struct Turn<'a, F, const L: usize> {
    strip: &'a Strip<'a>,
    steps: Steps,
    /// Where a group of so many rows begins in the strip, and how far apart its rows are.
    rows: F,
    to: &'a mut [f32],
}

impl<F: Fn(usize) -> (usize, usize), const L: usize> Op for Turn<'_, F, L> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Turn { strip, steps, rows, to } = self;
        let count = strip.last - strip.first;
        let stored = strip.scales.len() / count;
        for (group, to) in to.chunks_exact_mut(L * steps.count).enumerate() {
            let (first, step) = rows(group);
            let is_whole = steps.repeat == 1 && first + (L - 1) * step < count;
            let squares = if is_whole { stored - stored % 8 } else { 0 };
            for at in (0..squares).step_by(8) {
                for i in (0..L).step_by(8) {
                    let from = strip.scales[(first + i * step) * stored + at..].as_ptr().cast();
                    let (stride, to) = (step * stored * size_of::<f32>(), to[at * L + i..].as_mut_ptr().cast());
                    // SAFETY: eight scales of eight rows that there are, and eight rows of `L` to write to.
                    unsafe { s.transpose_eight(from, stride, to, L * size_of::<f32>()) };
                }
            }
            for (e, to) in to.as_chunks_mut::<L>().0.iter_mut().enumerate().skip(squares) {
                // A row is padded beyond its last scale.
                let from = (e / steps.repeat).min(stored - 1);
                for (i, to) in to.iter_mut().enumerate() {
                    let row = first + i * step;
                    *to = if row < count { strip.scales[row * stored + from] } else { 0.0 };
                }
            }
        }
    }
}

impl Strip<'_> {
    /// Copies what is left of `R` rows, `step` apart from `o` on, in unit `unit`; rows beyond the strip are zeros.
    fn copy_unit<W: Integers, const R: usize>(&self, o: usize, step: usize, unit: usize) -> [[u8; UNIT_BYTES]; R] {
        let weight = &self.job.weight;
        let row = weight.format().row_bytes(weight.cols());
        let part = unit * UNIT_BYTES..row.min((unit + 1) * UNIT_BYTES);
        let mut copy = [[0; UNIT_BYTES]; R];
        for (copy, o) in copy.iter_mut().zip((o..self.last).step_by(step)) {
            copy[..part.len()].copy_from_slice(&weight.parts()[0][o * row..(o + 1) * row][part.clone()]);
        }
        copy
    }

    /// Units of which rows have all bytes.
    fn whole_units(&self) -> usize {
        let weight = &self.job.weight;
        weight.format().row_bytes(weight.cols()) / UNIT_BYTES
    }
}

/// One row of x after the other against the strip's weights.
struct Direct<'a, W: Integers> {
    strip: &'a Strip<'a>,
    /// `[rows / ROWS, steps, ROWS]`
    scales: &'a [f32],
    steps: Steps,
    format: PhantomData<W>,
}

impl<W: Integers> Op for Direct<'_, W> {
    type Output = ();
    const NARROW: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Direct { strip, scales, steps, .. } = self;
        let blocks = blocks::<W>(strip.job.weight.cols());
        let units = blocks / W::BLOCKS;
        for r in strip.x_rows.clone() {
            let x = XBlocks::new(strip.x_rows(r, 1), blocks);
            for (group, scales) in scales.chunks_exact(ROWS * steps.count).enumerate() {
                let (first, step) = streams(strip, group);
                let o = strip.first + first;
                let count = ROWS.min((strip.last - o).div_ceil(step));
                let whole = if count == ROWS { strip.whole_units() } else { 0 };
                let (scales, shift) = (scales.as_ptr(), steps.shift);
                let mut sums = [0.0; ROWS];
                // SAFETY: whole units of the rows, and a copy of the others, with the scales of all their blocks.
                unsafe {
                    let w = strip.job.weight.stored_rows(o, step, count);
                    let rows = EightRows { x, elements: w.elements, stride: w.stride, scales, shift };
                    s.add_blocks::<W>(rows, 0..whole, &mut sums);
                    for unit in whole..units {
                        let copy = strip.copy_unit::<W, ROWS>(o, step, unit);
                        let elements = copy.as_ptr().cast::<u8>().wrapping_sub(unit * UNIT_BYTES);
                        let rows = EightRows { elements, stride: UNIT_BYTES, ..rows };
                        s.add_blocks::<W>(rows, unit..unit + 1, &mut sums);
                    }
                }
                strip.write(r, o, step, &sums[..count]);
            }
        }
    }
}

/// Lays out the strip's weights in a panel: sixteen rows after sixteen rows, each block after block.
struct LayOut<'a, W: Integers> {
    strip: &'a Strip<'a>,
    panel: &'a mut [u8],
    format: PhantomData<W>,
}

impl<W: Integers> Op for LayOut<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let LayOut { strip, panel, .. } = self;
        let units = blocks::<W>(strip.job.weight.cols()) / W::BLOCKS;
        let unit_bytes = W::UNIT * SIDE_BY_SIDE;
        let mut words = [[0u8; WORDS]; UNIT_BYTES / 4];
        for (o, to) in (strip.first..strip.last).step_by(SIDE_BY_SIDE).zip(panel.chunks_exact_mut(units * unit_bytes)) {
            let count = SIDE_BY_SIDE.min(strip.last - o);
            let whole = if count == SIDE_BY_SIDE { strip.whole_units() } else { 0 };
            let w = strip.job.weight.stored_rows(o, 1, count);
            for (unit, to) in to.chunks_exact_mut(unit_bytes).enumerate() {
                // Of sixteen rows the CPU does not see where reading goes; what comes next lies after them.
                for line in 0..SIDE_BY_SIDE {
                    let next = SIDE_BY_SIDE * w.stride + (unit * SIDE_BY_SIDE + line) * UNIT_BYTES;
                    prefetch(w.elements.wrapping_add(next));
                }
                let to_words = if W::NIBBLES { words.as_mut_ptr().cast() } else { to.as_mut_ptr() };
                // SAFETY: whole units of rows, or a copy of them; sixteen words of sixteen rows, and twice as many of nibbles.
                unsafe {
                    if unit < whole {
                        s.transpose(w.elements.add(unit * UNIT_BYTES), w.stride, to_words, WORDS);
                    } else {
                        let copy = strip.copy_unit::<W, SIDE_BY_SIDE>(o, 1, unit);
                        s.transpose(copy.as_ptr().cast(), UNIT_BYTES, to_words, WORDS);
                    }
                    if W::NIBBLES {
                        for (block, words) in words.as_chunks::<{ BLOCK_WORDS / 2 }>().0.iter().enumerate() {
                            for (i, word) in words.iter().enumerate() {
                                let to = to.as_mut_ptr().add((block * BLOCK_WORDS + i) * WORDS);
                                let (low, high) = s.half_bytes(s.load_bytes(word.as_ptr()));
                                s.store_bytes(to, low);
                                s.store_bytes(to.add(BLOCK_WORDS / 2 * WORDS), high);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// All rows of x against a panel.
struct Multiply<'a, W: Integers> {
    strip: &'a Strip<'a>,
    panel: &'a [u8],
    /// `[rows / SIDE_BY_SIDE, steps, SIDE_BY_SIDE]`
    scales: &'a [f32],
    steps: Steps,
    format: PhantomData<W>,
}

impl<W: Integers> Op for Multiply<'_, W> {
    type Output = ();
    const NARROW: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut r = self.strip.x_rows.start;
        while r < self.strip.x_rows.end {
            let left = self.strip.x_rows.end - r;
            r += if S::WIDE_TILE {
                match left {
                    1 => self.rows::<S, 1, 2>(s, r),
                    2 | 3 => self.rows::<S, 2, 2>(s, r),
                    4 | 5 => self.rows::<S, 4, 2>(s, r),
                    _ => self.rows::<S, 6, 2>(s, r),
                }
            } else if S::SMALL_TILE {
                self.rows::<S, 1, 1>(s, r)
            } else {
                match left {
                    1 => self.rows::<S, 1, 1>(s, r),
                    2 => self.rows::<S, 2, 1>(s, r),
                    3 => self.rows::<S, 3, 1>(s, r),
                    6.. if W::NIBBLES => self.rows::<S, 6, 1>(s, r),
                    _ => self.rows::<S, 4, 1>(s, r),
                }
            };
        }
    }
}

impl<W: Integers> Multiply<'_, W> {
    /// `R` rows of x from `r` on, `C` times sixteen rows of weights at a time. Returns `R`.
    #[inline(always)]
    fn rows<S: Simd, const R: usize, const C: usize>(&self, s: S, r: usize) -> usize {
        let groups = (self.strip.last - self.strip.first).div_ceil(SIDE_BY_SIDE);
        for group in (0..groups - groups % C).step_by(C) {
            self.tile::<S, R, C>(s, r, group);
        }
        for group in groups - groups % C..groups {
            self.tile::<S, R, 1>(s, r, group);
        }
        R
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(&self, s: S, r: usize, group: usize) {
        let Multiply { strip, steps, .. } = *self;
        let blocks = blocks::<W>(strip.job.weight.cols());
        let stride = blocks * BLOCK * SIDE_BY_SIDE;
        let panel = self.panel[group * stride..(group + C) * stride].as_ptr();
        let scale_stride = steps.count * SIDE_BY_SIDE;
        let scales = self.scales[group * scale_stride..(group + C) * scale_stride].as_ptr();
        let x = XBlocks::new(strip.x_rows(r, R), blocks);
        let x_stride = strip.x.stride;
        let mut acc = [[[0.0; LANES]; C]; R];
        // Where registers are few, a compiler that sees through this keeps sums in two places, and moves them at every block.
        let acc = if S::WIDE_TILE { &mut acc } else { black_box(&mut acc) };
        // SAFETY: blocks of whole rows of x and of the panel, with their scales.
        unsafe {
            for b in 0..blocks {
                let offset = |r: usize| *x.offsets.byte_add(r * x_stride).add(b);
                let mut sums = [[W::start(s, 0); C]; R];
                for r in 0..R {
                    sums[r] = [W::start(s, offset(r)); C];
                }
                for word in 0..BLOCK_WORDS {
                    let p = panel.add((b * BLOCK_WORDS + word) * WORDS);
                    let mut w = [W::load(s, p); C];
                    for c in 1..C {
                        w[c] = W::load(s, p.add(c * stride));
                    }
                    for r in 0..R {
                        let x = s.splat_word(x.integers.add(r * x_stride + b * BLOCK + 4 * word));
                        for c in 0..C {
                            sums[r][c] = W::add(s, w[c], x, sums[r][c]);
                        }
                    }
                }
                let p = scales.add((b >> steps.shift) * SIDE_BY_SIDE);
                for r in 0..R {
                    let scale = s.splat(*x.scales.byte_add(r * x_stride).add(b));
                    for c in 0..C {
                        let products = s.ints_to_f32(W::finish(s, sums[r][c], offset(r)));
                        let scale = s.mul(scale, s.load(p.add(c * scale_stride)));
                        let acc = acc[r][c].as_mut_ptr();
                        s.store(acc, s.fma(products, scale, s.load(acc)));
                    }
                }
            }
            for c in 0..C {
                let o = strip.first + (group + c) * SIDE_BY_SIDE;
                for i in 0..R {
                    strip.put_lanes(s, r + i, o, s.load(acc[i][c].as_ptr()));
                }
            }
        }
    }
}
