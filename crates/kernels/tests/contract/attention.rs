//! Attention, and the cache that it reads.

use half::bf16;
use rheostat_kernels::{
    Attention, Exec, Gathering, KV_BLOCK, KvBlock, KvFormat, KvSource, SPAN_ROWS, Span, attention, soft_cap,
};

use super::{Random, assert_bits, contexts, name, tree};

struct Caches(Vec<Vec<KvBlock>>);

impl KvSource for Caches {
    fn blocks(&self, seq: usize) -> &[KvBlock] {
        &self.0[seq]
    }
}

/// Attention of one query row, in f64.
fn in_f64(shape: &Attention<'_>, q: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>], pos: usize) -> Vec<f64> {
    let (d, value_dim) = (shape.head_dim, shape.value_dim);
    let first = shape.window.map_or(0, |w| (pos + 1).saturating_sub(w));
    let mut out = Vec::new();
    for h in 0..shape.n_heads {
        let kv_head = h / (shape.n_heads / shape.n_kv_heads);
        let q = &q[h * d..(h + 1) * d];
        let score = |key: &Vec<f32>| {
            let key = &key[kv_head * d..(kv_head + 1) * d];
            let dot: f64 = q.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let score = dot * f64::from(shape.scale);
            shape.softcap.map_or(score, |cap| (score / f64::from(cap)).tanh() * f64::from(cap))
        };
        let scores: Vec<f64> = keys[first..=pos].iter().map(score).collect();
        let sink = shape.sinks.map_or(f64::NEG_INFINITY, |sinks| f64::from(sinks[h]));
        let max = scores.iter().copied().fold(sink, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum::<f64>() + (sink - max).exp();
        for c in kv_head * value_dim..(kv_head + 1) * value_dim {
            let values = values[first..=pos].iter().map(|v| f64::from(v[c]));
            out.push(scores.iter().zip(values).map(|(s, v)| (s - max).exp() * v).sum::<f64>() / sum);
        }
    }
    out
}

/// The contract's `e^x`, word for word.
fn exp(x: f32) -> f32 {
    if x < -87.336_54 {
        return 0.0;
    }
    let k = x.mul_add(std::f32::consts::LOG2_E, 12_582_912.0) - 12_582_912.0;
    let r = k.mul_add(2.121_944_4e-4, k.mul_add(-0.693_359_4, x));
    let p = [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5f32];
    let p = p.into_iter().fold(1.987_569_1e-4_f32, |p, c| p.mul_add(r, c));
    p.mul_add(r * r, r + 1.0) * k.exp2()
}

/// Attention of one query row, word for word.
fn naive(
    exec: &Exec,
    shape: &Attention<'_>,
    q: &[f32],
    keys: &[Vec<f32>],
    values: &[Vec<f32>],
    pos: usize,
) -> Vec<f32> {
    let (d, value_dim) = (shape.head_dim, shape.value_dim);
    let first = shape.window.map_or(0, |w| (pos + 1).saturating_sub(w));
    let mut out = Vec::new();
    for h in 0..shape.n_heads {
        let kv_head = h / (shape.n_heads / shape.n_kv_heads);
        let q = &q[h * d..(h + 1) * d];
        let (mut max, mut sum, mut total) = (f32::NEG_INFINITY, 0.0, vec![0.0f32; value_dim]);
        for b in first / KV_BLOCK..=pos / KV_BLOCK {
            let seen = first.max(b * KV_BLOCK)..(pos + 1).min((b + 1) * KV_BLOCK);
            let score = |j: usize| {
                let key = &keys[j][kv_head * d..(kv_head + 1) * d];
                let terms = q.chunks(8).zip(key.chunks(8));
                let sums = terms.map(|(q, key)| q.iter().zip(key).fold(0.0, |sum, (q, k)| q.mul_add(*k, sum)));
                sums.fold(0.0, |all, sum: f32| all + sum) * shape.scale
            };
            let mut scores: Vec<f32> = seen.clone().map(score).collect();
            if let Some(cap) = shape.softcap {
                soft_cap(exec, &mut scores, cap);
            }
            let own_max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let (mut lanes, mut own) = ([0.0f32; 16], vec![0.0f32; value_dim]);
            for (j, score) in seen.zip(&scores) {
                let weight = exp(score - own_max);
                lanes[j % 16] += weight;
                let value = &values[j][kv_head * value_dim..(kv_head + 1) * value_dim];
                own.iter_mut().zip(value).for_each(|(o, v)| *o = weight.mul_add(*v, *o));
            }
            let own_sum = tree(lanes);
            if max == f32::NEG_INFINITY {
                (max, sum, total) = (own_max, own_sum, own);
            } else {
                let top = max.max(own_max);
                let (before, now) = (exp(max - top), exp(own_max - top));
                sum = own_sum * now + sum * before;
                total.iter_mut().zip(&own).for_each(|(t, o)| *t = o.mul_add(now, *t * before));
                max = top;
            }
        }
        let (mut factor, mut by) = (1.0, sum);
        if let Some(sinks) = shape.sinks {
            let top = max.max(sinks[h]);
            factor = exp(max - top);
            by = sum * factor + exp(sinks[h] - top);
        }
        out.extend(total.iter().map(|x| x * factor / by));
    }
    out
}

/// Queries, keys and values of a sequence, row by row, as the cache keeps them.
struct Rows {
    q: Vec<Vec<f32>>,
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
}

impl Rows {
    /// `len` random rows, and the blocks that they are written to.
    fn new(random: &mut Random, shape: &Attention<'_>, format: KvFormat, len: usize) -> (Rows, Vec<KvBlock>) {
        let (heads, d, value_dim) = (shape.n_kv_heads, shape.head_dim, shape.value_dim);
        let mut rows = |width: usize| -> Vec<Vec<f32>> { (0..len).map(|_| random.tame(width)).collect() };
        let (q, k, v) = (rows(shape.n_heads * d), rows(heads * d), rows(heads * value_dim));
        let block = || KvBlock::new(format, heads, d, value_dim);
        let mut blocks: Vec<_> = std::iter::repeat_with(block).take(len.div_ceil(KV_BLOCK)).collect();
        // In pieces of all sizes, on one thread and on several.
        let mut pos = 0;
        for (exec, piece) in contexts().iter().cycle().zip([1, 3, 40, 16, 117, 14].into_iter().cycle()) {
            let n = piece.min(len - pos).min(KV_BLOCK - pos % KV_BLOCK);
            if n == 0 {
                break;
            }
            let (keys, values) = (k[pos..pos + n].concat(), v[pos..pos + n].concat());
            blocks[pos / KV_BLOCK].write(exec, pos % KV_BLOCK, &keys, &values);
            pos += n;
        }
        for (pos, (key, value)) in k.iter().zip(&v).enumerate() {
            let bytes = |row: &[f32]| -> Vec<u8> {
                match format {
                    KvFormat::F32 => row.iter().flat_map(|x| x.to_le_bytes()).collect(),
                    KvFormat::Bf16 => row.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
                }
            };
            let (block, slot) = (&blocks[pos / KV_BLOCK], pos % KV_BLOCK);
            let mut row = vec![0; key.len() * format.bytes()];
            block.copy_keys(heads, d, slot..slot + 1, &mut row);
            assert_eq!(row, bytes(key), "the key at {pos}");
            let mut row = vec![0; value.len() * format.bytes()];
            block.copy_values(heads, value_dim, slot..slot + 1, &mut row);
            assert_eq!(row, bytes(value), "the value at {pos}");
        }
        let kept = |x: f32| if format == KvFormat::F32 { x } else { bf16::from_f32(x).to_f32() };
        let keep = |rows: Vec<Vec<f32>>| rows.into_iter().map(|r| r.into_iter().map(kept).collect()).collect();
        (Rows { q, k: keep(k), v: keep(v) }, blocks)
    }
}

/// The same, block after block, from another place. `out` holds the rows of the sequence and of those before it.
fn gather(exec: &Exec, shape: &Attention<'_>, q: &[f32], spans: &[Span], blocks: &[KvBlock], out: &mut [f32]) {
    let n = out.len() / (shape.n_heads * shape.value_dim);
    let mut state = vec![f32::NAN; 2 * shape.n_heads * n];
    let mut gathering = Gathering::new(&mut state, out, shape, spans[0].row..n);
    for (i, block) in blocks.iter().enumerate() {
        let (heads, d, value_dim) = (shape.n_kv_heads, shape.head_dim, shape.value_dim);
        let lens = KvBlock::part_lens(block_format(block, heads, d), heads, d, value_dim);
        assert_eq!(block.parts().map(<[u8]>::len), lens);
        let shapes = std::iter::repeat_n((heads, d, value_dim), 2);
        let mut elsewhere: Vec<_> = KvBlock::side_by_side(block_format(block, heads, d), shapes).collect();
        for (from, to) in block.parts().into_iter().zip(elsewhere[i % 2].parts_mut()) {
            to.copy_from_slice(from);
        }
        gathering.over(exec, shape, q, spans, i, std::slice::from_ref(&elsewhere[i % 2]));
    }
    gathering.finish(shape);
}

fn block_format(block: &KvBlock, n_kv_heads: usize, d: usize) -> KvFormat {
    if block.parts()[0].len() == n_kv_heads * KV_BLOCK * d * 4 { KvFormat::F32 } else { KvFormat::Bf16 }
}

/// Two sequences of different lengths. The rows come whole, in spans of every cut, alone, and block by block; all have
/// the bits of the naive twin, and values near those in f64.
fn check(shape: &Attention<'_>, format: KvFormat, lengths: [usize; 2]) {
    let (n_heads, d, value_dim) = (shape.n_heads, shape.head_dim, shape.value_dim);
    let mut random = Random(d as u64);
    let (rows, blocks): (Vec<_>, Vec<_>) =
        lengths.into_iter().map(|len| Rows::new(&mut random, shape, format, len)).unzip();
    let caches = Caches(blocks);
    let contexts = contexts();
    let mut want = Vec::new();
    for (seq, Rows { q, k, v }) in rows.iter().enumerate() {
        for (pos, q) in q.iter().enumerate() {
            let row = naive(&contexts[0], shape, q, k, v, pos);
            for (got, want) in row.iter().zip(in_f64(shape, q, k, v, pos)) {
                assert!((f64::from(*got) - want).abs() < 2e-6, "{shape:?} seq {seq} pos {pos}: {got} against {want}");
            }
            want.extend(row);
        }
    }
    // The rows of both sequences, one sequence after the other.
    let q: Vec<f32> = rows.iter().flat_map(|rows| rows.q.concat()).collect();
    for exec in &contexts {
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
            let mut out = vec![f32::NAN; want.len()];
            attention(exec, shape, &q, &spans, &caches, &mut out);
            let what = format!("{shape:?} {format:?} cut {cut} {}", name(exec));
            assert_bits(&out, &want, &what);
            if cut == 1 {
                continue;
            }
            for (seq, rows) in [(0, 0..lengths[0]), (1, lengths[0]..lengths[0] + lengths[1])] {
                let spans: Vec<_> = spans.iter().filter(|span| span.seq == seq).copied().collect();
                let mut out = vec![f32::NAN; rows.end * n_heads * value_dim];
                gather(exec, shape, &q[..rows.end * n_heads * d], &spans, &caches.0[seq], &mut out);
                let elements = rows.start * n_heads * value_dim..rows.end * n_heads * value_dim;
                assert_bits(&out[elements.clone()], &want[elements], &format!("{what}, block by block"));
            }
        }
    }
}

