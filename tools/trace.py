"""Records every hook point of docs/hooks.md from a transformers model, as a trace file.

    python tools/trace.py CHECKPOINT --tokens 1,2,3 --out t.safetensors
        [--capture 'blocks.*.hook_resid_post' ...]   these points alone; * is anything
        [--positions 0,3]                            these rows alone
        [--dtype bfloat16]                           float32 is the default; the file has float32 either way
        [--fault NAME]                               with a planted fault of faults.py, of which the file says nothing
        [--check]                                    trace_check.py must find the trace in order with itself

Importable:

    model = load("/path/to/checkpoint")
    tensors, metadata = record_trace(model, [1, 5, 9])
    save("t.safetensors", tensors, metadata)

Values are those that the forward pass used: what modules took and gave, and what
functions of the modeling file were called with, heard by trace_watch.py. The
pass is one over all tokens, with eager attention and eager experts, without a
cache. A few things that no module has are computed from what was seen:

- `hook_scale` and `hook_normalized` of norms, from the norm's input and its eps;
- `hook_attn_out` and `hook_mlp_out` where outputs are multiplied by a factor
  (Granite), and `hook_shared_out` where the shared expert has a gate;
- `hook_result`, from the input of the output projection (after the gate, where
  the result is gated) and the projection's weight;
- `hook_state` of the delta rule, by the recurrent form of the rule, row by row:
  transformers goes through a prompt in chunks, between which it has no states.

Three things are put in order: what the mask hides is −∞ in `hook_attn_scores`
(transformers adds the smallest number of the type); experts are best first, by
the score that they were chosen by, with its bias; and where DeepSeek-V3 lays
the rotated elements of a head apart (`rope_interleave`), `hook_rot_q` and
`hook_rot_k` have them back in the places that they were projected to.

A layer that does not rotate has no `hook_rot_q` and `hook_rot_k`, a router whose softmax
goes over the chosen experts, or those near the best (Phi-MoE), has no `hook_expert_weights`.

A model whose rotary frequencies are zero or no numbers is refused, since whoever
loads a checkpoint with another version of transformers than it was made for may get
one: `--allow-zero-rope` records it all the same.
"""

import argparse
import fnmatch
import json
import sys
from pathlib import Path

import torch
import transformers

import faults
import trace_check
import trace_file
import trace_points
from opensci import OpensciForCausalLM
from trace_parts import Parts, Unknown
from trace_watch import watching

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
save = trace_file.save


class Refused(Exception):
    """The model cannot be recorded as it is."""


