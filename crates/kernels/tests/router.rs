//! Routers: on every instruction set and with any number of threads the same experts and the same bits of weights, those of
//! a naive twin, and those that transformers' routers choose.

#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod support;

use rheostat_kernels::{Exec, GroupScore, Groups, Normalise, Router, Scores, route};
use support::{Random, assert_bits, assert_close, contexts, exp, golden, name, wide};

/// Whether expert `a` comes before expert `b`.
fn before(by: &[f32], a: usize, b: usize) -> bool {
    by[a] > by[b] || (by[a] == by[b] && a < b)
}

/// The indices of `by`, best first.
fn ranked(by: &[f32]) -> Vec<usize> {
    let mut all: Vec<usize> = (0..by.len()).collect();
    all.sort_by(|a, b| if before(by, *a, *b) { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater });
    all
}

fn softmax(x: &[f32]) -> Vec<f32> {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let e: Vec<f32> = x.iter().map(|x| exp(x - max)).collect();
    let mut lanes = [0.0f32; 16];
    for part in e.chunks(16) {
        part.iter().zip(&mut lanes).for_each(|(e, lane)| *lane += e);
    }
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
    }
    e.iter().map(|e| e / lanes[0]).collect()
}

/// One row, word for word.
fn twin(router: &Router<'_>, logits: &[f32]) -> (Vec<u32>, Vec<f32>) {
    let mut scores = match router.scores {
        Scores::Softmax => softmax(logits),
        Scores::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + exp(-x))).collect(),
        Scores::SoftmaxOfChosen => logits.to_vec(),
        Scores::SparseMixer { jitter } => {
            let (mut left, mut experts, mut weights) = (logits.to_vec(), Vec::new(), Vec::new());
            for _ in 0..2 {
                let best = ranked(&left)[0];
                let near: Vec<f32> =
                    left.iter()
                        .map(|x| {
                            if (left[best] - x) / x.abs().max(left[best]) > 2.0 * jitter {
                                f32::NEG_INFINITY
                            } else {
                                *x
                            }
                        })
                        .collect();
                experts.push(best as u32);
                weights.push(softmax(&near)[best] * router.scaling);
                left[best] = f32::NEG_INFINITY;
            }
            return (experts, weights);
        }
    };
    let bias = |e: usize| router.bias.map_or(0.0, |bias| bias[e]);
    let mut by: Vec<f32> = scores.iter().enumerate().map(|(e, x)| x + bias(e)).collect();
    if let Some(groups) = router.groups {
        let size = logits.len() / groups.n_groups;
        let of_group = |group: &[f32]| {
            let order = ranked(group);
            match groups.by {
                GroupScore::Best => group[order[0]],
                GroupScore::BestTwo => group[order[0]] + group[order[1]],
            }
        };
        let of_groups: Vec<f32> = by.chunks(size).map(of_group).collect();
        for g in &ranked(&of_groups)[groups.top_groups..] {
            for e in g * size..(g + 1) * size {
                match groups.by {
                    GroupScore::Best => (by[e], scores[e]) = (0.0, 0.0),
                    GroupScore::BestTwo => by[e] = f32::NEG_INFINITY,
                }
            }
        }
    }
    let experts = &ranked(&by)[..router.top_k];
    let mut weights: Vec<f32> = experts.iter().map(|e| scores[*e]).collect();
    if router.scores == Scores::SoftmaxOfChosen {
        weights = softmax(&weights);
    }
    let sum: f32 = weights.iter().fold(0.0, |sum, w| sum + w);
    let divisor = match router.normalise {
        Normalise::No => 1.0,
        Normalise::Sum { plus } => sum + plus,
        Normalise::SumAtLeast(least) => sum.max(least),
    };
    (experts.iter().map(|e| *e as u32).collect(), weights.iter().map(|w| w / divisor * router.scaling).collect())
}

fn plain(n_experts: usize, top_k: usize, scores: Scores) -> Router<'static> {
    Router { n_experts, top_k, scores, bias: None, groups: None, normalise: Normalise::No, scaling: 1.0 }
}

