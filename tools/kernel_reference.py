"""Records what transformers' functions say to the kernels of linear attention and of routers.

    python tools/kernel_reference.py

Writes crates/kernels/tests/data/{linear_attention,router}.txt: a name and numbers
on each line. The inputs come from a generator that the tests have as well (`draw`),
in the order in which they are drawn there.
"""

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy
import torch
import transformers
from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv
from transformers.models.qwen3_next import modeling_qwen3_next as qwen3_next

DATA = Path(__file__).resolve().parent.parent / "crates/kernels/tests/data"


class Random:
    """Numbers between -1 and 1: `Random` of crates/kernels/tests/support."""

    def __init__(self, seed):
        self.state = seed

    def draw(self, *shape):
        values = []
        for _ in range(int(numpy.prod(shape))):
            self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
            values.append(numpy.float32((self.state >> 33) % 20001) / numpy.float32(10000) - numpy.float32(1))
        return torch.tensor(numpy.array(values, dtype=numpy.float32)).reshape(shape)


def write(file, numbers):
    lines = [f"# By tools/kernel_reference.py and transformers {transformers.__version__}."]
    for name, tensor in numbers.items():
        values = tensor.detach().flatten().numpy()
        lines.append(" ".join([name, *(str(v) for v in values)]))
    (DATA / file).write_text("\n".join(lines) + "\n", encoding="utf-8")


def gated_delta_net():
    """What `Qwen3NextGatedDeltaNet.forward` does between its projections: 70 rows, of which the first and last three are kept."""
    random = Random(11)
    n, k_dim, v_heads, v_dim = 70, 8, 2, 6
    width = 2 * k_dim + v_heads * v_dim
    mixed, weight = random.draw(n, width), random.draw(width, 4)
    a, b = random.draw(n, v_heads), random.draw(n, v_heads)
    a_log, dt_bias = random.draw(v_heads), random.draw(v_heads)
    conv = qwen3_next.causal_conv1d_fn(mixed.T[None], weight, None, activation="silu")[0].T
    g = -a_log.exp() * torch.nn.functional.softplus(a + dt_bias)
    beta = b.sigmoid()

    def some(x):
        return torch.cat([x[:3], x[-3:]])

    found = {"conv": some(conv), "g": some(g), "beta": some(beta)}
    q, k, v = conv[None].split([k_dim, k_dim, v_heads * v_dim], dim=-1)
    q, k = q.reshape(1, n, 1, k_dim), k.reshape(1, n, 1, k_dim)
    v = v.reshape(1, n, v_heads, v_dim)
    ways = {
        "recurrent": qwen3_next.torch_recurrent_gated_delta_rule,
        "chunk": qwen3_next.torch_chunk_gated_delta_rule,
    }
    for name, way in ways.items():
        out, state = way(q, k, v, g[None], beta[None], output_final_state=True, use_qk_l2norm_in_kernel=True)
        found[name], found[f"{name}_state"] = some(out[0]), state
    return found


def short_conv():
    """`Lfm2ShortConv.forward` between its projections."""
    random = Random(12)
    n, channels = 9, 6
    config = SimpleNamespace(conv_L_cache=3, conv_bias=True, hidden_size=channels, layer_types=["conv"])
    block = Lfm2ShortConv(config, 0).eval()
    block.in_proj = block.out_proj = torch.nn.Identity()
    bcx = random.draw(n, 3 * channels)
    block.conv.weight.data = random.draw(channels, 1, 3)
    block.conv.bias.data = random.draw(channels)
    return {"short_conv": block(bcx[None])[0]}


