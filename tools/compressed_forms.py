"""The forms of compressed-tensors beyond symmetric integers: 8-bit floats, zero points, orders of groups.

As in quantized.py the package chooses the modules, computes scales and zero points, rounds, packs and writes the
`quantization_config`; and here it also widens, with scales in float32. Orders of groups (`actorder: group`) it has
given up, though checkpoints have them: what older versions did is done here, which is to let the package see the
columns group after group.
"""

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor, ModelCompressor
from compressed_tensors.compressors.pack_quantized import pack_to_int32, unpack_from_int32
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from compressed_tensors.quantization.utils import calculate_qparams
from transformers import AutoModelForCausalLM

import checkpoints
from quantized_forms import Form, blocks_of


@dataclass
class Compressed(Form):
    """A scheme of weights in compressed-tensors."""

    weights: dict
    inputs: dict | None = None  # what the checkpoint would have done to activations
    format: str = "pack-quantized"
    order: bool = False  # inputs belong to groups in an order of their own
    ignore: tuple = field(default=("lm_head",))

    def describe(self):
        group = {"targets": ["Linear"], "weights": {"dynamic": False} | self.weights}
        if self.inputs is not None:
            group["input_activations"] = self.inputs
        return QuantizationConfig(config_groups={"group_0": group}, format=self.format, ignore=list(self.ignore))

    def groups(self, weight):
        """The elements that share a scale, along the last axis."""
        strategy = self.weights["strategy"]
        if strategy == "block":
            return blocks_of(weight, *self.weights["block_structure"]).transpose(1, 2).flatten(2)
        if strategy == "tensor":
            return weight.reshape(1, -1)
        return weight.unflatten(-1, (-1, self.weights.get("group_size", weight.shape[1])))

    @torch.no_grad()
    def convert(self, folder, plain, case, seed):
        generator = torch.Generator().manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=checkpoints.DTYPES[case.dtype])
        apply_quantization_config(model, self.describe(), show_progress=False)
        modules = {n: m for n, m in model.named_modules() if getattr(m, "quantization_scheme", None) is not None}
        schemes, orders = {name: module.quantization_scheme for name, module in modules.items()}, {}
        for name, module in modules.items():
            if self.order:
                cols = module.weight.shape[1]
                index = (torch.arange(cols) // self.weights["group_size"])[torch.randperm(cols, generator=generator)]
                orders[name] = index.to(torch.int32)
                module.weight.copy_(module.weight[:, index.argsort(stable=True)])
            groups = self.groups(module.weight)
            scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), schemes[name].weights)
            module.weight_scale.copy_(scale)
            if hasattr(module, "weight_zero_point"):
                module.weight_zero_point.copy_(zero)
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        stored = dict(model.state_dict())
        if case.config.get("tie_word_embeddings", False):
            del stored["lm_head.weight"]
        widened = {name: self.widen(name, stored, schemes[name]) for name in modules}
        for name, index in orders.items():
            self.put_in_order(name, stored, index)
            widened[name] = widened[name][:, index.argsort(stable=True).argsort()]
        with tempfile.TemporaryDirectory() as scratch:
            compressor.update_config(scratch)
            described = json.loads((Path(scratch) / "config.json").read_text())["quantization_config"]
        if self.order:
            described["config_groups"]["group_0"]["weights"]["actorder"] = "group"
        return stored, widened, described

    def widen(self, name, stored, scheme):
        """The package's own widening of a module, with its scales in float32."""
        own = {key.removeprefix(f"{name}."): tensor for key, tensor in stored.items() if key.startswith(f"{name}.")}
        own["weight_scale"] = own["weight_scale"].float()
        compressor = BaseCompressor.get_value_from_registry(self.format)
        return compressor.decompress(own, scheme)["weight"].float()

    def put_in_order(self, name, stored, index):
        """The packed columns, which lie group after group, in their own order; and which group each belongs to."""
        bits, shape = self.weights["num_bits"], stored[f"{name}.weight_shape"]
        values = unpack_from_int32(stored[f"{name}.weight_packed"], bits, shape)
        stored[f"{name}.weight_packed"] = pack_to_int32(values[:, index.argsort(stable=True).argsort()], bits)
        stored[f"{name}.weight_g_idx"] = index
