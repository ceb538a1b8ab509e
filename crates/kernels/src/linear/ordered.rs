//! A panel of weights whose groups are in an order of their own.

use std::marker::PhantomData;

use super::Strip;
use crate::element::Element;
use crate::format::{Affine, Format, Zeros};
use crate::layout::{Layout, place, store_values};
use crate::simd::{LANES, Op, Simd};
use crate::tile::Arithmetic as _;

/// Elements that are widened together: a step of any arithmetic is a part of them.
const BLOCK: usize = 2 * LANES;

/// Widens the strip's weights, of which every column says to which group it belongs, into a panel.
pub(super) struct WidenOrdered<'a, L: Layout, W: Element> {
    /// With a scale and a zero point for each group.
    pub(super) strip: &'a Strip<'a>,
    pub(super) panel: &'a mut [f32],
    /// f32 elements from row to row of the panel.
    pub(super) stride: usize,
    /// How they lie, and the integers: with a scale of one, these are their values.
    pub(super) types: PhantomData<(L, W)>,
}

impl<L: Layout, W: Element> Op for WidenOrdered<'_, L, W> {
    type Output = ();
    const NARROW: bool = L::In::NARROW || W::NARROW;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let WidenOrdered { strip, panel, stride, .. } = self;
        let weight = &strip.job.weight;
        let cols = weight.cols();
        let order = match weight.format() {
            Format::Affine(Affine { zeros: Zeros::Absent, .. }) => weight.parts()[2],
            _ => weight.parts()[3],
        };
        let order = &order.as_chunks::<4>().0[..cols];
        let pairs = strip.scales.as_chunks::<2>().0;
        let groups = pairs.len() / (strip.last - strip.first);
        // SAFETY: a scale to read.
        let ones = unsafe { W::open(s, [1.0].as_ptr()) };
        for i in 0..strip.last - strip.first {
            let elements = strip.stored_rows(strip.first + i, 1, 1).elements;
            let pairs = &pairs[i * groups..(i + 1) * groups];
            let to = place::<S, L>(panel, stride, cols, i);
            for k in (0..cols).step_by(BLOCK) {
                let count = BLOCK.min(cols - k);
                let (mut scales, mut zeros) = ([0.0; BLOCK], [0.0; BLOCK]);
                for (c, group) in order[k..k + count].iter().enumerate() {
                    let group = u32::from_le_bytes(*group) as usize;
                    [scales[c], zeros[c]] = pairs[group.min(groups - 1)];
                }
                let mut values = [0.0; BLOCK];
                for h in (0..count).step_by(LANES) {
                    // SAFETY: the row holds the elements from `k + h` on, as far as there are any; the arrays hold 16
                    // from `h` on.
                    unsafe {
                        let p = elements.add(W::bytes(k + h));
                        let q =
                            if h + LANES <= count { W::load(s, p, ones) } else { W::load_first(s, p, count - h, ones) };
                        // Differences of small integers are exact, so that the product is rounded once.
                        let difference = s.sub(q, s.load(zeros.as_ptr().add(h)));
                        let value = s.mul(difference, s.load(scales.as_ptr().add(h)));
                        s.store(values.as_mut_ptr().add(h), value);
                    }
                }
                // SAFETY: the row of the panel has room for whole steps of `cols`.
                unsafe { store_values::<S, L>(s, &values, count, to, k) };
            }
        }
    }
}
