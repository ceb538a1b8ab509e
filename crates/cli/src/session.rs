//! What several commands share: opening a model, its sampling, its chat template.

use std::collections::BTreeMap;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow, bail};
use rheostat::chat::{ChatTemplates, Clock, GenerationPrompt, RenderRequest, parse_argument};
use rheostat::decoder::Decoder;
use rheostat::diff::hash::hashes;
use rheostat::memory::{self, format_size};
use rheostat::session::Session;
use rheostat::tokenizer::{AddSpecial, Tokenizer};
use rheostat::{
    Compute, DraftModel, Error, GenerationConfig, LogitRows, Model, Options, Package, Sampling, Sequence, Speculation,
    Writer, plan_memory,
};
use serde_json::{Map, Value};

use crate::args::{RunArgs, SamplingArgs, SpeculationArgs, TemplateArgs};
use crate::status::Status;
use crate::{interrupt, output};

/// The name of the model that is part of the program.
pub(crate) const EMBEDDED: &str = "embedded";
/// The name of standard input where a file or a text is wanted.
pub(crate) const STDIN: &str = "-";

/// Opens MODEL.
pub(crate) fn open(model: &Path) -> anyhow::Result<Package> {
    if model == Path::new(EMBEDDED) {
        return Ok(Package::embedded()?);
    }
    if let Some(id) = hub_id(model) {
        let name = id.rsplit('/').next().unwrap_or(id);
        bail!(
            "there is no directory {id}; if this is the name of a model on the Hugging Face Hub, download it \
             (hf download {id} --local-dir {name}) and give the directory"
        );
    }
    Ok(Package::open(model)?)
}

/// `model` if it is not there and has the form of a name on the hub, as `Qwen/Qwen3-8B`.
fn hub_id(model: &Path) -> Option<&str> {
    let text = model.to_str()?;
    let (owner, name) = text.split_once('/')?;
    let word = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    (word(owner) && word(name) && !Path::new(owner).exists()).then_some(text)
}

/// The tokens of a text: of `prompt`, encoded with the special tokens that the tokenizer adds, or else `tokens`.
pub(crate) fn text(package: &Package, prompt: Option<&str>, tokens: &[u32]) -> anyhow::Result<Vec<u32>> {
    let tokens = match prompt {
        Some(text) => package.tokenizer()?.encode(text, AddSpecial::Add)?,
        None => tokens.to_vec(),
    };
    if tokens.is_empty() {
        return Err(Error::EmptyPrompt.into());
    }
    Ok(tokens)
}

/// Options that follow from the command line.
pub(crate) fn options(run: &RunArgs) -> Options {
    Options {
        memory: run.memory.bytes(),
        threads: run.threads,
        isa: run.isa,
        chunk: run.chunk.map(NonZeroUsize::get),
        compute: run.compute,
        kv: run.kv_cache,
        kv_disk: run.kv_disk.clone(),
        io: run.io,
        ..Options::default()
    }
}

/// Opens the session of --load-session, and sees whether --save-session can write.
pub(crate) fn sessions(
    load: Option<&Path>,
    save: Option<&Path>,
    package: &Package,
    run: &RunArgs,
) -> anyhow::Result<Option<Session>> {
    save.map(rheostat::session::check_place).transpose()?;
    Ok(load.map(|path| Session::open(path, package, run.compute, run.kv_cache)).transpose()?)
}

/// Rolls the `sequence` of a loaded session back to `len` tokens. Says so where that means to read the text again, since states
/// belong to the session's end.
pub(crate) fn go_back(sequence: &mut Sequence, len: usize) {
    let read = sequence.len();
    sequence.truncate(len);
    if sequence.len() < len.min(read) {
        output::tell(&format!(
            "note: the text follows the session only up to token {len} of {read}, and this model carries states, which cannot \
             go back; it is read again from its beginning"
        ));
    }
}

