//! The residency plan: which weights stay in memory and which are read anew in every sweep.
//!
//! A matrix (one tensor, or several that go with its rows) is cut into *tiles* of whole rows, as far as it can be. What fits
//! the budget is pinned; the rest streams through a ring. Since a sweep visits every tile once, in one order, each pinned byte saves the same reading, and it
//! matters only where pinned tiles lie: they are spread evenly over the sweep, so that the disk is never
//! idle while a long run of pinned tiles is computed with. (An LRU would keep nothing that a cyclic sweep needs.)

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;

use crate::checkpoint::{Checkpoint, TensorInfo};

/// Bytes of a tile, about: large enough for the disk's full speed, small enough for a small ring.
const TILE: u64 = 1 << 20;
/// The smallest tile that a small budget leads to, unless a single row is larger.
const SMALL_TILE: u64 = 128 << 10;
/// Tiles of a checkpoint, at most: their table must stay small beside any budget.
const MOST_TILES: u64 = 16_384;
/// The smallest and the largest ring, and the share of a budget between them: as much as some disks are best asked for at once
/// (`depth.rs`), and small beside what stays. Tiles lie at its beginning where they can: of a large ring only as much is used as is asked for.
pub(crate) const RINGS: RangeInclusive<u64> = 8 << 20..=64 << 20;
const RING_SHARE: u64 = 48;
/// Bytes to which a pinned run of tiles and a ring slot are aligned.
const ALIGN: u64 = 64;
/// What offset, length and address of a read past the page cache are multiples of.
pub(crate) const PAGE: usize = 4096;

/// How weights are read.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Io {
    /// The way that is fastest: through the page cache when everything stays in memory, which may be there already; past it
    /// when weights stream, since a cyclic sweep finds nothing in it; by `io_uring` where the system allows it.
    #[default]
    Auto,
    /// By `io_uring`, past the page cache.
    Uring,
    /// By threads, past the page cache.
    Direct,
    /// By threads, through the page cache.
    Buffered,
}

/// When in a sweep a matrix is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// In every sweep.
    Body,
    /// At the end, and only in sweeps that ask for it.
    Head,
    /// As [`Phase::Head`], in sweeps that are so few that memory is better spent on something else: it always streams.
    SeldomHead,
}

/// A matrix that sweeps use, in order of use.
#[derive(Clone, Debug)]
pub struct Use {
    /// Its rows: outputs of the linear map, whatever the shape of its tensors.
    pub rows: usize,
    /// Its tensors, up to [`MOST_PARTS`], and how they are cut.
    pub parts: Vec<(TensorInfo, Cut)>,
    /// When it is used. Every head comes after every [`Phase::Body`].
    pub phase: Phase,
}

/// How a tensor goes with the rows of its matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Each of its rows belongs to so many rows of the matrix, the last one perhaps to fewer.
    Rows(NonZeroUsize),
    /// Any row of the matrix may need any of it. A matrix all of whose tensors are so is one tile; of others, every tile
    /// has it, so it ought to be small.
    Whole,
}

/// Where a tile's bytes are when they are needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the program's own image: nothing to read.
    Static,
    /// At this offset of the pinned region, from the first sweep on.
    Pinned(usize),
    /// In the ring, once in every sweep that uses it.
    Streamed,
}

/// Tensors that a matrix is made of, at most.
pub const MOST_PARTS: usize = 4;

/// Consecutive rows of one matrix that are read, kept and computed with together: what belongs to them of its first
/// tensor, then of its second, and so on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tile {
    /// First row.
    pub first_row: usize,
    /// Rows.
    pub rows: usize,
    /// What of each tensor; unused ones are empty.
    pub(crate) parts: [Part; MOST_PARTS],
    /// Bytes in all.
    pub(crate) len: usize,
    /// Bytes of memory that they are read into: more where whole pages are read.
    pub(crate) room: usize,
    /// Where they will be.
    pub place: Place,
    pub(crate) phase: Phase,
}

/// A byte range of a file.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Part {
    /// Index of the file in the checkpoint.
    pub(crate) shard: usize,
    /// First byte in the file.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: usize,
    /// Where in the tile's room they are read to, whole pages where pages are read, and how many bytes come before them there.
    pub(crate) room: usize,
    pub(crate) skew: usize,
}

