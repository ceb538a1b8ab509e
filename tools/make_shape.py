"""Write a checkpoint of a real model's full shape with random weights, for measuring speed and memory.

    python tools/make_shape.py qwen3-1.7b OUT [--tokenizer assets/tiny-shakespeare] [--layers N] [--repeat N]
    python tools/make_shape.py qwen3-next-80b OUT --layers 8 [--steady]

Weights are bfloat16, drawn with a standard deviation of 1.4 / sqrt(fan_in), norms around 1; needs numpy only.
Tensors are written one by one, in shards of about 4 GB, so memory stays small whatever the model. The experts of a mixture
are stretches of one long random sequence, each from another place: drawing them all would take an hour.

With --repeat N the model writes what random weights do not: a text that goes around in N tokens. Its embedding is so large that
what the blocks add does not matter, and row t + 1 of its head (within each N tokens) is the embedding of token t. Every
product is as much work as before.

With --steady the residual stream changes little from layer to layer, as it does in trained models and not in random ones: the
embedding is large, and what blocks add is small. Asking a router ahead of time is then worth something.
"""

import argparse
import json
import pathlib
import shutil

import numpy as np

QWEN3 = dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", vocab_size=151936, rms_norm_eps=1e-6,
             max_position_embeddings=40960, rope_theta=1000000, rope_scaling=None, attention_bias=False,
             hidden_act="silu", use_sliding_window=False, sliding_window=None, max_window_layers=28,
             torch_dtype="bfloat16")
QWEN3_MOE = QWEN3 | dict(architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", decoder_sparse_step=1,
                         mlp_only_layers=[], norm_topk_prob=True)
SHAPES = {
    "qwen3-0.6b": QWEN3 | dict(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
                               num_key_value_heads=8, head_dim=128, tie_word_embeddings=True),
    "qwen3-1.7b": QWEN3 | dict(hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16,
                               num_key_value_heads=8, head_dim=128, tie_word_embeddings=True),
    "qwen3-8b": QWEN3 | dict(hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
                             num_key_value_heads=8, head_dim=128, tie_word_embeddings=False),
    "qwen3-30b-a3b": QWEN3_MOE | dict(hidden_size=2048, intermediate_size=6144, moe_intermediate_size=768,
                                      num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4,
                                      head_dim=128, num_experts=128, num_experts_per_tok=8,
                                      tie_word_embeddings=False),
    "qwen3-next-80b": dict(
        architectures=["Qwen3NextForCausalLM"], model_type="qwen3_next", vocab_size=151936, hidden_size=2048,
        intermediate_size=5120, num_hidden_layers=48, num_attention_heads=16, num_key_value_heads=2, head_dim=256,
        hidden_act="silu", max_position_embeddings=262144, rms_norm_eps=1e-6, rope_theta=10000000,
        partial_rotary_factor=0.25, rope_scaling=None, attention_bias=False, tie_word_embeddings=False,
        linear_num_key_heads=16, linear_num_value_heads=32, linear_key_head_dim=128, linear_value_head_dim=128,
        linear_conv_kernel_dim=4, full_attention_interval=4, decoder_sparse_step=1, mlp_only_layers=[],
        moe_intermediate_size=512, shared_expert_intermediate_size=512, num_experts=512, num_experts_per_tok=10,
        norm_topk_prob=True, torch_dtype="bfloat16"),
    "gpt-oss-20b": dict(
        architectures=["GptOssForCausalLM"], model_type="gpt_oss", vocab_size=201088, hidden_size=2880,
        intermediate_size=2880, num_hidden_layers=24, num_attention_heads=64, num_key_value_heads=8, head_dim=64,
        hidden_act="silu", swiglu_limit=7.0, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=150000,
        rope_scaling=dict(rope_type="yarn", factor=32.0, beta_fast=32.0, beta_slow=1.0, truncate=False,
                          original_max_position_embeddings=4096),
        sliding_window=128, attention_bias=True, num_local_experts=32, num_experts_per_tok=4,
        tie_word_embeddings=False, torch_dtype="bfloat16"),
}
SHARD = 4 << 30
# Elements of the sequence that experts are stretches of.
POOL = 1 << 26


