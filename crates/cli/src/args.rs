//! The command line.

mod lens;
mod look;
mod quantize;
mod validate;

pub(crate) use lens::{Head, LensArgs, MetricArgs, PatchArgs, ResultArgs, SteerArgs};
pub(crate) use look::{DiffArgs, EditArgs, HooksArgs, TextArgs, TraceCommandArgs};
pub(crate) use quantize::QuantizeArgs;
pub(crate) use validate::ValidateArgs;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgGroup, Parser, Subcommand};
use rheostat::memory::parse_size;
use rheostat::{Compute, Io, Isa, KvFormat};

/// Run Hugging Face language models, from their safetensors checkpoints, inside a memory budget.
#[derive(Debug, Parser)]
#[command(name = "rheostat", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Continue a text. Without arguments the embedded model speaks.
    Generate(GenerateArgs),
    /// Talk with a model.
    Chat(ChatArgs),
    /// Write the logits of every position of a text to a safetensors file.
    Logits(LogitsArgs),
    /// Print exactly what a model would see of a conversation.
    Prompt(PromptArgs),
    /// Say what a model is, what it needs, and what is odd about it.
    Inspect(InspectArgs),
    /// Say how memory would be spent, what would stream, and how fast that should be.
    Plan(PlanArgs),
    /// Check a model's numbers against those that another program recorded.
    ///
    /// The reference is a JSON file with the model's family and sizes and some test cases, each with its text, its tokens, the ten likeliest
    /// tokens after it with their logits, and the last residual. Everything that it has must agree: facts and tokens, the order of
    /// the ten exactly, numbers within --bar. The exit code is 0 if it does, 1 if not, and 2 if FILE is no reference.
    Validate(ValidateArgs),
    /// Measure how good a model is.
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Measure how fast a model runs here, beside what the machine can do in the same run.
    Bench(BenchArgs),
    /// Say where the time goes: run a model on a prompt and some tokens, and show what every sweep over the weights
    /// spent on reading, waiting and each kind of operation, what the bottleneck is and what would help.
    Profile(ProfileCommandArgs),
    /// List the hook points of a model: the names of the tensors of its forward pass, with their shapes.
    Hooks(HooksArgs),
    /// Write values at hook points to a file, and change them: patch, ablate, scale, steer, knock out attention.
    Trace(TraceCommandArgs),
    /// Find which operation is the first that is wrong: of two runs, given that its inputs were right.
    ///
    /// A model is run again on the values that the other side recorded, so that no operation inherits another's error, and both results are held
    /// against the same operation in f64. Exits with 1 if an operation differs by more than rounding explains.
    Diff(DiffArgs),
    /// Show what the residual stream would say after each block, what adds to a logit, or patterns of attention.
    Lens(LensArgs),
    /// Show where in a model a difference between two texts comes from: activation patching over blocks and positions, or heads.
    Patch(PatchArgs),
    /// Run a text under changes at hook points, with one factor of what is added after the other.
    Steer(SteerArgs),
    /// Write a copy of a model with weights of 8 or 4 bits.
    ///
    /// The matrices of the blocks are quantised, in the form that compressed-tensors calls pack-quantized, which
    /// transformers and vLLM use: groups of weights share a scale, which is searched for. Norms, biases, the embedding table and the head stay as they are.
    /// (A quantised embedding table is not supported, nor is a head that is tied to it.) The model itself is only read.
    /// OUT has that name when it is whole; until then it is OUT.partial.
    Quantize(QuantizeArgs),
}

