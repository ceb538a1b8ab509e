//! Mistakes that are made on purpose: B is a model that does one thing otherwise, recorded at every point. What is found is where it was done,
//! and what is said is what it was.

use std::collections::BTreeMap;
use std::rc::Rc;

use half::bf16;

use crate::decoder::{Activation, Decoder, Ffn, Head, Mixer, NormKind, Normalise, Pairing, Part, Scores};
use crate::diff::evaluate::{Evaluator, Recorded, Text};
use crate::diff::exact::{activation, elementwise, norm};
use crate::diff::examine::Examiner;
use crate::diff::judge::Verdict;
use crate::diff::noise::{Known, Precision};
use crate::diff::operations::{Op, Operation};
use crate::diff::report::{OperationReport, Outcome, in_common};
use crate::diff::tensor::Tensor;
use crate::package::Package;
use crate::rope::{Rope, RopeScaling};

type Recording = BTreeMap<String, Tensor>;

/// What B does instead of an operation, if it does something else.
type Instead<'a> = &'a dyn Fn(&Evaluator<'_>, &Op, &[Rc<Known>], &[usize]) -> Option<Known>;

pub(in crate::diff) fn package(case: &str) -> Package {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(case);
    Package::open(&dir).unwrap()
}

pub(in crate::diff) fn text(decoder: &Decoder, n: usize) -> Text {
    let tokens = (0..n).map(|i| ((i * i * 7 + 3 * i + 5) % decoder.vocab_size) as u32).collect();
    Text { tokens, prompt_len: n, positions: (0..n).collect() }
}

/// Every point of `decoder`, computed exactly and written down in f32.
pub(in crate::diff) fn record(package: &Package, decoder: &Decoder, text: &Text, instead: Instead<'_>) -> Recording {
    let nothing = Recording::new();
    let evaluator = Evaluator::new(decoder, package.checkpoint(), &nothing, text).unwrap();
    let rows: Vec<usize> = (0..text.positions.len()).collect();
    let keys = text.positions.last().unwrap() + 1;
    let mut all = Recording::new();
    for op in evaluator.ops().iter().filter(|op| op.only_with.is_none()) {
        let inputs: Vec<Rc<Known>> =
            op.inputs.iter().map(|point| Rc::new(Known::recorded(&all[point].values))).collect();
        let known = instead(&evaluator, op, &inputs, &rows)
            .unwrap_or_else(|| evaluator.apply(&op.operation, &inputs, &rows).unwrap());
        let values = known.values.iter().map(|x| *x as f32).collect();
        let tensor = Tensor::new(op.full_shape(rows.len(), keys), values).unwrap();
        all.insert(op.point.clone(), tensor);
    }
    all.retain(|point, _| !point.starts_with('='));
    all
}

/// What a right A gives at each point from what B recorded, and what is said of that.
pub(in crate::diff) fn examined(
    package: &Package,
    decoder: &Decoder,
    text: &Text,
    b: &Recording,
) -> Vec<OperationReport> {
    let evaluator = Evaluator::new(decoder, package.checkpoint(), b, text).unwrap();
    let mut examiner = Examiner::new(&evaluator, Precision::F32, Precision::F32);
    let rows: Vec<usize> = (0..text.positions.len()).collect();
    let mut reports = Vec::new();
    for op in evaluator.ops().iter().filter(|op| b.has(&op.point) && op.only_with.is_none()) {
        let exact = evaluator.evaluate(evaluator.op(&op.point).unwrap(), &rows).unwrap();
        let values = exact.values.iter().map(|x| *x as f32).collect();
        let ours = Tensor::new(b[&op.point].shape.clone(), values).unwrap();
        reports.push(examiner.examine(&op.point, &ours, None).unwrap().unwrap().clone());
    }
    reports
}

/// A's config and weights are those of `case`; B's decoder is changed, or it does something else instead of some operations.
#[track_caller]
fn assert_found(case: &str, change: &dyn Fn(&mut Decoder), instead: Instead<'_>, point: &str, words: &str) {
    let package = package(case);
    let decoder = package.describe().unwrap();
    let text = text(&decoder, 24);
    let mut changed = decoder.clone();
    change(&mut changed);
    let b = record(&package, &changed, &text, instead);
    let reports = examined(&package, &decoder, &text, &b);
    let Outcome::Wrong { point: found, index, verdict } = Outcome::of(&reports) else {
        panic!("{case}: nothing was found where {words:?} should be")
    };
    let report = &reports[index];
    assert_eq!((found.as_str(), verdict), (point, Verdict::TheirsWrong), "{case}: {words:?}, {:#?}", report);
    assert!(report.reading[0].contains(words), "{case}: {:?} does not say {words:?}", report.reading);
    // A second reading of the same would be another mistake: what follows is judged by itself.
    let same_place = |report: &&OperationReport| report.verdict.is_suspicious() && report.block == Some(0);
    let others: Vec<&str> = reports.iter().filter(same_place).map(|report| report.point.as_str()).collect();
    assert!(others.len() <= 2, "{case}: {others:?}");
}

fn changed(case: &str, change: impl Fn(&mut Decoder), point: &str, words: &str) {
    assert_found(case, &change, &|_, _, _, _| None, point, words);
}

/// B does something else for operations whose point ends with `last`.
fn otherwise(
    case: &str,
    last: &str,
    f: impl Fn(&Evaluator<'_>, &Op, &[Rc<Known>], &[usize]) -> Known,
    point: &str,
    words: &str,
) {
    let instead = |e: &Evaluator<'_>, op: &Op, inputs: &[Rc<Known>], rows: &[usize]| {
        op.point.ends_with(last).then(|| f(e, op, inputs, rows))
    };
    assert_found(case, &|_| {}, &instead, point, words);
}

fn copied(_: &Evaluator<'_>, _: &Op, inputs: &[Rc<Known>], _: &[usize]) -> Known {
    Known::clone(&inputs[0])
}

fn attentions(decoder: &mut Decoder) -> impl Iterator<Item = &mut crate::decoder::Attention> {
    decoder.blocks.iter_mut().filter_map(|block| match &mut block.mixer {
        Mixer::Attention(mixer) => Some(&mut **mixer),
        _ => None,
    })
}

#[test]
fn a_model_beside_itself_is_identical() {
    for case in
        ["llama_plain", "gemma2_hub", "qwen3_moe_hub", "deepseek_v3_hub", "qwen3_next_hub", "lfm2_hub", "gpt2_hub"]
    {
        let package = package(case);
        let decoder = package.describe().unwrap();
        let text = text(&decoder, 12);
        let b = record(&package, &decoder, &text, &|_, _, _, _| None);
        let reports = examined(&package, &decoder, &text, &b);
        // What lies between points is rounded in a recording, and not in an exact result.
        let wrong: Vec<_> = reports.iter().filter(|r| r.verdict.is_suspicious()).collect();
        assert!(wrong.is_empty(), "{case}: {wrong:#?}");
        assert!(reports.iter().filter(|r| r.verdict == Verdict::Equal).count() * 10 > reports.len() * 9, "{case}");
    }
}

#[test]
fn rotations() {
    let q = "blocks.0.attn.hook_rot_q";
    otherwise("llama_plain", "hook_rot_q", copied, q, "does not rotate");
    let pairing =
        |pairing| move |d: &mut Decoder| attentions(d).for_each(|m| m.rotary.as_mut().unwrap().pairing = pairing);
    changed("llama_plain", pairing(Pairing::Interleaved), q, "turns neighbours");
    changed("cohere_hub", pairing(Pairing::Half), q, "turns element i with element i + half");
    let rope = |theta: Option<f64>, scaling: Option<RopeScaling>, dim: Option<usize>| {
        move |d: &mut Decoder| {
            for rope in &mut d.ropes {
                let scaling = scaling.clone().unwrap_or_else(|| rope.scaling().clone());
                *rope = Rope::new(dim.unwrap_or(rope.dim()), theta.unwrap_or(rope.theta()), scaling, 4096);
            }
        }
    };
    changed("llama_plain", rope(Some(500_000.0), None, None), q, "a base (rope_theta) of about 500000, where");
    changed("llama_llama3_rope", rope(None, Some(RopeScaling::Default), None), q, "rope scaling was left out");
    changed("llama_plain", rope(None, Some(RopeScaling::Linear { factor: 4.0 }), None), q, "all 0.2500 times");
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 64 };
    changed("llama_plain", rope(None, Some(llama3), None), q, "rope scaling (llama3, yarn)");
    changed("llama_plain", rope(None, None, Some(6)), q, "turns the first 6 elements of a head of 14");
    let back = |e: &Evaluator<'_>, op: &Op, inputs: &[Rc<Known>], rows: &[usize]| {
        let turned = e.apply(&op.operation, inputs, rows).unwrap();
        let Operation::Rotate { heads, head_dim, .. } = op.operation else { panic!() };
        // Twice the cosine's part, less what is turned.
        let rope = &e.decoder().ropes[0];
        let angles = crate::diff::exact::rotation::Angles::of(rope, rows, |_| rows.len());
        let values = turned.values.iter().enumerate().map(|(i, y)| {
            let (row, pair) = (i / (heads * head_dim), i % head_dim % (head_dim / 2));
            2.0 * inputs[0].values[i] * angles.cos[row * rope.dim() / 2 + pair] - y
        });
        Known::exact(values.collect())
    };
    otherwise("llama_plain", "hook_rot_k", back, "blocks.0.attn.hook_rot_k", "the other way round");
    let later = |e: &Evaluator<'_>, op: &Op, inputs: &[Rc<Known>], rows: &[usize]| {
        let Operation::Rotate { heads, head_dim, first, pairing, rope } = op.operation else { panic!() };
        let shifted: Vec<usize> = rows.iter().map(|r| r + 1).collect();
        let angles = crate::diff::exact::rotation::Angles::of(&e.decoder().ropes[rope], &shifted, |_| rows.len());
        crate::diff::exact::rotation::rotated(&inputs[0], heads, head_dim, first, pairing, &angles)
    };
    otherwise("llama_plain", "hook_rot_k", later, "blocks.0.attn.hook_rot_k", "counts positions from 1");
    let confused = |d: &mut Decoder| {
        let n = d.ropes.len();
        attentions(d).for_each(|m| m.rotary.as_mut().unwrap().rope = n - 1 - m.rotary.unwrap().rope);
    };
    changed("gemma3_hub", confused, q, "other kind of layers");
}

