#!/usr/bin/env python3
"""Train the tiny language model that Rheostat embeds.

    python tools/train_tiny.py --text tinyshakespeare.txt --out assets/tiny-shakespeare

One text file goes in; a directory that `transformers` and Rheostat both load
comes out: a byte-level BPE tokenizer, a Qwen3-architecture model in bfloat16,
and a README.md with the measured losses. Everything runs on the CPU.

The last 5 % of the text (from the first blank line past the 95 % mark) is held
out: neither the tokenizer nor the model is trained on it. The weights kept are
those with the lowest held-out loss; the losses written to README.md are
measured on the saved bfloat16 weights, loaded again and run in float32.

Needs torch, transformers (5 or later), tokenizers and safetensors.
"""

import argparse
import hashlib
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import safetensors
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

END_OF_TEXT = "<|endoftext|>"
CONTEXT = 1024  # max_position_embeddings
# Training windows: (length in tokens, share of the steps).
WINDOWS = [(256, 0.4), (512, 0.4), (1024, 0.2)]
SAMPLE_PROMPT = "ROMEO:\n"


def parse_args():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--text", type=Path, required=True, help="training text, UTF-8")
    p.add_argument("--out", type=Path, required=True, help="directory to write")
    p.add_argument("--steps", type=int, default=3000, help="length of the schedule")
    p.add_argument("--minutes", type=float, help="stop after this much wall-clock time")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1, help="CPU threads")
    p.add_argument("--vocab", type=int, default=1024, help="vocabulary size")
    p.add_argument("--tokens-per-step", type=int, default=4096)
    p.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    p.add_argument("--weight-decay", type=float, default=0.1)
    p.add_argument("--dropout", type=float, default=0.2)
    p.add_argument("--split-words", type=float, default=0.05,
                   help="share of the training words encoded in two halves")
    p.add_argument("--eval-every", type=int, default=100, help="steps between evaluations")
    p.add_argument("--patience", type=int, default=8,
                   help="evaluations without improvement before stopping")
    return p.parse_args()


# ---------------------------------------------------------------- text


