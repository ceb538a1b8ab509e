//! The numeric contract: every kernel, on every instruction set, with any number of threads and rows,
//! gives the bits of its naive twin. Matrix products are in this file, everything else in the modules beside it.

#![allow(clippy::unwrap_used, reason = "a test may stop")]

use std::num::NonZeroUsize;

use half::{bf16, f16};
use proptest::prelude::*;
use rheostat_kernels::{
    Bits, Columns, Exec, Format, Isa, Linear, Matrix, Packed, Quantized, Rounded, Rows, Scales, Tiled, linear, widen,
};

mod attention;
mod elementwise;
mod norms;

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

/// The reduced mode's dot product, word for word: pairs of bf16, of each the second element first.
fn dot_bf16(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for (a, b) in a.chunks(32).zip(b.chunks(32)) {
        for (l, lane) in lanes.iter_mut().enumerate() {
            for i in [2 * l + 1, 2 * l] {
                *lane = fma_or_zero(round(a.get(i)), round(b.get(i)), *lane);
            }
        }
    }
    tree(lanes)
}

/// The tiled mode's dot product, word for word: steps of 32 elements, of each the even and the odd ones by themselves.
fn dot_tiles(a: &[f32], b: &[f32]) -> f32 {
    let mut sum = 0.0f32;
    for (a, b) in a.chunks(32).zip(b.chunks(32)) {
        let mut halves = [0.0f32; 2];
        for i in 0..32 {
            halves[i % 2] = fma_or_zero(round(a.get(i)), round(b.get(i)), halves[i % 2]);
        }
        sum = flush(sum + flush(halves[0] + halves[1]));
    }
    sum
}

fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// To bf16; nothing, beyond a row's end, is zero.
fn round(x: Option<&f32>) -> f32 {
    x.map_or(0.0, |x| flush(bf16::from_f32(flush(*x)).to_f32()))
}

/// By fused multiply-add; zero where the sum, rounded to 24 bits, is smaller than the normal numbers are.
fn fma_or_zero(a: f32, b: f32, c: f32) -> f32 {
    let raise = 2.0f32.powi(64);
    let sum = a.mul_add(b, c);
    if sum.abs() < 1.0 && (a * raise).mul_add(b, c * raise).abs() < f32::MIN_POSITIVE * raise {
        return 0.0f32.copysign(sum);
    }
    sum
}

/// The integer mode's dot product, word for word: `q` are a weight row's integers, `scale` the scale of each.
fn dot_int8(x: &[f32], q: &[i32], scale: &[f32]) -> f32 {
    let mut sum = 0.0f32;
    for ((x, q), scale) in x.chunks(32).zip(q.chunks(32)).zip(scale.chunks(32)) {
        let largest = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let finite = x.iter().all(|x| x.is_finite());
        let (factor, d) = if largest < 2.0f32.powi(-118) { (0.0, 0.0) } else { (127.0 / largest, largest / 127.0) };
        let d = if finite { d } else { f32::NAN };
        let products: i32 = x.iter().zip(q).map(|(x, q)| (x * factor).round_ties_even() as i32 * q).sum();
        sum = (products as f32).mul_add(d * scale[0], sum);
    }
    sum
}

/// A stored matrix, and what it widens to.
struct Stored {
    format: Format,
    rows: usize,
    cols: usize,
    elements: Vec<u8>,
    scales: Vec<u8>,
    exact: Vec<f32>,
    /// Of packed elements, the integers and their scales.
    integers: Vec<i32>,
    scale_of: Vec<f32>,
}

impl Stored {
    fn matrix(&self) -> Matrix<'_> {
        Matrix::new(&self.elements, &self.scales, self.format, self.rows, self.cols)
    }

    fn row(&self, o: usize) -> &[f32] {
        &self.exact[o * self.cols..(o + 1) * self.cols]
    }
}

