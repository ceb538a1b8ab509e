//! Who lies where in the memory that streamed tiles pass through: tiles go in and out in the order in which they are used, each at the
//! first place that is free when it goes in. The memory itself, the reading and the waiting are the stream's.

use std::collections::{BTreeMap, VecDeque};

use crate::stream::Arrival;

/// Tiles in the ring or on their way there.
pub(crate) struct Ring {
    /// Bytes of it.
    size: usize,
    /// In order of use.
    slots: VecDeque<Slot>,
    /// Where each begins and ends.
    taken: BTreeMap<usize, usize>,
    /// Number of the first of `slots`.
    front: u64,
    /// Whether the first is in use.
    held: bool,
}

pub(crate) struct Slot {
    pub(crate) tile: usize,
    pub(crate) at: usize,
    pub(crate) arrival: Arrival,
}

impl Ring {
    /// An empty ring of `size` bytes.
    pub(crate) fn new(size: usize) -> Ring {
        Ring { size, slots: VecDeque::new(), taken: BTreeMap::new(), front: 0, held: false }
    }

    /// Takes `len` bytes for `tile`, which is read from now on: the slot's number and the place, or nothing while there is no room.
    ///
    /// The first place that is large enough, so that as little memory as possible is in turn.
    pub(crate) fn take(&mut self, tile: usize, len: usize) -> Option<(u64, usize)> {
        let mut at = 0;
        for (begin, end) in &self.taken {
            if at + len <= *begin {
                break;
            }
            at = *end;
        }
        if at + len > self.size {
            return None;
        }
        self.taken.insert(at, at + len);
        self.slots.push_back(Slot { tile, at, arrival: Arrival::Reading });
        Some((self.front + self.slots.len() as u64 - 1, at))
    }

    /// What became of the slot with that number.
    pub(crate) fn set(&mut self, slot: u64, arrival: Arrival) {
        self.slots[(slot - self.front) as usize].arrival = arrival;
    }

    /// What became of each slot.
    pub(crate) fn arrivals(&self) -> impl Iterator<Item = &Arrival> {
        self.slots.iter().map(|slot| &slot.arrival)
    }

    /// The slot to be used next, if there is one.
    ///
    /// # Panics
    /// When another is in use.
    pub(crate) fn next(&mut self) -> Option<&mut Slot> {
        assert!(!self.held, "one streamed tile at a time");
        self.slots.front_mut()
    }

    /// The slot to be used next is in use.
    pub(crate) fn hold(&mut self) {
        self.held = true;
    }

    /// The slot in use is free.
    pub(crate) fn release(&mut self) {
        if let Some(slot) = self.slots.pop_front() {
            self.taken.remove(&slot.at);
        }
        self.front += 1;
        self.held = false;
    }

    /// All slots are free.
    ///
    /// # Panics
    /// When one is in use.
    pub(crate) fn clear(&mut self) {
        assert!(!self.held, "a tile is held across sweeps");
        self.front += self.slots.len() as u64;
        self.slots.clear();
        self.taken.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn places_do_not_overlap_and_the_next_tile_gets_one_in_time(
            lens in proptest::collection::vec(1usize..=64, 1..60),
            size in 128usize..400,
        ) {
            let mut ring = Ring::new(size);
            for (tile, len) in lens.iter().enumerate() {
                let (slot, at) = loop {
                    if let Some(taken) = ring.take(tile, *len) {
                        break taken;
                    }
                    proptest::prop_assert!(ring.next().is_some(), "no room in an empty ring");
                    ring.hold();
                    ring.release();
                };
                proptest::prop_assert_eq!(slot, tile as u64);
                proptest::prop_assert!(at + len <= size);
                for other in ring.slots.iter().filter(|other| other.tile != tile) {
                    proptest::prop_assert!(at + len <= other.at || other.at + lens[other.tile] <= at);
                }
            }
        }
    }
}
