//! The cache of experts: whatever the budget and the order, every expert arrives with the bytes of the file.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop, and says what it could not try")]

use std::collections::HashSet;
use std::fs;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rheostat_store::{
    Checkpoint, Expert, ExpertPlan, Experts, Extent, Io, Record, StoreError, StoreErrorKind, TooSmall, Way,
};

const WAYS: [(Io, Way); 3] = [(Io::Uring, Way::Uring), (Io::Direct, Way::Direct), (Io::Buffered, Way::Buffered)];
const LAYERS: usize = 4;
const EXPERTS: u32 = 24;
/// Elements of an expert's gate, up and down in bf16, and of its part of the fused scales: no multiples of anything.
const GATE: usize = 1501;
const DOWN: usize = 2777;
const SCALES: usize = 19;

/// Numbers that look random and are the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end
    }

    /// Some experts, in increasing order: lower ones more often.
    fn choose(&mut self, count: usize, of: u32) -> Vec<u32> {
        let mut chosen = HashSet::new();
        while chosen.len() < count.min(of as usize) {
            let end = 1 + self.below(of as usize);
            chosen.insert(self.below(end) as u32);
        }
        let mut chosen: Vec<u32> = chosen.into_iter().collect();
        chosen.sort_unstable();
        chosen
    }
}

