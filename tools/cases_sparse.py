"""The table of checkpoints of mixture-of-experts families that reference.py makes under testdata/."""

from family_case import FamilyCase, hub, without

CASES = {}

S, F = "sliding_attention", "full_attention"

# -------------------------------------------------------------- mixtral


def mixtral(*sizes, **more):
    base = {"attention_dropout": 0.0, "hidden_act": "silu", "num_experts_per_tok": 2, "num_local_experts": 8,
            "output_router_logits": False, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
            "router_aux_loss_coef": 0.02, "sliding_window": None, "tie_word_embeddings": False}
    return hub("MixtralForCausalLM", "mixtral", *sizes, **base | more)


CASES["mixtral_hub"] = FamilyCase(
    "Mixtral 8x7B as published: two of eight experts, softmax over all and then normalised, experts as w1, w2, w3.",
    mixtral(120, 40, 32, 2, 4, 2, transformers_version="4.36.0.dev0"),
)

CASES["mixtral_switches"] = FamilyCase(
    "Mixtral with three of nine experts, a window, a head_dim of its own, linear scaling, tied head, float16.",
    mixtral(90, 40, 24, 2, 3, 1, head_dim=16, num_experts_per_tok=3, num_local_experts=9, rms_norm_eps=1e-3,
            rope_scaling={"factor": 2.0, "type": "linear"}, rope_theta=10000.0, sliding_window=9,
            tie_word_embeddings=True, torch_dtype="float16"),
    dtype="float16",
    seed=5,
)

# ------------------------------------------------- qwen2_moe, qwen3_moe


def qwen2_moe(*sizes, **more):
    base = {"attention_dropout": 0.0, "decoder_sparse_step": 1, "hidden_act": "silu", "max_window_layers": 21,
            "norm_topk_prob": False, "num_experts_per_tok": 4, "output_router_logits": False, "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": 32768,
            "tie_word_embeddings": False, "use_sliding_window": False}
    return hub("Qwen2MoeForCausalLM", "qwen2_moe", *sizes, **base | more)


CASES["qwen2_moe_hub"] = FamilyCase(
    "Qwen1.5-MoE as published: four of ten experts with weights that are not normalised, a gated shared expert, biases "
    "on q, k and v.",
    qwen2_moe(120, 40, 64, 2, 4, 4, moe_intermediate_size=20, num_experts=10, shared_expert_intermediate_size=48,
              transformers_version="4.39.0.dev0"),
    seed=7,
)

CASES["qwen2_moe_switches"] = FamilyCase(
    "Qwen2-MoE with normalised weights, every second layer dense and one more by mlp_only_layers, windows on every "
    "second layer below max_window_layers, no biases, tied head, float16.",
    qwen2_moe(90, 40, 48, 4, 4, 2, decoder_sparse_step=2, max_window_layers=2, mlp_only_layers=[1],
              moe_intermediate_size=24, norm_topk_prob=True, num_experts=8, num_experts_per_tok=2, qkv_bias=False,
              rms_norm_eps=1e-3, rope_theta=10000.0, shared_expert_intermediate_size=32, sliding_window=7,
              tie_word_embeddings=True, use_sliding_window=True, torch_dtype="float16"),
    dtype="float16",
)


def qwen3_moe(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "decoder_sparse_step": 1, "hidden_act": "silu",
            "max_window_layers": 48, "mlp_only_layers": [], "norm_topk_prob": True, "num_experts_per_tok": 4,
            "output_router_logits": False, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000.0,
            "router_aux_loss_coef": 0.001, "sliding_window": None, "tie_word_embeddings": False,
            "use_sliding_window": False}
    return hub("Qwen3MoeForCausalLM", "qwen3_moe", *sizes, **base | more)


CASES["qwen3_moe_hub"] = FamilyCase(
    "Qwen3-30B-A3B as published: four of twelve experts with normalised weights, per-head norms, a head_dim of its "
    "own.",
    qwen3_moe(120, 40, 64, 2, 4, 2, head_dim=16, moe_intermediate_size=20, num_experts=12,
              transformers_version="4.51.0"),
    seed=7,
)

