//! What a kernel runs on: an instruction set, a crew of threads, and a scratch buffer for each of them.

use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::buffer::Buffer;
use crate::cache::l2_bytes;
use crate::pool::Pool;
use crate::simd::Isa;

/// f32 elements in each thread's scratch buffer: 1 MiB, for a panel of weights and the scales that belong to it.
pub(crate) const SCRATCH: usize = 1 << 18;

/// f32 elements of rows that lie interleaved while they are multiplied: 4 MiB, which stay in a shared cache.
pub(crate) const INTERLEAVED: usize = 1 << 20;

/// Bytes of a panel, at most, which leaves room for scales in the scratch buffer.
const MOST_PANEL: usize = SCRATCH * size_of::<f32>() / 4 * 3;

/// Elements that one item of [`Exec::for_rows`] takes, about.
const ROWS_ITEM: usize = 1 << 14;

/// Bytes that a thread takes besides: what it touches of its stack, and the allocator's and the kernel's share.
const STACK: usize = 64 << 10;

/// The execution context that every kernel takes. Made once; shared by all calls.
pub struct Exec {
    isa: Isa,
    pool: Pool,
    scratch: Vec<Mutex<Buffer>>,
    /// [`INTERLEAVED`], where the instruction set wants that.
    interleaved: Mutex<Buffer>,
    /// [`Exec::panel_bytes`]
    panel: usize,
}

impl Exec {
    /// An execution context with `threads` threads, the calling one among them.
    ///
    /// # Errors
    /// When the system refuses to start a thread.
    pub fn new(isa: Isa, threads: NonZeroUsize) -> std::io::Result<Exec> {
        let scratch = (0..threads.get()).map(|_| Mutex::new(Buffer::new(SCRATCH))).collect();
        let interleaved = Mutex::new(Buffer::new(if isa.interleaves() { INTERLEAVED } else { 0 }));
        Ok(Exec { isa, pool: Pool::new(threads)?, scratch, interleaved, panel: (l2_bytes() / 2).min(MOST_PANEL) })
    }

    /// The instruction set in use.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads that share the work, the caller among them.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Bytes of widened weights that go well into a core's own cache, beside what they are multiplied with.
    pub(crate) fn panel_bytes(&self) -> usize {
        self.panel
    }

    /// Bytes of memory that a context of `threads` threads takes.
    #[must_use]
    pub fn memory(isa: Isa, threads: NonZeroUsize) -> u64 {
        let shared = if isa.interleaves() { INTERLEAVED } else { 0 };
        ((shared + threads.get() * SCRATCH) * size_of::<f32>() + threads.get() * STACK) as u64
    }

    /// Room for rows that lie interleaved.
    pub(crate) fn interleaved(&self) -> MutexGuard<'_, Buffer> {
        self.interleaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The crew.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Runs `task(r, row)` for every row `r` of `rows: [n, width]`.
    pub(crate) fn for_rows(&self, rows: &mut [f32], width: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
        let n = rows.len().checked_div(width).unwrap_or(0);
        let rows = SharedMut::new(rows);
        let step = (ROWS_ITEM / width.max(1)).max(1);
        self.pool.run(n.div_ceil(step), &|item, _| {
            for r in item * step..((item + 1) * step).min(n) {
                // SAFETY: the items' rows do not overlap.
                task(r, unsafe { rows.slice(r * width..(r + 1) * width) });
            }
        });
    }

    /// Runs `task(item, scratch)` for every item, each with the scratch buffer of the thread that runs it.
    pub(crate) fn run_with_scratch(&self, items: usize, task: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        self.pool.run(items, &|item, worker| {
            // Never contended: a worker runs one item at a time.
            let mut scratch = self.scratch[worker].lock().unwrap_or_else(PoisonError::into_inner);
            task(item, &mut scratch);
        });
    }
}

/// A mutable slice whose disjoint parts the threads of one job write.
pub(crate) struct SharedMut<'a> {
    start: *mut f32,
    len: usize,
    slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: an exclusive borrow of f32, handed out in parts that `slice`'s callers keep disjoint.
unsafe impl Sync for SharedMut<'_> {}

impl<'a> SharedMut<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> SharedMut<'a> {
        SharedMut { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No other part that overlaps `range` is in use.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len, "a part of the slice");
        // SAFETY: within the borrowed slice, by the check above; exclusive, by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
