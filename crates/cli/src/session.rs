//! What several commands share: opening a model, its sampling, its chat template.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use rheostat::chat::{ChatTemplates, parse_argument};
use rheostat::memory::{self, format_size};
use rheostat::{GenerationConfig, Model, Options, Package, Sampling};
use serde_json::{Map, Value};

use crate::args::{RunArgs, SamplingArgs, TemplateArgs};

/// The name of the model that is part of the program.
pub(crate) const EMBEDDED: &str = "embedded";

/// Opens MODEL.
pub(crate) fn open(model: &Path) -> anyhow::Result<Package> {
    let package = if model == Path::new(EMBEDDED) { Package::embedded() } else { Package::open(model) };
    package.map_err(|error| {
        // A hub id looks like a path that is not there.
        let text = model.to_string_lossy();
        let hub_like = !model.exists() && text.split('/').count() == 2 && !text.starts_with('.');
        let error = anyhow::Error::from(error);
        if hub_like { error.context(format!("{text} is no directory; download the checkpoint first")) } else { error }
    })
}

/// Options that follow from the command line.
pub(crate) fn options(run: &RunArgs) -> Options {
    Options {
        memory: run.memory.bytes(),
        threads: run.threads,
        isa: run.isa,
        chunk: run.chunk.map(std::num::NonZeroUsize::get),
        ..Options::default()
    }
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
        eprintln!("note: generation_config.json sets {key}, which is not supported; generation goes on without it");
    }
}

/// The variables that `--template-arg` sets.
pub(crate) fn template_args(args: &TemplateArgs) -> anyhow::Result<Map<String, Value>> {
    args.template_args
        .iter()
        .map(|text| {
            parse_argument(text).with_context(|| {
                format!("--template-arg {text}: write a name and a value, such as enable_thinking=false")
            })
        })
        .collect()
}

/// The model's chat templates, which it must have.
pub(crate) fn chat_templates(package: &Package) -> anyhow::Result<ChatTemplates> {
    match package.chat_templates()? {
        Some(templates) => Ok(templates),
        None => bail!("{} has no chat template; use `rheostat generate --raw` to continue plain text", package.name()),
    }
}

/// Reads a whole file, or standard input for `-`.
pub(crate) fn read_text(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("standard input cannot be read as text")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("{} cannot be read as text", path.display()))
}

/// Reads a JSON file that holds a list.
pub(crate) fn read_list(path: &Path) -> anyhow::Result<Vec<Value>> {
    let text = read_text(path)?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    match value {
        Value::Array(list) => Ok(list),
        _ => bail!("{} holds no JSON list; write one, such as [{{\"role\": \"user\", …}}]", path.display()),
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
    pub(crate) fn new(model: &Model, new_tokens: usize, first: Option<f64>, total: f64) -> Cost {
        let decode = first.map(|first| (new_tokens.saturating_sub(1), total - first)).filter(|(n, _)| *n > 0);
        Cost {
            new_tokens,
            tokens_per_second: decode.map(|(n, seconds)| n as f64 / seconds.max(1e-9)),
            seconds_to_first_token: first,
            bytes_read: model.reading().bytes,
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