CASES["qwen3_moe_switches"] = FamilyCase(
    "Qwen3-MoE with weights that are not normalised, a first layer that is dense, a window on every layer, attention "
    "biases, yarn scaling, tied head, float16.",
    qwen3_moe(90, 40, 48, 3, 4, 1, attention_bias=True, head_dim=16, mlp_only_layers=[0], moe_intermediate_size=24,
              norm_topk_prob=False, num_experts=8, num_experts_per_tok=3, rms_norm_eps=1e-3,
              rope_scaling={"factor": 4.0, "original_max_position_embeddings": 64, "rope_type": "yarn"},
              sliding_window=8, tie_word_embeddings=True, use_sliding_window=True, torch_dtype="float16"),
    dtype="float16",
)

# ---------------------------------------------------------------- olmoe


def olmoe(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "clip_qkv": None, "eos_token_id": 2,
            "hidden_act": "silu", "norm_topk_prob": False, "num_experts": 12, "num_experts_per_tok": 4,
            "output_router_logits": False, "pad_token_id": 1, "rms_norm_eps": 1e-5, "rope_scaling": None,
            "rope_theta": 10000.0, "router_aux_loss_coef": 0.01, "tie_word_embeddings": False}
    return without(hub("OlmoeForCausalLM", "olmoe", *sizes, **base | more), "bos_token_id")


CASES["olmoe_hub"] = FamilyCase(
    "OLMoE as published: four of twelve small experts, weights not normalised, norms of whole query and key rows.",
    olmoe(120, 40, 20, 2, 4, 4, transformers_version="4.43.0.dev0"),
    seed=4,
)

CASES["olmoe_switches"] = FamilyCase(
    "OLMoE with clip_qkv behind the norms, normalised weights, grouped heads, attention biases, tied head, float16.",
    olmoe(90, 48, 24, 2, 4, 2, attention_bias=True, clip_qkv=0.8, norm_topk_prob=True, num_experts=8,
          num_experts_per_tok=2, rms_norm_eps=1e-3, tie_word_embeddings=True, torch_dtype="float16"),
    dtype="float16",
)

# ----------------------------------------------------------- granitemoe


def granitemoe(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.1, "attention_multiplier": 0.08,
            "embedding_multiplier": 12.0, "hidden_act": "silu", "logits_scaling": 6.0, "num_experts_per_tok": 4,
            "num_local_experts": 12, "output_router_logits": False, "pad_token_id": 0, "residual_multiplier": 0.22,
            "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 10000.0,
            "router_aux_loss_coef": 0.0, "tie_word_embeddings": True}
    return hub("GraniteMoeForCausalLM", "granitemoe", *sizes, **base | more)


CASES["granitemoe_hub"] = FamilyCase(
    "Granite 3 MoE as published: experts of a layer in two tensors, softmax over the chosen alone, the multipliers of "
    "Granite, tied head.",
    granitemoe(120, 40, 20, 2, 4, 2, transformers_version="4.45.0.dev0"),
    seed=2,
)

CASES["granitemoe_switches"] = FamilyCase(
    "Granite MoE with two of eight experts, attention biases, other multipliers, untied head, float16.",
    granitemoe(90, 40, 24, 2, 4, 4, attention_bias=True, attention_multiplier=0.4, embedding_multiplier=3.0,
               logits_scaling=0.7, num_experts_per_tok=2, num_local_experts=8, residual_multiplier=1.2,
               rms_norm_eps=1e-3, tie_word_embeddings=False, torch_dtype="float16"),
    dtype="float16",
)

# --------------------------------------------------------------- phimoe


def phimoe(*sizes, **more):
    base = {"attention_bias": True, "attention_dropout": 0.0, "hidden_act": "silu", "hidden_dropout": 0.0,
            "input_jitter_noise": 0.01, "lm_head_bias": True, "num_experts_per_tok": 2, "num_local_experts": 8,
            "output_router_logits": False, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "router_aux_loss_coef": 0.0,
            "router_jitter_noise": 0.01, "tie_word_embeddings": False}
    return hub("PhimoeForCausalLM", "phimoe", *sizes, **base | more)


