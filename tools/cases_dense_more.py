"""The table of checkpoints of dense families that reference.py makes under testdata/, second part."""

from family_case import FamilyCase, hub, without

CASES = {}

S, F = "sliding_attention", "full_attention"
LLAMA3 = {"factor": 16.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 32,
          "rope_type": "llama3"}

# -------------------------------------------------------------- granite


def granite(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.1, "attention_multiplier": 0.08,
            "embedding_multiplier": 12.0, "hidden_act": "silu", "logits_scaling": 8.0, "mlp_bias": False,
            "pad_token_id": 0, "residual_multiplier": 0.22, "rms_norm_eps": 1e-5, "rope_scaling": None,
            "rope_theta": 5000000.0, "tie_word_embeddings": True}
    return hub("GraniteForCausalLM", "granite", *sizes, **base | more)


CASES["granite_hub"] = FamilyCase(
    "Granite 3 as published: multipliers of embeddings, residuals, attention scores and logits, tied head.",
    granite(120, 48, 72, 2, 4, 2, transformers_version="4.46.0.dev0"),
)

CASES["granite_switches"] = FamilyCase(
    "Granite with biases on every linear layer, other multipliers, untied head, float16.",
    granite(90, 40, 56, 3, 4, 4, attention_bias=True, attention_multiplier=0.5, embedding_multiplier=3.0,
            logits_scaling=0.7, mlp_bias=True, residual_multiplier=1.3, rms_norm_eps=1e-3, tie_word_embeddings=False,
            torch_dtype="float16"),
    dtype="float16",
)

# --------------------------------------------------------------- cohere


def cohere(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 5, "eos_token_id": 6,
            "hidden_act": "silu", "layer_norm_eps": 1e-5, "logit_scale": 0.0625, "pad_token_id": 0,
            "rope_theta": 8000000.0, "torch_dtype": "float16", "use_qk_norm": False}
    return hub("CohereForCausalLM", "cohere", *sizes, **base | more)


CASES["cohere_hub"] = FamilyCase(
    "Command R as published: layer norms without bias, attention and feed-forward side by side, interleaved rotation, "
    "scaled logits, tied head, float16.",
    cohere(120, 48, 72, 2, 4, 4, logit_scale=0.5, model_max_length=131072, transformers_version="4.38.2"),
    dtype="float16",
)

CASES["cohere_switches"] = FamilyCase(
    "Command R+: a norm for each query and key head with weights of its own, grouped heads, attention biases, untied "
    "head, default theta.",
    without(cohere(90, 40, 56, 3, 4, 2, attention_bias=True, layer_norm_eps=1e-3, logit_scale=0.8333333333333334,
                   tie_word_embeddings=False, torch_dtype="bfloat16", use_qk_norm=True), "rope_theta"),
)


def cohere2(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 5, "eos_token_id": 6,
            "hidden_act": "silu", "layer_norm_eps": 1e-5, "logit_scale": 0.25,
            "order_of_interleaved_layers": "local_attn_first", "pad_token_id": 0,
            "position_embedding_type": "rope_gptj", "rope_scaling": None, "rope_theta": 50000,
            "rotary_pct": 1.0, "use_embedding_sharing": True, "use_gated_activation": True,
            "use_parallel_block": True, "use_parallel_embedding": True}
    return hub("Cohere2ForCausalLM", "cohere2", *sizes, **base | more)


CASES["cohere2_hub"] = FamilyCase(
    "Command R7B as published: windows and interleaved rotation on three of four layers, neither in the fourth.",
    cohere2(110, 40, 56, 4, 4, 2, head_dim=10, layer_switch=4, sliding_window=9, sliding_window_pattern=4,
            transformers_version="4.48.0.dev0"),
)

CASES["cohere2_switches"] = FamilyCase(
    "Command A style with explicit layer_types, attention biases, one key head, untied head, float16.",
    cohere2(90, 48, 64, 3, 4, 1, attention_bias=True, layer_norm_eps=1e-3, layer_types=[F, S, F], logit_scale=1.5,
            sliding_window=6, tie_word_embeddings=False, torch_dtype="float16"),
    dtype="float16",
)

# ------------------------------------------------------------ glm, glm4


def glm(architecture, model_type, *sizes, **more):
    base = {"attention_bias": True, "attention_dropout": 0.0, "eos_token_id": [2, 4, 6], "hidden_act": "silu",
            "pad_token_id": 2, "partial_rotary_factor": 0.5, "rms_norm_eps": 1.5625e-7, "rope_theta": 10000.0,
            "tie_word_embeddings": False}
    return without(hub(architecture, model_type, *sizes, **base | more), "bos_token_id")


