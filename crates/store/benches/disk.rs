//! What it costs a disk that what it has read is used.
//!
//! ```text
//! cargo bench -p rheostat-store --bench disk -- FILE [TURNS]
//! ```
//!
//! A bare loop of `io_uring`, eight requests of 512 KiB under way, past the page cache, into huge pages. It has places for sixteen.
//! In turns of 0.7 seconds (30 of each, unless told otherwise):
//!
//! - what has come is left alone, and its place is the next to be used: 4 MiB are written over and over;
//! - it is left alone, and all places are used in turn: 8 MiB are;
//! - two threads read through it before its place is used again;
//! - these threads read as much of other memory before its place is used again.

#![allow(clippy::print_stdout, reason = "what it has measured")]

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("io_uring is Linux's");
}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let Some(path) = args.next() else {
        println!("to measure: cargo bench -p rheostat-store --bench disk -- FILE [TURNS]");
        return Ok(());
    };
    let turns = args.next().map_or(Ok(30), |turns| turns.parse())?;
    linux::measure(&path, turns)?;
    Ok(())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::alloc::{Layout, alloc, handle_alloc_error};
    use std::fs::{File, OpenOptions};
    use std::hint::black_box;
    use std::io;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::sync::Mutex;
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use io_uring::{IoUring, opcode, types};

    const DEPTH: usize = 8;
    const REQUEST: usize = 512 << 10;
    /// Places for requests: so many that those under way need not wait for those that a thread has.
    const PLACES: usize = 2 * DEPTH;
    /// Other memory to read, in requests.
    const OTHER: usize = 64;
    const TURN: Duration = Duration::from_millis(700);
    const HUGE_PAGE: usize = 2 << 20;

    #[derive(Clone, Copy)]
    enum Then {
        LeaveAlone,
        InTurn,
        ReadThrough,
        ReadOther,
    }

    const ALL: [(Then, &str); 4] = [
        (Then::LeaveAlone, "left alone"),
        (Then::InTurn, "all places in turn"),
        (Then::ReadThrough, "read through"),
        (Then::ReadOther, "other memory read"),
    ];

    /// Memory by index of a request: `PLACES` to read into, `OTHER` beside them. It is never given back.
    #[derive(Clone, Copy)]
    struct Memory(*mut u8);

    // SAFETY: plain bytes. Whoever has a place's index has the place: indices are handed from loop to thread and back.
    unsafe impl Send for Memory {}

    impl Memory {
        fn new() -> Memory {
            let bytes = (PLACES + OTHER) * REQUEST;
            let layout = Layout::from_size_align(bytes, HUGE_PAGE).expect("a power of two");
            // SAFETY: the layout is not empty.
            let start = unsafe { alloc(layout) };
            if start.is_null() {
                handle_alloc_error(layout);
            }
            // SAFETY: the range is the allocation. Where there are no huge pages, ordinary ones do.
            let _ = unsafe { rustix::mm::madvise(start.cast(), bytes, rustix::mm::Advice::LinuxHugepage) };
            // Touched for the first time here, after the advice.
            // SAFETY: the range is the allocation, which nobody else has yet.
            unsafe { start.write_bytes(1, bytes) };
            Memory(start)
        }

        fn place(self, index: usize) -> *mut u8 {
            assert!(index < PLACES + OTHER);
            // SAFETY: within the allocation.
            unsafe { self.0.add(index * REQUEST) }
        }

        /// Reads a place once.
        fn read(self, index: usize) {
            // SAFETY: the caller has the place: nothing writes to it.
            let bytes = unsafe { std::slice::from_raw_parts(self.place(index), REQUEST) };
            let sum = bytes.chunks_exact(256).fold([0u8; 256], |mut sum, chunk| {
                sum.iter_mut().zip(chunk).for_each(|(sum, byte)| *sum ^= byte);
                sum
            });
            black_box(sum);
        }
    }

    pub(super) fn measure(path: &str, turns: usize) -> io::Result<()> {
        let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let requests = file.metadata()?.len() / REQUEST as u64;
        if requests < 2 * DEPTH as u64 {
            return Err(io::Error::other(format!("{path}: smaller than {} bytes", 2 * DEPTH * REQUEST)));
        }
        let memory = Memory::new();
        let mut next = 0;
        let mut rates = ALL.map(|_| Vec::new());
        for turn in 0..turns {
            for i in 0..ALL.len() {
                let which = (turn + i) % ALL.len();
                rates[which].push(rate(&file, requests, &mut next, memory, ALL[which].0)?);
            }
        }
        for ((_, name), mut rates) in ALL.iter().zip(rates) {
            rates.sort_by(f64::total_cmp);
            let mean = rates.iter().sum::<f64>() / rates.len().max(1) as f64;
            let at = |share: usize| rates.get(rates.len() * share / 10).copied().unwrap_or(0.0);
            println!("{name:18} {mean:.2} GB/s; median {:.2}, middle eight tenths {:.2} to {:.2}", at(5), at(1), at(9));
        }
        Ok(())
    }

    /// GB/s over one turn.
    fn rate(file: &File, requests: u64, next: &mut u64, memory: Memory, then: Then) -> io::Result<f64> {
        let mut ring = IoUring::new(DEPTH as u32)?;
        let mut free: Vec<usize> = (0..PLACES).rev().collect();
        let (mut under_way, mut come) = (0, 0);
        // What is to be read, and the place that is free then.
        let (to_threads, jobs) = channel::<(usize, usize)>();
        let (back, done) = channel::<usize>();
        let jobs = Mutex::new(jobs);
        let begin = Instant::now();
        std::thread::scope(|scope| {
            // Dropped at the end of this turn, at which the threads end.
            let to_threads = to_threads;
            for _ in 0..2 {
                let (jobs, back) = (&jobs, back.clone());
                scope.spawn(move || {
                    loop {
                        let job = jobs.lock().map(|jobs| jobs.recv());
                        let Ok(Ok((index, place))) = job else { return };
                        memory.read(index);
                        if back.send(place).is_err() {
                            return;
                        }
                    }
                });
            }
            loop {
                free.extend(done.try_iter());
                while under_way < DEPTH && begin.elapsed() < TURN {
                    let Some(place) = free.pop() else { break };
                    let read = opcode::Read::new(types::Fd(file.as_raw_fd()), memory.place(place), REQUEST as u32);
                    let entry = read.offset(*next % requests * REQUEST as u64).build().user_data(place as u64);
                    *next += 1;
                    // SAFETY: the place is this request's until it has come back, the memory is never given back, and there are no
                    // more requests than the queue has room for.
                    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
                    ring.submit()?;
                    under_way += 1;
                }
                if under_way == 0 && begin.elapsed() < TURN {
                    // A slow thread has all places.
                    free.push(done.recv().map_err(io::Error::other)?);
                    continue;
                }
                if under_way == 0 {
                    return Ok((come * REQUEST) as f64 / begin.elapsed().as_secs_f64() / 1e9);
                }
                ring.submit_and_wait(1)?;
                for entry in ring.completion() {
                    if entry.result() != REQUEST as i32 {
                        return Err(io::Error::from_raw_os_error(-entry.result().min(0)));
                    }
                    let place = entry.user_data() as usize;
                    under_way -= 1;
                    come += 1;
                    match then {
                        Then::LeaveAlone => free.push(place),
                        Then::InTurn => free.insert(0, place),
                        Then::ReadThrough => to_threads.send((place, place)).map_err(io::Error::other)?,
                        Then::ReadOther => {
                            to_threads.send((PLACES + come % OTHER, place)).map_err(io::Error::other)?;
                        }
                    }
                }
            }
        })
    }
}