impl Tile {
    /// Where in the tile's room a part is: what stays is moved to where vectors are aligned.
    pub(crate) fn at(&self, part: &Part) -> std::ops::Range<usize> {
        let start = if self.place == Place::Streamed { part.room + part.skew } else { part.room };
        start..start + part.len
    }
}

/// The plan for one checkpoint under one budget.
#[derive(Clone, Debug)]
pub struct Plan {
    tiles: Vec<Tile>,
    /// For each use, its range of `tiles`.
    ranges: Vec<std::ops::Range<usize>>,
    pinned: u64,
    streamed: u64,
    seldom: u64,
    statics: u64,
    ring: u64,
    io: Io,
    /// Whether whole pages are read.
    direct: bool,
    /// Parts of a tile, at most.
    parts: usize,
}

/// A budget with no room for the smallest ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooSmall {
    /// Bytes that the weights need at the least.
    pub needed: u64,
}

impl Cut {
    /// One row of the tensor for each row of the matrix.
    pub const EACH_ROW: Cut = Cut::Rows(NonZeroUsize::MIN);
}

impl Use {
    /// A matrix that is cut by the rows of its tensors, all `[rows, …]`.
    #[must_use]
    pub fn by_rows(parts: Vec<TensorInfo>, phase: Phase) -> Use {
        let rows = parts.first().and_then(|tensor| tensor.shape().first()).copied().unwrap_or(0);
        Use { rows, parts: parts.into_iter().map(|tensor| (tensor, Cut::EACH_ROW)).collect(), phase }
    }

    /// A matrix of `rows` rows that is not cut.
    #[must_use]
    pub fn whole(rows: usize, parts: Vec<TensorInfo>, phase: Phase) -> Use {
        Use { rows, parts: parts.into_iter().map(|tensor| (tensor, Cut::Whole)).collect(), phase }
    }

    /// The rows after a multiple of which it may be cut; all of them if nowhere.
    fn step(&self) -> usize {
        let steps = self.parts.iter().filter_map(|(_, cut)| match cut {
            Cut::Rows(step) => Some(step.get()),
            Cut::Whole => None,
        });
        steps.reduce(common_multiple).unwrap_or(usize::MAX).min(self.rows).max(1)
    }

    /// Bytes of the tile of its first `rows` rows.
    fn tile_bytes(&self, rows: usize) -> u64 {
        self.parts.iter().map(|(tensor, cut)| part_bytes(tensor, *cut, rows)).sum()
    }

    /// Rows of a tile of about `bytes`.
    fn tile_rows(&self, bytes: u64) -> usize {
        let step = self.step();
        let of_step = self.tile_bytes(step) - self.shared_bytes();
        let steps = bytes.saturating_sub(self.shared_bytes()) / of_step.max(1);
        step.saturating_mul((steps as usize).max(1))
    }

    /// Whether its tensors have the rows that their cuts ask for.
    fn is_sound(&self) -> bool {
        let fits = |(tensor, cut): &(TensorInfo, Cut)| match cut {
            Cut::Rows(step) => tensor.shape().first() == Some(&self.rows.div_ceil(step.get())),
            Cut::Whole => true,
        };
        (1..=MOST_PARTS).contains(&self.parts.len()) && self.parts.iter().all(fits)
    }

    /// Bytes that every tile has.
    fn shared_bytes(&self) -> u64 {
        self.parts.iter().filter(|(_, cut)| *cut == Cut::Whole).map(|(tensor, _)| tensor.byte_len()).sum()
    }

    fn byte_len(&self) -> u64 {
        self.parts.iter().map(|(tensor, _)| tensor.byte_len()).sum()
    }
}

/// The least common multiple, or the largest number if there is none.
fn common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    (a / x).saturating_mul(b)
}

impl Plan {
    /// Plans `uses` within `budget` bytes for pinned weights and ring together.
    ///
    /// # Errors
    /// When not even the smallest ring fits.
    pub fn new(checkpoint: &Checkpoint, uses: &[Use], budget: u64) -> Result<Plan, TooSmall> {
        Plan::with_tiles(checkpoint, uses, budget, None, Io::Auto)
    }

