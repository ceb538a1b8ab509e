"""Quantised forms of checkpoints: a family's weights stored in one, and recorded with the values that they stand for.

A form rewrites the tensors of a checkpoint. Of every matrix that it takes there are then two: what is stored, and
the float32 matrix that a library (or, for GPTQ and AWQ, the words of its code) makes of just that. The reference is a
plain float32 model with the latter. Nothing is rounded but the weights: a form says nothing of activations.
"""

import math
import re
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy
import safetensors.torch
import torch
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import FP4_VALUES, convert_moe_packed_tensors

import checkpoints
import families

LARGEST_E4M3 = 448.0
RECORDED = (  # what `dequantized.*` are taken of
    "q_proj", "k_proj", "o_proj", "gate_proj", "down_proj", "gate_up_proj", "qkv_proj", "query_key_value",
    "dense_h_to_4h", "c_attn", "c_fc", "w1", "w2", "lm_head",
)


def make(case, folder, seed):
    """As families.make, of a case with a form."""
    if folder.exists():
        shutil.rmtree(folder)
    families.write(folder, case, seed)
    plain = safetensors.torch.load_file(folder / "model.safetensors")
    stored, widened, described = case.form.convert(folder, plain, case, seed)
    with tempfile.TemporaryDirectory() as twin:
        checkpoints.write_json(Path(twin) / "config.json", case.config)
        state = {name: tensor.float() for name, tensor in plain.items()} | case.form.as_stored(widened)
        checkpoints.save_tensors(Path(twin) / "model.safetensors", {name: t.contiguous() for name, t in state.items()})
        model = families.load(twin)
    checkpoints.save_tensors(folder / "model.safetensors", {name: t.contiguous() for name, t in stored.items()})
    checkpoints.write_json(folder / "config.json", case.config | {"quantization_config": described})
    tensors, report = families.observe(model, case, seed)
    for module, weight in widened.items():
        for which, matrix in enumerate(weight) if weight.dim() == 3 else [(None, weight)]:
            if recorded(module, which):
                name = f"dequantized.{module}" + ("" if which is None else f".{which}")
                tensors[name] = matrix.contiguous()
    return tensors, report | {"quantized_modules": len(widened)}


def recorded(module, expert):
    """Some matrices of the first block; of experts, those of the first two."""
    *_, owner, leaf = ["", *module.split(".")]
    expert = int(owner) if owner.isdigit() else expert or 0
    first = ".layers.0." in module or ".h.0." in module or leaf == "lm_head"
    return first and leaf in RECORDED and expert < 2


class Form:
    """A form whose matrices are rewritten one by one."""

    keep = ("lm_head",)  # modules that stay as they are

    def takes(self, name, tensor):
        module = name.removesuffix(".weight")
        return name.endswith("proj.weight") and module not in self.keep

    def convert(self, folder, plain, case, seed):
        """The tensors to store, the float32 matrices they stand for by module, and the quantization_config."""
        generator = torch.Generator().manual_seed(seed)
        stored, widened = {}, {}
        for name, tensor in plain.items():
            if not self.takes(name, tensor):
                stored[name] = tensor
                continue
            module = name.removesuffix(".weight")
            form = self.of(module)
            parts = form.quantize(self.outputs_first(tensor.float()), generator)
            widened[module] = form.dequantize(parts)
            if f"{module}.bias" in plain:
                parts.pop(".bias", None)
            stored |= {module + suffix: part for suffix, part in parts.items()}
        return stored, widened, self.config(plain)

    def of(self, _module):
        """The form of one module."""
        return self

    def outputs_first(self, weight):
        """The matrix [outputs, inputs], from the order on disk or into it."""
        return weight

    def as_stored(self, widened):
        """The matrices in the names and the order of a checkpoint that is not quantised."""
        return {f"{module}.weight": self.outputs_first(weight) for module, weight in widened.items()}


