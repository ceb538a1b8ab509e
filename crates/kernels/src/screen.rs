//! The greatest of many dot products, without computing most of them.
//!
//! A copy of the weights in 8-bit integers takes half of their bytes, or less, and tells each product within a bound, by the inequality of
//! Cauchy and Schwarz. Those that can be the greatest, few as a rule, are then computed as [`linear`] computes them. So the greatest has the
//! same bits, and stands where it would.

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
/// Rows that may be left to compute: more would take as long as all.
const MOST_LEFT: usize = 1024;
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
    /// Rows that can have the greatest product, and the products.
    left: Vec<u32>,
    products: Vec<f32>,
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
        let of_x = Quantized::elements(1, cols) + 2 * MOST_LEFT;
        // Each of four buffers ends with its page.
        (size_of::<f32>() * (rows * of_row + of_x + 4 * PAGE)) as u64
    }

    /// Reads `weight` once.
    ///
    /// # Panics
    /// When there is none for its format.
    #[must_use]
    pub fn new(exec: &Exec, weight: &Matrix<'_>) -> Screen {
        assert!(Screen::takes(weight.format()), "a screen of {:?}", weight.format());
        let (rows, cols) = (weight.rows(), weight.cols());
        let (row, groups) = (PACKED.row_bytes(cols) / size_of::<f32>(), cols.div_ceil(GROUP));
        let mut buffers = Buffer::side_by_side([rows * row, rows * groups, rows, rows].into_iter());
        let mut next = || buffers.next().expect("one for each length");
        let mut screen = Screen {
            rows,
            cols,
            integers: next(),
            scales: next(),
            off: next(),
            lengths: next(),
            x: Quantized::new(Quantized::elements(1, cols)),
            left: Vec::with_capacity(MOST_LEFT),
            products: vec![0.0; MOST_LEFT],
        };
        let (integers, scales) = (SharedMut::new(&mut screen.integers), SharedMut::new(&mut screen.scales));
        let (off, lengths) = (SharedMut::new(&mut screen.off), SharedMut::new(&mut screen.lengths));
        let (stored, row_bytes) = (weight.parts()[0], weight.format().row_bytes(cols));
        // As many rows as make it worth while to hand them out.
        let step = 256;
        exec.pool().run(rows.div_ceil(step), &|item, _| {
            let mut from = vec![0.0; cols.next_multiple_of(LANES)];
            for r in item * step..((item + 1) * step).min(rows) {
                let (own, beyond) = from.split_at_mut(cols);
                widen(exec, &stored[r * row_bytes..(r + 1) * row_bytes], weight.format(), own);
                beyond.fill(0.0);
                // SAFETY: each row is written once.
                let (to, scales, off, lengths) = unsafe {
                    (
                        integers.slice(r * row..(r + 1) * row),
                        scales.slice(r * groups..(r + 1) * groups),
                        off.slice(r..r + 1),
                        lengths.slice(r..r + 1),
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
        screen
    }

    /// Sets `out: [rows]` to the products of `x: [cols]` with `weight`, of which this is a screen: as [`linear`] has them wherever they can be
    /// the greatest, and elsewhere about so, and less than the greatest. Tells whether it did: where numbers are not finite, or too many
    /// products are nearly equal, `out` is without meaning, and they have to be computed.
    ///
    /// # Panics
    /// When shapes do not agree.
    pub fn greatest(&mut self, exec: &Exec, weight: &Matrix<'_>, x: &[f32], out: &mut [f32]) -> bool {
        let (rows, cols) = (self.rows, self.cols);
        assert!((weight.rows(), weight.cols()) == (rows, cols), "a screen of [{rows}, {cols}]");
        assert!(x.len() == cols && out.len() == rows, "a row of {cols} and room for {rows}");
        let length = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        if length < SHORTEST {
            return false;
        }
        self.x.set(exec, x, 1, cols, Bits::Eight);
        let screen = Matrix::new(self.integers.bytes(), self.scales.bytes(), PACKED, rows, cols);
        linear(
            exec,
            Rows::Int8(&self.x),
            1,
            &mut [Linear { weight: screen, bias: None, out: Columns::new(out, rows, 0) }],
        );

        let missed = self.x.distance(x);
        // Sums of so many roundings, in either product, of numbers that are together no longer than both vectors' lengths say.
        let slack = (cols + 64) as f64 * EPSILON;
        let (a, b) = ((length * (1.0 + EPSILON)) as f32, (missed + slack * (length + missed)) as f32 * 1.0001);
        let bound = |off: f32, length: f32| (off * a + length * b) * 1.0001;
        let mut most = [f32::NEG_INFINITY; LANES];
        for ((about, off), length) in out.chunks(LANES).zip(self.off.chunks(LANES)).zip(self.lengths.chunks(LANES)) {
            for (((most, about), off), length) in most.iter_mut().zip(about).zip(off).zip(length) {
                let least = about - bound(*off, *length);
                *most = if least > *most { least } else { *most };
            }
        }
        let least = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
        if !least.is_finite() {
            return false;
        }
        self.left.clear();
        for (r, ((about, off), length)) in out.iter().zip(&*self.off).zip(&*self.lengths).enumerate() {
            // What is no number may be anything.
            let is_less = about + bound(*off, *length) < least;
            if !is_less {
                if self.left.len() == MOST_LEFT {
                    return false;
                }
                self.left.push(r as u32);
            }
        }
        let products = &mut self.products[..self.left.len()];
        let mut jobs: Vec<_> = self
            .left
            .iter()
            .zip(products.iter_mut())
            .map(|(r, product)| Linear {
                weight: weight.some_rows(*r as usize, 1),
                bias: None,
                out: Columns::new(std::slice::from_mut(product), 1, 0),
            })
            .collect();
        linear(exec, Rows::F32(x), 1, &mut jobs);
        for (r, product) in self.left.iter().zip(products) {
            out[*r as usize] = *product;
        }
        true
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
