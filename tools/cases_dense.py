"""The table of checkpoints of dense families that reference.py makes under testdata/, first part."""

import torch

from family_case import FamilyCase, hub, without

CASES = {}

S, F = "sliding_attention", "full_attention"

# ---------------------------------------------------------------- gemma


def gemma(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
            "rms_norm_eps": 1e-6}
    return hub("GemmaForCausalLM", "gemma", *sizes, **base | more)


CASES["gemma_hub"] = FamilyCase(
    "Gemma as published: zero-centred RMS norms, embeddings times the root of hidden_size, tied head, one key head, "
    "a head_dim of its own, and hidden_act `gelu`, which means the tanh form.",
    gemma(120, 48, 72, 2, 4, 1, head_dim=24, hidden_act="gelu", rope_scaling=None, rope_theta=10000.0,
          transformers_version="4.38.0.dev0"),
)

CASES["gemma_switches"] = FamilyCase(
    "Gemma with attention biases, an untied head, as many key as query heads, another theta and epsilon, "
    "hidden_activation null beside hidden_act, float16.",
    gemma(90, 40, 56, 3, 3, 3, head_dim=16, hidden_act="gelu_pytorch_tanh", hidden_activation=None,
          attention_bias=True, rms_norm_eps=1e-3, rope_theta=5000.0, tie_word_embeddings=False,
          torch_dtype="float16"),
    dtype="float16",
)

# --------------------------------------------------------------- gemma2


