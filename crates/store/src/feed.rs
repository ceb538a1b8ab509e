//! What readers are told to read: the seam between those who know what is wanted (the sweep's stream, the cache of
//! experts) and those who fetch it (`reader.rs`, `uring.rs`).

use crate::error::StoreError;
use crate::plan::Io;
use crate::source::Source;

/// Somebody who has jobs for readers. A job is some ranges of files and the memory that they go to, which is the job's
/// alone from when it is handed out until it is [finished](Feed::finish).
pub(crate) trait Feed: Send + Sync + 'static {
    /// What is read together.
    type Job;

    /// What its threads are called.
    const NAME: &'static str;

    /// How it is to be read.
    fn io(&self) -> Io;

    /// Whether jobs are whole pages, to be read past the page cache where the system allows it.
    fn is_direct(&self) -> bool;

    /// Whether there will be any jobs at all.
    fn reads(&self) -> bool;

    /// Bytes of memory that are read into in turn.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "for io_uring"))]
    fn room(&self) -> usize;

    /// The files.
    fn sources(&self) -> &[Source];

    /// Waits for a job; nothing when it is time to stop.
    fn wait_for_job(&self) -> Option<Self::Job>;

    /// A job, if there is any now.
    fn poll_job(&self) -> Option<Self::Job>;

    /// What there is to read for `job`.
    fn fetches(&self, job: &Self::Job) -> impl Iterator<Item = Fetch>;

    /// The bytes of `job` are there, or are not to be had. Nothing writes to its memory any more.
    fn finish(&self, job: Self::Job, result: Result<(), StoreError>);
}

/// A range of a file that a job reads.
pub(crate) struct Fetch {
    /// Index of the file.
    pub(crate) shard: usize,
    /// First byte.
    pub(crate) offset: u64,
    /// Where it goes.
    pub(crate) to: *mut u8,
    /// Whether that is memory which is written for the first time: the system has yet to find its pages, which takes time that is not the
    /// disk's.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "for io_uring"))]
    pub(crate) is_new: bool,
    /// Bytes to ask for.
    pub(crate) len: usize,
    /// Bytes that must come; the file may end after them.
    pub(crate) need: usize,
}
