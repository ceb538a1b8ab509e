//! Weights in use: pinned tiles that stay, and a ring (`ring.rs`) that the others pass through.
//!
//! Reader threads work through the tiles in the order in which sweeps use them, as far ahead as the ring has
//! room, across the end of a sweep into the next. The one who computes [acquires](Weights::acquire) tile after
//! tile in that order and gives each back by dropping it. In the first sweep pinned tiles arrive like the
//! others, so that work begins before everything is read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::arena::Arena;
use crate::checkpoint::{Checkpoint, TensorInfo};
use crate::clock::{Arrived, Clock, Reads, Record, Recording};
use crate::error::{StoreError, StoreErrorKind};
use crate::feed::{Feed, Fetch};
use crate::plan::{Io, MOST_PARTS, PAGE, Phase, Place, Plan, Tile};
use crate::reader::{Readers, Way};
use crate::ring::Ring;
use crate::source::Source;

/// The weights of a checkpoint, as planned.
pub struct Weights {
    shared: Arc<Shared>,
    readers: Readers,
}

/// What readers and the one who computes share.
pub(crate) struct Shared {
    plan: Plan,
    sources: Vec<Source>,
    pinned: Arena,
    ring: Arena,
    /// Whether each tile that is pinned is there for good.
    here: Vec<AtomicBool>,
    /// Tiles and their parts, in order of their place on disk.
    by_place: Vec<(usize, usize)>,
    state: Mutex<State>,
    /// Rung when a tile has arrived or failed.
    arrived: Condvar,
    /// Rung when there may be something to read.
    work: Condvar,
    bytes_read: Arc<AtomicU64>,
}

struct State {
    /// The next tile that readers look at, and the sweep for which they do. At most one sweep ahead.
    cursor: Cursor,
    /// The sweep that is being computed; 0 before the first.
    sweep: u64,
    /// Whether that sweep uses the head.
    head: Head,
    /// Streamed tiles that this sweep has still to acquire.
    remaining: usize,
    /// A tile of this sweep failed to arrive.
    failed: bool,
    /// Streamed tiles in the ring or on their way.
    slots: Ring,
    /// What became of each tile that is pinned.
    pinned: Vec<Arrival>,
    stop: bool,
    clock: Clock,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Cursor {
    sweep: u64,
    tile: usize,
}

/// Whether a sweep goes on to the head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Head {
    /// It ends after the body.
    Skip,
    /// It uses the head.
    Use,
    /// It uses the head alone. Nothing is read ahead for the sweep that follows: several such may.
    Alone,
}

impl Head {
    /// Whether a sweep uses the tiles of `phase`.
    fn uses(self, phase: Phase) -> bool {
        match self {
            Head::Skip => phase == Phase::Body,
            Head::Use => true,
            Head::Alone => phase != Phase::Body,
        }
    }
}

pub(crate) enum Arrival {
    Asked,
    Reading,
    Here,
    Failed(Option<Box<StoreError>>),
}

/// A tile to be read, and where its bytes go.
pub(crate) struct Job {
    tile: usize,
    /// Room for the tile, this job's alone: nobody reads it before the job is [finished](Feed::finish).
    to: *mut u8,
    /// Of the slot; `None` for a pinned tile.
    slot: Option<u64>,
    begun: Instant,
}

impl Weights {
    /// Takes the memory that `plan` asks for and starts to read.
    ///
    /// # Errors
    /// When the system has no such memory or starts no thread.
    pub fn new(checkpoint: &Checkpoint, plan: Plan) -> Result<Weights, StoreError> {
        Weights::recorded(checkpoint, plan, None)
    }

    /// As [`Weights::new`], with a recording of all reads if it is asked for.
    ///
    /// # Errors
    /// As [`Weights::new`].
    pub fn recorded(checkpoint: &Checkpoint, plan: Plan, record: Option<Record>) -> Result<Weights, StoreError> {
        let arena = |bytes: u64| {
            Arena::new(bytes as usize).map_err(|e| {
                let what = format!("{bytes} bytes of memory for weights cannot be had");
                StoreError::new(StoreErrorKind::OutOfMemory, what).at(checkpoint.path()).caused_by(e)
            })
        };
        let state = State {
            cursor: Cursor { sweep: 1, tile: 0 },
            sweep: 0,
            head: Head::Skip,
            remaining: 0,
            failed: false,
            slots: Ring::new(plan.ring_bytes() as usize),
            pinned: plan.tiles().iter().map(|_| Arrival::Asked).collect(),
            stop: false,
            clock: Clock::new(record),
        };
        let parts = plan
            .tiles()
            .iter()
            .enumerate()
            .flat_map(|(t, tile)| (0..MOST_PARTS).filter(|p| tile.parts[*p].len > 0).map(move |p| (t, p)));
        let mut by_place: Vec<_> = parts.collect();
        by_place.sort_by_key(|(t, p)| (plan.tiles()[*t].parts[*p].shard, plan.tiles()[*t].parts[*p].offset));
        let shared = Arc::new(Shared {
            by_place,
            pinned: arena(plan.pinned_bytes())?,
            ring: arena(plan.ring_bytes())?,
            here: plan.tiles().iter().map(|_| AtomicBool::new(false)).collect(),
            sources: checkpoint.sources().to_vec(),
            state: Mutex::new(state),
            arrived: Condvar::new(),
            work: Condvar::new(),
            bytes_read: Arc::default(),
            plan,
        });
        let readers = Readers::start(&shared, checkpoint.path())?;
        Ok(Weights { shared, readers })
    }

