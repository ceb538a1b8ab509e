//! Who reads: one thread with `io_uring`, or a few that read one job after another.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::error::{StoreError, StoreErrorKind};
use crate::feed::Feed;
use crate::plan::Io;
#[cfg(target_os = "linux")]
use crate::uring::{Bell, Uring};

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
    #[cfg(target_os = "linux")]
    bell: Option<Arc<Bell>>,
}

impl Readers {
    /// Starts to read what `feed` hands out, as it says and the system allows.
    pub(crate) fn start<F: Feed>(feed: &Arc<F>, checkpoint: &Path) -> Result<Readers, StoreError> {
        let mut readers = Readers {
            way: Way::Nothing,
            threads: Vec::new(),
            #[cfg(target_os = "linux")]
            bell: None,
        };
        if !feed.reads() {
            return Ok(readers);
        }
        let refused = |what: &str, advice: &str| {
            StoreError::new(StoreErrorKind::IoRefused, what.to_owned()).at(checkpoint).advise(advice)
        };
        let on_disk = || feed.sources().iter().filter(|source| source.file().is_some());
        readers.way = Way::Buffered;
        if feed.is_direct() && on_disk().all(|source| source.direct().is_some()) {
            readers.way = Way::Direct;
        } else if feed.io() != Io::Auto && feed.io() != Io::Buffered {
            return Err(refused("the file system refuses reads past the page cache", "read it with --io auto"));
        }
        #[cfg(target_os = "linux")]
        if readers.way == Way::Direct && feed.io() != Io::Direct {
            match Uring::<F>::new(feed.room()) {
                Ok(uring) => {
                    readers.way = Way::Uring;
                    readers.bell = Some(uring.bell());
                    let feed = Arc::clone(feed);
                    readers.spawn(F::NAME.to_owned(), checkpoint, move || uring.serve(&feed))?;
                    return Ok(readers);
                }
                Err(error) if feed.io() == Io::Uring => {
                    return Err(refused("the system refuses io_uring", "read it with --io auto").caused_by(error));
                }
                Err(_) => {}
            }
        }
        #[cfg(not(target_os = "linux"))]
        if feed.io() == Io::Uring {
            return Err(refused("this system has no io_uring", "read it with --io auto"));
        }
        for i in 0..THREADS {
            let feed = Arc::clone(feed);
            readers.spawn(format!("{}-{i}", F::NAME), checkpoint, move || read(&*feed))?;
        }
        Ok(readers)
    }

    /// Says that there is something new to read that should not wait until what is under way has come. (Those who read one thing after the
    /// other do not hear it.)
    pub(crate) fn ring(&self) {
        #[cfg(target_os = "linux")]
        if let Some(bell) = &self.bell {
            bell.ring();
        }
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

/// Reads one job after another until told to stop.
fn read<F: Feed>(feed: &F) {
    while let Some(job) = feed.wait_for_job() {
        let result = feed.fetches(&job).try_for_each(|fetch| {
            // SAFETY: the memory is the job's alone until it is finished.
            let to = unsafe { std::slice::from_raw_parts_mut(fetch.to, fetch.len) };
            let source = &feed.sources()[fetch.shard];
            if feed.is_direct() {
                source.read_pages_at(fetch.offset, to, fetch.need)
            } else {
                source.read_exact_at(fetch.offset, to)
            }
        });
        feed.finish(job, result);
    }
}
