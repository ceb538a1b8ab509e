//! Hook points: what is seen is what is computed, whatever the passes; what is put back changes no bit.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop, and says what it found")]

mod common;

use std::collections::BTreeMap;

use common::{Case, assert_bits, at_least, cases, options};
use rheostat::hooks::{HookSet, Hooks, Point, Points, Shape, Site, catalog, matching, points_of};
use rheostat::{Error, Input, Model, Options, Want};

/// Values by the names of points, then by row: each row on its own, since patterns grow.
type Rows = BTreeMap<String, Vec<Vec<f32>>>;

/// Keeps all it sees, and writes every value back as a new one.
#[derive(Default)]
struct Everything(Rows);

impl Hooks for Everything {
    fn points(&self) -> Points {
        Points::all()
    }

    fn wants(&self, _: Point, _: Option<usize>) -> bool {
        true
    }

    fn at(&mut self, site: &Site<'_>, values: &mut [f32]) -> Result<(), Error> {
        assert_eq!(values.len(), site.rows.len() * site.row_len(), "{}", site.name());
        let kept = self.0.entry(site.name()).or_default();
        for (row, values) in site.rows.iter().zip(values.chunks_exact(site.row_len())) {
            assert_eq!(row.position, kept.len(), "{}: rows in order", site.name());
            kept.push(values.to_vec());
        }
        if site.point.can_be_changed() {
            let copy = values.to_vec();
            values.fill(f32::NAN);
            values.copy_from_slice(&copy);
        }
        Ok(())
    }
}

fn hooked() -> Options {
    Options { hooks: Points::all(), ..options() }
}

/// One text, in pieces of so many tokens.
fn read(model: &mut Model, tokens: &[u32], piece: usize, hooks: &mut dyn Hooks) -> Vec<f32> {
    let mut sequence = model.sequence(tokens.len());
    let mut logits = Vec::new();
    for tokens in tokens.chunks(piece) {
        let input = Input { sequence: &mut sequence, tokens, want: Want::All };
        logits.extend_from_slice(model.forward_hooked(&mut [input], hooks).unwrap().logits);
    }
    logits
}

/// The beginning of the longest prompt.
fn prompt(case: &Case) -> Vec<u32> {
    let mut tokens = case.prompts().into_iter().map(|(_, tokens)| tokens).max_by_key(Vec::len).unwrap();
    tokens.truncate(11);
    tokens
}

#[test]
fn what_is_seen_is_what_is_computed() {
    for case in cases() {
        let tokens = prompt(&case);
        let mut model = case.load(&hooked());
        let mut sequence = model.sequence(tokens.len());
        let input = Input { sequence: &mut sequence, tokens: &tokens, want: Want::All };
        let want = model.forward(&mut [input]).unwrap().logits.to_vec();
        let mut whole = Everything::default();
        let got = read(&mut model, &tokens, tokens.len(), &mut whole);
        assert_bits(&format!("{}: values put back", case.name), &got, &want);
        let mut names = Vec::new();
        for info in catalog(model.decoder()) {
            let rows = whole.0.get(&info.name).unwrap_or_else(|| panic!("{}: {} was not seen", case.name, info.name));
            assert_eq!(rows.len(), tokens.len(), "{}: {}", case.name, info.name);
            for (r, row) in rows.iter().enumerate() {
                assert_eq!(row.len(), info.shape.row_len(r + 1), "{}: {}, row {r}", case.name, info.name);
            }
            names.push(info.name);
        }
        assert!(whole.0.keys().all(|name| names.contains(name)), "{}: points that no list has", case.name);
        // Token after token, under the cache, and in pieces; with weights that stream.
        let few =
            Options { weights: Some(4000), tile: Some(2000), threads: std::num::NonZeroUsize::new(2), ..hooked() };
        let mut streamed = case.load(&at_least(&case, &few));
        for piece in [1, 4, 5] {
            let mut pieces = Everything::default();
            read(if piece == 5 { &mut streamed } else { &mut model }, &tokens, piece, &mut pieces);
            for (name, rows) in &whole.0 {
                for (r, (got, want)) in pieces.0[name].iter().zip(rows).enumerate() {
                    assert_bits(&format!("{}: {name}, row {r}, in pieces of {piece}", case.name), got, want);
                }
            }
        }
    }
}