    /// How weights are read.
    #[must_use]
    pub fn way(&self) -> Way {
        self.readers.way()
    }

    /// The plan that is followed.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// Bytes read from disk so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.shared.bytes_read.load(Ordering::Relaxed)
    }

    /// [`Weights::bytes_read`] for another thread.
    pub fn watch(&self) -> impl Fn() -> u64 + Send + use<> {
        let count = Arc::clone(&self.shared.bytes_read);
        move || count.load(Ordering::Relaxed)
    }

    /// Seconds that [`Weights::acquire`] has waited for the disk so far.
    #[must_use]
    pub fn waited(&self) -> f64 {
        self.reads().waiting.as_secs_f64()
    }

    /// What was read so far, and how long it took.
    #[must_use]
    pub fn reads(&self) -> Reads {
        self.shared.lock().clock.reads()
    }

    /// Takes the recording, which ends; nothing unless it was asked for.
    #[must_use]
    pub fn take_record(&self) -> Option<Recording> {
        self.shared.lock().clock.take_record()
    }

    /// Begins a sweep. One that was broken off is forgotten, with what was read ahead for it.
    ///
    /// # Panics
    /// When a tile is still held.
    pub fn begin_sweep(&self, head: Head) {
        let shared = &*self.shared;
        let mut state = shared.lock();
        let next = state.sweep + 1;
        // What was read ahead for the body is of no use to the head.
        if state.remaining > 0 || state.failed || head == Head::Alone {
            // What is being read for the sweep that was broken off is waited for, and nothing more of it is begun: a failure that came
            // later would be taken for one of this sweep.
            state.cursor = Cursor { sweep: next, tile: shared.plan.tiles().len() };
            let is_read = |arrival: &Arrival| matches!(arrival, Arrival::Reading);
            while state.slots.arrivals().chain(&state.pinned).any(is_read) {
                state = shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.slots.clear();
            // What failed is tried again.
            for arrival in state.pinned.iter_mut().filter(|a| matches!(a, Arrival::Failed(_))) {
                *arrival = Arrival::Asked;
            }
            let unused = |tile: &Tile| head == Head::Alone && tile.phase == Phase::Body;
            state.cursor = Cursor { sweep: next, tile: shared.plan.tiles().iter().take_while(|t| unused(t)).count() };
        } else if state.cursor.sweep < next {
            state.cursor = Cursor { sweep: next, tile: 0 };
        }
        state.sweep = next;
        state.head = head;
        state.failed = false;
        let streamed = shared.plan.tiles().iter().filter(|t| t.place == Place::Streamed && head.uses(t.phase));
        state.remaining = streamed.count();
        shared.work.notify_all();
    }

    /// Whether a tile that stays in memory has arrived there.
    #[must_use]
    pub fn is_here(&self, tile: usize) -> bool {
        let shared = &*self.shared;
        shared.plan.tiles()[tile].place == Place::Static || shared.here[tile].load(Ordering::Acquire)
    }

    /// The bytes of a tile, by its index in [`Plan::tiles`]: waits until they have arrived.
    ///
    /// Streamed tiles are acquired in order, every one that the sweep uses, each given back before the next:
    /// the ring may have no room for both.
    ///
    /// # Errors
    /// When the tile could not be read. The sweep is then broken off.
    ///
    /// # Panics
    /// When a streamed tile is acquired out of turn, or while another is held.
    pub fn acquire(&self, tile: usize) -> Result<TileBytes<'_>, StoreError> {
        let shared = &*self.shared;
        let info = &shared.plan.tiles()[tile];
        match info.place {
            Place::Static => {
                let parts = info.parts.map(|part| {
                    let start = part.offset as usize;
                    let all = shared.sources[part.shard].as_static().expect("a static place has a static source");
                    &all[start..start + part.len]
                });
                Ok(TileBytes { parts, held: None })
            }
            Place::Pinned(at) => {
                if !shared.here[tile].load(Ordering::Acquire) {
                    shared.wait_for_pinned(tile)?;
                }
                // SAFETY: the range lies within the region, by the plan; a tile that is here is written no more.
                let bytes = unsafe { std::slice::from_raw_parts(shared.pinned.as_ptr().add(at), info.room) };
                Ok(TileBytes { parts: info.split(bytes), held: None })
            }
            Place::Streamed => {
                let at = shared.wait_for_streamed(tile)?;
                // SAFETY: the slot's range of the ring is written no more and not reused before the slot is
                // released, which dropping the value does.
                let bytes = unsafe { std::slice::from_raw_parts(shared.ring.as_ptr().add(at), info.room) };
                Ok(TileBytes { parts: info.split(bytes), held: Some(shared) })
            }
        }
    }
}