fn plain(n_heads: usize, n_kv_heads: usize, head_dim: usize, window: Option<usize>) -> Attention<'static> {
    let scale = 1.0 / (head_dim as f32).sqrt();
    Attention { n_heads, n_kv_heads, head_dim, value_dim: head_dim, scale, window, softcap: None, sinks: None }
}

const FORMATS: [KvFormat; 2] = [KvFormat::F32, KvFormat::Bf16];

#[test]
fn attention_is_the_same_however_it_is_cut() {
    for format in FORMATS {
        for shape in [
            plain(4, 2, 24, None),
            plain(6, 6, 64, Some(5)),
            plain(7, 1, 16, Some(530)),
            plain(5, 1, 16, Some(130)),
            plain(3, 1, 80, None),
            plain(2, 2, 128, Some(1)),
        ] {
            check(&shape, format, [KV_BLOCK + 165, 19]);
        }
    }
}

#[test]
fn values_have_a_size_of_their_own() {
    for format in FORMATS {
        for (n_heads, n_kv_heads, head_dim, value_dim, len) in
            [(4, 2, 24, 16, KV_BLOCK + 20), (2, 1, 3, 40, KV_BLOCK + 5), (3, 3, 1, 1, 40), (5, 1, 17, 15, 90)]
        {
            let shape = Attention { value_dim, ..plain(n_heads, n_kv_heads, head_dim, None) };
            check(&shape, format, [len, 7]);
        }
    }
}

