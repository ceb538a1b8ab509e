//! Weights as operations take them: a checkpoint's tensors in f32 and f64, large matrices in pieces.

use std::num::NonZeroUsize;

use rheostat_kernels::{self as kernels, Exec, Format, Isa};
use rheostat_store::Checkpoint;

use super::exact::experts::Expert;
use super::operations::Run;
use crate::bind::{bias_of, matrix_of};
use crate::decoder::{Gated, Linear, Norm, Part, Projection};
use crate::error::Error;

/// Elements of a matrix that are widened at a time.
const PIECE: usize = 1 << 22;

/// A checkpoint, to compute with.
pub(crate) struct Stored<'a> {
    checkpoint: &'a Checkpoint,
    exec: Exec,
}

/// Of a norm, as far as it has either.
type WeightAndBias = (Option<Vec<f64>>, Option<Vec<f64>>);

impl<'a> Stored<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint) -> Result<Stored<'a>, Error> {
        let exec = Exec::new(Isa::detect(), NonZeroUsize::MIN).map_err(Error::Threads)?;
        Ok(Stored { checkpoint, exec })
    }

    /// All elements of the tensor `name`.
    pub(crate) fn vector(&self, name: &str) -> Result<Vec<f32>, Error> {
        Ok(self.checkpoint.read_tensor_f32(self.tensor(name)?)?)
    }

    /// The same in f64.
    pub(crate) fn vector_f64(&self, name: &str) -> Result<Vec<f64>, Error> {
        Ok(self.vector(name)?.into_iter().map(f64::from).collect())
    }

    fn tensor(&self, name: &str) -> Result<&rheostat_store::TensorInfo, Error> {
        let missing = || Error::MissingTensor { path: self.checkpoint.path().to_owned(), tensor: name.to_owned() };
        self.checkpoint.tensor(name).ok_or_else(missing)
    }

    /// The row `row` of the table `name`, whose rows have `width` elements.
    pub(crate) fn row(&self, name: &str, row: usize, width: usize) -> Result<Vec<f32>, Error> {
        let mut out = vec![0.0; width];
        self.checkpoint.read_range_f32(self.tensor(name)?, (row as u64).saturating_mul(width as u64), &mut out)?;
        Ok(out)
    }

    /// The weight of a norm, as it multiplies, and its bias.
    pub(crate) fn norm(&self, norm: &Norm) -> Result<WeightAndBias, Error> {
        let mut weight = Vec::new();
        for name in &norm.weights {
            weight.extend(self.vector_f64(name)?);
        }
        weight.iter_mut().for_each(|w| *w += f64::from(norm.offset));
        let bias = norm.bias.as_ref().map(|name| self.vector_f64(name)).transpose()?;
        Ok(((!norm.weights.is_empty()).then_some(weight), bias))
    }

    /// The bias of a linear map, if it has one.
    pub(crate) fn bias(&self, linear: &Linear) -> Result<Option<Vec<f64>>, Error> {
        let Some(tensor) = bias_of(linear, self.checkpoint)? else { return Ok(None) };
        Ok(Some(self.checkpoint.read_tensor_f32(&tensor)?.into_iter().map(f64::from).collect()))
    }

    /// Passes the rows of the weight of `linear` that are in `runs` to `each`, some at a time, with the number of the first of them.
    pub(crate) fn rows(&self, linear: &Linear, runs: &[Run], mut each: impl FnMut(usize, &[f32])) -> Result<(), Error> {
        let info = matrix_of(linear, self.checkpoint)?;
        let step = (PIECE / info.cols).max(1);
        let mut pieces: Vec<(usize, usize)> = Vec::new();
        let mut ordered: Vec<&Run> = runs.iter().collect();
        ordered.sort_by_key(|run| run.from);
        for run in ordered {
            match pieces.last_mut() {
                Some((first, count)) if *first + *count == run.from && *count + run.len <= step => *count += run.len,
                _ => {
                    let starts = (0..run.len).step_by(step);
                    pieces.extend(starts.map(|at| (run.from + at, step.min(run.len - at))));
                }
            }
        }
        let mut out = vec![0.0; step.min(info.rows) * info.cols];
        if matches!(info.format, Format::F32 | Format::Bf16 | Format::F16) {
            for (first, count) in pieces {
                let out = &mut out[..count * info.cols];
                self.checkpoint.read_range_f32(&info.parts[0], first as u64 * info.cols as u64, out)?;
                each(first, out);
            }
            return Ok(());
        }
        let parts = info.parts.iter().map(|part| self.checkpoint.read_tensor(part)).collect::<Result<Vec<_>, _>>()?;
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let matrix = info.matrix(&parts, info.rows);
        for (first, count) in pieces {
            let out = &mut out[..count * info.cols];
            kernels::widen_rows(&self.exec, &matrix, first..first + count, out);
            each(first, out);
        }
        Ok(())
    }

    /// The weight of `linear` as a whole.
    fn whole(&self, linear: &Linear) -> Result<Vec<f32>, Error> {
        let mut all = Vec::with_capacity(linear.out_features * linear.in_features);
        self.rows(linear, &[Run { from: 0, to: 0, len: linear.out_features }], |_, rows| all.extend_from_slice(rows))?;
        Ok(all)
    }

    /// The weights of an expert.
    pub(crate) fn expert(&self, expert: &Gated) -> Result<Expert, Error> {
        let (gate, gate_bias) = self.part(&expert.inputs, Part::Gate, expert.intermediate)?;
        let (up, up_bias) = self.part(&expert.inputs, Part::Up, expert.intermediate)?;
        let (down, down_bias) = (self.whole(&expert.down)?, self.bias(&expert.down)?);
        Ok(Expert { gate, gate_bias, up, up_bias, down, down_bias })
    }

    /// The rows of projections that give `part`, in its order, and the biases.
    fn part(&self, inputs: &[Projection], part: Part, width: usize) -> Result<(Vec<f32>, Option<Vec<f64>>), Error> {
        let (mut weight, mut all_biases) = (Vec::new(), None);
        for Projection { linear, pieces } in inputs {
            let runs: Vec<Run> = pieces
                .iter()
                .filter(|piece| piece.part == part)
                .map(|piece| Run { from: piece.from, to: piece.to, len: piece.len })
                .collect();
            if runs.is_empty() {
                continue;
            }
            let cols = linear.in_features;
            weight.resize(width * cols, 0.0);
            let to = places(&runs, linear.out_features);
            self.rows(linear, &runs, |first, rows| {
                for (i, row) in rows.chunks_exact(cols).enumerate() {
                    if let Some(to) = to[first + i] {
                        weight[to * cols..(to + 1) * cols].copy_from_slice(row);
                    }
                }
            })?;
            if let Some(bias) = self.bias(linear)? {
                let all = all_biases.get_or_insert_with(|| vec![0.0; width]);
                bias.iter().zip(&to).for_each(|(bias, to)| to.iter().for_each(|to| all[*to] = *bias));
            }
        }
        Ok((weight, all_biases))
    }
}

/// Where each of `outputs` outputs goes.
pub(crate) fn places(runs: &[Run], outputs: usize) -> Vec<Option<usize>> {
    let mut to = vec![None; outputs];
    for run in runs {
        for i in 0..run.len {
            if let Some(to) = to.get_mut(run.from + i) {
                *to = Some(run.to + i);
            }
        }
    }
    to
}
