//! The operations of mixers: `forward/attention.rs`, `forward/latent.rs` and `forward/recurrent.rs` as lists.

use super::list::List;
use super::{Operation, Outputs, Run};
use crate::decoder::{
    Attention, Delta, Latent, LatentQueries, Linear, Mixer, Norm, Part, QkNormPlace, Rotary, ShortConv,
};
use crate::diff::exact::recurrent::Heads;

/// Queries or keys on their way.
struct Way<'a> {
    part: Part,
    /// `q`, `k` or `v`.
    letter: &'a str,
    heads: usize,
    norm: Option<&'a Norm>,
}

impl List {
    /// A mixer from its input `x` to the point `out`.
    pub(super) fn mixer(&mut self, mixer: &Mixer, x: &str, out: &str) {
        match mixer {
            Mixer::Attention(m) => self.attention(m, x, out),
            Mixer::Latent(m) => self.latent(m, x, out),
            Mixer::Delta(m) => self.delta(m, x, out),
            Mixer::Conv(m) => self.short_conv(m, x, out),
        }
    }

    /// Projections, norms, limits, rotation: returns where queries, keys and values come out.
    fn attention(&mut self, m: &Attention, x: &str, out: &str) {
        let norms = m.qk_norm.as_ref();
        let ways = [
            Way { part: Part::Query, letter: "q", heads: m.n_heads, norm: norms.map(|n| &n.q) },
            Way { part: Part::Key, letter: "k", heads: m.n_kv_heads, norm: norms.map(|n| &n.k) },
            Way { part: Part::Value, letter: "v", heads: m.n_kv_heads, norm: None },
        ];
        for way in &ways {
            self.heads(&format!("attn.hook_{}", way.letter), x, &m.inputs, way.part, [way.heads, m.head_dim]);
        }
        let gated = self.heads("attn.hook_gate", x, &m.inputs, Part::Gate, [m.n_heads, m.head_dim]);
        let place = norms.map(|norms| norms.place);
        let [q, k, v] = ways.map(|way| {
            let mut last = format!("attn.hook_{}", way.letter);
            if place == Some(QkNormPlace::BeforeRotation) {
                last = self.head_norm(&way, m, &last, m.clip.is_some());
            }
            if let Some(limit) = m.clip {
                let to = match (way.part, place) {
                    (Part::Value, _) => "attn.hook_v_clipped".to_owned(),
                    // The name belongs to what comes out of the norm.
                    (_, Some(QkNormPlace::AfterRotation)) => format!("=attn.{}_clipped", way.letter),
                    _ => format!("attn.hook_{}_normed", way.letter),
                };
                self.push(&to, &[&last], Operation::Clamp { limit });
                last = to;
            }
            if let (Some(Rotary { rope, first, pairing }), false) = (m.rotary, way.part == Part::Value) {
                let to = format!("attn.hook_rot_{}", way.letter);
                let (heads, head_dim) = (way.heads, m.head_dim);
                self.push(&to, &[&last], Operation::Rotate { rope, pairing, first, heads, head_dim });
                last = to;
            }
            if place == Some(QkNormPlace::AfterRotation) {
                last = self.head_norm(&way, m, &last, false);
            }
            last
        });
        let &Attention { n_heads, n_kv_heads, head_dim, scale, soft_cap, window, .. } = m;
        let scores = Operation::Scores { n_heads, n_kv_heads, head_dim, scale, soft_cap, window };
        self.push("attn.hook_attn_scores", &[&q, &k], scores);
        self.push(
            "attn.hook_pattern",
            &["attn.hook_attn_scores"],
            Operation::Pattern { n_heads, sinks: m.sinks.clone() },
        );
        let weigh = Operation::Weigh { n_heads, n_kv_heads, value_dim: head_dim };
        self.push("attn.hook_z", &["attn.hook_pattern", &v], weigh);
        if gated {
            self.push("attn.hook_z_gated", &["attn.hook_z", "attn.hook_gate"], Operation::SigmoidGate);
        }
        let z = if gated { "attn.hook_z_gated" } else { "attn.hook_z" };
        self.output(z, n_heads, head_dim, &m.o, out);
    }

    /// The norm of queries or keys, if they have one; `more` follows under the same name.
    fn head_norm(&mut self, way: &Way<'_>, m: &Attention, x: &str, more: bool) -> String {
        let Some(norm) = way.norm else { return x.to_owned() };
        let to = if more { format!("=attn.{}_norm", way.letter) } else { format!("attn.hook_{}_normed", way.letter) };
        let groups = way.heads * m.head_dim / norm.width;
        self.push(&to, &[x], Operation::Norm { norm: norm.clone(), groups });
        to
    }

    /// The output projection: as the sum of what heads give where that was recorded, else at once.
    fn output(&mut self, z: &str, n_heads: usize, value_dim: usize, linear: &Linear, out: &str) {
        let result = "attn.hook_result";
        self.push(result, &[z], Operation::HeadOutputs { n_heads, value_dim, linear: linear.clone() });
        self.push(out, &[result], Operation::SumOfHeads { n_heads, linear: linear.clone() });
        let result = self.name(result);
        if let Some(last) = self.ops.last_mut() {
            last.only_with = Some(result);
        }
        self.linear(out, z, linear);
    }

