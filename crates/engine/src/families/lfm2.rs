//! LFM2: short convolutions between gates in most layers, attention with normed queries and keys in the others.
//!
//! Mirrors `modeling_lfm2.py`. Switches: `layer_types` or `full_attn_idxs`, `conv_L_cache`, `conv_bias`; the width of the feed-forward is
//! `intermediate_size` (or `block_ff_dim`), adjusted if `block_auto_adjust_ff_dim` says so. The last norm is called `embedding_norm`.

use super::Tensors;
use super::parts::{Ends, KvHeads, Sizes, eps, head, layer_types};
use crate::config::{ConfigError, Keys, RopeDefaults, read_rope};
use crate::decoder::{
    Activation, Block, Decoder, Ffn, Gated, Linear, Mixer, Norm, Part, Projection, QkNorm, QkNormPlace, ShortConv,
};

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let sizes = Sizes::read(keys, KvHeads::Fixed(8), None)?;
    let hidden = sizes.hidden;
    let intermediate = intermediate(keys)?;
    let eps = eps(keys, "norm_eps", 1e-5)?;
    let kernel = keys.size_or("conv_L_cache", 3)?;
    if kernel > 64 {
        return Err(keys.invalid("conv_L_cache", "a whole number from 1 to 64"));
    }
    let biased = keys.bool_or("conv_bias", false)?;
    let kinds = kinds(keys, sizes.layers)?;
    keys.must_be("block_use_swiglu", true)?;
    keys.must_be("use_pos_enc", true)?;
    // Other names of what is read, and how weights were drawn.
    keys.ignore(&["block_dim", "block_norm_eps", "conv_dim", "conv_dim_out", "num_heads", "theta"]);
    keys.ignore(&["block_mlp_init_scale", "block_out_init_scale", "block_use_xavier_init", "conv_use_xavier_init"]);
    let max_positions = keys.size_or("max_position_embeddings", 128_000)?;
    let defaults = RopeDefaults { theta: 1e6, partial: None };
    let rope = read_rope(keys, "lfm2", sizes.head_dim, max_positions, defaults)?;
    let block = |i: usize| {
        let name = |rest: &str| format!("model.layers.{i}.{rest}");
        let linear = |which: &str, in_features, out_features| {
            Linear::new(name(&format!("{which}.weight")), in_features, out_features)
        };
        let norm = |which: &str, width| Norm::rms(name(&format!("{which}.weight")), width, eps);
        let mixer = if kinds[i] == CONV {
            let inputs = linear("conv.in_proj", hidden, 3 * hidden).biased(biased);
            Mixer::Conv(Box::new(ShortConv {
                channels: hidden,
                kernel,
                inputs: vec![Projection::whole(inputs, Part::Mixed)],
                conv: name("conv.conv.weight"),
                conv_bias: biased.then(|| name("conv.conv.bias")),
                o: linear("conv.out_proj", hidden, hidden).biased(biased),
            }))
        } else {
            let inputs = sizes.qkv(&name("self_attn"), false);
            let mut mixer = sizes.attention(inputs, linear("self_attn.out_proj", sizes.width(), hidden));
            mixer.qk_norm = Some(QkNorm {
                q: norm("self_attn.q_layernorm", sizes.head_dim),
                k: norm("self_attn.k_layernorm", sizes.head_dim),
                place: QkNormPlace::BeforeRotation,
            });
            Mixer::Attention(Box::new(mixer))
        };
        let ffn = Gated::new(
            Activation::Silu,
            linear("feed_forward.w1", hidden, intermediate),
            linear("feed_forward.w3", hidden, intermediate),
            linear("feed_forward.w2", intermediate, hidden),
        );
        Block::pre_norm(norm("operator_norm", hidden), mixer, norm("ffn_norm", hidden), Ffn::Gated(ffn))
    };
    let blocks = (0..sizes.layers).map(block).collect();
    let tied = keys.opt_bool("tie_embedding")?.unwrap_or(keys.bool_or("tie_word_embeddings", true)?);
    let ends = Ends {
        embed: "model.embed_tokens.weight".to_owned(),
        norm: Norm::rms("model.embedding_norm.weight", hidden, eps),
        head: head(keys, tensors, Linear::new("lm_head.weight", hidden, sizes.vocab), tied)?,
    };
    let context = rope.context();
    Ok(sizes.decoder("lfm2", vec![rope], context, blocks, ends))
}

/// Index of short convolutions among the kinds of layers.
const CONV: usize = 1;

/// The kinds of all layers: as `layer_types` says, else attention in those that `full_attn_idxs` lists, else attention.
fn kinds(keys: &Keys<'_>, layers: usize) -> Result<Vec<usize>, ConfigError> {
    let listed: Option<Option<Vec<u64>>> =
        keys.opt_array("full_attn_idxs")?.map(|list| list.iter().map(serde_json::Value::as_u64).collect());
    let listed = match listed {
        Some(None) => return Err(keys.invalid("full_attn_idxs", "a list of the numbers of layers")),
        Some(Some(listed)) => Some(listed),
        None => None,
    };
    let default = |i: usize| match &listed {
        Some(listed) if !listed.contains(&(i as u64)) => CONV,
        _ => 0,
    };
    layer_types(keys, layers, &["full_attention", "conv"], default)
}

/// Elements between the two products of a feed-forward (`Lfm2MLP.__init__`).
fn intermediate(keys: &Keys<'_>) -> Result<usize, ConfigError> {
    let plain = keys.size_or("intermediate_size", 12_288)?;
    let size = keys.opt_size("block_ff_dim")?.unwrap_or(plain);
    let multiplier = keys.opt_positive("block_ffn_dim_multiplier")?;
    let multiplier = if keys.contains("block_ffn_dim_multiplier") { multiplier } else { Some(1.0) };
    let multiple = keys.size_or("block_multiple_of", 256)?;
    if !keys.bool_or("block_auto_adjust_ff_dim", true)? {
        return Ok(size);
    }
    let size = (2.0 * size as f64 / 3.0) as usize;
    let Some(multiplier) = multiplier else { return Ok(size) };
    let size = ((multiplier * size as f64) as usize).next_multiple_of(multiple);
    if !(1..1 << 31).contains(&size) {
        return Err(keys.invalid("block_ffn_dim_multiplier", "such that the feed-forward's width is below 2147483648"));
    }
    Ok(size)
}