CASES["phimoe_hub"] = FamilyCase(
    "Phi-3.5-MoE as published: two experts by sparsemixer, layer norms, biases in attention and on the head, longrope "
    "with short_mscale and long_mscale, prompts within the original context.",
    phimoe(120, 40, 24, 2, 4, 2, original_max_position_embeddings=64,
           rope_scaling={"long_factor": [1.1, 1.7, 2.9, 4.1, 6.2], "long_mscale": 1.243163121016122,
                         "original_max_position_embeddings": 64, "short_factor": [1.0, 1.04, 1.12, 1.5, 2.0],
                         "short_mscale": 1.243163121016122, "type": "longrope"},
           sliding_window=256, transformers_version="4.43.3"),
    seed=2,
)

CASES["phimoe_longrope"] = FamilyCase(
    "Phi-MoE beyond the original context, where long_mscale takes the place of short_mscale (the factors are the same "
    "on both sides).",
    phimoe(90, 40, 24, 2, 4, 1, original_max_position_embeddings=24,
           rope_scaling={"long_factor": [1.0, 1.3, 2.0, 3.1, 4.5], "long_mscale": 1.3,
                         "original_max_position_embeddings": 24, "short_factor": [1.0, 1.3, 2.0, 3.1, 4.5],
                         "short_mscale": 0.9, "type": "longrope"},
           sliding_window=None),
    prompts=(1, 24, 25, 40), greedy=(30,),
)

CASES["phimoe_switches"] = FamilyCase(
    "Phi-MoE with a wide router_jitter_noise, so that several experts share the softmax that weighs the chosen one, no "
    "biases, a window, no scaling, tied head, float16.",
    phimoe(90, 40, 24, 2, 4, 4, attention_bias=False, lm_head_bias=False, num_local_experts=9, rms_norm_eps=1e-3,
           rope_scaling=None, router_jitter_noise=0.3, sliding_window=7, tie_word_embeddings=True,
           torch_dtype="float16"),
    dtype="float16",
)

# ------------------------------------------------------------- glm4_moe


def glm4_moe(*sizes, **more):
    base = {"attention_bias": True, "attention_dropout": 0.0, "eos_token_id": [2, 4, 6], "first_k_dense_replace": 1,
            "hidden_act": "silu", "n_group": 1, "n_shared_experts": 1, "norm_topk_prob": True, "num_experts_per_tok": 3,
            "num_nextn_predict_layers": 1, "pad_token_id": 2, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5,
            "rope_scaling": None, "rope_theta": 1000000, "routed_scaling_factor": 1.0, "tie_word_embeddings": False,
            "topk_group": 1, "use_qk_norm": False}
    return without(hub("Glm4MoeForCausalLM", "glm4_moe", *sizes, **base | more), "bos_token_id")


CASES["glm4_moe_hub"] = FamilyCase(
    "GLM-4.5 as published: a dense first layer, sigmoid scores with a correction bias for the choice, a shared expert, "
    "per-head norms, half of a head turned, biases on q, k and v; the bias of the choice in float32.",
    glm4_moe(110, 40, 56, 3, 4, 2, head_dim=16, moe_intermediate_size=20, n_routed_experts=8,
             routed_scaling_factor=2.5, use_qk_norm=True, transformers_version="4.54.0"),
    wide=("e_score_correction_bias",),
    seed=3,
)

CASES["glm4_moe_switches"] = FamilyCase(
    "GLM-4.5 with two of four groups of experts, weights not normalised, two shared experts in one, two dense layers, "
    "no per-head norms, no biases, tied head, float16.",
    glm4_moe(90, 40, 48, 3, 4, 1, attention_bias=False, first_k_dense_replace=2, moe_intermediate_size=20, n_group=4,
             n_routed_experts=12, n_shared_experts=2, norm_topk_prob=False, partial_rotary_factor=0.4, head_dim=20,
             rms_norm_eps=1e-3, routed_scaling_factor=0.7, rope_theta=10000, tie_word_embeddings=True, topk_group=2,
             torch_dtype="float16"),
    dtype="float16",
)

