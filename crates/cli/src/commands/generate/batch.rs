//! Many texts at a time: all advance together, so that each sweep over the weights gives a token for every one of them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use rheostat::decoder::Decoder;
use rheostat::memory::{self, format_size};
use rheostat::{
    Drafted, Error, Fingerprint, GenerationConfig, Options, Package, Progress, Request, Sampling, Text, check_tokens,
    plan_memory,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::prompt::Encoder;
use super::results::{Known, Results};
use super::words::Words;
use super::{finish_name, guesses, model_path, profile};
use crate::args::{GenerateArgs, SamplingArgs};
use crate::profile::{Looker, Run};
use crate::session::{self, Guesser};
use crate::status::Status;
use crate::{interrupt, output};

/// A line of the file of prompts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: Option<Value>,
    prompt: Option<String>,
    messages: Option<Vec<Value>>,
    tokens: Option<Vec<u32>>,
    max_new_tokens: Option<usize>,
    seed: Option<u64>,
}

/// A text that is to be written.
struct Job {
    /// Its line in the file, from 1.
    line: usize,
    id: Option<Value>,
    /// Its tokens, until it begins.
    prompt: Vec<u32>,
    request: Request,
    /// What its result depends on, in short.
    key: String,
}

impl Job {
    /// Tokens that it takes at the most.
    fn tokens(&self) -> usize {
        self.prompt.len().saturating_add(self.request.max_new_tokens)
    }
}

pub(super) fn run(args: &GenerateArgs, prompts: &Path, out: &Path) -> anyhow::Result<()> {
    let start = Instant::now();
    let package = session::open(&model_path(args))?;
    let config = package.generation_config()?;
    session::warn_unsupported(&config);
    let tokenizer = package.tokenizer()?;
    let decoder = package.describe()?;
    let encoder = Encoder::new(args, &package, &tokenizer)?;
    let model = Fingerprint::of(&package)?;
    let reader = Reader { args, encoder: &encoder, config: &config, decoder: &decoder, model };
    let jobs = reader.jobs(prompts)?;
    let (mut results, known) = Results::open(out)?;
    let all = jobs.len();
    let mut waiting = still_to_do(jobs, &known, prompts, out)?;
    let done_before = all - waiting.len();
    let failed_before = known.values().filter(|known| known.error.is_some()).count();
    if waiting.is_empty() {
        output::tell(&format!("all {all} texts are in {} already", out.display()));
        return complain(failed_before, all, out);
    }
    let looker = Looker::new(&args.trace, profile(args))?;
    let guesser = Guesser::open(&package, &args.speculation)?;
    let options = options(args, &package, &guesser, &waiting, &decoder, &looker)?;
    let (mut model, mut writer) = guesser.load(&package, &options)?;
    interrupt::listen(model.cancel_switch())?;
    let status = Status::new(model.reading_watch());
    let streamed = model.plan().streamed;
    let watch = model.reading_watch();
    let mut texts: Vec<Text> = Vec::new();
    let mut under_way: Vec<UnderWay<'_>> = Vec::new();
    let mut total = Total::default();
    let broken_off = loop {
        while let Some(job) = waiting.front()
            && texts.len() < options.sequences
            && model.has_room(&texts, job.tokens())
            && let Some(mut job) = waiting.pop_front()
        {
            let prompt = std::mem::take(&mut job.prompt);
            texts.push(Text::new(&model, model.sequence(prompt.len()), prompt, job.request.clone())?);
            under_way.push(UnderWay { words: Words::new(&tokenizer, &args.stop), failed: None, job });
        }
        if texts.is_empty() {
            break false;
        }
        let what = format!("{} of {all} texts done, {} under way", done_before + total.texts, texts.len());
        status.begin(&what, watch(), streamed);
        match writer.step(&mut model, &mut texts, |i, token| under_way[i].push(token)) {
            Ok(()) => {}
            Err(Error::Cancelled) if interrupt::happened() => break true,
            Err(error) => return Err(anyhow!(error).context(kept(out))),
        }
        for i in (0..texts.len()).rev().filter(|i| texts[*i].is_over()).collect::<Vec<_>>() {
            let (text, one) = (texts.swap_remove(i), under_way.swap_remove(i));
            total.count(&text);
            let result = one.result(&text);
            total.failed += usize::from(result.get("error").is_some());
            results.add(&result)?;
        }
    };
    results.sync()?;
    drop(status);
    let seconds = start.elapsed().as_secs_f64();
    let mut line = format!("{}, {} tokens, {:.1} tok/s", total.texts(), total.tokens, total.tokens as f64 / seconds);
    line += &guesses(total.drafted);
    line += &format!(", {:.2} GB read", model.reading().bytes as f64 * 1e-9);
    line += &memory::peak().map_or(String::new(), |peak| format!(", peak memory {}", format_size(peak)));
    if done_before > 0 {
        line += &format!(" ({done_before} more were done before)");
    }
    if broken_off {
        line += &format!("; {} left: give the same command again to go on", all - done_before - total.texts);
    }
    output::tell(&line);
    let mean = |tokens: usize| tokens / total.texts.max(1);
    let run = Run {
        name: package.name(),
        texts: options.sequences,
        prompt: mean(total.prompt_tokens),
        new: mean(total.tokens),
    };
    let report = looker.report(&mut model, &run);
    if let Some(report) = report.as_ref().filter(|_| args.profile) {
        output::tell(&format!("\n{}", report.text().trim_end()));
    }
    looker.write(&mut model, package.name(), report.as_ref())?;
    complain(failed_before + total.failed, all, out)
}

