//! What reading and waiting took: kept under the lock of the stream (or of the cache of experts), at each of whose turns
//! the time since the last one is counted.

use std::time::{Duration, Instant};

/// What was read so far, and how long it took.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Reads {
    /// Bytes of weights that are read in every sweep, or of experts that may have to be read again.
    pub streamed: u64,
    /// Bytes of weights that came to stay.
    pub pinned: u64,
    /// Time in which at least one read was under way.
    pub reading: Duration,
    /// Time in which [`Weights::acquire`](crate::Weights::acquire) (or [`Experts::acquire`](crate::Experts::acquire)) waited.
    pub waiting: Duration,
    /// Time in which both was the case.
    pub both: Duration,
}

/// A read of a tile, or of a piece of an expert, from when a reader took it until its bytes were there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Read {
    /// Nanoseconds after the recording's origin.
    pub start: u64,
    /// Nanoseconds after the recording's origin.
    pub end: u64,
    /// First byte in the file; of several ranges that of the first.
    pub offset: u64,
    /// Bytes in all.
    pub bytes: u64,
    /// Index in [`Checkpoint::sources`](crate::Checkpoint::sources).
    pub shard: u16,
    /// Whether they came to stay.
    pub stays: bool,
    /// For the use of whoever has the recording.
    pub lane: u32,
}

/// Bytes that came: what a [`Read`] says of them.
#[derive(Clone, Copy)]
pub(crate) struct Arrived {
    pub(crate) shard: usize,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) stays: bool,
}

/// Reads in the order in which they ended.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Recording {
    /// The reads.
    pub reads: Vec<Read>,
    /// When the first read ended that there was no room for, in nanoseconds after the origin.
    pub cut: Option<u64>,
    /// What had been read when it ended.
    pub until: Reads,
}

/// How much is to be recorded, and from when on time is counted.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Time 0.
    pub origin: Instant,
    /// Reads at the most.
    pub most: usize,
}

/// The clock of a stream, or of a cache.
pub(crate) struct Clock {
    reads: Reads,
    since: Instant,
    /// Reads under way.
    under_way: usize,
    /// Who waits.
    waiting: usize,
    record: Option<(Record, Recording)>,
}

impl Clock {
    pub(crate) fn new(record: Option<Record>) -> Clock {
        let room =
            |record: Record| (record, Recording { reads: Vec::with_capacity(record.most), ..Recording::default() });
        Clock { reads: Reads::default(), since: Instant::now(), under_way: 0, waiting: 0, record: record.map(room) }
    }

    /// What was read until now.
    pub(crate) fn reads(&mut self) -> Reads {
        self.turn();
        self.reads
    }

    /// A read begins, at the time that is given back.
    pub(crate) fn begin_read(&mut self) -> Instant {
        self.turn();
        self.under_way += 1;
        self.since
    }

    /// A read ends, whatever came of it, at the time that is given back.
    pub(crate) fn end_read(&mut self) -> Instant {
        self.turn();
        self.under_way -= 1;
        self.since
    }

    /// `what` came, from `begun` until `end`.
    pub(crate) fn arrived(&mut self, what: Arrived, begun: Instant, end: Instant) {
        let Arrived { shard, offset, bytes, stays } = what;
        *(if stays { &mut self.reads.pinned } else { &mut self.reads.streamed }) += bytes;
        let Some((Record { origin, most }, recording)) = &mut self.record else { return };
        let at = |time: Instant| time.saturating_duration_since(*origin).as_nanos() as u64;
        if recording.cut.is_none() && recording.reads.len() < *most {
            let (start, end, shard) = (at(begun), at(end), shard as u16);
            recording.reads.push(Read { start, end, offset, bytes, shard, stays, lane: 0 });
        } else {
            recording.cut.get_or_insert(at(end));
        }
    }

    /// Somebody begins, or ends, to wait.
    pub(crate) fn set_waiting(&mut self, waiting: bool) {
        self.turn();
        if waiting {
            self.waiting += 1;
        } else {
            self.waiting -= 1;
        }
    }

    /// Takes what was recorded, and records no more.
    pub(crate) fn take_record(&mut self) -> Option<Recording> {
        self.turn();
        self.record.take().map(|(_, recording)| Recording { until: self.reads, ..recording })
    }

    fn turn(&mut self) {
        let now = Instant::now();
        let time = now.saturating_duration_since(self.since);
        self.since = now;
        if self.under_way > 0 {
            self.reads.reading += time;
        }
        if self.waiting > 0 {
            self.reads.waiting += time;
        }
        if self.waiting > 0 && self.under_way > 0 {
            self.reads.both += time;
        }
    }
}
