"""The points inside of mixers: softmax and latent attention, the gated delta rule, short convolutions."""

import sys

import torch

from trace_parts import Unknown, matrix, need, pick

ROTATIONS = ("apply_rotary_pos_emb", "apply_rotary_pos_emb_interleave", "apply_rotary_emb", "rotate")
RULES = ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule")


def mixer(points, name, part, watch):
    write = {"attention": attention, "latent": latent, "delta": delta, "conv": short_conv}[part.kind]
    write(points, name, part, watch)
    if part.kind in ("attention", "latent"):
        results(points, name, part, watch)


def results(points, name, part, watch):
    """What each head adds: the input of the output projection, head by head, times its part of the matrix."""
    projected = watch.took[part.output][0].float().reshape(points.rows, -1)
    n_heads = pattern(part, watch).shape[0]
    z = projected.reshape(points.rows, n_heads, -1)
    weight = matrix(part.output)
    points.put(f"{name}.hook_result", lambda: torch.einsum("nhd,ohd->nho", z, weight.view(-1, *z.shape[1:])))


def attention(points, name, part, watch):
    rows, module = points.rows, part.mixer
    q, k, v, gate = projected(part, watch, rows)
    points.put(f"{name}.hook_q", q)
    points.put(f"{name}.hook_k", k)
    points.put(f"{name}.hook_v", v)
    if gate is not None:
        points.put(f"{name}.hook_gate", gate)
    norms = [pick(module, *names) for names in (
        ("q_norm", "q_layernorm", "query_layernorm"), ("k_norm", "k_layernorm", "key_layernorm"))]
    normed = norms[0] is not None and norms[0] in watch.gave
    clipped = getattr(getattr(module, "config", None), "clip_qkv", None) is not None
    attend = next(iter(watch.called(module, "eager_attention_forward")), None)
    turned = rotated(part, watch, k.shape[1])
    states = list(turned) if turned else None
    if attend is not None and turned is not None and not hasattr(module, "query_layernorm"):
        # The whole heads, where only a part of them went through the rotation.
        states = [by_heads(attend.args[1]), by_heads(attend.args[2])]
    if clipped:
        # Clipping comes last before the rotation, in place.
        before = [by_heads(x) for x in watch.called(module, *ROTATIONS)[0].args[:2]]
    elif normed:
        before = [in_rows(watch.took[norm][0], watch.gave[norm], x) for norm, x in zip(norms, (q, k))]
    after_rotation = hasattr(module, "query_layernorm")
    order = [("rot", states)] if states else []
    if clipped or normed:
        order.insert(len(order) if after_rotation else 0, ("normed", before))
    for what, (of_q, of_k) in order:
        of = ("hook_rot_q", "hook_rot_k") if what == "rot" else ("hook_q_normed", "hook_k_normed")
        points.put(f"{name}.{of[0]}", of_q)
        points.put(f"{name}.{of[1]}", of_k)
        if what == "normed" and clipped:
            points.put(f"{name}.hook_v_clipped", by_heads(attend.args[3]))
    points.put(f"{name}.hook_attn_scores", scores(part, watch))
    points.put(f"{name}.hook_pattern", pattern(part, watch))
    into = watch.took[part.output][0].reshape(rows, q.shape[1], -1)
    points.put(f"{name}.hook_z", into if gate is None else attend.result[0].reshape(into.shape))
    if gate is not None:
        points.put(f"{name}.hook_z_gated", into)


