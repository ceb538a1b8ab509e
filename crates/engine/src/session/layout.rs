//! What a session's file holds besides the text: names, types and shapes of its tensors, for the one who writes it and the one who checks it.
//!
//! - `blocks.{i}.attn.hook_rot_k` and `blocks.{i}.attn.hook_v`, each `[pos, n_kv_heads, head_dim]`: the rotated keys and the values of the
//!   positions that were read, as the cache keeps them, by the names of TransformerLens.
//! - `blocks.{i}.attn.hook_state` `[v_heads, k_dim, v_dim]` and `blocks.{i}.attn.conv_state` `[kernel - 1, channels]`, in f32: the matrices of a
//!   recurrence after the last of these positions, and the last inputs of a convolution, the oldest first.

use rheostat_kernels::KvFormat;
use rheostat_store::{Dtype, NewTensor};

use crate::decoder::Decoder;
use crate::kv_disk::KvPart;

/// The tensors of a cache of `len` positions, in the order of the file.
pub(super) fn cache_tensors(
    decoder: &Decoder,
    kv: KvFormat,
    len: usize,
) -> impl Iterator<Item = (usize, KvPart, NewTensor)> + use<'_> {
    let dtype = match kv {
        KvFormat::F32 => Dtype::F32,
        KvFormat::Bf16 => Dtype::Bf16,
    };
    let cached = decoder.blocks.iter().enumerate().filter_map(|(i, block)| Some((i, block.kv()?)));
    cached.flat_map(move |(i, kv)| {
        let parts = [(KvPart::Keys, "hook_rot_k", kv.head_dim), (KvPart::Values, "hook_v", kv.value_dim)];
        parts.map(|(part, hook, width)| {
            let shape = vec![len, kv.n_kv_heads, width];
            (i, part, NewTensor { name: format!("blocks.{i}.attn.{hook}"), dtype, shape })
        })
    })
}

/// The tensors of states, which belong to one position, in the order of the file: with the block, and the part of its state.
pub(super) fn state_tensors(decoder: &Decoder) -> impl Iterator<Item = (usize, usize, NewTensor)> + use<'_> {
    decoder.blocks.iter().enumerate().flat_map(|(i, block)| {
        let parts = ["conv_state", "hook_state"].into_iter().zip(block.mixer.state_shapes()).enumerate();
        parts.filter_map(move |(part, (name, shape))| {
            // A convolution that sees one position carries nothing.
            let shape = shape.filter(|shape| !shape.contains(&0))?;
            Some((i, part, NewTensor { name: format!("blocks.{i}.attn.{name}"), dtype: Dtype::F32, shape }))
        })
    })
}
