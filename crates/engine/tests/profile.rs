//! Profiles and traces: everything is counted once, parts make no more than the whole, and looking changes no bit.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use common::{Case, at_least, case, logits, options, testdata};
use rheostat::decoder::{Block, Ffn, LatentQueries, Mixer};
use rheostat::profile::{Account, Op, Phase, Profile};
use rheostat::trace::{Event, Trace, Track, What};
use rheostat::{Input, Model, Options, Want};

/// References of every kind: tied and own heads, norms on queries and keys, windows, biases, packed weights; experts, latent
/// attention, states.
fn cases() -> Vec<Case> {
    let names = [
        "qwen3_tied",
        "qwen3_sharded",
        "mistral_window",
        "llama_biases",
        "opensci_flags",
        "quant_llama_int4",
        "qwen3_moe_switches",
        "gpt_oss_hub",
        "deepseek_v2_hub",
        "deepseek_v3_hub",
        "lfm2_hub",
        "qwen3_next_hub",
    ];
    names.map(|name| case(testdata().join(name))).into()
}

/// All in memory, and a part of it streamed, with one thread and with more.
fn ways(case: &Case) -> Vec<Options> {
    let all = case.load(&options()).plan().pinned;
    let mut ways = Vec::new();
    for threads in [1, 3] {
        let options = Options { threads: NonZeroUsize::new(threads), ..options() };
        ways.push(options.clone());
        ways.push(at_least(case, &Options { weights: Some(all / 2), tile: Some(2000), ..options }));
    }
    ways
}

/// The tokens of its longest prompt.
fn longest(case: &Case) -> Vec<u32> {
    let prompts = case.prompts().into_iter().map(|(_, tokens)| tokens);
    prompts.max_by_key(Vec::len).filter(|tokens| tokens.len() > 6).unwrap()
}

/// Three passes over a prompt and four tokens after it, as a text is generated.
fn run(model: &mut Model, tokens: &[u32]) {
    let mut sequence = model.sequence(tokens.len());
    for (i, chunk) in tokens.chunks(tokens.len().div_ceil(3)).enumerate() {
        let want = if i < 2 { Want::Nothing } else { Want::Last };
        model.forward(&mut [Input { sequence: &mut sequence, tokens: chunk, want }]).unwrap();
    }
    for _ in 0..4 {
        let start = Instant::now();
        std::hint::black_box(tokens);
        model.count(Op::Sampling, start, start.elapsed());
        model.forward(&mut [Input { sequence: &mut sequence, tokens: &tokens[..1], want: Want::Last }]).unwrap();
    }
}

/// How often each operation is done in `sweeps`, of which `heads` go on to the head.
fn counts(model: &Model, sweeps: u64, heads: u64) -> [u64; Op::COUNT] {
    let mut counts = [0; Op::COUNT];
    for block in &model.decoder().blocks {
        for op in operations(block) {
            counts[op as usize] += sweeps;
        }
    }
    counts[Op::Embed as usize] += sweeps;
    counts[Op::Rotate as usize] += sweeps;
    counts[Op::Norm as usize] += heads;
    counts[Op::Head as usize] += heads;
    counts
}

/// The operations of a block.
fn operations(block: &Block) -> Vec<Op> {
    let mut ops = vec![Op::Norm, Op::Norm, Op::Qkv, Op::Output, Op::Residual, Op::Residual];
    match &block.mixer {
        Mixer::Attention(mixer) => {
            ops.extend([Op::Rotate, Op::Cache, Op::Attention]);
            ops.extend(mixer.qk_norm.is_some().then_some(Op::Norm));
            ops.extend(mixer.is_gated().then_some(Op::Activation));
        }
        Mixer::Latent(mixer) => {
            // Queries are brought to the other side of the cache besides.
            ops.extend([Op::Qkv, Op::Norm, Op::Rotate, Op::Cache, Op::Attention]);
            if let LatentQueries::Compressed { .. } = mixer.q {
                ops.extend([Op::Qkv, Op::Norm]);
            }
        }
        Mixer::Delta(_) => ops.extend([Op::Recurrence, Op::Norm]),
        Mixer::Conv(_) => ops.push(Op::Recurrence),
    }
    let dense = [Op::GateUp, Op::Activation, Op::Down];
    match &block.ffn {
        Ffn::Gated(_) | Ffn::Plain(_) => ops.extend(dense),
        Ffn::Experts(experts) => {
            ops.extend([Op::Router, Op::Experts]);
            ops.extend(experts.shared.iter().flat_map(|_| dense));
        }
    }
    ops
}

fn counted(account: &Account) -> [u64; Op::COUNT] {
    Op::ALL.map(|op| account.op(op).count)
}

fn check_account(what: &str, account: &Account) {
    let parts = account.waiting + account.time_of(|_| true);
    assert!(parts <= account.time, "{what}: {parts:?} of {:?}", account.time);
    assert_eq!(parts + account.other(), account.time, "{what}");
    let reads = &account.reads;
    assert!(reads.both <= reads.reading && reads.both <= reads.waiting, "{what}: {reads:?}");
    assert!(account.overlap().is_none_or(|o| (0.0..=1.0).contains(&o)), "{what}");
}

