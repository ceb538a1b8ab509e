//! Which points a model has, in the order in which they are computed, and the shapes of their values.

use super::{Point, Points};
use crate::decoder::{
    Attention, Block, Decoder, Delta, Experts, Ffn, Flow, Latent, LatentQueries, Mixer, QkNormPlace, Scores,
};

/// A point of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointInfo {
    /// Its name: `blocks.3.attn.hook_q`.
    pub name: String,
    /// What it is.
    pub point: Point,
    /// Its block, if it is in one.
    pub block: Option<usize>,
    /// What a row has.
    pub shape: Shape,
}

/// The shape of a point's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `[row, …]`, with these dimensions after the first.
    Rows(Vec<usize>),
    /// `[heads, row, key]`, with so many heads.
    Keys(usize),
}

impl Shape {
    /// Elements of a row; where they are as many as there are positions, for `keys` of those.
    #[must_use]
    pub fn row_len(&self, keys: usize) -> usize {
        match self {
            Shape::Rows(dims) => dims.iter().product(),
            Shape::Keys(heads) => heads * keys,
        }
    }

    /// Heads, where the values of a row are those of heads: all but the last dimension.
    #[must_use]
    pub fn heads(&self) -> Option<usize> {
        match self {
            Shape::Rows(dims) => (dims.len() > 1).then(|| dims[0]),
            Shape::Keys(heads) => Some(*heads),
        }
    }

    /// As people write it, with `row` and `key` for what depends on the text.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Shape::Rows(dims) => {
                let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
                format!("[row, {}]", dims.join(", "))
            }
            Shape::Keys(heads) => format!("[{heads}, row, key]"),
        }
    }
}

/// Every point of `decoder`, in the order of the forward pass.
#[must_use]
pub fn catalog(decoder: &Decoder) -> Vec<PointInfo> {
    let hidden = decoder.hidden_size;
    let mut all = List { points: Vec::new(), block: None };
    all.rows(Point::Embed, &[hidden]);
    if decoder.embed.positions.is_some() {
        all.rows(Point::PosEmbed, &[hidden]);
    }
    for (i, block) in decoder.blocks.iter().enumerate() {
        all.block = Some(i);
        all.of_block(block, decoder);
    }
    all.block = None;
    all.norm([Point::LnFinalScale, Point::LnFinalNormalized], hidden);
    all.rows(Point::LnFinalOut, &[hidden]);
    all.rows(Point::Logits, &[decoder.vocab_size]);
    all.points
}

/// The kinds of points that `decoder` has.
#[must_use]
pub fn points_of(decoder: &Decoder) -> Points {
    catalog(decoder).into_iter().map(|info| info.point).collect()
}

struct List {
    points: Vec<PointInfo>,
    block: Option<usize>,
}

impl List {
    fn push(&mut self, point: Point, shape: Shape) {
        self.points.push(PointInfo { name: point.name(self.block), point, block: self.block, shape });
    }

    fn rows(&mut self, point: Point, dims: &[usize]) {
        self.push(point, Shape::Rows(dims.to_vec()));
    }

    fn norm(&mut self, [scale, normalized]: [Point; 2], hidden: usize) {
        self.rows(scale, &[1]);
        self.rows(normalized, &[hidden]);
    }

    fn of_block(&mut self, block: &Block, decoder: &Decoder) {
        let hidden = decoder.hidden_size;
        self.rows(Point::ResidPre, &[hidden]);
        if block.mixer_norm.is_some() {
            self.norm([Point::Ln1Scale, Point::Ln1Normalized], hidden);
            self.rows(Point::Ln1Out, &[hidden]);
        }
        match &block.mixer {
            Mixer::Attention(mixer) => self.attention(mixer, hidden),
            Mixer::Latent(mixer) => self.latent(mixer, hidden),
            Mixer::Delta(mixer) => self.delta(mixer),
            Mixer::Conv(mixer) => {
                self.rows(Point::Mixed, &[3 * mixer.channels]);
                self.rows(Point::Z, &[mixer.channels]);
            }
        }
        if mixer_out_is_apart(block) {
            self.rows(Point::MixerOut, &[hidden]);
        }
        if block.mixer_post_norm.is_some() {
            self.norm([Point::Ln1PostScale, Point::Ln1PostNormalized], hidden);
        }
        if block.flow == Flow::Serial {
            self.rows(Point::AttnOut, &[hidden]);
            self.rows(Point::ResidMid, &[hidden]);
        }
        if block.ffn_norm.is_some() {
            self.norm([Point::Ln2Scale, Point::Ln2Normalized], hidden);
            self.rows(Point::Ln2Out, &[hidden]);
        }
        if block.flow == Flow::Parallel {
            self.rows(Point::AttnOut, &[hidden]);
        }
        match &block.ffn {
            Ffn::Gated(ffn) => {
                for point in [Point::Pre, Point::PreLinear, Point::Post] {
                    self.rows(point, &[ffn.intermediate]);
                }
            }
            Ffn::Plain(ffn) => {
                for point in [Point::Pre, Point::Post] {
                    self.rows(point, &[ffn.up.out_features]);
                }
            }
            Ffn::Experts(experts) => self.experts(experts, hidden),
        }
        if ffn_out_is_apart(block) {
            self.rows(Point::FfnOut, &[hidden]);
        }
        if block.ffn_post_norm.is_some() {
            self.norm([Point::Ln2PostScale, Point::Ln2PostNormalized], hidden);
        }
        self.rows(Point::MlpOut, &[hidden]);
        self.rows(Point::ResidPost, &[hidden]);
    }