/// Directories where reads past the page cache are possible.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A file of tensors one after the other whose data begins at an odd offset and whose bytes tell where they are from.
fn file(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut at = 0;
    let entries: Vec<String> = tensors
        .iter()
        .map(|(name, shape)| {
            let begin = at;
            at += 2 * shape.iter().product::<usize>();
            format!(r#""{name}":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{begin},{at}]}}"#)
        })
        .collect();
    let mut header = format!("{{{}}}", entries.join(","));
    while header.len() % 8 != 5 {
        header.push(' ');
    }
    let mut random = Random(header.len() as u64);
    let data = (0..at).map(|_| random.below(256) as u8);
    (header.len() as u64).to_le_bytes().into_iter().chain(header.bytes()).chain(data).collect()
}

/// Each expert has a gate and an up that touch, a down elsewhere, and a part of a fused tensor; those of the last layer have two downs.
fn model() -> Vec<u8> {
    let mut tensors = vec![("other".to_owned(), vec![777])];
    for l in 0..LAYERS {
        tensors.push((format!("{l}.scales"), vec![EXPERTS as usize, SCALES]));
        // Further than what is read rather than skipped.
        tensors.push((format!("{l}.other"), vec![10_000]));
        for e in 0..EXPERTS {
            tensors.push((format!("{l}.{e}.gate"), vec![GATE]));
            tensors.push((format!("{l}.{e}.up"), vec![GATE]));
        }
        let downs = if l == LAYERS - 1 { 2 } else { 1 };
        tensors.extend((0..EXPERTS).map(|e| (format!("{l}.{e}.down"), vec![downs, DOWN])));
    }
    file(&tensors)
}

fn checkpoint(dir: &Path) -> Checkpoint {
    fs::write(dir.join("model.safetensors"), model()).unwrap();
    Checkpoint::open(dir).unwrap()
}

/// The experts of [`model`]: down, scales, gate, up.
fn layers(checkpoint: &Checkpoint) -> Vec<Vec<Expert>> {
    let extent = |name: String| Extent::from(checkpoint.tensor(&name).unwrap());
    let expert = |l: usize, e: u32| {
        let scales = checkpoint.tensor(&format!("{l}.scales")).unwrap().entry(e as usize).unwrap();
        let [down, gate, up] = ["down", "gate", "up"].map(|part| extent(format!("{l}.{e}.{part}")));
        Expert { parts: vec![down, Extent::from(&scales), gate, up] }
    };
    (0..LAYERS).map(|l| (0..EXPERTS).map(|e| expert(l, e)).collect()).collect()
}

/// What is tested: experts, and what their bytes should be.
struct Case {
    experts: Experts,
    want: Vec<Vec<Vec<Vec<u8>>>>,
}

impl Case {
    /// Nothing where the system refuses the way of reading.
    fn new(checkpoint: &Checkpoint, budget: u64, io: Io) -> Option<Case> {
        Case::with(checkpoint, &layers(checkpoint), budget, io, None)
    }

    fn with(
        checkpoint: &Checkpoint,
        layers: &[Vec<Expert>],
        budget: u64,
        io: Io,
        record: Option<Record>,
    ) -> Option<Case> {
        let plan = ExpertPlan::new(checkpoint, layers, budget, io).unwrap();
        assert!(plan.arena_bytes() <= budget && plan.least_bytes() <= budget, "{budget}");
        let read = |extent: &Extent| {
            let mut bytes = vec![0; extent.len as usize];
            checkpoint.sources()[extent.shard].read_exact_at(extent.offset, &mut bytes).unwrap();
            bytes
        };
        let want = layers.iter().map(|l| l.iter().map(|e| e.parts.iter().map(read).collect()).collect()).collect();
        match Experts::new(checkpoint, plan, record) {
            Ok(experts) => Some(Case { experts, want }),
            // In some containers, and on some file systems.
            Err(error) if error.kind() == StoreErrorKind::IoRefused => {
                println!("not tried: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Acquires an expert and compares every byte.
    fn check(&self, layer: usize, expert: u32) -> Result<(), StoreError> {
        let bytes = self.experts.acquire(layer, expert)?;
        let want = &self.want[layer][expert as usize];
        assert_eq!(bytes.parts(), want.len());
        for (p, want) in want.iter().enumerate() {
            assert!(bytes.part(p) == want, "layer {layer}, expert {expert}, part {p}");
        }
        Ok(())
    }

    fn pass(&self, layer: usize, experts: &[u32]) {
        self.experts.request(layer, experts);
        for e in experts {
            self.check(layer, *e).unwrap();
        }
    }

    /// Until an expert is here, or a second is over.
    fn comes(&self, layer: usize, expert: u32) -> bool {
        let until = Instant::now() + Duration::from_secs(1);
        while !self.experts.is_here(layer, expert) && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(100));
        }
        self.experts.is_here(layer, expert)
    }
}

/// The smallest budget, some that are not enough for all, and one that is.
fn budgets(checkpoint: &Checkpoint, io: Io) -> [u64; 4] {
    let TooSmall { needed } = ExpertPlan::new(checkpoint, &layers(checkpoint), 0, io).unwrap_err();
    let total = checkpoint.total_bytes();
    [needed, needed + 40_000, total / 2, total * 4]
}

#[test]
fn every_way_and_every_budget_gives_the_same_bytes() {
    let dir = directory();
    let checkpoint = checkpoint(dir.path());
    for (io, way) in WAYS {
        for budget in budgets(&checkpoint, io) {
            let Some(case) = Case::new(&checkpoint, budget, io) else { continue };
            assert_eq!(case.experts.way(), way);
            let mut random = Random(1);
            for sweep in 0..12 {
                for layer in 0..LAYERS {
                    let count = if sweep == 5 { EXPERTS as usize } else { 1 + random.below(8) };
                    case.pass(layer, &random.choose(count, EXPERTS));
                }
            }
            let hits = case.experts.stats();
            assert_eq!(hits.evicted == 0, case.experts.plan().fits(), "{hits:?}");
            assert!(hits.hit < hits.asked && hits.missed_bytes > 0, "{hits:?}");
        }
    }
}

/// More experts than slots, from every state of the cache: of another layer, of the end of the request, of its begin.
#[test]
fn a_request_may_name_more_than_there_is_room_for() {
    let dir = directory();
    let checkpoint = checkpoint(dir.path());
    let all: Vec<u32> = (0..EXPERTS).collect();
    for (io, _) in WAYS {
        let Some(case) = Case::new(&checkpoint, budgets(&checkpoint, io)[0], io) else { continue };
        assert!(case.experts.plan().slots() <= 12, "of two or three sizes");
        for layer in [0, 1, LAYERS - 1] {
            case.pass(layer, &all);
            case.pass(layer, &all);
            // All slots hold what is wanted last.
            case.pass(layer, &all[EXPERTS as usize - 4..]);
            case.pass(layer, &all);
            case.pass(layer, &all[..4]);
            case.pass(layer, &all);
        }
        // In reverse, and in an order that is not that of the request: slower, but right.
        case.experts.request(0, &all);
        all.iter().rev().for_each(|e| case.check(0, *e).unwrap());
        let mut random = Random(7);
        for _ in 0..200 {
            case.check(random.below(LAYERS), random.below(EXPERTS as usize) as u32).unwrap();
        }
    }
}

#[test]
fn what_fits_is_read_once() {
    let dir = directory();
    let checkpoint = checkpoint(dir.path());
    let all: Vec<u32> = (0..EXPERTS).collect();
    for io in [Io::Auto, Io::Uring, Io::Direct, Io::Buffered] {
        let Some(case) = Case::new(&checkpoint, checkpoint.total_bytes() * 4, io) else { continue };
        let plan = case.experts.plan();
        assert!(plan.fits() && plan.slots() == LAYERS * EXPERTS as usize);
        let total = plan.total_bytes();
        for _ in 0..3 {
            (0..LAYERS).for_each(|layer| case.pass(layer, &all));
        }
        let hits = case.experts.stats();
        let count = u64::from(EXPERTS) * LAYERS as u64;
        assert_eq!((hits.asked, hits.hit, hits.evicted), (3 * count, 2 * count, 0));
        assert_eq!(hits.missed_bytes, total);
        let read = case.experts.bytes_read();
        assert!(read == total && case.experts.watch()() == read, "{read} of {total}");
        assert_eq!(case.experts.reads().pinned, read);
        // All may be held at once.
        let held: Vec<_> = all.iter().map(|e| case.experts.acquire(0, *e).unwrap()).collect();
        assert!(plan.most_held() >= held.len());
    }
}

/// Through the page cache where all fits; past it otherwise.
#[test]
fn the_way_of_reading_follows_the_plan() {
    let dir = directory();
    let checkpoint = checkpoint(dir.path());
    let total = checkpoint.total_bytes();
    let case = Case::new(&checkpoint, total * 2, Io::Auto).unwrap();
    assert_eq!(case.experts.way(), Way::Buffered);
    assert!(case.experts.plan().arena_bytes() < total + u64::from(EXPERTS) * LAYERS as u64 * 3 * 64);
    let direct = Case::new(&checkpoint, total / 2, Io::Direct).is_some();
    let case = Case::new(&checkpoint, total / 2, Io::Auto).unwrap();
    assert_eq!(case.experts.way() != Way::Buffered, direct);
    case.pass(0, &[3, 4]);
}

#[test]
fn memory_is_shared_out_by_size() {
    let dir = directory();
    let checkpoint = checkpoint(dir.path());
    let layers = layers(&checkpoint);
    let TooSmall { needed } = ExpertPlan::new(&checkpoint, &layers, 100, Io::Auto).unwrap_err();
    assert_eq!(ExpertPlan::new(&checkpoint, &layers, needed, Io::Auto).unwrap().least_bytes(), needed);
    assert_eq!(ExpertPlan::new(&checkpoint, &layers, needed - 1, Io::Auto).unwrap_err(), TooSmall { needed });
    let mut last = 0;
    for budget in (needed..checkpoint.total_bytes() * 4).step_by(50_000) {
        let plan = ExpertPlan::new(&checkpoint, &layers, budget, Io::Direct).unwrap();
        assert!(plan.slots() + 1 >= last && plan.arena_bytes() <= budget && plan.most_held() >= 4);
        let room = plan.arena_bytes() / plan.slots() as u64;
        assert!(plan.fits() || plan.arena_bytes() + 3 * room > budget, "{budget}: {} slots", plan.slots());
        last = plan.slots();
    }
    assert_eq!(last, LAYERS * EXPERTS as usize);
}

/// Ranges of an expert that lie next to each other are read together.
#[test]
fn neighbours_are_one_read() {
    let dir = directory();
    let checkpoint = checkpoint(dir.path());
    let parts = |layer: usize, e: usize| {
        let near = &layers(&checkpoint)[layer][e];
        // Without down: gate and up touch. With scales, whose tensor is before all gates.
        vec![Expert { parts: near.parts[2..].to_vec() }, Expert { parts: near.parts[1..].to_vec() }]
    };
    for (io, _) in WAYS {
        let record = Some(Record { origin: Instant::now(), most: 100 });
        let layers = [parts(0, 20)];
        let Some(case) = Case::with(&checkpoint, &layers, 1 << 20, io, record) else { continue };
        case.pass(0, &[0]);
        assert_eq!(case.experts.bytes_read(), 4 * GATE as u64);
        case.pass(0, &[1]);
        assert_eq!(case.experts.bytes_read(), 8 * GATE as u64 + 2 * SCALES as u64);
        let recording = case.experts.take_record().unwrap();
        assert_eq!(recording.reads.iter().map(|r| r.tile).collect::<Vec<_>>(), [0, 1, 1]);
        assert!(recording.reads.iter().all(|r| r.start <= r.end));
        assert_eq!(recording.until.pinned, case.experts.bytes_read());
    }
}

#[test]
fn what_is_used_often_stays() {
    let dir = directory();
    let checkpoint = checkpoint(dir.path());
    let Some(case) = Case::new(&checkpoint, checkpoint.total_bytes() / 2, Io::Auto) else { return };
    let mut random = Random(3);
    for _ in 0..60 {
        for layer in 0..LAYERS {
            let mut chosen = random.choose(3, EXPERTS);
            chosen.extend([20, 21, 22].iter().filter(|e| !chosen.contains(e)).collect::<Vec<_>>());
            chosen.sort_unstable();
            case.pass(layer, &chosen);
        }
    }
    let hits = case.experts.stats();
    for layer in 0..LAYERS {
        assert!((20..23).all(|e| case.experts.is_here(layer, e)), "{hits:?}");
    }
    assert!(hits.hit * 4 > hits.asked * 3, "{hits:?}");
}

#[test]
fn a_request_that_is_broken_off_leaves_the_next_one_whole() {
    let dir = directory();
    let checkpoint = checkpoint(dir.path());
    for (io, _) in WAYS {
        for budget in budgets(&checkpoint, io) {
            let Some(case) = Case::new(&checkpoint, budget, io) else { continue };
            let mut random = Random(budget);
            for round in 0..300 {
                let layer = random.below(LAYERS);
                let chosen = {
                    let count = 1 + random.below(12);
                    random.choose(count, EXPERTS)
                };
                case.experts.request(layer, &chosen);
                if random.below(3) == 0 {
                    let likely = {
                        let count = 1 + random.below(5);
                        random.choose(count, EXPERTS)
                    };
                    case.experts.hint(random.below(LAYERS), &likely);
                }
                let stop = random.below(chosen.len() + 1);
                chosen[..stop].iter().for_each(|e| case.check(layer, *e).unwrap());
                match random.below(6) {
                    0 => case.experts.reset(),
                    1 => std::thread::sleep(Duration::from_micros(random.below(300) as u64)),
                    2 if round % 7 == 0 => case.experts.fill(),
                    _ => {}
                }
            }
            for layer in 0..LAYERS {
                case.pass(layer, &random.choose(9, EXPERTS));
            }
        }
    }
}

/// Threads that take experts of a request from each other, and hold two at times, in an arena with four slots.
#[test]
fn threads_may_share_a_request() {
    let dir = directory();
    let checkpoint = checkpoint(dir.path());
    for (io, _) in WAYS {
        let Some(case) = Case::new(&checkpoint, budgets(&checkpoint, io)[0], io) else { continue };
        assert_eq!(case.experts.plan().most_held(), 4);
        let mut random = Random(11);
        for round in 0..40 {
            let layer = round % LAYERS;
            let chosen = {
                let count = 2 + random.below(20);
                random.choose(count, EXPERTS)
            };
            case.experts.request(layer, &chosen);
            let next = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for t in 0..2 {
                    let (case, chosen, next) = (&case, &chosen, &next);
                    scope.spawn(move || {
                        while let Some(e) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                            let held = case.experts.acquire(layer, *e).unwrap();
                            if t == 0 {
                                std::thread::sleep(Duration::from_micros(50));
                            }
                            case.check(layer, *e).unwrap();
                            // Another one beside it, in and out of the request.
                            case.check(layer, (*e + 5) % EXPERTS).unwrap();
                            assert!(held.part(0) == case.want[layer][*e as usize][0]);
                        }
                    });
                }
            });
        }
    }
}

