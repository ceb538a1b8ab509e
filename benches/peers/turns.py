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
from confine import Groups, confined
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
    add("--turn-seconds", type=float, default=4, help="of rheostat, between two turns of fio; default: %(default)s")
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
    args.memory = args.memory[0]
    return args


class Turns:
    """Stops a process again and again while fio reads."""

    def __init__(self, args, disk):
        self.disk, self.every = disk, args.turn_seconds
        # Rates of each turn, and for how long the process stood still at the least.
        self.rates, self.still = [], float("inf")
        self.next = time.monotonic() + args.warm_seconds

    def __call__(self, pid):
        start = time.monotonic()
        if start < self.next:
            return
        os.kill(pid, signal.SIGSTOP)
        try:
            self.rates.append(self.disk.measure())
            self.still = min(self.still, time.monotonic() - start)
        finally:
            os.kill(pid, signal.SIGCONT)
        self.next = time.monotonic() + self.every


def between(sweeps, still):
    """The sweeps between two stops: those that were stopped are longer than any stop, and nobody knows by how much."""
    groups = [[]]
    for sweep in sweeps:
        if sweep["seconds"] >= still:
            groups.append([])
        elif sweep["phase"] == "decode":
            groups[-1].append(sweep)
    return groups


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
    answer, rates, still = parsed(run.output, what), turns.rates, turns.still
    found = between(answer["sweeps"], still)
    # Turns in the first sweep, which reads the prompt and may take long, are one there.
    early = len(rates) - (len(found) - 1)
    if early and answer["sweeps"][0]["seconds"] < (early + 1) * still:
        raise Unavailable(f"{len(found) - 1} sweeps were stopped in {len(rates)} turns; more --limit-seconds tell them apart")
    rates = rates[early:]
    # Not by its best moment, but over all turns.
    best = max(disk.ways, key=lambda way: statistics.fmean(rate[way] for rate in rates))
    seconds, read, ratios = [], [], []
    for before, after, sweeps in zip(rates, rates[1:], found[1:]):
        if not sweeps:
            continue
        took, bytes_ = sum(s["seconds"] for s in sweeps), sum(s["bytes"]["streamed"] for s in sweeps)
        seconds.append(took / len(sweeps))
        read.append(bytes_ / len(sweeps))
        ratios.append(took * statistics.fmean((before[best], after[best])) / bytes_)
    experts = answer["experts"]
    print(f"{args.model.name}, {written(args.memory)}, {answer['threads']} threads, {processor()}; {len(ratios)} turns\n")
    print(f"a token: {middle(seconds, '{:.3f}')} s; read for it: {middle([r / 1e6 for r in read], '{:.0f}')} MB")
    print(f"the disk: {middle([rate[best] / 1e9 for rate in rates])} GB/s ({best})")
    print(f"its time / what the disk needs: {middle(ratios, '{:.3f}')}")
    if experts:
        print(f"experts in memory when asked for: {100 * experts['hit'] / experts['asked']:.1f} %")
    print(f"peak: {written(run.resident)}")


if __name__ == "__main__":
    try:
        main()
    except Unavailable as error:
        sys.exit(str(error))
