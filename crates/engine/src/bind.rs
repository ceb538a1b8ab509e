//! Description meets checkpoint: every tensor that the model needs is there in the right shape, and
//! every tensor that is there is needed.

use std::collections::HashSet;

use rheostat_kernels::{Format, Packed, Scales};
use rheostat_store::{Checkpoint, Dtype, Phase, TensorInfo, Use};

use crate::decoder::{Block, Decoder, Head, Linear, Norm};
use crate::error::Error;

/// A model's tensors, read or found.
pub(crate) struct Bound {
    /// Each matrix, in the order in which a sweep uses them: seven for each block, then the head.
    pub(crate) matrices: Vec<MatrixInfo>,
    /// The embedding table.
    pub(crate) embed: TensorInfo,
    /// The vectors of each block.
    pub(crate) blocks: Vec<BlockVectors>,
    /// The weight of the last norm.
    pub(crate) norm: Vec<f32>,
}

/// Matrices of one block.
pub(crate) const MATRICES: usize = 7;

/// A matrix of the checkpoint.
pub(crate) struct MatrixInfo {
    /// Its elements and, of packed ones, their scales.
    pub(crate) parts: Vec<TensorInfo>,
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

/// What of a block always stays in memory.
pub(crate) struct BlockVectors {
    pub(crate) mixer_norm: Vec<f32>,
    pub(crate) ffn_norm: Vec<f32>,
    /// Of queries and keys.
    pub(crate) qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    /// In the order of [`Block::linears`].
    pub(crate) biases: [Option<Vec<f32>>; MATRICES],
}

impl Bound {
    /// Finds and checks every tensor of `decoder`, and reads the vectors.
    ///
    /// # Errors
    /// A tensor is missing, has another shape, or has no place.
    pub(crate) fn new(decoder: &Decoder, checkpoint: &Checkpoint) -> Result<Bound, Error> {
        let mut binder = Binder { checkpoint, used: HashSet::new() };
        let embed = binder.find(&decoder.embed.tensor, &[decoder.vocab_size, decoder.hidden_size])?;
        let mut matrices = Vec::new();
        let mut blocks = Vec::new();
        for block in &decoder.blocks {
            blocks.push(binder.block(block, &mut matrices)?);
        }
        let norm = binder.norm(&decoder.norm)?;
        matrices.push(match &decoder.head {
            Head::Own(linear) => binder.matrix(linear)?,
            Head::Tied => MatrixInfo::new(embed.clone(), decoder.vocab_size, decoder.hidden_size),
        });
        binder.refuse_the_rest()?;
        Ok(Bound { matrices, embed, blocks, norm })
    }

    /// The matrices as the store plans them.
    pub(crate) fn uses(&self) -> Vec<Use> {
        let last = self.matrices.len() - 1;
        let phase = |i| if i == last { Phase::Head } else { Phase::Body };
        self.matrices.iter().enumerate().map(|(i, m)| Use { parts: m.parts.clone(), phase: phase(i) }).collect()
    }

    /// Bytes of the vectors.
    pub(crate) fn vector_bytes(&self) -> u64 {
        let block = |b: &BlockVectors| {
            let qk = b.qk_norm.as_ref().map_or(0, |(q, k)| q.len() + k.len());
            let biases: usize = b.biases.iter().flatten().map(Vec::len).sum();
            b.mixer_norm.len() + b.ffn_norm.len() + qk + biases
        };
        4 * (self.norm.len() + self.blocks.iter().map(block).sum::<usize>()) as u64
    }
}

impl MatrixInfo {
    fn new(tensor: TensorInfo, rows: usize, cols: usize) -> MatrixInfo {
        let format = format(tensor.dtype());
        MatrixInfo { parts: vec![tensor], format, rows, cols }
    }

