//! The memory plan: what a budget is spent on.
//!
//! First comes what cannot be avoided (the process itself, the KV cache of the promised context, the buffers of
//! a pass, norms and biases); what is left goes to weights: as many as fit stay, the rest streams.

use rheostat_kernels::{Exec, Isa, KV_BLOCK, KV_UNIT, KvFormat};
use rheostat_store::{Checkpoint, Expert, ExpertPlan, Io, Plan, TooSmall, Use, memory};

use crate::bind::{Bound, MatrixInfo};
use crate::decoder::Decoder;
use crate::error::Error;
use crate::forward::{Compute, KvPlace, Looks, screen_bytes};
use crate::hooks::Points;
use crate::kv;
use crate::kv_disk;

/// Allowance for what is not counted one by one: thread stacks, the allocator's slack, page tables.
const SLACK: u64 = 24 << 20;
/// Allowance for memory that a process takes before it plans and that differs from run to run.
const MARGIN: u64 = 4 << 20;
/// Rows of a prefill pass, unless the caller or the budget says otherwise.
const CHUNK: usize = 512;
/// Rows for each thread of a pass that weights stream through: enough for the arithmetic to take longer than the reading, so that
/// a prompt is read in as few sweeps as make a difference. (A thread does some 100 GFLOP/s; a disk brings some GB/s, each byte of which
/// is at the least one operation for each row.)
const CHUNK_OF_THREAD: usize = 256;

/// What a memory plan is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// Bytes in all.
    pub(crate) memory: u64,
    /// What the caller asked for, if anything.
    pub(crate) asked: Option<u64>,
    pub(crate) isa: Isa,
    pub(crate) threads: std::num::NonZeroUsize,
    /// Tokens that sequences will hold together.
    pub(crate) tokens: usize,
    /// Sequences that will hold them.
    pub(crate) sequences: usize,
    pub(crate) chunk: Option<usize>,
    pub(crate) logits: LogitRows,
    /// Tokens guessed ahead for each sequence.
    pub(crate) drafts: usize,
    /// Bytes for weights, and for what may be in the place of some, instead of what is left.
    pub(crate) weights: Option<u64>,
    pub(crate) tile: Option<u64>,
    pub(crate) io: Io,
    /// Bytes that the caller takes for something else.
    pub(crate) reserve: u64,
    pub(crate) compute: Compute,
    pub(crate) kv: KvFormat,
    pub(crate) place: KvPlace,
    /// The points that hooks may ask for.
    pub(crate) hooks: Points,
}

impl Demand {
    /// What room hooks need.
    pub(crate) fn looks(&self) -> Looks {
        Looks { points: self.hooks, keys: self.tokens.saturating_add(KV_UNIT) }
    }
}

/// For how many rows of a pass logits may be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogitRows {
    /// The last of each sequence.
    Last,
    /// The last of each sequence, of which only [the greatest](crate::Want::Top) matter as a rule. Others can be asked for, but take longer where
    /// weights stream: what finds the greatest is then in memory in the place of the output projection.
    Top,
    /// All.
    All,
}