def tensors(c):
    """Names and shapes, in the order in which a forward pass uses them."""
    hidden = c["hidden_size"]
    yield "model.embed_tokens.weight", (c["vocab_size"], hidden)
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (hidden,)
        yield from delta(c, layer) if is_linear(c, i) else attention(c, layer)
        yield layer + "post_attention_layernorm.weight", (hidden,)
        yield from feed_forward(c, layer)
    yield "model.norm.weight", (hidden,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (c["vocab_size"], hidden)


def is_linear(c, i):
    return "full_attention_interval" in c and (i + 1) % c["full_attention_interval"] != 0


def attention(c, layer):
    hidden, d = c["hidden_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    gated = 2 if c["model_type"] == "qwen3_next" else 1
    for name, shape in (("q", (gated * q, hidden)), ("k", (kv, hidden)), ("v", (kv, hidden)), ("o", (hidden, q))):
        yield f"{layer}self_attn.{name}_proj.weight", shape
        if c["attention_bias"]:
            yield f"{layer}self_attn.{name}_proj.bias", shape[:1]
    if c["model_type"] == "gpt_oss":
        yield layer + "self_attn.sinks", (c["num_attention_heads"],)
    else:
        yield layer + "self_attn.q_norm.weight", (d,)
        yield layer + "self_attn.k_norm.weight", (d,)


def delta(c, layer):
    hidden = c["hidden_size"]
    k_heads, v_heads = c["linear_num_key_heads"], c["linear_num_value_heads"]
    keys, values = k_heads * c["linear_key_head_dim"], v_heads * c["linear_value_head_dim"]
    name = layer + "linear_attn."
    yield name + "in_proj_qkvz.weight", (2 * keys + 2 * values, hidden)
    yield name + "in_proj_ba.weight", (2 * v_heads, hidden)
    yield name + "conv1d.weight", (2 * keys + values, 1, c["linear_conv_kernel_dim"])
    yield name + "dt_bias", (v_heads,)
    yield name + "A_log", (v_heads,)
    yield name + "norm.weight", (c["linear_value_head_dim"],)
    yield name + "out_proj.weight", (hidden, values)


def feed_forward(c, layer):
    hidden = c["hidden_size"]

    def gated(name, inner):
        for part, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
            yield f"{layer}mlp.{name}{part}_proj.weight", shape

    if c["model_type"] == "gpt_oss":
        count, inner = c["num_local_experts"], c["intermediate_size"]
        yield layer + "mlp.router.weight", (count, hidden)
        yield layer + "mlp.router.bias", (count,)
        yield layer + "mlp.experts.gate_up_proj", (count, hidden, 2 * inner)
        yield layer + "mlp.experts.gate_up_proj_bias", (count, 2 * inner)
        yield layer + "mlp.experts.down_proj", (count, inner, hidden)
        yield layer + "mlp.experts.down_proj_bias", (count, hidden)
    elif "num_experts" in c:
        yield layer + "mlp.gate.weight", (c["num_experts"], hidden)
        if "shared_expert_intermediate_size" in c:
            yield layer + "mlp.shared_expert_gate.weight", (1, hidden)
            yield from gated("shared_expert.", c["shared_expert_intermediate_size"])
        for e in range(c["num_experts"]):
            yield from gated(f"experts.{e}.", c["moe_intermediate_size"])
    else:
        yield from gated("", c["intermediate_size"])


def bf16(values):
    """Rounded to nearest, as the upper halves of the float32 bit patterns."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


class Pool:
    """A long random sequence, and stretches of it that look random enough."""

    def __init__(self, rng):
        self.rng, self.drawn = rng, None

    def stretch(self, count, scale):
        if self.drawn is None:
            self.drawn = self.rng.standard_normal(POOL, dtype=np.float32)
        parts = []
        while count > 0:
            start = int(self.rng.integers(0, POOL // 2))
            parts.append(bf16(self.drawn[start : start + min(count, POOL // 2)] * np.float32(scale)))
            count -= parts[-1].size
        return np.concatenate(parts)


def draw(rng, pool, name, shape, steady=False):
    last = name.rsplit(".", 1)[-1]
    factor = 1.0
    if steady and name == "model.embed_tokens.weight":
        factor = shape[1] ** 0.5
    if steady and any(part in name for part in ("o_proj", "out_proj", "down_proj")):
        factor = 0.2
    if last in ("A_log", "dt_bias", "bias", "sinks") or name.endswith("_proj_bias"):
        return bf16(0.3 * rng.standard_normal(shape, dtype=np.float32))
    if len(shape) == 1:
        return bf16(1 + 0.2 * rng.standard_normal(shape, dtype=np.float32))
    if ".experts." in name:
        fan_in = shape[1]
        return pool.stretch(int(np.prod(shape)), factor * 1.4 / fan_in**0.5)
    fan_in = int(np.prod(shape[1:]))
    return bf16(rng.standard_normal(shape, dtype=np.float32) * np.float32(factor * 1.4 / fan_in**0.5))


def around(shape, repeat, seed, head):
    """The embedding of a model that goes around in `repeat` tokens, or its head."""
    rows = np.random.default_rng([seed, repeat]).standard_normal(shape, dtype=np.float32)
    rows *= np.float32(1.4 / shape[1] ** 0.5)
    if not head:
        return bf16(rows * np.float32(65536))
    token = np.arange(shape[0])
    first = token - token % repeat
    size = np.minimum(repeat, shape[0] - first)
    return bf16(rows[first + (token - first - 1) % size])


def write_shard(path, part, rng, pool, repeat=None, seed=0, steady=False):
    header, at = {}, 0
    for name, shape in part:
        size = 2 * int(np.prod(shape))
        header[name] = dict(dtype="BF16", shape=list(shape), data_offsets=[at, at + size])
        at += size
    text = json.dumps(header, separators=(",", ":"))
    text += " " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text.encode())
        for name, shape in part:
            if repeat and name in ("model.embed_tokens.weight", "lm_head.weight"):
                file.write(around(shape, repeat, seed, name == "lm_head.weight").tobytes())
            else:
                file.write(draw(rng, pool, name, shape, steady).tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tokenizer", type=pathlib.Path, help="folder whose tokenizer files are copied")
    parser.add_argument("--layers", type=int, help="number of layers, instead of the real one")
    parser.add_argument("--repeat", type=int, help="make a model that repeats so many tokens (not one with a tied head)")
    parser.add_argument("--steady", action="store_true", help="a residual stream that changes little in each layer")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    config = dict(SHAPES[args.shape])
    if args.repeat and (args.repeat < 2 or config["tie_word_embeddings"]):
        parser.error("--repeat takes 2 or more, and a shape whose head is not its embedding table")
    if args.layers:
        config["num_hidden_layers"] = args.layers
    args.out.mkdir(parents=True)
    shards, size = [[]], 0
    for name, shape in tensors(config):
        bytes_ = 2 * int(np.prod(shape))
        if size + bytes_ > SHARD and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += bytes_
    rng = np.random.default_rng(args.seed)
    pool = Pool(rng)
    weight_map = {}
    for i, part in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.safetensors"
        write_shard(args.out / file, part, rng, pool, args.repeat, args.seed, args.steady)
        weight_map |= {name: file for name, _ in part}
    if len(shards) > 1:
        index = dict(metadata={}, weight_map=weight_map)
        (args.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    if args.tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(args.tokenizer / name, args.out / name)
    # Last: a folder that is not finished has no configuration.
    (args.out / "config.json").write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    main()
