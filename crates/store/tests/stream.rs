//! The plan and the stream: whatever the budget, every tile arrives with the bytes of the file.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop, and says what it could not try")]

use std::collections::HashMap;
use std::fs;
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rheostat_store::{
    Checkpoint, Cut, Head, Io, MOST_PARTS, Phase, Place, Plan, Record, StoreErrorKind, TooSmall, Use, Way, Weights,
};
use rustix::fs::{Mode, OFlags};
use safetensors::tensor::{Dtype, TensorView};

const ROWS: [usize; 5] = [40, 7, 300, 1, 64];
const COLS: usize = 96;

/// A checkpoint of a few matrices `[ROWS[i], COLS]` in f32, every second with three more elements to a row in a
/// tensor of its own, whose bytes tell where they are from.
fn checkpoint(dir: &Path) -> Checkpoint {
    let data: Vec<Vec<u8>> = ROWS
        .iter()
        .enumerate()
        .map(|(i, r)| (0..r * COLS * 4).map(|b| (b * 7 + b / 256 + i) as u8).collect())
        .collect();
    let more: Vec<Vec<u8>> = ROWS.iter().map(|r| (0..r * 12).map(|b| (b * 5 + r) as u8).collect()).collect();
    let views: HashMap<String, TensorView<'_>> = data
        .iter()
        .enumerate()
        .map(|(i, d)| (format!("w{i}"), TensorView::new(Dtype::F32, vec![ROWS[i], COLS], d).unwrap()))
        .chain(
            more.iter()
                .enumerate()
                .step_by(2)
                .map(|(i, d)| (format!("s{i}"), TensorView::new(Dtype::F32, vec![ROWS[i], 3], d).unwrap())),
        )
        .collect();
    fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    Checkpoint::open(dir).unwrap()
}

/// All matrices in order; the last is the head.
fn uses(checkpoint: &Checkpoint) -> Vec<Use> {
    uses_with(checkpoint, Phase::Head)
}

fn uses_with(checkpoint: &Checkpoint, head: Phase) -> Vec<Use> {
    (0..ROWS.len())
        .map(|i| {
            let parts =
                [format!("w{i}"), format!("s{i}")].iter().filter_map(|t| checkpoint.tensor(t)).cloned().collect();
            Use::by_rows(parts, if i == ROWS.len() - 1 { head } else { Phase::Body })
        })
        .collect()
}

/// Goes through one sweep and compares every byte.
fn sweep(weights: &Weights, checkpoint: &Checkpoint, uses: &[Use], head: Head) {
    weights.begin_sweep(head);
    for (i, u) in uses.iter().enumerate() {
        match (head, u.phase == Phase::Body) {
            (Head::Skip, false) | (Head::Alone, true) => continue,
            _ => {}
        }
        let mut got = [const { Vec::new() }; MOST_PARTS];
        let mut rows = 0;
        for t in weights.plan().tiles_of(i) {
            let tile = weights.plan().tiles()[t];
            assert_eq!(tile.first_row, rows);
            rows += tile.rows;
            let bytes = weights.acquire(t).unwrap();
            for (p, (got, part)) in got.iter_mut().zip(bytes.parts()).enumerate() {
                match u.parts.get(p).map(|(_, cut)| *cut) {
                    Some(Cut::Rows(step)) => {
                        assert!(tile.first_row.is_multiple_of(step.get()), "{step} rows belong together");
                        got.extend_from_slice(part);
                    }
                    Some(Cut::Whole) => *got = part.to_vec(),
                    None => assert!(part.is_empty()),
                }
            }
            for ((tensor, cut), part) in u.parts.iter().zip(bytes.parts()) {
                if *cut == Cut::Whole {
                    assert_eq!(*part, checkpoint.read_tensor(tensor).unwrap(), "{} with tile {t}", tensor.name());
                }
            }
        }
        assert_eq!(rows, u.rows);
        for (got, (tensor, _)) in got.iter().zip(&u.parts) {
            assert_eq!(*got, checkpoint.read_tensor(tensor).unwrap(), "{} of matrix {i}", tensor.name());
        }
    }
}

