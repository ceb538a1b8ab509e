"""Makes the checkpoints of the decoder families: weights drawn on the model, saved in the hub's names, recorded.

reference.py calls `make`. transformers converts many checkpoints when it loads
them (experts into one tensor, prefixes) and back when it saves; so the weights
are drawn on the model in memory, saved, put into the spelling of the hub, loaded
again, and the logits must then be the same bits.
"""

import math
import shutil
import tempfile
from pathlib import Path

import safetensors.torch
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import checkpoints
import routing
from continuation import MARGIN, continue_greedily, random_tokens

SEPARATION = 1e-5  # the least difference between neighbours among the eleven likeliest tokens of a recorded row
CACHED = 1e-5  # the largest difference of logits between passes with a cache and one over the whole text
SHORTEST = 12  # the fewest tokens of a greedy continuation that meets an end token


class Unfit(Exception):
    """The seed gives weights on which a comparison would hang on rounding."""


def load(folder):
    """The checkpoint in `folder` as a float32 model with everything eager, nothing missing and nothing left over."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager",
        output_loading_info=True,
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return checked(model)


def checked(model):
    assert model.config._attn_implementation == "eager" and model.dtype == torch.float32
    for name, frequencies in model.named_buffers():
        if name.endswith("inv_freq"):
            assert frequencies.dtype == torch.float32 and bool((frequencies > 0).all()), f"{name} is not set"
    return model.eval()


class Parts:
    """The parts of a decoder that are recorded, whatever the family calls them."""

    def __init__(self, model):
        base = next(getattr(model, name) for name in ("model", "transformer", "gpt_neox") if hasattr(model, name))
        self.base = getattr(base, "language_model", base)
        self.layers = self._first("layers", "h")
        self.norm = self._first("norm", "final_layernorm", "final_layer_norm", "ln_f", "embedding_norm")
        self.rotary = getattr(self.base, "rotary_emb", None)

    def _first(self, *names):
        return next(getattr(self.base, name) for name in names if hasattr(self.base, name))

    def fresh(self):
        """Undo what earlier calls left in the rotary embedding."""
        for name, _ in list(self.rotary.named_buffers()) if self.rotary is not None else ():
            if name.endswith("original_inv_freq"):
                setattr(self.rotary, name.replace("original_", ""), getattr(self.rotary, name).clone())

    def frequencies(self):
        """`inv_freq` of the one rotary embedding, or `inv_freq.TYPE` of every type of layer."""
        found = {}
        for name, value in self.rotary.named_buffers() if self.rotary is not None else ():
            if name.endswith("inv_freq") and "original" not in name:
                kind = name.removesuffix("inv_freq").rstrip("_")
                found["inv_freq" + (f".{kind}" if kind else "")] = value.clone()
        return found

    def describe_rope(self):
        if self.rotary is None:
            return None
        parameters = self.rotary.config.rope_parameters

        def one(parameters, kind, scaling, frequencies):
            scaling = parameters.get("short_mscale", scaling)  # which Phi-MoE takes in its place
            return {
                "rope_type": kind,
                "parameters": dict(parameters),
                "attention_scaling": float(scaling),
                "inv_freq_first": float(frequencies[0]),
                "inv_freq_last": float(frequencies[-1]),
            }

        found = self.frequencies()
        if "inv_freq" in found:
            return one(parameters, self.rotary.rope_type, self.rotary.attention_scaling, found["inv_freq"])
        return {
            kind: one(parameters[kind], self.rotary.rope_type[kind],
                      getattr(self.rotary, f"{kind}_attention_scaling"), found[f"inv_freq.{kind}"])
            for kind in self.rotary.layer_types
        }


@torch.no_grad()
def draw(model, case, seed):
    """Random weights, scaled so that every part of the network shows in the logits, rounded to the type on disk.

    Matrices have standard deviation gain / sqrt(fan in), norm weights lie around
    1 or, where they are zero-centred, around 0, biases are of the order of the
    activations they are added to.
    """
    generator = torch.Generator().manual_seed(seed)
    modules = dict(model.named_modules())
    done = set()
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if tensor.data_ptr() in done:
            continue
        done.add(tensor.data_ptr())
        owner, _, leaf = name.rpartition(".")
        noise = torch.randn(tensor.shape, generator=generator)
        value = drawn(modules[owner], name, tensor, noise, case.gain)
        if not name.endswith(case.wide or ("\0",)):
            value = value.to(checkpoints.DTYPES[case.dtype]).float()
        tensor.copy_(value)


def drawn(module, name, tensor, noise, gain):
    kind, leaf = type(module).__name__, name.rpartition(".")[2]
    if leaf == "A_log":
        return (0.02 + 0.6 * torch.sigmoid(noise)).log()
    if leaf == "eps":
        return tensor.detach().clone()
    if leaf == "beta":
        return 0.5 + 0.1 * noise
    if leaf in ("alpha_p", "alpha_n", "dt_bias"):
        return 0.5 * noise
    if leaf == "e_score_correction_bias":
        return 0.15 * noise
    if leaf == "sinks":
        return noise
    if leaf.endswith("bias"):
        return 0.3 * noise
    if "Norm" in kind:
        centred = "1P" in kind or not bool(tensor.any())
        return (0.0 if centred else 1.0) + 0.2 * noise
    if leaf.endswith("proj") and tensor.dim() == 3 and kind == "GptOssExperts" or kind == "Conv1D":
        return noise * (gain / math.sqrt(tensor.shape[-2]))  # stored input first
    if kind == "Conv1d":
        return noise * (gain / math.sqrt(tensor.shape[1] * tensor.shape[2]))
    if "Router" in kind:
        return noise * (2.0 / math.sqrt(tensor.shape[-1]))
    if name.endswith("wpe.weight"):
        return 0.3 * noise
    return noise * (gain / math.sqrt(tensor.shape[-1]))


def build(config_file, case, seed):
    """The model of config.json with weights of its own."""
    config = AutoConfig.from_pretrained(config_file.parent)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    draw(model, case, seed)
    return checked(model)


def write(folder, case, seed):
    """The checkpoint in the hub's spelling; returns the model it was drawn on."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.write_json(folder / "config.json", case.config)
    model = build(folder / "config.json", case, seed)
    with tempfile.TemporaryDirectory() as there:
        model.save_pretrained(there)
        state = safetensors.torch.load_file(Path(there) / "model.safetensors")
    state = {
        name: (t if name.endswith(case.wide or ("\0",)) else t.to(checkpoints.DTYPES[case.dtype])).contiguous()
        for name, t in state.items()
    }
    if case.stored is not None:
        state = case.stored(state, case.config)
    checkpoints.save_tensors(folder / "model.safetensors", state)
    return model


