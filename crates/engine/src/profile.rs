//! Where the time of passes goes. The clocks are always on: a step of a layer is one look at the time, which is some
//! tens of nanoseconds.
//!
//! The time of a sweep runs from the beginning of its pass to the beginning of the next, so that what the caller does
//! in between (sampling, say) is in it, and sweeps together are the whole run.

use std::collections::VecDeque;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use rheostat_store::Reads;

use crate::trace::OpLog;

/// Kinds of operations that are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Rows of the embedding table become rows of the residual stream.
    Embed,
    /// Norms, those of queries and keys among them.
    Norm,
    /// Products with the weights of queries, keys and values.
    Qkv,
    /// Rotary angles and rotations.
    Rotate,
    /// Keys and values written to the cache.
    Cache,
    /// Attention over the cache.
    Attention,
    /// Convolutions and recurrences over positions.
    Recurrence,
    /// Products with a mixer's output weights.
    Output,
    /// The choice of experts.
    Router,
    /// Everything that routed experts do.
    Experts,
    /// Products with the weights of gate and up.
    GateUp,
    /// Activation of the gate, times up.
    Activation,
    /// Products with the weights of down.
    Down,
    /// Sums with the residual stream.
    Residual,
    /// The output projection.
    Head,
    /// The choice of tokens, between passes.
    Sampling,
    /// Guesses of tokens ahead, between passes.
    Guessing,
}

impl Op {
    /// How many there are.
    pub const COUNT: usize = 17;
    /// All of them, in the order of a pass.
    pub const ALL: [Op; Op::COUNT] = [
        Op::Embed,
        Op::Norm,
        Op::Qkv,
        Op::Rotate,
        Op::Cache,
        Op::Attention,
        Op::Recurrence,
        Op::Output,
        Op::Router,
        Op::Experts,
        Op::GateUp,
        Op::Activation,
        Op::Down,
        Op::Residual,
        Op::Head,
        Op::Sampling,
        Op::Guessing,
    ];

    /// A name for tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Op::Embed => "embed",
            Op::Norm => "norm",
            Op::Qkv => "q, k, v",
            Op::Rotate => "rotate",
            Op::Cache => "cache",
            Op::Attention => "attention",
            Op::Recurrence => "recurrence",
            Op::Output => "o",
            Op::Router => "router",
            Op::Experts => "experts",
            Op::GateUp => "gate, up",
            Op::Activation => "activation",
            Op::Down => "down",
            Op::Residual => "residual",
            Op::Head => "head",
            Op::Sampling => "sampling",
            Op::Guessing => "guessing",
        }
    }

    /// Whether it is done between passes, by whoever makes them.
    #[must_use]
    pub fn is_between(self) -> bool {
        matches!(self, Op::Sampling | Op::Guessing)
    }

    /// Whether it is a product with weights of the blocks.
    #[must_use]
    pub fn is_product(self) -> bool {
        matches!(self, Op::Qkv | Op::Output | Op::Router | Op::Experts | Op::GateUp | Op::Down)
    }
}

/// What was spent on one kind of operation.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Spent {
    /// Time, without waiting for weights.
    pub time: Duration,
    /// How often it was done.
    pub count: u64,
}

/// What one sweep took, or many together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Account {
    /// Sweeps.
    pub sweeps: u64,
    /// Those of them that went on to the head.
    pub heads: u64,
    /// Those that found the greatest logits [without computing most of the others](crate::Want::Top).
    pub screened: u64,
    /// Rows that passed.
    pub rows: u64,
    /// Rows of which logits were wanted.
    pub wanted: u64,
    /// Time in all.
    pub time: Duration,
    /// Time in which the computing side waited for weights.
    pub waiting: Duration,
    ops: [Spent; Op::COUNT],
    /// Bytes of weights, and the time in which they were read, whatever went on besides.
    pub reads: Reads,
    /// Bytes of embedding rows that were read one by one.
    pub embedding: u64,
    /// Bytes of keys and values that were read from disk.
    pub cache: u64,
}

impl Account {
    /// What was spent on `op`.
    #[must_use]
    pub fn op(&self, op: Op) -> Spent {
        self.ops[op as usize]
    }