/// Past the page cache, too, where offsets, lengths and addresses have to be multiples of a page.
#[test]
fn every_way_of_reading_gives_the_same_bytes() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let checkpoint = checkpoint(dir.path());
    let total = checkpoint.total_bytes();
    let ways = [(Io::Uring, Way::Uring), (Io::Direct, Way::Direct), (Io::Buffered, Way::Buffered)];
    for ((io, way), last) in ways.into_iter().flat_map(|way| [(way, Phase::Head), (way, Phase::SeldomHead)]) {
        let uses = uses_with(&checkpoint, last);
        for (budget, tile) in [
            (total * 8, None),
            (total * 2, None),
            (total * 9 / 10, Some(1000)),
            (total * 9 / 10, Some(30_000)),
            (total / 2, Some(4000)),
            (total / 2, Some(9000)),
            (50_000, Some(1)),
        ] {
            let plan = Plan::with_tiles(&checkpoint, &uses, budget, tile, io).unwrap();
            assert!(plan.pinned_bytes() + plan.ring_bytes() <= budget, "{budget}: {plan:?}");
            if last == Phase::SeldomHead {
                let head = &plan.tiles()[plan.tiles_of(uses.len() - 1)];
                assert!(head.iter().all(|tile| tile.place == Place::Streamed), "{budget}: {plan:?}");
                // Beside the ring, too.
                assert!(plan.streamed_bytes() == 0 || budget < total * 8, "{budget}: {plan:?}");
                assert!(plan.streamed_bytes() > 0 || budget > total, "{budget}: {plan:?}");
            }
            let weights = match Weights::new(&checkpoint, plan) {
                Ok(weights) => weights,
                // In some containers, and on some file systems.
                Err(error) if error.kind() == StoreErrorKind::IoRefused => {
                    println!("not tried: {error}");
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            assert_eq!(weights.way(), way);
            for head in [Head::Use, Head::Skip, Head::Alone, Head::Alone, Head::Skip, Head::Use] {
                sweep(&weights, &checkpoint, &uses, head);
            }
        }
    }
}

/// Rows that share a scale with others stay together; what all rows need comes with each tile; and what cannot be cut by
/// rows is one tile, whose rows are the matrix's and not its tensor's.
#[test]
fn matrices_are_cut_where_their_tensors_allow_it() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let rows_of = |n| Cut::Rows(NonZeroUsize::new(n).unwrap());
    /// Rows, bytes to a row, cut.
    type Part = (usize, usize, Cut);
    // Rows of each matrix, and its tensors.
    let matrices: [(usize, &[Part]); 6] = [
        (300, &[(300, 384, Cut::EACH_ROW), (43, 12, rows_of(7))]),
        (41, &[(41, 400, Cut::EACH_ROW), (41, 10, Cut::EACH_ROW), (6, 20, rows_of(8)), (100, 4, Cut::Whole)]),
        (40, &[(96, 160, Cut::Whole)]),
        (64, &[(12, 256, Cut::Whole), (3, 128, Cut::Whole), (3, 32, Cut::Whole), (96, 4, Cut::Whole)]),
        (50, &[(50, 384, Cut::EACH_ROW), (1, 4, rows_of(1000))]),
        (70, &[(70, 384, Cut::EACH_ROW), (12, 4, rows_of(6)), (18, 4, rows_of(4)), (1, 4, Cut::Whole)]),
    ];
    let name = |i: usize, p: usize| format!("m{i}.{p}");
    let mut tensors = Vec::new();
    for (i, (_, parts)) in matrices.iter().enumerate() {
        for (p, (rows, bytes, _)) in parts.iter().enumerate() {
            let data: Vec<u8> = (0..rows * bytes).map(|b| (b * 7 + b / 256 + 31 * i + p) as u8).collect();
            tensors.push((name(i, p), vec![*rows, bytes / 2], data));
        }
    }
    let views = tensors.iter().map(|(n, shape, data)| (n, TensorView::new(Dtype::F16, shape.clone(), data).unwrap()));
    fs::write(dir.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let tensor = |i: usize, p: usize| checkpoint.tensor(&name(i, p)).unwrap().clone();
    let uses: Vec<Use> = matrices
        .iter()
        .enumerate()
        .map(|(i, (rows, parts))| {
            let parts = parts.iter().enumerate().map(|(p, (_, _, cut))| (tensor(i, p), *cut)).collect();
            Use { rows: *rows, parts, phase: if i == 5 { Phase::Head } else { Phase::Body } }
        })
        .collect();
    let total = checkpoint.total_bytes();
    let mut most = [0; 3];
    for io in [Io::Auto, Io::Uring, Io::Direct, Io::Buffered] {
        for (budget, tile) in [
            (total * 3, None),
            (total * 9 / 10, Some(1000)),
            (total * 9 / 10, Some(30_000)),
            (total * 2 / 3, Some(1)),
            (total * 2 / 3, Some(9000)),
            (110_000, Some(2000)),
            (110_000, Some(1)),
        ] {
            let plan = Plan::with_tiles(&checkpoint, &uses, budget, tile, io).unwrap();
            assert!(plan.pinned_bytes() + plan.ring_bytes() <= budget, "{budget}: {plan:?}");
            assert_eq!((plan.tiles_of(2).len(), plan.tiles_of(3).len()), (1, 1));
            // Unless neighbours are pinned together.
            for (most, i) in most.iter_mut().zip([0, 1, 5]) {
                *most = plan.tiles_of(i).len().max(*most);
            }
            let weights = match Weights::new(&checkpoint, plan) {
                Ok(weights) => weights,
                Err(error) if error.kind() == StoreErrorKind::IoRefused => {
                    println!("not tried: {error}");
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            for head in [Head::Use, Head::Skip, Head::Use] {
                sweep(&weights, &checkpoint, &uses, head);
            }
        }
    }
    assert_eq!(most, [43, 6, 6], "as small as their tensors allow");
}

/// Whether a file can be opened for reads past the page cache.
fn takes_direct_reads(file: &fs::File) -> bool {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECT, Mode::empty()).is_ok()
}

/// What fits is read through the page cache, where it may be; what streams goes past it.
#[test]
fn the_way_of_reading_follows_the_plan() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let rows = (3 << 20) / 64;
    let data = vec![7u8; rows * 64];
    let view = TensorView::new(Dtype::F32, vec![rows, 16], &data).unwrap();
    fs::write(dir.path().join("model.safetensors"), safetensors::serialize([("w", view)], None).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let uses = [Use::by_rows(vec![checkpoint.tensor("w").unwrap().clone()], Phase::Body)];
    let fits = Weights::new(&checkpoint, Plan::new(&checkpoint, &uses, 4 << 20).unwrap()).unwrap();
    assert_eq!(fits.way(), Way::Buffered);
    let streams = Weights::new(&checkpoint, Plan::new(&checkpoint, &uses, 1 << 20).unwrap()).unwrap();
    // Past the page cache, unless the file system refuses that.
    let refused = checkpoint.sources()[0].file().is_some_and(|file| !takes_direct_reads(file));
    assert_eq!(streams.way() == Way::Buffered, refused);
    for _ in 0..3 {
        streams.begin_sweep(Head::Skip);
        for t in streams.plan().tiles_of(0) {
            let tile = streams.acquire(t).unwrap();
            assert_eq!(tile.parts()[0].len(), streams.plan().tiles()[t].rows * 64);
            assert!(tile.parts()[0].iter().all(|b| *b == 7), "tile {t}");
        }
    }
}

#[test]
fn every_budget_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(dir.path());
    let uses = uses(&checkpoint);
    let total = checkpoint.total_bytes();
    for (budget, tile) in [
        (total * 2, None),
        (total * 9 / 10, Some(1000)),
        (total / 2, Some(4000)),
        (total / 3, Some(1)),
        (20_000, Some(5000)),
        (4096, Some(400)),
        (1000, Some(1)),
    ] {
        let plan = Plan::with_tiles(&checkpoint, &uses, budget, tile, Io::Auto).unwrap();
        assert!(plan.pinned_bytes() + plan.ring_bytes() <= budget, "{budget}: {plan:?}");
        let padding = plan.pinned_bytes() - (total - plan.streamed_bytes());
        assert!(padding < 64 * plan.tiles().len() as u64, "{padding} bytes of padding: all is somewhere once");
        let streamed = plan.streamed_bytes();
        let weights = Weights::new(&checkpoint, plan).unwrap();
        for head in [Head::Use, Head::Skip, Head::Skip, Head::Use, Head::Use, Head::Skip, Head::Use] {
            sweep(&weights, &checkpoint, &uses, head);
        }
        for head in [Head::Alone, Head::Use, Head::Alone, Head::Alone, Head::Skip, Head::Alone, Head::Use] {
            sweep(&weights, &checkpoint, &uses, head);
        }
        assert!(weights.bytes_read() >= total, "everything was read once");
        if streamed == 0 {
            assert_eq!(weights.bytes_read(), total, "and no more than once");
        }
    }
}

/// Sweeps of the head, one after the other, read nothing else.
#[test]
fn the_head_alone_is_all_that_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(dir.path());
    let uses = uses(&checkpoint);
    let plan = Plan::with_tiles(&checkpoint, &uses, 4096, Some(400), Io::Auto).unwrap();
    let of_head = plan.tiles_of(ROWS.len() - 1).map(|t| plan.tiles()[t]).filter(|t| t.place == Place::Streamed);
    let head: usize = of_head.map(|t| t.rows * (COLS + 3) * 4).sum();
    assert!(head > 0);
    let weights = Weights::new(&checkpoint, plan).unwrap();
    sweep(&weights, &checkpoint, &uses, Head::Use);
    sweep(&weights, &checkpoint, &uses, Head::Alone);
    let before = weights.bytes_read();
    for _ in 0..5 {
        sweep(&weights, &checkpoint, &uses, Head::Alone);
    }
    assert_eq!(weights.bytes_read() - before, 5 * head as u64);
}

