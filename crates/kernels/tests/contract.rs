//! The numeric contract: every kernel, on every instruction set, with any number of threads and rows,
//! gives the bits of the naive twin below.

#![allow(clippy::unwrap_used, reason = "a test may stop")]

use std::num::NonZeroUsize;

use half::{bf16, f16};
use proptest::prelude::*;
use rheostat_kernels::{
    Activation, Attention, Columns, Exec, Format, Isa, KV_BLOCK, KvBlock, KvSource, Linear, Matrix, SPAN_ROWS, Span,
    add_assign, attention, gate, linear, rms_norm, rms_norm_in_place, rotate_half, widen,
};

/// Every instruction set of this machine, with one thread and with three.
fn contexts() -> Vec<Exec> {
    let mut all = Vec::new();
    for isa in Isa::available() {
        for threads in [1, 3] {
            all.push(Exec::new(isa, NonZeroUsize::new(threads).unwrap()).unwrap());
        }
    }
    all
}

fn name(exec: &Exec) -> String {
    format!("{} with {} threads", exec.isa().name(), exec.threads())
}

/// A small generator, so that a failing case is one number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let bits = (self.0 >> 33) as u32;
        // Values over several binades, of both signs, zeros among them.
        let v = (bits % 20001) as f32 / 10000.0 - 1.0;
        if bits.is_multiple_of(11) { v * 64.0 } else { v }
    }

    /// Values below 1, of which f64 and f32 think alike.
    fn tame(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next() % 1.0).collect()
    }

    fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

/// The contract's dot product, word for word.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        for (l, lane) in lanes.iter_mut().enumerate() {
            let (a, b) = (a.get(l).copied().unwrap_or(0.0), b.get(l).copied().unwrap_or(0.0));
            *lane = a.mul_add(b, *lane);
        }
    }
    tree(lanes)
}

fn tree(mut lanes: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
    }
    lanes[0]
}

/// Stores `values` in `format`; returns the bytes and what they widen to.
fn store(values: &[f32], format: Format) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = Vec::new();
    let mut exact = Vec::new();
    for &v in values {
        match format {
            Format::F32 => {
                bytes.extend(v.to_le_bytes());
                exact.push(v);
            }
            Format::Bf16 => {
                bytes.extend(bf16::from_f32(v).to_le_bytes());
                exact.push(bf16::from_f32(v).to_f32());
            }
            Format::F16 => {
                bytes.extend(f16::from_f32(v).to_le_bytes());
                exact.push(f16::from_f32(v).to_f32());
            }
        }
    }
    (bytes, exact)
}

#[track_caller]
fn assert_bits(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert_eq!(g.to_bits(), w.to_bits(), "{what}: element {i} is {g:e}, should be {w:e}");
    }
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    n: usize,
    cols: usize,
    rows: usize,
}

fn check_linear(execs: &[Exec], shape: Shape, format: Format, seed: u64) {
    let Shape { n, cols, rows } = shape;
    let mut random = Random(seed);
    let x = random.vec(n * cols);
    let (bytes, w) = store(&random.vec(rows * cols), format);
    let (bytes2, w2) = store(&random.vec(rows.div_ceil(2) * cols), Format::F32);
    let bias = random.vec(rows);
    // Two products in one call: the first with a bias, the second at an odd byte address.
    let rows2 = rows.div_ceil(2);
    let mut shifted = vec![0u8];
    shifted.extend(&bytes2);
    let stride = rows + rows2 + 3;
    let mut want = vec![7.0; n * stride];
    for r in 0..n {
        let x = &x[r * cols..(r + 1) * cols];
        for o in 0..rows {
            want[r * stride + o] = dot(x, &w[o * cols..(o + 1) * cols]) + bias[o];
        }
        for o in 0..rows2 {
            want[r * stride + rows + o] = dot(x, &w2[o * cols..(o + 1) * cols]);
        }
    }
    for exec in execs {
        let mut out = vec![7.0; n * stride];
        linear(
            exec,
            &x,
            n,
            &mut [Linear {
                weight: Matrix::new(&bytes, format, rows, cols),
                bias: Some(&bias),
                out: Columns::new(&mut out, stride, 0),
            }],
        );
        linear(
            exec,
            &x,
            n,
            &mut [Linear {
                weight: Matrix::new(&shifted[1..], Format::F32, rows2, cols),
                bias: None,
                out: Columns::new(&mut out, stride, rows),
            }],
        );
        assert_bits(&out, &want, &format!("{shape:?} {format:?} {}", name(exec)));
    }
}

