"""Decode a checkpoint that does not fit into memory, by `rheostat bench` and by other engines, under one memory limit.

    python benches/peers/stream.py --model CHECKPOINT --cache DIR --memory 4GiB
    python benches/peers/stream.py --model CHECKPOINT --cache DIR --memory 2GiB,4GiB,8GiB,12GiB --peers none
    python benches/peers/stream.py --model CHECKPOINT --cache DIR --memory 4GiB --rounds 0 --contexts 2048,8192,32768

Every process runs cold and in a memory cgroup of its own; fio reads the same files before and after those of each round.
Needs Linux, root (or a cgroup that this user may use) and, beyond what the peers need, Python's standard library. README.md
says what is compared with what.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import platform
import re
import shlex
import statistics
import sys
import tempfile
import time

from common import (
    HERE,
    LLAMA_CPP,
    OTHERS,
    ROOT,
    Unavailable,
    busy_seconds,
    end_on_terminate,
    environment,
    execute,
    gguf,
    llama_cpp,
    need_room,
    parameters,
    parsed,
    processor,
    say,
    wait_for_quiet,
    weights,
)
from confine import Groups, confined, read_at_the_end
from disk import Disk

DROP = pathlib.Path("/proc/sys/vm/drop_caches")
LIMIT = "disk"
OURS = "rheostat"


@dataclasses.dataclass
class Sample:
    seconds: float
    # Bytes read from disks for each token, as the kernel counts them.
    read: float | None
    resident: int
    group: int | None
    # Bytes that stream in every sweep, as rheostat says.
    streamed: int | None = None
    # Cores that other processes kept busy meanwhile.
    others: float | None = None


class Engine:
    """Prepared once, then measured under a limit with one of its options."""

    def __init__(self, args):
        self.args = args
        self.version = "unknown"

    def prepare(self):
        pass

    def files(self):
        """What it reads, to be dropped from the page cache."""
        return weights(self.args.model)

    def options(self, limit):
        """Settings between which the fastest is chosen under each limit, before anything is measured."""
        return [{}]

    def sample(self, limit, option, **shape):
        try:
            return self.measure(limit, option, **shape)
        except (LookupError, TypeError, ZeroDivisionError) as error:
            raise Unavailable(f"{self.name}: an answer that this script does not know: {error!r}") from None

    def run(self, limit, command, what, env=None):
        forget(self.args, self.files())
        return confined(self.args.groups, limit, command, what=what, timeout=self.args.timeout, env=env)


class Rheostat(Engine):
    name = OURS

    def prepare(self):
        binary = self.args.rheostat
        if not binary.is_file():
            sys.exit(f"{binary}: no such file; build it with `cargo build --release` or give --rheostat PATH")
        self.version = execute([binary, "--version"], what="rheostat --version", timeout=60).strip()

    def measure(self, limit, option, depth=0, tokens=None):
        args = self.args
        tokens = tokens or args.n_gen
        command = [args.rheostat, "bench", args.model, "-p", 0, "-n", tokens, "-d", depth, "-r", 1]
        command += ["-t", args.threads, "--memory", limit, "--json", *args.flags]
        run = self.run(limit, command, "rheostat bench")
        answer = parsed(run.output, "rheostat bench")
        seconds = 1 / answer["tests"][0]["tokens_per_second"]
        read = read_at_the_end(run.reads, tokens * seconds)
        streamed = answer["streamed_bytes_per_sweep"]
        return Sample(seconds, read and read / tokens, run.resident, run.group, streamed)


class LlamaCpp(Engine):
    def __init__(self, args, mode):
        super().__init__(args)
        self.mode = mode
        self.name = f"llama.cpp {mode}"

    def prepare(self):
        python = environment(self.args, "llama.cpp")
        self.version = LLAMA_CPP
        self.bench = llama_cpp(self.args, python, ("llama-bench",)) / "llama-bench"
        self.file = gguf(self.args, python)

    def files(self):
        return [self.file]

    def options(self, limit):
        # Threads that wait for a page fault leave their core to others.
        return [{"threads": factor * self.args.threads} for factor in ((1, 2, 4) if self.mode == "mmap" else (1,))]

    def measure(self, limit, option):
        tokens = self.args.n_gen
        command = [self.bench, "-m", self.file, "-p", 0, "-n", tokens, "-r", 1, "-o", "json"]
        command += ["-t", option["threads"], "-lm", self.mode]
        run = self.run(limit, command, "llama-bench")
        seconds = 1 / parsed(run.output, "llama-bench")[0]["samples_ts"][0]
        read = read_at_the_end(run.reads, tokens * seconds)
        return Sample(seconds, read and read / tokens, run.resident, run.group)


class Torch(Engine):
    """Any engine of stream_torch.py."""

    requirements = "torch"

    def program(self):
        return [self.python, HERE / "stream_torch.py", self.name, self.args.model, "-t", self.args.threads]

    def environment(self):
        return {"OMP_NUM_THREADS": str(self.args.threads), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}

    def prepare(self):
        self.python = environment(self.args, self.requirements)
        names = [self.name, "torch", "transformers"]
        program = f"import {', '.join(names)}, importlib.metadata as m; "
        program += f"print(*(f'{{n}} {{m.version(n)}}' for n in {names}), sep=', ')"
        limits = dict(what=f"import {self.name}", timeout=self.args.timeout, env=self.environment())
        self.version = execute([self.python, "-c", program], **limits).strip().splitlines()[-1]

    def decode(self, limit, *flags):
        command = [*self.program(), "-n", self.args.n_torch, *flags]
        run = self.run(limit, command, self.name, self.environment())
        answer = parsed(run.output, self.name)
        read = answer["read"] and statistics.mean(answer["read"])
        return Sample(statistics.mean(answer["seconds"]), read, run.resident, run.group)


class Accelerate(Torch):
    name = "accelerate"

    def options(self, limit):
        # Python, torch, the head and a layer need room, too; what is best, or too much, depends on the model.
        return [{"keep": int(limit * share)} for share in (0.1, 0.25, 0.4, 0.55)]

    def measure(self, limit, option):
        with tempfile.TemporaryDirectory(dir=self.args.cache) as folder:
            return self.decode(limit, "--keep", option["keep"], "--offload", folder)


class Split(Torch):
    """Reads a copy of the checkpoint with one file for each layer; AirLLM's serves RabbitLLM as well."""

    def prepare(self):
        super().prepare()
        self.folder = self.args.cache / "split" / self.args.model.name
        done = self.folder / f"complete-{self.name}"
        if done.is_file():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not any(self.folder.glob("complete-*")):
            there = sum(file.stat().st_size for file in self.files())
            need_room(self.folder, sum(file.stat().st_size for file in weights(self.args.model)) - there, "the copy")
        say(f"making {self.folder}")
        log = self.args.cache / "logs" / f"split-{self.name}.log"
        limits = dict(log=log, timeout=self.args.build_timeout, env=self.environment())
        execute([*self.program(), "--split", self.folder, "--prepare"], what=f"{self.name}, its copy", **limits)
        done.touch()

    def files(self):
        return sorted(self.folder.rglob("*.safetensors"))

    def measure(self, limit, option):
        return self.decode(limit, "--split", self.folder)


