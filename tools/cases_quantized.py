"""The cases of quantised forms. Each row states the one or two things it is there for."""

import torch

from cases import llama, qwen2, qwen3
from cases_dense import gpt2, gpt_neox, phi3
from cases_dense_more import falcon, glm
from cases_sparse import deepseek_v2, deepseek_v3, gpt_oss, mixtral, qwen2_moe, qwen3_moe
from compressed_forms import Compressed
from family_case import FamilyCase
from quantized_forms import Awq, FineGrainedFp8, Gptq, Mxfp4

CASES = {}


def dense(family, *sizes, **more):
    base = {"max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
            "torch_dtype": "bfloat16"}
    return family(*sizes, **base | more)


# -------------------------------------------------------- fine-grained FP8

CASES["quant_qwen3_fp8"] = FamilyCase(
    "FP8 in blocks of 32 by 32 with float32 scales, as Qwen3 has it in blocks of 128.",
    dense(qwen3, 131, 64, 96, 2, 4, 2, head_dim=16),
    form=FineGrainedFp8((32, 32)),
)

CASES["quant_qwen3_fp8_edges"] = FamilyCase(
    "FP8 in blocks of 32 by 32 where the last blocks of rows and of columns are smaller, tied head.",
    dense(qwen3, 131, 40, 88, 2, 3, 1, head_dim=24, tie_word_embeddings=True),
    form=FineGrainedFp8((32, 32)),
)

CASES["quant_qwen3_moe_fp8"] = FamilyCase(
    "FP8 experts one by one with bfloat16 scales, blocks of 16 by 32, and routers that are kept as they are.",
    qwen3_moe(120, 64, 96, 2, 4, 2, head_dim=16, moe_intermediate_size=40, num_experts=8),
    seed=7,
    form=FineGrainedFp8((16, 32), torch.bfloat16),
)

CASES["quant_deepseek_v3_fp8"] = FamilyCase(
    "FP8 as DeepSeek-V3 has it, latent attention with it: blocks of 16 by 32 reach from head to head of kv_b_proj.",
    deepseek_v3(110, 64, 56, 2, 4, 4, moe_intermediate_size=24, n_routed_experts=8, kv_lora_rank=40, q_lora_rank=28,
                rope_scaling=None),
    wide=("e_score_correction_bias",),
    form=FineGrainedFp8((16, 32)),
)

# ------------------------------------------------ 8-bit floats of compressed-tensors

FLOAT = {"num_bits": 8, "type": "float", "symmetric": True}
BY_TOKEN = FLOAT | {"dynamic": True, "strategy": "token"}

CASES["quant_llama_fp8_tensor"] = FamilyCase(
    "8-bit floats with one float32 scale for each matrix.",
    dense(llama, 131, 40, 72, 2, 4, 2, torch_dtype="float32"),
    dtype="float32",
    seed=2,
    form=Compressed(FLOAT | {"strategy": "tensor"}, FLOAT | {"dynamic": True, "strategy": "tensor"}, "float-quantized"),
)

CASES["quant_qwen2_fp8_channel"] = FamilyCase(
    "8-bit floats with a bfloat16 scale for each row, activations to be rounded by token (which is not done), biases.",
    dense(qwen2, 131, 40, 72, 2, 4, 2),
    form=Compressed(FLOAT | {"strategy": "channel"}, BY_TOKEN, "float-quantized"),
)

CASES["quant_llama_fp8_block"] = FamilyCase(
    "8-bit floats with a scale for each block of 16 by 32, the last of them smaller, in the form called naive.",
    dense(llama, 131, 40, 88, 2, 4, 2),
    seed=2,
    form=Compressed(FLOAT | {"strategy": "block", "block_structure": [16, 32]}, format="naive-quantized"),
)

# ------------------------------------------------------------------- MXFP4

CASES["quant_gpt_oss_mxfp4"] = FamilyCase(
    "Experts of gpt-oss in MXFP4, as published: blocks and scales of gate and up interleaved and of down, biases.",
    gpt_oss(110, 64, 32, 2, 4, 2, layer_types=["sliding_attention", "full_attention"], sliding_window=10,
            num_local_experts=6, num_experts_per_tok=2, experts_per_token=2),
    seed=2,
    form=Mxfp4(),
)

# ------------------------------------- zero points and orders of compressed-tensors


def integers(bits, group, symmetric):
    size = {"strategy": "channel"} if group is None else {"strategy": "group", "group_size": group}
    return {"num_bits": bits, "type": "int", "symmetric": symmetric} | size