#[test]
fn every_operation_is_counted_once() {
    for case in cases() {
        let tokens = &longest(&case);
        for options in ways(&case) {
            let start = Instant::now();
            let mut model = case.load(&options);
            run(&mut model, tokens);
            let profile = model.profile();
            let wall = start.elapsed();
            let what = format!("{} with {:?} and {:?}", case.name, options.threads, options.weights);
            let Profile { prefill, decode, first, last } = &profile;
            let mut want = counts(&model, 4, 4);
            assert_eq!(counted(prefill), counts(&model, 3, 1).map_sampling(1), "{what}");
            want[Op::Sampling as usize] = 3;
            assert_eq!(counted(decode), want, "{what}");
            assert_eq!((prefill.rows, prefill.wanted), (tokens.len() as u64, 1), "{what}");
            assert_eq!((decode.rows, decode.wanted), (4, 4), "{what}");
            assert!(last.is_empty());
            let numbers: Vec<_> = first.iter().map(|s| (s.number, s.phase)).collect();
            let phase = |i: u64| if i <= 3 { Phase::Prefill } else { Phase::Decode };
            assert_eq!(numbers, (1..=7).map(|i| (i, phase(i))).collect::<Vec<_>>(), "{what}");
            let mut sum = Account::default();
            for sweep in first {
                check_account(&format!("{what}, sweep {}", sweep.number), &sweep.account);
                sum += sweep.account;
            }
            assert_eq!(sum, profile.overall(), "{what}: sweeps make up the whole");
            check_account(&what, &sum);
            assert!(sum.time <= wall, "{what}: {:?} of {wall:?}", sum.time);
            // Readers go on meanwhile.
            assert!(sum.bytes() <= model.reading().bytes, "{what}");
            if !model.plan().streams() {
                assert_eq!(sum.bytes(), model.reading().bytes, "{what}");
                assert_eq!(sum.reads.streamed, 0, "{what}");
            } else {
                assert!(sum.reads.streamed >= 6 * (model.plan().streamed - model.head_bytes()), "{what}");
            }
        }
    }
}

/// So that a table of counts reads as one.
trait WithSampling {
    fn map_sampling(self, n: u64) -> Self;
}

impl WithSampling for [u64; Op::COUNT] {
    fn map_sampling(mut self, n: u64) -> Self {
        self[Op::Sampling as usize] = n;
        self
    }
}

#[test]
fn a_long_run_is_kept_in_little_room_and_can_be_forgotten() {
    let case = case(testdata().join("qwen3_tied"));
    let mut model = case.load(&options());
    let mut sequence = model.sequence(1);
    for _ in 0..300 {
        sequence.truncate(100);
        model.forward(&mut [Input { sequence: &mut sequence, tokens: &[1], want: Want::Last }]).unwrap();
    }
    let profile = model.profile();
    assert_eq!((profile.prefill.sweeps, profile.decode.sweeps), (1, 299));
    let numbers: Vec<_> = profile.first.iter().chain(&profile.last).map(|s| s.number).collect();
    assert_eq!(numbers, (1..=32).chain(205..=300).collect::<Vec<_>>());
    model.reset_profile();
    assert_eq!(model.profile(), Profile::default());
    model.forward(&mut [Input { sequence: &mut sequence, tokens: &[1], want: Want::Last }]).unwrap();
    let again = model.profile();
    assert_eq!((again.prefill.sweeps, again.decode.sweeps, again.first[0].number), (0, 1, 1));
    check_account("after a reset", &again.decode);
    let reads = again.decode.reads;
    assert_eq!((reads.streamed, reads.pinned), (0, 0), "everything was read before");
}

