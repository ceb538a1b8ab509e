//! Looking into a pass: what the residual stream would say after each block, and what its parts add to a logit.
//!
//! ```text
//! a text ── one pass, rows kept by hooks (keep.rs) ──┬► logit_lens    each row through final norm and head
//!                                                    ├► attribution   parts of one row, final norm held (attribution.rs)
//!                                                    └► patterns      of one block's attention
//! ```
//!
//! The pass reads the text and no more; the head then works on rows as they were kept, in sweeps of its own ([`Model::unembed`],
//! [`Model::attribute`]).

mod attribution;
mod keep;

pub use attribution::{Attribution, Detail, Difference, Part, PartKind, attribution, attribution_plan};
pub(crate) use keep::Kept;

use std::sync::OnceLock;

use crate::decoder::Decoder;
use crate::error::Error;
use crate::hooks::{Point, PointInfo, Points, catalog, matching};
use crate::model::{Model, check_vocabulary};
use crate::ranking::Distribution;

/// What a look asks of [`Options`](crate::Options).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LookPlan {
    /// The points: [`Options::hooks`](crate::Options::hooks).
    pub points: Points,
    /// Bytes that rows are kept in: [`Options::reserve`](crate::Options::reserve).
    pub bytes: u64,
}

impl LookPlan {
    pub(crate) fn new(points: &[PointInfo], rows: usize, tokens: usize) -> LookPlan {
        LookPlan { points: points.iter().map(|info| info.point).collect(), bytes: Kept::bytes(points, rows, tokens) }
    }
}

/// Which token's probability is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// The one that follows in the text; after the last position the one that the model finds likeliest.
    Next,
    /// This one, everywhere.
    Token(u32),
}

/// What the residual stream would say after each block.
#[derive(Clone, PartialEq, Debug)]
pub struct Lens {
    /// The positions, in the order of all cells.
    pub positions: Vec<usize>,
    /// The token whose probability is looked at, at each position.
    pub targets: Vec<u32>,
    /// Before the first block, and after each.
    pub rows: Vec<LensRow>,
}

/// A place of the residual stream.
#[derive(Clone, PartialEq, Debug)]
pub struct LensRow {
    /// The name of the hook point.
    pub point: String,
    /// The block that it is after; none: before the first.
    pub block: Option<usize>,
    /// By positions.
    pub cells: Vec<LensCell>,
}

/// What the residual stream would say at a place and a position.
#[derive(Clone, PartialEq, Debug)]
pub struct LensCell {
    /// The likeliest tokens with their probabilities.
    pub top: Vec<(u32, f64)>,
    /// The logarithm of the target's probability.
    pub log_probability: f64,
    /// The target's place among all tokens, from 1.
    pub rank: usize,
}

/// Where the lens looks: before the first block and after each, in this order.
fn places(decoder: &Decoder) -> Vec<PointInfo> {
    let is_place =
        |info: &PointInfo| info.point == Point::ResidPost || (info.point == Point::ResidPre && info.block == Some(0));
    catalog(decoder).into_iter().filter(is_place).collect()
}

/// What [`logit_lens`] asks for.
#[must_use]
pub fn lens_plan(decoder: &Decoder, positions: usize) -> LookPlan {
    LookPlan::new(&places(decoder), positions, 1)
}

