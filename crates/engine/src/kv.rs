//! The memory of a sequence: keys and values of every layer, in blocks that are taken as they are needed.
//!
//! With a [`KvDisk`], a sequence keeps its last positions in memory, and puts full blocks away after each layer of a pass.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rheostat_kernels::{Exec, KV_BLOCK, KV_UNIT, KvBlock, KvFormat};

use crate::carry::Carry;
use crate::decoder::{Decoder, KvShape};
use crate::error::Error;
use crate::forward::Input;
use crate::kv_disk::{KvDisk, KvPart, NEAR, Slot, Stored};

/// The blocks that the memory plan allows, shared by all sequences of a model.
pub(crate) struct KvPool {
    /// Units of `KV_UNIT` positions, in all layers, that may still be taken.
    free: AtomicUsize,
    planned: usize,
    format: KvFormat,
    disk: Option<KvDisk>,
    /// With a disk, sequences that may still begin: each keeps its last blocks in memory.
    beginnings: AtomicUsize,
    sequences: usize,
}

impl KvPool {
    /// Room for `units` of positions, in memory or for the most part on `disk`, of at most so many `sequences` then.
    pub(crate) fn new(units: usize, format: KvFormat, disk: Option<KvDisk>, sequences: usize) -> Arc<KvPool> {
        let (free, beginnings) = (AtomicUsize::new(units), AtomicUsize::new(sequences));
        Arc::new(KvPool { free, planned: units, format, disk, beginnings, sequences })
    }

    pub(crate) fn disk(&self) -> Option<&KvDisk> {
        self.disk.as_ref()
    }

    pub(crate) fn format(&self) -> KvFormat {
        self.format
    }

    fn take(&self, units: usize, tokens: usize) -> Result<(), Error> {
        take(&self.free, units).ok_or(Error::CacheFull { tokens, planned: self.planned * KV_UNIT })
    }
}

/// Takes `n` of what is left, if there is as much.
fn take(left: &AtomicUsize, n: usize) -> Option<()> {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(n)).ok().map(drop)
}

/// A text that a model is reading or writing: its keys and values so far.
///
/// Made by [`Model::sequence`](crate::Model::sequence); grows with every pass, and is cheap to
/// [roll back](Sequence::truncate).
pub struct Sequence {
    pub(crate) layers: Vec<Layer>,
    /// What each layer keeps of a position, if anything.
    shape: Vec<Option<KvShape>>,
    /// What it carries besides.
    carried: Carry,
    len: usize,
    /// Units of positions that were taken from the pool.
    units: usize,
    /// Tokens known to come from the start: what frequencies that depend on the length go by, and which blocks will be full.
    prompt_len: usize,
    pool: Arc<KvPool>,
    /// Where on disk the first blocks are, or will be when the pass is over: as many as the layer that has most.
    slots: Vec<Slot>,
    /// Blocks that this pass puts away, those that are away already among them.
    away: usize,
    /// Whether it counts among the sequences that were planned for.
    counted: bool,
}

/// The blocks of one layer, in order of position.
#[derive(Default)]
pub(crate) struct Layer {
    /// Blocks that are on disk: those before the ones in memory.
    pub(crate) first: usize,
    pub(crate) blocks: Vec<KvBlock>,
}

impl Sequence {
    pub(crate) fn new(decoder: &Decoder, prompt_len: usize, pool: &Arc<KvPool>) -> Sequence {
        let shape: Vec<_> = decoder.blocks.iter().map(crate::decoder::Block::kv).collect();
        Sequence {
            carried: Carry::new(decoder),
            layers: shape.iter().map(|_| Layer::default()).collect(),
            shape,
            len: 0,
            units: 0,
            prompt_len,
            pool: Arc::clone(pool),
            slots: Vec::new(),
            away: 0,
            counted: false,
        }
    }

    /// Where its full blocks are, if not in memory.
    pub(crate) fn disk(&self) -> Option<&KvDisk> {
        self.pool.disk()
    }