/// How a budget is spent, in bytes.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MemoryPlan {
    /// The budget: what was asked for, or what there is if that is less.
    pub budget: u64,
    /// What was asked for, if anything.
    pub asked: Option<u64>,
    /// The process as it was before, an allowance for what is not counted one by one, and what the caller
    /// [reserved](crate::Options::reserve).
    pub process: u64,
    /// What each thread works with.
    pub threads: u64,
    /// Norms and biases.
    pub vectors: u64,
    /// Keys and values in memory: of the promised context, or, with a cache on disk, of the ends of its sequences, and the
    /// ring that the others pass through.
    pub kv_cache: u64,
    /// Keys and values of the promised context on disk.
    pub kv_disk: u64,
    /// Buffers of a pass.
    pub activations: u64,
    /// Weights that stay in memory.
    pub pinned: u64,
    /// The ring that the other weights pass through.
    pub ring: u64,
    /// Memory for routed experts, which are read when they are needed and kept while there is room.
    pub experts: u64,
    /// All routed experts, wherever they are.
    pub all_experts: u64,
    /// Whether all of them have room.
    pub experts_fit: bool,
    /// What finds the greatest logits where only these are asked for, without reading all of the output projection: where the budget has room
    /// for both, or, if [that is all that matters](LogitRows::Top), in its place.
    pub screen: u64,
    /// Weights of the output projection, if they have no place in memory because of that: those passes read them that ask for other logits.
    pub seldom: u64,
    /// Weights that every sweep reads from disk.
    pub streamed: u64,
    /// All weights that every sweep uses, wherever they are, and those of the output projection.
    pub weights: u64,
    /// Tokens that the KV cache holds.
    pub tokens: usize,
    /// Rows that one pass takes.
    pub rows: usize,
}

impl MemoryPlan {
    /// Bytes that are expected to be resident at the most.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.process + self.model()
    }

    /// Whether passes read weights from disk, after all that stays was read.
    #[must_use]
    pub fn streams(&self) -> bool {
        self.streamed > 0 || !self.experts_fit
    }

    /// Bytes of the screen, if it is in the place of the output projection.
    pub(crate) fn screen_instead(&self) -> u64 {
        if self.seldom > 0 { self.screen } else { 0 }
    }

    /// Bytes of weights that the first sweep reads.
    #[must_use]
    pub fn first_sweep(&self) -> u64 {
        self.pinned + self.streamed + self.seldom
    }

    /// Bytes of those that are the model's own, and would come on top if another were there already.
    #[must_use]
    pub fn model(&self) -> u64 {
        let weights = self.pinned + self.ring + self.experts + self.screen;
        self.threads + self.vectors + self.kv_cache + self.activations + weights
    }
}

/// Where the weights are to be.
pub(crate) struct Residency {
    /// Those of every sweep.
    pub(crate) sweep: Plan,
    /// The routed experts, of a model that has any.
    pub(crate) experts: Option<ExpertPlan>,
}

impl Residency {
    /// Whether every pass reads weights from disk.
    fn streams(&self) -> bool {
        self.sweep.streamed_bytes() > 0 || self.experts.as_ref().is_some_and(|experts| !experts.fits())
    }
}

/// Plans weights within `budget` bytes. What every sweep uses saves most, byte for byte, so that experts get what it leaves, but never less
/// than lets a layer's reading go on beside its arithmetic.
fn residency(
    checkpoint: &Checkpoint,
    uses: &[Use],
    layers: &[Vec<Expert>],
    routed: usize,
    budget: u64,
    demand: &Demand,
) -> Result<Residency, TooSmall> {
    let sweep = |budget: u64| Plan::with_tiles(checkpoint, uses, budget, demand.tile, demand.io);
    let bytes = |expert: &Expert| expert.parts.iter().map(|part| part.len).sum::<u64>();
    let all: u64 = layers.iter().flatten().map(bytes).sum();
    if layers.is_empty() || all == 0 {
        return Ok(Residency { sweep: sweep(budget)?, experts: None });
    }
    let experts = |budget: u64| ExpertPlan::new(checkpoint, layers, budget, demand.io);
    let largest = layers.iter().flatten().map(bytes).max().unwrap_or(0);
    let least = experts(0).map_or_else(|TooSmall { needed }| needed, |plan| plan.arena_bytes());
    let floor = least.max((2 * routed as u64).saturating_mul(largest).min(all).min(budget / 2));
    let plan = sweep(budget.saturating_sub(floor)).map_err(|e| TooSmall { needed: e.needed.saturating_add(floor) })?;
    let rest = budget.saturating_sub(plan.pinned_bytes() + plan.ring_bytes());
    Ok(Residency { experts: Some(experts(rest)?), sweep: plan })
}

