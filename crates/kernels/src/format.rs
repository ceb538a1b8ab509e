//! How checkpoints store matrices: the formats, and the tensors that a matrix of each is made of.
//!
//! A format says what f32 value every element has. Kernels widen to these values within a product, so that a matrix in
//! any format gives the bits of its f32 twin.

use crate::exec::SCRATCH;
use crate::integers::BLOCK;

/// Tensors that a matrix is made of, at most.
pub const MOST_PARTS: usize = 4;

/// How a stored matrix `[rows, cols]` keeps its elements. The tensors of a format are its *parts*, in the order in which
/// they are told of here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// IEEE binary32, little-endian.
    F32,
    /// bfloat16, little-endian.
    Bf16,
    /// IEEE binary16, little-endian.
    F16,
    /// Small integers, each row in groups that share a scale: elements, scales.
    Packed(Packed),
    /// Floating-point numbers `[cols, rows]`: input after input, as GPT-2's `Conv1D` and fused experts have them.
    Transposed(Float),
    /// 8-bit floating-point numbers in blocks that share a scale: elements, scales.
    Fp8(Fp8),
    /// 4-bit floating-point numbers (e2m1), two in a byte, the first in the lower half, 32 of a row to a scale: elements
    /// `[rows, cols / 2]`, scales `[rows, cols / 32]` ([`Scales::E8m0`]). An element is the exact product of both
    /// (`transformers/integrations/mxfp4.py`).
    Mxfp4,
    /// Small integers with zero points, or with groups in an order of their own.
    Affine(Affine),
    /// Small integers `[cols, rows]`, neighbouring inputs in one word.
    Gptq(Gptq),
    /// Small integers `[cols, rows]`, neighbouring outputs in one word.
    Awq(Awq),
}

/// A floating-point format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Float {
    /// IEEE binary32, little-endian.
    F32,
    /// bfloat16, little-endian.
    Bf16,
    /// IEEE binary16, little-endian.
    F16,
}

/// Signed integers `q` of 4 or 8 bits, stored as `q + 2^(bits-1)`, the first in the lowest bits, a row padded to
/// 32 bits: compressed-tensors' `pack-quantized`. An element is `q · scale`, rounded once to f32 (with scales of 16
/// bits there is nothing to round).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Packed {
    /// Bits of an element.
    pub bits: Bits,
    /// Consecutive elements of a row that share a scale: a multiple of 32, or at least the row.
    pub group: usize,
    /// Format of the scales.
    pub scales: Scales,
}

/// Numbers of torch's `float8_e4m3fn` and scales `[ceil(rows / block rows), ceil(cols / block cols)]`. An element is its
/// number times the scale of its block, rounded once to f32.
///
/// Blocks of `[128, 128]` are `weight_scale_inv` of fine-grained FP8 checkpoints, blocks of one row compressed-tensors'
/// `channel` strategy, and one block its `tensor` strategy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fp8 {
    /// Rows of a block; any number beyond those of the matrix for all of them.
    pub block_rows: usize,
    /// Columns of a block: a multiple of 32, or at least the row.
    pub block_cols: usize,
    /// Format of the scales.
    pub scales: Scales,
}

/// As [`Packed`], with more parts: elements, scales and, as far as there are such, zero points and groups of columns
/// (compressed-tensors' `weight_zero_point` and `weight_g_idx`). An element is `(q - zero) · scale`, rounded once to f32.
///
/// Zero points are packed as elements are, but along rows: `[ceil(rows / elements of a word), groups]` words. With
/// [`Order::Stored`] a group may have any size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Affine {
    /// Elements and scales.
    pub packed: Packed,
    /// Whether zero points are stored.
    pub zeros: Zeros,
    /// To which groups columns belong.
    pub order: Order,
}

