"""Decode a checkpoint that does not fit into memory, in turns with fio: how long a token takes, and how long the disk needs for what it read.

    python benches/peers/turns.py --model CHECKPOINT --memory 4GiB

One process of `rheostat profile` writes a text in a memory cgroup. Every few seconds it is stopped while fio reads the same files, so that both
have the disk of the same minute, and a cache of experts keeps what it has. For mixtures of experts, whose tokens do not all read the same; stream.py is
for dense models. Needs Linux, root, fio, and Python's standard library.
"""

import argparse
import os
import pathlib
import signal
import statistics
import sys
import time

from common import ROOT, Unavailable, end_on_terminate, parsed, processor, say, wait_for_quiet, weights
from confine import Groups, at, confined
from disk import Disk
from stream import forget, middle, sizes, written


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=pathlib.Path, required=True)
    add("--memory", type=sizes, required=True, help="the budget, such as 4GiB, and the limit of the cgroup")
    add("--rheostat", type=pathlib.Path, default=ROOT / "target" / "release" / "rheostat", metavar="PATH")
    add("--n-gen", type=int, default=400, help="tokens; default: %(default)s")
    add("--warm-seconds", type=float, default=30, help="before the first turn; default: %(default)s")
    add("--turn-seconds", type=float, default=6, help="of rheostat, between two turns of fio; default: %(default)s")
    add("--scan-seconds", type=int, default=1, help="for each way in which fio is tried; default: %(default)s")
    add("--limit-ways", type=int, default=2, help="so many of the fastest take part in turns; default: %(default)s")
    add("--limit-seconds", type=int, default=1, help="for each of them, in each turn; default: %(default)s")
    add("--cgroup", metavar="DIR", help="where memory cgroups may be made; default: where they are mounted")
    add("--drop", choices=["all", "files"], default="all", help="what leaves the page cache before; default: %(default)s")
    add("--patience", type=int, default=60, help="seconds to wait for other processes; default: %(default)s")
    add("--timeout", type=int, default=3600, help="seconds that all of it may take; default: %(default)s")
    args = parser.parse_args()
    if len(args.memory) != 1:
        parser.error("--memory: one budget")
    if args.turn_seconds <= 2 * SETTLE:
        parser.error(f"--turn-seconds: more than {2 * SETTLE}")
    args.memory = args.memory[0]
    return args


# Seconds after a stop in which it finds its way again, which do not count.
SETTLE = 1


class Turns:
    """Stops a process again and again while fio reads."""

    def __init__(self, args, disk):
        self.disk, self.every = disk, args.turn_seconds
        # When each turn of fio began and ended, and its rates.
        self.taken = []
        self.start = time.monotonic()
        self.next = self.start + args.warm_seconds

    def __call__(self, pid):
        start = time.monotonic()
        if start < self.next:
            return
        os.kill(pid, signal.SIGSTOP)
        try:
            rates = self.disk.measure()
        finally:
            os.kill(pid, signal.SIGCONT)
        end = time.monotonic()
        self.taken.append((start, end, rates))
        self.next = end + self.every


def main():
    end_on_terminate()
    args = arguments()
    groups, disk = Groups(args.cgroup), Disk(weights(args.model), args)
    wait_for_quiet(args.patience)
    disk.scan()
    forget(args, weights(args.model))
    command = [args.rheostat, "profile", args.model, "-p", 8, "-n", args.n_gen, "--memory", args.memory, "--json"]
    turns, what = Turns(args, disk), "rheostat profile"
    run = confined(groups, args.memory, command, what=what, timeout=args.timeout, meanwhile=turns)
    answer = parsed(run.output, what)
    # What begins while the prompt is read does not count, nor does the last one, in which `profile` may be measuring the machine.
    decodes = turns.start + answer["phases"]["prefill"]["seconds"] + 1
    taken = [turn for turn in turns.taken if turn[0] > decodes][:-1]
    if len(taken) < 2:
        raise Unavailable("too few turns for a comparison; more --n-gen")
    # Not by its best moment, but over all turns.
    best = max(disk.ways, key=lambda way: statistics.fmean(rates[way] for *_, rates in taken))
    ratios = []
    for (_, start, before), (end, _, after) in zip(taken, taken[1:]):
        start += SETTLE
        bytes_ = at(run.reads, end) - at(run.reads, start)
        ratios.append((end - start) * statistics.fmean((before[best], after[best])) / bytes_)
    # A sweep in which it was stopped is much longer: the median does not see it.
    seconds = statistics.median(s["seconds"] for s in answer["sweeps"] if s["phase"] == "decode")
    decode, experts = answer["phases"]["decode"], answer["experts"]
    read = decode["bytes"]["streamed"] / decode["sweeps"]
    print(f"{args.model.name}, {written(args.memory)}, {answer['threads']} threads, {processor()}; {len(ratios)} turns\n")
    print(f"a token: {seconds:.3f} s, the median; read for it: {read / 1e6:.0f} MB, the mean")
    print(f"the disk: {middle([rates[best] / 1e9 for *_, rates in taken])} GB/s ({best})")
    print(f"its time / what the disk needs: {middle(ratios, '{:.3f}')}")
    if experts:
        print(f"experts in memory when asked for: {100 * experts['hit'] / experts['asked']:.1f} %")
    print(f"peak: {written(run.resident)}")


if __name__ == "__main__":
    try:
        main()
    except Unavailable as error:
        sys.exit(str(error))