/// What is counted and what is recorded of reading is what was read.
#[test]
fn reads_are_counted_and_recorded() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let checkpoint = checkpoint(dir.path());
    let uses = uses(&checkpoint);
    let total = checkpoint.total_bytes();
    for io in [Io::Auto, Io::Direct, Io::Uring] {
        for (budget, most) in [(total * 2, 1000), (total / 2, 1000), (total / 2, 7), (total / 2, 0), (50_000, 1000)] {
            let origin = Instant::now();
            let plan = Plan::with_tiles(&checkpoint, &uses, budget, Some(2000), io).unwrap();
            let weights = match Weights::recorded(&checkpoint, plan, Some(Record { origin, most })) {
                Ok(weights) => weights,
                Err(error) if error.kind() == StoreErrorKind::IoRefused => {
                    println!("not tried: {error}");
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            for head in [Head::Use, Head::Skip, Head::Use] {
                sweep(&weights, &checkpoint, &uses, head);
            }
            let (reads, recording) = (weights.reads(), weights.take_record().unwrap());
            let all = origin.elapsed();
            assert!(weights.take_record().is_none(), "taken");
            assert!(reads.both <= reads.reading && reads.both <= reads.waiting, "{reads:?}");
            assert!(reads.reading <= all && reads.waiting <= all, "{reads:?}");
            assert!(reads.pinned <= weights.plan().pinned_bytes());
            if weights.plan().streamed_bytes() == 0 {
                assert_eq!((reads.streamed, reads.pinned), (0, total));
            } else {
                assert!(reads.streamed > weights.plan().streamed_bytes(), "{reads:?}");
            }
            assert!(recording.reads.is_sorted_by_key(|r| r.end));
            let end = all.as_nanos() as u64;
            assert!(recording.reads.iter().all(|r| r.start <= r.end && r.end <= end));
            if most == 1000 {
                let recorded: u64 = recording.reads.iter().map(|r| r.bytes).sum();
                assert_eq!(recorded, recording.until.streamed + recording.until.pinned);
                assert!(recorded <= weights.bytes_read());
                assert_eq!(recording.cut, None);
            } else {
                assert_eq!(recording.reads.len(), most);
                assert!(recording.cut.is_some());
            }
        }
    }
}

#[test]
fn a_larger_budget_pins_more_and_reads_less() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(dir.path());
    let uses = uses(&checkpoint);
    let mut last = u64::MAX;
    for eighths in 1..=9 {
        let budget = checkpoint.total_bytes() * eighths / 8 + 1000;
        let plan = Plan::with_tiles(&checkpoint, &uses, budget, Some(800), Io::Auto).unwrap();
        assert!(plan.streamed_bytes() < last || last == 0, "{eighths}/8");
        last = plan.streamed_bytes();
    }
    assert_eq!(last, 0);
}

