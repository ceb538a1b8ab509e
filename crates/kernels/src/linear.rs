//! `out = x · Wᵀ + b`, for one row or for thousands, over weights as they are stored.
//!
//! Few rows: the time goes into reading each weight once, so tiles read and widen the stored weights
//! directly. Many rows: the time goes into multiply-adds, so a thread widens a panel of weight rows
//! into its scratch buffer once and runs wide register tiles over it. Both compute the same dot
//! products in the same order (see [`crate::tile`]), so nobody can tell them apart by the bits.

use std::marker::PhantomData;

use crate::exec::{Exec, SCRATCH};
use crate::matrix::{Bf16, Element, F16, F32, Format, Matrix};
use crate::simd::{LANES, Op, Simd};
use crate::tile;

/// Rows of x up to which weights are widened in registers; more rows share a widened panel.
const DIRECT_ROWS: usize = 6;
/// Elements of a dot product that a register tile takes before it moves on, so that the rows of x stay in L1.
const K_BLOCK: usize = 1024;
/// Weight rows in a panel, at most.
const PANEL_ROWS: usize = 64;
/// Accumulators of a panel: six rows of x, or fewer, against each of its weight rows.
const PARKED: usize = 6 * PANEL_ROWS;
/// Bytes of a stored row by which reading runs ahead of computing.
const AHEAD: usize = 1024;
/// Bytes of weights that one item of a direct job reads, about.
const ITEM_BYTES: usize = 128 << 10;

/// A strided destination `[n, width]`: row `r` is the `width` elements from `r * stride` on.
#[derive(Debug)]
pub struct Columns<'a> {
    start: *mut f32,
    len: usize,
    stride: usize,
    buffer: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `Columns` is an exclusive borrow of f32; the threads of a job write disjoint elements of it.
unsafe impl Send for Columns<'_> {}
// SAFETY: as above; nothing is read through it.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    /// Columns from `first` on of a row-major buffer whose rows have `stride` elements.
    ///
    /// # Panics
    /// When `first` lies beyond the first row.
    #[must_use]
    pub fn new(buffer: &'a mut [f32], stride: usize, first: usize) -> Columns<'a> {
        assert!(first <= stride && first <= buffer.len(), "column {first} of rows of {stride}");
        let columns = &mut buffer[first..];
        Columns { start: columns.as_mut_ptr(), len: columns.len(), stride, buffer: PhantomData }
    }
}

/// One product of a [`linear`] call.
#[derive(Debug)]
pub struct Linear<'a> {
    /// `[out_features, in_features]`.
    pub weight: Matrix<'a>,
    /// `[out_features]`, added after the sum.
    pub bias: Option<&'a [f32]>,
    /// Where `[n, out_features]` goes.
    pub out: Columns<'a>,
}

/// Computes `out[r, o] = dot(x[r], weight[o]) (+ bias[o])` for every product in `jobs`, all over the same
/// `x: [n, in_features]`, as one parallel job.
///
/// # Panics
/// When shapes do not agree.
pub fn linear(exec: &Exec, x: &[f32], n: usize, jobs: &mut [Linear<'_>]) {
    if n == 0 {
        return;
    }
    let jobs = &*jobs;
    for job in jobs {
        let (rows, cols) = (job.weight.rows(), job.weight.cols());
        assert_eq!(x.len(), n * cols, "x is [{n}, {cols}]");
        assert!(job.bias.is_none_or(|b| b.len() == rows), "a bias of {rows} elements");
        let last_row = (n - 1).checked_mul(job.out.stride).and_then(|at| at.checked_add(rows));
        let fits = job.out.stride >= rows && last_row.is_some_and(|end| end <= job.out.len);
        assert!(fits, "room for [{n}, {rows}]");
    }
    let total: usize = jobs.iter().map(|job| job.weight.bytes().len()).sum();
    let share = total / (exec.threads() * 8) + 1;
    let rows_per_item = |job: &Linear<'_>| {
        let (rows, cols) = (job.weight.rows(), job.weight.cols());
        if n <= DIRECT_ROWS {
            let row = cols * job.weight.format().bytes();
            (share.min(ITEM_BYTES) / row.max(1)).max(1).next_multiple_of(8)
        } else {
            let fit = SCRATCH / padded(cols).max(1);
            rows.div_ceil(exec.threads() * 4).next_multiple_of(4).min(PANEL_ROWS).min(fit - fit % 4).max(4)
        }
    };
    let items = jobs.iter().map(|job| job.weight.rows().div_ceil(rows_per_item(job))).sum();
    let isa = exec.isa();
    exec.run_with_scratch(items, &|mut item, scratch| {
        for job in jobs {
            let step = rows_per_item(job);
            let count = job.weight.rows().div_ceil(step);
            if item < count {
                let first = item * step;
                let last = (first + step).min(job.weight.rows());
                let strip = Strip { x, n, job, first, last, scratch };
                match job.weight.format() {
                    Format::F32 => isa.run(Run { strip, element: PhantomData::<F32> }),
                    Format::Bf16 => isa.run(Run { strip, element: PhantomData::<Bf16> }),
                    Format::F16 => isa.run(Run { strip, element: PhantomData::<F16> }),
                }
                return;
            }
            item -= count;
        }
    });
}

