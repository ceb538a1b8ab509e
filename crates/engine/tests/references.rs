//! Every reference checkpoint against transformers: logits, hidden states, frequencies, greedy texts.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop, and reports what it measured")]

mod common;

use common::{Case, cases, options};
use rheostat::hooks::{HookSet, Point};
use rheostat::rope::Rope;
use rheostat::{Input, Options, Package, Progress, Request, Sampling, Speculation, Text, Want, Writer, generate};

/// The bar for |difference|, in f32 over values of a few units: of the residual stream, whose values may be larger, for each
/// four units of their root mean square.
const BAR: f32 = 3e-5;

/// Cases that need more in their logits, and why.
const MORE: &[(&str, f32, &str)] = &[
    (
        "qwen3_next_hub",
        1.5e-4,
        "after four tokens of its longest prompt, a head of the delta rule gives next to nothing, which its norm then \
         enlarges: of transformers' own logits there, one rounding of the embedding changes up to 1e-4",
    ),
    (
        "qwen3_5_wrapper",
        1.5e-4,
        "as qwen3_next_hub, in the first row of a prompt: differences of 4e-6 before the norm are 4.5e-5 after it",
    ),
];

fn bar_of(case: &Case) -> f32 {
    MORE.iter().find(|(name, ..)| *name == case.name).map_or(BAR, |(_, bar, _)| *bar)
}

fn root_mean_square(values: &[f32]) -> f32 {
    (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt() as f32
}

#[track_caller]
fn largest_difference(what: &str, got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len(), "{what}");
    let mut largest = 0.0f32;
    for (g, w) in got.iter().zip(want) {
        assert!(g.is_finite(), "{what}: {g}");
        largest = largest.max((g - w).abs());
    }
    largest
}

fn top_10(row: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
    order.truncate(10);
    order
}

#[test]
fn logits_and_hidden_states_agree_with_transformers() {
    let mut worst = (0.0f32, String::new());
    for case in cases() {
        let hooks = [Point::ResidPost].into_iter().collect();
        let mut model = case.load(&Options { hooks, ..options() });
        let (vocab, hidden) = (model.decoder().vocab_size, model.decoder().hidden_size);
        let mut largest = [0.0f32; 3];
        for (prompt, tokens) in case.prompts() {
            let what = format!("{}, {prompt}", case.name);
            let tensor = |name: &str| case.tensors.get(&format!("{prompt}.{name}"));
            let mut sequence = model.sequence(tokens.len());
            let mut seen: Vec<Vec<f32>> = Vec::new();
            let mut hooks = HookSet::new(model.decoder());
            hooks.on("blocks.*.hook_resid_post", |_, rows| seen.push(rows.to_vec())).unwrap();
            let input = Input { sequence: &mut sequence, tokens: &tokens, want: Want::All };
            let output = model.forward_hooked(&mut [input], &mut hooks).unwrap();
            drop(hooks);
            let want = tensor("logits").unwrap();
            largest[0] = largest[0].max(largest_difference(&what, output.logits, want));
            for (row, (g, w)) in output.logits.chunks(vocab).zip(want.chunks(vocab)).enumerate() {
                assert_eq!(top_10(g), top_10(w), "{what}: the ten likeliest tokens after position {row}");
            }
            if let Some(want) = tensor("final_hidden") {
                assert_eq!(want.len(), tokens.len() * hidden);
                largest[1] = largest[1].max(largest_difference(&what, output.final_hidden, want));
            }
            for (i, got) in seen.iter().enumerate() {
                if let Some(want) = tensor(&format!("hidden.{i}")) {
                    let units = (root_mean_square(want) / 4.0).max(1.0);
                    let difference = largest_difference(&format!("{what}, block {i}"), got, want);
                    largest[2] = largest[2].max(difference / units);
                }
            }
        }
        println!(
            "{:30} logits {:.1e}, final hidden {:.1e}, blocks {:.1e}",
            case.name, largest[0], largest[1], largest[2]
        );
        for l in largest {
            assert!(l <= bar_of(&case), "{}: a difference of {l:e} from transformers", case.name);
            if l > worst.0 {
                worst = (l, case.name.clone());
            }
        }
    }
    println!("largest difference: {:.2e} in {}", worst.0, worst.1);
}

