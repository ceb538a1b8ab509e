//! Which instruction sets there are, and which of them this CPU has.

use super::portable::Portable;
use super::{Op, Tiles};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// An instruction set that this CPU has.
///
/// A value of this type is proof: there is no way to make one for instructions the CPU lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Isa(Kind);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx(Tiles),
}

impl Isa {
    /// What every CPU can run.
    pub(crate) const PORTABLE: Isa = Isa(Kind::Portable);

    /// The widest instruction set of this CPU.
    #[must_use]
    pub fn detect() -> Isa {
        *Isa::available().last().unwrap_or(&Isa(Kind::Portable))
    }

    /// Every instruction set that this CPU can run, the portable one first, the widest last.
    #[must_use]
    pub fn available() -> Vec<Isa> {
        let mut all = vec![Isa(Kind::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx2 {
                all.push(Isa(Kind::Avx2));
            }
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 {
                all.push(Isa(Kind::Avx512));
                if is_x86_feature_detected!("avx512bf16")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("avx512vnni")
                {
                    all.push(Isa(Kind::Avx512Bf16));
                    #[cfg(target_os = "linux")]
                    all.extend(Tiles::new().map(|tiles| Isa(Kind::Amx(tiles))));
                }
            }
        }
        all
    }

    /// The name by which [`Isa::by_name`] finds this instruction set.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 => "avx512bf16",
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Kind::Amx(_) => "amx",
        }
    }

    /// The instruction set called `name`, if this CPU has it.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Isa> {
        Isa::available().into_iter().find(|isa| isa.name() == name)
    }

    /// Whether large products in f32 are fastest with rows that lie interleaved: [`Simd::add_interleaved`].
    pub(crate) fn interleaves(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => true,
            _ => false,
        }
    }

    /// The tiles of this instruction set, if it has any.
    pub(crate) fn tiles(self) -> Option<Tiles> {
        match self.0 {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Kind::Amx(tiles) => Some(tiles),
            _ => None,
        }
    }

    /// Runs `op` with this instruction set.
    pub(crate) fn run<O: Op>(self, op: O) -> O::Output {
        match self.0 {
            Kind::Portable => op.run(Portable),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this kind exists only where `available` found its features.
            Kind::Avx2 => unsafe { avx2::run(op) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this kind exists only where `available` found its features.
            Kind::Avx512 => unsafe { avx512::run(op) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this kind exists only where `available` found its features.
            Kind::Avx512Bf16 => unsafe { avx512::run_widest(op) },
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            // SAFETY: as above; tiles come with the features of the kind before.
            Kind::Amx(_) => unsafe { avx512::run_widest(op) },
        }
    }
}
