"""Whether a trace agrees with itself: what one point says must follow from what others say.

    python tools/trace_check.py [CASE...]     records checkpoints of testdata/ (all that are not quantised) and looks

`complaints(tensors, metadata)` needs the trace alone, whoever recorded it. The
command also holds the residual stream and the logits against what
reference.safetensors has of them.
"""

import argparse
import json
import sys

import torch
from torch.nn import functional

TOLERANCE = 2e-5  # of the largest number in what is compared; reduced numbers get more
# Non-linearities that feed-forwards have; Apertus has one with parameters.
ACTIVATIONS = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "tanh gelu": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "relu squared": lambda x: functional.relu(x).square(),
}


class Check:
    """A trace, and what is wrong with it."""

    def __init__(self, tensors, metadata):
        self.tensors = tensors
        self.tolerance = TOLERANCE if metadata["dtype"] == "float32" else 5e-2
        self.model_type = metadata["model_type"]
        positions = json.loads(metadata["positions"])
        self.first = positions[0] == 0  # whether the first row is that of position 0
        self.whole = positions == list(range(len(positions)))
        self.complaints = []

    def __getitem__(self, name):
        return self.tensors.get(name)

    def same(self, what, found, expected):
        if found is None or expected is None:
            return
        if found.shape != expected.shape:
            self.complaints.append(f"{what}: shapes {tuple(found.shape)} and {tuple(expected.shape)}")
            return
        both = found.isfinite() & expected.isfinite()
        difference = (found - expected)[both].abs().max() if bool(both.any()) else torch.tensor(0.0)
        allowed = self.tolerance * max(1.0, float(expected[both].abs().max()) if bool(both.any()) else 1.0)
        if not torch.equal(found.isfinite(), expected.isfinite()) or float(difference) > allowed:
            self.complaints.append(f"{what}: differs by {float(difference):.3g}")