    /// As [`Plan::new`], with tiles of about `tile` bytes, read as `io` says.
    ///
    /// # Errors
    /// When not even the smallest ring fits.
    pub fn with_tiles(
        checkpoint: &Checkpoint,
        uses: &[Use],
        budget: u64,
        tile: Option<u64>,
        io: Io,
    ) -> Result<Plan, TooSmall> {
        assert!(uses.iter().all(Use::is_sound), "a matrix of up to {MOST_PARTS} tensors with as many rows as it has");
        let is_static = |u: &Use| u.parts.iter().all(|(t, _)| checkpoint.sources()[t.shard()].as_static().is_some());
        let on_disk = || uses.iter().filter(|u| !is_static(u));
        let has_room = |u: &Use| !is_static(u) && u.phase != Phase::SeldomHead;
        let direct = matches!(io, Io::Uring | Io::Direct);
        let parts = uses.iter().map(|u| u.parts.len()).max().unwrap_or(0);
        let (tiles, ranges) = (Vec::new(), Vec::new());
        let mut plan =
            Plan { tiles, ranges, pinned: 0, streamed: 0, seldom: 0, statics: 0, ring: 0, io, direct, parts };
        let total = |slack: u64| uses.iter().filter(|u| has_room(u)).map(|u| u.byte_len() + slack).sum::<u64>();
        if on_disk().all(has_room) && total(plan.slack()) <= budget {
            // One tile a matrix.
            for u in uses {
                let place = if is_static(u) { Place::Static } else { Place::Pinned(0) };
                plan.push(u, usize::MAX, |_| place);
            }
            return Ok(plan);
        }
        // Small tiles would be mostly what is read around them.
        plan.direct = direct || io == Io::Auto && tile.is_none();
        let slack = plan.slack();
        let total = total(slack);
        // Of a slot in the ring, which is aligned as a whole.
        let around = if plan.direct { slack } else { 0 };
        let row = on_disk().map(|u| u.tile_bytes(u.step())).max().unwrap_or(0);
        let least = if tile.is_some() { row } else { row.max(SMALL_TILE).max(total / MOST_TILES) };
        let needed = 2 * (least + around).next_multiple_of(plan.align());
        if budget < needed {
            return Err(TooSmall { needed });
        }
        // The ring has room for two tiles, whatever happens.
        let half = budget / 2 / plan.align() * plan.align() - around;
        let tile = tile.unwrap_or((budget / 16).clamp(least, TILE.max(least))).min(half);
        let largest = (row.max(tile) + around).next_multiple_of(plan.align());
        let ring = (budget / RING_SHARE).clamp(*RINGS.start(), *RINGS.end()).min(budget / 4);
        plan.ring = ring.max(2 * largest).min(budget);
        let share = (budget - plan.ring) as f64 / total as f64;
        let all_stay = share >= 1.0;
        let (mut seen, mut pinned) = (0.0, 0u64);
        for u in uses {
            let (fixed, seldom) = (is_static(u), u.phase == Phase::SeldomHead);
            let mut again = 0;
            plan.push(u, if all_stay && !seldom { usize::MAX } else { u.tile_rows(tile) }, |len| {
                if fixed {
                    return Place::Static;
                }
                if seldom {
                    return Place::Streamed;
                }
                // What every tile has counts once: these sum up to the total.
                seen += (len - again) as f64;
                again = u.shared_bytes();
                if all_stay || (pinned + len + slack) as f64 <= seen * share {
                    pinned += len + slack;
                    Place::Pinned(0)
                } else {
                    Place::Streamed
                }
            });
        }
        Ok(plan)
    }