    /// Bytes of all its tensors.
    pub(crate) fn byte_len(&self) -> u64 {
        self.parts.iter().map(TensorInfo::byte_len).sum()
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

struct Binder<'a> {
    checkpoint: &'a Checkpoint,
    used: HashSet<String>,
}

impl Binder<'_> {
    /// The tensor `name` of floating-point numbers.
    fn find(&mut self, name: &str, shape: &[usize]) -> Result<TensorInfo, Error> {
        let info = self.find_any(name, shape)?;
        self.checkpoint.require_floats(&info)?;
        Ok(info)
    }

    fn find_any(&mut self, name: &str, shape: &[usize]) -> Result<TensorInfo, Error> {
        let path = || self.path();
        let info = self
            .checkpoint
            .tensor(name)
            .ok_or_else(|| Error::MissingTensor { path: path(), tensor: name.to_owned() })?;
        if info.shape() != shape {
            return Err(Error::WrongShape {
                path: path(),
                tensor: name.to_owned(),
                found: info.shape().to_vec(),
                expected: shape.to_vec(),
            });
        }
        self.used.insert(name.to_owned());
        Ok(info.clone())
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        let info = self.find(name, &[len])?;
        Ok(self.checkpoint.read_tensor_f32(&info)?)
    }

    fn norm(&mut self, norm: &Norm) -> Result<Vec<f32>, Error> {
        self.vector(&norm.tensor, norm.width)
    }

    fn matrix(&mut self, linear: &Linear) -> Result<MatrixInfo, Error> {
        let (rows, cols) = (linear.out_features, linear.in_features);
        let Some(packing) = linear.packing else {
            return Ok(MatrixInfo::new(self.find(&linear.weight, &[rows, cols])?, rows, cols));
        };
        let name = |part: &str| format!("{}.weight_{part}", linear.module());
        let group = packing.group.unwrap_or(cols);
        if !cols.is_multiple_of(group) {
            return Err(Error::GroupDoesNotDivide { path: self.path(), tensor: name("packed"), cols, group });
        }
        let elements = self.find_any(&name("packed"), &[rows, cols.div_ceil(packing.bits.per_word())])?;
        let scales = self.find(&name("scale"), &[rows, cols / group])?;
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
        if stored != [rows as i64, cols as i64] {
            return Err(Error::WrongPackedShape {
                path: self.path(),
                tensor: shape.name().to_owned(),
                found: stored,
                expected: vec![rows, cols],
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
        Ok(MatrixInfo { parts: vec![elements, scales], format, rows, cols })
    }

    fn path(&self) -> std::path::PathBuf {
        self.checkpoint.path().to_owned()
    }

    fn block(&mut self, block: &Block, matrices: &mut Vec<MatrixInfo>) -> Result<BlockVectors, Error> {
        let mut biases = [const { None }; MATRICES];
        for (linear, slot) in block.linears().zip(&mut biases) {
            matrices.push(self.matrix(linear)?);
            if let Some(bias) = &linear.bias {
                *slot = Some(self.vector(bias, linear.out_features)?);
            }
        }
        let qk_norm = match &block.mixer.qk_norm {
            Some(norms) => Some((self.norm(&norms.q)?, self.norm(&norms.k)?)),
            None => None,
        };
        Ok(BlockVectors {
            mixer_norm: self.norm(&block.mixer_norm)?,
            ffn_norm: self.norm(&block.ffn_norm)?,
            qk_norm,
            biases,
        })
    }

    /// Every tensor must have been used, but for buffers that old versions of transformers saved and that
    /// follow from `config.json`.
    fn refuse_the_rest(&self) -> Result<(), Error> {
        let is_buffer = |name: &str| name.ends_with(".rotary_emb.inv_freq");
        match self.checkpoint.tensors().iter().find(|t| !self.used.contains(t.name()) && !is_buffer(t.name())) {
            None => Ok(()),
            Some(tensor) => Err(Error::UnexpectedTensor {
                path: self.checkpoint.source_of(tensor)?.path().to_owned(),
                tensor: tensor.name().to_owned(),
                shape: tensor.shape().to_vec(),
            }),
        }
    }
}