/// Stores `rows * cols` random values in `format`.
fn store(random: &mut Random, rows: usize, cols: usize, format: Format) -> Stored {
    let (mut elements, mut scales, mut exact) = (Vec::new(), Vec::new(), Vec::new());
    let (mut integers, mut scale_of) = (Vec::new(), Vec::new());
    for _ in 0..rows {
        match format {
            Format::F32 => {
                for v in random.vec(cols) {
                    elements.extend(v.to_le_bytes());
                    exact.push(v);
                }
            }
            Format::Bf16 => {
                for v in random.vec(cols).into_iter().map(bf16::from_f32) {
                    elements.extend(v.to_le_bytes());
                    exact.push(v.to_f32());
                }
            }
            Format::F16 => {
                for v in random.vec(cols).into_iter().map(f16::from_f32) {
                    elements.extend(v.to_le_bytes());
                    exact.push(v.to_f32());
                }
            }
            Format::Packed(Packed { bits, group, scales: kind }) => {
                let row: Vec<f32> = (0..cols.div_ceil(group))
                    .map(|_| {
                        let scale = random.next() * 0.037 + 0.001;
                        match kind {
                            Scales::F32 => {
                                scales.extend(scale.to_le_bytes());
                                scale
                            }
                            Scales::Bf16 => {
                                scales.extend(bf16::from_f32(scale).to_le_bytes());
                                bf16::from_f32(scale).to_f32()
                            }
                            Scales::F16 => {
                                scales.extend(f16::from_f32(scale).to_le_bytes());
                                f16::from_f32(scale).to_f32()
                            }
                            Scales::E8m0 => unreachable!("scales of other formats"),
                        }
                    })
                    .collect();
                let (width, half) = match bits {
                    Bits::Four => (4, 8i32),
                    Bits::Eight => (8, 128),
                };
                let mut words = vec![0u32; cols.div_ceil(bits.per_word())];
                for (k, v) in random.vec(cols).into_iter().enumerate() {
                    let stored = (v * 977.0) as i32 & (2 * half - 1);
                    words[k / bits.per_word()] |= (stored as u32) << (width * (k % bits.per_word()));
                    exact.push((stored - half) as f32 * row[k / group]);
                    integers.push(stored - half);
                    scale_of.push(row[k / group]);
                }
                elements.extend(words.iter().flat_map(|w| w.to_le_bytes()));
            }
            _ => unreachable!("the formats of `formats.rs`"),
        }
    }
    Stored { format, rows, cols, elements, scales, exact, integers, scale_of }
}

/// Every kind of format, with groups of each size and scales of each type.
fn formats() -> Vec<Format> {
    let packed = |bits, group, scales| Format::Packed(Packed { bits, group, scales });
    vec![
        Format::F32,
        Format::Bf16,
        Format::F16,
        packed(Bits::Four, 32, Scales::Bf16),
        packed(Bits::Four, 96, Scales::F32),
        packed(Bits::Four, 128, Scales::F16),
        packed(Bits::Four, 1 << 20, Scales::F32),
        packed(Bits::Eight, 64, Scales::Bf16),
        packed(Bits::Eight, 128, Scales::F16),
        packed(Bits::Eight, 1 << 20, Scales::F32),
    ]
}

#[track_caller]
fn assert_bits(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert_eq!(g.to_bits(), w.to_bits(), "{what}: element {i} is {g:e}, should be {w:e}");
    }
}

type Dot = fn(&[f32], &[f32]) -> f32;

/// Rows of x in each form that is rounded to bf16.
struct Prepared(Rounded, Tiled);

impl Prepared {
    fn new(exec: &Exec, x: &[f32], n: usize, cols: usize) -> Prepared {
        let mut rounded = Rounded::new(Rounded::elements(n, cols));
        rounded.set(exec, x, n, cols);
        let mut tiled = Tiled::new(Tiled::elements(n, cols));
        tiled.set(exec, x, n, cols);
        Prepared(rounded, tiled)
    }

