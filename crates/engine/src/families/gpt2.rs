//! GPT-2: learned positions, layer norms, a plain feed-forward, and maps stored as `[in_features, out_features]`.
//!
//! Mirrors `modeling_gpt2.py`. Switches: `n_inner`, `scale_attn_weights`, `scale_attn_by_inverse_layer_idx`. Tensors may be called
//! with or without `transformer.` in front.

use super::Tensors;
use super::parts::{Ends, Sizes, activation, check_head_dim, divided, eps, head};
use crate::config::{ConfigError, Keys};
use crate::decoder::{Block, Decoder, Ffn, Linear, Mixer, Nonlinearity, Norm, Part, Plain, Positions, Projection};

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let sizes = sizes(keys)?;
    let hidden = sizes.hidden;
    let positions = either(keys, ["n_positions", "max_position_embeddings"])?.unwrap_or(1024);
    let inner = keys.size_or("n_inner", 4 * hidden)?;
    let act = Nonlinearity::Fixed(activation(keys, "activation_function", "gelu_new")?);
    let eps = eps(keys, "layer_norm_epsilon", 1e-5)?;
    let scaled = keys.bool_or("scale_attn_weights", true)?;
    let by_layer = keys.bool_or("scale_attn_by_inverse_layer_idx", false)?;
    // Another order of the same operations, and what only other heads than that of a language model use.
    keys.ignore(&["reorder_and_upcast_attn", "n_ctx", "output_past"]);
    let summary = ["type", "use_proj", "activation", "proj_to_labels", "first_dropout"];
    keys.ignore(&summary.map(|last| format!("summary_{last}")).each_ref().map(String::as_str));
    let prefix = if tensors.has("transformer.wte.weight") { "transformer." } else { "" };
    let block = |i: usize| {
        let name = |last: &str| format!("{prefix}h.{i}.{last}");
        let conv1d = |last: &str, in_features, out_features| {
            Linear::new(name(&format!("{last}.weight")), in_features, out_features).transposed().biased(true)
        };
        let norm = |last: &str| Norm::layer(name(last), true, hidden, eps);
        let parts = [Part::Query, Part::Key, Part::Value].map(|part| (part, hidden));
        let inputs = vec![Projection::grouped(conv1d("attn.c_attn", hidden, 3 * hidden), 1, &parts)];
        let mut mixer = sizes.attention(inputs, conv1d("attn.c_proj", hidden, hidden));
        mixer.rotary = None;
        let scale = if scaled { 1.0 / (sizes.head_dim as f64).sqrt() } else { 1.0 };
        mixer.scale = if by_layer { scale / (i + 1) as f64 } else { scale } as f32;
        let (up, down) = (conv1d("mlp.c_fc", hidden, inner), conv1d("mlp.c_proj", inner, hidden));
        let ffn = Ffn::Plain(Plain { act: act.clone(), up, down });
        Block::pre_norm(norm("ln_1"), Mixer::Attention(Box::new(mixer)), norm("ln_2"), ffn)
    };
    let blocks = (0..sizes.layers).map(block).collect();
    let ends = Ends {
        embed: format!("{prefix}wte.weight"),
        norm: Norm::layer(format!("{prefix}ln_f"), true, hidden, eps),
        head: head(keys, tensors, Linear::new("lm_head.weight", hidden, sizes.vocab), true)?,
    };
    let mut decoder = sizes.decoder("gpt2", Vec::new(), positions, blocks, ends);
    decoder.embed.positions = Some(Positions { tensor: format!("{prefix}wpe.weight"), rows: positions });
    Ok(decoder)
}

fn sizes(keys: &Keys<'_>) -> Result<Sizes, ConfigError> {
    let size = |names: [&str; 2]| either(keys, names)?.ok_or_else(|| keys.missing(names[0]));
    let hidden = size(["n_embd", "hidden_size"])?;
    let n_heads = size(["n_head", "num_attention_heads"])?;
    let layers = match keys.contains("n_layer") {
        true => keys.layers("n_layer")?,
        false => keys.layers("num_hidden_layers")?,
    };
    let head_dim = divided(keys, "n_embd", hidden, n_heads)?;
    check_head_dim(keys, head_dim)?;
    Ok(Sizes { vocab: keys.size("vocab_size")?, hidden, layers, n_heads, n_kv_heads: n_heads, head_dim })
}

/// A size that has two names.
fn either(keys: &Keys<'_>, [own, other]: [&str; 2]) -> Result<Option<usize>, ConfigError> {
    match (keys.opt_size(own)?, keys.opt_size(other)?) {
        (Some(a), Some(b)) if a != b => Err(keys.invalid(other, format!("{a}, as {own} says"))),
        (a, b) => Ok(a.or(b)),
    }
}
