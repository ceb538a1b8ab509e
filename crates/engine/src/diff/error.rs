//! What can be wrong with a trace.

use std::path::PathBuf;

/// Why a trace, or a point of it, cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}{kind}", at.as_ref().map_or_else(String::new, |path| format!("{}: ", path.display())))]
pub struct TraceError {
    /// The file, if it is about one.
    pub at: Option<PathBuf>,
    /// What is wrong.
    pub kind: TraceErrorKind,
}

/// What is wrong with a trace.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceErrorKind {
    /// It is another kind of file.
    #[error("this is no trace; give a file that `rheostat trace` or the recorder for transformers wrote")]
    NotATrace,
    /// Another version of the format.
    #[error("the trace is of format version {0}, and this program reads version {version}; record it again", version = super::trace_file::VERSION)]
    Version(String),
    /// A part of its metadata is missing or no use.
    #[error("its metadata say no good `{key}`: {what}; record it again")]
    Metadata {
        /// The key.
        key: &'static str,
        /// What is wrong.
        what: String,
    },
    /// A point of another shape than the model's.
    #[error(
        "the point \"{point}\" is {found:?}, but in this model it is {expected:?}; the trace is of another model, or is damaged"
    )]
    WrongShape {
        /// The point.
        point: String,
        /// Its shape in the trace.
        found: Vec<usize>,
        /// The shape that the model gives it.
        expected: Vec<usize>,
    },
    /// A point whose elements cannot be read.
    #[error("the point \"{point}\" is of {dtype}; traces have F32, and I32 for indices: record it again")]
    Dtype {
        /// The point.
        point: String,
        /// Its element type.
        dtype: &'static str,
    },
    /// A token that the model does not have.
    #[error(
        "token {token} at position {position} is beyond the model's vocabulary of {vocab_size}; the trace is of another model"
    )]
    Token {
        /// The token.
        token: u32,
        /// Its position.
        position: usize,
        /// The vocabulary.
        vocab_size: usize,
    },
    /// The texts of two recordings differ.
    #[error("the texts part at position {position}: {what}; record both of the same tokens")]
    OtherTokens {
        /// The first position at which they do.
        position: usize,
        /// What is there.
        what: String,
    },
    /// The positions of two recordings differ.
    #[error("the trace has other positions than were asked for; record it again with the same")]
    OtherPositions,
    /// A point that the model does not have.
    #[error("the model has no point \"{0}\"; `rheostat hooks` lists those that it has")]
    UnknownPoint(String),
    /// An operation was given too few or too many inputs.
    #[error("an operation cannot be computed from {0} inputs")]
    Inputs(usize),
}

impl TraceError {
    pub(crate) fn unknown_point(point: &str) -> TraceError {
        TraceError { at: None, kind: TraceErrorKind::UnknownPoint(point.to_owned()) }
    }

    pub(crate) fn wrong_inputs(inputs: usize) -> TraceError {
        TraceError { at: None, kind: TraceErrorKind::Inputs(inputs) }
    }
}
