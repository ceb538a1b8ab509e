//! A trace: every sweep, operation, wait and read with its time, and when each thread worked. It is recorded only if
//! asked for, into memory of a size that the budget counts, and ends when that is full.

use std::path::Path;
use std::time::Instant;

use rheostat_kernels::{Interval, Worked};
use rheostat_store::{Checkpoint, Read, Recording};

use crate::profile::{Op, Phase};

/// Something that took time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event<'a> {
    /// Nanoseconds after the model was loaded.
    pub start: u64,
    /// Nanoseconds after the model was loaded.
    pub end: u64,
    /// What it was.
    pub what: What<'a>,
}

/// What an [`Event`] was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What<'a> {
    /// A pass over all weights.
    Sweep {
        /// Its number, from 1.
        number: u64,
        /// What it is for.
        phase: Phase,
        /// Rows that passed.
        rows: usize,
    },
    /// An operation of a pass, or a part of it that no wait cut.
    Op {
        /// Which.
        op: Op,
        /// The layer, for those of one.
        layer: Option<usize>,
        /// Rows of the pass.
        rows: usize,
        /// Bytes of embedding rows that were read for it.
        bytes: u64,
    },
    /// The computing side waited for weights.
    Wait {
        /// The layer, unless it was for the head.
        layer: Option<usize>,
    },
    /// A thread worked on a part of an operation.
    Work {
        /// Which; nothing outside of passes.
        op: Option<Op>,
        /// The layer, for those of one.
        layer: Option<usize>,
    },
    /// A piece of weights was read.
    Read {
        /// The file.
        file: &'a Path,
        /// First byte.
        offset: u64,
        /// Bytes.
        bytes: u64,
        /// Whether it stays in memory.
        stays: bool,
    },
}

/// A line of events that lie within each other or apart, but never across each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Track {
    /// What a thread did. Thread 0 is the one that calls, whose sweeps, operations and waits are here as well.
    Thread(usize),
    /// Reads; as many tracks as there were reads at once.
    Reads(usize),
}

/// What was recorded of a model.
pub struct Trace<'a> {
    log: OpLog,
    work: Vec<Worked>,
    /// Of weights, and of experts if there are any.
    reads: Vec<Recording>,
    /// The first track of each of these, and the number of all.
    lanes: Vec<usize>,
    checkpoint: &'a Checkpoint,
    end: u64,
}

impl<'a> Trace<'a> {
    pub(crate) fn new(
        log: OpLog,
        work: Vec<Worked>,
        mut reads: Vec<Recording>,
        checkpoint: &'a Checkpoint,
    ) -> Trace<'a> {
        let mut lanes = vec![0];
        for recording in &mut reads {
            lanes.push(lanes[lanes.len() - 1] + assign_lanes(&mut recording.reads));
        }
        let cuts = work.iter().map(|w| w.cut).chain([log.cut]).chain(reads.iter().map(|r| r.cut));
        let end = cuts.flatten().min().unwrap_or(u64::MAX);
        Trace { log, work, reads, lanes, checkpoint, end }
    }

    /// When recording ended for want of room, in nanoseconds after the model was loaded; nothing if all is here.
    #[must_use]
    pub fn cut(&self) -> Option<u64> {
        (self.end < u64::MAX).then_some(self.end)
    }

    /// Bytes of weights that were read when the trace was taken.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.reads.iter().map(|r| r.until.streamed + r.until.pinned).sum()
    }

    /// All tracks: threads, then reads.
    pub fn tracks(&self) -> impl Iterator<Item = Track> + use<> {
        (0..self.work.len()).map(Track::Thread).chain((0..self.lanes[self.reads.len()]).map(Track::Reads))
    }

    /// The events of a track by their start, those that hold others before them.
    pub fn events(&self, track: Track) -> Box<dyn Iterator<Item = Event<'_>> + '_> {
        let within = |event: &Event<'_>| event.end <= self.end;
        match track {
            Track::Thread(0) => Box::new(merge(self.log_events().filter(within), self.work_events(0).filter(within))),
            Track::Thread(thread) => Box::new(self.work_events(thread).filter(within)),
            Track::Reads(lane) => Box::new(self.read_events(lane).filter(within)),
        }
    }

    fn log_events(&self) -> impl Iterator<Item = Event<'_>> {
        self.log.entries.iter().map(|entry| {
            // A sweep that was under way when recording ended goes to that end.
            let cut = matches!(entry.kind, Kind::Sweep(_)) && entry.start < self.end;
            let end = if cut { entry.end.min(self.end) } else { entry.end };
            Event { start: entry.start, end, what: entry.what() }
        })
    }

    fn work_events(&self, thread: usize) -> impl Iterator<Item = Event<'_>> {
        self.work[thread].intervals.iter().map(|interval| {
            let (op, layer) = self.log.at(interval);
            Event { start: interval.start, end: interval.end, what: What::Work { op, layer } }
        })
    }

    fn read_events(&self, track: usize) -> impl Iterator<Item = Event<'_>> {
        let of = self.lanes.partition_point(|first| *first <= track) - 1;
        let lane = track - self.lanes[of];
        self.reads[of].reads.iter().filter(move |read| read.lane as usize == lane).map(|read| {
            let &Read { start, end, offset, bytes, shard, stays, .. } = read;
            let file = self.checkpoint.sources()[usize::from(shard)].path();
            Event { start, end, what: What::Read { file, offset, bytes, stays } }
        })
    }
}

