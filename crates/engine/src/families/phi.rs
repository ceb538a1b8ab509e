//! Phi-1, Phi-1.5 and Phi-2: one layer norm for attention and feed-forward side by side, biases everywhere, a part of each head rotated.
//!
//! Mirrors `modeling_phi.py`. Switches: `qk_layernorm` (a layer norm on every query and key head), `partial_rotary_factor`, `head_dim`.

use super::Tensors;
use super::dense::{Biases, Dense, FfnStyle, NormStyle, Norms};
use super::parts::{attentions, no_own_head_dim};
use crate::config::{ConfigError, Keys, RopeDefaults};
use crate::decoder::{Decoder, Head, Linear, Norm, QkNorm, QkNormPlace};

pub(super) fn describe(keys: &Keys<'_>, tensors: &dyn Tensors) -> Result<Decoder, ConfigError> {
    let dense = Dense {
        family: "phi",
        biases: Biases { qkv: true, o: true, mlp: true },
        norm: NormStyle::Layer { bias: true },
        norms: Norms::PARALLEL,
        eps: ("layer_norm_eps", 1e-5),
        rope: RopeDefaults { theta: 10_000.0, partial: Some(0.5) },
        ffn: FfnStyle::Plain(["fc1", "fc2"]),
        act: "gelu_new",
        ..Dense::default()
    };
    let mut decoder = dense.describe(keys, tensors, |_| None)?;
    let (hidden, vocab, eps) = (decoder.hidden_size, decoder.vocab_size, decoder.norm.eps);
    let qk_norm = keys.bool_or("qk_layernorm", false)?;
    if qk_norm {
        // The norms are of this width, whatever that of a head is.
        no_own_head_dim(keys)?;
    }
    for (i, mixer) in attentions(&mut decoder) {
        let name = |last: &str| format!("model.layers.{i}.self_attn.{last}");
        mixer.o = Linear::new(name("dense.weight"), mixer.width(), hidden).biased(true);
        let norm = |last: &str| Norm::layer(name(last), true, mixer.head_dim, eps);
        let place = QkNormPlace::BeforeRotation;
        mixer.qk_norm = qk_norm.then(|| QkNorm { q: norm("q_layernorm"), k: norm("k_layernorm"), place });
    }
    decoder.norm = Norm::layer("model.final_layernorm", true, hidden, eps);
    decoder.head = match decoder.head {
        Head::Own(own) => Head::Own(own.biased(true)),
        // A head that shares the table has a bias nevertheless.
        Head::Tied => Head::Own(Linear::new(decoder.embed.tensor.as_str(), hidden, vocab).with_bias("lm_head.bias")),
    };
    Ok(decoder)
}
