"""The points inside of feed-forwards: with a gate, without one, and mixtures of experts."""

import torch

from trace_parts import Unknown, pick


def ffn(points, name, part, watch):
    if part.experts is None:
        dense(points, name, part.ffn, watch)
    else:
        experts(points, name, part, watch)


def dense(points, name, module, watch):
    """Before the non-linearity, what it is multiplied with, and after."""
    gate, up = pick(module, "gate_proj", "w1"), pick(module, "up_proj", "w3", "fc1", "c_fc", "dense_h_to_4h")
    down = pick(module, "down_proj", "w2", "fc2", "c_proj", "dense_4h_to_h")
    if (fused := pick(module, "gate_up_proj")) is not None:
        pre, linear = watch.gave[fused].chunk(2, dim=-1)
    elif gate is not None and up is not None:
        pre, linear = watch.gave[gate], watch.gave[up]
    elif up is not None:
        pre, linear = watch.gave[up], None
    else:
        raise Unknown(f"{type(module).__name__} has no projections under known names")
    if down is None:
        raise Unknown(f"{type(module).__name__} has no last projection under a known name")
    points.flat(f"{name}.hook_pre", pre)
    if linear is not None:
        points.flat(f"{name}.hook_pre_linear", linear)
    points.flat(f"{name}.hook_post", watch.took[down][0])


def experts(points, name, part, watch):
    rows = points.rows
    logits = watch.gave[part.router].reshape(rows, -1)
    points.put(f"{name}.hook_router_logits", logits)
    scores = every_score(part.router, logits, watch)
    if scores is not None:
        points.put(f"{name}.hook_expert_weights", scores)
    # What the experts were given: indices and weights.
    indices, weights = (x.reshape(rows, -1) for x in watch.took[part.experts][1:3])
    order = best_first(part.router, logits, indices, weights, watch)
    points.put(f"{name}.hook_expert_indices", indices.gather(1, order).int())
    points.put(f"{name}.hook_chosen_weights", weights.gather(1, order))
    if part.shared is None:
        return
    points.flat(f"{name}.hook_experts_out", watch.gave[part.experts])
    points.section(f"{name}.shared.*", dense, points, f"{name}.shared", part.shared, watch)
    out = watch.gave[part.shared].reshape(rows, -1)
    gate = pick(part.ffn, "shared_expert_gate")
    if gate is not None:
        out = torch.sigmoid(watch.gave[gate].reshape(rows, 1)) * out
    points.put(f"{name}.hook_shared_out", out)


def every_score(router, logits, watch):
    """The softmax or sigmoid that the router called on all its logits, if it did.

    Phi-MoE's goes over those near the best.
    """
    if type(router).__name__ == "PhimoeTopKRouter":
        return None
    for call in watch.called(router, "softmax", "sigmoid"):
        if call.args[0].shape == logits.shape and torch.equal(call.args[0].float(), logits.float()):
            return call.result
    return None


def best_first(router, logits, indices, weights, watch):
    """The order of the chosen experts by what they were chosen by: torch's topk is asked for none in some routers."""
    by = weights
    bias = pick(router, "e_score_correction_bias")
    if bias is None and len(watch.took[router]) > 1:
        bias = watch.took[router][1]
    if bias is not None:
        by = (every_score(router, logits, watch) + bias).gather(1, indices)
    elif type(router).__name__ == "PhimoeTopKRouter":
        return torch.arange(indices.shape[1]).expand_as(indices)  # the first choice, then the second
    return by.sort(dim=1, descending=True, stable=True).indices
