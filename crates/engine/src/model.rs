//! A model that is ready to run: its description, its weights under a budget, its threads and its buffers.

mod passes;
mod unembed;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rheostat_kernels::{Exec, Format, Isa, KV_BLOCK, KV_UNIT, KvFormat, Tiled, Worked, probe};
use rheostat_store::{Checkpoint, Experts, Hits, Io, Reads, Record, Way, Weights, disk_rate, spool_room};

use crate::bind::{Bound, MatrixInfo};
use crate::budget::{self, Demand, LogitRows, MemoryPlan, Residency};
use crate::decoder::Decoder;
use crate::error::Error;
use crate::forward::{Compute, KvPlace, Screening, Workspace};
use crate::generate::Text;
use crate::hooks::{Hooks, Point, Points};
use crate::kv::{KvPool, Sequence};
use crate::kv_disk::{self, KvDisk};
use crate::package::Package;
use crate::profile::{Op, Profile, Recorder};
use crate::trace::{OpLog, Room, Trace};

/// How a model is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of memory that the process may use; `None`: what is available now, less some headroom.
    pub memory: Option<u64>,
    /// Threads; `None`: one for each core.
    pub threads: Option<NonZeroUsize>,
    /// Instruction set; `None`: the widest.
    pub isa: Option<Isa>,
    /// Tokens that all sequences together will hold at the most; `None`: the model's context, or as much of
    /// it as an eighth of the budget holds, or, with `kv_disk`, as much as there is room for on disk.
    pub context: Option<usize>,
    /// Sequences at once, at the most.
    pub sequences: usize,
    /// Rows of a pass, at the most; `None`: as memory allows.
    pub chunk: Option<usize>,
    /// For how many rows of a pass logits will be asked.
    pub logits: LogitRows,
    /// Tokens that will be guessed ahead for each sequence, at the most: rows of a pass with logits of their own.
    pub drafts: usize,
    /// In which numbers the matrix products are computed.
    pub compute: Compute,
    /// How the KV cache keeps keys and values.
    pub kv: KvFormat,
    /// A directory for keys and values that memory has no room for; `None`: all are in memory.
    pub kv_disk: Option<PathBuf>,
    /// How weights are read.
    pub io: Io,
    /// Bytes of the budget that the caller will take for something else: another model, say, or measuring.
    pub reserve: u64,
    /// Bytes for weights in memory, instead of what the budget leaves for them. For tests and measurements.
    pub weights: Option<u64>,
    /// Bytes of a streamed piece of weights; `None`: as the disk likes it. For tests and measurements.
    pub tile: Option<u64>,
    /// Bytes for the events of a [trace](Model::take_trace), a part of the budget; `None`: nothing is recorded.
    pub trace: Option<u64>,
    /// The points of the pass that hooks will ask for, so that the budget has room for what a pass does not keep by itself.
    pub hooks: Points,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            memory: None,
            threads: None,
            isa: None,
            context: None,
            sequences: 1,
            chunk: None,
            logits: LogitRows::Last,
            drafts: 0,
            compute: Compute::F32,
            kv: KvFormat::F32,
            kv_disk: None,
            io: Io::Auto,
            reserve: 0,
            weights: None,
            tile: None,
            trace: None,
            hooks: Points::NONE,
        }
    }
}

/// A model under a memory budget.
pub struct Model {
    decoder: Decoder,
    checkpoint: Checkpoint,
    bound: Bound,
    weights: Weights,
    experts: Option<Experts>,
    exec: Exec,
    workspace: Workspace,
    kv: Arc<KvPool>,
    plan: MemoryPlan,
    logit_rows: usize,
    drafts: usize,
    compute: Compute,
    screening: Screening,
    cancel: Arc<AtomicBool>,
    recorder: Recorder,
    /// When threads worked, once that is no longer recorded.
    work: Option<Vec<Worked>>,
    /// The points that room was planned for.
    planned_hooks: Points,
    /// Who looks on in every pass.
    hooks: Option<Box<dyn Hooks + Send>>,
}

