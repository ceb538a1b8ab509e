//! `rheostat plan`: how memory would be spent, what would stream, and how fast that should be.

use std::time::Duration;

use rheostat::decoder::Decoder;
use rheostat::{Bottleneck, Forecast, MemoryPlan, Options, Package, Rates, Sampling, head_bytes, plan_memory};
use serde_json::json;

use crate::args::PlanArgs;
use crate::disks::{self, DiskRate};
use crate::{output, report, session};

/// How long memory and arithmetic are measured.
const PROBE: Duration = Duration::from_millis(300);

pub(crate) fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let package = session::open(&args.model)?;
    let decoder = package.describe()?;
    let batch = args.batch.get();
    let context = session::context(args.context, &decoder)?;
    let options = Options {
        context: context.map(|context| context.saturating_mul(batch)),
        sequences: batch,
        logits: Sampling::default().logit_rows(),
        ..session::options(&args.run)
    };
    let plan = plan_memory(&package, &options)?;
    let needs_disk = plan.streams() || plan.kv_disk > 0;
    let disk = if needs_disk { disks::rate(&package, args.measure)? } else { None };
    let rates = Rates { disk_bytes_per_second: disk.map(|d| d.bytes_per_second), ..Rates::measure(&options, PROBE)? };
    let outlook = Outlook::new(&decoder, &plan, &options, &rates, context);
    let whole = match args.layers {
        None => None,
        Some(layers) => {
            let (decoder, plan) = plan.with_layers(&decoder, layers.get(), head_bytes(&package)?);
            let outlook = Outlook::new(&decoder, &plan, &options, &rates, context);
            Some((layers.get(), plan, outlook))
        }
    };
    if args.json {
        return output::print_json(&json!({
            "model": package.name(),
            "batch": batch,
            "plan": plan,
            "rates": rates,
            "sweep": outlook.sweep,
            "bottleneck": outlook.sweep.bottleneck(),
            "tokens_per_second": outlook.tokens_per_second(),
            "prompt_tokens": outlook.prompt,
            "prompt_seconds": outlook.prompt_seconds,
            "with_layers": whole.as_ref().map(|(layers, plan, outlook)| json!({
                "layers": layers,
                "plan": plan,
                "sweep": outlook.sweep,
                "tokens_per_second": outlook.tokens_per_second(),
            })),
        }));
    }
    output::print(&(text(&package, &plan, &rates, disk, &outlook) + &projection(whole.as_ref())))
}

/// What a model with more layers of the same kind should do.
fn projection(whole: Option<&(usize, MemoryPlan, Outlook)>) -> String {
    let Some((layers, plan, outlook)) = whole else { return String::new() };
    let rate = match outlook.tokens_per_second() {
        Some(rate) => format!("about {rate:.2} tok/s"),
        None => "at a rate that the disk decides".to_owned(),
    };
    let size = |bytes| rheostat::memory::format_size(bytes);
    let mut parts =
        vec![format!("{} of weights for every token, {} streamed", size(plan.weights), size(plan.streamed))];
    if plan.all_experts > 0 {
        parts.push(format!("{} of {} of experts in memory", size(plan.experts), size(plan.all_experts)));
    }
    format!("{:14}{rate}: {}\n", format!("{layers} layers"), parts.join(", "))
}

/// What is to be expected.
struct Outlook {
    sequences: usize,
    /// A sweep in which each sequence writes a token, half way through its context.
    sweep: Forecast,
    /// Tokens of a prompt, and the seconds that reading it should take.
    prompt: usize,
    prompt_seconds: f64,
    passes: usize,
}

impl Outlook {
    fn new(decoder: &Decoder, plan: &MemoryPlan, options: &Options, rates: &Rates, context: Option<usize>) -> Outlook {
        let sequences = options.sequences;
        let each = context.unwrap_or(plan.tokens / sequences).max(1);
        let forecast = |work| Forecast::new(decoder, plan, options.kv, rates, work);
        // One text's prompt, as long as a text is planned to be.
        let passes = each.div_ceil(plan.rows);
        let pass = |i: usize| forecast((1, plan.rows.min(each - i * plan.rows), i * plan.rows)).seconds;
        Outlook {
            sequences,
            sweep: forecast((sequences, 1, each / 2)),
            prompt: each,
            prompt_seconds: (0..passes).map(pass).sum(),
            passes,
        }
    }

    /// Nothing where the disk is needed and nothing is known of it.
    fn tokens_per_second(&self) -> Option<f64> {
        self.sweep.disk_seconds.map(|_| self.sequences as f64 / self.sweep.seconds)
    }
}

fn text(package: &Package, plan: &MemoryPlan, rates: &Rates, disk: Option<DiskRate>, outlook: &Outlook) -> String {
    let mut lines = vec![("model", package.name().to_owned())];
    lines.extend(report::memory_plan(plan));
    let memory = rates.memory_bytes_per_second * 1e-9;
    let mut measured = format!("memory {memory:.1} GB/s, {:.0} GFLOP/s", rates.operations_per_second * 1e-9);
    if let Some(disk) = disk {
        measured = format!("disk {:.2} GB/s ({}), {measured}", disk.bytes_per_second * 1e-9, disk.age());
    }
    lines.push(("measured", measured));
    let Forecast { seconds, disk_seconds, memory_seconds, arithmetic_seconds } = outlook.sweep;
    let who = match outlook.sequences {
        1 => "a token".to_owned(),
        n => format!("a token for each of {n} texts"),
    };
    let disk = match disk_seconds {
        Some(disk) => time(disk),
        None => "unknown, since it cannot be measured".to_owned(),
    };
    let (about, rate) = match outlook.tokens_per_second() {
        Some(rate) => ("about", format!(": {rate:.2} tok/s")),
        None => ("more than", String::new()),
    };
    lines.push(("a sweep", format!("{who} in {about} {}{rate}", time(seconds))));
    lines.push((
        "",
        format!(
            "(disk {disk}, memory {}, arithmetic {}, at the same time)",
            time(memory_seconds),
            time(arithmetic_seconds)
        ),
    ));
    let Outlook { prompt, prompt_seconds, passes, .. } = outlook;
    let sweeps = if *passes == 1 { "1 sweep".to_owned() } else { format!("{passes} sweeps") };
    lines.push(("a prompt", format!("of {prompt} tokens in {about} {}, {sweeps}", time(*prompt_seconds))));
    lines.push(("advice", advice(outlook).to_owned()));
    lines.iter().map(|(name, value)| format!("{name:14}{value}\n")).collect()
}

/// What would make a sweep carry more.
fn advice(outlook: &Outlook) -> &'static str {
    match outlook.sweep.bottleneck() {
        Bottleneck::Disk => "the disk decides: more --memory, or more tokens in each sweep (--batch, --speculate)",
        Bottleneck::Memory => {
            "reading memory decides: quantized weights, --kv-cache bf16, or more tokens in each sweep"
        }
        Bottleneck::Arithmetic => "arithmetic decides: more cores, or --compute bf16 where the CPU multiplies bf16",
    }
}

/// Seconds for people.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.2} ms", s * 1e3),
        s if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_for_people() {
        for (seconds, text) in [
            (0.000_25, "0.25 ms"),
            (0.0123, "12 ms"),
            (0.9996, "1.0 s"),
            (4.44, "4.4 s"),
            (600.0, "10 min"),
            (9000.0, "2.5 h"),
        ] {
            assert_eq!(super::time(seconds), text);
        }
    }
}
