//! Description meets checkpoint: every tensor that the model needs is there in the right shape, and
//! every tensor that is there is needed.

mod matrix;

pub(crate) use matrix::{MatrixInfo, format};

use std::collections::HashSet;

use rheostat_kernels as kernels;
use rheostat_kernels::Run;
use rheostat_store::{Checkpoint, Expert, Extent, Phase, TensorInfo, Use};

use crate::decoder::{Block, Decoder, Experts, Head, Linear, Mixer, Norm, NormKind, Part, Projection};
use crate::error::Error;

/// A model's tensors, read or found.
pub(crate) struct Bound {
    /// Each matrix, in the order in which a sweep uses them: those of each block, then the head.
    pub(crate) matrices: Vec<MatrixInfo>,
    /// The embedding table.
    pub(crate) embed: TensorInfo,
    /// The table of learned positions.
    pub(crate) positions: Option<TensorInfo>,
    /// What else each block has.
    pub(crate) blocks: Vec<BoundBlock>,
    /// The last norm.
    pub(crate) norm: BoundNorm,
    /// The head, whose matrix is the last.
    pub(crate) head: BoundLinear,
    /// The routed experts of every block that has any, in order.
    pub(crate) experts: Vec<BoundExperts>,
}

/// What of a block always stays in memory, and which matrices are its own.
pub(crate) struct BoundBlock {
    pub(crate) mixer_norm: Option<BoundNorm>,
    pub(crate) mixer_post_norm: Option<BoundNorm>,
    pub(crate) ffn_norm: Option<BoundNorm>,
    pub(crate) ffn_post_norm: Option<BoundNorm>,
    /// In the order of [`Mixer::linears`].
    pub(crate) mixer: Vec<BoundLinear>,
    /// In the order of `Ffn::linears`.
    pub(crate) ffn: Vec<BoundLinear>,
    /// In the order of [`Mixer::norms`].
    pub(crate) mixer_norms: Vec<BoundNorm>,
    /// In the order of [`Block::vectors`].
    pub(crate) vectors: Vec<Vec<f32>>,
    /// Index in [`Bound::experts`].
    pub(crate) experts: Option<usize>,
}

/// A norm and its weights.
pub(crate) struct BoundNorm {
    kind: kernels::NormKind,
    weight: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    width: usize,
    eps: f32,
}

/// A linear map of the sweep.
pub(crate) struct BoundLinear {
    /// Index in [`Bound::matrices`].
    pub(crate) matrix: usize,
    pub(crate) bias: Option<Vec<f32>>,
    /// Where its outputs go, if it is a projection whose output is cut up.
    pub(crate) runs: Vec<(Part, Vec<Run>)>,
}

/// The routed experts of a block.
pub(crate) struct BoundExperts {
    /// What stands for all: matrices in the order of use, whose own tensors are those of expert 0.
    pub(crate) matrices: Vec<MatrixInfo>,
    /// Where the outputs of each matrix go, if they are cut up.
    pub(crate) runs: Vec<Vec<(Part, Vec<Run>)>>,
    /// Whether each matrix has a bias.
    pub(crate) biased: Vec<bool>,
    /// For each expert the tensors of each matrix in turn: its parts, then its bias if it has one.
    pub(crate) tensors: Vec<Vec<TensorInfo>>,
}

impl BoundNorm {
    /// For the kernel.
    pub(crate) fn norm(&self) -> kernels::Norm<'_> {
        kernels::Norm {
            kind: self.kind,
            weight: self.weight.as_deref(),
            bias: self.bias.as_deref(),
            width: self.width,
            eps: self.eps,
        }
    }

    /// The weight, of a norm that has one.
    pub(crate) fn weight(&self) -> Option<&[f32]> {
        self.weight.as_deref()
    }

    /// What is added to the mean square.
    pub(crate) fn eps(&self) -> f32 {
        self.eps
    }

    fn elements(&self) -> usize {
        self.weight.as_ref().map_or(0, Vec::len) + self.bias.as_ref().map_or(0, Vec::len)
    }
}

impl BoundBlock {
    fn norms(&self) -> impl Iterator<Item = &BoundNorm> {
        let own = [&self.mixer_norm, &self.mixer_post_norm, &self.ffn_norm, &self.ffn_post_norm];
        own.into_iter().flatten().chain(&self.mixer_norms)
    }

