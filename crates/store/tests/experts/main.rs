//! The cache of experts: whatever the budget and the order, every expert arrives with the bytes of the file.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop, and says what it could not try")]

mod failures;
mod model;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use model::{Case, EXPERTS, GATE, LAYERS, Random, SCALES, WAYS, budgets, checkpoint, directory, file, layers, model};
use rheostat_store::{Checkpoint, Expert, ExpertPlan, Extent, Io, Record, TooSmall, Way};

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
        let read: Vec<u64> = recording.reads.iter().map(|r| r.bytes).collect();
        let (scales, gates) = (2 * SCALES as u64, 4 * GATE as u64);
        assert!(read == [gates, scales, gates] || read == [gates, gates, scales], "{read:?}");
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
    assert!(hits.hit * 2 > hits.asked, "{hits:?}");
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
        assert_eq!(recording.reads.iter().map(|r| r.bytes).sum::<u64>(), reads.streamed);
        assert!(case.experts.waited() > 0.0 && case.experts.take_record().is_none());
    }
}

/// Experts that are read in several pieces, broken off between them, and cut off by the end of the file within them.
#[test]
fn an_expert_comes_in_pieces() {
    const COUNT: u32 = 5;
    let tensors: Vec<(String, Vec<usize>)> = (0..2 * COUNT)
        .flat_map(|e| [(format!("a{e}"), vec![700_001]), (format!("b{e}"), vec![3]), (format!("c{e}"), vec![400_003])])
        .collect();
    for (io, _) in WAYS {
        let dir = directory();
        let path = dir.path().join("model.safetensors");
        let bytes = file(&tensors);
        std::fs::write(&path, &bytes).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let extent = |name: String| Extent::from(checkpoint.tensor(&name).unwrap());
        let layers: Vec<Vec<Expert>> = (0..2)
            .map(|l| l * COUNT..(l + 1) * COUNT)
            .map(|layer| {
                layer.map(|e| Expert { parts: vec![extent(format!("c{e}")), extent(format!("a{e}"))] }).collect()
            })
            .collect();
        let TooSmall { needed } = ExpertPlan::new(&checkpoint, &layers, 0, io).unwrap_err();
        for budget in [needed, needed * 4] {
            let record = Some(Record { origin: Instant::now(), most: 10_000 });
            let Some(case) = Case::with(&checkpoint, &layers, budget, io, record) else { continue };
            let mut random = Random(budget);
            for _ in 0..60 {
                let layer = random.below(2);
                let count = 1 + random.below(COUNT as usize);
                let chosen = random.choose(count, COUNT);
                case.experts.request(layer, &chosen);
                case.experts.hint(1 - layer, &random.choose(2, COUNT));
                let stop = random.below(chosen.len() + 1);
                chosen[..stop].iter().for_each(|e| case.check(layer, *e).unwrap());
                std::thread::sleep(Duration::from_micros(random.below(200) as u64));
            }
            (0..2).for_each(|layer| case.pass(layer, &[0, 1, 2, 3, 4]));
            let recording = case.experts.take_record().unwrap();
            // Pieces of at most 512 KiB, by where they begin.
            let pieces = |name: &str, e: u32| {
                let info = checkpoint.tensor(&format!("{name}{e}")).unwrap();
                let within = info.offset()..info.offset() + info.byte_len();
                let begins: BTreeSet<u64> =
                    recording.reads.iter().map(|r| r.offset).filter(|at| within.contains(at)).collect();
                begins.len()
            };
            for e in 0..2 * COUNT {
                assert!(pieces("a", e) >= 3 && pieces("c", e) >= 2, "{e}: {} and {}", pieces("a", e), pieces("c", e));
            }
        }
        // The end of the file is in the second piece of the last expert.
        let Some(case) = Case::with(&checkpoint, &layers, needed, io, None) else { continue };
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(bytes.len() as u64 - 1_500_000).unwrap();
        for _ in 0..2 {
            case.experts.request(1, &[3, 4]);
            case.check(1, 3).unwrap();
            let error = case.check(1, 4).unwrap_err().to_string();
            assert!(error.contains("model.safetensors") && error.contains("offset"), "{error}");
        }
        std::fs::write(&path, &bytes).unwrap();
        case.pass(1, &[3, 4]);
    }
}
