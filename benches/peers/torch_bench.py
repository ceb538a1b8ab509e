"""One test of torch and transformers; prints one JSON object.

    python torch_bench.py CHECKPOINT --dtype bfloat16 --test prefill -p 512
    python torch_bench.py CHECKPOINT --dtype float32 --test decode -n 64 -d 4096 --attention sdpa --cache dynamic

Prefill asks for the logits of the last row only; decode feeds tokens one by one into the KV cache, without sampling.
"""

import argparse
import copy
import json
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache


def new_cache(kind, config, length):
    if kind == "static":
        return StaticCache(config=config, max_cache_len=length)
    return DynamicCache(config=config)


def forward(model, tokens, cache):
    return model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits


def prefill(model, args):
    tokens = torch.randint(model.config.vocab_size, (1, args.p))
    forward(model, tokens, new_cache(args.cache, model.config, args.p))
    for _ in range(args.repetitions):
        cache = new_cache(args.cache, model.config, args.p)
        start = time.perf_counter()
        forward(model, tokens, cache)
        yield args.p / (time.perf_counter() - start)


def decode(model, args):
    tokens = torch.randint(model.config.vocab_size, (1, args.d + args.n))
    before = new_cache(args.cache, model.config, args.d + args.n)
    # What comes before is not measured: always with sdpa, which needs little memory.
    model.set_attn_implementation("sdpa")
    for at in range(0, args.d, 512):
        forward(model, tokens[:, at : min(at + 512, args.d)], before)
    model.set_attn_implementation(args.attention)
    forward(model, tokens[:, args.d : args.d + 1], copy.deepcopy(before))
    for _ in range(args.repetitions):
        cache = copy.deepcopy(before)
        start = time.perf_counter()
        for i in range(args.d, args.d + args.n):
            forward(model, tokens[:, i : i + 1], cache)
        yield args.n / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], required=True)
    parser.add_argument("--test", choices=["prefill", "decode"], required=True)
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("-d", type=int, default=0)
    parser.add_argument("-t", "--threads", type=int, required=True)
    parser.add_argument("-r", "--repetitions", type=int, default=3)
    parser.add_argument("--attention", choices=["eager", "sdpa"], default="sdpa")
    parser.add_argument("--cache", choices=["dynamic", "static"], default="dynamic")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(
        args.checkpoint, dtype=getattr(torch, args.dtype), attn_implementation=args.attention, local_files_only=True
    ).eval()
    with torch.inference_mode():
        rates = list((prefill if args.test == "prefill" else decode)(model, args))
    print(json.dumps(dict(
        tokens_per_second=rates,
        version=f"torch {torch.__version__}, transformers {transformers.__version__}",
    )))


if __name__ == "__main__":
    main()
