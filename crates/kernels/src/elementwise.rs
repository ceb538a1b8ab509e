//! Element-by-element steps of a block: residual additions, multipliers, gates and caps, and columns moved about.
//! (Activations are in `activation.rs`.)

use crate::exec::{Exec, SharedMut};
use crate::math;
use crate::simd::{LANES, Op, Simd};

/// Elements that one item of a parallel job takes: enough that sharing it out costs little.
const ITEM: usize = 1 << 15;

/// `a += b`, element by element.
///
/// # Panics
/// When the lengths differ.
pub fn add_assign(exec: &Exec, a: &mut [f32], b: &[f32]) {
    #[derive(Clone, Copy)]
    struct Add;
    impl Binary for Add {
        #[inline(always)]
        fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V {
            s.add(a, b)
        }
    }
    zip(exec, a, b, Add);
}

/// `a += by · b`, element by element, the product rounded first: a residual addition with a multiplier.
///
/// # Panics
/// When the lengths differ.
pub fn scaled_add_assign(exec: &Exec, a: &mut [f32], b: &[f32], by: f32) {
    zip(exec, a, b, AddScaled(by));
}

/// `a[r] += by[r] · b[r]` for every row `r` of `a` and `b`, both `[n, width]`, with `by: [n]`; the products are rounded first:
/// the output of an expert, by its weight.
///
/// # Panics
/// When the lengths do not agree.
pub fn add_scaled_rows(exec: &Exec, a: &mut [f32], b: &[f32], by: &[f32]) {
    assert!(a.len() == b.len() && a.len().is_multiple_of(by.len().max(1)), "rows of one length, a factor for each");
    assert!(a.is_empty() || !by.is_empty(), "a factor for each row");
    let width = a.len().checked_div(by.len()).unwrap_or(0);
    let isa = exec.isa();
    exec.for_rows(a, width, |r, row| isa.run(Zip(row, &b[r * width..(r + 1) * width], AddScaled(by[r]))));
}

/// `a *= b`, element by element.
///
/// # Panics
/// When the lengths differ.
pub fn multiply(exec: &Exec, a: &mut [f32], b: &[f32]) {
    #[derive(Clone, Copy)]
    struct Multiply;
    impl Binary for Multiply {
        #[inline(always)]
        fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V {
            s.mul(a, b)
        }
    }
    zip(exec, a, b, Multiply);
}

/// `x *= sigmoid(gate)`, element by element.
///
/// # Panics
/// When the lengths differ.
pub fn sigmoid_gate(exec: &Exec, x: &mut [f32], gate: &[f32]) {
    #[derive(Clone, Copy)]
    struct Gate;
    impl Binary for Gate {
        #[inline(always)]
        fn apply<S: Simd>(self, s: S, x: S::V, gate: S::V) -> S::V {
            s.mul(x, math::sigmoid(s, gate))
        }
    }
    zip(exec, x, gate, Gate);
}

/// `x *= by`.
pub fn scale(exec: &Exec, x: &mut [f32], by: f32) {
    #[derive(Clone, Copy)]
    struct Scale(f32);
    impl Unary for Scale {
        #[inline(always)]
        fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
            s.mul(x, s.splat(self.0))
        }
    }
    map(exec, x, Scale(by));
}

/// `x = tanh(x / cap) · cap`.
pub fn soft_cap(exec: &Exec, x: &mut [f32], cap: f32) {
    #[derive(Clone, Copy)]
    struct Cap(f32);
    impl Unary for Cap {
        #[inline(always)]
        fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
            math::soft_cap(s, x, s.splat(self.0))
        }
    }
    map(exec, x, Cap(cap));
}

/// What lies beyond `limit` becomes `limit`, what lies below `-limit` becomes `-limit`.
pub fn clamp(exec: &Exec, x: &mut [f32], limit: f32) {
    #[derive(Clone, Copy)]
    struct Clamp(f32);
    impl Unary for Clamp {
        #[inline(always)]
        fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
            math::clamp(s, x, self.0)
        }
    }
    map(exec, x, Clamp(limit));
}

/// `x = ln(1 + e^x)`.
pub fn softplus(exec: &Exec, x: &mut [f32]) {
    #[derive(Clone, Copy)]
    struct Softplus;
    impl Unary for Softplus {
        #[inline(always)]
        fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
            math::softplus(s, x)
        }
    }
    map(exec, x, Softplus);
}

