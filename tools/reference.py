"""Makes the checkpoints under testdata/ and records what transformers says of them.

    python tools/reference.py             every case of cases.py and of the families' tables
    python tools/reference.py CASE...     these
    python tools/reference.py --list      their names and what they exercise
    python tools/reference.py --search CASE...   with the next seeds, where a seed gives weights that hang on rounding

Everything is computed in float32 with eager attention from the checkpoint as it
was saved. testdata/README.md describes the files written.

`record(model, prompts)` is of use for any other checkpoint:

    model = load("/path/to/checkpoint")
    tensors = record(model, {"p0": [1, 5, 9]})
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import cases_dense
import cases_dense_more
import cases_hybrid
import cases_quantized
import cases_sparse
import checkpoints
import families
import quantized
import quantized_forms
import toy_tokenizers
import trace_file
from cases import CASES
from continuation import MARGIN, continue_greedily, random_tokens
from opensci import OpensciForCausalLM, patched_qwen3

TESTDATA = Path(__file__).resolve().parent.parent / "testdata"
FAMILIES = cases_dense.CASES | cases_dense_more.CASES | cases_sparse.CASES | cases_hybrid.CASES
FAMILIES |= cases_quantized.CASES
NEW_TOKENS = 64


def load(folder):
    """The checkpoint in `folder` as a float32 model with eager attention."""
    if json.loads((Path(folder) / "config.json").read_text())["model_type"] == "opensci":
        return OpensciForCausalLM.from_pretrained(folder)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert model.config._attn_implementation == "eager" and model.dtype == torch.float32
    inv_freq = model.model.rotary_emb.inv_freq
    assert inv_freq.dtype == torch.float32 and bool((inv_freq > 0).all()), "rotary frequencies are not set"
    return model.eval()


def fresh(model):
    """Undo what earlier calls left in the rotary embedding (dynamic rope remembers the longest)."""
    rotary = getattr(model.model, "rotary_emb", None)
    if rotary is not None:
        rotary.inv_freq = rotary.original_inv_freq.clone()
        rotary.max_seq_len_cached = rotary.original_max_seq_len
    return model


def inv_freq(model):
    return (model.model.rotary_emb if hasattr(model.model, "rotary_emb") else model.model).inv_freq


@torch.no_grad()
def record(model, prompts, hidden=True):
    """What `model` says of each prompt (name -> token ids), as a dict of tensors.

    For prompt p of n tokens: p.tokens [n], p.logits [n, vocab], p.final_hidden
    [n, hidden] after the last norm, and p.hidden.i [n, hidden], the residual
    stream after block i; with `hidden` false the logits alone. Where the rotary
    frequencies depend on the length, p.inv_freq are those that were used.
    """
    tensors = {"inv_freq": inv_freq(fresh(model)).clone()}
    for name, tokens in prompts.items():
        seen = {}
        watched = {"final_hidden": model.model.norm} if hidden else {}
        watched |= {f"hidden.{i}": layer for i, layer in enumerate(model.model.layers) if hidden}
        hooks = [
            module.register_forward_hook(lambda _module, _inputs, output, key=key: seen.__setitem__(key, output))
            for key, module in watched.items()
        ]
        output = fresh(model)(torch.tensor([tokens]))
        for hook in hooks:
            hook.remove()
        seen["logits"] = output if isinstance(output, torch.Tensor) else output.logits
        tensors[f"{name}.tokens"] = torch.tensor(tokens, dtype=torch.int32)
        for key, value in seen.items():
            assert bool(value.isfinite().all())
            tensors[f"{name}.{key}"] = value.reshape(len(tokens), -1).contiguous()
        if not torch.equal(inv_freq(model), tensors["inv_freq"]):
            tensors[f"{name}.inv_freq"] = inv_freq(model).clone()
    fresh(model)
    return tensors


def greedy(model, tokens):
    """transformers' own greedy continuation of `tokens`, with the logits of its steps."""
    return continue_greedily(fresh(model), tokens, NEW_TOKENS)