#[test]
fn rotary_frequencies_are_those_of_transformers() {
    let mut compared = 0;
    for case in cases() {
        let decoder = Package::open(&case.dir).unwrap().describe().unwrap();
        let lengths: std::collections::BTreeMap<String, usize> =
            case.prompts().into_iter().map(|(prompt, tokens)| (prompt, tokens.len())).collect();
        // `inv_freq`, or one for each kind of layers, `inv_freq.KIND`; with a prompt before it where its length decides.
        for (name, want) in &case.tensors {
            let (prompt, rest) = name.split_once(".inv_freq").map_or(("", name.as_str()), |(p, _)| (p, "inv_freq"));
            if !rest.starts_with("inv_freq") {
                continue;
            }
            let len = lengths.get(prompt).copied().unwrap_or(1);
            let close = |rope: &Rope| {
                let got = rope.frequencies(len);
                // torch's powers are within 1 ulp; with dynamic scaling the base itself is such a power.
                let ulps = if rope.depends_on_length() { 3 } else { 1 };
                let close = |(g, w): (&f32, &f32)| g.to_bits().abs_diff(w.to_bits()) <= ulps;
                got.len() == want.len() && got.iter().zip(want).all(close)
            };
            assert!(decoder.ropes.iter().any(close), "{} has no frequencies {want:?} for {len} tokens", case.name);
            compared += 1;
        }
        if let Some(scaling) = case.info["rope"]["attention_scaling"].as_f64() {
            assert!(decoder.ropes.iter().any(|rope| rope.attention_scaling(1) == scaling as f32), "{}", case.name);
        }
    }
    assert!(compared >= 32, "only {compared} sets of frequencies");
}

/// A greedy continuation that `reference.json` lists.
struct Continuation {
    prompt: Vec<u32>,
    new: Vec<u32>,
    max_new_tokens: usize,
    /// Whether an end token came; it is then the last of `new`.
    stopped: bool,
    /// The prompt and the continuation as texts, where there is a tokenizer.
    texts: Option<(String, String)>,
}

fn greedy(case: &Case) -> Vec<Continuation> {
    let ids = |v: &serde_json::Value| v.as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
    let continuation = |g: &serde_json::Value| Continuation {
        prompt: ids(&g["prompt_ids"]),
        new: ids(&g["new_ids"]),
        max_new_tokens: g["max_new_tokens"].as_u64().unwrap() as usize,
        stopped: g["stopped_by_eos"].as_bool().unwrap(),
        texts: g["prompt"].as_str().map(|p| (p.to_owned(), g["text"].as_str().unwrap().to_owned())),
    };
    case.info["greedy"].as_array().unwrap().iter().map(continuation).collect()
}

#[test]
fn greedy_texts_are_those_of_transformers() {
    let mut texts = 0;
    for case in cases() {
        let package = Package::open(&case.dir).unwrap();
        let config = package.generation_config().unwrap();
        let mut model = case.load(&Options { chunk: Some(7), ..options() });
        for Continuation { prompt, new: want, max_new_tokens, stopped, texts: in_words } in greedy(&case) {
            let sampling =
                Sampling { repetition_penalty: config.repetition_penalty.unwrap_or(1.0), ..Sampling::default() };
            let request = Request { max_new_tokens, eos: config.eos.clone(), sampling };
            let sequence = model.sequence(prompt.len());
            let mut text = Text::new(&model, sequence, prompt.clone(), request).unwrap();
            let mut seen = Vec::new();
            let finish = generate(&mut model, &mut Writer::new(Speculation::Off), &mut text, |token| {
                seen.push(token);
                Progress::Continue
            })
            .unwrap();
            assert_eq!(text.new_tokens(), want, "{}", case.name);
            assert_eq!(text.tokens(), [&prompt[..], &want].concat());
            assert_eq!(matches!(finish, rheostat::Finish::Eos(_)), stopped, "{}", case.name);
            assert_eq!(seen.len(), want.len() - usize::from(stopped), "an end token is not passed on");
            if let Some((prompt_text, decoded)) = in_words {
                texts += 1;
                let tokenizer = package.tokenizer().unwrap();
                use rheostat::tokenizer::{AddSpecial, ShowSpecial};
                assert_eq!(tokenizer.encode(&prompt_text, AddSpecial::Add).unwrap(), prompt, "{}", case.name);
                assert_eq!(tokenizer.decode(&want, ShowSpecial::Skip).unwrap(), decoded, "{}", case.name);
            }
        }
    }
    assert!(texts >= 12, "only {texts} continuations with a tokenizer");
}
