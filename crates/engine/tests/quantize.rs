//! Quantising, for every family: all matrices of blocks are packed but routers, nothing else is touched, and what is
//! written computes, bit for bit, as a model in the form of the first that stores what the integers stand for.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::Path;

use common::wide::{Tensor, shape, store, stored, wide};
use common::{Case, assert_bits, at_least, cases, logits, options};
use rheostat::decoder::{Decoder, Head, Layout, Linear};
use rheostat::quantize::{Bits, Options, Quantization, Watch};
use rheostat::{Compute, Model, Package};
use safetensors::Dtype;

/// Groups of weights.
const GROUP: usize = 32;
const TOKENS: [u32; 9] = [1, 5, 9, 2, 7, 3, 3, 8, 4];

/// Reference checkpoints that are not quantised.
fn plain_cases() -> Vec<Case> {
    let plain = |case: &Case| {
        let package = Package::open(&case.dir).unwrap();
        !package.config().contains_key("quantization_config")
    };
    cases().into_iter().filter(plain).collect()
}

/// The tensors that a model quantises: of blocks all matrices but those that choose among experts.
fn expected(decoder: &Decoder) -> BTreeMap<String, Linear> {
    let mut kept = BTreeSet::new();
    for experts in decoder.blocks.iter().filter_map(|block| block.ffn.experts()) {
        kept.insert(experts.router.linear.weight.clone());
        kept.extend(experts.shared.iter().filter_map(|s| s.gate.as_ref()).map(|gate| gate.weight.clone()));
    }
    if let Head::Own(head) = &decoder.head {
        kept.insert(head.weight.clone());
    }
    decoder.all_linears().filter(|l| !kept.contains(&l.weight)).map(|l| (l.weight.clone(), l)).collect()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.0, Dtype::BF16);
    tensor.2.as_chunks().0.iter().map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)).collect()
}

/// The values of a packed matrix, read as the format says, in the order in which the plain one is stored.
fn unpacked(tensors: &BTreeMap<String, Tensor>, linear: &Linear, bits: usize) -> Vec<f32> {
    let get = |suffix: &str| &tensors[&format!("{}.weight_{suffix}", linear.module())];
    let (packed, scale, extents) = (get("packed"), get("scale"), get("shape"));
    assert_eq!((packed.0, scale.0, extents.0), (Dtype::I32, Dtype::BF16, Dtype::I64));
    let extents: Vec<usize> = extents.2.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as usize).collect();
    let (slabs, rows, cols) = match extents[..] {
        [rows, cols] => (1, rows, cols),
        [slabs, rows, cols] => (slabs, rows, cols),
        _ => panic!("{extents:?}"),
    };
    let with_last = |last: usize| [&extents[..extents.len() - 1], &[last]].concat();
    assert_eq!((&packed.1, &scale.1), (&with_last(cols * bits / 32), &with_last(cols / GROUP)));
    let words: Vec<u32> = packed.2.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    let (scales, per_word) = (floats(scale), 32 / bits);
    let value = |i: usize| {
        let unsigned = words[i / per_word] >> (i % per_word * bits) & ((1 << bits) - 1);
        (unsigned as f32 - (1 << (bits - 1)) as f32) * scales[i / GROUP]
    };
    let values: Vec<f32> = (0..slabs * rows * cols).map(value).collect();
    match linear.layout {
        Layout::OutIn => values,
        Layout::InOut => {
            let turned = |slab: &[f32]| (0..rows * cols).map(|i| slab[i % rows * cols + i / rows]).collect::<Vec<_>>();
            values.chunks_exact(rows * cols).flat_map(turned).collect()
        }
    }
}

