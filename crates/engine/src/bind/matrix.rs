//! The tensors of a linear map: found, checked, and cut out of larger ones.

use std::num::NonZeroUsize;

use rheostat_kernels::{Affine, Awq, Format, Fp8, Gptq, Matrix, Order, Packed, Part, Scales, Zeros, valid_order};
use rheostat_store::{Cut, Dtype, Phase, TensorInfo, Use};

use super::Binder;
use crate::decoder::{Fp8Block, Fp8Scales, GptqPacking, Layout, Linear, Packing, Slice, Storage};
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
    /// A tensor of groups of inputs that says no more than that neighbours go together, and so is not read.
    plain_order: Option<TensorInfo>,
}

impl MatrixInfo {
    /// One tensor of floating-point numbers `[rows, cols]`.
    pub(super) fn plain(tensor: TensorInfo, rows: usize, cols: usize) -> MatrixInfo {
        let format = format(tensor.dtype());
        MatrixInfo { parts: vec![tensor], format, rows, cols, whole: false, plain_order: None }
    }

    /// Whether its groups of inputs are in an order of their own.
    pub(super) fn is_ordered(&self) -> bool {
        let order = match self.format {
            Format::Affine(affine) => affine.order,
            Format::Gptq(gptq) => gptq.order,
            _ => Order::Sequential,
        };
        order == Order::Stored
    }

