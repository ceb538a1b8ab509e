//! `out = x · Wᵀ + b`, for one row or for thousands, over weights as they are stored.
//!
//! Few rows (up to some tens): the time goes into reading each weight once, so tiles read and widen the stored weights
//! directly (`direct.rs`). Many rows: the time goes into multiply-adds, so a thread widens a panel of weight rows
//! into its scratch buffer once and runs wide register tiles over it (`panel.rs`), or small ones over rows that lie interleaved
//! (`interleaved.rs`). Weights that are stored input after input
//! have ways of their own to a panel and past it (`inputs.rs`). All compute the same dot products in the same order (see
//! [`crate::tile`]), so nobody can tell them apart by the bits. Products in integers have an order of their own (see
//! [`crate::integers`]) and ways of their own (`integers.rs`).

mod direct;
mod inputs;
mod integers;
mod interleaved;
mod ordered;
mod panel;
mod rows;
mod scales;
mod tiles;

use std::marker::PhantomData;
use std::ops::Range;

use direct::Direct;
use inputs::{COPY_ENDS, FewRows, WidenInputs, few_rows_elements};
use ordered::WidenOrdered;
use panel::{Panel, Widen, panel_stride};
pub use rows::widen_rows;
use scales::widen_row_scales;
pub(crate) use tiles::{TILES_FLOP, multiply_tiles};

use crate::element::{Affine4, Affine8, Bf16, E2m1, E4m3, Element, F16, F32, Int4, Int8};
use crate::exec::{Exec, SCRATCH};
use crate::format::{Affine, Bits, Float, Format, Order, Scales};
use crate::input_major::{Awqs, Floats, Gptqs, InputMajor};
use crate::integers::Quantized;
use crate::layout::{Interleaved, RowByRow};
use crate::matrix::{Matrix, StoredRows};
use crate::rounded::Rounded;
use crate::simd::{Isa, LANES, Simd, TILE};
use crate::tile::{self, Arithmetic, InBf16, InF32};
use crate::tiled::{self, Tiled};

/// Bytes of rows of x that all panels go over before the next rows are taken: few enough to stay in a shared cache.
const X_BLOCK: usize = 8 << 20;
/// Rows of x that a register tile takes, at most.
const X_ROWS: usize = 6;
/// Weight rows in a panel, at most.
const PANEL_ROWS: usize = 128;
/// Bytes of weights that one item of a direct job reads, about.
const ITEM_BYTES: usize = 512 << 10;
/// Into how many the last items are cut up.
const FINE: usize = 4;
/// Rows of x up to which weights that are stored input after input need no panel.
const INPUT_ROWS: usize = 4;
/// Outputs of such weights that an item takes, at most: so many that its reads are long, and their sums stay near.
const INPUT_WIDTH: usize = 1024;

/// Weight rows in a panel of bf16 for tiles, at most.
const TILES_ROWS: usize = 256;

/// How the products of a job are computed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Route {
    /// Weights are widened in registers.
    Direct,
    /// Weights are widened into a panel.
    Panel,
    /// The same, with rows of x and of the panel interleaved.
    Interleaved,
    /// All outputs at once, input after input.
    Inputs,
}

