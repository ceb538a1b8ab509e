//! `rheostat quantize` of matrices that are stored otherwise than `nn.Linear` stores them: experts in one tensor, input
//! after input. (`crates/engine/tests/quantize.rs` has what they compute.)
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::checkpoint::Checkpoint;
use common::refusals::{Refusal, check_all};
use common::{run, succeed};
use serde_json::json;

/// All files in a directory.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
    };
    fs::read_dir(dir).unwrap().map(file).collect()
}

/// A mixture whose experts are larger than what a little memory holds of them, all in noise.
fn large() -> Checkpoint {
    const HIDDEN: usize = 512;
    const INNER: usize = 1024;
    let model = Checkpoint::copy("gpt_oss_hub");
    model.config("hidden_size", json!(HIDDEN));
    model.config("intermediate_size", json!(INNER));
    let mut state = 1u64;
    model.tensors("model.safetensors", |tensors| {
        for t in tensors {
            let inner = t.name.contains(".experts.");
            for n in &mut t.shape {
                *n = match *n {
                    40 => HIDDEN,
                    24 if inner => INNER,
                    48 if inner => 2 * INNER,
                    n => n,
                };
            }
            let noise = (0..t.shape.iter().product()).flat_map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let bits = (state >> 48) as u16;
                // A sign, an exponent of some octaves below 1, and noise.
                (0x3C00 | bits & 0x8000 | bits & 0x01FF).to_le_bytes()
            });
            t.data = noise.collect();
        }
    });
    model
}

/// What a message names as the smallest budget does work and is kept to, though experts are read in blocks of columns then;
/// and neither that nor threads change a byte.
#[test]
fn blocks_of_columns_keep_to_the_memory_and_change_no_byte() {
    let model = large();
    let out = |name: &str| model.scratch().join(name);
    let with = |name: &str, flags: &[&str]| {
        let out = out(name);
        let args = ["quantize", model.dir(), out.to_str().unwrap(), "--bits", "4", "--group", "32", "--json"];
        run(&[&args[..], flags].concat())
    };
    let refused = with("refused", &["-t", "2", "--memory", "1M"]);
    let smallest = refused.stderr.trim().rsplit(' ').nth(1).unwrap_or_else(|| panic!("{refused:?}")).to_owned();
    let mib: u64 = smallest.parse().unwrap_or_else(|_| panic!("{refused:?}"));
    assert!(mib << 20 < fs::metadata(model.path("model.safetensors")).unwrap().len());
    let little = with("little", &["-t", "2", "--memory", &format!("{mib}M")]);
    assert_eq!(little.code, Some(0), "{little:?}");
    let peak = little.json()["peak_memory_bytes"].as_u64().unwrap();
    assert!(peak <= mib << 20, "{peak} of {mib} MiB");
    let outcome = with("much", &["-t", "3"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(files(&out("much")) == files(&out("little")));
}

#[test]
fn who_does_not_read_it_is_said() {
    let model = Checkpoint::copy("gpt_oss_switches");
    let out = model.scratch().join("out");
    let args = ["quantize", model.dir(), out.to_str().unwrap(), "--bits", "8", "--group", "32"];
    let keep = ["--keep", "*.down_proj,*.o_proj"];
    let outcome = succeed(&[&args[..], &keep].concat());
    let told =
        "note: Rheostat reads gate_up_proj of this, but transformers, where they are no nn.Linear, would go on with";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
    fs::remove_dir_all(&out).unwrap();
    let summary = succeed(&[&args[..], &keep, &["--json"]].concat()).json()["summary"].clone();
    assert_eq!(summary["not_linear"], json!(["gate_up_proj"]));
    let ignored = summary["ignore"].as_array().unwrap();
    for (name, is) in [("mlp.experts.gate_up_proj", false), ("mlp.experts.down_proj", true), ("mlp.router", true)] {
        assert_eq!(ignored.contains(&json!(format!("model.layers.0.{name}"))), is, "{name}");
    }
    // All kinds kept: nothing of it is in that form.
    fs::remove_dir_all(&out).unwrap();
    let summary = succeed(&[&args[..], &["--keep", "*.experts,*.o_proj", "--json"]].concat()).json()["summary"].clone();
    assert_eq!(summary["not_linear"], json!([]));
}

#[test]
fn what_cannot_be_quantised() {
    const EXPERTS: &str = "model.layers.0.mlp.experts.gate_up_proj";
    let row = |name, make: fn(&Checkpoint), flags: &'static [&str], told: &'static [&str]| Refusal {
        base: "gpt_oss_switches",
        make,
        ..Refusal::args(name, 1, flags, told)
    };
    check_all(
        &[
            row(
                "weight of an expert that is no number",
                // Of expert 3, input 5 of output 7.
                |c| {
                    c.tensor(EXPERTS, |t| {
                        t.data[4 * ((3 * 32 + 5) * 40 + 7)..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
                    });
                },
                &[
                    "quantize",
                    "{dir}",
                    "{scratch}/out",
                    "--bits",
                    "4",
                    "--group",
                    "32",
                    "--keep",
                    "*.down_proj,*.o_proj",
                ],
                &["{dir}/model.safetensors", "gate_up_proj\" holds NaN in row 5, column 7 of matrix 3", "damaged"],
            ),
            row(
                "inputs of experts that groups do not divide",
                |_| {},
                &["quantize", "{dir}", "{scratch}/out", "--bits", "4", "--group", "32", "--keep", "*.o_proj"],
                &[
                    "the 20 inputs of the tensor \"model.layers.0.mlp.experts.down_proj\"",
                    "keep *.down_proj as they are",
                ],
            ),
        ],
        2,
    );
}