/// What every command that runs a model takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Resources")]
pub(crate) struct RunArgs {
    /// Memory that the process may use, such as 4GiB or 512M; "auto" is what is free now, less some headroom
    #[arg(long, value_name = "SIZE", default_value = "auto", value_parser = memory)]
    pub(crate) memory: Memory,
    /// Threads that compute; one for each core unless given
    #[arg(short = 't', long, value_name = "N", value_parser = threads)]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Numbers in which matrix products are computed: f32; bf16, which is less exact and reads prompts
    /// faster on some CPUs; amx, as exact as bf16, which reads prompts several times as fast where the CPU has AMX, and
    /// slowly elsewhere; or int8, for packed weights, which is less exact, and reads prompts and writes faster
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = compute)]
    pub(crate) compute: Compute,
    /// How the KV cache keeps keys and values: f32, or bf16 in half the memory
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = kv_cache)]
    pub(crate) kv_cache: KvFormat,
    /// Directory for a KV cache that memory has no room for: it then has a long context in little memory
    ///
    /// The last positions of a text stay in memory. The others are in a file without a name, which is gone when the program ends,
    /// however it ends.
    #[arg(long, value_name = "DIR", value_parser = directory)]
    pub(crate) kv_disk: Option<PathBuf>,
    /// How weights are read: auto; uring, by io_uring past the page cache; direct, by threads past the page cache; or buffered,
    /// by threads through it
    #[arg(long, value_name = "WAY", default_value = "auto", value_parser = io)]
    pub(crate) io: Io,
    /// Instruction set to use instead of the widest
    #[arg(long, value_name = "ISA", env = "RHEOSTAT_ISA", value_parser = isa, hide = true)]
    pub(crate) isa: Option<Isa>,
    /// Rows of a prefill pass at the most
    #[arg(long, value_name = "ROWS", value_parser = at_least_one, hide = true)]
    pub(crate) chunk: Option<NonZeroUsize>,
}

/// The value of `--memory`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Memory {
    Auto,
    Bytes(u64),
}

impl Memory {
    pub(crate) fn bytes(self) -> Option<u64> {
        match self {
            Memory::Auto => None,
            Memory::Bytes(bytes) => Some(bytes),
        }
    }
}

fn memory(text: &str) -> Result<Memory, String> {
    if text == "auto" { Ok(Memory::Auto) } else { parse_size(text).map(Memory::Bytes) }
}

fn isa(name: &str) -> Result<Isa, String> {
    Isa::by_name(name).ok_or_else(|| {
        let known: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
        format!("RHEOSTAT_ISA or --isa must name an instruction set that this CPU has: {}", known.join(", "))
    })
}

fn compute(name: &str) -> Result<Compute, String> {
    match name {
        "f32" => Ok(Compute::F32),
        "bf16" => Ok(Compute::Bf16),
        "amx" => Ok(Compute::Amx),
        "int8" => Ok(Compute::Int8),
        _ => Err("write f32, bf16, amx or int8".to_owned()),
    }
}

fn kv_cache(name: &str) -> Result<KvFormat, String> {
    match name {
        "f32" => Ok(KvFormat::F32),
        "bf16" => Ok(KvFormat::Bf16),
        _ => Err("write f32 or bf16".to_owned()),
    }
}

fn directory(path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    if path.is_dir() { Ok(path) } else { Err("give a directory that is there".to_owned()) }
}

fn io(name: &str) -> Result<Io, String> {
    match name {
        "auto" => Ok(Io::Auto),
        "uring" => Ok(Io::Uring),
        "direct" => Ok(Io::Direct),
        "buffered" => Ok(Io::Buffered),
        _ => Err("write auto, uring, direct or buffered".to_owned()),
    }
}

/// Texts at a time beyond this are a slip of the hand, too.
const MOST_TEXTS: usize = 4096;

fn texts(text: &str) -> Result<NonZeroUsize, String> {
    let texts = text.parse().ok().filter(|n: &NonZeroUsize| n.get() <= MOST_TEXTS);
    texts.ok_or_else(|| format!("write a whole number from 1 to {MOST_TEXTS}"))
}

/// Threads beyond this are a slip of the hand, and would only take memory.
const MOST_THREADS: usize = 4096;

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let threads = text.parse().ok().filter(|n: &NonZeroUsize| n.get() <= MOST_THREADS);
    threads.ok_or_else(|| format!("write a whole number from 1 to {MOST_THREADS}"))
}

fn at_least_one(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "write a whole number, 1 or more".to_owned())
}

fn at_least_two(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n >= 2).ok_or_else(|| "write a whole number, 2 or more".to_owned())
}

