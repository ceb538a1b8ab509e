//! `rheostat bench`: how fast a model runs here, beside what the machine can do in the same run.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rheostat::hooks::{Capture, Hooks, Points, Positions, matching};
use rheostat::{Compute, DISK_PROBE_BYTES, Input, KvFormat, Limits, Model, Options, Rates, Want, memory};
use serde::Serialize;
use serde_json::json;

use crate::args::BenchArgs;
use crate::{interrupt, output, report, session};

/// One line of the table.
#[derive(Serialize)]
struct Row {
    test: String,
    /// Median over the repetitions.
    tokens_per_second: f64,
    slowest: f64,
    fastest: f64,
    /// GB/s of weights and cache in decode (of those from disk where weights stream), GFLOP/s in prefill.
    rate: f64,
    unit: &'static str,
    /// Share of what the machine gives a loop that does nothing else beside each repetition: the median.
    share_of_limit: Option<f64>,
}

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let package = session::open(&args.model)?;
    let decoder = package.describe()?;
    let depths = match &args.n_depth {
        Some(depths) => depths.clone(),
        None => {
            [0usize, 4096].into_iter().filter(|d| *d == 0 || d.saturating_add(args.n_gen) <= decoder.context).collect()
        }
    };
    let deepest = depths.iter().copied().max().unwrap_or(0);
    let written = deepest.saturating_add(args.n_gen);
    let longest = args.n_prompt.max(written).max(1);
    let most = args.batch.iter().map(|n| n.get()).max().unwrap_or(1);
    if longest > decoder.context {
        bail!("{longest} tokens do not fit the model's context of {}; give smaller -p, -d or -n", decoder.context);
    }
    let mut points = Vec::new();
    for pattern in &args.capture {
        points.extend(matching(&decoder, pattern)?);
    }
    let spool = tempfile::tempfile().context("a temporary file cannot be made")?;
    let mut capture = (!points.is_empty()).then(|| Capture::new(points, Positions::all(), 0, spool));
    let options = Options {
        hooks: capture.as_ref().map_or(Points::NONE, Hooks::points),
        context: Some(longest.max(written.saturating_mul(most))),
        sequences: most,
        reserve: DISK_PROBE_BYTES,
        ..session::options(&args.run)
    };
    let mut model = Model::load(&package, &options)?;
    interrupt::listen(model.cancel_switch())?;
    // Everything that is to stay in memory is read before anything is measured.
    let mut sequence = model.sequence(1);
    model.forward(&mut [Input { sequence: &mut sequence, tokens: &[0], want: Want::Last }])?;
    drop(sequence);
    let mut bench = Bench {
        model: &mut model,
        repetitions: args.repetitions.get(),
        kv: args.run.kv_cache,
        compute: args.run.compute,
        limits: Vec::new(),
    };
    let mut rows = Vec::new();
    if args.n_prompt > 0 {
        rows.push(bench.prefill(args.n_prompt)?);
    }
    if args.n_gen > 0 {
        for depth in depths {
            for texts in &args.batch {
                rows.extend(bench.decode(texts.get(), depth, args.n_gen, capture.as_mut())?);
            }
        }
    }
    let limits = bench.best_limits();
    if args.json {
        return output::print_json(&json!({
            "model": package.name(),
            "parameters": decoder.parameters(),
            "threads": model.exec().threads(),
            "isa": model.exec().isa().name(),
            "compute": args.run.compute.name(),
            "kv_cache": args.run.kv_cache.name(),
            "limits": limits,
            "streamed_bytes_per_sweep": model.plan().streamed,
            "reading": model.reading_way().to_string(),
            "experts": model.expert_hits().map(|hits| report::experts_json(&hits)),
            "tests": rows,
        }));
    }
    let mut text = format!(
        "{}, {:.0} million parameters, {} threads, {}\n",
        package.name(),
        decoder.parameters() as f64 * 1e-6,
        model.exec().threads(),
        model.exec().isa().name()
    );
    text += "limits measured in this run: ";
    if let Some(disk) = limits.disk_bytes_per_second {
        text += &format!("disk {:.2} GB/s, ", disk * 1e-9);
    }
    if let Some(read) = limits.read_bytes_per_second {
        text += &format!("memory {:.1} GB/s, ", read * 1e-9);
    }
    text += &format!(
        "multiply-add {:.0} GFLOP/s in f32, {:.0} in bf16, {:.0} in amx, {:.0} in int8\n\n",
        limits.f32_flops * 1e-9,
        limits.bf16_flops * 1e-9,
        limits.amx_flops * 1e-9,
        limits.int8_ops * 1e-9
    );
    if model.plan().streamed > 0 {
        let streamed = memory::format_size(model.plan().streamed);
        text += &format!("{streamed} of weights stream in every pass: {}\n\n", model.reading_way());
    }
    text += &format!("{:24}{:>10}{:>22}{:>18}{:>10}\n", "test", "tok/s", "slowest to fastest", "rate", "of limit");
    for row in &rows {
        let range = format!("{:.2} to {:.2}", row.slowest, row.fastest);
        let rate = format!("{:.1} {}", row.rate, row.unit);
        let share = row.share_of_limit.map_or("-".to_owned(), |s| format!("{:.0} %", 100.0 * s));
        text += &format!("{:24}{:>10.2}{range:>22}{rate:>18}{share:>10}\n", row.test, row.tokens_per_second);
    }
    if let Some(hits) = model.expert_hits().filter(|hits| hits.asked > 0) {
        text += &format!("\nexperts: {}\n", report::experts(&hits));
    }
    output::print(&text)
}