@torch.no_grad()
def record(model, parts, prompts, hidden_of):
    """As reference.record, for every family, with hidden states for one prompt alone."""
    parts.fresh()
    tensors = dict(parts.frequencies())
    for name, tokens in prompts.items():
        seen = {}
        watched = {"final_hidden": parts.norm} if name == hidden_of else {}
        watched |= {f"hidden.{i}": layer for i, layer in enumerate(parts.layers) if name == hidden_of}

        def hook(key):
            first = lambda output: output[0] if isinstance(output, tuple) else output  # noqa: E731
            return lambda _module, _inputs, output: seen.__setitem__(key, first(output))

        hooks = [module.register_forward_hook(hook(key)) for key, module in watched.items()]
        parts.fresh()
        seen["logits"] = model(torch.tensor([tokens])).logits
        for handle in hooks:
            handle.remove()
        tensors[f"{name}.tokens"] = torch.tensor(tokens, dtype=torch.int32)
        for key, value in seen.items():
            assert bool(value.isfinite().all())
            tensors[f"{name}.{key}"] = value.reshape(len(tokens), -1).contiguous().clone()
        for key, value in parts.frequencies().items():
            if not torch.equal(value, tensors[key]):
                tensors[f"{name}.{key}"] = value
        best = tensors[f"{name}.logits"].topk(11).values
        if float((best[:, :-1] - best[:, 1:]).min()) < SEPARATION:
            raise Unfit(f"the likeliest tokens of {name} are too close")
    parts.fresh()
    return tensors


def check_greedy(model, parts, entry, logits, case):
    """The steps of a greedy continuation must be those of one pass over the whole text."""
    if len(entry["new_ids"]) < SHORTEST:
        raise Unfit("an end token comes too early")
    if case.recomputed:
        return
    parts.fresh()
    tokens = entry["prompt_ids"] + entry["new_ids"][:-1]
    whole = model(torch.tensor([tokens])).logits[0, len(entry["prompt_ids"]) - 1 :]
    difference = float((whole - logits).abs().max())
    if difference > CACHED:
        raise Unfit(f"cached and whole passes differ by {difference}")


def prompts_of(case, seed):
    """The prompts that are recorded, by name."""
    vocab = (case.config.get("text_config") or case.config)["vocab_size"]
    return {f"p{i}": random_tokens(n, vocab, seed) for i, n in enumerate(case.prompts)}


def make(case, folder, seed):
    """Write the case into `folder` with this seed; the recorded tensors and what reference.json says of them."""
    if folder.exists():
        shutil.rmtree(folder)
    drawn_on = write(folder, case, seed)
    model = load(folder)
    probe = torch.tensor([max(prompts_of(case, seed).values(), key=len)])
    with torch.no_grad():
        assert torch.equal(model(probe).logits, drawn_on(probe).logits), "the checkpoint loads as another model"
    return observe(model, case, seed)


def observe(model, case, seed):
    """What the model says of the case's prompts: the recorded tensors and what reference.json says of them."""
    parts = Parts(model)
    prompts = prompts_of(case, seed)
    vocab = (case.config.get("text_config") or case.config)["vocab_size"]
    with routing.watch(model) as choices:
        tensors = record(model, parts, prompts, f"p{case.hidden}")
        parts.fresh()
        continued = []
        for n in case.greedy:
            entry, logits = continue_greedily(model, random_tokens(n, vocab, seed + 500), case.new_tokens)
            if entry["smallest_margin"] < MARGIN:
                raise Unfit("the greedy path is too close")
            continued.append((entry, logits))
    if choices.smallest < routing.GAP:
        raise Unfit(f"a choice of experts hangs on {choices.smallest}")
    with torch.no_grad():
        for i, (entry, logits) in enumerate(continued):
            check_greedy(model, parts, entry, logits, case)
            if case.greedy_logits:
                tensors[f"greedy.{i}.logits"] = logits.clone()
    report = {"rope": parts.describe_rope(), "prompts": {p: len(tokens) for p, tokens in prompts.items()}}
    if choices.rows:
        report["experts"] = {"rows_routed": choices.rows, "smallest_gap": choices.smallest}
    parts.fresh()
    report["greedy"] = [entry for entry, _ in continued]
    return tensors, report
