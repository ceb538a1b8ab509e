"""What transformers says when its hidden values are changed on the way, for some checkpoints of different kinds.

    python tools/interventions.py      writes testdata/interventions.json and testdata/interventions.safetensors

The JSON is a list of entries, each a pass over some tokens with changes at hook points (docs/hooks.md):

    {"name": "llama_plain.steer", "checkpoint": "llama_plain", "tokens": [5, 9, ...],
     "changes": [{"point": "blocks.0.hook_resid_post", "op": "add", "positions": [3, 4],
                  "vector": "llama_plain.steer.0", "scale": 2.0}],
     "logits": "llama_plain.steer.logits"}

`checkpoint` is a folder of testdata/. `logits` names the tensor [row, vocab] of the logits that follow, of all rows, in
the safetensors file, which also has `CHECKPOINT.logits`, those without a change: the entry `CHECKPOINT.none`, whose
`changes` are empty, says of which tokens. A change has a `point`, an `op`, and

| op | | other keys |
| --- | --- | --- |
| `add` | `value[position] += scale * vector` | `positions`, `scale`, `vector`, a tensor of the safetensors file |
| `set` | `value[position] = vector` | `positions`, `vector` |
| `scale` | `value[position] *= scale` | `positions`, `scale` |
| `zero` | `value[position, head] = 0` | `positions`, `head` |
| `mask` | `scores[head, q, k] = -inf` for each pair | `head`, `edges`, a list of pairs `[q, k]` |

`positions` are rows of the tokens; null is all of them. Where a `mask` leaves nothing in a row of scores, its pattern
and its `z` are zero. Values set come from elsewhere: `source` says from where, as `{"tokens", "point", "position"}` for
a row of a run over other tokens, or with `"mean": true` for the mean over all its rows; the vector is what transformers
had there. Several changes of an entry are made in one pass, each where its point is computed.

Every change is looked at in a trace that is recorded along with it: what was to be changed was, and nothing before it.
"""

import sys
from contextlib import ExitStack

import torch
import transformers

import checkpoints
import routing
import trace
import trace_file
from continuation import random_tokens
from reference import TESTDATA
from trace_parts import Parts
from trace_watch import replace

CASES = ["llama_plain", "gpt2_hub", "gemma2_hub", "qwen3_moe_hub", "qwen3_next_hub", "deepseek_v3_hub"]
LENGTH = 9


class Unclear(Exception):
    """A choice of experts hangs on rounding."""


def edited(change, vectors):
    """A function that does the change to a tensor with rows in front."""

    def edit(value):
        value = value.clone()
        rows = list(range(value.shape[0])) if change["positions"] is None else change["positions"]
        if change["op"] == "add":
            value[rows] += change["scale"] * vectors[change["vector"]]
        elif change["op"] == "set":
            value[rows] = vectors[change["vector"]]
        elif change["op"] == "scale":
            value[rows] *= change["scale"]
        else:
            value[rows, change["head"]] = 0.0
        return value

    return edit


def by_rows(edit, *shape):
    """The same for a tensor as a module has it; `shape` is what a row has."""
    return lambda value: edit(value.reshape(-1, *shape) if shape else value[0]).reshape(value.shape)


def on_output(edit):
    def hook(_module, _inputs, output):
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    return hook


