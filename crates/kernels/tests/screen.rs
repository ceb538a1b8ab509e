//! The greatest of many products, found through a screen, is the one that all of them have: the same place, the same bits.

#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod support;

use half::{bf16, f16};
use rheostat_kernels::{Columns, Exec, Format, Linear, Matrix, Rows, Screen, linear};
use support::{Random, contexts, name};

/// Numbers of both signs, `scale` large at the most.
fn numbers(random: &mut Random, n: usize, scale: f32) -> Vec<f32> {
    random.vec(n).into_iter().map(|x| x * scale).collect()
}

fn stored(values: &[f32], format: Format) -> Vec<u8> {
    match format {
        Format::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        Format::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn all_products(exec: &Exec, weight: Matrix<'_>, x: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; weight.rows()];
    let width = out.len();
    linear(exec, Rows::F32(x), 1, &mut [Linear { weight, bias: None, out: Columns::new(&mut out, width, 0) }]);
    out
}

/// The place of the greatest, the first among equals.
fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}

/// Products computed where they can be the greatest; `None` where the screen gave up.
fn check(exec: &Exec, weight: Matrix<'_>, screen: &mut Screen, x: &[f32], what: &str) -> Option<usize> {
    let want = all_products(exec, weight, x);
    let mut got = vec![f32::NAN; want.len()];
    if !screen.greatest(exec, &weight, x, &mut got) {
        return None;
    }
    let best = argmax(&want);
    assert_eq!(argmax(&got), best, "{what}");
    let (mut exact, most) = (0, want[best]);
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert!(got.is_finite(), "{what}: {i}");
        if got.to_bits() == want.to_bits() {
            exact += 1;
        } else {
            assert!(*got < most && *want < most, "{what}: {i} of {} rows", weight.rows());
        }
    }
    Some(exact)
}

#[test]
fn the_greatest_is_the_same() {
    let mut random = Random(7);
    let (mut screened, mut tried) = (0, 0);
    for (rows, cols) in [(3000, 64), (5000, 100), (2048, 256), (1500, 1030), (40, 48), (1, 16)] {
        for format in [Format::F32, Format::Bf16, Format::F16] {
            for scale in [1.0, 3e-3, 20.0] {
                let mut values = numbers(&mut random, rows * cols, scale);
                // Equal rows, a zero row, and one with an outlier.
                if rows > 30 {
                    values.copy_within(3 * cols..4 * cols, 20 * cols);
                    values[5 * cols..6 * cols].fill(0.0);
                    values[7 * cols] = 40.0 * scale;
                }
                let bytes = stored(&values, format);
                let weight = Matrix::new(&bytes, &[], format, rows, cols);
                for exec in contexts() {
                    let mut screen = Screen::new(&exec, &weight);
                    let texts: Vec<_> = (0..4).map(|_| numbers(&mut random, cols, 1.0)).collect();
                    // One along a row that is there twice, and one with an outlier.
                    let twin = values[(3 * cols).min(values.len() - cols)..][..cols].to_vec();
                    let mut outlier = numbers(&mut random, cols, 0.1);
                    outlier[cols / 2] = 30.0;
                    for (i, x) in texts.into_iter().chain([twin, outlier]).enumerate() {
                        let what = format!("[{rows}, {cols}] {format:?} x {scale}, {}, row {i}", name(&exec));
                        tried += 1;
                        if let Some(exact) = check(&exec, weight, &mut screen, &x, &what) {
                            screened += usize::from(exact * 4 < rows);
                        }
                    }
                }
            }
        }
    }
    // Otherwise nothing was saved.
    assert!(screened * 3 > tried * 2, "{screened} of {tried} left most rows out");
}

/// Where a screen cannot tell, it says so, or computes what it cannot tell.
#[test]
fn numbers_that_are_none() {
    let (rows, cols) = (300, 64);
    let mut random = Random(11);
    for exec in contexts() {
        let x = numbers(&mut random, cols, 1.0);
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40] {
            // In a weight: the row is computed, whatever comes out.
            let mut values = numbers(&mut random, rows * cols, 0.1);
            values[9 * cols + 5] = odd;
            let bytes = stored(&values, Format::F32);
            let weight = Matrix::new(&bytes, &[], Format::F32, rows, cols);
            let mut got = vec![0.0; rows];
            let mut screen = Screen::new(&exec, &weight);
            if screen.greatest(&exec, &weight, &x, &mut got) {
                let want = all_products(&exec, weight, &x);
                assert_eq!(got[9].is_finite(), want[9].is_finite(), "{odd}");
                let finite = |values: &[f32]| values.iter().map(|v| if v.is_finite() { *v } else { -1e9 }).collect();
                let (got, want): (Vec<f32>, Vec<f32>) = (finite(&got), finite(&want));
                assert_eq!(argmax(&got), argmax(&want), "{odd}");
            }
            // In x: all are computed.
            let mut x = x.clone();
            x[3] = odd;
            values[9 * cols + 5] = 0.0;
            let bytes = stored(&values, Format::F32);
            let weight = Matrix::new(&bytes, &[], Format::F32, rows, cols);
            let mut screen = Screen::new(&exec, &weight);
            let told = screen.greatest(&exec, &weight, &x, &mut got);
            assert!(!told || odd.is_normal() || odd.is_subnormal(), "{odd} in x");
        }
        // Nothing but zeros, or next to nothing.
        let values = numbers(&mut random, 5000 * cols, 0.1);
        let bytes = stored(&values, Format::F32);
        let weight = Matrix::new(&bytes, &[], Format::F32, 5000, cols);
        let mut screen = Screen::new(&exec, &weight);
        for x in [vec![0.0; cols], vec![1e-30; cols]] {
            assert!(!screen.greatest(&exec, &weight, &x, &mut vec![0.0; 5000]));
        }
    }
}
