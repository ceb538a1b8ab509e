"""The table of checkpoints of families with layers that are no attention, which reference.py makes under testdata/."""

import torch

from family_case import FamilyCase, hub, without

CASES = {}

L, F, C = "linear_attention", "full_attention", "conv"

# ----------------------------------------------------------------- lfm2


def lfm2(vocab, hidden, layers, heads, kv_heads, **more):
    base = {"block_auto_adjust_ff_dim": True, "block_dim": hidden, "block_ffn_dim_multiplier": 1.0,
            "block_mlp_init_scale": 1.0, "block_multiple_of": 16, "block_norm_eps": 1e-5, "block_out_init_scale": 1.0,
            "block_use_swiglu": True, "block_use_xavier_init": True, "conv_L_cache": 3, "conv_bias": False,
            "conv_dim": hidden, "conv_dim_out": hidden, "conv_use_xavier_init": True, "norm_eps": 1e-5,
            "num_heads": heads, "pad_token_id": 0, "rope_theta": 1000000.0, "theta": 1000000.0, "use_pos_enc": True}
    config = hub("Lfm2ForCausalLM", "lfm2", vocab, hidden, None, layers, heads, kv_heads, **base | more)
    return without(config, "intermediate_size") if config["intermediate_size"] is None else config


CASES["lfm2_hub"] = FamilyCase(
    "LFM2 as published: gated short convolutions with attention at full_attn_idxs, per-head norms, a feed-forward "
    "width from block_ff_dim, tied head.",
    lfm2(110, 40, 4, 4, 2, block_ff_dim=80, full_attn_idxs=[2], transformers_version="4.54.0.dev0"),
)

CASES["lfm2_switches"] = FamilyCase(
    "LFM2 with biases on the convolutions, four taps, layer_types, a plain intermediate_size, untied head, float16.",
    lfm2(90, 40, 3, 4, 4, block_auto_adjust_ff_dim=False, conv_L_cache=4, conv_bias=True, intermediate_size=56,
         layer_types=[C, F, C], norm_eps=1e-3, rope_theta=10000.0, theta=10000.0, tie_word_embeddings=False,
         torch_dtype="float16"),
    dtype="float16",
)

# ----------------------------------------------------------- qwen3_next


def qwen3_next(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "decoder_sparse_step": 1, "full_attention_interval": 4,
            "head_dim": 16, "hidden_act": "silu", "linear_conv_kernel_dim": 4, "linear_key_head_dim": 8,
            "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_value_head_dim": 8, "mlp_only_layers": [],
            "moe_intermediate_size": 16, "norm_topk_prob": True, "num_experts": 8, "num_experts_per_tok": 2,
            "output_router_logits": False, "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-6, "rope_scaling": None,
            "rope_theta": 10000000, "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 16,
            "tie_word_embeddings": False, "use_sliding_window": False}
    return hub("Qwen3NextForCausalLM", "qwen3_next", *sizes, **base | more)


def with_mtp(state, config):
    """Tensors for predicting several tokens, which the decoder does not use."""
    hidden = (config.get("text_config") or config)["hidden_size"]
    dtype = next(iter(state.values())).dtype
    return state | {"mtp.fc.weight": torch.full((hidden, 2 * hidden), 0.5, dtype=dtype),
                    "mtp.norm.weight": torch.zeros(hidden, dtype=dtype)}


CASES["qwen3_next_hub"] = FamilyCase(
    "Qwen3-Next as published: gated delta net in three of four layers, gated attention in the fourth, zero-centred "
    "norms, a quarter of a head turned, experts with a gated shared one, mtp tensors to be passed over.",
    qwen3_next(100, 40, 64, 4, 4, 2, transformers_version="4.57.0.dev0"),
    prompts=(1, 9, 70), stored=with_mtp, gain=0.8,
    seed=6,
)