def complaints(tensors, metadata):
    """What is wrong, in words; an empty list if nothing is."""
    check = Check(tensors, metadata)
    layers = 1 + max((int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")), default=-1)
    stream = check["hook_embed"]
    if stream is not None and check["hook_pos_embed"] is not None:
        stream = stream + check["hook_pos_embed"]
    for i in range(layers):
        name = f"blocks.{i}"
        check.same(f"{name}.hook_resid_pre", check[f"{name}.hook_resid_pre"], stream)
        block(check, name)
        stream = check[f"{name}.hook_resid_post"]
    norm(check, "ln_final", stream)
    for name, tensor in tensors.items():
        if tensor.isnan().any() or tensor.isinf().any() and not name.endswith("hook_attn_scores"):
            check.complaints.append(f"{name}: not finite")
    return check.complaints


def block(check, name):
    pre, mid = check[f"{name}.hook_resid_pre"], check[f"{name}.hook_resid_mid"]
    mixed, fed = check[f"{name}.hook_attn_out"], check[f"{name}.hook_mlp_out"]
    if pre is None or mixed is None or fed is None:
        return
    check.same(f"{name}.hook_resid_mid", mid, pre + mixed)
    check.same(f"{name}.hook_resid_post", check[f"{name}.hook_resid_post"], pre + mixed + fed)
    norm(check, f"{name}.ln1", pre)
    norm(check, f"{name}.ln2", pre if mid is None else mid)
    norm(check, f"{name}.ln1_post", check[f"{name}.attn.hook_out"])
    norm(check, f"{name}.ln2_post", check[f"{name}.mlp.hook_out"])
    attention(check, f"{name}.attn")
    delta(check, f"{name}.attn")
    out = check[f"{name}.attn.hook_out"]
    out = mixed if out is None else out
    if (result := check[f"{name}.attn.hook_result"]) is not None:
        bias = out - result.sum(1)
        check.same(f"{name}.attn.hook_result", bias, bias.mean(0).expand_as(bias))
    feed_forward(check, f"{name}.mlp")
    if (of_experts := check[f"{name}.mlp.hook_experts_out"]) is not None:
        out = check[f"{name}.mlp.hook_out"]
        check.same(f"{name}.mlp.hook_shared_out", of_experts + check[f"{name}.mlp.hook_shared_out"],
                   fed if out is None else out)


def norm(check, name, x):
    scale, normalized = check[f"{name}.hook_scale"], check[f"{name}.hook_normalized"]
    if scale is None or normalized is None or x is None:
        return
    again = normalized * scale
    centred = x - x.mean(-1, keepdim=True)
    closer = min((x, centred), key=lambda y: float((again - y).abs().max()))
    check.same(f"{name}.hook_normalized", again, closer)
    if bool((scale.square() < closer.square().mean(-1, keepdim=True) * (1 - 1e-5)).any()):
        check.complaints.append(f"{name}.hook_scale: less than the root of the mean of squares")
    out = check[f"{name}.hook_out"]
    if out is not None and out.shape[0] > 2:  # one weight and one bias for all rows
        line = torch.stack([normalized, torch.ones_like(normalized)], -1).transpose(0, 1)
        fit = torch.linalg.lstsq(line.double(), out.T[..., None].double(), driver="gelsd").solution
        check.same(f"{name}.hook_out", (line.double() @ fit)[..., 0].T.float(), out)


def attention(check, name):
    scores, weights = check[f"{name}.hook_attn_scores"], check[f"{name}.hook_pattern"]
    if scores is None or weights is None:
        return
    # With a sink the sum of a row is less than 1.
    total = weights.sum(-1, keepdim=True)
    if float(total.max()) > 1 + check.tolerance * 10:
        check.complaints.append(f"{name}.hook_pattern: a row's sum is more than 1")
    check.same(f"{name}.hook_pattern", weights, scores.softmax(-1) * total)
    rotation(check, name)
    q = first(check, name, "hook_q_normed" if after(check, name) else "hook_rot_q", "hook_q_normed", "hook_q")
    k = first(check, name, "hook_k_normed" if after(check, name) else "hook_rot_k", "hook_k_normed", "hook_k")
    v = first(check, name, "hook_v_clipped", "hook_v")
    z = check[f"{name}.hook_z"]
    if not check.whole or k is None or v is None:
        return
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    check.same(f"{name}.hook_z", torch.einsum("hqk,khd->qhd", weights, v), z)
    products = torch.einsum("qhd,khd->hqk", q, k)
    seen = scores.isfinite()
    a, b = products[seen].double(), scores[seen].double()
    line = float((a @ b) / (a @ a))
    if check.model_type != "gemma2":  # whose scores are capped
        check.same(f"{name}.hook_attn_scores", (a * line).float(), b.float())
    if (gate := check[f"{name}.hook_gate"]) is not None:
        check.same(f"{name}.hook_z_gated", z * gate.sigmoid(), check[f"{name}.hook_z_gated"])


def after(check, name):
    """Whether the norms of queries and keys come after the rotation: their order in the trace says it."""
    names = list(check.tensors)
    both = [f"{name}.hook_rot_q", f"{name}.hook_q_normed"]
    return all(point in names for point in both) and names.index(both[0]) < names.index(both[1])


def first(check, name, *points):
    return next((check[f"{name}.{point}"] for point in points if check[f"{name}.{point}"] is not None), None)


def rotation(check, name):
    """At position 0 nothing turns, though what turns elsewhere may be multiplied by a factor."""
    for which in "qk":
        turned = check[f"{name}.hook_rot_{which}"]
        before = first(check, name, *(() if after(check, name) else (f"hook_{which}_normed",)), f"hook_{which}")
        if which == "k" and before is None and check[f"{name}.hook_kv_low"] is not None:
            before = check[f"{name}.hook_kv_low"][:, None]
        if turned is None or before is None or not check.first:
            continue
        turned, before = turned[0], before[0][..., -turned.shape[-1] :]
        factor = turned / before
        of = factor[before.abs() > 1e-2]
        near_one, scaled = (of - 1).abs() < 1e-3, (of - of.median()).abs() < 1e-3
        if check.tolerance == TOLERANCE and not bool((near_one | scaled).all()):
            check.complaints.append(f"{name}.hook_rot_{which}: position 0 was turned")


def delta(check, name):
    """The state follows from the one before, and what is read from the state."""
    states, conv, z = (check[f"{name}.{point}"] for point in ("hook_state", "hook_conv", "hook_z"))
    if states is None or conv is None or not check.whole:
        return
    decay, beta = check[f"{name}.hook_decay"].exp(), check[f"{name}.hook_beta"]
    _, v_heads, k_dim, v_dim = states.shape
    k_width = (conv.shape[1] - v_heads * v_dim) // 2
    q, k, v = conv.split([k_width, k_width, v_heads * v_dim], dim=-1)
    q, k = (unit(x.reshape(x.shape[0], -1, k_dim)) for x in (q, k))
    q, k = (x.repeat_interleave(v_heads // x.shape[1], dim=1) for x in (q, k))
    v = v.reshape(v.shape[0], v_heads, v_dim)
    state = torch.zeros_like(states[0])
    for t in range(states.shape[0]):
        state = state * decay[t, :, None, None]
        written = (v[t] - torch.einsum("hkv,hk->hv", state, k[t])) * beta[t, :, None]
        state = state + torch.einsum("hk,hv->hkv", k[t], written)
        check.same(f"{name}.hook_state, row {t}", states[t], state)
    check.same(f"{name}.hook_z", z, torch.einsum("nhkv,nhk->nhv", states, q) / k_dim**0.5)
    gated, gate = check[f"{name}.hook_z_gated"], functional.silu(check[f"{name}.hook_gate"])
    if gated is not None:
        plain = (z * (z.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * gate).reshape(-1, v_dim).double()
        weight = (plain * gated.reshape(-1, v_dim)).sum(0) / plain.square().sum(0)
        # The norm's eps is not in the trace: where little was read it shows.
        loud = (z.square().mean(-1) > 1e-2).reshape(-1)
        check.same(f"{name}.hook_z_gated", (plain * weight).float()[loud], gated.reshape(-1, v_dim)[loud])


def unit(x):
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


def feed_forward(check, name):
    for inner in (name, f"{name}.shared"):
        pre, linear, post = (check[f"{inner}.{point}"] for point in ("hook_pre", "hook_pre_linear", "hook_post"))
        if pre is None or post is None or check.model_type == "apertus":
            continue
        linear = torch.ones_like(pre) if linear is None else linear
        closest = min((act(pre) * linear for act in ACTIVATIONS.values()), key=lambda x: float((x - post).abs().max()))
        check.same(f"{inner}.hook_post", closest, post)
    scores, chosen = check[f"{name}.hook_expert_weights"], check[f"{name}.hook_chosen_weights"]
    if scores is not None and chosen is not None:
        logits = check[f"{name}.hook_router_logits"]
        ways = (logits.softmax(-1), logits.sigmoid())
        closest = min(ways, key=lambda x: float((x - scores).abs().max()))
        check.same(f"{name}.hook_expert_weights", closest, scores)
        at = scores.gather(1, check[f"{name}.hook_expert_indices"].long())
        # Divided by their sum or not, times a factor or not: one number for each row.
        check.same(f"{name}.hook_chosen_weights", at / at.sum(1, keepdim=True), chosen / chosen.sum(1, keepdim=True))


def main():
    import safetensors.torch
    import transformers

    import trace
    from reference import TESTDATA

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE")
    cases = parser.parse_args().cases or sorted(
        path.parent.name for path in TESTDATA.glob("*/reference.json") if not path.parent.name.startswith("quant_")
    )
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    failed = 0
    for case in cases:
        known = safetensors.torch.load_file(TESTDATA / case / "reference.safetensors")
        prompt = next((name.split(".")[0] for name in known if name.endswith(".final_hidden")), "p0")
        tokens = known[f"{prompt}.tokens"].tolist()[:64]
        tensors, metadata = trace.record_trace(trace.load(TESTDATA / case), tokens, folder=TESTDATA / case)
        wrong = complaints(tensors, metadata) + list(json.loads(metadata.get("missing", "{}")))
        pairs = {"final_hidden": "ln_final.hook_out", "logits": "logits"}
        pairs |= {f"hidden.{i}": f"blocks.{i}.hook_resid_post" for i in range(100)}
        for theirs, ours in pairs.items():
            theirs = known.get(f"{prompt}.{theirs}")
            whole = len(known[f"{prompt}.tokens"]) == len(tokens)
            if theirs is not None and whole and float((theirs - tensors[ours]).abs().max()) > 1e-5:
                wrong.append(f"{ours}: not what reference.safetensors has")
        print(f"{case}: {len(tensors)} points of {len(tokens)} rows", *wrong, sep="\n  ")
        failed += bool(wrong)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
