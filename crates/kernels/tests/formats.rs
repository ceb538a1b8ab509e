//! The formats of weights: in each, on every instruction set, with any number of threads and rows, products have the bits
//! of those with the values in f32 that the naive twins below unpack.

#![allow(clippy::unwrap_used, reason = "a test may stop")]

use std::num::NonZeroUsize;

use half::{bf16, f16};
use proptest::prelude::*;
use rheostat_kernels::{
    Affine, Awq, Bits, Columns, Exec, Float, Format, Fp8, Gptq, GptqZeros, Isa, Linear, Matrix, Order, Packed, Part,
    Rounded, Rows, Scales, Tiled, Zeros, linear, valid_order,
};

/// Every instruction set of this machine, with one thread and with three.
fn contexts() -> Vec<Exec> {
    let with = |isa, threads| Exec::new(isa, NonZeroUsize::new(threads).unwrap()).unwrap();
    Isa::available().into_iter().flat_map(|isa| [with(isa, 1), with(isa, 3)]).collect()
}

/// A small generator, so that a failing case is one number.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }

    /// Of both signs, zeros among them.
    fn number(&mut self) -> f32 {
        (self.bits() % 2001) as f32 / 1000.0 - 1.0
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| (self.bits() >> 13) as u8).collect()
    }

    fn words(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| self.bits()).collect()
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

/// The reduced mode's, of pairs the second element first.
fn dot_bf16(a: &[f32], b: &[f32]) -> f32 {
    let flush = |x: f32| if x.is_subnormal() { 0.0f32.copysign(x) } else { x };
    let round = |x: Option<&f32>| x.map_or(0.0, |x| flush(bf16::from_f32(flush(*x)).to_f32()));
    let mut lanes = [0.0f32; 16];
    for (a, b) in a.chunks(32).zip(b.chunks(32)) {
        for (l, lane) in lanes.iter_mut().enumerate() {
            for i in [2 * l + 1, 2 * l] {
                *lane = flush(round(a.get(i)).mul_add(round(b.get(i)), *lane));
            }
        }
    }
    tree(lanes)
}

/// The tiled mode's, even and odd elements of 32 by themselves.
fn dot_tiles(a: &[f32], b: &[f32]) -> f32 {
    let round = |x: Option<&f32>| x.map_or(0.0, |x| bf16::from_f32(*x).to_f32());
    let mut sum = 0.0f32;
    for (a, b) in a.chunks(32).zip(b.chunks(32)) {
        let mut halves = [0.0f32; 2];
        for i in 0..32 {
            halves[i % 2] = round(a.get(i)).mul_add(round(b.get(i)), halves[i % 2]);
        }
        sum += halves[0] + halves[1];
    }
    sum
}

fn tree(mut lanes: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
    }
    lanes[0]
}

/// torch's `float8_e4m3fn`.
fn e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let size = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if bits & 0x80 == 0 { size } else { -size }
}

fn e2m1(bits: u8) -> f32 {
    let values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];
    values[usize::from(bits)]
}

fn e8m0(bits: u8) -> f32 {
    if bits == 255 { f32::NAN } else { (f64::from(bits) - 127.0).exp2() as f32 }
}

/// `n` random scales in `format`, and what they are.
fn scales(random: &mut Random, n: usize, format: Scales) -> (Vec<u8>, Vec<f32>) {
    let (mut stored, mut exact) = (Vec::new(), Vec::new());
    for _ in 0..n {
        let scale = random.number() * 0.037 + 0.001;
        match format {
            Scales::F32 => {
                stored.extend(scale.to_le_bytes());
                exact.push(scale);
            }
            Scales::Bf16 => {
                stored.extend(bf16::from_f32(scale).to_le_bytes());
                exact.push(bf16::from_f32(scale).to_f32());
            }
            Scales::F16 => {
                stored.extend(f16::from_f32(scale).to_le_bytes());
                exact.push(f16::from_f32(scale).to_f32());
            }
            Scales::E8m0 => {
                let byte = 110 + (random.bits() >> 20) as u8 % 20;
                stored.push(byte);
                exact.push(e8m0(byte));
            }
        }
    }
    (stored, exact)
}