fn run(exec: &Exec, router: &Router<'_>, logits: &[f32]) -> (Vec<u32>, Vec<f32>) {
    let n = logits.len() / router.n_experts * router.top_k;
    let (mut experts, mut weights) = (vec![u32::MAX; n], vec![f32::NAN; n]);
    route(exec, router, logits, &mut experts, &mut weights);
    (experts, weights)
}

#[test]
fn every_kind_is_its_twin() {
    let mut random = Random(5);
    let bias = random.vec(256);
    let groups = |n_groups, top_groups, by| Some(Groups { n_groups, top_groups, by });
    let sum = Normalise::Sum { plus: 1e-20 };
    let kinds = [
        plain(8, 2, Scores::Softmax),
        Router { normalise: Normalise::Sum { plus: 0.0 }, ..plain(60, 4, Scores::Softmax) },
        Router { normalise: Normalise::SumAtLeast(0.5), bias: Some(&bias[..64]), ..plain(64, 6, Scores::Softmax) },
        Router { groups: groups(8, 3, GroupScore::Best), scaling: 16.0, ..plain(160, 6, Scores::Softmax) },
        // Fewer experts inside the best groups than are chosen.
        Router { groups: groups(4, 1, GroupScore::Best), ..plain(8, 3, Scores::Softmax) },
        Router { groups: groups(4, 1, GroupScore::BestTwo), ..plain(8, 3, Scores::Sigmoid) },
        Router {
            groups: groups(8, 4, GroupScore::BestTwo),
            bias: Some(&bias),
            normalise: sum,
            scaling: 2.5,
            ..plain(256, 8, Scores::Sigmoid)
        },
        Router { bias: Some(&bias[..33]), normalise: Normalise::Sum { plus: 1e-6 }, ..plain(33, 33, Scores::Sigmoid) },
        plain(32, 4, Scores::SoftmaxOfChosen),
        plain(17, 17, Scores::SoftmaxOfChosen),
        plain(16, 2, Scores::SparseMixer { jitter: 0.01 }),
        plain(3, 2, Scores::SparseMixer { jitter: 0.2 }),
    ];
    for router in kinds {
        for n in [1, 7, 600] {
            let mut logits: Vec<f32> = (0..n * router.n_experts).map(|_| random.next() * 4.0).collect();
            // Some of them equal.
            logits.iter_mut().step_by(5).for_each(|x| *x = x.round());
            let want: Vec<(Vec<u32>, Vec<f32>)> =
                logits.chunks(router.n_experts).map(|row| twin(&router, row)).collect();
            let (experts, weights): (Vec<_>, Vec<_>) = want.into_iter().unzip();
            for exec in contexts() {
                let what = format!("{n} rows of {router:?}, {}", name(&exec));
                let (got_experts, got_weights) = run(&exec, &router, &logits);
                assert_eq!(got_experts, experts.concat(), "{what}");
                assert_bits(&got_weights, &weights.concat(), &what);
            }
        }
    }
}

#[test]
fn ties_go_to_the_lower_index_and_what_is_no_number_first() {
    for exec in contexts() {
        let router = plain(5, 3, Scores::SoftmaxOfChosen);
        assert_eq!(run(&exec, &router, &[1.0, 2.0, 1.0, 2.0, 1.0]).0, [1, 3, 0]);
        assert_eq!(run(&exec, &router, &[0.0, -0.0, 0.0, -0.0, -0.0]).0, [0, 1, 2]);
        assert_eq!(run(&exec, &router, &[1.0, f32::NAN, 9.0, f32::INFINITY, f32::NAN]).0, [1, 4, 3]);
        assert_eq!(run(&exec, &router, &[f32::NEG_INFINITY; 5]).0, [0, 1, 2]);
        for scores in [Scores::Softmax, Scores::Sigmoid, Scores::SparseMixer { jitter: 0.01 }] {
            let router = plain(5, 2, scores);
            assert_eq!(run(&exec, &router, &[f32::NAN; 5]).0, [0, 1], "{scores:?}");
            assert_eq!(run(&exec, &router, &[0.0; 5]).0, [0, 1], "{scores:?}");
        }
        let none: (Vec<u32>, Vec<f32>) = run(&exec, &router, &[]);
        assert!(none.0.is_empty() && none.1.is_empty());
    }
}

