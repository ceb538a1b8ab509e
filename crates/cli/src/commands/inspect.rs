//! `rheostat inspect`: what a model is, what it needs, and what is odd about it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rheostat::decoder::{Decoder, Head};
use rheostat::memory::format_size;
use rheostat::rope::{Rope, RopeScaling};
use rheostat::{MemoryPlan, Options, Package, Sampling, plan_memory};
use serde_json::json;

use crate::args::InspectArgs;
use crate::{output, report, session};

pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let package = session::open(&args.model)?;
    let decoder = package.describe()?;
    let options = Options {
        context: session::context(args.context, &decoder)?,
        logits: Sampling::default().logit_rows(),
        ..session::options(&args.run)
    };
    // A budget that is too small is part of the answer, not the end of it.
    let plan = plan_memory(&package, &options);
    let plan = match plan {
        Err(error @ rheostat::Error::BudgetTooSmall { .. }) => Err(error.to_string()),
        other => Ok(other?),
    };
    let dtypes = dtypes(&package);
    let odd = odd(&package, &decoder);
    if args.json {
        let attention = decoder.blocks.iter().find_map(|b| b.mixer.attention());
        return output::print_json(&json!({
            "model": package.name(),
            "family": decoder.family,
            "parameters": decoder.parameters(),
            "bytes": package.checkpoint().total_bytes(),
            "dtypes": dtypes,
            "files": package.checkpoint().sources().len(),
            "num_hidden_layers": decoder.blocks.len(),
            "hidden_size": decoder.hidden_size,
            "intermediate_size": decoder.blocks[0].ffn.intermediate(),
            "num_attention_heads": attention.map(|a| a.n_heads),
            "num_key_value_heads": attention.map(|a| a.n_kv_heads),
            "head_dim": attention.map(|a| a.head_dim),
            "vocab_size": decoder.vocab_size,
            "context": decoder.context,
            "tied_head": decoder.head == Head::Tied,
            "blocks": decoder.kinds().into_iter().map(|(words, layers)| json!({"layers": layers, "block": words})).collect::<Vec<_>>(),
            "rope": decoder.ropes.iter().map(rope).collect::<Vec<_>>(),
            "tokenizer": package.tokenizer().is_ok(),
            "chat_template": package.chat_templates().is_ok_and(|t| t.is_some()),
            "plan": plan.as_ref().ok(),
            "plan_error": plan.as_ref().err(),
            "odd": odd,
        }));
    }
    output::print(&table(&package, &decoder, &dtypes, plan.as_ref(), &odd)?)
}

fn table(
    package: &Package,
    decoder: &Decoder,
    dtypes: &BTreeMap<&'static str, u64>,
    plan: Result<&MemoryPlan, &String>,
    odd: &[String],
) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let mut line = |name: &str, value: String| writeln!(out, "{name:14}{value}");
    let checkpoint = package.checkpoint();
    let stored: Vec<_> = dtypes.iter().map(|(name, bytes)| format!("{name} {}", format_size(*bytes))).collect();
    line("model", package.name().to_owned())?;
    line("family", decoder.family.to_owned())?;
    line("parameters", format!("{:.2} million", decoder.parameters() as f64 * 1e-6))?;
    line(
        "on disk",
        format!(
            "{} in {} file(s): {}",
            format_size(checkpoint.total_bytes()),
            checkpoint.sources().len(),
            stored.join(", ")
        ),
    )?;
    line(
        "shape",
        format!(
            "{} layers, hidden {}, vocabulary {}, context {}",
            decoder.blocks.len(),
            decoder.hidden_size,
            decoder.vocab_size,
            decoder.context
        ),
    )?;
    let kinds = decoder.kinds();
    for (i, (words, layers)) in kinds.iter().enumerate() {
        let which = if kinds.len() == 1 { String::new() } else { format!("{}: ", ranges(layers)) };
        line(if i == 0 { "blocks" } else { "" }, format!("{which}{words}"))?;
    }
    for (i, rope) in decoder.ropes.iter().enumerate() {
        line(if i == 0 { "rope" } else { "" }, self::rope(rope))?;
    }
    line("head", if decoder.head == Head::Tied { "the embedding table" } else { "a table of its own" }.to_owned())?;
    let tokenizer = match package.tokenizer() {
        Ok(tokenizer) => format!("{} tokens", tokenizer.vocab_size()),
        Err(error) => format!("none that can be used: {error}"),
    };
    line("tokenizer", tokenizer)?;
    let template = match package.chat_templates() {
        Ok(None) => "none".to_owned(),
        Ok(Some(templates)) => templates.names().collect::<Vec<_>>().join(", "),
        Err(error) => format!("none that can be used: {error}"),
    };
    line("chat template", template)?;
    match plan {
        Err(error) => line("memory", error.clone())?,
        Ok(plan) => {
            for (name, value) in report::memory_plan(plan) {
                line(name, value)?;
            }
        }
    }
    for (i, text) in odd.iter().enumerate() {
        line(if i == 0 { "odd" } else { "" }, text.clone())?;
    }
    Ok(out)
}

