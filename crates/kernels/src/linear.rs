//! `out = x · Wᵀ + b`, for one row or for thousands, over weights as they are stored.
//!
//! Few rows (up to some tens): the time goes into reading each weight once, so tiles read and widen the stored weights
//! directly. Many rows: the time goes into multiply-adds, so a thread widens a panel of weight rows
//! into its scratch buffer once and runs wide register tiles over it. Both compute the same dot
//! products in the same order (see [`crate::tile`]), so nobody can tell them apart by the bits.
//! Products in integers have an order of their own (see [`crate::integers`]) and always take the first way: their
//! weights are small and need no widening.

use std::marker::PhantomData;
use std::ops::Range;

use crate::exec::{Exec, SCRATCH};
use crate::integers::{self, BLOCK, Bytes, Groups, HalfBytes, Integers, Quantized};
use crate::matrix::{Bf16, Bits, Element, F16, F32, Format, Int4, Int8, Matrix, Scales, StoredRows};
use crate::rounded::Rounded;
use crate::simd::{Isa, LANES, Op, Simd};
use crate::tile::{self, Arithmetic, InBf16, InF32};

/// Rows of x up to which weights are widened in registers: more share a widened panel. Widening a panel waits for memory, which
/// pays where enough is computed with it afterwards; the cheaper the widening, the later.
fn direct_rows(mode: Rows<'_>, format: Format) -> usize {
    match (mode, format) {
        (Rows::Int8(_) | Rows::Bf16(_), _) => X_ROWS,
        (Rows::F32(_), Format::Bf16 | Format::F16) => 32,
        (Rows::F32(_), Format::Packed(packed)) if packed.bits == Bits::Eight => 32,
        (Rows::F32(_), Format::F32 | Format::Packed(_)) => 16,
    }
}

/// Bytes of a row of x that a register tile takes before it moves on, at most, so that the rows of x stay near.
const K_BLOCK: usize = 12 << 10;
/// Bytes of rows of x that all panels go over before the next rows are taken: few enough to stay in a shared cache.
const X_BLOCK: usize = 4 << 20;
/// Bytes of a panel, at most: half of a usual L2 cache.
const PANEL_BYTES: usize = 512 << 10;
/// Rows of x that a register tile takes, at most.
const X_ROWS: usize = 6;
/// Weight rows in a panel, at most.
const PANEL_ROWS: usize = 64;
/// Accumulators of a panel: six rows of x, or fewer, against each of its weight rows.
const PARKED: usize = X_ROWS * PANEL_ROWS;
/// Bytes of weights that one item of a direct job reads, about.
const ITEM_BYTES: usize = 512 << 10;

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

