//! Short causal convolutions over positions, channel by channel: what precedes a [`delta_rule`](crate::delta_rule()), and
//! the mixer of LFM2.
//!
//! A row's result is `bias + w₀·x₋ₖ₊₁ + … + wₖ₋₁·x₀`: the taps in increasing order, from the oldest input on, by fused
//! multiply-add onto the bias or zero. The inputs before the pass come from the state that the sequence carries, so a prompt
//! may be cut anywhere.

use std::ops::Range;

use crate::carried::{Carried, checked};
use crate::exec::{Exec, SCRATCH, SharedMut};
use crate::math;
use crate::simd::{LANES, Op, Simd};

/// Channels that one item of a parallel job takes, at least and at most: runs that fill the better part of a page of a
/// row, if that leaves enough items for all threads, and what belongs to them stays in L1.
const ITEM: std::ops::RangeInclusive<usize> = 128..=1024;

/// A depthwise causal convolution.
#[derive(Clone, Copy)]
pub struct Conv<'a> {
    /// `[channels, taps]`, the tap of the oldest input first, as checkpoints store it (`conv1d.weight` without its middle axis).
    pub weight: &'a [f32],
    /// `[channels]`.
    pub bias: Option<&'a [f32]>,
    /// Inputs that a result depends on: the kernel size.
    pub taps: usize,
}

impl Conv<'_> {
    /// Channels of a row.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.weight.len() / self.taps
    }

    /// Elements of the state that a sequence carries: its last `taps - 1` inputs, `[taps - 1, channels]`, the oldest
    /// first.
    #[must_use]
    pub fn state_len(&self) -> usize {
        (self.taps - 1) * self.channels()
    }
}

/// What becomes of a convolution's result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterConv {
    /// It is the output.
    Nothing,
    /// `x / (1 + e^−x)` of it is.
    Silu,
}

/// Convolves every channel of `x: [n, channels]` over the rows of each sequence, in place: `causal_conv1d_fn` and
/// `causal_conv1d_update` of transformers' `modeling_qwen3_next.py`.
///
/// # Panics
/// When the shapes do not agree.
pub fn causal_conv(exec: &Exec, conv: &Conv<'_>, after: AfterConv, sequences: &mut [Carried<'_>], x: &mut [f32]) {
    let channels = conv.channels();
    assert!(channels > 0 && x.len().is_multiple_of(channels), "rows of {channels} channels");
    let n = x.len() / channels;
    let x = SharedMut::new(x);
    match after {
        AfterConv::Nothing => run(exec, conv, sequences, n, &InPlace::<false> { x, channels }),
        AfterConv::Silu => run(exec, conv, sequences, n, &InPlace::<true> { x, channels }),
    }
}

/// Of `bcx: [n, 3 · channels]`, where a row is B, C and x side by side: `out = C · conv(B · x)`, `[n, channels]`, the
/// middle of transformers' `Lfm2ShortConv.forward`. The sequences carry `B · x`.
///
/// # Panics
/// When the shapes do not agree.
pub fn gated_conv(exec: &Exec, conv: &Conv<'_>, sequences: &mut [Carried<'_>], bcx: &[f32], out: &mut [f32]) {
    let channels = conv.channels();
    assert!(channels > 0 && out.len().is_multiple_of(channels), "rows of {channels} channels");
    assert_eq!(bcx.len(), 3 * out.len(), "B, C and x for each output");
    let n = out.len() / channels;
    run(exec, conv, sequences, n, &Gated { bcx, out: SharedMut::new(out), channels });
}

/// Where a convolution's inputs come from and its results go to. `n <= 16` channels from `c` on of row `r` are asked for
/// first and then given, each once, and by one thread.
trait Ports: Sync {
    fn input<S: Simd>(&self, s: S, r: usize, c: usize, n: usize) -> S::V;
    fn output<S: Simd>(&self, s: S, r: usize, c: usize, n: usize, v: S::V);
}

struct InPlace<'a, const SILU: bool> {
    x: SharedMut<'a>,
    channels: usize,
}

impl<const SILU: bool> Ports for InPlace<'_, SILU> {
    #[inline(always)]
    fn input<S: Simd>(&self, s: S, r: usize, c: usize, n: usize) -> S::V {
        let at = r * self.channels + c;
        // SAFETY: no other thread has these channels, and this one lets go of them at once.
        load(s, unsafe { self.x.slice(at..at + n) })
    }
    #[inline(always)]
    fn output<S: Simd>(&self, s: S, r: usize, c: usize, n: usize, v: S::V) {
        let at = r * self.channels + c;
        let v = if SILU { math::silu(s, v) } else { v };
        // SAFETY: as above.
        store(s, unsafe { self.x.slice(at..at + n) }, v);
    }
}

struct Gated<'a> {
    bcx: &'a [f32],
    out: SharedMut<'a>,
    channels: usize,
}

impl Ports for Gated<'_> {
    #[inline(always)]
    fn input<S: Simd>(&self, s: S, r: usize, c: usize, n: usize) -> S::V {
        let b = 3 * r * self.channels + c;
        let x = b + 2 * self.channels;
        s.mul(load(s, &self.bcx[b..b + n]), load(s, &self.bcx[x..x + n]))
    }
    #[inline(always)]
    fn output<S: Simd>(&self, s: S, r: usize, c: usize, n: usize, v: S::V) {
        let gate = (3 * r + 1) * self.channels + c;
        let at = r * self.channels + c;
        let y = s.mul(load(s, &self.bcx[gate..gate + n]), v);
        // SAFETY: no other thread has these channels.
        store(s, unsafe { self.out.slice(at..at + n) }, y);
    }
}

