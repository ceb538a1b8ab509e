"""Turns a checkpoint into what compressed-tensors makes of it.

The package does everything itself: it chooses the modules, computes the scales
(from the largest magnitude of each group), packs the weights and writes the
`quantization_config`. Only where the scales are measured is code of our own,
since that part of the method is in LLM Compressor.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import compressed_tensors
import safetensors
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from compressed_tensors.quantization.utils import calculate_qparams
from transformers import AutoModelForCausalLM

import checkpoints

VERSION = compressed_tensors.__version__


@dataclass
class Quantization:
    bits: int
    group: int | None  # inputs that share a scale; None is the whole row ("channel")
    ignore: tuple = ("lm_head",)  # modules that stay as they are


def config_of(quantization):
    weights = {"num_bits": quantization.bits, "type": "int", "symmetric": True, "dynamic": False}
    if quantization.group is None:
        weights |= {"strategy": "channel"}
    else:
        weights |= {"strategy": "group", "group_size": quantization.group}
    return QuantizationConfig(
        config_groups={"group_0": {"targets": ["Linear"], "weights": weights}},
        format="pack-quantized",
        ignore=list(quantization.ignore),
    )


@torch.no_grad()
def rewrite(folder, config, dtype, quantization):
    """Replace the weights in `folder` by their quantised form and add the quantization_config."""
    folder = Path(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=checkpoints.DTYPES[dtype])
    apply_quantization_config(model, config_of(quantization), show_progress=False)
    for module in model.modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is not None:
            groups = module.weight.unflatten(-1, (-1, quantization.group or module.in_features))
            scale, _ = calculate_qparams(groups.amin(-1), groups.amax(-1), scheme.weights)
            module.weight_scale.copy_(scale)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    state = {name: t.contiguous() for name, t in model.state_dict().items()}
    if config.get("tie_word_embeddings", False):
        del state["lm_head.weight"]
    checkpoints.save_tensors(folder / "model.safetensors", state)
    with tempfile.TemporaryDirectory() as scratch:
        compressor.update_config(scratch)
        written = json.loads((Path(scratch) / "config.json").read_text())
    checkpoints.write_json(folder / "config.json", config | written)


def check(folder, model):
    """Hold the weights that `model` computes with, after its first pass, against the stored integers and scales.

    In float32 they are integer times scale, where stored bfloat16 and float16
    scales are widened first, so that the product is exact.
    """
    with safetensors.safe_open(Path(folder) / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}
    weights = json.loads((Path(folder) / "config.json").read_text())["quantization_config"]
    bits = weights["config_groups"]["group_0"]["weights"]["num_bits"]
    modules = [name.removesuffix(".weight_packed") for name in stored if name.endswith(".weight_packed")]
    for module in modules:
        words = stored[f"{module}.weight_packed"].numpy().view("uint32").astype("int64")
        scale = stored[f"{module}.weight_scale"].float()
        rows, columns = stored[f"{module}.weight_shape"].tolist()
        values = [(words >> shift & 2**bits - 1) - 2 ** (bits - 1) for shift in range(0, 32, bits)]
        integers = torch.stack([torch.from_numpy(v) for v in values], dim=-1).reshape(rows, -1)[:, :columns]
        wanted = integers.float() * scale.repeat_interleave(columns // scale.shape[1], dim=1)
        found = model.get_submodule(module).weight
        assert found.dtype == torch.float32 and torch.equal(found, wanted), module
    return len(modules)
