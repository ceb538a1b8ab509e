//! `rheostat hooks` and `rheostat trace`: what is captured is whole, and changes do what they say.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::refusals::{Refusal, check_all};
use common::{dir, succeed, tensors};
use serde_json::Value;

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

const TOKENS: &str = "3,14,15,9,2,6,5";

/// A trace of a checkpoint, and what was printed.
fn trace(case: &str, scratch: &Path, flags: &[&str]) -> (Tensors, Value) {
    let out = scratch.join("trace.safetensors");
    let model = dir(case);
    let flags = [&["trace", &model, "--tokens", TOKENS, "--json", "-o", out.to_str().unwrap()], flags].concat();
    let printed = succeed(&flags).json();
    (tensors(&out), printed)
}

#[test]
fn every_point_of_the_list_is_captured() {
    let scratch = tempfile::tempdir().unwrap();
    for case in ["text_qwen3", "gpt2_switches", "qwen3_next_hub", "deepseek_v2_hub", "lfm2_hub", "gpt_oss_switches"] {
        let (whole, printed) = trace(case, scratch.path(), &["--capture", "*"]);
        let listed = succeed(&["hooks", &dir(case), "--json"]).json();
        let listed = listed.as_array().unwrap();
        assert_eq!(listed.len(), whole.len(), "{case}");
        assert_eq!(printed["tensors"].as_array().unwrap().len(), whole.len(), "{case}");
        for point in listed {
            let name = point["name"].as_str().unwrap();
            let dims = point["shape"].as_array().unwrap().iter();
            let dims: Vec<usize> = dims.map(|dim| dim.as_u64().map_or(7, |dim| dim as usize)).collect();
            assert_eq!(whole[name].0, dims, "{case}: {name}");
        }
        // In pieces, by one thread, in memory that weights stream through: the same bits.
        for flags in
            [&["--chunk", "2"][..], &["--chunk", "1", "--threads", "1"], &["--kv-cache", "f32", "--io", "buffered"]]
        {
            let (other, _) = trace(case, scratch.path(), &[&["--capture", "*"], flags].concat());
            assert_eq!(bits(&other), bits(&whole), "{case} {flags:?}");
        }
        let (some, _) = trace(case, scratch.path(), &["--capture", "blocks.1.*", "--positions", "1,-2:"]);
        for (name, (shape, values)) in &some {
            let (of, all) = &whole[name];
            if name.ends_with("attn_scores") || name.ends_with("pattern") {
                // [head, row, key]
                let row = |of: usize, r: usize, values: &[f32]| values[r * 7..(r + 1) * 7][..of].to_vec();
                assert_eq!((shape[1], shape[2]), (3, 7), "{case}: {name}");
                assert_eq!(row(7, 1, values), row(7, 5, all), "{case}: {name}");
                continue;
            }
            assert_eq!((shape[0], of[0]), (3, 7), "{case}: {name}");
            let len = all.len() / 7;
            let want: Vec<f32> = [1, 5, 6].iter().flat_map(|r| &all[r * len..(r + 1) * len]).copied().collect();
            assert_eq!(values, &want, "{case}: {name}");
        }
    }
}

fn bits(tensors: &Tensors) -> BTreeMap<&String, Vec<u32>> {
    tensors.iter().map(|(name, (_, values))| (name, values.iter().map(|v| v.to_bits()).collect())).collect()
}

/// What is written is read one by one, and what is captured on the way is what a prompt of the whole text gives.
#[test]
fn generation_is_captured_as_it_goes() {
    let scratch = tempfile::tempdir().unwrap();
    for case in ["text_qwen3", "qwen3_next_hub", "mistral_window"] {
        let (grown, printed) = trace(case, scratch.path(), &["--capture", "*", "-n", "4"]);
        let mut text: Vec<String> = TOKENS.split(',').map(str::to_owned).collect();
        let new = printed["new_tokens"].as_array().unwrap();
        text.extend(new[..new.len() - 1].iter().map(ToString::to_string));
        let out = scratch.path().join("whole.safetensors");
        succeed(&["trace", &dir(case), "--tokens", &text.join(","), "--capture", "*", "-o", out.to_str().unwrap()]);
        assert_eq!(bits(&grown), bits(&tensors(&out)), "{case}");
    }
}