/// The elements of a slice of up to 16; the other lanes are zero.
#[inline(always)]
pub(crate) fn load<S: Simd>(s: S, from: &[f32]) -> S::V {
    assert!(from.len() <= LANES);
    // SAFETY: the slice holds as many elements as are read.
    unsafe { if from.len() == LANES { s.load(from.as_ptr()) } else { s.load_first(from.as_ptr(), from.len()) } }
}

/// The first lanes into a slice of up to 16.
#[inline(always)]
pub(crate) fn store<S: Simd>(s: S, to: &mut [f32], v: S::V) {
    assert!(to.len() <= LANES);
    // SAFETY: the slice holds as many elements as are written.
    unsafe { if to.len() == LANES { s.store(to.as_mut_ptr(), v) } else { s.store_first(to.as_mut_ptr(), v, to.len()) } }
}

fn run(exec: &Exec, conv: &Conv<'_>, sequences: &mut [Carried<'_>], n: usize, ports: &impl Ports) {
    let channels = conv.channels();
    assert!(conv.taps > 0 && conv.weight.len() == channels * conv.taps, "{} taps for each channel", conv.taps);
    assert!(conv.bias.is_none_or(|bias| bias.len() == channels), "a bias for each channel");
    assert!(2 * conv.taps * ITEM.end() <= SCRATCH, "at most {} taps", SCRATCH / ITEM.end() / 2);
    let sequences = checked(sequences, n, conv.state_len());
    let share = channels.div_ceil(2 * exec.threads()).next_multiple_of(LANES);
    let width = share.clamp(*ITEM.start(), *ITEM.end());
    let strips = channels.div_ceil(width);
    let isa = exec.isa();
    exec.run_with_scratch(sequences.len() * strips, &|item, scratch| {
        let first = item % strips * width;
        let columns = first..(first + width).min(channels);
        isa.run(Strip { conv, sequence: &sequences[item / strips], columns, ports, scratch });
    });
}

/// Some channels of a sequence.
struct Strip<'a, P> {
    conv: &'a Conv<'a>,
    sequence: &'a Carried<'a>,
    columns: Range<usize>,
    ports: &'a P,
    scratch: &'a mut [f32],
}

impl<P: Ports> Op for Strip<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Strip { conv, sequence, columns, ports, scratch } = self;
        let (taps, past) = (conv.taps, conv.taps - 1);
        let width = columns.len();
        let padded = width.next_multiple_of(LANES);
        let (bias, scratch) = scratch.split_at_mut(padded);
        let (weight, scratch) = scratch.split_at_mut(taps * padded); // [taps, padded]
        let window = &mut scratch[..past * padded]; // [past, padded]: a ring of the last inputs
        match conv.bias {
            Some(all) => bias[..width].copy_from_slice(&all[columns.clone()]),
            None => bias.fill(0.0),
        }
        let stored = &conv.weight[columns.start * taps..columns.end * taps];
        match taps {
            3 => transpose::<3>(stored, weight, padded),
            4 => transpose::<4>(stored, weight, padded),
            _ => {
                for (c, of_channel) in stored.chunks_exact(taps).enumerate() {
                    of_channel.iter().enumerate().for_each(|(tap, w)| weight[tap * padded + c] = *w);
                }
            }
        }
        let state_at = |i: usize| i * conv.channels() + columns.start..i * conv.channels() + columns.end;
        for i in 0..past {
            // SAFETY: no other item has this sequence's channels.
            window[i * padded..][..width].copy_from_slice(unsafe { sequence.state(state_at(i)) });
        }
        // The slot of the oldest input, which the newest replaces.
        let mut oldest = 0;
        for r in sequence.rows() {
            for c in (0..width).step_by(LANES) {
                let n = (width - c).min(LANES);
                let input = ports.input(s, r, columns.start + c, n);
                let mut sum = load(s, &bias[c..c + LANES]);
                let mut slot = oldest;
                for tap in 0..past {
                    let w = load(s, &weight[tap * padded + c..][..LANES]);
                    sum = s.fma(w, load(s, &window[slot * padded + c..][..LANES]), sum);
                    slot = if slot + 1 == past { 0 } else { slot + 1 };
                }
                sum = s.fma(load(s, &weight[past * padded + c..][..LANES]), input, sum);
                if past > 0 {
                    store(s, &mut window[oldest * padded + c..][..LANES], input);
                }
                ports.output(s, r, columns.start + c, n, sum);
            }
            oldest = if oldest + 1 >= past { 0 } else { oldest + 1 };
        }
        for i in 0..past {
            let slot = (oldest + i) % past;
            // SAFETY: as above.
            unsafe { sequence.state(state_at(i)) }.copy_from_slice(&window[slot * padded..][..width]);
        }
    }
}

/// `[channels, TAPS]` to `[TAPS, width]`: the usual numbers of taps, for which a loop would take longer than the
/// convolution of a single row.
#[inline(always)]
fn transpose<const TAPS: usize>(from: &[f32], to: &mut [f32], width: usize) {
    let (from, _) = from.as_chunks::<TAPS>();
    assert!(from.len() <= width && to.len() == TAPS * width);
    for (c, of_channel) in from.iter().enumerate() {
        for tap in 0..TAPS {
            to[tap * width + c] = of_channel[tap];
        }
    }
}
