//! Products of weights that are stored input after input.
//!
//! Few rows of x: sixteen sums of each output lie side by side for many outputs, one for each lane of the contract's dot
//! product, and an input's weights are multiplied and added to the sums of its lane as they are read. Then the lanes are
//! added in the contract's tree. So the order is that of every other way, and nothing is transposed.
//!
//! Many rows: blocks of weights are widened and transposed into a panel.

use std::marker::PhantomData;

use super::Strip;
use crate::buffer::as_bytes_mut;
use crate::input_major::{InputMajor, Near};
use crate::layout::{Layout, place, store_values};
use crate::simd::{LANES, Op, Simd};

/// Inputs of sixteen outputs that are widened together for few rows: so many that reading and writing their sums is little.
const RUN: usize = 128;
/// Sums that are in registers together.
const SUMS: usize = 8;
/// Inputs that are widened together for a panel: a step of any arithmetic is a part of them.
const BLOCK: usize = 2 * LANES;

/// f32 elements of memory that [`FewRows`] takes for each output, with `n` rows of x and outputs of `bytes` bytes; more for
/// the last lines of a copy, [`COPY_ENDS`].
pub(super) fn few_rows_elements(n: usize, bytes: usize) -> usize {
    n * LANES + RUN * bytes / size_of::<f32>()
}

/// f32 elements that rows of a copy are longer, at most, than what they hold.
pub(super) const COPY_ENDS: usize = RUN * 2 * 64 / size_of::<f32>();

/// Some rows of x, in f32, against the strip's weights.
pub(super) struct FewRows<'a, I: InputMajor> {
    pub(super) strip: &'a Strip<'a>,
    pub(super) inputs: I,
    /// Room for 16 sums of every row and output, outputs in sixteens, and for what [`few_rows_elements`] counts besides.
    pub(super) scratch: &'a mut [f32],
}

impl<I: InputMajor> Op for FewRows<'_, I> {
    type Output = ();
    const NARROW: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let FewRows { strip, inputs, scratch } = self;
        let (cols, n) = (strip.job.weight.cols(), strip.x_rows.len());
        let outputs = (strip.last - strip.first).div_ceil(LANES);
        // [outputs / 16, n, lane, output]
        let (sums, copy) = scratch.split_at_mut(outputs * n * LANES * LANES);
        let sums = sums.as_chunks_mut::<LANES>().0.as_chunks_mut::<LANES>().0;
        let copy = as_bytes_mut(copy);
        let of_row = inputs.inputs();
        sums.fill([[0.0; LANES]; LANES]);
        let mut weights = [[0.0; LANES]; RUN];
        for k in (0..cols).step_by(RUN) {
            let count = RUN.min(cols - k);
            let weights = &mut weights[..count.next_multiple_of(LANES)];
            weights[count..].fill([0.0; LANES]);
            let rows = k / of_row..(k + count).div_ceil(of_row);
            let next = rows.end..rows.end + RUN / of_row;
            // A line with more than one vector's outputs is wanted again.
            let whole_lines = inputs.bytes(LANES) >= 64;
            let near = Near::in_place(&inputs, rows.clone(), strip.first, strip.last).filter(|_| whole_lines);
            let near = near.unwrap_or_else(|| Near::copy(&inputs, rows, strip.first, strip.last, copy));
            for (i, sums) in sums.chunks_exact_mut(n).enumerate() {
                let o = strip.first + i * LANES;
                // Each row lies on a page of its own, too many for the CPU to see where reading goes.
                inputs.ask(next.clone(), o);
                inputs.widen(s, near, k, o, &mut weights[..count]);
                for (r, sums) in sums.iter_mut().enumerate() {
                    let mut x = [0.0f32; RUN];
                    // SAFETY: in f32 a row of x holds `cols` elements.
                    unsafe {
                        let from = strip.x_rows(strip.x_rows.start + r, 1).cast::<f32>().add(k);
                        std::ptr::copy_nonoverlapping(from, x.as_mut_ptr(), count);
                    }
                    add_run(s, &x, weights, sums);
                }
            }
        }
        for (i, sums) in sums.chunks_exact(n).enumerate() {
            for (r, sums) in sums.iter().enumerate() {
                put_sums(s, strip, strip.x_rows.start + r, strip.first + i * LANES, sums);
            }
        }
    }
}

