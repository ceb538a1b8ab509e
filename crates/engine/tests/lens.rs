//! Lenses and patches: what they say is what the pass computes, however many texts share a pass.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop, and says what it found")]

mod common;

use common::{Case, assert_bits, at_least, cases, options};
use rheostat::decoder::Decoder;
use rheostat::hooks::{Change, Edit, Edits, HookSet, Hooks, Point, PointInfo, Points, Positions, Values, matching};
use rheostat::lens::{Detail, Difference, PartKind, Target, attribution, logit_lens, patterns};
use rheostat::patch::{Experiment, Metric, Unit, patch, variants};
use rheostat::{Error, Input, Model, Options, Want};

fn hooked() -> Options {
    Options { hooks: Points::all(), ..options() }
}

/// The beginning of the longest prompt.
fn prompt(case: &Case) -> Vec<u32> {
    let mut tokens = case.prompts().into_iter().map(|(_, tokens)| tokens).max_by_key(Vec::len).unwrap();
    tokens.truncate(9);
    tokens
}

/// The logits after every position of `tokens`, and what `hooks` see.
fn read(model: &mut Model, tokens: &[u32], hooks: &mut dyn Hooks) -> Vec<f32> {
    let mut sequence = model.sequence(tokens.len());
    let input = Input { sequence: &mut sequence, tokens, want: Want::All };
    model.forward_hooked(&mut [input], hooks).unwrap().logits.to_vec()
}

/// The residual stream after the last block through the head, in rows of every size, in memory and streamed.
#[test]
fn the_head_alone_gives_the_bits_of_a_pass() {
    for case in cases() {
        let tokens = prompt(&case);
        for load in [hooked(), at_least(&case, &Options { weights: Some(1), tile: Some(1), ..hooked() })] {
            let mut model = case.load(&load);
            let mut last: Vec<f32> = Vec::new();
            let mut hooks = HookSet::new(model.decoder());
            let block = model.decoder().blocks.len() - 1;
            hooks.on(&Point::ResidPost.name(Some(block)), |_, rows| last.extend_from_slice(rows)).unwrap();
            let want = read(&mut model, &tokens, &mut hooks);
            drop(hooks);
            let hidden = model.decoder().hidden_size;
            for rows in [tokens.len(), 1, 4] {
                let mut got = Vec::new();
                for rows in last.chunks(rows * hidden) {
                    got.extend_from_slice(model.unembed(rows).unwrap().logits);
                }
                assert_bits(&format!("{}: {rows} rows", case.name), &got, &want);
            }
            // A pass after it is a pass as before.
            let again = read(&mut model, &tokens, &mut HookSet::new(&case_decoder(&case)));
            assert_bits(&case.name, &again, &want);
        }
    }
    let case = cases().swap_remove(0);
    let mut model = case.load(&hooked());
    assert!(matches!(model.unembed(&[]), Err(Error::NoResidual { .. })));
    assert!(matches!(model.unembed(&[0.0]), Err(Error::NoResidual { .. })));
    let many = vec![0.0; (model.max_logit_rows() + 1) * model.decoder().hidden_size];
    assert!(matches!(model.unembed(&many), Err(Error::TooManyRows { .. })));
}

fn case_decoder(case: &Case) -> Decoder {
    rheostat::Package::open(&case.dir).unwrap().describe().unwrap()
}