/// What a model has read so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Bytes from disk.
    pub bytes: u64,
    /// Seconds that computing waited for them.
    pub waited: f64,
}

/// What the machine can do with a model's threads, measured now.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Limits {
    /// Bytes per second at which the disk that weights stream from can be read; `None` where nothing streams, or it cannot be
    /// measured.
    pub disk_bytes_per_second: Option<f64>,
    /// Bytes per second at which the weights that are in memory can be read; `None` where none is yet.
    pub read_bytes_per_second: Option<f64>,
    /// f32 operations per second by fused multiply-add, two each.
    pub f32_flops: f64,
    /// Operations per second on bf16 with f32 sums, by the instructions that the bf16 mode uses.
    pub bf16_flops: f64,
    /// Operations per second on bf16 with f32 sums, by the instructions that the amx mode uses: AMX where the CPU has it.
    pub amx_flops: f64,
    /// Operations per second on 8-bit integers with 32-bit sums, by the instructions that the int8 mode uses.
    pub int8_ops: f64,
}

impl Model {
    /// Plans memory for `package` and starts to read its weights.
    ///
    /// # Errors
    /// When the checkpoint is not the model that its configuration describes, or the budget cannot work.
    pub fn load(package: &Package, options: &Options) -> Result<Model, Error> {
        let decoder = package.describe()?;
        let checkpoint = package.checkpoint().clone();
        let bound = Bound::new(&decoder, &checkpoint)?;
        let packed = |m: &MatrixInfo| matches!(m.format, Format::Packed(_));
        let mut matrices = bound.matrices.iter().chain(bound.experts.iter().flat_map(|layer| &layer.matrices));
        if options.compute == Compute::Int8 && !matrices.any(packed) {
            return Err(Error::NothingPacked);
        }
        if options.compute == Compute::Amx
            && let Some(cols) = matrices.map(|m| m.cols).find(|cols| *cols > Tiled::MOST_COLS)
        {
            return Err(Error::RowsTooLong { cols });
        }
        if options.kv_disk.is_some() && options.hooks.any(&[Point::AttnScores, Point::Pattern]) {
            return Err(Error::ScoresOnDisk);
        }
        let (plan, residency, demand) = plan(&decoder, &checkpoint, &bound, options)?;
        let reads = 1 + usize::from(residency.experts.is_some());
        let room = options.trace.map(|bytes| Room::new(bytes, demand.threads.get(), reads));
        let record = room.as_ref().map(|room| Record { origin: room.origin, most: room.most });
        let recorder = Recorder::new(room.as_ref().map(OpLog::new));
        let weights = Weights::recorded(&checkpoint, residency.sweep, record)?;
        let experts = residency.experts.map(|plan| Experts::new(&checkpoint, plan, record)).transpose()?;
        if let Some(experts) = experts.as_ref().filter(|experts| experts.plan().fits()) {
            // All of them will stay: they arrive while work begins.
            experts.fill();
        }
        let exec = Exec::new(demand.isa, demand.threads).map_err(Error::Threads)?;
        if let Some(room) = room {
            exec.pool().record(room.origin, room.most);
        }
        let logit_rows = budget::logit_rows(plan.rows, &demand);
        let ring = kv_disk::ring_blocks(&decoder, options.kv, demand.memory, plan.tokens);
        let disk = options.kv_disk.as_ref().map(|dir| KvDisk::new(&decoder, options.kv, dir, ring)).transpose()?;
        Ok(Model {
            workspace: Workspace::new(&decoder, plan.rows, logit_rows, options.compute, demand.place, demand.looks()),
            kv: KvPool::new(plan.tokens / KV_UNIT, options.kv, disk, demand.sequences),
            decoder,
            checkpoint,
            bound,
            weights,
            experts,
            exec,
            plan,
            logit_rows,
            drafts: options.drafts,
            compute: options.compute,
            screening: Screening::default(),
            cancel: Arc::default(),
            recorder,
            work: None,
            planned_hooks: options.hooks,
            hooks: None,
        })
    }

