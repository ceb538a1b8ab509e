//! Configurations that are understood, and what is refused by name.

use super::*;
use rheostat_kernels::{Bits, GptqZeros, Zeros};
use serde_json::{Value, json};

use crate::decoder::{GptqPacking, Packing};

fn read(quantization: &Value) -> Result<Option<Quantization>, String> {
    let config = json!({ "quantization_config": quantization });
    let map = config.as_object().expect("an object");
    read_quantization(&Keys::new("config.json", map)).map_err(|e| e.to_string())
}

fn config(weights: &Value) -> Value {
    json!({
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "ignore": ["lm_head", "re:.*down_proj"],
        "config_groups": {
            "group_0": { "targets": ["Linear"], "weights": weights, "input_activations": null },
            "group_1": { "targets": ["model.a"], "weights": { "num_bits": 4, "group_size": 32 } },
        },
    })
}

/// A checkpoint that has the tensors of these names.
struct Names(&'static [&'static str]);

impl Tensors for Names {
    fn has(&self, name: &str) -> bool {
        self.0.contains(&name)
    }

    fn any(&self, start: &str) -> bool {
        self.0.iter().any(|name| name.starts_with(start))
    }
}

fn storage(quantization: &Quantization, module: &str, tensors: &'static [&'static str]) -> Storage {
    quantization.storage(&Linear::new(format!("{module}.weight"), 64, 64), &Names(tensors))
}

#[test]
fn names_count_for_more_than_classes_and_ignored_ones_are_plain() {
    let quantization = read(&config(&json!({ "num_bits": 8, "group_size": 128, "symmetric": true }))).unwrap().unwrap();
    let packed = |bits, group| Storage::Packed(Packing { bits, group: Some(group), zeros: Zeros::Absent });
    assert_eq!(storage(&quantization, "model.b", &[]), packed(Bits::Eight, 128));
    assert_eq!(storage(&quantization, "model.a", &[]), packed(Bits::Four, 32));
    assert_eq!(storage(&quantization, "lm_head", &[]), Storage::Float);
    assert_eq!(storage(&quantization, "model.layers.0.mlp.down_proj", &[]), Storage::Float);
}