def apply(stack, model, change, vectors):
    """Makes the change in every pass until the stack ends."""
    block, _, place = change["point"].removeprefix("blocks.").partition(".")
    part = Parts(model).blocks[int(block)]
    if place == "attn.hook_attn_scores":
        return mask(stack, part, change)
    edit = edited(change, vectors)
    if place == "attn.hook_z":
        return change_z(stack, part, edit)
    if place == "hook_resid_post":
        handle = part.layer.register_forward_hook(on_output(by_rows(edit)))
    elif place == "hook_mlp_out":
        handle = (part.ln2_post or part.ffn).register_forward_hook(on_output(by_rows(edit)))
    elif place in ("attn.hook_k", "attn.hook_v"):
        module = part.mixer.k_proj if place.endswith("k") else part.mixer.v_proj
        heads = (module.out_features // part.mixer.head_dim, part.mixer.head_dim)
        handle = module.register_forward_hook(on_output(by_rows(edit, *heads)))
    else:
        raise KeyError(f"no way to change {place}")
    stack.callback(handle.remove)


def change_z(stack, part, edit):
    """Changes what attention or the delta rule gives, [1, row, head, d], before it is gated and projected."""
    file = sys.modules[type(part.mixer).__module__]
    if part.kind != "delta":
        forward = file.eager_attention_forward

        def changed(module, *args, **kwargs):
            out, weights = forward(module, *args, **kwargs)
            return (by_rows(edit)(out) if module is part.mixer else out), weights

        return replace(stack, file, "eager_attention_forward", changed)
    # The rule is not told whose it is.
    rule, inside = file.torch_chunk_gated_delta_rule, []

    def changed_rule(*args, **kwargs):
        out, state = rule(*args, **kwargs)
        return (by_rows(edit)(out) if inside else out), state

    replace(stack, file, "torch_chunk_gated_delta_rule", changed_rule)
    stack.callback(part.mixer.register_forward_pre_hook(lambda *_: inside.append(True)).remove)
    stack.callback(part.mixer.register_forward_hook(lambda *_: inside.clear()).remove)
    return None


def mask(stack, part, change):
    """Hides edges of one head of one layer, by the mask; rows that see nothing give nothing."""
    file = sys.modules[type(part.mixer).__module__]
    forward, head = file.eager_attention_forward, change["head"]

    def hidden(module, query, key, value, attention_mask, *args, **kwargs):
        if module is not part.mixer:
            return forward(module, query, key, value, attention_mask, *args, **kwargs)
        seen = attention_mask.expand(-1, query.shape[1], -1, -1).clone()
        least = torch.finfo(seen.dtype).min
        for q, k in change["edges"]:
            seen[:, head, q, k] = least
        out, weights = forward(module, query, key, value, seen, *args, **kwargs)
        blind = (seen[0, head] <= least / 2).all(-1)
        out[0, blind, head] = 0.0
        weights[0, head, blind] = 0.0
        return out, weights

    replace(stack, file, "eager_attention_forward", hidden)


@torch.no_grad()
def run(model, tokens, changes, vectors):
    """The logits and a trace of a pass with these changes."""
    with ExitStack() as stack:
        for change in changes:
            apply(stack, model, change, vectors)
        with routing.watch(model) as choices:
            tensors, _ = trace.record_trace(model, tokens)
    if choices.smallest < routing.GAP:
        raise Unclear(f"a choice of experts hangs on {choices.smallest}")
    return tensors


def check(plain, tensors, changes, vectors):
    """The changed points are as they were to become, and what comes before the first of them is as it was."""
    names, points = list(plain), [change["point"] for change in changes]
    first = min(names.index(point) for point in points)
    for name in names[:first]:
        assert torch.equal(plain[name], tensors[name]), f"{name} changed before anything was to change"
    for change in changes:
        point, found = change["point"], tensors[change["point"]]
        if change["op"] == "mask":
            assert all(found[change["head"], q, k] == float("-inf") for q, k in change["edges"])
            pattern, z = (tensors[point.replace("attn_scores", which)] for which in ("pattern", "z"))
            blind = found[change["head"]].isinf().all(-1)
            assert not pattern[change["head"], blind].any() and not z[blind, change["head"]].any()
        elif len(changes) == 1:
            assert torch.equal(found, edited(change, vectors)(plain[point])), f"{point} is not what it was to become"
    assert not torch.allclose(plain["logits"], tensors["logits"], atol=1e-3), "the change does not show"


def changes_of(case, parts, plain, other, other_tokens, vectors):
    """The entries of a checkpoint: names and changes."""
    generator = torch.Generator().manual_seed(7)
    last = len(parts.blocks) - 1
    middle = min(1, last - 1)  # a block with another one behind it
    attention = next(i for i, block in enumerate(parts.blocks) if block.kind in ("attention", "latent"))
    stream, fed = f"blocks.{middle}.hook_resid_post", f"blocks.{middle}.hook_mlp_out"
    scores, z = f"blocks.{attention}.attn.hook_attn_scores", f"blocks.{attention}.attn.hook_z"
    hidden = plain[stream].shape[1]
    head = plain[z].shape[1] - 1

    def vector(name, value):
        vectors[f"{case}.{name}"] = value.clone()
        return f"{case}.{name}"

    def source(point, **more):
        return {"tokens": other_tokens, "point": point} | more

    steer = {"point": stream, "op": "add", "positions": [3, 4, 8], "scale": 2.0,
             "vector": vector("steer.0", torch.randn(hidden, generator=generator))}
    knocked = {"point": scores, "op": "mask", "head": 1, "edges": [[6, 2], [8, 0]]}
    entries = {
        "none": [],
        "steer": [steer],
        "zero_head": [{"point": z, "op": "zero", "positions": None, "head": head}],
        "zero_head_at": [{"point": z, "op": "zero", "positions": [5, 8], "head": 0}],
        "patch": [{"point": stream, "op": "set", "positions": [5], "vector": vector("patch.0", other[stream][6]),
                   "source": source(stream, position=6)}],
        "edge": [knocked],
        "row": [{"point": scores, "op": "mask", "head": head, "edges": [[7, k] for k in range(8)]}],
        "half_mlp": [{"point": fed, "op": "scale", "positions": None, "scale": 0.5}],
        "mean_mlp": [{"point": fed, "op": "set", "positions": None, "vector": vector("mean_mlp.0", other[fed].mean(0)),
                      "source": source(fed, mean=True)}],
        "several": [knocked, {"point": fed, "op": "scale", "positions": [2, 3], "scale": 0.0}, steer],
    }
    if parts.blocks[0].kind == "delta":
        entries["zero_rule_head"] = [{"point": "blocks.0.attn.hook_z", "op": "zero", "positions": [2, 3], "head": 1}]
    if hasattr(parts.blocks[attention].mixer, "k_proj"):
        entries["zero_key"] = [{"point": f"blocks.{attention}.attn.hook_k", "op": "zero", "positions": [1], "head": 0}]
        entries["double_value"] = [
            {"point": f"blocks.{attention}.attn.hook_v", "op": "scale", "positions": [0, 4], "scale": 2.0}]
    return entries


def record(case, vectors):
    """The entries of a checkpoint, over the first tokens that are fit; what they need is put into `vectors`."""
    model = trace.load(TESTDATA / case)
    for seed in range(11, 200, 2):
        own = {}
        try:
            found = record_over(case, model, seed, own)
        except Unclear:
            continue
        vectors |= own
        return found
    raise Unclear(f"no seed for {case}")


def record_over(case, model, seed, vectors):
    vocab = Parts(model).embed.num_embeddings
    tokens, other_tokens = random_tokens(LENGTH, vocab, seed), random_tokens(LENGTH, vocab, seed + 1)
    plain, other = run(model, tokens, [], {}), run(model, other_tokens, [], {})
    found = []
    for name, changes in changes_of(case, Parts(model), plain, other, other_tokens, vectors).items():
        tensors = run(model, tokens, changes, vectors)
        if changes:
            check(plain, tensors, changes, vectors)
        logits = f"{case}.{name}.logits" if changes else f"{case}.logits"
        vectors[logits] = tensors["logits"]
        entry = {"name": f"{case}.{name}", "checkpoint": case, "tokens": tokens, "changes": changes}
        found.append(entry | {"logits": logits})
    return found


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    vectors = {}
    entries = [entry for case in CASES for entry in record(case, vectors)]
    checkpoints.write_json(TESTDATA / "interventions.json", entries)
    trace_file.save(TESTDATA / "interventions.safetensors", vectors, {"format": "pt"})
    size = sum((TESTDATA / f"interventions.{kind}").stat().st_size for kind in ("json", "safetensors"))
    print(f"{len(entries)} entries, {size // 1024} KiB")


if __name__ == "__main__":
    main()