#[test]
fn linear_over_chosen_shapes() {
    let execs = contexts();
    for format in [Format::F32, Format::Bf16, Format::F16] {
        for (n, cols, rows) in [
            (1, 1, 1),
            (1, 16, 8),
            (1, 17, 9),
            (1, 2048, 33),
            (2, 40, 7),
            (5, 100, 12),
            (6, 64, 4),
            (7, 1031, 66),
            (13, 1024, 5),
            (13, 1040, 130),
            (40, 2100, 21),
        ] {
            check_linear(&execs, Shape { n, cols, rows }, format, (n * cols + rows) as u64);
        }
    }
}

#[test]
fn linear_beyond_the_scratch_buffer() {
    // One weight row is longer than a quarter of the panel's buffer.
    let shape = Shape { n: 8, cols: 70_001, rows: 5 };
    check_linear(&contexts(), shape, Format::Bf16, 5);
}

#[test]
fn several_products_in_one_call() {
    let mut random = Random(3);
    for n in [1, 9] {
        let (cols, sizes) = (72, [5usize, 64, 1, 130]);
        let x = random.vec(n * cols);
        let weights: Vec<_> = sizes.iter().map(|&r| store(&random.vec(r * cols), Format::Bf16)).collect();
        for exec in contexts() {
            let mut outs: Vec<Vec<f32>> = sizes.iter().map(|&r| vec![0.0; n * r]).collect();
            let mut jobs: Vec<_> = weights
                .iter()
                .zip(&mut outs)
                .zip(sizes)
                .map(|(((bytes, _), out), rows)| Linear {
                    weight: Matrix::new(bytes, Format::Bf16, rows, cols),
                    bias: None,
                    out: Columns::new(out, rows, 0),
                })
                .collect();
            linear(&exec, &x, n, &mut jobs);
            drop(jobs);
            for (((_, w), out), rows) in weights.iter().zip(&outs).zip(sizes) {
                let want: Vec<f32> =
                    (0..n * rows).map(|i| dot(&x[i / rows * cols..][..cols], &w[i % rows * cols..][..cols])).collect();
                assert_bits(out, &want, &name(&exec));
            }
        }
    }
}

#[test]
fn widening_is_exact_for_every_16_bit_pattern() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for exec in contexts() {
        let mut got = vec![0.0; 1 << 16];
        widen(&exec, &all, Format::Bf16, &mut got);
        for (bits, g) in (0..=u16::MAX).zip(&got) {
            assert_eq!(g.to_bits(), u32::from(bits) << 16, "bf16 {bits:#06x} on {}", name(&exec));
        }
        widen(&exec, &all, Format::F16, &mut got);
        for (bits, g) in (0..=u16::MAX).zip(&got) {
            let want = f16::from_bits(bits).to_f32();
            assert!(g.to_bits() == want.to_bits() || g.is_nan() && want.is_nan(), "f16 {bits:#06x} on {}", name(&exec));
        }
    }
}

struct Caches(Vec<Vec<KvBlock>>);

impl KvSource for Caches {
    fn blocks(&self, seq: usize) -> &[KvBlock] {
        &self.0[seq]
    }
}

