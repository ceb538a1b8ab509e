//! A file that bytes are put away in for a while: without a name, so that it is gone however the process ends.
//!
//! Who uses it decides what lies where. Writing is done at once; reading either at once or ahead: buffers are handed in with a
//! place to read, a few threads fill them, and they come back in the order in which they were handed in.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::fs::{Mode, OFlags};

use crate::error::{StoreError, StoreErrorKind as Kind};
use crate::plan::PAGE;

/// Threads that read ahead: reads under way at once.
pub const SPOOL_THREADS: usize = 4;

/// A buffer that is read into: two parts, which follow each other in the file.
pub trait SpoolBuffer: Send + 'static {
    /// The memory of both parts, each at least as long as what is read into it.
    fn parts_mut(&mut self) -> [&mut [u8]; 2];
}

/// Where two parts lie: the second begins at the first page that the first leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpoolPlace {
    /// First byte, at the beginning of a page.
    pub offset: u64,
    /// Bytes of each part.
    pub lens: [usize; 2],
}

impl SpoolPlace {
    /// Bytes that two parts of `lens` take, in whole pages.
    #[must_use]
    pub fn span(lens: [usize; 2]) -> u64 {
        lens.iter().map(|len| len.next_multiple_of(PAGE) as u64).sum()
    }

    fn offsets(self) -> [u64; 2] {
        [self.offset, self.offset + self.lens[0].next_multiple_of(PAGE) as u64]
    }
}

/// A file in a directory, without a name there, and the threads that read it ahead.
pub struct Spool<B> {
    shared: Arc<Shared<B>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<B> {
    file: Backing,
    state: Mutex<State<B>>,
    /// Rung when there is something to read.
    work: Condvar,
    /// Rung when something has arrived.
    arrived: Condvar,
    bytes_read: AtomicU64,
    waited_ns: AtomicU64,
}

struct State<B> {
    /// What was handed in and not taken back, in order.
    jobs: VecDeque<Job<B>>,
    /// How many were taken back before.
    taken: u64,
    stop: bool,
}

struct Job<B> {
    place: SpoolPlace,
    stage: Stage<B>,
}

enum Stage<B> {
    Asked(B),
    Reading,
    Done(B, Result<(), StoreError>),
}

/// The file itself.
struct Backing {
    dir: PathBuf,
    file: File,
    /// The same past the page cache, where the system allows that.
    direct: Option<File>,
}

impl<B: SpoolBuffer> Spool<B> {
    /// Makes the file in the directory `dir`.
    ///
    /// # Errors
    /// When `dir` is no directory, or one in which no file can be made.
    pub fn create(dir: &Path) -> Result<Spool<B>, StoreError> {
        let file = unnamed(dir)?;
        let direct = open_direct(&file);
        Spool::over(Backing { dir: dir.to_owned(), file, direct })
    }

    fn over(file: Backing) -> Result<Spool<B>, StoreError> {
        let state = State { jobs: VecDeque::new(), taken: 0, stop: false };
        let shared = Arc::new(Shared {
            file,
            state: Mutex::new(state),
            work: Condvar::new(),
            arrived: Condvar::new(),
            bytes_read: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
        });
        let mut spool = Spool { shared, threads: Vec::new() };
        for i in 0..SPOOL_THREADS {
            let shared = Arc::clone(&spool.shared);
            let builder = std::thread::Builder::new().name(format!("rheostat-spool-{i}")).stack_size(256 << 10);
            let thread = builder.spawn(move || shared.serve()).map_err(|e| {
                StoreError::new(Kind::OutOfMemory, "a reader thread cannot be started")
                    .at(&spool.shared.file.dir)
                    .caused_by(e)
            })?;
            spool.threads.push(thread);
        }
        Ok(spool)
    }

    /// Writes `parts` at `place`, which is of their lengths.
    ///
    /// # Errors
    /// `WriteFailed`: the disk is full, or fails.
    pub fn write(&self, place: SpoolPlace, parts: [&[u8]; 2]) -> Result<(), StoreError> {
        let file = &self.shared.file;
        place.offsets().into_iter().zip(parts).try_for_each(|(offset, part)| file.write(offset, part))
    }

