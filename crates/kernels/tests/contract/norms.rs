//! Norms and rotations.

use rheostat_kernels::{Norm, NormKind, Pairing, gated_rms_norm, l2_norm_in_place, norm, norm_in_place, rotate};

use super::{Random, assert_bits, contexts, dot, name};

/// One group, word for word: what it is multiplied by, and what is taken from it before.
fn factors(kind: NormKind, eps: f32, x: &[f32]) -> (f32, f32) {
    let n = x.len() as f32;
    match kind {
        NormKind::Rms => (0.0, 1.0 / (dot(x, x) / n + eps).sqrt()),
        NormKind::Layer => {
            let mean = dot(x, &vec![1.0; x.len()]) / n;
            let about: Vec<f32> = x.iter().map(|x| x - mean).collect();
            (mean, 1.0 / (dot(&about, &about) / n + eps).sqrt())
        }
    }
}

fn naive(norm: &Norm<'_>, groups_per_row: usize, x: &[f32]) -> Vec<f32> {
    let mut out = Vec::new();
    for (i, x) in x.chunks(norm.width).enumerate() {
        let (mean, scale) = factors(norm.kind, norm.eps, x);
        let of = |v: &[f32], k: usize| v[i % groups_per_row * norm.width % v.len() + k];
        for (k, x) in x.iter().enumerate() {
            let mut y = (x - mean) * scale;
            if let Some(weight) = norm.weight {
                y *= of(weight, k);
            }
            if let Some(bias) = norm.bias {
                y += of(bias, k);
            }
            out.push(y);
        }
    }
    out
}

/// The first `n` elements, if that is any.
fn first(v: &[f32], n: usize) -> Option<&[f32]> {
    Some(&v[..n]).filter(|v| !v.is_empty())
}

const SHAPES: [(usize, usize, usize); 7] =
    [(1, 1, 16), (3, 2, 24), (40, 3, 50), (700, 2, 64), (2, 1, 2049), (5, 4, 7), (9, 1, 1)];

#[test]
fn norms_are_those_of_each_group_alone() {
    for (n, groups, width) in SHAPES {
        let mut random = Random((groups * width) as u64);
        let x = random.vec(n * groups * width);
        let (weights, biases) = (random.vec(groups * width), random.vec(groups * width));
        for kind in [NormKind::Rms, NormKind::Layer] {
            // None, one for all groups, one for each.
            for (w, b) in [(0, 0), (1, 0), (groups, 0), (0, 1), (1, 1), (1, groups), (groups, groups)] {
                let (weight, bias) = (first(&weights, w * width), first(&biases, b * width));
                let shape = Norm { kind, weight, bias, width, eps: 1e-5 };
                let want = naive(&shape, groups, &x);
                for exec in contexts() {
                    let what = format!("{kind:?} [{n}, {groups}, {width}], {w} weights, {b} biases, {}", name(&exec));
                    let mut out = vec![0.0; x.len()];
                    norm(&exec, &shape, groups, &x, &mut out);
                    assert_bits(&out, &want, &what);
                    let mut out = x.clone();
                    norm_in_place(&exec, &shape, groups, &mut out);
                    assert_bits(&out, &want, &what);
                }
            }
        }
    }
}

/// Also where the mean is far from zero.
#[test]
fn layer_norms_are_near_those_in_f64() {
    let mut random = Random(8);
    for (width, offset) in [(5, 0.0), (300, 3.0), (4096, -20.0)] {
        let x: Vec<f32> = random.vec(width).into_iter().map(|x| x + offset).collect();
        let exact: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let n = width as f64;
        let mean = exact.iter().sum::<f64>() / n;
        let variance = exact.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let shape = Norm { kind: NormKind::Layer, weight: None, bias: None, width, eps: 1e-6 };
        for exec in contexts() {
            let mut out = x.clone();
            norm_in_place(&exec, &shape, 1, &mut out);
            for (got, x) in out.iter().zip(&exact) {
                let want = (x - mean) / (variance + 1e-6).sqrt();
                // The mean is rounded to f32, which shows where it is large.
                let most = 1e-6 * want.abs().max(1.0) + 6e-8 * mean.abs() / variance.sqrt();
                assert!((f64::from(*got) - want).abs() < most, "{got} should be {want}, of {width} about {offset}");
            }
        }
    }
}

#[test]
fn l2_norms_and_gated_norms() {
    for (n, groups, width) in SHAPES {
        let mut random = Random(width as u64);
        let (x, z, weight) = (random.vec(n * groups * width), random.vec(n * groups * width), random.vec(width));
        let eps = 1e-6;
        let lengths = |x: &[f32]| 1.0 / (dot(x, x) + eps).sqrt();
        let unit: Vec<f32> = x.chunks(width).flat_map(|x| x.iter().map(|v| v * lengths(x))).collect();
        let shape = Norm { kind: NormKind::Rms, weight: Some(&weight), bias: None, width, eps };
        let normed = naive(&shape, 1, &x);
        for exec in contexts() {
            let what = format!("[{n}, {groups}, {width}] {}", name(&exec));
            let mut out = x.clone();
            l2_norm_in_place(&exec, groups, width, eps, &mut out);
            assert_bits(&out, &unit, &what);
            // The gate's own bits are those of the activation.
            let mut want = normed.clone();
            let mut gate = z.clone();
            rheostat_kernels::activate(&exec, rheostat_kernels::Activation::Silu, &mut gate);
            want.iter_mut().zip(&gate).for_each(|(x, gate)| *x *= gate);
            let mut out = x.clone();
            gated_rms_norm(&exec, &weight, eps, &z, &mut out, width);
            assert_bits(&out, &want, &what);
        }
    }
}

#[test]
fn rotations_are_those_of_each_pair_alone() {
    let cases = [
        (1, 1, 16, 0, 8),
        (3, 2, 24, 0, 12),
        (40, 3, 50, 7, 20),
        (700, 2, 64, 0, 32),
        (4, 2, 192, 128, 32),
        (2, 3, 5, 1, 1),
    ];
    for (n, heads, d, first, half) in cases {
        let mut random = Random((heads * d) as u64);
        let x = random.vec(n * heads * d);
        let (cos, sin) = (random.vec(n * half), random.vec(n * half));
        for pairing in [Pairing::Half, Pairing::Interleaved] {
            let mut want = x.clone();
            for (head, want) in want.chunks_mut(d).enumerate() {
                for i in 0..half {
                    let (a, b) = match pairing {
                        Pairing::Half => (first + i, first + half + i),
                        Pairing::Interleaved => (first + 2 * i, first + 2 * i + 1),
                    };
                    let (c, s) = (cos[head / heads * half + i], sin[head / heads * half + i]);
                    (want[a], want[b]) = (want[a] * c - want[b] * s, want[b] * c + want[a] * s);
                }
            }
            for exec in contexts() {
                let mut out = x.clone();
                rotate(&exec, &mut out, heads, d, first, pairing, &cos, &sin);
                assert_bits(&out, &want, &format!("{pairing:?} [{n}, {heads}, {d}] from {first}, {}", name(&exec)));
            }
        }
    }
}