/// Checks `sampling`, with errors in which the user finds the place to correct.
pub(crate) fn check_sampling(sampling: &Sampling, args: &SamplingArgs) -> anyhow::Result<()> {
    sampling.check().map_err(|error| {
        let Error::Sampling { name, value, expected } = error else { return error.into() };
        let given = match name {
            "temperature" => args.temperature,
            "top_p" => args.top_p,
            "min_p" => args.min_p,
            _ => args.repetition_penalty,
        };
        let flag = format!("--{}", name.replace('_', "-"));
        match given {
            Some(_) => anyhow!("{flag} is {value}, but must be {expected}"),
            None => anyhow!(
                "{name} is {value} in the model's generation settings, but must be {expected}; correct \
                 generation_config.json or give {flag}"
            ),
        }
    })
}

/// What guesses ahead.
pub(crate) struct Guesser {
    /// Tokens to guess at the most.
    drafts: usize,
    /// The draft model, and where it is.
    draft: Option<(Package, PathBuf)>,
}

impl Guesser {
    /// What `args` ask for, for the model of `package`.
    pub(crate) fn open(package: &Package, args: &SpeculationArgs) -> anyhow::Result<Guesser> {
        let Some(path) = &args.draft else { return Ok(Guesser { drafts: args.drafts(), draft: None }) };
        let draft = open(path)?;
        require_same_tokens(&package.tokenizer()?, &draft.tokenizer()?, path)?;
        Ok(Guesser { drafts: args.drafts(), draft: Some((draft, path.clone())) })
    }

    /// Options of the model, and of the draft model, so that both share the budget of `options`.
    pub(crate) fn options(&self, options: &Options) -> anyhow::Result<(Options, Option<Options>)> {
        // Guesses are checked by all of their logits.
        let logits = if self.drafts > 0 && options.logits == LogitRows::Top { LogitRows::Last } else { options.logits };
        let mut of_model = Options { drafts: self.drafts, logits, ..options.clone() };
        let Some((draft, path)) = &self.draft else { return Ok((of_model, None)) };
        let decoder = draft.describe()?;
        let context = options.context.map(|tokens| tokens.min(decoder.context.saturating_mul(options.sequences)));
        // The integer mode is for packed weights, which the draft model need not have.
        let compute = if options.compute == Compute::Int8 { Compute::F32 } else { options.compute };
        let of_draft = Options { context, compute, drafts: 0, kv_disk: None, trace: None, ..options.clone() };
        let plan = plan_memory(draft, &of_draft).with_context(|| format!("the draft model {}", path.display()))?;
        if plan.streamed > 0 {
            bail!(
                "{} does not fit into {} beside everything else, and a draft model must stay in memory; give more \
                 --memory, or a smaller draft model",
                path.display(),
                format_size(plan.budget)
            );
        }
        of_model.reserve += plan.model();
        // As it was planned, whatever is free by then.
        let (context, chunk) = (Some(plan.tokens), Some(plan.rows));
        Ok((of_model, Some(Options { context, chunk, weights: Some(u64::MAX / 2), ..of_draft })))
    }

    /// Loads the model of `package`, and what guesses ahead for it.
    pub(crate) fn load(&self, package: &Package, options: &Options) -> anyhow::Result<(Model, Writer)> {
        let (of_model, of_draft) = self.options(options)?;
        let model = Model::load(package, &of_model)?;
        let speculation = match (&self.draft, of_draft) {
            (Some((draft, _)), Some(options)) => {
                Speculation::Model(Box::new(DraftModel::new(Model::load(draft, &options)?)))
            }
            _ if self.drafts > 0 => Speculation::Lookup,
            _ => Speculation::Off,
        };
        Ok((model, Writer::new(speculation)))
    }
}

