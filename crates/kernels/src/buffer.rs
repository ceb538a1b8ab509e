//! Activations in memory: zeroed f32, aligned to a cache line.

use std::ops::{Deref, DerefMut};

use crate::simd::LANES;

/// One cache line, so that a vector of them is aligned to 64 bytes.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read as part of a slice of f32")] [f32; LANES]);

/// A fixed number of f32, aligned to 64 bytes.
///
/// The kernels take any slice; on an aligned one whose rows are whole cache lines a vector load never straddles
/// two lines, which is worth a third of the speed of a large product.
#[derive(Clone)]
pub struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    /// `len` zeros.
    #[must_use]
    pub fn new(len: usize) -> Buffer {
        Buffer { lines: vec![Line([0.0; LANES]); len.div_ceil(LANES)], len }
    }
}

impl Buffer {
    /// The bytes of all elements.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: any f32 is four bytes.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len * size_of::<f32>()) }
    }

    /// The bytes of all elements. Whatever is written is some f32.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len * size_of::<f32>();
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), len) }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `Line` is 16 f32 without padding (its size equals its alignment), and `len` of them are there.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_zeroed_and_of_the_right_length() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let mut buffer = Buffer::new(len);
            assert_eq!(buffer.as_ptr().align_offset(64), 0);
            assert_eq!(*buffer, vec![0.0; len][..]);
            buffer.fill(1.0);
            assert_eq!(buffer.iter().sum::<f32>(), len as f32);
        }
    }
}
