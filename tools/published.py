"""Counts what transformers makes of the configs in `testdata/published.json`: parameters, and buffers that are stored.

    python tools/published.py          counts all anew and writes the file

No weights are needed: the models are made on the meta device.
"""

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

FILE = Path(__file__).resolve().parent.parent / "testdata" / "published.json"


def count(config):
    """Elements of all tensors that a checkpoint of the model holds."""
    config = dict(config)
    config.pop("auto_map", None)
    config = AutoConfig.for_model(config.pop("model_type"), **config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    # Those that are not stored follow from the config.
    stored = set(model.state_dict())
    buffers = (b for name, b in model.named_buffers() if name in stored)
    return sum(p.numel() for p in model.parameters()) + sum(b.numel() for b in buffers)


def main():
    models = json.loads(FILE.read_text())
    for name, model in models.items():
        model["elements"] = count(json.loads(json.dumps(model["config"])))
        print(f"{model['elements']:>15,}  {name}")
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(model)}" for name, model in models.items())
    FILE.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