#[test]
#[should_panic(expected = "more experts are held than memory has room for: 4 at once")]
fn what_has_no_room_is_not_waited_for() {
    let dir = directory();
    let checkpoint = checkpoint(dir.path());
    let case = Case::new(&checkpoint, budgets(&checkpoint, Io::Buffered)[0], Io::Buffered).unwrap();
    let _held: Vec<_> = (0..5).map(|e| case.experts.acquire(0, e).unwrap()).collect();
}

#[test]
fn hints_are_read_ahead_and_forgotten_when_they_were_wrong() {
    let dir = directory();
    let checkpoint = checkpoint(dir.path());
    for (io, _) in WAYS {
        let Some(case) = Case::new(&checkpoint, checkpoint.total_bytes() / 2, io) else { continue };
        case.pass(0, &[1, 2]);
        case.experts.hint(1, &[3, 5, 8]);
        assert!([3, 5, 8].iter().all(|e| case.comes(1, *e)));
        case.pass(1, &[3, 4, 5]);
        let hits = case.experts.stats();
        assert_eq!((hits.asked, hits.hit, hits.hinted, hits.hinted_used), (5, 2, 3, 2));
        // With a full cache, what was not used goes for what is hinted at, and what is hinted at waits for no room.
        let all: Vec<u32> = (0..EXPERTS).collect();
        (0..4).for_each(|sweep| case.pass(sweep % LAYERS, &all));
        for layer in (0..LAYERS).cycle().take(20) {
            case.experts.hint((layer + 1) % LAYERS, &all);
            case.pass(layer, &[0, 7, 9]);
        }
        let hits = case.experts.stats();
        assert!(hits.hinted > 3 && hits.hinted_used <= hits.hinted, "{hits:?}");
    }
}

