//! Settings that cannot be followed: `config.json` and `generation_config.json`, key by key. A key that may
//! change what the model computes is never passed over.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use common::refusals::{Refusal, check_all};
use serde_json::json;

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";

#[test]
fn config_files_that_cannot_be_read() {
    let table = [
        Refusal::checkpoint(
            "no config.json",
            |c| c.remove(CONFIG),
            &["{dir}/config.json", "there is no such file", "beside its weights"],
        ),
        Refusal::checkpoint(
            "directory in its place",
            |c| c.make_directory(CONFIG),
            &["{dir}/config.json", "cannot be read", "directory"],
        ),
        Refusal::checkpoint("empty", |c| c.write(CONFIG, b""), &["{dir}/config.json", "not a JSON object", "download"]),
        Refusal::checkpoint(
            "cut short",
            |c| c.write(CONFIG, &c.read(CONFIG)[..200]),
            &["{dir}/config.json", "not a JSON object", "line", "correct it or download it again"],
        ),
        Refusal::checkpoint(
            "list",
            |c| c.write(CONFIG, b"[1]"),
            &["{dir}/config.json", "not a JSON object", "download"],
        ),
        Refusal::checkpoint(
            "not UTF-8",
            |c| c.write(CONFIG, b"{\"model_type\": \"\xFF\"}"),
            &["{dir}/config.json", "not a JSON object"],
        ),
        Refusal::checkpoint(
            "NaN as Python writes it",
            |c| c.config_text("rms_norm_eps", "NaN"),
            &["{dir}/config.json", "NaN is Python, not JSON", "line"],
        ),
        Refusal::checkpoint(
            "Infinity as Python writes it",
            |c| c.config_text("rms_norm_eps", "-Infinity"),
            &["{dir}/config.json", "-Infinity is Python, not JSON", "line"],
        ),
        Refusal::checkpoint(
            "number beyond all numbers",
            |c| c.config_text("rms_norm_eps", "1e999"),
            &["{dir}/config.json", "out of range", "line"],
        ),
        Refusal::checkpoint(
            "generation config that is no JSON",
            |c| c.write(GENERATION, b"eos: 2"),
            &["{dir}/generation_config.json", "not a JSON object", "correct it or download it again"],
        ),
    ];
    check_all(&table, 10);
}

#[test]
fn keys_that_cannot_be_followed() {
    macro_rules! config {
        ($name:literal, $key:literal = $value:tt, $($told:literal),+) => {
            Refusal::checkpoint($name, |c| c.config($key, json!($value)), &["{dir}/config.json", $key, $($told),+])
        };
    }
    let table = [
        Refusal::checkpoint(
            "no model_type",
            |c| c.edit(CONFIG, |map| _ = map.remove("model_type")),
            &["{dir}/config.json", "\"model_type\" is missing"],
        ),
        Refusal::checkpoint(
            "no hidden_size",
            |c| c.edit(CONFIG, |map| _ = map.remove("hidden_size")),
            &["{dir}/config.json", "\"hidden_size\" is missing", "add it"],
        ),
        config!("unknown family", "model_type" = "mamba", "\"mamba\"", "apertus, arcee, cohere"),
        config!("family that is a number", "model_type" = 3, "is 3", "must be a string"),
        config!("size as a string", "hidden_size" = "40", "is \"40\"", "must be a whole number from 1"),
        config!("size as a float", "hidden_size" = 40.5, "is 40.5", "must be a whole number from 1"),
        config!("size as a list", "num_hidden_layers" = [2], "is [2]", "must be a whole number"),
        config!("negative size", "hidden_size" = (-40), "is -40", "must be a whole number from 1"),
        config!("no heads", "num_attention_heads" = 0, "is 0", "must be a whole number from 1"),
        config!("size beyond reason", "intermediate_size" = 1_099_511_627_776u64, "1099511627776", "2147483647"),
        config!("layers beyond reason", "num_hidden_layers" = 2_147_483_647, "2147483647", "from 1 to 10000"),
        config!(
            "key-value heads that do not divide",
            "num_key_value_heads" = 3,
            "is 3",
            "a divisor of num_attention_heads (4)"
        ),
        config!(
            "more key-value heads than heads",
            "num_key_value_heads" = 8,
            "is 8",
            "a divisor of num_attention_heads (4)"
        ),
        config!("odd head", "head_dim" = 15, "is 15", "must be an even number"),
        config!("no head", "head_dim" = 0, "is 0", "must be"),
        config!("huge head", "head_dim" = 2_000_000_000, "is 2000000000", "from 4 to 512"),
        config!("unknown activation", "hidden_act" = "snake", "snake", "one of silu"),
        config!("no eps", "rms_norm_eps" = 0, "is 0", "must be a positive number"),
        config!("eps beyond f32", "rms_norm_eps" = 1e300, "1e+300", "must be"),
        config!("theta below zero", "rope_theta" = (-1.0), "is -1.0", "must be a positive number"),
        config!("unknown rope", "rope_scaling" = {"rope_type": "shortrope"}, "rope_scaling.rope_type", "shortrope", "default, linear, dynamic, llama3, yarn, longrope"),
        config!("longrope without factors", "rope_scaling" = {"rope_type": "longrope"}, "\"rope_scaling.short_factor\" is missing", "add it"),
        config!("rope without a factor", "rope_scaling" = {"rope_type": "linear"}, "\"rope_scaling.factor\" is missing", "add it"),
        config!("rope that is a string", "rope_scaling" = "linear", "is \"linear\"", "must be an object"),
        config!("rope with a key of its own", "rope_scaling" = {"rope_type": "linear", "factor": 2.0, "twist": 1}, "rope_scaling.twist", "not understood", "remove the key"),
        config!("rope of a part", "rope_parameters" = {"rope_type": "default", "partial_rotary_factor": 0.5}, "rope_parameters.partial_rotary_factor", "0.5", "must be 1"),
        config!("context beyond reason", "max_position_embeddings" = 1e12, "must be a whole number"),
        config!("quantisation", "quantization_config" = {"quant_method": "gptq", "bits": 4}, "gptq", "no weight of this checkpoint is stored in that form"),
        config!(
            "soft caps",
            "attn_logit_softcapping" = 30.0,
            "30.0",
            "not understood by the qwen3 family",
            "remove the key"
        ),
        config!("experts", "num_experts" = 8, "8", "not understood by the qwen3 family"),
        config!("router", "router_aux_loss_coef" = 0.001, "0.001", "not understood", "remove the key"),
        config!("tied as a string", "tie_word_embeddings" = "yes", "\"yes\"", "must be true or false"),
        Refusal::checkpoint(
            "untied without a head",
            |c| c.config("tie_word_embeddings", json!(false)),
            &["{dir}", "lm_head.weight", "missing", "config.json"],
        ),
        config!("too few layer types", "layer_types" = ["full_attention"], "a list of num_hidden_layers (2) entries"),
        config!(
            "unknown layer type",
            "layer_types" = ["full_attention", "chunked_attention"],
            "chunked_attention",
            "made of full_attention and sliding_attention"
        ),
        config!("windows that are off", "layer_types" = ["sliding_attention", "full_attention"], "use_sliding_window"),
        Refusal::checkpoint(
            "vocabulary that the table does not have",
            |c| c.config("vocab_size", json!(400)),
            &["{dir}", "model.embed_tokens.weight", "[345, 40]", "[400, 40]", "config.json"],
        ),
    ];
    check_all(&table, 36);
}