/// The rows that a [`linear`] call multiplies, and with them the arithmetic.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// `[n, in_features]`: everything is computed in f32.
    F32(&'a [f32]),
    /// Rows rounded to 8-bit integers, for packed weights of one kind.
    Int8(&'a Quantized),
    /// Rows rounded to bf16: weights are rounded too, unless they are bf16 already, and products are summed in f32.
    Bf16(&'a Rounded),
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
pub fn linear(exec: &Exec, x: Rows<'_>, n: usize, jobs: &mut [Linear<'_>]) {
    if n == 0 {
        return;
    }
    let jobs = &*jobs;
    for job in jobs {
        let (rows, cols) = (job.weight.rows(), job.weight.cols());
        let fits = match x {
            Rows::F32(x) => x.len() == n * cols,
            Rows::Bf16(x) => x.shape() == (n, cols),
            Rows::Int8(x) => match job.weight.format() {
                Format::Packed(packed) => x.shape() == (n, cols, packed.bits),
                Format::F32 | Format::Bf16 | Format::F16 => false,
            },
        };
        assert!(fits, "x is [{n}, {cols}] for {:?}", job.weight.format());
        assert!(job.bias.is_none_or(|b| b.len() == rows), "a bias of {rows} elements");
        let last_row = (n - 1).checked_mul(job.out.stride).and_then(|at| at.checked_add(rows));
        let fits = job.out.stride >= rows && last_row.is_some_and(|end| end <= job.out.len);
        assert!(fits, "room for [{n}, {rows}]");
    }
    let mode = x;
    let (x, x_stride) = match mode {
        Rows::F32(x) => (x.as_ptr().cast::<u8>(), x.len() / n * 4),
        Rows::Bf16(x) => x.rows(),
        Rows::Int8(x) => x.rows(),
    };
    let x = SharedRows { start: x, stride: x_stride };
    let total: usize = jobs.iter().map(|job| job.weight.byte_len()).sum();
    // Long streams rather than many items: a stream begins slowly.
    let share = total / (exec.threads() * 2) + 1;
    let direct = |job: &Linear<'_>| n <= direct_rows(mode, job.weight.format());
    let rows_per_item = |job: &Linear<'_>| {
        let (rows, cols) = (job.weight.rows(), job.weight.cols());
        let count = if direct(job) {
            (share.min(ITEM_BYTES) / (job.weight.byte_len() / rows.max(1)).max(1)).max(1).next_multiple_of(8)
        } else {
            let row = match mode {
                Rows::F32(_) => panel_stride::<InF32>(cols) * size_of::<f32>(),
                Rows::Bf16(_) => panel_stride::<InBf16>(cols) * size_of::<f32>(),
                Rows::Int8(_) => job.weight.format().row_bytes(cols),
            };
            let fit = PANEL_BYTES / row.max(1);
            rows.div_ceil(exec.threads() * 4).next_multiple_of(4).min(PANEL_ROWS).min(fit - fit % 4).max(4)
        };
        count.min(scaled_rows(job.weight.format(), cols))
    };
    let blocks = if jobs.iter().all(direct) { 1 } else { (n * x_stride).div_ceil(X_BLOCK).max(1) };
    let block = n.div_ceil(blocks).next_multiple_of(X_ROWS);
    let blocks = n.div_ceil(block);
    let strips: usize = jobs.iter().map(|job| job.weight.rows().div_ceil(rows_per_item(job))).sum();
    let isa = exec.isa();
    exec.run_with_scratch(blocks * strips, &|item, scratch| {
        let (block_index, mut item) = (item / strips, item % strips);
        let x_rows = block_index * block..((block_index + 1) * block).min(n);
        for job in jobs {
            let step = rows_per_item(job);
            let count = job.weight.rows().div_ceil(step);
            if item < count {
                let first = item * step;
                let last = (first + step).min(job.weight.rows());
                let strip = Strip { x, x_rows, job, first, last, direct: direct(job), scales: &[] };
                match mode {
                    Rows::F32(_) => run_format::<InF32>(isa, strip, scratch),
                    Rows::Bf16(_) => run_format::<InBf16>(isa, strip, scratch),
                    Rows::Int8(_) => run_integers(isa, strip, scratch),
                }
                return;
            }
            item -= count;
        }
    });
}

/// All rows of x.
#[derive(Clone, Copy)]
struct SharedRows {
    start: *const u8,
    /// Bytes from row to row.
    stride: usize,
}

// SAFETY: made from a shared borrow that lasts as long as the job, and only read.
unsafe impl Sync for SharedRows {}

fn run_format<A: Arithmetic>(isa: Isa, strip: Strip<'_>, scratch: &mut [f32]) {
    match strip.job.weight.format() {
        Format::F32 => run::<A, _>(isa, strip, F32, scratch),
        Format::Bf16 => run::<A, _>(isa, strip, Bf16, scratch),
        Format::F16 => run::<A, _>(isa, strip, F16, scratch),
        Format::Packed(packed) => match packed.bits {
            Bits::Four => run::<A, _>(isa, strip, Int4(packed.group), scratch),
            Bits::Eight => run::<A, _>(isa, strip, Int8(packed.group), scratch),
        },
    }
}

fn run<A: Arithmetic, W: Element>(isa: Isa, strip: Strip<'_>, element: W, scratch: &mut [f32]) {
    let (scales, panel) = widen_scales(isa, &strip, scratch);
    let stride = panel_stride::<A>(strip.job.weight.cols());
    let strip = &Strip { scales, ..strip };
    if strip.direct || panel.len() < (strip.last - strip.first) * stride {
        isa.run(Direct { strip, element, arithmetic: PhantomData::<A> });
    } else {
        isa.run(Widen { strip, element, panel: &mut *panel, stride, arithmetic: PhantomData::<A> });
        isa.run(Panel { strip, panel, stride, arithmetic: PhantomData::<A> });
    }
}

/// Weight rows whose scales, widened and for each block of x, take no more than the scratch buffer.
fn scaled_rows(format: Format, cols: usize) -> usize {
    match format {
        Format::Packed(packed) => {
            let blocks = cols.div_ceil(BLOCK).next_multiple_of(4);
            (SCRATCH / (packed.groups(cols) + blocks)).max(1)
        }
        Format::F32 | Format::Bf16 | Format::F16 => usize::MAX,
    }
}

/// The scales of the strip's rows, if they have any, and the rest of the scratch buffer.
fn widen_scales<'a>(isa: Isa, strip: &Strip<'_>, scratch: &'a mut [f32]) -> (&'a [f32], &'a mut [f32]) {
    let Some((bytes, format)) = strip.job.weight.stored_scales(strip.first..strip.last) else {
        return (&[], scratch);
    };
    let (scales, rest) = scratch.split_at_mut(bytes.len() / format.bytes());
    match format {
        Scales::F32 => isa.run(Plain(bytes, &mut *scales, F32)),
        Scales::Bf16 => isa.run(Plain(bytes, &mut *scales, Bf16)),
        Scales::F16 => isa.run(Plain(bytes, &mut *scales, F16)),
    }
    (scales, rest)
}

