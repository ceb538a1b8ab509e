"""The open-sci-ref decoder ("opensci"), written from its mathematics in plain torch.

transformers has no class for this family. It is Llama with two additions: an
RMSNorm over each head of q and k, after the projection and before the rotary
embedding, and a bias on every linear layer of attention and MLP (the head has
none). Two spellings of the checkpoint exist: the per-head norms are called
`q_layernorm`/`k_layernorm` or `q_norm`/`k_norm`, and the switches
`qk_layernorm`, `attention_bias` and `mlp_bias` may be absent, which means on.

`patched_qwen3` builds the same function a second way, from transformers' own
Qwen3 with biased linears put in its MLP; the recorder compares the two.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import silu

# The library's name for the two norms in `OpensciModel`, and the other spelling.
NORM_SPELLINGS = {"q_layernorm": "q_norm", "k_layernorm": "k_norm"}


def rename(state, mapping):
    """`state` with every path component that is a key of `mapping` replaced."""
    return {".".join(mapping.get(part, part) for part in name.split(".")): t for name, t in state.items()}


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        return self.weight * (x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden, bias = config["hidden_size"], config.get("attention_bias", True)
        self.heads = config["num_attention_heads"]
        self.kv_heads = config.get("num_key_value_heads") or self.heads
        self.head_dim = config.get("head_dim") or hidden // self.heads
        self.q_proj = nn.Linear(hidden, self.heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(hidden, self.kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(hidden, self.kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.head_dim, hidden, bias=bias)
        normed = config.get("qk_layernorm", True)
        self.q_layernorm = RMSNorm(self.head_dim, config["rms_norm_eps"]) if normed else nn.Identity()
        self.k_layernorm = RMSNorm(self.head_dim, config["rms_norm_eps"]) if normed else nn.Identity()

    def forward(self, x, angles):
        seq = x.shape[0]
        q = self.q_layernorm(self.q_proj(x).view(seq, self.heads, self.head_dim))
        k = self.k_layernorm(self.k_proj(x).view(seq, self.kv_heads, self.head_dim))
        v = self.v_proj(x).view(seq, self.kv_heads, self.head_dim)
        q, k = rotate(q, angles), rotate(k, angles)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(self.head_dim)
        causal = torch.ones(seq, seq, dtype=torch.bool).tril()
        weights = scores.masked_fill(~causal, float("-inf")).softmax(-1)
        return self.o_proj(torch.einsum("hqk,khd->qhd", weights, v).reshape(seq, -1))


def rotate(x, angles):
    """Rotary embedding of x [seq, heads, dim]: entry j turns with entry j + dim/2."""
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden, inner, bias = config["hidden_size"], config["intermediate_size"], config.get("mlp_bias", True)
        self.gate_proj = nn.Linear(hidden, inner, bias=bias)
        self.up_proj = nn.Linear(hidden, inner, bias=bias)
        self.down_proj = nn.Linear(inner, hidden, bias=bias)

    def forward(self, x):
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = Mlp(config)
        self.input_layernorm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.post_attention_layernorm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])

    def forward(self, x, angles):
        x = x + self.self_attn(self.input_layernorm(x), angles)
        return x + self.mlp(self.post_attention_layernorm(x))


class OpensciModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Block(config) for _ in range(config["num_hidden_layers"]))
        self.norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        dim = self.layers[0].self_attn.head_dim
        exponents = torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim
        self.inv_freq = 1.0 / config["rope_theta"] ** exponents

    def forward(self, tokens):
        x = self.embed_tokens(tokens)
        angles = torch.arange(tokens.shape[0], dtype=torch.float32)[:, None] * self.inv_freq
        for layer in self.layers:
            x = layer(x, angles.to(x.dtype))
        return self.norm(x)


class OpensciForCausalLM(nn.Module):
    """Takes token ids [1, seq], gives logits [1, seq, vocab], as the transformers classes do."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = OpensciModel(config)
        self.lm_head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)
        if config.get("tie_word_embeddings", False):
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, input_ids):
        return self.lm_head(self.model(input_ids[0]))[None]

    @classmethod
    def from_pretrained(cls, folder):
        config = json.loads((Path(folder) / "config.json").read_text())
        state = {name: t.float() for name, t in load_file(Path(folder) / "model.safetensors").items()}
        state = rename(state, {new: old for old, new in NORM_SPELLINGS.items()})
        if config.get("tie_word_embeddings", False):
            state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
        model = cls(config)
        model.load_state_dict(state)
        return model.eval()


def patched_qwen3(model):
    """The same function out of transformers' Qwen3: its MLP linears replaced by ones with a bias."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = model.config
    attention = model.model.layers[0].self_attn
    keys = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads rms_norm_eps rope_theta"
    twin_config = Qwen3Config.from_dict({key: config[key] for key in keys.split()})
    twin_config.num_key_value_heads = attention.kv_heads
    twin_config.head_dim = attention.head_dim
    twin_config.attention_bias = True
    twin_config.tie_word_embeddings = config.get("tie_word_embeddings", False)
    twin_config._attn_implementation = "eager"
    twin = Qwen3ForCausalLM(twin_config)
    for layer in twin.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            linear = getattr(layer.mlp, name)
            setattr(layer.mlp, name, nn.Linear(linear.in_features, linear.out_features, bias=True))
    twin.load_state_dict(rename(model.state_dict(), NORM_SPELLINGS))
    twin.generation_config.eos_token_id = config.get("eos_token_id")
    return twin.eval()
