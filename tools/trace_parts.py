"""The parts of a transformers decoder that a trace names, whatever its family calls them.

trace_watch.py listens to them, trace_points.py and its kin make the points of
docs/hooks.md out of what was heard.
"""

import torch

from families import Parts as Ends


class Unknown(Exception):
    """A model has no such part under any of the names that are known."""


def pick(module, *names):
    """The first of these attributes that the module has, or None."""
    return next((value for name in names if (value := getattr(module, name, None)) is not None), None)


def need(module, *names):
    found = pick(module, *names)
    if found is None:
        raise Unknown(f"{type(module).__name__} has none of {', '.join(names)}")
    return found


class Block:
    """A layer: its norms, its mixer, its feed-forward."""

    def __init__(self, layer, factored):
        self.layer = layer
        self.factored = factored  # whether both outputs are multiplied by something before they are added
        self.mixer = need(layer, "self_attn", "attn", "attention", "self_attention", "linear_attn", "conv")
        self.ffn = need(layer, "mlp", "feed_forward", "block_sparse_moe")
        self.ln1 = pick(layer, "input_layernorm", "ln_1", "attention_layernorm", "operator_norm", "ln_attn")
        # `post_attention_layernorm` comes before the feed-forward; in families that have `post_feedforward_layernorm`,
        # after the mixer.
        after = pick(layer, "post_attention_layernorm")
        self.ln1_post = pick(layer, "post_self_attn_layernorm")
        self.ln2_post = pick(layer, "post_feedforward_layernorm", "post_mlp_layernorm")
        self.ln2 = pick(layer, "pre_feedforward_layernorm", "ln_2", "feedforward_layernorm", "ffn_norm", "ln_mlp")
        if pick(layer, "post_feedforward_layernorm") is not None:
            self.ln1_post = after
        elif self.ln2 is None:
            self.ln2 = after
        self.experts = pick(self.ffn, "experts")
        self.router = pick(self.ffn, "gate", "router") if self.experts is not None else None
        self.shared = pick(self.ffn, "shared_expert", "shared_experts") if self.experts is not None else None

    @property
    def kind(self):
        """Of the mixer: attention, latent, delta or conv."""
        if hasattr(self.mixer, "kv_a_proj_with_mqa"):
            return "latent"
        if hasattr(self.mixer, "A_log"):
            return "delta"
        return "conv" if hasattr(self.mixer, "conv") else "attention"

    @property
    def output(self):
        """The mixer's last projection."""
        return need(self.mixer, "o_proj", "c_proj", "dense", "out_proj")

    @property
    def factor(self):
        """What they are multiplied by, if the family has such a thing."""
        return getattr(self.layer, "residual_multiplier", None)


class Parts:
    """Of a whole model."""

    def __init__(self, model):
        self.model = model
        try:
            self.ends = Ends(model)
        except StopIteration:
            raise Unknown(f"{type(model).__name__} has no layers and norm under names that are known") from None
        self.embed = need(self.ends.base, "embed_tokens", "wte", "embed_in", "word_embeddings")
        self.positions = pick(self.ends.base, "wpe")
        config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else None
        factored = getattr(config, "residual_multiplier", 1.0) != 1.0
        self.blocks = [Block(layer, factored) for layer in self.ends.layers]
        self.norm = self.ends.norm

    def frequencies(self):
        """Every set of rotary frequencies in the model, by name."""
        found = {name: value for name, value in self.model.named_buffers() if name.endswith("inv_freq")}
        own = getattr(self.ends.base, "inv_freq", None)
        return found | ({"inv_freq": own} if isinstance(own, torch.Tensor) else {})


def is_layer_norm(norm):
    """Whether a norm takes the mean away."""
    return "LayerNorm" in type(norm).__name__


def eps(norm):
    """What a norm adds to the mean of squares."""
    found = pick(norm, "variance_epsilon", "eps")
    if found is None and type(norm).__name__ == "OlmoLayerNorm":
        return 1e-5  # it is written out in its forward
    if found is None:
        raise Unknown(f"{type(norm).__name__} does not say its eps")
    return float(found)


def matrix(linear):
    """The weight of a linear map as float32 [out, in]."""
    weight = linear.weight.detach().float()
    return weight.T if type(linear).__name__ == "Conv1D" else weight