CASES["glm_hub"] = FamilyCase(
    "GLM-4 9B as published: interleaved rotation of half a head, gate and up in one matrix, biases on q, k and v, a "
    "tiny epsilon.",
    glm("GlmForCausalLM", "glm", 120, 48, 72, 2, 4, 2, head_dim=16, transformers_version="4.46.0.dev0"),
)

CASES["glm_switches"] = FamilyCase(
    "GLM without biases, three quarters of a head turned, a head_dim of its own, tied head, float16.",
    glm("GlmForCausalLM", "glm", 90, 40, 56, 3, 3, 1, attention_bias=False, head_dim=24, partial_rotary_factor=0.75,
        rms_norm_eps=1e-3, rope_theta=5000.0, tie_word_embeddings=True, torch_dtype="float16"),
    dtype="float16",
    seed=2,
)

CASES["glm4_hub"] = FamilyCase(
    "GLM-4 0414 as published: as GLM with norms behind attention and feed-forward too.",
    glm("Glm4ForCausalLM", "glm4", 120, 48, 72, 2, 4, 2, head_dim=16, rms_norm_eps=1e-5,
        transformers_version="4.52.0.dev0"),
)

CASES["glm4_switches"] = FamilyCase(
    "GLM-4 32B: no biases, whole heads turned, tied head, epsilon by default, float16.",
    without(glm("Glm4ForCausalLM", "glm4", 90, 40, 56, 3, 4, 4, attention_bias=False, head_dim=12,
                partial_rotary_factor=1.0, tie_word_embeddings=True, torch_dtype="float16"), "rms_norm_eps"),
    dtype="float16",
)

# -------------------------------------------------------------- smollm3


def smollm3(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "mlp_bias": False,
            "pad_token_id": 3, "pretraining_tp": 2, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 5000000.0,
            "sliding_window": None, "use_sliding_window": False}
    return without(hub("SmolLM3ForCausalLM", "smollm3", *sizes, **base | more), "bos_token_id")


CASES["smollm3_hub"] = FamilyCase(
    "SmolLM3 as published: every fourth layer without positions (no_rope_layers), tied head.",
    smollm3(110, 40, 56, 4, 4, 1, layer_types=[F] * 4, max_window_layers=28, no_rope_layer_interval=4,
            no_rope_layers=[1, 1, 1, 0], transformers_version="4.53.0.dev0"),
)

CASES["smollm3_switches"] = FamilyCase(
    "SmolLM3 with no_rope_layers from an interval of 2, windows on the layers without positions, biases on every "
    "linear layer, untied head, float16.",
    smollm3(90, 48, 56, 3, 4, 2, attention_bias=True, mlp_bias=True, no_rope_layer_interval=2, rms_norm_eps=1e-3,
            rope_theta=10000.0, sliding_window=7, tie_word_embeddings=False, use_sliding_window=True,
            torch_dtype="float16"),
    dtype="float16",
)

# --------------------------------------------------------------- falcon


def falcon(vocab, hidden, layers, heads, **more):
    config = {"alibi": False, "apply_residual_connection_post_layernorm": False, "architectures": ["FalconForCausalLM"],
              "attention_dropout": 0.0, "bias": False, "bos_token_id": 11, "eos_token_id": 11, "hidden_dropout": 0.0,
              "hidden_size": hidden, "initializer_range": 0.02, "layer_norm_epsilon": 1e-5, "model_type": "falcon",
              "num_attention_heads": heads, "num_hidden_layers": layers, "torch_dtype": "bfloat16", "use_cache": True,
              "vocab_size": vocab}
    return config | more


def equal_head(state, config):
    return state | {"lm_head.weight": state["transformer.word_embeddings.weight"].clone()}


CASES["falcon_hub"] = FamilyCase(
    "Falcon 7B as published: one key head for all, attention and feed-forward side by side behind one norm, no biases, "
    "a tied head that is stored all the same.",
    falcon(120, 48, 2, 6, multi_query=True, new_decoder_architecture=False, parallel_attn=True,
           transformers_version="4.27.4"),
    stored=equal_head,
    seed=2,
)

CASES["falcon_grouped"] = FamilyCase(
    "Falcon 40B: the new decoder architecture, whose q, k and v lie by groups, with a norm each for attention and "
    "feed-forward.",
    falcon(90, 48, 2, 6, new_decoder_architecture=True, num_kv_heads=2, multi_query=True, parallel_attn=True),
)