#[test]
fn generation_settings_that_cannot_be_followed() {
    const SAMPLE: &[&str] = &["generate", "{dir}", "Hello", "--seed", "1"];
    let table = [
        Refusal::checkpoint(
            "negative end",
            |c| c.generation("eos_token_id", json!(-1)),
            &["{dir}/generation_config.json", "eos_token_id", "is -1", "a token id or a list of them"],
        ),
        Refusal::checkpoint(
            "end in words",
            |c| c.generation("eos_token_id", json!(["<|im_end|>"])),
            &["{dir}/generation_config.json", "eos_token_id", "<|im_end|>", "a token id or a list of them"],
        ),
        Refusal {
            base: "text_mistral",
            ..Refusal::checkpoint(
                "end in config.json",
                |c| c.config("eos_token_id", json!(2.5)),
                &["{dir}/config.json", "eos_token_id", "is 2.5"],
            )
        },
        Refusal::checkpoint(
            "temperature in words",
            |c| c.generation("temperature", json!("warm")),
            &["{dir}/generation_config.json", "temperature", "\"warm\"", "must be a finite number"],
        ),
        Refusal {
            args: SAMPLE,
            ..Refusal::checkpoint(
                "temperature below zero",
                |c| c.generation("temperature", json!(-1)),
                &["temperature is -1", "generation_config.json", "or give --temperature"],
            )
        },
        Refusal {
            args: SAMPLE,
            ..Refusal::checkpoint(
                "more than all",
                |c| c.generation("top_p", json!(1.5)),
                &["top_p is 1.5", "at most 1", "generation_config.json", "or give --top-p"],
            )
        },
    ];
    check_all(&table, 6);
}

/// Settings that generation goes on without are named.
#[test]
fn generation_settings_that_are_not_supported_are_named() {
    let checkpoint = common::checkpoint::Checkpoint::copy("text_qwen3");
    checkpoint.generation("no_repeat_ngram_size", json!(3));
    checkpoint.generation("num_beams", json!(1));
    let outcome = common::succeed(&["generate", checkpoint.dir(), "Hello", "-n", "3"]);
    let note = outcome.stderr.lines().next().unwrap();
    assert!(note.starts_with("note: ") && note.contains("no_repeat_ngram_size"), "{outcome:?}");
    assert!(!outcome.stderr.contains("num_beams"), "the value changes nothing: {outcome:?}");
    let odd = &common::succeed(&["inspect", checkpoint.dir(), "--json"]).json()["odd"];
    assert!(odd.to_string().contains("no_repeat_ngram_size"), "{odd}");
}
