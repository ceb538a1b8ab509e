//! The tensors of a linear map: found, checked, and cut out of larger ones.

use std::num::NonZeroUsize;

use rheostat_kernels::{Format, Matrix, Packed, Part, Scales};
use rheostat_store::{Cut, Dtype, Phase, TensorInfo, Use};

use super::Binder;
use crate::decoder::{Layout, Linear, Packing, Slice};
use crate::error::Error;

/// A matrix of the checkpoint.
pub(crate) struct MatrixInfo {
    /// The tensors of its format, in their order.
    pub(crate) parts: Vec<TensorInfo>,
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Whether it is read and used as a whole, though its format does not ask for that.
    pub(crate) whole: bool,
}

impl MatrixInfo {
    /// One tensor of floating-point numbers `[rows, cols]`.
    pub(super) fn plain(tensor: TensorInfo, rows: usize, cols: usize) -> MatrixInfo {
        let format = format(tensor.dtype());
        MatrixInfo { parts: vec![tensor], format, rows, cols, whole: false }
    }

    /// Bytes of all its tensors.
    pub(crate) fn byte_len(&self) -> u64 {
        self.parts.iter().map(TensorInfo::byte_len).sum()
    }

    /// As the store plans it.
    pub(super) fn as_use(&self, phase: Phase) -> Use {
        let cut = |part: Part| match part {
            Part::Rows { step, .. } if !self.whole => NonZeroUsize::new(step).map_or(Cut::Whole, Cut::Rows),
            Part::Rows { .. } | Part::Whole(_) => Cut::Whole,
        };
        let parts = self.parts.iter().cloned().zip(self.format.parts(self.rows, self.cols).map(cut)).collect();
        Use { rows: self.rows, parts, phase }
    }

    /// `rows` rows of the matrix, whose tensors' bytes are `parts`.
    pub(crate) fn matrix<'a>(&self, parts: &[&'a [u8]], rows: usize) -> Matrix<'a> {
        Matrix::from_parts(parts, self.format, rows, self.cols)
    }
}

/// The kernels' name of a stored element type.
pub(crate) fn format(dtype: Dtype) -> Format {
    match dtype {
        Dtype::F32 => Format::F32,
        Dtype::Bf16 => Format::Bf16,
        Dtype::F16 => Format::F16,
        other => unreachable!("a tensor of {other} is refused when it is found"),
    }
}

/// What a slice is of a tensor whose own axes are `[rows, …]`, and the shape of the tensor as a whole.
fn whole_shape(slice: Slice, rows: usize, rest: &[usize]) -> Vec<usize> {
    let rows = if slice.of == 0 { rows } else { slice.of };
    slice.slab.map(|slab| slab.of).into_iter().chain([rows]).chain(rest.iter().copied()).collect()
}

/// `rows` rows of `tensor`, as the slice says.
fn cut(tensor: &TensorInfo, slice: Slice, rows: usize) -> TensorInfo {
    let slab = slice.slab.and_then(|slab| tensor.entry(slab.index));
    let tensor = slab.as_ref().unwrap_or(tensor);
    let part = if slice.of == 0 { None } else { tensor.rows(slice.first, rows) };
    part.unwrap_or_else(|| tensor.clone())
}

impl Binder<'_> {
    pub(super) fn matrix(&mut self, linear: &Linear) -> Result<MatrixInfo, Error> {
        let (rows, cols) = (linear.out_features, linear.in_features);
        if let Some(packing) = linear.packing {
            return self.packed(linear, packing);
        }
        if linear.layout == Layout::InOut {
            let shape = whole_shape(Slice { of: cols, ..linear.slice }, cols, &[rows]);
            let tensor = self.find(&linear.weight, &shape)?;
            let tensor = cut(&tensor, Slice { of: 0, ..linear.slice }, cols);
            let plain = MatrixInfo::plain(tensor, rows, cols);
            let format = plain.format.transposed().expect("floating-point numbers may be stored in either order");
            return Ok(MatrixInfo { format, ..plain });
        }
        let tensor = self.find(&linear.weight, &whole_shape(linear.slice, rows, &[cols]))?;
        Ok(MatrixInfo::plain(cut(&tensor, linear.slice, rows), rows, cols))
    }

    fn packed(&mut self, linear: &Linear, packing: Packing) -> Result<MatrixInfo, Error> {
        let (rows, cols) = (linear.out_features, linear.in_features);
        let name = |part: &str| format!("{}.weight_{part}", linear.module());
        let group = packing.group.unwrap_or(cols);
        if !cols.is_multiple_of(group) {
            return Err(Error::GroupDoesNotDivide { path: self.path(), tensor: name("packed"), cols, group });
        }
        let whole = |last: usize| whole_shape(linear.slice, rows, &[last]);
        let elements = self.find_any(&name("packed"), &whole(cols.div_ceil(packing.bits.per_word())))?;
        let scales = self.find(&name("scale"), &whole(cols / group))?;
        let shape = self.find_any(&name("shape"), &[2])?;
        for (tensor, dtype) in [(&elements, Dtype::I32), (&shape, Dtype::I64)] {
            if tensor.dtype() != dtype {
                return Err(Error::WrongDtype {
                    path: self.path(),
                    tensor: tensor.name().to_owned(),
                    found: tensor.dtype().name(),
                    expected: dtype.name(),
                });
            }
        }
        let stored = self.checkpoint.read_tensor(&shape)?;
        let stored: Vec<i64> = stored.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
        let expected = [if linear.slice.of == 0 { rows } else { linear.slice.of }, cols];
        if stored != expected.map(|n| n as i64) {
            return Err(Error::WrongPackedShape {
                path: self.path(),
                tensor: shape.name().to_owned(),
                found: stored,
                expected: expected.to_vec(),
            });
        }
        let format = Format::Packed(Packed {
            bits: packing.bits,
            group,
            scales: match format(scales.dtype()) {
                Format::Bf16 => Scales::Bf16,
                Format::F16 => Scales::F16,
                _ => Scales::F32,
            },
        });
        let parts = vec![cut(&elements, linear.slice, rows), cut(&scales, linear.slice, rows)];
        Ok(MatrixInfo { parts, format, rows, cols, whole: false })
    }

    /// The bias of a linear map, if it has one.
    pub(super) fn bias(&mut self, linear: &Linear) -> Result<Option<TensorInfo>, Error> {
        let Some(name) = &linear.bias else { return Ok(None) };
        let rows = linear.out_features;
        let slice = match linear.layout {
            Layout::OutIn => linear.slice,
            Layout::InOut => Slice { of: 0, ..linear.slice },
        };
        let tensor = self.find(name, &whole_shape(slice, rows, &[]))?;
        Ok(Some(cut(&tensor, slice, rows)))
    }
}
