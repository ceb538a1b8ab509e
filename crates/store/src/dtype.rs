//! Element types: what a header may declare, and how the usable ones become `f32`.
//!
//! A header can describe a tensor of any type the format knows; only floating-point types of 16 and
//! 32 bits are weights to this engine so far. Which is which is decided here and nowhere else.

use std::fmt;

use half::{bf16, f16};

/// Declares [`Dtype`] from one table, so that names and sizes cannot drift apart.
macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $bits:literal;)*) => {
        /// The type of a tensor's elements: every type that safetensors 0.8 defines.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Dtype {
            $($(#[$doc])* $variant,)*
        }

        impl Dtype {
            /// Every element type, in no particular order.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The type that safetensors headers call `name`; `None` if the format has no such type.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// What safetensors headers call this type.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The size of one element in bits; below 8 for types that are stored packed.
            pub const fn bits(self) -> u64 {
                match self {
                    $(Self::$variant => $bits,)*
                }
            }
        }
    };
}

dtypes! {
    /// IEEE 754 single precision.
    F32 = "F32", 32;
    /// The upper half of an `F32`.
    Bf16 = "BF16", 16;
    /// IEEE 754 half precision.
    F16 = "F16", 16;
    /// IEEE 754 double precision.
    F64 = "F64", 64;
    /// A complex number of two `F32`.
    C64 = "C64", 64;
    /// 8-bit float, 4 bits of exponent.
    F8E4M3 = "F8_E4M3", 8;
    /// 8-bit float, 5 bits of exponent.
    F8E5M2 = "F8_E5M2", 8;
    /// 8-bit scale, exponent only.
    F8E8M0 = "F8_E8M0", 8;
    /// 8-bit float, 4 bits of exponent, without infinities and negative zero.
    F8E4M3Fnuz = "F8_E4M3FNUZ", 8;
    /// 8-bit float, 5 bits of exponent, without infinities and negative zero.
    F8E5M2Fnuz = "F8_E5M2FNUZ", 8;
    /// 6-bit float, 2 bits of exponent.
    F6E2M3 = "F6_E2M3", 6;
    /// 6-bit float, 3 bits of exponent.
    F6E3M2 = "F6_E3M2", 6;
    /// 4-bit float.
    F4 = "F4", 4;
    /// One byte, zero or one.
    Bool = "BOOL", 8;
    /// Unsigned 8-bit integer.
    U8 = "U8", 8;
    /// Signed 8-bit integer.
    I8 = "I8", 8;
    /// Unsigned 16-bit integer.
    U16 = "U16", 16;
    /// Signed 16-bit integer.
    I16 = "I16", 16;
    /// Unsigned 32-bit integer.
    U32 = "U32", 32;
    /// Signed 32-bit integer.
    I32 = "I32", 32;
    /// Unsigned 64-bit integer.
    U64 = "U64", 64;
    /// Signed 64-bit integer.
    I64 = "I64", 64;
}

impl Dtype {
    /// Whether the engine can compute with weights of this type.
    pub const fn is_weight(self) -> bool {
        self.weight_size().is_some()
    }

    /// Whether quantised weights are stored with tensors of this type: words of packed elements, bytes of small floats, shapes; or
    /// masks, which old versions of transformers saved beside weights.
    pub const fn is_packing(self) -> bool {
        matches!(self, Self::I32 | Self::I64 | Self::U8 | Self::F8E4M3 | Self::Bool)
    }

    /// The size of one element in bytes, for the types that are weights.
    pub const fn weight_size(self) -> Option<usize> {
        match self {
            Self::F32 => Some(4),
            Self::Bf16 | Self::F16 => Some(2),
            _ => None,
        }
    }

    /// The number of bytes that `elements` elements take; `None` if that overflows or, for a packed
    /// type, does not end on a byte.
    pub const fn byte_len(self, elements: u64) -> Option<u64> {
        match elements.checked_mul(self.bits()) {
            Some(bits) if bits.is_multiple_of(8) => Some(bits / 8),
            _ => None,
        }
    }

    /// Widens little-endian elements to `f32`; every value is exact.
    ///
    /// `bytes` holds as many whole elements as `out` has places; places and elements beyond the
    /// shorter of the two are left alone. Returns `None`, and writes nothing, for a type that is not
    /// a weight type.
    pub(crate) fn widen(self, bytes: &[u8], out: &mut [f32]) -> Option<()> {
        match self {
            Self::F32 => widen_each(bytes, out, f32::from_le_bytes),
            Self::Bf16 => widen_each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            Self::F16 => widen_each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            _ => return None,
        }
        Some(())
    }
}

fn widen_each<const N: usize>(bytes: &[u8], out: &mut [f32], widen: impl Fn([u8; N]) -> f32) {
    let (elements, _) = bytes.as_chunks::<N>();
    for (place, element) in out.iter_mut().zip(elements) {
        *place = widen(*element);
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