/// Attention of one query row, in f64.
fn attention_in_f64(shape: &Attention, q: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>], pos: usize) -> Vec<f64> {
    let (d, group) = (shape.head_dim, shape.n_heads / shape.n_kv_heads);
    let first = shape.window.map_or(0, |w| (pos + 1).saturating_sub(w));
    let mut out = Vec::new();
    for h in 0..shape.n_heads {
        let kv = h / group * d..(h / group + 1) * d;
        let scores: Vec<f64> = (first..=pos)
            .map(|j| {
                let dot: f64 = q[h * d..(h + 1) * d]
                    .iter()
                    .zip(&keys[j][kv.clone()])
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum();
                dot * f64::from(shape.scale)
            })
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        for c in 0..d {
            let o: f64 =
                scores.iter().zip(first..).map(|(s, j)| (s - max).exp() * f64::from(values[j][kv.start + c])).sum();
            out.push(o / sum);
        }
    }
    out
}

/// Two sequences of different lengths. The rows come whole, in spans of every cut, alone; all bits agree
/// with each other, and the values with f64.
#[test]
fn attention_is_the_same_however_it_is_cut() {
    let cases = [(4, 2, 24, None), (6, 6, 64, Some(5)), (7, 1, 16, Some(130)), (3, 1, 80, None), (2, 2, 128, Some(1))];
    for (n_heads, n_kv_heads, d, window) in cases {
        let shape = Attention { n_heads, n_kv_heads, head_dim: d, scale: 1.0 / (d as f32).sqrt(), window };
        let lengths = [KV_BLOCK * 2 + 37, 19];
        let mut random = Random(d as u64);
        let mut caches = Vec::new();
        let (mut all_q, mut all_k, mut all_v) = (Vec::new(), Vec::new(), Vec::new());
        for len in lengths {
            let q: Vec<Vec<f32>> = (0..len).map(|_| random.tame(n_heads * d)).collect();
            let k: Vec<Vec<f32>> = (0..len).map(|_| random.tame(n_kv_heads * d)).collect();
            let v: Vec<Vec<f32>> = (0..len).map(|_| random.tame(n_kv_heads * d)).collect();
            let mut blocks = vec![KvBlock::new(n_kv_heads, d); len.div_ceil(KV_BLOCK)];
            for (pos, (k, v)) in k.iter().zip(&v).enumerate() {
                blocks[pos / KV_BLOCK].write(pos % KV_BLOCK, d, k, v);
            }
            caches.push(blocks);
            all_q.push(q);
            all_k.push(k);
            all_v.push(v);
        }
        let caches = Caches(caches);
        // The rows of both sequences, one sequence after the other.
        let q: Vec<f32> = all_q.iter().flatten().flatten().copied().collect();
        let mut first: Option<Vec<f32>> = None;
        for exec in contexts() {
            for cut in [1, 3, SPAN_ROWS] {
                let mut spans = Vec::new();
                let mut row = 0;
                for (seq, len) in lengths.into_iter().enumerate() {
                    for pos in (0..len).step_by(cut) {
                        let span = Span { row, len: cut.min(len - pos), seq, pos };
                        row += span.len;
                        spans.push(span);
                    }
                }
                let mut out = vec![f32::NAN; q.len()];
                attention(&exec, &shape, &q, &spans, &caches, &mut out);
                match &first {
                    None => first = Some(out),
                    Some(first) => assert_bits(&out, first, &format!("{shape:?} cut {cut} {}", name(&exec))),
                }
            }
        }
        let got = first.expect("there is an instruction set");
        let mut row = 0;
        for (seq, len) in lengths.into_iter().enumerate() {
            for (pos, q) in all_q[seq].iter().enumerate().take(len) {
                let want = attention_in_f64(&shape, q, &all_k[seq], &all_v[seq], pos);
                for (g, w) in got[row * n_heads * d..].iter().zip(&want) {
                    assert!((f64::from(*g) - w).abs() < 2e-6, "{shape:?} seq {seq} pos {pos}: {g} against {w}");
                }
                row += 1;
            }
        }
    }
}