# ----------------------------------------------------------- minimax_m2


def minimax_m2(*sizes, **more):
    base = {"attention_dropout": 0.0, "attn_type_list": [1, 1], "head_dim": 16, "hidden_act": "silu",
            "layernorm_full_attention_beta": 1.0, "layernorm_mlp_beta": 1.0, "num_experts_per_tok": 3,
            "num_local_experts": 9, "output_router_logits": False, "qk_norm_type": "per_layer", "rms_norm_eps": 1e-6,
            "rope_theta": 5000000, "rotary_dim": 8, "router_aux_loss_coef": 0.001, "router_jitter_noise": 0.0,
            "scoring_func": "sigmoid", "shared_intermediate_size": 0, "tie_word_embeddings": False,
            "use_qk_norm": True, "use_routing_bias": True}
    return hub("MiniMaxM2ForCausalLM", "minimax_m2", *sizes, **base | more)


CASES["minimax_m2_hub"] = FamilyCase(
    "MiniMax-M2 as published: sigmoid scores with a bias for the choice, normalised weights, norms of whole query and "
    "key rows, half of a head turned (rotary_dim); the bias of the choice in float32.",
    minimax_m2(110, 40, 24, 2, 4, 2, transformers_version="4.46.1"),
    wide=("e_score_correction_bias",),
)

CASES["minimax_m2_switches"] = FamilyCase(
    "MiniMax-M2 with whole heads turned, one key head, two of eight experts, tied head, float16.",
    minimax_m2(90, 40, 24, 2, 3, 1, head_dim=20, num_experts_per_tok=2, num_local_experts=8, rms_norm_eps=1e-3,
               rope_theta=10000, rotary_dim=20, tie_word_embeddings=True, torch_dtype="float16"),
    dtype="float16",
)

# -------------------------------------------------------------- gpt_oss


def gpt_oss(*sizes, **more):
    base = {"attention_bias": True, "attention_dropout": 0.0, "experts_per_token": 4, "head_dim": 16,
            "hidden_act": "silu", "initial_context_length": 64, "num_experts_per_tok": 4, "num_local_experts": 8,
            "output_router_logits": False, "pad_token_id": 3, "rms_norm_eps": 1e-5,
            "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
                             "original_max_position_embeddings": 64, "rope_type": "yarn", "truncate": False},
            "rope_theta": 150000, "router_aux_loss_coef": 0.9, "swiglu_limit": 7.0, "tie_word_embeddings": False}
    return without(hub("GptOssForCausalLM", "gpt_oss", *sizes, **base | more), "bos_token_id")


CASES["gpt_oss_hub"] = FamilyCase(
    "gpt-oss as published, weights not quantised: attention sinks, windows on every second layer, experts stored input "
    "first with gate and up interleaved and biases, yarn scaling that is not truncated.",
    gpt_oss(110, 40, 24, 2, 4, 2, layer_types=[S, F], sliding_window=10, transformers_version="4.55.0.dev0"),
)

CASES["gpt_oss_switches"] = FamilyCase(
    "gpt-oss with limits of the gate that bite, three of nine experts, other layer types, no attention biases, no "
    "scaling, tied head, float32.",
    gpt_oss(80, 32, 20, 3, 3, 1, attention_bias=False, head_dim=12, layer_types=[F, S, S], num_experts_per_tok=3,
            num_local_experts=9, experts_per_token=3, rms_norm_eps=1e-3, rope_scaling={"rope_type": "default"},
            rope_theta=10000, sliding_window=6, swiglu_limit=1.2, tie_word_embeddings=True, torch_dtype="float32"),
    dtype="float32",
)

# ------------------------------------------------------------- deepseek


