//! A checkpoint → the same model with the matrices of its blocks in 8 or 4 bits, in the form that compressed-tensors
//! calls `pack-quantized`, and that transformers and vLLM use.
//!
//! Each run of `group` weights in a row shares a scale, which is searched for (`search`). What is no matrix of a block
//! stays as it is, byte for byte: norms, biases, the embedding table, and the head unless asked otherwise; routers stay
//! as well. A row is an output, however the model stores the matrix (`rows`): experts that lie in one tensor stay in
//! one, and what is stored input after input is turned round. Rows are read, quantised and written piece by piece, so
//! that memory does not depend on the size of the model; which thread takes which piece changes no byte.

mod choice;
mod error;
mod names;
mod output;
mod pack;
mod pieces;
mod rows;
mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rheostat_store::{Checkpoint, CheckpointWriter, Dtype, NewTensor, TensorInfo, memory};
use serde_json::{Value, json};

pub use error::QuantizeError;

use crate::bind::Bound;
use crate::budget;
use crate::decoder::{Layout, Linear};
use crate::error::Error;
use crate::package::Package;
use output::Staging;
use pieces::Sums;
use search::ScaleType;

/// Bits of a quantised weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// From -8 to 7.
    Four,
    /// From -128 to 127.
    Eight,
}

impl Bits {
    /// How many.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Bits::Four => 4,
            Bits::Eight => 8,
        }
    }
}

/// The sizes of groups: those that every reader of the format has, this engine and vLLM's kernels among them.
pub const GROUPS: [usize; 3] = [32, 64, 128];

/// How a model is to be quantised.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bits of a weight.
    pub bits: Bits,
    /// Weights of a row that share a scale: one of [`GROUPS`].
    pub group: usize,
    /// Whether an output projection that is a tensor of its own is quantised as well.
    pub head: bool,
    /// Names of tensors and modules that stay as they are; `*` stands for any text.
    pub keep: Vec<String>,
    /// Bytes of memory that the process may use; `None`: what is available now, less some headroom.
    pub memory: Option<u64>,
    /// Threads; `None`: one for each core.
    pub threads: Option<NonZeroUsize>,
    /// Bytes of a file, at the most, as far as tensors allow it.
    pub shard_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            bits: Bits::Eight,
            group: 128,
            head: false,
            keep: Vec::new(),
            memory: None,
            threads: None,
            shard_bytes: 5_000_000_000,
        }
    }
}

/// How far a run is, for others to look at, and a switch to end it.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Bytes of the model that were read.
    pub bytes: Arc<AtomicU64>,
    /// Once true, the run ends with [`Error::Cancelled`].
    pub cancel: Arc<AtomicBool>,
}

/// What was done.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Summary {
    /// Bytes of all tensors, before and after.
    pub bytes_before: u64,
    /// As `bytes_before`.
    pub bytes_after: u64,
    /// Tensors that were quantised.
    pub quantized: usize,
    /// Tensors that are as they were.
    pub kept: usize,
    /// Files that hold the weights.
    pub files: usize,
    /// Other files that were copied.
    pub copied: Vec<String>,
    /// Linear maps that were not quantised, as `ignore` names them.
    pub ignore: Vec<String>,
    /// Kinds of tensors (`c_attn`, `gate_up_proj`, …) that were quantised and are no `nn.Linear` in transformers, which
    /// therefore does not find them in what was written: experts in one tensor, and `Conv1D`.
    pub not_linear: Vec<String>,
    /// The error by kind of tensor (`q_proj`, …), and of all.
    pub kinds: BTreeMap<String, Errors>,
    /// As `kinds`.
    pub all: Errors,
    /// Whether a leftover of a killed run was in its place.
    pub replaced_leftover: bool,
}

/// How far quantised weights are from what they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Errors {
    /// Tensors.
    pub tensors: usize,
    /// Weights.
    pub weights: u64,
    /// The sum of squared errors over the sum of squared weights.
    pub relative_squared_error: f64,
    /// What it would have been with the largest magnitude of each group as the largest integer.
    pub relative_squared_error_of_nearest: f64,
}

