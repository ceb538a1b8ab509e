"""The cases of quantised forms. Each row states the one or two things it is there for."""

import torch

from cases import llama, qwen2, qwen3
from cases_sparse import deepseek_v2, deepseek_v3, gpt_oss, qwen3_moe
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