    /// Cuts a matrix into tiles of `rows` rows, each at the place that `place` gives for its length.
    /// Pinned neighbours become one tile.
    fn push(&mut self, u: &Use, rows: usize, mut place: impl FnMut(u64) -> Place) {
        let all = u.rows;
        let begin = self.tiles.len();
        let mut first_row = 0;
        while first_row < all {
            let rows = rows.min(all - first_row);
            let len = u.tile_bytes(rows);
            let place = place(len);
            if let Place::Pinned(_) = place
                && let Some(last) = self.tiles[begin..].last_mut()
                && matches!(last.place, Place::Pinned(_))
            {
                last.rows += rows;
                last.len += (len - u.shared_bytes()) as usize;
                for (part, (tensor, cut)) in last.parts.iter_mut().zip(&u.parts) {
                    part.len += if *cut == Cut::Whole { 0 } else { part_bytes(tensor, *cut, rows) as usize };
                }
                first_row += rows;
                continue;
            }
            let mut parts = [Part::default(); MOST_PARTS];
            for (part, (tensor, cut)) in parts.iter_mut().zip(&u.parts) {
                let before = if *cut == Cut::Whole { 0 } else { part_bytes(tensor, *cut, first_row) };
                let len = part_bytes(tensor, *cut, rows) as usize;
                *part = Part { shard: tensor.shard(), offset: tensor.offset() + before, len, room: 0, skew: 0 };
            }
            self.tiles.push(Tile { first_row, rows, parts, len: len as usize, room: 0, place, phase: u.phase });
            first_row += rows;
        }
        let align = self.align();
        for tile in &mut self.tiles[begin..] {
            for part in tile.parts.iter_mut().filter(|part| part.len > 0) {
                part.room = tile.room;
                part.skew = if self.direct { part.offset as usize % PAGE } else { 0 };
                let room = part.skew + part.len;
                tile.room += if self.direct { room.next_multiple_of(PAGE) } else { room };
            }
            match &mut tile.place {
                Place::Static => self.statics += tile.len as u64,
                Place::Streamed if u.phase == Phase::SeldomHead => self.seldom += tile.len as u64,
                Place::Streamed => self.streamed += tile.len as u64,
                Place::Pinned(at) => {
                    self.pinned = self.pinned.next_multiple_of(align);
                    *at = self.pinned as usize;
                    self.pinned += tile.room as u64;
                }
            }
        }
        self.ranges.push(begin..self.tiles.len());
    }

    /// The tiles of the `index`-th use, in order of rows.
    #[must_use]
    pub fn tiles_of(&self, index: usize) -> std::ops::Range<usize> {
        self.ranges[index].clone()
    }

    /// All tiles, in order of use.
    #[must_use]
    pub fn tiles(&self) -> &[Tile] {
        &self.tiles
    }

    /// Bytes that stay in memory.
    #[must_use]
    pub fn pinned_bytes(&self) -> u64 {
        self.pinned
    }

    /// Bytes that every full sweep reads, but for those of a [`Phase::SeldomHead`].
    #[must_use]
    pub fn streamed_bytes(&self) -> u64 {
        self.streamed
    }

    /// Bytes of a [`Phase::SeldomHead`], which sweeps that use it read.
    #[must_use]
    pub fn seldom_bytes(&self) -> u64 {
        self.seldom
    }

    /// Bytes that are part of the program's image.
    #[must_use]
    pub fn static_bytes(&self) -> u64 {
        self.statics
    }

    /// How weights are to be read.
    pub(crate) fn io(&self) -> Io {
        self.io
    }

    /// Whether whole pages are read, past the page cache where the system allows it.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Bytes to which a tile's place is aligned.
    pub(crate) fn align(&self) -> u64 {
        if self.direct { PAGE as u64 } else { ALIGN }
    }

    /// Bytes that a tile may take beyond its own.
    fn slack(&self) -> u64 {
        if self.direct { (self.parts * 2 * PAGE) as u64 } else { ALIGN }
    }

    /// Bytes of the ring that streamed tiles pass through.
    #[must_use]
    pub fn ring_bytes(&self) -> u64 {
        self.ring
    }
}

/// Bytes of a tensor that belong to `rows` rows of its matrix.
fn part_bytes(tensor: &TensorInfo, cut: Cut, rows: usize) -> u64 {
    match cut {
        Cut::Rows(step) => {
            let all = tensor.shape().first().map_or(1, |rows| (*rows as u64).max(1));
            tensor.byte_len() / all * rows.div_ceil(step.get()) as u64
        }
        Cut::Whole => tensor.byte_len(),
    }
}
