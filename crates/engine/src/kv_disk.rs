//! Keys and values on disk: full blocks that a sequence has put away, and a small ring of blocks that they are read into,
//! ahead of the layer that needs them.
//!
//! All sequences of a model share one file, which has no name. It is cut into slots; a slot holds a block of positions of one
//! sequence in every layer. A pass goes through layers, in a layer through sequences, in a sequence through blocks: the order of
//! reading is known when a pass begins, and when it ends the next is taken to go on with the same sequences.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rheostat_kernels::{KV_BLOCK, KvBlock, KvFormat};
use rheostat_store::{SPOOL_THREADS, Spool, SpoolBuffer, SpoolPlace, StoreError};

use crate::decoder::Decoder;
use crate::error::Error;

/// Positions at the end of a sequence whose blocks stay in memory, so that small steps back read nothing.
pub(crate) const NEAR: usize = 64;

/// Bytes of the ring, about: what a disk needs to be busy. Larger ones are worth less than the weights they displace.
const RING: u64 = 32 << 20;
/// Blocks of the ring: one that is read while each thread fills another, and no more than help.
const RING_BLOCKS: std::ops::Range<u64> = SPOOL_THREADS as u64 + 1..64;

/// A block's place in the file, in all layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    index: usize,
    /// Of one use of the slot: another content has another number.
    use_number: u64,
}

/// A block of one layer on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    pub(crate) slot: Slot,
    pub(crate) layer: usize,
}

/// Half of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KvPart {
    /// The keys.
    Keys,
    /// The values.
    Values,
}

/// The file of a model's sequences.
pub(crate) struct KvDisk {
    spool: Spool<Page>,
    layers: Vec<LayerPlace>,
    slot_bytes: u64,
    slots: Mutex<Slots>,
    ring: Mutex<Ring>,
}

/// Where a slot has a layer, and how much.
struct LayerPlace {
    offset: u64,
    lens: [usize; 2],
    window: Option<usize>,
}

#[derive(Default)]
struct Slots {
    /// Slots that were used before and are free.
    free: Vec<usize>,
    /// Slots in all.
    count: usize,
    uses: u64,
}

struct Ring {
    free: Vec<KvBlock>,
    /// Handed in, in this order.
    asked: VecDeque<Stored>,
    /// What will be needed after them.
    ahead: VecDeque<Stored>,
}

/// A block that is read into.
struct Page(KvBlock);

impl SpoolBuffer for Page {
    fn parts_mut(&mut self) -> [&mut [u8]; 2] {
        self.0.parts_mut()
    }
}

impl KvDisk {
    /// A file in `dir`, and a ring of `blocks`.
    pub(crate) fn new(decoder: &Decoder, format: KvFormat, dir: &Path, blocks: u64) -> Result<KvDisk, StoreError> {
        let mut slot_bytes = 0;
        let layers = decoder.blocks.iter().map(|block| {
            let kv = block.kv();
            let lens = kv.map_or([0, 0], |kv| kv.part_lens(format));
            let offset = slot_bytes;
            slot_bytes += SpoolPlace::span(lens);
            LayerPlace { offset, lens, window: kv.and_then(|kv| kv.window) }
        });
        Ok(KvDisk {
            spool: Spool::create(dir)?,
            layers: layers.collect(),
            slot_bytes,
            slots: Mutex::default(),
            ring: Mutex::new(Ring {
                free: side_by_side(blocks as usize, format, decoder),
                asked: VecDeque::new(),
                ahead: VecDeque::new(),
            }),
        })
    }

