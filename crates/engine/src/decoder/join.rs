//! Projections that are parts of one tensor (`qkv_proj`, `gate_up_proj`), where the form it is stored in cannot be cut between them: they
//! become one projection of the tensor as a whole, whose outputs go to several places.
//!
//! Each output is a dot product of its own, so that this changes no bit; and the tensor is read once.

use super::{Decoder, Ffn, Fp8Block, Linear, Mixer, Packing, Piece, Projection, Slice, Storage, Zeros};

impl Storage {
    /// Whether a part of a tensor stored so may begin at row (output) `row`.
    fn may_begin_at(self, row: usize) -> bool {
        match self {
            Storage::Float | Storage::Mxfp4 => true,
            Storage::Packed(Packing { bits, zeros: Zeros::Stored, .. }) => row.is_multiple_of(bits.per_word()),
            Storage::Packed(_) => true,
            Storage::Fp8(scales) => match scales.block {
                Fp8Block::Block(rows, _) => row.is_multiple_of(rows),
                Fp8Block::Tensor | Fp8Block::Row => true,
            },
            // Input after input: the outputs of a part do not lie together.
            Storage::Gptq(_) | Storage::Awq { .. } => false,
        }
    }
}

impl Linear {
    /// Whether `next` is the part of the same tensors that follows this one, and cannot be taken without it.
    fn goes_on_with(&self, next: &Linear) -> bool {
        let all_but_rows = |l: &Linear| Linear { out_features: 0, slice: Slice { first: 0, ..l.slice }, ..l.clone() };
        self.slice.of > 0
            && all_but_rows(self) == all_but_rows(next)
            && self.slice.first + self.out_features == next.slice.first
            && !next.storage.may_begin_at(next.slice.first)
    }
}

impl Projection {
    /// The outputs of `next`, which follow its own in their tensor, come after them.
    fn append(&mut self, next: &Projection) {
        let before = self.linear.out_features;
        self.pieces.extend(next.pieces.iter().map(|piece| Piece { from: before + piece.from, ..*piece }));
        self.linear.out_features += next.linear.out_features;
        let slice = &mut self.linear.slice;
        if slice.first == 0 && slice.of == self.linear.out_features {
            slice.of = 0;
        }
    }
}

/// Joins those of `inputs` that cannot be taken apart.
fn join(inputs: &mut Vec<Projection>) {
    let apart = std::mem::take(inputs);
    for next in apart {
        match inputs.last_mut() {
            Some(last) if last.linear.goes_on_with(&next.linear) => last.append(&next),
            _ => inputs.push(next),
        }
    }
}

impl Decoder {
    /// Joins projections that are parts of one tensor wherever its form cannot be cut between them.
    pub(crate) fn join_what_cannot_be_cut(&mut self) {
        for block in &mut self.blocks {
            match &mut block.mixer {
                Mixer::Attention(m) => join(&mut m.inputs),
                Mixer::Delta(m) => join(&mut m.inputs),
                Mixer::Conv(m) => join(&mut m.inputs),
                Mixer::Latent(_) => {}
            }
            match &mut block.ffn {
                Ffn::Gated(ffn) => join(&mut ffn.inputs),
                Ffn::Plain(_) => {}
                Ffn::Experts(experts) => {
                    join(&mut experts.expert.inputs);
                    experts.shared.iter_mut().for_each(|shared| join(&mut shared.ffn.inputs));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rheostat_kernels::{Bits, GptqZeros};

    use super::super::{Fp8Scales, GptqPacking, Part};
    use super::*;

    /// First row and rows of what is left of a tensor, and where its parts come from: first output and how many.
    type Taken = (usize, usize, Vec<(Part, usize, usize)>);

    /// Queries, keys and values of 24, 8 and 8 rows in one tensor, joined.
    fn joined(storage: Storage, change: impl Fn(&mut Vec<Projection>)) -> Vec<Taken> {
        let part = |part, first, len| {
            let linear = Linear { storage, ..Linear::new("qkv_proj.weight", 16, len).biased(true).rows(first, 40) };
            Projection::whole(linear, part)
        };
        let mut inputs = vec![part(Part::Query, 0, 24), part(Part::Key, 24, 8), part(Part::Value, 32, 8)];
        change(&mut inputs);
        join(&mut inputs);
        let pieces = |p: &Projection| p.pieces.iter().map(|piece| (piece.part, piece.from, piece.len)).collect();
        inputs.iter().map(|p| (p.linear.slice.first, p.linear.out_features, pieces(p))).collect()
    }

    #[test]
    fn parts_are_joined_where_their_form_cannot_be_cut() {
        let (q, k, v) = (Part::Query, Part::Key, Part::Value);
        let apart = vec![(0, 24, vec![(q, 0, 24)]), (24, 8, vec![(k, 0, 8)]), (32, 8, vec![(v, 0, 8)])];
        let whole = vec![(0, 40, vec![(q, 0, 24), (k, 24, 8), (v, 32, 8)])];
        let packing = |bits| Storage::Packed(Packing { bits, group: None, zeros: Zeros::Stored });
        let fp8 = |rows| Storage::Fp8(Fp8Scales { suffix: ".weight_scale_inv", block: Fp8Block::Block(rows, 32) });
        let gptq = Storage::Gptq(GptqPacking { bits: Bits::Four, group: None, zeros: GptqZeros::Plain });
        for (storage, want) in [
            (Storage::Float, apart.clone()),
            (packing(Bits::Four), apart.clone()),
            (fp8(8), apart.clone()),
            (fp8(24), vec![(0, 24, vec![(q, 0, 24)]), (24, 16, vec![(k, 0, 8), (v, 8, 8)])]),
            (fp8(16), vec![(0, 32, vec![(q, 0, 24), (k, 24, 8)]), (32, 8, vec![(v, 0, 8)])]),
            (fp8(128), whole.clone()),
            (gptq, whole.clone()),
            (Storage::Awq { group: None }, whole),
        ] {
            assert_eq!(joined(storage, |_| {}), want, "{storage:?}");
        }
        // Tensors of their own stay by themselves.
        let other = |inputs: &mut Vec<Projection>| inputs[1].linear.weight = "k_proj.weight".to_owned();
        assert_eq!(joined(gptq, other), apart);
        let of_their_own =
            |inputs: &mut Vec<Projection>| inputs.iter_mut().for_each(|p| p.linear.slice = Slice::default());
        assert_eq!(joined(gptq, of_their_own).len(), 3);
    }
}
