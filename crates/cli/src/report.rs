//! What several commands say in the same words.

use rheostat::memory::format_size;
use rheostat::{Hits, MemoryPlan};
use serde_json::{Value, json};

/// How memory is spent: names and values, a line each; a name that is empty belongs to the one before.
pub(crate) fn memory_plan(plan: &MemoryPlan) -> Vec<(&'static str, String)> {
    let of = format!("{} of a budget of {}", format_size(plan.total()), format_size(plan.budget));
    let capped = plan.asked.filter(|asked| *asked > plan.budget);
    let note = capped.map(|asked| format!(" ({} were asked for, and no more is free)", format_size(asked)));
    let mut lines = vec![("memory", of + &note.unwrap_or_default())];
    for (name, bytes) in [
        ("process", plan.process + plan.threads),
        ("norms, biases", plan.vectors),
        ("KV cache", plan.kv_cache),
        ("activations", plan.activations),
        ("weights that stay", plan.pinned),
        ("screen of the head", plan.screen),
        ("ring", plan.ring),
        ("experts", plan.experts),
    ] {
        if name == "experts" && plan.all_experts == 0 || name == "screen of the head" && bytes == 0 {
            continue;
        }
        lines.push(("", format!("{name:18} {:>10}", format_size(bytes))));
    }
    lines.push(("", format!("for {} tokens, {} rows a pass", plan.tokens, plan.rows)));
    if plan.kv_disk > 0 {
        lines.push(("on disk", format!("{} of keys and values, when the context is full", format_size(plan.kv_disk))));
    }
    let streams = match (plan.streamed, plan.seldom) {
        (0, 0) => "nothing: all weights stay in memory".to_owned(),
        (0, _) => "nothing in most sweeps".to_owned(),
        (bytes, _) => format!("{} of weights in every sweep", format_size(bytes)),
    };
    lines.push(("streams", streams));
    if plan.seldom > 0 {
        let head = format_size(plan.seldom);
        lines.push(("", format!("{head} of the output projection where more than the greatest logits is asked for")));
    }
    if plan.all_experts > plan.experts {
        let all = format_size(plan.all_experts);
        lines.push(("experts", format!("{all} in all: those that a token needs are read if they are not in memory")));
    }
    lines
}

/// How often routed experts were in memory when they were needed.
pub(crate) fn experts(hits: &Hits) -> String {
    let share = 100.0 * hits.hit as f64 / hits.asked.max(1) as f64;
    format!("{} asked for, {share:.1} % of them in memory, {} read", hits.asked, format_size(hits.missed_bytes))
}

/// The same for machines.
pub(crate) fn experts_json(hits: &Hits) -> Value {
    json!({
        "asked": hits.asked,
        "hit": hits.hit,
        "missed_bytes": hits.missed_bytes,
        "evicted": hits.evicted,
    })
}