/// Tensors that belong together, as a user would check it.
#[test]
fn points_add_up() {
    for case in cases() {
        let tokens = prompt(&case);
        let mut model = case.load(&hooked());
        let mut all = Everything::default();
        read(&mut model, &tokens, tokens.len(), &mut all);
        let row = |name: &str, r: usize| all.0.get(name).map(|rows| rows[r].as_slice());
        let close = |what: &str, got: f32, want: f32, scale: f32| {
            assert!((got - want).abs() <= 2e-5 * scale.max(1.0), "{}: {what}: {got} for {want}", case.name);
        };
        for i in 0..model.decoder().blocks.len() {
            let at = |suffix: &str, r: usize| row(&format!("blocks.{i}.{suffix}"), r);
            for r in 0..tokens.len() {
                let (pre, post) = (at("hook_resid_pre", r).unwrap(), at("hook_resid_post", r).unwrap());
                let (attn, mlp) = (at("hook_attn_out", r).unwrap(), at("hook_mlp_out", r).unwrap());
                for k in 0..pre.len() {
                    close("what is added", pre[k] + attn[k] + mlp[k], post[k], post[k].abs() + attn[k].abs());
                }
                for ln in ["ln1", "ln2"] {
                    if let Some(scale) = at(&format!("{ln}.hook_scale"), r) {
                        let normalized = at(&format!("{ln}.hook_normalized"), r).unwrap();
                        let mean = normalized.iter().map(|x| x * x).sum::<f32>() / normalized.len() as f32;
                        assert!(scale[0] > 0.0 && (0.5..1.001).contains(&mean), "{}: {ln} {mean}", case.name);
                    }
                }
                if let (Some(scores), Some(pattern)) = (at("attn.hook_attn_scores", r), at("attn.hook_pattern", r)) {
                    for (scores, pattern) in scores.chunks(r + 1).zip(pattern.chunks(r + 1)) {
                        let sum: f32 = pattern.iter().sum();
                        assert!(sum > 0.0 && sum < 1.0 + 1e-6 && scores[r].is_finite(), "{}: {sum}", case.name);
                        let hidden = scores.iter().zip(pattern).filter(|(s, _)| **s == f32::NEG_INFINITY);
                        hidden.for_each(|(_, p)| assert_eq!(*p, 0.0));
                    }
                }
                if let Some(result) = at("attn.hook_result", r) {
                    let out = at("attn.hook_out", r).unwrap_or(attn);
                    let first = at("attn.hook_out", 0).unwrap_or(at("hook_attn_out", 0).unwrap());
                    let sum = |result: &[f32], k: usize| result.chunks(pre.len()).map(|head| head[k]).sum::<f32>();
                    // The bias, if there is one, is the same in every row.
                    for k in 0..pre.len() {
                        let bias = first[k] - sum(at("attn.hook_result", 0).unwrap(), k);
                        close("heads", sum(result, k) + bias, out[k], 4.0 * out[k].abs());
                    }
                }
            }
        }
    }
}

/// A changed value changes what follows, and only that.
#[test]
fn what_is_changed_is_what_follows() {
    for case in cases() {
        let tokens = prompt(&case);
        let mut model = case.load(&hooked());
        let mut before = Everything::default();
        let want = read(&mut model, &tokens, tokens.len(), &mut before);
        let last = model.decoder().blocks.len() - 1;
        let changed: Vec<_> = catalog(model.decoder())
            .into_iter()
            .filter(|info| info.point.can_be_changed() && info.block.is_none_or(|block| block == last))
            .collect();
        for info in changed {
            let at = tokens.len() - 1;
            let mut hooks = HookSet::new(model.decoder());
            let shape = info.shape.clone();
            hooks
                .on(&info.name, move |site, values| {
                    let len = site.row_len();
                    for (_, row) in site.rows.iter().zip(values.chunks_mut(len)).filter(|(r, _)| r.position == at) {
                        match shape {
                            // All to the first position.
                            Shape::Keys(heads) => row.chunks_mut(len / heads).for_each(|head| {
                                head.fill(if site.point == Point::Pattern { 0.0 } else { f32::NEG_INFINITY });
                                head[0] = 1.0;
                            }),
                            // Others are chosen.
                            Shape::Rows(_) if site.point == Point::RouterLogits => {
                                row.iter_mut().for_each(|x| *x = -*x);
                            }
                            Shape::Rows(_) => row.iter_mut().enumerate().for_each(|(k, x)| *x += 0.5 + 0.17 * k as f32),
                        }
                    }
                })
                .unwrap();
            let got = read(&mut model, &tokens, tokens.len(), &mut hooks);
            drop(hooks);
            let vocab = model.decoder().vocab_size;
            let (got, want) = (got.split_at(at * vocab), want.split_at(at * vocab));
            assert_bits(&format!("{}: rows before, {}", case.name, info.name), got.0, want.0);
            assert!(got.1.iter().all(|x| x.is_finite()), "{}: {}", case.name, info.name);
            assert!(got.1 != want.1, "{}: {} is not used", case.name, info.name);
        }
        let again = read(&mut model, &tokens, tokens.len(), &mut Everything::default());
        assert_bits(&format!("{}: nothing is left of it", case.name), &again, &want);
    }
}