#[test]
fn changes_do_what_they_say() {
    let scratch = tempfile::tempdir().unwrap();
    let other = scratch.path().join("other.safetensors");
    let other = other.to_str().unwrap();
    let case = "text_qwen3";
    succeed(&["trace", &dir(case), "--tokens", "8,8,1,0,2", "--capture", "*", "-o", other]);
    let theirs = tensors(Path::new(other));
    let (own, _) = trace(case, scratch.path(), &["--capture", "*"]);
    let last = |flags: &[&str], name: &str| {
        let (tensors, _) = trace(case, scratch.path(), &[&["--capture", "*"], flags].concat());
        tensors[name].1.clone()
    };
    let row = |values: &[f32], of: &Tensors, name: &str, r: usize| {
        let len = of[name].1.len() / of[name].0[0];
        values[r * len..(r + 1) * len].to_vec()
    };
    let resid = "blocks.1.hook_resid_post";
    let own_row = |r: usize| row(&own[resid].1, &own, resid, r);
    let their_row = |r: usize| row(&theirs[resid].1, &theirs, resid, r);
    let patched = |text: &str| last(&["--patch", text], resid);
    assert_eq!(row(&patched(&format!("{resid}@4={other}")), &own, resid, 4), their_row(4));
    assert_eq!(row(&patched(&format!("{resid}@6={other}@2")), &own, resid, 6), their_row(2));
    assert_eq!(row(&patched(&format!("{resid}@5,6={other}:{resid}@1,2")), &own, resid, 6), their_row(2));
    assert_eq!(row(&patched(&format!("{resid}@5,6={other}:{resid}@1,2")), &own, resid, 4), own_row(4));
    let scaled = last(&["--scale", &format!("{resid}@-1=0.5")], resid);
    assert_eq!(row(&scaled, &own, resid, 6), own_row(6).iter().map(|x| x * 0.5).collect::<Vec<_>>());
    let steered = last(&["--add", &format!("{resid}@3=2*{other}@0")], resid);
    let want: Vec<f32> = own_row(3).iter().zip(their_row(0)).map(|(a, b)| a + 2.0 * b).collect();
    assert_eq!(row(&steered, &own, resid, 3), want);
    let mean = last(&["--mean", &format!("{resid}={other}")], resid);
    for (k, got) in row(&mean, &own, resid, 2).iter().enumerate() {
        let want: f32 = (0..5).map(|r| their_row(r)[k]).sum::<f32>() / 5.0;
        assert!((got - want).abs() <= 1e-6 * want.abs().max(1.0), "{got} for {want}");
    }
    let z = "blocks.0.attn.hook_z";
    let zeroed = last(&["--zero", &format!("{z}[1]@2:")], z);
    let (heads, width) = (own[z].0[1], own[z].0[2]);
    for (i, (got, own)) in zeroed.iter().zip(&own[z].1).enumerate() {
        let (r, head) = (i / (heads * width), i / width % heads);
        assert_eq!(*got, if head == 1 && r >= 2 { 0.0 } else { *own }, "row {r}, head {head}");
    }
    // [head, row, key]
    let pattern = last(&["--knockout", "blocks.0.attn[0]@-1<-0:3"], "blocks.0.attn.hook_pattern");
    let of = |head: usize, r: usize| &pattern[(head * 7 + r) * 7..][..7];
    assert!(of(0, 6)[..3].iter().all(|p| *p == 0.0) && of(1, 6)[..3].iter().all(|p| *p > 0.0));
    assert!((of(0, 6).iter().sum::<f32>() - 1.0).abs() < 1e-6);
    // A row that sees nothing.
    let z_of = last(&["--knockout", "blocks.0.attn[0]@-1<-:"], z);
    assert!(z_of[6 * heads * width..][..width].iter().all(|x| *x == 0.0));
    // What is put back changes no bit; what is changed in generation alone leaves the prompt as it is.
    let whole = scratch.path().join("whole.safetensors");
    let whole = whole.to_str().unwrap();
    succeed(&["trace", &dir(case), "--tokens", TOKENS, "--capture", "*", "-o", whole]);
    let kept =
        ["blocks.*.attn.hook_pattern", "blocks.*.hook_resid_*", "blocks.*.ln?.hook_*", "blocks.*.attn.hook_result"];
    for name in kept {
        assert_eq!(last(&["--patch", &format!("{name}={whole}")], "logits"), own["logits"].1, "{name}");
    }
    let during = ["--zero", "blocks.*.hook_mlp_out", "--during", "generation"];
    assert_eq!(last(&during, "logits"), own["logits"].1);
}

