//! What a strip's rows need to be widened: their scales and zero points, in f32, row by row.

use super::Strip;
use crate::element::{Bf16, E8m0, F16, F32};
use crate::format::{Affine, Format, Fp8, Scales, Zeros};
use crate::matrix::Matrix;
use crate::simd::Isa;
use crate::widen::Plain;

/// The scales of the strip's rows, if they have any, and the rest of the scratch buffer. Of [`Format::Affine`] each
/// scale is followed by the zero point of its group.
pub(super) fn widen_row_scales<'a>(isa: Isa, strip: &Strip<'_>, scratch: &'a mut [f32]) -> (&'a [f32], &'a mut [f32]) {
    let (weight, rows) = (&strip.job.weight, strip.first..strip.last);
    let [_, own] = if weight.format().divisible() { weight.row_parts(rows.clone()) } else { [&[][..]; 2] };
    match weight.format() {
        Format::Packed(packed) => {
            let (scales, rest) = scratch.split_at_mut(own.len() / packed.scales.bytes());
            widen_scales(isa, own, packed.scales, scales);
            (scales, rest)
        }
        Format::Mxfp4 => {
            let (scales, rest) = scratch.split_at_mut(own.len());
            widen_scales(isa, own, Scales::E8m0, scales);
            (scales, rest)
        }
        Format::Fp8(Fp8 { block_rows, block_cols, scales: format }) => {
            let groups = weight.cols().div_ceil(block_cols);
            let (scales, rest) = scratch.split_at_mut(rows.len() * groups);
            let first = rows.start / block_rows;
            let blocks = (rows.end - 1) / block_rows - first + 1;
            let row = groups * format.bytes();
            let stored = &weight.parts()[1][first * row..(first + blocks) * row];
            let of_blocks = &mut rest[..blocks * groups];
            widen_scales(isa, stored, format, of_blocks);
            for (o, to) in rows.zip(scales.chunks_exact_mut(groups.max(1))) {
                let block = o / block_rows - first;
                to.copy_from_slice(&of_blocks[block * groups..(block + 1) * groups]);
            }
            (scales, rest)
        }
        Format::Affine(affine) => {
            let groups = affine.packed.groups(weight.cols());
            let (pairs, rest) = scratch.split_at_mut(rows.len() * groups * 2);
            let scales = &mut rest[..rows.len() * groups];
            widen_scales(isa, own, affine.packed.scales, scales);
            let (of_rows, scales) =
                (pairs.as_chunks_mut::<2>().0.chunks_exact_mut(groups.max(1)), scales.chunks_exact(groups.max(1)));
            for ((o, pairs), scales) in rows.zip(of_rows).zip(scales) {
                pair_up(weight, affine, o, scales, pairs);
            }
            (pairs, rest)
        }
        _ => (&[], scratch),
    }
}

/// `pairs` = the `scales` of row `o`, each with the zero point of its group.
fn pair_up(weight: &Matrix<'_>, affine: Affine, o: usize, scales: &[f32], pairs: &mut [[f32; 2]]) {
    let (bits, groups) = (affine.packed.bits, scales.len());
    let pairs = pairs.iter_mut().zip(scales);
    match affine.zeros {
        Zeros::Absent => pairs.for_each(|(pair, scale)| *pair = [*scale, 0.0]),
        Zeros::Stored => {
            let words = &weight.parts()[2].as_chunks().0[o / bits.per_word() * groups..];
            let (shift, middle) = (bits.width() * (o % bits.per_word()) as u32, 1 << (bits.width() - 1));
            for ((pair, scale), word) in pairs.zip(words) {
                let stored = u32::from_le_bytes(*word) >> shift & bits.mask();
                *pair = [*scale, (stored as i32 - middle) as f32];
            }
        }
    }
}

fn widen_scales(isa: Isa, stored: &[u8], format: Scales, to: &mut [f32]) {
    match format {
        Scales::F32 => isa.run(Plain(stored, to, F32)),
        Scales::Bf16 => isa.run(Plain(stored, to, Bf16)),
        Scales::F16 => isa.run(Plain(stored, to, F16)),
        Scales::E8m0 => isa.run(Plain(stored, to, E8m0)),
    }
}