#[test]
fn norms() {
    let scale = "blocks.0.ln1.hook_scale";
    let of_blocks = |change: fn(&mut crate::decoder::Norm)| {
        move |d: &mut Decoder| d.blocks.iter_mut().filter_map(|b| b.mixer_norm.as_mut()).for_each(change)
    };
    changed("llama_plain", of_blocks(|n| n.eps = 3e-4), scale, "epsilon would be about 3.00e-4");
    changed("llama_plain", of_blocks(|n| n.kind = NormKind::Layer), scale, "a layer norm");
    changed("phi_hub", of_blocks(|n| n.kind = NormKind::Rms), scale, "an RMS norm");
    let out = "blocks.0.ln1.hook_out";
    changed("gemma2_hub", of_blocks(|n| n.offset = 0.0), out, "the weight as it is stored, where");
    changed("llama_plain", of_blocks(|n| n.offset = 1.0), out, "by 1 + weight, where");
    changed("llama_plain", of_blocks(|n| n.weights.clear()), out, "does not multiply by the weight");
    changed("phi_hub", of_blocks(|n| n.bias = None), out, "does not add the bias of the norm");
    let swap = |d: &mut Decoder| {
        for block in &mut d.blocks {
            let (a, b) = (block.mixer_norm.as_mut().unwrap(), block.ffn_norm.as_mut().unwrap());
            std::mem::swap(&mut a.weights, &mut b.weights);
        }
    };
    changed("llama_plain", swap, out, "the weight of another norm, model.layers.0.post_attention_layernorm.weight");
    otherwise("llama_plain", "ln1.hook_normalized", copied, "blocks.0.ln1.hook_normalized", "not normalised");
    let q = "blocks.0.attn.hook_q_normed";
    otherwise("qwen3_defaults", "hook_q_normed", copied, q, "not normalised");
    let qk = |change: fn(&mut crate::decoder::QkNorm)| {
        move |d: &mut Decoder| attentions(d).for_each(|m| change(m.qk_norm.as_mut().unwrap()))
    };
    changed(
        "qwen3_defaults",
        qk(|n| std::mem::swap(&mut n.q, &mut n.k)),
        q,
        "the weight of another norm, model.layers.0.self_attn.k_norm",
    );
    changed("qwen3_defaults", qk(|n| n.q.eps = 1e-3), q, "epsilon is 1e-3");
    let rms = |e: &Evaluator<'_>, op: &Op, inputs: &[Rc<Known>], _: &[usize]| {
        let Operation::Norm { norm, groups } = &op.operation else { panic!() };
        let shape = norm::Shape { width: norm.width * groups, ..norm.into() };
        let scale = norm::scale(&inputs[0], shape);
        let weight: Vec<f64> = e.vector(&norm.weights[0]).unwrap();
        norm::weighted(&norm::normalized(&inputs[0], &scale, shape), Some(&weight), None, norm.width, 1)
    };
    otherwise("qwen3_defaults", "hook_q_normed", rms, q, "over all heads together");
}

