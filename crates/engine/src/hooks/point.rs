//! The points of the forward pass, and their names.

use std::fmt;

/// A place of the forward pass at which values can be seen, and for the most part changed. `docs/hooks.md` says what each holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "their names say it: see `Point::name`, and docs/hooks.md")]
pub enum Point {
    Embed,
    PosEmbed,
    ResidPre,
    Ln1Scale,
    Ln1Normalized,
    Ln1Out,
    QLow,
    QLowNormed,
    Q,
    K,
    V,
    Gate,
    KvLow,
    Mixed,
    Conv,
    QNormed,
    KNormed,
    VClipped,
    RotQ,
    RotK,
    Latent,
    Decay,
    Beta,
    State,
    AttnScores,
    Pattern,
    Z,
    ZGated,
    Result,
    MixerOut,
    Ln1PostScale,
    Ln1PostNormalized,
    AttnOut,
    ResidMid,
    Ln2Scale,
    Ln2Normalized,
    Ln2Out,
    RouterLogits,
    ExpertWeights,
    ExpertIndices,
    ChosenWeights,
    SharedPre,
    SharedPreLinear,
    SharedPost,
    SharedOut,
    ExpertsOut,
    Pre,
    PreLinear,
    Post,
    FfnOut,
    Ln2PostScale,
    Ln2PostNormalized,
    MlpOut,
    ResidPost,
    LnFinalScale,
    LnFinalNormalized,
    LnFinalOut,
    Logits,
}

use Point::*;

/// Every point with its name, within its block if it is in one.
const NAMES: [(Point, &str); 58] = [
    (Embed, "hook_embed"),
    (PosEmbed, "hook_pos_embed"),
    (ResidPre, "hook_resid_pre"),
    (Ln1Scale, "ln1.hook_scale"),
    (Ln1Normalized, "ln1.hook_normalized"),
    (Ln1Out, "ln1.hook_out"),
    (QLow, "attn.hook_q_low"),
    (QLowNormed, "attn.hook_q_low_normed"),
    (Q, "attn.hook_q"),
    (K, "attn.hook_k"),
    (V, "attn.hook_v"),
    (Gate, "attn.hook_gate"),
    (KvLow, "attn.hook_kv_low"),
    (Mixed, "attn.hook_mixed"),
    (Conv, "attn.hook_conv"),
    (QNormed, "attn.hook_q_normed"),
    (KNormed, "attn.hook_k_normed"),
    (VClipped, "attn.hook_v_clipped"),
    (RotQ, "attn.hook_rot_q"),
    (RotK, "attn.hook_rot_k"),
    (Latent, "attn.hook_latent"),
    (Decay, "attn.hook_decay"),
    (Beta, "attn.hook_beta"),
    (State, "attn.hook_state"),
    (AttnScores, "attn.hook_attn_scores"),
    (Pattern, "attn.hook_pattern"),
    (Z, "attn.hook_z"),
    (ZGated, "attn.hook_z_gated"),
    (Result, "attn.hook_result"),
    (MixerOut, "attn.hook_out"),
    (Ln1PostScale, "ln1_post.hook_scale"),
    (Ln1PostNormalized, "ln1_post.hook_normalized"),
    (AttnOut, "hook_attn_out"),
    (ResidMid, "hook_resid_mid"),
    (Ln2Scale, "ln2.hook_scale"),
    (Ln2Normalized, "ln2.hook_normalized"),
    (Ln2Out, "ln2.hook_out"),
    (RouterLogits, "mlp.hook_router_logits"),
    (ExpertWeights, "mlp.hook_expert_weights"),
    (ExpertIndices, "mlp.hook_expert_indices"),
    (ChosenWeights, "mlp.hook_chosen_weights"),
    (SharedPre, "mlp.shared.hook_pre"),
    (SharedPreLinear, "mlp.shared.hook_pre_linear"),
    (SharedPost, "mlp.shared.hook_post"),
    (SharedOut, "mlp.hook_shared_out"),
    (ExpertsOut, "mlp.hook_experts_out"),
    (Pre, "mlp.hook_pre"),
    (PreLinear, "mlp.hook_pre_linear"),
    (Post, "mlp.hook_post"),
    (FfnOut, "mlp.hook_out"),
    (Ln2PostScale, "ln2_post.hook_scale"),
    (Ln2PostNormalized, "ln2_post.hook_normalized"),
    (MlpOut, "hook_mlp_out"),
    (ResidPost, "hook_resid_post"),
    (LnFinalScale, "ln_final.hook_scale"),
    (LnFinalNormalized, "ln_final.hook_normalized"),
    (LnFinalOut, "ln_final.hook_out"),
    (Logits, "logits"),
];

