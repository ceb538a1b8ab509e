//! Elements in f32, as they are.

use crate::element::{Bf16, Element, F16, F32};
use crate::exec::Exec;
use crate::format::Format;
use crate::simd::{LANES, Op, Simd};

/// Widens elements of a format without scales.
pub(crate) struct Plain<'a, W: Element>(pub(crate) &'a [u8], pub(crate) &'a mut [f32], pub(crate) W);

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
/// When `from` does not hold exactly `to.len()` elements, or the format has other parts.
pub fn widen(exec: &Exec, from: &[u8], format: Format, to: &mut [f32]) {
    assert_eq!(from.len(), format.row_bytes(to.len()), "{} elements of {format:?}", to.len());
    match format {
        Format::F32 => exec.isa().run(Plain(from, to, F32)),
        Format::Bf16 => exec.isa().run(Plain(from, to, Bf16)),
        Format::F16 => exec.isa().run(Plain(from, to, F16)),
        _ => panic!("elements of {format:?} by themselves"),
    }
}