def blocks_of(weight, rows, cols):
    """The weight padded with zeros to whole blocks, [block rows, rows, block columns, cols]."""
    padded = torch.nn.functional.pad(weight, (0, -weight.shape[1] % cols, 0, -weight.shape[0] % rows))
    return padded.reshape(-1, rows, padded.shape[1] // cols, cols)


@dataclass
class FineGrainedFp8(Form):
    """`quant_method: fp8`: a scale for each block of the matrix."""

    block: tuple
    scales: torch.dtype = torch.float32

    def quantize(self, weight, _generator):
        blocks = blocks_of(weight, *self.block)
        scale = (blocks.abs().amax((1, 3)) / LARGEST_E4M3).to(self.scales)
        scaled = (blocks / scale.float()[:, None, :, None]).clamp(-LARGEST_E4M3, LARGEST_E4M3)
        whole = scaled.reshape(-1, blocks.shape[2] * blocks.shape[3])
        return {
            ".weight": whole[: weight.shape[0], : weight.shape[1]].to(torch.float8_e4m3fn),
            ".weight_scale_inv": scale,
        }

    def dequantize(self, parts):
        # transformers takes the size of blocks from the shapes, so that it needs whole ones.
        weight, (rows, cols) = parts[".weight"], self.block
        padded = blocks_of(weight.float(), rows, cols)
        padded = padded.reshape(-1, padded.shape[2] * cols).to(torch.float8_e4m3fn)
        widened = Fp8Dequantize(None)._dequantize_one(padded, parts[".weight_scale_inv"], torch.float32)
        return widened[: weight.shape[0], : weight.shape[1]]

    def config(self, plain):
        others = ("lm_head.weight", "norm.weight", "mlp.gate.weight")
        kept = [name.removesuffix(".weight") for name in plain if name.endswith(others)]
        return {
            "activation_scheme": "dynamic", "fmt": "e4m3", "modules_to_not_convert": sorted(kept),
            "quant_method": "fp8", "weight_block_size": list(self.block),
        }


class Mxfp4(Form):
    """The experts of gpt-oss: numbers of 4 bits, a power of two for each 32."""

    def takes(self, name, tensor):
        return name.endswith("_proj") and tensor.dim() == 3

    def quantize(self, weight, _generator):
        groups = weight.transpose(1, 2).unflatten(-1, (-1, 32))
        exponent = groups.abs().amax(-1).log2().floor() - 2  # the largest number is 6, and 4 the largest power of two
        scaled = groups / exponent.exp2()[..., None]
        nearest = (scaled[..., None] - torch.tensor(FP4_VALUES)).abs().argmin(-1).to(torch.uint8)
        return {
            "_blocks": nearest[..., 0::2] | nearest[..., 1::2] << 4,
            "_scales": (exponent + 127).to(torch.uint8),
        }

    def dequantize(self, parts):
        return convert_moe_packed_tensors(parts["_blocks"], parts["_scales"], dtype=torch.float32).transpose(1, 2)

    def as_stored(self, widened):
        return {module: weight.transpose(1, 2) for module, weight in widened.items()}

    def config(self, _plain):
        kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
        return {"modules_to_not_convert": kept, "quant_method": "mxfp4"}


def pack(values, bits, axis):
    """Unsigned integers in words, neighbours along `axis` in one, the first in the lowest bits."""
    words = values.to(torch.int64).unflatten(axis, (-1, 32 // bits)).movedim(axis + 1, -1)
    words = (words << torch.arange(0, 32, bits)).sum(-1)
    return torch.from_numpy(words.numpy().astype(numpy.uint32).view(numpy.int32))


def unpack(words, bits, axis):
    """What `pack` packed."""
    shifts = torch.arange(0, 32, bits)
    values = (words.to(torch.int64)[..., None] >> shifts) & (2**bits - 1)
    return values.movedim(-1, axis + 1).flatten(axis, axis + 1)


def range_of(group, most, symmetric):
    """Scale and zero point of the rows of a group, as auto-gptq has them, and AutoAWQ the asymmetric ones."""
    low, high = group.amin(1).clamp(max=0), group.amax(1).clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        return 2 * high / most, torch.full_like(high, (most + 1) // 2)
    scale = (high - low) / most
    return scale, (-low / scale).round().clamp(0, most)


# Linear modules whose names do not end in `proj`.
LINEARS = (
    "kv_a_proj_with_mqa", "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "c_attn", "c_fc", "w1", "w2",
    "w3",
)


class Words(Form):
    """A form of words of integers, of every linear module but the routers, whatever families call them."""

    def takes(self, name, tensor):
        module = name.removesuffix(".weight")
        leaf = module.rpartition(".")[2]
        linear = leaf.endswith("proj") or leaf in LINEARS or leaf == "lm_head"
        return name.endswith(".weight") and linear and module not in self.keep and self.of(module) is not None


@dataclass
class Gptq(Words):
    """As gptqmodel writes and reads it (`pack`, `dequantize_weight`, `convert_gptq_v2_to_v1_format`, `dynamic_get`)."""

    bits: int
    group: int  # -1: all inputs
    symmetric: bool
    order: bool = False  # inputs belong to groups in an order of their own
    version: str = "gptq"
    scales: torch.dtype = torch.float16
    biases: bool = False  # of zeros, which auto-gptq gave to modules that have none
    dynamic: dict = field(default_factory=dict)  # settings of modules of their own, by patterns
    keep: tuple = ("lm_head", "embed_out")
    unordered: str | None = None  # modules, by a pattern, whose inputs come as they are in spite of `order`
    conv1d: bool = False  # matrices of the plain checkpoint are [inputs, outputs]

    def of(self, module):
        form = self
        if self.unordered is not None and re.match(self.unordered, module):
            form = replace(form, order=False)
        for pattern, settings in self.dynamic.items():
            if pattern.startswith("-:"):
                if re.match(pattern.removeprefix("-:"), module):
                    return None
            elif re.match(pattern.removeprefix("+:"), module):
                return replace(form, bits=settings.get("bits", self.bits), group=settings.get("group_size", self.group))
        return form

    def outputs_first(self, weight):
        return weight.T if self.conv1d else weight

    def quantize(self, weight, generator):
        rows, cols = weight.shape
        most, size = 2**self.bits - 1, cols if self.group == -1 else self.group
        index = torch.arange(cols) // size
        if self.order:
            index = index[torch.randperm(cols, generator=generator)]
        if not self.symmetric:
            # Some outputs have no negative weights in the first group: their zero point is 0.
            mask = (torch.arange(rows)[:, None] % 7 == 3) & (index == 0)
            weight = torch.where(mask, weight.abs(), weight)
        found = [range_of(weight[:, index == g], most, self.symmetric) for g in range(math.ceil(cols / size))]
        scales, zeros = (torch.stack(column) for column in zip(*found))
        scales = scales.to(self.scales)
        values = ((weight.T / scales.float()[index]).round() + zeros[index]).clamp(0, most)
        packed = pack(zeros, self.bits, 1)
        if self.version == "gptq":  # one is taken away from each, word by word, with what it borrows
            packed = packed - torch.tensor(sum(1 << shift for shift in range(0, 32, self.bits)), dtype=torch.int32)
        biases = {".bias": torch.zeros(rows, dtype=self.scales)} if self.biases else {}
        return {".qweight": pack(values, self.bits, 0), ".qzeros": packed, ".scales": scales,
                ".g_idx": index.to(torch.int32)} | biases

    def dequantize(self, parts):
        zeros, index = parts[".qzeros"], parts[".g_idx"].long()
        if self.version == "gptq":
            zeros = zeros + torch.tensor(sum(1 << shift for shift in range(0, 32, self.bits)), dtype=torch.int32)
        zeros, values = unpack(zeros, self.bits, 1), unpack(parts[".qweight"], self.bits, 0)
        return (parts[".scales"].float()[index] * (values - zeros[index])).T

    def config(self, _plain):
        return {
            "bits": self.bits, "checkpoint_format": self.version, "damp_percent": 0.1, "desc_act": self.order,
            "group_size": self.group, "lm_head": "lm_head" not in self.keep, "meta": {"quantizer": ["gptqmodel:4.0.0"]},
            "pack_dtype": "int32", "quant_method": "gptq", "static_groups": False, "sym": self.symmetric, "true_sequential": True,
        } | ({"dynamic": self.dynamic} if self.dynamic else {})


AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # autoawq's packing_utils


@dataclass
class Awq(Words):
    """The layout called GEMM, as AutoAWQ writes and reads it (`WQLinear_GEMM.from_linear`, `dequantize_gemm`)."""

    group: int

    def quantize(self, weight, _generator):
        rows, cols = weight.shape
        size = cols if self.group == -1 else self.group
        found = [range_of(part, 15, False) for part in weight.split(size, dim=1)]
        scales, zeros = (torch.stack(column) for column in zip(*found))
        scales = scales.half()
        index = torch.arange(cols) // size
        values = ((weight.T / scales.float()[index]).round() + zeros[index]).clamp(0, 15)
        mixed = lambda outputs: outputs.unflatten(1, (-1, 8))[:, :, AWQ_ORDER].flatten(1)  # noqa: E731
        return {".qweight": pack(mixed(values), 4, 1), ".qzeros": pack(mixed(zeros), 4, 1), ".scales": scales}

    def dequantize(self, parts):
        places = torch.tensor(AWQ_ORDER).argsort()
        restored = lambda words: unpack(words, 4, 1).unflatten(1, (-1, 8))[:, :, places].flatten(1)  # noqa: E731
        values, zeros, scales = restored(parts[".qweight"]), restored(parts[".qzeros"]), parts[".scales"].float()
        size = values.shape[0] // scales.shape[0]
        return ((values - zeros.repeat_interleave(size, 0)) * scales.repeat_interleave(size, 0)).T

    def config(self, _plain):
        return {
            "bits": 4, "group_size": self.group, "modules_to_not_convert": None, "quant_method": "awq",
            "version": "gemm", "zero_point": True,
        }
