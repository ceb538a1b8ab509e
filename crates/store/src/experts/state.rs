//! What is cached, what is on its way and what is to be read next: the decisions of the cache, without the reading.
//!
//! An expert is absent, being read, here, or failed. It has a slot while it is read and while it is here. A slot can be
//! given to another expert when the one in it is here, nobody holds it and nobody waits for it. Who may take it:
//!
//! 1. an expert that somebody waits for: any such slot, so that whatever happens, waiting ends as long as one slot is not held;
//! 2. an expert of the request: one that the request does not name, but not for more experts at a time than keep the disk busy. Where
//!    there is none (the request names more than there are slots), one that the request needs later;
//! 3. an expert that was hinted at: one that will be used later than it;
//! 4. an expert that memory is filled with: none.

use std::collections::VecDeque;

use super::Hits;
use super::plan::ExpertPlan;
use super::policy::Policy;
use crate::clock::Clock;
use crate::error::StoreError;

/// No slot, no expert, no turn.
const NONE: u32 = u32::MAX;
/// Reads of experts that were hinted at, at once: what a request may have to wait for.
const HINTED_READS: usize = 3;

pub(super) struct State {
    entries: Vec<Entry>,
    /// The expert in each slot.
    slots: Vec<u32>,
    /// The experts of the request, in order of use. Those before the cursor are here, being read or used.
    order: Vec<u32>,
    cursor: usize,
    /// The order of the request before, for a moment.
    before: Vec<u32>,
    /// Experts that somebody waits for.
    awaited: Vec<u32>,
    /// Experts that were hinted at and are not yet being read, all of one layer.
    hints: VecDeque<u32>,
    /// Experts that are marked as likely.
    likely: Vec<u32>,
    loading: Vec<Loading>,
    /// The next expert to fill free slots with, if that is asked for.
    filling: Option<usize>,
    /// Reads under way of experts that were hinted at.
    hinted_reads: usize,
    failures: Vec<(u32, Box<StoreError>)>,
    policy: Policy,
    pub(super) hits: Hits,
    pub(super) clock: Clock,
    pub(super) stop: bool,
}

struct Entry {
    stage: Stage,
    slot: u32,
    /// Its index in the order of the request, until it is used.
    turn: u32,
    /// Values that hold it.
    held: u32,
    /// Who waits for it.
    waiters: u32,
    /// It was read because it was asked for, and is not yet used.
    fresh: bool,
    /// It was read because of a hint, and is not yet used.
    by_hint: bool,
    /// A hint named it, and its layer has not yet come.
    likely: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Absent,
    Reading,
    Here,
    Failed,
}

/// An expert that is being read.
struct Loading {
    expert: u32,
    /// What is read next: the run, and the byte in it.
    run: usize,
    at: usize,
    /// Pieces that readers have.
    under_way: usize,
    /// Nobody wants it any more.
    dropped: bool,
    error: Option<Box<StoreError>>,
}

/// A piece of an expert that is to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) expert: usize,
    pub(super) slot: usize,
    pub(super) run: usize,
    /// The first byte in the run, and how many.
    pub(super) start: usize,
    pub(super) len: usize,
    /// It is the first of its expert.
    pub(super) is_first: bool,
    /// Nobody has asked for it yet.
    pub(super) hinted: bool,
}

/// What is in the slots that an expert could be in.
#[derive(Default)]
struct Survey {
    /// Experts that were read because they were asked for, and are not yet used.
    fresh: usize,
    /// Experts that are likely to be asked for.
    likely: usize,
    /// Of those that could go, the one that no request wants and that will be used latest: in how many sweeps, and its slot.
    unwanted: Option<(f32, usize)>,
    /// Of those that could go, the one that the request wants last: its turn and its slot.
    latest: Option<(u32, usize)>,
}

/// Why an expert is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Urgency {
    Awaited,
    Asked,
    Hinted,
    /// There is room for it.
    Idle,
}