fn padded(cols: usize) -> usize {
    cols.next_multiple_of(LANES)
}

/// Weight rows `first..last` of one product: one item of the job.
struct Strip<'a> {
    x: &'a [f32],
    n: usize,
    job: &'a Linear<'a>,
    first: usize,
    last: usize,
    scratch: &'a mut [f32],
}

struct Run<'a, W: Element> {
    strip: Strip<'a>,
    element: PhantomData<W>,
}

impl<W: Element> Op for Run<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { strip, .. } = self;
        if strip.n <= DIRECT_ROWS || strip.scratch.len() < 4 * padded(strip.job.weight.cols()) {
            direct::<S, W>(s, &strip);
        } else {
            panel::<S, W>(s, strip);
        }
    }
}

/// All rows of x against the strip's weights, widened in registers.
#[inline(always)]
fn direct<S: Simd, W: Element>(s: S, strip: &Strip<'_>) {
    let mut r = 0;
    while r < strip.n {
        let left = strip.n - r;
        r += if S::WIDE_TILE {
            match left {
                1 => strip.rows::<S, W, 1, 8>(s, r),
                2 => strip.rows::<S, W, 2, 4>(s, r),
                3 => strip.rows::<S, W, 3, 4>(s, r),
                4 => strip.rows::<S, W, 4, 4>(s, r),
                5 => strip.rows::<S, W, 5, 4>(s, r),
                _ => strip.rows::<S, W, 6, 4>(s, r),
            }
        } else {
            match left {
                1 => strip.rows::<S, W, 1, 4>(s, r),
                2 => strip.rows::<S, W, 2, 2>(s, r),
                _ => strip.rows::<S, W, 3, 2>(s, r),
            }
        };
    }
}

impl Strip<'_> {
    /// `R` rows of x from `r` on, all weight rows of the strip, `C` at a time. Returns `R`.
    #[inline(always)]
    fn rows<S: Simd, W: Element, const R: usize, const C: usize>(&self, s: S, r: usize) -> usize {
        let mut o = self.first;
        while o + C <= self.last {
            self.one_tile::<S, W, R, C>(s, r, o);
            o += C;
        }
        while o < self.last {
            self.one_tile::<S, W, R, 1>(s, r, o);
            o += 1;
        }
        R
    }

    #[inline(always)]
    fn one_tile<S: Simd, W: Element, const R: usize, const C: usize>(&self, s: S, r: usize, o: usize) {
        let cols = self.job.weight.cols();
        let x = &self.x[r * cols..(r + R) * cols];
        let w = &self.job.weight.bytes()[o * cols * W::BYTES..(o + C) * cols * W::BYTES];
        let mut acc = [[s.zero(); C]; R];
        // SAFETY: the slices above hold `R` and `C` whole rows.
        unsafe {
            tile::accumulate::<S, W, R, C, AHEAD>(s, x.as_ptr(), cols, w.as_ptr(), cols * W::BYTES, cols, &mut acc);
        };
        self.put(s, r, o, &acc);
    }

    #[inline(always)]
    fn put<S: Simd, const R: usize, const C: usize>(&self, s: S, r: usize, o: usize, acc: &[[S::V; C]; R]) {
        debug_assert!(r + R <= self.n && o + C <= self.last);
        tile::finish(s, acc, |i, c, sums| {
            // SAFETY: `linear` checked that the destination has room for `[n, rows]`; these elements
            // belong to this item alone.
            let out = unsafe {
                let start = self.job.out.start.add((r + i) * self.job.out.stride + o + c);
                std::slice::from_raw_parts_mut(start, sums.len())
            };
            match self.job.bias {
                Some(bias) => {
                    for (j, out) in out.iter_mut().enumerate() {
                        *out = sums[j] + bias[o + c + j];
                    }
                }
                None => out.copy_from_slice(sums),
            }
        });
    }
}

