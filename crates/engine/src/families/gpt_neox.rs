//! GPT-NeoX (Pythia, GPT-NeoX-20B, Dolly): attention and feed-forward side by side, each with a layer norm of its own; a part of each head is
//! rotated; queries, keys and values of a head lie together.
//!
//! Mirrors `modeling_gpt_neox.py`. Switches: `use_parallel_residual`, `attention_bias` (true without the key), `rotary_pct`,
//! `rotary_emb_base`.

use super::Tensors;
use super::parts::{Ends, KvHeads, Sizes, activation, eps, head, no_own_head_dim};
use crate::config::{ConfigError, Keys, RopeDefaults, RopeSpelling, read_rope_as};
use crate::decoder::{Block, Decoder, Ffn, Flow, Linear, Mixer, Nonlinearity, Norm, Part, Plain, Projection};
use crate::rope::Rope;

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    no_own_head_dim(keys)?;
    let sizes = Sizes::read(keys, KvHeads::AsQueryHeads, None)?;
    if sizes.n_kv_heads != sizes.n_heads {
        return Err(keys.invalid("num_key_value_heads", format!("num_attention_heads ({})", sizes.n_heads)));
    }
    let (hidden, inner) = (sizes.hidden, keys.size("intermediate_size")?);
    let bias = keys.bool_or("attention_bias", true)?;
    let parallel = keys.bool_or("use_parallel_residual", true)?;
    let act = Nonlinearity::Fixed(activation(keys, "hidden_act", "gelu")?);
    let eps = eps(keys, "layer_norm_eps", 1e-5)?;
    let max_positions = keys.size_or("max_position_embeddings", 2048)?;
    let rope = rope(keys, sizes.head_dim, max_positions)?;
    let block = |i: usize| {
        let name = |last: &str| format!("gpt_neox.layers.{i}.{last}");
        let linear = |last: &str, in_features, out_features| {
            Linear::new(name(&format!("{last}.weight")), in_features, out_features)
        };
        let norm = |last: &str| Norm::layer(name(last), true, hidden, eps);
        let qkv = linear("attention.query_key_value", hidden, 3 * hidden).biased(bias);
        let parts = [Part::Query, Part::Key, Part::Value].map(|part| (part, sizes.head_dim));
        let inputs = vec![Projection::grouped(qkv, sizes.n_heads, &parts)];
        let mixer = sizes.attention(inputs, linear("attention.dense", hidden, hidden).biased(bias));
        let ffn = Ffn::Plain(Plain {
            act: act.clone(),
            up: linear("mlp.dense_h_to_4h", hidden, inner).biased(true),
            down: linear("mlp.dense_4h_to_h", inner, hidden).biased(true),
        });
        let flow = if parallel { Flow::Parallel } else { Flow::Serial };
        let (before, after) = (norm("input_layernorm"), norm("post_attention_layernorm"));
        Block { flow, ..Block::pre_norm(before, Mixer::Attention(Box::new(mixer)), after, ffn) }
    };
    let blocks = (0..sizes.layers).map(block).collect();
    // transformers 5 would call it `lm_head`, but stores it as it always has.
    let own =
        ["lm_head.weight", "embed_out.weight"].into_iter().find(|name| tensors.has(name)).unwrap_or("embed_out.weight");
    let ends = Ends {
        embed: "gpt_neox.embed_in.weight".to_owned(),
        norm: Norm::layer("gpt_neox.final_layer_norm", true, hidden, eps),
        head: head(keys, tensors, Linear::new(own, hidden, sizes.vocab), false)?,
    };
    let context = rope.context();
    Ok(sizes.decoder("gpt_neox", vec![rope], context, blocks, ends))
}

fn rope(keys: &Keys<'_>, head_dim: usize, max_positions: usize) -> Result<Rope, ConfigError> {
    let spelling = RopeSpelling { theta: Some("rotary_emb_base"), partial: "rotary_pct", ..RopeSpelling::default() };
    let defaults = RopeDefaults { theta: 10_000.0, partial: Some(0.25) };
    // Some versions wrote both spellings; transformers reads the family's own.
    for (key, own, default) in
        [("rope_theta", "rotary_emb_base", defaults.theta), ("partial_rotary_factor", "rotary_pct", 0.25)]
    {
        let expected = keys.opt_positive(own)?.unwrap_or(default);
        if keys.opt_positive(key)?.is_some_and(|found| found != expected) {
            return Err(keys.invalid(key, format!("{expected}, as {own} says")));
        }
    }
    read_rope_as(keys, spelling, "gpt_neox", head_dim, max_positions, defaults)
}
