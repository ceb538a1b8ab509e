//! The shape that DeepSeek-V2 and V3 share: latent attention, dense layers first, then mixtures of experts with shared ones.

use super::Tensors;
use super::moe::Mixture;
use super::parts::{KvHeads, Sizes, eps};
use crate::config::{ConfigError, Keys, RopeDefaults, read_rope};
use crate::decoder::{Block, Decoder, Ffn, Latent, LatentQueries, Linear, Mixer, Norm, Pairing, Rotary, Router};

/// Added in the norms of compressed vectors, whatever the config says of other norms.
const LATENT_EPS: f32 = 1e-6;

/// What sets one of the families apart from the other.
pub(super) struct LatentModel<'a> {
    pub(super) family: &'static str,
    /// `max_position_embeddings` where the config has none.
    pub(super) context: usize,
    pub(super) pairing: Pairing,
    pub(super) mixture: &'a Mixture,
    /// How experts are chosen.
    pub(super) router: Router,
    /// Shared experts.
    pub(super) n_shared: usize,
    /// Layers before the first with experts.
    pub(super) dense_layers: usize,
    /// Whether dense feed-forwards and shared experts have biases.
    pub(super) mlp_bias: bool,
}

/// The sizes of latent attention.
struct Heads {
    nope: usize,
    rope: usize,
    value: usize,
    kv_rank: usize,
    q_rank: Option<usize>,
    scale: f32,
    biased: bool,
}

impl Heads {
    fn read(keys: &Keys<'_>) -> Result<Heads, ConfigError> {
        let q_rank = keys.opt_size("q_lora_rank")?;
        let q_rank = if keys.contains("q_lora_rank") { q_rank } else { Some(1536) };
        let (nope, rope) = (keys.size_or("qk_nope_head_dim", 128)?, keys.size_or("qk_rope_head_dim", 64)?);
        let heads = Heads {
            nope,
            rope,
            value: keys.size_or("v_head_dim", 128)?,
            kv_rank: keys.size_or("kv_lora_rank", 512)?,
            q_rank,
            scale: (scale(keys, nope + rope)?) as f32,
            biased: keys.bool_or("attention_bias", false)?,
        };
        for (key, size, most) in [
            ("qk_nope_head_dim", heads.nope, MOST),
            ("qk_rope_head_dim", heads.rope, MOST),
            ("v_head_dim", heads.value, MOST),
            ("kv_lora_rank", heads.kv_rank, MOST),
        ] {
            if size > most {
                return Err(keys.invalid(key, format!("a whole number from 1 to {most}")));
            }
        }
        if !heads.rope.is_multiple_of(2) {
            return Err(keys.invalid("qk_rope_head_dim", "an even number"));
        }
        // What the others say already.
        keys.ignore(&["head_dim", "qk_head_dim"]);
        Ok(heads)
    }
}

/// Elements of a head at the most.
const MOST: usize = 4096;

/// `1/√dim`, and with YaRN's `mscale_all_dim` twice more what it stretches scores by (`yarn_apply_mscale`).
fn scale(keys: &Keys<'_>, dim: usize) -> Result<f64, ConfigError> {
    let plain = 1.0 / (dim as f64).sqrt();
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(rope) = keys.opt_object(key)?.filter(|rope| !rope.is_empty()) else { continue };
        let kind = rope.opt_str("rope_type")?.or(rope.opt_str("type")?);
        let all_dim = rope.opt_number("mscale_all_dim")?.filter(|m| *m != 0.0);
        return match (kind, all_dim) {
            (None | Some("default"), _) | (_, None) => Ok(plain),
            (_, Some(all_dim)) => {
                let factor = rope.positive("factor")?;
                let stretch = if factor <= 1.0 { 1.0 } else { 0.1 * all_dim * libm::log(factor) + 1.0 };
                Ok(plain * stretch * stretch)
            }
        };
    }
    Ok(plain)
}

impl LatentModel<'_> {
    /// Reads the keys that both families share.
    pub(super) fn describe(&self, keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
        let heads = Heads::read(keys)?;
        // Heads are as wide as the keys of latent attention say; what `head_dim` holds is the rotated part of them.
        let sizes = Sizes::read(keys, KvHeads::AsQueryHeads, Some(heads.rope.max(4)))?;
        if sizes.n_kv_heads != sizes.n_heads {
            let n = sizes.n_heads;
            return Err(keys.invalid("num_key_value_heads", format!("num_attention_heads ({n}) in this family")));
        }
        // Every layer has experts behind the dense ones.
        if keys.size_or("moe_layer_freq", 1)? != 1 {
            return Err(keys.invalid("moe_layer_freq", "1 in this family"));
        }
        let intermediate = keys.size("intermediate_size")?;
        let eps = eps(keys, "rms_norm_eps", 1e-6)?;
        let max_positions = keys.size_or("max_position_embeddings", self.context)?;
        let rope = read_rope(keys, self.family, heads.rope, max_positions, RopeDefaults::default())?;
        let norm = |name: &str, width| Norm::rms(format!("{name}.weight"), width, eps);
        let block = |i: usize| {
            let name = |rest: &str| format!("model.layers.{i}.{rest}");
            let ffn = if i < self.dense_layers {
                Ffn::Gated(self.mixture.shared(&name("mlp"), intermediate, self.mlp_bias))
            } else {
                Ffn::Experts(Box::new(self.mixture.deepseek(&name("mlp"), &self.router, self.n_shared, self.mlp_bias)))
            };
            let mixer = self.attention(&heads, &sizes, &name("self_attn"));
            Block::pre_norm(
                norm(&name("input_layernorm"), sizes.hidden),
                Mixer::Latent(Box::new(mixer)),
                norm(&name("post_attention_layernorm"), sizes.hidden),
                ffn,
            )
        };
        let blocks = (0..sizes.layers).map(block).collect();
        let ends = sizes.ends(keys, tensors, norm("model.norm", sizes.hidden), false)?;
        let context = rope.context();
        Ok(sizes.decoder(self.family, vec![rope], context, blocks, ends))
    }

    fn attention(&self, heads: &Heads, sizes: &Sizes, name: &str) -> Latent {
        let &Heads { nope, rope, value, kv_rank, q_rank, scale, biased } = heads;
        let (n_heads, hidden) = (sizes.n_heads, sizes.hidden);
        let linear = |which: &str, in_features, out_features| {
            Linear::new(format!("{name}.{which}.weight"), in_features, out_features)
        };
        let norm = |which: &str, width| Norm::rms(format!("{name}.{which}.weight"), width, LATENT_EPS);
        let q_width = n_heads * (nope + rope);
        let q = match q_rank {
            None => LatentQueries::Direct(linear("q_proj", hidden, q_width)),
            Some(rank) => LatentQueries::Compressed {
                a: linear("q_a_proj", hidden, rank).biased(biased),
                norm: norm("q_a_layernorm", rank),
                b: linear("q_b_proj", rank, q_width),
            },
        };
        Latent {
            n_heads,
            nope_dim: nope,
            rope_dim: rope,
            value_dim: value,
            kv_rank,
            scale,
            q,
            kv_a: linear("kv_a_proj_with_mqa", hidden, kv_rank + rope).biased(biased),
            kv_norm: norm("kv_a_layernorm", kv_rank),
            kv_b: linear("kv_b_proj", kv_rank, n_heads * (nope + value)),
            rotary: Rotary { rope: 0, first: nope, pairing: self.pairing },
            o: linear("o_proj", n_heads * value, hidden).biased(biased),
        }
    }
}