impl Weights {
    /// `len` bytes from byte `start` of `tensor` on, if they are in memory for good: as rows of a planned
    /// matrix that is pinned (and has arrived) or static.
    #[must_use]
    pub fn resident(&self, tensor: &TensorInfo, start: usize, len: usize) -> Option<&[u8]> {
        let shared = &*self.shared;
        let (begin, end) = (tensor.offset() + start as u64, tensor.offset() + (start + len) as u64);
        if let Some(all) = shared.sources.get(tensor.shard())?.as_static() {
            return all.get(begin as usize..end as usize);
        }
        let after = shared.by_place.partition_point(|place| shared.key(*place) <= (tensor.shard(), begin));
        let (index, p) = *shared.by_place.get(after.checked_sub(1)?)?;
        let tile = &shared.plan.tiles()[index];
        let part = tile.parts[p];
        match tile.place {
            Place::Pinned(at)
                if part.shard == tensor.shard()
                    && end <= part.offset + part.len as u64
                    && shared.here[index].load(Ordering::Acquire) =>
            {
                let skip = tile.at(&part).start + (begin - part.offset) as usize;
                // SAFETY: as in `acquire`.
                Some(unsafe { std::slice::from_raw_parts(shared.pinned.as_ptr().add(at + skip), len) })
            }
            _ => None,
        }
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        self.readers.join();
    }
}

/// The bytes of an acquired tile, tensor by tensor. Dropping it gives a streamed tile's room back.
pub struct TileBytes<'a> {
    parts: [&'a [u8]; MOST_PARTS],
    /// Of a streamed tile: whom to give it back to.
    held: Option<&'a Shared>,
}

impl TileBytes<'_> {
    /// The rows of each of the matrix's tensors, one after the other; nothing of tensors that it does not have.
    #[must_use]
    pub fn parts(&self) -> &[&[u8]; MOST_PARTS] {
        &self.parts
    }
}

impl Tile {
    /// The parts of a tile that lies in memory.
    fn split<'a>(&self, bytes: &'a [u8]) -> [&'a [u8]; MOST_PARTS] {
        self.parts.map(|part| &bytes[self.at(&part)])
    }
}

impl Drop for TileBytes<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.held {
            shared.lock().slots.release();
            shared.work.notify_all();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// File and offset of a part of a tile.
    fn key(&self, (tile, part): (usize, usize)) -> (usize, u64) {
        let part = &self.plan.tiles()[tile].parts[part];
        (part.shard, part.offset)
    }

    /// Waits on `arrived`, and counts the time.
    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.clock.set_waiting(true);
        let mut state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.clock.set_waiting(false);
        state
    }

    fn wait_for_pinned(&self, tile: usize) -> Result<(), StoreError> {
        let mut state = self.lock();
        loop {
            match &mut state.pinned[tile] {
                Arrival::Here => return Ok(()),
                Arrival::Failed(error) => {
                    let error = error.take();
                    state.failed = true;
                    return Err(error.map_or_else(lost, |e| *e));
                }
                Arrival::Asked | Arrival::Reading => state = self.wait(state),
            }
        }
    }

    /// The place in the ring of a tile that is held from now on.
    fn wait_for_streamed(&self, tile: usize) -> Result<usize, StoreError> {
        let mut state = self.lock();
        loop {
            if let Some(slot) = state.slots.next() {
                assert_eq!(slot.tile, tile, "streamed tiles are acquired in order");
                match &mut slot.arrival {
                    Arrival::Here => {
                        let at = slot.at;
                        state.slots.hold();
                        state.remaining -= 1;
                        return Ok(at);
                    }
                    Arrival::Failed(error) => {
                        let error = error.take();
                        state.failed = true;
                        return Err(error.map_or_else(lost, |e| *e));
                    }
                    Arrival::Asked | Arrival::Reading => {}
                }
            }
            state = self.wait(state);
        }
    }

    /// Moves the cursor to the next tile that is to be read and has room.
    fn next_job(&self, state: &mut State) -> Option<Job> {
        let tiles = self.plan.tiles();
        loop {
            let Cursor { sweep, tile: index } = state.cursor;
            let Some(tile) = tiles.get(index) else {
                if sweep > state.sweep {
                    return None;
                }
                state.cursor = Cursor { sweep: sweep + 1, tile: 0 };
                continue;
            };
            let job = match tile.place {
                Place::Static => None,
                Place::Pinned(at) if matches!(state.pinned[index], Arrival::Asked) => {
                    state.pinned[index] = Arrival::Reading;
                    debug_assert!(at + tile.room <= self.pinned.len());
                    // SAFETY: within the region, by the plan.
                    let to = unsafe { self.pinned.as_ptr().add(at) };
                    Some(Job { tile: index, to, slot: None, begun: state.clock.begin_read() })
                }
                Place::Pinned(_) => None,
                Place::Streamed if sweep > state.sweep && (tile.phase != Phase::Body || state.head == Head::Alone) => {
                    return None;
                }
                Place::Streamed if sweep == state.sweep && !state.head.uses(tile.phase) => None,
                Place::Streamed => {
                    let len = tile.room.next_multiple_of(self.plan.align() as usize);
                    let (slot, at) = state.slots.take(index, len)?;
                    debug_assert!(at + len <= self.ring.len());
                    // SAFETY: within the ring, by `take`.
                    let to = unsafe { self.ring.as_ptr().add(at) };
                    Some(Job { tile: index, to, slot: Some(slot), begun: state.clock.begin_read() })
                }
            };
            state.cursor.tile += 1;
            if job.is_some() {
                return job;
            }
        }
    }
}

