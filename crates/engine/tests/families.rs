//! What families make of a `config.json`: keys that published models carry and that change nothing, and keys that are refused.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use common::testdata;
use rheostat::Package;
use rheostat::decoder::Decoder;
use serde_json::{Value, json};

/// The description of the case `name`, whose `config.json` is changed by `change`: objects are merged.
fn describe(name: &str, change: &Value) -> Result<Decoder, String> {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(testdata().join(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    merge(&mut config, change);
    std::fs::write(&path, config.to_string()).unwrap();
    let package = Package::open(dir.path()).map_err(|e| e.to_string())?;
    package.describe().map_err(|e| e.to_string())
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.as_str()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

#[test]
fn keys_of_published_models_that_change_nothing_are_passed_over() {
    for (case, keys) in [
        ("cohere_hub", json!({ "tokenizer_class": "CohereTokenizer", "pretraining_tp": 1, "rope_scaling": null })),
        ("cohere2_hub", json!({ "cache_implementation": "hybrid", "_sliding_window_pattern": 4 })),
        ("ernie4_5_hub", json!({ "hidden_dropout_prob": 0.0, "compression_ratio": 1.0 })),
        ("falcon_hub", json!({ "auto_map": {}, "ff_factor": 4, "rope_scaling": null })),
        ("gemma_hub", json!({ "hidden_activation": "gelu_pytorch_tanh" })),
        ("gemma2_hub", json!({ "sliding_window_size": 12 })),
        ("gemma3_hub", json!({ "_sliding_window_pattern": 3, "use_bidirectional_attention": false })),
        (
            "gemma3_wrapper",
            json!({ "text_config": { "torch_dtype": "bfloat16", "use_cache": true }, "tie_word_embeddings": true }),
        ),
        (
            "gpt2_hub",
            json!({
                "_num_labels": 1,
                "output_past": true,
                "reorder_and_upcast_attn": false,
                "summary_activation": null,
                "summary_type": "cls_index",
                "task_specific_params": { "text-generation": { "do_sample": true } },
            }),
        ),
        ("gpt_neox_hub", json!({ "attention_probs_dropout_prob": 0, "classifier_dropout": 0.1, "rope_theta": 10000 })),
        ("hunyuan_v1_dense_hub", json!({ "dense_list": [48, 0], "im_start_id": 5, "use_mla": false, "pad_id": -1 })),
        ("nemotron_hub", json!({ "kv_channels": 12, "rope_percent": 0.5, "normalization": "layernorm1p" })),
        ("phi3_hub", json!({ "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": false, "mlp_bias": false })),
        ("starcoder2_hub", json!({ "attention_softmax_in_fp32": true, "scale_attn_weights": true })),
    ] {
        let plain = describe(case, &json!({})).unwrap();
        let more = describe(case, &keys).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!(format!("{plain:?}"), format!("{more:?}"), "{case}");
    }
}

#[test]
fn what_a_family_does_not_do_is_refused_by_name() {
    for (case, keys, says) in [
        ("apertus_hub", json!({ "post_norm": true }), "post_norm"),
        ("apertus_hub", json!({ "hidden_act": "silu" }), "hidden_act"),
        ("apertus_hub", json!({ "rope_scaling": null, "rope_theta": 10000 }), "rope_theta"),
        ("cohere2_hub", json!({ "use_parallel_block": false }), "use_parallel_block"),
        ("cohere2_hub", json!({ "rotary_pct": 0.5 }), "rotary_pct"),
        ("cohere2_hub", json!({ "sliding_window": null }), "sliding_window"),
        ("cohere2_hub", json!({ "head_dim": 16 }), "head_dim"),
        ("ernie4_5_hub", json!({ "compression_ratio": 2.0 }), "compression_ratio"),
        ("exaone4_window", json!({ "layer_types": null }), "sliding_window_pattern"),
        ("falcon_hub", json!({ "alibi": true }), "alibi"),
        ("falcon_hub", json!({ "num_ln_in_parallel_attn": 2 }), "num_ln_in_parallel_attn"),
        ("falcon_grouped", json!({ "parallel_attn": false }), "parallel_attn"),
        ("falcon_serial", json!({ "num_kv_heads": 2 }), "num_kv_heads"),
        ("gemma_hub", json!({ "use_bidirectional_attention": true }), "use_bidirectional_attention"),
        ("gemma2_hub", json!({ "sliding_window": null }), "sliding_window"),
        ("gemma3_hub", json!({ "attn_logit_softcapping": 50.0 }), "attn_logit_softcapping"),
        ("gemma3_switches", json!({ "rope_scaling": { "rope_type": "linear", "factor": 2 } }), "rope_scaling"),
        ("gemma3_switches", json!({ "rope_parameters": { "rope_theta": 3000.0 } }), "rope_parameters.rope_theta"),
        (
            "gemma3_wrapper",
            json!({ "text_config": { "final_logit_softcapping": 30.0 } }),
            "text_config.final_logit_softcapping",
        ),
        ("gemma3_wrapper", json!({ "text_config": { "unheard_of": 1 } }), "text_config.unheard_of"),
        ("gemma3_wrapper", json!({ "text_config": { "model_type": "llama" } }), "text_config.model_type"),
        ("gemma3_wrapper", json!({ "text_config": null }), "text_config"),
        ("gemma3_wrapper", json!({ "unheard_of": 1 }), "unheard_of"),
        ("gpt2_hub", json!({ "add_cross_attention": true }), "add_cross_attention"),
        ("gpt2_hub", json!({ "hidden_size": 7 }), "hidden_size"),
        ("gpt_neox_hub", json!({ "rope_theta": 5000 }), "rope_theta"),
        ("hunyuan_v1_dense_hub", json!({ "head_dim": null }), "head_dim"),
        ("hunyuan_v1_dense_hub", json!({ "use_cla": true }), "use_cla"),
        ("llama_plain", json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor"),
        ("nemotron_hub", json!({ "kv_channels": 16 }), "kv_channels"),
        ("olmo_hub", json!({ "layer_norm_eps": 1e-6 }), "layer_norm_eps"),
        (
            "olmo3_switches",
            json!({ "rope_parameters": { "full_attention": { "rope_type": "yarn", "truncate": false } } }),
            "truncate",
        ),
        ("phi3_hub", json!({ "lm_head_bias": true }), "lm_head_bias"),
        ("phi3_longrope", json!({ "rope_scaling": { "type": "yarn", "rope_type": null } }), "type"),
        ("phi3_longrope", json!({ "rope_scaling": { "short_factor": [1.0] } }), "short_factor"),
        ("smollm3_hub", json!({ "no_rope_layers": [1] }), "no_rope_layers"),
        ("stablelm_hub", json!({ "head_dim": 8 }), "head_dim"),
        ("starcoder2_hub", json!({ "mlp_type": "gated" }), "mlp_type"),
    ] {
        let error = describe(case, &keys).err().unwrap_or_else(|| panic!("{case} takes {keys}"));
        assert!(error.contains(&format!("\"{says}\"")) || error.contains(&format!(".{says}\"")), "{case}: {error}");
    }
}