    fn rows<'a>(&'a self, mode: &str, x: &'a [f32]) -> Rows<'a> {
        match mode {
            "f32" => Rows::F32(x),
            "bf16" => Rows::Bf16(&self.0),
            _ => Rows::Tiles(&self.1),
        }
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
    // Two products: the first with a bias, the second at an odd byte address.
    let rows2 = rows.div_ceil(2);
    let first = store(&mut random, rows, cols, format);
    let second = store(&mut random, rows2, cols, Format::F32);
    let bias = random.vec(rows);
    let mut shifted = vec![0u8];
    shifted.extend(&second.elements);
    let stride = rows + rows2 + 3;
    for (mode, dot) in [("f32", dot as Dot), ("bf16", dot_bf16), ("tiles", dot_tiles)] {
        let mut want = vec![7.0; n * stride];
        for r in 0..n {
            let x = &x[r * cols..(r + 1) * cols];
            for o in 0..rows {
                want[r * stride + o] = dot(x, first.row(o)) + bias[o];
            }
            for o in 0..rows2 {
                want[r * stride + rows + o] = dot(x, second.row(o));
            }
        }
        for exec in execs {
            let prepared = Prepared::new(exec, &x, n, cols);
            let x = prepared.rows(mode, &x);
            let mut out = vec![7.0; n * stride];
            let weight = first.matrix();
            linear(exec, x, n, &mut [Linear { weight, bias: Some(&bias), out: Columns::new(&mut out, stride, 0) }]);
            let weight = Matrix::new(&shifted[1..], &[], Format::F32, rows2, cols);
            linear(exec, x, n, &mut [Linear { weight, bias: None, out: Columns::new(&mut out, stride, rows) }]);
            assert_bits(&out, &want, &format!("{shape:?} {format:?} in {mode} {}", name(exec)));
        }
    }
}

/// As [`check_linear`], in integers. `spoil` puts something else into a row of x.
fn check_integers(execs: &[Exec], shape: Shape, format: Format, seed: u64, spoil: impl Fn(&mut [f32])) {
    let Shape { n, cols, rows } = shape;
    let Format::Packed(Packed { bits, .. }) = format else { panic!("packed weights") };
    let mut random = Random(seed);
    let mut x = random.vec(n * cols);
    spoil(&mut x[(n - 1) * cols..]);
    let weight = store(&mut random, rows, cols, format);
    let bias = random.vec(rows);
    let mut want = Vec::new();
    for x in x.chunks(cols) {
        for (o, bias) in bias.iter().enumerate() {
            let range = o * cols..(o + 1) * cols;
            want.push(dot_int8(x, &weight.integers[range.clone()], &weight.scale_of[range]) + bias);
        }
    }
    for exec in execs {
        let mut quantized = Quantized::new(Quantized::elements(n, cols));
        quantized.set(exec, &x, n, cols, bits);
        let mut out = vec![7.0; n * rows];
        let job = Linear { weight: weight.matrix(), bias: Some(&bias), out: Columns::new(&mut out, rows, 0) };
        linear(exec, Rows::Int8(&quantized), n, &mut [job]);
        let (out, want): (Vec<_>, Vec<_>) = out.iter().zip(&want).filter(|(o, w)| !(o.is_nan() && w.is_nan())).unzip();
        assert_bits(&out, &want, &format!("{shape:?} {format:?} in integers {}", name(exec)));
    }
}

#[test]
fn linear_in_integers() {
    let execs = contexts();
    for format in formats().into_iter().filter(|f| matches!(f, Format::Packed(_))) {
        for (n, cols, rows) in [
            (1, 1, 1),
            (1, 64, 8),
            (1, 129, 9),
            (1, 2048, 33),
            (2, 40, 7),
            (3, 96, 12),
            (4, 100, 5),
            (6, 200, 21),
            (13, 1024, 130),
            (40, 2100, 21),
            (700, 3000, 3),
            // More scales in a strip than there is room for.
            (1, 70_000, 50),
            (5, 70_000, 50),
            (6, 300_000, 9),
        ] {
            check_integers(&execs, Shape { n, cols, rows }, format, (n * cols + rows) as u64, |_| ());
        }
    }
}

type Spoil<'a> = &'a dyn Fn(&mut [f32]);

#[test]
fn the_integer_mode_at_the_ends_of_the_range() {
    let execs = contexts();
    for format in formats().into_iter().filter(|f| matches!(f, Format::Packed(_))) {
        let shape = Shape { n: 2, cols: 300, rows: 9 };
        let spoils: [Spoil; 7] = [
            &|x| x.fill(0.0),
            &|x| x.iter_mut().for_each(|x| *x *= 2.0f32.powi(-124)),
            &|x| x.iter_mut().for_each(|x| *x *= 2.0f32.powi(-140)),
            &|x| x.iter_mut().for_each(|x| *x *= 2.0f32.powi(100)),
            &|x| x[70] = f32::INFINITY,
            &|x| x[299] = f32::NAN,
            &|x| {
                x.iter_mut()
                    .enumerate()
                    .for_each(|(i, x)| *x = (i % 32) as f32 + if i % 32 == 0 { 63.5 } else { -0.5 });
            },
        ];
        for (i, spoil) in spoils.into_iter().enumerate() {
            check_integers(&execs, shape, format, i as u64, spoil);
        }
    }
}

#[test]
fn linear_over_chosen_shapes() {
    let execs = contexts();
    for format in formats() {
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
            // Several blocks of a row, and several of rows of x.
            (7, 6500, 9),
            (35, 6500, 9),
            (170, 6400, 5),
        ] {
            check_linear(&execs, Shape { n, cols, rows }, format, (n * cols + rows) as u64);
        }
    }
}

#[test]
fn linear_beyond_the_scratch_buffer() {
    // One weight row is longer than a quarter of the panel's buffer; three rows fit it, but few rows of x at a time.
    for (n, cols) in [(18, 140_001), (29, 70_001)] {
        check_linear(&contexts(), Shape { n, cols, rows: 5 }, Format::F32, 5);
    }
}