CASES["qwen3_next_switches"] = FamilyCase(
    "Qwen3-Next with layer_types, as many key as value heads of other widths, three taps, a dense first layer, weights "
    "not normalised, attention biases, half of a head turned, tied head, float16.",
    without(qwen3_next(90, 40, 48, 3, 4, 1, attention_bias=True, layer_types=[F, L, L],
                       linear_conv_kernel_dim=3, linear_key_head_dim=12, linear_num_key_heads=3,
                       linear_num_value_heads=3, linear_value_head_dim=16, mlp_only_layers=[0], norm_topk_prob=False,
                       num_experts_per_tok=3, partial_rotary_factor=0.5, rms_norm_eps=1e-3, rope_theta=10000,
                       shared_expert_intermediate_size=24, tie_word_embeddings=True, torch_dtype="float16"),
            "full_attention_interval"),
    dtype="float16", gain=0.8,
)

# -------------------------------------------------------------- qwen3_5


def qwen3_5(*sizes, **more):
    base = {"attention_bias": False, "attention_dropout": 0.0, "attn_output_gate": True, "full_attention_interval": 4,
            "head_dim": 16, "hidden_act": "silu", "linear_conv_kernel_dim": 4, "linear_key_head_dim": 8,
            "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_value_head_dim": 8,
            "mamba_ssm_dtype": "float32", "rms_norm_eps": 1e-6,
            "rope_parameters": {"mrope_interleaved": True, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.25,
                                "rope_theta": 10000000, "rope_type": "default"}}
    config = hub("Qwen3_5ForCausalLM", "qwen3_5_text", *sizes, **base | more)
    return {("dtype" if key == "torch_dtype" else key): value for key, value in config.items()}


def wrapped(state, config):
    """Under model.language_model, beside a vision tower (a part of one) and mtp tensors."""
    state = {name.replace("model.", "model.language_model.", 1): t for name, t in state.items()}
    vision = config["vision_config"]
    weights = torch.full((3 * vision["hidden_size"], vision["hidden_size"]), 0.5, dtype=torch.bfloat16)
    return with_mtp(state, config) | {"model.visual.blocks.0.attn.qkv.weight": weights}


CASES["qwen3_5_text"] = FamilyCase(
    "Qwen3.5 as a model of text alone: gated delta net with q, k, v, z, a and b in matrices of their own, gated "
    "attention, dense feed-forward; A_log and the norm of the delta net in float32.",
    qwen3_5(100, 40, 64, 4, 4, 2, tie_word_embeddings=False, transformers_version="5.2.0"),
    prompts=(1, 9, 70), gain=0.8, wide=("A_log", "linear_attn.norm.weight"),
    seed=4,
)

CASES["qwen3_5_wrapper"] = FamilyCase(
    "Qwen3.5 as a model that also sees: the decoder in text_config, tensors under model.language_model, tied head, mtp "
    "tensors and those of a vision tower to be passed over.",
    {"architectures": ["Qwen3_5ForConditionalGeneration"], "image_token_id": 95, "model_type": "qwen3_5",
     "text_config": without(qwen3_5(100, 40, 56, 4, 4, 1, tie_word_embeddings=True), "architectures"),
     "tie_word_embeddings": True, "transformers_version": "5.2.0",
     "video_token_id": 96,
     "vision_config": {"depth": 1, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 16, "intermediate_size": 24,
                       "model_type": "qwen3_5", "num_heads": 2, "out_hidden_size": 40, "patch_size": 4},
     "vision_end_token_id": 98, "vision_start_token_id": 97},
    stored=wrapped, prompts=(1, 9, 70), gain=0.8,
    seed=6,
)

CASES["qwen3_5_switches"] = FamilyCase(
    "Qwen3.5 with layer_types, as many key as value heads of other widths, three taps, attention biases, half of a "
    "head turned in the older spelling, untied head, float16.",
    without(qwen3_5(90, 40, 48, 3, 4, 4, attention_bias=True, layer_types=[F, L, L], linear_conv_kernel_dim=3,
                    linear_key_head_dim=12, linear_num_key_heads=3, linear_num_value_heads=3,
                    linear_value_head_dim=16, partial_rotary_factor=0.5, rms_norm_eps=1e-3, rope_theta=10000,
                    torch_dtype="float16"),
            "full_attention_interval", "rope_parameters"),
    dtype="float16", gain=0.8,
)