class AirLlm(Split):
    name = requirements = "airllm"


class RabbitLlm(Split):
    name = requirements = "rabbitllm"


PEERS = {
    "llama.cpp": lambda args: [LlamaCpp(args, "mmap"), LlamaCpp(args, "dio")],
    "accelerate": lambda args: [Accelerate(args)],
    "airllm": lambda args: [AirLlm(args)],
    "rabbitllm": lambda args: [RabbitLlm(args)],
}


def forget(args, files):
    """Drops files from the page cache: what a process reads then comes from the disk, or counts as its own memory."""
    os.sync()
    if args.drop == "all":
        DROP.write_text("3\n")
        return
    for path in files:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def watched(args, measure):
    """A measurement, begun when other processes are quiet or patience is over."""
    wait_for_quiet(args.patience)
    before, start = busy_seconds(), time.monotonic()
    sample = measure()
    if before is not None and isinstance(sample, Sample):
        # The kernel's work on memory and disks counts here as well: a hint, not a verdict.
        sample.others = max(0.0, (busy_seconds() - before) / (time.monotonic() - start))
    return sample


def size(text):
    match = re.fullmatch(r"\s*([0-9.]+)\s*(MiB|GiB)\s*", text)
    if not match or not (value := float(match[1])) > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 4GiB or 600MiB")
    return int(value * {"MiB": 2**20, "GiB": 2**30}[match[2]])