def projected(part, watch, rows):
    """Queries, keys and values [row, heads, d] as they were projected, and the gate if there is one."""
    module = part.mixer
    d = pick(module, "head_dim", "head_size")
    if d is None:
        raise Unknown(f"{type(module).__name__} does not say the size of its heads")
    width = matrix(part.output).shape[1]
    if (fused := pick(module, "query_key_value")) is not None:
        return cut_by_heads(module, watch.gave[fused].reshape(rows, -1), width // d, d)
    if (fused := pick(module, "qkv_proj", "c_attn")) is not None:
        x = watch.gave[fused].reshape(rows, -1)
        kv_width = (x.shape[1] - width) // 2
        q, k, v = x.split([width, kv_width, kv_width], dim=-1)
    else:
        q, k, v = (watch.gave[need(module, which)].reshape(rows, -1) for which in ("q_proj", "k_proj", "v_proj"))
    q, gate = q.view(rows, -1, d), None
    if q.shape[1] == 2 * (width // d):
        q, gate = q.reshape(rows, -1, 2 * d).chunk(2, dim=-1)
    return q, k.reshape(rows, -1, d), v.reshape(rows, -1, d), gate


def cut_by_heads(module, x, n_heads, d):
    """Of one projection whose heads lie side by side: GPT-NeoX, and the three ways of Falcon."""
    rows = x.shape[0]
    if not hasattr(module, "multi_query") or not (module.new_decoder_architecture or module.multi_query):
        q, k, v = x.view(rows, n_heads, 3, d).unbind(2)
        return q, k, v, None
    groups = module.num_kv_heads if module.new_decoder_architecture else 1
    x = x.view(rows, groups, -1, d)
    return x[:, :, :-2].reshape(rows, n_heads, d), x[:, :, -2], x[:, :, -1], None


def by_heads(x):
    """[1, heads, row, d] as [row, heads, d]."""
    return x[0].transpose(0, 1)


def in_rows(took, gave, like):
    """What a norm of heads gave, in the order of rows; it took either them (`like`) or heads in front of rows."""
    if torch.equal(took.reshape(like.shape) if took.numel() == like.numel() else took, like):
        return gave.reshape(like.shape)
    return by_heads(gave)


def rotated(part, watch, n_kv_heads):
    """Queries and keys as the rotation gave them, or None where there is none."""
    calls = watch.called(part.mixer, *ROTATIONS)
    if not calls:
        return None
    if calls[0].name == "rotate":  # of tools/opensci.py: queries, then keys, with rows in front
        return [call.result for call in calls]
    q, k = (by_heads(x) for x in calls[0].result)
    # Falcon hands every query head a copy of its keys.
    return [q, k[:, :: k.shape[1] // n_kv_heads]]


def scores(part, watch):
    """What went into the softmax, [heads, q, k]; −∞ where the mask says so."""
    calls = watch.called(part.mixer, "softmax", "cat")
    at = max((i for i, call in enumerate(calls) if call.name == "softmax"), default=None)
    if at is None:
        raise Unknown(f"{type(part.mixer).__name__} calls no softmax")
    x = calls[at].args[0]
    weights = pattern(part, watch)
    if x.shape[-1] != weights.shape[-1]:
        # With a sink: it was put beside the scores, and the maximum was taken away from both.
        joined = [call for call in calls[:at] if call.name == "cat" and call.result.shape == x.shape]
        if not joined:
            raise Unknown(f"the scores of {type(part.mixer).__name__} are not those in its softmax")
        x = joined[-1].args[0][0]
    x = x.reshape(weights.shape)
    return x.float().masked_fill(x <= torch.finfo(x.dtype).min / 2, float("-inf"))


def pattern(part, watch):
    """The weights that values were multiplied by, [heads, q, k]."""
    given = next((x for x in watch.others[part.mixer] if isinstance(x, torch.Tensor)), None)
    if given is None:  # tools/opensci.py returns the output alone
        calls = watch.called(part.mixer, "softmax")
        if not calls:
            raise Unknown(f"{type(part.mixer).__name__} returns no weights")
        given = calls[-1].result
    return given.reshape(given.shape[-3:])


def latent(points, name, part, watch):
    rows, module = points.rows, part.mixer
    if pick(module, "q_a_proj") is not None:
        points.flat(f"{name}.hook_q_low", watch.gave[module.q_a_proj])
        points.flat(f"{name}.hook_q_low_normed", watch.gave[module.q_a_layernorm])
    weights = pattern(part, watch)
    q = watch.gave[need(module, "q_proj", "q_b_proj")]
    points.put(f"{name}.hook_q", q.reshape(rows, weights.shape[0], -1))
    points.flat(f"{name}.hook_kv_low", watch.gave[module.kv_a_proj_with_mqa])
    call = watch.called(module, *ROTATIONS)[0]
    q, k = (by_heads(x) for x in call.result)
    if call.name == "apply_rotary_pos_emb_interleave":
        # It turns neighbours and lays first ones in front of second ones; every element goes back to its place.
        q, k = (torch.stack(x.chunk(2, dim=-1), dim=-1).flatten(-2) for x in (q, k))
    points.put(f"{name}.hook_rot_q", q)
    points.put(f"{name}.hook_rot_k", k)
    points.flat(f"{name}.hook_latent", watch.gave[module.kv_a_layernorm])
    points.put(f"{name}.hook_attn_scores", scores(part, watch))
    points.put(f"{name}.hook_pattern", weights)
    points.put(f"{name}.hook_z", watch.took[part.output][0].reshape(rows, weights.shape[0], -1))


def delta(points, name, part, watch):
    rows, module = points.rows, part.mixer
    conv, rule = watch.called(module, "causal_conv1d_fn"), watch.called(module, *RULES)
    if not conv or not rule:
        raise Unknown(f"{type(module).__name__} calls no convolution and no delta rule of its file")
    conv, rule = conv[0], rule[0]
    z = rule.result[0][0]
    points.put(f"{name}.hook_mixed", conv.args[0][0].T)
    points.put(f"{name}.hook_gate", watch.took[module.norm][1].reshape(z.shape))
    points.put(f"{name}.hook_conv", conv.result[0].T)
    points.put(f"{name}.hook_decay", rule.kwargs["g"][0])
    points.put(f"{name}.hook_beta", rule.kwargs["beta"][0])
    points.put(f"{name}.hook_state", lambda: states(module, rule, rows))
    points.put(f"{name}.hook_z", z)
    points.put(f"{name}.hook_z_gated", watch.gave[module.norm].reshape(z.shape))


def states(module, rule, rows):
    """The state after each row, by the recurrent form of the rule, from what the model gave its own form."""
    step = getattr(sys.modules[type(module).__module__], "torch_recurrent_gated_delta_rule")
    q, k, v = rule.args[:3]
    state, found = None, []
    for t in range(rows):
        row = slice(t, t + 1)
        _, state = step(
            q[:, row], k[:, row], v[:, row], g=rule.kwargs["g"][:, row], beta=rule.kwargs["beta"][:, row],
            initial_state=state, output_final_state=True, use_qk_l2norm_in_kernel=True,
        )
        found.append(state[0])
    return torch.stack(found)


def short_conv(points, name, part, watch):
    points.flat(f"{name}.hook_mixed", watch.gave[part.mixer.in_proj])
    points.flat(f"{name}.hook_z", watch.took[part.output][0])
