"""Records what a checkpoint says after some texts, as a reference that another engine can be held against.

    python tools/validation.py CHECKPOINT --prompt "The sky is" --prompt "1 + 1 =" --tokens 1,2,3 --out R.json
        [--traces DIR]        and a trace file of each test case: DIR/case-0.safetensors, ...
        [--repo NAME]         what the model is called; without it, its folder
        [--dtype bfloat16]    float32 is the default

The file is JSON:

    {"model_repo": "Qwen/Qwen3-1.7B",
     "model_type": "qwen3", "hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16,
     "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "intermediate_size": 6144, "qk_norm": true,
     "dtype": "float32", "attention": "eager", "versions": {"torch": "2.15.0", "transformers": "5.24.0", ...},
     "last_residual_point": "hook_resid_post",
     "weights": {"model.norm.weight": "0123456789abcdef", ...},
     "test_cases": [{"prompt": "The sky is", "tokens": [785, 12884, 374],
                     "top_10": [{"index": 6303, "logit": 15.2}, ...], "last_residual_f32": [0.1, -0.2, ...]}]}

`top_10` are the likeliest tokens after the text, best first, `last_residual_f32` is the residual stream of the last
position after the last block, before the final norm. `prompt` is null for a test case given by `--tokens`. `weights`
are the hashes of the checkpoint's tensors as docs/hooks.md has them. What a model does not have (heads of one size in
latent attention) is not there. Test cases come in the order of the command line, texts first.

Importable: `record(model, prompts, folder)`, where a prompt is a text or a list of tokens, and `reference(model, cases, folder)`, where a case is
a pair of a text, or None, and its tokens.

A model whose rotary frequencies are zero is refused, as trace.py does.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import torch
import transformers

import trace
import trace_file
from trace_parts import Parts, Unknown, pick


# What a reference is made of.
POINTS = ["blocks.*.attn.hook_[qk]", "blocks.*.mlp.hook_post", "blocks.*.hook_resid_post", "logits"]


def facts(model, tensors):
    """What the model is: from the shapes of its points where they say it, else from its config."""
    parts = Parts(model)
    config = model.config
    config = config if isinstance(config, dict) else config.get_text_config().to_dict()
    latent = any(block.kind == "latent" for block in parts.blocks)
    q = next((t for name, t in tensors.items() if name.endswith("attn.hook_q")), None)
    k = next((t for name, t in tensors.items() if name.endswith("attn.hook_k")), None)
    post = next((t for name, t in tensors.items() if name.endswith("mlp.hook_post")), None)
    names = ("q_norm", "q_layernorm", "query_layernorm")
    found = {
        "hidden_size": parts.embed.embedding_dim,
        "num_hidden_layers": len(parts.blocks),
        "num_attention_heads": None if q is None else q.shape[1],
        "num_key_value_heads": config.get("num_key_value_heads") if k is None else k.shape[1],
        "head_dim": None if q is None or latent else q.shape[2],
        "vocab_size": tensors["logits"].shape[1],
        "intermediate_size": config.get("moe_intermediate_size") or config.get("intermediate_size"),
        "qk_norm": any(isinstance(norm := pick(block.mixer, *names), torch.nn.Module)
                       and not isinstance(norm, torch.nn.Identity) for block in parts.blocks),
    }
    if post is not None:
        found["intermediate_size"] = post.shape[1]
    return {key: value for key, value in found.items() if value is not None}


def case_of(prompt, tokens, tensors):
    """What a trace says of the last position."""
    last = next(reversed([name for name in tensors if name.endswith("hook_resid_post")]))
    logits = tensors["logits"][-1]
    best = logits.topk(min(10, logits.shape[0]))
    top = zip(best.indices.tolist(), best.values.tolist())
    return {
        "prompt": prompt,
        "tokens": tokens,
        "top_10": [{"index": index, "logit": logit} for index, logit in top],
        "last_residual_f32": tensors[last][-1].tolist(),
    }


def record(model, prompts, folder, **options):
    """The reference for `prompts`, texts (encoded by the folder's tokenizer) or lists of tokens; options as `reference` has them."""
    folder = Path(folder)
    cases = [(p, encoded(folder, [p])[0][1]) if isinstance(p, str) else (None, list(p)) for p in prompts]
    return reference(model, cases, folder, **options)


def reference(model, cases, folder, repo=None, traces=None, allow_zero_rope=False):
    """The reference as a dict, and in the folder `traces`, if there is one, a trace of each case."""
    recorded, described = [], None
    for i, (prompt, tokens) in enumerate(cases):
        points, positions = (None, None) if traces is not None else (POINTS, [len(tokens) - 1])
        tensors, metadata = trace.record_trace(model, tokens, points, positions, folder, allow_zero_rope)
        described = described or facts(model, tensors)
        recorded.append(case_of(prompt, tokens, tensors))
        if traces is not None:
            trace.save(Path(traces) / f"case-{i}.safetensors", tensors, metadata)
    return {
        "model_repo": repo or Path(folder).name,
        "model_type": metadata["model_type"],
        **described,
        "dtype": metadata["dtype"],
        "attention": metadata["attention"],
        "versions": trace_file.libraries(),
        "last_residual_point": "hook_resid_post",
        "weights": json.loads(metadata.get("weights", "{}")),
        "test_cases": recorded,
    }


def write(path, found):
    """Indented JSON, with a test case's tokens and vectors on one line each."""
    text = json.dumps(found, indent=2, ensure_ascii=False)
    text = re.sub(r"\[([-+.eE\d\s,]+)\]", lambda list_: "[" + " ".join(list_[1].split()) + "]", text)
    text = re.sub(r"\{\s+(\"index\": \d+),\s+(\"logit\": [-+.eE\d]+)\s+\}", r"{\1, \2}", text)
    Path(path).write_text(text + "\n", encoding="utf-8")


def encoded(folder, prompts):
    """The texts with their tokens, by transformers' own tokenizer."""
    if not prompts:
        return []
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise trace.Refused(f"{folder} has no tokenizer: give --tokens instead of --prompt")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return [(prompt, tokenizer(prompt)["input_ids"]) for prompt in prompts]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT")
    parser.add_argument("--tokens", action="append", default=[], type=trace.numbers, metavar="1,2,3")
    parser.add_argument("--out", type=Path, required=True, metavar="R.json")
    parser.add_argument("--traces", type=Path, metavar="DIR")
    parser.add_argument("--repo", metavar="NAME")
    parser.add_argument("--dtype", choices=trace.DTYPES, default="float32")
    parser.add_argument("--allow-zero-rope", action="store_true")
    arguments = parser.parse_args()
    if not (arguments.prompt or arguments.tokens):
        parser.error("a --prompt or --tokens is needed")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        cases = encoded(arguments.checkpoint, arguments.prompt) + [(None, tokens) for tokens in arguments.tokens]
        if arguments.traces is not None:
            arguments.traces.mkdir(parents=True, exist_ok=True)
        found = reference(
            trace.load(arguments.checkpoint, arguments.dtype), cases, arguments.checkpoint, arguments.repo,
            arguments.traces, arguments.allow_zero_rope,
        )
    except (trace.Refused, Unknown) as reason:
        print(f"validation.py: {reason}", file=sys.stderr)
        sys.exit(2)
    write(arguments.out, found)


if __name__ == "__main__":
    main()