    fn elements(&self) -> usize {
        let linears = self.mixer.iter().chain(&self.ffn);
        let biases: usize = linears.filter_map(|l| l.bias.as_ref()).map(Vec::len).sum();
        let vectors: usize = self.vectors.iter().map(Vec::len).sum();
        self.norms().map(BoundNorm::elements).sum::<usize>() + biases + vectors
    }
}

impl BoundExperts {
    /// Bytes of one expert.
    pub(crate) fn bytes(&self) -> u64 {
        self.tensors.first().map_or(0, |tensors| tensors.iter().map(TensorInfo::byte_len).sum())
    }
}

impl Bound {
    /// Finds and checks every tensor of `decoder`, and reads the vectors.
    ///
    /// # Errors
    /// A tensor is missing, has another shape, or has no place.
    pub(crate) fn new(decoder: &Decoder, checkpoint: &Checkpoint) -> Result<Bound, Error> {
        let mut binder = Binder::new(checkpoint);
        let embed = binder.find(&decoder.embed.tensor, &[decoder.vocab_size, decoder.hidden_size])?;
        let positions = match &decoder.embed.positions {
            Some(positions) => Some(binder.find(&positions.tensor, &[positions.rows, decoder.hidden_size])?),
            None => None,
        };
        let blocks = decoder.blocks.iter().map(|block| binder.block(block)).collect::<Result<Vec<_>, _>>()?;
        let norm = binder.norm(&decoder.norm)?;
        let head = match &decoder.head {
            Head::Own(linear) => binder.linear(linear)?,
            Head::Tied => {
                binder.matrices.push(MatrixInfo::plain(embed.clone(), decoder.vocab_size, decoder.hidden_size));
                BoundLinear { matrix: binder.matrices.len() - 1, bias: None, runs: Vec::new() }
            }
        };
        binder.refuse_the_rest(&decoder.ignored)?;
        let Binder { matrices, experts, .. } = binder;
        Ok(Bound { matrices, embed, positions, blocks, norm, head, experts })
    }

    /// The matrices as the store plans them.
    pub(crate) fn uses(&self) -> Vec<Use> {
        self.uses_with(Phase::Head)
    }

    /// The same where sweeps that use the head are few.
    pub(crate) fn uses_seldom_head(&self) -> Vec<Use> {
        self.uses_with(Phase::SeldomHead)
    }

    fn uses_with(&self, head: Phase) -> Vec<Use> {
        let last = self.matrices.len() - 1;
        let phase = |i| if i == last { head } else { Phase::Body };
        self.matrices.iter().enumerate().map(|(i, m)| m.as_use(phase(i))).collect()
    }

    /// Bytes of the vectors.
    pub(crate) fn vector_bytes(&self) -> u64 {
        let head = self.head.bias.as_ref().map_or(0, Vec::len);
        let blocks: usize = self.blocks.iter().map(BoundBlock::elements).sum();
        4 * (self.norm.elements() + head + blocks) as u64
    }

    /// The routed experts as the store plans them, by layers.
    pub(crate) fn expert_layers(&self) -> Vec<Vec<Expert>> {
        let expert = |tensors: &Vec<TensorInfo>| Expert { parts: tensors.iter().map(Extent::from).collect() };
        self.experts.iter().map(|layer| layer.tensors.iter().map(expert).collect()).collect()
    }

    /// Bytes of all routed experts.
    pub(crate) fn expert_bytes(&self) -> u64 {
        self.experts.iter().map(|e| e.bytes() * e.tensors.len() as u64).sum()
    }
}

/// The tensors of one linear map, found and checked.
///
/// # Errors
/// A tensor is missing, or has another shape or type.
pub(crate) fn matrix_of(linear: &Linear, checkpoint: &Checkpoint) -> Result<MatrixInfo, Error> {
    Binder::new(checkpoint).matrix(linear)
}

/// The tensor of the bias of one linear map, if it has one: found, checked and cut.
///
/// # Errors
/// As [`matrix_of`].
pub(crate) fn bias_of(linear: &Linear, checkpoint: &Checkpoint) -> Result<Option<TensorInfo>, Error> {
    Binder::new(checkpoint).bias(linear)
}

struct Binder<'a> {
    checkpoint: &'a Checkpoint,
    used: HashSet<String>,
    matrices: Vec<MatrixInfo>,
    experts: Vec<BoundExperts>,
}