/// A row without any edge gives zeros.
#[test]
fn a_row_that_sees_nothing() {
    for case in cases().into_iter().take(12) {
        let tokens = prompt(&case);
        let mut model = case.load(&hooked());
        let decoder = model.decoder().clone();
        let Ok(found) = matching(&decoder, "blocks.*.attn.hook_attn_scores") else { continue };
        let block = found[0].block.unwrap();
        let (mut pattern, mut z) = (Vec::new(), Vec::new());
        let mut hooks = HookSet::new(&decoder);
        let name = |suffix: &str| format!("blocks.{block}.attn.{suffix}");
        let all = |_: &Site<'_>, values: &mut [f32]| values.fill(f32::NEG_INFINITY);
        hooks.on(&name("hook_attn_scores"), all).unwrap();
        hooks.on(&name("hook_pattern"), |_, values| pattern.extend_from_slice(values)).unwrap();
        hooks.on(&name("hook_z"), |_, values| z.extend_from_slice(values)).unwrap();
        let logits = read(&mut model, &tokens, tokens.len(), &mut hooks);
        drop(hooks);
        assert!(!z.is_empty() && z.iter().chain(&pattern).all(|x| *x == 0.0), "{}", case.name);
        assert!(logits.iter().all(|x| x.is_finite()), "{}", case.name);
    }
}

#[test]
fn names_that_do_not_exist_and_points_that_were_not_planned() {
    let case = cases().swap_remove(0);
    let mut model = case.load(&Options { hooks: [Point::ResidPost].into_iter().collect(), ..options() });
    let mut hooks = HookSet::new(model.decoder());
    let error = hooks.on("blocks.*.hook_resid_pots", |_, _| {}).err().unwrap().to_string();
    assert!(error.contains("blocks.0.hook_resid_post"), "{error}");
    hooks.on("blocks.0.attn.hook_z", |_, _| {}).unwrap();
    let mut sequence = model.sequence(1);
    let input = Input { sequence: &mut sequence, tokens: &[1], want: Want::All };
    let error = model.forward_hooked(&mut [input], &mut hooks).err().unwrap();
    assert!(matches!(error, Error::PointNotPlanned { point: Point::Z }), "{error}");
    assert!(!points_of(model.decoder()).is_empty());
}

/// An error of a hook ends the pass, and the sequence is as it was.
#[test]
fn a_hook_may_fail() {
    for case in cases().into_iter().step_by(7) {
        let tokens = prompt(&case);
        let mut model = case.load(&hooked());
        let want = read(&mut model, &tokens, tokens.len(), &mut Everything::default());
        let mut hooks = HookSet::new(model.decoder());
        let last = model.decoder().blocks.len() - 1;
        hooks.try_on(&format!("blocks.{last}.hook_mlp_out"), |_, _| Err(Error::Cancelled)).unwrap();
        let mut sequence = model.sequence(tokens.len());
        let input = Input { sequence: &mut sequence, tokens: &tokens, want: Want::All };
        assert!(matches!(model.forward_hooked(&mut [input], &mut hooks), Err(Error::Cancelled)));
        assert_eq!(sequence.len(), 0);
        let input = Input { sequence: &mut sequence, tokens: &tokens, want: Want::All };
        let got = model.forward(&mut [input]).unwrap().logits.to_vec();
        assert_bits(&case.name, &got, &want);
    }
}

/// Hooks that stay see every pass, of generation as well.
#[test]
fn hooks_that_stay() {
    let case = cases().swap_remove(0);
    let tokens = prompt(&case);
    let mut model = case.load(&hooked());
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut hooks = HookSet::new(model.decoder());
    hooks.on("hook_embed", move |site, _| site.rows.iter().for_each(|r| sender.send(r.position).unwrap())).unwrap();
    assert!(model.set_hooks(Some(Box::new(hooks))).unwrap().is_none());
    let mut sequence = model.sequence(tokens.len());
    model.prefill(&mut sequence, &tokens).unwrap();
    model.prefill(&mut sequence, &tokens[..1]).unwrap();
    assert!(model.set_hooks(None).unwrap().is_some());
    model.prefill(&mut sequence, &tokens[..1]).unwrap();
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), (0..=tokens.len()).collect::<Vec<_>>());
}
