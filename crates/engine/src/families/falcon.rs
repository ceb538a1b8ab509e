//! Falcon: queries, keys and values in one map, of which there are three layouts, and attention and feed-forward side by side.
//!
//! Mirrors `modeling_falcon.py`. Switches: `new_decoder_architecture` (grouped queries; with `num_ln_in_parallel_attn` 1 or 2 norms),
//! `multi_query`, `parallel_attn`, `bias` (all maps but the head), `ffn_hidden_size`. `alibi` is refused.

use super::Tensors;
use super::parts::{Ends, Sizes, activation, divided, eps, head};
use crate::config::{ConfigError, Keys, RopeDefaults, read_rope};
use crate::decoder::{Block, Decoder, Ffn, Flow, Linear, Mixer, Nonlinearity, Norm, Part, Plain, Projection};

/// What of a block's layout the config decides.
#[derive(Clone, Copy)]
struct Layout {
    qkv: Qkv,
    norms: Norms,
}

/// The rows of the map of queries, keys and values.
#[derive(Clone, Copy)]
enum Qkv {
    /// All queries, a key and a value.
    One,
    /// For each head of keys: its queries, the key and the value.
    Grouped,
}

/// Names of the norms before attention and feed-forward.
#[derive(Clone, Copy)]
enum Norms {
    Serial,
    /// One for both.
    Shared,
    /// One for each.
    Two,
}

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    if keys.bool_or("alibi", false)? {
        return Err(keys.invalid("alibi", "false: attention with linear biases is not supported"));
    }
    keys.must_be("apply_residual_connection_post_layernorm", false)?;
    let (sizes, layout) = sizes_and_layout(keys)?;
    let (hidden, bias) = (sizes.hidden, keys.bool_or("bias", false)?);
    let inner = keys.size_or("ffn_hidden_size", 4 * hidden)?;
    let eps = eps(keys, "layer_norm_epsilon", 1e-5)?;
    let act = Nonlinearity::Fixed(activation(keys, "activation", "gelu")?);
    let max_positions = keys.size_or("max_position_embeddings", 2048)?;
    let rope = read_rope(keys, "falcon", sizes.head_dim, max_positions, RopeDefaults::default())?;
    keys.ignore(&["ff_factor"]);
    let block = |i: usize| {
        let name = |last: &str| format!("transformer.h.{i}.{last}");
        let linear = |last: &str, in_features, out_features| {
            Linear::new(name(&format!("{last}.weight")), in_features, out_features).biased(bias)
        };
        let norm = |last: &str| Some(Norm::layer(name(last), true, hidden, eps));
        let (mixer_norm, ffn_norm) = match layout.norms {
            Norms::Serial => (norm("input_layernorm"), norm("post_attention_layernorm")),
            Norms::Shared => (norm("input_layernorm"), None),
            Norms::Two => (norm("ln_attn"), norm("ln_mlp")),
        };
        let inputs = match layout.qkv {
            Qkv::One => sizes.stacked_qkv(&name("self_attention.query_key_value.weight"), bias),
            Qkv::Grouped => {
                let (groups, d) = (sizes.n_kv_heads, sizes.head_dim);
                let linear = linear("self_attention.query_key_value", hidden, sizes.width() + 2 * sizes.kv_width());
                let parts = [(Part::Query, sizes.width() / groups), (Part::Key, d), (Part::Value, d)];
                vec![Projection::grouped(linear, groups, &parts)]
            }
        };
        let mixer = sizes.attention(inputs, linear("self_attention.dense", sizes.width(), hidden));
        Block {
            mixer_norm,
            mixer: Mixer::Attention(Box::new(mixer)),
            mixer_post_norm: None,
            ffn_norm,
            ffn: Ffn::Plain(Plain {
                act: act.clone(),
                up: linear("mlp.dense_h_to_4h", hidden, inner),
                down: linear("mlp.dense_4h_to_h", inner, hidden),
            }),
            ffn_post_norm: None,
            flow: if matches!(layout.norms, Norms::Serial) { Flow::Serial } else { Flow::Parallel },
            residual_scale: 1.0,
        }
    };
    let blocks = (0..sizes.layers).map(block).collect();
    let ends = Ends {
        embed: "transformer.word_embeddings.weight".to_owned(),
        norm: Norm::layer("transformer.ln_f", true, hidden, eps),
        head: head(keys, tensors, Linear::new("lm_head.weight", hidden, sizes.vocab), true)?,
    };
    let context = rope.context();
    Ok(sizes.decoder("falcon", vec![rope], context, blocks, ends))
}

fn sizes_and_layout(keys: &Keys<'_>) -> Result<(Sizes, Layout), ConfigError> {
    let n_heads = keys.size("num_attention_heads")?;
    let hidden = match keys.opt_size("n_embed")? {
        Some(hidden) => hidden,
        None => keys.size("hidden_size")?,
    };
    let head_dim = divided(keys, "hidden_size", hidden, n_heads)?;
    super::parts::check_head_dim(keys, head_dim)?;
    let n_kv_heads = keys.opt_size("num_kv_heads")?;
    let parallel = keys.bool_or("parallel_attn", true)?;
    let multi_query = keys.bool_or("multi_query", true)?;
    let new = keys.bool_or("new_decoder_architecture", false)?;
    let n_norms = keys.opt_size("num_ln_in_parallel_attn")?;
    let norms = match (new, parallel, n_norms) {
        (true, false, _) => return Err(keys.invalid("parallel_attn", "true where new_decoder_architecture is")),
        (true, true, Some(1)) | (false, true, None | Some(1)) => Norms::Shared,
        (true, true, None | Some(2)) => Norms::Two,
        (false, false, _) => Norms::Serial,
        (true, true, Some(_)) => return Err(keys.invalid("num_ln_in_parallel_attn", "1 or 2")),
        (false, true, Some(_)) => {
            return Err(keys.invalid("num_ln_in_parallel_attn", "1 unless new_decoder_architecture is true"));
        }
    };
    let (qkv, n_kv_heads) = match (new, multi_query) {
        (true, _) => (Qkv::Grouped, n_kv_heads.unwrap_or(n_heads)),
        (false, true) => (Qkv::One, 1),
        (false, false) if n_kv_heads.is_none_or(|n| n == n_heads) => (Qkv::Grouped, n_heads),
        (false, false) => return Err(keys.invalid("num_kv_heads", format!("num_attention_heads ({n_heads})"))),
    };
    if !n_heads.is_multiple_of(n_kv_heads) {
        return Err(keys.invalid("num_kv_heads", format!("a divisor of num_attention_heads ({n_heads})")));
    }
    let (vocab, layers) = (keys.size("vocab_size")?, keys.layers("num_hidden_layers")?);
    Ok((Sizes { vocab, hidden, layers, n_heads, n_kv_heads, head_dim }, Layout { qkv, norms }))
}