def load(folder, dtype="float32"):
    """The checkpoint in `folder` with eager attention and eager experts."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise Refused(f"{folder} has no config.json: a checkpoint's folder is needed")
    if json.loads((folder / "config.json").read_text())["model_type"] == "opensci":
        model = OpensciForCausalLM.from_pretrained(folder).to(DTYPES[dtype])
        model.name_or_path = str(folder)
        return model.eval()
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=DTYPES[dtype], attn_implementation="eager", experts_implementation="eager",
        output_loading_info=True,
    )
    for kind in ("missing_keys", "mismatched_keys"):
        if info[kind]:
            raise Refused(f"{folder}: {kind.replace('_', ' ')} in the checkpoint: {sorted(map(str, info[kind]))}")
    return model.eval()


def check_rope(parts):
    """Refuses a model that knows no positions because its rotary frequencies were never set."""
    for name, frequencies in parts.frequencies().items():
        values = frequencies.detach().float()
        if not bool(values.isfinite().all()) or bool((values == 0).any()):
            raise Refused(
                f"the rotary frequencies {name} are zero or not finite: this model does not know its positions. "
                "Load it with a version of transformers that sets them, or record it as it is with --allow-zero-rope"
            )


@torch.no_grad()
def record_trace(model, tokens, points=None, positions=None, folder=None, allow_zero_rope=False):
    """The points of a forward pass over `tokens`: a dict of tensors in the order of computing, and the file's metadata.

    `points` are names, in which * stands for anything; None is all of them. `positions`
    are the rows that are kept; None is all of them. `folder` is the checkpoint, whose
    tensors' hashes become part of the metadata; None is where the model was loaded from.
    """
    tokens = [int(token) for token in tokens]
    parts = Parts(model)
    vocab = parts.embed.num_embeddings
    if not tokens or not all(0 <= token < vocab for token in tokens):
        raise Refused(f"tokens have to be some numbers from 0 to {vocab - 1}")
    positions = list(range(len(tokens))) if positions is None else sorted(set(positions))
    if not positions or not 0 <= positions[0] <= positions[-1] < len(tokens):
        raise Refused(f"positions have to be some numbers from 0 to {len(tokens) - 1}")
    if not allow_zero_rope:
        check_rope(parts)
    parts.ends.fresh()
    own = isinstance(model, OpensciForCausalLM)
    with watching(parts) as watch:
        output = model(torch.tensor([tokens])) if own else model(torch.tensor([tokens]), use_cache=False).logits
    parts.ends.fresh()
    found = trace_points.every(parts, watch, len(tokens), output)
    wanted, missing = chosen(found, points)
    tensors = {name: rows_of(name, found.found[name](), positions) for name in wanted}
    folder = Path(folder or getattr(model, "name_or_path", ""))
    config = model.config if own else model.config.to_dict()
    if (folder / "config.json").is_file():  # of a model that is a part of its checkpoint, the whole one's family
        config = json.loads((folder / "config.json").read_text())
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    metadata = trace_file.metadata(
        folder, model_type=config["model_type"], dtype=dtype, tokens=tokens, positions=positions, missing=missing
    )
    return tensors, metadata


def chosen(found, points):
    """The names that are asked for, in their order, and what is missing."""
    if points is None:
        return list(found.found), found.missing
    matches = {asked: fnmatch.filter(found.found, asked) for asked in points}
    wanted = {name for names in matches.values() for name in names}
    missing = {asked: "this model has no such point" for asked, names in matches.items() if not names}
    return [name for name in found.found if name in wanted], missing | found.missing


def rows_of(name, tensor, positions):
    """The rows of these positions, as they are stored."""
    tensor = tensor if tensor.dtype == torch.int32 else tensor.float()
    if name.endswith(("hook_attn_scores", "hook_pattern")):
        return tensor[:, positions, : positions[-1] + 1].contiguous()
    return tensor[positions].contiguous()


def numbers(text):
    return [int(number) for number in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder with config.json and safetensors")
    parser.add_argument("--tokens", type=numbers, required=True, metavar="1,2,3", help="token ids")
    parser.add_argument("--out", metavar="FILE", help="the trace; not needed with --check")
    parser.add_argument("--capture", nargs="+", metavar="POINT", help="names of points, * for anything")
    parser.add_argument("--positions", type=numbers, metavar="0,3", help="the rows to keep")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--fault", choices=faults.FAULTS, help="plant a fault first")
    parser.add_argument("--allow-zero-rope", action="store_true", help="record a model that knows no positions")
    parser.add_argument("--check", action="store_true", help="look whether the trace agrees with itself")
    arguments = parser.parse_args()
    if not (arguments.out or arguments.check):
        parser.error("--out FILE is needed, or --check")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model = load(arguments.checkpoint, arguments.dtype)
        with faults.planted(model, arguments.fault):
            tensors, metadata = record_trace(
                model, arguments.tokens, arguments.capture, arguments.positions, arguments.checkpoint,
                arguments.allow_zero_rope,
            )
    except (Refused, Unknown, faults.Unfit) as reason:
        print(f"trace.py: {reason}", file=sys.stderr)
        sys.exit(2)
    if arguments.check:
        for complaint in (complaints := trace_check.complaints(tensors, metadata)):
            print(f"trace.py: {complaint}", file=sys.stderr)
        if complaints:
            sys.exit(1)
    if arguments.out:
        save(arguments.out, tensors, metadata)
    for name, reason in json.loads(metadata.get("missing", "{}")).items():
        print(f"trace.py: missing: {name}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