/// Whether every token of one tokenizer is the same in the other, as far as both go.
fn require_same_tokens(tokenizer: &Tokenizer, draft: &Tokenizer, path: &Path) -> anyhow::Result<()> {
    let both = tokenizer.vocab_size().min(draft.vocab_size()) as u32;
    if let Some(id) = (0..both).find(|id| tokenizer.token(*id) != draft.token(*id)) {
        let word = |tokenizer: &Tokenizer| tokenizer.token(id).unwrap_or_default();
        bail!(
            "{} has other tokens than the model (token {id} is {:?} there and {:?} here); a draft model must have the same tokenizer",
            path.display(),
            word(draft),
            word(tokenizer)
        );
    }
    Ok(())
}

/// How to sample: greedy unless a flag asks for more, and then by the model's own defaults where no flag speaks.
pub(crate) fn sampling(args: &SamplingArgs, config: &GenerationConfig) -> Sampling {
    let asked = args.temperature.is_some()
        || args.top_k.is_some()
        || args.top_p.is_some()
        || args.min_p.is_some()
        || args.seed.is_some();
    let repetition_penalty = args.repetition_penalty.or(config.repetition_penalty).unwrap_or(1.0);
    if !asked {
        return Sampling { repetition_penalty, ..Sampling::default() };
    }
    Sampling {
        temperature: args.temperature.or(config.temperature).unwrap_or(1.0),
        top_k: args.top_k.or(config.top_k).unwrap_or(0),
        top_p: args.top_p.or(config.top_p).unwrap_or(1.0),
        min_p: args.min_p.or(config.min_p).unwrap_or(0.0),
        repetition_penalty,
        seed: args.seed.unwrap_or(0),
    }
}

/// Says what of the model's generation settings is not followed.
pub(crate) fn warn_unsupported(config: &GenerationConfig) {
    for key in &config.unsupported {
        output::tell(&format!(
            "note: generation_config.json sets {key}, which is not supported; generation goes on without it"
        ));
    }
}

/// The variables that `--template-arg` sets.
pub(crate) fn template_args(args: &TemplateArgs) -> anyhow::Result<Map<String, Value>> {
    let mut map = Map::new();
    for text in &args.template_args {
        let (name, value) = parse_argument(text).with_context(|| {
            format!("--template-arg {text}: write a name and a value, such as enable_thinking=false")
        })?;
        if map.insert(name.clone(), value).is_some() {
            bail!("--template-arg sets {name} more than once; give it one value");
        }
    }
    Ok(map)
}

/// The model's chat templates, which it must have.
pub(crate) fn chat_templates(package: &Package) -> anyhow::Result<ChatTemplates> {
    match package.chat_templates()? {
        Some(templates) => Ok(templates),
        None => bail!(
            "{} has no chat template; it is made to continue plain text, which `rheostat generate` does",
            package.name()
        ),
    }
}

/// Options under which as many texts, up to `most`, share a pass as memory has room for. `options` are those for so many.
pub(crate) fn together(package: &Package, most: usize, options: impl Fn(usize) -> Options) -> anyhow::Result<Options> {
    let mut texts = most.max(1);
    loop {
        let tried = options(texts);
        match plan_memory(package, &tried) {
            Err(Error::BudgetTooSmall { .. } | Error::NotEnoughFree { .. } | Error::KvDiskRoom { .. }) if texts > 1 => {
                texts /= 2;
            }
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(tried),
        }
    }
}