CASES["quant_llama_int4_zeros"] = FamilyCase(
    "4-bit weights in groups of 32 with zero points and bfloat16 scales.",
    dense(llama, 131, 64, 96, 2, 4, 2),
    form=Compressed(integers(4, 32, False)),
)

CASES["quant_qwen2_int8_zeros"] = FamilyCase(
    "8-bit weights with a zero point and a float16 scale for each row, rows that fill no word of zero points, biases.",
    dense(qwen2, 131, 40, 88, 2, 4, 1, torch_dtype="float16"),
    dtype="float16",
    form=Compressed(integers(8, None, False)),
)

CASES["quant_qwen3_int4_order"] = FamilyCase(
    "4-bit weights whose groups of 32 inputs lie in an order of their own (actorder group), bfloat16 scales.",
    dense(qwen3, 131, 64, 96, 2, 4, 2, head_dim=16),
    form=Compressed(integers(4, 32, True), order=True),
)

CASES["quant_llama_int8_order"] = FamilyCase(
    "8-bit weights with both zero points and an order of groups, float32 scales.",
    dense(llama, 131, 64, 96, 2, 4, 2, torch_dtype="float32"),
    dtype="float32",
    form=Compressed(integers(8, 32, False), order=True),
)

CASES["quant_deepseek_v2_int4"] = FamilyCase(
    "4-bit weights in groups of 32 of latent attention, bfloat16 scales; all layers are dense.",
    deepseek_v2(110, 64, 64, 2, 4, 4, first_k_dense_replace=2, moe_intermediate_size=32, n_routed_experts=4,
                kv_lora_rank=32, q_lora_rank=None, v_head_dim=16, rope_scaling=None),
    form=Compressed(integers(4, 32, True)),
)

# -------------------------------------------------------------------- GPTQ

CASES["quant_llama_gptq"] = FamilyCase(
    "GPTQ of 4 bits in groups of 32, symmetric, inputs as they come, biases of zeros in modules that have "
    "none, float16.",
    dense(llama, 131, 64, 96, 2, 4, 2, torch_dtype="float16"),
    dtype="float16",
    form=Gptq(4, 32, symmetric=True, biases=True),
)

CASES["quant_qwen2_gptq_order"] = FamilyCase(
    "GPTQ of 4 bits with zero points, some of them 0, an order of groups (desc_act), a last group that is smaller, "
    "biases, float16.",
    dense(qwen2, 131, 64, 88, 2, 4, 2, torch_dtype="float16"),
    dtype="float16",
    seed=3,
    form=Gptq(4, 32, symmetric=False, order=True),
)

CASES["quant_qwen3_gptq_v2"] = FamilyCase(
    "GPTQ of 8 bits in the second format, whose zero points are stored as they are, one group, bfloat16 scales.",
    dense(qwen3, 131, 40, 88, 2, 4, 2, head_dim=16),
    form=Gptq(8, -1, symmetric=False, version="gptq_v2", scales=torch.bfloat16),
)

CASES["quant_qwen3_gptq_rules"] = FamilyCase(
    "GPTQ with rules for some modules (`dynamic`): kept as they are, or of other bits and groups; a quantised head.",
    dense(qwen3, 136, 64, 96, 2, 4, 2, head_dim=16, torch_dtype="float16"),
    dtype="float16",
    form=Gptq(4, 32, symmetric=False, keep=(), dynamic={
        "-:.*\\.self_attn\\.o_proj": {}, "+:.*\\.0\\.mlp\\.down_proj$": {"bits": 8, "group_size": 48, "desc_act": False},
        ".*mlp\\.down": {"group_size": -1},
    }),
)

CASES["quant_phi3_gptq"] = FamilyCase(
    "GPTQ of fused q, k, v and fused gate, up, with an order of groups and biases of zeros, float16.",
    phi3(120, 64, 96, 2, 4, 2, original_max_position_embeddings=256, rope_scaling=None, sliding_window=None,
         torch_dtype="float16"),
    dtype="float16",
    seed=3,
    form=Gptq(4, 32, symmetric=False, order=True, biases=True),
)

CASES["quant_falcon_gptq"] = FamilyCase(
    "GPTQ of 8 bits of Falcon with one key head for all, whose q, k and v lie one below the other with their biases.",
    falcon(120, 64, 2, 4, bias=True, multi_query=True, new_decoder_architecture=False, parallel_attn=True,
           ffn_hidden_size=96, torch_dtype="float16"),
    dtype="float16",
    form=Gptq(8, 32, symmetric=False),
)

