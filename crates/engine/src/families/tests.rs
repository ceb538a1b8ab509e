//! What published models say in their `config.json` is understood, and describes as many parameters as transformers' model has.

use serde_json::{Map, Value, json};

use super::{Tensors, describe};
use crate::config::ConfigError;
use crate::decoder::{Decoder, Mixer};
use crate::rope::RopeScaling;

/// A checkpoint that has no tensors yet.
struct Empty;

impl Tensors for Empty {
    fn has(&self, _: &str) -> bool {
        false
    }

    fn any(&self, _: &str) -> bool {
        false
    }
}

fn of(config: &Value) -> Result<Decoder, ConfigError> {
    describe("config.json", config.as_object().expect("an object"), &Empty)
}

fn published() -> Map<String, Value> {
    let text = include_str!("../../../../testdata/published.json");
    serde_json::from_str(text).expect("configs")
}

#[test]
fn published_models_are_described_with_all_their_parameters() {
    for (name, model) in published() {
        let decoder = of(&model["config"]).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(decoder.parameters(), model["elements"].as_u64().expect("a number"), "{name}");
        assert_eq!(decoder.family, model["config"]["model_type"], "{name}");
    }
}

/// What a key asks for beyond what a family has is refused by its name.
#[test]
fn what_a_family_does_not_have_is_refused() {
    let models = published();
    for (name, key, value) in [
        ("Mixtral-8x7B", "num_experts_per_tok", json!(9)),
        ("Mixtral-8x7B", "num_experts", json!(16)),
        ("Mixtral-8x7B", "num_local_experts", json!(1_u64 << 30)),
        ("Qwen1.5-MoE-A2.7B", "mlp_only_layers", json!(["first"])),
        ("Qwen1.5-MoE-A2.7B", "layer_types", json!(vec!["sliding_attention"; 24])),
        ("Qwen3-30B-A3B", "shared_expert_intermediate_size", json!(64)),
        ("granite-3.1-1b-a400m", "residual_multiplier", json!(0)),
        ("Phi-3.5-MoE", "num_experts_per_tok", json!(3)),
        ("Phi-3.5-MoE", "router_jitter_noise", json!(-1)),
        ("Phi-3.5-MoE", "rope_scaling", json!({ "type": "linear", "factor": 2.0 })),
        ("GLM-4.5-Air", "scoring_func", json!("softmax")),
        ("GLM-4.5-Air", "n_group", json!(3)),
        ("MiniMax-M2", "attn_type_list", json!([1, 0])),
        ("MiniMax-M2", "layernorm_mlp_alpha", json!(2.0)),
        ("MiniMax-M2", "rotary_dim", json!(256)),
        ("MiniMax-M2", "use_routing_bias", json!(false)),
        ("gpt-oss-20b", "experts_per_token", json!(3)),
        ("gpt-oss-20b", "hidden_act", json!("gelu")),
        ("gpt-oss-20b", "swiglu_limit", json!(0)),
        ("DeepSeek-V2", "topk_method", json!("noaux_tc")),
        ("DeepSeek-V2", "norm_topk_prob", json!(true)),
        ("DeepSeek-V2", "topk_group", json!(9)),
        ("DeepSeek-V3", "moe_layer_freq", json!(2)),
        ("DeepSeek-V3", "num_key_value_heads", json!(8)),
        ("DeepSeek-V3", "n_group", json!(256)),
        ("DeepSeek-V3", "qk_rope_head_dim", json!(63)),
        ("LFM2-1.2B", "use_pos_enc", json!(false)),
        ("LFM2-1.2B", "full_attn_idxs", json!([-1])),
        ("LFM2-1.2B", "conv_L_cache", json!(0)),
        ("Qwen3-Next-80B-A3B", "hidden_act", json!("gelu")),
        ("Qwen3-Next-80B-A3B", "linear_num_value_heads", json!(24)),
        ("Qwen3-Next-80B-A3B", "use_sliding_window", json!(true)),
    ] {
        let mut config = models[name]["config"].clone();
        config[key] = value;
        let error = of(&config).expect_err(&format!("{name} with another {key}")).to_string();
        assert!(error.contains(key), "{name}, {key}: {error}");
    }
}

/// A gpt-oss that says nothing of a rotation has YaRN by 32.
#[test]
fn a_silent_gpt_oss_is_stretched() {
    let mut config = published()["gpt-oss-20b"]["config"].clone();
    let said = of(&config).expect("a description");
    config["rope_scaling"] = Value::Null;
    let silent = of(&config).expect("a description");
    assert_eq!(silent.ropes, said.ropes);
    assert_eq!(silent.context, said.context);
    config["rope_parameters"] = json!({ "rope_type": "default", "rope_theta": 150_000 });
    assert_eq!(of(&config).expect("a description").ropes[0].scaling(), &RopeScaling::Default);
}

/// YaRN's `mscale_all_dim` stretches the scores of latent attention.
#[test]
fn scores_of_latent_attention_are_stretched() {
    let scale = |name: &str| match &of(&published()[name]["config"]).expect("a description").blocks[0].mixer {
        Mixer::Latent(mixer) => f64::from(mixer.scale) * 192.0_f64.sqrt(),
        _ => panic!("{name} has latent attention"),
    };
    let stretch = |m: f64| (0.1 * m * 40.0_f64.ln() + 1.0).powi(2);
    assert!((scale("DeepSeek-V3") - stretch(1.0)).abs() < 1e-6);
    assert!((scale("DeepSeek-V2-Lite") - stretch(0.707)).abs() < 1e-6);
    assert!((scale("Moonlight-16B-A3B") - 1.0).abs() < 1e-6);
}
