//! Kernels in f32 against the exact results: within the floors that noise sets, and floors that are no wider than they have to be.

use std::num::NonZeroUsize;

use rheostat_kernels::{self as kernels, AfterConv, Carried, Conv, Exec, Isa, Router};

use super::*;
use crate::decoder::{Activation, GroupScore, Groups, NormKind, Normalise, Pairing, Scores};
use crate::diff::judge::{Result as Values, distance};
use crate::diff::noise::{F32, Known, Precision};
use crate::rope::{Rope, RopeScaling};

fn exec() -> Exec {
    Exec::new(Isa::detect(), NonZeroUsize::MIN).unwrap()
}

/// Numbers about as normal ones lie: sums of uniform ones.
pub(crate) fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    (0..n).map(|_| (2.0 * (uniform() + uniform() + uniform())) as f32).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// The kernel's result is within its floors, and those are at most `width` roundings of the typical value wide.
#[track_caller]
fn assert_noise(got: &[f32], exact: &Known, width: f64) {
    assert_eq!(got.len(), exact.len());
    let far = distance(Values { values: got, precision: Precision::F32 }, exact);
    assert!(far.factor <= 1.0, "{far:?}: {} for {}", got[far.at], exact.values[far.at]);
    let typical = (exact.values.iter().map(|x| x * x).sum::<f64>() / exact.len() as f64).sqrt();
    let widest = (0..exact.len()).map(|i| exact.noise(i).floor(Precision::F32)).fold(0.0, f64::max);
    assert!(widest <= width * F32 * typical, "floors of {:.1} roundings", widest / (F32 * typical));
    // One element that is off by twice the widest floor is seen.
    let mut off = got.to_vec();
    off[0] += 2.0 * widest as f32 + 4.0 * F32 as f32 * off[0].abs();
    assert!(distance(Values { values: &off, precision: Precision::F32 }, exact).factor > 1.0);
}

#[test]
fn norms() {
    let (width, rows) = (96, 7);
    let mut x = numbers(1, rows * width);
    x[..width].iter_mut().for_each(|x| *x = *x * 1e-3 + 0.1);
    let (weight, bias) = (numbers(2, width), numbers(3, width));
    for (theirs, kind) in [(kernels::NormKind::Rms, NormKind::Rms), (kernels::NormKind::Layer, NormKind::Layer)] {
        let shape = norm::Shape { kind, width, eps: f64::from(1e-5f32) };
        let kernel = |weight, bias| {
            let norm = kernels::Norm { kind: theirs, weight, bias, width, eps: 1e-5 };
            let mut out = vec![0.0; x.len()];
            kernels::norm(&exec(), &norm, 1, &x, &mut out);
            out
        };
        let known = Known::recorded(&x);
        let scale = norm::scale(&known, shape);
        let of_rows = |row: usize| norm::moments(kind, &wide(&x[row * width..(row + 1) * width]));
        for row in 0..rows {
            assert!((scale.values[row] - (of_rows(row).1 + f64::from(1e-5f32)).sqrt()).abs() < 1e-12);
            assert!(scale.noise(row).floor(Precision::F32) < 40.0 * F32 * scale.values[row]);
        }
        assert_noise(&kernel(None, None), &norm::normalized(&known, &scale, shape), 4e4);
        let whole = norm::norm(&known, shape, Some(&wide(&weight)), Some(&wide(&bias)), 1);
        assert_noise(&kernel(Some(&weight), Some(&bias)), &whole, 4e4);
        // Without the row whose mean is far from zero, floors are narrow.
        let rest = Known::recorded(&x[width..]);
        let whole = norm::norm(&rest, shape, Some(&wide(&weight)), None, 1);
        assert_noise(&kernel(Some(&weight), None)[width..], &whole, 600.0);
    }
    // Weights of groups.
    let (heads, dim) = (6, 16);
    let weights = numbers(4, 2 * dim);
    let norm =
        kernels::Norm { kind: kernels::NormKind::Rms, weight: Some(&weights), bias: None, width: dim, eps: 1e-6 };
    let mut out = vec![0.0; x.len()];
    kernels::norm(&exec(), &norm, heads, &x, &mut out);
    let shape = norm::Shape { kind: NormKind::Rms, width: dim, eps: f64::from(1e-6f32) };
    let exact = norm::norm(&Known::recorded(&x), shape, Some(&wide(&weights)), None, heads);
    assert_noise(&out, &exact, 2e3);
}

