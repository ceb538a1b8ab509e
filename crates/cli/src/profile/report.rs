//! A profile with everything that it is compared with, and its form as JSON.

use std::num::NonZeroUsize;

use rheostat::decoder::{Block, Storage};
use rheostat::profile::{Account, Op, Phase, Profile};
use rheostat::{Compute, Forecast, Hits, KvFormat, Limits, MemoryPlan, Model, Rates, Way, memory};
use serde_json::{Map, Value, json};

use super::bottleneck::{Figures, Verdict};

/// What was run.
pub(crate) struct Run<'a> {
    /// The model's name.
    pub(crate) name: &'a str,
    /// Texts that advanced together, at the most.
    pub(crate) texts: usize,
    /// Tokens of a prompt, on average.
    pub(crate) prompt: usize,
    /// Tokens that were written after it.
    pub(crate) new: usize,
}

/// What is said about a run.
pub(crate) struct Report {
    pub(super) name: String,
    pub(super) parameters: u64,
    pub(super) threads: usize,
    pub(super) isa: &'static str,
    pub(super) compute: Compute,
    pub(super) kv: KvFormat,
    pub(super) plan: MemoryPlan,
    /// How weights were read.
    pub(super) way: Way,
    pub(super) profile: Profile,
    pub(super) limits: Option<Limits>,
    pub(super) peak: Option<u64>,
    /// How often routed experts were in memory, of a model that has any.
    pub(super) hits: Option<Hits>,
    /// Prefill and decode, those of them that there were.
    pub(super) phases: Vec<PhaseReport>,
}

/// What is said about the sweeps of a phase.
pub(super) struct PhaseReport {
    pub(super) phase: Phase,
    pub(super) account: Account,
    /// Seconds that a sweep should take, with all weights at their place.
    pub(super) predicted: Option<f64>,
    pub(super) verdict: Verdict,
}

impl Report {
    pub(super) fn new(model: &Model, run: &Run<'_>, profile: Profile, limits: Option<Limits>) -> Report {
        let (compute, kv) = model.numbers();
        let decoder = model.decoder();
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let phase = |phase: Phase, account: Account| {
            let rates = limits.map(|limits| Rates::of(&limits, compute));
            let (texts, rows, depth) = shape(phase, &account, run);
            let forecast = rates.map(|rates| Forecast::new(decoder, model.plan(), kv, &rates, (texts, rows, depth)));
            // Where weights stream from a disk that cannot be measured, nothing is known.
            let known = forecast.filter(|forecast| forecast.disk_seconds.is_some());
            let figures = Figures {
                account,
                limits,
                rates,
                bytes: matrix_bytes(model, &account),
                operations: decoder.matrix_operations(account.rows as f64, account.wanted as f64),
                compute,
                kv,
                packed: decoder.blocks.iter().flat_map(Block::linears).any(|l| matches!(l.storage, Storage::Packed(_))),
                threads: model.exec().threads(),
                cores,
            };
            PhaseReport { phase, account, predicted: known.map(|f| f.seconds), verdict: figures.verdict(phase) }
        };
        let phases = [(Phase::Prefill, profile.prefill), (Phase::Decode, profile.decode)];
        Report {
            name: run.name.to_owned(),
            parameters: decoder.parameters(),
            threads: model.exec().threads(),
            isa: model.exec().isa().name(),
            compute,
            kv,
            plan: model.plan().clone(),
            way: model.reading_way(),
            phases: phases.into_iter().filter(|(_, a)| a.sweeps > 0).map(|(p, a)| phase(p, a)).collect(),
            profile,
            limits,
            peak: memory::peak(),
            hits: model.expert_hits(),
        }
    }

