//! Products in bf16, summed as the matrix unit of some CPUs does it: the order of [`Rows::Tiles`](super::Rows::Tiles).
//!
//! Weights are rows of bf16, where they are stored or in a panel. Where there is a matrix unit, sixteen or 32 of them meet
//! sixteen or 32 rows of x at a time ([`OnTiles`]); elsewhere ordinary instructions give the same bits, for sixteen
//! outputs side by side in lanes ([`OnLanes`]).

use super::{Columns, Strip};
use crate::simd::{AHEAD, Isa, LANES, Op, Shape, Simd, Sums, TILE, Tiles};
use crate::tiled::STEP;

/// Rows of x that two tiles take.
pub(super) const X_ROWS: usize = 2 * TILE;
/// Bytes of rows of x that stay in a cache of a core while weights pass by: half of what CPUs with tiles have.
const X_NEAR: usize = 1 << 20;

/// The strip's weights, in bf16.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    start: *const u8,
    /// Bytes from row to row.
    stride: usize,
    /// Whether the rows of a tile lie a sixteenth of the strip apart, so that each of these streams goes on where it was
    /// when the next tile begins; else they are neighbours.
    apart: bool,
}

impl Weights {
    /// Where they are stored. Of a strip for few rows of x, the rows of a tile lie apart.
    ///
    /// # Panics
    /// When rows are not whole steps.
    pub(super) fn stored(strip: &Strip<'_>) -> Weights {
        let cols = strip.job.weight.cols();
        assert!(cols.is_multiple_of(STEP), "whole steps of {cols} elements");
        let rows = strip.stored_rows(strip.first, 1, strip.last - strip.first);
        Weights { start: rows.elements, stride: rows.stride, apart: strip.x_rows.len() <= X_ROWS }
    }

    /// In a panel whose rows are padded with zeros to whole steps.
    ///
    /// # Panics
    /// When the panel does not hold them.
    pub(super) fn in_panel(strip: &Strip<'_>, panel: &[f32], stride: usize) -> Weights {
        assert!(panel.len() >= (strip.last - strip.first) * stride, "rows of {stride} in {}", panel.len());
        assert!(stride >= strip.job.weight.cols().next_multiple_of(STEP) / 2, "whole steps");
        Weights { start: panel.as_ptr().cast(), stride: stride * size_of::<f32>(), apart: false }
    }
}

/// All rows of x of the strip against its weights, which are those of the strip.
pub(super) fn multiply(isa: Isa, strip: &Strip<'_>, weights: Weights) {
    match isa.tiles() {
        Some(tiles) => isa.run(OnTiles { strip, weights, tiles }),
        None => isa.run(OnLanes { strip, weights }),
    }
}

/// Some rows of the strip: `count` of them, from the `first` on, each `step` further.
#[derive(Clone, Copy)]
struct Chosen {
    first: usize,
    step: usize,
    count: usize,
}

/// All `rows` of a strip, at most `most` at a time.
fn choose(rows: usize, most: usize, apart: bool) -> impl Iterator<Item = Chosen> {
    let run = if apart { rows / TILE } else { 0 };
    let rest = run * TILE..rows;
    let neighbours = rest.clone().step_by(most);
    (0..run).map(move |first| Chosen { first, step: run, count: TILE }).chain(neighbours.map(move |first| Chosen {
        first,
        step: 1,
        count: most.min(rest.end - first),
    }))
}

struct OnTiles<'a> {
    strip: &'a Strip<'a>,
    weights: Weights,
    tiles: Tiles,
}