def deepseek(architecture, model_type, *sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "aux_loss_alpha": 0.001, "ep_size": 1,
            "first_k_dense_replace": 1, "hidden_act": "silu", "kv_lora_rank": 24, "moe_layer_freq": 1,
            "pretraining_tp": 1, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "rms_norm_eps": 1e-6,
            "rope_theta": 10000, "seq_aux": True, "tie_word_embeddings": False, "v_head_dim": 12}
    return hub(architecture, model_type, *sizes, **base | more)


def deepseek_v2(*sizes, **more):
    base = {"n_group": 1, "n_shared_experts": 2, "norm_topk_prob": False, "num_experts_per_tok": 3,
            "scoring_func": "softmax", "topk_group": 1, "topk_method": "greedy"}
    return deepseek("DeepseekV2ForCausalLM", "deepseek_v2", *sizes, **base | more)


CASES["deepseek_v2_hub"] = FamilyCase(
    "DeepSeek-V2-Lite as published: latent attention without q_lora_rank, keys of 24 beside values of 12, yarn scaling "
    "whose mscale changes the scale of the scores, greedy choice, two shared experts in one, a dense first layer.",
    deepseek_v2(110, 40, 56, 2, 4, 4, moe_intermediate_size=20, n_routed_experts=8, q_lora_rank=None,
                rope_scaling={"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
                              "original_max_position_embeddings": 64, "type": "yarn"},
                routed_scaling_factor=1.0, transformers_version="4.33.1"),
    seed=2,
)

CASES["deepseek_v2_switches"] = FamilyCase(
    "DeepSeek-V2: q_lora_rank, a choice limited to two of four groups, scaled weights, attention and feed-forward "
    "biases, values wider than keys, no scaling of the rotation, tied head, float16.",
    deepseek_v2(90, 48, 48, 2, 3, 3, attention_bias=True, kv_lora_rank=20, mlp_bias=True, moe_intermediate_size=20,
                n_group=4, n_routed_experts=12, n_shared_experts=1, q_lora_rank=28, qk_nope_head_dim=10,
                qk_rope_head_dim=12, rms_norm_eps=1e-3, rope_scaling=None, routed_scaling_factor=3.0,
                tie_word_embeddings=True, topk_group=2, topk_method="group_limited_greedy", v_head_dim=24,
                torch_dtype="float16"),
    dtype="float16",
)


def deepseek_v3(*sizes, **more):
    base = {"n_group": 4, "n_shared_experts": 1, "norm_topk_prob": True, "num_experts_per_tok": 3,
            "num_nextn_predict_layers": 1, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_group": 2,
            "topk_method": "noaux_tc"}
    return deepseek("DeepseekV3ForCausalLM", "deepseek_v3", *sizes, **base | more)


CASES["deepseek_v3_hub"] = FamilyCase(
    "DeepSeek-V3 as published: latent attention with q_lora_rank, sigmoid scores with a correction bias, two of four "
    "groups by the sum of their best two, normalised and scaled weights, yarn scaling with mscale_all_dim 1; the bias "
    "of the choice in float32.",
    deepseek_v3(110, 40, 56, 2, 4, 4, moe_intermediate_size=20, n_routed_experts=12, q_lora_rank=28,
                rope_scaling={"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                              "original_max_position_embeddings": 64, "type": "yarn"},
                transformers_version="4.33.1"),
    wide=("e_score_correction_bias",),
    seed=6,
)

CASES["deepseek_v3_switches"] = FamilyCase(
    "Moonlight style: no q_lora_rank, one group, weights not normalised, yarn scaling with different mscale and "
    "mscale_all_dim, rotation by halves, attention biases, tied head, float16.",
    deepseek_v3(90, 40, 48, 3, 4, 4, attention_bias=True, first_k_dense_replace=2, moe_intermediate_size=20, n_group=1,
                n_routed_experts=8, n_shared_experts=2, norm_topk_prob=False, q_lora_rank=None, rms_norm_eps=1e-3,
                rope_interleave=False,
                rope_scaling={"factor": 8.0, "mscale": 1.2, "mscale_all_dim": 0.5,
                              "original_max_position_embeddings": 32, "rope_type": "yarn"},
                tie_word_embeddings=True, topk_group=1, torch_dtype="float16"),
    dtype="float16",
)