/// Unsigned integers `q` in words `[cols / elements of a word, rows]`, the first input in the lowest bits; scales `[groups,
/// rows]`; zero points `[groups, rows / elements of a word]`, the first output in the lowest bits; and, with
/// [`Order::Stored`], `g_idx`. An element is `scale · (q - zero)`, rounded once to f32: what the library's kernel in torch
/// computes when its scales are f32. (With scales of 16 bits it rounds the product to their type, which this does not.)
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Gptq {
    /// Bits of an element.
    pub bits: Bits,
    /// Consecutive inputs that share a scale, in [`Order::Sequential`], and what the number of groups follows from.
    pub group: usize,
    /// Format of the scales.
    pub scales: Scales,
    /// How zero points are stored.
    pub zeros: GptqZeros,
    /// To which groups inputs belong.
    pub order: Order,
}

/// Unsigned integers `q` of 4 bits in words `[cols, rows / 8]`, whose nibbles, the lowest first, are the outputs 0, 2, 4,
/// 6, 1, 3, 5, 7 of eight (the layout called GEMM); scales `[groups, rows]`; zero points `[groups, rows / 8]` in the same
/// order. An element is `(q - zero) · scale`, rounded once to f32. (The library rounds it to the type of the scales.)
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Awq {
    /// Consecutive inputs that share a scale.
    pub group: usize,
    /// Format of the scales.
    pub scales: Scales,
}

/// Bits of a packed element.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Bits {
    /// From -8 to 7.
    Four,
    /// From -128 to 127.
    Eight,
}

/// Format of the scales of quantised elements.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scales {
    /// IEEE binary32, little-endian.
    F32,
    /// bfloat16, little-endian.
    Bf16,
    /// IEEE binary16, little-endian.
    F16,
    /// A byte `b` that stands for `2^(b - 127)`; 255 is no number (torch's `float8_e8m0fnu`).
    E8m0,
}

/// Zero points of [`Affine`] elements.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Zeros {
    /// All are zero.
    Absent,
    /// A tensor holds them.
    Stored,
}

/// Zero points of [`Gptq`] elements.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GptqZeros {
    /// As they are: checkpoints with `checkpoint_format: gptq_v2`.
    Plain,
    /// Word by word, one was subtracted from each of them (with borrowing, which is undone as well).
    MinusOne,
}

/// To which groups of a row its columns belong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Order {
    /// Consecutive ones to one group.
    Sequential,
    /// As an i32 for each of them tells. One that names no group counts as the last group: see [`valid_order`].
    Stored,
}

/// How many bytes of one of its parts a matrix has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// So many `bytes` for every `step` rows, and for the last ones that are fewer.
    Rows {
        /// Rows that share them.
        step: usize,
        /// Bytes.
        bytes: usize,
    },
    /// So many bytes, which any of the rows may need.
    Whole(usize),
}

impl Float {
    /// Bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::Bf16 | Float::F16 => 2,
        }
    }
}

impl Bits {
    /// Elements in 32 bits.
    #[must_use]
    pub const fn per_word(self) -> usize {
        match self {
            Bits::Four => 8,
            Bits::Eight => 4,
        }
    }

    /// Their number.
    pub(crate) const fn width(self) -> u32 {
        match self {
            Bits::Four => 4,
            Bits::Eight => 8,
        }
    }

    /// The largest unsigned integer of so many bits.
    pub(crate) const fn mask(self) -> u32 {
        (1 << self.width()) - 1
    }
}

impl Scales {
    /// Bytes of one scale.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Scales::F32 => 4,
            Scales::Bf16 | Scales::F16 => 2,
            Scales::E8m0 => 1,
        }
    }
}

impl Packed {
    /// Groups in a row of `cols` elements.
    #[must_use]
    pub const fn groups(&self, cols: usize) -> usize {
        cols.div_ceil(self.group)
    }
}

impl Part {
    /// Bytes for `rows` rows; nothing where that is no number.
    #[must_use]
    pub fn len(self, rows: usize) -> Option<usize> {
        match self {
            Part::Rows { step, bytes } => rows.div_ceil(step).checked_mul(bytes),
            Part::Whole(bytes) => Some(bytes),
        }
    }
}

/// The product of sizes, or a number that nothing has the size of.
fn product(sizes: &[usize]) -> usize {
    sizes.iter().fold(1, |all, n| all.saturating_mul(*n))
}