def greedy_text(model, text, tokenizer, auto):
    """The greedy continuation of a text by `tokenizer`, of which `auto` must think the same."""
    ids = tokenizer.encode(text).ids
    assert auto(text)["input_ids"] == ids, f"AutoTokenizer reads {text!r} in another way"
    entry, logits = greedy(model, ids)
    decoded = tokenizer.decode(entry["new_ids"], skip_special_tokens=True)
    assert auto.decode(entry["new_ids"], skip_special_tokens=True) == decoded
    return {"prompt": text} | entry | {"text": decoded}, logits


def encodings(folder, tokenizer):
    """Texts and their ids by tokenizer.json as it stands, and by AutoTokenizer where that differs."""
    auto = AutoTokenizer.from_pretrained(folder)
    entries = []
    for text in toy_tokenizers.tricky([token.content for token in tokenizer.get_added_tokens_decoder().values()]):
        ids = tokenizer.encode(text).ids
        entry = {
            "text": text,
            "ids": ids,
            "decoded": tokenizer.decode(ids, skip_special_tokens=False),
            "decoded_skip_special": tokenizer.decode(ids, skip_special_tokens=True),
        }
        if auto(text)["input_ids"] != ids:
            entry["auto_tokenizer_ids"] = auto(text)["input_ids"]
        else:
            assert auto.decode(ids) == entry["decoded"], text
            assert auto.decode(ids, skip_special_tokens=True) == entry["decoded_skip_special"], text
        entries.append(entry)
    return auto, entries


def chats(auto, tokenizer):
    """What the chat template makes of a few conversations."""
    conversations = [
        [{"role": "user", "content": "Is it rain?"}],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Is it rain?\nOr the kettle?"},
            {"role": "assistant", "content": "It's the kettle."},
            {"role": "user", "content": "déjà 雨 🌧"},
        ],
    ]
    entries = []
    for messages in conversations:
        for prompting in (True, False):
            text = auto.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompting)
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            auto_ids = auto.apply_chat_template(messages, add_generation_prompt=prompting)["input_ids"]
            assert ids == auto_ids
            entries.append({"messages": messages, "add_generation_prompt": prompting, "text": text, "ids": ids})
    return entries


def describe_rope(model, config):
    frequencies = inv_freq(model)
    rotary = getattr(model.model, "rotary_emb", None)
    return {
        "rope_type": rotary.rope_type if rotary else "default",
        "parameters": dict(model.config.rope_parameters) if rotary else {"rope_theta": config["rope_theta"]},
        "attention_scaling": float(rotary.attention_scaling) if rotary else 1.0,
        "inv_freq_first": float(frequencies[0]),
        "inv_freq_last": float(frequencies[-1]),
    }


def make_family(name, seed, root=TESTDATA):
    """Write the case `name` of a family's table into its folder under `root`."""
    case = FAMILIES[name]
    folder = Path(root) / name
    tensors, found = (families if case.form is None else quantized_forms).make(case, folder, seed)
    decoder = case.config.get("text_config") or case.config
    report = {
        "case": name,
        "exercises": case.exercises,
        "architecture": case.config["architectures"][0],
        "sizes": {key: value for key, value in decoder.items() if type(value) is int and "token" not in key},
        "checkpoint_dtype": case.dtype,
        "dtype": "float32",
        "attention": "eager",
        "seed": seed,
        "versions": trace_file.libraries(),
    } | found
    checkpoints.save_tensors(folder / "reference.safetensors", tensors)
    checkpoints.write_json(folder / "reference.json", report)
    return report


def search(name):
    """The case with the first seed from its own on that is fit."""
    for seed in range(FAMILIES[name].seed, FAMILIES[name].seed + 300):
        try:
            report = make_family(name, seed)
        except families.Unfit as reason:
            print(f"{name}: not seed {seed}: {reason}", flush=True)
            continue
        if seed != FAMILIES[name].seed:
            print(f"{name}: write seed={seed} into the table", flush=True)
        return report
    raise families.Unfit(f"no seed for {name}")