    /// Bytes read, and seconds waited for them.
    pub(crate) fn reading(&self) -> (u64, f64) {
        (self.spool.bytes_read(), self.spool.waited())
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot that nothing is in.
    pub(crate) fn take_slot(&self) -> Slot {
        let mut slots = self.slots();
        slots.uses += 1;
        let index = slots.free.pop().unwrap_or_else(|| {
            slots.count += 1;
            slots.count - 1
        });
        Slot { index, use_number: slots.uses }
    }

    /// Takes slots back.
    pub(crate) fn free_slots(&self, slots: impl Iterator<Item = Slot>) {
        self.slots().free.extend(slots.map(|slot| slot.index));
    }

    fn place(&self, stored: Stored) -> SpoolPlace {
        let layer = &self.layers[stored.layer];
        SpoolPlace { offset: stored.slot.index as u64 * self.slot_bytes + layer.offset, lens: layer.lens }
    }

    /// The first block that the row at `pos` sees in `layer`.
    pub(crate) fn first_seen(&self, layer: usize, pos: usize) -> usize {
        self.layers[layer].window.map_or(0, |w| (pos + 1).saturating_sub(w)) / KV_BLOCK
    }

    /// Puts a full block away.
    pub(crate) fn write(&self, stored: Stored, block: &KvBlock) -> Result<(), Error> {
        Ok(self.spool.write(self.place(stored), block.parts())?)
    }

    /// Reads a block, now.
    pub(crate) fn read(&self, stored: Stored, block: &mut KvBlock) -> Result<(), Error> {
        Ok(self.spool.read(self.place(stored), block.parts_mut())?)
    }

    /// Reads the keys, or the values, of a block into one of the ring.
    pub(crate) fn read_part(&self, stored: Stored, part: KvPart, block: &mut KvBlock) -> Result<(), Error> {
        let SpoolPlace { offset, lens: [keys, values] } = self.place(stored);
        let place = match part {
            KvPart::Keys => SpoolPlace { offset, lens: [keys, 0] },
            KvPart::Values => SpoolPlace { offset: offset + SpoolPlace::span([keys, 0]), lens: [0, values] },
        };
        Ok(self.spool.read(place, block.parts_mut())?)
    }

    /// A block of the ring, whatever it holds; nothing is read ahead any more.
    pub(crate) fn lend(&self) -> KvBlock {
        self.expect(VecDeque::new());
        let mut ring = self.ring();
        self.drop_asked(&mut ring);
        ring.free.pop().expect("the ring has blocks, and all are free")
    }

    /// Says what will be taken next, in order: as much of it as the ring has room for is read from now on.
    pub(crate) fn expect(&self, mut stored: VecDeque<Stored>) {
        let mut ring = self.ring();
        let same = ring.asked.iter().zip(&stored).take_while(|(a, b)| a == b).count();
        if same == ring.asked.len() {
            stored.drain(..same);
        } else {
            // The text went on otherwise: a step back, or other sequences.
            self.drop_asked(&mut ring);
        }
        ring.ahead = stored;
        self.ask(&mut ring);
    }

    /// The next block, which was [expected](KvDisk::expect) at this place.
    pub(crate) fn take(&self, stored: Stored) -> Result<KvBlock, Error> {
        let mut ring = self.ring();
        assert_eq!(ring.asked.pop_front(), Some(stored), "blocks are taken in the order that was told");
        let (Page(block), result) = self.spool.take().expect("what was asked for comes");
        match result {
            Ok(()) => Ok(block),
            Err(error) => {
                ring.free.push(block);
                Err(error.into())
            }
        }
    }

    /// Takes a block back, for the next to be read into.
    pub(crate) fn give_back(&self, block: KvBlock) {
        let mut ring = self.ring();
        ring.free.push(block);
        self.ask(&mut ring);
    }

    fn ask(&self, ring: &mut Ring) {
        while !ring.ahead.is_empty()
            && let Some(block) = ring.free.pop()
            && let Some(stored) = ring.ahead.pop_front()
        {
            self.spool.ask(self.place(stored), Page(block));
            ring.asked.push_back(stored);
        }
    }

    fn drop_asked(&self, ring: &mut Ring) {
        ring.asked.clear();
        while let Some((Page(block), _)) = self.spool.take() {
            ring.free.push(block);
        }
    }
}

/// Elements of a position's keys, and of its values, in the widest layer.
fn widest(decoder: &Decoder) -> [usize; 2] {
    let widths = |kv: crate::decoder::KvShape| kv.part_lens(KvFormat::F32).map(|len| len / (4 * KV_BLOCK));
    let all = decoder.blocks.iter().filter_map(super::decoder::Block::kv).map(widths);
    all.fold([0, 0], |[a, b], [keys, values]| [a.max(keys), b.max(values)])
}

/// The blocks of the ring.
fn side_by_side(blocks: usize, format: KvFormat, decoder: &Decoder) -> Vec<KvBlock> {
    let [keys, values] = widest(decoder);
    KvBlock::side_by_side(format, std::iter::repeat_n((1, keys, values), blocks)).collect()
}

/// Bytes of a block of the ring.
pub(crate) fn ring_block_bytes(decoder: &Decoder, format: KvFormat) -> u64 {
    let [keys, values] = widest(decoder);
    SpoolPlace::span(KvBlock::part_lens(format, 1, keys, values))
}

/// Blocks of the ring, under a budget of `memory` bytes and for `positions` on disk.
pub(crate) fn ring_blocks(decoder: &Decoder, format: KvFormat, memory: u64, positions: usize) -> u64 {
    let target = RING.min(memory / 32);
    let stored = (positions.div_ceil(KV_BLOCK) * decoder.blocks.len()) as u64;
    let blocks = (target / ring_block_bytes(decoder, format).max(1)).min(stored);
    blocks.clamp(RING_BLOCKS.start, RING_BLOCKS.end)
}

/// Bytes that a block of positions takes on disk, in all layers.
pub(crate) fn slot_bytes(decoder: &Decoder, format: KvFormat) -> u64 {
    decoder.blocks.iter().filter_map(super::decoder::Block::kv).map(|kv| SpoolPlace::span(kv.part_lens(format))).sum()
}