    /// Reads `place` into `parts`, now.
    ///
    /// # Errors
    /// `ReadFailed`, or `Shrank` if nothing was ever written there.
    pub fn read(&self, place: SpoolPlace, parts: [&mut [u8]; 2]) -> Result<(), StoreError> {
        self.shared.read(place, parts)
    }

    /// Hands in `buffer`, to be filled from `place` after those handed in before.
    pub fn ask(&self, place: SpoolPlace, buffer: B) {
        self.shared.lock().jobs.push_back(Job { place, stage: Stage::Asked(buffer) });
        self.shared.work.notify_one();
    }

    /// Takes back the buffer that was handed in first, filled unless its reading failed; `None` if there is none.
    pub fn take(&self) -> Option<(B, Result<(), StoreError>)> {
        let mut state = self.shared.lock();
        let mut waiting_since = None;
        loop {
            match &state.jobs.front()?.stage {
                Stage::Done(..) => break,
                Stage::Asked(_) | Stage::Reading => {
                    waiting_since.get_or_insert_with(Instant::now);
                    state = self.shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        if let Some(since) = waiting_since {
            let ns = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.shared.waited_ns.fetch_add(ns, Ordering::Relaxed);
        }
        state.taken += 1;
        match state.jobs.pop_front()?.stage {
            Stage::Done(buffer, result) => Some((buffer, result)),
            Stage::Asked(_) | Stage::Reading => None,
        }
    }

    /// Bytes read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.shared.bytes_read.load(Ordering::Relaxed)
    }

    /// Seconds that [`Spool::take`] has waited so far.
    #[must_use]
    pub fn waited(&self) -> f64 {
        self.shared.waited_ns.load(Ordering::Relaxed) as f64 * 1e-9
    }
}

impl<B> Drop for Spool<B> {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // They do not panic; if one did, there is nothing left to undo.
            let _ = thread.join();
        }
    }
}

impl<B> Shared<B> {
    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: SpoolBuffer> Shared<B> {
    /// Fills one buffer after the other until told to stop.
    fn serve(&self) {
        let mut state = self.lock();
        while !state.stop {
            let waiting = state.jobs.iter().position(|job| matches!(job.stage, Stage::Asked(_)));
            let Some(index) = waiting else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let number = state.taken + index as u64;
            let place = state.jobs[index].place;
            let Stage::Asked(mut buffer) = std::mem::replace(&mut state.jobs[index].stage, Stage::Reading) else {
                continue;
            };
            drop(state);
            let result = self.read(place, buffer.parts_mut());
            state = self.lock();
            // Nobody takes what is not done: it has only moved up.
            let index = (number - state.taken) as usize;
            state.jobs[index].stage = Stage::Done(buffer, result);
            self.arrived.notify_all();
        }
    }

    fn read(&self, place: SpoolPlace, parts: [&mut [u8]; 2]) -> Result<(), StoreError> {
        for ((offset, part), len) in place.offsets().into_iter().zip(parts).zip(place.lens) {
            self.file.read(offset, &mut part[..len])?;
            self.bytes_read.fetch_add(len as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Backing {
    /// Past the page cache for whole pages.
    fn direct(&self, memory: *const u8, len: usize) -> Option<&File> {
        self.direct.as_ref().filter(|_| len.is_multiple_of(PAGE) && memory.addr().is_multiple_of(PAGE))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let direct = self.direct(bytes.as_ptr(), bytes.len()).map(|file| file.write_all_at(bytes, offset));
        let result = match direct {
            // The file system accepted the flag and refuses the write.
            Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => self.file.write_all_at(bytes, offset),
            Some(result) => result,
            None => self.file.write_all_at(bytes, offset),
        };
        result.map_err(|error| {
            let what = format!("writing {} bytes to the temporary file there failed", bytes.len());
            StoreError::new(Kind::WriteFailed, what)
                .at(&self.dir)
                .advise("check the room on its disk, or give another directory")
                .caused_by(error)
        })
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        let mut file = self.direct(buf.as_ptr(), buf.len()).unwrap_or(&self.file);
        let mut got = 0;
        while got < buf.len() {
            // A direct read that came up short goes on with the page in which it ended.
            let start = if std::ptr::eq(file, &raw const self.file) { got } else { got / PAGE * PAGE };
            match file.read_at(&mut buf[start..], offset + start as u64) {
                Ok(count) if start + count > got => got = start + count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) if std::ptr::eq(file, &raw const self.file) => {
                    let what = format!("{} bytes of the temporary file there end after {got}", buf.len());
                    return Err(StoreError::new(Kind::Shrank, what).at(&self.dir).advise("check the disk"));
                }
                // The page cache knows more.
                Ok(_) => file = &self.file,
                Err(error)
                    if error.kind() == io::ErrorKind::InvalidInput && !std::ptr::eq(file, &raw const self.file) =>
                {
                    file = &self.file;
                }
                Err(error) => {
                    let what = format!("reading {} bytes of the temporary file there failed", buf.len());
                    return Err(StoreError::new(Kind::ReadFailed, what)
                        .at(&self.dir)
                        .advise("check the disk, or give another directory")
                        .caused_by(error));
                }
            }
        }
        Ok(())
    }
}

/// Bytes that the file system of `dir` has room for, in which a [`Spool`] can be made.
///
/// # Errors
/// As [`Spool::create`].
pub fn spool_room(dir: &Path) -> Result<u64, StoreError> {
    unnamed(dir)?;
    refuse_memory(dir)?;
    let stat = rustix::fs::statvfs(dir).map_err(|e| refused(dir, e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether files can be made in `dir`.
#[must_use]
pub fn takes_files(dir: &Path) -> bool {
    unnamed(dir).is_ok()
}

/// Refuses a directory whose files are in memory: what is put there is not out of the way.
#[cfg(target_os = "linux")]
fn refuse_memory(dir: &Path) -> Result<(), StoreError> {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(dir).map_err(|e| refused(dir, e.into()))?.f_type as u64 & 0xffff_ffff;
    if kind == TMPFS || kind == RAMFS {
        return Err(StoreError::new(Kind::IoRefused, "the files of this directory are in memory")
            .at(dir)
            .advise("give a directory on a disk"));
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn refuse_memory(_: &Path) -> Result<(), StoreError> {
    Ok(())
}

/// A new file in `dir` that has no name.
fn unnamed(dir: &Path) -> Result<File, StoreError> {
    let metadata = std::fs::metadata(dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            StoreError::new(Kind::NotFound, "there is no such directory").at(dir).advise("make it, or give another")
        }
        _ => refused(dir, error),
    })?;
    if !metadata.is_dir() {
        return Err(StoreError::new(Kind::NotADirectory, "this is not a directory")
            .at(dir)
            .advise("give a directory for temporary data"));
    }
    #[cfg(target_os = "linux")]
    if let Ok(file) = rustix::fs::open(dir, OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
        return Ok(file.into());
    }
    // Not every file system has files without names: the name is taken away at once.
    for n in 0u32.. {
        let path = dir.join(format!(".rheostat-{}-{n}", std::process::id()));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(refused(dir, error.into())),
            Ok(file) => {
                std::fs::remove_file(&path).map_err(|e| refused(dir, e))?;
                return Ok(file.into());
            }
        }
    }
    Err(refused(dir, io::ErrorKind::AlreadyExists.into()))
}

fn refused(dir: &Path, error: io::Error) -> StoreError {
    StoreError::new(Kind::WriteFailed, "no temporary file can be made there")
        .at(dir)
        .advise("give another directory")
        .caused_by(error)
}

/// `file` once more, past the page cache.
#[cfg(target_os = "linux")]
fn open_direct(file: &File) -> Option<File> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()).ok().map(File::from)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &File) -> Option<File> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Arena;

    /// Two parts in memory that begins at a page.
    struct Pair {
        arena: Arena,
        lens: [usize; 2],
    }

    impl Pair {
        fn new(lens: [usize; 2]) -> Pair {
            Pair { arena: Arena::new(SpoolPlace::span(lens) as usize).unwrap(), lens }
        }

        fn fill(&mut self, seed: usize) {
            for part in self.parts_mut() {
                part.iter_mut().enumerate().for_each(|(i, b)| *b = (i * 31 + seed * 7 + i / 251) as u8);
            }
        }

        fn parts(&mut self) -> [&[u8]; 2] {
            self.parts_mut().map(|part| &*part)
        }
    }

    impl SpoolBuffer for Pair {
        fn parts_mut(&mut self) -> [&mut [u8]; 2] {
            let second = self.lens[0].next_multiple_of(PAGE);
            // SAFETY: two parts of the arena that do not overlap, exclusively borrowed.
            unsafe {
                [(0, self.lens[0]), (second, self.lens[1])]
                    .map(|(at, len)| std::slice::from_raw_parts_mut(self.arena.as_ptr().add(at), len))
            }
        }
    }

    /// Whole pages and parts of them, on a disk and in memory, read at once and ahead, in order.
    #[test]
    fn what_was_put_away_comes_back_in_order() {
        let shm = Path::new("/dev/shm");
        let on_disk = tempfile::tempdir().unwrap();
        for dir in [on_disk.path(), shm].into_iter().filter(|dir| dir.is_dir()) {
            for lens in [[8192, 4096], [5000, 300], [1, 0], [3 << 20, 1 << 20]] {
                let spool = Spool::create(dir).unwrap();
                let place = |i: u64| SpoolPlace { offset: i * SpoolPlace::span(lens), lens };
                let mut pair = Pair::new(lens);
                for i in 0..20 {
                    pair.fill(i);
                    spool.write(place(i as u64), pair.parts()).unwrap();
                }
                let order = [3, 19, 0, 7, 7, 12];
                order.iter().for_each(|i| spool.ask(place(*i), Pair::new(lens)));
                for i in order {
                    let (mut got, result) = spool.take().unwrap();
                    result.unwrap();
                    pair.fill(i as usize);
                    assert!(got.parts() == pair.parts(), "{i} of {lens:?} in {}", dir.display());
                    spool.read(place(i), got.parts_mut()).unwrap();
                    assert!(got.parts() == pair.parts());
                }
                assert!(spool.take().is_none());
                assert_eq!(spool.bytes_read(), 12 * (lens[0] + lens[1]) as u64);
                // What was never written cannot be read.
                let beyond = spool.read(place(30), pair.parts_mut()).unwrap_err();
                assert_eq!(beyond.kind(), Kind::Shrank);
                assert!(beyond.to_string().contains(&dir.display().to_string()), "{beyond}");
            }
            assert_eq!(std::fs::read_dir(on_disk.path()).unwrap().count(), 0, "nothing has a name");
        }
    }

    #[test]
    fn a_full_disk_and_no_directory_are_errors_that_name_it() {
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        let spool = Spool::<Pair>::over(Backing { dir: "/some/dir".into(), file: full, direct: None }).unwrap();
        let place = SpoolPlace { offset: 0, lens: [4096, 4096] };
        let error = spool.write(place, [&[0; 4096], &[0; 4096]]).unwrap_err();
        assert_eq!(error.kind(), Kind::WriteFailed);
        assert!(error.to_string().starts_with("/some/dir: ") && error.to_string().contains("room"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(spool_room(&file).unwrap_err().kind(), Kind::NotADirectory);
        assert_eq!(spool_room(&dir.path().join("missing")).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(spool_room(Path::new("/proc")).unwrap_err().kind(), Kind::WriteFailed);
        // In a container even the temporary directory may be in memory.
        assert!(spool_room(dir.path()).is_ok_and(|room| room > 0) || refuse_memory(dir.path()).is_err());
        if Path::new("/dev/shm").is_dir() && takes_files(Path::new("/dev/shm")) {
            let error = spool_room(Path::new("/dev/shm")).unwrap_err();
            assert!(error.to_string().contains("are in memory; give a directory on a disk"), "{error}");
        }
    }

    /// A buffer that is not taken back, and one that is being read, do not keep the threads from ending.
    #[test]
    fn it_ends_with_work_under_way() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::create(dir.path()).unwrap();
        let lens = [1 << 20, 1 << 20];
        for i in 0..10 {
            spool.ask(SpoolPlace { offset: i * SpoolPlace::span(lens), lens }, Pair::new(lens));
        }
        let (_, result) = spool.take().unwrap();
        assert_eq!(result.unwrap_err().kind(), Kind::Shrank);
    }
}