#[test]
fn free_room_is_filled_when_asked() {
    let dir = directory();
    let checkpoint = checkpoint(dir.path());
    for (io, _) in WAYS {
        for budget in budgets(&checkpoint, io) {
            let Some(case) = Case::new(&checkpoint, budget, io) else { continue };
            case.experts.fill();
            let fits = case.experts.plan().fits();
            assert!(case.comes(0, 0) && case.comes(0, 3) && (!fits || case.comes(LAYERS - 1, EXPERTS - 1)));
            case.pass(2, &[1, 20]);
            assert_eq!(case.experts.stats().hit == 2, fits);
        }
    }
}

#[test]
fn a_file_that_shrinks_is_an_error_that_names_it() {
    for (io, budget) in [Io::Auto, Io::Direct, Io::Uring].into_iter().flat_map(|io| [(io, 0), (io, 1), (io, 3)]) {
        let dir = directory();
        let checkpoint = checkpoint(dir.path());
        let Some(case) = Case::new(&checkpoint, budgets(&checkpoint, io)[budget], io) else { continue };
        let file = fs::OpenOptions::new().write(true).open(dir.path().join("model.safetensors")).unwrap();
        let len = file.metadata().unwrap().len();
        file.set_len(len / 2).unwrap();
        let all: Vec<u32> = (0..EXPERTS).collect();
        for _ in 0..2 {
            // What is before the new end is well.
            case.pass(0, &all);
            case.experts.request(LAYERS - 1, &all);
            for e in &all {
                let error = case.check(LAYERS - 1, *e).unwrap_err();
                assert_eq!(error.kind(), StoreErrorKind::Shrank);
                let error = error.to_string();
                assert!(error.contains("model.safetensors") && error.contains("offset"), "{error}");
            }
        }
        // What is hinted at and fails is nobody's error.
        case.experts.hint(LAYERS - 1, &all);
        case.pass(0, &[1, 5]);
        case.experts.reset();
        std::thread::sleep(Duration::from_millis(20));
        // The file grows back: the next request is well.
        fs::write(dir.path().join("model.safetensors"), model()).unwrap();
        case.pass(LAYERS - 1, &all);
    }
}