fn drafts(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=256).contains(n)).ok_or_else(|| "write a whole number from 1 to 256".to_owned())
}

fn whole<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "write a whole number, 0 or more".to_owned())
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "write a number, such as 0.7".to_owned())
}

fn token_id(text: &str) -> Result<u32, String> {
    text.trim().parse().map_err(|_| "write token ids as whole numbers with commas between, such as 1,2,3".to_owned())
}

fn stop(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("an empty text never ends anything; leave it out".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// How the next token is chosen: the likeliest (greedy), unless one of the first five turns sampling on, with the
/// model's own defaults for the rest.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Sampling (off unless one of these is given: the likeliest token is taken)")]
pub(crate) struct SamplingArgs {
    /// Divide the logits by this: below 1 is more sober, above 1 wilder, 0 takes the likeliest token
    #[arg(long, value_name = "T", value_parser = number, allow_negative_numbers = true)]
    pub(crate) temperature: Option<f64>,
    /// Only the K likeliest tokens; 0 is all
    #[arg(long, value_name = "K", value_parser = whole::<usize>, allow_negative_numbers = true)]
    pub(crate) top_k: Option<usize>,
    /// Only the likeliest tokens that together have probability P
    #[arg(long, value_name = "P", value_parser = number, allow_negative_numbers = true)]
    pub(crate) top_p: Option<f64>,
    /// Only tokens with at least P times the likeliest one's probability
    #[arg(long, value_name = "P", value_parser = number, allow_negative_numbers = true)]
    pub(crate) min_p: Option<f64>,
    /// Another number gives another text, the same number the same; 0 unless given
    #[arg(long, value_name = "N", value_parser = whole::<u64>, allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,
    /// Make tokens that the text already has less likely (above 1); without the others, greedy all the same
    #[arg(long, value_name = "R", value_parser = number, allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct GenerateArgs {
    /// Directory of a checkpoint, or "embedded" for the small model in this program
    pub(crate) model: Option<PathBuf>,
    /// Text to continue, or "-" to read it from standard input
    pub(crate) prompt: Option<String>,
    /// Continue every prompt of a file instead, many at a time, and write the results to --out.
    ///
    /// Each line is a JSON object with "prompt" (a text), "messages" (a conversation for the chat template) or
    /// "tokens" (ids), and possibly "id" (anything, which comes back with the result), "max_new_tokens" and "seed".
    /// Texts advance together: each sweep over the weights gives a token for all of them. A text is the same as if it
    /// were alone.
    #[arg(long, value_name = "FILE", requires = "out", conflicts_with_all = ["prompt", "json", "load_session", "save_session"])]
    pub(crate) batch: Option<PathBuf>,
    /// File for the results of --batch: a JSON object in a line for each, as each is finished.
    ///
    /// If it is there, what it has is kept, and only what is missing is done: a run that was broken off goes on.
    #[arg(long, value_name = "FILE", requires = "batch")]
    pub(crate) out: Option<PathBuf>,
    /// Texts of --batch that advance together at the most; fewer if memory does not hold more
    #[arg(long, value_name = "N", default_value = "16", value_parser = texts, requires = "batch")]
    pub(crate) parallel: NonZeroUsize,
    /// Tokens to generate at the most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 256, value_parser = whole::<usize>, allow_negative_numbers = true)]
    pub(crate) max_new_tokens: usize,
    /// End the text before this string; can be given more than once
    #[arg(long, value_name = "TEXT", value_parser = stop, allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
    /// Continue the prompt as it is, even if the model has a chat template
    #[arg(long, conflicts_with = "chat")]
    pub(crate) raw: bool,
    /// Give the prompt as a user's message, through the chat template, which the model must have
    #[arg(long)]
    pub(crate) chat: bool,
    #[command(flatten)]
    pub(crate) template: TemplateArgs,
    /// Print one JSON object instead of the text
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the text and what the model keeps of it to FILE at the end, for --load-session; with -n 0, of a prompt that is only read
    #[arg(long, value_name = "FILE")]
    pub(crate) save_session: Option<PathBuf>,
    /// Go on after the text that --save-session wrote to FILE: PROMPT, if there is any, follows it as it is
    #[arg(long, value_name = "FILE", conflicts_with = "chat")]
    pub(crate) load_session: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) speculation: SpeculationArgs,
    /// Say where the time went, after the text, as `rheostat profile` does; with --json, in the object
    #[arg(long, help_heading = "Looking closely")]
    pub(crate) profile: bool,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// What is written about a run for those who want to look closely.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Looking closely")]
pub(crate) struct TraceArgs {
    /// Write when everything happened to FILE, for ui.perfetto.dev or chrome://tracing: a track for each thread, and
    /// for reads
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Write the profile and a timeline to FILE, a page for any browser that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Memory for the events of --trace and --html, out of --memory; recording ends when it is full
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = parse_size)]
    pub(crate) trace_memory: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ProfileCommandArgs {
    /// Directory of a checkpoint, or "embedded"
    pub(crate) model: PathBuf,
    /// Text to read, as it is, or "-" to take it from standard input; tokens without meaning unless given
    pub(crate) prompt: Option<String>,
    /// Tokens without meaning to read, where there is no PROMPT
    #[arg(short = 'p', long, value_name = "N", default_value = "64", conflicts_with = "prompt", value_parser = at_least_one)]
    pub(crate) n_prompt: NonZeroUsize,
    /// Tokens to write after it
    #[arg(short = 'n', long, value_name = "N", default_value_t = 16, value_parser = whole::<usize>, allow_negative_numbers = true)]
    pub(crate) max_new_tokens: usize,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Tokens guessed ahead, which change the speed and nothing else.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Speculation (the text is the same with it and without)")]
pub(crate) struct SpeculationArgs {
    /// Guess tokens ahead: "lookup" guesses what followed when the last tokens were last in the text
    #[arg(long, value_name = "HOW", value_parser = ["lookup"])]
    pub(crate) speculate: Option<String>,
    /// Guess tokens ahead with a smaller model, which must have the same tokenizer and fit into memory as well
    #[arg(long, value_name = "MODEL", conflicts_with = "speculate")]
    pub(crate) draft: Option<PathBuf>,
    /// Tokens to guess at the most; how many are guessed depends on how often guesses are right and on what they cost
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = drafts)]
    pub(crate) draft_tokens: usize,
}