/// Whether every column's group in `order`, an i32 each, is one of `groups`.
#[must_use]
pub fn valid_order(order: &[u8], groups: usize) -> bool {
    let group = |b: &[u8; 4]| usize::try_from(i32::from_le_bytes(*b));
    order.as_chunks().0.iter().all(|b| group(b).is_ok_and(|g| g < groups))
}

impl Format {
    /// The same elements stored `[cols, rows]`, for the formats that may be.
    #[must_use]
    pub const fn transposed(self) -> Option<Format> {
        match self {
            Format::F32 => Some(Format::Transposed(Float::F32)),
            Format::Bf16 => Some(Format::Transposed(Float::Bf16)),
            Format::F16 => Some(Format::Transposed(Float::F16)),
            _ => None,
        }
    }

    /// Bytes of a row of `cols` elements, where rows follow each other.
    ///
    /// # Panics
    /// When they do not: the format is not [divisible](Format::divisible).
    #[must_use]
    pub const fn row_bytes(self, cols: usize) -> usize {
        match self {
            Format::F32 => cols * 4,
            Format::Bf16 | Format::F16 => cols * 2,
            Format::Packed(Packed { bits, .. }) | Format::Affine(Affine { packed: Packed { bits, .. }, .. }) => {
                cols.div_ceil(bits.per_word()) * 4
            }
            Format::Fp8(_) => cols,
            Format::Mxfp4 => cols / 2,
            Format::Transposed(_) | Format::Gptq(_) | Format::Awq(_) => panic!("rows that do not follow each other"),
        }
    }

    /// Bytes of the scales of a row of `cols` elements, if each row has its own; else zero.
    #[must_use]
    pub const fn scale_row_bytes(self, cols: usize) -> usize {
        match self {
            Format::Packed(packed) | Format::Affine(Affine { packed, .. }) => {
                packed.groups(cols) * packed.scales.bytes()
            }
            Format::Fp8(Fp8 { block_rows: 1, block_cols, scales }) => cols.div_ceil(block_cols) * scales.bytes(),
            Format::Mxfp4 => cols / 32,
            _ => 0,
        }
    }

    /// The parts of a matrix `[rows, cols]`, in their order, the unused ones at the end empty.
    ///
    /// Where [the elements can be cut by rows](Format::divisible), some rows of it are a matrix too, whose parts are
    /// those bytes of the matrix's parts that belong to these rows. Such a cut comes after a multiple of every part's
    /// `step`.
    #[must_use]
    pub fn parts(self, rows: usize, cols: usize) -> [Part; MOST_PARTS] {
        const NONE: Part = Part::Whole(0);
        let each = |bytes| Part::Rows { step: 1, bytes };
        let order = |order| match order {
            Order::Sequential => NONE,
            Order::Stored => Part::Whole(cols * 4),
        };
        match self {
            Format::F32 | Format::Bf16 | Format::F16 => [each(self.row_bytes(cols)), NONE, NONE, NONE],
            Format::Packed(_) | Format::Mxfp4 => {
                [each(self.row_bytes(cols)), each(self.scale_row_bytes(cols)), NONE, NONE]
            }
            Format::Transposed(float) => [Part::Whole(product(&[rows, cols, float.bytes()])), NONE, NONE, NONE],
            Format::Fp8(Fp8 { block_rows, block_cols, scales }) => {
                let bytes = cols.div_ceil(block_cols) * scales.bytes();
                let scales =
                    if block_rows < rows { Part::Rows { step: block_rows, bytes } } else { Part::Whole(bytes) };
                [each(cols), scales, NONE, NONE]
            }
            Format::Affine(affine) => {
                let [elements, scales] = [each(self.row_bytes(cols)), each(self.scale_row_bytes(cols))];
                match affine.zeros {
                    Zeros::Absent => [elements, scales, order(affine.order), NONE],
                    Zeros::Stored => {
                        let Packed { bits, .. } = affine.packed;
                        let zeros = Part::Rows { step: bits.per_word(), bytes: affine.packed.groups(cols) * 4 };
                        [elements, scales, zeros, order(affine.order)]
                    }
                }
            }
            Format::Gptq(gptq) => {
                let (groups, per_word) = (cols.div_ceil(gptq.group), gptq.bits.per_word());
                [
                    Part::Whole(product(&[cols.div_ceil(per_word), rows, 4])),
                    Part::Whole(product(&[groups, rows, gptq.scales.bytes()])),
                    Part::Whole(product(&[groups, rows.div_ceil(per_word), 4])),
                    order(gptq.order),
                ]
            }
            Format::Awq(awq) => {
                let (groups, words) = (cols.div_ceil(awq.group), rows.div_ceil(8));
                [
                    Part::Whole(product(&[cols, words, 4])),
                    Part::Whole(product(&[groups, rows, awq.scales.bytes()])),
                    Part::Whole(product(&[groups, words, 4])),
                    NONE,
                ]
            }
        }
    }