/// What the residual stream of `tokens` would say before the first block and after each, at `positions`: the `top` likeliest tokens, and
/// how likely `target` is. `each` is told how many of the rows are done, and of how many.
///
/// The model must have been loaded for what [`lens_plan`] says, and should have logits for [all rows](crate::LogitRows::All) of a pass.
///
/// # Errors
/// As [`Model::forward_hooked`], or when a logit is not a number.
pub fn logit_lens(
    model: &mut Model,
    tokens: &[u32],
    positions: &[usize],
    target: Target,
    top: usize,
    mut each: impl FnMut(usize, usize),
) -> Result<Lens, Error> {
    if let Target::Token(token) = target {
        check_vocabulary(model.decoder(), &[token], 0)?;
    }
    let places = places(model.decoder());
    let mut kept = Kept::new(&places, positions);
    kept.read_only(model, tokens)?;
    // The last place first, by itself: what the model says decides what the others are asked about.
    let of_place = |p: usize| (0..positions.len()).map(move |i| (p, i));
    let last: Vec<(usize, usize)> = of_place(places.len() - 1).collect();
    let others: Vec<(usize, usize)> = (0..places.len() - 1).flat_map(of_place).collect();
    let mut targets: Vec<Option<u32>> = positions
        .iter()
        .map(|position| match target {
            Target::Token(token) => Some(token),
            Target::Next => tokens.get(position + 1).copied(),
        })
        .collect();
    let mut cells: Vec<Vec<Option<LensCell>>> = places.iter().map(|_| vec![None; positions.len()]).collect();
    let mut done = 0;
    for chunk in last.chunks(model.max_logit_rows()).chain(others.chunks(model.max_logit_rows())) {
        let mut rows = Vec::with_capacity(chunk.len() * model.decoder().hidden_size);
        for (p, i) in chunk {
            rows.extend_from_slice(kept.row(places[*p].point, places[*p].block, positions[*i]));
        }
        model.unembed(&rows)?;
        let asked: Vec<Option<u32>> = chunk.iter().map(|(_, i)| targets[*i]).collect();
        for ((p, i), cell) in chunk.iter().zip(read_cells(model, &asked, top)?) {
            targets[*i] = targets[*i].or(cell.top.first().map(|(token, _)| *token));
            cells[*p][*i] = Some(cell);
        }
        done += chunk.len();
        each(done, last.len() + others.len());
    }
    let rows = places.iter().zip(cells).map(|(info, cells)| LensRow {
        point: info.name.clone(),
        block: info.block.filter(|_| info.point == Point::ResidPost),
        cells: cells.into_iter().flatten().collect(),
    });
    Ok(Lens {
        positions: positions.to_vec(),
        targets: targets.into_iter().map(Option::unwrap_or_default).collect(),
        rows: rows.collect(),
    })
}

/// What the logits say that `model` has computed last, of each row the likeliest tokens and a target, or the likeliest if there is none.
fn read_cells(model: &Model, targets: &[Option<u32>], top: usize) -> Result<Vec<LensCell>, Error> {
    let vocab = model.decoder().vocab_size;
    let logits = model.last_logits();
    let cells: Vec<OnceLock<Result<LensCell, Error>>> = targets.iter().map(|_| OnceLock::new()).collect();
    model.exec().pool().run(targets.len(), &|row, _| {
        let cell = Distribution::new(&logits[row * vocab..][..vocab]).map(|all| {
            let likeliest = all.top(top.max(1));
            let target = targets[row].or(likeliest.first().map(|(token, _)| *token)).unwrap_or_default();
            LensCell { top: likeliest, log_probability: all.log_probability(target), rank: all.rank(target) }
        });
        let _ = cells[row].set(cell);
    });
    cells.into_iter().map(|cell| cell.into_inner().unwrap_or(Err(Error::NotFinite))).collect()
}

/// Patterns of attention of one block: for each head and each position what it sees, `[heads, rows, keys]`, zeros for what it does not.
#[derive(Clone, PartialEq, Debug)]
pub struct Patterns {
    /// The block.
    pub block: usize,
    /// Heads.
    pub heads: usize,
    /// By head, by position.
    pub rows: Vec<Vec<Vec<f32>>>,
}

/// What [`patterns`] asks for, of a text of so many tokens.
///
/// # Errors
/// When the block has no patterns of attention.
pub fn patterns_plan(decoder: &Decoder, block: usize, tokens: usize) -> Result<LookPlan, Error> {
    Ok(LookPlan::new(&pattern_of(decoder, block)?, tokens, tokens))
}

fn pattern_of(decoder: &Decoder, block: usize) -> Result<Vec<PointInfo>, Error> {
    matching(decoder, &Point::Pattern.name(Some(block)))
}

/// The patterns of attention of a block over `tokens`. The model must have been loaded for what [`patterns_plan`] says.
///
/// # Errors
/// As [`Model::forward_hooked`], or when the block has no patterns.
pub fn patterns(model: &mut Model, tokens: &[u32], block: usize) -> Result<Patterns, Error> {
    let points = pattern_of(model.decoder(), block)?;
    let positions: Vec<usize> = (0..tokens.len()).collect();
    let mut kept = Kept::new(&points, &positions);
    kept.read_only(model, tokens)?;
    let heads = points.first().and_then(|info| info.shape.heads()).unwrap_or(1);
    let row = |head: usize, position: usize| {
        let row = kept.row(Point::Pattern, Some(block), position);
        row[head * (position + 1)..(head + 1) * (position + 1)].to_vec()
    };
    let rows = (0..heads).map(|head| positions.iter().map(|position| row(head, *position)).collect());
    Ok(Patterns { block, heads, rows: rows.collect() })
}