#[test]
fn attention() {
    let scores = "blocks.0.attn.hook_attn_scores";
    let each = |change: fn(&mut crate::decoder::Attention)| move |d: &mut Decoder| attentions(d).for_each(change);
    changed("llama_plain", each(|m| m.scale = 1.0), scores, "by 1: no factor");
    changed("llama_plain", each(|m| m.scale *= 1.25), scores, "one factor, 1.250000");
    changed("gemma2_hub", each(|m| m.soft_cap = None), scores, "does not cap the scores");
    changed("mistral_window", each(|m| m.window = None), scores, "sees all positions before");
    changed("mistral_window", each(|m| m.window = m.window.map(|w| w + 1)), scores, "(off by one)");
    changed(
        "llama_plain",
        each(|m| m.window = Some(5)),
        scores,
        "a window of 5 positions, where A's config asks for all",
    );
    let grouped = |e: &Evaluator<'_>, op: &Op, inputs: &[Rc<Known>], rows: &[usize]| {
        let Operation::Scores { n_heads, n_kv_heads, head_dim, scale, soft_cap, window } = op.operation else {
            panic!()
        };
        let keys = super::attention::spread(&inputs[1], n_heads, n_kv_heads, head_dim);
        let operation = Operation::Scores { n_heads, n_kv_heads: n_heads, head_dim, scale, soft_cap, window };
        e.apply(&operation, &[Rc::clone(&inputs[0]), Rc::new(keys)], rows).unwrap()
    };
    otherwise("mistral_window", "hook_attn_scores", grouped, scores, "key-value head h mod");
    let open = |e: &Evaluator<'_>, op: &Op, inputs: &[Rc<Known>], rows: &[usize]| {
        let mut known = e.apply(&op.operation, inputs, rows).unwrap();
        known.values.iter_mut().for_each(|x| *x = x.max(-1.0));
        known
    };
    otherwise("llama_plain", "hook_attn_scores", open, scores, "its mask is not causal");
    changed("gpt_oss_hub", each(|m| m.sinks = None), "blocks.0.attn.hook_pattern", "leaves the sinks out");
    let warm = |_: &Evaluator<'_>, _: &Op, inputs: &[Rc<Known>], rows: &[usize]| {
        let scores = elementwise::scaled(&inputs[0], 0.5);
        crate::diff::exact::attention::pattern(&scores, rows.len(), rows.len(), None)
    };
    otherwise("llama_plain", "hook_pattern", warm, "blocks.0.attn.hook_pattern", "by 0.5000 before the softmax");
    let last = "blocks.3.attn.hook_z_gated";
    otherwise("qwen3_next_hub", "blocks.3.attn.hook_z_gated", copied, last, "does not multiply by the gate");
}