/// A model whose quantising is possible and planned, before anything is written.
#[derive(Debug)]
pub struct Quantization<'a> {
    package: &'a Package,
    options: Options,
    /// The tensors of the new checkpoint, in the order in which the engine uses them, and where each comes from.
    parts: Vec<Part>,
    ignore: Vec<String>,
    threads: NonZeroUsize,
    /// Weights that a thread has in memory at once, as far as one row allows it.
    slice: usize,
}

/// A tensor of the model, and what becomes of it.
#[derive(Debug)]
struct Part {
    tensor: TensorInfo,
    /// Its linear map, if it is to be quantised.
    linear: Option<Linear>,
}

/// Weights that a thread takes at once.
const SLICE: usize = 1 << 19;
/// The same where inputs lie outside: the larger a slice, the longer its pieces of them.
const TURNED_SLICE: usize = 1 << 21;
/// As many as reading and writing want at the least.
const LEAST_SLICE: usize = 1 << 15;
/// Allowance for what is not counted one by one: thread stacks, the allocator's slack, headers.
const SLACK: u64 = 12 << 20;
/// Of each thread beside its slice.
const PER_THREAD: u64 = 512 << 10;

impl Quantization<'_> {
    /// Plans to quantise `package`. Reads its vectors, for a model that is not whole is refused here.
    ///
    /// # Errors
    /// [`Error::Quantize`], [`Error::BudgetTooSmall`], and those of [`Model::load`](crate::Model::load).
    pub fn plan(package: &Package, options: Options) -> Result<Quantization<'_>, Error> {
        let path = package.checkpoint().path();
        if package.config().get("quantization_config").is_some_and(|value| !value.is_null()) {
            return Err(QuantizeError::AlreadyQuantized { path: path.join("config.json") }.into());
        }
        if !GROUPS.contains(&options.group) {
            return Err(QuantizeError::Group { group: options.group }.into());
        }
        let decoder = package.describe()?;
        // Nothing missing, nothing left over, all shapes right.
        Bound::new(&decoder, package.checkpoint())?;
        let choice = choice::choose(package.checkpoint(), &decoder, &options)?;
        choice::check_groups(package.checkpoint(), &choice.quantized, options.group)?;
        let parts = choice::parts(package.checkpoint(), &decoder, &choice.quantized);
        let threads =
            options.threads.unwrap_or_else(|| std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN));
        let slice = slice(package.checkpoint(), &choice.quantized, &options, threads)?;
        Ok(Quantization { package, options, parts, ignore: choice.ignore, threads, slice })
    }

    /// Bytes of the model that will be read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.tensor.byte_len()).sum()
    }

    /// Writes the quantised model into the new directory `out`, which has that name only when it is whole. Until then
    /// it is `out` with `.partial` after it, which is removed if this fails.
    ///
    /// # Errors
    /// [`Error::Quantize`], [`Error::Store`], [`Error::Cancelled`], [`Error::Threads`].
    pub fn write(&self, out: &Path, watch: &Watch) -> Result<Summary, Error> {
        let staging = Staging::new(self.package, out)?;
        let copied = output::write_files(self.package, &self.quantization_config(), staging.path())?;
        let units: Vec<Vec<NewTensor>> = self.parts.iter().map(|part| self.new_tensors(part)).collect();
        let writer = CheckpointWriter::create(staging.path(), &units, self.options.shard_bytes)?;
        let bytes_after = units.iter().flatten().map(NewTensor::byte_len).sum::<Result<u64, _>>()?;
        let sums = self.write_parts(&writer, watch)?;
        let files = writer.files();
        writer.finish()?;
        if watch.cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        let replaced_leftover = staging.replaced();
        staging.publish()?;
        let mut kinds: BTreeMap<String, Sums> = BTreeMap::new();
        let mut all = Sums::default();
        for (part, sums) in self.parts.iter().zip(&sums).filter(|(part, _)| part.linear.is_some()) {
            kinds.entry(kind(part.tensor.name()).to_owned()).or_default().add(sums);
            all.add(sums);
        }
        Ok(Summary {
            bytes_before: self.bytes(),
            bytes_after,
            quantized: all.tensors,
            kept: self.parts.len() - all.tensors,
            files,
            copied,
            ignore: self.ignore.clone(),
            not_linear: self.not_linear(),
            kinds: kinds.into_iter().map(|(kind, sums)| (kind, sums.errors())).collect(),
            all: all.errors(),
            replaced_leftover,
        })
    }

    /// Kinds of quantised tensors that are stored otherwise than `nn.Linear` stores its weight.
    fn not_linear(&self) -> Vec<String> {
        let others = self.parts.iter().filter_map(|part| part.linear.as_ref());
        let others = others.filter(|linear| linear.slice.slab.is_some() || linear.layout == Layout::InOut);
        others.map(|linear| kind(&linear.weight).to_owned()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// What stands in the new checkpoint for a tensor of the model.
    fn new_tensors(&self, part: &Part) -> Vec<NewTensor> {
        let name = part.tensor.name();
        let Some(linear) = &part.linear else {
            let shape = part.tensor.shape().to_vec();
            return vec![NewTensor { name: name.to_owned(), dtype: part.tensor.dtype(), shape }];
        };
        let Linear { in_features, out_features, .. } = *linear;
        let words = in_features * self.options.bits.number() as usize / 32;
        let scales = ScaleType::of(part.tensor.dtype()).dtype();
        let new = |suffix: &str, dtype, shape: Vec<usize>| {
            let name = format!("{}.{suffix}", module(name));
            NewTensor { name, dtype, shape }
        };
        let rows = |last: usize| {
            let slabs = linear.slice.slab.map(|slab| slab.of);
            slabs.into_iter().chain([out_features, last]).collect::<Vec<_>>() // [slabs, out_features, last]
        };
        let axes = rows(0).len();
        vec![
            new("weight_packed", Dtype::I32, rows(words)),
            new("weight_scale", scales, rows(in_features / self.options.group)),
            new("weight_shape", Dtype::I64, vec![axes]),
        ]
    }

    /// The `quantization_config`, as compressed-tensors 0.20 writes it.
    fn quantization_config(&self) -> Value {
        json!({
            "config_groups": {
                "group_0": {
                    "format": "pack-quantized",
                    "input_activations": null,
                    "output_activations": null,
                    "targets": ["Linear"],
                    "weights": {
                        "dynamic": false,
                        "group_size": self.options.group,
                        "num_bits": self.options.bits.number(),
                        "strategy": "group",
                        "symmetric": true,
                        "type": "int",
                    },
                },
            },
            "format": "pack-quantized",
            "global_compression_ratio": null,
            "ignore": self.ignore,
            "kv_cache_scheme": null,
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "sparsity_config": {},
            "transform_config": {},
        })
    }
}

/// Weights that each thread may have in memory at once.
fn slice(
    checkpoint: &Checkpoint,
    quantized: &[Linear],
    options: &Options,
    threads: NonZeroUsize,
) -> Result<usize, Error> {
    let budget = budget::effective(options.memory);
    // Pages of the program that hold an embedded model.
    let statics: u64 =
        checkpoint.sources().iter().filter_map(rheostat_store::Source::as_static).map(|bytes| bytes.len() as u64).sum();
    let process = memory::resident().unwrap_or(0).max(memory::peak().unwrap_or(0)) + SLACK + statics;
    let turned = quantized.iter().any(|linear| linear.layout == Layout::InOut);
    // As f32, packed, and at the most a scale of four bytes for 32 of them; the allocator rounds up. What is turned round
    // needs a band of inputs besides, which is half of a slice at the most, since a row has 32 inputs at the least.
    const { assert!(rows::BAND * 2 <= 32) };
    let bytes = |slice: usize| slice as u64 * if turned { 8 } else { 6 };
    let widest = quantized.iter().map(|linear| linear.in_features).max().unwrap_or(1);
    let needed = |slice: usize| process + threads.get() as u64 * (PER_THREAD + bytes(slice.max(widest)));
    let mut slice = if turned { TURNED_SLICE } else { SLICE };
    while needed(slice) > budget && slice > LEAST_SLICE {
        slice /= 2;
    }
    if needed(slice) > budget {
        return Err(Error::BudgetTooSmall { budget, needed: needed(slice) });
    }
    Ok(slice.max(widest))
}

/// The module of a weight.
fn module(tensor: &str) -> &str {
    tensor.strip_suffix(".weight").unwrap_or(tensor)
}

/// What a weight is for: the last name of its module, such as `q_proj`.
fn kind(tensor: &str) -> &str {
    let module = module(tensor);
    module.rsplit('.').next().unwrap_or(module)
}
