//! Files that shrink, disks that fail, and parts that are not there: errors that name the place, and no wrong byte.

use std::fs;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rheostat_store::{Checkpoint, Expert, ExpertPlan, Experts, Extent, Io, StoreErrorKind};

use crate::model::{Case, EXPERTS, LAYERS, WAYS, budgets, checkpoint, directory, model};

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