#[test]
fn other_forms_are_those_of_the_modules_that_have_their_tensors() {
    let gptq = |zeros| Storage::Gptq(GptqPacking { bits: Bits::Four, group: Some(64), zeros });
    let fp8 = Storage::Fp8(Fp8Scales { suffix: ".weight_scale_inv", block: Fp8Block::Block(128, 64) });
    for (config, tensor, wanted) in [
        (
            json!({ "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 64] }),
            "m.weight_scale_inv",
            fp8,
        ),
        (
            json!({ "quant_method": "fp8", "fmt": "float8_e4m3fn", "weight_block_size": [128, 64] }),
            "m.weight_scale_inv",
            fp8,
        ),
        (json!({ "quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"] }), "m_blocks", Storage::Mxfp4),
        (
            json!({ "quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": true, "sym": true }),
            "m.qweight",
            gptq(GptqZeros::MinusOne),
        ),
        (
            json!({ "quant_method": "gptq", "bits": 4, "group_size": 64, "checkpoint_format": "gptq_v2" }),
            "m.qweight",
            gptq(GptqZeros::Plain),
        ),
        (
            json!({ "quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true, "version": "gemm" }),
            "m.qweight",
            Storage::Awq { group: Some(128) },
        ),
        (json!({ "quant_method": "awq", "bits": 4, "q_group_size": -1 }), "m.qweight", Storage::Awq { group: None }),
        // As gptqmodel and transformers write it now.
        (
            json!({
                "quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": false, "version": "gemm", "format": "gemm",
                "checkpoint_format": "gemm", "backend": "auto", "desc_act": false, "pack_dtype": "int32", "lm_head": false,
                "meta": {}, "sym": true,
            }),
            "m.qweight",
            Storage::Awq { group: Some(64) },
        ),
    ] {
        let quantization = read(&config).unwrap().unwrap();
        let tensors: &'static [&'static str] = Vec::leak(vec![&*String::leak(tensor.to_owned())]);
        assert_eq!(storage(&quantization, "m", tensors), wanted, "{config}");
        assert_eq!(storage(&quantization, "n", tensors), Storage::Float, "{config}");
    }
}

#[test]
fn the_first_rule_for_a_module_counts() {
    let config = json!({
        "quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": true, "format": "gptq", "sym": true,
        "dynamic": {
            "-:.*\\.o_proj": {}, "+:.*\\.0\\.mlp": { "bits": 8, "group_size": -1 }, ".*mlp": { "group_size": 64, "desc_act": true },
            "mlp": { "bits": 8 },
        },
    });
    let quantization = read(&config).unwrap().unwrap();
    let gptq = |bits, group| Storage::Gptq(GptqPacking { bits, group, zeros: GptqZeros::MinusOne });
    for (module, wanted) in [
        ("a.0.o_proj", Storage::Float),
        ("a.0.q_proj", gptq(Bits::Four, Some(128))),
        ("a.0.mlp.up", gptq(Bits::Eight, None)),
        ("a.1.mlp.up", gptq(Bits::Four, Some(64))),
        // As with Python's `re.match`, names begin with a match.
        ("o_proj", gptq(Bits::Four, Some(128))),
    ] {
        let tensors: &'static [&'static str] = Vec::leak(vec![&*String::leak(format!("{module}.qweight"))]);
        assert_eq!(storage(&quantization, module, tensors), wanted, "{module}");
        assert_eq!(storage(&quantization, module, &[]), Storage::Float, "{module}");
    }
}

#[test]
fn numbers_of_eight_bits_are_told_from_integers() {
    let weights = |more: Value| {
        let mut weights = json!({ "num_bits": 8, "type": "float", "symmetric": true });
        weights.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        weights
    };
    for (more, block) in [
        (json!({ "strategy": "tensor" }), Fp8Block::Tensor),
        (json!({ "strategy": "channel" }), Fp8Block::Row),
        (json!({ "strategy": "block", "block_structure": [128, 128] }), Fp8Block::Block(128, 128)),
    ] {
        let mut config = config(&weights(more));
        config["format"] = json!("float-quantized");
        config["config_groups"].as_object_mut().expect("an object").remove("group_1");
        config["config_groups"]["group_0"]["input_activations"] =
            json!({ "num_bits": 8, "type": "float", "dynamic": true });
        let quantization = read(&config).unwrap().unwrap();
        assert_eq!(storage(&quantization, "m", &[]), Storage::Fp8(Fp8Scales { suffix: ".weight_scale", block }));
        // Scales of inputs that were found beforehand change what is computed.
        config["config_groups"]["group_0"]["input_activations"]["dynamic"] = json!(false);
        assert!(read(&config).unwrap_err().contains("input_activations"));
    }
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    for (weights, says) in [
        (json!({ "num_bits": 3 }), "num_bits"),
        (json!({ "num_bits": 4, "group_size": 24 }), "group_size"),
        (json!({ "num_bits": 4, "type": "float" }), "num_bits"),
        (json!({ "num_bits": 8, "type": "fixed" }), "type"),
        (json!({ "num_bits": 8, "type": "float", "symmetric": false }), "symmetric"),
        (json!({ "num_bits": 8, "type": "float", "strategy": "group" }), "strategy"),
        (json!({ "num_bits": 8, "type": "float", "strategy": "block" }), "block_structure"),
        (json!({ "num_bits": 4, "actorder": "whatever" }), "actorder"),
        (json!({ "num_bits": 4, "strategy": "tensor" }), "strategy"),
        (json!({ "num_bits": 4, "unheard_of": 1 }), "unheard_of"),
    ] {
        let error = read(&config(&weights)).unwrap_err();
        assert!(error.contains("quantization_config.config_groups.group_0.weights") && error.contains(says), "{error}");
    }
    for (key, value) in [
        ("quant_method", json!("bitsandbytes")),
        ("format", json!("marlin-24")),
        // Integers that are not packed.
        ("format", json!("naive-quantized")),
        ("kv_cache_scheme", json!({ "num_bits": 8 })),
        ("ignore", json!(["re:["])),
        ("config_groups", json!({})),
        ("unheard_of", json!(true)),
    ] {
        let mut config = config(&json!({ "num_bits": 4 }));
        config[key] = value;
        let error = read(&config).unwrap_err();
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn other_methods_are_refused_by_what_they_ask_for() {
    for (config, says) in [
        (
            json!({ "quant_method": "fp8", "activation_scheme": "static", "weight_block_size": [128, 128] }),
            "activation_scheme",
        ),
        (json!({ "quant_method": "fp8" }), "weight_block_size"),
        (json!({ "quant_method": "fp8", "fmt": "e5m2", "weight_block_size": [128, 128] }), "fmt"),
        (json!({ "quant_method": "fp8", "weight_block_size": [128, 48] }), "weight_block_size"),
        (json!({ "quant_method": "gptq", "bits": 3, "group_size": 128 }), "bits"),
        (json!({ "quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin" }), "checkpoint_format"),
        (json!({ "quant_method": "gptq", "bits": 4, "format": "gptq", "checkpoint_format": "gptq_v2" }), "format"),
        (json!({ "quant_method": "gptq", "bits": 4, "dynamic": { "a": { "bits": 3 } } }), "dynamic.a.bits"),
        (json!({ "quant_method": "gptq", "bits": 4, "dynamic": { "a": { "adapter": {} } } }), "dynamic.a.adapter"),
        (json!({ "quant_method": "gptq", "bits": 4, "dynamic": { "-:(?!a)": {} } }), "dynamic.-:(?!a)"),
        (json!({ "quant_method": "awq", "bits": 4, "dynamic": { "a": { "bits": 8 } } }), "dynamic.a.bits"),
        (json!({ "quant_method": "awq", "bits": 4, "backend": "llm-awq" }), "backend"),
        (json!({ "quant_method": "gptq", "bits": 4, "unheard_of": 1 }), "unheard_of"),
        (json!({ "quant_method": "awq", "bits": 8 }), "bits"),
        (json!({ "quant_method": "awq", "bits": 4, "version": "gemv" }), "version"),
        (json!({ "quant_method": "mxfp4", "unheard_of": 1 }), "unheard_of"),
    ] {
        let error = read(&config).unwrap_err();
        assert!(error.contains("quantization_config") && error.contains(says), "{error}");
    }
}
