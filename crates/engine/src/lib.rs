//! Runs Hugging Face decoder-only language models, straight from their safetensors checkpoints, inside a
//! memory budget.
//!
//! ```no_run
//! use rheostat::{Model, Options, Package, Sampler, Sampling};
//!
//! # fn main() -> Result<(), rheostat::Error> {
//! let package = Package::open("./Qwen3-8B".as_ref())?;
//! let mut model = Model::load(&package, &Options { memory: Some(4 << 30), ..Options::default() })?;
//! let prompt = [9707, 11];
//! let mut sequence = model.sequence(prompt.len());
//! let output = model.prefill(&mut sequence, &prompt)?;
//! let next = Sampler::new().next(&Sampling::default(), output.logits, &prompt)?;
//! # Ok(())
//! # }
//! ```
//!
//! The way of the data: a [`Package`] is opened, its `config.json` becomes a [`decoder::Decoder`] (a description:
//! data), a [`MemoryPlan`] says which weights stay in memory, and [`Model::forward`] walks over the description.
//! Whatever the budget, the threads, the batch or the chunks, the logits are the same bits; the contract
//! that makes it so is in [`rheostat_kernels`].

#![forbid(unsafe_code)]

mod bind;
mod budget;
mod carry;
pub mod chat;
mod config;
pub mod decoder;
mod dequantize;
pub mod diff;
mod error;
pub mod eval;
mod families;
mod fingerprint;
mod forecast;
mod forward;
mod generate;
mod generation_config;
pub mod hooks;
mod kv;
mod kv_disk;
pub mod lens;
mod model;
mod names;
mod package;
pub mod patch;
pub mod profile;
pub mod quantize;
pub mod ranking;
pub mod rope;
mod sampler;
pub mod session;
pub mod tokenizer;
pub mod trace;
pub mod validate;

pub use budget::{LogitRows, MemoryPlan};
pub use config::{ConfigError, ConfigErrorKind};
pub use dequantize::dequantize;
pub use error::Error;
pub use fingerprint::Fingerprint;
pub use forecast::{Bottleneck, Forecast, Rates, measure_disk};
pub use forward::{Compute, Input, Output, Want};
pub use generate::{DraftModel, Drafted, Finish, Progress, Request, Speculation, Text, Writer, generate};
pub use generation_config::GenerationConfig;
pub use kv::Sequence;
pub use model::{Limits, Model, Options, Reading, check_tokens, check_vocabulary, head_bytes, plan_memory};
pub use package::Package;
pub use rheostat_kernels::{Isa, KvFormat};
pub use rheostat_store::{
    Checkpoint, DISK_PROBE_BYTES, Dtype, Hits, Io, SafetensorsFile, StoreError, StoreErrorKind, TensorInfo, Way,
    header_bytes, memory,
};
pub use sampler::{Sampler, Sampling};
