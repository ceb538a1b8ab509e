//! A CPU, or a system, that knows no tiles.

use super::TILE;

/// Nothing is one.
#[derive(Clone, Copy)]
pub(crate) enum Tiles {}

pub(crate) struct Shape {
    pub(crate) weights: [usize; 2],
    pub(crate) x: [usize; 2],
}

/// Nothing is asked for.
pub(crate) const AHEAD: usize = 0;

pub(crate) struct Sums(pub(crate) [[[f32; TILE]; TILE]; 4]);

impl Tiles {
    pub(crate) fn begin(self) -> Tiles {
        self
    }

    /// # Safety
    /// There are no tiles to use.
    #[allow(clippy::too_many_arguments, reason = "pointers and strides of two operands")]
    pub(crate) unsafe fn multiply(
        &mut self,
        _shape: Shape,
        _weights: [*const u8; 2],
        _stride: usize,
        _x: [*const u8; 2],
        _steps: usize,
        _ahead: *const u8,
        _sums: &mut Sums,
    ) {
        match *self {}
    }
}