#[test]
fn feed_forwards() {
    let post = "blocks.0.mlp.hook_post";
    let gated = |change: fn(&mut crate::decoder::Gated)| {
        move |d: &mut Decoder| {
            for block in &mut d.blocks {
                match &mut block.ffn {
                    Ffn::Gated(gated) => change(gated),
                    _ => panic!(),
                }
            }
        }
    };
    changed(
        "llama_plain",
        gated(|f| f.act = Activation::Gelu),
        post,
        "activation is gelu (by the error function), where A's config asks for silu",
    );
    changed("gemma_hub", gated(|f| f.act = Activation::Gelu), post, "where A's config asks for gelu_pytorch_tanh");
    let swap = gated(|f| {
        for piece in f.inputs.iter_mut().flat_map(|p| &mut p.pieces) {
            piece.part = if piece.part == Part::Gate { Part::Up } else { Part::Gate };
        }
    });
    changed("llama_plain", swap, "blocks.0.mlp.hook_pre", "the two are swapped");
    changed("phi3_hub", swap, "blocks.0.mlp.hook_pre", "the two are swapped");
    let turn = |_: &Evaluator<'_>, _: &Op, inputs: &[Rc<Known>], _: &[usize]| {
        activation::gated(&inputs[1], &inputs[0], Activation::Silu)
    };
    otherwise("llama_plain", "hook_post", turn, post, "gate and up are swapped");
    let plain = |d: &mut Decoder| {
        d.blocks.iter_mut().for_each(|b| match &mut b.ffn {
            Ffn::Plain(plain) => plain.act = crate::decoder::Nonlinearity::Fixed(Activation::Relu),
            _ => panic!(),
        });
    };
    changed("gpt2_hub", plain, post, "activation is relu");
    changed(
        "qwen2_window",
        |d| attentions(d).for_each(|m| m.inputs[0].linear.bias = None),
        "blocks.0.attn.hook_q",
        "does not add the bias (model.layers.0.self_attn.q_proj.bias)",
    );
    changed("qwen3_head_differs", |d| d.head = Head::Tied, "logits", "multiplies with the embedding table");
    otherwise(
        "llama_plain",
        "hook_resid_mid",
        copied,
        "blocks.0.hook_resid_mid",
        "does not add blocks.0.hook_attn_out",
    );
    otherwise("granite_switches", "hook_attn_out", copied, "blocks.0.hook_attn_out", "leaves out the factor");
    let rounded = |d: &mut Decoder| d.embed.scale = bf16::from_f32(d.embed.scale).to_f32();
    changed("gemma_hub", rounded, "hook_embed", "rounded to bfloat16");
    changed("gemma_hub", |d| d.embed.scale = 1.0, "hook_embed", "does not multiply the embedding by a factor");
    let uncapped = |d: &mut Decoder| d.logits.soft_cap = None;
    changed("gemma2_hub", uncapped, "logits", "does not cap");
}

