//! Short convolutions and the gated delta rule: on every instruction set, with any number of threads, cut into passes
//! anywhere, they give the bits of the naive twins below, and come close to what transformers and f64 say.

#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod support;

use rheostat_kernels::{
    AfterConv, Carried, Conv, DeltaRule, causal_conv, delta_gates, delta_rule, gated_conv, l2_norm,
};
use support::{Of, Random, assert_bits, assert_close, contexts, dot, exp, golden, in_passes, name, wide};

/// Rows of each sequence in a pass: some of them, or all.
const CUTS: [usize; 4] = [1, 3, 16, usize::MAX];

/// The convolution of a sequence's rows that follow those in `state`, word for word, and the state after them.
fn conv_twin(conv: &Conv<'_>, state: &mut Vec<f32>, x: &[f32]) -> Vec<f32> {
    let channels = conv.channels();
    let all = [state.as_slice(), x].concat();
    let mut out = Vec::new();
    for row in 0..x.len() / channels {
        for c in 0..channels {
            let bias = conv.bias.map_or(0.0, |bias| bias[c]);
            let tap =
                |sum: f32, tap: usize| conv.weight[c * conv.taps + tap].mul_add(all[(row + tap) * channels + c], sum);
            out.push((0..conv.taps).fold(bias, tap));
        }
    }
    *state = all[all.len() - state.len()..].to_vec();
    out
}

fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[test]
fn convolutions_are_their_twins() {
    let lengths = [5, 0, 21, 1];
    for (channels, taps) in [(1, 1), (16, 2), (40, 3), (300, 4), (130, 7)] {
        let mut random = Random((channels * taps) as u64);
        let rows: usize = lengths.iter().sum();
        let (weight, bias) = (random.vec(channels * taps), random.vec(channels));
        let (x, bcx) = (random.vec(rows * channels), random.vec(rows * 3 * channels));
        for bias in [None, Some(bias.as_slice())] {
            let conv = Conv { weight: &weight, bias, taps };
            let begin: Vec<Vec<f32>> = lengths.iter().map(|_| random.vec(conv.state_len())).collect();
            let products: Vec<f32> = bcx
                .chunks(3 * channels)
                .flat_map(|row| (0..channels).map(|c| row[c] * row[2 * channels + c]))
                .collect();
            // Sequence after sequence, of x and of the products.
            let (mut ends, mut gated_ends) = (begin.clone(), begin.clone());
            let (mut plain, mut gated) = (Vec::new(), Vec::new());
            let mut row = 0;
            for (s, len) in lengths.iter().enumerate() {
                let part = row * channels..(row + len) * channels;
                plain.extend(conv_twin(&conv, &mut ends[s], &x[part.clone()]));
                gated.extend(conv_twin(&conv, &mut gated_ends[s], &products[part]));
                row += len;
            }
            let gate = bcx.chunks(3 * channels).flat_map(|row| &row[channels..2 * channels]);
            let gated: Vec<f32> = gated.iter().zip(gate).map(|(y, c)| c * y).collect();
            let silus: Vec<f32> = plain.iter().map(|x| silu(*x)).collect();
            for exec in contexts() {
                for cut in CUTS.map(|cut| cut.min(21)) {
                    let what = format!("{channels} channels, {taps} taps, cut {cut}, {}", name(&exec));
                    for (after, want) in [(AfterConv::Nothing, &plain), (AfterConv::Silu, &silus)] {
                        let mut states = begin.clone();
                        let inputs = [Of(&x, channels)];
                        let got = in_passes(&lengths, cut, &mut states, &inputs, channels, |sequences, pass, out| {
                            // In place; rows of no sequence stay.
                            for (out, x) in out.iter_mut().zip(&pass[0]) {
                                *out = if x.is_nan() { *out } else { *x };
                            }
                            causal_conv(&exec, &conv, after, sequences, out);
                        });
                        assert_bits(&got, want, &format!("{what}, {after:?}"));
                        assert_bits(&states.concat(), &ends.concat(), &format!("{what}: state"));
                    }
                    let mut states = begin.clone();
                    let inputs = [Of(&bcx, 3 * channels)];
                    let got = in_passes(&lengths, cut, &mut states, &inputs, channels, |sequences, pass, out| {
                        gated_conv(&exec, &conv, sequences, &pass[0], out);
                    });
                    assert_bits(&got, &gated, &format!("{what}, gated"));
                    assert_bits(&states.concat(), &gated_ends.concat(), &format!("{what}, gated: state"));
                }
            }
        }
    }
}

/// q, k and v side by side, and the gates, of the rows of all sequences.
struct Rows {
    qkv: Vec<f32>,
    g: Vec<f32>,
    beta: Vec<f32>,
}