/// Adds the products of a row of x and its weights, whole sixteens of inputs, to the sums of their lanes.
#[inline(always)]
fn add_run<S: Simd>(s: S, x: &[f32; RUN], weights: &[[f32; LANES]], sums: &mut [[f32; LANES]; LANES]) {
    let weights = weights.as_chunks::<LANES>().0;
    // Some sums at a time, so that no addition waits for the one before.
    for (some, sums) in sums.as_chunks_mut::<SUMS>().0.iter_mut().enumerate() {
        // SAFETY: arrays of 16.
        unsafe {
            let mut sum = [s.zero(); SUMS];
            for l in 0..SUMS {
                sum[l] = s.load(sums[l].as_ptr());
            }
            for (x, weights) in x.as_chunks::<LANES>().0.iter().zip(weights) {
                for l in 0..SUMS {
                    let at = some * SUMS + l;
                    sum[l] = s.fma(s.splat(x[at]), s.load(weights[at].as_ptr()), sum[l]);
                }
            }
            for l in 0..SUMS {
                s.store(sums[l].as_mut_ptr(), sum[l]);
            }
        }
    }
}

/// Adds the lanes of sixteen outputs from `o` on as [`Simd::sum`] does, and writes them as those of row `r`.
#[inline(always)]
fn put_sums<S: Simd>(s: S, strip: &Strip<'_>, r: usize, o: usize, sums: &[[f32; LANES]; LANES]) {
    let mut lanes = [s.zero(); LANES];
    for (lane, sums) in lanes.iter_mut().zip(sums) {
        // SAFETY: an array of 16.
        *lane = unsafe { s.load(sums.as_ptr()) };
    }
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            lanes[l] = s.add(lanes[l], lanes[l + half]);
        }
    }
    strip.put_lanes(s, r, o, lanes[0]);
}

/// Widens the strip's weights into a panel.
pub(super) struct WidenInputs<'a, L: Layout, I: InputMajor> {
    pub(super) strip: &'a Strip<'a>,
    pub(super) inputs: I,
    pub(super) panel: &'a mut [f32],
    /// f32 elements from row to row of the panel.
    pub(super) stride: usize,
    pub(super) layout: PhantomData<L>,
}

impl<L: Layout, I: InputMajor> Op for WidenInputs<'_, L, I> {
    type Output = ();
    const NARROW: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let WidenInputs { strip, inputs, panel, stride, .. } = self;
        let cols = strip.job.weight.cols();
        let mut weights = [[0.0; LANES]; BLOCK];
        let mut copy = [0; BLOCK * LANES * size_of::<f32>()];
        // Outputs are read from multiples of eight on.
        for base in (strip.first & !7..strip.last).step_by(LANES) {
            for k in (0..cols).step_by(BLOCK) {
                let count = BLOCK.min(cols - k);
                let rows = k / inputs.inputs()..(k + count).div_ceil(inputs.inputs());
                let near = Near::in_place(&inputs, rows.clone(), base, base + LANES);
                let near = near.unwrap_or_else(|| Near::copy(&inputs, rows, base, base + LANES, &mut copy));
                inputs.widen(s, near, k, base, &mut weights[..count]);
                weights[count..].fill([0.0; LANES]);
                for o in base.max(strip.first)..(base + LANES).min(strip.last) {
                    let mut row = [0.0; BLOCK];
                    for (to, weights) in row.iter_mut().zip(&weights) {
                        *to = weights[o - base];
                    }
                    let to = place::<S, L>(panel, stride, cols, o - strip.first);
                    // SAFETY: the row of the panel has room for whole steps of `cols`.
                    unsafe { store_values::<S, L>(s, &row, count, to, k) };
                }
            }
        }
    }
}