fn le_bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The `i`-th integer in words, the first in the lowest bits.
fn field(words: &[u32], i: usize, bits: Bits) -> i64 {
    let width = 32 / bits.per_word();
    i64::from(words[i / bits.per_word()] >> (width * (i % bits.per_word())) & ((1 << width) - 1))
}

/// A stored matrix, and the values of its elements, row by row.
struct Stored {
    format: Format,
    rows: usize,
    cols: usize,
    parts: Vec<Vec<u8>>,
    exact: Vec<f32>,
}

impl Stored {
    fn row(&self, o: usize) -> &[f32] {
        &self.exact[o * self.cols..(o + 1) * self.cols]
    }
}

fn store_floats(random: &mut Random, rows: usize, cols: usize, float: Float) -> (Vec<u8>, Vec<f32>) {
    let (mut stored, mut exact) = (Vec::new(), vec![0.0; rows * cols]);
    for k in 0..cols {
        for o in 0..rows {
            let v = random.number();
            exact[o * cols + k] = match float {
                Float::F32 => {
                    stored.extend(v.to_le_bytes());
                    v
                }
                Float::Bf16 => {
                    stored.extend(bf16::from_f32(v).to_le_bytes());
                    bf16::from_f32(v).to_f32()
                }
                Float::F16 => {
                    stored.extend(f16::from_f32(v).to_le_bytes());
                    f16::from_f32(v).to_f32()
                }
            };
        }
    }
    (stored, exact)
}

/// The group of each column.
fn order(random: &mut Random, cols: usize, group: usize, order: Order) -> Vec<usize> {
    let mut groups: Vec<usize> = (0..cols).map(|k| k / group).collect();
    if order == Order::Stored {
        for k in (1..cols).rev() {
            groups.swap(k, random.bits() as usize % (k + 1));
        }
    }
    groups
}