    /// Reads the groups of inputs from their tensor, if there is one, even though neighbours go together. The elements are the same.
    pub(super) fn keep_order(&mut self) {
        let Some(order) = self.plain_order.take() else { return };
        let stored = Order::Stored;
        self.format = match self.format {
            Format::Packed(packed) => Format::Affine(Affine { packed, zeros: Zeros::Absent, order: stored }),
            Format::Affine(affine) => Format::Affine(Affine { order: stored, ..affine }),
            Format::Gptq(gptq) => Format::Gptq(Gptq { order: stored, ..gptq }),
            other => unreachable!("a matrix of {other:?} has no order of groups"),
        };
        self.parts.push(order);
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

/// The shape of a tensor as a whole, of which a slice has `rows` rows of `rest` each.
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

/// The same slice of a tensor of which each row goes with `step` rows of the matrix.
fn coarser(slice: Slice, step: usize) -> Option<Slice> {
    let whole = slice.first.is_multiple_of(step);
    whole.then(|| Slice { first: slice.first / step, of: slice.of.div_ceil(step), ..slice })
}

/// The kernels' name of the type of scales.
fn scales_of(tensor: &TensorInfo) -> Scales {
    match format(tensor.dtype()) {
        Format::Bf16 => Scales::Bf16,
        Format::F16 => Scales::F16,
        _ => Scales::F32,
    }
}

impl Binder<'_> {
    pub(super) fn matrix(&mut self, linear: &Linear) -> Result<MatrixInfo, Error> {
        let (rows, cols) = (linear.out_features, linear.in_features);
        let mut plain_order = None;
        let (parts, format) = match linear.storage {
            Storage::Packed(packing) => self.packed(linear, packing, &mut plain_order)?,
            Storage::Fp8(scales) => self.fp8(linear, scales)?,
            Storage::Mxfp4 => self.mxfp4(linear)?,
            Storage::Gptq(packing) => self.gptq(linear, packing, &mut plain_order)?,
            Storage::Awq { group } => self.awq(linear, group.unwrap_or(cols))?,
            Storage::Float if linear.layout == Layout::InOut => {
                let shape = whole_shape(Slice { of: cols, ..linear.slice }, cols, &[rows]);
                let tensor = self.find(&linear.weight, &shape)?;
                let tensor = cut(&tensor, Slice { of: 0, ..linear.slice }, cols);
                let format = format(tensor.dtype()).transposed();
                (vec![tensor], format.expect("floating-point numbers may be stored in either order"))
            }
            Storage::Float => {
                let tensor = self.find(&linear.weight, &whole_shape(linear.slice, rows, &[cols]))?;
                let tensor = cut(&tensor, linear.slice, rows);
                let format = format(tensor.dtype());
                (vec![tensor], format)
            }
        };
        if !format.fits(rows, cols) {
            let tensor = parts[0].name().to_owned();
            return Err(Error::UnfitForm { path: self.path(), tensor, rows, cols });
        }
        Ok(MatrixInfo { parts, format, rows, cols, whole: false, plain_order })
    }

    /// Refuses a tensor of another type than `dtype`.
    fn require(&self, tensor: &TensorInfo, dtype: Dtype) -> Result<(), Error> {
        if tensor.dtype() == dtype {
            return Ok(());
        }
        Err(Error::WrongDtype {
            path: self.path(),
            tensor: tensor.name().to_owned(),
            found: tensor.dtype().name(),
            expected: dtype.name(),
        })
    }

    /// The tensor `name` of type `dtype`.
    fn find_typed(&mut self, name: &str, shape: &[usize], dtype: Dtype) -> Result<TensorInfo, Error> {
        let tensor = self.find_any(name, shape)?;
        self.require(&tensor, dtype)?;
        Ok(tensor)
    }

    /// Packed integers of compressed-tensors. `plain` becomes the tensor of an order that says nothing.
    fn packed(
        &mut self,
        linear: &Linear,
        packing: Packing,
        plain: &mut Option<TensorInfo>,
    ) -> Result<(Vec<TensorInfo>, Format), Error> {
        let (rows, cols, slice) = (linear.out_features, linear.in_features, linear.slice);
        let name = |part: &str| format!("{}.weight_{part}", linear.module());
        let group = packing.group.unwrap_or(cols);
        if !cols.is_multiple_of(group) {
            return Err(Error::GroupDoesNotDivide { path: self.path(), tensor: name("packed"), cols, group });
        }
        let per_word = packing.bits.per_word();
        let whole = |last: usize| whole_shape(slice, rows, &[last]);
        let elements = self.find_typed(&name("packed"), &whole(cols.div_ceil(per_word)), Dtype::I32)?;
        let scales = self.find(&name("scale"), &whole(cols / group))?;
        let all_rows = if slice.of == 0 { rows } else { slice.of };
        // All of it, slabs (fused experts) in front; rows are outputs whatever the layout of unquantised weights.
        self.packed_shape(&name("shape"), whole_shape(slice, all_rows, &[cols]))?;
        let mut parts = vec![cut(&elements, slice, rows), cut(&scales, slice, rows)];
        if packing.zeros == Zeros::Stored {
            let Some(coarse) = coarser(slice, per_word) else { return Err(self.uncut(&name("zero_point"))) };
            let shape = whole_shape(coarse, rows.div_ceil(per_word), &[cols / group]);
            let zeros = self.find_typed(&name("zero_point"), &shape, Dtype::I32)?;
            parts.push(cut(&zeros, coarse, rows.div_ceil(per_word)));
        }
        let order = self.order(&name("g_idx"), cols, group, plain)?;
        let packed = Packed { bits: packing.bits, group, scales: scales_of(&scales) };
        let ordered = if order.is_some() { Order::Stored } else { Order::Sequential };
        parts.extend(order);
        let format = match (packing.zeros, ordered) {
            (Zeros::Absent, Order::Sequential) => Format::Packed(packed),
            (zeros, order) => Format::Affine(Affine { packed, zeros, order }),
        };
        Ok((parts, format))
    }

    /// The tensor that says which shape a packed matrix has.
    fn packed_shape(&mut self, name: &str, expected: Vec<usize>) -> Result<(), Error> {
        let shape = self.find_typed(name, &[expected.len()], Dtype::I64)?;
        let stored = self.checkpoint.read_tensor(&shape)?;
        let stored: Vec<i64> = stored.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
        if stored.iter().copied().eq(expected.iter().map(|n| *n as i64)) {
            return Ok(());
        }
        Err(Error::WrongPackedShape { path: self.path(), tensor: name.to_owned(), found: stored, expected })
    }

    /// The tensor that says to which group each input belongs, if there is one that says more than that neighbours go together;
    /// one that does not becomes `plain`.
    fn order(
        &mut self,
        name: &str,
        cols: usize,
        group: usize,
        plain: &mut Option<TensorInfo>,
    ) -> Result<Option<TensorInfo>, Error> {
        if self.checkpoint.tensor(name).is_none() {
            return Ok(None);
        }
        let tensor = self.find_typed(name, &[cols], Dtype::I32)?;
        let order = self.checkpoint.read_tensor(&tensor)?;
        if !valid_order(&order, cols.div_ceil(group)) {
            return Err(Error::GroupOutOfRange {
                path: self.path(),
                tensor: name.to_owned(),
                groups: cols.div_ceil(group),
            });
        }
        let neighbours = (0..cols).map(|i| (i / group) as i32);
        if order.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).eq(neighbours) {
            *plain = Some(tensor);
            return Ok(None);
        }
        Ok(Some(tensor))
    }

