"""Faults to plant in a transformers model: mistakes that ports of models make, to see whether they are found.

    with planted(model, "wrong_soft_cap"):
        ...                                  the model computes with the fault; afterwards it is as before

`python tools/faults.py` lists them with what they are. `tools/make_traces.py` records one trace of each.
"""

import copy
import sys
from contextlib import ExitStack, contextmanager

import torch
from torch.nn import functional

from trace_parts import Parts, pick
from trace_watch import replace

FAULTS = {}


class Unfit(Exception):
    """The model has nothing that could have this fault."""


def fault(plant):
    FAULTS[plant.__name__] = plant
    return plant


@contextmanager
def planted(model, name):
    """The model with this fault while the `with` lasts; None is none."""
    with ExitStack() as stack, torch.no_grad():
        if name is not None:
            FAULTS[name](stack, Parts(model))
        yield


def fit(what, condition):
    if not condition:
        raise Unfit(f"the model has no {what}")


def assign(stack, tensor, value):
    """Other numbers in a tensor until the stack ends."""
    before = tensor.detach().clone()
    stack.callback(lambda: tensor.data.copy_(before))
    tensor.data.copy_(value)


def files(parts):
    """The modeling files of the mixers."""
    return {sys.modules[type(block.mixer).__module__] for block in parts.blocks}


def replace_function(stack, parts, name, make):
    """A function of the modeling files replaced by what `make` makes of it."""
    found = [file for file in files(parts) if name in vars(file)]
    fit(f"function {name} in its modeling file", found)
    for file in found:
        replace(stack, file, name, make(vars(file)[name]))


def mixers(parts, what, *names):
    """The mixers that have one of these attributes."""
    found = [block.mixer for block in parts.blocks if pick(block.mixer, *names) is not None]
    fit(what, found)
    return found


def norms(parts):
    of_blocks = [(block.ln1, block.ln1_post, block.ln2, block.ln2_post) for block in parts.blocks]
    return [norm for four in of_blocks for norm in four if norm is not None] + [parts.norm]


def set_frequencies(stack, parts, change):
    found = parts.frequencies()
    fit("rotary frequencies", found)
    stack.callback(parts.ends.fresh)
    for value in found.values():
        assign(stack, value, change(value))


@fault
def zero_inv_freq(stack, parts):
    """The rotary frequencies are zero: a buffer that no checkpoint has was never set."""
    set_frequencies(stack, parts, torch.zeros_like)


@fault
def wrong_rope_theta(stack, parts):
    """The rotation's base is another: its own power of 1.25."""
    set_frequencies(stack, parts, lambda x: x**1.25)


@fault
def wrong_eps(stack, parts):
    """Norms add 0.01 more than they should."""
    found = [(norm, name) for norm in norms(parts) for name in ("variance_epsilon", "eps") if hasattr(norm, name)]
    fit("norm that says its eps", found)
    for norm, name in found:
        replace(stack, norm, name, getattr(norm, name) + 1e-2)


@fault
def missing_qk_norm(stack, parts):
    """Queries and keys are not normalised."""
    names = (("q_norm", "q_layernorm", "query_layernorm"), ("k_norm", "k_layernorm", "key_layernorm"))
    for mixer in mixers(parts, "norms of queries and keys", *names[0]):
        for norm in (pick(mixer, *names[0]), pick(mixer, *names[1])):
            replace(stack, norm, "forward", lambda x: x)


@fault
def norm_plus_one(stack, parts):
    """Norms multiply by their weight and one, as Gemma's do, where weights lie around one."""
    found = [norm for norm in norms(parts) if getattr(norm, "weight", None) is not None]
    fit("norm with a weight", found)
    for norm in found:
        assign(stack, norm.weight, norm.weight + 1)


@fault
def wrong_head_mapping(stack, parts):
    """Query head h takes key head h mod n instead of h div group."""
    config = parts.model.config.get_text_config()
    fit("groups of query heads", 1 < config.num_key_value_heads < config.num_attention_heads)
    replace_function(stack, parts, "repeat_kv", lambda _: lambda x, n: x.repeat(1, n, 1, 1))