#[test]
fn mixtures() {
    let router = |change: fn(&mut crate::decoder::Router)| {
        move |d: &mut Decoder| {
            for block in &mut d.blocks {
                if let Ffn::Experts(experts) = &mut block.ffn {
                    change(&mut experts.router);
                }
            }
        }
    };
    let weights = "blocks.0.mlp.hook_chosen_weights";
    changed(
        "mixtral_hub",
        router(|r| r.normalise = Normalise::No),
        weights,
        "does not divide the weights of the chosen",
    );
    changed("olmoe_hub", router(|r| r.normalise = Normalise::Sum { plus: 0.0 }), weights, "norm_topk_prob");
    changed(
        "mixtral_hub",
        router(|r| r.scores = Scores::Sigmoid),
        "blocks.0.mlp.hook_expert_weights",
        "by a sigmoid of each",
    );
    let first = |case: &str| {
        let decoder = package(case).describe().unwrap();
        decoder.blocks.iter().position(|b| b.ffn.experts().is_some()).unwrap()
    };
    let i = first("deepseek_v3_hub");
    let at = |i: usize, last: &str| format!("blocks.{i}.mlp.{last}");
    changed(
        "deepseek_v3_hub",
        router(|r| r.correction_bias = None),
        &at(i, "hook_expert_indices"),
        "without the correction bias",
    );
    changed("deepseek_v3_hub", router(|r| r.scaling = 1.0), &at(i, "hook_chosen_weights"), "routed_scaling_factor");
    let unweighted = |e: &Evaluator<'_>, op: &Op, inputs: &[Rc<Known>], rows: &[usize]| {
        let ones = Known::exact(vec![1.0; inputs[2].len()]);
        e.apply(&op.operation, &[Rc::clone(&inputs[0]), Rc::clone(&inputs[1]), Rc::new(ones)], rows).unwrap()
    };
    otherwise("mixtral_hub", "hook_mlp_out", unweighted, "blocks.0.hook_mlp_out", "without their weights");
}

