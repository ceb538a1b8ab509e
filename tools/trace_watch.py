"""Listens to one forward pass: what modules took and gave, and what functions of the modeling file were called with.

Nothing is changed: hooks and wrappers pass everything on, and are gone when the
`with` ends. Every tensor is copied when it is seen, since some models go on to
change tensors in place.
"""

import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch.overrides import TorchFunctionMode

from trace_parts import Unknown

# Functions of modeling files that do what no module does.
FUNCTIONS = (
    "apply_rotary_pos_emb", "apply_rotary_pos_emb_interleave", "apply_rotary_emb", "rotate",
    "eager_attention_forward", "torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule", "causal_conv1d_fn",
)
# Functions of torch that are of interest inside mixers and routers.
OF_TORCH = ("softmax", "sigmoid", "cat")


def copied(value):
    """`value` with every tensor in it copied."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, (list, tuple)):
        return tuple(copied(item) for item in value)
    return value


@dataclass
class Call:
    """One call of a function."""

    name: str
    args: tuple
    kwargs: dict
    result: object


class Seen(dict):
    """Module -> what was seen of it."""

    def __missing__(self, module):
        raise Unknown(f"the forward pass does not go through {type(module).__name__}")


class Watch:
    """What was seen."""

    def __init__(self):
        self.took = Seen()  # arguments; `hidden_states` first, however it was given
        self.gave = Seen()  # what was returned, the first of a tuple
        self.others = Seen()  # the rest of a tuple
        self.calls = {}  # mixer or router -> the calls inside, in their order
        self.place = None

    def called(self, module, *names):
        """The calls of these functions inside a mixer or router."""
        return [call for call in self.calls.get(module, ()) if call.name in names]

    def see(self, name, args, kwargs, result):
        if self.place is not None:
            kwargs = {key: copied(value) for key, value in kwargs.items() if isinstance(value, torch.Tensor)}
            self.calls.setdefault(self.place, []).append(Call(name, copied(tuple(args)), kwargs, copied(result)))

    def before(self, module, args, kwargs):
        first = (kwargs["hidden_states"],) if "hidden_states" in kwargs else ()
        self.took[module] = copied(first + tuple(args))

    def after(self, module, args, result):
        first, *rest = result if isinstance(result, tuple) else (result,)
        self.gave[module], self.others[module] = copied(first), copied(rest)


class Torch(TorchFunctionMode):
    """Sees calls of torch's own functions."""

    def __init__(self, watch):
        super().__init__()
        self.watch = watch

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        if name in OF_TORCH and args:
            self.watch.see(name, args, kwargs or {}, result)
        return result


def replace(stack, owner, name, value):
    """Set an attribute until the stack ends."""
    known = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    stack.callback(lambda: setattr(owner, name, before) if known else delattr(owner, name))


def inside(watch, module):
    """The module's forward, with everything that is called in it ascribed to the module."""
    forward = module.forward

    def watched(*args, **kwargs):
        outer, watch.place = watch.place, module
        try:
            with Torch(watch):
                return forward(*args, **kwargs)
        finally:
            watch.place = outer

    return watched


def passing(watch, name, function):
    def watched(*args, **kwargs):
        result = function(*args, **kwargs)
        watch.see(name, args, kwargs, result)
        return result

    return watched


@contextmanager
def watching(parts):
    """Listens to `parts` while the `with` lasts; gives the `Watch`."""
    watch = Watch()
    with ExitStack() as stack:
        modules = [parts.embed, parts.norm] + ([parts.positions] if parts.positions is not None else [])
        files = set()
        for block in parts.blocks:
            norms = [norm for norm in (block.ln1, block.ln1_post, block.ln2, block.ln2_post) if norm is not None]
            modules += [block.layer, *norms, *block.mixer.modules(), *block.ffn.modules()]
            files.add(sys.modules[type(block.mixer).__module__])
            for place in (block.mixer, block.router):
                if place is not None:
                    replace(stack, place, "forward", inside(watch, place))
        for file in files:
            for name in FUNCTIONS:
                if name in vars(file):
                    replace(stack, file, name, passing(watch, name, vars(file)[name]))
        for module in dict.fromkeys(modules):
            stack.callback(module.register_forward_pre_hook(watch.before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(watch.after).remove)
        yield watch
