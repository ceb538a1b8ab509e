//! Memory of the kernels: zeroed f32, aligned to a page, resident from its first touch on.

use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Elements of a page.
const PAGE: usize = 4096 / size_of::<f32>();

/// A fixed number of f32, aligned to a page.
///
/// The kernels take any slice; on an aligned one whose rows are whole cache lines a vector load never straddles
/// two lines, which is worth a third of the speed of a large product.
///
/// Memory comes from the system page by page, as it is first written, and goes back when it is done with: a buffer that is large and
/// little used takes little, and nothing is left behind in an allocator.
pub struct Buffer {
    start: NonNull<f32>,
    len: usize,
}

// SAFETY: plain numbers that this value owns.
unsafe impl Send for Buffer {}
// SAFETY: as above; only an exclusive borrow writes.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zeros.
    #[must_use]
    pub fn new(len: usize) -> Buffer {
        if len == 0 {
            return Buffer { start: NonNull::dangling(), len };
        }
        let layout = Layout::array::<f32>(len).expect("a buffer fits the address space");
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nobody's memory.
        let mapped = unsafe { mmap_anonymous(std::ptr::null_mut(), layout.size(), access, flags) };
        let Some(start) = mapped.ok().and_then(|start| NonNull::new(start.cast::<f32>())) else {
            handle_alloc_error(layout)
        };
        // Huge pages would make resident what nobody touched. Advice: a kernel without them refuses it.
        // SAFETY: the mapping that was just made.
        let _ = unsafe { madvise(start.as_ptr().cast(), layout.size(), Advice::LinuxNoHugepage) };
        Buffer { start, len }
    }
}

impl Buffer {
    /// Forgets the elements of `range`: gives its whole pages back to the system, which makes them zero.
    pub(crate) fn forget(&mut self, range: Range<usize>) {
        let (first, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
        if first < end {
            let pages = &mut self[first..end];
            // SAFETY: anonymous pages of our own, exclusively borrowed; zeros are numbers. A system whose pages are larger
            // refuses, and nothing is lost.
            let _ = unsafe { madvise(pages.as_mut_ptr().cast(), size_of_val(pages), Advice::LinuxDontNeed) };
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the mapping is ours, and no borrow of it outlives this value.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len * size_of::<f32>()) };
        }
    }
}

impl Buffer {
    /// The bytes of all elements.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: any f32 is four bytes.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len * size_of::<f32>()) }
    }
}

/// The bytes of `x`. Whatever is written is some f32.
pub(crate) fn as_bytes_mut(x: &mut [f32]) -> &mut [u8] {
    // SAFETY: any f32 is four bytes, and any four bytes are an f32; the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), size_of_val(x)) }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the mapping holds `len` f32, zeroed by the system.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
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
            assert!(len == 0 || buffer.as_ptr().align_offset(64) == 0);
            assert_eq!(*buffer, vec![0.0; len][..]);
            buffer.fill(1.0);
            assert_eq!(buffer.iter().sum::<f32>(), len as f32);
        }
    }

    #[test]
    fn what_is_forgotten_is_zero_and_the_rest_stays() {
        let mut buffer = Buffer::new(5 * PAGE + 3);
        buffer.fill(1.0);
        buffer.forget(PAGE - 1..PAGE + 1);
        assert!(buffer.iter().all(|x| *x == 1.0), "no whole page");
        buffer.forget(7..4 * PAGE - 1);
        for (i, x) in buffer.iter().enumerate() {
            assert_eq!(*x, if (PAGE..3 * PAGE).contains(&i) { 0.0 } else { 1.0 }, "{i}");
        }
        buffer.forget(0..0);
        buffer.forget(4 * PAGE..5 * PAGE + 3);
        assert_eq!(buffer.iter().sum::<f32>(), (2 * PAGE + 3) as f32);
    }
}