#[test]
fn rows_do_not_matter_to_norms_activations_and_rotations() {
    for (n, heads, d) in [(1, 1, 16), (3, 2, 24), (40, 3, 50), (700, 2, 64)] {
        let width = heads * d;
        let mut random = Random(width as u64);
        let (x, y, weight) = (random.vec(n * width), random.vec(n * width), random.vec(width));
        let (cos, sin) = (random.vec(n * (d / 2)), random.vec(n * (d / 2)));
        let eps = 1e-5;
        let mut normed = Vec::new();
        let mut rotated = x.clone();
        for r in 0..n {
            let row = &x[r * width..(r + 1) * width];
            let scale = 1.0 / (dot(row, row) / width as f32 + eps).sqrt();
            normed.extend(row.iter().zip(&weight).map(|(x, w)| x * scale * w));
            for h in 0..heads {
                for i in 0..d / 2 {
                    let (a, b) = (r * width + h * d + i, r * width + h * d + d / 2 + i);
                    let (c, s) = (cos[r * (d / 2) + i], sin[r * (d / 2) + i]);
                    (rotated[a], rotated[b]) = (x[a] * c - x[b] * s, x[b] * c + x[a] * s);
                }
            }
        }
        let sums: Vec<f32> = x.iter().zip(&y).map(|(a, b)| a + b).collect();
        let mut gated: Option<Vec<f32>> = None;
        for exec in contexts() {
            let what = format!("[{n}, {heads}, {d}] {}", name(&exec));
            let mut out = vec![0.0; n * width];
            rms_norm(&exec, &x, &weight, eps, &mut out);
            assert_bits(&out, &normed, &what);
            let mut out = x.clone();
            rms_norm_in_place(&exec, &mut out, &weight, eps);
            assert_bits(&out, &normed, &what);
            let mut out = x.clone();
            rotate_half(&exec, &mut out, heads, d, &cos, &sin);
            assert_bits(&out, &rotated, &what);
            let mut out = x.clone();
            add_assign(&exec, &mut out, &y);
            assert_bits(&out, &sums, &what);
            let mut out = x.clone();
            gate(&exec, Activation::Silu, &mut out, &y);
            for ((got, x), y) in out.iter().zip(&x).zip(&y) {
                let want = f64::from(*x) / (1.0 + (-f64::from(*x)).exp()) * f64::from(*y);
                assert!(
                    (f64::from(*got) - want).abs() <= want.abs() * 4e-7 + 1e-30,
                    "silu({x}) · {y} is {got:e}, should be {want:e}"
                );
            }
            match &gated {
                None => gated = Some(out),
                Some(gated) => assert_bits(&out, gated, &what),
            }
        }
    }
}

#[test]
fn silu_at_the_ends() {
    for exec in contexts() {
        let mut x = [f32::NEG_INFINITY, -1e30, -100.0, -88.0, -0.0, 0.0, 88.8, 1e30, f32::INFINITY, f32::NAN];
        gate(&exec, Activation::Silu, &mut x, &[1.0; 10]);
        assert!(x[0].is_nan(), "−∞ / ∞, as torch has it");
        assert!(x[1] == 0.0 && x[2] == 0.0 && x[3].abs() < 1e-36, "{x:?}");
        assert_eq!((x[4], x[5], x[6], x[7], x[8]), (0.0, 0.0, 88.8, 1e30, f32::INFINITY));
        assert!(x[9].is_nan());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn linear_over_random_shapes(
        n in 1usize..20,
        cols in 1usize..300,
        rows in 1usize..90,
        format in prop_oneof![Just(Format::F32), Just(Format::Bf16), Just(Format::F16)],
        seed: u64,
    ) {
        check_linear(&contexts(), Shape { n, cols, rows }, format, seed);
    }
}
