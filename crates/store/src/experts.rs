//! Experts of mixture-of-experts models: matrices that are read when a router has chosen them, and kept as long as they
//! are likely to be chosen again.
//!
//! They are no part of the sweep (`stream.rs`): nobody knows which of them a layer needs before the layer is reached. The one who computes
//! [requests](Experts::request) what the router chose, which sends out the reads of all that is missing at once, and
//! [acquires](Experts::acquire) one after the other; each is given back by dropping it and stays in memory until its
//! place is needed. What the next layer will likely choose can be [hinted at](Experts::hint).
//!
//! ```text
//! ExpertPlan   experts/plan.rs     where the bytes are, how many experts fit into memory, in slots of which size
//! State        experts/state.rs    what is here, what is on its way, what is read next and what has to go for it
//! Policy       experts/policy.rs   which experts will be used soonest
//! Experts      here                the memory, the lock, and readers (reader.rs, uring.rs), who take one piece of an
//!                                  expert after the other
//! ```

mod plan;
mod policy;
#[cfg(test)]
mod simulation;
mod state;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use plan::{Expert, ExpertPlan, Extent};

use crate::arena::Arena;
use crate::checkpoint::Checkpoint;
use crate::clock::{Arrived, Clock, Reads, Record, Recording};
use crate::error::{StoreError, StoreErrorKind};
use crate::feed::{Feed, Fetch};
use crate::plan::Io;
use crate::reader::{Readers, Way};
use crate::source::Source;
use plan::Part;
use state::{Piece, Stage, State};

/// The experts of a checkpoint, as planned.
pub struct Experts {
    shared: Arc<Shared>,
    readers: Readers,
}

/// How often what was asked for was there.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Hits {
    /// Experts that were acquired.
    pub asked: u64,
    /// Of these, those that were in memory when they were asked for, or on their way there by a hint.
    pub hit: u64,
    /// Bytes of the others.
    pub missed_bytes: u64,
    /// Acquires that had to wait. For how long: [`Experts::waited`].
    pub waited: u64,
    /// Experts that were read because of a hint.
    pub hinted: u64,
    /// Of these, those that were acquired then.
    pub hinted_used: u64,
    /// Experts that had to make room.
    pub evicted: u64,
}

/// What readers and the one who computes share.
struct Shared {
    plan: ExpertPlan,
    sources: Vec<Source>,
    arena: Arena,
    state: Mutex<State>,
    /// Rung when an expert has arrived, failed or become absent.
    arrived: Condvar,
    /// Rung when there may be something to read.
    work: Condvar,
    bytes_read: Arc<AtomicU64>,
}

/// A piece of an expert to be read, and where its bytes go.
struct Job {
    piece: Piece,
    to: *mut u8,
    begun: Instant,
}