/// `n` tokens without meaning, the same in every run.
pub(crate) fn meaningless(decoder: &Decoder, n: usize) -> Vec<u32> {
    let vocab = decoder.vocab_size as u64;
    (0..n as u64).map(|i| ((i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % vocab) as u32).collect()
}

/// The tokens of a conversation that waits for an answer, through a chat template.
pub(crate) fn conversation(
    templates: &ChatTemplates,
    args: &Map<String, Value>,
    tokenizer: &Tokenizer,
    messages: &[Value],
) -> anyhow::Result<Vec<u32>> {
    let text = templates.render(&RenderRequest {
        messages,
        tools: None,
        documents: None,
        args,
        generation_prompt: GenerationPrompt::Add,
        clock: Clock::Local,
    })?;
    Ok(tokenizer.encode(&text, AddSpecial::Omit)?)
}

/// Reads a whole file, or standard input for `-`.
pub(crate) fn read_text(path: &Path) -> anyhow::Result<String> {
    let name = name_of(path);
    let bytes = if path == Path::new(STDIN) {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    let bytes = bytes.with_context(|| format!("{name} cannot be read; check that it is a file that you may read"))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow!("{name} is not text in UTF-8 (byte {at} is not); convert it first")
    })
}

/// A file's name for messages.
pub(crate) fn name_of(path: &Path) -> String {
    if path == Path::new(STDIN) { "standard input".to_owned() } else { path.display().to_string() }
}

/// Reads a JSON file that holds a list, such as `example`.
pub(crate) fn read_list(path: &Path, example: &str) -> anyhow::Result<Vec<Value>> {
    let text = read_text(path)?;
    match serde_json::from_str(&text) {
        Ok(Value::Array(list)) => Ok(list),
        Ok(_) => bail!("{} is no JSON list; write one, such as {example}", name_of(path)),
        Err(error) => bail!("{} is not JSON ({error}); write a list, such as {example}", name_of(path)),
    }
}

/// The context to plan for, which cannot be longer than the model's.
pub(crate) fn context(asked: Option<NonZeroUsize>, decoder: &Decoder) -> anyhow::Result<Option<usize>> {
    match asked.map(NonZeroUsize::get) {
        Some(n) if n > decoder.context => {
            bail!("--context {n} is more than the model's context of {} tokens; give at most that", decoder.context)
        }
        context => Ok(context),
    }
}

/// What a run cost.
#[derive(serde::Serialize)]
pub(crate) struct Cost {
    pub(crate) new_tokens: usize,
    /// Of all new tokens after the first.
    pub(crate) tokens_per_second: Option<f64>,
    pub(crate) seconds_to_first_token: Option<f64>,
    pub(crate) bytes_read: u64,
    pub(crate) peak_memory_bytes: Option<u64>,
}

impl Cost {
    /// `read` bytes were read before.
    pub(crate) fn new(model: &Model, read: u64, new_tokens: usize, first: Option<f64>, total: f64) -> Cost {
        let decode = first.map(|first| (new_tokens.saturating_sub(1), total - first)).filter(|(n, _)| *n > 0);
        Cost {
            new_tokens,
            tokens_per_second: decode.map(|(n, seconds)| n as f64 / seconds.max(1e-9)),
            seconds_to_first_token: first,
            bytes_read: model.reading().bytes - read,
            peak_memory_bytes: memory::peak(),
        }
    }

    /// The line on standard error.
    pub(crate) fn line(&self) -> String {
        let mut parts = vec![format!("{} token{}", self.new_tokens, if self.new_tokens == 1 { "" } else { "s" })];
        parts.extend(self.tokens_per_second.map(|rate| format!("{rate:.1} tok/s")));
        parts.extend(self.seconds_to_first_token.map(|s| format!("first token after {s:.2} s")));
        parts.push(format!("{:.2} GB read", self.bytes_read as f64 * 1e-9));
        parts.extend(self.peak_memory_bytes.map(|peak| format!("peak memory {}", format_size(peak))));
        parts.join(", ")
    }
}

/// Hashes of all tensors, by name.
pub(crate) fn hash(package: &Package, what: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let done = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&done);
    let status = Status::new(move || seen.load(Ordering::Relaxed));
    status.begin(what, 0, package.checkpoint().total_bytes());
    let hashes = hashes(package.checkpoint(), |bytes| {
        done.store(bytes, Ordering::Relaxed);
        !interrupt::happened()
    });
    Ok(hashes?)
}