def make(name, root=TESTDATA):
    """Write the case `name` into its folder under `root`."""
    if name in FAMILIES:
        return make_family(name, FAMILIES[name].seed, root)
    case = CASES[name]
    folder = Path(root) / name
    if folder.exists():
        shutil.rmtree(folder)
    checkpoints.write(
        folder, case.config, case.seed, case.dtype, head=case.head, short_norm_names=case.short_norm_names,
        shards=case.shards, generation_config=case.generation_config,
    )
    if case.quantization is not None:
        quantized.rewrite(folder, case.config, case.dtype, case.quantization)
    vocab = case.config["vocab_size"]
    report = {
        "case": name,
        "exercises": case.exercises,
        "architecture": case.config["architectures"][0],
        "sizes": {key: value for key, value in case.config.items() if type(value) is int and "token" not in key},
        "checkpoint_dtype": case.dtype,
        "dtype": "float32",
        "attention": "eager",
        "seed": case.seed,
        "versions": trace_file.libraries(),
    }
    if case.quantization is not None:
        report["versions"]["compressed_tensors"] = quantized.VERSION
    if case.tokenizer is not None:
        tokenizer, tokenizer_config = case.tokenizer()
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        checkpoints.write_json(folder / "tokenizer_config.json", tokenizer_config)
        assert tokenizer.get_vocab_size() <= vocab

    model = load(folder)
    generator = model
    report["rope"] = describe_rope(model, case.config)
    prompts = {f"p{i}": random_tokens(n, vocab, case.seed) for i, n in enumerate(case.prompts)}
    report["prompts"] = {p: len(tokens) for p, tokens in prompts.items()}
    tensors = record(model, prompts, case.hidden)
    if case.quantization is not None:
        report["quantized_modules"] = quantized.check(folder, model)
    if case.config["model_type"] == "opensci":
        generator = patched_qwen3(model)
        twin = record(generator, prompts, case.hidden)
        difference = max(float((twin[key] - value).abs().max()) for key, value in tensors.items())
        assert difference < 1e-4, difference
        report["attention"] = "written out in tools/opensci.py"
        report["independent_check"] = {
            "against": "transformers' Qwen3ForCausalLM (eager) with biased MLP linears, all recorded tensors",
            "largest_difference": difference,
        }

    if case.tokenizer is None:
        continued = [greedy(generator, random_tokens(n, vocab, case.seed + 500)) for n in case.greedy]
    else:
        auto, report["encodings"] = encodings(folder, tokenizer)
        report["auto_tokenizer_class"] = type(auto).__name__
        if case.chat:
            report["chats"] = chats(auto, tokenizer)
        continued = [greedy_text(generator, text, tokenizer, auto) for text in case.texts]
    report["greedy"] = [entry for entry, _ in continued]
    for i, (entry, logits) in enumerate(continued):
        assert entry["smallest_margin"] > MARGIN, f"{name}: greedy path {i} is too close, choose another seed"
        if case.greedy_logits:
            tensors[f"greedy.{i}.logits"] = logits.clone()

    checkpoints.save_tensors(folder / "reference.safetensors", tensors)
    checkpoints.write_json(folder / "reference.json", report)
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument("--search", action="store_true", help="try the next seeds too (families alone)")
    arguments = parser.parse_args()
    everything = CASES | FAMILIES
    unknown = [name for name in arguments.cases if name not in everything]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}")
    if arguments.list:
        for name, case in everything.items():
            print(f"{name}: {case.exercises}")
        return
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in arguments.cases or everything:
        report = search(name) if arguments.search and name in FAMILIES else make(name)
        size = sum(file.stat().st_size for file in (TESTDATA / name).iterdir())
        lengths = " ".join(str(n) for n in report["prompts"].values())
        print(f"{name}: prompts of {lengths} tokens, {size // 1024} KiB")


if __name__ == "__main__":
    main()
