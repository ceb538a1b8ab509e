//! What each part of the residual stream adds to a logit: direct logit attribution.
//!
//! The residual stream is a sum: the embedding, and what each block's mixer and feed-forward add. With the final norm's scale held at
//! what it is for the whole sum, what follows is linear, and the logit a sum as well.

use super::{Kept, LookPlan};
use crate::decoder::Decoder;
use crate::error::Error;
use crate::hooks::{Point, PointInfo, catalog};
use crate::model::{Model, check_vocabulary};
use crate::ranking::likeliest;

/// Which logit is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The logit of this token, or of the likeliest,
    pub of: Option<u32>,
    /// less that of this one, if any.
    pub against: Option<u32>,
}

/// A logit, or a difference of two, as a sum.
#[derive(Clone, PartialEq, Debug)]
pub struct Attribution {
    /// The position after which it is.
    pub position: usize,
    /// The token whose logit it is.
    pub of: u32,
    /// What is added, in the order of the pass.
    pub parts: Vec<Part>,
    /// What the biases of the final norm and of the head add.
    pub biases: f64,
    /// All of these together.
    pub sum: f64,
    /// What the model computes, before the soft cap: the sum but for rounding.
    pub logit: f64,
    /// What becomes of it by the soft cap, of a model that has one.
    pub capped: Option<f64>,
}

/// A part of the residual stream.
#[derive(Clone, PartialEq, Debug)]
pub struct Part {
    /// What it is.
    pub kind: PartKind,
    /// Its block, if it is in one.
    pub block: Option<usize>,
    /// What it adds to the logit, or the difference.
    pub value: f64,
    /// The token whose logit it adds most to, and how much that is.
    pub promotes: (u32, f64),
}

/// What a part of the residual stream is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PartKind {
    /// The token's row of the embedding table, `hook_embed`.
    Embedding,
    /// The position's row, `hook_pos_embed`.
    Position,
    /// What a mixer adds, `hook_attn_out`.
    Mixer,
    /// What a head of it adds: of `attn.hook_result`, after norm and factor.
    Head(usize),
    /// What a mixer adds besides its heads: biases.
    Rest,
    /// What a feed-forward adds, `hook_mlp_out`.
    FeedForward,
}

/// How finely the sum is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// Mixers and feed-forwards.
    Blocks,
    /// Each head of attention by itself.
    Heads,
}

fn points(decoder: &Decoder, detail: Detail) -> Vec<PointInfo> {
    let of_heads = [Point::Result, Point::MixerOut];
    let wanted = |info: &PointInfo| match info.point {
        Point::Embed | Point::PosEmbed | Point::AttnOut | Point::MlpOut => true,
        Point::ResidPost => info.block == Some(decoder.blocks.len() - 1),
        point => detail == Detail::Heads && of_heads.contains(&point),
    };
    catalog(decoder).into_iter().filter(wanted).collect()
}

/// What [`attribution`] asks for.
#[must_use]
pub fn attribution_plan(decoder: &Decoder, detail: Detail) -> LookPlan {
    LookPlan::new(&points(decoder, detail), 1, 1)
}

/// The logit after `position` of `tokens` as a sum. The model must have been loaded for what [`attribution_plan`] says.
///
/// # Errors
/// As [`Model::forward_hooked`].
pub fn attribution(
    model: &mut Model,
    tokens: &[u32],
    position: usize,
    what: Difference,
    detail: Detail,
) -> Result<Attribution, Error> {
    let points = points(model.decoder(), detail);
    let asked: Vec<u32> = what.of.into_iter().chain(what.against).collect();
    check_vocabulary(model.decoder(), &asked, 0)?;
    let mut kept = Kept::new(&points, &[position]);
    // What comes after it does not matter to it.
    let logits = kept.read(model, &tokens[..=position])?;
    let of = what.of.unwrap_or_else(|| likeliest(&logits, 1)[0]);
    let value = |logits: &[f32]| {
        let logit = |token: u32| f64::from(logits[token as usize]);
        logit(of) - what.against.map_or(0.0, logit)
    };
    let last = Some(model.decoder().blocks.len() - 1);
    let whole = kept.row(Point::ResidPost, last, position).to_vec();
    let sources = sources(model, &kept, &points, position);
    let mut parts: Vec<Part> = Vec::with_capacity(sources.len());
    for chunk in sources.chunks(model.max_logit_rows()) {
        let rows: Vec<f32> = chunk.iter().flat_map(|source| &source.row).copied().collect();
        let vocab = model.decoder().vocab_size;
        let adds = model.attribute(&rows, &whole)?;
        parts.extend(chunk.iter().zip(adds.chunks_exact(vocab)).map(|(source, adds)| {
            let promoted = likeliest(adds, 1)[0];
            let promotes = (promoted, f64::from(adds[promoted as usize]));
            Part { kind: source.kind, block: source.block, value: value(adds), promotes }
        }));
    }
    let biases = value(model.attribute_biases()?);
    let has_cap = model.decoder().logits.soft_cap.is_some();
    let logit = if has_cap { value(model.attribute(&whole, &whole)?) + biases } else { value(&logits) };
    Ok(Attribution {
        position,
        of,
        sum: biases + parts.iter().map(|part| part.value).sum::<f64>(),
        parts,
        biases,
        logit,
        capped: has_cap.then(|| value(&logits)),
    })
}

/// A part of the residual stream before it is looked at.
struct Source {
    kind: PartKind,
    block: Option<usize>,
    /// `[hidden]`.
    row: Vec<f32>,
}

/// The parts of the residual stream at `position`.
fn sources(model: &Model, kept: &Kept, points: &[PointInfo], position: usize) -> Vec<Source> {
    let mut all: Vec<Source> = Vec::new();
    let has = |point: Point, block: Option<usize>| points.iter().any(|info| (info.point, info.block) == (point, block));
    for info in points {
        let (block, row) = (info.block, kept.row(info.point, info.block, position));
        let whole = |kind: PartKind| Source { kind, block, row: row.to_vec() };
        match info.point {
            Point::Embed => all.push(whole(PartKind::Embedding)),
            Point::PosEmbed => all.push(whole(PartKind::Position)),
            Point::MlpOut => all.push(whole(PartKind::FeedForward)),
            Point::AttnOut => match block.filter(|_| has(Point::Result, block)) {
                None => all.push(whole(PartKind::Mixer)),
                Some(i) => all.extend(heads(model, kept, i, position, row)),
            },
            _ => {}
        }
    }
    all
}

/// What each head of block `i` adds, and what is left of `added: [hidden]`.
fn heads(model: &Model, kept: &Kept, i: usize, position: usize, added: &[f32]) -> Vec<Source> {
    let block = Some(i);
    // Without norm and factor, there is no point of its own for what comes before them.
    let out = kept.row(Point::MixerOut, block, position);
    let mut rest = added.to_vec();
    let mut all = Vec::new();
    for (head, result) in kept.row(Point::Result, block, position).chunks_exact(added.len()).enumerate() {
        let mut row = result.to_vec();
        model.as_mixer_adds(i, &mut row, out);
        rest.iter_mut().zip(&row).for_each(|(r, x)| *r -= x);
        all.push(Source { kind: PartKind::Head(head), block, row });
    }
    all.push(Source { kind: PartKind::Rest, block, row: rest });
    all
}