def split_text(data):
    """Byte offset at which the held-out part starts."""
    blank_line = data.find(b"\n\n", len(data) * 95 // 100)
    if blank_line < 0:
        raise SystemExit("the text has no blank line in its last 5 %")
    return blank_line + 2


def train_tokenizer(text, vocab_size):
    """Byte-level BPE without a normalizer, so decoding gives the exact bytes."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(
        [text],
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tok


def check_round_trip(tok, text):
    every_char = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000, 97)]))
    for s in (text, every_char, "  two  spaces\t\r\n\n caf\u00e9 e\u0301 \U0001f3ad "):
        assert tok.decode(tok.encode(s).ids) == s, "the tokenizer is not lossless"


def encode(tok, text):
    return torch.tensor(tok.encode(text).ids)


# ---------------------------------------------------------------- model


def build_model(vocab_size, end_id, dropout):
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=768,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=end_id,
        eos_token_id=end_id,
        use_cache=True,
    )
    model = Qwen3ForCausalLM(config)

    # Qwen3 has no dropout outside attention; add it to the embedding and to
    # what each block writes to the residual stream. The hooks are not saved.
    def drop(module, _inputs, output):
        return F.dropout(output, dropout, module.training)

    model.model.embed_tokens.register_forward_hook(drop)
    for layer in model.model.layers:
        for out in (layer.self_attn.o_proj, layer.mlp.down_proj):
            out.weight.data.mul_((2 * config.num_hidden_layers) ** -0.5)
            out.register_forward_hook(drop)
    return model


def cross_entropy(model, inputs, targets, reduction="mean"):
    logits = model(input_ids=inputs, use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction=reduction)


@torch.no_grad()
def evaluate(model, ids, end_id):
    """Total nats over `ids`, every token predicted once.

    The ids are cut into windows of CONTEXT tokens; each window sees only the one
    token before it (END_OF_TEXT for the first) and itself.
    """
    model.eval()
    inputs = F.pad(ids[:-1], (1, 0), value=end_id)
    total = sum(
        cross_entropy(model, x[None], y[None], "sum").item()
        for x, y in zip(inputs.split(CONTEXT), ids.split(CONTEXT))
    )
    model.train()
    return total


# ---------------------------------------------------------------- training


class Windows:
    """Random windows of the training text, encoded anew after each epoch's worth.

    Each time a few words, chosen at random, are cut in two and the halves encoded
    by themselves. The text is short and seen many times: the variation delays
    overfitting, and it prepares the model for prompts that end inside a word.
    """

    def __init__(self, tok, text, tokens_per_step, split_words, rng):
        self.tok, self.rng = tok, rng
        self.tokens_per_step, self.split_words = tokens_per_step, split_words
        self.end_id = tok.token_to_id(END_OF_TEXT)
        self.words = [w for w, _ in tok.pre_tokenizer.pre_tokenize_str(text)]
        self.known = {}  # ids of each word and half-word
        self.left = 0

    def word_ids(self, word):
        if word not in self.known:
            self.known[word] = [t.id for t in self.tok.model.tokenize(word)]
        return self.known[word]

    def encode_again(self):
        ids = []
        for word in self.words:
            if len(word) > 1 and self.rng.random() < self.split_words:
                at = self.rng.randrange(1, len(word))
                ids += self.word_ids(word[:at]) + self.word_ids(word[at:])
            else:
                ids += self.word_ids(word)
        self.ids = torch.tensor(ids)
        self.left = len(ids)

    def next(self):
        if self.left <= 0:
            self.encode_again()
        self.left -= self.tokens_per_step
        lengths, shares = zip(*WINDOWS)
        n = self.rng.choices(lengths, shares)[0]
        rows = []
        for _ in range(max(1, self.tokens_per_step // n)):
            start = self.rng.randrange(len(self.ids) - n)
            rows.append(self.ids[start : start + n + 1])
        batch = torch.stack(rows)
        inputs, targets = batch[:, :-1].clone(), batch[:, 1:]
        # In one row of each batch END_OF_TEXT stands for the token before the
        # window, so that it is known as a start; it is never a target.
        inputs[0, 0] = self.end_id
        return inputs, targets


def learning_rate(step, args):
    warmup = min(100, args.steps // 10 + 1)
    if step < warmup:
        return args.lr * (step + 1) / warmup
    t = (step - warmup) / max(1, args.steps - warmup)
    return args.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * t)))


def train(model, windows, held_out, args):
    """Leaves the best weights in `model`; returns what happened."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": args.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    began = time.monotonic()
    best = {"loss": math.inf, "step": 0}
    best_weights = None
    running, since_best = 0.0, 0
    model.train()
    for step in range(1, args.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step - 1, args)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = cross_entropy(model, *windows.next())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()

        elapsed = time.monotonic() - began
        out_of_time = args.minutes is not None and elapsed > 60 * args.minutes
        if step % args.eval_every and step != args.steps and not out_of_time:
            continue
        with torch.autocast("cpu", dtype=torch.bfloat16):
            held = evaluate(model, held_out, windows.end_id) / len(held_out)
        print(f"step {step:5d}  train {running:.4f}  held-out {held:.4f}  {elapsed:6.0f} s", flush=True)
        since_best += 1
        if held < best["loss"]:
            best, since_best = {"loss": held, "step": step}, 0
            best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
        if out_of_time or since_best >= args.patience:
            break
    model.load_state_dict(best_weights)
    return {"last_step": step, "best_step": best["step"], "seconds": time.monotonic() - began}


# ---------------------------------------------------------------- output


def save(model, tok, end_id, out):
    out.mkdir(parents=True, exist_ok=True)
    PreTrainedTokenizerFast(
        tokenizer_object=tok,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(out)
    # `tokenizer.json` as trained, without the post-processor (of no effect) that
    # transformers adds, and a class name that older versions of it know too.
    tok.save(str(out / "tokenizer.json"))
    config = out / "tokenizer_config.json"
    fields = json.loads(config.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.write_text(json.dumps(fields, indent=2) + "\n")
    model.generation_config = GenerationConfig(
        bos_token_id=end_id, eos_token_id=end_id, pad_token_id=end_id,
        do_sample=True, temperature=0.8, top_p=0.95,
    )
    model.to(torch.bfloat16).save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # saved readable by its owner only


def sample(model, tokenizer, seed=None):
    """SAMPLE_PROMPT continued by 120 tokens: greedily, or at temperature 0.8."""
    inputs = tokenizer(SAMPLE_PROMPT, return_tensors="pt")
    how = {"do_sample": False, "temperature": None, "top_p": None}
    if seed is not None:
        torch.manual_seed(seed)
        how = {"do_sample": True, "temperature": 0.8, "top_p": 1.0, "top_k": 0}
    model.eval()
    ids = model.generate(**inputs, max_new_tokens=120, **how)[0]
    return tokenizer.decode(ids).rstrip()


README = """\
---
license:
- mit
- apache-2.0
language: en
pipeline_tag: text-generation
library_name: transformers
---

# tiny-shakespeare

A very small language model that writes imitation Shakespeare. It exists to be
embedded in a program: to demonstrate and test an inference engine with real
trained weights, without a download. It knows nothing and is good for nothing else.

## Model

| | |
|---|---|
| Architecture | Qwen3 (`Qwen3ForCausalLM`), tied embeddings |
| Parameters | {parameters:,} |
| Layers, hidden size, MLP size | {c.num_hidden_layers}, {c.hidden_size}, {c.intermediate_size} |
| Heads, key/value heads, head size | {c.num_attention_heads}, {c.num_key_value_heads}, {c.head_dim} |
| Context | {c.max_position_embeddings} tokens, rope theta 10000 |
| Weights | bfloat16, `model.safetensors`, {weight_bytes:,} bytes |
| Tokenizer | byte-level BPE, {c.vocab_size} entries, lossless on any UTF-8 text |

`<|endoftext|>` (id {end_id}) is the beginning-of-text, end-of-text and padding token.
The tokenizer does not add it by itself. In training it stood at the start of some
windows and was never to be predicted, so a text may start with it or without it,
and generation goes on until its token limit.

## Training text

`{text_name}`: about 1.1 MB of Shakespeare's plays as one file, the one known from
char-rnn as *tinyshakespeare*. Shakespeare's works are in the public domain.

- {text_bytes:,} bytes, SHA-256 `{sha256}`
- trained on (tokenizer and model): bytes [0, {cut})
- held out: bytes [{cut}, {text_bytes}), i.e. {held_bytes:,} bytes, {held_tokens:,} tokens

The held-out part chose which step's weights to keep, so its loss is slightly
optimistic.

## Losses

Measured on the saved bfloat16 weights, computed in float32, in consecutive windows of
{c.max_position_embeddings} tokens (each sees itself and the one token before it; `<|endoftext|>` comes
before the first), every token counted once:

| | nats/token | perplexity/token | bits/byte |
|---|---|---|---|
| training text | {train_nats:.4f} | {train_ppl:.2f} | {train_bpb:.4f} |
| held out | {held_nats:.4f} | {held_ppl:.2f} | {held_bpb:.4f} |

## How it was made

```
{command}
```

Seed {seed}, {threads} CPU thread(s); {last_step} of {steps} steps of {tokens_per_step} tokens, weights of step
{best_step} kept; {minutes:.0f} minutes. AdamW, peak learning rate {lr:g} with a cosine schedule, weight
decay {weight_decay:g}, dropout {dropout:g}, bfloat16 autocast; in each epoch {split_words:.0%} of the words
were encoded in two halves. The same command on another kind of CPU or with other
library versions gives weights that are alike, not equal.

Versions: {versions}.

## Samples

Prompt `ROMEO:` and a newline, 120 new tokens. Greedy (it falls into a loop, as such
small models do):

```text
{greedy}
```

Temperature 0.8:

```text
{sampled}
```

## Licence

The weights and the tokenizer are licensed like the project they belong to:
MIT or Apache-2.0, at your option. The training text is in the public domain.
"""


def command_line(args):
    """The command that made this, with file paths reduced to what is portable."""
    out = args.out if not args.out.is_absolute() else args.out.name
    return (
        f"python tools/train_tiny.py --text {args.text.name} --out {out} \\\n"
        f"    --steps {args.steps} --seed {args.seed} --threads {args.threads}"
        f" --lr {args.lr:g} --weight-decay {args.weight_decay:g} \\\n"
        f"    --dropout {args.dropout:g} --split-words {args.split_words:g}"
        f" --vocab {args.vocab} --tokens-per-step {args.tokens_per_step}"
    )


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)

    data = args.text.read_bytes()
    cut = split_text(data)
    train_text, held_text = data[:cut].decode(), data[cut:].decode()

    tok = train_tokenizer(train_text, args.vocab)
    check_round_trip(tok, data.decode())
    end_id = tok.token_to_id(END_OF_TEXT)
    train_ids, held_ids = encode(tok, train_text), encode(tok, held_text)
    print(f"{len(train_ids)} tokens to train on, {len(held_ids)} held out", flush=True)

    model = build_model(tok.get_vocab_size(), end_id, args.dropout)
    windows = Windows(tok, train_text, args.tokens_per_step, args.split_words, rng)
    done = train(model, windows, held_ids, args)
    save(model, tok, end_id, args.out)

    # From here on only what was saved counts.
    tokenizer = AutoTokenizer.from_pretrained(args.out)
    model = AutoModelForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    assert tokenizer(held_text)["input_ids"] == held_ids.tolist()
    assert tokenizer.decode(held_ids) == held_text
    train_nats = evaluate(model, train_ids, end_id)
    held_nats = evaluate(model, held_ids, end_id)

    nats_per_bit = math.log(2)
    results = {
        "train_nats": train_nats / len(train_ids),
        "train_ppl": math.exp(train_nats / len(train_ids)),
        "train_bpb": train_nats / nats_per_bit / cut,
        "held_nats": held_nats / len(held_ids),
        "held_ppl": math.exp(held_nats / len(held_ids)),
        "held_bpb": held_nats / nats_per_bit / (len(data) - cut),
    }
    print(json.dumps(results, indent=2))
    greedy, sampled = sample(model, tokenizer), sample(model, tokenizer, seed=args.seed)
    print(greedy, sampled, sep="\n----\n")

    used = (torch, transformers, tokenizers, safetensors, np)
    readme = README.format(
        **vars(args) | results | done | {"minutes": done["seconds"] / 60},
        c=model.config,
        parameters=sum(p.numel() for p in model.parameters()),
        weight_bytes=(args.out / "model.safetensors").stat().st_size,
        end_id=end_id,
        text_name=args.text.name,
        text_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        cut=cut,
        held_bytes=len(data) - cut,
        held_tokens=len(held_ids),
        command=command_line(args),
        versions=", ".join(f"{m.__name__} {m.__version__}" for m in used),
        greedy=greedy,
        sampled=sampled,
    )
    (args.out / "README.md").write_text(readme)


if __name__ == "__main__":
    main()