impl Experts {
    /// Takes the memory that `plan` asks for, and records all reads if that is asked for. Nothing is read yet.
    ///
    /// # Errors
    /// When a part of an expert is outside the checkpoint, when the system has no such memory, starts no thread, or refuses the
    /// way of reading that the plan asks for.
    pub fn new(checkpoint: &Checkpoint, plan: ExpertPlan, record: Option<Record>) -> Result<Experts, StoreError> {
        plan.check(checkpoint)?;
        let arena = Arena::new(plan.arena_bytes() as usize).map_err(|e| {
            let what = format!("{} bytes of memory for experts cannot be had", plan.arena_bytes());
            StoreError::new(StoreErrorKind::OutOfMemory, what).at(checkpoint.path()).caused_by(e)
        })?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(&plan, Clock::new(record))),
            sources: checkpoint.sources().to_vec(),
            arena,
            arrived: Condvar::new(),
            work: Condvar::new(),
            bytes_read: Arc::default(),
            plan,
        });
        let readers = Readers::start(&shared, checkpoint.path())?;
        Ok(Experts { shared, readers })
    }

    /// The plan that is followed.
    #[must_use]
    pub fn plan(&self) -> &ExpertPlan {
        &self.shared.plan
    }

    /// How experts are read.
    #[must_use]
    pub fn way(&self) -> Way {
        self.readers.way()
    }

    /// Asks for `experts` of `layer`, in the order in which they will be acquired. The reads of those that are missing go
    /// out at once, as far as there is room; those that are here stay until they have been used.
    ///
    /// There may be more of them than memory has room for: they are read in that order, as those that were used give up
    /// their places. What an earlier request still wanted is forgotten: reads under way end in memory that is theirs
    /// until then. An expert that failed to arrive is tried again.
    ///
    /// # Panics
    /// When there is no such layer or expert.
    pub fn request(&self, layer: usize, experts: &[u32]) {
        let ids = self.shared.ids(layer, experts);
        self.shared.lock().request(layer, ids);
        self.shared.work.notify_all();
        self.readers.ring();
    }

    /// Says that `experts` of `layer` will likely be in the next request for it. They are read when no request has
    /// anything to read, and only into memory that nothing needs earlier. A hint takes the place of the one before, as far as that is not
    /// yet being read.
    ///
    /// # Panics
    /// When there is no such layer or expert.
    pub fn hint(&self, layer: usize, experts: &[u32]) {
        let ids = self.shared.ids(layer, experts);
        self.shared.lock().hint(layer, ids);
        self.shared.work.notify_all();
        self.readers.ring();
    }

    /// Reads, in the background, one expert after the other, until there is no room without giving up another. Whatever
    /// is requested or hinted at is read before.
    pub fn fill(&self) {
        self.shared.lock().fill();
        self.shared.work.notify_all();
    }

    /// Forgets the request and all hints, for a pass that was broken off. What is cached stays.
    pub fn reset(&self) {
        self.shared.lock().reset();
        self.shared.work.notify_all();
    }

    /// The bytes of an expert: waits until they have arrived. Dropping them gives their place back.
    ///
    /// Best are experts of the request, in its order. Others are read before all else. Several may be held at once, of several
    /// threads, too: up to [`ExpertPlan::most_held`], though what is held is no room to read ahead into.
    ///
    /// # Errors
    /// When the expert could not be read. It is tried again when it is requested or acquired the next time.
    ///
    /// # Panics
    /// When there is no such layer or expert, and when every place that it could be read into is held.
    pub fn acquire(&self, layer: usize, expert: u32) -> Result<ExpertBytes<'_>, StoreError> {
        let shared = &*self.shared;
        let expert = shared.id(layer, expert);
        let mut state = shared.lock();
        let mut waits = false;
        loop {
            match state.stage(expert) {
                Stage::Here => break,
                Stage::Failed => {
                    if waits {
                        state.end_wait(expert);
                    }
                    let error = state.take_failure(expert);
                    return Err(error.map_or_else(lost, |e| *e));
                }
                Stage::Absent | Stage::Reading => {
                    if !waits {
                        state.begin_wait(&shared.plan, expert);
                        state.hits.waited += 1;
                        waits = true;
                        shared.work.notify_all();
                    }
                    state.clock.set_waiting(true);
                    state = shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.clock.set_waiting(false);
                }
            }
        }
        if waits {
            state.end_wait(expert);
        }
        let slot = state.hold(&shared.plan, expert);
        if state.is_hungry() {
            shared.work.notify_all();
        }
        let at = slot.map_or(0, |slot| shared.plan.place(expert, slot));
        Ok(ExpertBytes { shared, expert, at })
    }

    /// Whether an expert is in memory.
    ///
    /// # Panics
    /// When there is no such layer or expert.
    #[must_use]
    pub fn is_here(&self, layer: usize, expert: u32) -> bool {
        self.shared.lock().stage(self.shared.id(layer, expert)) == Stage::Here
    }

    /// How often what was asked for was there.
    #[must_use]
    pub fn stats(&self) -> Hits {
        self.shared.lock().hits
    }

    /// Bytes read from disk so far, those between the parts of an expert included.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.shared.bytes_read.load(Ordering::Relaxed)
    }

    /// [`Experts::bytes_read`] for another thread.
    pub fn watch(&self) -> impl Fn() -> u64 + Send + use<> {
        let count = Arc::clone(&self.shared.bytes_read);
        move || count.load(Ordering::Relaxed)
    }

    /// Seconds that [`Experts::acquire`] has waited for the disk so far.
    #[must_use]
    pub fn waited(&self) -> f64 {
        self.reads().waiting.as_secs_f64()
    }

    /// What was read so far, and how long it took: as pinned where all experts fit, else as streamed.
    #[must_use]
    pub fn reads(&self) -> Reads {
        self.shared.lock().clock.reads()
    }

    /// Takes the recording, which ends; nothing unless it was asked for.
    #[must_use]
    pub fn take_record(&self) -> Option<Recording> {
        self.shared.lock().clock.take_record()
    }
}

impl Drop for Experts {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        self.readers.join();
    }
}