@fault
def window_off_by_one(stack, parts):
    """The sliding window is one position longer."""
    fit("sliding window", getattr(parts.model.config.get_text_config(), "sliding_window", None) is not None)

    def make(create):
        def longer(config, **kwargs):
            config = copy.deepcopy(config)
            config.sliding_window += 1
            return create(config=config, **kwargs)

        return longer

    replace_function(stack, parts, "create_sliding_window_causal_mask", make)


@fault
def interleaved_rope(stack, parts):
    """Neighbouring elements turn together instead of those half a head apart."""

    def turn(x, cos, sin):
        turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        half = torch.stack((-turned[..., 1::2], turned[..., 0::2]), dim=-1).flatten(-2)
        return torch.cat((turned * cos + half * sin, rest), dim=-1)

    def make(_):
        def rotate(q, k, cos, sin, unsqueeze_dim=1):
            cos, sin = (x[..., : x.shape[-1] // 2].repeat_interleave(2, dim=-1).unsqueeze(1) for x in (cos, sin))
            return turn(q, cos, sin), turn(k, cos, sin)

        return rotate

    replace_function(stack, parts, "apply_rotary_pos_emb", make)


@fault
def wrong_partial_rotary(stack, parts):
    """The last elements of a head turn instead of the first."""

    def ends_first(x, width):
        return torch.cat((x[..., -width:], x[..., :-width]), dim=-1)

    def make(rotate):
        def other(q, k, cos, sin, **kwargs):
            width = cos.shape[-1]
            fit("rotation of a part of each head", width < q.shape[-1])
            q, k = rotate(ends_first(q, width), ends_first(k, width), cos, sin, **kwargs)
            return ends_first(q, q.shape[-1] - width), ends_first(k, k.shape[-1] - width)

        return other

    replace_function(stack, parts, "apply_rotary_pos_emb", make)


@fault
def dropped_bias(stack, parts):
    """The queries' bias is forgotten."""
    found = [block.mixer.q_proj.bias for block in parts.blocks if pick(block.mixer, "q_proj") is not None]
    fit("bias of queries", any(bias is not None for bias in found))
    for bias in found:
        if bias is not None:
            assign(stack, bias, torch.zeros_like(bias))


@fault
def wrong_soft_cap(stack, parts):
    """Scores are capped at half of what they should be."""
    for mixer in mixers(parts, "soft cap of scores", "attn_logit_softcapping"):
        replace(stack, mixer, "attn_logit_softcapping", mixer.attn_logit_softcapping / 2)


@fault
def unscaled_attention(stack, parts):
    """Scores are not divided by the root of the size of heads."""
    for mixer in mixers(parts, "factor of scores", "scaling"):
        replace(stack, mixer, "scaling", 1.0)


@fault
def missing_sink(stack, parts):
    """The softmax has no sink."""
    for mixer in mixers(parts, "sinks", "sinks"):
        assign(stack, mixer.sinks, torch.full_like(mixer.sinks, -1e9))


@fault
def tanh_gelu(stack, parts):
    """GELU by its approximation with tanh, where it is the exact one."""
    acts = [pick(block.ffn, "act", "act_fn", "activation_fn") for block in parts.blocks]
    acts = [act for act in acts if type(act).__name__ in ("GELUActivation", "GELU")]
    fit("exact GELU", acts)
    for act in acts:
        replace(stack, act, "forward", lambda x: functional.gelu(x, approximate="tanh"))


@fault
def swapped_gate_and_up(stack, parts):
    """The gate and what it is multiplied with have changed places."""
    found = [block.ffn for block in parts.blocks if pick(block.ffn, "gate_proj") is not None]
    fit("feed-forward with a gate of its own", found)
    for ffn in found:
        gate, up = ffn.gate_proj.forward, ffn.up_proj.forward
        replace(stack, ffn.gate_proj, "forward", up)
        replace(stack, ffn.up_proj, "forward", gate)


@fault
def renormalised_router(stack, parts):
    """Weights of the chosen experts are divided by their sum, where they should not be."""
    found = [block.router for block in parts.blocks if getattr(block.router, "norm_topk_prob", True) is False]
    fit("router that does not divide weights by their sum", found)
    for router in found:
        replace(stack, router, "norm_topk_prob", True)


@fault
def choice_without_bias(stack, parts):
    """Experts are chosen without the bias of the choice."""
    found = [bias for block in parts.blocks for bias in [
        pick(block.router, "e_score_correction_bias"), pick(block.ffn, "e_score_correction_bias")] if bias is not None]
    fit("bias of the choice of experts", found)
    for bias in found:
        assign(stack, bias, torch.zeros_like(bias))


@fault
def transposed_expert(stack, parts):
    """The last projection of expert 0 of the first mixture was read with its axes the other way round."""
    found = [block.experts for block in parts.blocks if block.experts is not None]
    fit("experts", found)
    weight = found[0].down_proj[0]
    assign(stack, weight, weight.reshape(weight.shape[::-1]).T.clone())


@fault
def missing_shared_gate(stack, parts):
    """The shared expert's output is not multiplied by its gate."""
    gates = [pick(block.ffn, "shared_expert_gate") for block in parts.blocks]
    found = [gate for gate in gates if gate is not None]
    fit("gate of a shared expert", found)
    for gate in found:
        replace(stack, gate, "forward", lambda x: torch.full_like(x[..., :1], 1e4))  # whose sigmoid is 1


@fault
def reversed_convolution(stack, parts):
    """The taps of the convolution before the delta rule are in the other order."""
    for mixer in mixers(parts, "convolution before a delta rule", "conv1d"):
        assign(stack, mixer.conv1d.weight, mixer.conv1d.weight.flip(-1))


@fault
def forgotten_decay_bias(stack, parts):
    """The delta rule's decay lacks its bias."""
    for mixer in mixers(parts, "decay", "dt_bias"):
        assign(stack, mixer.dt_bias, torch.zeros_like(mixer.dt_bias))


@fault
def missing_embedding_scale(stack, parts):
    """Rows of the embedding table are not multiplied by anything."""
    base, scale = parts.ends.base, pick(parts.embed, "embed_scale")
    fit("factor of embeddings", scale is not None or hasattr(base, "embedding_multiplier"))
    if scale is not None:
        assign(stack, scale, torch.ones_like(scale))
    else:
        replace(stack, base, "embedding_multiplier", 1.0)


@fault
def positions_from_one(stack, parts):
    """Learned positions are counted from 1."""
    fit("learned positions", parts.positions is not None)
    forward = parts.positions.forward
    replace(stack, parts.positions, "forward", lambda ids: forward(ids + 1))


@fault
def missing_residual_multiplier(stack, parts):
    """What is added to the residual stream is not multiplied by its factor."""
    found = [block.layer for block in parts.blocks if block.factored]
    fit("factor of what is added to the residual stream", found)
    for layer in found:
        replace(stack, layer, "residual_multiplier", 1.0)


@fault
def untied_head(stack, parts):
    """The head is not quite the matrix that it should be: an embedding that was trained on, or one of another model."""
    head = parts.model.lm_head
    noise = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(1)).to(head.weight.dtype)
    other = head.weight + 0.05 * head.weight.float().std().to(head.weight.dtype) * noise
    replace(stack, head, "forward", lambda x: functional.linear(x, other, head.bias))


@fault
def missing_final_soft_cap(stack, parts):
    """Logits are not capped."""
    config = parts.model.config
    fit("soft cap of logits", getattr(config, "final_logit_softcapping", None) is not None)
    replace(stack, config, "final_logit_softcapping", None)


if __name__ == "__main__":
    for name, plant in FAULTS.items():
        print(f"{name}: {plant.__doc__}")
