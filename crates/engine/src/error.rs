//! What can go wrong, in one place: each variant says what, where, and what to do.

use std::path::PathBuf;

use rheostat_store::StoreError;
use rheostat_store::memory::format_size;

use crate::config::ConfigError;

/// The error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint's files cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `config.json` cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] crate::tokenizer::TokenizerError),
    /// The chat template cannot be used.
    #[error(transparent)]
    Chat(#[from] crate::chat::ChatError),
    /// The model cannot be quantised.
    #[error(transparent)]
    Quantize(#[from] crate::quantize::QuantizeError),
    /// A session cannot be used, or not be written.
    #[error(transparent)]
    Session(#[from] crate::session::SessionError),
    /// A trace cannot be used.
    #[error(transparent)]
    Trace(#[from] crate::diff::TraceError),
    /// A reference cannot be used.
    #[error(transparent)]
    Reference(#[from] crate::validate::ReferenceError),
    /// [`Compute::Int8`](crate::Compute::Int8) for a model without packed weights.
    #[error(
        "computing in int8 is for packed int8 or int4 weights, and this model has none; quantize it, or compute in f32 or bf16"
    )]
    NothingPacked,
    /// [`Compute::Amx`](crate::Compute::Amx) for a matrix with so many inputs.
    #[error(
        "computing in amx is for matrices of at most {most} inputs, and this model has one of {cols}; compute in f32 or bf16",
        most = rheostat_kernels::Tiled::MOST_COLS
    )]
    RowsTooLong {
        /// Its inputs.
        cols: usize,
    },
    /// A file beside the weights cannot be read.
    #[error("{}: {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The checkpoint lacks a tensor that the configuration asks for.
    #[error("{}: the tensor \"{tensor}\" that config.json asks for is missing; the checkpoint is incomplete or of another model", path.display())]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The checkpoint has a tensor that the model has no place for.
    #[error("{}: the model has no place for the tensor \"{tensor}\" {shape:?}; config.json describes another model, or one that is not fully supported", path.display())]
    UnexpectedTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{}: the tensor \"{tensor}\" is {found:?}, but config.json asks for {expected:?}; the two are not of one model", path.display())]
    WrongShape {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// A tensor has another element type than its place asks for.
    #[error("{}: the tensor \"{tensor}\" is of {found}, but must be of {expected}; save the model again", path.display())]
    WrongDtype {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: &'static str,
        /// The type that it must have.
        expected: &'static str,
    },
    /// A packed matrix says that it has another shape.
    #[error("{}: the tensor \"{tensor}\" says {found:?}, but config.json asks for {expected:?}; the two are not of one model", path.display())]
    WrongPackedShape {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape that it holds.
        found: Vec<i64>,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// Experts of one layer that are not stored alike.
    #[error("{}: \"{tensor}\" is not stored in the form of \"{other}\", though both belong to experts of one layer; experts of a layer must be alike", path.display())]
    UnlikeExperts {
        /// The checkpoint.
        path: PathBuf,
        /// A tensor of one expert.
        tensor: String,
        /// The tensor of another that it differs from.
        other: String,
    },
    /// A key to set within an object of the configuration that is not there.
    #[error("\"{key}\" cannot be set: config.json has no object \"{part}\"")]
    NoSuchObject {
        /// What was to be set.
        key: String,
        /// What is no object.
        part: String,
    },
    /// A pattern of hook points that matches none.
    #[error("no hook point of this model matches \"{pattern}\"; the nearest are {}; `rheostat hooks` lists all", nearest.join(", "))]
    NoSuchPoint {
        /// What was asked for.
        pattern: String,
        /// Names that are most like it.
        nearest: Vec<String>,
    },
    /// Hooks at a point that no room was planned for.
    #[error("no room was planned for the hook point \"{point}\"; name it in Options::hooks")]
    PointNotPlanned {
        /// The point, without its block.
        point: crate::hooks::Point,
    },
    /// A change at a point whose values nothing is computed from.
    #[error("values at the hook point \"{point}\" can be read, but not changed; change what they come from")]
    PointReadOnly {
        /// The point, without its block.
        point: crate::hooks::Point,
    },
    /// A change of a head that is not there.
    #[error("{name} has no head {head}: it has {heads}, counted from 0")]
    NoSuchHead {
        /// The point.
        name: String,
        /// What was asked for.
        head: usize,
        /// Heads that there are.
        heads: usize,
    },
    /// Values that were to be put at a point, and are not there for a row.
    #[error("there are no values for position {position} to put at {name}; say which positions they are for")]
    NoValues {
        /// The point.
        name: String,
        /// The row.
        position: usize,
    },
    /// Values that were to be put at a point, and are too many or too few.
    #[error(
        "the values to put at {name} have {values} elements for a row, which has {expected}; are they of another model?"
    )]
    ValuesOfOtherShape {
        /// The point.
        name: String,
        /// Elements for a row.
        values: usize,
        /// Elements of a row.
        expected: usize,
    },
    /// What was captured could not be written, or put together.
    #[error("what was captured cannot be written; check the directory and the room on its disk")]
    Capture(#[source] std::io::Error),
    /// Scores of attention over a cache on disk.
    #[error(
        "scores and patterns of attention can be seen only with the KV cache in memory; leave out --kv-disk, or these hook points"
    )]
    ScoresOnDisk,
    /// A quantised tensor of which only a part would be used.
    #[error("{}: the tensor \"{tensor}\" holds several matrices together, and in this quantised form they cannot be taken apart; use another form of the model", path.display())]
    CannotBeCut {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor that says to which groups inputs belong names some that do not exist.
    #[error("{}: the tensor \"{tensor}\" names groups beyond the {groups} that there are; the file is damaged, download it again", path.display())]
    GroupOutOfRange {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// How many groups there are.
        groups: usize,
    },
    /// A quantised matrix of a shape that its form cannot have.
    #[error("{}: \"{tensor}\" is a matrix of {rows} rows of {cols} elements, which does not go with the sizes of groups and blocks that quantization_config asks for", path.display())]
    UnfitForm {
        /// The checkpoint.
        path: PathBuf,
        /// Its first tensor.
        tensor: String,
        /// Outputs.
        rows: usize,
        /// Inputs.
        cols: usize,
    },
    /// The groups of a packed matrix are not whole.
    #[error("{}: rows of {cols} elements of \"{tensor}\" cannot be cut into groups of {group}, as quantization_config asks; quantise the model again with a group_size that divides {cols}", path.display())]
    GroupDoesNotDivide {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Elements of a row.
        cols: usize,
        /// Elements of a group.
        group: usize,
    },
    /// The budget cannot work. The one that is named has 2 MiB of room, since a process takes a little more in one
    /// run than in another.
    #[error("a memory budget of {} is too small for this model; the smallest that works here is {} MiB", format_size(*budget), needed.div_ceil(1 << 20) + 2)]
    BudgetTooSmall {
        /// What was given, in bytes.
        budget: u64,
        /// The smallest that works, in bytes.
        needed: u64,
    },
    /// What is free now cannot work.
    #[error("only {} of memory are free for this process, and the smallest budget that works for this model here is {} MiB; close other programs, or choose a smaller model", format_size(*free), needed.div_ceil(1 << 20) + 2)]
    NotEnoughFree {
        /// What is free, in bytes.
        free: u64,
        /// The smallest that works, in bytes.
        needed: u64,
    },
    /// A prompt without tokens.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// A token that the model does not have.
    #[error("token {token} at position {position} is out of range; the model's vocabulary has {vocab_size} tokens, 0 to {}", vocab_size - 1)]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Its place in the input.
        position: usize,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// More tokens than the model is made for.
    #[error("{tokens} tokens do not fit the model's context of {context}; shorten the text")]
    ContextExceeded {
        /// Tokens asked for.
        tokens: usize,
        /// The model's context.
        context: usize,
    },
    /// More tokens than memory was planned for.
    #[error(
        "{tokens} tokens exceed the {planned} that the memory plan reserved a KV cache for; reserve more with a longer context"
    )]
    CacheFull {
        /// Tokens asked for.
        tokens: usize,
        /// Tokens planned.
        planned: usize,
    },
    /// More sequences at once than memory was planned for, with a cache on disk.
    #[error(
        "more than {planned} text{} at once, but memory for the end of each was planned for no more; plan for more sequences",
        if *planned == 1 { "" } else { "s" }
    )]
    TooManySequences {
        /// Sequences planned.
        planned: usize,
    },
    /// The KV cache of the promised context has no room on disk.
    #[error(
        "{}: the KV cache of {tokens} tokens takes {} here, and there is room for {}; give another directory, or a shorter context",
        dir.display(), format_size(*needed), format_size(*room)
    )]
    KvDiskRoom {
        /// The directory.
        dir: PathBuf,
        /// Tokens that the cache is to hold.
        tokens: usize,
        /// Bytes that they take.
        needed: u64,
        /// Bytes that are free.
        room: u64,
    },
    /// More rows in one pass than its buffers hold.
    #[error("{rows} rows in one pass, but memory was planned for {max_rows}; feed the prompt in chunks")]
    TooManyRows {
        /// Rows asked for.
        rows: usize,
        /// Rows planned.
        max_rows: usize,
    },
    /// Texts of different lengths, where one is to take values of the other.
    #[error(
        "the clean text has {clean} tokens and the corrupted one {corrupted}, but values are put in position by position, so that both must have as many; choose other words"
    )]
    PatchLengths {
        /// Tokens of the clean text.
        clean: usize,
        /// Tokens of the corrupted text.
        corrupted: usize,
    },
    /// Texts that are the same, where one is to take values of the other.
    #[error(
        "the clean and the corrupted text are the same tokens, so that there is nothing to put in; let them differ"
    )]
    PatchNothing,
    /// Patching at a point where there are not all positions.
    #[error(
        "the hook point \"{point}\" comes after the blocks, where it is too late to put anything in; choose one within a block"
    )]
    PatchAfterBlocks {
        /// The point, without its block.
        point: crate::hooks::Point,
    },
    /// Patching head by head at a point without heads.
    #[error("the hook point \"{name}\" has no heads; choose one that has, such as attn.hook_z")]
    PatchNoHeads {
        /// The point.
        name: String,
    },
    /// Values that are no rows of the residual stream.
    #[error("{elements} values are no rows of the residual stream, which have {hidden} each")]
    NoResidual {
        /// Values given.
        elements: usize,
        /// Values of a row.
        hidden: usize,
    },
    /// A sequence that another model made.
    #[error("the sequence was made by another model; a sequence can only be used with the model that made it")]
    ForeignSequence,
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
    /// A logit is not a number.
    #[error(
        "the model computed a logit that is not a finite number; its weights are damaged (download them again), or its numbers overflow"
    )]
    NotFinite,
    /// A sampling parameter that makes no sense.
    #[error("{name} is {value}, but must be {expected}")]
    Sampling {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it must be.
        expected: &'static str,
    },
    /// Threads cannot be started.
    #[error("the system refuses to start a thread")]
    Threads(#[source] std::io::Error),
}