#[test]
fn patterns() {
    let map = |f: fn(usize, f64) -> f64| {
        move |e: &Evaluator<'_>, op: &Op, inputs: &[Rc<Known>], rows: &[usize]| {
            let mut known = e.apply(&op.operation, inputs, rows).unwrap();
            known.values.iter_mut().enumerate().for_each(|(i, x)| *x = f(i, *x));
            known
        }
    };
    let out = "blocks.0.hook_mlp_out";
    otherwise("llama_plain", "0.hook_mlp_out", map(|_, x| -x), out, "−1: the sign");
    otherwise("llama_plain", "0.hook_mlp_out", map(|_, _| 0.0), out, "zero");
    // Of 56 elements each.
    let vector = map(|i, x| x + (i % 56 % 5) as f64 * 0.01);
    otherwise("llama_plain", "0.hook_mlp_out", vector, out, "the same vector in every row");
    otherwise("llama_plain", "0.hook_mlp_out", map(|i, x| if i == 70 { f64::NAN } else { x }), out, "no numbers (NaN)");
    // Rows from 16 on, of 24.
    otherwise(
        "llama_plain",
        "0.hook_mlp_out",
        map(|i, x| if i >= 16 * 56 { x * x + 0.1 } else { x }),
        out,
        "from 16 on are wrong",
    );
    let heads = |e: &Evaluator<'_>, op: &Op, inputs: &[Rc<Known>], rows: &[usize]| {
        let known = e.apply(&op.operation, inputs, rows).unwrap();
        let [n, d] = op.shape[..] else { panic!() };
        let from = |i: usize| i / (n * d) * n * d + (n - 1 - i / d % n) * d + i % d;
        Known::exact((0..known.len()).map(|i| known.values[from(i)]).collect())
    };
    otherwise("llama_plain", "0.attn.hook_q", heads, "blocks.0.attn.hook_q", "in another order");
    // One element is no matter of angles.
    let one = map(|i, x| if i == 70 { 1.5 * x + 0.1 } else { x });
    otherwise("llama_plain", "0.attn.hook_rot_k", one, "blocks.0.attn.hook_rot_k", "Only position 1 is wrong");
    let noisy = map(|i, x| x * (1.0 + 2e-3 * f64::from((i * 7919 % 13) as u32) / 13.0 - 1e-3));
    otherwise("llama_plain", "0.hook_mlp_out", noisy, out, "no further off than it would be if");
}

#[test]
fn what_wrong_blocks_have_in_common_is_said() {
    let package = package("gemma3_hub");
    let decoder = package.describe().unwrap();
    let text = text(&decoder, 12);
    let mut other = decoder.clone();
    let local = attentions(&mut other).find_map(|m| m.window.is_some().then(|| m.rotary.unwrap().rope)).unwrap();
    other.ropes[local] = Rope::new(other.ropes[local].dim(), 77_000.0, RopeScaling::Default, 4096);
    let b = record(&package, &other, &text, &|_, _, _, _| None);
    let reports = examined(&package, &decoder, &text, &b);
    let notes = in_common(&reports, &decoder.kinds());
    assert!(
        notes.iter().any(|note| note.starts_with("attn.hook_rot_q differs in all blocks of one kind")),
        "{notes:?}"
    );
}