    /// Numbers of 8 bits.
    fn fp8(&mut self, linear: &Linear, stored: Fp8Scales) -> Result<(Vec<TensorInfo>, Format), Error> {
        let (rows, cols, slice) = (linear.out_features, linear.in_features, linear.slice);
        let elements = self.find_typed(&linear.weight, &whole_shape(slice, rows, &[cols]), Dtype::F8E4M3)?;
        let name = format!("{}{}", linear.module(), stored.suffix);
        let all_rows = if slice.of == 0 { rows } else { slice.of };
        let (block_rows, block_cols) = match stored.block {
            Fp8Block::Tensor => (all_rows, cols),
            Fp8Block::Row => (1, cols),
            Fp8Block::Block(block_rows, block_cols) => (block_rows, block_cols),
        };
        let (coarse, scales) = if stored.block == Fp8Block::Tensor {
            // One number, with or without axes.
            let shape = self.checkpoint.tensor(&name).map_or(vec![1], |t| t.shape().to_vec());
            let single = shape.iter().product::<usize>() == 1 && slice.slab.is_none();
            (Slice::default(), self.find(&name, if single { &shape } else { &[1] })?)
        } else {
            let Some(coarse) = coarser(slice, block_rows) else { return Err(self.uncut(&name)) };
            let shape = whole_shape(coarse, rows.div_ceil(block_rows), &[cols.div_ceil(block_cols)]);
            (coarse, self.find(&name, &shape)?)
        };
        let format = Format::Fp8(Fp8 { block_rows, block_cols, scales: scales_of(&scales) });
        let parts = vec![cut(&elements, slice, rows), cut(&scales, coarse, rows.div_ceil(block_rows))];
        Ok((parts, format))
    }

    /// Numbers of 4 bits with a scale for each 32.
    fn mxfp4(&mut self, linear: &Linear) -> Result<(Vec<TensorInfo>, Format), Error> {
        let (rows, cols, slice) = (linear.out_features, linear.in_features, linear.slice);
        let name = |part: &str| format!("{}_{part}", linear.module());
        let groups = cols.div_ceil(32);
        let blocks = self.find_typed(&name("blocks"), &whole_shape(slice, rows, &[groups, 16]), Dtype::U8)?;
        let scales = self.find_typed(&name("scales"), &whole_shape(slice, rows, &[groups]), Dtype::U8)?;
        Ok((vec![cut(&blocks, slice, rows), cut(&scales, slice, rows)], Format::Mxfp4))
    }

    /// Words of GPTQ. `plain` becomes the tensor of an order that says nothing.
    fn gptq(
        &mut self,
        linear: &Linear,
        packing: GptqPacking,
        plain: &mut Option<TensorInfo>,
    ) -> Result<(Vec<TensorInfo>, Format), Error> {
        let (rows, cols) = (linear.out_features, linear.in_features);
        let name = |part: &str| format!("{}.{part}", linear.module());
        if linear.slice != Slice::default() {
            return Err(self.uncut(&name("qweight")));
        }
        let (group, per_word) = (packing.group.unwrap_or(cols), packing.bits.per_word());
        let groups = cols.div_ceil(group);
        let elements = self.find_typed(&name("qweight"), &[cols.div_ceil(per_word), rows], Dtype::I32)?;
        let scales = self.find(&name("scales"), &[groups, rows])?;
        let zeros = self.find_typed(&name("qzeros"), &[groups, rows.div_ceil(per_word)], Dtype::I32)?;
        let order = self.order(&name("g_idx"), cols, group, plain)?;
        let ordered = if order.is_some() { Order::Stored } else { Order::Sequential };
        let format = Format::Gptq(Gptq {
            bits: packing.bits,
            group,
            scales: scales_of(&scales),
            zeros: packing.zeros,
            order: ordered,
        });
        Ok(([elements, scales, zeros].into_iter().chain(order).collect(), format))
    }

    /// Words of AWQ.
    fn awq(&mut self, linear: &Linear, group: usize) -> Result<(Vec<TensorInfo>, Format), Error> {
        let (rows, cols) = (linear.out_features, linear.in_features);
        let name = |part: &str| format!("{}.{part}", linear.module());
        if linear.slice != Slice::default() {
            return Err(self.uncut(&name("qweight")));
        }
        let (groups, words) = (cols.div_ceil(group), rows.div_ceil(8));
        let elements = self.find_typed(&name("qweight"), &[cols, words], Dtype::I32)?;
        let scales = self.find(&name("scales"), &[groups, rows])?;
        let zeros = self.find_typed(&name("qzeros"), &[groups, words], Dtype::I32)?;
        let format = Format::Awq(Awq { group, scales: scales_of(&scales) });
        Ok((vec![elements, scales, zeros], format))
    }

    /// The error for a tensor of which a part is wanted that cannot be cut out.
    fn uncut(&self, tensor: &str) -> Error {
        Error::CannotBeCut { path: self.path(), tensor: tensor.to_owned() }
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