#[test]
fn the_lens_ends_with_what_the_model_says() {
    for case in cases() {
        let tokens = prompt(&case);
        let mut model = case.load(&hooked());
        let vocab = model.decoder().vocab_size;
        let blocks = model.decoder().blocks.len();
        let logits = read(&mut model, &tokens, &mut HookSet::new(&case_decoder(&case)));
        let positions: Vec<usize> = (0..tokens.len()).rev().collect();
        let mut told = Vec::new();
        let lens = logit_lens(&mut model, &tokens, &positions, Target::Next, 3, |n, all| told.push((n, all))).unwrap();
        assert_eq!(told.last(), Some(&((blocks + 1) * tokens.len(), (blocks + 1) * tokens.len())));
        assert_eq!(
            lens.rows.iter().map(|row| row.block).collect::<Vec<_>>(),
            (0..=blocks).map(|b| b.checked_sub(1)).collect::<Vec<_>>()
        );
        let last = lens.rows.last().unwrap();
        for (i, position) in positions.iter().enumerate() {
            let row = &logits[position * vocab..(position + 1) * vocab];
            let mut order: Vec<u32> = (0..vocab as u32).collect();
            order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
            let cell = &last.cells[i];
            assert_eq!(cell.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), order[..3], "{}", case.name);
            let next = tokens.get(position + 1).copied().unwrap_or(order[0]);
            assert_eq!(lens.targets[i], next, "{}", case.name);
            assert_eq!(order[cell.rank - 1], next, "{}", case.name);
            let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            let want = f64::from(row[next as usize]) - sum.ln();
            assert!((cell.log_probability - want).abs() < 1e-9 * want.abs().max(1.0), "{}", case.name);
        }
        // The likeliest token after the end is asked about everywhere.
        let end = &lens.rows.iter().map(|row| &row.cells[0]).collect::<Vec<_>>();
        for cell in end {
            let own = cell.top.iter().find(|(token, _)| *token == lens.targets[0]);
            assert!(own.is_none_or(|(_, p)| (p.ln() - cell.log_probability).abs() < 1e-9), "{}", case.name);
            assert_eq!(cell.rank == 1, cell.top[0].0 == lens.targets[0], "{}", case.name);
        }
        // In other passes, and of one token alone.
        let token = tokens[0];
        let mut other = case.load(&Options { chunk: Some(2), ..hooked() });
        let one = logit_lens(&mut other, &tokens, &positions, Target::Token(token), 3, |_, _| {}).unwrap();
        for (a, b) in lens.rows.iter().zip(&one.rows) {
            assert!(a.cells.iter().zip(&b.cells).all(|(a, b)| a.top == b.top), "{}", case.name);
        }
    }
}

/// What is added is all there is, and the heads are the mixer.
#[test]
fn parts_add_up_to_the_logit() {
    let mut worst = (0.0f64, String::new());
    for case in cases() {
        let tokens = prompt(&case);
        let mut model = case.load(&hooked());
        let vocab = model.decoder().vocab_size;
        let logits = read(&mut model, &tokens, &mut HookSet::new(&case_decoder(&case)));
        let position = tokens.len() - 2;
        let row = &logits[position * vocab..(position + 1) * vocab];
        let what = Difference { of: Some(3), against: Some(5) };
        let own = f64::from(row[3]) - f64::from(row[5]);
        let blocks = attribution(&mut model, &tokens, position, what, Detail::Blocks).unwrap();
        let heads = attribution(&mut model, &tokens, position, what, Detail::Heads).unwrap();
        for found in [&blocks, &heads] {
            let size = found.parts.iter().map(|part| part.value.abs()).sum::<f64>().max(1.0);
            let off = (found.sum - found.logit).abs() / size;
            assert!(off < 2e-5, "{}: {} of {}", case.name, found.sum, found.logit);
            if off > worst.0 {
                worst = (off, case.name.clone());
            }
            assert_eq!(found.capped.unwrap_or(found.logit), own, "{}", case.name);
            assert_eq!(found.of, 3);
        }
        let of = |found: &rheostat::lens::Attribution, block: usize, is: &dyn Fn(PartKind) -> bool| -> f64 {
            found.parts.iter().filter(|p| p.block == Some(block) && is(p.kind)).map(|p| p.value).sum()
        };
        for block in 0..model.decoder().blocks.len() {
            let mixer = of(&blocks, block, &|kind| kind == PartKind::Mixer);
            let all = of(&heads, block, &|kind| kind != PartKind::FeedForward);
            assert!((mixer - all).abs() < 1e-4 * mixer.abs().max(1.0), "{}: {mixer}, {all}", case.name);
        }
        // Of the likeliest token, alone.
        let alone = Difference { of: None, against: None };
        let found = attribution(&mut model, &tokens, position, alone, Detail::Blocks).unwrap();
        assert!(row.iter().all(|x| *x <= row[found.of as usize]), "{}", case.name);
        let beyond = Difference { of: Some(vocab as u32), against: None };
        assert!(attribution(&mut model, &tokens, position, beyond, Detail::Blocks).is_err());
    }
    println!("furthest off: {:.1e} of what is added, in {}", worst.0, worst.1);
}

