//! Rows of a matrix as they are quantised: an output each, with its inputs one after the other.
//!
//! Most matrices lie so on disk, slab after slab where a tensor holds several (fused experts), and a piece of them is
//! one read. Where inputs lie outside (`Conv1D`, experts of gpt-oss), a piece is a block of columns of one slab: a band
//! of inputs is read at a time, and turned into rows while it is in the cache. So memory is that of a piece either way.

use rheostat_store::{Checkpoint, StoreError, TensorInfo};

use crate::decoder::{Layout, Linear};

/// Inputs that are read at once where they lie outside: as many f32 as a line of cache holds.
pub(super) const BAND: usize = 16;

/// How many slabs a tensor consists of; one where it has no such axis.
pub(super) fn slabs(linear: &Linear) -> usize {
    linear.slice.slab.map_or(1, |slab| slab.of)
}

/// Rows of all slabs together.
pub(super) fn all_rows(linear: &Linear) -> usize {
    slabs(linear) * linear.out_features
}

/// Rows that one piece may run over: those of all slabs, or of one where a piece is a block of its columns.
pub(super) fn run(linear: &Linear) -> usize {
    match linear.layout {
        Layout::OutIn => all_rows(linear),
        Layout::InOut => linear.out_features,
    }
}

/// Where a weight is stored: of element `column` of row `row` the slab, and the row and column of it on disk.
pub(super) fn place(linear: &Linear, row: usize, column: usize) -> (usize, usize, usize) {
    let (slab, row) = (row / linear.out_features, row % linear.out_features);
    match linear.layout {
        Layout::OutIn => (slab, row, column),
        Layout::InOut => (slab, column, row),
    }
}

/// Reads rows of `tensor`, the whole tensor of `linear`, from `first` on into `values` `[rows, in_features]`. They are
/// rows of one [`run`]. `band` is memory to work in.
pub(super) fn read(
    checkpoint: &Checkpoint,
    tensor: &TensorInfo,
    linear: &Linear,
    first: usize,
    values: &mut [f32],
    band: &mut Vec<f32>,
) -> Result<(), StoreError> {
    let (inputs, outputs) = (linear.in_features, linear.out_features);
    if linear.layout == Layout::OutIn {
        return checkpoint.read_range_f32(tensor, first as u64 * inputs as u64, values);
    }
    let rows = values.len() / inputs;
    let (slab, column) = (first / outputs, first % outputs);
    let start = |input: usize| (slab as u64 * inputs as u64 + input as u64) * outputs as u64 + column as u64;
    for from in (0..inputs).step_by(BAND) {
        let n = BAND.min(inputs - from);
        band.resize(n * rows, 0.0); // [n inputs, rows]
        if rows == outputs {
            checkpoint.read_range_f32(tensor, start(from), band)?;
        } else {
            for (i, part) in band.chunks_exact_mut(rows).enumerate() {
                checkpoint.read_range_f32(tensor, start(from + i), part)?;
            }
        }
        for (row, values) in values.chunks_exact_mut(inputs).enumerate() {
            for (value, part) in values[from..from + n].iter_mut().zip(band.chunks_exact(rows)) {
                *value = part[row];
            }
        }
    }
    Ok(())
}
