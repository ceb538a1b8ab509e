//! Rotary position embedding.

use crate::exec::Exec;
use crate::simd::{LANES, Op, Simd};

/// Which elements of a head are rotated together, `half` pairs of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pairing {
    /// Element `i` with element `i + half`, as transformers' `modeling_llama.py::apply_rotary_pos_emb`.
    Half,
    /// Element `2 i` with element `2 i + 1`, as `modeling_cohere.py::apply_rotary_pos_emb`.
    Interleaved,
}

/// Rotates the elements `first .. first + 2 * half` of every head of `x: [n, heads, head_dim]` in place, where
/// `cos` and `sin` are `[n, half]`: a pair `(x1, x2)` becomes `x1·cos − x2·sin` and `x2·cos + x1·sin`, each product rounded.
///
/// # Panics
/// When the lengths do not agree.
#[allow(clippy::too_many_arguments, reason = "a tensor's shape, and angles")]
pub fn rotate(
    exec: &Exec,
    x: &mut [f32],
    heads: usize,
    head_dim: usize,
    first: usize,
    pairing: Pairing,
    cos: &[f32],
    sin: &[f32],
) {
    let width = heads * head_dim;
    assert!(width > 0 && x.len().is_multiple_of(width), "rows of {heads} heads of {head_dim}");
    let n = x.len() / width;
    assert!(cos.len() == sin.len() && (n == 0 || cos.len().is_multiple_of(n)), "a row of angles for each row");
    let half = cos.len().checked_div(n).unwrap_or(0);
    assert!(first + 2 * half <= head_dim, "rotated elements from {first} on, of {head_dim}");
    let isa = exec.isa();
    exec.for_rows(x, width, |r, row| {
        let angles = r * half..(r + 1) * half;
        let rotate = Rotate { row, head_dim, first, cos: &cos[angles.clone()], sin: &sin[angles] };
        match pairing {
            Pairing::Half => isa.run(Halves(rotate)),
            Pairing::Interleaved => isa.run(Neighbours(rotate)),
        }
    });
}

struct Rotate<'a> {
    row: &'a mut [f32],
    head_dim: usize,
    first: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

struct Halves<'a>(Rotate<'a>);

impl Op for Halves<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rotate { row, head_dim, first, cos, sin } = self.0;
        let half = cos.len();
        assert_eq!(half, sin.len());
        for head in row.chunks_exact_mut(head_dim) {
            let (first, second) = head[first..first + 2 * half].split_at_mut(half);
            let (first, second) = (first.as_mut_ptr(), second.as_mut_ptr());
            let mut k = 0;
            while k < half {
                let n = (half - k).min(LANES);
                // SAFETY: `first`, `second`, `cos` and `sin` hold `half` elements, `k + n <= half`.
                unsafe {
                    let x1 = s.load_first(first.add(k), n);
                    let x2 = s.load_first(second.add(k), n);
                    let cos = s.load_first(cos.as_ptr().add(k), n);
                    let sin = s.load_first(sin.as_ptr().add(k), n);
                    s.store_first(first.add(k), s.sub(s.mul(x1, cos), s.mul(x2, sin)), n);
                    s.store_first(second.add(k), s.add(s.mul(x2, cos), s.mul(x1, sin)), n);
                }
                k += n;
            }
        }
    }
}

struct Neighbours<'a>(Rotate<'a>);

impl Op for Neighbours<'_> {
    type Output = ();

    /// Pair by pair: the compiler makes vectors of it, and of the same operations the same bits.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Rotate { row, head_dim, first, cos, sin } = self.0;
        for head in row.chunks_exact_mut(head_dim) {
            let pairs = head[first..first + 2 * cos.len()].as_chunks_mut::<2>().0;
            for ((pair, cos), sin) in pairs.iter_mut().zip(cos).zip(sin) {
                let [x1, x2] = *pair;
                *pair = [x1 * cos - x2 * sin, x2 * cos + x1 * sin];
            }
        }
    }
}
