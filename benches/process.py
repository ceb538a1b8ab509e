#!/usr/bin/env python3
"""What `rheostat bench` cannot see from inside: the start of the process, its rest, and its share of a busy machine.

    cargo build --release
    python benches/process.py --model CHECKPOINT

Needs Linux and Python's standard library. CHECKPOINT should be in the page cache: it is read once before.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICK = os.sysconf("SC_CLK_TCK")


def generate(binary, model, prompt, n):
    """Seconds from before the process started to after it ended, and its report."""
    start = time.monotonic()
    done = subprocess.run(
        [binary, "generate", model, "-", "--raw", "-n", str(n), "--json"], input=prompt, capture_output=True, text=True
    )
    seconds = time.monotonic() - start
    if done.returncode != 0:
        sys.exit(f"{binary} generate {model}: {done.stderr.strip()}")
    return seconds, json.loads(done.stdout)


def bench(binary, model, *flags):
    """The first test of `rheostat bench`, in tokens per second."""
    done = subprocess.run([binary, "bench", model, "--json", *flags], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{binary} bench {model}: {done.stderr.strip()}")
    return json.loads(done.stdout)["tests"][0]["tokens_per_second"]


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def first_token_embedded(binary, runs):
    generate(binary, "embedded", "Before we proceed", 1)
    times = [generate(binary, "embedded", "Before we proceed", 1)[0] for _ in range(runs)]
    print(f"embedded model, whole process for one token: {1e3 * statistics.median(times):.1f} ms", end=" ")
    print(f"({1e3 * min(times):.1f} to {1e3 * max(times):.1f}, {runs} runs)")


def first_token(binary, model, prompt, runs):
    """The whole process for one token after a prompt, against a prefill of the same length, alternating."""
    n = len(generate(binary, model, prompt, 1)[1]["prompt_tokens"])
    ratios = []
    for _ in range(runs):
        whole = generate(binary, model, prompt, 1)[0]
        prefill = n / bench(binary, model, "-p", str(n), "-n", "0", "-r", "1")
        ratios.append(whole / prefill)
        print(f"  {n} tokens: whole process {whole:.2f} s, prefill {prefill:.2f} s, ratio {ratios[-1]:.2f}")
    print(f"{Path(model).name}, whole process for one token / one prefill: {statistics.median(ratios):.2f} (median of {runs})")


def idle(binary, model, seconds):
    """CPU time of a chat that waits for its user, after it has answered once."""
    with tempfile.TemporaryDirectory() as folder:
        # The same files, with a chat template of our own.
        for file in Path(model).resolve().iterdir():
            if file.name != "chat_template.jinja":
                (Path(folder) / file.name).symlink_to(file)
        (Path(folder) / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
        idle_chat(binary, folder, Path(model).name, seconds)


def idle_chat(binary, model, name, seconds):
    chat = subprocess.Popen(
        [binary, "chat", model, "-n", "8"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    chat.stdin.write(b"Hello\n")
    chat.stdin.flush()
    time.sleep(10)
    if chat.poll() is not None:
        sys.exit(f"{binary} chat {model} ended at once: {chat.stderr.read().decode().strip()}")
    before = cpu_seconds(chat.pid)
    time.sleep(seconds)
    used = cpu_seconds(chat.pid) - before
    chat.communicate()
    print(f"{name}, a chat that waits: {before:.2f} s of CPU time to answer, {used:.2f} s in the {seconds} s after it")


def share(binary, model, runs):
    """Decode alone, and beside as many processes that only compute as there are cores; alternating."""
    ratios = []
    cores = len(os.sched_getaffinity(0))
    for _ in range(runs):
        flags = ("-p", "0", "-n", "32", "-d", "0", "-r", "3")
        alone = bench(binary, model, *flags)
        hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
        try:
            beside = bench(binary, model, *flags)
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
        ratios.append(beside / alone)
        print(f"  alone {alone:.1f} tok/s, beside {cores} busy processes {beside:.1f} tok/s, {ratios[-1]:.2f} of it")
    print(f"{Path(model).name}, decode beside as many busy processes as cores: {statistics.median(ratios):.2f} (fair: 0.50)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint, of any size")
    parser.add_argument("--rheostat", default=str(ROOT / "target/release/rheostat"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tests", default="start,idle,share")
    parser.add_argument("--text", default=str(ROOT / "ARCHITECTURE.md"), help="the prompt is taken from its beginning")
    args = parser.parse_args()
    for file in sorted(Path(args.model).glob("*.safetensors")):
        with open(file, "rb") as f:
            while f.read(1 << 24):
                pass
    tests = args.tests.split(",")
    if "start" in tests:
        first_token_embedded(args.rheostat, 4 * args.runs)
        first_token(args.rheostat, args.model, Path(args.text).read_text()[:1100], args.runs)
    if "idle" in tests:
        idle(args.rheostat, args.model, 20)
    if "share" in tests:
        share(args.rheostat, args.model, args.runs)


if __name__ == "__main__":
    main()
