//! Which of many dot products can be the greatest, without computing most of them.
//!
//! A copy of the weights in 8-bit integers takes half of their bytes, or less, and tells each product within a bound, by the inequality of
//! Cauchy and Schwarz. Those that can be among the greatest, few as a rule, are left to be computed as [`linear`] computes them. So the
//! greatest have the same bits, and stand where they would.

use crate::buffer::{Buffer, PAGE};
use crate::exec::{Exec, SharedMut};
use crate::format::{Bits, Format, Packed, Scales};
use crate::integers::{Quantized, ROUND};
use crate::linear::{Columns, Linear, Rows, linear};
use crate::matrix::Matrix;
use crate::simd::{LANES, Op, Simd};
use crate::widen::widen;

/// Weights of a row that share a scale.
const GROUP: usize = 128;
/// How the integers are stored.
const PACKED: Format = Format::Packed(Packed { bits: Bits::Eight, group: GROUP, scales: Scales::F32 });
/// Rows that may be left to compute: of more, a screen is no help.
const MOST_LEFT: usize = 4096;
/// A row of x that is shorter may have products that are no normal numbers.
const SHORTEST: f64 = 1.0 / (1u64 << 60) as f64;
/// What an f32 may be off by when it is rounded, of its size, twice.
const EPSILON: f64 = 1.0 / (1 << 23) as f64;

/// A matrix in 8-bit integers, and how far they are from its rows.
#[derive(Debug)]
pub struct Screen {
    rows: usize,
    cols: usize,
    /// The integers, as [`Packed`] has them.
    integers: Buffer,
    scales: Buffer,
    /// The length of what each row is off by, or more.
    off: Buffer,
    /// The length of each row and of what it is off by, or more.
    lengths: Buffer,
    x: Quantized,
    /// The greatest of what products are at the least, falling.
    top: Vec<f32>,
    /// Rows that are left.
    left: Vec<u32>,
}

impl Screen {
    /// Whether there is a screen for weights of `format`: numbers, output after output.
    #[must_use]
    pub fn takes(format: Format) -> bool {
        matches!(format, Format::F32 | Format::Bf16 | Format::F16)
    }

    /// Bytes of memory that a screen of `[rows, cols]` takes.
    #[must_use]
    pub fn bytes(rows: usize, cols: usize) -> u64 {
        let of_row = PACKED.row_bytes(cols) / size_of::<f32>() + cols.div_ceil(GROUP) + 2;
        let of_x = Quantized::elements(1, cols) + MOST_LEFT;
        // Each of four buffers ends with its page.
        (size_of::<f32>() * (rows * of_row + of_x + 4 * PAGE)) as u64
    }

    /// One of weights `[rows, cols]`, which are to be [read](Screen::read_rows).
    #[must_use]
    pub fn new(rows: usize, cols: usize) -> Screen {
        let (row, groups) = (PACKED.row_bytes(cols) / size_of::<f32>(), cols.div_ceil(GROUP));
        let mut buffers = Buffer::side_by_side([rows * row, rows * groups, rows, rows].into_iter());
        let mut next = || buffers.next().expect("one for each length");
        Screen {
            rows,
            cols,
            integers: next(),
            scales: next(),
            off: next(),
            lengths: next(),
            x: Quantized::new(Quantized::elements(1, cols)),
            top: Vec::new(),
            left: Vec::with_capacity(MOST_LEFT),
        }
    }

    /// Reads `weight`, rows of the matrix from `first` on.
    ///
    /// # Panics
    /// When there is no screen for its format, or shapes do not agree.
    pub fn read_rows(&mut self, exec: &Exec, first: usize, weight: &Matrix<'_>) {
        assert!(Screen::takes(weight.format()), "a screen of {:?}", weight.format());
        let (rows, cols) = (weight.rows(), weight.cols());
        assert!(cols == self.cols && first + rows <= self.rows, "rows of a screen of [{}, {}]", self.rows, self.cols);
        let (row, groups) = (PACKED.row_bytes(cols) / size_of::<f32>(), cols.div_ceil(GROUP));
        let (integers, scales) = (SharedMut::new(&mut self.integers), SharedMut::new(&mut self.scales));
        let (off, lengths) = (SharedMut::new(&mut self.off), SharedMut::new(&mut self.lengths));
        let (stored, row_bytes) = (weight.parts()[0], weight.format().row_bytes(cols));
        // As many rows as make it worth while to hand them out.
        let step = 64;
        exec.pool().run(rows.div_ceil(step), &|item, _| {
            let mut from = vec![0.0; cols.next_multiple_of(LANES)];
            for r in item * step..((item + 1) * step).min(rows) {
                let (own, beyond) = from.split_at_mut(cols);
                widen(exec, &stored[r * row_bytes..(r + 1) * row_bytes], weight.format(), own);
                beyond.fill(0.0);
                let to = first + r;
                // SAFETY: each row is written once.
                let (to, scales, off, lengths) = unsafe {
                    (
                        integers.slice(to * row..(to + 1) * row),
                        scales.slice(to * groups..(to + 1) * groups),
                        off.slice(to..to + 1),
                        lengths.slice(to..to + 1),
                    )
                };
                let (missed, length) = exec.isa().run(Round { from: &mut from, cols, to, scales });
                // The sums were rounded, and squares may have come to nothing.
                let at_least = |squares: f32| {
                    let slack = cols as f64 * EPSILON;
                    (f64::from(squares).sqrt() * (1.0 + slack) + (cols as f64).sqrt() * 2f64.powi(-62)) as f32
                };
                off[0] = at_least(missed);
                lengths[0] = at_least(missed) + at_least(length);
            }
        });
    }