impl State {
    pub(super) fn new(plan: &ExpertPlan, clock: Clock) -> State {
        let entry = |expert| {
            // What is part of the program is always here, and in no slot.
            let stage = if plan.runs(expert).is_empty() { Stage::Here } else { Stage::Absent };
            let (held, waiters, turn) = (0, 0, NONE);
            Entry { stage, slot: NONE, turn, held, waiters, fresh: false, by_hint: false, likely: false }
        };
        let all = plan.starts().last().copied().unwrap_or(0);
        State {
            entries: (0..all).map(entry).collect(),
            slots: vec![NONE; plan.all_slots()],
            order: Vec::new(),
            cursor: 0,
            before: Vec::new(),
            awaited: Vec::new(),
            hints: VecDeque::new(),
            likely: Vec::new(),
            loading: Vec::new(),
            filling: None,
            hinted_reads: 0,
            failures: Vec::new(),
            policy: Policy::new(plan.starts()),
            hits: Hits::default(),
            clock,
            stop: false,
        }
    }

    pub(super) fn stage(&self, expert: usize) -> Stage {
        self.entries[expert].stage
    }

    /// Whether a slot that becomes free may be of use.
    pub(super) fn is_hungry(&self) -> bool {
        self.cursor < self.order.len() || !self.awaited.is_empty() || !self.hints.is_empty() || self.filling.is_some()
    }

    /// The next request: `experts` of `layer`, counted through all layers. What the one before still wanted is forgotten.
    pub(super) fn request(&mut self, layer: usize, experts: impl Iterator<Item = usize>) {
        self.forget_order();
        for e in experts {
            let turn = self.order.len() as u32;
            let entry = &mut self.entries[e];
            if entry.turn == NONE {
                entry.turn = turn;
                self.order.push(e as u32);
                if entry.stage == Stage::Reading {
                    self.resume(e);
                }
            }
        }
        self.drop_unwanted();
        // Its layer has come: what was likely is now asked for, or was not likely.
        self.forget_hints(Some(layer));
        self.policy.request(layer, &self.order);
    }

    /// Forgets the request and all hints.
    pub(super) fn reset(&mut self) {
        self.forget_order();
        self.drop_unwanted();
        self.forget_hints(None);
    }

    /// Free slots are to be filled.
    pub(super) fn fill(&mut self) {
        self.filling = Some(0);
    }

    /// Experts of `layer` that the next requests will likely name.
    pub(super) fn hint(&mut self, layer: usize, experts: impl Iterator<Item = usize>) {
        let mut before = std::mem::take(&mut self.likely);
        before.retain(|e| {
            let again = self.policy.layer_of(*e as usize) == layer;
            self.entries[*e as usize].likely &= !again;
            !again
        });
        self.likely = before;
        self.hints.clear();
        for e in experts {
            let entry = &mut self.entries[e];
            if entry.likely || entry.turn != NONE {
                continue;
            }
            entry.likely = true;
            self.likely.push(e as u32);
            match entry.stage {
                Stage::Absent => self.hints.push_back(e as u32),
                Stage::Reading => self.resume(e),
                // One that failed is not tried again before it is asked for.
                Stage::Here | Stage::Failed => {}
            }
        }
        // Those that only an earlier hint for this layer named.
        for i in (0..self.loading.len()).rev() {
            let e = self.loading[i].expert as usize;
            if self.policy.layer_of(e) == layer {
                self.drop_if_unwanted(e);
            }
        }
    }

    /// Somebody begins to wait for an expert that is not here.
    pub(super) fn begin_wait(&mut self, plan: &ExpertPlan, expert: usize) {
        let full = || plan.class_of(expert).slots().all(|s| self.holder(s).is_some_and(|entry| entry.held > 0));
        assert!(
            self.entries[expert].stage != Stage::Absent || !full(),
            "more experts are held than memory has room for: {} at once",
            plan.most_held()
        );
        self.entries[expert].waiters += 1;
        if self.entries[expert].waiters == 1 {
            self.awaited.push(expert as u32);
        }
        if self.entries[expert].stage == Stage::Reading {
            self.resume(expert);
        }
    }