/// Events of a track lie within each other or apart, in order of their start.
fn check_track(what: &str, events: &[Event<'_>]) {
    let mut open: Vec<u64> = Vec::new();
    let mut last = 0;
    for event in events {
        assert!(event.start <= event.end && last <= event.start, "{what}: {event:?}");
        last = event.start;
        while open.last().is_some_and(|end| *end <= event.start) {
            open.pop();
        }
        assert!(open.last().is_none_or(|end| event.end <= *end), "{what}: {event:?} crosses");
        open.push(event.end);
    }
}

fn events<'a>(trace: &'a Trace<'_>, track: Track) -> Vec<Event<'a>> {
    trace.events(track).collect()
}

#[test]
fn a_trace_has_everything_in_its_place() {
    for case in cases() {
        let tokens = &longest(&case);
        for options in ways(&case) {
            let what = format!("{} with {:?} and {:?}", case.name, options.threads, options.weights);
            let mut model = case.load(&Options { trace: Some(8 << 20), ..options.clone() });
            run(&mut model, tokens);
            let overall = model.profile().overall();
            let mut want = counts(&model, 7, 5);
            want[Op::Sampling as usize] = 4;
            let streams = model.plan().streams();
            let layers = model.decoder().blocks.len();
            let trace = model.take_trace().unwrap();
            assert_eq!(trace.cut(), None, "{what}");
            let tracks: Vec<_> = trace.tracks().collect();
            let threads = options.threads.unwrap().get();
            assert_eq!(tracks.iter().filter(|t| matches!(t, Track::Thread(_))).count(), threads, "{what}");
            let (mut got, mut read, mut spent) = ([0; Op::COUNT], 0, Duration::ZERO);
            let (mut sweeps, mut works, mut gathered) = (0, 0, 0);
            for track in tracks {
                let events = events(&trace, track);
                check_track(&format!("{what}, {track:?}"), &events);
                for event in &events {
                    match event.what {
                        What::Sweep { number, rows, .. } => {
                            sweeps += 1;
                            assert_eq!(number, sweeps, "{what}");
                            assert!(rows > 0);
                        }
                        What::Op { op, layer, bytes, .. } => {
                            got[op as usize] += 1;
                            spent += Duration::from_nanos(event.end - event.start);
                            gathered += bytes;
                            assert!(layer.is_none_or(|l| l < layers), "{what}");
                            let of_a_layer =
                                !matches!(op, Op::Embed | Op::Head | Op::Norm | Op::Rotate) && !op.is_between();
                            assert!(layer.is_some() || !of_a_layer, "{what}: {op:?}");
                        }
                        What::Wait { .. } => {}
                        What::Work { op, .. } => {
                            works += 1;
                            assert!(op.is_some(), "{what}: nobody works but in a pass: {event:?}");
                        }
                        What::Read { bytes, offset, file, .. } => {
                            read += bytes;
                            assert!(file.exists() && offset > 0 && bytes > 0, "{what}");
                        }
                    }
                    let of_reads = matches!(event.what, What::Read { .. });
                    assert_eq!(of_reads, matches!(track, Track::Reads(_)), "{what}");
                }
            }
            assert_eq!(sweeps, 7, "{what}");
            assert!(works > 0, "{what}");
            assert_eq!(read, trace.bytes_read(), "{what}");
            assert_eq!(gathered, overall.embedding, "{what}");
            // Waits cut an operation into pieces, and those that are too short to be shown are in them.
            assert!(spent >= overall.time_of(|_| true), "{what}");
            for (op, (got, want)) in Op::ALL.iter().zip(got.iter().zip(want)) {
                // Only rows of the embedding table, and weights in the first sweep, may have to be waited for.
                let waits = streams || op.is_product() || matches!(op, Op::Head | Op::Embed);
                let ok = if waits { *got >= want } else { *got == want };
                assert!(ok, "{what}: {op:?} {got} times, not {want}");
            }
            drop(trace);
            assert!(model.take_trace().is_none(), "taken");
            run(&mut model, tokens);
        }
    }
}

#[test]
fn a_trace_ends_where_its_room_does() {
    let case = case(testdata().join("qwen3_tied"));
    let tokens = &longest(&case);
    let threads = NonZeroUsize::new(2);
    for bytes in [0, 100, 10_000] {
        let options = Options { trace: Some(bytes), threads, weights: Some(20_000), tile: Some(2000), ..options() };
        let mut model = case.load(&options);
        for _ in 0..4 {
            run(&mut model, tokens);
        }
        assert_eq!(model.profile().overall().sweeps, 28, "the profile goes on");
        let trace = model.take_trace().unwrap();
        let cut = trace.cut().unwrap();
        let mut all = 0;
        for track in trace.tracks() {
            let events = events(&trace, track);
            check_track(&format!("{bytes} bytes"), &events);
            assert!(events.iter().all(|e| e.end <= cut));
            all += events.len();
        }
        assert!(all * 16 <= bytes as usize, "{all} events in {bytes} bytes");
        assert!(all >= bytes as usize / 200, "{all} events in {bytes} bytes");
    }
}

/// A budget counts the memory of a trace.
#[test]
fn a_trace_takes_its_room_from_the_budget() {
    let package = rheostat::Package::embedded().unwrap();
    let plan = |trace| rheostat::plan_memory(&package, &Options { memory: Some(1 << 30), trace, ..Options::default() });
    let (without, with) = (plan(None).unwrap(), plan(Some(32 << 20)).unwrap());
    // The process itself may have grown a little in between.
    let more = with.total() - without.total();
    assert!(more.abs_diff(32 << 20) < 16 << 20, "{more}");
    assert!(plan(Some(1 << 30)).is_err(), "nothing is left");
}

#[test]
fn looking_changes_nothing() {
    for case in cases() {
        for options in ways(&case) {
            let tokens = &longest(&case);
            let want = logits(&mut case.load(&options), tokens, 7);
            for trace in [Some(0), Some(1 << 20)] {
                let got = logits(&mut case.load(&Options { trace, ..options.clone() }), tokens, 7);
                let same = got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same && got.len() == want.len(), "{} traced in {trace:?}", case.name);
            }
        }
    }
}
