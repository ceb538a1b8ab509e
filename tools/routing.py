"""How clear the choice of experts is: the smallest lead of a chosen one over one left out, on every recorded row."""

from contextlib import contextmanager

import torch

GAP = 1e-4


class Choices:
    def __init__(self):
        self.rows = 0
        self.smallest = float("inf")

    def see(self, gaps):
        self.rows += gaps.numel()
        self.smallest = min(self.smallest, float(gaps.min()))


def lead(scores, k):
    """Of the k-th over the next, for each row."""
    best = scores.topk(min(k + 1, scores.shape[-1]), dim=-1).values
    return best[:, k - 1] - best[:, k] if best.shape[-1] > k else torch.full(scores.shape[:1], float("inf"))


def grouped(scores, groups, kept, score):
    """The leads among groups, and the scores of experts in the groups that are kept."""
    by_group = scores.view(scores.shape[0], groups, -1)
    of_group = score(by_group)
    chosen = of_group.topk(kept, dim=-1).indices
    mask = torch.zeros_like(of_group, dtype=torch.bool).scatter_(1, chosen, True)
    return lead(of_group, kept), by_group.masked_fill(~mask[..., None], -1.0).view_as(scores)


def sparsemixer_leads(scores, noise):
    """The leads of the two chosen, and the distances of all others from the threshold of being left out."""
    first = scores.max(dim=-1, keepdim=True)
    rest = scores.scatter(1, first.indices, float("-inf"))
    second = rest.max(dim=-1, keepdim=True).values
    leads = torch.minimum(lead(scores, 1), lead(rest, 1))
    for best, masked in ((first.values, scores), (second, rest)):
        distance = ((best - scores) / scores.abs().clamp(min=best) - 2 * noise).abs()
        leads = torch.minimum(leads, distance.masked_fill(masked.isinf(), float("inf")).min(dim=-1).values)
    return leads


def leads(router, inputs, logits):
    """The leads behind a router's choice, one for each row."""
    kind = type(router).__name__
    logits = logits.reshape(-1, logits.shape[-1]).float()
    if kind == "PhimoeTopKRouter":
        return sparsemixer_leads(logits, router.router_jitter_noise)
    if kind in ("GraniteMoeTopKRouter", "GptOssTopKRouter"):
        return lead(logits, router.top_k)
    if kind == "MiniMaxM2TopKRouter":
        return lead(logits.sigmoid() + inputs[1], router.top_k)
    if kind in ("DeepseekV3TopkRouter", "Glm4MoeTopkRouter"):
        scores = logits.sigmoid() + router.e_score_correction_bias
        between, scores = grouped(scores, router.num_group, router.topk_group, lambda g: g.topk(2).values.sum(-1))
        return torch.minimum(between, lead(scores, router.top_k))
    scores = logits.softmax(dim=-1)
    if kind == "DeepseekV2TopkRouter" and router.topk_method == "group_limited_greedy":
        between, scores = grouped(scores, router.num_group, router.topk_group, lambda g: g.amax(-1))
        return torch.minimum(between, lead(scores, router.top_k))
    return lead(scores, router.top_k)


@contextmanager
def watch(model):
    """Gathers the leads of every router while the model runs."""
    choices = Choices()
    hooks = [
        module.register_forward_hook(lambda router, inputs, output: choices.see(leads(router, inputs, output[0])))
        for module in model.modules()
        if type(module).__name__.endswith("Router")
    ]
    yield choices
    for hook in hooks:
        hook.remove()
