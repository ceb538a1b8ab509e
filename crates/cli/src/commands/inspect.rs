//! `rheostat inspect`: what a model is, what it needs, and what is odd about it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rheostat::decoder::{Block, Decoder, Head};
use rheostat::memory::format_size;
use rheostat::rope::RopeScaling;
use rheostat::{MemoryPlan, Options, Package, plan_memory};
use serde_json::json;

use crate::args::InspectArgs;
use crate::{output, report, session};

pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let package = session::open(&args.model)?;
    let decoder = package.describe()?;
    let options = Options { context: session::context(args.context, &decoder)?, ..session::options(&args.run) };
    // A budget that is too small is part of the answer, not the end of it.
    let plan = plan_memory(&package, &options);
    let plan = match plan {
        Err(error @ rheostat::Error::BudgetTooSmall { .. }) => Err(error.to_string()),
        other => Ok(other?),
    };
    let dtypes = dtypes(&package);
    let odd = odd(&package, &decoder);
    if args.json {
        let block = &decoder.blocks[0];
        return output::print_json(&json!({
            "model": package.name(),
            "family": decoder.family,
            "parameters": decoder.parameters(),
            "bytes": package.checkpoint().total_bytes(),
            "dtypes": dtypes,
            "files": package.checkpoint().sources().len(),
            "num_hidden_layers": decoder.blocks.len(),
            "hidden_size": decoder.hidden_size,
            "intermediate_size": block.ffn.gate.out_features,
            "num_attention_heads": block.mixer.n_heads,
            "num_key_value_heads": block.mixer.n_kv_heads,
            "head_dim": block.mixer.head_dim,
            "vocab_size": decoder.vocab_size,
            "context": decoder.context,
            "tied_head": decoder.head == Head::Tied,
            "block": words(block),
            "rope": rope(&decoder),
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
    let block = &decoder.blocks[0];
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
            "{} layers, hidden {}, intermediate {}, vocabulary {}, context {}",
            decoder.blocks.len(),
            decoder.hidden_size,
            block.ffn.gate.out_features,
            decoder.vocab_size,
            decoder.context
        ),
    )?;
    line(
        "attention",
        format!(
            "{} heads over {} key-value heads of {}",
            block.mixer.n_heads, block.mixer.n_kv_heads, block.mixer.head_dim
        ),
    )?;
    line("block", words(block))?;
    line("windows", windows(decoder))?;
    line("rope", rope(decoder))?;
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

/// A block in words.
fn words(block: &Block) -> String {
    let biased: Vec<_> = ["q", "k", "v", "o", "gate", "up", "down"]
        .into_iter()
        .zip(block.linears())
        .filter(|(_, l)| l.bias.is_some())
        .map(|(name, _)| name)
        .collect();
    let norm = if block.mixer.qk_norm.is_some() { ", a norm on every query and key head" } else { "" };
    let biases = if biased.is_empty() { String::new() } else { format!(", biases on {}", biased.join(", ")) };
    format!("RMS norm, attention{norm}; RMS norm, gated feed-forward (silu){biases}")
}

fn windows(decoder: &Decoder) -> String {
    let windowed: Vec<_> =
        decoder.blocks.iter().enumerate().filter_map(|(i, b)| b.mixer.window.map(|w| (i, w))).collect();
    match windowed[..] {
        [] => "none: every layer sees all".to_owned(),
        [(_, w), ..] if windowed.len() == decoder.blocks.len() => format!("{w} tokens in every layer"),
        [(_, w), ..] => {
            let layers: Vec<_> = windowed.iter().map(|(i, _)| i.to_string()).collect();
            format!("{w} tokens in layers {}", layers.join(", "))
        }
    }
}

fn rope(decoder: &Decoder) -> String {
    let rope = &decoder.rope;
    let scaling = match rope.scaling() {
        RopeScaling::Default => "unscaled".to_owned(),
        RopeScaling::Linear { factor } => format!("linear × {factor}"),
        RopeScaling::Dynamic { factor } => format!("dynamic × {factor}"),
        RopeScaling::Llama3 { factor, original, .. } => format!("llama3 × {factor} from {original}"),
        RopeScaling::Yarn(yarn) => format!("yarn × {} from {}", yarn.factor, yarn.original),
    };
    format!("theta {}, {} of {} elements, {scaling}", rope.theta(), rope.dim(), decoder.blocks[0].mixer.head_dim)
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