impl Rows {
    /// With keys of length 1, decays of every size, and some of one and of zero.
    fn random(random: &mut Random, rule: &DeltaRule, n: usize) -> Rows {
        let mut qkv = random.vec(n * rule.width());
        for row in qkv.chunks_mut(rule.width()) {
            for head in row[..2 * rule.k_heads * rule.k_dim].chunks_mut(rule.k_dim) {
                let length = head.iter().map(|x| x * x).sum::<f32>().sqrt() + 1e-6;
                head.iter_mut().for_each(|x| *x /= length);
            }
        }
        let mut g: Vec<f32> = (0..n * rule.v_heads).map(|_| -random.next().powi(4) * 5.0).collect();
        for (i, g) in g.iter_mut().enumerate() {
            match i % 17 {
                3 => *g = 0.0,
                9 => *g = -100.0,
                _ => {}
            }
        }
        let beta = (0..n * rule.v_heads).map(|_| random.next().abs()).collect();
        Rows { qkv, g, beta }
    }
}

/// The order that delta.rs states, word for word: `[rows, v_heads, v_dim]`.
fn delta_twin(rule: &DeltaRule, rows: &Rows, of: std::ops::Range<usize>, state: &mut [f32]) -> Vec<f32> {
    let &DeltaRule { k_heads, v_heads, k_dim, v_dim, scale } = rule;
    let mut out = Vec::new();
    for r in of {
        let row = &rows.qkv[r * rule.width()..(r + 1) * rule.width()];
        for h in 0..v_heads {
            let k_head = h / (v_heads / k_heads);
            let (q, k) = (&row[k_head * k_dim..][..k_dim], &row[(k_heads + k_head) * k_dim..][..k_dim]);
            let (decay, beta) = (exp(rows.g[r * v_heads + h]), rows.beta[r * v_heads + h]);
            for j in 0..v_dim {
                let v = row[2 * k_heads * k_dim + h * v_dim + j];
                let column = |i: usize| (h * k_dim + i) * v_dim + j;
                (0..k_dim).for_each(|i| state[column(i)] *= decay);
                let sum_k = (0..k_dim).fold(0.0, |sum, i| state[column(i)].mul_add(k[i], sum));
                let sum_q = (0..k_dim).fold(0.0, |sum, i| state[column(i)].mul_add(q[i], sum));
                let d = (v - sum_k) * beta;
                out.push(dot(q, k).mul_add(d, sum_q) * scale);
                (0..k_dim).for_each(|i| state[column(i)] = k[i].mul_add(d, state[column(i)]));
            }
        }
    }
    out
}

/// The recurrence as it is written in transformers, in f64.
fn delta_in_f64(rule: &DeltaRule, rows: &Rows, of: std::ops::Range<usize>, state: &mut [f64]) -> Vec<f64> {
    let &DeltaRule { k_heads, v_heads, k_dim, v_dim, scale } = rule;
    let mut out = Vec::new();
    for r in of {
        let row: Vec<f64> = wide(&rows.qkv[r * rule.width()..(r + 1) * rule.width()]).collect();
        for h in 0..v_heads {
            let k_head = h / (v_heads / k_heads);
            let (q, k) = (&row[k_head * k_dim..][..k_dim], &row[(k_heads + k_head) * k_dim..][..k_dim]);
            let state = &mut state[h * k_dim * v_dim..(h + 1) * k_dim * v_dim];
            let decay = f64::from(rows.g[r * v_heads + h]).exp();
            state.iter_mut().for_each(|x| *x *= decay);
            for j in 0..v_dim {
                let v = row[2 * k_heads * k_dim + h * v_dim + j];
                let memory: f64 = (0..k_dim).map(|i| state[i * v_dim + j] * k[i]).sum();
                let d = (v - memory) * f64::from(rows.beta[r * v_heads + h]);
                (0..k_dim).for_each(|i| state[i * v_dim + j] += k[i] * d);
                let sum: f64 = (0..k_dim).map(|i| state[i * v_dim + j] * q[i]).sum();
                out.push(sum * f64::from(scale));
            }
        }
    }
    out
}