#[test]
fn patterns_are_those_of_the_pass() {
    for case in cases().into_iter().step_by(5) {
        let tokens = prompt(&case);
        let mut model = case.load(&hooked());
        let Ok(found) = matching(model.decoder(), "blocks.*.attn.hook_pattern") else { continue };
        let block = found[0].block.unwrap();
        let mut seen: Vec<Vec<f32>> = Vec::new();
        let mut hooks = HookSet::new(model.decoder());
        hooks.on(&found[0].name, |_, row| seen.push(row.to_vec())).unwrap();
        read(&mut model, &tokens, &mut hooks);
        drop(hooks);
        let mut other = case.load(&Options { chunk: Some(2), ..hooked() });
        let patterns = patterns(&mut other, &tokens, block).unwrap();
        assert_eq!(Some(patterns.heads), found[0].shape.heads());
        for (position, row) in seen.iter().enumerate() {
            for (head, weights) in row.chunks(position + 1).enumerate() {
                assert_bits(&case.name, &patterns.rows[head][position], weights);
            }
        }
    }
}

/// Two texts that differ in their third and in their last token but one.
fn pair(case: &Case) -> (Vec<u32>, Vec<u32>) {
    let clean = prompt(case);
    let mut corrupted = clean.clone();
    for at in [2, clean.len() - 2] {
        corrupted[at] = clean[at] ^ 1;
    }
    (clean, corrupted)
}

/// One patch by itself, the plain way.
fn patched_alone(model: &mut Model, clean: &[u32], corrupted: &[u32], info: &PointInfo, unit: Unit, at: usize) -> f64 {
    let mut rows: Vec<(usize, Vec<f32>)> = Vec::new();
    let mut hooks = HookSet::new(model.decoder());
    hooks
        .on(&info.name, |site, values| {
            for (row, values) in site.rows.iter().zip(values.chunks(site.row_len())) {
                rows.push((row.position, values.to_vec()));
            }
        })
        .unwrap();
    read(model, clean, &mut hooks);
    drop(hooks);
    let (positions, heads) = match unit {
        Unit::Position => (Positions::one(at), None),
        Unit::Head => (Positions::all(), Some(vec![at])),
    };
    let places = vec![(info.point, info.block, Change::Replace(Values::Rows(rows)))];
    let edit = Edit { places, heads, positions, during: Default::default() };
    let logits = read(model, corrupted, &mut Edits::new(vec![edit], corrupted.len()).unwrap());
    let last = &logits[logits.len() - model.decoder().vocab_size..];
    f64::from(last[7]) - f64::from(last[11])
}

#[test]
fn patches_are_the_same_together_and_alone() {
    for (turn, case) in cases().into_iter().step_by(2).enumerate() {
        let (clean, corrupted) = pair(&case);
        let decoder = case_decoder(&case);
        let mut alone = case.load(&hooked());
        for (which, (pattern, unit)) in [
            ("blocks.*.hook_resid_post", Unit::Position),
            ("blocks.*.hook_mlp_out", Unit::Position),
            ("hook_embed", Unit::Position),
            ("blocks.*.attn.hook_z", Unit::Head),
            ("blocks.*.attn.hook_pattern", Unit::Head),
        ]
        .into_iter()
        .enumerate()
        {
            let Ok(sites) = matching(&decoder, pattern) else { continue };
            if unit == Unit::Head && sites.iter().all(|info| info.shape.heads().is_none()) {
                continue;
            }
            let metric = Metric::LogitDifference(7, 11);
            let experiment = Experiment { clean: &clean, corrupted: &corrupted, sites, unit, metric };
            assert_eq!(experiment.first(), 2);
            let mut runs = Vec::new();
            // One by one, and together in turns: five patterns of each case.
            let together = match (turn + which) % 3 {
                0 => Options { chunk: Some(16), sequences: 3, ..hooked() },
                1 => Options { sequences: 40, ..hooked() },
                _ => at_least(&case, &Options { weights: Some(1), tile: Some(1), sequences: 4, ..hooked() }),
            };
            for load in [Options { sequences: 1, ..hooked() }, together] {
                // Logits of the last positions are enough.
                let load = Options { logits: rheostat::LogitRows::Last, ..load };
                let mut told = Vec::new();
                let found = patch(&mut case.load(&load), &experiment, |n, all| told.push((n, all))).unwrap();
                assert_eq!(told.last(), Some(&(experiment.copies(), experiment.copies())));
                runs.push(found);
            }
            assert!(runs.windows(2).all(|pair| pair[0] == pair[1]), "{} {pattern}", case.name);
            let found = &runs[0];
            assert_eq!(found.values.len(), experiment.sites.len());
            for (info, values) in experiment.sites.iter().zip(&found.values) {
                for (at, value) in values.iter().enumerate() {
                    let is_there = unit == Unit::Position || info.shape.heads().is_some_and(|heads| at < heads);
                    assert_eq!(value.is_some(), is_there);
                    let Some(value) = value else { continue };
                    let want = patched_alone(&mut alone, &clean, &corrupted, info, unit, at);
                    assert_eq!(*value, want, "{} {} {at}", case.name, info.name);
                }
            }
            if pattern.ends_with("resid_post") {
                let last = found.values.last().unwrap();
                let shares: Vec<f64> = last.iter().map(|value| found.share(value.unwrap())).collect();
                let (end, before) = shares.split_last().unwrap();
                assert_eq!(*end, 1.0, "{}: all that the model says comes from there", case.name);
                assert!(before.iter().all(|share| *share == 0.0), "{}: nothing does", case.name);
            }
        }
    }
}