impl<'a> Binder<'a> {
    fn new(checkpoint: &'a Checkpoint) -> Binder<'a> {
        Binder { checkpoint, used: HashSet::new(), matrices: Vec::new(), experts: Vec::new() }
    }
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

    fn path(&self) -> std::path::PathBuf {
        self.checkpoint.path().to_owned()
    }

    /// The tensor `name` as a vector of `len`, stored as `[len]` or in another shape of as many elements that `also` accepts.
    fn vector(&mut self, name: &str, len: usize, also: impl Fn(&[usize]) -> bool) -> Result<Vec<f32>, Error> {
        let shape = match self.checkpoint.tensor(name) {
            Some(info) if info.elements() == len as u64 && also(info.shape()) => info.shape().to_vec(),
            _ => vec![len],
        };
        let info = self.find(name, &shape)?;
        Ok(self.checkpoint.read_tensor_f32(&info)?)
    }

    fn norm(&mut self, norm: &Norm) -> Result<BoundNorm, Error> {
        let len = norm.width * norm.groups;
        let grouped = |shape: &[usize]| norm.groups > 1 && shape == [norm.groups, norm.width];
        let mut weight = Vec::with_capacity(len);
        for name in &norm.weights {
            weight.extend(self.vector(name, len / norm.weights.len(), grouped)?);
        }
        weight.iter_mut().for_each(|w| *w += norm.offset);
        let bias = norm.bias.as_ref().map(|name| self.vector(name, len, grouped)).transpose()?;
        Ok(BoundNorm {
            kind: match norm.kind {
                NormKind::Rms => kernels::NormKind::Rms,
                NormKind::Layer => kernels::NormKind::Layer,
            },
            weight: (!norm.weights.is_empty()).then_some(weight),
            bias,
            width: norm.width,
            eps: norm.eps,
        })
    }

    fn opt_norm(&mut self, norm: Option<&Norm>) -> Result<Option<BoundNorm>, Error> {
        norm.map(|norm| self.norm(norm)).transpose()
    }

    /// A matrix of the sweep, and what stays of it.
    fn linear(&mut self, linear: &Linear) -> Result<BoundLinear, Error> {
        let info = self.matrix(linear)?;
        let matrix = self.matrices.len();
        self.matrices.push(info);
        let bias = self.bias(linear)?;
        let bias = bias.map(|tensor| self.checkpoint.read_tensor_f32(&tensor)).transpose()?;
        Ok(BoundLinear { matrix, bias, runs: Vec::new() })
    }

    fn projections(&mut self, inputs: &[Projection]) -> Result<Vec<BoundLinear>, Error> {
        let bound =
            |projection: &Projection| Ok(BoundLinear { runs: runs(projection), ..self.linear(&projection.linear)? });
        inputs.iter().map(bound).collect()
    }

    fn block(&mut self, block: &Block) -> Result<BoundBlock, Error> {
        let mixer = match &block.mixer {
            Mixer::Attention(m) => self.projected(&m.inputs, &m.o)?,
            Mixer::Delta(m) => self.projected(&m.inputs, &m.o)?,
            Mixer::Conv(m) => self.projected(&m.inputs, &m.o)?,
            Mixer::Latent(_) => {
                let linears = block.mixer.linears();
                let mut bound = linears.into_iter().map(|l| self.linear(l)).collect::<Result<Vec<_>, _>>()?;
                // Its heads are parts of one matrix, which is taken as a whole.
                let kv_b = bound.len() - 2;
                let kv_b = bound[kv_b].matrix;
                self.matrices[kv_b].whole = true;
                bound.shrink_to_fit();
                bound
            }
        };
        let ffn = match &block.ffn {
            crate::decoder::Ffn::Gated(f) => self.projected(&f.inputs, &f.down)?,
            crate::decoder::Ffn::Plain(f) => vec![self.linear(&f.up)?, self.linear(&f.down)?],
            crate::decoder::Ffn::Experts(f) => {
                let mut all = vec![self.linear(&f.router.linear)?];
                if let Some(shared) = &f.shared {
                    if let Some(gate) = &shared.gate {
                        all.push(self.linear(gate)?);
                    }
                    all.extend(self.projected(&shared.ffn.inputs, &shared.ffn.down)?);
                }
                all
            }
        };
        let experts = match block.ffn.experts() {
            None => None,
            Some(experts) => {
                let bound = self.experts(experts)?;
                self.experts.push(bound);
                Some(self.experts.len() - 1)
            }
        };
        // Convolutions are `[channels, 1, taps]`, and a number may have no axis.
        let shaped = |shape: &[usize]| matches!(shape, [] | [_, 1, _]);
        let vectors = block.vectors().into_iter().map(|(name, len)| self.vector(name, len, shaped));
        let vectors = vectors.collect::<Result<Vec<_>, _>>()?;
        let mixer_norms = block.mixer.norms().into_iter().map(|n| self.norm(n)).collect::<Result<Vec<_>, _>>()?;
        Ok(BoundBlock {
            mixer_norm: self.opt_norm(block.mixer_norm.as_ref())?,
            mixer_post_norm: self.opt_norm(block.mixer_post_norm.as_ref())?,
            ffn_norm: self.opt_norm(block.ffn_norm.as_ref())?,
            ffn_post_norm: self.opt_norm(block.ffn_post_norm.as_ref())?,
            mixer,
            ffn,
            mixer_norms,
            vectors,
            experts,
        })
    }

    fn projected(&mut self, inputs: &[Projection], last: &Linear) -> Result<Vec<BoundLinear>, Error> {
        let mut all = self.projections(inputs)?;
        all.push(self.linear(last)?);
        Ok(all)
    }

    fn experts(&mut self, experts: &Experts) -> Result<BoundExperts, Error> {
        let mut all = Vec::with_capacity(experts.n_experts);
        for e in 0..experts.n_experts {
            let expert = experts.expert(e);
            let own = expert.linears().map(|linear| Ok((self.matrix(linear)?, self.bias(linear)?)));
            all.push(own.collect::<Result<Vec<_>, Error>>()?);
        }
        // Where groups of some experts are in an order of their own, those of all are read from their tensors.
        for m in 0..all.first().map_or(0, Vec::len) {
            if all.iter().any(|own| own[m].0.is_ordered()) {
                all.iter_mut().for_each(|own| own[m].0.keep_order());
            }
        }
        let mut tensors = Vec::with_capacity(all.len());
        let mut matrices: Vec<MatrixInfo> = Vec::new();
        for matrices_of_one in all {
            let mut own = Vec::new();
            for (i, (info, bias)) in matrices_of_one.into_iter().enumerate() {
                own.extend(info.parts.iter().cloned());
                own.extend(bias);
                match matrices.get(i) {
                    None => matrices.push(info),
                    Some(first) if first.format == info.format => {}
                    Some(first) => {
                        return Err(Error::UnlikeExperts {
                            path: self.path(),
                            tensor: info.parts[0].name().to_owned(),
                            other: first.parts[0].name().to_owned(),
                        });
                    }
                }
            }
            tensors.push(own);
        }
        let template = &experts.expert;
        Ok(BoundExperts {
            matrices,
            runs: template.inputs.iter().map(runs).chain([Vec::new()]).collect(),
            biased: template.linears().map(|l| l.bias.is_some()).collect(),
            tensors,
        })
    }

    /// Every tensor must have been used, but for buffers that old versions of transformers saved and that
    /// follow from `config.json`, and for what the description leaves alone.
    fn refuse_the_rest(&self, ignored: &[String]) -> Result<(), Error> {
        let ignored = |name: &str| ignored.iter().any(|start| name.starts_with(start.as_str()));
        let is_buffer = |name: &str| {
            ["rotary_emb.inv_freq", "attn.masked_bias", "attention.masked_bias", "attention.bias", "attn.bias"]
                .iter()
                .any(|buffer| name.strip_suffix(buffer).is_some_and(|rest| rest.ends_with('.')))
        };
        let mut tensors = self.checkpoint.tensors().iter();
        match tensors.find(|t| !self.used.contains(t.name()) && !is_buffer(t.name()) && !ignored(t.name())) {
            None => Ok(()),
            Some(tensor) => Err(Error::UnexpectedTensor {
                path: self.checkpoint.source_of(tensor)?.path().to_owned(),
                tensor: tensor.name().to_owned(),
                shape: tensor.shape().to_vec(),
            }),
        }
    }
}

/// Where the outputs of a projection go, part by part, unless they are one part as a whole.
fn runs(projection: &Projection) -> Vec<(Part, Vec<Run>)> {
    if projection.is_whole() {
        return Vec::new();
    }
    let mut all: Vec<(Part, Vec<Run>)> = Vec::new();
    for piece in &projection.pieces {
        let run = Run { from: piece.from, to: piece.to, len: piece.len };
        match all.iter_mut().find(|(part, _)| *part == piece.part) {
            None => all.push((piece.part, vec![run])),
            Some((_, runs)) => match runs.last_mut() {
                Some(last) if last.from + last.len == run.from && last.to + last.len == run.to => last.len += run.len,
                _ => runs.push(run),
            },
        }
    }
    all
}
