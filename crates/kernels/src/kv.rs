//! The cache of keys and values: blocks of positions, in the order in which attention reads them.

use std::ops::Range;

use crate::buffer::{Buffer, as_bytes_mut};
use crate::exec::{Exec, SharedMut};
use crate::simd::LANES;

/// Positions in a block of the cache, and in a partial softmax.
pub const KV_BLOCK: usize = 512;

/// Positions by which the memory of a block grows.
pub const KV_UNIT: usize = 128;

/// How a cache keeps keys and values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KvFormat {
    /// As they are.
    F32,
    /// Rounded to bf16, to nearest, ties to even.
    Bf16,
}

impl KvFormat {
    /// The name of its elements' type.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            KvFormat::F32 => "f32",
            KvFormat::Bf16 => "bf16",
        }
    }

    /// Bytes of an element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            KvFormat::F32 => 4,
            KvFormat::Bf16 => 2,
        }
    }
}

/// Elements of keys to write that keep a thread busy for some microseconds.
const SHARED: usize = 256;

/// Keys and values of [`KV_BLOCK`] consecutive positions of one sequence in one layer.
///
/// Keys are `[n_kv_heads, KV_BLOCK / 16, head_dim, 16 positions]`: a vector holds one element of sixteen keys, so that
/// their scores end in its lanes. Values are `[n_kv_heads, value_dim / 16, KV_BLOCK, 16 elements]`, the last of a short
/// head zero. So both are read as long runs, several at once, as memory likes it.
#[derive(Debug)]
pub struct KvBlock {
    pub(crate) format: KvFormat,
    head_dim: usize,
    value_dim: usize,
    /// Bytes, in the element format.
    pub(crate) keys: Buffer,
    pub(crate) values: Buffer,
}

impl KvBlock {
    /// An empty block. It takes memory as it is written, [`KvBlock::memory`] for every [`KV_UNIT`] positions.
    #[must_use]
    pub fn new(format: KvFormat, n_kv_heads: usize, head_dim: usize, value_dim: usize) -> KvBlock {
        let lens = KvBlock::part_lens(format, n_kv_heads, head_dim, value_dim);
        let [keys, values] = lens.map(|bytes| Buffer::new(bytes / size_of::<f32>()));
        KvBlock { format, head_dim, value_dim, keys, values }
    }

    /// A block for each of `shapes`, `(n_kv_heads, head_dim, value_dim)`, in memory that is used as a whole and goes back when all of them do. It is in
    /// huge pages where the system has them, which are read faster.
    pub fn side_by_side(
        format: KvFormat,
        shapes: impl Iterator<Item = (usize, usize, usize)> + Clone,
    ) -> impl Iterator<Item = KvBlock> {
        let lens = move |(heads, head_dim, value_dim)| KvBlock::part_lens(format, heads, head_dim, value_dim);
        let mut buffers = Buffer::side_by_side(shapes.clone().flat_map(lens).map(|bytes| bytes / size_of::<f32>()));
        shapes.map_while(move |(_, head_dim, value_dim)| {
            Some(KvBlock { format, head_dim, value_dim, keys: buffers.next()?, values: buffers.next()? })
        })
    }

    /// The bytes of the keys and of the values, to be kept somewhere else.
    #[must_use]
    pub fn parts(&self) -> [&[u8]; 2] {
        [self.keys.bytes(), self.values.bytes()]
    }

    /// The same, to be read again. Only what [`KvBlock::parts`] of a block of the same shape and format gave may be written
    /// there: on other numbers, attention gives nonsense.
    pub fn parts_mut(&mut self) -> [&mut [u8]; 2] {
        [as_bytes_mut(&mut self.keys), as_bytes_mut(&mut self.values)]
    }

    /// Bytes of both parts of a block.
    #[must_use]
    pub fn part_lens(format: KvFormat, n_kv_heads: usize, head_dim: usize, value_dim: usize) -> [usize; 2] {
        [head_dim, padded(value_dim)].map(|width| n_kv_heads * KV_BLOCK * width * format.bytes())
    }

    /// Bytes of memory that [`KV_UNIT`] positions take.
    #[must_use]
    pub fn memory(format: KvFormat, n_kv_heads: usize, head_dim: usize, value_dim: usize) -> u64 {
        (n_kv_heads * KV_UNIT * (head_dim + padded(value_dim)) * format.bytes()) as u64
    }

    /// Forgets the positions from `first` on, a multiple of [`KV_UNIT`], and gives their memory back.
    pub fn truncate(&mut self, first: usize) {
        let size = self.format.bytes();
        for (buffer, width) in [(&mut self.keys, self.head_dim), (&mut self.values, LANES)] {
            // Elements of so many positions of a run.
            let of = |positions: usize| positions * width * size / size_of::<f32>();
            for start in (0..buffer.len()).step_by(of(KV_BLOCK)) {
                buffer.forget(start + of(first)..start + of(KV_BLOCK));
            }
        }
    }

    /// Copies the keys of positions `slots`, as they are kept, to `out: [slots, n_kv_heads, head_dim]`. The block may be larger than
    /// of that shape.
    ///
    /// # Panics
    /// When `out` is not of that size.
    pub fn copy_keys(&self, n_kv_heads: usize, head_dim: usize, slots: Range<usize>, out: &mut [u8]) {
        let place = |slot: usize, head: usize, element: usize| {
            let group = head * KV_BLOCK * head_dim + slot / LANES * LANES * head_dim;
            group + element * LANES + slot % LANES
        };
        copy_rows(self.keys.bytes(), self.format.bytes(), [n_kv_heads, head_dim], slots, out, place);
    }