/// Widening a panel waits for memory, which pays where enough is computed with it afterwards; the cheaper the widening, the
/// later.
fn route(isa: Isa, mode: Rows<'_>, n: usize, weight: &Matrix<'_>) -> Route {
    let (format, cols) = (weight.format(), weight.cols());
    let direct_rows = match (mode, format) {
        (_, Format::Affine(Affine { order: Order::Stored, .. })) => 0,
        // Whole steps of what is bf16 already.
        (Rows::Tiles(_), Format::Bf16) if cols.is_multiple_of(tiled::STEP) => usize::MAX,
        (Rows::Tiles(_), _) => 0,
        (Rows::Bf16(_), Format::Transposed(_) | Format::Gptq(_) | Format::Awq(_)) => 0,
        (Rows::F32(_), Format::Transposed(_) | Format::Gptq(_) | Format::Awq(_)) => INPUT_ROWS,
        (Rows::Int8(_), Format::Packed(packed)) => integers::most_without_panel(packed, cols),
        (Rows::Int8(_) | Rows::Bf16(_), _) => X_ROWS,
        (Rows::F32(_), Format::Bf16 | Format::F16) => 32,
        // With few registers a tile widens its weights for two or three rows of x.
        (Rows::F32(_), Format::Packed(_) | Format::Affine(_) | Format::Fp8(_) | Format::Mxfp4) if isa.interleaves() => {
            X_ROWS
        }
        (Rows::F32(_), Format::Packed(packed)) if packed.bits == Bits::Eight => 32,
        (Rows::F32(_), Format::F32 | Format::Packed(_) | Format::Affine(_) | Format::Fp8(_) | Format::Mxfp4) => 16,
    };
    match n <= direct_rows {
        true if format.is_input_major() => Route::Inputs,
        true => Route::Direct,
        false if matches!(mode, Rows::F32(_)) && isa.interleaves() && interleaved::fits(n, format, cols) => {
            Route::Interleaved
        }
        false => Route::Panel,
    }
}

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
    /// As [`Rows::Bf16`], with sums in the order of the matrix unit that some CPUs have.
    Tiles(&'a Tiled),
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
/// When shapes do not agree, or [`Rows::Tiles`] have more than [`Tiled::MOST_COLS`] elements.
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
            Rows::Tiles(x) => x.shape() == (n, cols) && cols <= Tiled::MOST_COLS,
            Rows::Int8(x) => job.weight.format().takes_integers().is_some_and(|bits| x.shape() == (n, cols, bits)),
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
        Rows::Tiles(x) => x.rows(),
        Rows::Int8(x) => x.rows(),
    };
    let x = SharedRows { start: x, stride: x_stride };
    let total: usize = jobs.iter().map(|job| job.weight.byte_len()).sum();
    // Long streams rather than many items: a stream begins slowly.
    let share = total / (exec.threads() * 2) + 1;
    let route = |job: &Linear<'_>| route(exec.isa(), mode, n, &job.weight);
    let rows_per_item = |job: &Linear<'_>| rows_per_item(exec, mode, n, route(job), &job.weight, share);
    let any = |which| jobs.iter().any(|job| route(job) == which);
    let (blocks, unit) = match mode {
        Rows::F32(x) if any(Route::Interleaved) => {
            (n.div_ceil(interleaved::most_rows(x.len() / n)), interleaved::X_ROWS)
        }
        Rows::Tiles(_) if any(Route::Panel) => ((n * x_stride).div_ceil(X_BLOCK).max(1), tiles::X_ROWS),
        _ if any(Route::Panel) => ((n * x_stride).div_ceil(X_BLOCK).max(1), X_ROWS),
        _ => (1, 1),
    };
    let block = n.div_ceil(blocks).next_multiple_of(unit);
    let blocks = n.div_ceil(block);
    let cut = |index: usize| {
        let job = &jobs[index];
        // Who is done first waits for the others, so the last items are small.
        let in_integers = matches!(mode, Rows::Int8(_));
        let may_be_cut = in_integers || matches!(route(job), Route::Direct | Route::Interleaved);
        let cut_up = if index + 1 == jobs.len() && may_be_cut { exec.threads() } else { 0 };
        let unit = match mode {
            Rows::Tiles(_) => n.next_multiple_of(TILE).min(tiles::X_ROWS),
            Rows::Int8(_) if route(job) == Route::Panel => integers::SIDE_BY_SIDE,
            _ if route(job) == Route::Interleaved => interleaved::W_ROWS,
            _ => 8,
        };
        Cut::new(job.weight.rows(), rows_per_item(job), cut_up, unit)
    };
    let strips: usize = (0..jobs.len()).map(|index| cut(index).count()).sum();
    let isa = exec.isa();
    let rows = |index: usize| index * block..((index + 1) * block).min(n);
    let run = |x_rows: Range<usize>, interleaved: SharedRows, mut item: usize, scratch: &mut [f32]| {
        for (index, job) in jobs.iter().enumerate() {
            let cut = cut(index);
            let count = cut.count();
            if item < count {
                let Range { start: first, end: last } = cut.rows(item);
                let (tiled, route) = (matches!(mode, Rows::Tiles(_)), route(job));
                let x = if route == Route::Interleaved { interleaved } else { x };
                let strip = Strip { x, x_rows, job, first, last, route, tiled, scales: &[] };
                match mode {
                    Rows::F32(_) if route == Route::Interleaved => run_interleaved(isa, &strip, scratch),
                    Rows::F32(_) => run_format::<InF32>(isa, strip, scratch),
                    Rows::Bf16(_) | Rows::Tiles(_) => run_format::<InBf16>(isa, strip, scratch),
                    Rows::Int8(_) => integers::run(isa, strip, route == Route::Panel, scratch),
                }
                return;
            }
            item -= count;
        }
    };
    match mode {
        Rows::F32(x) if any(Route::Interleaved) => {
            let mut room = exec.interleaved();
            for rows in (0..blocks).map(rows) {
                let interleaved = interleaved::lay_out(exec, x, x.len() / n, rows.clone(), &mut room);
                exec.run_with_scratch(strips, &|item, scratch| run(rows.clone(), interleaved, item, scratch));
            }
        }
        _ => {
            exec.run_with_scratch(blocks * strips, &|item, scratch| {
                run(rows(item / strips), x, item % strips, scratch);
            });
        }
    }
}

