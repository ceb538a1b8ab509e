//! What the disk can do at best: the ceiling that the stream's speed is compared with, and what a forecast rests on.
//!
//! A bare loop: requests under way into memory of huge pages, nothing else; few of them and many, since disks differ in what they are faster
//! with. It shares no code with the readers, so that a slip there shows.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::arena::Arena;
use crate::checkpoint::Checkpoint;
use crate::error::{StoreError, StoreErrorKind};

/// So many requests under way, of so many bytes. One disk of a virtual machine was slower by up to a quarter with the second, another by a tenth with
/// the first.
const FEW: (usize, usize) = (16, 512 << 10);
const MANY: (usize, usize) = (32, 1 << 20);

/// Bytes of memory that [`disk_rate`] takes while it measures.
pub const DISK_PROBE_BYTES: u64 = (MANY.0 * MANY.1) as u64;

/// Bytes per second at which the largest file of `checkpoint` can be read past the page cache, the best of two ways, measured for about
/// `time` in all; nothing when it is part of the program, smaller than a few requests, or cannot be read past the cache.
///
/// # Errors
/// When the system has no memory for it, or fails a read.
pub fn disk_rate(checkpoint: &Checkpoint, time: Duration) -> Result<Option<f64>, StoreError> {
    let files = checkpoint.sources().iter().filter(|s| s.file().is_some());
    let Some(source) = files.max_by_key(|s| s.len()) else { return Ok(None) };
    let Some(file) = source.direct() else { return Ok(None) };
    // Each of at least two rounds.
    let ways: Vec<_> = [FEW, MANY].into_iter().filter(|(n, bytes)| source.len() >= 2 * (n * bytes) as u64).collect();
    let Some(most) = ways.iter().map(|(n, bytes)| n * bytes).max() else { return Ok(None) };
    let arena = Arena::new(most).map_err(|e| {
        StoreError::new(StoreErrorKind::OutOfMemory, "memory to measure the disk with cannot be had")
            .at(checkpoint.path())
            .caused_by(e)
    })?;
    let mut best: Option<f64> = None;
    for (depth, request) in &ways {
        // Somewhere else each time: what was just read may be in a cache that the disk has of its own.
        let start = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| u64::from(t.subsec_nanos()));
        let area = Area { file, start, requests: source.len() / *request as u64, depth: *depth, request: *request };
        let time = time / ways.len() as u32;
        #[cfg(target_os = "linux")]
        let rate = area.by_uring(&arena, time).or_else(|_| area.by_threads(&arena, time));
        #[cfg(not(target_os = "linux"))]
        let rate = area.by_threads(&arena, time);
        let rate = rate.map_err(|e| source.read_failed(0, *request, 0, e))?;
        best = Some(best.map_or(rate, |best| best.max(rate)));
    }
    Ok(best)
}

/// What is read: one request after the other, around and around.
struct Area<'a> {
    file: &'a File,
    start: u64,
    requests: u64,
    /// Requests under way.
    depth: usize,
    /// Bytes of each.
    request: usize,
}