/// Bytes by element type.
fn dtypes(package: &Package) -> BTreeMap<&'static str, u64> {
    let mut bytes = BTreeMap::new();
    for tensor in package.checkpoint().tensors() {
        *bytes.entry(tensor.dtype().name()).or_default() += tensor.byte_len();
    }
    bytes
}

/// Layers, briefly: "0 to 3, 5".
fn ranges(layers: &[usize]) -> String {
    let runs = layers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [one] => one.to_string(),
        [a, b] => format!("{a}, {b}"),
        [first, .., last] => format!("{first} to {last}"),
        [] => String::new(),
    });
    let which = if layers.len() == 1 { "layer" } else { "layers" };
    format!("{which} {}", runs.collect::<Vec<_>>().join(", "))
}

fn rope(rope: &Rope) -> String {
    let scaling = match rope.scaling() {
        RopeScaling::Default => "unscaled".to_owned(),
        RopeScaling::Linear { factor } => format!("linear × {factor}"),
        RopeScaling::Dynamic { factor } => format!("dynamic × {factor}"),
        RopeScaling::Llama3 { factor, original, .. } => format!("llama3 × {factor} from {original}"),
        RopeScaling::Yarn(yarn) => format!("yarn × {} from {}", yarn.factor, yarn.original),
        RopeScaling::LongRope(long) => format!("longrope beyond {}", long.original),
    };
    format!("theta {}, {} elements of a head, {scaling}", rope.theta(), rope.dim())
}

/// What a user should know before trusting the model.
fn odd(package: &Package, decoder: &Decoder) -> Vec<String> {
    let mut odd = Vec::new();
    let checkpoint = package.checkpoint();
    let buffers = checkpoint.tensors().iter().filter(|t| t.name().ends_with(".rotary_emb.inv_freq")).count();
    if buffers > 0 {
        odd.push(format!(
            "{buffers} stored rotary_emb.inv_freq buffers are not used: frequencies follow from config.json"
        ));
    }
    if !decoder.ignored.is_empty() {
        let left = |name: &str| decoder.ignored.iter().any(|start| name.starts_with(start.as_str()));
        let count = checkpoint.tensors().iter().filter(|t| left(t.name())).count();
        if count > 0 {
            odd.push(format!(
                "{count} tensors are of other parts than the text model and are not used: {}",
                decoder.ignored.iter().map(|start| format!("{start}*")).collect::<Vec<_>>().join(", ")
            ));
        }
    }
    let says_tied = package.config().get("tie_word_embeddings").and_then(serde_json::Value::as_bool) == Some(true);
    if says_tied && decoder.head != Head::Tied {
        odd.push("config.json ties the head to the embedding, but a head is stored: the stored one is used".to_owned());
    }
    if let Ok(tokenizer) = package.tokenizer()
        && tokenizer.vocab_size() > decoder.vocab_size
    {
        odd.push(format!(
            "the tokenizer has {} tokens, the model {}: some text cannot be given to it",
            tokenizer.vocab_size(),
            decoder.vocab_size
        ));
    }
    if let Ok(config) = package.generation_config() {
        odd.extend(
            config.unsupported.iter().map(|key| format!("generation_config.json sets {key}, which is not supported")),
        );
    }
    odd
}
