//! Where the bytes of experts are on disk, and how much memory holds how many of them.
//!
//! The ranges that an expert is made of become *runs*: those that lie next to each other in a file are read together,
//! with the pages around them where reads go past the page cache. The room that an expert's runs take is its size in
//! memory. Where all experts fit, each has a place of its own. Otherwise memory is cut into *slots*, any of which can hold
//! any expert of about its size: experts of one size share one class of slots, so that layers that are stored in more bits do not
//! make the slots of the others larger.

use std::ops::Range;

use crate::checkpoint::{Checkpoint, TensorInfo};
use crate::error::{StoreError, StoreErrorKind};
use crate::plan::{Io, PAGE, TooSmall};
use crate::source::Source;

/// Bytes between two ranges that are read with them rather than by a request of their own.
const NEAR: u64 = 16 << 10;
/// Bytes to which places in memory are aligned where no pages are read.
const ALIGN: usize = 64;
/// Slots that a class has at the least: some are read into while others are used.
const LEAST_SLOTS: usize = 4;
/// Bytes of a read, at most and at least. An expert is read in about eight pieces, so that a single one keeps the disk busy.
const PIECE: usize = 4 << 20;
const SMALL_PIECE: usize = 512 << 10;
const PIECES: usize = 8;
/// Bytes that are read ahead of the one who computes, about, at the cost of what is cached.
const AHEAD: usize = 64 << 20;

/// A byte range of a file of the checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Extent {
    /// Index in [`Checkpoint::sources`].
    pub shard: usize,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl From<&TensorInfo> for Extent {
    fn from(tensor: &TensorInfo) -> Extent {
        Extent { shard: tensor.shard(), offset: tensor.offset(), len: tensor.byte_len() }
    }
}

/// What is read, kept and used together: the matrices of one expert of one layer, and their scales and biases.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Expert {
    /// Its tensors or parts of tensors, in whatever order they are wanted.
    pub parts: Vec<Extent>,
}

/// The plan for the experts of one checkpoint under one budget.
#[derive(Clone, Debug)]
pub struct ExpertPlan {
    /// The first expert of each layer, and the number of all.
    layers: Vec<usize>,
    experts: Vec<Layout>,
    parts: Vec<Part>,
    runs: Vec<Run>,
    classes: Vec<Class>,
    slots: usize,
    arena: u64,
    total: u64,
    statics: u64,
    least: u64,
    /// Whether each expert has a place of its own.
    fits: bool,
    io: Io,
    /// Whether whole pages are read.
    direct: bool,
    /// Bytes of a read.
    piece: usize,
}

/// Where an expert's parts and runs begin in the tables of all; they end where those of the next begin.
#[derive(Clone, Copy, Debug)]
struct Layout {
    part: usize,
    run: usize,
    /// Bytes in memory.
    room: usize,
    /// Bytes of its parts on disk.
    len: u64,
    class: usize,
}

/// Where the bytes of a part are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// In the program's own image.
    Static { shard: usize, offset: usize, len: usize },
    /// At this offset in the expert's room.
    Room { at: usize, len: usize },
}

/// A range of a file that is read as one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) shard: usize,
    /// First byte in the file, of a page where pages are read, and how many bytes come before those that are wanted.
    pub(super) offset: u64,
    pub(super) skew: usize,
    /// Bytes from `offset` on that must come, and how many are asked for.
    pub(super) need: usize,
    pub(super) len: usize,
    /// Where in the expert's room they go.
    pub(super) at: usize,
}

/// Slots of one size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Class {
    /// Bytes of a slot.
    pub(super) room: usize,
    /// Its slots, counted through all classes.
    pub(super) first: usize,
    pub(super) slots: usize,
    /// Where in the arena the first slot begins.
    at: usize,
    /// Experts that share them.
    experts: usize,
}

impl Class {
    pub(super) fn slots(&self) -> Range<usize> {
        self.first..self.first + self.slots
    }

    /// Slots that experts may take at the cost of others before they are used.
    pub(super) fn window(&self) -> usize {
        (AHEAD / self.room.max(1)).max(LEAST_SLOTS).min(self.slots)
    }

    /// As [`Class::window`], at the cost of what the same request will use later.
    pub(super) fn narrow_window(&self) -> usize {
        self.window().min(self.slots.div_ceil(2))
    }
}

impl ExpertPlan {
    /// Plans to hold as many of the experts of `layers` (in order of use) as `budget` bytes have room for, read as `io` says.
    ///
    /// # Errors
    /// When there is no room for four experts.
    pub fn new(checkpoint: &Checkpoint, layers: &[Vec<Expert>], budget: u64, io: Io) -> Result<ExpertPlan, TooSmall> {
        let mut plan = ExpertPlan::laid_out(checkpoint.sources(), layers, io, matches!(io, Io::Uring | Io::Direct));
        if plan.rooms() <= budget {
            plan.place_all();
            return Ok(plan);
        }
        if io == Io::Auto {
            plan = ExpertPlan::laid_out(checkpoint.sources(), layers, io, true);
        }
        plan.sort_into_classes();
        plan.least = plan.classes.iter().map(|c| (c.slots * c.room) as u64).sum();
        if budget < plan.least {
            return Err(TooSmall { needed: plan.least });
        }
        plan.share_out(budget);
        Ok(plan)
    }

