//! Rotary position embedding.

use crate::exec::Exec;
use crate::simd::{LANES, Op, Simd};

/// Rotates the first `2 * half` elements of every head of `x: [n, heads, head_dim]` in place, where
/// `cos` and `sin` are `[n, half]` and element `i` pairs with element `i + half` (half-split, as
/// transformers' `apply_rotary_pos_emb`): `x1·cos − x2·sin` and `x2·cos + x1·sin`, each product rounded.
///
/// # Panics
/// When the lengths do not agree.
pub fn rotate_half(exec: &Exec, x: &mut [f32], heads: usize, head_dim: usize, cos: &[f32], sin: &[f32]) {
    let width = heads * head_dim;
    assert!(width > 0 && x.len().is_multiple_of(width), "rows of {heads} heads of {head_dim}");
    let n = x.len() / width;
    assert!(cos.len() == sin.len() && (n == 0 || cos.len().is_multiple_of(n)), "a row of angles for each row");
    let half = cos.len().checked_div(n).unwrap_or(0);
    assert!(2 * half <= head_dim, "at most {head_dim} rotated elements");
    let isa = exec.isa();
    exec.for_rows(x, width, |r, row| {
        let angles = r * half..(r + 1) * half;
        isa.run(Rotate { row, head_dim, cos: &cos[angles.clone()], sin: &sin[angles] });
    });
}

struct Rotate<'a> {
    row: &'a mut [f32],
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Op for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let half = self.cos.len();
        for head in self.row.chunks_exact_mut(self.head_dim) {
            let (first, second) = head.split_at_mut(half);
            let (first, second) = (first.as_mut_ptr(), second.as_mut_ptr());
            let mut k = 0;
            while k < half {
                let n = (half - k).min(LANES);
                // SAFETY: `first`, `second`, `cos` and `sin` hold at least `half` elements, `k + n <= half`.
                unsafe {
                    let x1 = s.load_first(first.add(k), n);
                    let x2 = s.load_first(second.add(k), n);
                    let cos = s.load_first(self.cos.as_ptr().add(k), n);
                    let sin = s.load_first(self.sin.as_ptr().add(k), n);
                    s.store_first(first.add(k), s.sub(s.mul(x1, cos), s.mul(x2, sin)), n);
                    s.store_first(second.add(k), s.add(s.mul(x2, cos), s.mul(x1, sin)), n);
                }
                k += n;
            }
        }
    }
}