impl Area<'_> {
    fn offset(&self, request: u64) -> u64 {
        (self.start + request) % self.requests * self.request as u64
    }

    #[cfg(target_os = "linux")]
    fn by_uring(&self, arena: &Arena, time: Duration) -> io::Result<f64> {
        use io_uring::{IoUring, opcode, types};
        use std::os::fd::AsRawFd as _;

        let mut ring = IoUring::new(self.depth as u32)?;
        let (mut asked, mut under_way, mut bytes) = (0u64, 0usize, 0u64);
        let mut failed = None;
        let mut free: Vec<u64> = (0..self.depth as u64).collect();
        let begin = Instant::now();
        loop {
            while failed.is_none() && begin.elapsed() < time {
                let Some(slot) = free.pop() else { break };
                assert!((slot as usize + 1) * self.request <= arena.len());
                // SAFETY: within the arena.
                let to = unsafe { arena.as_ptr().add(slot as usize * self.request) };
                let entry = opcode::Read::new(types::Fd(self.file.as_raw_fd()), to, self.request as u32)
                    .offset(self.offset(asked))
                    .build()
                    .user_data(slot);
                // SAFETY: a slot's memory is asked for once at a time, and the arena outlives every request: this
                // function does not return before they have all come back.
                if unsafe { ring.submission().push(&entry) }.is_err() {
                    free.push(slot);
                    break;
                }
                asked += 1;
                under_way += 1;
                // Each by itself, or the system makes one large request of them; what it does not take now it takes below.
                let _ = ring.submit();
            }
            if under_way == 0 {
                break;
            }
            if let Err(error) = ring.submit_and_wait(1) {
                if error.kind() != io::ErrorKind::Interrupted {
                    failed.get_or_insert(error);
                    // What the system has not taken it will not write.
                    let untaken = ring.submission().len();
                    under_way -= untaken;
                    if under_way == 0 {
                        break;
                    }
                }
                std::thread::yield_now();
            }
            for done in ring.completion() {
                under_way -= 1;
                free.push(done.user_data());
                match u64::try_from(done.result()) {
                    Ok(got) => bytes += got,
                    Err(_) => {
                        failed.get_or_insert(io::Error::from_raw_os_error(-done.result()));
                    }
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(bytes as f64 / begin.elapsed().as_secs_f64()),
        }
    }

    fn by_threads(&self, arena: &Arena, time: Duration) -> io::Result<f64> {
        let (next, bytes, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let begin = Instant::now();
        let read = |buf: &mut [u8]| -> io::Result<()> {
            while begin.elapsed() < time && !failed.load(Ordering::Relaxed) {
                let got = self.file.read_at(buf, self.offset(next.fetch_add(1, Ordering::Relaxed)));
                bytes.fetch_add(got.inspect_err(|_| failed.store(true, Ordering::Relaxed))? as u64, Ordering::Relaxed);
            }
            Ok(())
        };
        // SAFETY: the whole arena, which nobody else uses.
        let all = unsafe { std::slice::from_raw_parts_mut(arena.as_ptr(), arena.len()) };
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                all.chunks_exact_mut(self.request).take(self.depth).map(|buf| scope.spawn(|| read(buf))).collect();
            threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
        })?;
        Ok(bytes.into_inner() as f64 / begin.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A checkpoint of zeros, `bytes` long without its header.
    fn checkpoint(dir: &std::path::Path, bytes: u64) -> Checkpoint {
        let header = format!(r#"{{"x":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{bytes}]}}}}"#, bytes / 4);
        let path = dir.join("model.safetensors");
        let mut data = (header.len() as u64).to_le_bytes().to_vec();
        data.extend(header.as_bytes());
        std::fs::write(&path, &data).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(data.len() as u64 + bytes).unwrap();
        Checkpoint::open(dir).unwrap()
    }

    #[test]
    fn both_loops_read_and_small_files_are_not_measured() {
        let time = Duration::from_millis(20);
        let small = tempfile::tempdir().unwrap();
        assert_eq!(disk_rate(&checkpoint(small.path(), 1 << 20), time).unwrap(), None);
        let large = tempfile::tempdir().unwrap();
        let checkpoint = checkpoint(large.path(), 128 << 20);
        let file = checkpoint.sources()[0].file().unwrap();
        let (depth, request) = FEW;
        let area = Area { file, start: 7, requests: 32, depth, request };
        let arena = Arena::new(depth * request).unwrap();
        assert!(area.by_threads(&arena, time).unwrap() > 0.0);
        // Where the file system allows it.
        if let Some(rate) = disk_rate(&checkpoint, time).unwrap() {
            assert!(rate > 0.0);
        }
    }

    #[test]
    fn a_read_that_fails_is_an_error() {
        // Written to, not read from.
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(file.path()).unwrap();
        let (depth, request) = FEW;
        let area = Area { file: &file, start: 0, requests: 32, depth, request };
        let arena = Arena::new(depth * request).unwrap();
        assert!(area.by_threads(&arena, Duration::from_millis(20)).is_err());
        #[cfg(target_os = "linux")]
        assert!(area.by_uring(&arena, Duration::from_millis(20)).is_err());
    }
}
