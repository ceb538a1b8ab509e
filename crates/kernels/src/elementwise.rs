//! Element-by-element steps of a block: residual addition and gated activation.

use crate::exec::Exec;
use crate::math;
use crate::simd::{LANES, Op, Simd};

/// Elements that one item of a parallel job takes: enough that sharing it out costs little.
const ITEM: usize = 1 << 15;

/// The non-linearity of a feed-forward.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activation {
    /// `x / (1 + e^−x)`, also called swish.
    Silu,
}

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

/// `gate = act(gate) · up`, element by element: the middle of a gated feed-forward.
///
/// # Panics
/// When the lengths differ.
pub fn gate(exec: &Exec, act: Activation, gate: &mut [f32], up: &[f32]) {
    #[derive(Clone, Copy)]
    struct SiluGate;
    impl Binary for SiluGate {
        #[inline(always)]
        fn apply<S: Simd>(self, s: S, gate: S::V, up: S::V) -> S::V {
            s.mul(math::silu(s, gate), up)
        }
    }
    match act {
        Activation::Silu => zip(exec, gate, up, SiluGate),
    }
}

/// A function of two vectors.
trait Binary: Copy + Sync {
    fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V;
}

fn zip<F: Binary>(exec: &Exec, a: &mut [f32], b: &[f32], f: F) {
    struct Zip<'a, F>(&'a mut [f32], &'a [f32], F);
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
    assert_eq!(a.len(), b.len(), "operands of one length");
    let len = a.len();
    let a = crate::exec::SharedMut::new(a);
    let isa = exec.isa();
    exec.pool().run(len.div_ceil(ITEM), &|item, _| {
        let range = item * ITEM..((item + 1) * ITEM).min(len);
        // SAFETY: the items' ranges do not overlap.
        let part = unsafe { a.slice(range.clone()) };
        isa.run(Zip(part, &b[range], f));
    });
}
