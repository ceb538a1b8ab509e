//! The arithmetic of a router of a mixture of experts: logits → the experts of each row, and their weights.
//!
//! A family says which of the few ways of doing it is its own by a [`Router`]:
//!
//! | transformers | [`Scores`] | normalised | others |
//! | --- | --- | --- | --- |
//! | mixtral, minimax, hunyuan_v1_moe, qwen3_5_moe | softmax | sum | |
//! | qwen2_moe, qwen3_moe, qwen3_next, olmoe, flex_olmo | softmax | if `norm_topk_prob`: sum | |
//! | jamba | softmax | no | |
//! | ernie4_5_moe | softmax | sum, at least `moe_norm_min` | bias |
//! | deepseek_v2 | softmax | no | scaling; if `group_limited_greedy`: groups by the best, masked by zero |
//! | deepseek_v3, glm4_moe, dots1 and their kin | sigmoid | if `norm_topk_prob`: sum + 1e-20 | bias, scaling, groups by the best two, masked by −∞ |
//! | minimax_m2 | sigmoid | sum | bias |
//! | afmoe | sigmoid | sum + 1e-20 | bias, scaling |
//! | lfm2_moe | sigmoid | if `norm_topk_prob`: sum + 1e-6 | scaling; if `use_expert_bias`: bias |
//! | gpt_oss, granitemoe, granitemoehybrid | softmax of the chosen | (is) | |
//! | phimoe | sparse mixer | (is) | |

use crate::conv::{load, store};
use crate::delta::sigmoid;
use crate::exec::{Exec, SCRATCH, SharedMut};
use crate::math;
use crate::simd::{LANES, Op, Simd};

/// Logits that one item of a parallel job takes, about.
const ITEM: usize = 1 << 12;

/// How a router goes from logits to experts and weights.
#[derive(Clone, Copy, Debug)]
pub struct Router<'a> {
    /// Experts to choose from: the length of a row of logits.
    pub n_experts: usize,
    /// Experts that each row gets (`num_experts_per_tok`).
    pub top_k: usize,
    /// What an expert's score is.
    pub scores: Scores,
    /// `[n_experts]`: added to scores to choose by, not to the weights (`e_score_correction_bias`, `expert_bias`).
    pub bias: Option<&'a [f32]>,
    /// Experts are chosen from the best groups only.
    pub groups: Option<Groups>,
    /// What the scores of the chosen experts are divided by.
    pub normalise: Normalise,
    /// What weights are multiplied by at last (`routed_scaling_factor`); 1 changes nothing.
    pub scaling: f32,
}

/// The score of an expert.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Scores {
    /// The softmax over all experts.
    Softmax,
    /// The sigmoid of each expert's logit.
    Sigmoid,
    /// Experts are chosen by their logits, and the softmax goes over the chosen.
    SoftmaxOfChosen,
    /// `sparsemixer` of transformers' `modeling_phimoe.py`, as it is when no model is trained: two experts; the weight of each
    /// is its softmax among the experts that are left and near it, `(best − logit) / max(|logit|, best) ≤ 2 · jitter`.
    SparseMixer {
        /// `router_jitter_noise`.
        jitter: f32,
    },
}

/// Groups of neighbouring experts, of one size. Of the groups that score best, the lower index wins a tie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Groups {
    /// Groups (`n_group`).
    pub n_groups: usize,
    /// Groups to choose from (`topk_group`).
    pub top_groups: usize,
    /// What a group scores.
    pub by: GroupScore,
}

/// The score of a group, and what becomes of experts outside the best ones, should there be too few inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupScore {
    /// That of its best expert. Experts outside score zero, and weigh so (deepseek_v2).
    Best,
    /// The sum of those of its two best experts. Experts outside are chosen last (−∞), and weigh what they would (deepseek_v3).
    BestTwo,
}

/// What the scores of the chosen experts are divided by, to become weights.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Normalise {
    /// Nothing.
    No,
    /// Their sum and a small number (0 for none).
    Sum {
        /// Added to the sum.
        plus: f32,
    },
    /// Their sum, if it is not less than a small number.
    SumAtLeast(f32),
}