fn run_integers(isa: Isa, strip: Strip<'_>, scratch: &mut [f32]) {
    let Format::Packed(packed) = strip.job.weight.format() else { unreachable!("`linear` checked the formats") };
    match packed.bits {
        Bits::Four => run_integers_of::<HalfBytes>(isa, strip, packed.group, scratch),
        Bits::Eight => run_integers_of::<Bytes>(isa, strip, packed.group, scratch),
    }
}

fn run_integers_of<W: Integers>(isa: Isa, strip: Strip<'_>, group: usize, scratch: &mut [f32]) {
    let cols = strip.job.weight.cols();
    let rows = strip.last - strip.first;
    let groups = Groups::of::<W>(group, cols);
    let (scales, rest) = widen_scales(isa, &strip, scratch);
    let scales = match groups {
        Groups::Units(_) => scales,
        Groups::Blocks => {
            let row = groups.row::<W>(cols);
            let expanded = &mut rest[..rows * row];
            let stored = scales.len() / rows;
            for (to, from) in expanded.chunks_exact_mut(row).zip(scales.chunks_exact(stored)) {
                for (b, to) in to.iter_mut().enumerate() {
                    *to = from[(b * BLOCK / group).min(stored - 1)];
                }
            }
            expanded
        }
    };
    let strip = &Strip { scales, ..strip };
    isa.run(DirectIntegers { strip, groups, format: PhantomData::<W> });
}

/// f32 elements from row to row of a panel. Rows whose length is a multiple of 1 KiB are set apart, or the rows of
/// a tile would crowd into the same few sets of the L1 cache.
fn panel_stride<A: Arithmetic>(cols: usize) -> usize {
    let elements = cols.next_multiple_of(A::STEP) * A::X_BYTES / size_of::<f32>();
    if elements.is_multiple_of(256) { elements + 128 } else { elements }
}

