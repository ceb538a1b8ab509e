//! What a sequence carries from pass to pass where its past is not in a KV cache: the last inputs of a convolution, the
//! state of a recurrence.

use std::ops::Range;

use crate::exec::SharedMut;

/// The rows of one sequence in a pass, in the order of their positions, and the state that it carries.
///
/// A kernel takes all sequences of a pass at once, so that a pass is one job however many there are. Their rows
/// follow one another and do not overlap; rows of no sequence are left as they are.
pub struct Carried<'a> {
    rows: Range<usize>,
    state: SharedMut<'a>,
    len: usize,
}

impl<'a> Carried<'a> {
    /// The sequence that has these rows of the pass, and its state, which is updated in place. A sequence that begins has a
    /// state of zeros.
    #[must_use]
    pub fn new(rows: Range<usize>, state: &'a mut [f32]) -> Carried<'a> {
        Carried { rows, len: state.len(), state: SharedMut::new(state) }
    }

    /// The sequence's rows of the pass.
    pub(crate) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// A part of the state.
    ///
    /// # Safety
    /// No other part that overlaps `range` is in use.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(crate) unsafe fn state(&self, range: Range<usize>) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.state.slice(range) }
    }
}

/// The sequences of a pass of `n` rows, each with a state of `len` elements, as threads may share them. Kernels write
/// each sequence's rows without asking about the others', so this is where it is made sure that no two have a row in common.
///
/// # Panics
/// When rows overlap, are out of order or outside the pass, or a state has another length.
pub(crate) fn checked<'c, 'a>(sequences: &'c mut [Carried<'a>], n: usize, len: usize) -> &'c [Carried<'a>] {
    let mut end = 0;
    for sequence in &*sequences {
        assert!(sequence.rows.start >= end && sequence.rows.start <= sequence.rows.end, "rows follow one another");
        assert_eq!(sequence.len, len, "elements of a state");
        end = sequence.rows.end;
    }
    assert!(end <= n, "rows of the pass");
    sequences
}
