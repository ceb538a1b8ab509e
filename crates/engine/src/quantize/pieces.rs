//! The work itself: pieces of tensors are read, quantised and written by several threads.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rheostat_store::{CheckpointWriter, TensorInfo};

use super::error::QuantizeError;
use super::search::{ScaleType, Search};
use super::{Errors, Options, Part, Quantization, Watch, pack, rows};
use crate::decoder::Linear;
use crate::error::Error;

/// The stack of a thread.
const STACK: usize = 256 << 10;

/// What a thread does at once: rows of a matrix, or bytes of a tensor that stays as it is.
struct Piece {
    part: usize,
    /// The first of its new tensors.
    to: usize,
    /// Rows or bytes.
    start: u64,
    len: u64,
    /// Bytes of the model that it reads.
    bytes: u64,
}

/// The memory of a thread.
#[derive(Default)]
struct Buffers {
    weights: Vec<f32>,
    band: Vec<f32>,
    bytes: Vec<u8>,
    scales: Vec<u8>,
}

/// The sums of each part. Those of pieces are added in the order of pieces, so that they do not depend on threads.
struct Ledger {
    sums: Vec<Sums>,
    /// The piece whose turn it is, and what was done before its turn.
    next: usize,
    early: BTreeMap<usize, (usize, Sums)>,
}

impl Ledger {
    fn add(&mut self, i: usize, part: usize, sums: Sums) {
        self.early.insert(i, (part, sums));
        while let Some((part, sums)) = self.early.remove(&self.next) {
            self.sums[part].add(&sums);
            self.next += 1;
        }
    }
}

/// Sums over weights.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) tensors: usize,
    weights: u64,
    error: f64,
    usual_error: f64,
    energy: f64,
}

impl Sums {
    pub(super) fn add(&mut self, other: &Sums) {
        self.tensors += other.tensors;
        self.weights += other.weights;
        self.error += other.error;
        self.usual_error += other.usual_error;
        self.energy += other.energy;
    }

    pub(super) fn errors(&self) -> Errors {
        // Weights that are all zero have no error, whatever it is relative to.
        let relative = |error: f64| if error == 0.0 { 0.0 } else { error / self.energy };
        Errors {
            tensors: self.tensors,
            weights: self.weights,
            relative_squared_error: relative(self.error),
            relative_squared_error_of_nearest: relative(self.usual_error),
        }
    }
}

