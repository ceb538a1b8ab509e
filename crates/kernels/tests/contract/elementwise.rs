//! Activations and steps that go element by element. What is rational has a twin in f32 and its bits; what is not is near f64,
//! and the same bits everywhere.

use rheostat_kernels::{
    Activation, Exec, Run, activate, add_assign, add_scaled_rows, clamp, copy_columns, gate, multiply, scale,
    scaled_add_assign, sigmoid_gate, soft_cap, softplus,
};

use super::{Random, assert_bits, contexts, name};

/// Lengths with and without a rest, and of several items of parallel work.
const LENGTHS: [usize; 5] = [1, 16, 47, 1000, (1 << 16) + 5];

/// Runs `step` on every context; `want` is what it should make of `x`.
fn check(x: &[f32], want: &[f32], what: &str, step: impl Fn(&Exec, &mut [f32])) {
    for exec in contexts() {
        let mut out = x.to_vec();
        step(&exec, &mut out);
        assert_bits(&out, want, &format!("{what} of {} on {}", x.len(), name(&exec)));
    }
}

#[test]
fn sums_and_products() {
    for n in LENGTHS {
        let mut random = Random(n as u64);
        let (x, y) = (random.vec(n), random.vec(n));
        let of = |f: &dyn Fn(f32, f32) -> f32| -> Vec<f32> { x.iter().zip(&y).map(|(x, y)| f(*x, *y)).collect() };
        check(&x, &of(&|x, y| x + y), "sum", |exec, x| add_assign(exec, x, &y));
        check(&x, &of(&|x, y| x + y * 0.3), "scaled sum", |exec, x| scaled_add_assign(exec, x, &y, 0.3));
        check(&x, &of(&|x, y| x * y), "product", |exec, x| multiply(exec, x, &y));
        check(&x, &of(&|x, _| x * 1.7), "multiple", |exec, x| scale(exec, x, 1.7));
        check(&x, &of(&|x, _| x.clamp(-0.5, 0.5)), "clamped", |exec, x| clamp(exec, x, 0.5));
    }
}

#[test]
fn rows_by_their_own_factors() {
    for (n, width) in [(1, 5), (3, 16), (40, 100), (900, 65)] {
        let mut random = Random((n * width) as u64);
        let (x, y, by) = (random.vec(n * width), random.vec(n * width), random.vec(n));
        let want: Vec<f32> = (0..n * width).map(|i| x[i] + y[i] * by[i / width]).collect();
        check(&x, &want, "scaled rows", |exec, x| add_scaled_rows(exec, x, &y, &by));
    }
}

#[test]
fn columns_go_where_they_should() {
    // Two rows of rows interleaved, some left out, one twice; and nothing at all.
    let run = |from, to, len| Run { from, to, len };
    let cases = [
        (7, 6, vec![run(0, 3, 2), run(3, 0, 3), run(3, 5, 1)]),
        (64, 96, vec![run(0, 32, 32), run(32, 0, 32), run(0, 64, 32)]),
        (4, 4, vec![]),
        (1, 1, vec![run(0, 0, 1)]),
    ];
    for (from_width, to_width, runs) in cases {
        for n in [0, 1, 3, 2000] {
            let mut random = Random(n as u64);
            let (from, to) = (random.vec(n * from_width), random.vec(n * to_width));
            let mut want = to.clone();
            for r in 0..n {
                for run in &runs {
                    for i in 0..run.len {
                        want[r * to_width + run.to + i] = from[r * from_width + run.from + i];
                    }
                }
            }
            check(&to, &want, "columns", |exec, to| copy_columns(exec, &from, from_width, &runs, to, to_width));
        }
    }
}

/// `act(x)` in f64.
fn in_f64(act: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match act {
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => x * 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + f64::from(0.044_715_f32) * x.powi(3));
            // 1 + tanh y = 2 sigmoid 2y
            x * sigmoid(2.0 * inner)
        }
        Activation::Relu => x.max(0.0),
        Activation::Relu2 => x.max(0.0).powi(2),
        Activation::Sigmoid => sigmoid(x),
        Activation::Xielu { alpha_p, alpha_n, beta, eps } => {
            let [alpha_p, alpha_n, beta, eps] = [alpha_p, alpha_n, beta, eps].map(f64::from);
            if x > 0.0 { alpha_p * x * x + beta * x } else { (x.min(eps).exp_m1() - x) * alpha_n + beta * x }
        }
        Activation::ClampedSwiglu { .. } => panic!("of two numbers"),
    }
}

const ACTIVATIONS: [Activation; 7] = [
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Relu,
    Activation::Relu2,
    Activation::Sigmoid,
    Activation::Xielu { alpha_p: 0.8, alpha_n: 0.9, beta: 0.5, eps: -1e-6 },
];

/// Numbers about zero, small and large.
fn numbers(n: usize) -> Vec<f32> {
    let mut random = Random(n as u64);
    (0..n).map(|i| random.next() * [1.0, 8.0, 0.01][i % 3]).collect()
}