    /// Refuses a plan whose parts are not all within the files of `checkpoint`.
    pub(super) fn check(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let runs = self.runs.iter().map(|run| (run.shard, run.end()));
        let statics = self.parts.iter().filter_map(|part| match part {
            Part::Static { shard, offset, len } => Some((*shard, *offset as u64 + *len as u64)),
            Part::Room { .. } => None,
        });
        for (shard, end) in runs.chain(statics) {
            let source = checkpoint.sources().get(shard);
            if source.is_none_or(|source| end > source.len()) {
                let what = format!("an expert is said to end at byte {end} of file {shard}, which it does not have");
                let path = source.map_or(checkpoint.path(), Source::path);
                return Err(StoreError::new(StoreErrorKind::OutOfRange, what).at(path));
            }
        }
        Ok(())
    }

    fn laid_out(sources: &[Source], layers: &[Vec<Expert>], io: Io, direct: bool) -> ExpertPlan {
        let mut plan = ExpertPlan {
            layers: vec![0],
            experts: Vec::new(),
            parts: Vec::new(),
            runs: Vec::new(),
            classes: Vec::new(),
            slots: 0,
            arena: 0,
            total: 0,
            statics: 0,
            least: 0,
            fits: false,
            io,
            direct,
            piece: 0,
        };
        for layer in layers {
            for expert in layer {
                plan.push(sources, expert);
            }
            plan.layers.push(plan.experts.len());
        }
        let largest = plan.experts.iter().map(|e| e.room).max().unwrap_or(0);
        plan.piece = (largest / PIECES).next_multiple_of(PAGE).clamp(SMALL_PIECE, PIECE);
        plan
    }

    /// Finds places in the room of one more expert for its parts.
    fn push(&mut self, sources: &[Source], expert: &Expert) {
        let (part, run) = (self.parts.len(), self.runs.len());
        let is_static = |extent: &Extent| sources.get(extent.shard).is_some_and(|s| s.as_static().is_some());
        self.parts.extend(expert.parts.iter().map(|extent| {
            let len = extent.len as usize;
            if is_static(extent) {
                self.statics += extent.len;
                Part::Static { shard: extent.shard, offset: extent.offset as usize, len }
            } else {
                self.total += extent.len;
                Part::Room { at: 0, len }
            }
        }));
        let on_disk = |p: &usize| expert.parts[*p].len > 0 && !is_static(&expert.parts[*p]);
        let mut by_place: Vec<usize> = (0..expert.parts.len()).filter(on_disk).collect();
        by_place.sort_by_key(|p| (expert.parts[*p].shard, expert.parts[*p].offset));
        let align = self.align();
        let mut room = 0;
        for p in by_place {
            let Extent { shard, offset, len } = expert.parts[p];
            let end = offset.saturating_add(len);
            let near = |last: &&mut Run| last.shard == shard && offset <= last.end().saturating_add(NEAR);
            let run = match self.runs[run..].last_mut().filter(near) {
                Some(last) => {
                    last.need = last.need.max((end - last.offset) as usize);
                    last
                }
                None => {
                    let skew = if self.direct { offset as usize % PAGE } else { 0 };
                    let offset = offset - skew as u64;
                    self.runs.push(Run { shard, offset, skew, need: (end - offset) as usize, len: 0, at: room });
                    let last = self.runs.len() - 1;
                    &mut self.runs[last]
                }
            };
            run.len = if self.direct { run.need.next_multiple_of(PAGE) } else { run.need };
            room = (run.at + run.len).next_multiple_of(align);
            let at = run.at + (offset - run.offset) as usize;
            self.parts[part + p] = Part::Room { at, len: len as usize };
        }
        let len = expert.parts.iter().filter(|e| !is_static(e)).map(|e| e.len).sum();
        self.experts.push(Layout { part, run, room, len, class: 0 });
    }

    /// Bytes in memory of all experts.
    fn rooms(&self) -> u64 {
        self.experts.iter().map(|e| e.room as u64).sum()
    }

    /// Gives each expert a place of its own.
    fn place_all(&mut self) {
        for i in 0..self.experts.len() {
            let room = self.experts[i].room;
            if room > 0 {
                self.experts[i].class = self.classes.len();
                self.classes.push(Class { room, first: 0, slots: 1, at: 0, experts: 1 });
            }
        }
        self.least = self.rooms();
        self.fits = true;
        self.count_slots();
    }