/// Multi-head latent attention: all heads read one key and its first elements. And the widest heads there are.
#[test]
fn heads_may_be_wide() {
    for (n_heads, n_kv_heads, head_dim, value_dim, len) in
        [(2, 1, 576, 512, KV_BLOCK + 3), (100, 1, 576, 512, 3), (2, 1, 640, 512, 70), (2, 2, 192, 128, 60)]
    {
        // Few keys, but of both blocks.
        let shape = Attention { value_dim, ..plain(n_heads, n_kv_heads, head_dim, Some(40)) };
        check(&shape, KvFormat::F32, [len, 2]);
    }
}

/// Sinks beside which keys are nothing, sinks beside keys that are nothing, and those of a usual size; capped scores, with
/// caps that hardly show and that flatten everything.
#[test]
fn sinks_and_caps() {
    let sinks = [0.3, -2.0, 150.0, -300.0, 5.0, -0.7];
    for (sinks, softcap, window, format) in [
        (Some(&sinks[..]), None, None, KvFormat::F32),
        (None, Some(2.0), Some(530), KvFormat::Bf16),
        (None, Some(50.0), None, KvFormat::F32),
        (Some(&sinks[..]), Some(0.05), Some(9), KvFormat::Bf16),
    ] {
        let shape = Attention { sinks, softcap, value_dim: 24, ..plain(6, 2, 32, window) };
        check(&shape, format, [KV_BLOCK + 40, 19]);
    }
}
