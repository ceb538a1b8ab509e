//! The memory of a sequence: keys and values of every layer, in blocks that are taken as they are needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rheostat_kernels::{Exec, KV_BLOCK, KV_UNIT, KvBlock, KvFormat};

use crate::decoder::Decoder;
use crate::error::Error;

/// The blocks that the memory plan allows, shared by all sequences of a model.
#[derive(Debug)]
pub(crate) struct KvPool {
    /// Units of `KV_UNIT` positions, in all layers, that may still be taken.
    free: AtomicUsize,
    planned: usize,
    format: KvFormat,
}

impl KvPool {
    /// Room for `units` of positions.
    pub(crate) fn new(units: usize, format: KvFormat) -> Arc<KvPool> {
        Arc::new(KvPool { free: AtomicUsize::new(units), planned: units, format })
    }

    fn take(&self, units: usize, tokens: usize) -> Result<(), Error> {
        self.free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(units))
            .map(drop)
            .map_err(|_| Error::CacheFull { tokens, planned: self.planned * KV_UNIT })
    }
}

/// A text that a model is reading or writing: its keys and values so far.
///
/// Made by [`Model::sequence`](crate::Model::sequence); grows with every pass, and is cheap to
/// [roll back](Sequence::truncate).
pub struct Sequence {
    /// For each layer, its blocks in order of position.
    pub(crate) layers: Vec<Vec<KvBlock>>,
    shape: Vec<(usize, usize)>,
    len: usize,
    /// Units of positions that were taken from the pool.
    units: usize,
    /// Tokens known to come from the start: what frequencies that depend on the length go by.
    prompt_len: usize,
    pool: Arc<KvPool>,
}

impl Sequence {
    pub(crate) fn new(decoder: &Decoder, prompt_len: usize, pool: &Arc<KvPool>) -> Sequence {
        let shape: Vec<_> = decoder.blocks.iter().map(|b| (b.mixer.n_kv_heads, b.mixer.head_dim)).collect();
        Sequence {
            layers: shape.iter().map(|_| Vec::new()).collect(),
            shape,
            len: 0,
            units: 0,
            prompt_len,
            pool: Arc::clone(pool),
        }
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

    /// Forgets all tokens from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        let blocks = self.len.div_ceil(KV_BLOCK);
        for layer in &mut self.layers {
            layer.truncate(blocks);
        }
        let units = self.units.min(self.len.div_ceil(KV_UNIT));
        if units < self.units && !units.is_multiple_of(KV_BLOCK / KV_UNIT) {
            let kept = units * KV_UNIT % KV_BLOCK;
            self.layers.iter_mut().filter_map(|layer| layer.last_mut()).for_each(|block| block.truncate(kept));
        }
        self.pool.free.fetch_add(self.units - units, Ordering::Relaxed);
        self.units = units;
    }

    /// Makes room for `n` more tokens.
    pub(crate) fn reserve(&mut self, n: usize) -> Result<(), Error> {
        let len = self.len + n;
        let units = len.div_ceil(KV_UNIT);
        if units > self.units {
            self.pool.take(units - self.units, len)?;
            self.units = units;
            let blocks = len.div_ceil(KV_BLOCK);
            for (layer, (n_kv_heads, head_dim)) in self.layers.iter_mut().zip(&self.shape) {
                layer.resize_with(blocks, || KvBlock::new(self.pool.format, *n_kv_heads, *head_dim));
            }
        }
        Ok(())
    }

    /// Writes the keys and values `[n, n_kv_heads, head_dim]` of the tokens that follow, in `layer`. Room was reserved.
    pub(crate) fn write(&mut self, exec: &Exec, layer: usize, keys: &[f32], values: &[f32]) {
        let (n_kv_heads, head_dim) = self.shape[layer];
        let width = n_kv_heads * head_dim;
        let mut pos = self.len;
        let mut rest = (keys, values);
        while !rest.0.is_empty() {
            let slot = pos % KV_BLOCK;
            let n = (rest.0.len() / width).min(KV_BLOCK - slot);
            let (keys, values) = (rest.0.split_at(n * width), rest.1.split_at(n * width));
            self.layers[layer][pos / KV_BLOCK].write(exec, slot, keys.0, values.0);
            rest = (keys.1, values.1);
            pos += n;
        }
    }

    /// Counts `n` tokens as read.
    pub(crate) fn advance(&mut self, n: usize) {
        self.len += n;
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

/// Bytes that one unit of positions takes in all layers.
pub(crate) fn unit_bytes(decoder: &Decoder, format: KvFormat) -> u64 {
    decoder.blocks.iter().map(|b| KvBlock::memory(format, b.mixer.n_kv_heads, b.mixer.head_dim)).sum()
}
