//! The matrix that a linear map of a checkpoint stands for, whatever the form it is stored in: beside the way of the
//! data, for those who port a model or look into one.

use std::num::NonZeroUsize;

use rheostat_kernels::{self as kernels, Columns, Exec, Isa, Rows};

use crate::bind::matrix_of;
use crate::decoder::Linear;
use crate::error::Error;
use crate::package::Package;

/// Inputs whose columns are computed in one product.
const INPUTS: usize = 64;

/// The weight of `linear`, one of [`Decoder::all_linears`](crate::decoder::Decoder::all_linears) of `package`, in f32:
/// `[out_features, in_features]` row after row, whatever the order and the form on disk.
///
/// These are the values that a pass multiplies with in [`Compute::F32`](crate::Compute::F32), and they come from the same
/// kernels: the inputs are unit vectors. (A zero has no sign in them.) All of the matrix's tensors are read into memory.
///
/// # Errors
/// When tensors are missing, damaged, or not what `linear` says.
pub fn dequantize(package: &Package, linear: &Linear) -> Result<Vec<f32>, Error> {
    let checkpoint = package.checkpoint();
    let info = matrix_of(linear, checkpoint)?;
    let parts = info.parts.iter().map(|part| checkpoint.read_tensor(part)).collect::<Result<Vec<_>, _>>()?;
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let (rows, cols) = (info.rows, info.cols);
    let exec = Exec::new(Isa::detect(), NonZeroUsize::MIN).map_err(Error::Threads)?;
    let mut weight = vec![0.0; rows * cols];
    for first in (0..cols).step_by(INPUTS) {
        let n = INPUTS.min(cols - first);
        let mut units = vec![0.0; n * cols];
        for i in 0..n {
            units[i * cols + first + i] = 1.0;
        }
        let mut columns = vec![0.0; n * rows];
        let out = Columns::new(&mut columns, rows, 0);
        let job = kernels::Linear { weight: info.matrix(&parts, rows), bias: None, out };
        kernels::linear(&exec, Rows::F32(&units), n, &mut [job]);
        for (i, column) in columns.chunks_exact(rows).enumerate() {
            for (row, value) in column.iter().enumerate() {
                weight[row * cols + first + i] = *value;
            }
        }
    }
    Ok(weight)
}
