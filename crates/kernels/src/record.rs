//! What the threads of a pool did when: only recorded when asked for, since it takes memory.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

/// A time in which a thread worked on one job: from its first item to the end of its last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interval {
    /// Nanoseconds after the recording's origin.
    pub start: u64,
    /// Nanoseconds after the recording's origin.
    pub end: u64,
}

/// What one thread did, in order.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Worked {
    /// Its intervals, which do not overlap.
    pub intervals: Vec<Interval>,
    /// When the first interval ended that there was no room for, in nanoseconds after the origin.
    pub cut: Option<u64>,
}

/// The recording of a pool. Off, it is one load for each item.
#[derive(Default)]
pub(crate) struct Record {
    on: OnceLock<On>,
}

struct On {
    origin: Instant,
    /// One for each thread. Each is written by its thread alone, so that its lock is free.
    tracks: Vec<Track>,
}

/// Threads do not share a cache line.
#[repr(align(128))]
struct Track(Mutex<Inside>);

struct Inside {
    worked: Worked,
    most: usize,
    /// The job of the last interval; nothing for one that no other thread had a part in.
    epoch: Option<u64>,
}

impl Record {
    /// Records what `threads` threads do from now on, `most` intervals of each. Once on, it stays on.
    pub(crate) fn begin(&self, origin: Instant, threads: usize, most: usize) {
        self.on.get_or_init(|| {
            let track = |_| {
                let worked = Worked { intervals: Vec::with_capacity(most), cut: None };
                Track(Mutex::new(Inside { worked, most, epoch: None }))
            };
            On { origin, tracks: (0..threads).map(track).collect() }
        });
    }

    /// Runs `item` of the job `epoch` (a job by itself, without one) on the thread `worker`.
    #[inline]
    pub(crate) fn item<T>(&self, worker: usize, epoch: Option<u64>, item: impl FnOnce() -> T) -> T {
        let Some(on) = self.on.get() else { return item() };
        let start = Instant::now();
        let result = item();
        let at = |time: Instant| time.saturating_duration_since(on.origin).as_nanos() as u64;
        on.tracks[worker].add(epoch, Interval { start: at(start), end: at(Instant::now()) });
        result
    }

    /// Takes what was recorded so far, thread by thread; nothing when recording is off.
    pub(crate) fn take(&self) -> Vec<Worked> {
        let tracks = self.on.get().map_or(&[][..], |on| &on.tracks);
        let lock = |track: &Track| {
            let mut inside = track.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Nothing more is recorded: what was taken holds the memory.
            inside.most = 0;
            std::mem::take(&mut inside.worked)
        };
        tracks.iter().map(lock).collect()
    }
}

impl Track {
    fn add(&self, epoch: Option<u64>, interval: Interval) {
        let mut inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Inside { worked, most, epoch: last_epoch } = &mut *inside;
        if worked.cut.is_some() {
            return;
        }
        let same_job = epoch.is_some() && *last_epoch == epoch;
        let full = worked.intervals.len() == *most;
        match worked.intervals.last_mut() {
            Some(last) if same_job => last.end = interval.end,
            _ if full => worked.cut = Some(interval.end),
            _ => worked.intervals.push(interval),
        }
        *last_epoch = epoch;
    }
}