/// Plans `demand`; also gives the residency plan of the weights.
pub(crate) fn plan(
    decoder: &Decoder,
    checkpoint: &Checkpoint,
    bound: &Bound,
    demand: &Demand,
) -> Result<(MemoryPlan, Residency), Error> {
    let budget = demand.memory;
    let statics: u64 = bound
        .matrices
        .iter()
        .filter(|m| m.parts.iter().all(|t| checkpoint.sources()[t.shard()].as_static().is_some()))
        .map(MatrixInfo::byte_len)
        .sum();
    let process = memory::resident().unwrap_or(0) + SLACK + statics + demand.reserve;
    let threads = Exec::memory(demand.isa, demand.threads);
    let vectors = bound.vector_bytes();
    let units = demand.tokens.div_ceil(KV_UNIT) + demand.sequences - 1;
    // Memory that was taken before, if only for a moment, counts as well: reading a tokenizer is the usual case.
    let taken = memory::peak().map_or(0, |peak| peak + MARGIN);
    let uses = bound.uses();
    let screen = screen_bytes(decoder, bound, demand.compute).filter(|_| demand.sequences == 1);
    let layers = bound.expert_layers();
    let routed = decoder.blocks.iter().filter_map(|b| b.ffn.experts()).map(|e| e.router.top_k).max().unwrap_or(0);
    let states = kv::state_bytes(decoder) * demand.sequences as u64;
    let fewest = writing_rows(demand);
    let instead = screen.filter(|_| demand.logits == LogitRows::Top && demand.hooks == Points::NONE);
    let spend = |rows: usize| {
        let activations = activation_bytes(decoder, rows, demand);
        let kv_cache = kv_bytes(decoder, rows, units, demand).saturating_add(states);
        let fixed = (process + threads + vectors + activations).saturating_add(kv_cache);
        let weights = demand.weights.unwrap_or_else(|| budget.saturating_sub(fixed));
        let within = |uses: &[Use], weights: u64| residency(checkpoint, uses, &layers, routed, weights, demand);
        let plan = match (within(&uses, weights), instead) {
            (Ok(plan), Some(screen)) if plan.streams() => {
                Ok(within(&bound.uses_seldom_head(), weights.saturating_sub(screen)).unwrap_or(plan))
            }
            (plan, _) => plan,
        };
        (activations, kv_cache, fixed, plan)
    };
    let within = |rows: usize| rows.min(demand.tokens).max(fewest);
    let mut rows = within(demand.chunk.unwrap_or(CHUNK));
    if demand.chunk.is_none() && spend(rows).3.is_ok_and(|plan| plan.streams()) {
        rows = within(CHUNK.max(CHUNK_OF_THREAD * demand.threads.get()));
    }
    loop {
        let (activations, kv_cache, fixed, plan) = spend(rows);
        // Buffers beyond an eighth of the budget are worth less than the weights they displace.
        let roomy = demand.chunk.is_some() || activations <= budget / 8;
        // Weights that are part of the program need no room of their own, so that their plan never fails.
        let fits = demand.weights.is_some() || fixed.max(taken) <= budget;
        match plan {
            Ok(plan) if fits && (!plan.streams() || roomy || rows == fewest) => {
                let experts = plan.experts.as_ref().map_or(0, ExpertPlan::arena_bytes);
                let spent = fixed.max(taken) + plan.sweep.pinned_bytes() + plan.sweep.ring_bytes() + experts;
                let seldom = plan.sweep.seldom_bytes();
                let may_be_beside = !plan.streams() && demand.weights.is_none();
                let beside = |bytes: &u64| may_be_beside && spent.saturating_add(*bytes) <= budget;
                let screen = screen.filter(|bytes| seldom > 0 || beside(bytes));
                let memory = MemoryPlan {
                    budget,
                    asked: demand.asked,
                    process,
                    threads,
                    vectors,
                    kv_cache,
                    kv_disk: kv_disk_bytes(decoder, units, demand),
                    activations,
                    pinned: plan.sweep.pinned_bytes(),
                    ring: plan.sweep.ring_bytes(),
                    experts,
                    all_experts: bound.expert_bytes(),
                    experts_fit: plan.experts.as_ref().is_none_or(ExpertPlan::fits),
                    screen: screen.unwrap_or(0),
                    seldom,
                    streamed: plan.sweep.streamed_bytes(),
                    weights: bound.matrices.iter().map(MatrixInfo::byte_len).sum(),
                    tokens: units.saturating_mul(KV_UNIT),
                    rows,
                };
                return Ok((memory, plan));
            }
            result if rows == fewest => {
                let needed = result.err().map_or(0, |TooSmall { needed }| needed);
                return Err(Error::BudgetTooSmall { budget, needed: fixed.saturating_add(needed).max(taken) });
            }
            _ => rows = (rows / 2).max(fewest),
        }
    }
}