/// Weight rows `first..last` of one product against some rows of x: one item of the job.
struct Strip<'a> {
    x: SharedRows,
    x_rows: Range<usize>,
    job: &'a Linear<'a>,
    first: usize,
    last: usize,
    /// So few rows of x that a panel does not pay.
    direct: bool,
    /// The scales of its weights, row by row, if they have any.
    scales: &'a [f32],
}

struct Direct<'a, A: Arithmetic, W: Element> {
    strip: &'a Strip<'a>,
    element: W,
    arithmetic: PhantomData<A>,
}

/// All rows of x against the strip's weights, widened in registers.
impl<A: Arithmetic, W: Element> Op for Direct<'_, A, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Direct { strip, element, .. } = self;
        let mut r = strip.x_rows.start;
        while r < strip.x_rows.end {
            let left = strip.x_rows.end - r;
            r += if S::WIDE_TILE {
                match left {
                    1 => strip.rows::<S, A, W, 1, 8>(s, element, r),
                    2 => strip.rows::<S, A, W, 2, 4>(s, element, r),
                    3 => strip.rows::<S, A, W, 3, 4>(s, element, r),
                    4 | 5 => strip.rows::<S, A, W, 4, 4>(s, element, r),
                    _ => strip.rows::<S, A, W, 6, 4>(s, element, r),
                }
            } else {
                match left {
                    1 => strip.rows::<S, A, W, 1, 4>(s, element, r),
                    2 => strip.rows::<S, A, W, 2, 2>(s, element, r),
                    _ => strip.rows::<S, A, W, 3, 2>(s, element, r),
                }
            };
        }
    }
}

/// All rows of x, as integers, against the strip's weights.
struct DirectIntegers<'a, W: Integers> {
    strip: &'a Strip<'a>,
    groups: Groups,
    format: PhantomData<W>,
}

impl<W: Integers> Op for DirectIntegers<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let DirectIntegers { strip, groups, .. } = self;
        let mut r = strip.x_rows.start;
        while r < strip.x_rows.end {
            let left = strip.x_rows.end - r;
            r += if S::WIDE_TILE {
                match left {
                    1 => strip.integer_rows::<S, W, 1, 8>(s, groups, r),
                    2 => strip.integer_rows::<S, W, 2, 4>(s, groups, r),
                    3 => strip.integer_rows::<S, W, 3, 4>(s, groups, r),
                    _ => strip.integer_rows::<S, W, 4, 4>(s, groups, r),
                }
            } else {
                match left {
                    1 => strip.integer_rows::<S, W, 1, 4>(s, groups, r),
                    _ => strip.integer_rows::<S, W, 2, 2>(s, groups, r),
                }
            };
        }
    }
}

impl Strip<'_> {
    /// As [`Strip::rows`], in integers.
    #[inline(always)]
    fn integer_rows<S: Simd, W: Integers, const R: usize, const C: usize>(
        &self,
        s: S,
        groups: Groups,
        r: usize,
    ) -> usize {
        let run = (self.last - self.first) / C;
        for t in 0..run {
            self.integer_tile::<S, W, R, C>(s, groups, r, self.first + t, run);
        }
        for o in self.first + C * run..self.last {
            self.integer_tile::<S, W, R, 1>(s, groups, r, o, 1);
        }
        R
    }

    /// Weight rows `o`, `o + step`, ….
    #[inline(always)]
    fn integer_tile<S: Simd, W: Integers, const R: usize, const C: usize>(
        &self,
        s: S,
        groups: Groups,
        r: usize,
        o: usize,
        step: usize,
    ) {
        let w = self.stored_rows(o, step, C);
        let x = self.x_rows(r, R);
        // SAFETY: `w` and `x` are `C` and `R` whole rows, with the scales that `groups` tells of.
        let acc = unsafe { integers::accumulate::<S, W, R, C>(s, x, self.x.stride, w, groups, self.job.weight.cols()) };
        self.put(s, r, o, step, &acc);
    }
}