impl Point {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Point> {
        NAMES.iter().map(|(point, _)| *point)
    }

    /// The name within its block, if it is in one: `attn.hook_q`.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        NAMES[self as usize].1
    }

    /// The whole name: `blocks.3.attn.hook_q`.
    #[must_use]
    pub fn name(self, block: Option<usize>) -> String {
        block.map_or_else(|| self.suffix().to_owned(), |block| format!("blocks.{block}.{}", self.suffix()))
    }

    /// The point of a name, and its block.
    #[must_use]
    pub fn parse(name: &str) -> Option<(Point, Option<usize>)> {
        let (block, suffix) = match name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
            Some((block, suffix)) => (Some(block.parse().ok()?), suffix),
            None => (None, name),
        };
        let point = NAMES.iter().find(|(_, name)| *name == suffix)?.0;
        (point.in_block() == block.is_some()).then_some((point, block))
    }

    /// Whether every block may have it, rather than the model once.
    #[must_use]
    pub fn in_block(self) -> bool {
        !matches!(self, Embed | PosEmbed) && !self.is_final()
    }

    /// Whether it comes after the last block, where there are only the rows whose logits are wanted.
    #[must_use]
    pub fn is_final(self) -> bool {
        self >= LnFinalScale
    }

    /// Whether what follows is computed from its values, so that they can be changed.
    #[must_use]
    pub fn can_be_changed(self) -> bool {
        !matches!(self, ExpertWeights | ExpertIndices | State)
    }

    /// Whether a row has an element for each position that it could see, for each head.
    #[must_use]
    pub fn is_over_keys(self) -> bool {
        matches!(self, AttnScores | Pattern)
    }

    /// Whether its values are whole numbers: indices.
    #[must_use]
    pub fn is_index(self) -> bool {
        self == ExpertIndices
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.suffix())
    }
}

/// A set of points.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Points(u64);

impl Points {
    /// None.
    pub const NONE: Points = Points(0);

    /// All.
    #[must_use]
    pub fn all() -> Points {
        Point::all().collect()
    }

    /// Adds `point`.
    pub fn insert(&mut self, point: Point) {
        self.0 |= 1 << point as u8;
    }

    /// Whether `point` is among them.
    #[must_use]
    pub fn contains(self, point: Point) -> bool {
        self.0 >> point as u8 & 1 == 1
    }

    /// Whether any of `points` is among them.
    #[must_use]
    pub fn any(self, points: &[Point]) -> bool {
        points.iter().any(|point| self.contains(*point))
    }

    /// Whether any of them [comes after the last block](Point::is_final).
    #[must_use]
    pub fn any_final(self) -> bool {
        Point::all().any(|point| point.is_final() && self.contains(point))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// A point that is among them, and not among `others`.
    #[must_use]
    pub fn beyond(self, others: Points) -> Option<Point> {
        Point::all().find(|point| self.contains(*point) && !others.contains(*point))
    }
}

impl FromIterator<Point> for Points {
    fn from_iter<I: IntoIterator<Item = Point>>(points: I) -> Points {
        let mut set = Points::NONE;
        points.into_iter().for_each(|point| set.insert(point));
        set
    }
}

impl std::ops::BitOr for Points {
    type Output = Points;

    fn bitor(self, other: Points) -> Points {
        Points(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_their_points() {
        for (i, (point, suffix)) in NAMES.iter().enumerate() {
            assert_eq!(*point as usize, i, "{suffix}");
            let block = point.in_block().then_some(12);
            assert_eq!(Point::parse(&point.name(block)), Some((*point, block)));
        }
        assert_eq!(Point::parse("blocks.1.hook_embed"), None);
        assert_eq!(Point::parse("hook_resid_post"), None);
        assert_eq!(Point::parse("blocks.x.hook_resid_post"), None);
        assert!(Points::all().beyond(Points::NONE).is_some() && Points::NONE.beyond(Points::all()).is_none());
    }
}