#[test]
fn linear_maps() {
    let (rows, inputs, outputs) = (5, 200, 40);
    let (x, weight, bias) = (numbers(1, rows * inputs), numbers(2, outputs * inputs), numbers(3, outputs));
    let bytes: Vec<u8> = weight.iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut out = vec![0.0; rows * outputs];
    let matrix = kernels::Matrix::from_parts(&[&bytes], kernels::Format::F32, outputs, inputs);
    let job = kernels::Linear { weight: matrix, bias: Some(&bias), out: kernels::Columns::new(&mut out, outputs, 0) };
    kernels::linear(&exec(), kernels::Rows::F32(&x), rows, &mut [job]);
    let exact = experts::linear(&Known::recorded(&x), inputs, &weight, Some(&wide(&bias)));
    assert_noise(&out, &exact, 600.0);
    // In pieces, and some outputs only.
    let mut some = Known::unknown(rows * 10);
    let place = |first: usize| move |w: usize| (first + w).checked_sub(30);
    linear::product(&Known::recorded(&x), inputs, &weight[20 * inputs..], &mut some, 10, place(20));
    for row in 0..rows {
        for i in 0..10 {
            let product = exact.values[row * outputs + 30 + i] - f64::from(bias[30 + i]);
            assert!((some.values[row * 10 + i] - product).abs() < 1e-12);
        }
    }
    let (value, l2) = dot(&wide(&x[..inputs]), &weight[..inputs]);
    let naive: Vec<f64> = (0..inputs).map(|i| f64::from(x[i]) * f64::from(weight[i])).collect();
    assert!((value - naive.iter().sum::<f64>()).abs() < 1e-12);
    assert!((l2 - naive.iter().map(|t| t * t).sum::<f64>().sqrt()).abs() < 1e-12);
}

#[test]
fn noise_of_inputs_is_passed_on() {
    let (inputs, outputs) = (64, 8);
    let (x, weight) = (numbers(1, inputs), numbers(2, outputs * inputs));
    let noisy = Known::recorded(&x).map(|x| (x, 1.0, crate::diff::noise::Noise::sums(1e3)));
    let (clean, taken) =
        (experts::linear(&Known::recorded(&x), inputs, &weight, None), experts::linear(&noisy, inputs, &weight, None));
    for o in 0..outputs {
        let norm = wide(&weight[o * inputs..(o + 1) * inputs]).iter().map(|w| w * w).sum::<f64>().sqrt();
        let more = taken.noise(o).sums - clean.noise(o).sums;
        assert!((more / (1e3 * norm) - 1.0).abs() < 1e-9);
    }
    // A softmax passes on what moves its inputs apart: of two equal scores a half of a half.
    let scores = Known { values: vec![0.0, 0.0], noise: vec![crate::diff::noise::Noise::sums(1e6); 2] };
    let p = attention::pattern(&scores, 1, 2, None);
    assert!((p.noise(0).sums / 1e6 - 0.5 * (1.0f64 + 0.5).sqrt()).abs() < 1e-3);
}

#[test]
fn rotations() {
    let (rows, heads, dim, first) = (9, 3, 24, 4);
    let rope = Rope::new(16, 10_000.0, RopeScaling::Default, 128);
    let positions: Vec<usize> = (0..rows).map(|r| 3 * r).collect();
    let angles = rotation::Angles::of(&rope, &positions, |_| rows);
    let x = numbers(5, rows * heads * dim);
    let (mut cos, mut sin) = (vec![0.0; rows * 8], vec![0.0; rows * 8]);
    for (r, position) in positions.iter().enumerate() {
        rope.angles(*position, rows, &mut cos[r * 8..(r + 1) * 8], &mut sin[r * 8..(r + 1) * 8]);
    }
    for pairing in [Pairing::Half, Pairing::Interleaved] {
        let mut out = x.clone();
        kernels::rotate(&exec(), &mut out, heads, dim, first, pairing, &cos, &sin);
        assert_noise(&out, &rotation::rotated(&Known::recorded(&x), heads, dim, first, pairing, &angles), 800.0);
    }
}