    /// The rows whose products with `x: [cols]` can be among the `most` greatest, in order. Sets `about: [rows]` to about what products are: of
    /// all other rows, what it is about and the product are both less than each of these greatest. `None` where numbers are not finite, all rows or
    /// none are asked for, or too many products are nearly equal; `about` is then without meaning.
    ///
    /// # Panics
    /// When shapes do not agree.
    pub fn left(&mut self, exec: &Exec, x: &[f32], most: usize, about: &mut [f32]) -> Option<&[u32]> {
        let (rows, cols) = (self.rows, self.cols);
        assert!(x.len() == cols && about.len() == rows, "a row of {cols} and room for {rows}");
        let length = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        if length < SHORTEST || !(1..rows).contains(&most) {
            return None;
        }
        self.x.set(exec, x, 1, cols, Bits::Eight);
        let weight = Matrix::new(self.integers.bytes(), self.scales.bytes(), PACKED, rows, cols);
        linear(exec, Rows::Int8(&self.x), 1, &mut [Linear { weight, bias: None, out: Columns::new(about, rows, 0) }]);

        let missed = self.x.distance(x);
        // Sums of so many roundings, in either product, of numbers that are together no longer than both vectors' lengths say.
        let slack = (cols + 64) as f64 * EPSILON;
        let (a, b) = ((length * (1.0 + EPSILON)) as f32, (missed + slack * (length + missed)) as f32 * 1.0001);
        let bound = |off: f32, length: f32| (off * a + length * b) * 1.0001;
        self.top.clear();
        self.top.resize(most, f32::NEG_INFINITY);
        for ((about, off), length) in about.chunks(LANES).zip(self.off.chunks(LANES)).zip(self.lengths.chunks(LANES)) {
            let mut some = [f32::NEG_INFINITY; LANES];
            for (((least, about), off), length) in some.iter_mut().zip(about).zip(off).zip(length) {
                *least = about - bound(*off, *length);
            }
            let threshold = *self.top.last()?;
            if some.iter().fold(false, |any, least| any | (*least > threshold)) {
                for least in some {
                    let at = self.top.partition_point(|top| *top >= least);
                    if at < most && !least.is_nan() {
                        self.top.pop();
                        self.top.insert(at, least);
                    }
                }
            }
        }
        let least = *self.top.last()?;
        if !(least.is_finite() && self.top[0].is_finite()) {
            return None;
        }
        self.left.clear();
        for (r, ((about, off), length)) in about.iter().zip(&*self.off).zip(&*self.lengths).enumerate() {
            // What is no number may be anything.
            let is_less = about + bound(*off, *length) < least;
            if !is_less {
                if self.left.len() == MOST_LEFT {
                    return None;
                }
                self.left.push(r as u32);
            }
        }
        Some(&self.left)
    }
}

/// A row in integers; gives the sum of the squares of what they are off by, and of the row's elements.
struct Round<'a> {
    /// Whole vectors, zeros after the row's end.
    from: &'a mut [f32],
    cols: usize,
    to: &'a mut [f32],
    scales: &'a mut [f32],
}

impl Op for Round<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, f32) {
        let Round { from, cols, to, scales } = self;
        let (mut missed, mut squares) = (s.zero(), s.zero());
        let round = s.splat(ROUND);
        for (group, scale) in from.chunks_mut(GROUP).zip(scales) {
            let mut largest = s.zero();
            // SAFETY: groups are whole vectors, by `from`'s.
            unsafe {
                for x in group.as_chunks::<LANES>().0 {
                    let x = s.load(x.as_ptr());
                    largest = s.max(s.max(x, s.sub(s.zero(), x)), largest);
                }
                let largest = s.max_lane(largest);
                *scale = largest / 127.0;
                let (factor, back) = (s.splat(if *scale > 0.0 { 1.0 / *scale } else { 0.0 }), s.splat(-*scale));
                for x in group.as_chunks_mut::<LANES>().0 {
                    let own = s.load(x.as_ptr());
                    let rounded = s.fma(own, factor, round);
                    let left = s.fma(s.sub(rounded, round), back, own);
                    missed = s.fma(left, left, missed);
                    squares = s.fma(own, own, squares);
                    s.store(x.as_mut_ptr(), rounded);
                }
            }
        }
        let integer = |x: f32| (x.to_bits().wrapping_sub(ROUND.to_bits()) as i8).cast_unsigned() ^ 0x80;
        for (to, from) in to.iter_mut().zip(from[..cols].chunks(size_of::<f32>())) {
            let mut bytes = [0; size_of::<f32>()];
            bytes.iter_mut().zip(from).for_each(|(byte, x)| *byte = integer(*x));
            *to = f32::from_ne_bytes(bytes);
        }
        (s.sum(missed), s.sum(squares))
    }
}