    /// Whether some rows of a matrix are a piece of its elements, so that it can be read and used piece by piece.
    #[must_use]
    pub const fn divisible(self) -> bool {
        !self.is_input_major()
    }

    /// f32 of the scratch buffer that the scales and zero points of a row take while they are widened.
    pub(crate) const fn scratch_of_row(self, cols: usize) -> usize {
        match self {
            Format::Packed(packed) => packed.groups(cols),
            // Those of a row of blocks besides.
            Format::Fp8(fp8) => 2 * cols.div_ceil(fp8.block_cols),
            Format::Mxfp4 => cols / 32,
            // Scale and zero point, and the scale once more.
            Format::Affine(affine) => affine.packed.groups(cols).saturating_mul(3),
            _ => 0,
        }
    }

    /// Whether elements are stored input after input.
    pub(crate) const fn is_input_major(self) -> bool {
        matches!(self, Format::Transposed(_) | Format::Gptq(_) | Format::Awq(_))
    }

    /// Whether rows can be multiplied from where they lie, without a panel of them in f32.
    pub(crate) const fn has_direct_rows(self) -> bool {
        !self.is_input_major() && !matches!(self, Format::Affine(Affine { order: Order::Stored, .. }))
    }

    /// The bits of its integers, if [`Rows::Int8`](crate::Rows::Int8) can be multiplied with them; other formats take
    /// [`Rows::F32`](crate::Rows::F32) in its place.
    #[must_use]
    pub const fn takes_integers(self) -> Option<Bits> {
        match self {
            Format::Packed(packed) => Some(packed.bits),
            _ => None,
        }
    }

    /// Whether the kernels know matrices `[rows, cols]` of this format: group and block sizes as the formats ask for,
    /// whole words, and rows that are not absurdly long.
    #[must_use]
    pub fn fits(self, rows: usize, cols: usize) -> bool {
        let group = |group: usize| group > 0 && (group.is_multiple_of(32) || group >= cols);
        let sound = match self {
            Format::F32 | Format::Bf16 | Format::F16 | Format::Transposed(_) => true,
            // In integers, the scales of eight rows by blocks of 32, besides those of one as they are stored.
            Format::Packed(packed) => group(packed.group) && cols.div_ceil(BLOCK).next_multiple_of(4) <= SCRATCH / 9,
            Format::Fp8(fp8) => fp8.block_rows > 0 && group(fp8.block_cols),
            Format::Mxfp4 => cols.is_multiple_of(32),
            Format::Affine(Affine { packed, order: Order::Sequential, .. }) => group(packed.group),
            Format::Affine(Affine { packed, order: Order::Stored, .. }) => packed.group > 0,
            Format::Gptq(gptq) => {
                let words = |n: usize| n.is_multiple_of(gptq.bits.per_word());
                gptq.group > 0 && words(rows) && words(cols)
            }
            Format::Awq(awq) => awq.group > 0 && rows.is_multiple_of(8),
        };
        // One row in f32, set apart from the next.
        let row = || cols.saturating_add(256).saturating_add(self.scratch_of_row(cols));
        sound && (self.has_direct_rows() || row() <= SCRATCH)
    }
}
