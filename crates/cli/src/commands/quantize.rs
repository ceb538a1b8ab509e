//! `rheostat quantize`: a copy of a model with weights of 8 or 4 bits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rheostat::memory::{self, format_size};
use rheostat::quantize::{Options, Quantization, Summary, Watch};
use serde_json::{Value, json};

use crate::args::QuantizeArgs;
use crate::status::Status;
use crate::{interrupt, output, session};

pub(crate) fn run(args: &QuantizeArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    let package = session::open(&args.model)?;
    let quantization = Quantization::plan(&package, options(args))?;
    let watch = Watch::default();
    // From here on Ctrl-C leaves no half of a model behind.
    interrupt::listen(Arc::clone(&watch.cancel))?;
    let bytes = Arc::clone(&watch.bytes);
    let status = Status::new(move || bytes.load(Ordering::Relaxed));
    status.begin("quantising", 0, quantization.bytes());
    let summary = quantization.write(&args.out, &watch)?;
    drop(status);
    if summary.replaced_leftover {
        output::tell(&format!("note: {}.partial, which an earlier run had left, was replaced", args.out.display()));
    }
    if args.json {
        return output::print_json(&object(args, &summary, start.elapsed().as_secs_f64()));
    }
    output::tell(&line(args, &summary));
    if !summary.not_linear.is_empty() {
        output::tell(&format!(
            "note: Rheostat reads {} of this, but transformers, where they are no nn.Linear, would go on with random \
             matrices (docs/quantised.md)",
            summary.not_linear.join(", "),
        ));
    }
    Ok(())
}

fn options(args: &QuantizeArgs) -> Options {
    let defaults = Options::default();
    Options {
        bits: args.bits,
        group: args.group,
        head: args.head,
        keep: args.keep.clone(),
        memory: args.memory.bytes(),
        threads: args.threads,
        shard_bytes: args.shard.unwrap_or(defaults.shard_bytes),
    }
}

fn object(args: &QuantizeArgs, summary: &Summary, seconds: f64) -> Value {
    json!({
        "out": args.out,
        "bits": args.bits.number(),
        "group": args.group,
        "seconds": seconds,
        "peak_memory_bytes": memory::peak(),
        "summary": summary,
    })
}

fn line(args: &QuantizeArgs, summary: &Summary) -> String {
    format!(
        "wrote {}: {} instead of {}, {} matrices in int{} (groups of {}, root mean square deviation {:.2}%), {} tensors \
         as they were",
        args.out.display(),
        format_size(summary.bytes_after),
        format_size(summary.bytes_before),
        summary.quantized,
        args.bits.number(),
        args.group,
        summary.all.relative_squared_error.sqrt() * 100.0,
        summary.kept,
    )
}
