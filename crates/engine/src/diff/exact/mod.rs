//! Every operation in f64: what it gives, exactly for our purposes, and how far rounding may take an engine from that.
//!
//! Pure functions over slices. Inputs are [`Known`](super::noise::Known): recorded values, or results of other operations here with their noise, which is passed on.
//! `noise.rs` says what noise is; each function says what it counts. Values that are not numbers are not known, and what depends on them is not
//! either.
//!
//! Elementary functions are `libm`'s, in f64.

pub mod activation;
pub mod attention;
pub mod elementwise;
pub mod experts;
pub mod linear;
pub mod norm;
pub mod recurrent;
pub mod rotation;
pub mod router;

#[cfg(test)]
pub(crate) mod tests;

/// The steps of a sum over `n` neighbouring elements of one row, as norms and softmaxes take it: every engine does that in vectors of at
/// least eight lanes, and adds those in a tree.
pub(crate) fn reduction_steps(n: usize) -> usize {
    n.div_ceil(8) + 8
}

/// `Σ a·b` and `√Σ(a·b)²`. Eight sums each, so that it is fast.
#[inline]
pub(crate) fn dot<B: Copy + Into<f64>>(a: &[f64], b: &[B]) -> (f64, f64) {
    const LANES: usize = 8;
    let (mut sum, mut squares) = ([0.0; LANES], [0.0; LANES]);
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        for lane in 0..LANES {
            let term = a[lane] * b[lane].into();
            sum[lane] += term;
            squares[lane] += term * term;
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        let term = a * (*b).into();
        sum[lane] += term;
        squares[lane] += term * term;
    }
    (sum.iter().sum(), squares.iter().sum::<f64>().sqrt())
}