/// Chooses the experts of every row of `logits: [n, n_experts]`: `experts` and `weights` are `[n, top_k]`, in the order of
/// decreasing scores (with the bias, if there is one), of equal ones the lower index first. What is no number counts as
/// the greatest, as torch has it. Sums over the chosen go in their order.
///
/// # Panics
/// When the shapes do not agree, or the router is none: fewer experts than `top_k`, groups that do not divide the experts.
pub fn route(exec: &Exec, router: &Router<'_>, logits: &[f32], experts: &mut [u32], weights: &mut [f32]) {
    let &Router { n_experts, top_k, .. } = router;
    assert!(top_k > 0 && top_k <= n_experts, "{top_k} of {n_experts} experts");
    assert!(router.bias.is_none_or(|bias| bias.len() == n_experts), "a bias for each expert");
    if let Some(Groups { n_groups, top_groups, by }) = router.groups {
        assert!(n_groups > 0 && n_experts.is_multiple_of(n_groups) && top_groups <= n_groups, "{router:?}");
        assert!(by == GroupScore::Best || n_experts / n_groups >= 2, "two experts in a group");
    }
    if matches!(router.scores, Scores::SparseMixer { .. }) {
        assert!(top_k == 2 && router.bias.is_none() && router.groups.is_none(), "{router:?}");
    }
    assert!(logits.len().is_multiple_of(n_experts), "rows of {n_experts} experts");
    let n = logits.len() / n_experts;
    assert!(experts.len() == n * top_k && weights.len() == n * top_k, "{top_k} experts for each of {n} rows");
    assert!(3 * n_experts.next_multiple_of(LANES) <= SCRATCH, "at most {} experts", SCRATCH / 3);
    let step = (ITEM / n_experts).max(1);
    let (experts, weights) = (SharedMut::new(as_f32(experts)), SharedMut::new(weights));
    let isa = exec.isa();
    exec.run_with_scratch(n.div_ceil(step), &|item, scratch| {
        for r in item * step..((item + 1) * step).min(n) {
            // SAFETY: the items' rows do not overlap.
            let (experts, weights) =
                unsafe { (experts.slice(r * top_k..(r + 1) * top_k), weights.slice(r * top_k..(r + 1) * top_k)) };
            let logits = &logits[r * n_experts..(r + 1) * n_experts];
            isa.run(Row { router, logits, experts: as_u32(experts), weights, scratch });
        }
    });
}

/// The same memory, for a hand-over that knows only f32.
fn as_f32(x: &mut [u32]) -> &mut [f32] {
    // SAFETY: of one size and alignment, and any bits are a value of both.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), x.len()) }
}

/// The inverse of [`as_f32`].
fn as_u32(x: &mut [f32]) -> &mut [u32] {
    // SAFETY: of one size and alignment, and any bits are a value of both.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), x.len()) }
}

struct Row<'a> {
    router: &'a Router<'a>,
    logits: &'a [f32],
    experts: &'a mut [u32],
    weights: &'a mut [f32],
    /// At least three times the experts, each time filled up to whole vectors.
    scratch: &'a mut [f32],
}

impl Op for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Row { router, logits, experts, weights, scratch } = self;
        let n = logits.len();
        let padded = n.next_multiple_of(LANES);
        let (scores, scratch) = scratch.split_at_mut(padded);
        scores[..n].copy_from_slice(logits);
        scores[n..].fill(f32::NEG_INFINITY);
        match router.scores {
            Scores::SparseMixer { jitter } => {
                sparse_mixer(s, scores, n, jitter, &mut scratch[..padded], experts, weights);
            }
            Scores::SoftmaxOfChosen => {
                choose(router, scores, n, scratch, experts);
                let chosen = &mut scratch[..router.top_k.next_multiple_of(LANES)];
                chosen.fill(f32::NEG_INFINITY);
                gather(scores, experts, chosen);
                softmax(s, chosen);
                weights.copy_from_slice(&chosen[..experts.len()]);
            }
            Scores::Softmax | Scores::Sigmoid => {
                if router.scores == Scores::Softmax {
                    softmax(s, scores);
                } else {
                    for part in scores.chunks_exact_mut(LANES) {
                        let v = sigmoid(s, load(s, part));
                        store(s, part, v);
                    }
                }
                choose(router, scores, n, scratch, experts);
                gather(scores, experts, weights);
            }
        }
        let sum = weights.iter().fold(0.0, |sum, w| sum + w);
        let divisor = match router.normalise {
            Normalise::No => 1.0,
            Normalise::Sum { plus } => sum + plus,
            Normalise::SumAtLeast(least) if sum < least => least,
            Normalise::SumAtLeast(_) => sum,
        };
        for w in weights {
            *w = *w / divisor * router.scaling;
        }
    }
}

/// The scores of the chosen experts.
fn gather(scores: &[f32], experts: &[u32], to: &mut [f32]) {
    for (to, e) in to.iter_mut().zip(experts) {
        *to = scores[*e as usize];
    }
}