CASES["falcon_one_norm"] = FamilyCase(
    "Falcon 2 11B: the new decoder architecture with one norm, ffn_hidden_size, another theta, untied head, float16.",
    falcon(90, 40, 3, 4, ffn_hidden_size=72, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1,
           max_position_embeddings=256, rope_theta=500042.0, tie_word_embeddings=False, layer_norm_epsilon=1e-3,
           torch_dtype="float16"),
    dtype="float16",
)

CASES["falcon_serial"] = FamilyCase(
    "Falcon with attention and feed-forward one after the other, q, k and v by heads, biases on every linear layer.",
    falcon(90, 40, 3, 4, activation="gelu_new", bias=True, multi_query=False, parallel_attn=False,
           ffn_hidden_size=56, torch_dtype="bfloat16"),
)

# ------------------------------------------------------------- nemotron


def nemotron(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "hidden_act": "relu2", "hidden_dropout": 0.0,
            "mlp_bias": False, "norm_eps": 1e-5, "partial_rotary_factor": 0.5, "rope_theta": 10000,
            "tie_word_embeddings": False}
    return hub("NemotronForCausalLM", "nemotron", *sizes, **base | more)


CASES["nemotron_hub"] = FamilyCase(
    "Nemotron (Minitron) as published: zero-centred layer norms with biases, squared relu, half of a head turned.",
    nemotron(120, 48, 96, 2, 4, 2, head_dim=12, transformers_version="4.44.0"),
)

CASES["nemotron_switches"] = FamilyCase(
    "Nemotron with biases on every linear layer, a head_dim of its own, whole heads turned, tied head, float16.",
    nemotron(90, 40, 64, 3, 4, 4, attention_bias=True, head_dim=16, mlp_bias=True, norm_eps=1e-3,
             partial_rotary_factor=1.0, tie_word_embeddings=True, torch_dtype="float16"),
    dtype="float16",
)

# -------------------------------------------------------------- exaone4


def exaone4(*sizes, **more):
    base = {"attention_dropout": 0.0, "hidden_act": "silu", "pad_token_id": 0, "rms_norm_eps": 1e-5,
            "rope_scaling": LLAMA3, "rope_theta": 1000000, "tie_word_embeddings": True}
    return hub("Exaone4ForCausalLM", "exaone4", *sizes, **base | more)


CASES["exaone4_hub"] = FamilyCase(
    "EXAONE 4 1.2B as published: norms behind attention and feed-forward, per-head norms, no windows and positions "
    "everywhere, llama3 scaling, tied head.",
    exaone4(120, 48, 72, 2, 4, 2, head_dim=16, layer_types=[F, F], sliding_window=None, sliding_window_pattern=None,
            transformers_version="4.54.0.dev0"),
)

CASES["exaone4_window"] = FamilyCase(
    "EXAONE 4 32B: windows on three of four layers and no positions in the fourth, the pattern written as a word.",
    exaone4(90, 40, 56, 4, 4, 2, layer_types=[S, S, S, F], rms_norm_eps=1e-3, sliding_window=8,
            sliding_window_pattern="LLLG", tie_word_embeddings=False, torch_dtype="float16"),
    dtype="float16",
)

CASES["exaone4_switches"] = FamilyCase(
    "EXAONE 4 with layer_types from a pattern of 2, one key head, no scaling.",
    exaone4(80, 40, 48, 3, 2, 1, rope_scaling=None, sliding_window=5, sliding_window_pattern=2, head_dim=24),
    seed=2,
)

# -------------------------------------------------- ernie4_5, seed_oss


def ernie(*sizes, **more):
    base = {"hidden_act": "silu", "pad_token_id": 0, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
            "tie_word_embeddings": True, "use_bias": False}
    return hub("Ernie4_5ForCausalLM", "ernie4_5", *sizes, **base | more)


CASES["ernie4_5_hub"] = FamilyCase(
    "ERNIE 4.5 0.3B as published: interleaved rotation of whole heads, a head_dim of its own, tied head.",
    ernie(120, 48, 72, 2, 4, 1, head_dim=16, rope_scaling=None, transformers_version="4.54.0.dev0"),
)

CASES["ernie4_5_switches"] = FamilyCase(
    "ERNIE 4.5 with biases on every linear layer, untied head, head_dim by default from the sizes, float16.",
    ernie(90, 40, 56, 3, 4, 2, head_dim=None, rms_norm_eps=1e-3, rope_theta=10000.0, tie_word_embeddings=False,
          use_bias=True, torch_dtype="float16"),
    dtype="float16",
)