impl Strip<'_> {
    /// `R` rows of x from `r` on, all weight rows of the strip, `C` at a time. Returns `R`.
    ///
    /// The rows of a tile lie a `C`-th of the strip apart, so that each of its `C` streams of weights goes on where
    /// it was when the next tile begins.
    #[inline(always)]
    fn rows<S: Simd, A: Arithmetic, W: Element, const R: usize, const C: usize>(
        &self,
        s: S,
        element: W,
        r: usize,
    ) -> usize {
        let run = (self.last - self.first) / C;
        for t in 0..run {
            self.one_tile::<S, A, W, R, C>(s, element, r, self.first + t, run);
        }
        for o in self.first + C * run..self.last {
            self.one_tile::<S, A, W, R, 1>(s, element, r, o, 1);
        }
        R
    }

    /// Weight rows `o`, `o + step`, ….
    #[inline(always)]
    fn one_tile<S: Simd, A: Arithmetic, W: Element, const R: usize, const C: usize>(
        &self,
        s: S,
        element: W,
        r: usize,
        o: usize,
        step: usize,
    ) {
        let w = self.stored_rows(o, step, C);
        let x = self.x_rows(r, R);
        let cols = self.job.weight.cols();
        // SAFETY: `w` and `x` are `C` and `R` whole rows.
        let acc =
            unsafe { tile::accumulate::<S, A, W, R, C>(s, element, x, self.x.stride, w, cols, [[s.zero(); C]; R]) };
        self.put(s, r, o, step, &acc);
    }

    /// Weight rows `o`, `o + step`, …, `count` of them, with their scales.
    #[inline(always)]
    fn stored_rows(&self, o: usize, step: usize, count: usize) -> StoredRows<'_> {
        let groups = self.scales.len() / (self.last - self.first);
        self.job.weight.stored_rows(o, step, count).with_scales(self.scales, (o - self.first) * groups, step * groups)
    }

    /// Where the `count` rows of x from `r` on begin.
    #[inline(always)]
    fn x_rows(&self, r: usize, count: usize) -> *const u8 {
        assert!(r + count <= self.x_rows.end);
        // SAFETY: `linear` checked that there are as many rows.
        unsafe { self.x.start.add(r * self.x.stride) }
    }

    /// Writes the sums of the rows from `r` on and the columns `o`, `o + step`, ….
    #[inline(always)]
    fn put<S: Simd, const R: usize, const C: usize>(
        &self,
        s: S,
        r: usize,
        o: usize,
        step: usize,
        acc: &[[S::V; C]; R],
    ) {
        debug_assert!(r + R <= self.x_rows.end && o + (C - 1) * step < self.last);
        let mut sums = tile::finish(s, acc);
        if let Some(bias) = self.job.bias {
            for c in 0..C {
                let bias = bias[o + c * step];
                for sums in &mut sums {
                    sums[c] += bias;
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            // SAFETY: `linear` checked that the destination has room for `[n, rows]`; these elements belong to this
            // item alone.
            unsafe {
                let out = self.job.out.start.add((r + i) * self.job.out.stride + o);
                if step == 1 {
                    out.cast::<[f32; C]>().write(*sums);
                } else {
                    for (c, sum) in sums.iter().enumerate() {
                        out.add(c * step).write(*sum);
                    }
                }
            }
        }
    }
}

/// Widens the strip's weights into a panel.
struct Widen<'a, A: Arithmetic, W: Element> {
    strip: &'a Strip<'a>,
    element: W,
    panel: &'a mut [f32],
    /// f32 elements from row to row of the panel.
    stride: usize,
    arithmetic: PhantomData<A>,
}

impl<A: Arithmetic, W: Element> Op for Widen<'_, A, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.strip.job.weight.cols();
        for (o, to) in (self.strip.first..self.strip.last).zip(self.panel.chunks_exact_mut(self.stride)) {
            store_widened::<S, A, W>(s, self.element, self.strip.stored_rows(o, 1, 1), cols, to);
        }
    }
}