    /// What it computes.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// In which numbers it computes, and how its cache keeps keys and values.
    #[must_use]
    pub fn numbers(&self) -> (Compute, KvFormat) {
        (self.compute, self.kv.format())
    }

    /// How its memory is spent.
    #[must_use]
    pub fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// Threads and instruction set.
    #[must_use]
    pub fn exec(&self) -> &Exec {
        &self.exec
    }

    /// What it has read so far.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let (kv_bytes, kv_waited) = self.kv.disk().map_or((0, 0.0), KvDisk::reading);
        Reading {
            bytes: self.weights.bytes_read()
                + self.workspace.gathered()
                + kv_bytes
                + self.experts.as_ref().map_or(0, Experts::bytes_read),
            waited: self.weights.waited() + kv_waited + self.experts.as_ref().map_or(0.0, Experts::waited),
        }
    }

    /// Where the time of all passes since loading (or [`Model::reset_profile`]) went.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.recorder.profile(self.reads())
    }

    /// What was read of weights, those of experts among them.
    fn reads(&self) -> Reads {
        all_reads(&self.weights, self.experts.as_ref())
    }

    /// How often routed experts were there when they were needed; nothing for a model without any.
    #[must_use]
    pub fn expert_hits(&self) -> Option<Hits> {
        self.experts.as_ref().map(Experts::stats)
    }

    /// Forgets what passes took so far.
    pub fn reset_profile(&mut self) {
        let reads = self.reads();
        self.recorder.reset(reads);
    }

    /// Counts `time` from `start` on, in which the caller did `op` between passes.
    pub fn count(&mut self, op: Op, start: Instant, time: Duration) {
        self.recorder.count(op, start, time);
    }

    /// Ends the recording of a trace: what is done from now on is not in it.
    pub fn end_recording(&mut self) {
        if self.work.is_none() && self.recorder.log.is_some() {
            self.work = Some(self.exec.pool().take_record());
        }
    }

    /// Takes the trace of all passes since loading, and ends the recording; nothing unless [`Options::trace`] asked for it.
    pub fn take_trace(&mut self) -> Option<Trace<'_>> {
        self.end_recording();
        let log = self.recorder.log.take()?;
        let mut reads = vec![self.weights.take_record()?];
        reads.extend(self.experts.as_ref().and_then(Experts::take_record));
        Some(Trace::new(log, self.work.take()?, reads, &self.checkpoint))
    }

    /// How weights are read.
    #[must_use]
    pub fn reading_way(&self) -> Way {
        self.weights.way()
    }

    /// A counter of bytes read that another thread can watch.
    pub fn reading_watch(&self) -> impl Fn() -> u64 + Send + use<> {
        let (weights, experts) = (self.weights.watch(), self.experts.as_ref().map(Experts::watch));
        move || weights() + experts.as_ref().map_or(0, |watch| watch())
    }

    /// Bytes per second at which a loop that does nothing else reads the weights that are in memory, with this model's threads, in as
    /// many passes over them as `time` allows, one at least; `None` where none is in memory yet.
    ///
    /// # Errors
    /// When weights that should be in memory could not be read.
    pub fn memory_rate(&self, time: Duration) -> Result<Option<f64>, Error> {
        let resident = (0..self.weights.plan().tiles().len()).filter(|t| self.weights.is_here(*t));
        let held = resident.map(|t| self.weights.acquire(t)).collect::<Result<Vec<_>, _>>()?;
        let regions: Vec<&[u8]> = held.iter().flat_map(|tile| *tile.parts()).filter(|part| !part.is_empty()).collect();
        Ok((!regions.is_empty()).then(|| probe::read_rate(&self.exec, &regions, time)))
    }

    /// Measures what the machine can do, for about `time`: the ceilings to compare a speed with. Where weights stream, this takes
    /// [`DISK_PROBE_BYTES`](rheostat_store::DISK_PROBE_BYTES) of memory for that time, which the caller should have
    /// [reserved](Options::reserve).
    ///
    /// # Errors
    /// When weights that should be in memory could not be read, or the disk fails.
    pub fn limits(&self, time: Duration) -> Result<Limits, Error> {
        let disk = if self.plan.streams() { disk_rate(&self.checkpoint, time)? } else { None };
        Ok(Limits {
            disk_bytes_per_second: disk,
            read_bytes_per_second: self.memory_rate(time / 2)?,
            f32_flops: probe::f32_rate(&self.exec, time / 4),
            bf16_flops: probe::bf16_rate(&self.exec, time / 4),
            amx_flops: probe::tiles_rate(&self.exec, time / 4),
            int8_ops: probe::int8_rate(&self.exec, time / 4),
        })
    }

    /// A switch that another thread can set: passes then end with [`Error::Cancelled`] within one block.
    #[must_use]
    pub fn cancel_switch(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancel)
    }

    /// A new, empty sequence, whose first `prompt_len` tokens are known to come. (The number matters to dynamic rotary embeddings, and
    /// says which blocks of the cache will be full.) It takes memory as it grows, a block that will be full as a whole.
    #[must_use]
    pub fn sequence(&self, prompt_len: usize) -> Sequence {
        Sequence::new(&self.decoder, prompt_len, &self.kv)
    }

    /// Whether a text of `tokens` tokens in all can join `texts`, so that all of them come to their end in the planned memory.
    #[must_use]
    pub fn has_room(&self, texts: &[Text], tokens: usize) -> bool {
        // The last token is never read, and nothing is beyond the context.
        let units = |tokens: usize| tokens.min(self.decoder.context).div_ceil(KV_UNIT);
        let taken: usize = texts.iter().map(|text| units(text.most_tokens())).sum();
        taken + units(tokens) <= self.plan.tokens / KV_UNIT
    }

    /// Bytes of the output projection's matrix, which are among [`MemoryPlan::weights`].
    #[must_use]
    pub fn head_bytes(&self) -> u64 {
        self.bound.matrices.last().map_or(0, MatrixInfo::byte_len)
    }

    /// Rows that one pass takes at the most.
    #[must_use]
    pub fn max_rows(&self) -> usize {
        self.plan.rows
    }

    /// Rows of a pass that logits can be had for at the most.
    #[must_use]
    pub fn max_logit_rows(&self) -> usize {
        self.logit_rows
    }

    /// Tokens that may be guessed ahead for each sequence: see [`Options::drafts`].
    #[must_use]
    pub fn max_drafts(&self) -> usize {
        self.drafts
    }

    /// Whether `tokens` may follow `len` others.
    fn check(&self, tokens: &[u32], len: usize) -> Result<(), Error> {
        check_tokens(&self.decoder, tokens, len)
    }
}