/// Stores a random matrix in `format`.
fn store(random: &mut Random, rows: usize, cols: usize, format: Format) -> Stored {
    let at = || (0..rows).flat_map(|o| (0..cols).map(move |k| (o, k)));
    let order_bytes = |groups: &[usize]| le_bytes(&groups.iter().map(|g| *g as u32).collect::<Vec<_>>());
    let (parts, exact) = match format {
        Format::Transposed(float) => {
            let (stored, exact) = store_floats(random, rows, cols, float);
            (vec![stored], exact)
        }
        Format::Fp8(fp8) => {
            let mut elements = random.bytes(rows * cols);
            elements.iter_mut().filter(|b| **b & 0x7f == 0x7f).for_each(|b| *b ^= 1);
            let blocks = cols.div_ceil(fp8.block_cols);
            let (stored, scale) = scales(random, rows.div_ceil(fp8.block_rows) * blocks, fp8.scales);
            let of = |o: usize, k: usize| scale[o / fp8.block_rows * blocks + k / fp8.block_cols];
            let exact = at().map(|(o, k)| e4m3(elements[o * cols + k]) * of(o, k)).collect();
            (vec![elements, stored], exact)
        }
        Format::Mxfp4 => {
            let elements = random.bytes(rows * cols / 2);
            let (stored, scale) = scales(random, rows * cols / 32, Scales::E8m0);
            let nibble = |i: usize| elements[i / 2] >> (4 * (i % 2)) & 15;
            let exact = (0..rows * cols).map(|i| e2m1(nibble(i)) * scale[i / 32]).collect();
            (vec![elements, stored], exact)
        }
        Format::Affine(Affine { packed, zeros, order: kind }) => {
            let (bits, groups) = (packed.bits, packed.groups(cols));
            let row = cols.div_ceil(bits.per_word());
            let words = random.words(rows * row);
            let (stored, scale) = scales(random, rows * groups, packed.scales);
            // The words of a group lie below each other.
            let zero_words = random.words(rows.div_ceil(bits.per_word()) * groups);
            let column = |g: usize| zero_words.iter().skip(g).step_by(groups).copied().collect::<Vec<_>>();
            let columns: Vec<_> = (0..groups).map(column).collect();
            let group_of = order(random, cols, packed.group, kind);
            let value = |(o, k): (usize, usize)| {
                let (g, middle) = (group_of[k], 1 << (32 / bits.per_word() - 1));
                let q = field(&words[o * row..(o + 1) * row], k, bits) - middle;
                let zero = if zeros == Zeros::Stored { field(&columns[g], o, bits) - middle } else { 0 };
                (q - zero) as f32 * scale[o * groups + g]
            };
            let exact = at().map(value).collect();
            let mut parts = vec![le_bytes(&words), stored];
            if zeros == Zeros::Stored {
                parts.push(le_bytes(&zero_words));
            }
            if kind == Order::Stored {
                parts.push(order_bytes(&group_of));
            }
            (parts, exact)
        }
        Format::Gptq(gptq) => {
            let (bits, groups, per_word) = (gptq.bits, cols.div_ceil(gptq.group), gptq.bits.per_word());
            let words = random.words(cols / per_word * rows);
            let (stored, scale) = scales(random, groups * rows, gptq.scales);
            let zero_words = random.words(groups * rows / per_word);
            let group_of = order(random, cols, gptq.group, gptq.order);
            let ones = if bits == Bits::Four { 0x1111_1111 } else { 0x0101_0101 };
            let plain: Vec<u32> = match gptq.zeros {
                GptqZeros::Plain => zero_words.clone(),
                GptqZeros::MinusOne => zero_words.iter().map(|w| w.wrapping_add(ones)).collect(),
            };
            let value = |(o, k): (usize, usize)| {
                let g = group_of[k];
                let q = field(&[words[k / per_word * rows + o]], k % per_word, bits);
                (q - field(&plain, g * rows + o, bits)) as f32 * scale[g * rows + o]
            };
            let exact = at().map(value).collect();
            let mut parts = vec![le_bytes(&words), stored, le_bytes(&zero_words)];
            if gptq.order == Order::Stored {
                parts.push(order_bytes(&group_of));
            }
            (parts, exact)
        }
        Format::Awq(awq) => {
            let groups = cols.div_ceil(awq.group);
            let words = random.words(cols * rows / 8);
            let (stored, scale) = scales(random, groups * rows, awq.scales);
            let zero_words = random.words(groups * rows / 8);
            // Where the eight outputs of a word are in it.
            let place = |i: usize| i / 8 * 8 + [0, 4, 1, 5, 2, 6, 3, 7][i % 8];
            let value = |(o, k): (usize, usize)| {
                let g = k / awq.group;
                let q = field(&words, place(k * rows + o), Bits::Four);
                (q - field(&zero_words, place(g * rows + o), Bits::Four)) as f32 * scale[g * rows + o]
            };
            let exact = at().map(value).collect();
            (vec![le_bytes(&words), stored, le_bytes(&zero_words)], exact)
        }
        _ => unreachable!("formats of other tests"),
    };
    Stored { format, rows, cols, parts, exact }
}

fn assert_bits(got: &[f32], want: &[f32], what: &dyn Fn() -> String) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
        assert!(same, "{}: element {i} is {got:e}, not {want:e}", what());
    }
}