/// All rows of x against the widened weights.
struct Panel<'a, A: Arithmetic> {
    strip: &'a Strip<'a>,
    panel: &'a [f32],
    stride: usize,
    arithmetic: PhantomData<A>,
}

impl<A: Arithmetic> Op for Panel<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Panel { strip, panel, stride, .. } = self;
        // Accumulators wait here between blocks of a dot product.
        let mut parked = [s.zero(); PARKED];
        let parked = &mut parked;
        let mut r = strip.x_rows.start;
        while r < strip.x_rows.end {
            let left = strip.x_rows.end - r;
            r += if S::WIDE_TILE {
                match left {
                    1 => strip.panel_rows::<S, A, 1, 4>(s, r, panel, stride, parked),
                    2 => strip.panel_rows::<S, A, 2, 4>(s, r, panel, stride, parked),
                    3 => strip.panel_rows::<S, A, 3, 4>(s, r, panel, stride, parked),
                    4 => strip.panel_rows::<S, A, 4, 4>(s, r, panel, stride, parked),
                    5 => strip.panel_rows::<S, A, 5, 4>(s, r, panel, stride, parked),
                    _ => strip.panel_rows::<S, A, 6, 4>(s, r, panel, stride, parked),
                }
            } else {
                match left {
                    1 => strip.panel_rows::<S, A, 1, 4>(s, r, panel, stride, parked),
                    2 => strip.panel_rows::<S, A, 2, 2>(s, r, panel, stride, parked),
                    _ => strip.panel_rows::<S, A, 3, 2>(s, r, panel, stride, parked),
                }
            };
        }
    }
}

impl Strip<'_> {
    /// `R` rows of x from `r` on against the widened panel, at most [`K_BLOCK`] bytes of each at a time. Returns `R`.
    #[inline(always)]
    fn panel_rows<S: Simd, A: Arithmetic, const R: usize, const C: usize>(
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
        assert!(tiles * R * C <= PARKED && panel.len() >= count * stride && stride >= panel_stride::<A>(cols));
        let x = self.x_rows(r, R);
        let panel: *const u8 = panel.as_ptr().cast();
        let stride = stride * size_of::<f32>();
        let blocks = (cols * A::X_BYTES).div_ceil(K_BLOCK).max(1);
        let block = cols.div_ceil(blocks).next_multiple_of(4 * A::STEP);
        let mut k = 0;
        while k < cols {
            let len = (cols - k).min(block);
            for t in 0..tiles {
                // SAFETY: `R * C` accumulators from `t * R * C` on, by the check above; arrays of arrays lie
                // without gaps.
                let own = unsafe { &mut *parked.as_mut_ptr().add(t * R * C).cast::<[[S::V; C]; R]>() };
                let mut acc = [[s.zero(); C]; R];
                if k > 0 {
                    // One by one: copied as bytes they would not come back from the store buffer.
                    for r in 0..R {
                        for c in 0..C {
                            acc[r][c] = own[r][c];
                        }
                    }
                }
                // SAFETY: `x` holds `R` rows of `cols`; the panel holds `count` rows of `cols`; `k + len <= cols`.
                let acc = unsafe {
                    let w = panel.add(t * C * stride + k * A::X_BYTES);
                    panel_tile::<S, A, R, C>(s, x.add(k * A::X_BYTES), self.x.stride, w, stride, len, acc)
                };
                if k + len == cols {
                    self.put(s, r, self.first + t * C, 1, &acc);
                } else {
                    for r in 0..R {
                        for c in 0..C {
                            own[r][c] = acc[r][c];
                        }
                    }
                }
            }
            k += len;
        }
        for i in tiles * C..count {
            // SAFETY: as above, one whole row of the panel.
            let acc = unsafe {
                panel_tile::<S, A, R, 1>(s, x, self.x.stride, panel.add(i * stride), stride, cols, [[s.zero()]; R])
            };
            self.put(s, r, self.first + i, 1, &acc);
        }
        R
    }
}