/// Whether `tokens` are in the vocabulary, and may follow `len` others within the context.
///
/// # Errors
/// When not; the error says which and why.
pub fn check_tokens(decoder: &Decoder, tokens: &[u32], len: usize) -> Result<(), Error> {
    check_vocabulary(decoder, tokens, len)?;
    if len + tokens.len() > decoder.context {
        return Err(Error::ContextExceeded { tokens: len + tokens.len(), context: decoder.context });
    }
    Ok(())
}

/// Whether `tokens`, which follow `len` others, are in the vocabulary.
///
/// # Errors
/// When not; the error says which.
pub fn check_vocabulary(decoder: &Decoder, tokens: &[u32], len: usize) -> Result<(), Error> {
    let vocab_size = decoder.vocab_size;
    match tokens.iter().position(|t| *t as usize >= vocab_size) {
        Some(at) => Err(Error::TokenOutOfRange { token: tokens[at], position: len + at, vocab_size }),
        None => Ok(()),
    }
}

/// Bytes of the output projection of `package`, which are among [`MemoryPlan::weights`].
///
/// # Errors
/// When the checkpoint is not the model that its configuration describes.
pub fn head_bytes(package: &Package) -> Result<u64, Error> {
    let bound = Bound::new(&package.describe()?, package.checkpoint())?;
    Ok(bound.matrices.last().map_or(0, MatrixInfo::byte_len))
}