/// Products of `n` rows with the whole matrix, in every arithmetic of floats, in every context.
fn check(contexts: &[Exec], random: &mut Random, stored: &Stored, n: usize) {
    let Stored { format, rows, cols, .. } = *stored;
    let x: Vec<f32> = (0..n * cols).map(|_| random.number()).collect();
    let bias: Vec<f32> = (0..rows).map(|_| random.number()).collect();
    let of = |dot: fn(&[f32], &[f32]) -> f32| -> Vec<f32> {
        let at = (0..n).flat_map(|r| (0..rows).map(move |o| (r, o)));
        at.map(|(r, o)| dot(&x[r * cols..(r + 1) * cols], stored.row(o)) + bias[o]).collect()
    };
    let (want, want_bf16, want_tiles) = (of(dot), of(dot_bf16), of(dot_tiles));
    // At no alignment.
    let shifted: Vec<Vec<u8>> = stored.parts.iter().map(|part| [&[0], &part[..]].concat()).collect();
    let parts: Vec<&[u8]> = shifted.iter().map(|part| &part[1..]).collect();
    let weight = Matrix::from_parts(&parts, format, rows, cols);
    for exec in contexts {
        let mut rounded = Rounded::new(Rounded::elements(n, cols));
        rounded.set(exec, &x, n, cols);
        let mut tiled = Tiled::new(Tiled::elements(n, cols));
        tiled.set(exec, &x, n, cols);
        let modes = [
            ("f32", Rows::F32(&x), &want),
            ("bf16", Rows::Bf16(&rounded), &want_bf16),
            ("tiles", Rows::Tiles(&tiled), &want_tiles),
        ];
        for (mode, rows_of_x, want) in modes {
            let mut out = vec![0.0; n * rows];
            let job = Linear { weight, bias: Some(&bias), out: Columns::new(&mut out, rows, 0) };
            linear(exec, rows_of_x, n, &mut [job]);
            let what = || {
                let (isa, threads) = (exec.isa().name(), exec.threads());
                format!("{n} rows by [{rows}, {cols}] of {format:?} in {mode}, {isa} with {threads} threads")
            };
            assert_bits(&out, want, &what);
        }
    }
}

fn fp8(block_rows: usize, block_cols: usize, scales: Scales) -> Format {
    Format::Fp8(Fp8 { block_rows, block_cols, scales })
}

fn affine(bits: Bits, group: usize, zeros: Zeros, order: Order) -> Format {
    Format::Affine(Affine { packed: Packed { bits, group, scales: Scales::Bf16 }, zeros, order })
}

fn gptq(bits: Bits, group: usize, zeros: GptqZeros, order: Order) -> Format {
    Format::Gptq(Gptq { bits, group, scales: Scales::F16, zeros, order })
}

/// Every kind of format, with blocks and groups of several sizes and scales of each type.
fn formats() -> Vec<Format> {
    vec![
        Format::Transposed(Float::F32),
        Format::Transposed(Float::Bf16),
        Format::Transposed(Float::F16),
        fp8(128, 128, Scales::F32),
        fp8(3, 32, Scales::Bf16),
        fp8(1, usize::MAX, Scales::Bf16),
        fp8(1, 32, Scales::E8m0),
        fp8(usize::MAX, usize::MAX, Scales::F32),
        fp8(64, 96, Scales::F16),
        Format::Mxfp4,
        affine(Bits::Four, 32, Zeros::Stored, Order::Sequential),
        affine(Bits::Eight, 64, Zeros::Stored, Order::Sequential),
        affine(Bits::Four, usize::MAX, Zeros::Stored, Order::Sequential),
        affine(Bits::Four, 32, Zeros::Stored, Order::Stored),
        affine(Bits::Eight, 24, Zeros::Absent, Order::Stored),
        affine(Bits::Four, 16, Zeros::Absent, Order::Stored),
        gptq(Bits::Four, 32, GptqZeros::MinusOne, Order::Stored),
        gptq(Bits::Four, 128, GptqZeros::Plain, Order::Sequential),
        gptq(Bits::Eight, 64, GptqZeros::MinusOne, Order::Sequential),
        gptq(Bits::Eight, 40, GptqZeros::Plain, Order::Stored),
        Format::Awq(Awq { group: 32, scales: Scales::F16 }),
        Format::Awq(Awq { group: 1000, scales: Scales::F32 }),
    ]
}

/// The shape made one that the format may have.
fn fitting(format: Format, rows: usize, cols: usize) -> (usize, usize) {
    match format {
        Format::Mxfp4 => (rows, cols.next_multiple_of(32)),
        Format::Gptq(gptq) => {
            let word = gptq.bits.per_word();
            (rows.next_multiple_of(word), cols.next_multiple_of(word))
        }
        Format::Awq(_) => (rows.next_multiple_of(8), cols),
        _ => (rows, cols),
    }
}