    /// Sorts experts by size into classes with the least slots.
    fn sort_into_classes(&mut self) {
        let mut by_room: Vec<usize> = (0..self.experts.len()).filter(|e| self.experts[*e].room > 0).collect();
        by_room.sort_by_key(|e| std::cmp::Reverse(self.experts[*e].room));
        for e in by_room {
            let room = self.experts[e].room;
            // An eighth of a slot may stay empty.
            if self.classes.last().is_none_or(|class| room < class.room / 8 * 7) {
                self.classes.push(Class { room, first: 0, slots: 0, at: 0, experts: 0 });
            }
            self.experts[e].class = self.classes.len() - 1;
            if let Some(class) = self.classes.last_mut() {
                class.experts += 1;
                class.slots = class.experts.min(LEAST_SLOTS);
            }
        }
    }

    /// Shares what `budget` has beyond the least slots out among the classes, by what their experts would take.
    fn share_out(&mut self, budget: u64) {
        let mut left = budget - self.least;
        let wanted = |c: &Class| ((c.experts - c.slots) * c.room) as u64;
        let all: u64 = self.classes.iter().map(wanted).sum();
        let share = (left as f64 / all.max(1) as f64).min(1.0);
        for class in &mut self.classes {
            let more = ((wanted(class) as f64 * share) as usize / class.room).min(left as usize / class.room);
            class.slots += more;
            left -= (more * class.room) as u64;
        }
        for class in &mut self.classes {
            let more = (left as usize / class.room).min(class.experts - class.slots);
            class.slots += more;
            left -= (more * class.room) as u64;
        }
        self.count_slots();
    }

    fn count_slots(&mut self) {
        for class in &mut self.classes {
            (class.first, class.at) = (self.slots, self.arena as usize);
            self.slots += class.slots;
            self.arena += (class.slots * class.room) as u64;
        }
    }

    /// Bytes to which rooms are aligned.
    fn align(&self) -> usize {
        if self.direct { PAGE } else { ALIGN }
    }

    /// Layers that have experts.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers.len() - 1
    }

    /// Experts of a layer.
    #[must_use]
    pub fn experts_of(&self, layer: usize) -> usize {
        self.layers[layer + 1] - self.layers[layer]
    }

    /// Experts that memory has room for at once.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots + self.experts.iter().filter(|e| e.room == 0).count()
    }

    /// Whether memory has room for all experts: each is then read once.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.fits
    }

    /// Bytes of the memory that experts are read into.
    #[must_use]
    pub fn arena_bytes(&self) -> u64 {
        self.arena
    }

    /// Bytes of all experts on disk.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total
    }

    /// Bytes of experts that are part of the program's image.
    #[must_use]
    pub fn static_bytes(&self) -> u64 {
        self.statics
    }

    /// The smallest budget that can work.
    #[must_use]
    pub fn least_bytes(&self) -> u64 {
        self.least
    }

    /// Experts that may be held at once: [acquired](crate::Experts::acquire) and not yet given back.
    #[must_use]
    pub fn most_held(&self) -> usize {
        let shared = self.classes.iter().filter(|c| c.slots < c.experts);
        shared.map(|c| c.slots).min().unwrap_or(self.experts.len())
    }

    /// How experts are to be read.
    pub(super) fn io(&self) -> Io {
        self.io
    }

    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Bytes of a read, at most.
    pub(super) fn piece(&self) -> usize {
        self.piece
    }

    /// The first expert of each layer, and the number of all.
    pub(super) fn starts(&self) -> &[usize] {
        &self.layers
    }

    pub(super) fn parts(&self, expert: usize) -> &[Part] {
        let end = self.experts.get(expert + 1).map_or(self.parts.len(), |next| next.part);
        &self.parts[self.experts[expert].part..end]
    }

    /// What is read for an expert, as indices of [`ExpertPlan::run`]; nothing for one that is part of the program.
    pub(super) fn runs(&self, expert: usize) -> Range<usize> {
        let end = self.experts.get(expert + 1).map_or(self.runs.len(), |next| next.run);
        self.experts[expert].run..end
    }

    pub(super) fn run(&self, run: usize) -> &Run {
        &self.runs[run]
    }

    /// Bytes of an expert on disk.
    pub(super) fn bytes_of(&self, expert: usize) -> u64 {
        self.experts[expert].len
    }

    /// The slots that an expert can be in.
    pub(super) fn class_of(&self, expert: usize) -> &Class {
        &self.classes[self.experts[expert].class]
    }

    /// Slots, counted through all classes.
    pub(super) fn all_slots(&self) -> usize {
        self.slots
    }

    /// Where in the arena the slot of an expert begins.
    pub(super) fn place(&self, expert: usize, slot: usize) -> usize {
        let class = self.class_of(expert);
        class.at + (slot - class.first) * class.room
    }
}

impl Run {
    fn end(&self) -> u64 {
        self.offset + self.need as u64
    }
}