    /// Everything as one JSON object.
    pub(crate) fn json(&self) -> Value {
        let phases = self.phases.iter().map(|p| {
            let mut object = account(&p.account);
            object.insert("predicted_seconds_per_sweep".to_owned(), json!(p.predicted));
            object.insert("bottleneck".to_owned(), json!(p.verdict.cause.name()));
            object.insert("advice".to_owned(), json!(p.verdict.sentence));
            (phase_name(p.phase).to_owned(), Value::Object(object))
        });
        let phases: Map<String, Value> = phases.collect();
        let sweeps = self.profile.first.iter().chain(&self.profile.last).map(|sweep| {
            let mut object = account(&sweep.account);
            object.insert("number".to_owned(), json!(sweep.number));
            object.insert("phase".to_owned(), json!(phase_name(sweep.phase)));
            Value::Object(object)
        });
        json!({
            "model": self.name,
            "parameters": self.parameters,
            "threads": self.threads,
            "isa": self.isa,
            "compute": self.compute.name(),
            "kv_cache": self.kv.name(),
            "reading": self.way.to_string(),
            "plan": self.plan,
            "limits": self.limits,
            "peak_memory_bytes": self.peak,
            "experts": self.hits.as_ref().map(crate::report::experts_json),
            "phases": phases,
            "overall": account(&self.profile.overall()),
            "sweeps": sweeps.collect::<Vec<_>>(),
        })
    }
}

pub(super) fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
    }
}

/// Texts in a sweep, rows of each, and tokens before them, on average.
fn shape(phase: Phase, account: &Account, run: &Run<'_>) -> (usize, usize, usize) {
    let all = account.rows as f64 / account.sweeps.max(1) as f64;
    let texts = run.texts.min(all.round() as usize).max(1);
    let rows = (all / texts as f64).round().max(1.0) as usize;
    match phase {
        Phase::Prefill => (texts, rows, run.prompt.saturating_sub(rows) / 2),
        Phase::Decode => (texts, rows, run.prompt + run.new / 2),
    }
}

/// Bytes of weights that the sweeps went through.
fn matrix_bytes(model: &Model, account: &Account) -> f64 {
    let head = model.head_bytes();
    let body = model.plan().weights - head;
    let whole = account.heads - account.screened;
    // Those rows of the head that a screen leaves are next to none.
    body as f64 * account.sweeps as f64
        + head as f64 * whole as f64
        + model.plan().screen as f64 * account.screened as f64
}

/// An account in JSON: times in seconds.
fn account(a: &Account) -> Map<String, Value> {
    let operations: Map<String, Value> = Op::ALL
        .iter()
        .map(|op| (op.name().to_owned(), json!({ "seconds": a.op(*op).time.as_secs_f64(), "count": a.op(*op).count })))
        .collect();
    let reading = a.reads.reading.as_secs_f64();
    let read = (a.reads.streamed + a.reads.pinned) as f64;
    let value = json!({
        "sweeps": a.sweeps,
        "screened_heads": a.screened,
        "rows": a.rows,
        "logit_rows": a.wanted,
        "seconds": a.time.as_secs_f64(),
        "waiting_seconds": a.waiting.as_secs_f64(),
        "arithmetic_seconds": arithmetic(a),
        "head_seconds": a.op(Op::Head).time.as_secs_f64(),
        "sampling_seconds": a.op(Op::Sampling).time.as_secs_f64(),
        "guessing_seconds": a.op(Op::Guessing).time.as_secs_f64(),
        "other_seconds": a.other().as_secs_f64(),
        "operations": operations,
        "reading_seconds": reading,
        "bytes": {
            "streamed": a.reads.streamed,
            "pinned": a.reads.pinned,
            "embedding": a.embedding,
            "cache": a.cache,
        },
        "read_bytes_per_second": (reading > 0.0).then(|| read / reading),
        "overlap": a.overlap(),
    });
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// Seconds of all operations of the blocks.
pub(super) fn arithmetic(a: &Account) -> f64 {
    a.time_of(|op| op != Op::Head && !op.is_between()).as_secs_f64()
}