/// Fails if texts did, in this run or one before.
fn complain(failed: usize, all: usize, out: &Path) -> anyhow::Result<()> {
    match failed {
        0 => Ok(()),
        n => bail!("{n} of {all} texts could not be written; {} has an \"error\" for each", out.display()),
    }
}

/// What is said when a run ends early.
fn kept(out: &Path) -> String {
    format!("the run was broken off, with the results so far in {}", out.display())
}

/// What was done.
#[derive(Default)]
struct Total {
    texts: usize,
    failed: usize,
    tokens: usize,
    prompt_tokens: usize,
    drafted: Drafted,
}

impl Total {
    fn count(&mut self, text: &Text) {
        self.texts += 1;
        self.tokens += text.new_tokens().len();
        self.prompt_tokens += text.tokens().len() - text.new_tokens().len();
        self.drafted.drafted += text.drafted().drafted;
        self.drafted.accepted += text.drafted().accepted;
    }

    fn texts(&self) -> String {
        format!("{} text{}", self.texts, if self.texts == 1 { "" } else { "s" })
    }
}

/// A text that is being written, beside the engine's part of it.
struct UnderWay<'t> {
    job: Job,
    words: Words<'t>,
    failed: Option<String>,
}

impl UnderWay<'_> {
    fn push(&mut self, token: u32) -> Progress {
        match self.words.push(token) {
            Ok(_) if self.words.stopped() => Progress::Stop,
            Ok(_) => Progress::Continue,
            Err(error) => {
                self.failed = Some(error.to_string());
                Progress::Stop
            }
        }
    }

    /// The line of the results.
    fn result(self, text: &Text) -> Value {
        let mut result = json!({ "line": self.job.line });
        if let Some(id) = self.job.id {
            result["id"] = id;
        }
        let ended = self.words.finish();
        let failed = self.failed.or(text.error().map(ToString::to_string));
        match (failed, ended) {
            (Some(error), _) => result["error"] = json!(error),
            (None, Err(error)) => result["error"] = json!(error.to_string()),
            (None, Ok(ended)) => {
                result["text"] = json!(ended.all);
                result["tokens"] = json!(text.new_tokens());
                result["prompt_tokens"] = json!(text.tokens().len() - text.new_tokens().len());
                result["finish"] = finish_name(text.finish(), ended.stopped);
            }
        }
        result["key"] = json!(self.job.key);
        result
    }
}

/// Those of `jobs` that have no result; those that have must be the same.
fn still_to_do(
    jobs: Vec<Job>,
    known: &HashMap<usize, Known>,
    prompts: &Path,
    out: &Path,
) -> anyhow::Result<VecDeque<Job>> {
    let (prompts, out) = (session::name_of(prompts), out.display());
    let lines: HashSet<usize> = jobs.iter().map(|job| job.line).collect();
    if let Some(line) = known.keys().find(|line| !lines.contains(*line)) {
        bail!(
            "{out} has a result for line {line}, which {prompts} has not; it is of other prompts: give another --out"
        );
    }
    let differs = |job: &&Job| known.get(&job.line).is_some_and(|known| known.key != job.key);
    if let Some(job) = jobs.iter().find(differs) {
        bail!(
            "the result for line {} in {out} is of another prompt, another model or other settings; give the same as \
             before to go on, or another --out",
            job.line
        );
    }
    Ok(jobs.into_iter().filter(|job| !known.contains_key(&job.line)).collect())
}