/// Two tracks, each in order, as one, where events of the second lie within those of the first or apart.
fn merge<'a>(
    outer: impl Iterator<Item = Event<'a>>,
    inner: impl Iterator<Item = Event<'a>>,
) -> impl Iterator<Item = Event<'a>> {
    let (mut outer, mut inner) = (outer.peekable(), inner.peekable());
    std::iter::from_fn(move || match (outer.peek(), inner.peek()) {
        (Some(a), Some(b)) if b.start < a.start => inner.next(),
        (None, _) => inner.next(),
        _ => outer.next(),
    })
}

/// Sorts reads by their start and gives each the first lane that is free; how many lanes there are.
fn assign_lanes(reads: &mut [Read]) -> usize {
    reads.sort_unstable_by_key(|read| (read.start, read.end));
    let mut ends: Vec<u64> = Vec::new();
    for read in reads {
        let free = ends.iter().position(|end| *end <= read.start).unwrap_or(ends.len());
        if free == ends.len() {
            ends.push(0);
        }
        ends[free] = read.end;
        read.lane = free as u32;
    }
    ends.len()
}

/// What the calling thread does, in order.
pub(crate) struct OpLog {
    origin: Instant,
    most: usize,
    entries: Vec<Entry>,
    cut: Option<u64>,
    /// The entry of the sweep under way.
    sweep: Option<usize>,
    rows: u32,
    layer: u16,
    /// When what is being done now began, and the first of its entries.
    from: u64,
    unnamed: usize,
    /// Bytes of embedding rows for the operation at hand.
    gathered: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    start: u64,
    end: u64,
    /// The number of a sweep, or the bytes of embedding rows.
    extra: u32,
    rows: u32,
    layer: u16,
    kind: Kind,
}

/// No layer.
const NONE: u16 = u16::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Op(Op),
    /// A part of an operation that is not over yet.
    Unnamed,
    Wait,
    Sweep(Phase),
}

impl Entry {
    fn layer(&self) -> Option<usize> {
        (self.layer != NONE).then_some(self.layer as usize)
    }

    fn what(&self) -> What<'static> {
        let rows = self.rows as usize;
        match self.kind {
            Kind::Sweep(phase) => What::Sweep { number: u64::from(self.extra), phase, rows },
            Kind::Op(op) => What::Op { op, layer: self.layer(), rows, bytes: u64::from(self.extra) },
            // Nothing is left unnamed when a pass is over.
            Kind::Wait | Kind::Unnamed => What::Wait { layer: self.layer() },
        }
    }
}

/// How many entries of each kind fit `bytes`, with `threads` threads and so many lists of reads.
fn most(bytes: u64, threads: usize, lists: usize) -> usize {
    let one = size_of::<Entry>() + lists * size_of::<Read>() + threads * size_of::<Interval>();
    bytes as usize / one
}