/// Puts `file` in the place of everything that this process has open of `path`; gives what was there.
fn replace_open_files(path: &Path, file: &fs::File) -> Vec<(i32, OwnedFd)> {
    let names = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let open = names.filter(|link| fs::read_link(link).is_ok_and(|target| target == path));
    let numbers: Vec<i32> = open.map(|link| link.file_name().unwrap().to_str().unwrap().parse().unwrap()).collect();
    let replace = |number: i32| {
        let old = fs::File::open(format!("/proc/self/fd/{number}")).unwrap();
        put(number, file.as_fd());
        (number, OwnedFd::from(old))
    };
    numbers.into_iter().map(replace).collect()
}

/// Makes `number` mean what `file` is.
fn put(number: i32, file: BorrowedFd<'_>) {
    // SAFETY: the number is of an open file, whose owner goes on to own whatever it means; this value is not dropped.
    let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    rustix::io::dup2(file, &mut place).unwrap();
}

/// A disk that fails in the middle of a run: what is cached is right, what is missing is an error, and is tried again.
#[test]
fn a_read_that_fails_is_an_error_and_no_wrong_byte() {
    for (io, _) in WAYS {
        let dir = directory();
        let checkpoint = checkpoint(dir.path());
        let Some(case) = Case::new(&checkpoint, checkpoint.total_bytes() / 2, io) else { continue };
        let path = fs::canonicalize(dir.path().join("model.safetensors")).unwrap();
        case.pass(0, &[1, 2, 3]);
        let unreadable = fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
        let old = replace_open_files(&path, &unreadable);
        assert!(!old.is_empty(), "the model is open");
        for _ in 0..2 {
            case.experts.request(0, &[1, 2, 3, 4, 5]);
            (1..4).for_each(|e| case.check(0, e).unwrap());
            for e in [4, 5] {
                let error = case.check(0, e).unwrap_err();
                assert_eq!(error.kind(), StoreErrorKind::ReadFailed, "{io:?}: {error}");
                let error = error.to_string();
                assert!(error.contains("model.safetensors: reading ") && error.contains(" at offset "), "{error}");
            }
        }
        for (number, old) in &old {
            put(*number, old.as_fd());
        }
        // Opened anew, and so not past the page cache where it was so before: the bytes are the same. No new request is needed.
        case.check(0, 5).unwrap();
        case.pass(0, &[1, 2, 3, 4, 5]);
    }
}

