"""Tiny random-weight checkpoints, laid out on disk as a user has them."""

import json
import math
import re
from pathlib import Path

import safetensors.torch
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from opensci import NORM_SPELLINGS, OpensciForCausalLM, rename

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def shapes(config):
    """The name and shape of every tensor that a checkpoint of this config holds."""
    with torch.device("meta"):
        if config["model_type"] == "opensci":
            model = OpensciForCausalLM(config)
        else:
            keys = {key: value for key, value in config.items() if key != "model_type"}
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **keys))
    found = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    if config.get("tie_word_embeddings", False):
        del found["lm_head.weight"]
    return found


def draw(config, seed):
    """Random weights, scaled so that every part of the network shows in the logits.

    Matrices have standard deviation 1.4 / sqrt(fan in), norm weights lie around
    1, and biases are of the order of the activations they are added to: a norm
    taken for 1, a forgotten bias or a wrong epsilon cannot go unseen.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in sorted(shapes(config).items()):
        noise = torch.randn(shape, generator=generator)
        if name.endswith(".bias"):
            state[name] = 0.3 * noise
        elif len(shape) == 1:
            state[name] = 1.0 + 0.2 * noise
        else:
            state[name] = noise * (1.4 / math.sqrt(shape[1]))
    return state


def write(folder, config, seed, dtype, head=None, short_norm_names=False, shards=1, generation_config=None):
    """Write config.json and the weights into `folder`.

    `head` says what a tied checkpoint stores as lm_head.weight: None (nothing),
    "equal" (a copy of the embedding) or "different" (a matrix of its own).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = draw(config, seed)
    if head == "equal":
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    elif head == "different":
        embedding = state["model.embed_tokens.weight"]
        noise = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(seed + 1))
        state["lm_head.weight"] = noise * (1.4 / math.sqrt(embedding.shape[1]))
    if short_norm_names:
        state = rename(state, NORM_SPELLINGS)
    state = {name: t.to(DTYPES[dtype]).contiguous() for name, t in state.items()}
    write_json(folder / "config.json", config)
    if generation_config is not None:
        write_json(folder / "generation_config.json", generation_config)
    if shards == 1:
        save_tensors(folder / "model.safetensors", state)
    else:
        write_shards(folder, state, shards)


def write_shards(folder, state, count):
    """Deal the tensors over `count` files, so that every layer lies in all of them."""
    files = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    weight_map = {name: files[i % count] for i, name in enumerate(sorted(state))}
    for file in files:
        save_tensors(folder / file, {name: t for name, t in state.items() if weight_map[name] == file})
    size = sum(t.numel() * t.element_size() for t in state.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})


def save_tensors(path, tensors):
    path.write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))


def write_json(path, value):
    """Indented JSON, with lists of numbers on one line."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    text = re.sub(r"\[\s+(-?\d[-\d\s,]*\d|-?\d)\s+\]", lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", text)
    path.write_text(text + "\n", encoding="utf-8")