/// The rows of a matrix, cut into items: coarse ones, and fine ones after them.
struct Cut {
    rows: usize,
    coarse: usize,
    /// How many items are coarse.
    many: usize,
    fine: usize,
}

impl Cut {
    /// `rows` in items of `coarse`, of which the last `cut_up` are cut up again, into multiples of `unit`.
    fn new(rows: usize, coarse: usize, cut_up: usize, unit: usize) -> Cut {
        let fine = if cut_up > 0 { coarse.div_ceil(FINE).next_multiple_of(unit).min(coarse) } else { coarse };
        Cut { rows, coarse, many: (rows / coarse).saturating_sub(cut_up), fine }
    }

    fn count(&self) -> usize {
        self.many + (self.rows - self.many * self.coarse).div_ceil(self.fine)
    }

    fn rows(&self, item: usize) -> Range<usize> {
        let (first, step) = match item.checked_sub(self.many) {
            None => (item * self.coarse, self.coarse),
            Some(item) => (self.many * self.coarse + item * self.fine, self.fine),
        };
        first..(first + step).min(self.rows)
    }
}

/// Weight rows that one item takes, of a job of which a thread's half share is `share` bytes.
fn rows_per_item(exec: &Exec, mode: Rows<'_>, n: usize, route: Route, weight: &Matrix<'_>, share: usize) -> usize {
    let (format, rows, cols) = (weight.format(), weight.rows(), weight.cols());
    if let (Rows::Int8(_), Format::Packed(packed), Route::Panel) = (mode, format, route) {
        let most = integers::panel_rows(packed, cols, exec.panel_bytes());
        return rows.div_ceil(exec.threads() * 4).next_multiple_of(integers::SIDE_BY_SIDE).min(most);
    }
    let count = match route {
        Route::Direct => {
            let unit = if matches!(mode, Rows::Tiles(_)) { tiles::X_ROWS } else { 8 };
            (share.min(ITEM_BYTES) / (weight.byte_len() / rows.max(1)).max(1)).max(1).next_multiple_of(unit)
        }
        Route::Inputs => {
            // Of an input, as long as an output of f32 at most.
            let most = INPUT_WIDTH.min((SCRATCH - COPY_ENDS) / few_rows_elements(n, size_of::<f32>()));
            rows.div_ceil(exec.threads() * 2).max(1).next_multiple_of(4 * LANES).min(most)
        }
        Route::Interleaved => {
            let row = interleaved::row_elements(cols);
            let whole = |count: usize| count - count % interleaved::W_ROWS;
            let fit = exec.panel_bytes() / (row * size_of::<f32>());
            let count = rows.div_ceil(exec.threads() * 4).min(PANEL_ROWS).min(fit);
            whole(count).max(interleaved::W_ROWS).min(whole(SCRATCH / (row + format.scratch_of_row(cols))))
        }
        Route::Panel => {
            let row = match mode {
                Rows::F32(_) => panel_stride::<InF32>(cols),
                Rows::Bf16(_) | Rows::Tiles(_) => panel_stride::<InBf16>(cols),
                Rows::Int8(_) => unreachable!("these have panels of their own"),
            };
            let tiled = matches!(mode, Rows::Tiles(_));
            let (unit, most) = if tiled { (tiles::X_ROWS, TILES_ROWS) } else { (4, PANEL_ROWS) };
            // Few rows of x in tiles ask for nothing ahead of time, so that a panel has to stay nearer.
            let bytes = exec.panel_bytes() / if tiled && n <= tiles::X_ROWS { 3 } else { 1 };
            let fit = bytes / (row * size_of::<f32>()).max(1);
            let count =
                rows.div_ceil(exec.threads() * 4).next_multiple_of(unit).min(most).min(fit - fit % unit).max(unit);
            // Without a panel these have no other way.
            if format.has_direct_rows() && !tiled {
                count
            } else {
                count.min((SCRATCH / (row + format.scratch_of_row(cols)).max(1)).max(1))
            }
        }
    };
    // Their scales take no more than the scratch buffer.
    count.min(match (mode, format) {
        (Rows::Int8(_), Format::Packed(packed)) => integers::direct_rows(packed, cols),
        _ => (SCRATCH / format.scratch_of_row(cols).max(1)).max(1),
    })
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

fn run_interleaved(isa: Isa, strip: &Strip<'_>, scratch: &mut [f32]) {
    let stride = interleaved::row_elements(strip.job.weight.cols());
    let panel = rows::widen::<Interleaved<{ interleaved::W_ROWS }>>(isa, strip, stride, scratch);
    isa.run(interleaved::Multiply { strip, panel });
}

fn run_format<A: Arithmetic>(isa: Isa, strip: Strip<'_>, scratch: &mut [f32]) {
    let weight = strip.job.weight;
    match weight.format() {
        Format::F32 => run::<A, _>(isa, strip, F32, scratch),
        Format::Bf16 => run::<A, _>(isa, strip, Bf16, scratch),
        Format::F16 => run::<A, _>(isa, strip, F16, scratch),
        Format::Packed(packed) => match packed.bits {
            Bits::Four => run::<A, _>(isa, strip, Int4(packed.group, packed.scales != Scales::F32), scratch),
            Bits::Eight if packed.scales == Scales::F32 => {
                run::<A, _>(isa, strip, Int8::<false>(packed.group), scratch);
            }
            Bits::Eight => run::<A, _>(isa, strip, Int8::<true>(packed.group), scratch),
        },
        Format::Fp8(fp8) => run::<A, _>(isa, strip, E4m3(fp8.block_cols), scratch),
        Format::Mxfp4 => run::<A, _>(isa, strip, E2m1, scratch),
        Format::Affine(Affine { packed, order: Order::Sequential, .. }) => match packed.bits {
            Bits::Four => run::<A, _>(isa, strip, Affine4(packed.group), scratch),
            Bits::Eight => run::<A, _>(isa, strip, Affine8(packed.group), scratch),
        },
        Format::Affine(Affine { packed, order: Order::Stored, .. }) => match packed.bits {
            Bits::Four => run_ordered::<A, Int4>(isa, strip, scratch),
            Bits::Eight => run_ordered::<A, Int8<false>>(isa, strip, scratch),
        },
        Format::Transposed(float) => match float {
            Float::F32 => run_inputs::<A, _>(isa, &strip, Floats::new(&weight, F32), scratch),
            Float::Bf16 => run_inputs::<A, _>(isa, &strip, Floats::new(&weight, Bf16), scratch),
            Float::F16 => run_inputs::<A, _>(isa, &strip, Floats::new(&weight, F16), scratch),
        },
        Format::Gptq(gptq) => run_inputs::<A, _>(isa, &strip, Gptqs::new(&weight, gptq), scratch),
        Format::Awq(awq) => run_inputs::<A, _>(isa, &strip, Awqs::new(&weight, awq), scratch),
    }
}

fn run<A: Arithmetic, W: Element>(isa: Isa, strip: Strip<'_>, element: W, scratch: &mut [f32]) {
    let (scales, panel) = widen_row_scales(isa, &strip, scratch);
    let stride = panel_stride::<A>(strip.job.weight.cols());
    let strip = &Strip { scales, ..strip };
    if strip.tiled && strip.route == Route::Direct {
        tiles::multiply(isa, strip, tiles::Weights::stored(strip));
    } else if !strip.tiled && (strip.route == Route::Direct || panel.len() < (strip.last - strip.first) * stride) {
        isa.run(Direct { strip, element, arithmetic: PhantomData::<A> });
    } else {
        isa.run(Widen { strip, element, panel: &mut *panel, stride, layout: PhantomData::<RowByRow<A>> });
        multiply_panel::<A>(isa, strip, panel, stride);
    }
}

/// All rows of x against the strip's weights in a panel.
fn multiply_panel<A: Arithmetic>(isa: Isa, strip: &Strip<'_>, panel: &[f32], stride: usize) {
    if strip.tiled {
        tiles::multiply(isa, strip, tiles::Weights::in_panel(strip, panel, stride));
    } else {
        isa.run(Panel { strip, panel, stride, arithmetic: PhantomData::<A> });
    }
}

fn run_ordered<A: Arithmetic, W: Element>(isa: Isa, strip: Strip<'_>, scratch: &mut [f32]) {
    let (scales, panel) = widen_row_scales(isa, &strip, scratch);
    let stride = panel_stride::<A>(strip.job.weight.cols());
    let strip = &Strip { scales, ..strip };
    isa.run(WidenOrdered { strip, panel: &mut *panel, stride, types: PhantomData::<(RowByRow<A>, W)> });
    multiply_panel::<A>(isa, strip, panel, stride);
}

fn run_inputs<A: Arithmetic, I: InputMajor>(isa: Isa, strip: &Strip<'_>, inputs: I, scratch: &mut [f32]) {
    if strip.route == Route::Inputs {
        isa.run(FewRows { strip, inputs, scratch });
    } else {
        let stride = panel_stride::<A>(strip.job.weight.cols());
        isa.run(WidenInputs { strip, inputs, panel: &mut *scratch, stride, layout: PhantomData::<RowByRow<A>> });
        multiply_panel::<A>(isa, strip, scratch, stride);
    }
}

/// Weight rows `first..last` of one product against some rows of x: one item of the job.
struct Strip<'a> {
    x: SharedRows,
    x_rows: Range<usize>,
    job: &'a Linear<'a>,
    first: usize,
    last: usize,
    route: Route,
    /// Whether sums are in the order of [`Rows::Tiles`].
    tiled: bool,
    /// The scales of its weights, row by row, if they have any.
    scales: &'a [f32],
}

