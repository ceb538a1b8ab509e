//! How rows lie in memory that are widened before they are multiplied.

use std::marker::PhantomData;

use crate::element::{Element, F32};
use crate::matrix::StoredRows;
use crate::simd::{LANES, Simd};
use crate::tile::{Arithmetic, InF32};

/// Where elements of an arithmetic go, step by step.
pub(crate) trait Layout {
    /// What computes with them.
    type In: Arithmetic;
    /// Rows that lie together: there is room for whole groups.
    const GROUP: usize;

    /// Where row `i` lies of rows of `stride` f32 each, from `rows` on.
    fn place<S: Simd>(rows: *mut f32, stride: usize, i: usize) -> Place;

    /// Writes step `index` of a row.
    ///
    /// # Safety
    /// The row has room for it.
    unsafe fn store<S: Simd>(s: S, row: Place, index: usize, x: <Self::In as Arithmetic>::X<S>);
}

/// Where a row lies.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    start: *mut u8,
    /// Bytes from a step to the next.
    step: usize,
    /// Bytes from a part of a step to the next, where they are apart.
    part: usize,
}

/// One row after the other.
pub(crate) struct RowByRow<A>(PhantomData<A>);

/// In f32, `N` rows together: of each [part](Simd::PARTS) of the lanes step after step, of each step row after row.
pub(crate) struct Interleaved<const N: usize>;

impl<A: Arithmetic> Layout for RowByRow<A> {
    type In = A;
    const GROUP: usize = 1;

    #[inline(always)]
    fn place<S: Simd>(rows: *mut f32, stride: usize, i: usize) -> Place {
        Place { start: rows.wrapping_add(i * stride).cast(), step: A::STEP * A::X_BYTES, part: 0 }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, row: Place, index: usize, x: A::X<S>) {
        // SAFETY: the caller's promise.
        unsafe { A::store_x(s, row.start.add(index * row.step), x) }
    }
}

impl<const N: usize> Layout for Interleaved<N> {
    type In = InF32;
    const GROUP: usize = N;

    #[inline(always)]
    fn place<S: Simd>(rows: *mut f32, stride: usize, i: usize) -> Place {
        let (part, bytes) = (LANES / S::PARTS, N * size_of::<f32>());
        let start = rows.wrapping_add(i / N * N * stride + i % N * part);
        Place { start: start.cast(), step: part * bytes, part: stride / S::PARTS * bytes }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, row: Place, index: usize, x: S::V) {
        let first = row.start.wrapping_add(index * row.step);
        // SAFETY: both parts of the step, which are written as parts of sixteen lanes.
        unsafe {
            s.store_part::<0>(first.cast(), s.part::<0>(x));
            if S::PARTS == 2 {
                let lanes = first.wrapping_add(row.part).cast::<f32>().wrapping_sub(LANES / 2);
                s.store_part::<1>(lanes, s.part::<1>(x));
            }
        }
    }
}

/// Where row `i` of `rows` lies, which have `stride` f32 each and hold `cols` elements, padded to whole steps.
///
/// # Panics
/// When there is no room for it.
#[inline(always)]
pub(crate) fn place<S: Simd, L: Layout>(rows: &mut [f32], stride: usize, cols: usize, i: usize) -> Place {
    assert!(stride * size_of::<f32>() >= cols.next_multiple_of(L::In::STEP) * L::In::X_BYTES);
    assert!(rows.len() >= (i + 1).next_multiple_of(L::GROUP) * stride);
    L::place::<S>(rows.as_mut_ptr(), stride, i)
}

/// Widens the first of `row`'s rows, of `cols` elements, to row `i` of `to`, padded with zeros to whole steps.
///
/// # Panics
/// As [`place`].
#[inline(always)]
pub(crate) fn store_widened<S: Simd, L: Layout, W: Element>(
    s: S,
    element: W,
    row: StoredRows<'_>,
    cols: usize,
    (to, stride, i): (&mut [f32], usize, usize),
) {
    let step = L::In::STEP;
    let to = place::<S, L>(to, stride, cols, i);
    let (mut k, mut index) = (0, 0);
    while k < cols {
        let end = k.saturating_add(element.group()).min(cols);
        // SAFETY: the row holds `cols` elements and the scales of their groups; `to` has room for whole steps.
        unsafe {
            let group = W::open(s, row.scales.wrapping_add(index));
            while k + step <= end {
                L::store(s, to, k / step, L::In::load_w::<S, W>(s, row.elements.add(W::bytes(k)), group));
                k += step;
            }
            if k < end {
                let rest = L::In::load_w_first::<S, W>(s, row.elements.add(W::bytes(k)), end - k, group);
                L::store(s, to, k / step, rest);
                k = end;
            }
        }
        index += W::SCALES;
    }
}

/// Writes `values`, of which steps are whole parts, from element `k` on as those of a row; zeros after the first `count`.
///
/// # Safety
/// The row has room for whole steps of so many, and `count` are no more than `values`.
#[inline(always)]
pub(crate) unsafe fn store_values<S: Simd, L: Layout>(
    s: S,
    values: &[f32; 2 * LANES],
    count: usize,
    to: Place,
    k: usize,
) {
    let step = L::In::STEP;
    for from in (0..count).step_by(step) {
        // SAFETY: the array holds whole steps; the caller vouches for `to`.
        unsafe {
            let elements = L::In::load_w::<S, F32>(s, values.as_ptr().add(from).cast(), ());
            L::store(s, to, (k + from) / step, elements);
        }
    }
}