    fn attention(&mut self, mixer: &Attention, hidden: usize) {
        let (q, kv) = ([mixer.n_heads, mixer.head_dim], [mixer.n_kv_heads, mixer.head_dim]);
        self.rows(Point::Q, &q);
        self.rows(Point::K, &kv);
        self.rows(Point::V, &kv);
        if mixer.is_gated() {
            self.rows(Point::Gate, &q);
        }
        let place = normed_place(mixer);
        if place == Some(QkNormPlace::BeforeRotation) {
            self.rows(Point::QNormed, &q);
            self.rows(Point::KNormed, &kv);
        }
        if mixer.clip.is_some() {
            self.rows(Point::VClipped, &kv);
        }
        if mixer.rotary.is_some() {
            self.rows(Point::RotQ, &q);
            self.rows(Point::RotK, &kv);
        }
        if place == Some(QkNormPlace::AfterRotation) {
            self.rows(Point::QNormed, &q);
            self.rows(Point::KNormed, &kv);
        }
        self.push(Point::AttnScores, Shape::Keys(mixer.n_heads));
        self.push(Point::Pattern, Shape::Keys(mixer.n_heads));
        self.rows(Point::Z, &q);
        if mixer.is_gated() {
            self.rows(Point::ZGated, &q);
        }
        self.rows(Point::Result, &[mixer.n_heads, hidden]);
    }

    fn latent(&mut self, mixer: &Latent, hidden: usize) {
        if let LatentQueries::Compressed { a, .. } = &mixer.q {
            self.rows(Point::QLow, &[a.out_features]);
            self.rows(Point::QLowNormed, &[a.out_features]);
        }
        self.rows(Point::Q, &[mixer.n_heads, mixer.nope_dim + mixer.rope_dim]);
        self.rows(Point::KvLow, &[mixer.kv_rank + mixer.rope_dim]);
        self.rows(Point::RotQ, &[mixer.n_heads, mixer.rope_dim]);
        self.rows(Point::RotK, &[1, mixer.rope_dim]);
        self.rows(Point::Latent, &[mixer.kv_rank]);
        self.push(Point::AttnScores, Shape::Keys(mixer.n_heads));
        self.push(Point::Pattern, Shape::Keys(mixer.n_heads));
        self.rows(Point::Z, &[mixer.n_heads, mixer.value_dim]);
        self.rows(Point::Result, &[mixer.n_heads, hidden]);
    }

    fn delta(&mut self, mixer: &Delta) {
        let z = [mixer.v_heads, mixer.v_dim];
        self.rows(Point::Mixed, &[mixer.channels()]);
        self.rows(Point::Gate, &z);
        self.rows(Point::Conv, &[mixer.channels()]);
        self.rows(Point::Decay, &[mixer.v_heads]);
        self.rows(Point::Beta, &[mixer.v_heads]);
        self.rows(Point::State, &[mixer.v_heads, mixer.k_dim, mixer.v_dim]);
        self.rows(Point::Z, &z);
        self.rows(Point::ZGated, &z);
    }

    fn experts(&mut self, experts: &Experts, hidden: usize) {
        self.rows(Point::RouterLogits, &[experts.n_experts]);
        if scores_all(experts) {
            self.rows(Point::ExpertWeights, &[experts.n_experts]);
        }
        self.rows(Point::ExpertIndices, &[experts.router.top_k]);
        self.rows(Point::ChosenWeights, &[experts.router.top_k]);
        if let Some(shared) = &experts.shared {
            for point in [Point::SharedPre, Point::SharedPreLinear, Point::SharedPost] {
                self.rows(point, &[shared.ffn.intermediate]);
            }
            self.rows(Point::SharedOut, &[hidden]);
            self.rows(Point::ExpertsOut, &[hidden]);
        }
    }
}

/// Whether every expert gets a score before the choice.
pub(crate) fn scores_all(experts: &Experts) -> bool {
    matches!(experts.router.scores, Scores::Softmax | Scores::Sigmoid)
}

/// Where queries and keys have taken on what norms and clips make of them.
pub(crate) fn normed_place(mixer: &Attention) -> Option<QkNormPlace> {
    let clipped = mixer.clip.map(|_| QkNormPlace::BeforeRotation);
    mixer.qk_norm.as_ref().map(|norm| norm.place).or(clipped)
}

/// Whether something becomes of a mixer's output before it is added.
pub(crate) fn mixer_out_is_apart(block: &Block) -> bool {
    block.mixer_post_norm.is_some() || block.residual_scale != 1.0
}

/// The same of a feed-forward's.
pub(crate) fn ffn_out_is_apart(block: &Block) -> bool {
    block.ffn_post_norm.is_some() || block.residual_scale != 1.0
}
