//! The shape that Qwen3-Next and Qwen3.5 share: linear attention by the gated delta rule in most layers, gated attention in the others,
//! and norms whose weights are stored as differences from 1.

use super::Tensors;
use super::dense::{Biases, Dense, NormStyle};
use super::parts::{KvHeads, eps, layer_types, must_say};
use crate::config::{ConfigError, Keys, RopeDefaults};
use crate::decoder::{Attention, Decoder, Delta, Linear, Mixer, Norm, Part, Piece, Projection};

/// Index of linear attention among the kinds of layers.
const LINEAR: usize = 1;

/// The sizes of linear attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    /// Heads of queries and keys, and of values.
    pub(super) k_heads: usize,
    pub(super) v_heads: usize,
    /// Elements of a query and key, and of a value.
    pub(super) k_dim: usize,
    pub(super) v_dim: usize,
    /// Positions that the convolution sees.
    kernel: usize,
}

impl Heads {
    /// Elements of a row's queries, and of its keys.
    pub(super) fn k_width(&self) -> usize {
        self.k_heads * self.k_dim
    }

    /// Elements of a row's values.
    pub(super) fn v_width(&self) -> usize {
        self.v_heads * self.v_dim
    }

    fn read(keys: &Keys<'_>) -> Result<Heads, ConfigError> {
        let size = |key: &str, default, most| match keys.size_or(key, default)? {
            n if n > most => Err(keys.invalid(key, format!("a whole number from 1 to {most}"))),
            n => Ok(n),
        };
        let heads = Heads {
            k_heads: size("linear_num_key_heads", 16, 4096)?,
            v_heads: size("linear_num_value_heads", 32, 4096)?,
            k_dim: size("linear_key_head_dim", 128, 4096)?,
            v_dim: size("linear_value_head_dim", 128, 4096)?,
            kernel: size("linear_conv_kernel_dim", 4, 64)?,
        };
        if !heads.v_heads.is_multiple_of(heads.k_heads) {
            let expected = format!("a multiple of linear_num_key_heads ({})", heads.k_heads);
            return Err(keys.invalid("linear_num_value_heads", expected));
        }
        Ok(heads)
    }
}

/// Describes a model with dense feed-forwards. `inputs` gives the projections of linear attention in the module of a name, from rows of so many
/// elements.
pub(super) fn describe(
    family: &'static str,
    kv_heads: usize,
    keys: &Keys<'_>,
    tensors: &dyn Tensors,
    inputs: impl Fn(&str, usize, &Heads) -> Vec<Projection>,
) -> Result<Decoder, ConfigError> {
    // The convolution's, which the kernels know as no other.
    must_say(keys, "hidden_act", "silu")?;
    keys.must_be("use_sliding_window", false)?;
    keys.must_be("attn_output_gate", true)?;
    let heads = Heads::read(keys)?;
    let layers = keys.layers("num_hidden_layers")?;
    let interval = keys.size_or("full_attention_interval", 4)?;
    let default = |i: usize| if (i + 1).is_multiple_of(interval) { 0 } else { LINEAR };
    let kinds = layer_types(keys, layers, &["full_attention", "linear_attention"], default)?;
    let eps = eps(keys, "rms_norm_eps", 1e-6)?;
    let biased = keys.bool_or("attention_bias", false)?;
    let dense = Dense {
        family,
        kv_heads: KvHeads::Fixed(kv_heads),
        head_dim: Some(256),
        context: 32_768,
        biases: Biases { qkv: biased, o: biased, mlp: false },
        qk_norm: Some(["q_norm", "k_norm"]),
        norm: NormStyle::ZeroCentred,
        rope: RopeDefaults { theta: 1e4, partial: Some(0.25) },
        ..Dense::default()
    };
    let mut decoder = dense.describe(keys, tensors, |_| None)?;
    let hidden = decoder.hidden_size;
    for (i, block) in decoder.blocks.iter_mut().enumerate() {
        match &mut block.mixer {
            mixer if kinds[i] == LINEAR => {
                let name = format!("model.layers.{i}.linear_attn");
                *mixer = Mixer::Delta(Box::new(delta(&name, hidden, &heads, eps, inputs(&name, hidden, &heads))));
            }
            Mixer::Attention(mixer) => gate(mixer),
            _ => {}
        }
    }
    Ok(decoder)
}

/// Each head's queries are followed by what its result is multiplied by.
fn gate(mixer: &mut Attention) {
    let (n_heads, head_dim) = (mixer.n_heads, mixer.head_dim);
    let q = mixer.inputs[0].linear.clone();
    let q = Linear { out_features: 2 * n_heads * head_dim, ..q };
    mixer.inputs[0] = Projection::grouped(q, n_heads, &[(Part::Query, head_dim), (Part::Gate, head_dim)]);
}

fn delta(name: &str, hidden: usize, heads: &Heads, eps: f32, inputs: Vec<Projection>) -> Delta {
    Delta {
        k_heads: heads.k_heads,
        v_heads: heads.v_heads,
        k_dim: heads.k_dim,
        v_dim: heads.v_dim,
        kernel: heads.kernel,
        inputs,
        conv: format!("{name}.conv1d.weight"),
        a_log: format!("{name}.A_log"),
        dt_bias: format!("{name}.dt_bias"),
        // Plain, other than those of the blocks.
        norm: Norm::rms(format!("{name}.norm.weight"), heads.v_dim, eps),
        o: Linear::new(format!("{name}.out_proj.weight"), heads.v_width(), hidden),
    }
}

/// Projections that lie together by heads of keys: queries, keys, values and gates in one tensor, what decides writing and decay in
/// another (`fix_query_key_value_ordering`).
pub(super) fn by_heads(name: &str, hidden: usize, heads: &Heads) -> Vec<Projection> {
    let (k_width, v_width) = (heads.k_width(), heads.v_width());
    let each = heads.v_heads / heads.k_heads;
    let (k, v) = (heads.k_dim, each * heads.v_dim);
    let pieces = (0..heads.k_heads).flat_map(|g| {
        let from = g * (2 * k + 2 * v);
        [
            Piece { part: Part::Mixed, from, to: g * k, len: k },
            Piece { part: Part::Mixed, from: from + k, to: k_width + g * k, len: k },
            Piece { part: Part::Mixed, from: from + 2 * k, to: 2 * k_width + g * v, len: v },
            Piece { part: Part::Gate, from: from + 2 * k + v, to: g * v, len: v },
        ]
    });
    let qkvz = Linear::new(format!("{name}.in_proj_qkvz.weight"), hidden, 2 * k_width + 2 * v_width);
    let ba = Linear::new(format!("{name}.in_proj_ba.weight"), hidden, 2 * heads.v_heads);
    vec![
        Projection { pieces: pieces.collect(), linear: qkvz },
        Projection::grouped(ba, heads.k_heads, &[(Part::Write, each), (Part::Decay, each)]),
    ]
}

/// Projections each in a tensor of its own.
pub(super) fn apart(name: &str, hidden: usize, heads: &Heads) -> Vec<Projection> {
    let part = |part, which: &str, width| {
        Projection::whole(Linear::new(format!("{name}.in_proj_{which}.weight"), hidden, width), part)
    };
    vec![
        part(Part::Mixed, "qkv", 2 * heads.k_width() + heads.v_width()),
        part(Part::Gate, "z", heads.v_width()),
        part(Part::Write, "b", heads.v_heads),
        part(Part::Decay, "a", heads.v_heads),
    ]
}