#[test]
fn what_is_refused() {
    macro_rules! told {
        ($name:literal, $code:literal, [$($arg:literal),*], $($told:literal),+) => {
            Refusal::args($name, $code, &["trace", "{dir}", "--tokens", "1,2,3", $($arg),*], &[$($told),+])
        };
    }
    check_all(
        &[
            Refusal::args("points that are not there", 1, &["hooks", "{dir}", "blocks.*.hook_x"], &["blocks.*.hook_x"]),
            told!("nothing to do", 1, [], "--capture", "rheostat hooks"),
            told!("capture to nowhere", 2, ["--capture", "logits"], "--out"),
            told!(
                "a name with a typo",
                1,
                ["--zero", "blocks.0.attn.hook_zz"],
                "--zero",
                "nearest",
                "blocks.0.attn.hook_z"
            ),
            told!(
                "a name with a typo to capture",
                1,
                ["--capture", "logit", "-o", "{scratch}/t"],
                "\"logit\"",
                "logits"
            ),
            told!("a block that is not there", 1, ["--zero", "blocks.99.attn.hook_z"], "blocks.99", "nearest"),
            told!("a head that is not there", 1, ["--zero", "blocks.0.attn.hook_z[9]"], "no head 9"),
            told!("heads of a point without", 1, ["--zero", "blocks.0.hook_resid_post[0]"], "has no heads"),
            told!("heads in words", 1, ["--zero", "blocks.0.attn.hook_z[all]"], "numbers from 0"),
            told!("a bracket that is open", 1, ["--zero", "blocks.0.attn.hook_z[0"], "not closed"),
            told!("a position beyond the text", 1, ["--zero", "blocks.0.attn.hook_z@3"], "no position \"3\""),
            told!("positions in words", 1, ["--zero", "blocks.0.attn.hook_z@last"], "\"last\"", "0,3:5,-1"),
            told!(
                "captured beyond",
                1,
                ["--capture", "logits", "--positions", "5", "-o", "{scratch}/t"],
                "\"5\"",
                "--positions"
            ),
            told!("no factor", 1, ["--scale", "blocks.0.attn.hook_z"], "equals sign"),
            told!("a factor in words", 1, ["--scale", "blocks.0.attn.hook_z=twice"], "\"twice\" is no number"),
            told!("no edges", 1, ["--knockout", "blocks.0.attn"], "SITE<-POSITIONS"),
            told!("edges of what has none", 1, ["--knockout", "blocks.0.hook_resid_post<-0"], "attention alone"),
            told!("a file that is not there", 1, ["--patch", "hook_embed={scratch}/none"], "{scratch}/none"),
            told!("too many tokens", 1, ["--zero", "hook_embed", "-n", "1000000"], "context"),
            told!("a directory to write", 1, ["--capture", "logits", "-o", "{scratch}"], "is a directory"),
            told!(
                "scores on disk",
                1,
                ["--capture", "*.hook_pattern", "-o", "{scratch}/t", "--kv-disk", "{scratch}"],
                "--kv-disk"
            ),
            Refusal {
                base: "qwen3_moe_hub",
                ..told!(
                    "what can only be read",
                    1,
                    ["--zero", "blocks.*.mlp.hook_expert_indices"],
                    "can be read, but not changed"
                )
            },
        ],
        20,
    );
}

/// Values from a file of another model, or without the tensor.
#[test]
fn values_that_do_not_fit() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("other.safetensors");
    let other = path.to_str().unwrap();
    succeed(&["trace", &dir("gemma2_hub"), "--tokens", "1,2", "--capture", "*resid*", "-o", other]);
    for (patch, told) in [
        (format!("blocks.0.hook_resid_post={other}"), "elements for a row"),
        (format!("blocks.0.attn.hook_z={other}"), "no tensor \"blocks.0.attn.hook_z\""),
        (format!("blocks.0.hook_resid_post={other}:nonsense"), "no tensor \"nonsense\""),
    ] {
        let outcome = common::run(&["trace", &dir("text_qwen3"), "--tokens", "1,2,3", "--patch", &patch]);
        assert!(outcome.code == Some(1) && outcome.stderr.contains(told), "{patch}: {outcome:?}");
    }
    succeed(&["trace", &dir("text_qwen3"), "--tokens", "1,2", "--capture", "*resid*", "-o", other]);
    let patch = format!("blocks.0.hook_resid_post={other}");
    let outcome = common::run(&["trace", &dir("text_qwen3"), "--tokens", "1,2,3", "--patch", &patch]);
    assert!(outcome.code == Some(1) && outcome.stderr.contains("no values for position 2"), "{outcome:?}");
}

/// The hashes of a checkpoint's tensors are those that the recorder for transformers writes.
#[test]
fn weights_are_hashed() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("t.safetensors");
    let of = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let text = header.metadata().as_ref().unwrap().get("weights").cloned().unwrap();
        serde_json::from_str::<BTreeMap<String, String>>(&text).unwrap()
    };
    for case in ["llama_plain", "qwen3_window", "gpt_oss_switches"] {
        let flags = [
            "trace",
            &dir(case),
            "--tokens",
            "1",
            "--capture",
            "logits",
            "--hash-weights",
            "-o",
            out.to_str().unwrap(),
        ];
        succeed(&flags);
        let theirs = of(&common::testdata("traces").join(format!("{case}.safetensors")));
        assert_eq!(of(&out), theirs, "{case}");
    }
}