#[test]
fn pinned_tiles_are_spread_over_the_sweep() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(dir.path());
    let uses = uses(&checkpoint);
    let plan = Plan::with_tiles(&checkpoint, &uses, checkpoint.total_bytes() * 2 / 3, Some(800), Io::Auto).unwrap();
    let pinned: Vec<bool> = plan.tiles().iter().map(|t| matches!(t.place, Place::Pinned(_))).collect();
    let (front, back) = pinned.split_at(pinned.len() / 2);
    assert!(front.contains(&true) && front.contains(&false) && back.contains(&true) && back.contains(&false));
}

#[test]
fn a_budget_without_room_for_two_rows_is_refused_with_what_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(dir.path());
    let uses = uses(&checkpoint);
    let TooSmall { needed } = Plan::with_tiles(&checkpoint, &uses, 100, Some(1), Io::Auto).unwrap_err();
    assert_eq!(needed, 2 * (4 * (COLS as u64 + 3)).next_multiple_of(64));
    Plan::with_tiles(&checkpoint, &uses, needed, Some(1), Io::Auto).unwrap();
}

#[test]
fn a_sweep_that_is_broken_off_leaves_the_next_one_whole() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(dir.path());
    let uses = uses(&checkpoint);
    let plan = Plan::with_tiles(&checkpoint, &uses, 30_000, Some(2000), Io::Auto).unwrap();
    let tiles = plan.tiles().len();
    let weights = Weights::new(&checkpoint, plan).unwrap();
    for stop in [0, 1, tiles / 2, tiles - 1] {
        weights.begin_sweep(Head::Use);
        for t in 0..stop {
            weights.acquire(t).unwrap();
        }
        sweep(&weights, &checkpoint, &uses, Head::Use);
    }
}