impl Quantization<'_> {
    /// Writes all tensors and gives what each part came to.
    pub(super) fn write_parts(&self, writer: &CheckpointWriter, watch: &Watch) -> Result<Vec<Sums>, Error> {
        // Pieces are claimed in order and a claimed one is finished, so that of several failures the first in this
        // order is always found.
        let pieces = Mutex::new(self.pieces().enumerate());
        let failure: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        let ledger = Ledger { sums: vec![Sums::default(); self.parts.len()], next: 0, early: BTreeMap::new() };
        let ledger = Mutex::new(ledger);
        let work = || {
            let mut buffers = Buffers::default();
            while !watch.cancel.load(Ordering::Relaxed) && lock(&failure).is_none() {
                let Some((i, piece)) = lock(&pieces).next() else { break };
                match self.write_piece(&piece, writer, &mut buffers) {
                    Ok(sums) => {
                        watch.bytes.fetch_add(piece.bytes, Ordering::Relaxed);
                        lock(&ledger).add(i, piece.part, sums);
                    }
                    Err(error) => {
                        let mut failure = lock(&failure);
                        if failure.as_ref().is_none_or(|(earlier, _)| i < *earlier) {
                            *failure = Some((i, error));
                        }
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for i in 1..self.threads.get() {
                let thread = std::thread::Builder::new().name(format!("quantize-{i}")).stack_size(STACK);
                if let Err(error) = thread.spawn_scoped(scope, work) {
                    // Those that run already see it and end.
                    *lock(&failure) = Some((0, Error::Threads(error)));
                    break;
                }
            }
            work();
        });
        if let Some((_, error)) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        if watch.cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        Ok(ledger.into_inner().unwrap_or_else(PoisonError::into_inner).sums)
    }

    /// All tensors in order, cut into pieces that a thread takes at once.
    fn pieces(&self) -> impl Iterator<Item = Piece> {
        let first = self.parts.iter().scan(0, |next, part| {
            let first = *next;
            *next += self.new_tensors(part).len();
            Some(first)
        });
        self.parts.iter().zip(first).enumerate().flat_map(move |(part, (Part { tensor, linear }, to))| {
            let (units, run, bytes_each, at_once) = match linear {
                Some(linear) => {
                    let rows = rows::all_rows(linear) as u64;
                    let at_once = (self.slice / linear.in_features).max(1) as u64;
                    (rows, rows::run(linear) as u64, tensor.byte_len() / rows, at_once)
                }
                None => (tensor.byte_len(), tensor.byte_len(), 1, self.slice as u64),
            };
            (0..units / run).flat_map(move |i| {
                (0..run.div_ceil(at_once)).map(move |j| {
                    let within = j * at_once;
                    let len = at_once.min(run - within);
                    Piece { part, to, start: i * run + within, len, bytes: len * bytes_each }
                })
            })
        })
    }

    fn write_piece(&self, piece: &Piece, writer: &CheckpointWriter, buffers: &mut Buffers) -> Result<Sums, Error> {
        let Part { tensor, linear } = &self.parts[piece.part];
        let checkpoint = self.package.checkpoint();
        let Some(linear) = linear else {
            buffers.bytes.resize(piece.len as usize, 0);
            checkpoint.read_range(tensor, piece.start, &mut buffers.bytes)?;
            writer.write(piece.to, piece.start, &buffers.bytes)?;
            return Ok(Sums::default());
        };
        let in_features = linear.in_features;
        let Options { bits, group, .. } = self.options;
        let scales = ScaleType::of(tensor.dtype());
        let search = Search::new(bits, scales);
        let weights = piece.len as usize * in_features;
        let packed_row = in_features * bits.number() as usize / 8;
        let Buffers { weights: values, band, bytes: packed, scales: stored } = buffers;
        values.resize(weights, 0.0);
        packed.resize(piece.len as usize * packed_row, 0);
        stored.clear();
        let first = piece.start as usize;
        rows::read(checkpoint, tensor, linear, first, values, band)?;
        let mut sums = Sums { weights: weights as u64, ..Sums::default() };
        let mut integers = [0i8; 128];
        let integers = &mut integers[..group];
        let packed_group = group * bits.number() as usize / 8;
        for (i, (values, packed)) in values.chunks_exact(group).zip(packed.chunks_exact_mut(packed_group)).enumerate() {
            let found =
                search.scale(values).ok_or_else(|| self.not_finite(tensor, linear, (first, i * group), values))?;
            search.integers(values, found.scale, integers);
            pack::pack(bits, integers, packed);
            scales.store(found.scale, stored);
            sums.error += found.error;
            sums.usual_error += found.usual_error;
            sums.energy += found.energy;
        }
        writer.write(piece.to, piece.start * packed_row as u64, packed)?;
        let scale_row = stored.len() as u64 / piece.len;
        writer.write(piece.to + 1, piece.start * scale_row, stored)?;
        if piece.start == 0 {
            sums.tensors = 1;
            let slabs = linear.slice.slab.map(|slab| slab.of);
            let shape = slabs.into_iter().chain([linear.out_features, in_features]);
            let shape: Vec<_> = shape.map(|n| (n as i64).to_le_bytes()).collect();
            writer.write(piece.to + 2, 0, shape.as_flattened())?;
        }
        Ok(sums)
    }

    /// The error for a `group` with a weight that is no number, which is `at` elements after the start of row `first`.
    fn not_finite(&self, tensor: &TensorInfo, linear: &Linear, (first, at): (usize, usize), group: &[f32]) -> Error {
        let checkpoint = self.package.checkpoint();
        let path = checkpoint.source_of(tensor).map_or(checkpoint.path(), |source| source.path());
        let (within, value) = group.iter().copied().enumerate().find(|(_, w)| !w.is_finite()).unwrap_or((0, f32::NAN));
        let at = at + within;
        let (slab, row, column) = rows::place(linear, first + at / linear.in_features, at % linear.in_features);
        QuantizeError::NotFinite {
            path: path.to_owned(),
            tensor: tensor.name().to_owned(),
            matrix: linear.slice.slab.map(|_| slab),
            row,
            column,
            value,
        }
        .into()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