    /// Adds what was spent on `op`.
    pub fn spend(&mut self, op: Op, spent: Spent) {
        let all = &mut self.ops[op as usize];
        all.time += spent.time;
        all.count += spent.count;
    }

    /// Time of all operations of a kind that `of` picks.
    pub fn time_of(&self, of: impl Fn(Op) -> bool) -> Duration {
        Op::ALL.iter().filter(|op| of(**op)).map(|op| self.op(*op).time).sum()
    }

    /// Time that is in no operation and was not waited: between the steps of a pass and between passes.
    #[must_use]
    pub fn other(&self) -> Duration {
        self.time.saturating_sub(self.waiting).saturating_sub(self.time_of(|_| true))
    }

    /// The share of the time of reading in which the computing side did not wait; nothing where nothing was read.
    #[must_use]
    pub fn overlap(&self) -> Option<f64> {
        let reading = self.reads.reading.as_secs_f64();
        (reading > 0.0).then(|| 1.0 - self.reads.both.as_secs_f64() / reading)
    }

    /// Bytes read in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.reads.streamed + self.reads.pinned + self.embedding + self.cache
    }
}

impl AddAssign for Account {
    fn add_assign(&mut self, other: Account) {
        self.sweeps += other.sweeps;
        self.heads += other.heads;
        self.screened += other.screened;
        self.rows += other.rows;
        self.wanted += other.wanted;
        self.time += other.time;
        self.waiting += other.waiting;
        for op in Op::ALL {
            self.spend(op, other.op(op));
        }
        self.reads.streamed += other.reads.streamed;
        self.reads.pinned += other.reads.pinned;
        self.reads.reading += other.reads.reading;
        self.reads.waiting += other.reads.waiting;
        self.reads.both += other.reads.both;
        self.embedding += other.embedding;
        self.cache += other.cache;
    }
}

/// What a sweep is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// It reads a text, or a part of one, of at least one sequence.
    Prefill,
    /// It continues texts.
    Decode,
}

/// One sweep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sweep {
    /// Its number, from 1.
    pub number: u64,
    /// What it is for.
    pub phase: Phase,
    /// What it took.
    pub account: Account,
}

/// Sweeps that are kept one by one: the first, and the last.
const FIRST: usize = 32;
const LAST: usize = 96;

/// What all sweeps took. Its size does not depend on how many they were.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Profile {
    /// Sweeps that read texts.
    pub prefill: Account,
    /// Sweeps that continued texts.
    pub decode: Account,
    /// Some sweeps by themselves, in order: the first, and the last of the others.
    pub first: Vec<Sweep>,
    /// The last sweeps that are not among the first.
    pub last: VecDeque<Sweep>,
}

impl Profile {
    /// All sweeps together.
    #[must_use]
    pub fn overall(&self) -> Account {
        let mut all = self.prefill;
        all += self.decode;
        all
    }

    fn add(&mut self, sweep: Sweep) {
        match sweep.phase {
            Phase::Prefill => self.prefill += sweep.account,
            Phase::Decode => self.decode += sweep.account,
        }
        if self.first.len() < FIRST {
            return self.first.push(sweep);
        }
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(sweep);
    }
}

/// The stopwatch of passes.
pub(crate) struct Recorder {
    profile: Profile,
    /// The sweep that began last; nothing before the first.
    sweep: Option<Sweep>,
    /// When its time began, and what had been read by then.
    since: Instant,
    reads: Reads,
    /// Up to when time was given to something.
    last: Instant,
    /// What of the operation at hand went by before it had to wait.
    carried: Duration,
    pub(crate) log: Option<OpLog>,
}

/// A wait that is shorter than this is none: the tile was there. Nothing is lost, only a trace does not show it.
const INSTANT: Duration = Duration::from_micros(1);

impl Recorder {
    pub(crate) fn new(log: Option<OpLog>) -> Recorder {
        let now = Instant::now();
        let profile = Profile::default();
        Recorder { profile, sweep: None, since: now, reads: Reads::default(), last: now, carried: Duration::ZERO, log }
    }

    /// Forgets everything; `reads` is what was read until now.
    pub(crate) fn reset(&mut self, reads: Reads) {
        self.profile = Profile::default();
        self.sweep = None;
        self.since = Instant::now();
        self.reads = reads;
    }