#[test]
#[should_panic(expected = "one streamed tile at a time")]
fn a_tile_is_given_back_before_the_next_is_acquired() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(dir.path());
    let uses = uses(&checkpoint);
    let plan = Plan::with_tiles(&checkpoint, &uses, 1000, Some(1), Io::Auto).unwrap();
    assert!(plan.tiles().iter().all(|t| t.place == Place::Streamed));
    let weights = Weights::new(&checkpoint, plan).unwrap();
    weights.begin_sweep(Head::Use);
    let first = weights.acquire(0).unwrap();
    let _second = weights.acquire(1);
    drop(first);
}

#[test]
fn a_file_that_shrinks_is_an_error_that_names_it() {
    for (pinned, io) in [true, false].into_iter().flat_map(|p| [Io::Auto, Io::Direct, Io::Uring].map(|io| (p, io))) {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let checkpoint = checkpoint(dir.path());
        let uses = uses(&checkpoint);
        let file = fs::OpenOptions::new().write(true).open(dir.path().join("model.safetensors")).unwrap();
        let len = file.metadata().unwrap().len();
        let budget = if pinned { len * 2 } else { 50_000 };
        file.set_len(len / 2).unwrap();
        let plan = Plan::with_tiles(&checkpoint, &uses, budget, Some(800), io).unwrap();
        assert_eq!(plan.streamed_bytes() == 0, pinned);
        let weights = match Weights::new(&checkpoint, plan) {
            Err(error) if error.kind() == StoreErrorKind::IoRefused => {
                println!("not tried: {error}");
                continue;
            }
            weights => weights.unwrap(),
        };
        for _ in 0..2 {
            weights.begin_sweep(Head::Use);
            let error = (0..weights.plan().tiles().len()).find_map(|t| weights.acquire(t).err()).unwrap();
            assert_eq!(error.kind(), StoreErrorKind::Shrank);
            assert!(error.to_string().contains("model.safetensors") && error.to_string().contains("offset"), "{error}");
        }
        // The file grows back: the next sweep is well. (Its bytes are zeros now; only arrival is checked.)
        file.set_len(len).unwrap();
        weights.begin_sweep(Head::Use);
        assert!((0..weights.plan().tiles().len()).all(|t| weights.acquire(t).is_ok()));
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

/// A disk that fails in the middle of a run: here, files that are suddenly not open for reading. What arrives before is right, the error
/// names the place, and a later sweep tries again.
#[test]
fn a_read_that_fails_is_an_error_and_no_wrong_byte() {
    for (io, budget) in [Io::Uring, Io::Direct, Io::Buffered].into_iter().flat_map(|io| [(io, 50_000), (io, 120_000)]) {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let checkpoint = checkpoint(dir.path());
        let uses = uses(&checkpoint);
        let path = fs::canonicalize(dir.path().join("model.safetensors")).unwrap();
        let want: Vec<_> = uses
            .iter()
            .map(|u| u.parts.iter().map(|(t, _)| checkpoint.read_tensor(t).unwrap()).collect::<Vec<_>>())
            .collect();
        let plan = Plan::with_tiles(&checkpoint, &uses, budget, Some(800), io).unwrap();
        let weights = match Weights::new(&checkpoint, plan) {
            Err(error) if error.kind() == StoreErrorKind::IoRefused => {
                println!("not tried: {error}");
                continue;
            }
            weights => weights.unwrap(),
        };
        sweep(&weights, &checkpoint, &uses, Head::Use);
        let unreadable = fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
        let old = replace_open_files(&path, &unreadable);
        assert!(!old.is_empty(), "the model is open");
        weights.begin_sweep(Head::Use);
        let mut failed = None;
        'sweep: for (i, want) in want.iter().enumerate() {
            for t in weights.plan().tiles_of(i) {
                let tile = weights.plan().tiles()[t];
                match weights.acquire(t) {
                    Ok(bytes) => {
                        for (part, want) in bytes.parts().iter().zip(want) {
                            let row = want.len() / ROWS[i];
                            assert_eq!(*part, &want[tile.first_row * row..(tile.first_row + tile.rows) * row]);
                        }
                    }
                    Err(error) => {
                        failed = Some(error);
                        break 'sweep;
                    }
                }
            }
        }
        let error = failed.expect("something streams");
        assert_eq!(error.kind(), StoreErrorKind::ReadFailed, "{io:?}: {error}");
        assert!(error.to_string().contains("model.safetensors: reading "), "{error}");
        assert!(error.to_string().contains(" at offset "), "{error}");
        for (number, old) in &old {
            put(*number, old.as_fd());
        }
        // Opened anew, and so not past the page cache where it was so before: the bytes are the same.
        sweep(&weights, &checkpoint, &uses, Head::Use);
    }
}

/// The table of tiles must not outgrow the budget that it serves.
#[test]
fn a_small_budget_for_a_huge_checkpoint_has_a_small_plan() {
    let dir = tempfile::tempdir().unwrap();
    let (count, rows, cols) = (64u64, 1u64 << 18, 4096u64);
    let bytes = 2 * rows * cols;
    let entries: Vec<String> = (0..count)
        .map(|i| {
            let range = format!("[{},{}]", i * bytes, (i + 1) * bytes);
            format!(r#""w{i}":{{"dtype":"BF16","shape":[{rows},{cols}],"data_offsets":{range}}}"#)
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let path = dir.path().join("model.safetensors");
    fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap();
    // Holes: 128 GiB that take no room.
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(8 + header.len() as u64 + count * bytes).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let uses: Vec<Use> = checkpoint.tensors().iter().map(|t| Use::by_rows(vec![t.clone()], Phase::Body)).collect();
    let TooSmall { needed } = Plan::new(&checkpoint, &uses, 1 << 20).unwrap_err();
    for budget in [needed, 64 << 20, 1 << 30] {
        let plan = Plan::new(&checkpoint, &uses, budget).unwrap();
        assert!(plan.tiles().len() <= 20_000, "{} tiles under {budget} bytes", plan.tiles().len());
        assert!(plan.pinned_bytes() + plan.ring_bytes() <= budget);
    }
}