/// How a trace within `bytes` is shared out.
pub(crate) struct Room {
    pub(crate) origin: Instant,
    /// Entries of each list.
    pub(crate) most: usize,
}

impl Room {
    pub(crate) fn new(bytes: u64, threads: usize, lists: usize) -> Room {
        Room { origin: Instant::now(), most: most(bytes, threads, lists) }
    }
}

impl OpLog {
    pub(crate) fn new(room: &Room) -> OpLog {
        OpLog {
            origin: room.origin,
            most: room.most,
            entries: Vec::with_capacity(room.most),
            cut: None,
            sweep: None,
            rows: 0,
            layer: NONE,
            from: 0,
            unnamed: 0,
            gathered: 0,
        }
    }

    fn at_ns(&self, time: Instant) -> u64 {
        time.saturating_duration_since(self.origin).as_nanos() as u64
    }

    fn push(&mut self, start: u64, end: u64, kind: Kind, extra: u32) {
        if self.cut.is_some() {
            return;
        }
        if self.entries.len() == self.most {
            self.cut = Some(end);
            return;
        }
        self.entries.push(Entry { start, end, extra, rows: self.rows, layer: self.layer, kind });
    }

    pub(crate) fn begin(&mut self, now: Instant, number: u64, phase: Phase, rows: usize) {
        (self.rows, self.layer) = (rows as u32, NONE);
        self.from = self.at_ns(now);
        let at = self.entries.len();
        // Its end is not known yet: a sweep that is cut goes on.
        self.push(self.from, u64::MAX, Kind::Sweep(phase), number as u32);
        self.sweep = (self.entries.len() > at).then_some(at);
        self.unnamed = self.entries.len();
    }

    pub(crate) fn end(&mut self, now: Instant) {
        let end = self.at_ns(now);
        if let Some(at) = self.sweep.take() {
            self.entries[at].end = end;
        }
        // What an error broke off is left out, but for its waits.
        let waits = |entry: &Entry| entry.kind != Kind::Unnamed;
        if !self.entries.iter().skip(self.unnamed).all(waits) {
            let kept: Vec<Entry> = self.entries.drain(self.unnamed..).filter(waits).collect();
            self.entries.extend(kept);
        }
        self.layer = NONE;
    }

    pub(crate) fn layer(&mut self, layer: Option<usize>) {
        self.layer = layer.map_or(NONE, |layer| layer as u16);
    }

    pub(crate) fn waited(&mut self, start: Instant, end: Instant) {
        let (start, end) = (self.at_ns(start), self.at_ns(end));
        if start > self.from {
            self.push(self.from, start, Kind::Unnamed, 0);
        }
        self.push(start, end, Kind::Wait, 0);
        self.from = end;
    }

    pub(crate) fn done(&mut self, op: Op, now: Instant) {
        let now = self.at_ns(now);
        let bytes = std::mem::take(&mut self.gathered);
        self.push(self.from, now, Kind::Op(op), bytes);
        for entry in self.entries.iter_mut().skip(self.unnamed).filter(|entry| entry.kind == Kind::Unnamed) {
            entry.kind = Kind::Op(op);
        }
        self.unnamed = self.entries.len();
        self.from = now;
    }

    pub(crate) fn gathered(&mut self, bytes: usize) {
        self.gathered = self.gathered.saturating_add(bytes as u32);
    }

    pub(crate) fn add(&mut self, op: Op, start: Instant, end: Instant) {
        self.push(self.at_ns(start), self.at_ns(end), Kind::Op(op), 0);
    }

    /// The operation in which `work` was done, and its layer.
    fn at(&self, work: &Interval) -> (Option<Op>, Option<usize>) {
        let after = self.entries.partition_point(|entry| entry.start <= work.start);
        match after.checked_sub(1).map(|i| &self.entries[i]) {
            Some(entry @ Entry { kind: Kind::Op(op), end, .. }) if work.end <= *end => (Some(*op), entry.layer()),
            _ => (None, None),
        }
    }
}
