//! Which operation is the first that is wrong, given that its inputs were right.
//!
//! A is a model on this engine, B a recording: a [`TraceFile`] of hook points, by transformers or by this engine. In one pass of A, at each point
//! that B has, A's value is compared with B's and then replaced by it. So every operation works on B's inputs and is judged by itself:
//! what one of them does wrong is not passed on to the next.
//!
//! - [`operations`] lists what the model computes, in order: what gives each point, from which others.
//! - [`evaluate`] computes any of them in f64 from what was recorded ([`exact`]), with the noise that rounding may add ([`noise`]).
//! - [`judge`] holds A's and B's values against that: who is right. [`compare`] says by how much they differ, and where.
//! - [`examine`] does all that for one point after the other.
//! - [`reading`] says what a difference looks like.
//! - [`report`] is the result as a whole, for people and for machines.
//! - [`hash`] tells whether both had the same weights.

pub mod compare;
pub mod error;
pub mod evaluate;
pub mod exact;
pub mod examine;
pub mod hash;
pub mod judge;
pub mod noise;
pub mod operations;
pub mod reading;
pub mod report;
mod run;
mod stored;
pub mod tensor;
pub mod trace_file;

pub use error::{TraceError, TraceErrorKind};
pub use evaluate::{Evaluator, Recorded, Text};
pub use examine::Examiner;
pub use report::Report;
pub use run::{Inputs, common_points, record};
pub use tensor::{Axes, Place, Tensor};
pub use trace_file::TraceFile;
