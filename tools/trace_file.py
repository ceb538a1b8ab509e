"""Trace files as docs/hooks.md has them: written, read, and the hashes of a checkpoint's tensors.

safetensors' own writer puts metadata in another order each time and sorts the
tensors; here both keep theirs, so that a trace made again is the same file.
"""

import functools
import hashlib
import json
from pathlib import Path

import numpy
import safetensors
import tokenizers
import torch
import transformers

DTYPES = {torch.float32: "F32", torch.int32: "I32"}


def metadata(folder, model_type, dtype, tokens, positions, missing, attention="eager"):
    """The metadata of a trace of the model in `folder`, a path."""
    found = {
        "format": "rheostat-trace",
        "version": "1",
        "engine": f"transformers {transformers.__version__}",
        "libraries": json.dumps(libraries()),
        "model": folder.name,
        "model_type": model_type,
        "dtype": dtype,
        "attention": attention,
        "tokens": json.dumps(tokens),
        "prompt_len": str(len(tokens)),
        "positions": json.dumps(positions),
    }
    if found_hashes := folder.name and hashes(folder):
        found["weights"] = json.dumps(found_hashes)
    if missing:
        found["missing"] = json.dumps(missing)
    return found


def libraries():
    """The versions of what takes part."""
    return {
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "safetensors": safetensors.__version__,
        "numpy": numpy.__version__,
    }


def save(path, tensors, metadata):
    """Write a safetensors file with the tensors one after the other."""
    header, at = {"__metadata__": metadata}, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little"))
        file.write(head)
        for tensor in tensors.values():
            file.write(tensor.contiguous().numpy().tobytes())


def load(path):
    """The tensors and the metadata of a trace, in the file's order."""
    with safetensors.safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
        return tensors, file.metadata()


def weight_files(folder):
    """The files that hold a checkpoint's tensors."""
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return [path for path in [folder / "model.safetensors"] if path.is_file()]


def hashes(folder):
    """Of every tensor of a checkpoint as it lies on disk: 16 digits of the SHA-256 over its type, shape and bytes."""
    states = tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in weight_files(folder))
    return hashes_of(states)


@functools.cache
def hashes_of(states):
    """The same of files as they are now; reading takes long, and several traces of one model are common."""
    found = {}
    for path, *_ in states:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            for name, info in header.items():
                if name == "__metadata__":
                    continue
                first, end = info["data_offsets"]
                shape = ",".join(str(size) for size in info["shape"])
                digest = hashlib.sha256(f"{info['dtype']}\0{shape}\0".encode())
                file.seek(8 + length + first)
                left = end - first
                while left > 0:
                    piece = file.read(min(left, 1 << 24))
                    if not piece:
                        raise EOFError(f"{path} ends within {name}")
                    digest.update(piece)
                    left -= len(piece)
                found[name] = digest.hexdigest()[:16]
    return dict(sorted(found.items()))