def sizes(text):
    return [size(part) for part in text.split(",")]


def shown(option):
    return ", ".join(f"{key} {written(value) if key == 'keep' else value}" for key, value in option.items())


def written(bytes_):
    return f"{bytes_ / 2**30:.4g} GiB" if bytes_ >= 2**30 else f"{bytes_ / 2**20:.4g} MiB"


def interpreter(text):
    name, mark, path = text.partition("=")
    if not mark or name not in ("llama.cpp", "torch", "airllm", "rabbitllm"):
        raise argparse.ArgumentTypeError(f"{text!r} is not llama.cpp=PATH, torch=PATH, airllm=PATH or rabbitllm=PATH")
    return name, pathlib.Path(path).absolute()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=pathlib.Path, required=True, help="bf16 checkpoint of a qwen3 model")
    add("--cache", type=pathlib.Path, required=True, help="folder for builds, converted files and environments")
    add("--memory", type=sizes, required=True, help="limits such as 4GiB or 2GiB,4GiB, each a budget of rheostat's")
    add("--rheostat", type=pathlib.Path, default=ROOT / "target" / "release" / "rheostat", metavar="PATH")
    add("--flags", type=shlex.split, default=[], help='more flags for `rheostat bench`, as in --flags="--io direct"')
    add("--peers", default=",".join(PEERS), help="or none; default: %(default)s")
    add("--rounds", type=int, default=5, help="default: %(default)s")
    add("--n-gen", type=int, default=5, help="tokens in each measurement; default: %(default)s")
    add("--n-torch", type=int, default=2, help="the same for accelerate, AirLLM and RabbitLLM; default: %(default)s")
    add("--threads", type=int, default=os.cpu_count(), help="default: one for each core")
    add("--contexts", type=lambda text: [int(part) for part in text.split(",")], default=[], metavar="N,N",
        help="after the rounds: rheostat's peak memory, and one token, after so many others")
    add("--drop", choices=["all", "files"], default="all" if os.access(DROP, os.W_OK) else "files",
        help="what leaves the page cache before each process: all, or the files it reads; default: all if allowed")
    add("--cgroup", metavar="DIR", help="where memory cgroups may be made; default: where they are mounted")
    add("--no-disk", action="store_true", help="do without fio")
    add("--scan-seconds", type=int, default=2, help="for each way in which fio is tried; default: %(default)s")
    add("--limit-ways", type=int, default=2,
        help="so many of the fastest ways of fio go on into the rounds; default: %(default)s")
    add("--limit-seconds", type=int, default=5,
        help="for each of them, before and after the engines of a round; default: %(default)s")
    add("--python", type=interpreter, action="append", default=[], metavar="NAME=PATH",
        help="an interpreter with the packages of requirements-NAME.txt; default: a new one")
    add("--prepare", action="store_true", help="make what is missing and stop")
    add("--patience", type=int, default=60, help="seconds to wait for other processes; default: %(default)s")
    add("--timeout", type=int, default=3600, help="seconds that one measurement may take; default: %(default)s")
    add("--build-timeout", type=int, default=7200, help="the same for one step of preparation; default: %(default)s")
    add("--json", type=pathlib.Path, metavar="OUT", help="every single figure goes here")
    args = parser.parse_args()
    args.peers = [] if args.peers == "none" else [part.strip() for part in args.peers.split(",")]
    for part in args.peers:
        if part not in PEERS:
            parser.error(f"--peers: no {part!r}; there are {', '.join(PEERS)}, and none")
    for field in ("threads", "n_gen", "n_torch", "scan_seconds", "limit_ways", "limit_seconds"):
        if getattr(args, field) < 1:
            parser.error(f"--{field.replace('_', '-')}: must be at least 1")
    if not (args.model / "config.json").is_file():
        parser.error(f"--model: {args.model} has no config.json")
    args.model, args.cache, args.rheostat = args.model.resolve(), args.cache.resolve(), args.rheostat.resolve()
    args.interpreters = dict(args.python)
    args.cache.mkdir(parents=True, exist_ok=True)
    try:
        args.groups = Groups(args.cgroup)
    except Unavailable as error:
        sys.exit(str(error))
    return args