#[test]
fn scores_patterns_and_values() {
    let (n_heads, n_kv_heads, d) = (4, 2, 20);
    let positions: Vec<usize> = (0..11).collect();
    let keys: Vec<Option<usize>> = positions.iter().map(|p| Some(*p)).collect();
    let rows = positions.len();
    let (q, k, v) =
        (numbers(1, rows * n_heads * d), numbers(2, rows * n_kv_heads * d), numbers(3, rows * n_kv_heads * d));
    let view = attention::View { n_heads, n_kv_heads, positions: &positions, keys: &keys };
    for (soft_cap, window, sink) in [(None, None, None), (Some(3.0f32), Some(4), Some(0.5f32))] {
        let scoring = attention::Scoring { head_dim: d, scale: 0.25, soft_cap: soft_cap.map(f64::from), window };
        let scores = attention::scores(&Known::recorded(&q), &Known::recorded(&k), &view, &scoring);
        let mut naive = Vec::new();
        for h in 0..n_heads {
            for i in 0..rows {
                for j in 0..rows {
                    let (q, k) = (&q[(i * n_heads + h) * d..][..d], &k[(j * n_kv_heads + h / 2) * d..][..d]);
                    let s = q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>() * 0.25;
                    let s = soft_cap.map_or(s, |c| c * (s / c).tanh());
                    let seen = j <= i && window.is_none_or(|w| i - j < w);
                    naive.push(if seen { s } else { f32::NEG_INFINITY });
                }
            }
        }
        let far = |values: &[f32], exact: &Known| distance(Values { values, precision: Precision::F32 }, exact).factor;
        assert!(far(&naive, &scores) <= 1.0);
        let sinks = sink.map(|sink| vec![sink; n_heads]);
        let exact = attention::pattern(&Known::recorded(&naive), rows, rows, sinks.as_deref().map(wide).as_deref());
        let mut pattern = Vec::new();
        for row in naive.chunks_exact(rows) {
            let max = row.iter().copied().chain(sink).fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = row.iter().copied().chain(sink).map(|s| (s - max).exp()).sum();
            pattern.extend(row.iter().map(|s| (s - max).exp() / sum));
        }
        assert_noise(&pattern, &exact, 600.0);
        let exact = attention::weighted(&Known::recorded(&pattern), &Known::recorded(&v), &view, d);
        let mut z = vec![0.0f32; rows * n_heads * d];
        for (at, z) in z.iter_mut().enumerate() {
            let (i, h, c) = (at / (n_heads * d), at / d % n_heads, at % d);
            *z = (0..rows).map(|j| pattern[(h * rows + i) * rows + j] * v[(j * n_kv_heads + h / 2) * d + c]).sum();
        }
        assert_noise(&z, &exact, 600.0);
        // All at once, with the noise of what lies between.
        let between = attention::pattern(&scores, rows, rows, sinks.as_deref().map(wide).as_deref());
        assert_noise(&z, &attention::weighted(&between, &Known::recorded(&v), &view, d), 4e3);
    }
}

#[test]
fn what_rests_on_rows_that_are_not_there_is_not_known() {
    let positions = [2, 3];
    let keys = [None, None, Some(0), Some(1)];
    let view = attention::View { n_heads: 1, n_kv_heads: 1, positions: &positions, keys: &keys };
    let x = Known::exact(vec![1.0, 2.0]);
    let scoring = attention::Scoring { head_dim: 1, scale: 1.0, soft_cap: None, window: Some(2) };
    let scores = attention::scores(&x, &x, &view, &scoring);
    assert!(scores.values[1].is_nan() && scores.values[2] == 1.0 && scores.values[7] == 4.0);
    assert_eq!((scores.values[0], scores.values[3]), (f64::NEG_INFINITY, f64::NEG_INFINITY));
    let pattern = attention::pattern(&scores, 2, 4, None);
    assert!(pattern.values[..4].iter().all(|p| p.is_nan()));
    assert!((pattern.values[4..].iter().sum::<f64>() - 1.0).abs() < 1e-12);
    let z = attention::weighted(&pattern, &x, &view, 1);
    assert!(z.values[0].is_nan() && z.values[1] > 1.8);
}

#[test]
fn activations_and_gates() {
    let (x, up) = (numbers(1, 4000), numbers(2, 4000));
    let x: Vec<f32> = x.iter().map(|x| 3.0 * x).collect();
    let both = |act, width| {
        let mut out = x.clone();
        kernels::gate(&exec(), act, &mut out, &up);
        assert_noise(&out, &activation::gated(&Known::recorded(&x), &Known::recorded(&up), act), width);
    };
    let acts = [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::Relu2,
        Activation::Sigmoid,
        Activation::Xielu { alpha_p: 0.8, alpha_n: 0.9, beta: 0.5, eps: -1e-6 },
    ];
    for act in acts {
        let mut out = x.clone();
        kernels::activate(&exec(), act, &mut out);
        assert_noise(&out, &activation::activated(&Known::recorded(&x), act), 400.0);
        both(act, 500.0);
    }
    both(Activation::ClampedSwiglu { alpha: 1.702, limit: 2.0 }, 200.0);
    let mut out = x.clone();
    kernels::sigmoid_gate(&exec(), &mut out, &up);
    assert_noise(&out, &elementwise::sigmoid_gated(&Known::recorded(&x), &Known::recorded(&up)), 200.0);
    let mut out = x.clone();
    kernels::soft_cap(&exec(), &mut out, 5.0);
    assert_noise(&out, &elementwise::capped(&Known::recorded(&x), 5.0), 100.0);
    let mut out = x.clone();
    kernels::clamp(&exec(), &mut out, 1.5);
    assert!(out.iter().zip(elementwise::clamped(&Known::recorded(&x), 1.5).values).all(|(a, b)| f64::from(*a) == b));
}