/// The instruction set that a model computes with: the one asked for, or the widest.
pub(crate) fn isa(options: &Options) -> Isa {
    options.isa.unwrap_or_else(Isa::detect)
}

/// Threads that a model computes with: as many as asked for, or one for each core.
pub(crate) fn threads(options: &Options) -> NonZeroUsize {
    options.threads.unwrap_or_else(|| std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
}

/// What was read of weights, those of experts among them.
pub(crate) fn all_reads(weights: &Weights, experts: Option<&Experts>) -> Reads {
    let mut reads = weights.reads();
    if let Some(experts) = experts {
        let more = experts.reads();
        reads.streamed += more.streamed;
        reads.pinned += more.pinned;
        reads.reading += more.reading;
        reads.waiting += more.waiting;
        reads.both += more.both;
    }
    reads
}

/// The memory plan that [`Model::load`] would follow.
///
/// # Errors
/// As [`Model::load`].
pub fn plan_memory(package: &Package, options: &Options) -> Result<MemoryPlan, Error> {
    let decoder = package.describe()?;
    let bound = Bound::new(&decoder, package.checkpoint())?;
    Ok(plan(&decoder, package.checkpoint(), &bound, options)?.0)
}

fn plan(
    decoder: &Decoder,
    checkpoint: &Checkpoint,
    bound: &Bound,
    options: &Options,
) -> Result<(MemoryPlan, Residency, Demand), Error> {
    let threads = threads(options);
    let asked = options.memory;
    let budget = budget::effective(asked);
    let unit = crate::kv::unit_bytes(decoder, options.kv);
    let room = options.kv_disk.as_deref().map(spool_room).transpose()?;
    let plan = |memory: u64| {
        let tokens = options.context.unwrap_or_else(|| {
            let held = match room {
                None => ((memory / 8 / unit).max(1) as usize).saturating_mul(KV_UNIT),
                Some(room) => {
                    let blocks = room / kv_disk::slot_bytes(decoder, options.kv);
                    (blocks.saturating_sub(options.sequences as u64).max(1) as usize).saturating_mul(KV_BLOCK)
                }
            };
            decoder.context.min(held)
        });
        let demand = Demand {
            memory,
            asked,
            isa: isa(options),
            threads,
            tokens,
            sequences: options.sequences.max(1),
            chunk: options.chunk,
            logits: options.logits,
            drafts: options.drafts,
            weights: options.weights,
            tile: options.tile,
            io: options.io,
            reserve: options.reserve + options.trace.unwrap_or(0),
            compute: options.compute,
            kv: options.kv,
            hooks: options.hooks,
            place: if room.is_some() { KvPlace::Disk } else { KvPlace::Memory },
        };
        budget::plan(decoder, checkpoint, bound, &demand).map(|(memory, residency)| (memory, residency, demand))
    };
    let planned = plan(budget).map_err(|error| {
        // A larger budget promises a longer context, which takes an eighth of what was added: what is needed is
        // found in a few steps.
        let Error::BudgetTooSmall { mut needed, .. } = error else { return error };
        while let Err(Error::BudgetTooSmall { needed: more, .. }) = plan(needed) {
            if more <= needed {
                break;
            }
            needed = more;
        }
        match asked {
            Some(asked) if asked <= budget => Error::BudgetTooSmall { budget, needed },
            _ => Error::NotEnoughFree { free: budget, needed },
        }
    })?;
    if let (Some(dir), Some(room)) = (&options.kv_disk, room)
        && planned.0.kv_disk > room
    {
        let (tokens, needed) = (planned.0.tokens, planned.0.kv_disk);
        return Err(Error::KvDiskRoom { dir: dir.clone(), tokens, needed, room });
    }
    Ok(planned)
}