def seed_oss(*sizes, **more):
    base = {"attention_bias": True, "attention_dropout": 0.1, "attention_out_bias": False, "hidden_act": "silu",
            "mlp_bias": False, "pad_token_id": 1, "residual_dropout": 0.1, "rms_norm_eps": 1e-6,
            "rope_scaling": {"rope_type": "default"}, "rope_theta": 10000000.0, "tie_word_embeddings": False}
    return hub("SeedOssForCausalLM", "seed_oss", *sizes, **base | {"bos_token_id": 0} | more)


CASES["seed_oss_hub"] = FamilyCase(
    "Seed-OSS as published: biases on q, k and v and not on o, a head_dim of its own.",
    seed_oss(120, 48, 72, 2, 4, 2, head_dim=16, transformers_version="4.55.0"),
)

CASES["seed_oss_switches"] = FamilyCase(
    "Seed-OSS with biases on o and the feed-forward and none on q, k and v, tied head, linear scaling, float16.",
    seed_oss(90, 40, 56, 3, 4, 4, attention_bias=False, attention_out_bias=True, head_dim=None, mlp_bias=True,
             rms_norm_eps=1e-3, rope_scaling={"factor": 2.0, "rope_type": "linear"}, rope_theta=10000.0,
             tie_word_embeddings=True, torch_dtype="float16"),
    dtype="float16",
)

# -------------------------------------------------------------- apertus


def apertus(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "hidden_act": "xielu", "hidden_dropout": 0.0,
            "mlp_bias": False, "pad_token_id": 3, "post_norm": False, "qk_norm": True, "rms_norm_eps": 1e-5,
            "rope_scaling": LLAMA3 | {"factor": 8.0, "type": "llama3"}, "rope_theta": 12000000.0,
            "tie_word_embeddings": False}
    return hub("ApertusForCausalLM", "apertus", *sizes, **base | more)


CASES["apertus_hub"] = FamilyCase(
    "Apertus as published: the xIELU activation with parameters of its own in every layer, per-head norms, llama3 "
    "scaling.",
    apertus(120, 48, 96, 2, 4, 2, transformers_version="4.56.0.dev0"),
)

CASES["apertus_switches"] = FamilyCase(
    "Apertus with attention biases, a head_dim of its own, no scaling, tied head, float16.",
    apertus(90, 40, 72, 3, 4, 4, attention_bias=True, head_dim=16, rms_norm_eps=1e-3,
            rope_scaling={"rope_type": "default"}, rope_theta=10000.0, tie_word_embeddings=True,
            torch_dtype="float16"),
    dtype="float16",
)

# --------------------------------------------- arcee, hunyuan_v1_dense


def arcee(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "hidden_act": "relu2", "mlp_bias": False,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False}
    return hub("ArceeForCausalLM", "arcee", *sizes, **base | more)


CASES["arcee_hub"] = FamilyCase(
    "AFM 4.5B as published: feed-forward without a gate, squared relu, yarn scaling, a head_dim of its own.",
    arcee(120, 48, 96, 2, 4, 2, head_dim=16,
          rope_scaling={"beta_fast": 32.0, "beta_slow": 1.0, "factor": 20.0, "mscale": 1.0,
                        "original_max_position_embeddings": 64, "rope_type": "yarn"},
          transformers_version="4.53.2"),
)

CASES["arcee_switches"] = FamilyCase(
    "Arcee with biases on every linear layer, no scaling, tied head, float16.",
    arcee(90, 40, 72, 3, 4, 4, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-3, rope_scaling=None,
          tie_word_embeddings=True, torch_dtype="float16"),
    dtype="float16",
)


def hunyuan(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "eod_token_id": 3, "hidden_act": "silu",
            "mlp_bias": False, "pad_token_id": 0, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": True, "use_cla": False, "use_qk_norm": True}
    return hub("HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense", *sizes, **base | more)


CASES["hunyuan_v1_dense_hub"] = FamilyCase(
    "Hunyuan 1.8B as published: per-head norms after the rotation, dynamic scaling with `alpha`, which is a fixed "
    "base, tied head.",
    hunyuan(120, 48, 72, 2, 4, 2, head_dim=16, max_position_embeddings=128,
            rope_scaling={"alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0,
                          "mscale_all_dim": 0.0, "type": "dynamic"},
            transformers_version="4.56.0.dev0"),
)

CASES["hunyuan_v1_dense_switches"] = FamilyCase(
    "Hunyuan with attention biases, no scaling, untied head, float16.",
    hunyuan(90, 40, 56, 3, 4, 4, attention_bias=True, head_dim=12, rms_norm_eps=1e-3, rope_scaling=None,
            tie_word_embeddings=False, torch_dtype="float16"),
    dtype="float16",
)