#[test]
fn what_cannot_be_patched_is_refused() {
    let case = cases().into_iter().find(|case| case.name == "qwen3_tied").unwrap();
    let mut model = case.load(&hooked());
    let (clean, corrupted) = pair(&case);
    let decoder = case_decoder(&case);
    let site = |name: &str| matching(&decoder, name).unwrap();
    let try_it =
        |model: &mut Model, clean: &[u32], corrupted: &[u32], sites: Vec<PointInfo>, unit: Unit, token: u32| {
            let metric = Metric::LogProbability(token);
            patch(model, &Experiment { clean, corrupted, sites, unit, metric }, |_, _| {}).map(drop)
        };
    let resid = || site("blocks.*.hook_resid_post");
    let error = try_it(&mut model, &clean, &corrupted[1..], resid(), Unit::Position, 1);
    assert!(matches!(error, Err(Error::PatchLengths { clean: 9, corrupted: 8 })));
    assert!(matches!(try_it(&mut model, &clean, &clean, resid(), Unit::Position, 1), Err(Error::PatchNothing)));
    let error = try_it(&mut model, &clean, &corrupted, site("ln_final.hook_out"), Unit::Position, 1);
    assert!(matches!(error, Err(Error::PatchAfterBlocks { .. })));
    assert!(matches!(try_it(&mut model, &clean, &corrupted, resid(), Unit::Head, 1), Err(Error::PatchNoHeads { .. })));
    let error = try_it(&mut model, &clean, &corrupted, resid(), Unit::Position, 10_000);
    assert!(matches!(error, Err(Error::TokenOutOfRange { .. })));
    assert!(try_it(&mut model, &clean, &corrupted, resid(), Unit::Position, 1).is_ok());
}

/// Each set of changes has its own effect, whoever shares its pass.
#[test]
fn variants_are_the_same_together_and_alone() {
    for case in cases().into_iter().step_by(3) {
        let tokens = prompt(&case);
        let decoder = case_decoder(&case);
        let sites = matching(&decoder, "blocks.*.hook_resid_post").unwrap();
        let edits = |scale: f32| {
            let vector = (0..decoder.hidden_size).map(|k| (k as f32 * 0.37).sin()).collect();
            let place = |info: &PointInfo| (info.point, info.block, Change::Add(Values::Same(vector), scale));
            let places = vec![place(&sites[0])];
            let positions: Positions = "3:5,-1".parse().unwrap();
            Edits::new(vec![Edit { places, heads: None, positions, during: Default::default() }], tokens.len()).unwrap()
        };
        let scales = [-2.0, 0.0, 0.5, 1.0, 3.0];
        let metric = Some(Metric::LogitDifference(7, 11));
        let mut runs = Vec::new();
        for (sequences, chunk) in [(1, None), (2, Some(6)), (5, None)] {
            let load = Options { sequences, chunk, logits: rheostat::LogitRows::Last, ..hooked() };
            let all = scales.iter().map(|scale| edits(*scale)).collect();
            runs.push(variants(&mut case.load(&load), &tokens, all, metric, 3, |_| {}).unwrap());
        }
        assert!(runs.windows(2).all(|pair| pair[0] == pair[1]), "{}", case.name);
        let mut model = case.load(&hooked());
        for (scale, found) in scales.iter().zip(&runs[0]) {
            let logits = read(&mut model, &tokens, &mut edits(*scale));
            let last = &logits[logits.len() - decoder.vocab_size..];
            assert_eq!(found.metric, Some(f64::from(last[7]) - f64::from(last[11])), "{} {scale}", case.name);
            assert!(last.iter().all(|x| *x <= last[found.top[0].0 as usize]));
        }
        assert!(runs[0].windows(2).all(|pair| pair[0] != pair[1]), "{}: factors matter", case.name);
    }
}