#[test]
fn bytes_in_the_program_need_no_reading() {
    let checkpoint = Checkpoint::from_static("small", model().leak()).unwrap();
    let case = Case::new(&checkpoint, 0, Io::Auto).unwrap();
    assert_eq!(case.experts.way(), Way::Nothing);
    let plan = case.experts.plan();
    assert!(plan.static_bytes() > 0 && plan.total_bytes() == 0 && plan.arena_bytes() == 0);
    let all: Vec<u32> = (0..EXPERTS).collect();
    for layer in 0..LAYERS {
        case.experts.hint(layer, &all);
        case.pass(layer, &all);
    }
    case.experts.fill();
    case.experts.reset();
    let hits = case.experts.stats();
    assert_eq!((hits.hit, hits.waited, hits.missed_bytes), (hits.asked, 0, 0));
    assert_eq!(case.experts.bytes_read(), 0);
}

#[test]
fn a_part_outside_the_files_is_an_error() {
    let dir = directory();
    let files = [checkpoint(dir.path()), Checkpoint::from_static("small", model().leak()).unwrap()];
    for checkpoint in files {
        let len = checkpoint.sources()[0].len();
        for (shard, offset, bytes) in [(0, len - 1, 2), (0, len, 1), (1, 0, 1)] {
            let layers = [vec![Expert { parts: vec![Extent { shard, offset, len: bytes }] }]];
            let plan = ExpertPlan::new(&checkpoint, &layers, 1 << 20, Io::Auto).unwrap();
            let error = Experts::new(&checkpoint, plan, None).err().unwrap();
            assert_eq!(error.kind(), StoreErrorKind::OutOfRange);
        }
    }
}

/// Layers without experts, and a checkpoint without any.
#[test]
fn there_may_be_nothing_to_cache() {
    let dir = directory();
    let checkpoint = checkpoint(dir.path());
    let one = vec![layers(&checkpoint)[1][7].clone()];
    let case = Case::with(&checkpoint, &[vec![], one, vec![]], 1 << 20, Io::Auto, None).unwrap();
    case.pass(0, &[]);
    case.pass(1, &[0]);
    case.pass(2, &[]);
    let case = Case::with(&checkpoint, &[], 0, Io::Auto, None).unwrap();
    assert_eq!(case.experts.way(), Way::Nothing);
    case.experts.fill();
    case.experts.reset();
}

#[test]
fn reading_and_waiting_are_counted() {
    let dir = directory();
    let checkpoint = checkpoint(dir.path());
    for (io, _) in WAYS {
        let origin = Instant::now();
        let record = Some(Record { origin, most: 10_000 });
        let layers = layers(&checkpoint);
        let Some(case) = Case::with(&checkpoint, &layers, checkpoint.total_bytes() / 2, io, record) else { continue };
        let mut random = Random(5);
        (0..40).for_each(|i| case.pass(i % LAYERS, &random.choose(6, EXPERTS)));
        let (reads, hits, recording) =
            (case.experts.reads(), case.experts.stats(), case.experts.take_record().unwrap());
        let all = origin.elapsed();
        assert!(reads.both <= reads.reading && reads.both <= reads.waiting, "{reads:?}");
        assert!(reads.reading <= all && reads.waiting <= all && hits.waited > 0, "{reads:?}");
        assert_eq!((reads.streamed, reads.pinned), (case.experts.bytes_read(), 0));
        assert_eq!(reads.streamed, hits.missed_bytes, "no gaps, and nothing was read in vain");
        assert!(recording.reads.is_sorted_by_key(|r| r.end));
        assert!(recording.reads.iter().all(|r| (r.tile as usize) < LAYERS * EXPERTS as usize));
        assert!(case.experts.waited() > 0.0 && case.experts.take_record().is_none());
    }
}
