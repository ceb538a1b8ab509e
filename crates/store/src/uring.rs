//! Reading by `io_uring`: one thread, several requests under way.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use io_uring::{IoUring, opcode, types};
use rustix::event::{EventfdFlags, eventfd};

use crate::depth::Depth;
use crate::error::StoreError;
use crate::feed::Feed;
use crate::plan::PAGE;

/// Requests under way at once, at the most.
const PLACES: usize = 64;
/// The number that waiting for the bell carries.
const BELL: u64 = PLACES as u64;

/// Wakes the reader while it waits for the disk: there is something to read that it had not been told of when it last asked.
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn ring(&self) {
        // It can fail only because it was rung very often and not yet heard, which is as good.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// It has been heard.
    fn hush(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

/// A ring of requests for the jobs of a feed.
pub(crate) struct Uring<F: Feed> {
    ring: IoUring,
    bell: Arc<Bell>,
    /// Whether the system has been asked to say when it rings.
    listens: bool,
    /// How much is asked for at once.
    depth: Depth,
    /// By the number that its request carries; a place is free once it has come back.
    under_way: [Option<Request>; PLACES],
    /// Bytes of these.
    bytes_under_way: usize,
    /// Not yet asked for.
    waiting: VecDeque<Request>,
    jobs: Vec<Option<Active<F::Job>>>,
}

/// A job of which not everything has come.
struct Active<J> {
    job: J,
    requests: usize,
    failed: Option<StoreError>,
}

/// Some pages of a file.
struct Request {
    /// Index in `jobs`.
    job: usize,
    shard: usize,
    offset: u64,
    to: *mut u8,
    /// As in [`Fetch`](crate::feed::Fetch).
    is_new: bool,
    /// Bytes to ask for, and how many of them must come.
    len: usize,
    need: usize,
}

// SAFETY: the pointers are those of jobs, whose memory is theirs alone, on whichever thread.
unsafe impl<F: Feed> Send for Uring<F> {}

impl<F: Feed> Uring<F> {
    /// A ring that works, for reading into `room` bytes in turn, or the system's reason why there is none.
    pub(crate) fn new(room: usize) -> io::Result<Uring<F>> {
        let ring = IoUring::new(PLACES as u32 + 1)?;
        let bell = Bell(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Read::CODE) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Uring {
            ring,
            bell: Arc::new(bell),
            listens: false,
            depth: Depth::new(room),
            under_way: [const { None }; PLACES],
            bytes_under_way: 0,
            waiting: VecDeque::new(),
            jobs: Vec::new(),
        })
    }

    /// What wakes it.
    pub(crate) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// Reads until told to stop.
    pub(crate) fn serve(mut self, feed: &F) {
        loop {
            if self.is_idle() {
                self.depth.rest();
                let Some(job) = feed.wait_for_job() else { return };
                self.take(feed, job);
                self.depth.begin(Instant::now());
            }
            self.listen();
            self.ask(feed);
            // Whatever goes wrong with waiting, nothing that was asked for may be forgotten: the system writes to its memory.
            if self.ring.submit_and_wait(1).is_err() {
                std::thread::yield_now();
            }
            let (mut came, mut is_new) = (0, false);
            loop {
                let Some(done) = self.ring.completion().next() else { break };
                if done.user_data() == BELL {
                    self.bell.hush();
                    // A system that cannot say is not asked again.
                    self.listens = done.result() < 0;
                    continue;
                }
                if let Some(request) = self.under_way[done.user_data() as usize].take() {
                    self.bytes_under_way -= request.len;
                    came += request.len;
                    is_new |= request.is_new;
                    // The disk before those who wait for the bytes: it has fewer requests now.
                    self.ask(feed);
                    self.answer(feed, request, done.result());
                }
            }
            if is_new {
                self.depth.disturbed(self.bytes_under_way);
            } else if came > 0 {
                self.depth.came(Instant::now(), came, self.bytes_under_way);
            }
        }
    }

    /// Has the system say when the bell rings, which it does once for each time that it is asked.
    fn listen(&mut self) {
        if !self.listens {
            let entry =
                opcode::PollAdd::new(types::Fd(self.bell.0.as_raw_fd()), rustix::event::PollFlags::IN.bits().into());
            // SAFETY: no memory goes with it; the bell is open as long as the ring.
            self.listens = unsafe { self.ring.submission().push(&entry.build().user_data(BELL)) }.is_ok();
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way.iter().all(Option::is_none)
    }

    /// Cuts `job` into requests.
    fn take(&mut self, feed: &F, job: F::Job) {
        let index = self.jobs.iter().position(Option::is_none).unwrap_or(self.jobs.len());
        let before = self.waiting.len();
        let request = self.depth.ask().request;
        for fetch in feed.fetches(&job) {
            // Equal parts, so that no request is small.
            let count = (fetch.len / request).max(1);
            let part = (fetch.len / count).next_multiple_of(PAGE);
            for start in (0..fetch.len).step_by(part) {
                self.waiting.push_back(Request {
                    job: index,
                    shard: fetch.shard,
                    offset: fetch.offset + start as u64,
                    // SAFETY: `start < len`, within the fetch's memory.
                    to: unsafe { fetch.to.add(start) },
                    is_new: fetch.is_new,
                    len: part.min(fetch.len - start),
                    need: part.min(fetch.need.saturating_sub(start)),
                });
            }
        }
        let active = Active { job, requests: self.waiting.len() - before, failed: None };
        if index == self.jobs.len() {
            self.jobs.push(Some(active));
        } else {
            self.jobs[index] = Some(active);
        }
    }

    /// Hands over requests until enough is under way, each by itself: neighbours that are handed over together become one
    /// request to the disk and come back together, and then the disk has nothing to do until they are asked for anew.
    fn ask(&mut self, feed: &F) {
        for place in 0..PLACES {
            if self.bytes_under_way >= self.depth.ask().under_way {
                return;
            }
            if self.under_way[place].is_some() {
                continue;
            }
            if self.waiting.is_empty() {
                let Some(job) = feed.poll_job() else { return };
                self.take(feed, job);
            }
            let Some(request) = self.waiting.pop_front() else { return };
            let source = &feed.sources()[request.shard];
            let Some(file) = source.direct().or_else(|| source.file()) else { continue };
            let len = u32::try_from(request.len).unwrap_or(u32::MAX);
            let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), request.to, len)
                .offset(request.offset)
                .build()
                .user_data(place as u64);
            // SAFETY: the memory is the job's alone until the job is finished, which it is not before every one of its
            // requests has come back; the file is open as long as `feed`.
            if unsafe { self.ring.submission().push(&entry) }.is_err() {
                // No room in the queue: later.
                self.waiting.push_front(request);
                return;
            }
            self.bytes_under_way += request.len;
            self.under_way[place] = Some(request);
            // What the system does not take now goes with the next that it takes, or when it is waited for.
            let _ = self.ring.submit();
        }
    }

    /// What came of a request: bytes, or the negative of an error's number.
    fn answer(&mut self, feed: &F, mut request: Request, result: i32) {
        let source = &feed.sources()[request.shard];
        // SAFETY: as in `ask`; the request has come back.
        let to = unsafe { std::slice::from_raw_parts_mut(request.to, request.need) };
        let result = match usize::try_from(result) {
            Ok(got) if got >= request.need => Ok(()),
            // The file has come to its end: the page cache knows whether it has.
            Ok(got) if got < PAGE => source.read_exact_at(request.offset, to),
            Ok(got) => {
                // What came up short goes on with the page in which it ended.
                let whole = got / PAGE * PAGE;
                request.offset += whole as u64;
                // SAFETY: `whole < need <= len`.
                request.to = unsafe { request.to.add(whole) };
                request.len -= whole;
                request.need -= whole;
                self.waiting.push_front(request);
                return;
            }
            Err(_) => {
                let error = io::Error::from_raw_os_error(-result);
                match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => {
                        self.waiting.push_front(request);
                        return;
                    }
                    // The file system accepted the flag and refuses the read.
                    io::ErrorKind::InvalidInput => source.read_exact_at(request.offset, to),
                    _ => Err(source.read_failed(request.offset, request.need, 0, error)),
                }
            }
        };
        self.finish_one(feed, request.job, result);
    }

    /// One request of a job is done with.
    fn finish_one(&mut self, feed: &F, index: usize, result: Result<(), StoreError>) {
        let Some(active) = &mut self.jobs[index] else { return };
        active.requests -= 1;
        if let Err(error) = result {
            active.failed.get_or_insert(error);
        }
        if active.requests == 0
            && let Some(active) = self.jobs[index].take()
        {
            feed.finish(active.job, active.failed.map_or(Ok(()), Err));
        }
    }
}
