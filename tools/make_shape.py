"""Write a checkpoint of a real model's full shape with random weights, for measuring speed and memory.

    python tools/make_shape.py qwen3-1.7b OUT [--tokenizer assets/tiny-shakespeare] [--layers N] [--repeat N]

Weights are bfloat16, drawn with a standard deviation of 1.4 / sqrt(fan_in), norms around 1; needs numpy only.
Tensors are written one by one, in shards of about 4 GB, so memory stays small whatever the model.

With --repeat N the model writes what random weights do not: a text that goes around in N tokens. Its embedding is so large that
what the blocks add does not matter, and row t + 1 of its head (within each N tokens) is the embedding of token t. Every
product is as much work as before.
"""

import argparse
import json
import pathlib
import shutil

import numpy as np

SHAPES = {
    "qwen3-0.6b": dict(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
                       num_key_value_heads=8, head_dim=128, tie_word_embeddings=True),
    "qwen3-1.7b": dict(hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16,
                       num_key_value_heads=8, head_dim=128, tie_word_embeddings=True),
    "qwen3-8b": dict(hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
                     num_key_value_heads=8, head_dim=128, tie_word_embeddings=False),
}
COMMON = dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", vocab_size=151936, rms_norm_eps=1e-6,
              max_position_embeddings=40960, rope_theta=1000000, rope_scaling=None, attention_bias=False,
              hidden_act="silu", use_sliding_window=False, sliding_window=None, max_window_layers=28,
              torch_dtype="bfloat16")
SHARD = 4 << 30


def tensors(c):
    """Names and shapes, in the order in which a forward pass uses them."""
    hidden, inner, d = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    yield "model.embed_tokens.weight", (c["vocab_size"], hidden)
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (hidden,)
        yield layer + "self_attn.q_proj.weight", (q, hidden)
        yield layer + "self_attn.k_proj.weight", (kv, hidden)
        yield layer + "self_attn.v_proj.weight", (kv, hidden)
        yield layer + "self_attn.q_norm.weight", (d,)
        yield layer + "self_attn.k_norm.weight", (d,)
        yield layer + "self_attn.o_proj.weight", (hidden, q)
        yield layer + "post_attention_layernorm.weight", (hidden,)
        yield layer + "mlp.gate_proj.weight", (inner, hidden)
        yield layer + "mlp.up_proj.weight", (inner, hidden)
        yield layer + "mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (c["vocab_size"], hidden)


def bf16(values):
    """Rounded to nearest, as the upper halves of the float32 bit patterns."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def draw(rng, shape):
    if len(shape) == 1:
        return bf16(1 + 0.2 * rng.standard_normal(shape, dtype=np.float32))
    return bf16(rng.standard_normal(shape, dtype=np.float32) * np.float32(1.4 / shape[1] ** 0.5))


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


def write_shard(path, part, rng, repeat=None, seed=0):
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
                file.write(draw(rng, shape).tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tokenizer", type=pathlib.Path, help="folder whose tokenizer files are copied")
    parser.add_argument("--layers", type=int, help="number of layers, instead of the real one")
    parser.add_argument("--repeat", type=int, help="make a model that repeats so many tokens (not one with a tied head)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    config = COMMON | SHAPES[args.shape]
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
    weight_map = {}
    for i, part in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.safetensors"
        write_shard(args.out / file, part, rng, args.repeat, args.seed)
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
