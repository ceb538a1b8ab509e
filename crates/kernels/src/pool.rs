//! The thread pool: a fixed crew that shares out the items of one job at a time.
//!
//! A job is over when its *work* is done, not when every worker has shown up: a worker whose core was
//! taken by a neighbour, or that never woke, holds nobody up unless it holds an item. Workers spin
//! for some microseconds after a job, because the next one usually follows at once, and then sleep.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::record::{Record, Worked};

/// How many times an idle worker looks for a new job before it sleeps: some tens of microseconds.
const SPINS: u32 = 4_000;

/// What runs one item: `(item, worker)`, where `worker < threads` names the thread that runs it.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// A crew of threads, the calling one among them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Only one job is under way at a time.
    busy: Mutex<()>,
}

struct Shared {
    /// `epoch << 32 | items left to claim`. An item is claimed by decrementing the low half; the epoch
    /// changes with every job, so that a claim cannot succeed on a job that its claimer has not read.
    claims: AtomicU64,
    /// Items of the current job that are finished.
    done: AtomicUsize,
    /// The current job's task, as the two words of a wide reference, and its number of items. Written
    /// before `claims` announces the job.
    task: [AtomicUsize; 2],
    items: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleepers: AtomicU32,
    bed: Mutex<()>,
    bell: Condvar,
    record: Record,
}