/// Widens the strip's weights into scratch, then runs f32 tiles over all rows of x.
#[inline(always)]
fn panel<S: Simd, W: Element>(s: S, mut strip: Strip<'_>) {
    let cols = strip.job.weight.cols();
    let stride = padded(cols);
    let scratch = std::mem::take(&mut strip.scratch);
    for (i, o) in (strip.first..strip.last).enumerate() {
        widen_row::<S, W>(s, strip.job.weight.row(o), &mut scratch[i * stride..][..cols]);
    }
    // Accumulators wait here between blocks of a dot product.
    let mut parked = [s.zero(); PARKED];
    let parked = &mut parked;
    let mut r = 0;
    while r < strip.n {
        let left = strip.n - r;
        r += if S::WIDE_TILE {
            match left {
                1 => strip.panel_rows::<S, 1, 4>(s, r, scratch, stride, parked),
                2 => strip.panel_rows::<S, 2, 4>(s, r, scratch, stride, parked),
                3 => strip.panel_rows::<S, 3, 4>(s, r, scratch, stride, parked),
                4 => strip.panel_rows::<S, 4, 4>(s, r, scratch, stride, parked),
                5 => strip.panel_rows::<S, 5, 4>(s, r, scratch, stride, parked),
                _ => strip.panel_rows::<S, 6, 4>(s, r, scratch, stride, parked),
            }
        } else {
            match left {
                1 => strip.panel_rows::<S, 1, 4>(s, r, scratch, stride, parked),
                2 => strip.panel_rows::<S, 2, 2>(s, r, scratch, stride, parked),
                _ => strip.panel_rows::<S, 3, 2>(s, r, scratch, stride, parked),
            }
        };
    }
}

impl Strip<'_> {
    /// `R` rows of x from `r` on against the widened panel, `K_BLOCK` elements at a time. Returns `R`.
    #[inline(always)]
    fn panel_rows<S: Simd, const R: usize, const C: usize>(
        &self,
        s: S,
        r: usize,
        panel: &[f32],
        stride: usize,
        parked: &mut [S::V; PARKED],
    ) -> usize {
        let cols = self.job.weight.cols();
        let count = self.last - self.first;
        let tiles = count / C;
        assert!(tiles * R * C <= PARKED && panel.len() >= count * stride);
        let x = &self.x[r * cols..(r + R) * cols];
        let mut k = 0;
        while k < cols {
            let len = (cols - k).min(K_BLOCK);
            for t in 0..tiles {
                // SAFETY: `R * C` accumulators from `t * R * C` on, by the check above; arrays of arrays lie
                // without gaps.
                let own = unsafe { &mut *parked.as_mut_ptr().add(t * R * C).cast::<[[S::V; C]; R]>() };
                let mut acc = if k == 0 { [[s.zero(); C]; R] } else { *own };
                // SAFETY: `x` holds `R` rows of `cols`; the panel holds `count` rows of `stride >= cols`;
                // `k + len <= cols`.
                unsafe {
                    tile::accumulate::<S, F32, R, C, 0>(
                        s,
                        x.as_ptr().add(k),
                        cols,
                        panel.as_ptr().add(t * C * stride + k).cast(),
                        stride * 4,
                        len,
                        &mut acc,
                    );
                }
                if k + len == cols {
                    self.put(s, r, self.first + t * C, &acc);
                } else {
                    *own = acc;
                }
            }
            k += len;
        }
        for i in tiles * C..count {
            let mut acc = [[s.zero(); 1]; R];
            // SAFETY: as above, one whole row of the panel.
            unsafe {
                let row = panel.as_ptr().add(i * stride).cast();
                tile::accumulate::<S, F32, R, 1, 0>(s, x.as_ptr(), cols, row, stride * 4, cols, &mut acc);
            }
            self.put(s, r, self.first + i, &acc);
        }
        R
    }
}

#[inline(always)]
fn widen_row<S: Simd, W: Element>(s: S, from: &[u8], to: &mut [f32]) {
    let n = to.len();
    assert_eq!(from.len(), n * W::BYTES);
    let whole = n - n % LANES;
    // SAFETY: `from` and `to` hold `n` elements each.
    unsafe {
        for k in (0..whole).step_by(LANES) {
            s.store(to.as_mut_ptr().add(k), W::load(s, from.as_ptr().add(k * W::BYTES)));
        }
        let rest = n - whole;
        if rest > 0 {
            let v = W::load_first(s, from.as_ptr().add(whole * W::BYTES), rest);
            s.store_first(to.as_mut_ptr().add(whole), v, rest);
        }
    }
}

/// Widens stored elements exactly into `to`, as embedding rows are.
///
/// # Panics
/// When `from` does not hold exactly `to.len()` elements.
pub fn widen(exec: &Exec, from: &[u8], format: Format, to: &mut [f32]) {
    struct Widen<'a, W: Element>(&'a [u8], &'a mut [f32], W);
    impl<W: Element> Op for Widen<'_, W> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            widen_row::<S, W>(s, self.0, self.1);
        }
    }
    match format {
        Format::F32 => exec.isa().run(Widen(from, to, F32)),
        Format::Bf16 => exec.isa().run(Widen(from, to, Bf16)),
        Format::F16 => exec.isa().run(Widen(from, to, F16)),
    }
}