    /// Whether its blocks come from `pool`.
    pub(crate) fn is_of(&self, pool: &Arc<KvPool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }

    /// Tokens so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token was read yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that count for the token at `pos`, where frequencies depend on the length of the text: the whole
    /// prompt from its first chunk on, and what there is so far in decode.
    pub(crate) fn text_len(&self, pos: usize) -> usize {
        self.prompt_len.max(pos + 1)
    }

    /// Forgets all tokens from position `len` on. A model that carries a state from position to position can go back only to where
    /// the last pass began (not at all where it [was restored](crate::session::Session::restore)), and to the beginning: then more is
    /// forgotten, and [`Sequence::len`] says how much is left.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.len = self.carried.back_to(len);
        }
        let blocks = self.len.div_ceil(KV_BLOCK);
        for layer in &mut self.layers {
            layer.first = layer.first.min(blocks);
            layer.blocks.truncate(blocks - layer.first);
        }
        let units = self.units.min(self.len.div_ceil(KV_UNIT));
        if units < self.units && !units.is_multiple_of(KV_BLOCK / KV_UNIT) {
            let kept = units * KV_UNIT % KV_BLOCK;
            self.layers.iter_mut().filter_map(|layer| layer.blocks.last_mut()).for_each(|block| block.truncate(kept));
        }
        self.pool.free.fetch_add(self.units - units, Ordering::Relaxed);
        self.units = units;
        self.free_slots();
        if self.counted && self.len == 0 {
            self.pool.beginnings.fetch_add(1, Ordering::Relaxed);
            self.counted = false;
        }
    }

    /// Forgets all, to read a text of which `prompt_len` tokens are known to come.
    pub(crate) fn restart(&mut self, prompt_len: usize) {
        self.truncate(0);
        self.prompt_len = prompt_len;
    }

    /// Forgets what a pass did that failed.
    pub(crate) fn undo(&mut self) {
        self.carried.undo();
        self.truncate(self.len);
    }

    /// Keeps the state of `layer` as it is before a pass changes it.
    pub(crate) fn keep_state(&mut self, layer: usize) {
        self.carried.keep(layer);
    }

    /// The state of `layer`: of its convolution, and of its recurrence.
    pub(crate) fn state(&mut self, layer: usize) -> &mut [Vec<f32>; 2] {
        self.carried.state(layer)
    }

    /// What `layer` carries, to be kept elsewhere: of its convolution (part 0), and of its recurrence (part 1). Empty stands for zeros.
    pub(crate) fn carried(&self, layer: usize, part: usize) -> &[f32] {
        self.carried.now(layer, part)
    }

    /// Takes over what `layer` carried in a sequence that had read as much.
    pub(crate) fn carry(&mut self, layer: usize, part: usize, values: Vec<f32>) {
        self.carried.put(layer, part, values);
    }

    /// Gives slots back in which no layer has anything.
    fn free_slots(&mut self) {
        let used = self.layers.iter().map(|layer| layer.first).max().unwrap_or(0);
        if let Some(disk) = &self.pool.disk {
            disk.free_slots(self.slots.drain(used.min(self.slots.len())..));
        }
    }

    /// Makes room for `n` more tokens.
    pub(crate) fn reserve(&mut self, n: usize) -> Result<(), Error> {
        let len = self.len + n;
        // Blocks that will be full. Those that are put away go one by one, and do not share memory.
        let full = if self.pool.disk.is_none() { len.max(self.prompt_len) / KV_BLOCK } else { 0 };
        let units = len.next_multiple_of(KV_BLOCK).min(full * KV_BLOCK).max(len).div_ceil(KV_UNIT);
        if units > self.units {
            self.pool.take(units - self.units, len)?;
            self.units = units;
        }
        self.reserve_on_disk(len)?;
        let (format, blocks) = (self.pool.format, len.div_ceil(KV_BLOCK));
        let so_far = self.layers.iter().map(|layer| layer.blocks.len()).max().unwrap_or(0);
        for _ in so_far..full.min(blocks) {
            let shapes = self.shape.iter().flatten().map(|s| (s.n_kv_heads, s.head_dim, s.value_dim));
            let layers = self.layers.iter_mut().zip(&self.shape).filter(|(_, shape)| shape.is_some());
            for ((layer, _), block) in layers.zip(KvBlock::side_by_side(format, shapes)) {
                layer.blocks.push(block);
            }
        }
        for (layer, shape) in self.layers.iter_mut().zip(&self.shape) {
            let Some(shape) = *shape else { continue };
            layer.blocks.resize_with(blocks - layer.first, || shape.block(format));
        }
        Ok(())
    }

    /// Makes ready for a pass that ends at `len`: the block that grows is in memory, and those that will be full have a slot.
    fn reserve_on_disk(&mut self, len: usize) -> Result<(), Error> {
        let pool = Arc::clone(&self.pool);
        let Some(disk) = pool.disk() else { return Ok(()) };
        if !self.counted {
            take(&pool.beginnings, 1).ok_or(Error::TooManySequences { planned: pool.sequences })?;
            self.counted = true;
        }
        if !self.len.is_multiple_of(KV_BLOCK) {
            let grows = self.len / KV_BLOCK;
            let kept = (self.len % KV_BLOCK).next_multiple_of(KV_UNIT);
            for (i, layer) in self.layers.iter_mut().enumerate().filter(|(_, layer)| layer.first > grows) {
                let Some(shape) = self.shape[i] else { continue };
                let mut block = shape.block(pool.format);
                disk.read(Stored { slot: self.slots[grows], layer: i }, &mut block)?;
                block.truncate(kept);
                layer.blocks.push(block);
                layer.first = grows;
            }
            self.free_slots();
        }
        self.away = len.saturating_sub(NEAR) / KV_BLOCK;
        while self.slots.len() < self.away {
            self.slots.push(disk.take_slot());
        }
        Ok(())
    }

    /// Puts away the blocks of `layer` that are not near the end of this pass. On an error, some of them.
    pub(crate) fn put_away(&mut self, layer: usize) -> Result<(), Error> {
        let Some(disk) = self.pool.disk() else { return Ok(()) };
        let Layer { first, blocks } = &mut self.layers[layer];
        while *first < self.away {
            disk.write(Stored { slot: self.slots[*first], layer }, &blocks[0])?;
            blocks.remove(0);
            *first += 1;
        }
        Ok(())
    }

    /// The blocks on disk that the row at `pos` and those after it see in `layer`.
    pub(crate) fn stored(&self, layer: usize, pos: usize) -> impl Iterator<Item = (usize, Stored)> + use<'_> {
        let end = self.layers[layer].first;
        let start = self.pool.disk().map_or(end, |disk| disk.first_seen(layer, pos)).min(end);
        (start..end).map(move |b| (b, Stored { slot: self.slots[b], layer }))
    }

    /// Hands out the keys, or the values, of all positions of `layer` as they are kept: `[n, n_kv_heads, head_dim]` little-endian
    /// elements, a unit of positions at a time.
    pub(crate) fn rows(
        &self,
        layer: usize,
        part: KvPart,
        rows: &mut Vec<u8>,
        mut each: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Layer { first, blocks } = &self.layers[layer];
        if let Some(disk) = self.pool.disk() {
            let mut block = disk.lend();
            let result = (0..*first).try_for_each(|b| {
                disk.read_part(Stored { slot: self.slots[b], layer }, part, &mut block)?;
                self.rows_of(&block, b, layer, part, rows, &mut each)
            });
            disk.give_back(block);
            result?;
        }
        let mut in_memory = (*first..).zip(blocks);
        in_memory.try_for_each(|(b, block)| self.rows_of(block, b, layer, part, rows, &mut each))
    }

    /// The same of `block`, which is block `b`.
    fn rows_of(
        &self,
        block: &KvBlock,
        b: usize,
        layer: usize,
        part: KvPart,
        rows: &mut Vec<u8>,
        each: &mut impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(shape) = self.shape[layer] else { return Ok(()) };
        let n_kv_heads = shape.n_kv_heads;
        let width = match part {
            KvPart::Keys => shape.head_dim,
            KvPart::Values => shape.value_dim,
        };
        let end = KV_BLOCK.min(self.len.saturating_sub(b * KV_BLOCK));
        for start in (0..end).step_by(KV_UNIT) {
            let slots = start..end.min(start + KV_UNIT);
            rows.resize(slots.len() * n_kv_heads * width * self.pool.format.bytes(), 0);
            match part {
                KvPart::Keys => block.copy_keys(n_kv_heads, width, slots, rows),
                KvPart::Values => block.copy_values(n_kv_heads, width, slots, rows),
            }
            each(rows)?;
        }
        Ok(())
    }

    /// Tokens known to come from the start.
    pub(crate) fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// Writes the keys `[n, n_kv_heads, head_dim]` and values `[n, n_kv_heads, value_dim]` of the tokens that follow, in `layer`.
    /// Room was reserved.
    pub(crate) fn write(&mut self, exec: &Exec, layer: usize, keys: &[f32], values: &[f32]) {
        let Some(shape) = self.shape[layer] else { return };
        let (width, value_width) = (shape.n_kv_heads * shape.head_dim, shape.n_kv_heads * shape.value_dim);
        let mut pos = self.len;
        let mut rest = (keys, values);
        let Layer { first, blocks } = &mut self.layers[layer];
        while !rest.0.is_empty() {
            let slot = pos % KV_BLOCK;
            let n = (rest.0.len() / width).min(KV_BLOCK - slot);
            let (keys, values) = (rest.0.split_at(n * width), rest.1.split_at(n * value_width));
            blocks[pos / KV_BLOCK - *first].write(exec, slot, keys.0, values.0);
            rest = (keys.1, values.1);
            pos += n;
        }
    }

    /// Counts `n` tokens as read.
    pub(crate) fn advance(&mut self, n: usize) {
        self.carried.passed(self.len);
        self.len += n;
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

/// Says what of `inputs` the next pass will read from disk, if their blocks are there: layer by layer, in order of sequences.
pub(crate) fn expect(inputs: &[Input<'_>]) {
    let Some(disk) = inputs.first().and_then(|input| input.sequence.pool.disk()) else { return };
    let layers = 0..inputs[0].sequence.layers.len();
    let of_layer = |layer| inputs.iter().flat_map(move |i| i.sequence.stored(layer, i.sequence.len));
    disk.expect(layers.flat_map(of_layer).map(|(_, stored)| stored).collect::<VecDeque<_>>());
}

/// Bytes that one unit of positions takes in all layers.
pub(crate) fn unit_bytes(decoder: &Decoder, format: KvFormat) -> u64 {
    decoder.blocks.iter().filter_map(super::decoder::Block::kv).map(|shape| shape.memory(format)).sum()
}

/// Bytes of what a sequence carries besides.
pub(crate) fn state_bytes(decoder: &Decoder) -> u64 {
    // As it is, and as it was.
    decoder.blocks.iter().map(|b| 2 * 4 * b.state() as u64).sum()
}

impl KvShape {
    /// An empty block of the cache.
    fn block(self, format: KvFormat) -> KvBlock {
        KvBlock::new(format, self.n_kv_heads, self.head_dim, self.value_dim)
    }

    /// Bytes of memory that a unit of positions takes.
    pub(crate) fn memory(self, format: KvFormat) -> u64 {
        KvBlock::memory(format, self.n_kv_heads, self.head_dim, self.value_dim)
    }

    /// Bytes of the keys and of the values of a block.
    pub(crate) fn part_lens(self, format: KvFormat) -> [usize; 2] {
        KvBlock::part_lens(format, self.n_kv_heads, self.head_dim, self.value_dim)
    }
}