/// Options for as many texts at once as are asked for and memory holds.
fn options(
    args: &GenerateArgs,
    package: &Package,
    guesser: &Guesser,
    jobs: &VecDeque<Job>,
    decoder: &Decoder,
    looker: &Looker,
) -> anyhow::Result<Options> {
    let mut needs: Vec<usize> = jobs.iter().map(|job| job.tokens().min(decoder.context)).collect();
    needs.sort_unstable_by(|a, b| b.cmp(a));
    let mut sequences = args.parallel.get().min(jobs.len());
    loop {
        let options = looker.options(&Options {
            context: Some(needs[..sequences].iter().sum()),
            sequences,
            ..session::options(&args.run)
        });
        let plan = guesser.options(&options).and_then(|(of_model, _)| Ok(plan_memory(package, &of_model)?));
        // Beyond half of the budget, more texts would push out more weights than they save reading.
        let fits = |p: &rheostat::MemoryPlan| p.streamed == 0 || p.kv_cache + p.activations <= p.budget / 2;
        match plan {
            Ok(plan) if sequences == 1 || fits(&plan) => return Ok(options),
            Err(error) if sequences == 1 || !is_for_want_of_room(&error) => return Err(error),
            _ => {}
        }
        sequences = sequences.div_ceil(2);
    }
}

/// Whether fewer texts at a time might do.
fn is_for_want_of_room(error: &anyhow::Error) -> bool {
    let room =
        |e: &Error| matches!(e, Error::BudgetTooSmall { .. } | Error::NotEnoughFree { .. } | Error::KvDiskRoom { .. });
    error.chain().any(|cause| cause.downcast_ref().is_some_and(room))
}

/// Reads prompts.
struct Reader<'a> {
    args: &'a GenerateArgs,
    encoder: &'a Encoder<'a>,
    config: &'a GenerationConfig,
    decoder: &'a Decoder,
    /// Which model it is.
    model: Fingerprint,
}

impl Reader<'_> {
    /// The texts of a file. Whatever is wrong with any of them is found here, before anything is computed.
    fn jobs(&self, path: &Path) -> anyhow::Result<Vec<Job>> {
        let name = session::name_of(path);
        let text = session::read_text(path)?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let jobs: Vec<Job> = lines
            .map(|(i, line)| self.job(i + 1, line).with_context(|| format!("line {} of {name}", i + 1)))
            .collect::<anyhow::Result<_>>()?;
        if jobs.is_empty() {
            bail!("{name} has no prompts; write a JSON object in each line, such as {{\"prompt\": \"Once upon\"}}");
        }
        Ok(jobs)
    }

    fn job(&self, line: usize, text: &str) -> anyhow::Result<Job> {
        let Line { id, prompt, messages, tokens, max_new_tokens, seed } = serde_json::from_str(text).map_err(|e| {
            // The column says where; the line is always 1.
            let what = e.to_string();
            anyhow!(
                "{}; write an object such as {{\"prompt\": \"Once upon\"}}",
                what.replace(" at line 1 column", ", column")
            )
        })?;
        let prompt = match (prompt, messages, tokens) {
            (Some(prompt), None, None) => self.encoder.text(&prompt)?,
            (None, Some(messages), None) => self.encoder.messages(&messages)?,
            (None, None, Some(tokens)) => tokens,
            _ => bail!("write one of \"prompt\", \"messages\" and \"tokens\""),
        };
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt.into());
        }
        check_tokens(self.decoder, &prompt, 0)?;
        let own = SamplingArgs { seed: seed.or(self.args.sampling.seed), ..self.args.sampling.clone() };
        let sampling = session::sampling(&own, self.config);
        session::check_sampling(&sampling, &own)?;
        let max_new_tokens = max_new_tokens.unwrap_or(self.args.max_new_tokens);
        let request = Request { max_new_tokens, eos: self.config.eos.clone(), sampling };
        let key = self.key(&prompt, &request);
        Ok(Job { line, id, prompt, request, key })
    }

    /// What the result of a prompt depends on.
    fn key(&self, prompt: &[u32], request: &Request) -> String {
        let Request { max_new_tokens, eos, sampling } = request;
        let Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed } = sampling;
        let run = &self.args.run;
        let what = json!([
            prompt,
            [max_new_tokens, top_k],
            eos,
            [temperature, top_p, min_p, repetition_penalty],
            seed,
            self.args.stop,
            [run.compute.name(), run.kv_cache.name()],
        ]);
        let mut key = self.model;
        key.add(what.to_string().as_bytes());
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_one_thing() {
        for (text, good) in [
            (r#"{"prompt": "a"}"#, true),
            (r#"{"id": 7, "prompt": "a", "max_new_tokens": 3, "seed": 1}"#, true),
            (r#"{"promt": "a"}"#, false),
            (r#"{"prompt": 3}"#, false),
            (r#"["a"]"#, false),
        ] {
            assert_eq!(serde_json::from_str::<Line>(text).is_ok(), good, "{text}");
        }
    }
}