#[test]
fn activations_are_near_those_in_f64() {
    for (act, n) in ACTIVATIONS.into_iter().flat_map(|act| LENGTHS.map(|n| (act, n))) {
        let (x, up) = (numbers(n), Random(7).vec(n));
        let mut first: Option<Vec<f32>> = None;
        for exec in contexts() {
            let mut out = x.clone();
            activate(&exec, act, &mut out);
            // What torch takes a difference from 1 of has its precision for numbers near 1, not near 0.
            let floor = match act {
                Activation::Gelu | Activation::GeluTanh => 2e-7,
                Activation::Xielu { .. } => 3e-7,
                _ => 1e-30,
            };
            for (x, got) in x.iter().zip(&out) {
                let want = in_f64(act, f64::from(*x));
                let most = want.abs() * 5e-7 + floor * f64::from(x.abs()).min(5.0) + 1e-35;
                assert!((f64::from(*got) - want).abs() <= most, "{act:?} of {x:e} is {got:e}, should be {want:e}");
            }
            let want: Vec<f32> = out.iter().zip(&up).map(|(x, up)| x * up).collect();
            let mut gated = x.clone();
            gate(&exec, act, &mut gated, &up);
            assert_bits(&gated, &want, &format!("{act:?} as a gate on {}", name(&exec)));
            let first = first.get_or_insert_with(|| out.clone());
            assert_bits(&out, first, &format!("{act:?} on {}", name(&exec)));
        }
    }
}

/// Runs `step` on every context: the same bits everywhere, and near `want`.
fn check_near(x: &[f32], what: &str, want: impl Fn(usize) -> f64, step: impl Fn(&Exec, &mut [f32])) {
    let mut first: Option<Vec<f32>> = None;
    for exec in contexts() {
        let mut out = x.to_vec();
        step(&exec, &mut out);
        for (i, got) in out.iter().enumerate() {
            let want = want(i);
            let near = (f64::from(*got) - want).abs() <= want.abs() * 6e-7 + 1e-30;
            assert!(near, "{what} of {:e} is {got:e}, should be {want:e}", x[i]);
        }
        let first = first.get_or_insert_with(|| out.clone());
        assert_bits(&out, first, &format!("{what} on {}", name(&exec)));
    }
}

#[test]
fn gates_and_caps_are_near_those_in_f64() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    for n in LENGTHS {
        let (x, y) = (numbers(n), Random(9).vec(n));
        let at = |v: &[f32], i: usize| f64::from(v[i]);
        let want = |i| at(&x, i) * sigmoid(at(&y, i));
        check_near(&x, "sigmoid gate", want, |exec, x| sigmoid_gate(exec, x, &y));
        let want = |i| (at(&x, i) / 30.0).tanh() * 30.0;
        check_near(&x, "soft cap", want, |exec, x| soft_cap(exec, x, 30.0));
        let want = |i| at(&x, i).max(0.0) + (-at(&x, i).abs()).exp().ln_1p();
        check_near(&x, "softplus", want, softplus);
        let (alpha, limit) = (1.702, 7.0);
        let want = |i| {
            let (g, u) = (at(&x, i).min(7.0), at(&y, i).clamp(-7.0, 7.0));
            (f64::from(u as f32 + 1.0)) * g * sigmoid(f64::from(g as f32 * 1.702_f32))
        };
        let act = Activation::ClampedSwiglu { alpha, limit };
        check_near(&x, "clamped SwiGLU", want, |exec, x| gate(exec, act, x, &y));
    }
}

#[test]
fn activations_at_the_ends() {
    let ends = [f32::NEG_INFINITY, -1e30, -100.0, -88.0, -0.0, 0.0, 88.8, 1e30, f32::INFINITY, f32::NAN];
    let infinity = f32::INFINITY;
    for exec in contexts() {
        let of = |act| {
            let mut x = ends;
            activate(&exec, act, &mut x);
            assert!(x[9].is_nan(), "{act:?} of what is no number");
            x
        };
        let x = of(Activation::Silu);
        assert!(x[0].is_nan(), "−∞ / ∞, as torch has it");
        assert!(x[1] == 0.0 && x[2] == 0.0 && x[3].abs() < 1e-36, "{x:?}");
        assert_eq!((x[4], x[5], x[6], x[7], x[8]), (0.0, 0.0, 88.8, 1e30, infinity));
        for act in [Activation::Gelu, Activation::GeluTanh] {
            let x = of(act);
            assert!(x[0].is_nan(), "−∞ · 0, as torch has it");
            assert_eq!(x[1..9], [0.0, 0.0, 0.0, 0.0, 0.0, 88.8, 1e30, infinity], "{act:?}");
        }
        assert_eq!(of(Activation::Relu)[..9], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 88.8, 1e30, infinity]);
        assert_eq!(of(Activation::Relu2)[..9], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 88.8 * 88.8, infinity, infinity]);
        let x = of(Activation::Sigmoid);
        assert_eq!((x[0], x[1], x[4], x[5], x[7], x[8]), (0.0, 0.0, 0.5, 0.5, 1.0, 1.0));
        let x = of(Activation::Xielu { alpha_p: 0.8, alpha_n: 0.9, beta: 0.5, eps: -1e-6 });
        // e^eps − 1 − x at zero; far below, the slope is beta − alpha_n.
        assert!(x[4] < 0.0 && x[4] > -1e-6 && x[5] == x[4] && (x[2] + 0.5 * 100.0 - 0.9 * 99.0).abs() < 1e-4, "{x:?}");
        // Of a pair, either may be no number.
        let mut x = [f32::NAN, 1.0, 1e30, -1e30];
        gate(&exec, Activation::ClampedSwiglu { alpha: 1.702, limit: 7.0 }, &mut x, &[0.0, f32::NAN, 1e30, 3.0]);
        assert!(x[0].is_nan() && x[1].is_nan() && (x[2] - 8.0 * 7.0).abs() < 1e-3 && x[3] == 0.0, "{x:?}");
    }
}
