//! Bytes on disk → slices in memory, for checkpoints larger than memory.
//!
//! [`Checkpoint`] reads headers only and says where each tensor lies; [`Plan`] decides which weights stay in
//! memory under a budget; [`Weights`] reads them, once or in every sweep, ahead of the one who computes.
//! [`Experts`] are read when they are asked for, and kept by how often that is, under a plan of their own ([`ExpertPlan`]).
//! A [`Spool`] keeps on disk for a while what memory has no room for.
//! [`CheckpointWriter`] writes what [`Checkpoint`] reads, [`SealedWriter`] single files of that form.
//! Nothing here knows what the tensors mean.

mod arena;
mod checkpoint;
mod clock;
#[cfg(target_os = "linux")]
mod depth;
mod dtype;
mod error;
mod experts;
mod feed;
pub mod memory;
mod plan;
mod probe;
mod reader;
mod ring;
mod sealed;
mod source;
mod spool;
mod stream;
#[cfg(target_os = "linux")]
mod uring;
mod writer;

pub use checkpoint::{Checkpoint, SafetensorsFile, TensorInfo};
pub use clock::{Read, Reads, Record, Recording};
pub use dtype::Dtype;
pub use error::{StoreError, StoreErrorKind};
pub use experts::{Expert, ExpertBytes, ExpertPlan, Experts, Extent, Hits};
pub use plan::{Cut, Io, MOST_PARTS, Phase, Place, Plan, Tile, TooSmall, Use};
pub use probe::{DISK_PROBE_BYTES, disk_rate};
pub use reader::Way;
pub use sealed::{SealedWriter, seal_is_intact};
pub use source::Source;
pub use spool::{SPOOL_THREADS, Spool, SpoolBuffer, SpoolPlace, spool_room, takes_files};
pub use stream::{Head, TileBytes, Weights};
pub use writer::{CheckpointWriter, NewTensor, header_bytes};