/// Subnormal numbers, as factors, sums and results, and values that round up to them or to infinity.
#[test]
fn the_reduced_modes_at_the_ends_of_the_range() {
    let tiny = f32::MIN_POSITIVE;
    let ends = [
        0.0,
        -0.0,
        tiny,
        -tiny,
        tiny.next_down(),
        -tiny.next_down(),
        tiny / 3.0,
        -tiny / 128.0,
        f32::from_bits(1),
        1.0,
        -1.0,
        0.75,
        1e-20,
        -1e-20,
        3e-19,
        1e-30,
        1.003_906_2,
        3.0e38,
        f32::MAX,
        1.003_906_3,
    ];
    let cols = 64;
    let execs = contexts();
    for seed in 0..200u64 {
        let mut random = Random(seed);
        let mut pick = |n: usize| -> Vec<f32> {
            (0..n).map(|_| ends[(random.next().to_bits() >> 7) as usize % ends.len()]).collect()
        };
        let (x, w) = (pick(cols), pick(8 * cols));
        check_reduced(&execs, &x, &w, &format!("seed {seed}"));
    }
}

/// One row of x against rows of weights, in both reduced modes.
fn check_reduced(execs: &[Exec], x: &[f32], w: &[f32], what: &str) {
    let (cols, rows) = (x.len(), w.len() / x.len());
    let w: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
    let bytes: Vec<u8> = w.iter().flat_map(|w| w.to_le_bytes()).collect();
    let w: Vec<f32> = w.iter().map(|w| w.to_f32()).collect();
    for (mode, dot) in [("bf16", dot_bf16 as Dot), ("tiles", dot_tiles)] {
        let want: Vec<f32> = w.chunks(cols).map(|w| dot(x, w)).collect();
        for exec in execs {
            let prepared = Prepared::new(exec, x, 1, cols);
            let mut out = vec![7.0; rows];
            let weight = Matrix::new(&bytes, &[], Format::Bf16, rows, cols);
            let job = Linear { weight, bias: None, out: Columns::new(&mut out, rows, 0) };
            linear(exec, prepared.rows(mode, x), 1, &mut [job]);
            for (o, (g, w)) in out.iter().zip(&want).enumerate() {
                let same = g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan();
                assert!(same, "{what} in {mode}, row {o} is {g:e}, should be {w:e} on {}", name(exec));
            }
        }
    }
}

/// A sum that is not the smallest normal number, but would be rounded to it if it were written as a subnormal one.
#[test]
fn sums_just_below_the_smallest_normal_number() {
    let execs = contexts();
    let tiny = f32::MIN_POSITIVE;
    let less = 2.0f32.powi(-75);
    let parts = [0.25f32, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0];
    for sign in [1.0, -1.0] {
        let mut x = vec![0.0; 64];
        // In either mode one of the two others comes after the first.
        x[1] = sign;
        (x[0], x[3]) = (-sign * less, -sign * less);
        let weights = parts.map(|part| {
            let mut w = vec![0.0; 64];
            (w[1], w[0], w[3]) = (tiny, part * less, part * less);
            w
        });
        check_reduced(&execs, &x, &weights.concat(), "just below");
        let want: Vec<bool> = weights.iter().map(|w| dot_tiles(&x, w) == 0.0).collect();
        assert_eq!(want, [false, false, true, true, true, true, true, true]);
    }
}

#[test]
fn several_products_in_one_call() {
    let mut random = Random(3);
    for n in [1, 9, 40] {
        let (cols, sizes) = (72, [5usize, 64, 1, 130]);
        let x = random.vec(n * cols);
        let weights: Vec<_> = sizes.iter().map(|&rows| store(&mut random, rows, cols, Format::Bf16)).collect();
        for exec in contexts() {
            let mut outs: Vec<Vec<f32>> = sizes.iter().map(|&r| vec![0.0; n * r]).collect();
            let mut jobs: Vec<_> = weights
                .iter()
                .zip(&mut outs)
                .map(|(w, out)| Linear { weight: w.matrix(), bias: None, out: Columns::new(out, w.rows, 0) })
                .collect();
            linear(&exec, Rows::F32(&x), n, &mut jobs);
            drop(jobs);
            for (w, out) in weights.iter().zip(&outs) {
                let want: Vec<f32> =
                    (0..n * w.rows).map(|i| dot(&x[i / w.rows * cols..][..cols], w.row(i % w.rows))).collect();
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn linear_over_random_shapes(
        n in 1usize..60,
        cols in 1usize..300,
        rows in 1usize..90,
        format in proptest::sample::select(formats()),
        seed: u64,
    ) {
        check_linear(&contexts(), Shape { n, cols, rows }, format, seed);
    }
}