impl Op for OnTiles<'_> {
    type Output = ();
    const NARROW: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let OnTiles { strip, weights, tiles } = self;
        let steps = strip.job.weight.cols().div_ceil(STEP);
        let mut session = tiles.begin();
        let mut sums = Sums([[[0.0; TILE]; TILE]; 4]);
        let halves = |n: usize| [n.min(TILE), n - n.min(TILE)];
        // The rows of x that stay near while all weights pass by.
        let near = (X_NEAR / strip.x.stride.max(1) / X_ROWS * X_ROWS).max(X_ROWS);
        for start in strip.x_rows.clone().step_by(near) {
            let end = strip.x_rows.end.min(start + near);
            for chosen in choose(strip.last - strip.first, X_ROWS, weights.apart) {
                let stride = chosen.step * weights.stride;
                let rows = weights.start.wrapping_add(chosen.first * weights.stride);
                let rows = [rows, rows.wrapping_add(TILE * stride)];
                // What the next rows of weights are stored in, each time a bit of it.
                let mut ahead = rows[0].wrapping_add(chosen.count * stride);
                for r in (start..end).step_by(X_ROWS) {
                    let count = X_ROWS.min(end - r);
                    let shape = Shape { weights: halves(chosen.count), x: halves(count) };
                    let first = strip.x_rows(r, count);
                    let x = [first, first.wrapping_add(TILE * strip.x.stride)];
                    // SAFETY: `weights` are rows of the strip in whole steps, and `chosen` names as many of them as there are;
                    // the blocks of x are those of `count` rows.
                    unsafe { session.multiply(shape, rows, stride, x, steps, ahead, &mut sums) };
                    ahead = ahead.wrapping_add(steps * AHEAD);
                    for (i, sums) in sums.0.chunks_exact_mut(2).enumerate() {
                        for (j, sums) in sums.iter_mut().enumerate() {
                            let first = chosen.first + i * TILE * chosen.step;
                            let own = Chosen { first, count: shape.weights[i], ..chosen };
                            if own.count > 0 && shape.x[j] > 0 {
                                strip.put_tile(s, r + j * TILE, shape.x[j], own, sums);
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Strip<'_> {
    /// Writes the sums of a tile, `[output, row of x]`, of `rows` rows of x from `r` on.
    #[inline(always)]
    fn put_tile<S: Simd>(&self, s: S, r: usize, rows: usize, chosen: Chosen, sums: &mut [[f32; TILE]; TILE]) {
        let Columns { start, stride, .. } = self.job.out;
        let first = self.first + chosen.first;
        assert!(r + rows <= self.x_rows.end && first + (chosen.count - 1) * chosen.step < self.last);
        if let Some(bias) = self.job.bias {
            for (i, sums) in sums[..chosen.count].iter_mut().enumerate() {
                // SAFETY: an array of 16.
                unsafe {
                    let sum = s.add(s.load(sums.as_ptr()), s.splat(bias[first + i * chosen.step]));
                    s.store(sums.as_mut_ptr(), sum);
                }
            }
        }
        let at = |j: usize, i: usize| start.wrapping_add((r + j) * stride + first + i * chosen.step);
        if chosen.step == 1 && chosen.count == TILE && rows == TILE {
            // SAFETY: sixteen rows of sixteen, of `sums` and of the destination, which has room for `[n, rows]`, as `linear`
            // checked; the elements of these rows and outputs belong to this item alone.
            unsafe { s.transpose(sums.as_ptr().cast(), 64, at(0, 0).cast(), stride * size_of::<f32>()) };
        } else {
            for (i, sums) in sums[..chosen.count].iter().enumerate() {
                for (j, sum) in sums[..rows].iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { at(j, i).write(*sum) };
                }
            }
        }
    }
}

struct OnLanes<'a> {
    strip: &'a Strip<'a>,
    weights: Weights,
}

impl Op for OnLanes<'_> {
    type Output = ();
    const NARROW: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let OnLanes { strip, weights } = self;
        let steps = strip.job.weight.cols().div_ceil(STEP);
        for r in strip.x_rows.clone().step_by(TILE) {
            let rows = TILE.min(strip.x_rows.end - r);
            let x = strip.x_rows(r, rows);
            for chosen in choose(strip.last - strip.first, TILE, weights.apart) {
                let stride = chosen.step * weights.stride;
                let w = weights.start.wrapping_add(chosen.first * weights.stride);
                let mut sums = [s.zero(); TILE];
                for k in 0..steps {
                    // SAFETY: `weights` are rows of the strip in whole steps, of which `chosen` names `count`; a step of `rows` rows
                    // of x is so many bytes.
                    unsafe {
                        let step = weights_of_step(s, w.add(k * 2 * STEP), stride, chosen.count);
                        let x = x.add(k * 2 * STEP * rows);
                        let mut j = 0;
                        while j < rows {
                            j += match rows - j {
                                1..4 => add_step::<S, 1>(s, x, rows, j, &step, &mut sums),
                                _ => add_step::<S, 4>(s, x, rows, j, &step, &mut sums),
                            };
                        }
                    }
                }
                let first = strip.first + chosen.first;
                for (j, sum) in sums[..rows].iter().enumerate() {
                    let mut lanes = [0.0f32; LANES];
                    // SAFETY: an array of 16.
                    unsafe { s.store(lanes.as_mut_ptr(), *sum) };
                    for (i, sum) in lanes[..chosen.count].iter().enumerate() {
                        let o = first + i * chosen.step;
                        let sum = strip.job.bias.map_or(*sum, |bias| sum + bias[o]);
                        assert!(o < strip.last);
                        // SAFETY: `linear` checked that the destination has room for `[n, rows]`; the elements of these rows and
                        // outputs belong to this item alone.
                        unsafe { strip.job.out.start.add((r + j) * strip.job.out.stride + o).write(sum) };
                    }
                }
            }
        }
    }
}

/// Pairs of weights of a step, outputs in lanes: the first elements, and the second.
type Step<V> = [(V, V); TILE];

/// A step of `count` rows of weights; those of other lanes are zeros.
///
/// # Safety
/// `w` is valid for reading `count` rows of a step, `stride` bytes apart.
#[inline(always)]
unsafe fn weights_of_step<S: Simd>(s: S, w: *const u8, stride: usize, count: usize) -> Step<S::V> {
    let mut rows = [[0u8; 4 * TILE]; TILE];
    let mut turned = [[0u8; 4 * LANES]; TILE];
    for (i, row) in rows[..count].iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *row = unsafe { w.add(i * stride).cast::<[u8; 4 * TILE]>().read_unaligned() };
    }
    // SAFETY: arrays of sixteen rows of 64 bytes.
    unsafe { s.transpose(rows.as_ptr().cast(), 64, turned.as_mut_ptr().cast(), 64) };
    let mut step = [(s.zero(), s.zero()); TILE];
    for (to, turned) in step.iter_mut().zip(&turned) {
        // SAFETY: an array of 64 bytes.
        *to = s.halves(unsafe { s.load_pairs(turned.as_ptr()) });
    }
    step
}

