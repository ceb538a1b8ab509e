"""Greedy decode by an engine of the torch family that streams weights from disk; prints one JSON object.

    python stream_torch.py accelerate CHECKPOINT -n 3 -t 2 --keep 1073741824 --offload FOLDER
    python stream_torch.py airllm CHECKPOINT -n 3 -t 2 --split FOLDER
    python stream_torch.py rabbitllm CHECKPOINT --split FOLDER --prepare

accelerate reads the checkpoint's own safetensors files and keeps about `--keep` bytes of layers in memory. AirLLM and
RabbitLLM write a copy with one file for each layer into `--split` first (`--prepare` stops there). The prompt is one
token; the step that reads it is the warm-up, and each of the `-n` after it is timed by itself.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import sys
import time

import torch
import transformers


def bytes_read():
    """Bytes that this process has had read from disks, or None where the system does not say."""
    try:
        fields = dict(line.split(": ") for line in pathlib.Path("/proc/self/io").read_text().splitlines())
    except OSError:
        return None
    return int(fields["read_bytes"])


class Clock:
    """A streamer for `generate`: the time and the bytes read when each token arrives, the prompt first."""

    def __init__(self):
        self.times, self.read = [], []

    def put(self, tokens):
        self.times.append(time.perf_counter())
        self.read.append(bytes_read())

    def end(self):
        pass


def accelerate(args):
    # The folder stays empty unless a weight has to be written again: safetensors files are read in place.
    return transformers.AutoModelForCausalLM.from_pretrained(
        args.checkpoint,
        dtype=torch.bfloat16,
        device_map="auto",
        max_memory={"cpu": args.keep},
        offload_folder=args.offload,
        local_files_only=True,
    ).eval()


def airllm(args):
    from airllm import AutoModel

    return AutoModel.from_pretrained(
        args.checkpoint, device="cpu", dtype=torch.bfloat16, layer_shards_saving_path=args.split
    )


def rabbitllm(args):
    from rabbitllm import AutoModel

    return AutoModel.from_pretrained(
        args.checkpoint,
        device="cpu",
        dtype=torch.bfloat16,
        layer_shards_saving_path=args.split,
        show_layer_progress=False,
    )


ENGINES = {"accelerate": accelerate, "airllm": airllm, "rabbitllm": rabbitllm}


def versions(engine):
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in (engine, "torch", "transformers"))


def decode(model, args):
    clock = Clock()
    # One step more than is measured: the first reads the prompt, and whatever is to stay in memory with it.
    steps = args.n + 1
    with torch.inference_mode():
        model.generate(
            torch.tensor([[1]]),
            attention_mask=torch.ones(1, 1, dtype=torch.long),
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=False,
            use_cache=True,
            streamer=clock,
        )
    # The prompt, the token after it, and then what counts.
    times, read = clock.times[1:], clock.read[1:]
    pairs = lambda values: [b - a for a, b in zip(values, values[1:])]
    return dict(seconds=pairs(times), read=pairs(read) if None not in read else None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("checkpoint")
    parser.add_argument("-n", type=int, default=3)
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("--keep", type=int, default=0, help="bytes of layers that accelerate keeps in memory")
    parser.add_argument("--offload", help="a folder for accelerate")
    parser.add_argument("--split", help="where the copy with one file for each layer is, or is made")
    parser.add_argument("--prepare", action="store_true", help="load and stop")
    args = parser.parse_args()
    # The engines print on standard output, too: that goes where their warnings go.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(args.threads)
    model = ENGINES[args.engine](args)
    result = {} if args.prepare else decode(model, args)
    print(json.dumps(dict(version=versions(args.engine), **result)), file=answer, flush=True)
    # Threads that read ahead would keep the process alive, and nothing is left to be saved.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
