//! Rows of weights in f32, for those who want more of them than a product with their inputs.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

use super::widen_row_scales;
use super::{Columns, Linear, PANEL_ROWS, Route, SharedRows, Strip, Widen, WidenInputs, WidenOrdered, panel_stride};
use crate::element::{Affine4, Affine8, Bf16, E2m1, E4m3, Element, F16, F32, Int4, Int8};
use crate::exec::{Exec, SCRATCH, SharedMut};
use crate::format::{Affine, Bits, Float, Format, Order, Scales};
use crate::input_major::{Awqs, Floats, Gptqs, InputMajor};
use crate::layout::{Layout, RowByRow};
use crate::matrix::Matrix;
use crate::simd::Isa;
use crate::tile::InF32;

/// Writes `rows` of `weight` to `out: [rows, cols]`: the values that [`linear`](super::linear()) multiplies with in f32.
///
/// # Panics
/// When the shapes do not agree, or a row is longer than a thread's scratch buffer.
pub fn widen_rows(exec: &Exec, weight: &Matrix<'_>, rows: Range<usize>, out: &mut [f32]) {
    let cols = weight.cols();
    assert!(rows.start <= rows.end && rows.end <= weight.rows(), "rows {rows:?} of {}", weight.rows());
    assert_eq!(out.len(), rows.len() * cols, "[{}, {cols}]", rows.len());
    let row = panel_stride::<InF32>(cols) + weight.format().scratch_of_row(cols);
    assert!(row <= SCRATCH, "a row of {cols} elements");
    let step = (SCRATCH / row).min(PANEL_ROWS);
    let out = SharedMut::new(out);
    let isa = exec.isa();
    exec.run_with_scratch(rows.len().div_ceil(step), &|item, scratch| {
        let first = rows.start + item * step;
        let last = (first + step).min(rows.end);
        // Of a product only the weights.
        let job = Linear { weight: *weight, bias: None, out: Columns::new(&mut [], 0, 0) };
        let x = SharedRows { start: NonNull::dangling().as_ptr(), stride: 0 };
        let strip = Strip { x, x_rows: 0..0, job: &job, first, last, route: Route::Panel, tiled: false, scales: &[] };
        let panel = widen::<RowByRow<InF32>>(isa, &strip, panel_stride::<InF32>(cols), scratch);
        // SAFETY: the items' rows do not overlap.
        let out = unsafe { out.slice((first - rows.start) * cols..(last - rows.start) * cols) };
        for (to, from) in out.chunks_exact_mut(cols.max(1)).zip(panel.chunks(panel_stride::<InF32>(cols))) {
            to.copy_from_slice(&from[..cols]);
        }
    });
}

/// The strip's weights in a panel, `stride` f32 for each row.
pub(super) fn widen<'a, L: Layout>(isa: Isa, strip: &Strip<'_>, stride: usize, scratch: &'a mut [f32]) -> &'a [f32] {
    let weight = strip.job.weight;
    match weight.format() {
        Format::F32 => rows_of::<L, _>(isa, strip, stride, F32, scratch),
        Format::Bf16 => rows_of::<L, _>(isa, strip, stride, Bf16, scratch),
        Format::F16 => rows_of::<L, _>(isa, strip, stride, F16, scratch),
        Format::Packed(packed) => match packed.bits {
            Bits::Four => {
                rows_of::<L, _>(isa, strip, stride, Int4(packed.group, packed.scales != Scales::F32), scratch)
            }
            Bits::Eight if packed.scales == Scales::F32 => {
                rows_of::<L, _>(isa, strip, stride, Int8::<false>(packed.group), scratch)
            }
            Bits::Eight => rows_of::<L, _>(isa, strip, stride, Int8::<true>(packed.group), scratch),
        },
        Format::Fp8(fp8) => rows_of::<L, _>(isa, strip, stride, E4m3(fp8.block_cols), scratch),
        Format::Mxfp4 => rows_of::<L, _>(isa, strip, stride, E2m1, scratch),
        Format::Affine(Affine { packed, order: Order::Sequential, .. }) => match packed.bits {
            Bits::Four => rows_of::<L, _>(isa, strip, stride, Affine4(packed.group), scratch),
            Bits::Eight => rows_of::<L, _>(isa, strip, stride, Affine8(packed.group), scratch),
        },
        Format::Affine(Affine { packed, order: Order::Stored, .. }) => match packed.bits {
            Bits::Four => ordered_of::<L, Int4>(isa, strip, stride, scratch),
            Bits::Eight => ordered_of::<L, Int8<false>>(isa, strip, stride, scratch),
        },
        Format::Transposed(float) => match float {
            Float::F32 => inputs_of::<L, _>(isa, strip, stride, Floats::new(&weight, F32), scratch),
            Float::Bf16 => inputs_of::<L, _>(isa, strip, stride, Floats::new(&weight, Bf16), scratch),
            Float::F16 => inputs_of::<L, _>(isa, strip, stride, Floats::new(&weight, F16), scratch),
        },
        Format::Gptq(gptq) => inputs_of::<L, _>(isa, strip, stride, Gptqs::new(&weight, gptq), scratch),
        Format::Awq(awq) => inputs_of::<L, _>(isa, strip, stride, Awqs::new(&weight, awq), scratch),
    }
}

fn rows_of<'a, L: Layout, W: Element>(
    isa: Isa,
    strip: &Strip<'_>,
    stride: usize,
    element: W,
    scratch: &'a mut [f32],
) -> &'a [f32] {
    let (scales, panel) = widen_row_scales(isa, strip, scratch);
    let strip = &strip.with(scales);
    isa.run(Widen { strip, element, panel: &mut *panel, stride, layout: PhantomData::<L> });
    panel
}

fn ordered_of<'a, L: Layout, W: Element>(
    isa: Isa,
    strip: &Strip<'_>,
    stride: usize,
    scratch: &'a mut [f32],
) -> &'a [f32] {
    let (scales, panel) = widen_row_scales(isa, strip, scratch);
    let strip = &strip.with(scales);
    isa.run(WidenOrdered { strip, panel: &mut *panel, stride, types: PhantomData::<(L, W)> });
    panel
}

fn inputs_of<'a, L: Layout, I: InputMajor>(
    isa: Isa,
    strip: &Strip<'_>,
    stride: usize,
    inputs: I,
    scratch: &'a mut [f32],
) -> &'a [f32] {
    isa.run(WidenInputs { strip, inputs, panel: &mut *scratch, stride, layout: PhantomData::<L> });
    scratch
}