class Bench:
    def __init__(self, args):
        self.args = args
        self.engines, self.disk = [], None
        self.choices, self.rounds, self.contexts = {}, [], {}
        # Why something is missing: an engine or the disk as a whole, or an engine under one limit.
        self.reasons = {}

    def prepare(self):
        engines = [Rheostat(self.args)] + [engine for kind in self.args.peers for engine in PEERS[kind](self.args)]
        for engine in engines:
            try:
                engine.prepare()
                self.engines.append(engine)
            except Unavailable as error:
                if engine.name == OURS:
                    sys.exit(str(error))
                self.leave_out(engine.name, error)

    def leave_out(self, key, error):
        self.reasons[key] = str(error)
        say(f"{key if isinstance(key, str) else f'{key[0]} under {written(key[1])}'}: left out: {error}")

    def scan(self):
        if self.args.no_disk or not self.args.rounds:
            return
        try:
            disk = Disk(weights(self.args.model), self.args)
            wait_for_quiet(self.args.patience)
            disk.scan()
            self.disk = disk
        except Unavailable as error:
            self.leave_out(LIMIT, error)

    def settle(self, engine, limit):
        """Keeps the fastest of an engine's settings, or says why none works."""
        options, seconds, failure = engine.options(limit), [], None
        for option in options if len(options) > 1 else []:
            label = f"  {engine.name}, {written(limit)}, {shown(option)}"
            try:
                sample = watched(self.args, functools.partial(engine.sample, limit, option))
                seconds.append((sample.seconds, option))
                say(f"{label}: {sample.seconds:.2f} s per token")
            except Unavailable as error:
                failure = error
                say(f"{label}: {error}")
        if len(options) > 1 and not seconds:
            raise failure
        self.choices[engine.name, limit] = min(seconds, key=lambda pair: pair[0])[1] if seconds else options[0]

    def settle_all(self):
        for limit in self.args.memory:
            for engine in self.engines:
                try:
                    self.settle(engine, limit)
                except Unavailable as error:
                    self.leave_out((engine.name, limit), error)

    def measure(self, samples, key):
        """One measurement: of the disk, or of an engine under a limit."""
        name, limit = key
        if key in self.reasons or name in self.reasons:
            return
        try:
            if name == LIMIT:
                rates = watched(self.args, self.disk.measure)
                samples.setdefault(key, []).append(rates)
                say(f"  {LIMIT}: {', '.join(f'{rate / 1e9:.2f}' for rate in rates.values())} GB/s")
            else:
                engine = next(engine for engine in self.engines if engine.name == name)
                measure = functools.partial(engine.sample, limit, self.choices[key])
                samples[key] = sample = watched(self.args, measure)
                say(f"  {name}, {written(limit)}: {sample.seconds:.3f} s per token, peak {written(sample.resident)}")
        except Unavailable as error:
            self.leave_out(LIMIT if name == LIMIT else key, error)

    def measure_all(self):
        keys = []
        for limit in self.args.memory:
            # Before and after, since the disk of a shared machine is not the same for long.
            around = [(LIMIT, limit)] if self.disk else []
            keys += around + [(engine.name, limit) for engine in self.engines] + around
        for number in range(self.args.rounds):
            say(f"round {number + 1}")
            self.rounds.append({})
            # Every other round the other way round, so that nothing always runs after the same neighbour.
            for key in keys[:: -1 if number % 2 else 1]:
                self.measure(self.rounds[-1], key)

    def way(self):
        """The fastest way of reading: not by its best moment, but over all rounds, in which the ways took turns."""
        measured = [rates for round_ in self.rounds for _, rates in disk_rates(round_)]
        mean = lambda way: statistics.fmean(rates[way] for rates in measured)
        return max(self.disk.ways, key=mean) if measured else None

    def disk_rate(self, round_, limit):
        """Of the fastest way, around the engines of a limit in one round."""
        rates = [rates[self.way()] for at, rates in disk_rates(round_) if at == limit]
        return statistics.fmean(rates) if rates else None

    def measure_contexts(self):
        ours = self.engines[0]
        for limit in self.args.memory:
            for depth in self.args.contexts:
                try:
                    measure = functools.partial(ours.sample, limit, {}, depth=depth, tokens=1)
                    sample = watched(self.args, measure)
                    self.contexts[limit, depth] = sample
                    say(f"  {written(limit)}, after {depth}: peak {written(sample.resident)}")
                except Unavailable as error:
                    self.contexts[limit, depth] = str(error)
                    say(f"  {written(limit)}, after {depth}: {error}")


