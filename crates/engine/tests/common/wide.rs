//! Reference checkpoints made wide, so that groups of quantised weights divide their rows: sizes in `config.json` times
//! eight, and tensors of noise in the shapes that the description of the wide model asks for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rheostat::Package;
use rheostat::decoder::{Block, Decoder, Head, Layout, Linear};
use safetensors::Dtype;
use safetensors::tensor::{SafeTensors, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How many times wider.
const TIMES: u64 = 8;

/// Keys that say how wide something is.
const WIDTHS: [&str; 22] = [
    "block_dim",
    "block_ff_dim",
    "block_multiple_of",
    "conv_dim",
    "conv_dim_out",
    "ffn_hidden_size",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "kv_lora_rank",
    "linear_key_head_dim",
    "linear_value_head_dim",
    "moe_intermediate_size",
    "n_embd",
    "n_inner",
    "q_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "rotary_dim",
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
    "v_head_dim",
];

/// A tensor of a file: type, shape and bytes.
pub type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// All tensors in the files of a directory.
pub fn stored(dir: &Path) -> BTreeMap<String, Tensor> {
    let mut all = BTreeMap::new();
    for path in weights(dir) {
        let bytes = std::fs::read(path).unwrap();
        for (name, t) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            all.insert(name, (t.dtype(), t.shape().to_vec(), t.data().to_vec()));
        }
    }
    all
}

/// Writes tensors as the one file of a directory.
pub fn store(dir: &Path, tensors: &BTreeMap<String, Tensor>) {
    for path in weights(dir) {
        std::fs::remove_file(path).unwrap();
    }
    let _ = std::fs::remove_file(dir.join("model.safetensors.index.json"));
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap_or_else(|e| panic!("{name}: {e}")))
    });
    std::fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

fn weights(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    files
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors") && p.file_stem().unwrap() != "reference")
        .collect()
}

/// Copies a reference checkpoint without what transformers says of it.
pub fn copy_model(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().starts_with("reference") {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// A wide model like that in `dir`, which is in the directory `model` of the one that is given.
pub fn wide(dir: &Path) -> (Package, TempDir) {
    let root = tempfile::tempdir().unwrap();
    let copy = root.path().join("model");
    std::fs::create_dir(&copy).unwrap();
    copy_model(dir, &copy);
    let path = copy.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    widen(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    // Names alone count for the description.
    let decoder = Package::open(&copy).unwrap().describe().unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    store(&copy, &tensors(&decoder));
    (Package::open(&copy).unwrap(), root)
}

/// Multiplies what says how wide something is.
fn widen(config: &mut Value) {
    let Some(map) = config.as_object_mut() else { return };
    for (key, value) in map.iter_mut() {
        match (key.as_str(), &mut *value) {
            (key, Value::Number(n)) if WIDTHS.contains(&key) => *value = json!(n.as_u64().unwrap() * TIMES),
            // A factor for each pair of a head.
            ("long_factor" | "short_factor", Value::Array(list)) => {
                *list = list.iter().flat_map(|f| std::iter::repeat_n(f.clone(), TIMES as usize)).collect();
            }
            ("mrope_section", Value::Array(list)) => {
                list.iter_mut().for_each(|n| *n = json!(n.as_u64().unwrap() * TIMES));
            }
            (_, value) => widen(value),
        }
    }
}

/// The shape of the whole tensor of a map.
pub fn shape(linear: &Linear) -> Vec<usize> {
    let rows = if linear.slice.of == 0 { linear.out_features } else { linear.slice.of };
    let axes = match linear.layout {
        Layout::OutIn => [rows, linear.in_features],
        Layout::InOut => [linear.in_features, rows],
    };
    linear.slice.slab.map(|slab| slab.of).into_iter().chain(axes).collect()
}

/// Every tensor that the description asks for, of noise.
fn tensors(decoder: &Decoder) -> BTreeMap<String, Tensor> {
    let mut noise = Noise(1);
    let mut all = BTreeMap::new();
    let hidden = decoder.hidden_size;
    let mut add = |name: &str, shape: Vec<usize>, around: f32, spread: f32| {
        if !all.contains_key(name) {
            let values = (0..shape.iter().product()).flat_map(|_| noise.bf16(around, spread)).collect();
            all.insert(name.to_owned(), (Dtype::BF16, shape, values));
        }
    };
    add(&decoder.embed.tensor, vec![decoder.vocab_size, hidden], 0.0, 1.0);
    if let Some(positions) = &decoder.embed.positions {
        add(&positions.tensor, vec![positions.rows, hidden], 0.0, 0.3);
    }
    for norm in decoder.blocks.iter().flat_map(Block::norms).chain([&decoder.norm]) {
        let len = norm.width * norm.groups;
        for weight in &norm.weights {
            add(weight, vec![len / norm.weights.len()], 1.0 - norm.offset, 0.2);
        }
        if let Some(bias) = &norm.bias {
            add(bias, vec![len], 0.0, 0.2);
        }
    }
    for block in &decoder.blocks {
        for (name, len) in block.vectors() {
            add(name, vec![len], 0.0, 0.5);
        }
    }
    for linear in decoder.all_linears() {
        let shape = shape(&linear);
        let rows = if linear.slice.of == 0 { linear.out_features } else { linear.slice.of };
        add(&linear.weight, shape, 0.0, 1.5 / (linear.in_features as f32).sqrt());
        if let Some(bias) = &linear.bias {
            let slabs = linear.slice.slab.map(|slab| slab.of);
            add(bias, slabs.into_iter().chain([rows]).collect(), 0.0, 0.1);
        }
    }
    if let Head::Own(head) = &decoder.head {
        assert!(all.contains_key(&head.weight));
    }
    all
}

/// Numbers from a seed.
struct Noise(u64);

impl Noise {
    /// One within `spread` of `around`.
    fn bf16(&mut self, around: f32, spread: f32) -> [u8; 2] {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let unit = (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        half_bits(around + spread * unit).to_le_bytes()
    }
}

/// The bits of the bf16 below `x` in magnitude.
fn half_bits(x: f32) -> u16 {
    (x.to_bits() >> 16) as u16
}