    pub(super) fn end_wait(&mut self, expert: usize) {
        self.entries[expert].waiters -= 1;
        if self.entries[expert].waiters == 0 {
            self.awaited.retain(|e| *e as usize != expert);
        }
    }

    /// Holds an expert that is here; its slot, if it is in one.
    pub(super) fn hold(&mut self, plan: &ExpertPlan, expert: usize) -> Option<usize> {
        let entry = &mut self.entries[expert];
        debug_assert!(entry.stage == Stage::Here);
        entry.held += 1;
        entry.turn = NONE;
        self.hits.asked += 1;
        if std::mem::take(&mut entry.fresh) {
            self.hits.missed_bytes += plan.bytes_of(expert);
        } else {
            self.hits.hit += 1;
        }
        self.hits.hinted_used += u64::from(std::mem::take(&mut entry.by_hint));
        (entry.slot != NONE).then_some(entry.slot as usize)
    }

    pub(super) fn give_back(&mut self, expert: usize) {
        self.entries[expert].held -= 1;
    }

    /// Takes the error of an expert that failed, which is absent from now on.
    pub(super) fn take_failure(&mut self, expert: usize) -> Option<Box<StoreError>> {
        let entry = &mut self.entries[expert];
        (entry.stage, entry.turn) = (Stage::Absent, NONE);
        let index = self.failures.iter().position(|(e, _)| *e as usize == expert)?;
        Some(self.failures.swap_remove(index).1)
    }

    /// What is to be read now, if there is anything.
    pub(super) fn next_piece(&mut self, plan: &ExpertPlan) -> Option<Piece> {
        for i in 0..self.awaited.len() {
            let e = self.awaited[i] as usize;
            if self.entries[e].stage == Stage::Absent {
                self.begin(plan, e, Urgency::Awaited);
            }
        }
        if let Some(piece) = self.next_of_loading(plan, false) {
            return Some(piece);
        }
        while let Some(&e) = self.order.get(self.cursor) {
            let entry = &self.entries[e as usize];
            let absent = entry.stage == Stage::Absent && entry.turn != NONE;
            if absent && !self.begin(plan, e as usize, Urgency::Asked) {
                break;
            }
            self.cursor += 1;
            if absent {
                return self.next_of_loading(plan, false);
            }
        }
        if self.hinted_reads == HINTED_READS {
            return None;
        }
        if let Some(piece) = self.next_of_loading(plan, true) {
            return Some(piece);
        }
        while let Some(&e) = self.hints.front() {
            let absent = self.entries[e as usize].stage == Stage::Absent;
            if absent && !self.begin(plan, e as usize, Urgency::Hinted) {
                break;
            }
            self.hints.pop_front();
            if absent {
                return self.next_of_loading(plan, true);
            }
        }
        while let Some(e) = self.filling.filter(|e| *e < self.entries.len()) {
            let absent = self.entries[e].stage == Stage::Absent;
            if absent && !self.begin(plan, e, Urgency::Idle) {
                break;
            }
            self.filling = Some(e + 1);
            if absent {
                return self.next_of_loading(plan, true);
            }
        }
        self.filling = None;
        None
    }