def gemma2(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
            "cache_implementation": "hybrid", "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "rope_theta": 10000.0}
    return hub("Gemma2ForCausalLM", "gemma2", *sizes, **base | more)


CASES["gemma2_hub"] = FamilyCase(
    "Gemma 2 as published: norms before and after attention and feed-forward, soft caps of 50 and 30, an attention "
    "scale from query_pre_attn_scalar, windows on every second layer from the first.",
    gemma2(120, 48, 72, 3, 4, 2, head_dim=16, attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
           query_pre_attn_scalar=24, sliding_window=12, transformers_version="4.42.4"),
)

CASES["gemma2_switches"] = FamilyCase(
    "Gemma 2 with a soft cap that bites on the scores and none on the logits, explicit layer_types, the erf form of "
    "gelu, attention biases, untied head, float16.",
    gemma2(90, 40, 56, 3, 4, 4, head_dim=24, attn_logit_softcapping=2.0, final_logit_softcapping=None,
           hidden_activation="gelu", query_pre_attn_scalar=10, sliding_window=7, layer_types=[F, S, S],
           attention_bias=True, rope_theta=5000.0, tie_word_embeddings=False, torch_dtype="float16"),
    dtype="float16",
)

# --------------------------------------------------------------- gemma3


def gemma3(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": None, "bos_token_id": 2,
            "cache_implementation": "hybrid", "eos_token_id": [1, 106], "final_logit_softcapping": None,
            "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0, "rms_norm_eps": 1e-6}
    return hub("Gemma3ForCausalLM", "gemma3_text", *sizes, **base | more)


CASES["gemma3_hub"] = FamilyCase(
    "Gemma 3 (text) as published: per-head norms, sliding_window_pattern, rope_local_base_freq in the layers with a "
    "window and rope_theta in the others.",
    gemma3(120, 48, 72, 4, 4, 1, head_dim=16, query_pre_attn_scalar=24, rope_local_base_freq=10000, rope_scaling=None,
           rope_theta=1000000, sliding_window=9, sliding_window_pattern=3, transformers_version="4.50.0.dev0"),
)

CASES["gemma3_switches"] = FamilyCase(
    "Gemma 3 in the newer spelling (rope_parameters by layer type, linear scaling in one), explicit layer_types, a "
    "soft cap on the logits, attention biases, untied head, float16.",
    gemma3(110, 40, 56, 3, 4, 2, head_dim=24, query_pre_attn_scalar=24, layer_types=[F, S, F], sliding_window=7,
           rope_parameters={F: {"factor": 4.0, "rope_theta": 200000.0, "rope_type": "linear"},
                            S: {"rope_theta": 3000.0, "rope_type": "default"}},
           final_logit_softcapping=3.0, attention_bias=True, tie_word_embeddings=False, torch_dtype="float16"),
    dtype="float16",
)

def siglip_names(state, config):
    return {name.replace("vision_tower.", "vision_tower.vision_model."): t for name, t in state.items()}


CASES["gemma3_wrapper"] = FamilyCase(
    "Gemma 3 as a model that also sees: the decoder in text_config, tensors of a vision tower and a projector that "
    "text does not need, linear scaling in the layers without a window, defaults for what text_config leaves out.",
    {"architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 115, "eoi_token_index": 116,
     "eos_token_id": [1, 106], "image_token_index": 117, "initializer_range": 0.02, "mm_tokens_per_image": 4,
     "model_type": "gemma3",
     "text_config": {"head_dim": 16, "hidden_size": 48, "intermediate_size": 72, "model_type": "gemma3_text",
                     "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2,
                     "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 10,
                     "sliding_window_pattern": 3, "vocab_size": 120},
     "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
     "vision_config": {"hidden_size": 16, "image_size": 28, "intermediate_size": 24,
                       "model_type": "siglip_vision_model", "num_attention_heads": 2, "num_hidden_layers": 1,
                       "patch_size": 7, "vision_use_head": False}},
    stored=siglip_names,
)

# ----------------------------------------------------------------- phi3


def phi3(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "embd_pdrop": 0.0, "hidden_act": "silu",
            "pad_token_id": 3, "resid_pdrop": 0.0, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": False}
    return hub("Phi3ForCausalLM", "phi3", *sizes, **base | more)


CASES["phi3_hub"] = FamilyCase(
    "Phi-3 as published: q, k and v in one matrix, gate and up in one matrix, a window on every layer.",
    phi3(120, 48, 72, 2, 4, 4, original_max_position_embeddings=256, rope_scaling=None, sliding_window=21,
         transformers_version="4.40.2"),
    seed=2,
)

SHORT = [1.0, 1.05, 1.1, 1.3, 1.6, 2.1]
LONG = [1.2, 1.9, 3.1, 4.4, 6.5, 7.7]

CASES["phi3_longrope"] = FamilyCase(
    "Phi-3.5 and Phi-4-mini: longrope on three quarters of a head, prompts up to, at and beyond the original context, "
    "grouped heads, tied head; a greedy continuation that starts beyond it.",
    phi3(90, 64, 56, 2, 4, 2, original_max_position_embeddings=32, partial_rotary_factor=0.75,
         rope_scaling={"long_factor": LONG, "short_factor": SHORT, "type": "longrope"}, sliding_window=262144,
         tie_word_embeddings=True, full_attn_mod=1, interpolate_factor=1, lm_head_bias=False, mlp_bias=False),
    prompts=(1, 32, 33, 70), hidden=2, greedy=(5, 40), greedy_logits=True,
)

CASES["phi3_longrope_crossing"] = FamilyCase(
    "A greedy continuation that grows over the original context: from there on transformers computes all keys again "
    "with the long factors, so that every step equals a pass over its whole text.",
    phi3(90, 40, 40, 2, 4, 1, head_dim=10, original_max_position_embeddings=24,
         rope_scaling={"long_factor": LONG[:5], "short_factor": SHORT[:5], "type": "longrope"}, sliding_window=None),
    prompts=(9, 30), hidden=0, greedy=(15,), greedy_logits=True, recomputed=True,
)

# ------------------------------------------------------------------ phi


def phi(*sizes, **more):
    base = {"attention_dropout": 0.0, "embd_pdrop": 0.0, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5,
            "qk_layernorm": False, "resid_pdrop": 0.1, "rope_scaling": None, "rope_theta": 10000.0,
            "tie_word_embeddings": False, "torch_dtype": "float16"}
    return hub("PhiForCausalLM", "phi", *sizes, **base | more)


CASES["phi_hub"] = FamilyCase(
    "Phi-2 as published: attention and feed-forward side by side behind one layer norm, biases everywhere, the head "
    "too, 0.4 of a head turned.",
    phi(120, 60, 80, 2, 3, 3, partial_rotary_factor=0.4, transformers_version="4.37.0"),
    dtype="float16",
)

CASES["phi_switches"] = FamilyCase(
    "Phi with layer norms on query and key heads, grouped heads, linear scaling, half of a head turned by default, "
    "the erf form of gelu, tied head with a bias.",
    phi(90, 48, 56, 3, 4, 2, hidden_act="gelu", layer_norm_eps=1e-3, qk_layernorm=True,
        rope_scaling={"factor": 2.0, "type": "linear"}, tie_word_embeddings=True, torch_dtype="bfloat16"),
)

# ----------------------------------------------------------------- gpt2


def gpt2(vocab, hidden, layers, heads, **more):
    return {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 0, "embd_pdrop": 0.1, "eos_token_id": 0, "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5, "model_type": "gpt2", "n_ctx": 64, "n_embd": hidden, "n_head": heads,
        "n_layer": layers, "n_positions": 64, "resid_pdrop": 0.1, "summary_activation": None,
        "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
        "summary_use_proj": True, "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": vocab,
    } | more


def bare_gpt2(state, config):
    """As openai-community/gpt2: no prefix, and the causal masks of every layer."""
    state = {name.removeprefix("transformer."): t for name, t in state.items()}
    n = config["n_positions"]
    for i in range(config["n_layer"]):
        state[f"h.{i}.attn.bias"] = torch.tril(torch.ones(n, n)).view(1, 1, n, n)
    return state


CASES["gpt2_hub"] = FamilyCase(
    "GPT-2 as published: learned positions, matrices stored input first, q, k and v in one, tensor names without a "
    "prefix, stored causal masks to be passed over, tied head, float32.",
    gpt2(120, 48, 2, 4), dtype="float32", stored=bare_gpt2, prompts=(1, 9, 40),
)

CASES["gpt2_switches"] = FamilyCase(
    "GPT-2 with names under `transformer.`, n_inner, scores scaled by the layer's index alone, untied head, float16; "
    "a prompt as long as n_positions.",
    gpt2(90, 40, 3, 5, n_inner=72, activation_function="gelu", layer_norm_epsilon=1e-3, scale_attn_weights=False,
         scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True, tie_word_embeddings=False,
         torch_dtype="float16"),
    dtype="float16", prompts=(1, 9, 64),
)

# ------------------------------------------------------------- gpt_neox


def gpt_neox(*sizes, **more):
    base = {"bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
            "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False, "torch_dtype": "float16",
            "use_parallel_residual": True}
    config = hub("GPTNeoXForCausalLM", "gpt_neox", *sizes, None, **base | more)
    return without(config, "num_key_value_heads")


def old_buffers(state, config):
    """What the checkpoints of Pythia carry besides: masks and rotary frequencies of every layer."""
    n, dim = 32, int(config["hidden_size"] // config["num_attention_heads"] * config["rotary_pct"])
    for i in range(config["num_hidden_layers"]):
        prefix = f"gpt_neox.layers.{i}.attention"
        state[f"{prefix}.bias"] = torch.tril(torch.ones(n, n, dtype=torch.bool)).view(1, 1, n, n)
        state[f"{prefix}.masked_bias"] = torch.tensor(-1e9)
        state[f"{prefix}.rotary_emb.inv_freq"] = 1.0 / 10000 ** (torch.arange(0, dim, 2).float() / dim)
    return state


CASES["gpt_neox_hub"] = FamilyCase(
    "Pythia as published: q, k and v interleaved by head, attention and feed-forward side by side behind a norm each, "
    "a quarter of a head turned, the head called embed_out, stored masks and frequencies to be passed over, float16.",
    gpt_neox(120, 64, 96, 2, 4, transformers_version="4.24.0"), dtype="float16", stored=old_buffers,
)

CASES["gpt_neox_switches"] = FamilyCase(
    "GPT-NeoX with attention and feed-forward one after the other, no attention biases, whole heads turned, "
    "another base, gelu_fast as GPT-NeoX-20B has it, tied head.",
    gpt_neox(90, 40, 72, 3, 4, attention_bias=False, hidden_act="gelu_fast", layer_norm_eps=1e-3,
             rotary_emb_base=5000, rotary_pct=1.0, tie_word_embeddings=True, use_parallel_residual=False,
             torch_dtype="bfloat16"),
)

# ------------------------------------------------------------- stablelm


def stablelm(*sizes, **more):
    base = {"attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "silu",
            "hidden_dropout": 0.0, "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25, "rope_scaling": None,
            "rope_theta": 10000, "tie_word_embeddings": False}
    return hub("StableLmForCausalLM", "stablelm", *sizes, **base | more)


CASES["stablelm_hub"] = FamilyCase(
    "StableLM 2 1.6B as published: layer norms, biases on q, k and v, a quarter of a head turned, gated feed-forward.",
    stablelm(120, 64, 80, 2, 4, 4, qk_layernorm=False, use_parallel_residual=False, use_qkv_bias=True,
             torch_dtype="float16", transformers_version="4.38.0"),
    dtype="float16",
)

CASES["stablelm_switches"] = FamilyCase(
    "StableLM 2 12B: a layer norm of its own on every query and key head, attention and feed-forward side by side "
    "behind one norm, grouped heads, no biases.",
    stablelm(90, 48, 72, 3, 4, 2, layer_norm_eps=1e-3, partial_rotary_factor=0.5, qk_layernorm=True,
             tie_word_embeddings=True, use_parallel_residual=True, use_qkv_bias=False),
)

# ----------------------------------------------------------- starcoder2


def starcoder2(*sizes, **more):
    base = {"activation_function": "gelu", "attention_dropout": 0.1, "bos_token_id": 0, "embedding_dropout": 0.1,
            "eos_token_id": 0, "hidden_act": "gelu_pytorch_tanh", "mlp_type": "default", "norm_epsilon": 1e-5,
            "norm_type": "layer_norm", "residual_dropout": 0.1, "rope_theta": 999999.4420358813, "use_bias": True}
    return hub("Starcoder2ForCausalLM", "starcoder2", *sizes, **base | more)


CASES["starcoder2_hub"] = FamilyCase(
    "StarCoder2 as published: layer norms, biases on every linear layer, plain feed-forward, a window on every layer, "
    "tied head.",
    starcoder2(120, 48, 96, 2, 4, 2, sliding_window=13, transformers_version="4.37.0.dev0"),
)

CASES["starcoder2_switches"] = FamilyCase(
    "StarCoder2 without biases and window, one key head, the erf form of gelu, untied head, yarn scaling, float16.",
    starcoder2(90, 40, 72, 3, 4, 1, hidden_act="gelu", norm_epsilon=1e-3, rope_theta=10000.0,
               rope_scaling={"factor": 4.0, "original_max_position_embeddings": 64, "rope_type": "yarn"},
               sliding_window=None, tie_word_embeddings=False, use_bias=False, torch_dtype="float16"),
    dtype="float16",
    seed=2,
)

# ----------------------------------------------------------------- olmo


def olmo(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "clip_qkv": None, "eos_token_id": 2,
            "hidden_act": "silu", "pad_token_id": 1, "rope_scaling": None, "rope_theta": 10000.0,
            "tie_word_embeddings": True, "torch_dtype": "float32"}
    return without(hub("OlmoForCausalLM", "olmo", *sizes, **base | more), "bos_token_id")


CASES["olmo_hub"] = FamilyCase(
    "OLMo 1B as published: layer norms without weights, tied head, float32.",
    olmo(110, 40, 64, 2, 4, 4, transformers_version="4.40.0.dev0"), dtype="float32",
)

CASES["olmo_switches"] = FamilyCase(
    "OLMo 7B: clip_qkv on the projections, attention biases, grouped heads, untied head.",
    olmo(90, 48, 72, 3, 4, 2, attention_bias=True, clip_qkv=0.9, tie_word_embeddings=False, torch_dtype="bfloat16"),
)

# ---------------------------------------------------------------- olmo2


def olmo2(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "eos_token_id": 2, "hidden_act": "silu",
            "pad_token_id": 1, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 500000,
            "tie_word_embeddings": False}
    return without(hub("Olmo2ForCausalLM", "olmo2", *sizes, **base | more), "bos_token_id")


CASES["olmo2_hub"] = FamilyCase(
    "OLMo 2 as published: norms behind attention and feed-forward and none before, norms of whole query and key rows.",
    olmo2(120, 48, 72, 2, 4, 4, transformers_version="4.47.0.dev0"),
)

CASES["olmo2_switches"] = FamilyCase(
    "OLMo 2 with attention biases, grouped heads, a head_dim of its own, llama3 scaling, tied head, float16.",
    olmo2(90, 40, 56, 3, 4, 2, attention_bias=True, head_dim=16, rms_norm_eps=1e-3,
          rope_scaling={"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                        "original_max_position_embeddings": 64, "rope_type": "llama3"},
          tie_word_embeddings=True, torch_dtype="float16"),
    dtype="float16",
)

# ---------------------------------------------------------------- olmo3


def olmo3(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "eos_token_id": 2, "hidden_act": "silu",
            "pad_token_id": 1, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
    return without(hub("Olmo3ForCausalLM", "olmo3", *sizes, **base | more), "bos_token_id")


CASES["olmo3_hub"] = FamilyCase(
    "OLMo 3 as published: as OLMo 2 with windows on three of four layers, and yarn scaling in the fourth alone.",
    olmo3(110, 40, 56, 4, 4, 4, layer_types=[S, S, S, F], rope_theta=500000, sliding_window=9,
          rope_scaling={"attention_factor": 1.2079441541679836, "beta_fast": 32, "beta_slow": 1, "factor": 8.0,
                        "original_max_position_embeddings": 32, "rope_type": "yarn"},
          transformers_version="4.57.0.dev0"),
)

CASES["olmo3_switches"] = FamilyCase(
    "OLMo 3 in the newer spelling (rope_parameters by layer type), layer_types by default, grouped heads, attention "
    "biases, tied head, float16.",
    olmo3(90, 40, 48, 4, 4, 2, attention_bias=True, rms_norm_eps=1e-3, sliding_window=6,
          rope_parameters={F: {"factor": 2.0, "rope_theta": 20000.0, "rope_type": "linear"},
                           S: {"rope_theta": 3000.0, "rope_type": "default"}},
          tie_word_embeddings=True, torch_dtype="float16"),
    dtype="float16",
)
