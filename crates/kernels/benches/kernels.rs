//! The kernels one by one, on all cores and the widest instruction set, in shapes of a model of 1.7 billion
//! parameters. Throughput is in bytes of weights or cache where reading them is the limit, else in operations.
//!
//! `cargo bench -p rheostat-kernels`
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may stop")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rheostat_kernels::{
    Affine, AfterConv, Attention, Awq, Bits, Buffer, Carried, Columns, Conv, DeltaRule, Exec, Float, Format, Fp8, Gptq,
    GptqZeros, Isa, KV_BLOCK, KvBlock, KvFormat, KvSource, Linear, Matrix, Norm, NormKind, Normalise, Order, Packed,
    Quantized, Rounded, Router, Rows, SPAN_ROWS, Scales, Scores, Span, Tiled, Zeros, attention, causal_conv,
    delta_rule, linear, norm, route,
};

const HIDDEN: usize = 2048;
const INNER: usize = 6144;
/// Every byte of a weight: a small number in each format. (Zeroed memory would be one page, read from cache.)
const FILL: u8 = 0x3c;

/// As many numbers, in memory of their own: zeroes would all be one page, which some caches know by one address at a time.
fn numbers(len: usize) -> Buffer {
    let mut buffer = Buffer::new(len);
    buffer.fill(0.5);
    buffer
}

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
        (1, packed(Bits::Eight), "int8"),
        (1, packed(Bits::Four), "int8"),
        (1, Format::Bf16, "tiles"),
        (1, packed(Bits::Four), "tiles"),
        (4, Format::Bf16, "f32"),
        (16, Format::Bf16, "f32"),
        (512, Format::Bf16, "f32"),
        (512, fp8, "f32"),
        (512, Format::Mxfp4, "f32"),
        (512, Format::Transposed(Float::Bf16), "f32"),
        (512, gptq, "f32"),
        (512, Format::Bf16, "bf16"),
        (512, packed(Bits::Four), "bf16"),
        (512, packed(Bits::Eight), "int8"),
        (512, packed(Bits::Four), "int8"),
        (512, Format::Bf16, "tiles"),
        (512, packed(Bits::Four), "tiles"),
    ] {
        let [elements, others @ ..] = format.parts(INNER, HIDDEN).map(|part| part.len(INNER).unwrap());
        let others = others.map(|bytes| vec![FILL; bytes]);
        let matrices: Vec<Vec<u8>> = (0..(1 << 30) / elements).map(|_| vec![FILL; elements]).collect();
        let x = numbers(n * HIDDEN);
        let mut rounded = Rounded::new(Rounded::elements(n, HIDDEN));
        rounded.set(&exec, &x, n, HIDDEN);
        let mut tiled = Tiled::new(Tiled::elements(n, HIDDEN));
        tiled.set(&exec, &x, n, HIDDEN);
        let mut quantized = Quantized::new(Quantized::elements(n, HIDDEN));
        quantized.set(&exec, &x, n, HIDDEN, format.takes_integers().unwrap_or(Bits::Eight));
        let rows = match compute {
            "f32" => Rows::F32(&x),
            "int8" => Rows::Int8(&quantized),
            "bf16" => Rows::Bf16(&rounded),
            _ => Rows::Tiles(&tiled),
        };
        let mut out = numbers(n * INNER);
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
        let block = |_| {
            let mut block = KvBlock::new(KvFormat::F32, 8, 128, 128);
            for part in block.parts_mut() {
                part.fill(FILL);
            }
            block
        };
        let cache = Cache((0..(depth + n).div_ceil(KV_BLOCK)).map(block).collect());
        let q = numbers(n * 16 * 128);
        let mut out = numbers(n * 16 * 128);
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
        let x = numbers(n * HIDDEN);
        let weight = numbers(HIDDEN);
        let mut out = numbers(n * HIDDEN);
        let rms = Norm { kind: NormKind::Rms, weight: Some(&weight), bias: None, width: HIDDEN, eps: 1e-6 };
        group.throughput(Throughput::Elements((n * HIDDEN) as u64));
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            b.iter(|| norm(&exec, &rms, 1, &x, &mut out));
        });
    }
    group.finish();
}

/// The parts of a gated delta net, in shapes of Qwen3-Next. States come from memory, as they do in a model of many layers.
fn linear_attention(c: &mut Criterion) {
    let exec = exec();
    let mut group = c.benchmark_group("linear attention");
    let rule = DeltaRule { k_heads: 16, v_heads: 32, k_dim: 128, v_dim: 128, scale: 0.088 };
    let mut states: Vec<Vec<f32>> = vec![vec![0.01; rule.state_len()]; 128];
    for n in [1, 512] {
        let qkv = vec![0.05; n * rule.width()];
        let (g, beta) = (vec![-0.1; n * rule.v_heads], vec![0.5; n * rule.v_heads]);
        let mut out = vec![0.0; n * rule.v_heads * rule.v_dim];
        let mut layer = 0;
        group.throughput(if n == 1 {
            Throughput::Bytes(2 * 4 * rule.state_len() as u64)
        } else {
            Throughput::Elements((n * rule.state_len()) as u64)
        });
        group.bench_function(BenchmarkId::new("delta_rule", n), |b| {
            b.iter(|| {
                layer = (layer + 1) % states.len();
                let sequences = &mut [Carried::new(0..n, &mut states[layer])];
                delta_rule(&exec, &rule, &qkv, &g, &beta, sequences, &mut out);
            });
        });
        let weight = vec![0.1; rule.width() * 4];
        let conv = Conv { weight: &weight, bias: None, taps: 4 };
        let (mut state, mut x) = (vec![0.1; conv.state_len()], qkv.clone());
        group.throughput(Throughput::Elements(x.len() as u64));
        group.bench_function(BenchmarkId::new("causal_conv", n), |b| {
            b.iter(|| causal_conv(&exec, &conv, AfterConv::Silu, &mut [Carried::new(0..n, &mut state)], &mut x));
        });
    }
    group.finish();
}

fn routers(c: &mut Criterion) {
    let exec = exec();
    let mut group = c.benchmark_group("route");
    let (n_experts, top_k) = (512, 10);
    let router = Router {
        n_experts,
        top_k,
        scores: Scores::Softmax,
        bias: None,
        groups: None,
        normalise: Normalise::Sum { plus: 0.0 },
        scaling: 1.0,
    };
    for n in [1, 512] {
        let logits: Vec<f32> = (0..n * n_experts).map(|i| (i * 7919 % 1009) as f32 / 250.0).collect();
        let (mut experts, mut weights) = (vec![0; n * top_k], vec![0.0; n * top_k]);
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            b.iter(|| route(&exec, &router, &logits, &mut experts, &mut weights));
        });
    }
    group.finish();
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(20);
    targets = products, attentions, norms, linear_attention, routers
}
criterion_main!(kernels);