    /// The most urgent piece of what is being read: of experts that were asked for, or of those that were hinted at.
    fn next_of_loading(&mut self, plan: &ExpertPlan, hinted: bool) -> Option<Piece> {
        let urgency = |loading: &Loading| {
            let entry = &self.entries[loading.expert as usize];
            (entry.waiters == 0, entry.turn)
        };
        let open = self.loading.iter_mut().filter(|l| {
            let entry = &self.entries[l.expert as usize];
            l.run < plan.runs(l.expert as usize).end
                && l.error.is_none()
                && !l.dropped
                && hinted == (entry.waiters == 0 && entry.turn == NONE)
        });
        let loading = open.min_by_key(|l| urgency(l))?;
        let (expert, run, start) = (loading.expert as usize, loading.run, loading.at);
        let len = plan.piece().min(plan.run(run).len - start);
        let is_first = run == plan.runs(expert).start && start == 0;
        loading.under_way += 1;
        loading.at += len;
        if loading.at == plan.run(run).len {
            (loading.run, loading.at) = (run + 1, 0);
        }
        self.hinted_reads += usize::from(hinted);
        Some(Piece { expert, slot: self.entries[expert].slot as usize, run, start, len, is_first, hinted })
    }

    /// A piece has come, or is not to be had.
    pub(super) fn finish(&mut self, plan: &ExpertPlan, piece: &Piece, result: Result<(), StoreError>) {
        self.hinted_reads -= usize::from(piece.hinted);
        let Some(index) = self.loading.iter().position(|l| l.expert as usize == piece.expert) else { return };
        let loading = &mut self.loading[index];
        loading.under_way -= 1;
        if let Err(error) = result {
            loading.error.get_or_insert_with(|| Box::new(error));
        }
        if loading.under_way > 0 {
            return;
        }
        let complete = loading.run == plan.runs(piece.expert).end;
        if let Some(error) = loading.error.take() {
            let wanted = !loading.dropped && !self.is_unwanted(piece.expert);
            self.free(index);
            if wanted {
                self.entries[piece.expert].stage = Stage::Failed;
                self.failures.push((piece.expert as u32, error));
            }
        } else if complete {
            self.loading.swap_remove(index);
            self.entries[piece.expert].stage = Stage::Here;
        } else if loading.dropped {
            self.free(index);
        }
    }

    /// Begins to read an expert, if it gets a slot.
    fn begin(&mut self, plan: &ExpertPlan, expert: usize, urgency: Urgency) -> bool {
        let Some(slot) = self.find_slot(plan, expert, urgency) else { return false };
        if self.slots[slot] != NONE {
            self.evict(slot);
        }
        self.slots[slot] = expert as u32;
        let entry = &mut self.entries[expert];
        (entry.stage, entry.slot) = (Stage::Reading, slot as u32);
        match urgency {
            Urgency::Awaited | Urgency::Asked => entry.fresh = true,
            Urgency::Hinted => {
                entry.by_hint = true;
                self.hits.hinted += 1;
            }
            Urgency::Idle => {}
        }
        let run = plan.runs(expert).start;
        self.loading.push(Loading { expert: expert as u32, run, at: 0, under_way: 0, dropped: false, error: None });
        true
    }

    /// A slot for `expert`: a free one, or one whose expert has to go.
    fn find_slot(&self, plan: &ExpertPlan, expert: usize, urgency: Urgency) -> Option<usize> {
        let class = plan.class_of(expert);
        let mut seen = Survey::default();
        for slot in class.slots() {
            let Some(entry) = self.holder(slot) else { return Some(slot) };
            seen.fresh += usize::from(entry.fresh);
            seen.likely += usize::from(entry.likely && entry.turn == NONE);
            if entry.stage != Stage::Here || entry.held > 0 || entry.waiters > 0 {
                continue;
            }
            if entry.turn != NONE {
                if seen.latest.is_none_or(|(turn, _)| entry.turn > turn) {
                    seen.latest = Some((entry.turn, slot));
                }
                continue;
            }
            let other = self.slots[slot] as usize;
            let wait = if entry.likely { self.policy.way(other) } else { self.policy.wait(other) };
            if seen.unwanted.is_none_or(|(longest, _)| wait > longest) {
                seen.unwanted = Some((wait, slot));
            }
        }
        let unwanted = seen.unwanted.map(|(_, slot)| slot);
        let latest = |(_, slot)| slot;
        match urgency {
            Urgency::Awaited => unwanted.or(seen.latest.map(latest)),
            Urgency::Asked if seen.fresh >= class.window() => None,
            Urgency::Asked if unwanted.is_some() => unwanted,
            Urgency::Asked if seen.fresh >= class.narrow_window() => None,
            Urgency::Asked => seen.latest.filter(|(turn, _)| *turn > self.entries[expert].turn).map(latest),
            Urgency::Hinted if seen.likely >= class.slots / 2 => None,
            Urgency::Hinted => {
                let later = |(wait, _): &(f32, usize)| *wait > self.policy.way(expert);
                seen.unwanted.filter(later).map(|(_, slot)| slot)
            }
            Urgency::Idle => None,
        }
    }

