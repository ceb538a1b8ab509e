//! Anonymous memory, taken once, in which weights live: pinned tiles for good, streamed ones in a ring.

use std::io;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Size and alignment of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// A zeroed region of memory, aligned to a huge page and advised to be made of them where it is large.
///
/// Memory counts as resident from its first touch on, not before.
pub(crate) struct Arena {
    start: NonNull<u8>,
    len: usize,
    /// What was mapped: the region and what its alignment needed.
    mapping: (NonNull<u8>, usize),
}

// SAFETY: a region of plain bytes that this value owns; who writes which part is the callers' affair.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// A region of `len` bytes.
    ///
    /// # Errors
    /// When the system has no such memory.
    pub(crate) fn new(len: usize) -> io::Result<Arena> {
        if len == 0 {
            return Ok(Arena { start: NonNull::dangling(), len, mapping: (NonNull::dangling(), 0) });
        }
        let mapped = len + HUGE_PAGE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nobody's memory.
        let address = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                mapped,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let mapping = NonNull::new(address.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let skip = mapping.as_ptr().align_offset(HUGE_PAGE);
        // SAFETY: `skip < HUGE_PAGE`, within the mapping.
        let start = unsafe { mapping.add(skip) };
        if len >= HUGE_PAGE {
            // Whole huge pages only, so that nothing beyond `len` becomes resident. Advice: a kernel
            // without huge pages refuses it, and nothing is lost.
            // SAFETY: the range lies within the mapping.
            let _ = unsafe {
                rustix::mm::madvise(start.as_ptr().cast(), len / HUGE_PAGE * HUGE_PAGE, Advice::LinuxHugepage)
            };
        }
        Ok(Arena { start, len, mapping: (mapping, mapped) })
    }

    /// The first byte.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let (address, len) = self.mapping;
        if len > 0 {
            // SAFETY: the mapping is ours, and no borrow of it outlives this value.
            let _ = unsafe { rustix::mm::munmap(address.as_ptr().cast(), len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_zeroed_and_writable_to_the_last_byte() {
        for len in [0, 1, HUGE_PAGE - 1, 3 * HUGE_PAGE + 5] {
            let arena = Arena::new(len).unwrap();
            assert_eq!(arena.len(), len);
            if len > 0 {
                assert_eq!(arena.as_ptr().align_offset(HUGE_PAGE), 0);
                // SAFETY: `len` bytes of the arena, borrowed by nobody else.
                let bytes = unsafe { std::slice::from_raw_parts_mut(arena.as_ptr(), len) };
                assert!(bytes.iter().all(|b| *b == 0));
                bytes[len - 1] = 7;
            }
        }
    }
}
