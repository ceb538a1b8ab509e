//! Who reads: one thread with `io_uring`, or a few that read one tile after another.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::error::{StoreError, StoreErrorKind};
use crate::plan::Io;
use crate::stream::Shared;
#[cfg(target_os = "linux")]
use crate::uring::Uring;

/// Threads that read, where `io_uring` does not: reads under way at once.
const THREADS: usize = 4;

/// How weights are read, as it turned out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// They are part of the program.
    Nothing,
    /// By `io_uring`, past the page cache.
    Uring,
    /// By threads, past the page cache.
    Direct,
    /// By threads, through the page cache.
    Buffered,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Nothing => "nothing to read",
            Way::Uring => "io_uring, past the page cache",
            Way::Direct => "threads, past the page cache",
            Way::Buffered => "threads, through the page cache",
        })
    }
}

/// The threads that read.
pub(crate) struct Readers {
    way: Way,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Starts to read, as the plan says and the system allows.
    pub(crate) fn start(shared: &Arc<Shared>, checkpoint: &Path) -> Result<Readers, StoreError> {
        let plan = shared.plan();
        let mut readers = Readers { way: Way::Nothing, threads: Vec::new() };
        if plan.pinned_bytes() + plan.streamed_bytes() == 0 {
            return Ok(readers);
        }
        let refused = |what: &str, advice: &str| {
            StoreError::new(StoreErrorKind::IoRefused, what.to_owned()).at(checkpoint).advise(advice)
        };
        let on_disk = || shared.sources().iter().filter(|source| source.file().is_some());
        readers.way = Way::Buffered;
        if plan.is_direct() && on_disk().all(|source| source.direct().is_some()) {
            readers.way = Way::Direct;
        } else if plan.io() != Io::Auto && plan.io() != Io::Buffered {
            return Err(refused("the file system refuses reads past the page cache", "read it with --io auto"));
        }
        #[cfg(target_os = "linux")]
        if readers.way == Way::Direct && plan.io() != Io::Direct {
            match Uring::new() {
                Ok(uring) => {
                    readers.way = Way::Uring;
                    let shared = Arc::clone(shared);
                    readers.spawn("rheostat-read".to_owned(), checkpoint, move || uring.serve(&shared))?;
                    return Ok(readers);
                }
                Err(error) if plan.io() == Io::Uring => {
                    return Err(refused("the system refuses io_uring", "read it with --io auto").caused_by(error));
                }
                Err(_) => {}
            }
        }
        #[cfg(not(target_os = "linux"))]
        if plan.io() == Io::Uring {
            return Err(refused("this system has no io_uring", "read it with --io auto"));
        }
        for i in 0..THREADS {
            let shared = Arc::clone(shared);
            readers.spawn(format!("rheostat-read-{i}"), checkpoint, move || read(&shared))?;
        }
        Ok(readers)
    }

    pub(crate) fn way(&self) -> Way {
        self.way
    }

    fn spawn(&mut self, name: String, at: &Path, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        let thread = std::thread::Builder::new().name(name).stack_size(256 << 10).spawn(run).map_err(|e| {
            StoreError::new(StoreErrorKind::OutOfMemory, "a reader thread cannot be started").at(at).caused_by(e)
        })?;
        self.threads.push(thread);
        Ok(())
    }

    /// Waits for the threads, which were told to stop.
    pub(crate) fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // Readers do not panic; if one did, there is nothing left to undo.
            let _ = thread.join();
        }
    }
}

/// Reads one tile after another until told to stop.
fn read(shared: &Shared) {
    while let Some(job) = shared.wait_for_job() {
        let result = shared.extents(&job).try_for_each(|extent| {
            // SAFETY: the extent's memory is the job's alone until it is finished.
            let to = unsafe { std::slice::from_raw_parts_mut(extent.to, extent.len) };
            let source = shared.source(extent.shard);
            if shared.plan().is_direct() {
                source.read_pages_at(extent.offset, to, extent.need)
            } else {
                source.read_exact_at(extent.offset, to)
            }
        });
        shared.finish(&job, result);
    }
}
