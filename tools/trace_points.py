"""The points of docs/hooks.md, out of what was seen of a forward pass: the residual stream, norms and the ends.

`every` gives them in the order in which they are computed, each as a function
that makes the tensor, with a row for every position.
trace_mixers.py and trace_ffn.py have those inside of mixers and feed-forwards.
"""

import torch

import trace_ffn
import trace_mixers
from trace_parts import Unknown, eps, is_layer_norm


class Points:
    """A list of points that is being written."""

    def __init__(self, rows):
        self.rows = rows
        self.found = {}  # name -> a function that gives the tensor
        self.missing = {}  # name or pattern -> reason

    def put(self, name, value):
        self.found[name] = value if callable(value) else lambda: value

    def flat(self, name, value):
        """A tensor with one vector for each row."""
        self.put(name, value.reshape(self.rows, -1))

    def section(self, name, write, *args):
        """Calls `write(*args)`; what it cannot find is missing under `name`."""
        try:
            write(*args)
        except Unknown as reason:
            self.missing[name] = str(reason)


def norm(points, name, module, watch, out=True):
    """What a norm divides by, and what comes of it. Computed from the norm's input and its eps: no module has them."""
    x = watch.took[module][0].float().reshape(points.rows, -1)
    x = x - x.mean(-1, keepdim=True) if is_layer_norm(module) else x
    scale = (x.pow(2).mean(-1, keepdim=True) + eps(module)).sqrt()
    points.put(f"{name}.hook_scale", scale)
    points.put(f"{name}.hook_normalized", x / scale)
    if out:
        points.flat(f"{name}.hook_out", watch.gave[module])


def block(points, name, part, watch):
    """One layer."""
    rows, layer = points.rows, part.layer
    pre = watch.took[layer][0]
    points.flat(f"{name}.hook_resid_pre", pre)
    if part.ln1 is not None:
        points.section(f"{name}.ln1.*", norm, points, f"{name}.ln1", part.ln1, watch)
    points.section(f"{name}.attn.*", trace_mixers.mixer, points, f"{name}.attn", part, watch)
    fed = watch.took[part.ffn if part.ln2 is None else part.ln2][0].reshape(rows, -1)
    # Side by side, the feed-forward starts from what the block or the mixer started from.
    starts = [pre] + ([watch.gave[part.ln1]] if part.ln1 is not None else [])
    side_by_side = any(torch.equal(fed, start.reshape(rows, -1)) for start in starts)
    mixed = after(points, f"{name}.attn", f"{name}.ln1_post", part.mixer, part.ln1_post, part, watch)
    if not side_by_side:
        points.flat(f"{name}.hook_attn_out", mixed)
        points.put(f"{name}.hook_resid_mid", fed)
    if part.ln2 is not None:
        points.section(f"{name}.ln2.*", norm, points, f"{name}.ln2", part.ln2, watch)
    if side_by_side:
        points.flat(f"{name}.hook_attn_out", mixed)
    points.section(f"{name}.mlp.*", trace_ffn.ffn, points, f"{name}.mlp", part, watch)
    out = after(points, f"{name}.mlp", f"{name}.ln2_post", part.ffn, part.ln2_post, part, watch)
    points.flat(f"{name}.hook_mlp_out", out)
    points.flat(f"{name}.hook_resid_post", watch.gave[layer])


def after(points, name, norm_name, module, post, part, watch):
    """What is added to the residual stream of a mixer's or feed-forward's output."""
    out = watch.gave[module]
    if post is not None or part.factored:
        points.flat(f"{name}.hook_out", out)
    if post is not None:
        points.section(f"{norm_name}.*", norm, points, norm_name, post, watch, False)
        out = watch.gave[post]
    return out if part.factor is None else out * part.factor


def every(parts, watch, rows, logits):
    """All points of the pass."""
    points = Points(rows)
    start = watch.took[parts.blocks[0].layer][0]
    if parts.positions is None:
        # What the first block starts from: some models scale the rows outside of any module.
        points.flat("hook_embed", start)
    else:
        points.flat("hook_embed", watch.gave[parts.embed])
        points.flat("hook_pos_embed", watch.gave[parts.positions])
    for i, part in enumerate(parts.blocks):
        block(points, f"blocks.{i}", part, watch)
    points.section("ln_final.*", norm, points, "ln_final", parts.norm, watch)
    points.flat("logits", logits)
    return points
