//! `rheostat eval ppl`: how well a model predicts a text.

use std::f64::consts::LN_2;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::bail;
use rheostat::decoder::Decoder;
use rheostat::eval::{Score, score};
use rheostat::memory::{self, format_size};
use rheostat::tokenizer::AddSpecial;
use rheostat::{LogitRows, Model, Options, Package, check_vocabulary};
use serde_json::{Value, json};

use crate::args::PplArgs;
use crate::status::Status;
use crate::{interrupt, output, session};

/// Tokens of a window, unless the model's context is less.
const WINDOW: NonZeroUsize = NonZeroUsize::new(1024).expect("it is not 0");

pub(crate) fn run(args: &PplArgs) -> anyhow::Result<()> {
    let package = session::open(&args.model)?;
    let decoder = package.describe()?;
    let window = window(args, &decoder)?;
    let text = Text::read(args, &package)?;
    check_vocabulary(&decoder, &text.ids, 0)?;
    let predicted = text.ids.len() - 1;
    let longest = predicted.min(window.get());
    let options = Options { context: Some(longest), logits: LogitRows::All, ..session::options(&args.run) };
    let mut model = Model::load(&package, &options)?;
    interrupt::listen(model.cancel_switch())?;
    let done = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&done);
    let status = Status::counting(move || count.load(Ordering::Relaxed), |n| n.to_string());
    status.begin("predicting tokens", 0, predicted as u64);
    let start = Instant::now();
    let score = score(&mut model, &text.ids, window, |so_far| done.store(so_far.tokens as u64, Ordering::Relaxed))?;
    drop(status);
    let report =
        Report { args, package: &package, model: &model, text, window, score, seconds: start.elapsed().as_secs_f64() };
    if args.json {
        return output::print_json(&report.object());
    }
    output::print(&report.table())?;
    output::tell(&report.cost());
    Ok(())
}

/// The size of a window, which the model's context must hold.
fn window(args: &PplArgs, decoder: &Decoder) -> anyhow::Result<NonZeroUsize> {
    let context = decoder.context;
    match args.window {
        Some(window) if window.get() > context => {
            bail!("--window {window} is more than the model's context of {context} tokens; give at most that")
        }
        Some(window) => Ok(window),
        None => Ok(NonZeroUsize::new(context).map_or(WINDOW, |context| context.min(WINDOW))),
    }
}

/// What is read and predicted.
struct Text {
    /// At least two, of which the first is only read.
    ids: Vec<u32>,
    /// Whether that is the tokenizer's, not the text's.
    bos: bool,
    /// Tokens of the text.
    tokens: usize,
    /// Bytes of the text that is predicted.
    bytes: usize,
}

impl Text {
    fn read(args: &PplArgs, package: &Package) -> anyhow::Result<Text> {
        let name = session::name_of(&args.text);
        let text = session::read_text(&args.text)?;
        if text.is_empty() {
            bail!("{name} is empty; give a text to predict");
        }
        let tokenizer = package.tokenizer()?;
        let (mut ids, ends) = tokenizer.encode_with_ends(&text, AddSpecial::Omit)?;
        if ids.len() < 2 {
            bail!("{name} has fewer than two tokens; give a longer text");
        }
        let end = match args.tokens {
            Some(limit) if limit < ids.len() => {
                ids.truncate(limit);
                ends[limit - 1]
            }
            _ => text.len(),
        };
        let (tokens, bos) = (ids.len(), tokenizer.special_id("bos_token"));
        let start = match bos {
            Some(bos) => {
                ids.insert(0, bos);
                0
            }
            None => ends[0],
        };
        Ok(Text { ids, bos: bos.is_some(), tokens, bytes: end.saturating_sub(start) })
    }
}

struct Report<'a> {
    args: &'a PplArgs,
    package: &'a Package,
    model: &'a Model,
    text: Text,
    window: NonZeroUsize,
    score: Score,
    seconds: f64,
}

impl Report<'_> {
    fn windows(&self) -> usize {
        self.score.tokens.div_ceil(self.window.get())
    }

    fn bits_per_byte(&self) -> f64 {
        self.score.nats / LN_2 / self.text.bytes as f64
    }

    fn object(&self) -> Value {
        json!({
            "model": self.package.name(),
            "text": self.args.text,
            "tokens": self.text.tokens,
            "predicted": self.score.tokens,
            "bytes": self.text.bytes,
            "bos": self.text.bos,
            "window": self.window,
            "windows": self.windows(),
            "loss": self.score.loss(),
            "perplexity": self.score.perplexity(),
            "bits_per_byte": self.bits_per_byte(),
            "compute": self.args.run.compute.name(),
            "kv_cache": self.args.run.kv_cache.name(),
            "seconds": self.seconds,
            "bytes_read": self.model.reading().bytes,
            "peak_memory_bytes": memory::peak(),
            "plan": self.model.plan(),
        })
    }

    fn table(&self) -> String {
        let first = if self.text.bos { "" } else { ", all but the first, as there is no bos_token" };
        format!(
            "loss           {:.5} nats per token\nperplexity     {:.4}\nbits per byte  {:.5}\n\
             predicted      {} tokens, {} bytes, in windows of {}{first}\n",
            self.score.loss(),
            self.score.perplexity(),
            self.bits_per_byte(),
            self.score.tokens,
            self.text.bytes,
            self.window,
        )
    }

    /// The line on standard error.
    fn cost(&self) -> String {
        let mut line = format!(
            "{} tokens in {:.1} s, {:.1} tok/s, {:.2} GB read",
            self.score.tokens,
            self.seconds,
            self.score.tokens as f64 / self.seconds.max(1e-9),
            self.model.reading().bytes as f64 * 1e-9
        );
        if let Some(peak) = memory::peak() {
            line += &format!(", peak memory {}", format_size(peak));
        }
        line
    }
}