#[test]
fn products_have_the_bits_of_the_values_in_f32() {
    let contexts = contexts();
    for format in formats() {
        let mut random = Random(7);
        for (rows, cols) in [(1, 1), (5, 33), (24, 64), (40, 200), (131, 96), (67, 257)] {
            let (rows, cols) = fitting(format, rows, cols);
            let stored = store(&mut random, rows, cols, format);
            for n in [1, 2, 4, 5, 17, 40] {
                check(&contexts, &mut random, &stored, n);
            }
        }
    }
}

/// Panels of few rows, and sums of few outputs.
#[test]
fn long_rows_and_many_outputs() {
    let contexts = contexts();
    for format in formats() {
        let mut random = Random(11);
        for (rows, cols) in [(8, 20_032), (2200, 64)] {
            let stored = store(&mut random, rows, cols, format);
            for n in [1, 7] {
                check(&contexts, &mut random, &stored, n);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_shape(seed: u64, format in 0..formats().len(), rows in 1usize..90, cols in 1usize..400, n in 1usize..41) {
        let format = formats()[format];
        let (rows, cols) = fitting(format, rows, cols);
        let mut random = Random(seed);
        let stored = store(&mut random, rows, cols, format);
        check(&contexts(), &mut random, &stored, n);
    }
}

/// Cut after any multiple of all steps, the parts are those of matrices that together give the products of the whole.
#[test]
fn pieces_of_a_matrix_are_matrices() {
    let exec = Exec::new(Isa::detect(), NonZeroUsize::new(2).unwrap()).unwrap();
    for format in formats().into_iter().filter(|f| f.divisible()) {
        let mut random = Random(3);
        let (rows, cols) = fitting(format, 300, 160);
        let stored = store(&mut random, rows, cols, format);
        let x: Vec<f32> = (0..2 * cols).map(|_| random.number()).collect();
        let parts = format.parts(rows, cols);
        let step = parts.iter().map(|part| if let Part::Rows { step, .. } = part { *step } else { 1 }).max().unwrap();
        let mut out = vec![0.0; 2 * rows];
        for first in (0..rows).step_by(step * 2) {
            let count = (rows - first).min(step * 2);
            let piece: Vec<&[u8]> = stored
                .parts
                .iter()
                .zip(parts)
                .map(|(bytes, part)| match part {
                    Part::Rows { step, bytes: each } => {
                        let start = first / step * each;
                        &bytes[start..start + count.div_ceil(step) * each]
                    }
                    Part::Whole(_) => bytes,
                })
                .collect();
            let weight = Matrix::from_parts(&piece, format, count, cols);
            let job = Linear { weight, bias: None, out: Columns::new(&mut out, rows, first) };
            linear(&exec, Rows::F32(&x), 2, &mut [job]);
        }
        let at = (0..2).flat_map(|r| (0..rows).map(move |o| (r, o)));
        let want: Vec<f32> = at.map(|(r, o)| dot(&x[r * cols..(r + 1) * cols], stored.row(o))).collect();
        assert_bits(&out, &want, &|| format!("pieces of {format:?}"));
    }
}

/// The values of a matrix of 16 columns or more, one by one, on every instruction set and both ways.
fn values(weight: Matrix<'_>) -> Vec<(String, Vec<f32>)> {
    let (rows, cols) = (weight.rows(), weight.cols());
    let mut all = Vec::new();
    for isa in Isa::available() {
        let exec = Exec::new(isa, NonZeroUsize::new(1).unwrap()).unwrap();
        let mut unit = vec![0.0; cols * cols];
        unit.iter_mut().step_by(cols + 1).for_each(|x| *x = 1.0);
        for step in [1, cols] {
            // One by one: straight from where they lie. All at once: by way of a panel.
            let mut by_column = vec![0.0; cols * rows];
            for (x, out) in unit.chunks(step * cols).zip(by_column.chunks_mut(step * rows)) {
                let job = Linear { weight, bias: None, out: Columns::new(out, rows, 0) };
                linear(&exec, Rows::F32(x), step, &mut [job]);
            }
            let at = (0..rows).flat_map(|o| (0..cols).map(move |k| (o, k)));
            let found = at.map(|(o, k)| by_column[k * rows + o]).collect();
            all.push((format!("{} {step} at once", isa.name()), found));
        }
    }
    all
}

#[test]
fn every_8_bit_number() {
    for scale in [1.0f32, -0.3, 2f32.powi(-120), 2f32.powi(-140), 2f32.powi(122), f32::MIN_POSITIVE] {
        // What is no number, or infinite, would be no number in every column.
        let finite = |b: u8| if (e4m3(b) * scale).is_finite() { b } else { b & 0x83 };
        let numbers: Vec<u8> = (0..=255).map(finite).collect();
        let format = fp8(usize::MAX, usize::MAX, Scales::F32);
        let scale_bytes = scale.to_le_bytes();
        let want: Vec<f32> = numbers.iter().map(|b| e4m3(*b) * scale).collect();
        for (how, found) in values(Matrix::new(&numbers, &scale_bytes, format, 4, 64)) {
            for ((bits, got), want) in numbers.iter().zip(found).zip(&want) {
                assert_eq!(got, *want, "{bits:#x} times {scale:e} with {how}");
            }
        }
    }
    for none in [0x7f, 0xff] {
        let found = values(Matrix::new(&[none; 64], &1f32.to_le_bytes(), fp8(8, 64, Scales::F32), 1, 64));
        assert!(found.iter().all(|(_, values)| values.iter().all(|v| v.is_nan())));
    }
}

#[test]
fn every_4_bit_number_at_every_scale() {
    let numbers: Vec<u8> = (0..16).map(|i| (2 * i % 16) | (2 * i % 16 + 1) << 4).collect();
    let elements: Vec<u8> = numbers.iter().copied().cycle().take(256 * 16).collect();
    let scales: Vec<u8> = (0..=255).collect();
    let want: Vec<f32> = (0..256 * 32).map(|i| e2m1((i % 16) as u8) * e8m0((i / 32) as u8)).collect();
    for (how, found) in values(Matrix::new(&elements, &scales, Format::Mxfp4, 256, 32)) {
        // The largest scales leave the range.
        for (i, (got, want)) in found.iter().zip(&want).enumerate().filter(|(i, _)| *i < 252 * 32) {
            assert_eq!(got, want, "{} times 2^({} - 127) with {how}", e2m1((i % 16) as u8), i / 32);
        }
        assert!(found[255 * 32..].iter().all(|v| v.is_nan()), "{how}");
    }
}

#[test]
fn shapes_that_are_not_known_are_told_from_others() {
    assert!(Format::Mxfp4.fits(3, 64) && !Format::Mxfp4.fits(3, 48));
    assert!(fp8(128, 128, Scales::F32).fits(100, 300) && !fp8(128, 48, Scales::F32).fits(100, 300));
    assert!(!fp8(0, 32, Scales::F32).fits(1, 32));
    assert!(!affine(Bits::Four, 24, Zeros::Stored, Order::Sequential).fits(8, 96));
    assert!(!gptq(Bits::Four, 32, GptqZeros::Plain, Order::Stored).fits(12, 64));
    assert!(!gptq(Bits::Four, 0, GptqZeros::Plain, Order::Stored).fits(16, 64));
    assert!(!Format::Awq(Awq { group: 32, scales: Scales::F16 }).fits(12, 64));
    for format in formats() {
        assert!(format.fits(8, 65_536), "{format:?}");
        assert_eq!(format.takes_integers(), None);
        assert_eq!(matches!(format.parts(8, 64)[0], Part::Rows { step: 1, .. }), format.divisible());
    }
}

#[test]
fn groups_that_do_not_exist_are_found() {
    let order = |groups: &[i32]| groups.iter().flat_map(|g| g.to_le_bytes()).collect::<Vec<_>>();
    assert!(valid_order(&order(&[0, 1, 2, 1]), 3));
    assert!(!valid_order(&order(&[0, 1, 3, 1]), 3));
    assert!(!valid_order(&order(&[0, -1]), 3));
}