impl Feed for Shared {
    type Job = Job;
    const NAME: &'static str = "rheostat-read";

    fn io(&self) -> Io {
        self.plan.io()
    }

    fn is_direct(&self) -> bool {
        self.plan.is_direct()
    }

    fn reads(&self) -> bool {
        self.plan.pinned_bytes() + self.plan.streamed_bytes() + self.plan.seldom_bytes() > 0
    }

    fn room(&self) -> usize {
        self.ring.len()
    }

    fn sources(&self) -> &[Source] {
        &self.sources
    }

    fn wait_for_job(&self) -> Option<Job> {
        let mut state = self.lock();
        while !state.stop {
            match self.next_job(&mut state) {
                Some(job) => return Some(job),
                None => state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
        None
    }

    fn poll_job(&self) -> Option<Job> {
        let mut state = self.lock();
        if state.stop { None } else { self.next_job(&mut state) }
    }

    fn fetches(&self, job: &Job) -> impl Iterator<Item = Fetch> {
        let (to, is_new) = (job.to, job.slot.is_none());
        let whole_pages = self.plan.is_direct();
        self.plan.tiles()[job.tile].parts.into_iter().filter(|part| part.len > 0).map(move |part| {
            let need = part.skew + part.len;
            Fetch {
                shard: part.shard,
                offset: part.offset - part.skew as u64,
                // SAFETY: the part's room lies within the tile's, which is the job's.
                to: unsafe { to.add(part.room) },
                is_new,
                len: if whole_pages { need.next_multiple_of(PAGE) } else { need },
                need,
            }
        })
    }

    fn finish(&self, job: Job, result: Result<(), StoreError>) {
        let tile = &self.plan.tiles()[job.tile];
        if result.is_ok() {
            self.bytes_read.fetch_add(tile.len as u64, Ordering::Relaxed);
            if job.slot.is_none() {
                for part in tile.parts.iter().filter(|part| part.skew > 0) {
                    // SAFETY: both ranges lie within the part's room, which is the job's alone.
                    unsafe {
                        let room = job.to.add(part.room);
                        std::ptr::copy(room.add(part.skew), room, part.len);
                    }
                }
            }
        }
        let arrival = match result {
            Ok(()) => Arrival::Here,
            Err(error) => Arrival::Failed(Some(Box::new(error))),
        };
        let mut state = self.lock();
        let end = state.clock.end_read();
        if matches!(arrival, Arrival::Here) {
            let first = tile.parts.iter().find(|part| part.len > 0);
            let (shard, offset) = first.map_or((0, 0), |part| (part.shard, part.offset));
            let what = Arrived { shard, offset, bytes: tile.len as u64, stays: job.slot.is_none() };
            state.clock.arrived(what, job.begun, end);
        }
        match job.slot {
            Some(slot) => state.slots.set(slot, arrival),
            None => {
                if matches!(arrival, Arrival::Here) {
                    self.here[job.tile].store(true, Ordering::Release);
                }
                state.pinned[job.tile] = arrival;
            }
        }
        self.arrived.notify_all();
    }
}

/// For a failure whose error was already handed out.
fn lost() -> StoreError {
    StoreError::new(StoreErrorKind::ReadFailed, "an earlier read of this tile failed")
}