#[test]
fn the_delta_rule_is_its_twin() {
    let lengths = [3, 37, 0, 1];
    for (k_heads, v_heads, k_dim, v_dim) in
        [(1, 1, 1, 1), (2, 2, 16, 16), (2, 4, 24, 40), (1, 3, 33, 17), (1, 2, 64, 64)]
    {
        let rule = DeltaRule { k_heads, v_heads, k_dim, v_dim, scale: 1.0 / (k_dim as f32).sqrt() };
        let mut random = Random((k_dim * v_dim) as u64);
        let n = lengths.iter().sum();
        let rows = Rows::random(&mut random, &rule, n);
        let begin: Vec<Vec<f32>> = lengths.iter().map(|_| random.vec(rule.state_len())).collect();
        let mut ends = begin.clone();
        let (mut want, mut exact) = (Vec::new(), Vec::new());
        let mut row = 0;
        for (len, state) in lengths.iter().zip(&mut ends) {
            let mut state_in_f64: Vec<f64> = wide(state).collect();
            exact.extend(delta_in_f64(&rule, &rows, row..row + len, &mut state_in_f64));
            want.extend(delta_twin(&rule, &rows, row..row + len, state));
            assert_close(state, state_in_f64, 3e-6, &format!("{rule:?}: state"));
            row += len;
        }
        assert_close(&want, exact, 3e-6, &format!("{rule:?}"));
        for exec in contexts() {
            for cut in CUTS.map(|cut| cut.min(37)) {
                let what = format!("{rule:?}, cut {cut}, {}", name(&exec));
                let mut states = begin.clone();
                let inputs = [Of(&rows.qkv, rule.width()), Of(&rows.g, v_heads), Of(&rows.beta, v_heads)];
                let width = v_heads * v_dim;
                let got = in_passes(&lengths, cut, &mut states, &inputs, width, |sequences, pass, out| {
                    delta_rule(&exec, &rule, &pass[0], &pass[1], &pass[2], sequences, out);
                });
                assert_bits(&got, &want, &what);
                assert_bits(&states.concat(), &ends.concat(), &format!("{what}: state"));
            }
        }
    }
}

#[test]
fn a_long_text_stays_near_f64() {
    let rule = DeltaRule { k_heads: 1, v_heads: 1, k_dim: 128, v_dim: 128, scale: 1.0 / 128f32.sqrt() };
    let rows = Rows::random(&mut Random(3), &rule, 400);
    let mut state = vec![0.0; rule.state_len()];
    let mut state_in_f64 = vec![0.0; rule.state_len()];
    let want = delta_in_f64(&rule, &rows, 0..400, &mut state_in_f64);
    let exec = contexts().pop().unwrap();
    let mut out = vec![0.0; 400 * 128];
    let sequences = &mut [Carried::new(0..400, &mut state)];
    delta_rule(&exec, &rule, &rows.qkv, &rows.g, &rows.beta, sequences, &mut out);
    assert_close(&out, want, 2e-6, "outputs");
    assert_close(&state, state_in_f64, 5e-6, "state");
}

#[test]
fn gates_and_norms() {
    for (n, heads) in [(1, 1), (3, 20), (50, 32), (700, 48)] {
        let mut random = Random(heads as u64);
        let spread = |x: f32| x.powi(3) * 60.0;
        let a: Vec<f32> = random.vec(n * heads).into_iter().map(spread).collect();
        let b: Vec<f32> = random.vec(n * heads).into_iter().map(spread).collect();
        let (a_log, dt_bias) = (random.vec(heads), random.vec(heads));
        // Two heads of 24 elements, and what follows them.
        let x = random.vec(n * 50);
        let normed: Vec<f32> = x
            .chunks(50)
            .flat_map(|row| {
                let heads = row[..48].chunks(24).flat_map(|head| {
                    let scale = 1.0 / (dot(head, head) + 1e-6).sqrt();
                    head.iter().map(move |x| x * scale)
                });
                heads.chain(row[48..].iter().copied())
            })
            .collect();
        let mut first: Option<(Vec<f32>, Vec<f32>)> = None;
        for exec in contexts() {
            let what = format!("{n} rows of {heads}, {}", name(&exec));
            let (mut g, mut beta) = (vec![0.0; n * heads], vec![0.0; n * heads]);
            delta_gates(&exec, &a, &b, &a_log, &dt_bias, &mut g, &mut beta);
            for (i, (g, beta)) in g.iter().zip(&beta).enumerate() {
                let h = i % heads;
                let sum = f64::from(a[i] + dt_bias[h]);
                let want = -f64::from(a_log[h]).exp() * sum.exp().ln_1p();
                assert!((f64::from(*g) - want).abs() <= want.abs() * 6e-7, "{what}: g is {g:e}, should be {want:e}");
                let want = 1.0 / (1.0 + (-f64::from(b[i])).exp());
                assert!((f64::from(*beta) - want).abs() <= want * 4e-7, "{what}: beta is {beta:e}, should be {want:e}");
            }
            let (g_first, beta_first) = first.get_or_insert_with(|| (g.clone(), beta.clone()));
            assert_bits(&g, g_first, &what);
            assert_bits(&beta, beta_first, &what);
            let mut got = x.clone();
            l2_norm(&exec, &mut got, 50, 2, 24, 1e-6);
            assert_bits(&got, &normed, &what);
        }
    }
    let exec = contexts().pop().unwrap();
    let (mut g, mut beta) = ([0.0; 5], [0.0; 5]);
    let x = [f32::NEG_INFINITY, -200.0, 200.0, f32::INFINITY, f32::NAN];
    delta_gates(&exec, &x, &x, &[0.0; 5], &[0.0; 5], &mut g, &mut beta);
    assert_eq!((g[0], g[1], g[2], g[3]), (0.0, 0.0, -200.0, f32::NEG_INFINITY));
    assert_eq!((beta[0], beta[1], beta[2], beta[3]), (0.0, 0.0, 1.0, 1.0));
    assert!(g[4].is_nan() && beta[4].is_nan());
}