    /// A pass begins: the sweep before it is over. The first has the time since the model was loaded.
    pub(crate) fn begin(&mut self, phase: Phase, rows: usize, wanted: usize, reads: Reads) {
        let now = Instant::now();
        let mut number = 1;
        if let Some(sweep) = self.closed(now, reads) {
            number = sweep.number + 1;
            self.profile.add(sweep);
            (self.since, self.reads) = (now, reads);
        }
        let account = Account {
            sweeps: 1,
            heads: u64::from(wanted > 0),
            rows: rows as u64,
            wanted: wanted as u64,
            ..Account::default()
        };
        self.sweep = Some(Sweep { number, phase, account });
        (self.last, self.carried) = (now, Duration::ZERO);
        if let Some(log) = &mut self.log {
            log.begin(now, number, phase, rows);
        }
    }

    /// The pass is over.
    pub(crate) fn end(&mut self) {
        if let Some(log) = &mut self.log {
            log.end(Instant::now());
        }
    }

    /// The head was not gone through as a whole.
    pub(crate) fn screened(&mut self) {
        if let Some(sweep) = &mut self.sweep {
            sweep.account.screened += 1;
        }
    }

    /// Steps from now on are those of `layer`, or of none.
    pub(crate) fn layer(&mut self, layer: Option<usize>) {
        if let Some(log) = &mut self.log {
            log.layer(layer);
        }
    }

    /// Something may have to be waited for.
    pub(crate) fn pause(&mut self) {
        let now = Instant::now();
        self.carried += now.saturating_duration_since(self.last);
        self.last = now;
    }

    /// It is there.
    pub(crate) fn resume(&mut self) {
        let now = Instant::now();
        let time = now.saturating_duration_since(self.last);
        if let Some(log) = &mut self.log
            && time >= INSTANT
        {
            log.waited(self.last, now);
        }
        self.last = now;
        if let Some(sweep) = &mut self.sweep {
            sweep.account.waiting += time;
        }
    }

    /// `op` was done since the step before it, but for what was waited.
    pub(crate) fn done(&mut self, op: Op) {
        let now = Instant::now();
        let time = std::mem::take(&mut self.carried) + now.saturating_duration_since(self.last);
        self.last = now;
        if let Some(log) = &mut self.log {
            log.done(op, now);
        }
        self.spend(op, time);
    }

    /// Bytes of embedding rows were read.
    pub(crate) fn gathered(&mut self, bytes: usize) {
        if let Some(sweep) = &mut self.sweep {
            sweep.account.embedding += bytes as u64;
        }
        if let Some(log) = &mut self.log {
            log.gathered(bytes);
        }
    }

    /// Bytes of keys and values came from disk.
    pub(crate) fn cached(&mut self, bytes: usize) {
        if let Some(sweep) = &mut self.sweep {
            sweep.account.cache += bytes as u64;
        }
    }

    /// The caller did `op` for `time` from `start` on.
    pub(crate) fn count(&mut self, op: Op, start: Instant, time: Duration) {
        if let Some(log) = &mut self.log {
            log.add(op, start, start + time);
        }
        self.spend(op, time);
    }

    fn spend(&mut self, op: Op, time: Duration) {
        if let Some(sweep) = &mut self.sweep {
            sweep.account.spend(op, Spent { time, count: 1 });
        }
    }

    /// Everything until now, when `reads` is what was read.
    pub(crate) fn profile(&self, reads: Reads) -> Profile {
        let mut profile = self.profile.clone();
        if let Some(sweep) = self.closed(Instant::now(), reads) {
            profile.add(sweep);
        }
        profile
    }

    /// The sweep that began last, if it ends now.
    fn closed(&self, now: Instant, reads: Reads) -> Option<Sweep> {
        let mut sweep = self.sweep?;
        sweep.account.time = now.saturating_duration_since(self.since);
        let before = self.reads;
        sweep.account.reads = Reads {
            streamed: reads.streamed - before.streamed,
            pinned: reads.pinned - before.pinned,
            reading: reads.reading.saturating_sub(before.reading),
            waiting: reads.waiting.saturating_sub(before.waiting),
            both: reads.both.saturating_sub(before.both),
        };
        Some(sweep)
    }
}