/// A tile whose weights are elements like those of `x`.
///
/// # Safety
/// As [`tile::accumulate`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "pointers and strides of two operands")]
unsafe fn panel_tile<S: Simd, A: Arithmetic, const R: usize, const C: usize>(
    s: S,
    x: *const u8,
    x_stride: usize,
    w: *const u8,
    stride: usize,
    len: usize,
    acc: [[S::V; C]; R],
) -> [[S::V; C]; R] {
    let w = StoredRows::plain(w, stride);
    // SAFETY: the caller's promise.
    unsafe {
        if A::X_BYTES == 2 {
            tile::accumulate::<S, A, Bf16, R, C>(s, Bf16, x, x_stride, w, len, acc)
        } else {
            tile::accumulate::<S, A, F32, R, C>(s, F32, x, x_stride, w, len, acc)
        }
    }
}

/// Widens the first of `row`'s rows to the elements that `A` computes with, padded with zeros to whole steps.
#[inline(always)]
pub(crate) fn store_widened<S: Simd, A: Arithmetic, W: Element>(
    s: S,
    element: W,
    row: StoredRows<'_>,
    cols: usize,
    to: &mut [f32],
) {
    assert!(size_of_val(to) >= cols.next_multiple_of(A::STEP) * A::X_BYTES);
    let to: *mut u8 = to.as_mut_ptr().cast();
    let (mut k, mut index) = (0, 0);
    while k < cols {
        let end = k.saturating_add(element.group()).min(cols);
        // SAFETY: the row holds `cols` elements and the scales of their groups; `to` has room for whole steps.
        unsafe {
            let group = W::open(s, row.scales.wrapping_add(index));
            while k + A::STEP <= end {
                A::store_x(s, to.add(k * A::X_BYTES), A::load_w::<S, W>(s, row.elements.add(W::bytes(k)), group));
                k += A::STEP;
            }
            if k < end {
                let rest = A::load_w_first::<S, W>(s, row.elements.add(W::bytes(k)), end - k, group);
                A::store_x(s, to.add(k * A::X_BYTES), rest);
                k = end;
            }
        }
        index += 1;
    }
}

/// Widens elements of a format without scales.
struct Plain<'a, W: Element>(&'a [u8], &'a mut [f32], W);

impl<W: Element> Op for Plain<'_, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Plain(from, to, _) = self;
        let n = to.len();
        assert_eq!(from.len(), W::bytes(LANES) * n / LANES, "{n} elements");
        let whole = n - n % LANES;
        // SAFETY: `from` and `to` hold `n` elements each, by the check above; such formats need no scale.
        unsafe {
            let group = W::open(s, std::ptr::null());
            for k in (0..whole).step_by(LANES) {
                s.store(to.as_mut_ptr().add(k), W::load(s, from.as_ptr().add(W::bytes(k)), group));
            }
            if whole < n {
                let v = W::load_first(s, from.as_ptr().add(W::bytes(whole)), n - whole, group);
                s.store_first(to.as_mut_ptr().add(whole), v, n - whole);
            }
        }
    }
}

/// Widens stored elements exactly into `to`, as embedding rows are.
///
/// # Panics
/// When `from` does not hold exactly `to.len()` elements, or the format has scales.
pub fn widen(exec: &Exec, from: &[u8], format: Format, to: &mut [f32]) {
    assert_eq!(from.len(), format.row_bytes(to.len()), "{} elements of {format:?}", to.len());
    match format {
        Format::F32 => exec.isa().run(Plain(from, to, F32)),
        Format::Bf16 => exec.isa().run(Plain(from, to, Bf16)),
        Format::F16 => exec.isa().run(Plain(from, to, F16)),
        Format::Packed(_) => panic!("packed elements are widened with their scales"),
    }
}