    /// Takes the expert in `slot`, which is here, out of it.
    fn evict(&mut self, slot: usize) {
        let entry = &mut self.entries[self.slots[slot] as usize];
        debug_assert!(entry.stage == Stage::Here && entry.held == 0);
        if entry.turn != NONE {
            self.cursor = self.cursor.min(entry.turn as usize);
        }
        (entry.stage, entry.slot, entry.fresh, entry.by_hint) = (Stage::Absent, NONE, false, false);
        self.slots[slot] = NONE;
        self.hits.evicted += 1;
    }

    /// Ends a read of which nothing is under way: its slot is free, its expert absent.
    fn free(&mut self, loading: usize) {
        let Loading { expert, .. } = self.loading.swap_remove(loading);
        let entry = &mut self.entries[expert as usize];
        self.slots[entry.slot as usize] = NONE;
        (entry.stage, entry.slot, entry.fresh, entry.by_hint) = (Stage::Absent, NONE, false, false);
    }

    fn holder(&self, slot: usize) -> Option<&Entry> {
        self.entries.get(self.slots[slot] as usize)
    }

    fn is_unwanted(&self, expert: usize) -> bool {
        let entry = &self.entries[expert];
        entry.turn == NONE && entry.waiters == 0 && !entry.likely
    }

    /// A read that was given up goes on.
    fn resume(&mut self, expert: usize) {
        if let Some(loading) = self.loading.iter_mut().find(|l| l.expert as usize == expert) {
            loading.dropped = false;
        }
    }

    /// The order of the request moves to `before`; none of its experts has a turn.
    fn forget_order(&mut self) {
        self.before.clear();
        std::mem::swap(&mut self.before, &mut self.order);
        self.cursor = 0;
        for e in &self.before {
            self.entries[*e as usize].turn = NONE;
        }
        for (e, _) in self.failures.drain(..) {
            self.entries[e as usize].stage = Stage::Absent;
        }
    }

    /// Gives up reads for the request before that nobody wants now.
    fn drop_unwanted(&mut self) {
        for i in 0..self.before.len() {
            let e = self.before[i] as usize;
            self.entries[e].fresh &= self.entries[e].turn != NONE || self.entries[e].waiters > 0;
            self.drop_if_unwanted(e);
        }
    }

    fn drop_if_unwanted(&mut self, expert: usize) {
        if self.entries[expert].stage == Stage::Reading
            && self.is_unwanted(expert)
            && let Some(index) = self.loading.iter().position(|l| l.expert as usize == expert)
        {
            if self.loading[index].under_way == 0 {
                self.free(index);
            } else {
                self.loading[index].dropped = true;
            }
        }
    }

    /// Forgets hints for `layer`, or all.
    fn forget_hints(&mut self, layer: Option<usize>) {
        let is_of = |policy: &Policy, e: u32| layer.is_none_or(|layer| policy.layer_of(e as usize) == layer);
        let mut likely = std::mem::take(&mut self.likely);
        likely.retain(|e| {
            if !is_of(&self.policy, *e) {
                return true;
            }
            self.entries[*e as usize].likely = false;
            self.drop_if_unwanted(*e as usize);
            false
        });
        self.likely = likely;
        let policy = &self.policy;
        self.hints.retain(|e| !is_of(policy, *e));
    }
}