/// The bytes of an acquired expert. Dropping it gives its place back.
pub struct ExpertBytes<'a> {
    shared: &'a Shared,
    expert: usize,
    /// Where in the arena its slot begins.
    at: usize,
}

impl ExpertBytes<'_> {
    /// The number of parts.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.shared.plan.parts(self.expert).len()
    }

    /// The bytes of the `index`-th part, in the order of [`Expert::parts`]. They need not be aligned to anything.
    ///
    /// # Panics
    /// When the expert has fewer parts.
    #[must_use]
    pub fn part(&self, index: usize) -> &[u8] {
        match self.shared.plan.parts(self.expert)[index] {
            Part::Static { shard, offset, len } => {
                let all = self.shared.sources[shard].as_static().expect("a static part has a static source");
                &all[offset..offset + len]
            }
            Part::Room { at, len } => {
                debug_assert!(self.at + at + len <= self.shared.arena.len() || len == 0);
                // SAFETY: the part lies within the expert's slot, by the plan. The slot's bytes have arrived; it is
                // written no more and given to no other expert before this value is dropped.
                unsafe { std::slice::from_raw_parts(self.shared.arena.as_ptr().add(self.at + at), len) }
            }
        }
    }
}

impl Drop for ExpertBytes<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.give_back(self.expert);
        if state.is_hungry() {
            self.shared.work.notify_all();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of an expert, counted through all layers.
    fn id(&self, layer: usize, expert: u32) -> usize {
        let exists = layer < self.plan.layers() && (expert as usize) < self.plan.experts_of(layer);
        assert!(exists, "layer {layer} has no expert {expert}");
        self.plan.starts()[layer] + expert as usize
    }

    /// The numbers of `experts`, all of which are there.
    fn ids<'a>(&self, layer: usize, experts: &'a [u32]) -> impl Iterator<Item = usize> + use<'a> {
        assert!(layer < self.plan.layers(), "there is no layer {layer}");
        let first = self.plan.starts()[layer];
        for expert in experts {
            self.id(layer, *expert);
        }
        experts.iter().map(move |e| first + *e as usize)
    }

    fn next_job(&self, state: &mut State) -> Option<Job> {
        let piece = state.next_piece(&self.plan)?;
        if piece.is_first {
            // There are others to read.
            self.work.notify_all();
        }
        let at = self.plan.place(piece.expert, piece.slot) + self.plan.run(piece.run).at + piece.start;
        debug_assert!(at + piece.len <= self.arena.len());
        // SAFETY: within the expert's slot, by the plan. Nobody else has this piece of it.
        let to = unsafe { self.arena.as_ptr().add(at) };
        Some(Job { piece, to, begun: state.clock.begin_read() })
    }
}

impl Feed for Shared {
    type Job = Job;
    const NAME: &'static str = "rheostat-expert";

    fn io(&self) -> Io {
        self.plan.io()
    }

    fn is_direct(&self) -> bool {
        self.plan.is_direct()
    }

    fn reads(&self) -> bool {
        self.plan.arena_bytes() > 0
    }

    fn room(&self) -> usize {
        self.arena.len()
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
        let run = self.plan.run(job.piece.run);
        let Piece { start, len, .. } = job.piece;
        let need = len.min(run.need - start);
        // When a slot is used first is not known here; that is soon over.
        let is_new = self.plan.fits();
        std::iter::once(Fetch { shard: run.shard, offset: run.offset + start as u64, to: job.to, is_new, len, need })
    }

    fn finish(&self, job: Job, result: Result<(), StoreError>) {
        let Piece { expert, run, start, len, .. } = job.piece;
        let run = self.plan.run(run);
        // Without the pages around what is wanted.
        let bytes = len.min(run.need - start) - if start == 0 { run.skew } else { 0 };
        let arrived = result.is_ok();
        let mut state = self.lock();
        let end = state.clock.end_read();
        if arrived {
            self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
            let offset = run.offset + if start == 0 { run.skew } else { start } as u64;
            let stays = self.plan.fits();
            let what = Arrived { shard: run.shard, offset, bytes: bytes as u64, stays };
            state.clock.arrived(what, job.begun, end);
        }
        let before = state.stage(expert);
        state.finish(&self.plan, &job.piece, result);
        if state.stage(expert) != before {
            self.arrived.notify_all();
            if state.is_hungry() {
                self.work.notify_all();
            }
        }
    }
}

/// For a failure whose error was already handed out.
fn lost() -> StoreError {
    StoreError::new(StoreErrorKind::ReadFailed, "an earlier read of this expert failed")
}