/// Units of positions near the end of a sequence that stay in memory where full blocks are on disk.
const TAIL_UNITS: usize = (KV_BLOCK + kv_disk::NEAR).div_ceil(KV_UNIT);

/// Bytes of keys and values in memory, of `units` of positions and a pass of `rows`.
fn kv_bytes(decoder: &Decoder, rows: usize, units: usize, demand: &Demand) -> u64 {
    let unit = kv::unit_bytes(decoder, demand.kv);
    let all = (units as u64).saturating_mul(unit);
    match demand.place {
        KvPlace::Memory => all,
        KvPlace::Disk => {
            // The ends of all sequences; in the layer at hand, what the pass adds to them; and the ring.
            let tails = units.min(TAIL_UNITS * demand.sequences) as u64 * unit;
            let widest = decoder
                .blocks
                .iter()
                .filter_map(super::decoder::Block::kv)
                .map(|kv| kv.memory(demand.kv))
                .max()
                .unwrap_or(0);
            let pass = (rows.div_ceil(KV_UNIT) + demand.sequences) as u64 * widest;
            let ring = kv_disk::ring_blocks(decoder, demand.kv, demand.memory, units.saturating_mul(KV_UNIT));
            tails + pass + ring * kv_disk::ring_block_bytes(decoder, demand.kv)
        }
    }
}

/// Bytes of keys and values on disk: whole blocks, of each sequence.
fn kv_disk_bytes(decoder: &Decoder, units: usize, demand: &Demand) -> u64 {
    match demand.place {
        KvPlace::Memory => 0,
        KvPlace::Disk => {
            let blocks = units.saturating_mul(KV_UNIT).div_ceil(KV_BLOCK) as u64;
            blocks.saturating_mul(kv_disk::slot_bytes(decoder, demand.kv))
        }
    }
}

/// The budget for `asked`: never more than there is, or the rest would be swapped, or the process killed. Unless asked, what is
/// available now, less a sixteenth and at least 256 MiB for others.
pub(crate) fn effective(asked: Option<u64>) -> u64 {
    let available = memory::available().unwrap_or(u64::MAX / 2) + memory::resident().unwrap_or(0);
    asked.map_or(available - (available / 16).max(256 << 20).min(available / 2), |asked| asked.min(available))
}

/// Bytes of the buffers that [`Workspace`](crate::forward::Workspace) takes.
fn activation_bytes(decoder: &Decoder, rows: usize, demand: &Demand) -> u64 {
    let logit_rows = logit_rows(rows, demand);
    4 * crate::forward::workspace_elements(decoder, rows, logit_rows, demand.compute, demand.place, demand.looks())
}

/// Rows of a pass of `rows` for which logits may be asked.
pub(crate) fn logit_rows(rows: usize, demand: &Demand) -> usize {
    match demand.logits {
        LogitRows::Last | LogitRows::Top => writing_rows(demand),
        LogitRows::All => rows,
    }
}

/// Rows of a pass in which every sequence writes: one for each, and its guesses.
fn writing_rows(demand: &Demand) -> usize {
    demand.sequences * (1 + demand.drafts)
}