def disk_rates(round_):
    """What the disk gave in a round: pairs of a limit and a rate by way."""
    return [(limit, rates) for (name, limit), all_ in round_.items() if name == LIMIT for rates in all_]


def middle(values, form="{:.2f}"):
    """The median, and in brackets the lowest and the highest."""
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    text = form.format(statistics.median(values))
    if len(values) > 1:
        text += f" ({form.format(min(values))} to {form.format(max(values))})"
    return text


def gigabytes(values):
    values = [value / 1e9 for value in values if value is not None]
    return f"{statistics.median(values):.2f}" if values else "-"


class Row:
    """One engine under one limit, over the rounds in which it was measured."""

    def __init__(self, bench, name, limit):
        self.name, self.limit = name, limit
        self.samples, self.against_ours, self.against_disk = [], [], []
        for round_ in bench.rounds:
            sample, ours = round_.get((name, limit)), round_.get((OURS, limit))
            if sample is None:
                continue
            self.samples.append(sample)
            if ours is None:
                continue
            self.against_ours.append(sample.seconds / ours.seconds)
            rate = bench.disk_rate(round_, limit)
            if rate and ours.streamed:
                self.against_disk.append(sample.seconds * rate / ours.streamed)

    def text(self):
        s = self.samples
        groups = [x.group for x in s if x.group is not None]
        return " | ".join([
            f"| {written(self.limit)}",
            self.name,
            middle([x.seconds for x in s], "{:.3f}"),
            gigabytes(x.read for x in s),
            gigabytes(x.read and x.read / x.seconds for x in s),
            written(max(x.resident for x in s)),
            written(max(groups)) if groups else "-",
            "1" if self.name == OURS else f"**{middle(self.against_ours)}**",
            f"{middle(self.against_disk)} |",
        ])

    def record(self):
        return dict(
            engine=self.name,
            limit=self.limit,
            seconds=statistics.median(x.seconds for x in self.samples),
            times_ours=self.against_ours,
            times_disk=self.against_disk,
            samples=[dataclasses.asdict(x) for x in self.samples],
        )


def rows(bench):
    found = [Row(bench, engine.name, limit) for limit in bench.args.memory for engine in bench.engines]
    return [row for row in found if row.samples]