/// The softmax of whole vectors, of which elements to be left out are −∞. The sum is the contract's: sixteen lanes, and their tree.
#[inline(always)]
fn softmax<S: Simd>(s: S, x: &mut [f32]) {
    let mut max = s.splat(f32::NEG_INFINITY);
    for part in x.chunks_exact(LANES) {
        max = s.max(max, load(s, part));
    }
    let max = s.splat(s.max_lane(max));
    let mut sum = s.zero();
    for part in x.chunks_exact_mut(LANES) {
        let e = math::exp(s, s.sub(load(s, part), max));
        sum = s.add(sum, e);
        store(s, part, e);
    }
    let sum = s.splat(s.sum(sum));
    for part in x.chunks_exact_mut(LANES) {
        let y = s.div(load(s, part), sum);
        store(s, part, y);
    }
}

/// Whether `a` comes before `b`, where `b` has the lower index.
#[inline(always)]
fn above(a: f32, b: f32) -> bool {
    a > b || (a.is_nan() && !b.is_nan())
}

/// The experts to take, by the first `n` scores. With groups that mask by zero, `scores` are masked as well. `scratch` holds two
/// times as many elements as `scores`.
#[inline(always)]
fn choose(router: &Router<'_>, scores: &mut [f32], n: usize, scratch: &mut [f32], experts: &mut [u32]) {
    let (by, rest) = scratch.split_at_mut(scores.len());
    let by = &mut by[..n];
    by.copy_from_slice(&scores[..n]);
    if let Some(bias) = router.bias {
        for (by, bias) in by.iter_mut().zip(bias) {
            *by += bias;
        }
    }
    if let Some(groups) = router.groups {
        let size = n / groups.n_groups;
        let of_groups = &mut rest[..groups.n_groups];
        for (score, group) in of_groups.iter_mut().zip(by.chunks_exact(size)) {
            let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
            for x in group {
                if above(*x, best) {
                    (best, second) = (*x, best);
                } else if above(*x, second) {
                    second = *x;
                }
            }
            *score = match groups.by {
                GroupScore::Best => best,
                GroupScore::BestTwo => best + second,
            };
        }
        for (g, group) in by.chunks_exact_mut(size).enumerate() {
            let mine = of_groups[g];
            let rank = of_groups[..g].iter().filter(|other| !above(mine, **other)).count()
                + of_groups[g + 1..].iter().filter(|other| above(**other, mine)).count();
            if rank >= groups.top_groups {
                match groups.by {
                    GroupScore::Best => {
                        group.fill(0.0);
                        scores[g * size..(g + 1) * size].fill(0.0);
                    }
                    GroupScore::BestTwo => group.fill(f32::NEG_INFINITY),
                }
            }
        }
    }
    best(by, &mut rest[..experts.len()], experts);
}

/// The indices of the best elements of `by`, in order. `kept` has an element for each of them.
#[inline(always)]
fn best(by: &[f32], kept: &mut [f32], experts: &mut [u32]) {
    let k = experts.len();
    for (e, x) in by.iter().enumerate() {
        let known = e.min(k);
        if known == k && !above(*x, kept[k - 1]) {
            continue;
        }
        let mut at = if known == k { k - 1 } else { known };
        while at > 0 && above(*x, kept[at - 1]) {
            (kept[at], experts[at]) = (kept[at - 1], experts[at - 1]);
            at -= 1;
        }
        (kept[at], experts[at]) = (*x, e as u32);
    }
}

/// See [`Scores::SparseMixer`]. `scores` are the `n` logits; `near` holds as many elements.
#[inline(always)]
fn sparse_mixer<S: Simd>(
    s: S,
    scores: &mut [f32],
    n: usize,
    jitter: f32,
    near: &mut [f32],
    experts: &mut [u32],
    weights: &mut [f32],
) {
    for choice in 0..2 {
        // Of those that are left: an expert that was taken has been left out by −∞.
        let left = |e: usize| choice == 0 || e != experts[0] as usize;
        let mut chosen = usize::from(!left(0));
        for e in 0..n {
            if left(e) && above(scores[e], scores[chosen]) {
                chosen = e;
            }
        }
        let most = scores[chosen];
        near.fill(f32::NEG_INFINITY);
        for e in (0..n).filter(|e| left(*e)) {
            let x = scores[e];
            let factor = if x.abs() < most { most } else { x.abs() };
            // Not `<=`: 0 / 0 is near.
            let far = (most - x) / factor > 2.0 * jitter;
            if !far {
                near[e] = x;
            }
        }
        softmax(s, near);
        (experts[choice], weights[choice]) = (chosen as u32, near[chosen]);
    }
}
