//! What the tests of several kernels share.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;

use rheostat_kernels::{Carried, Exec, Isa};

/// Every instruction set of this machine, with one thread and with three.
pub(crate) fn contexts() -> Vec<Exec> {
    let mut all = Vec::new();
    for isa in Isa::available() {
        for threads in [1, 3] {
            all.push(Exec::new(isa, NonZeroUsize::new(threads).unwrap()).unwrap());
        }
    }
    all
}

pub(crate) fn name(exec: &Exec) -> String {
    format!("{} with {} threads", exec.isa().name(), exec.threads())
}

/// A small generator, which tools/kernel_reference.py has too.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Between -1 and 1.
    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as u32 % 20001) as f32 / 10000.0 - 1.0
    }

    pub(crate) fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

#[track_caller]
pub(crate) fn assert_bits(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(g.to_bits() == w.to_bits(), "{what}: element {i} is {g:e}, should be {w:e}");
    }
}

/// That all are within `most` of each other, or within that share of the wanted value if it is above 1.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: impl IntoIterator<Item = f64>, most: f64, what: &str) {
    let mut wanted = 0;
    for (g, w) in got.iter().zip(want) {
        assert!(
            (f64::from(*g) - w).abs() <= most * w.abs().max(1.0),
            "{what}: element {wanted} is {g:e}, should be {w:e}"
        );
        wanted += 1;
    }
    assert_eq!(got.len(), wanted, "{what}");
}

pub(crate) fn wide(x: &[f32]) -> impl Iterator<Item = f64> + '_ {
    x.iter().map(|x| f64::from(*x))
}

/// `e^x` of the kernels, word for word.
pub(crate) fn exp(x: f32) -> f32 {
    const LOW: f32 = -87.336_54;
    const HIGH: f32 = 88.722_83;
    if x < LOW {
        return 0.0;
    }
    if x > HIGH || x.is_nan() {
        return x + f32::INFINITY;
    }
    let n = x.mul_add(std::f32::consts::LOG2_E, 12_582_912.0);
    let k = n - 12_582_912.0;
    let r = k.mul_add(-0.693_359_4, x);
    let r = k.mul_add(2.121_944_4e-4, r);
    let coefficients = [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5];
    let p = coefficients.iter().fold(1.987_569_1e-4_f32, |p, c| p.mul_add(r, *c));
    let p = p.mul_add(r * r, r + 1.0);
    f32::from_bits(p.to_bits().wrapping_add(n.to_bits() << 23))
}

/// Sixteen lanes by fused multiply-add and their tree: the contract's dot product, word for word.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        for (l, lane) in lanes.iter_mut().enumerate() {
            let (a, b) = (a.get(l).copied().unwrap_or(0.0), b.get(l).copied().unwrap_or(0.0));
            *lane = a.mul_add(b, *lane);
        }
    }
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
    }
    lanes[0]
}

/// Numbers by name: of each line of `tests/data/FILE`, the first word is the name.
pub(crate) fn golden(file: &str) -> HashMap<String, Vec<f32>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, numbers) = line.split_once(' ').unwrap();
            (name.to_owned(), numbers.split(' ').map(|x| x.parse().unwrap()).collect())
        })
        .collect()
}

/// Rows of some width, sequence after sequence.
#[derive(Clone, Copy)]
pub(crate) struct Of<'a>(pub(crate) &'a [f32], pub(crate) usize);

/// Gives sequences of these `lengths` to `kernel(sequences, inputs, out)` in passes of at most `cut` rows of each. In each pass a
/// row of no sequence precedes those of every sequence: what is in it must not matter, and its output must stay. The
/// outputs, `width` of each row, come back sequence after sequence.
pub(crate) fn in_passes(
    lengths: &[usize],
    cut: usize,
    states: &mut [Vec<f32>],
    inputs: &[Of<'_>],
    width: usize,
    mut kernel: impl FnMut(&mut [Carried<'_>], &[Vec<f32>], &mut [f32]),
) -> Vec<f32> {
    let mut all: Vec<Vec<f32>> = vec![Vec::new(); lengths.len()];
    for from in (0..*lengths.iter().max().unwrap()).step_by(cut) {
        let mut pass: Vec<Vec<f32>> = vec![Vec::new(); inputs.len()];
        let mut sequences = Vec::new();
        let (mut rows, mut base) = (0, 0);
        for (len, state) in lengths.iter().zip(states.iter_mut()) {
            let (first, last) = (from.min(*len), (from + cut).min(*len));
            for (Of(input, width), pass) in inputs.iter().zip(&mut pass) {
                pass.extend(std::iter::repeat_n(f32::NAN, *width));
                pass.extend(&input[(base + first) * width..(base + last) * width]);
            }
            sequences.push(Carried::new(rows + 1..rows + 1 + last - first, state));
            rows += 1 + last - first;
            base += len;
        }
        let mut out = vec![77.0; rows * width];
        kernel(&mut sequences, &pass, &mut out);
        let mut row = 0;
        for (len, all) in lengths.iter().zip(&mut all) {
            assert!(out[row * width..(row + 1) * width].iter().all(|x| *x == 77.0), "a row of no sequence");
            let n = (from + cut).min(*len) - from.min(*len);
            all.extend(&out[(row + 1) * width..(row + 1 + n) * width]);
            row += 1 + n;
        }
    }
    all.concat()
}
