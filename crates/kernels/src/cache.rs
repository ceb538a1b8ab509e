//! What the kernels want to know of the CPU's caches.

use std::sync::LazyLock;

/// Whether streams of weights come faster where a program asks for what comes next: on Intel's CPUs (Emerald Rapids) they do, on AMD's (Zen 4) they came slower.
pub(crate) fn asks_ahead() -> bool {
    static ASKS_AHEAD: LazyLock<bool> = LazyLock::new(is_from_intel);
    *ASKS_AHEAD
}

#[cfg(target_arch = "x86_64")]
fn is_from_intel() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
}

#[cfg(not(target_arch = "x86_64"))]
fn is_from_intel() -> bool {
    false
}

/// Bytes of a core's own second cache, which panels are cut for: what the CPU says, or what is usual.
pub(crate) fn l2_bytes() -> usize {
    stated().filter(|bytes| (128 << 10..=64 << 20).contains(bytes)).unwrap_or(1 << 20)
}

#[cfg(target_arch = "x86_64")]
fn stated() -> Option<usize> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    // Intel's leaf and AMD's have one form: a sub-leaf for each cache, until one is of no type.
    let leaf = [(0, 4), (0x8000_0000, 0x8000_001d)].into_iter().find_map(|(first, leaf)| {
        let exists = __cpuid(first).eax >= leaf;
        (exists && __cpuid_count(leaf, 0).eax & 31 != 0).then_some(leaf)
    })?;
    let caches = (0..16).map(|index| __cpuid_count(leaf, index)).take_while(|cache| cache.eax & 31 != 0);
    caches
        .filter(|cache| cache.eax >> 5 & 7 == 2)
        .map(|cache| {
            let (line, partitions, ways) = (cache.ebx & 0xfff, cache.ebx >> 12 & 0x3ff, cache.ebx >> 22);
            [line, partitions, ways, cache.ecx].iter().map(|less_one| *less_one as usize + 1).product()
        })
        .next()
}

#[cfg(not(target_arch = "x86_64"))]
fn stated() -> Option<usize> {
    None
}