EXPERTS = 16
BIAS = Random(99).draw(EXPERTS) * numpy.float32(0.2)
GROUPS = {"n_group": 4, "topk_group": 2}
# Case: model, class of its router, what its config says besides the sizes, and whether the router is given the bias.
ROUTERS = {
    "mixtral": ("mixtral", "MixtralTopKRouter", {}, False),
    "qwen2_moe": ("qwen2_moe", "Qwen2MoeTopKRouter", {"norm_topk_prob": False}, False),
    "qwen3_moe": ("qwen3_moe", "Qwen3MoeTopKRouter", {"norm_topk_prob": True}, False),
    "qwen3_next": ("qwen3_next", "Qwen3NextTopKRouter", {"norm_topk_prob": True}, False),
    "olmoe": ("olmoe", "OlmoeTopKRouter", {"norm_topk_prob": False}, False),
    "granitemoe": ("granitemoe", "GraniteMoeTopKRouter", {}, False),
    "gpt_oss": ("gpt_oss", "GptOssTopKRouter", {}, False),
    "deepseek_v2": ("deepseek_v2", "DeepseekV2TopkRouter", {"topk_method": "greedy", **GROUPS}, False),
    "deepseek_v2_groups": (
        "deepseek_v2",
        "DeepseekV2TopkRouter",
        {"topk_method": "group_limited_greedy", **GROUPS},
        False,
    ),
    "deepseek_v3": ("deepseek_v3", "DeepseekV3TopkRouter", {"norm_topk_prob": True, **GROUPS}, False),
    "glm4_moe": ("glm4_moe", "Glm4MoeTopkRouter", {"norm_topk_prob": False, **GROUPS}, False),
    "minimax_m2": ("minimax_m2", "MiniMaxM2TopKRouter", {}, True),
    "lfm2_moe": ("lfm2_moe", "Lfm2MoeTopKRouter", {"norm_topk_prob": True, "use_expert_bias": True}, True),
    "lfm2_moe_no_bias": ("lfm2_moe", "Lfm2MoeTopKRouter", {"norm_topk_prob": False, "use_expert_bias": False}, False),
    "ernie4_5_moe": ("ernie4_5_moe", "Ernie4_5_MoeTopKRouter", {"moe_norm_min": 1e-12}, False),
    "ernie4_5_moe_least": ("ernie4_5_moe", "Ernie4_5_MoeTopKRouter", {"moe_norm_min": 0.9}, False),
    "afmoe": ("afmoe", "AfmoeTokenChoiceRouter", {}, True),
    "phimoe": ("phimoe", "PhimoeTopKRouter", {"router_jitter_noise": 0.01, "input_jitter_noise": 0.0}, False),
}


def route(seed, case, model, router, keys, given_bias):
    """The experts and weights of five rows. The router's matrix is the identity, so that its logits are its input."""
    config = SimpleNamespace(
        hidden_size=EXPERTS,
        num_experts=EXPERTS,
        num_local_experts=EXPERTS,
        num_experts_per_tok=2 if model == "phimoe" else 4,
        routed_scaling_factor=2.5,
        route_scale=2.5,
        **keys,
    )
    module = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
    router = getattr(module, router)(config).eval()
    for name, tensor in router.state_dict(keep_vars=True).items():
        if name.endswith("weight"):
            tensor.data = torch.eye(EXPERTS)
        elif name.endswith("e_score_correction_bias"):
            tensor.data = BIAS.reshape(tensor.shape)
        else:
            tensor.data.zero_()
    logits = Random(seed).draw(5, EXPERTS)
    logits = logits * 0.25 + 3 if model == "phimoe" else logits * 4
    out = router(logits[None] if model == "afmoe" else logits, *([BIAS] if given_bias else []))
    assert torch.equal(out[0], logits)
    weights, experts = out[1], out[2]
    return {f"{case}/experts": experts.to(torch.int32), f"{case}/weights": weights}


def main():
    DATA.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        write("linear_attention.txt", gated_delta_net() | short_conv())
        found = {}
        for seed, (case, router) in enumerate(ROUTERS.items()):
            found |= route(seed, case, *router)
        write("router.txt", found)


if __name__ == "__main__":
    main()
