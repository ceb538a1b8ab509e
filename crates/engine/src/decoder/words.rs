//! A description in words, for people.

use super::{
    Attention, Block, Decoder, Experts, Ffn, Flow, Gated, Latent, LatentQueries, Mixer, Norm, NormKind, Pairing, Part,
    QkNormPlace, Scores,
};
use rheostat_kernels::Activation;

impl Block {
    /// What the block does, such as "RMS norm, attention; RMS norm, gated feed-forward (silu)".
    #[must_use]
    pub fn words(&self) -> String {
        let mixer = sublayer(self.mixer_norm.as_ref(), &self.mixer.words(), self.mixer_post_norm.as_ref());
        let ffn = sublayer(self.ffn_norm.as_ref(), &self.ffn.words(), self.ffn_post_norm.as_ref());
        let mut words = match self.flow {
            Flow::Serial => format!("{mixer}; {ffn}"),
            Flow::Parallel if self.ffn_norm.is_some() => format!("{mixer}, and beside it {ffn}"),
            Flow::Parallel => format!("{mixer}, and beside it, on the same input, {ffn}"),
        };
        let biased: Vec<&str> = self
            .linears()
            .filter(|linear| linear.bias.is_some())
            .map(|linear| linear.module().rsplit('.').next().unwrap_or_default())
            .collect();
        if !biased.is_empty() {
            words += &format!("; biases on {}", biased.join(", "));
        }
        if self.residual_scale != 1.0 {
            words += &format!("; what is added is multiplied by {}", self.residual_scale);
        }
        words
    }
}

fn sublayer(before: Option<&Norm>, what: &str, after: Option<&Norm>) -> String {
    let before = before.map_or_else(String::new, |norm| format!("{}, ", norm.words()));
    let after = after.map_or_else(String::new, |norm| format!(", {} of the result", norm.words()));
    format!("{before}{what}{after}")
}

impl Norm {
    fn words(&self) -> String {
        let kind = match self.kind {
            NormKind::Rms => "RMS norm",
            NormKind::Layer => "layer norm",
        };
        let more = match (self.weights.is_empty(), self.offset != 0.0) {
            (true, _) => " without weights",
            (false, true) => " (1 + weight)",
            (false, false) => "",
        };
        format!("{kind}{more}")
    }
}

impl Mixer {
    fn words(&self) -> String {
        match self {
            Mixer::Attention(attention) => attention.words(),
            Mixer::Latent(latent) => latent.words(),
            Mixer::Delta(delta) => format!(
                "linear attention (gated delta rule, {} heads of {} × {}, convolution over {})",
                delta.v_heads, delta.k_dim, delta.v_dim, delta.kernel
            ),
            Mixer::Conv(conv) => format!("short convolution over {} positions between gates", conv.kernel),
        }
    }
}

impl Attention {
    fn words(&self) -> String {
        let mut words = format!("attention, {} heads over {} of {}", self.n_heads, self.n_kv_heads, self.head_dim);
        if let Some(norm) = &self.qk_norm {
            let over =
                if norm.q.width == self.head_dim { "each query and key head" } else { "queries and keys as a whole" };
            let when = match norm.place {
                QkNormPlace::BeforeRotation => "",
                QkNormPlace::AfterRotation => " after the rotation",
            };
            words += &format!(", {} over {over}{when}", norm.q.words());
        }
        words += match self.rotary.map(|rotary| rotary.pairing) {
            None => ", no rotation",
            Some(Pairing::Half) => "",
            Some(Pairing::Interleaved) => ", interleaved rotation",
        };
        if let Some(window) = self.window {
            words += &format!(", window {window}");
        }
        if let Some(cap) = self.soft_cap {
            words += &format!(", scores capped at {cap}");
        }
        if let Some(clip) = self.clip {
            words += &format!(", queries, keys and values within ±{clip}");
        }
        if self.sinks.is_some() {
            words += ", sinks";
        }
        if self.inputs.iter().flat_map(|p| &p.pieces).any(|piece| piece.part == Part::Gate) {
            words += ", gated by a sigmoid";
        }
        words
    }
}

impl Latent {
    fn words(&self) -> String {
        let queries = match &self.q {
            LatentQueries::Direct(_) => String::new(),
            LatentQueries::Compressed { a, .. } => format!(", queries through {}", a.out_features),
        };
        format!(
            "latent attention, {} heads of {} + {} over a cache of {} + {} a position{queries}",
            self.n_heads, self.nope_dim, self.rope_dim, self.kv_rank, self.rope_dim
        )
    }
}

impl Ffn {
    fn words(&self) -> String {
        match self {
            Ffn::Gated(gated) => format!("gated feed-forward of {} ({})", gated.intermediate, name(gated.act)),
            Ffn::Plain(plain) => format!("plain feed-forward of {} ({})", plain.up.out_features, name(plain.act)),
            Ffn::Experts(experts) => experts.words(),
        }
    }
}

impl Experts {
    fn words(&self) -> String {
        let router = &self.router;
        let scores = match router.scores {
            Scores::Softmax => "softmax",
            Scores::Sigmoid => "sigmoid",
            Scores::SoftmaxOfChosen => "softmax of the chosen",
            Scores::SparseMixer { .. } => "sparse mixer",
        };
        let groups =
            router.groups.map_or_else(String::new, |g| format!(" from {} of {} groups", g.top_groups, g.n_groups));
        let Gated { act, intermediate, .. } = &self.expert;
        let shared = self.shared.as_ref().map_or_else(String::new, |shared| {
            let gate = if shared.gate.is_some() { " with a gate" } else { "" };
            format!(", and a shared one of {}{gate}", shared.ffn.intermediate)
        });
        format!(
            "{} of {} experts{groups} by {scores}, each of {intermediate} ({}){shared}",
            router.top_k,
            self.n_experts,
            name(*act)
        )
    }
}

/// A non-linearity as `config.json` calls it.
fn name(act: Activation) -> &'static str {
    match act {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::Relu => "relu",
        Activation::Relu2 => "relu2",
        Activation::Sigmoid => "sigmoid",
        Activation::Xielu { .. } => "xielu",
        Activation::ClampedSwiglu { .. } => "clamped swiglu",
    }
}

impl Decoder {
    /// The kinds of blocks in order of their first layer: words, and the layers that are so.
    #[must_use]
    pub fn kinds(&self) -> Vec<(String, Vec<usize>)> {
        let mut kinds: Vec<(String, Vec<usize>)> = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            let words = block.words();
            match kinds.iter_mut().find(|(known, _)| *known == words) {
                Some((_, layers)) => layers.push(i),
                None => kinds.push((words, vec![i])),
            }
        }
        kinds
    }
}
