//! What this machine can do, measured with the same threads as everything else: the ceilings that the speed of a model is compared
//! with. Each rate is that of all passes together, not of the fastest: what a loop that does nothing else gets in that time,
//! beside whatever else the machine does.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::exec::Exec;
use crate::linear::{TILES_FLOP, multiply_tiles};
use crate::simd::{LANES, Op, Simd, prefetch_stream};

/// Registers of sums of an arithmetic probe: enough to hide the latency of a multiply-add on two pipes, and few enough for any CPU.
const CHAINS: usize = 10;

/// Bytes per second at which all threads together read `regions`, in as many passes as `time` allows, one at least.
///
/// Together they should be far larger than the caches.
#[must_use]
pub fn read_rate(exec: &Exec, regions: &[&[u8]], time: Duration) -> f64 {
    const PIECE: usize = 1 << 20;
    let pieces: Vec<&[u8]> = regions.iter().flat_map(|region| region.chunks(PIECE)).collect();
    let bytes: usize = regions.iter().map(|region| region.len()).sum();
    let isa = exec.isa();
    let pass = || {
        exec.pool().run(pieces.len(), &|i, _| {
            black_box(isa.run(Read(pieces[i])));
        });
    };
    rate(time, pass, bytes as f64)
}

/// f32 multiply-adds per second of all threads together, within `time`, times two: FLOP/s.
#[must_use]
pub fn f32_rate(exec: &Exec, time: Duration) -> f64 {
    const STEPS: usize = 100_000;
    let isa = exec.isa();
    let pass = || {
        exec.pool().run(exec.threads(), &|i, _| {
            black_box(isa.run(Fitting(Multiply { start: i as f32, steps: STEPS })));
        });
    };
    rate(time, pass, (2 * exec.threads() * STEPS * CHAINS * LANES) as f64)
}

/// Multiply-adds per second of bf16 pairs into f32 sums of all threads together, within `time`, times two:
/// FLOP/s of the reduced mode.
#[must_use]
pub fn bf16_rate(exec: &Exec, time: Duration) -> f64 {
    const STEPS: usize = 50_000;
    let isa = exec.isa();
    let pass = || {
        exec.pool().run(exec.threads(), &|i, _| {
            black_box(isa.run(Fitting(MultiplyPairs { start: i as f32, steps: STEPS })));
        });
    };
    rate(time, pass, (4 * exec.threads() * STEPS * CHAINS * LANES) as f64)
}

/// Multiply-adds per second of bf16 into f32 sums of all threads together in the order of [`Rows::Tiles`](crate::Rows::Tiles),
/// within `time`, times two: FLOP/s of the tiled mode.
#[must_use]
pub fn tiles_rate(exec: &Exec, time: Duration) -> f64 {
    let isa = exec.isa();
    let items = if isa.tiles().is_some() { 200 } else { 2 };
    let pass = || {
        exec.pool().run(exec.threads(), &|_, _| {
            black_box(multiply_tiles(isa, items));
        });
    };
    rate(time, pass, exec.threads() as f64 * items as f64 * TILES_FLOP)
}

/// Multiply-adds per second of 8-bit integers into 32-bit sums of all threads together, within `time`, times
/// two: operations per second of products in integers, without what makes floats of the sums.
#[must_use]
pub fn int8_rate(exec: &Exec, time: Duration) -> f64 {
    const STEPS: usize = 50_000;
    let isa = exec.isa();
    let pass = || {
        exec.pool().run(exec.threads(), &|i, _| {
            black_box(isa.run(Fitting(MultiplyBytes { start: i as u8, steps: STEPS })));
        });
    };
    rate(time, pass, (8 * exec.threads() * STEPS * CHAINS * LANES) as f64)
}

/// The rate of passes that do `work` each, over as many as `time` allows.
fn rate(time: Duration, mut pass: impl FnMut(), work: f64) -> f64 {
    let start = Instant::now();
    let mut passes = 0;
    loop {
        pass();
        passes += 1;
        let elapsed = start.elapsed();
        if elapsed >= time {
            return f64::from(passes) * work / elapsed.as_secs_f64();
        }
    }
}