#[test]
fn columns_and_heads() {
    let x = Known::exact((0..12).map(f64::from).collect());
    assert_eq!(elementwise::columns(&x, 4, 1, 2).values, [1.0, 2.0, 5.0, 6.0, 9.0, 10.0]);
    let one = Known::exact(vec![-1.0]);
    let joined = elementwise::joined(&Known::exact(vec![1.0, 2.0, 3.0, 4.0]), 2, &one, 1, 2);
    assert_eq!(joined.values, [1.0, 2.0, -1.0, 3.0, 4.0, -1.0]);
    assert_eq!(elementwise::sum_of_heads(&x, 2, 3, 4).values, [3.0, 5.0, 7.0, 15.0, 17.0, 19.0]);
}

#[test]
fn routers() {
    let (rows, n_experts, top_k) = (40, 12, 3);
    let logits = numbers(1, rows * n_experts);
    let bias = numbers(2, n_experts);
    let groups = |by| Some(Groups { n_groups: 4, top_groups: 2, by });
    let cases = [
        (Scores::Softmax, false, None, Normalise::Sum { plus: 0.0 }, 1.0),
        (Scores::Softmax, true, None, Normalise::SumAtLeast(1e-3), 1.0),
        (Scores::Softmax, false, groups(GroupScore::Best), Normalise::No, 16.0),
        (Scores::Sigmoid, true, groups(GroupScore::BestTwo), Normalise::Sum { plus: 1e-20 }, 2.5),
        (Scores::SoftmaxOfChosen, false, None, Normalise::No, 1.0),
    ];
    let mut all: Vec<(Scores, usize, bool, Option<Groups>, Normalise, f32)> = cases
        .into_iter()
        .map(|(scores, bias, groups, normalise, s)| (scores, top_k, bias, groups, normalise, s))
        .collect();
    all.push((Scores::SparseMixer { jitter: 0.1 }, 2, false, None, Normalise::No, 1.0));
    for (scores, top_k, biased, groups, normalise, scaling) in all {
        let bias = biased.then_some(&bias[..]);
        let kernel = Router { n_experts, top_k, scores, bias, groups, normalise, scaling };
        let (mut experts, mut weights) = (vec![0; rows * top_k], vec![0.0; rows * top_k]);
        kernels::route(&exec(), &kernel, &logits, &mut experts, &mut weights);
        let choice = router::Choice { n_experts, top_k, scores, groups, normalise, scaling: f64::from(scaling) };
        let known = Known::recorded(&logits);
        let bias = bias.map(wide);
        let (mut chosen, _) = router::chosen(&known, bias.as_deref(), &choice);
        if matches!(scores, Scores::SparseMixer { .. }) {
            // Chosen by their logits as well.
            chosen.truncate(rows * top_k);
        }
        let experts: Vec<usize> = experts.iter().map(|e| *e as usize).collect();
        assert_eq!(chosen, experts, "{scores:?}");
        assert_noise(&weights, &router::weights(&known, bias.as_deref(), &experts, &choice), 2e3);
    }
}