impl Strip<'_> {
    /// The strip with the scales of its weights.
    fn with<'b>(&'b self, scales: &'b [f32]) -> Strip<'b> {
        Strip { x_rows: self.x_rows.clone(), scales, ..*self }
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
        self.x.start.wrapping_add(r * self.x.stride)
    }

    /// Writes the sums of the first `rows` from `r` on and of the first `cols` columns of `o`, `o + step`, ….
    #[inline(always)]
    fn put<S: Simd, const R: usize, const C: usize>(
        &self,
        s: S,
        r: usize,
        o: usize,
        step: usize,
        acc: &[[S::V; C]; R],
        (rows, cols): (usize, usize),
    ) {
        debug_assert!(r + rows <= self.x_rows.end && o + (cols - 1) * step < self.last);
        let mut sums = tile::finish(s, acc);
        if let Some(bias) = self.job.bias {
            for c in 0..cols {
                let bias = bias[o + c * step];
                for sums in &mut sums {
                    sums[c] += bias;
                }
            }
        }
        for (i, sums) in sums[..rows].iter().enumerate() {
            // SAFETY: `linear` checked that the destination has room for `[n, rows]`; these elements belong to this
            // item alone.
            unsafe {
                let out = self.job.out.start.add((r + i) * self.job.out.stride + o);
                if step == 1 && cols == C {
                    out.cast::<[f32; C]>().write(*sums);
                } else {
                    for (c, sum) in sums[..cols].iter().enumerate() {
                        out.add(c * step).write(*sum);
                    }
                }
            }
        }
    }

    /// Writes `sums`, those of row `r` and of columns `o`, `o + step`, ….
    #[inline(always)]
    fn write(&self, r: usize, o: usize, step: usize, sums: &[f32]) {
        assert!(r < self.x_rows.end && o + (sums.len() - 1) * step < self.last);
        for (c, sum) in sums.iter().enumerate() {
            let o = o + c * step;
            let sum = self.job.bias.map_or(*sum, |bias| sum + bias[o]);
            // SAFETY: `linear` checked that the destination has room for `[n, rows]`; these elements belong to this item alone.
            unsafe { self.job.out.start.add(r * self.job.out.stride + o).write(sum) };
        }
    }

    /// Writes as many of `sums` as there are columns, those of row `r` and of columns from `o` on.
    #[inline(always)]
    fn put_lanes<S: Simd>(&self, s: S, r: usize, o: usize, mut sums: S::V) {
        assert!(r < self.x_rows.end && o < self.last);
        let count = LANES.min(self.last - o);
        if let Some(bias) = self.job.bias {
            let bias = &bias[o..o + count];
            // SAFETY: `count` elements.
            sums = s.add(sums, unsafe { s.load_first(bias.as_ptr(), count) });
        }
        // SAFETY: as in `write`.
        unsafe {
            let out = self.job.out.start.add(r * self.job.out.stride + o);
            if count == LANES { s.store(out, sums) } else { s.store_first(out, sums, count) }
        }
    }
}