/// Writes the quantised model and the one that stores in f32, in the form of the first, what it stands for.
fn quantise(package: &Package, root: &Path, bits: Bits, out: &Path, twin: &Path) {
    let dir = &root.join("model");
    let options = Options { bits, group: GROUP, threads: NonZeroUsize::new(2), ..Options::default() };
    let summary = Quantization::plan(package, options).unwrap().write(out, &Watch::default()).unwrap();
    let decoder = package.describe().unwrap();
    let (before, after) = (stored(dir), stored(out));
    let expected = expected(&decoder);
    assert_eq!(summary.quantized, expected.len());
    assert_eq!(after.len(), before.len() + 2 * expected.len());
    let mut plain = before.clone();
    for (name, tensor) in &mut plain {
        let Some(linear) = expected.get(name) else {
            assert_eq!(after.get(name), Some(&*tensor), "{name} stays");
            continue;
        };
        assert_eq!(tensor.1, shape(linear));
        let (was, is) = (floats(tensor), unpacked(&after, linear, bits.number() as usize));
        assert_eq!(was.len(), is.len(), "{name}");
        let squared = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
        let error = squared(&mut was.iter().zip(&is).map(|(a, b)| a - b)) / squared(&mut was.iter().copied());
        // Weights in another order would be off by more than they are large.
        assert!(error < if bits == Bits::Four { 0.01 } else { 1e-4 }, "{name}: {error}");
        (tensor.0, tensor.2) = (Dtype::F32, is.into_iter().flat_map(f32::to_le_bytes).collect());
    }
    std::fs::create_dir(twin).unwrap();
    std::fs::copy(dir.join("config.json"), twin.join("config.json")).unwrap();
    store(twin, &plain);
}

/// Every reference checkpoint, made wide, in 4 or in 8 bits.
#[test]
fn every_family_is_quantised_whole_and_computes_as_its_twin() {
    let bits = [Bits::Four, Bits::Eight].into_iter().cycle();
    let failed: Vec<String> = plain_cases()
        .iter()
        .zip(bits)
        .filter_map(|(case, bits)| {
            let done = std::panic::catch_unwind(|| check(case, bits));
            done.is_err().then(|| case.name.clone())
        })
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}

fn check(case: &Case, bits: Bits) {
    let (package, dir) = wide(&case.dir);
    let (out, twin) = (dir.path().join("out"), dir.path().join("twin"));
    quantise(&package, dir.path(), bits, &out, &twin);
    let load = |dir: &Path| {
        let package = Package::open(dir).unwrap();
        Model::load(&package, &options()).unwrap_or_else(|e| panic!("{}: {e}", case.name))
    };
    let mut model = load(&out);
    let whole = logits(&mut model, &TOKENS, TOKENS.len());
    assert!(whole.iter().all(|l| l.is_finite()), "{}", case.name);
    assert_bits(&case.name, &whole, &logits(&mut load(&twin), &TOKENS, TOKENS.len()));
    // Token after token, as generation reads them.
    assert_bits(&format!("{} in steps", case.name), &logits(&mut model, &TOKENS, 1), &whole);
}

/// What lies in one tensor or input after input, in every mode, streamed, and with room for few experts.
#[test]
fn fused_experts_and_turned_matrices_have_the_same_bits_whatever_the_budget() {
    let mut kinds = BTreeSet::new();
    for case in plain_cases() {
        let decoder = Package::open(&case.dir).unwrap().describe().unwrap();
        let kind = |l: &Linear| (l.slice.slab.is_some(), l.layout == Layout::InOut);
        let Some(kind) = decoder.all_linears().map(|l| kind(&l)).find(|kind| *kind != (false, false)) else { continue };
        let (package, dir) = wide(&case.dir);
        for bits in [Bits::Four, Bits::Eight] {
            let name = |what: &str| dir.path().join(format!("{what}-{}", bits.number()));
            let (out, twin) = (name("out"), name("twin"));
            quantise(&package, dir.path(), bits, &out, &twin);
            let case = Case { dir: out, ..case.clone() };
            for compute in [Compute::F32, Compute::Bf16, Compute::Amx, Compute::Int8] {
                let base = rheostat::Options { compute, ..options() };
                let want = logits(&mut case.load(&base), &TOKENS, TOKENS.len());
                if compute != Compute::Int8 {
                    let twin = Case { dir: twin.clone(), ..case.clone() };
                    let twin = logits(&mut twin.load(&base), &TOKENS, TOKENS.len());
                    assert_bits(&format!("{} {compute:?} twin", case.name), &want, &twin);
                }
                let streamed = rheostat::Options { weights: Some(0), threads: NonZeroUsize::new(3), ..base };
                let streamed = at_least(&case, &streamed);
                for chunk in [1, 4, TOKENS.len()] {
                    let got = logits(&mut case.load(&streamed), &TOKENS, chunk);
                    assert_bits(&format!("{} {bits:?} {compute:?} streamed by {chunk}", case.name), &got, &want);
                }
            }
        }
        kinds.insert(kind);
    }
    // Experts in one tensor in either order, and single matrices input after input.
    assert_eq!(kinds, BTreeSet::from([(true, false), (true, true), (false, true)]));
}