    /// The same of values, to `out: [slots, n_kv_heads, value_dim]`.
    ///
    /// # Panics
    /// As [`KvBlock::copy_keys`].
    pub fn copy_values(&self, n_kv_heads: usize, value_dim: usize, slots: Range<usize>, out: &mut [u8]) {
        let place = |slot: usize, head: usize, element: usize| {
            let run = head * KV_BLOCK * padded(value_dim) + element / LANES * LANES * KV_BLOCK;
            run + slot * LANES + element % LANES
        };
        copy_rows(self.values.bytes(), self.format.bytes(), [n_kv_heads, value_dim], slots, out, place);
    }

    /// Writes the rows `keys: [n, n_kv_heads, head_dim]` and `values: [n, n_kv_heads, value_dim]` as the positions from `slot` on.
    ///
    /// # Panics
    /// When they do not fit this block, or are not of its shape.
    pub fn write(&mut self, exec: &Exec, slot: usize, keys: &[f32], values: &[f32]) {
        match self.format {
            KvFormat::F32 => self.write_as::<4>(exec, slot, keys, values, f32::to_ne_bytes),
            KvFormat::Bf16 => {
                self.write_as::<2>(exec, slot, keys, values, |x| half::bf16::from_f32(x).to_le_bytes());
            }
        }
    }

    fn write_as<const N: usize>(
        &mut self,
        exec: &Exec,
        slot: usize,
        keys: &[f32],
        values: &[f32],
        store: impl Fn(f32) -> [u8; N] + Sync,
    ) {
        let (d, value_dim) = (self.head_dim, self.value_dim);
        let n_heads = self.keys.bytes().len() / (KV_BLOCK * d * N);
        let (width, value_width) = (n_heads * d, n_heads * value_dim);
        let n = keys.len() / width;
        assert!(slot + n <= KV_BLOCK, "{n} positions from {slot} on, in one block");
        assert!(keys.len() == n * width && values.len() == n * value_width, "rows of the block's shape");
        let (key_len, value_len) = (self.keys.len() / n_heads, self.values.len() / n_heads);
        let (to_keys, to_values) = (SharedMut::new(&mut self.keys), SharedMut::new(&mut self.values));
        // Each element of a key goes to a cache line of its own, so that one wide row is worth sharing; a narrow one is not.
        let items = if n >= LANES { n_heads } else { (n * width / SHARED).clamp(1, exec.threads()) };
        let heads_at_once = n_heads.div_ceil(items);
        exec.pool().run(n_heads.div_ceil(heads_at_once), &|item, _| {
            for head in item * heads_at_once..((item + 1) * heads_at_once).min(n_heads) {
                // SAFETY: each head belongs to one item.
                let to = unsafe { to_keys.slice(head * key_len..(head + 1) * key_len) };
                let to = as_bytes_mut(to).as_chunks_mut::<N>().0;
                // Position by position within a group, the groups one after the other.
                for first in (slot / LANES * LANES..slot + n).step_by(LANES) {
                    let group = to[first * d..(first + LANES) * d].as_chunks_mut::<LANES>().0;
                    let lo = first.max(slot);
                    let rows = keys[(lo - slot) * width..].chunks_exact(width).take(first + LANES - lo);
                    for (lane, row) in (lo - first..).zip(rows) {
                        for (element, x) in group.iter_mut().zip(&row[head * d..(head + 1) * d]) {
                            element[lane] = store(*x);
                        }
                    }
                }
                // SAFETY: as above.
                let to = unsafe { to_values.slice(head * value_len..(head + 1) * value_len) };
                let to = as_bytes_mut(to).as_chunks_mut::<N>().0;
                for (run, first) in to.chunks_exact_mut(KV_BLOCK * LANES).zip((0..value_dim).step_by(LANES)) {
                    let len = LANES.min(value_dim - first);
                    for (to, row) in run[slot * LANES..].chunks_exact_mut(LANES).zip(values.chunks_exact(value_width)) {
                        for (to, x) in to.iter_mut().zip(&row[head * value_dim + first..][..len]) {
                            *to = store(*x);
                        }
                    }
                }
            }
        });
    }
}

/// Copies rows of elements of `size` bytes from where `place(slot, head, element)` says.
fn copy_rows(
    from: &[u8],
    size: usize,
    [n_heads, head_dim]: [usize; 2],
    slots: Range<usize>,
    out: &mut [u8],
    place: impl Fn(usize, usize, usize) -> usize,
) {
    let row_bytes = n_heads * head_dim * size;
    assert!(slots.end <= KV_BLOCK && out.len() == slots.len() * row_bytes, "rows of the block's shape");
    for (slot, row) in slots.zip(out.chunks_exact_mut(row_bytes)) {
        for (i, to) in row.chunks_exact_mut(size).enumerate() {
            let at = place(slot, i / head_dim, i % head_dim) * size;
            to.copy_from_slice(&from[at..at + size]);
        }
    }
}

/// `head_dim` in whole vectors.
pub(crate) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

/// Where the blocks of a sequence are.
pub trait KvSource: Sync {
    /// The blocks of sequence `seq` in order of position; at least those that its rows can see.
    fn blocks(&self, seq: usize) -> &[KvBlock];

    /// The place of the first of them in the sequence: 0, unless those before it are elsewhere.
    fn first_block(&self, _seq: usize) -> usize {
        0
    }
}
