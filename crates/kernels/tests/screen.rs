//! Those of many products that a screen leaves are the greatest, and whatever else might be among these.

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

fn screen_of(exec: &Exec, weight: &Matrix<'_>) -> Screen {
    let mut screen = Screen::new(weight.rows(), weight.cols());
    // In pieces, as weights that stream come.
    let half = weight.rows() / 2;
    screen.read_rows(exec, 0, &weight.some_rows(0, half));
    screen.read_rows(exec, half, &weight.some_rows(half, weight.rows() - half));
    screen
}

/// Rows by falling product, the first among equals.
fn ranks(values: &[f32]) -> Vec<usize> {
    let mut order: Vec<_> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]).then(a.cmp(b)));
    order
}

/// Rows that are left for the `most` greatest; `None` where the screen gave up.
fn check(exec: &Exec, weight: Matrix<'_>, screen: &mut Screen, x: &[f32], most: usize, what: &str) -> Option<usize> {
    let want = all_products(exec, weight, x);
    let mut got = vec![f32::NAN; want.len()];
    let left = screen.left(exec, x, most, &mut got)?;
    assert!(left.is_sorted(), "{what}");
    let ranked = ranks(&want);
    let least = want[ranked[most - 1]];
    for (r, (about, want)) in got.iter().zip(&want).enumerate() {
        assert!(about.is_finite(), "{what}: {r}");
        let is_left = left.binary_search(&(r as u32)).is_ok();
        assert!(is_left || *about < least && *want < least, "{what}: {r} of {} rows", weight.rows());
    }
    for r in left {
        got[*r as usize] = want[*r as usize];
    }
    assert_eq!(ranks(&got)[..most], ranked[..most], "{what}");
    Some(left.len())
}

#[test]
fn the_greatest_are_the_same() {
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
                    let mut screen = screen_of(&exec, &weight);
                    let texts: Vec<_> = (0..4).map(|_| numbers(&mut random, cols, 1.0)).collect();
                    // One along a row that is there twice, and one with an outlier.
                    let twin = values[(3 * cols).min(values.len() - cols)..][..cols].to_vec();
                    let mut outlier = numbers(&mut random, cols, 0.1);
                    outlier[cols / 2] = 30.0;
                    for (i, x) in texts.into_iter().chain([twin, outlier]).enumerate() {
                        for most in [1, 2, 20].into_iter().filter(|most| *most <= rows) {
                            let (cpu, of) = (name(&exec), format!("[{rows}, {cols}] {format:?} x {scale}"));
                            let what = format!("{most} of {of}, {cpu}, row {i}");
                            tried += 1;
                            if let Some(left) = check(&exec, weight, &mut screen, &x, most, &what) {
                                screened += usize::from(left * 3 < rows);
                            }
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
            let mut screen = screen_of(&exec, &weight);
            if let Some(left) = screen.left(&exec, &x, 1, &mut got) {
                let want = all_products(&exec, weight, &x);
                assert!(want[9].is_finite() || left.contains(&9), "{odd}");
                let finite = |r: &usize| want[*r].is_finite();
                let best = ranks(&want).into_iter().find(finite).unwrap();
                assert!(left.contains(&(best as u32)), "{odd}");
            }
            // In x: all are computed.
            let mut x = x.clone();
            x[3] = odd;
            values[9 * cols + 5] = 0.0;
            let bytes = stored(&values, Format::F32);
            let weight = Matrix::new(&bytes, &[], Format::F32, rows, cols);
            let mut screen = screen_of(&exec, &weight);
            let told = screen.left(&exec, &x, 1, &mut got);
            assert!(told.is_none() || odd.is_normal() || odd.is_subnormal(), "{odd} in x");
        }
        // Nothing but zeros, or next to nothing.
        let values = numbers(&mut random, 5000 * cols, 0.1);
        let bytes = stored(&values, Format::F32);
        let weight = Matrix::new(&bytes, &[], Format::F32, 5000, cols);
        let mut screen = screen_of(&exec, &weight);
        for x in [vec![0.0; cols], vec![1e-30; cols]] {
            assert!(screen.left(&exec, &x, 1, &mut vec![0.0; 5000]).is_none());
        }
    }
}
