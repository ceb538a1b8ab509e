//! Memory of the kernels: zeroed f32, aligned to a page, resident from its first touch on.

use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Elements of a page.
pub(crate) const PAGE: usize = 4096 / size_of::<f32>();

/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

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
    /// What the elements lie in; nothing for none.
    _mapping: Option<Arc<Mapping>>,
}

// SAFETY: plain numbers that this value owns.
unsafe impl Send for Buffer {}
// SAFETY: as above; only an exclusive borrow writes.
unsafe impl Sync for Buffer {}

/// Memory that one buffer has, or that several share out.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: only its buffers touch it, each its own part.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `bytes` zeros, at least one.
    fn new(bytes: usize) -> Mapping {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nobody's memory.
        let mapped = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, access, flags) };
        match mapped.ok().and_then(|start| NonNull::new(start.cast::<u8>())) {
            Some(start) => Mapping { start, bytes },
            None => handle_alloc_error(Layout::array::<u8>(bytes).expect("a buffer fits the address space")),
        }
    }

    /// Says of what pages `bytes` from `start` on are best made. Advice: a kernel without such pages refuses it.
    fn advise(&self, start: usize, bytes: usize, advice: Advice) {
        assert!(start + bytes <= self.bytes, "a part of the mapping");
        // SAFETY: pages of the mapping.
        let _ = unsafe { madvise(self.start.as_ptr().add(start).cast(), bytes, advice) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no buffer in it is left.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

impl Buffer {
    /// `len` zeros.
    #[must_use]
    pub fn new(len: usize) -> Buffer {
        if len == 0 {
            return Buffer { start: NonNull::dangling(), len, _mapping: None };
        }
        let layout = Layout::array::<f32>(len).expect("a buffer fits the address space");
        let mapping = Mapping::new(layout.size());
        // Huge pages would make resident what nobody touched.
        mapping.advise(0, layout.size(), Advice::LinuxNoHugepage);
        Buffer { start: mapping.start.cast(), len, _mapping: Some(Arc::new(mapping)) }
    }

    /// Buffers of `lens` zeros each, whole pages, side by side in huge pages where the system has them: into these, a disk reads
    /// faster. For memory that is used as a whole.
    pub(crate) fn side_by_side(lens: impl Iterator<Item = usize> + Clone) -> impl Iterator<Item = Buffer> {
        let pages: usize = lens.clone().map(|len| len.next_multiple_of(PAGE)).sum();
        let bytes = pages * size_of::<f32>();
        let mapping = Arc::new(Mapping::new(bytes + HUGE_PAGE));
        let skip = mapping.start.as_ptr().align_offset(HUGE_PAGE);
        // Whole huge pages only, so that nothing beyond becomes resident.
        let huge = bytes / HUGE_PAGE * HUGE_PAGE;
        mapping.advise(skip, huge, Advice::LinuxHugepage);
        mapping.advise(skip + huge, bytes - huge, Advice::LinuxNoHugepage);
        let mut at = skip;
        lens.map(move |len| {
            let size = len.next_multiple_of(PAGE) * size_of::<f32>();
            assert!(at + size <= mapping.bytes, "as long as they were when they were counted");
            // SAFETY: `skip < HUGE_PAGE`, so that all parts lie within the mapping.
            let start = unsafe { mapping.start.add(at) }.cast();
            at += size;
            Buffer { start, len, _mapping: Some(Arc::clone(&mapping)) }
        })
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
    fn side_by_side_and_apart() {
        let lens = [1, PAGE, PAGE + 1, 3 << 18];
        let mut buffers: Vec<_> = Buffer::side_by_side(lens.iter().copied()).collect();
        for (i, buffer) in buffers.iter_mut().enumerate() {
            assert!(buffer.len() == lens[i] && buffer.as_ptr().align_offset(4096) == 0);
            buffer.fill(i as f32);
        }
        // The others stay where one goes away.
        drop(buffers.remove(1));
        for (buffer, value) in buffers.iter().zip([0.0, 2.0, 3.0]) {
            assert!(buffer.iter().all(|x| *x == value));
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