    fn latent(&mut self, m: &Latent, x: &str, out: &str) {
        let &Latent { n_heads, nope_dim: nope, rope_dim: rope, value_dim, kv_rank: rank, scale, .. } = m;
        match &m.q {
            LatentQueries::Direct(linear) => self.linear("attn.hook_q", x, linear),
            LatentQueries::Compressed { a, norm, b } => {
                self.linear("attn.hook_q_low", x, a);
                let whole = Operation::Norm { norm: norm.clone(), groups: 1 };
                self.push("attn.hook_q_low_normed", &["attn.hook_q_low"], whole);
                self.linear("attn.hook_q", "attn.hook_q_low_normed", b);
            }
        }
        let width = nope + rope;
        if let Some(q) = self.ops.last_mut() {
            q.shape = vec![n_heads, width];
        }
        self.linear("attn.hook_kv_low", x, &m.kv_a);
        let Rotary { rope: index, pairing, .. } = m.rotary;
        let rotate = |heads| Operation::Rotate { rope: index, pairing, first: 0, heads, head_dim: rope };
        self.push("=attn.q_rope", &["attn.hook_q"], Operation::Columns { width, first: nope, len: rope });
        self.push("attn.hook_rot_q", &["=attn.q_rope"], rotate(n_heads));
        let columns = |first, len| Operation::Columns { width: rank + rope, first, len };
        self.push("=attn.k_rope", &["attn.hook_kv_low"], columns(rank, rope));
        self.push("attn.hook_rot_k", &["=attn.k_rope"], rotate(1));
        self.push("=attn.low", &["attn.hook_kv_low"], columns(0, rank));
        self.push("attn.hook_latent", &["=attn.low"], Operation::Norm { norm: m.kv_norm.clone(), groups: 1 });
        // The pass brings queries to the compressed vectors instead, which is the same in another order.
        let of_heads = |first: usize, len: usize| {
            let run = |h: usize| Run { from: h * (nope + value_dim) + first, to: h * len, len };
            let from = vec![Outputs { linear: m.kv_b.clone(), runs: (0..n_heads).map(run).collect() }];
            Operation::Linear { from, width: n_heads * len }
        };
        self.push("=attn.q_nope", &["attn.hook_q"], Operation::Columns { width, first: 0, len: nope });
        self.push("=attn.k_nope", &["attn.hook_latent"], of_heads(0, nope));
        self.push("=attn.v", &["attn.hook_latent"], of_heads(nope, value_dim));
        let join = || Operation::Join { heads: n_heads, widths: [nope, rope] };
        self.push("=attn.q", &["=attn.q_nope", "attn.hook_rot_q"], join());
        self.push("=attn.k", &["=attn.k_nope", "attn.hook_rot_k"], join());
        let heads = n_heads;
        let scores =
            Operation::Scores { n_heads, n_kv_heads: heads, head_dim: width, scale, soft_cap: None, window: None };
        self.push("attn.hook_attn_scores", &["=attn.q", "=attn.k"], scores);
        self.push("attn.hook_pattern", &["attn.hook_attn_scores"], Operation::Pattern { n_heads, sinks: None });
        let weigh = Operation::Weigh { n_heads, n_kv_heads: heads, value_dim };
        self.push("attn.hook_z", &["attn.hook_pattern", "=attn.v"], weigh);
        self.output("attn.hook_z", n_heads, value_dim, &m.o, out);
    }

    fn delta(&mut self, m: &Delta, x: &str, out: &str) {
        let &Delta { k_heads, v_heads, k_dim, v_dim, kernel: taps, .. } = m;
        let heads = Heads { k_heads, v_heads, k_dim, v_dim };
        self.part("attn.hook_mixed", x, &m.inputs, Part::Mixed);
        self.heads("attn.hook_gate", x, &m.inputs, Part::Gate, [v_heads, v_dim]);
        self.part("=attn.decay_in", x, &m.inputs, Part::Decay);
        self.part("=attn.beta_in", x, &m.inputs, Part::Write);
        let conv = Operation::Convolution { tensor: m.conv.clone(), taps };
        self.push("attn.hook_conv", &["attn.hook_mixed"], conv);
        let decay = Operation::Decay { a_log: m.a_log.clone(), dt_bias: m.dt_bias.clone() };
        self.push("attn.hook_decay", &["=attn.decay_in"], decay);
        self.push("attn.hook_beta", &["=attn.beta_in"], Operation::Sigmoid);
        let inputs = ["attn.hook_conv", "attn.hook_decay", "attn.hook_beta"];
        self.push("attn.hook_state", &inputs, Operation::DeltaState { heads });
        self.push("attn.hook_z", &inputs, Operation::DeltaRead { heads });
        let norm = Operation::GatedNorm { norm: m.norm.clone() };
        self.push("attn.hook_z_gated", &["attn.hook_z", "attn.hook_gate"], norm);
        self.linear(out, "attn.hook_z_gated", &m.o);
    }

    fn short_conv(&mut self, m: &ShortConv, x: &str, out: &str) {
        self.part("attn.hook_mixed", x, &m.inputs, Part::Mixed);
        let (tensor, bias, taps) = (m.conv.clone(), m.conv_bias.clone(), m.kernel);
        self.push("attn.hook_z", &["attn.hook_mixed"], Operation::GatedConvolution { tensor, bias, taps });
        self.linear(out, "attn.hook_z", &m.o);
    }
}