CASES["quant_falcon_gptq_grouped"] = FamilyCase(
    "GPTQ of Falcon 40B, whose q, k and v lie by groups.",
    falcon(90, 64, 2, 4, new_decoder_architecture=True, num_kv_heads=2, multi_query=True, parallel_attn=True,
           ffn_hidden_size=96, torch_dtype="float16"),
    dtype="float16",
    form=Gptq(4, 32, symmetric=True),
)

CASES["quant_gpt_neox_gptq"] = FamilyCase(
    "GPTQ of GPT-NeoX, whose q, k and v are interleaved by head, with their biases.",
    gpt_neox(120, 64, 96, 2, 4),
    dtype="float16",
    form=Gptq(4, 32, symmetric=False),
)

CASES["quant_gpt2_gptq"] = FamilyCase(
    "GPTQ of GPT-2: what was stored input first (Conv1D) is packed as any other matrix is.",
    gpt2(120, 64, 2, 4, n_inner=96, torch_dtype="float16"),
    dtype="float16",
    prompts=(1, 9, 40),
    form=Gptq(4, 32, symmetric=True, order=True, conv1d=True),
)

CASES["quant_qwen2_moe_gptq"] = FamilyCase(
    "GPTQ of a mixture: experts one by one with biases of zeros, a shared expert, the router and the shared expert's gate "
    "kept as they are.",
    qwen2_moe(120, 64, 64, 2, 4, 4, moe_intermediate_size=32, num_experts=8, shared_expert_intermediate_size=48,
              torch_dtype="float16"),
    dtype="float16",
    seed=7,
    form=Gptq(4, 32, symmetric=True, biases=True),
)

CASES["quant_qwen3_moe_gptq_order"] = FamilyCase(
    "GPTQ of a mixture with orders of groups (desc_act), but for one expert whose inputs come as they are.",
    qwen3_moe(120, 64, 64, 2, 4, 2, head_dim=16, moe_intermediate_size=64, num_experts=6, num_experts_per_tok=2,
              torch_dtype="float16"),
    dtype="float16",
    seed=7,
    form=Gptq(4, 32, symmetric=False, order=True, unordered=".*experts\\.0\\."),
)

# --------------------------------------------------------------------- AWQ

CASES["quant_llama_awq"] = FamilyCase(
    "AWQ in groups of 32, float16.",
    dense(llama, 131, 64, 96, 2, 4, 2, torch_dtype="float16"),
    dtype="float16",
    seed=2,
    form=Awq(32),
)

CASES["quant_qwen2_awq"] = FamilyCase(
    "AWQ in one group, biases, tied head, float16.",
    dense(qwen2, 131, 40, 88, 2, 5, 1, torch_dtype="float16", tie_word_embeddings=True),
    dtype="float16",
    form=Awq(-1),
)

CASES["quant_phi3_awq"] = FamilyCase(
    "AWQ of fused q, k, v and fused gate, up, float16.",
    phi3(120, 64, 96, 2, 4, 1, original_max_position_embeddings=256, rope_scaling=None, sliding_window=None,
         torch_dtype="float16"),
    dtype="float16",
    seed=2,
    form=Awq(32),
)

CASES["quant_glm4_awq"] = FamilyCase(
    "AWQ of fused gate, up beside separate q, k, v with biases.",
    glm("Glm4ForCausalLM", "glm4", 120, 64, 80, 2, 4, 2, head_dim=16, rms_norm_eps=1e-5, torch_dtype="float16"),
    dtype="float16",
    seed=4,
    form=Awq(16),
)

CASES["quant_mixtral_awq"] = FamilyCase(
    "AWQ of a mixture whose experts are w1, w2 and w3, its router kept as it is.",
    mixtral(120, 64, 32, 2, 4, 2, num_local_experts=6, torch_dtype="float16"),
    dtype="float16",
    form=Awq(32),
)

CASES["quant_deepseek_v2_awq"] = FamilyCase(
    "AWQ of latent attention, of routed and of shared experts.",
    deepseek_v2(110, 64, 64, 2, 4, 4, moe_intermediate_size=32, n_routed_experts=8, kv_lora_rank=32, q_lora_rank=None,
                v_head_dim=16, rope_scaling=None, torch_dtype="float16"),
    dtype="float16",
    seed=5,
    form=Awq(32),
)
