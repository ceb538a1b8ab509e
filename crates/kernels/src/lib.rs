//! Arithmetic on slices for decoder-only language models.
//!
//! Weights come in as borrowed bytes ([`Matrix`]), activations as `&[f32]`, and results go into slices
//! that the caller owns. The kernels never allocate in a call, never do I/O and return no `Result`:
//! shapes that do not agree are the caller's bug and panic.
//!
//! # The numeric contract
//!
//! Weights stored as f32, bf16 or f16 are widened exactly; quantised ones to the f32 that their [`Format`] states: an integer, its zero
//! point taken off, or a small floating-point number, times a scale, rounded once (exact for integers of 4 and 8 bits without zero points
//! and scales of 16 bits). Activations are f32. A dot product over an axis of
//! length `n` has one order that depends on `n` alone: lane `l` of 16 adds the elements `l, l + 16, l + 32, …`
//! in increasing order by fused multiply-add, a short tail counts as zeros, and the 16 lanes are added in
//! the tree `l + (l+8)`, `l + (l+4)`, `l + (l+2)`, `l + (l+1)`. Attention has orders of its own: a
//! score adds the products of eight elements in increasing order by fused multiply-add, and these sums in increasing order; sums
//! over keys go in blocks aligned to position 0 (see [`attention()`]). Elementary functions are this crate's own polynomials.
//!
//! The reduced mode ([`Rows::Bf16`]) rounds both factors of a matrix product to bf16 and has an order of its own: lane
//! `l` of 16 adds the pairs `l, l + 16, …` of neighbouring elements, of each pair the product of the second elements,
//! then that of the first, by fused multiply-add, subnormal numbers counting as zeros; this is what `vdpbf16ps`
//! does, and what the other paths do with ordinary instructions.
//!
//! The tiled mode ([`Rows::Tiles`]) rounds both factors to bf16, too, and sums as the matrix unit of some CPUs (AMX's `tdpbf16ps`)
//! does: of each 32 elements, in order, the even ones are multiplied and summed by fused multiply-add, and so are the odd ones, each
//! from zero on and in increasing order; both sums are added, and the result is added to that of the elements before. Subnormal numbers
//! count as zeros, a short tail too.
//!
//! The integer mode ([`Rows::Int8`]), for packed weights, rounds x to 8-bit integers in blocks of 32 with a scale each
//! ([`Quantized`]). The products of a block are summed exactly, as integers, and the sum, times the product of both scales rounded to
//! f32, is added to that of the blocks before by fused multiply-add, in increasing order.
//!
//! So, within a mode, a result does not depend on how many rows are computed together, on the tile, on the number of
//! threads, on the instruction set, or on the format in which the same values are stored.

#![allow(clippy::needless_range_loop, reason = "a tile's loops read best with its indices")]

mod activation;
mod attention;
mod buffer;
mod cache;
mod carried;
mod conv;
mod delta;
mod element;
mod elementwise;
mod exec;
mod format;
mod input_major;
mod integers;
mod kv;
mod layout;
mod linear;
mod math;
mod matrix;
mod norm;
mod pool;
pub mod probe;
mod record;
mod rope;
mod rounded;
mod router;
mod screen;
mod simd;
mod tile;
mod tiled;
mod widen;

pub use activation::{Activation, activate, gate};
pub use attention::{Attention, Gathering, SPAN_ROWS, Span, attention};
pub use buffer::Buffer;
pub use carried::Carried;
pub use conv::{AfterConv, Conv, causal_conv, gated_conv};
pub use delta::{DeltaRule, delta_gates, delta_rule, l2_norm};
pub use elementwise::{
    Run, add_assign, add_scaled_rows, clamp, copy_columns, multiply, scale, scaled_add_assign, sigmoid_gate, soft_cap,
    softplus,
};
pub use exec::Exec;
pub use format::{
    Affine, Awq, Bits, Float, Format, Fp8, Gptq, GptqZeros, MOST_PARTS, Order, Packed, Part, Scales, Zeros, valid_order,
};
pub use integers::Quantized;
pub use kv::{KV_BLOCK, KV_UNIT, KvBlock, KvFormat, KvSource};
pub use linear::{Columns, Linear, Rows, linear, widen_rows};
pub use matrix::Matrix;
pub use norm::{Norm, NormKind, gated_rms_norm, l2_norm_in_place, norm, norm_in_place};
pub use pool::Pool;
pub use record::{Interval, Worked};
pub use rope::{Pairing, rotate};
pub use rounded::Rounded;
pub use router::{GroupScore, Groups, Normalise, Router, Scores, route};
pub use screen::Screen;
pub use simd::Isa;
pub use tiled::Tiled;
pub use widen::widen;