def render(bench):
    args = bench.args
    total = 2 * parameters(args.model)
    lines = [
        f"{args.model.name}, {total / 1e9:.2f} GB of weights for each token; {args.threads} threads, {processor()}; "
        f"{args.rounds} rounds of {args.n_gen} tokens ({args.n_torch} with torch); {cold(args)}; "
        + "; ".join(dict.fromkeys(engine.version for engine in bench.engines))
        + (f"; rheostat with {shlex.join(args.flags)}" if args.flags else ""),
        "",
    ]
    if bench.disk:
        rates = [bench.disk_rate(round_, limit) for round_ in bench.rounds for limit in args.memory]
        lines += [f"The disk: {middle([rate and rate / 1e9 for rate in rates])} GB/s around the runs ({bench.way()}).", ""]
    if table := rows(bench):
        lines += ["| memory | engine | s per token | GB read per token | GB/s | peak resident | with page cache "
                  "| its time / ours | time / disk's around it |",
                  "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
        lines += [row.text() for row in table]
        lines += ["", "The disk's time is what it needs for the bytes that rheostat streams in a sweep: "
                  + "; ".join(streamed(row, total) for row in table if row.name == OURS) + "."]
    lines += missing(bench) + settings(bench) + over(bench, table) + contexts(bench)
    return re.sub("\n{3,}", "\n\n", "\n".join(lines))


def cold(args):
    what = "the whole page cache" if args.drop == "all" else "the files that are read"
    return f"{what} dropped before each process"


def streamed(row, total):
    bytes_ = row.samples[0].streamed
    least = max(0, total - row.limit)
    return f"{bytes_ / 1e9:.2f} GB under {written(row.limit)} (weights less limit: {least / 1e9:.2f} GB)"


def missing(bench):
    if not bench.reasons:
        return []
    lines = ["", "Not measured:", ""]
    for key, reason in bench.reasons.items():
        name = key if isinstance(key, str) else f"{key[0]}, {written(key[1])}"
        lines.append(f"- {name}: {reason}")
    return lines


def settings(bench):
    chosen = [
        f"{name}, {written(limit)}: {shown(choice)}"
        for (name, limit), choice in bench.choices.items()
        if choice and (name, limit) not in bench.reasons
    ]
    return ["", "Settings of the peers, the fastest of those tried: " + "; ".join(chosen) + "."] if chosen else []


def over(bench, table):
    """What has to be said of the runs: broken budgets, a busy machine."""
    lines = []
    ours = [(row.limit, sample) for row in table if row.name == OURS for sample in row.samples]
    ours += [(limit, sample) for (limit, _), sample in bench.contexts.items() if isinstance(sample, Sample)]
    broken = [f"{written(sample.resident)} of {written(limit)}" for limit, sample in ours if sample.resident > limit]
    if broken:
        lines += ["", f"**Over the budget:** rheostat in {len(broken)} of {len(ours)} runs: {', '.join(broken)}."]
    elif ours:
        lines += ["", f"rheostat stayed within its budget in all of {len(ours)} runs."]
    others = [sample.others for row in table for sample in row.samples if sample.others is not None]
    if disturbed := sum(value >= OTHERS for value in others):
        lines += ["", f"Other processes, or the kernel for these, kept more than {OTHERS} cores busy during {disturbed} "
                  f"of {len(others)} measurements, {max(others):.1f} at most."]
    return lines


def contexts(bench):
    if not bench.contexts:
        return []
    lines = ["", "| memory | tokens before | s for the next | peak resident | with page cache |",
             "| --- | ---: | ---: | ---: | ---: |"]
    for (limit, depth), sample in bench.contexts.items():
        head = f"| {written(limit)} | {depth} |"
        if isinstance(sample, str):
            lines.append(f"{head} {sample.replace('|', '/')} | | |")
        else:
            group = "-" if sample.group is None else written(sample.group)
            lines.append(f"{head} {sample.seconds:.2f} | {written(sample.resident)} | {group} |")
    return lines


def record(bench):
    args = bench.args
    join = lambda key: key if isinstance(key, str) else f"{key[0]}, {written(key[1])}"
    return dict(
        model=args.model.name,
        threads=args.threads,
        processor=processor(),
        system=f"{platform.system()} {platform.release()}",
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        cold=cold(args),
        tokens=dict(engines=args.n_gen, torch=args.n_torch),
        flags=args.flags,
        versions={engine.name: engine.version for engine in bench.engines},
        bytes_per_token=2 * parameters(args.model),
        disk=None if bench.disk is None else dict(
            way=str(bench.way()),
            rates=[
                dict(limit=limit, rates={str(way): rate for way, rate in rates.items()})
                for round_ in bench.rounds for limit, rates in disk_rates(round_)
            ],
        ),
        rows=[row.record() for row in rows(bench)],
        contexts=[
            dict(limit=limit, tokens=depth, **(dataclasses.asdict(s) if isinstance(s, Sample) else dict(reason=s)))
            for (limit, depth), s in bench.contexts.items()
        ],
        settings={join(key): choice for key, choice in bench.choices.items() if choice},
        not_measured={join(key): reason for key, reason in bench.reasons.items()},
    )


def main():
    args = arguments()
    end_on_terminate()
    bench = Bench(args)
    bench.prepare()
    if args.prepare:
        say("everything is ready" if not bench.reasons else "the rest is ready")
        return
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: print(render(bench)))
        try:
            bench.scan()
            if args.rounds:
                bench.settle_all()
            bench.measure_all()
            bench.measure_contexts()
        except KeyboardInterrupt:
            say("interrupted; this is what there is")
    if args.json:
        args.json.write_text(json.dumps(record(bench), indent=1) + "\n")


if __name__ == "__main__":
    main()