impl SpeculationArgs {
    /// Tokens to guess at the most; 0 where nothing is to be guessed.
    pub(crate) fn drafts(&self) -> usize {
        if self.speculate.is_some() || self.draft.is_some() { self.draft_tokens } else { 0 }
    }
}

/// Variables for the chat template.
#[derive(Debug, clap::Args)]
pub(crate) struct TemplateArgs {
    /// Set a variable of the chat template, such as enable_thinking=false; can be given more than once
    #[arg(long = "template-arg", value_name = "NAME=VALUE")]
    pub(crate) template_args: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ChatArgs {
    /// Directory of a checkpoint that has a chat template
    pub(crate) model: PathBuf,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "load_session")]
    pub(crate) system: Option<String>,
    /// Write the conversation and what the model keeps of it to FILE at the end, for --load-session
    #[arg(long, value_name = "FILE")]
    pub(crate) save_session: Option<PathBuf>,
    /// Go on with the conversation that --save-session wrote to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) load_session: Option<PathBuf>,
    /// Tokens of an answer at the most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1024, value_parser = whole::<usize>, allow_negative_numbers = true)]
    pub(crate) max_new_tokens: usize,
    /// Tokens of the whole conversation at the most; as many as model and memory allow unless given
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) context: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) template: TemplateArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) speculation: SpeculationArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("input").required(true).args(["tokens", "prompt"])))]
pub(crate) struct LogitsArgs {
    /// Directory of a checkpoint, or "embedded"
    pub(crate) model: PathBuf,
    /// Token ids, such as 1,2,3
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = token_id, allow_hyphen_values = true)]
    pub(crate) tokens: Vec<u32>,
    /// A text, encoded with the special tokens that the tokenizer adds
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// File to write: "logits" f32 [seq, vocab] and "final_hidden" f32 [seq, hidden], after the final norm
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Print a JSON object about what was written
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PromptArgs {
    /// Directory of a checkpoint (its weights are not read)
    pub(crate) model: PathBuf,
    /// JSON file with the list of messages, or "-" for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) messages: PathBuf,
    /// JSON file with the list of tools
    #[arg(long, value_name = "FILE")]
    pub(crate) tools: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) template: TemplateArgs,
    /// Do not open the assistant's turn
    #[arg(long)]
    pub(crate) no_generation_prompt: bool,
    /// Print a JSON object with the text and its token ids
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Directory of a checkpoint, or "embedded"
    pub(crate) model: PathBuf,
    /// Tokens of text to plan memory for; as many as model and memory allow unless given
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) context: Option<NonZeroUsize>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    /// Directory of a checkpoint, or "embedded"
    pub(crate) model: PathBuf,
    /// Tokens of a text, prompt and answer together, to plan for; as many as model and memory allow unless given
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) context: Option<NonZeroUsize>,
    /// Texts that advance together: exactly so many, where `generate --batch` takes fewer if that keeps more weights in memory
    #[arg(long, value_name = "N", default_value = "1", value_parser = texts)]
    pub(crate) batch: NonZeroUsize,
    /// Measure the disk again, even if its rate is known from the last day
    #[arg(long)]
    pub(crate) measure: bool,
    /// Also say what a model of N layers like these should do, for a checkpoint that was cut to a few of its layers
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) layers: Option<NonZeroUsize>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Directory of a checkpoint, or "embedded"
    pub(crate) model: PathBuf,
    /// Tokens to read at once; 0 leaves the test out
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512)]
    pub(crate) n_prompt: usize,
    /// Tokens to write one by one; 0 leaves the tests out
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64)]
    pub(crate) n_gen: usize,
    /// Tokens that are there before writing begins, several with commas; 0 and, if the context allows, 4096 unless
    /// given
    #[arg(short = 'd', long, value_name = "N", value_delimiter = ',')]
    pub(crate) n_depth: Option<Vec<usize>>,
    /// Texts that write at once, several with commas; the tokens of all are counted
    #[arg(short = 'b', long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = texts)]
    pub(crate) batch: Vec<NonZeroUsize>,
    /// Repetitions of each test, of which the median is given
    #[arg(short = 'r', long, value_name = "N", default_value = "5")]
    pub(crate) repetitions: NonZeroUsize,
    /// Write tokens a second time, in turn, with values of these hook points captured, to see what that costs
    #[arg(long, value_name = "NAME")]
    pub(crate) capture: Vec<String>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EvalCommand {
    /// Perplexity of a text: how well a model predicts it.
    ///
    /// The text is encoded once, without the special tokens that the tokenizer adds, and cut into windows of N tokens
    /// (the last may be shorter). Each window is read by itself, after one token: the last of the window before, or,
    /// for the first, the tokenizer's bos_token. (A tokenizer without one leaves the text's first token in its
    /// place, which is then read and not predicted.) Every token of a window is predicted from what is before it
    /// there.
    ///
    /// The loss is the mean negative log-likelihood of the predicted tokens in nats, with the log-softmax in f64;
    /// the perplexity is exp(loss). Bits per byte are the losses' sum in bits, over the bytes of UTF-8 text that was
    /// predicted: unlike the others they can be compared between models with different tokenizers.
    Ppl(PplArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct PplArgs {
    /// Directory of a checkpoint, or "embedded"
    pub(crate) model: PathBuf,
    /// File with the text, in UTF-8, or "-" for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) text: PathBuf,
    /// Tokens of a window; 1024 unless given, or the model's context if that is less
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) window: Option<NonZeroUsize>,
    /// Take the first LIMIT tokens of the text only
    #[arg(long, value_name = "LIMIT", value_parser = at_least_two, allow_negative_numbers = true)]
    pub(crate) tokens: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}