/// Adds the products of a step to the sums of `R` of `rows` rows of x, from the `j`-th on. Returns `R`.
///
/// # Safety
/// `x` is valid for reading a step of `rows` rows, and `j + R <= rows`.
#[inline(always)]
unsafe fn add_step<S: Simd, const R: usize>(
    s: S,
    x: *const u8,
    rows: usize,
    j: usize,
    step: &Step<S::V>,
    sums: &mut [S::V; TILE],
) -> usize {
    let mut own = [(s.zero(), s.zero()); R];
    for (pair, (first, second)) in step.iter().enumerate() {
        for (r, own) in own.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let bits = unsafe { x.cast::<[u8; 4]>().add(pair * rows + j + r).read() };
            let bits = u32::from_le_bytes(bits);
            own.0 = s.fma_flushed(s.splat(f32::from_bits(bits << 16)), *first, own.0);
            own.1 = s.fma_flushed(s.splat(f32::from_bits(bits & 0xffff_0000)), *second, own.1);
        }
    }
    for (r, own) in own.iter().enumerate() {
        sums[j + r] = s.add_flushed(sums[j + r], s.add_flushed(own.0, own.1));
    }
    R
}

/// Steps of the products that measure how fast they can be: what they take stays in an L1 cache.
const PROBE_STEPS: usize = 16;
/// Operations of one of them: 32 outputs of 32 rows.
pub(crate) const TILES_FLOP: f64 = (2 * X_ROWS * X_ROWS * STEP * PROBE_STEPS) as f64;

/// Computes so many products and nothing else; the last sum of all.
pub(crate) fn multiply_tiles(isa: Isa, items: usize) -> f32 {
    isa.run(Probe { tiles: isa.tiles(), items })
}

/// Rows that begin with a cache line, as those of a product do.
#[repr(align(64))]
struct Aligned([[u8; 2 * STEP * PROBE_STEPS * TILE]; 2]);

struct Probe {
    tiles: Option<Tiles>,
    items: usize,
}

impl Op for Probe {
    type Output = f32;
    const NARROW: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        // 2^-11 and a bit, over and over: sixteen rows of weights, and as many of x.
        let operands = Aligned([[0x3a; 2 * STEP * PROBE_STEPS * TILE]; 2]);
        let Aligned([w, x]) = std::hint::black_box(&operands);
        let stride = 2 * STEP * PROBE_STEPS;
        let mut last = [[0.0f32; TILE]; TILE];
        match self.tiles {
            Some(tiles) => {
                let mut session = tiles.begin();
                let mut sums = Sums([[[0.0; TILE]; TILE]; 4]);
                let shape = Shape { weights: [TILE; 2], x: [TILE; 2] };
                for _ in 0..self.items {
                    // SAFETY: sixteen rows each, the same ones twice.
                    unsafe {
                        session.multiply(
                            shape,
                            [w.as_ptr(); 2],
                            stride,
                            [x.as_ptr(); 2],
                            PROBE_STEPS,
                            w.as_ptr(),
                            &mut sums,
                        );
                    };
                }
                last = sums.0[3];
            }
            None => {
                // Four quarters of what tiles do at once.
                for _ in 0..4 * self.items {
                    let mut sums = [s.zero(); TILE];
                    for k in 0..PROBE_STEPS {
                        // SAFETY: steps of sixteen rows each.
                        unsafe {
                            let step = weights_of_step(s, w.as_ptr().add(k * 2 * STEP), stride, TILE);
                            for j in (0..TILE).step_by(4) {
                                add_step::<S, 4>(s, x.as_ptr().add(k * 2 * STEP * TILE), TILE, j, &step, &mut sums);
                            }
                        }
                    }
                    for (to, sum) in last.iter_mut().zip(sums) {
                        // SAFETY: an array of 16.
                        unsafe { s.store(to.as_mut_ptr(), sum) };
                    }
                }
            }
        }
        last[TILE - 1][TILE - 1]
    }
}