#[test]
fn convolutions_and_the_delta_rule() {
    let heads = recurrent::Heads { k_heads: 2, v_heads: 4, k_dim: 16, v_dim: 8 };
    let channels = 2 * 32 + 32;
    let (rows, taps) = (20, 4);
    let (x, weight) = (numbers(1, rows * channels), numbers(2, channels * taps));
    let conv = Conv { weight: &weight, bias: None, taps };
    let mut state = vec![0.0; conv.state_len()];
    let mut mixed = x.clone();
    kernels::causal_conv(&exec(), &conv, AfterConv::Silu, &mut [Carried::new(0..rows, &mut state)], &mut mixed);
    let exact = recurrent::convolved(&Known::recorded(&x), &wide(&weight), None, taps);
    assert_noise(&mixed, &activation::activated(&exact, Activation::Silu), 400.0);

    let (a, b) = (numbers(3, rows * 4), numbers(4, rows * 4));
    let (a_log, dt_bias) = (numbers(5, 4), numbers(6, 4));
    let (mut g, mut beta) = (vec![0.0; rows * 4], vec![0.0; rows * 4]);
    kernels::delta_gates(&exec(), &a, &b, &a_log, &dt_bias, &mut g, &mut beta);
    assert_noise(&g, &recurrent::decay(&Known::recorded(&a), &wide(&a_log), &wide(&dt_bias)), 400.0);
    assert_noise(&beta, &activation::activated(&Known::recorded(&b), Activation::Sigmoid), 100.0);

    let mut qkv = mixed.clone();
    kernels::l2_norm(&exec(), &mut qkv, channels, 4, 16, 1e-6);
    let scale = (1.0 / 16f64.sqrt()) as f32;
    let rule = kernels::DeltaRule { k_heads: 2, v_heads: 4, k_dim: 16, v_dim: 8, scale };
    let (mut z, mut state) = (vec![0.0; rows * 32], vec![0.0; rule.state_len()]);
    kernels::delta_rule(&exec(), &rule, &qkv, &g, &beta, &mut [Carried::new(0..rows, &mut state)], &mut z);
    let known = [&mixed, &g, &beta].map(|x| Known::recorded(x));
    let exact = recurrent::delta_rule(&known[0], &known[1], &known[2], heads, |row| row == rows - 1);
    assert_noise(&z, &exact.z, 2e3);
    assert_eq!(exact.states.len(), 4 * 16 * 8);
    let read: f64 = (0..16).map(|i| exact.states.values[i * 8] * f64::from(qkv[(rows - 1) * channels + i])).sum();
    assert!((read * 0.25 - exact.z.values[(rows - 1) * 32]).abs() < 1e-5);

    let (gate, norm_weight) = (numbers(7, rows * 32), numbers(8, 8));
    let mut gated = z.clone();
    kernels::gated_rms_norm(&exec(), &norm_weight, 1e-6, &gate, &mut gated, 8);
    let exact = recurrent::gated_norm(
        &Known::recorded(&z),
        &Known::recorded(&gate),
        Some(&wide(&norm_weight)),
        8,
        f64::from(1e-6f32),
    );
    assert_noise(&gated, &exact, 1e3);

    let (bcx, weight, bias) = (numbers(9, rows * 3 * 24), numbers(10, 24 * 3), numbers(11, 24));
    let conv = Conv { weight: &weight, bias: Some(&bias), taps: 3 };
    let (mut state, mut out) = (vec![0.0; conv.state_len()], vec![0.0; rows * 24]);
    kernels::gated_conv(&exec(), &conv, &mut [Carried::new(0..rows, &mut state)], &bcx, &mut out);
    let exact = recurrent::gated_convolution(&Known::recorded(&bcx), &wide(&weight), Some(&wide(&bias)), 3);
    assert_noise(&out, &exact, 400.0);
}

#[test]
fn mixtures() {
    let (hidden, intermediate) = (24, 16);
    let matrix = |seed, n: usize| numbers(seed, n);
    let expert = experts::Expert {
        gate: matrix(1, intermediate * hidden),
        up: matrix(2, intermediate * hidden),
        down: matrix(3, intermediate * hidden),
        down_bias: Some(wide(&numbers(4, hidden))),
        ..experts::Expert::default()
    };
    let x = numbers(5, 2 * hidden);
    let of = |row: usize| Known::recorded(&x[row * hidden..(row + 1) * hidden]);
    let mut sum = experts::Mixture::new(2, hidden);
    let noise = crate::diff::noise::Noise::default();
    sum.add(0, &expert.of(&of(0), hidden, Activation::Silu), 0.75, noise);
    sum.add(0, &expert.of(&of(0), hidden, Activation::Silu), 0.25, noise);
    sum.add(1, &expert.of(&of(1), hidden, Activation::Silu), 2.0, noise);
    let sum = sum.finish();
    // The same in f32, step by step.
    let product = |x: &[f32], w: &[f32]| -> Vec<f32> {
        w.chunks_exact(x.len()).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    };
    let mut out = Vec::new();
    for (row, weight) in [(0, 1.0f32), (1, 2.0)] {
        let x = &x[row * hidden..(row + 1) * hidden];
        let (gate, up) = (product(x, &expert.gate), product(x, &expert.up));
        let post: Vec<f32> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
        let bias = expert.down_bias.as_ref().unwrap();
        out.extend(product(&post, &expert.down).iter().zip(bias).map(|(y, b)| (y + *b as f32) * weight));
    }
    assert_noise(&out, &sum, 2e3);
}