/// What `Qwen3NextGatedDeltaNet.forward` does between its projections, by transformers' own functions.
#[test]
fn transformers_says_the_same_of_a_gated_delta_net() {
    let golden = golden("linear_attention.txt");
    let rule = DeltaRule { k_heads: 1, v_heads: 2, k_dim: 8, v_dim: 6, scale: 1.0 / 8f32.sqrt() };
    let n = 70; // more than a chunk of transformers' way of reading prompts
    let mut random = Random(11);
    let mut x = random.vec(n * rule.width());
    let weight = random.vec(rule.width() * 4);
    let (a, b) = (random.vec(n * 2), random.vec(n * 2));
    let (a_log, dt_bias) = (random.vec(2), random.vec(2));
    let exec = contexts().pop().unwrap();
    let conv = Conv { weight: &weight, bias: None, taps: 4 };
    let mut past = vec![0.0; conv.state_len()];
    causal_conv(&exec, &conv, AfterConv::Silu, &mut [Carried::new(0..n, &mut past)], &mut x);
    let some = |x: &[f32], width: usize| [&x[..3 * width], &x[(n - 3) * width..]].concat();
    assert_close(&some(&x, rule.width()), wide(&golden["conv"]), 1e-6, "the convolution");
    let (mut g, mut beta) = (vec![0.0; n * 2], vec![0.0; n * 2]);
    delta_gates(&exec, &a, &b, &a_log, &dt_bias, &mut g, &mut beta);
    assert_close(&some(&g, 2), wide(&golden["g"]), 1e-6, "g");
    assert_close(&some(&beta, 2), wide(&golden["beta"]), 1e-6, "beta");
    l2_norm(&exec, &mut x, rule.width(), 2, 8, 1e-6);
    let (mut state, mut out) = (vec![0.0; rule.state_len()], vec![0.0; n * 12]);
    delta_rule(&exec, &rule, &x, &g, &beta, &mut [Carried::new(0..n, &mut state)], &mut out);
    for way in ["recurrent", "chunk"] {
        assert_close(&some(&out, 12), wide(&golden[way]), 2e-6, way);
        assert_close(&state, wide(&golden[&format!("{way}_state")]), 2e-6, &format!("{way}: state"));
    }
}

/// The whole of `Lfm2ShortConv.forward` between its projections.
#[test]
fn transformers_says_the_same_of_a_short_convolution() {
    let golden = golden("linear_attention.txt");
    let (n, channels) = (9, 6);
    let mut random = Random(12);
    let bcx = random.vec(n * 3 * channels);
    let (weight, bias) = (random.vec(channels * 3), random.vec(channels));
    let exec = contexts().pop().unwrap();
    let conv = Conv { weight: &weight, bias: Some(&bias), taps: 3 };
    let (mut past, mut out) = (vec![0.0; conv.state_len()], vec![0.0; n * channels]);
    gated_conv(&exec, &conv, &mut [Carried::new(0..n, &mut past)], &bcx, &mut out);
    assert_close(&out, wide(&golden["short_conv"]), 1e-6, "outputs");
}

#[test]
#[should_panic(expected = "rows follow one another")]
fn sequences_with_a_row_in_common_are_refused() {
    let exec = contexts().pop().unwrap();
    let conv = Conv { weight: &[1.0; 4], bias: None, taps: 2 };
    let (mut a, mut b) = (vec![0.0; 2], vec![0.0; 2]);
    let sequences = &mut [Carried::new(0..2, &mut a), Carried::new(1..3, &mut b)];
    causal_conv(&exec, &conv, AfterConv::Nothing, sequences, &mut [0.0; 6]);
}