impl Pool {
    /// A pool of `threads` threads in all: the caller and `threads - 1` workers.
    ///
    /// # Errors
    /// When the system refuses to start a thread.
    pub fn new(threads: NonZeroUsize) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            claims: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            task: [AtomicUsize::new(0), AtomicUsize::new(0)],
            items: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: AtomicU32::new(0),
            bed: Mutex::new(()),
            bell: Condvar::new(),
            record: Record::default(),
        });
        let mut pool = Pool { shared, workers: Vec::new(), busy: Mutex::new(()) };
        for worker in 1..threads.get() {
            let shared = Arc::clone(&pool.shared);
            let spawned = std::thread::Builder::new()
                .name(format!("rheostat-{worker}"))
                .stack_size(1 << 20)
                .spawn(move || shared.work(worker))?;
            pool.workers.push(spawned);
        }
        Ok(pool)
    }

    /// Threads that share the work, the caller among them.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Records from now on when each thread works, in nanoseconds after `origin`, `most` intervals of each thread. It
    /// cannot be turned off again, and ends when they are [taken](Pool::take_record).
    pub fn record(&self, origin: Instant, most: usize) {
        self.shared.record.begin(origin, self.threads(), most);
    }

    /// What was recorded, thread by thread, the caller of [`Pool::run`] first; nothing unless it was asked for.
    #[must_use]
    pub fn take_record(&self) -> Vec<Worked> {
        self.shared.record.take()
    }

    /// Runs `task(item, worker)` for every `item < items`, in any order, on any thread of the pool, and
    /// returns when all are done. Two calls with the same `worker` never overlap. A task must not call
    /// `run` itself.
    ///
    /// # Panics
    /// When `task` panicked for an item, after the others are done.
    pub fn run(&self, items: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        let _busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        if self.workers.is_empty() || items <= 1 {
            shared.record.item(0, None, || (0..items).for_each(|item| task(item, 0)));
            return;
        }
        let count = u32::try_from(items).expect("a job has fewer than 2^32 items");
        shared.items.store(items, Ordering::Relaxed);
        let words = to_words(task);
        shared.task[0].store(words[0], Ordering::Relaxed);
        shared.task[1].store(words[1], Ordering::Relaxed);
        shared.done.store(0, Ordering::Relaxed);
        let epoch = (shared.claims.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        // SeqCst: this store and the read of `sleepers` must not pass each other, nor the
        // counterparts in `sleep`, or a worker could go to bed while nobody rings.
        shared.claims.store(epoch << 32 | u64::from(count), Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            let _bed = shared.bed.lock().unwrap_or_else(PoisonError::into_inner);
            shared.bell.notify_all();
        }
        while shared.claim_and_run(0) {}
        let mut spins = 0;
        while shared.done.load(Ordering::Acquire) < items {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                // The item's holder may be waiting for this very core.
                std::thread::yield_now();
            }
        }
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a task of the thread pool panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _bed = self.shared.bed.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.bell.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker ends only by `stop`; its task panics are caught.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self, worker: usize) {
        let mut spins = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if self.claim_and_run(worker) {
                spins = 0;
            } else if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                self.sleep();
                spins = 0;
            }
        }
    }

    fn sleep(&self) {
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.claims.load(Ordering::SeqCst) as u32 == 0 && !self.stop.load(Ordering::SeqCst) {
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Claims one item of the current job and runs it; false when there is none left to claim.
    fn claim_and_run(&self, worker: usize) -> bool {
        let mut claims = self.claims.load(Ordering::Acquire);
        loop {
            if claims as u32 == 0 {
                return false;
            }
            let words = [self.task[0].load(Ordering::Relaxed), self.task[1].load(Ordering::Relaxed)];
            let items = self.items.load(Ordering::Relaxed);
            match self.claims.compare_exchange_weak(claims, claims - 1, Ordering::AcqRel, Ordering::Acquire) {
                Err(now) => claims = now,
                Ok(_) => {
                    // SAFETY: the exchange succeeded, so the epoch is the one under which `words` and
                    // `items` were read, and that job has an unfinished item: ours. `run` does not return, and its
                    // task does not go away, before the item is counted in `done`.
                    let task = unsafe { from_words(words) };
                    // In increasing order, as memory likes it.
                    let item = items - claims as u32 as usize;
                    let run = || catch_unwind(AssertUnwindSafe(|| task(item, worker)));
                    if self.record.item(worker, Some(claims >> 32), run).is_err() {
                        self.panicked.store(true, Ordering::Relaxed);
                    }
                    self.done.fetch_add(1, Ordering::Release);
                    return true;
                }
            }
        }
    }
}

fn to_words(task: &Task<'_>) -> [usize; 2] {
    // SAFETY: a reference to a trait object is two words, a pair of pointers without padding.
    unsafe { std::mem::transmute::<&Task<'_>, [usize; 2]>(task) }
}

/// # Safety
/// `words` came from [`to_words`], and that task is still borrowed.
unsafe fn from_words<'a>(words: [usize; 2]) -> &'a Task<'a> {
    // SAFETY: the caller vouches for origin and lifetime.
    unsafe { std::mem::transmute::<[usize; 2], &Task<'_>>(words) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn pool(threads: usize) -> Pool {
        Pool::new(NonZeroUsize::new(threads).unwrap()).unwrap()
    }

    #[test]
    fn every_item_runs_exactly_once() {
        for threads in 1..=5 {
            let pool = pool(threads);
            for items in [0, 1, 2, 3, 7, 64, 1000] {
                for _ in 0..50 {
                    let counts: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
                    pool.run(items, &|item, worker| {
                        assert!(worker < threads);
                        counts[item].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn sleeping_workers_wake_again() {
        let pool = pool(3);
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(20));
            // Both items wait for each other, so one thread alone cannot finish them.
            let barrier = std::sync::Barrier::new(2);
            pool.run(2, &|_, _| {
                barrier.wait();
            });
        }
    }

    #[test]
    fn callers_on_several_threads_take_turns() {
        let pool = pool(3);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(5, &|item, _| {
                            total.fetch_add(item, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 200 * (1 + 2 + 3 + 4));
    }

    #[test]
    fn each_thread_s_intervals_are_recorded_one_for_each_job() {
        for threads in 1..=3 {
            let pool = pool(threads);
            let origin = Instant::now();
            pool.run(8, &|_, _| {});
            assert!(pool.take_record().is_empty(), "nobody asked");
            pool.record(origin, 20);
            for items in [0, 1, 5, 64] {
                for _ in 0..3 {
                    pool.run(items, &|_, _| {});
                }
            }
            let end = origin.elapsed().as_nanos() as u64;
            let record = pool.take_record();
            assert_eq!(record.len(), threads);
            let all: usize = record.iter().map(|worked| worked.intervals.len()).sum();
            assert!((12..=12 * threads).contains(&all), "{all} intervals of 12 jobs on {threads} threads");
            for worked in &record {
                assert_eq!(worked.cut, None);
                assert!(worked.intervals.len() <= 12);
                assert!(worked.intervals.iter().all(|i| i.start <= i.end && i.end <= end));
                assert!(worked.intervals.is_sorted_by(|a, b| a.end <= b.start), "{:?}", worked.intervals);
            }
        }
    }

    #[test]
    fn a_recording_ends_where_its_room_does() {
        let pool = pool(1);
        pool.record(Instant::now(), 4);
        for _ in 0..10 {
            pool.run(3, &|_, _| {});
        }
        let record = pool.take_record();
        assert_eq!(record[0].intervals.len(), 4);
        assert!(record[0].cut.unwrap() >= record[0].intervals[3].end);
        pool.run(3, &|_, _| {});
        assert!(pool.take_record()[0].intervals.is_empty(), "taken: it is over");
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
        let pool = pool(2);
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(8, &|item, _| assert_ne!(item, 3))));
        assert!(result.is_err());
        let runs = AtomicU32::new(0);
        pool.run(8, &|_, _| {
            runs.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(runs.into_inner(), 8);
    }
}