/// The routers of the families, as tools/kernel_reference.py sets them up.
#[test]
fn transformers_chooses_the_same() {
    let golden = golden("router.txt");
    let bias: Vec<f32> = Random(99).vec(16).iter().map(|x| x * 0.2).collect();
    let groups = |by| Some(Groups { n_groups: 4, top_groups: 2, by });
    let (sum, tiny) = (Normalise::Sum { plus: 0.0 }, Normalise::Sum { plus: 1e-20 });
    let softmax = plain(16, 4, Scores::Softmax);
    let sigmoid = Router { bias: Some(&bias), ..plain(16, 4, Scores::Sigmoid) };
    let deepseek_v3 = Router { groups: groups(GroupScore::BestTwo), normalise: tiny, scaling: 2.5, ..sigmoid };
    let cases = [
        ("mixtral", Router { normalise: sum, ..softmax }),
        ("qwen2_moe", softmax),
        ("qwen3_moe", Router { normalise: sum, ..softmax }),
        ("qwen3_next", Router { normalise: sum, ..softmax }),
        ("olmoe", softmax),
        ("granitemoe", plain(16, 4, Scores::SoftmaxOfChosen)),
        ("gpt_oss", plain(16, 4, Scores::SoftmaxOfChosen)),
        ("deepseek_v2", Router { scaling: 2.5, ..softmax }),
        ("deepseek_v2_groups", Router { scaling: 2.5, groups: groups(GroupScore::Best), ..softmax }),
        ("deepseek_v3", deepseek_v3),
        ("glm4_moe", Router { normalise: Normalise::No, ..deepseek_v3 }),
        ("minimax_m2", Router { normalise: sum, ..sigmoid }),
        ("lfm2_moe", Router { normalise: Normalise::Sum { plus: 1e-6 }, scaling: 2.5, ..sigmoid }),
        ("lfm2_moe_no_bias", Router { scaling: 2.5, ..plain(16, 4, Scores::Sigmoid) }),
        ("ernie4_5_moe", Router { bias: Some(&bias), normalise: Normalise::SumAtLeast(1e-12), ..softmax }),
        ("ernie4_5_moe_least", Router { bias: Some(&bias), normalise: Normalise::SumAtLeast(0.9), ..softmax }),
        ("afmoe", Router { normalise: tiny, scaling: 2.5, ..sigmoid }),
        ("phimoe", plain(16, 2, Scores::SparseMixer { jitter: 0.01 })),
    ];
    assert_eq!(golden.len(), 2 * cases.len(), "every case is here");
    let exec = contexts().pop().unwrap();
    for (seed, (family, router)) in cases.into_iter().enumerate() {
        let mut logits = Random(seed as u64).vec(5 * 16);
        // Logits that are near each other, and far.
        logits.iter_mut().for_each(|x| *x = if family == "phimoe" { *x * 0.25 + 3.0 } else { *x * 4.0 });
        let (experts, weights) = run(&exec, &router, &logits);
        let k = router.top_k;
        let want = golden[&format!("{family}/experts")].chunks(k).zip(golden[&format!("{family}/weights")].chunks(k));
        for (row, (want_experts, want_weights)) in want.enumerate() {
            // Not every router of transformers gives them in order.
            let by_expert = |experts: Vec<u32>, weights: &[f32]| {
                let mut pairs: Vec<(u32, f32)> = experts.into_iter().zip(weights.iter().copied()).collect();
                if family != "phimoe" {
                    pairs.sort_by_key(|(e, _)| *e);
                }
                pairs.into_iter().unzip::<u32, f32, Vec<_>, Vec<_>>()
            };
            let (got, got_weights) =
                by_expert(experts[row * k..(row + 1) * k].to_vec(), &weights[row * k..(row + 1) * k]);
            let (want, want_weights) = by_expert(want_experts.iter().map(|e| *e as u32).collect(), want_weights);
            assert_eq!(got, want, "{family}, row {row}");
            assert_close(&got_weights, wide(&want_weights), 1e-6, family);
        }
    }
}