/// Neighbouring columns that go somewhere together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first of them where they come from.
    pub from: usize,
    /// The first of them where they go.
    pub to: usize,
    /// How many.
    pub len: usize,
}

/// Copies `runs` of every row of `from: [n, from_width]` into the row of `to: [n, to_width]`, run after run; other columns stay as they are.
///
/// # Panics
/// When the lengths do not agree, or a run goes beyond a row.
pub fn copy_columns(exec: &Exec, from: &[f32], from_width: usize, runs: &[Run], to: &mut [f32], to_width: usize) {
    assert!(from_width > 0 && to_width > 0, "rows of some columns");
    let n = to.len() / to_width;
    assert!(to.len() == n * to_width && from.len() == n * from_width, "{n} rows here and there");
    exec.for_rows(to, to_width, |r, to| {
        let from = &from[r * from_width..(r + 1) * from_width];
        for run in runs {
            to[run.to..run.to + run.len].copy_from_slice(&from[run.from..run.from + run.len]);
        }
    });
}

/// `a + by · b`.
#[derive(Clone, Copy)]
struct AddScaled(f32);

impl Binary for AddScaled {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V {
        s.add(a, s.mul(b, s.splat(self.0)))
    }
}

/// `a · silu(b)`.
#[derive(Clone, Copy)]
pub(crate) struct TimesSilu;

impl Binary for TimesSilu {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V {
        s.mul(a, math::silu(s, b))
    }
}

/// A function of one vector. Implementations mark `apply` `#[inline(always)]`.
pub(crate) trait Unary: Copy + Sync {
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V;
}

/// A function of two vectors. Implementations mark `apply` `#[inline(always)]`.
pub(crate) trait Binary: Copy + Sync {
    fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V;
}

/// `x = f(x)`, element by element.
pub(crate) fn map<F: Unary>(exec: &Exec, x: &mut [f32], f: F) {
    let isa = exec.isa();
    in_parts(exec, x, |_, part| isa.run(Map(part, f)));
}

/// `a = f(a, b)`, element by element.
pub(crate) fn zip<F: Binary>(exec: &Exec, a: &mut [f32], b: &[f32], f: F) {
    assert_eq!(a.len(), b.len(), "operands of one length");
    let isa = exec.isa();
    in_parts(exec, a, |first, part| {
        let b = &b[first..first + part.len()];
        isa.run(Zip(part, b, f));
    });
}

/// Runs `task(first, part)` for parts of `x`, which begin at element `first`.
fn in_parts(exec: &Exec, x: &mut [f32], task: impl Fn(usize, &mut [f32]) + Sync) {
    let len = x.len();
    let x = SharedMut::new(x);
    exec.pool().run(len.div_ceil(ITEM), &|item, _| {
        let range = item * ITEM..((item + 1) * ITEM).min(len);
        // SAFETY: the items' ranges do not overlap.
        task(range.start, unsafe { x.slice(range) });
    });
}

/// [`map`] on one thread.
pub(crate) struct Map<'a, F>(pub &'a mut [f32], pub F);

impl<F: Unary> Op for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Map(x, f) = self;
        let (n, x) = (x.len(), x.as_mut_ptr());
        let whole = n - n % LANES;
        // SAFETY: `x` holds `n` elements.
        unsafe {
            for k in (0..whole).step_by(LANES) {
                s.store(x.add(k), f.apply(s, s.load(x.add(k))));
            }
            if whole < n {
                let rest = s.load_first(x.add(whole), n - whole);
                s.store_first(x.add(whole), f.apply(s, rest), n - whole);
            }
        }
    }
}

/// [`zip`] on one thread.
pub(crate) struct Zip<'a, F>(pub &'a mut [f32], pub &'a [f32], pub F);

impl<F: Binary> Op for Zip<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Zip(a, b, f) = self;
        let n = a.len();
        assert_eq!(n, b.len());
        let whole = n - n % LANES;
        // SAFETY: both slices hold `n` elements.
        unsafe {
            for k in (0..whole).step_by(LANES) {
                let y = f.apply(s, s.load(a.as_ptr().add(k)), s.load(b.as_ptr().add(k)));
                s.store(a.as_mut_ptr().add(k), y);
            }
            let rest = n - whole;
            if rest > 0 {
                let x = s.load_first(a.as_ptr().add(whole), rest);
                let y = f.apply(s, x, s.load_first(b.as_ptr().add(whole), rest));
                s.store_first(a.as_mut_ptr().add(whole), y, rest);
            }
        }
    }
}
