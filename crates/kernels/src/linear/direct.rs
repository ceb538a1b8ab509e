//! Products of weights that are widened in registers, from where they lie.

use std::marker::PhantomData;

use super::Strip;
use crate::element::Element;
use crate::simd::{Op, Simd};
use crate::tile::{self, Arithmetic, Nothing, Streams};

/// All rows of x against the strip's weights.
pub(super) struct Direct<'a, A: Arithmetic, W: Element> {
    pub(super) strip: &'a Strip<'a>,
    pub(super) element: W,
    pub(super) arithmetic: PhantomData<A>,
}

/// All rows of x against the strip's weights, widened in registers.
impl<A: Arithmetic, W: Element> Op for Direct<'_, A, W> {
    type Output = ();
    const NARROW: bool = A::NARROW || W::NARROW;

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
            } else if S::SMALL_TILE {
                match left {
                    1 => strip.rows::<S, A, W, 1, 2>(s, element, r),
                    _ => strip.rows::<S, A, W, 2, 2>(s, element, r),
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
        let acc = unsafe {
            let none = [[s.zero(); C]; R];
            let bytes = W::bytes(4 * A::STEP);
            // Half bytes take longer than memory does, and asking takes its part of that; the largest tiles have no registers for it beside scales.
            if s.asks_ahead() && bytes >= 64 && (R < 6 || size_of::<W::Group<S>>() == 0) {
                let ahead = Streams::<C> { next: w.elements, stride: w.stride, bytes };
                tile::accumulate::<S, A, W, R, C>(s, element, x, self.x.stride, w, cols, none, ahead)
            } else {
                tile::accumulate::<S, A, W, R, C>(s, element, x, self.x.stride, w, cols, none, Nothing)
            }
        };
        self.put(s, r, o, step, &acc, (R, C));
    }
}