struct Read<'a>(&'a [u8]);

impl Op for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        // Eight streams, as a decode step reads eight rows of weights at once.
        let lines = self.0.len() / (8 * 64);
        let mut acc = [s.zero(); 8];
        for i in 0..lines {
            for (c, a) in acc.iter_mut().enumerate() {
                if s.asks_ahead() {
                    prefetch_stream(self.0.as_ptr().wrapping_add((c * lines + i) * 64));
                }
                // SAFETY: line `c * lines + i` of `8 * lines` lines of 64 bytes within the slice.
                *a = s.max(*a, unsafe { s.load(self.0.as_ptr().add((c * lines + i) * 64).cast()) });
            }
        }
        acc.into_iter().map(|v| s.sum(v)).sum()
    }
}

/// Multiply-adds into sums that do not depend on each other.
trait Chains {
    /// `CHAINS` for each step, `N` of sixteen lanes at once.
    fn chains<S: Simd, const N: usize>(self, s: S) -> f32;
}

/// With as many sums at once as there are registers for.
struct Fitting<C>(C);

impl<C: Chains> Op for Fitting<C> {
    type Output = f32;
    const NARROW: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        if S::WIDE_TILE { self.0.chains::<S, CHAINS>(s) } else { self.0.chains::<S, { CHAINS / 2 }>(s) }
    }
}

struct Multiply {
    start: f32,
    steps: usize,
}

impl Chains for Multiply {
    #[inline(always)]
    fn chains<S: Simd, const N: usize>(self, s: S) -> f32 {
        let (a, b) = (s.splat(0.999_9), s.splat(1e-6));
        let mut acc = [s.splat(self.start); N];
        for _ in 0..self.steps * (CHAINS / N) {
            for v in &mut acc {
                *v = s.fma(*v, a, b);
            }
        }
        acc.into_iter().map(|v| s.sum(v)).sum()
    }
}

struct MultiplyPairs {
    start: f32,
    steps: usize,
}

impl Chains for MultiplyPairs {
    #[inline(always)]
    fn chains<S: Simd, const N: usize>(self, s: S) -> f32 {
        let (a, b) = (s.splat(0.5), s.splat(1e-6));
        let (a, b) = (s.round_pairs(a, b), s.round_pairs(b, a));
        let mut factors = [[0u8; 4 * LANES]; N];
        for factor in &mut factors {
            // SAFETY: sixteen pairs of two bytes each.
            unsafe { s.store_pairs(factor.as_mut_ptr(), b) };
        }
        let mut acc = [s.splat(self.start); N];
        for _ in 0..self.steps * (CHAINS / N) {
            // The same each time, which the compiler must not find out: it would multiply once for all.
            for (v, b) in acc.iter_mut().zip(black_box(&factors)) {
                // SAFETY: sixteen pairs of two bytes each.
                *v = s.add_pairs(a, unsafe { s.load_pairs(b.as_ptr()) }, *v);
            }
        }
        acc.into_iter().map(|v| s.sum(v)).sum()
    }
}

struct MultiplyBytes {
    start: u8,
    steps: usize,
}

impl Chains for MultiplyBytes {
    #[inline(always)]
    fn chains<S: Simd, const N: usize>(self, s: S) -> f32 {
        // SAFETY: 64 bytes.
        let a = unsafe { s.load_bytes([1u8; 64].as_ptr()) };
        let factors = [[self.start & 1; 64]; N];
        let mut acc = [s.no_small_sums(); N];
        for _ in 0..self.steps * (CHAINS / N) {
            // As above.
            for (v, b) in acc.iter_mut().zip(black_box(&factors)) {
                // SAFETY: 64 bytes.
                *v = s.add_small_bytes(a, unsafe { s.load_bytes(b.as_ptr()) }, *v);
            }
        }
        acc.into_iter().map(|v| s.sum(s.ints_to_f32(s.finish_small_sums(v, 0)))).sum()
    }
}