struct Bench<'a> {
    model: &'a mut Model,
    repetitions: usize,
    kv: KvFormat,
    compute: Compute,
    limits: Vec<Limits>,
}

impl Bench<'_> {
    /// Reads `n` tokens, with the logits of the last.
    fn prefill(&mut self, n: usize) -> anyhow::Result<Row> {
        let tokens = session::meaningless(self.model.decoder(), n);
        let flops = self.model.decoder().operations(n, 0, 1);
        let compute = self.compute;
        let ceiling = |limits: Limits| Rates::of(&limits, compute).operations_per_second;
        let mut runs = Vec::new();
        let mut before = ceiling(self.measure_limits()?);
        for _ in 0..self.repetitions {
            let mut sequence = self.model.sequence(n);
            let start = Instant::now();
            self.model.prefill(&mut sequence, &tokens)?;
            let seconds = start.elapsed().as_secs_f64();
            let after = ceiling(self.measure_limits()?);
            runs.push(Run { seconds, limit: (before + after) / 2.0 });
            before = after;
        }
        Ok(row(format!("prefill {n}"), n, &mut runs, flops, "GFLOP/s"))
    }

    /// Writes `n` tokens after `depth` others, in each of `texts` texts; in turn without and with somebody who captures values of the first.
    /// After each token the weights are read once by themselves, where all are in memory.
    fn decode(
        &mut self,
        texts: usize,
        depth: usize,
        n: usize,
        mut capture: Option<&mut Capture<File>>,
    ) -> anyhow::Result<Vec<Row>> {
        let tokens = session::meaningless(self.model.decoder(), depth + n);
        let plan = self.model.plan();
        let streams = plan.streams();
        // With weights from disk the memory is not the limit.
        let bytes = match plan.streamed {
            // A cache on disk is not read at the speed of memory.
            0 if plan.kv_disk > 0 => plan.weights as f64,
            0 => {
                let cache = self.model.decoder().cache_bytes(depth + n / 2, self.kv);
                plan.weights as f64 + texts as f64 * cache
            }
            streamed => streamed as f64,
        };
        let disk = |limits: Limits| limits.disk_bytes_per_second.unwrap_or(0.0);
        let (mut runs, mut captured) = (Vec::new(), Vec::new());
        let mut sequences: Vec<_> = (0..texts).map(|_| self.model.sequence(depth)).collect();
        for sequence in sequences.iter_mut().filter(|_| depth > 0) {
            self.model.prefill(sequence, &tokens[..depth])?;
        }
        let mut before = disk(self.measure_limits()?);
        let mut read = 0;
        let turns = if capture.is_some() { 2 * self.repetitions } else { self.repetitions };
        for turn in 0..turns {
            for sequence in &mut sequences {
                sequence.truncate(depth);
                // Not every model can go back so far without beginning anew.
                if sequence.len() < depth {
                    sequence.truncate(0);
                    self.model.prefill(sequence, &tokens[..depth])?;
                }
            }
            let read_before = self.model.reading().bytes;
            let (mut seconds, mut memory) = (0.0, 0.0);
            for token in &tokens[depth..] {
                let tokens = std::slice::from_ref(token);
                let input = |sequence| Input { sequence, tokens, want: Want::Last };
                let mut inputs: Vec<_> = sequences.iter_mut().map(input).collect();
                let start = Instant::now();
                match &mut capture {
                    Some(capture) if turn % 2 == 1 => self.model.forward_hooked(&mut inputs, *capture)?,
                    _ => self.model.forward(&mut inputs)?,
                };
                seconds += start.elapsed().as_secs_f64();
                // What disturbs the machine for a moment then disturbs both.
                if !streams {
                    memory += self.model.memory_rate(Duration::ZERO)?.map_or(0.0, f64::recip);
                }
            }
            read += self.model.reading().bytes - read_before;
            let limit = if streams {
                let after = disk(self.measure_limits()?);
                (std::mem::replace(&mut before, after) + after) / 2.0
            } else if memory > 0.0 {
                n as f64 / memory
            } else {
                0.0
            };
            let run = Run { seconds, limit };
            let kept = if turn % 2 == 1 && capture.is_some() { &mut captured } else { &mut runs };
            kept.push(run);
        }
        // Which experts a token needs is known when it was written.
        let bytes =
            if self.model.decoder().has_experts() && streams { read as f64 / (turns * n) as f64 } else { bytes };
        let many = if texts == 1 { String::new() } else { format!(" x {texts}") };
        let after = if depth == 0 { String::new() } else { format!(" @ {depth}") };
        let test = format!("decode {n}{many}{after}");
        let of = |test, runs: &mut [Run]| row(test, texts * n, runs, bytes * n as f64, "GB/s");
        let mut rows = vec![of(test.clone(), &mut runs)];
        if !captured.is_empty() {
            rows.push(of(format!("{test} captured"), &mut captured));
        }
        Ok(rows)
    }

    /// The machine may be shared: its limits are measured again between the repetitions.
    fn measure_limits(&mut self) -> anyhow::Result<Limits> {
        let limits = self.model.limits(Duration::from_millis(600))?;
        self.limits.push(limits);
        Ok(limits)
    }

    /// The best of all that was measured.
    fn best_limits(&self) -> Limits {
        let best = |f: fn(&Limits) -> Option<f64>| self.limits.iter().filter_map(f).reduce(f64::max);
        Limits {
            disk_bytes_per_second: best(|l| l.disk_bytes_per_second),
            read_bytes_per_second: best(|l| l.read_bytes_per_second),
            f32_flops: best(|l| Some(l.f32_flops)).unwrap_or(0.0),
            bf16_flops: best(|l| Some(l.bf16_flops)).unwrap_or(0.0),
            amx_flops: best(|l| Some(l.amx_flops)).unwrap_or(0.0),
            int8_ops: best(|l| Some(l.int8_ops)).unwrap_or(0.0),
        }
    }
}

/// One repetition of a test.
struct Run {
    seconds: f64,
    /// What a loop that does nothing else got beside it, in operations or bytes per second; 0 if unknown.
    limit: f64,
}

/// `work` in operations or bytes; `unit` of a billion per second.
fn row(test: String, tokens: usize, runs: &mut [Run], work: f64, unit: &'static str) -> Row {
    let mut shares: Vec<f64> = runs.iter().filter(|r| r.limit > 0.0).map(|r| work / r.seconds / r.limit).collect();
    shares.sort_by(f64::total_cmp);
    runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let median = runs[runs.len() / 2].seconds;
    let rate = |s: f64| tokens as f64 / s;
    Row {
        test,
        tokens_per_second: rate(median),
        slowest: rate(runs[runs.len() - 1].seconds),
        fastest: rate(runs[0].seconds),
        rate: work / median * 1e-9,
        unit,
        share_of_limit: shares.get(shares.len() / 2).copied(),
    }
}
