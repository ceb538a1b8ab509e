//! The kernels one by one, on all cores and the widest instruction set, in shapes of a model of 1.7 billion
//! parameters. Throughput is in bytes of weights or cache where reading them is the limit, else in operations.
//!
//! `cargo bench -p rheostat-kernels`
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may stop")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rheostat_kernels::{
    Affine, Attention, Awq, Bits, Buffer, Columns, Exec, Float, Format, Fp8, Gptq, GptqZeros, Isa, KV_BLOCK, KvBlock,
    KvFormat, KvSource, Linear, Matrix, Norm, NormKind, Order, Packed, Rounded, Rows, SPAN_ROWS, Scales, Span, Zeros,
    attention, linear, norm,
};

const HIDDEN: usize = 2048;
const INNER: usize = 6144;
/// Every byte of a weight: a small number in each format. (Zeroed memory would be one page, read from cache.)
const FILL: u8 = 0x3c;

fn exec() -> Exec {
    Exec::new(Isa::detect(), std::thread::available_parallelism().unwrap()).unwrap()
}

fn name(format: Format) -> &'static str {
    match format {
        Format::F32 => "f32",
        Format::Bf16 => "bf16",
        Format::F16 => "f16",
        Format::Packed(packed) => match packed.bits {
            Bits::Four => "int4",
            Bits::Eight => "int8",
        },
        Format::Transposed(_) => "transposed",
        Format::Fp8(_) => "fp8",
        Format::Mxfp4 => "mxfp4",
        Format::Affine(_) => "affine",
        Format::Gptq(_) => "gptq",
        Format::Awq(_) => "awq",
    }
}

/// One product of `n` rows after another, over more weights than the caches hold.
fn products(c: &mut Criterion) {
    let exec = exec();
    let mut group = c.benchmark_group("linear");
    let packed = |bits| Format::Packed(Packed { bits, group: 128, scales: Scales::Bf16 });
    let four_bits = Packed { bits: Bits::Four, group: 128, scales: Scales::Bf16 };
    let affine = Affine { packed: four_bits, zeros: Zeros::Stored, order: Order::Sequential };
    let (scales, order) = (Scales::F16, Order::Stored);
    let gptq = Format::Gptq(Gptq { bits: Bits::Four, group: 128, scales, zeros: GptqZeros::MinusOne, order });
    let fp8 = Format::Fp8(Fp8 { block_rows: 128, block_cols: 128, scales: Scales::F32 });
    for (n, format, compute) in [
        (1, Format::F32, "f32"),
        (1, Format::Bf16, "f32"),
        (1, Format::F16, "f32"),
        (1, packed(Bits::Eight), "f32"),
        (1, packed(Bits::Four), "f32"),
        (1, fp8, "f32"),
        (1, Format::Mxfp4, "f32"),
        (1, Format::Affine(affine), "f32"),
        (1, Format::Transposed(Float::Bf16), "f32"),
        (1, gptq, "f32"),
        (1, Format::Awq(Awq { group: 128, scales }), "f32"),
        (1, Format::Bf16, "bf16"),
        (1, packed(Bits::Four), "bf16"),
        (4, Format::Bf16, "f32"),
        (16, Format::Bf16, "f32"),
        (512, Format::Bf16, "f32"),
        (512, fp8, "f32"),
        (512, Format::Mxfp4, "f32"),
        (512, Format::Transposed(Float::Bf16), "f32"),
        (512, gptq, "f32"),
        (512, Format::Bf16, "bf16"),
        (512, packed(Bits::Four), "bf16"),
    ] {
        let [elements, others @ ..] = format.parts(INNER, HIDDEN).map(|part| part.len(INNER).unwrap());
        let others = others.map(|bytes| vec![FILL; bytes]);
        let matrices: Vec<Vec<u8>> = (0..(1 << 30) / elements).map(|_| vec![FILL; elements]).collect();
        let x = Buffer::new(n * HIDDEN);
        let mut rounded = Rounded::new(Rounded::elements(n, HIDDEN));
        rounded.set(&exec, &x, n, HIDDEN);
        let rows = if compute == "f32" { Rows::F32(&x) } else { Rows::Bf16(&rounded) };
        let mut out = Buffer::new(n * INNER);
        let mut next = matrices.iter().cycle();
        group.throughput(if n == 1 {
            Throughput::Bytes(elements as u64)
        } else {
            Throughput::Elements((2 * n * INNER * HIDDEN) as u64)
        });
        group.bench_function(BenchmarkId::new(format!("{} in {compute}", name(format)), n), |b| {
            b.iter(|| {
                let [scales, zeros, order] = &others;
                let weight = Matrix::from_parts(&[next.next().unwrap(), scales, zeros, order], format, INNER, HIDDEN);
                linear(&exec, rows, n, &mut [Linear { weight, bias: None, out: Columns::new(&mut out, INNER, 0) }]);
            });
        });
    }
    group.finish();
}

struct Cache(Vec<KvBlock>);

impl KvSource for Cache {
    fn blocks(&self, _seq: usize) -> &[KvBlock] {
        &self.0
    }
}

fn attentions(c: &mut Criterion) {
    let exec = exec();
    let shape = Attention {
        n_heads: 16,
        n_kv_heads: 8,
        head_dim: 128,
        value_dim: 128,
        scale: 0.088,
        window: None,
        softcap: None,
        sinks: None,
    };
    let mut group = c.benchmark_group("attention");
    for (depth, n) in [(4096_usize, 1_usize), (32_768, 1), (0, 512)] {
        let cache =
            Cache((0..(depth + n).div_ceil(KV_BLOCK)).map(|_| KvBlock::new(KvFormat::F32, 8, 128, 128)).collect());
        let q = Buffer::new(n * 16 * 128);
        let mut out = Buffer::new(n * 16 * 128);
        let span = |row: usize| Span { row, len: SPAN_ROWS.min(n - row), seq: 0, pos: depth + row };
        let spans: Vec<Span> = (0..n).step_by(SPAN_ROWS).map(span).collect();
        group.throughput(if n == 1 {
            Throughput::Bytes((depth * 2 * 8 * 128 * 4) as u64)
        } else {
            Throughput::Elements((2 * n * n * 16 * 128) as u64)
        });
        group.bench_function(BenchmarkId::new(format!("after {depth}"), n), |b| {
            b.iter(|| attention(&exec, &shape, &q, &spans, &cache, &mut out));
        });
    }
    group.finish();
}

fn norms(c: &mut Criterion) {
    let exec = exec();
    let mut group = c.benchmark_group("rms_norm");
    for n in [1, 512] {
        let x = Buffer::new(n * HIDDEN);
        let weight = Buffer::new(HIDDEN);
        let mut out = Buffer::new(n * HIDDEN);
        let rms = Norm { kind: NormKind::Rms, weight: Some(&weight), bias: None, width: HIDDEN, eps: 1e-6 };
        group.throughput(Throughput::Elements((n * HIDDEN) as u64));
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            b.iter(|| norm(&exec, &rms, 1, &x, &mut out));
        });
    }
    group.finish();
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(20);
    targets = products, attentions, norms
}
criterion_main!(kernels);
