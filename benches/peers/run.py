"""Run `rheostat bench` and other engines on the same weights, alternating, and print one table of ratios.

    python benches/peers/run.py --model CHECKPOINT --cache DIR --peers llama.cpp,torch,candle

What is missing (builds, converted files, virtual environments) is made in the cache folder first; that needs package
registries, a C++ compiler and cargo. Needs nothing but Python's standard library itself. README.md says what is
compared with what.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import platform
import re
import statistics
import sys
import sysconfig
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
    parameters,
    parsed,
    processor,
    say,
    wait_for_quiet,
)


@dataclasses.dataclass(frozen=True)
class Ours:
    """A way to run ours: the checkpoint's suffix, flags, tests that the flags matter to, and what to compare with."""

    suffix: str
    flags: tuple
    tests: tuple
    against: tuple
    quantize: tuple = ()


PLAIN = ("llama.cpp BF16", "torch bf16", "torch f32", "candle f32")
HALF = ("llama.cpp BF16", "torch bf16")
INT8 = ("llama.cpp Q8_0, head bf16", "llama.cpp Q8_0")
INT4 = ("llama.cpp Q4_0, head bf16", "llama.cpp Q4_0")
COMPUTE, CACHE = ("--compute", "bf16"), ("--kv-cache", "bf16")
INTEGERS, TILES = ("--compute", "int8"), ("--compute", "amx")
EVERY = ("prefill", "decode", "depth")
OURS = {
    "bf16": Ours("", (), EVERY, PLAIN),
    "bf16, compute bf16": Ours("", COMPUTE, ("prefill", "decode"), HALF),
    "bf16, compute amx": Ours("", TILES, ("prefill", "decode"), HALF),
    "bf16, cache bf16": Ours("", CACHE, ("depth",), HALF),
    "bf16, compute and cache bf16": Ours("", COMPUTE + CACHE, ("depth",), HALF),
    "int8": Ours("-int8", (), EVERY, INT8, ("--bits", "8")),
    "int8, compute bf16": Ours("-int8", COMPUTE, ("prefill", "decode"), INT8, ("--bits", "8")),
    "int8, compute amx": Ours("-int8", TILES, ("prefill", "decode"), INT8, ("--bits", "8")),
    "int8, compute int8": Ours("-int8", INTEGERS, ("prefill", "decode"), INT8, ("--bits", "8")),
    "int8, cache bf16": Ours("-int8", CACHE, ("depth",), INT8, ("--bits", "8")),
    "int4": Ours("-int4", (), EVERY, INT4, ("--bits", "4")),
    "int4, compute bf16": Ours("-int4", COMPUTE, ("prefill", "decode"), INT4, ("--bits", "4")),
    "int4, compute amx": Ours("-int4", TILES, ("prefill", "decode"), INT4, ("--bits", "4")),
    "int4, compute int8": Ours("-int4", INTEGERS, ("prefill", "decode"), INT4, ("--bits", "4")),
    "int4, cache bf16": Ours("-int4", CACHE, ("depth",), INT4, ("--bits", "4")),
}


@dataclasses.dataclass
class Sample:
    rate: float
    fastest: float
    share: float | None = None
    bytes_per_token: float | None = None
    # Cores that other processes kept busy meanwhile, where the system says it.
    others: float | None = None

    @classmethod
    def of(cls, rates, bytes_per_token):
        return cls(statistics.median(rates), max(rates), bytes_per_token=bytes_per_token)


def watched(args, measure):
    """A measurement beside which other processes did little; the quietest, if there is none."""
    best = None
    for _ in range(args.retries + 1):
        wait_for_quiet(args.patience)
        before, start = busy_seconds(), time.monotonic()
        sample = measure()
        after, seconds = busy_seconds(), time.monotonic() - start
        if before is None:
            return sample
        sample.others = max(0.0, (after - before) / seconds)
        if best is None or sample.others < best.others:
            best = sample
        if best.others < OTHERS:
            break
        say(f"  other processes kept {sample.others:.2f} cores busy meanwhile")
    return best


class Rheostat:
    def __init__(self, args):
        self.args = args
        self.binary = args.rheostat
        if not self.binary.is_file():
            sys.exit(f"{self.binary}: no such file; build it with `cargo build --release` or give --rheostat PATH")
        self.version = execute([self.binary, "--version"], what="rheostat --version", timeout=60).strip()
        self.commands = execute([self.binary, "--help"], what="rheostat --help", timeout=60)
        self.flags = execute([self.binary, "bench", "--help"], what="rheostat bench --help", timeout=60)
        self.checkpoints = {}

    def prepare(self, name):
        variant = OURS[name]
        for flag in variant.flags:
            if flag.startswith("--") and not re.search(rf"{flag}\b", self.flags):
                raise Unavailable(f"`rheostat bench` has no {flag}")
        if variant.suffix not in self.checkpoints:
            self.checkpoints[variant.suffix] = self.checkpoint(variant)
        return self.checkpoints[variant.suffix]

    def checkpoint(self, variant):
        model, cache = self.args.model, self.args.cache
        if not variant.suffix:
            return model
        beside = model.with_name(model.name + variant.suffix)
        made = cache / "checkpoints" / (model.name + variant.suffix)
        for path in (beside, made):
            if (path / "config.json").is_file():
                return path
        if not re.search(r"^\s+quantize\b", self.commands, re.MULTILINE):
            raise Unavailable(f"there is no {beside}, and this rheostat has no `quantize` to make it")
        say(f"making {made}")
        made.parent.mkdir(parents=True, exist_ok=True)
        execute(
            [self.binary, "quantize", model, made, *variant.quantize],
            what=f"rheostat quantize {' '.join(variant.quantize)}",
            log=cache / "logs" / f"quantize{variant.suffix}.log",
            timeout=self.args.build_timeout,
        )
        return made

    def measure(self, name, test):
        args = self.args
        shape = {
            "prefill": ["-p", args.n_prompt, "-n", 0],
            "decode": ["-p", 0, "-n", args.n_gen, "-d", 0],
            "depth": ["-p", 0, "-n", args.n_gen, "-d", args.depth],
        }[test]
        command = [self.binary, "bench", self.checkpoints[OURS[name].suffix], *shape, *OURS[name].flags]
        command += ["-r", args.repetitions, "-t", args.threads, "--json"]
        answer = parsed(execute(command, what="rheostat bench", timeout=args.timeout), "rheostat bench")
        if answer["streamed_bytes_per_sweep"]:
            raise Unavailable("the weights did not fit into memory: this would measure the disk")
        row = answer["tests"][0]
        rate = row["tokens_per_second"]
        bytes_ = row["rate"] * 1e9 / rate if row["unit"] == "GB/s" else None
        return Sample(rate, row["fastest"], row["share_of_limit"], bytes_)


class Peer:
    """What `configurations` names, prepared by `prepare`, measured by `measure`."""

    def __init__(self, args):
        self.args = args
        self.version = None
        self.choices = {}

    def options(self, name, test):
        """Settings between which the fastest is chosen, before anything is measured."""
        return [{}]

    def settle(self, name, test):
        options = self.options(name, test)
        args = self.args
        key = " | ".join([args.model.name, name, self.version, test, args.shape(test), f"{args.threads} threads"])
        path = args.cache / "settled.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        if len(options) > 1 and (args.resettle or key not in known):
            rates, failures, quiet = {}, [], True
            for option in options:
                text = json.dumps(option)
                try:
                    measure = functools.partial(self.measure, name, test, option, args.repetitions)
                    sample = watched(args, measure)
                    rates[text] = sample.fastest
                    quiet = quiet and (sample.others is None or sample.others < OTHERS)
                    say(f"  {name}, {test}: {text}: {rates[text]:.2f} tok/s")
                except Unavailable as error:
                    failures.append(error)
                    say(f"  {name}, {test}: {text}: {error}")
            if not rates:
                raise failures[0]
            known[key] = json.loads(max(rates, key=rates.get))
            if quiet:
                path.write_text(json.dumps(known, indent=1) + "\n")
            else:
                say(f"  {name}, {test}: other processes disturbed this choice; the next run makes it again")
        self.choices[name, test] = known[key] if len(options) > 1 else options[0]


class LlamaCpp(Peer):
    # The head (with tied embeddings the same tensor as the embedding) stays as it is, as in our int8 and int4
    # checkpoints; --pure gives every other matrix the one type. Without these flags `llama-quantize` gives the head
    # Q8_0 beside Q8_0, and Q6_K beside Q4_0.
    HEAD_BF16 = ("--pure", "--output-tensor-type", "bf16", "--token-embedding-type", "bf16")
    configurations = {
        "llama.cpp BF16": ("BF16", ()),
        "llama.cpp Q8_0": ("Q8_0", ()),
        "llama.cpp Q4_0": ("Q4_0", ()),
        "llama.cpp Q8_0, head bf16": ("Q8_0", HEAD_BF16),
        "llama.cpp Q4_0, head bf16": ("Q4_0", HEAD_BF16),
    }

    def prepare(self, names):
        args = self.args
        self.version = LLAMA_CPP
        python = environment(args, "llama.cpp")
        self.tools = llama_cpp(args, python, ("llama-bench", "llama-quantize"))
        self.files, self.sweeps = {}, {}
        plain = gguf(args, python)
        for name in names:
            kind, flags = self.configurations[name]
            path = plain if kind == "BF16" else plain.parent / f"{args.model.name}.{kind}{'-head-bf16' if flags else ''}.gguf"
            if not path.is_file():
                say(f"making {path}")
                partial = path.with_suffix(".partial")
                log = args.cache / "logs" / f"{path.stem}.log"
                command = [self.tools / "llama-quantize", *flags, plain, partial, kind, args.threads]
                execute(command, what=f"llama-quantize {kind}", log=log, timeout=args.build_timeout)
                partial.rename(path)
            self.files[name] = path
            command = [python, HERE / "to_gguf.py", "--sweep", path]
            self.sweeps[name] = int(execute(command, what="to_gguf.py --sweep", timeout=args.timeout))

    def options(self, name, test):
        return [{"flash_attn": "off"}, {"flash_attn": "on"}]

    def measure(self, name, test, option, repetitions):
        args = self.args
        shape = {
            "prefill": ["-p", args.n_prompt, "-n", 0],
            "decode": ["-p", 0, "-n", args.n_gen],
            "depth": ["-p", 0, "-n", args.n_gen, "-d", args.depth],
        }[test]
        command = [self.tools / "llama-bench", "-m", self.files[name], *shape, "-fa", option["flash_attn"]]
        command += ["-t", args.threads, "-r", repetitions, "-o", "json"]
        row = parsed(execute(command, what="llama-bench", timeout=args.timeout), "llama-bench")[0]
        bytes_ = None if test == "prefill" else self.sweeps[name] + args.cache_bytes(test, 2)
        return Sample.of(row["samples_ts"], bytes_)


class Torch(Peer):
    configurations = {"torch bf16": ("bfloat16", 2), "torch f32": ("float32", 4)}

    def prepare(self, names):
        self.python = environment(self.args, "torch")
        program = "import torch, transformers as t; print(f'torch {torch.__version__}, transformers {t.__version__}')"
        try:
            self.version = execute([self.python, "-c", program], what="torch", timeout=self.args.timeout).strip()
        except Unavailable as error:
            raise Unavailable(f"{error} (give another --python, or none to have one made)") from None

    def options(self, name, test):
        return [dict(attention=a, cache=c) for a in ("sdpa", "eager") for c in ("dynamic", "static")]

    def measure(self, name, test, option, repetitions):
        args = self.args
        dtype, width = self.configurations[name]
        shape = {
            "prefill": ["--test", "prefill", "-p", args.n_prompt],
            "decode": ["--test", "decode", "-n", args.n_gen],
            "depth": ["--test", "decode", "-n", args.n_gen, "-d", args.depth],
        }[test]
        command = [self.python, HERE / "torch_bench.py", args.model, "--dtype", dtype, *shape, "-t", args.threads]
        command += ["-r", repetitions, "--attention", option["attention"], "--cache", option["cache"]]
        env = {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        answer = parsed(execute(command, what="torch_bench.py", timeout=args.timeout, env=env), "torch_bench.py")
        bytes_ = None if test == "prefill" else args.parameters * width + args.cache_bytes(test, width)
        return Sample.of(answer["tokens_per_second"], bytes_)


class Candle(Peer):
    configurations = {"candle f32": ("f32", 4)}

    def prepare(self, names):
        lock = (HERE / "candle" / "Cargo.lock").read_text()
        self.version = "candle " + re.search(r'name = "candle-core"\nversion = "(.*)"', lock)[1]
        target = self.args.cache / "candle"
        say(f"building candle in {target} (nothing to do if it is there)")
        command = ["cargo", "build", "--release", "--locked", "--manifest-path", HERE / "candle" / "Cargo.toml"]
        command += ["--target-dir", target, "-j", self.args.threads]
        log = self.args.cache / "logs" / "candle-build.log"
        native = {"RUSTFLAGS": "-C target-cpu=native"}
        execute(command, what="building candle", log=log, timeout=self.args.build_timeout, env=native)
        self.binary = target / "release" / "candle-bench"

    def measure(self, name, test, option, repetitions):
        args = self.args
        dtype, width = self.configurations[name]
        shape = {
            "prefill": ["prefill", args.n_prompt, repetitions],
            "decode": ["decode", args.n_gen, repetitions],
            "depth": ["decode", args.n_gen, repetitions, args.depth],
        }[test]
        env = {"RAYON_NUM_THREADS": str(args.threads)}
        command = [self.binary, args.model, dtype, *shape]
        answer = parsed(execute(command, what="candle-bench", timeout=args.timeout, env=env), "candle-bench")
        bytes_ = None if test == "prefill" else args.parameters * width + args.cache_bytes(test, width)
        return Sample.of(answer["tokens_per_second"], bytes_)


PEERS = {"llama.cpp": LlamaCpp, "torch": Torch, "candle": Candle}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=pathlib.Path, required=True, help="bf16 checkpoint of a qwen3 model")
    add("--cache", type=pathlib.Path, required=True, help="folder for builds, converted files and environments")
    add("--rheostat", type=pathlib.Path, default=ROOT / "target" / "release" / "rheostat", metavar="PATH")
    add("--peers", default=",".join(PEERS), help="default: %(default)s")
    add("--variants", default="; ".join(OURS), help="of ours, separated by semicolons; default: %(default)s")
    add("--tests", default=",".join(EVERY), help="default: %(default)s")
    add("--rounds", type=int, default=5, help="default: %(default)s")
    add("--repetitions", type=int, default=3, help="in each round, of which the median counts; default: %(default)s")
    add("--threads", type=int, default=os.cpu_count(), help="default: one for each core")
    add("--n-prompt", type=int, default=512, help="default: %(default)s")
    add("--n-gen", type=int, default=64, help="default: %(default)s")
    add("--depth", type=int, default=4096, help="default: %(default)s")
    add("--python", type=pathlib.Path, help="an interpreter with the packages of requirements-*.txt; default: a new one")
    add("--resettle", action="store_true", help="look again for the fastest settings of the peers")
    add("--prepare", action="store_true", help="make what is missing, find the peers' fastest settings, and stop")
    add("--retries", type=int, default=2, help="times to repeat what other processes disturbed; default: %(default)s")
    add("--patience", type=int, default=60, help="seconds to wait for other processes; default: %(default)s")
    add("--timeout", type=int, default=900, help="seconds that one measurement may take; default: %(default)s")
    add("--build-timeout", type=int, default=7200, help="the same for one step of preparation; default: %(default)s")
    add("--json", type=pathlib.Path, metavar="OUT", help="every single figure goes here")
    args = parser.parse_args()
    for field, known, mark in (("peers", PEERS, ","), ("variants", OURS, ";"), ("tests", EVERY, ",")):
        given = [part.strip() for part in getattr(args, field).split(mark) if part.strip()]
        for part in given:
            if part not in known:
                parser.error(f"--{field}: no {part!r}; there are {f'{mark} '.join(known)}")
        setattr(args, field, given)
    for field in ("rounds", "repetitions", "threads", "n_prompt", "n_gen", "depth"):
        if getattr(args, field) < 1:
            parser.error(f"--{field.replace('_', '-')}: must be at least 1")
    # A variant with nobody to compare it with is not measured.
    theirs = {name for kind in args.peers for name in PEERS[kind].configurations}
    args.variants = [name for name in args.variants if theirs.intersection(OURS[name].against)]
    if not args.variants:
        parser.error("none of these variants is compared with any of these peers")
    if not (args.model / "config.json").is_file():
        parser.error(f"--model: {args.model} has no config.json")
    args.model, args.cache, args.rheostat = args.model.resolve(), args.cache.resolve(), args.rheostat.resolve()
    args.interpreters = dict.fromkeys(("llama.cpp", "torch"), args.python.absolute()) if args.python else {}
    args.cache.mkdir(parents=True, exist_ok=True)
    describe(args)
    return args


def describe(args):
    """What the bytes per token of the peers follow from."""
    config = json.loads((args.model / "config.json").read_text())
    args.parameters = parameters(args.model)
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    values = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim
    # As `rheostat bench` counts them: the cache at the middle of what is written.
    args.cache_bytes = lambda test, width: values * width * ((args.depth if test == "depth" else 0) + args.n_gen // 2)
    args.shape = lambda test: {
        "prefill": f"{args.n_prompt}",
        "decode": f"{args.n_gen}",
        "depth": f"{args.n_gen} after {args.depth}",
    }[test]


def prepare(args):
    """Everything that can be measured, and why the rest cannot."""
    reasons = {}
    ours = Rheostat(args)
    for name in args.variants:
        try:
            ours.prepare(name)
        except Unavailable as error:
            reasons[name] = str(error)
            say(f"ours, {name}: left out: {error}")
    variants = [name for name in args.variants if name not in reasons]
    wanted = dict.fromkeys(peer for name in variants for peer in OURS[name].against)
    peers, versions = {}, {"rheostat": ours.version}
    for kind in args.peers:
        names = [name for name in wanted if name in PEERS[kind].configurations]
        peer = PEERS[kind](args)
        if not names:
            continue
        try:
            peer.prepare(names)
        except Unavailable as error:
            say(f"{kind}: left out: {error}")
            reasons |= {name: str(error) for name in names}
            continue
        finally:
            versions[kind] = peer.version or "unknown"
        peers |= {name: peer for name in names}
    return ours, variants, peers, versions, reasons


def main():
    args = arguments()
    end_on_terminate()
    ours, variants, peers, versions, reasons = prepare(args)
    rounds = {test: [] for test in args.tests}
    broken = {}
    try:
        measure_all(args, ours, variants, peers, rounds, broken)
    except KeyboardInterrupt:
        if args.prepare:
            sys.exit("interrupted; what was made stays")
        say("interrupted; this is what there is")
    if args.prepare:
        say("everything is ready" if not reasons and not broken else "the rest is ready")
        return
    rows = table(args, rounds)
    print(render(args, rounds, rows, versions, reasons, broken, peers))
    if args.json:
        args.json.write_text(json.dumps(record(args, rounds, rows, versions, reasons, broken, peers), indent=1) + "\n")


def measure_all(args, ours, variants, peers, rounds, broken):
    """Fills `rounds`, and `broken` with what fails on the way."""
    for test in args.tests:
        mine = [name for name in variants if test in OURS[name].tests]
        theirs = [name for name in peers if any(name in OURS[mate].against for mate in mine)]
        for name in theirs:
            try:
                peers[name].settle(name, test)
            except Unavailable as error:
                broken[name, test] = str(error)
                say(f"{name}, {test}: left out: {error}")
        if args.prepare:
            continue
        # What is compared runs close together.
        order = dict.fromkeys(n for name in mine for n in (name, *OURS[name].against) if n in mine or n in theirs)
        for number in range(args.rounds):
            samples = {}
            rounds[test].append(samples)
            # Every other round the other way round, so that nothing always runs after the same neighbour.
            for name in list(order)[:: -1 if number % 2 else 1]:
                if (name, test) in broken:
                    continue
                try:
                    if name in theirs:
                        choice = peers[name].choices[name, test]
                        measure = functools.partial(peers[name].measure, name, test, choice, args.repetitions)
                    else:
                        measure = functools.partial(ours.measure, name, test)
                    samples[name] = watched(args, measure)
                    say(f"{test}, round {number + 1}: {name}: {samples[name].rate:.2f} tok/s")
                except Unavailable as error:
                    broken[name, test] = str(error)
                    say(f"{test}, round {number + 1}: {name}: left out from here: {error}")


def table(args, rounds):
    rows = []
    for test, samples in rounds.items():
        for name in args.variants:
            if test not in OURS[name].tests:
                continue
            for peer in OURS[name].against:
                pairs = [(round_[name], round_[peer]) for round_ in samples if name in round_ and peer in round_]
                if not pairs:
                    continue
                ratios = [a.rate / b.rate for a, b in pairs]
                shares = [a.share for a, _ in pairs if a.share is not None]
                rows.append(dict(
                    test=test,
                    ours=name,
                    peer=peer,
                    ours_tokens_per_second=statistics.median(a.rate for a, _ in pairs),
                    peer_tokens_per_second=statistics.median(b.rate for _, b in pairs),
                    ratio=statistics.median(ratios),
                    lowest_ratio=min(ratios),
                    highest_ratio=max(ratios),
                    share_of_limit=statistics.median(shares) if shares else None,
                    ours_bytes_per_token=pairs[0][0].bytes_per_token,
                    peer_bytes_per_token=pairs[0][1].bytes_per_token,
                    rounds=len(pairs),
                ))
    return rows


def title(args, test):
    return {
        "prefill": f"prefill {args.n_prompt}",
        "decode": f"decode {args.n_gen}",
        "depth": f"decode {args.n_gen} after {args.depth}",
    }[test]


def render(args, rounds, rows, versions, reasons, broken, peers):
    lines = [
        f"{args.model.name}, {args.threads} threads, {processor()}; {args.rounds} rounds, "
        f"median of {args.repetitions} in each; {'; '.join(versions.values())}",
        "",
        "| test | ours | peer | ours, tok/s | of our limit | peer, tok/s | ours / peer | lowest to highest "
        "| GB per token, ours / peer |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rate = lambda value: f"{value:.1f}" if value >= 100 else f"{value:.2f}"
    for row in rows:
        share = "-" if row["share_of_limit"] is None else f"{100 * row['share_of_limit']:.0f} %"
        mine, other = row["ours_bytes_per_token"], row["peer_bytes_per_token"]
        size = f"{mine * 1e-9:.2f} / {other * 1e-9:.2f}" if mine and other else "-"
        if row["rounds"] < args.rounds:
            size += f" ({row['rounds']} of {args.rounds} rounds)"
        lines.append(
            f"| {title(args, row['test'])} | {row['ours']} | {row['peer']} "
            f"| {rate(row['ours_tokens_per_second'])} | {share} "
            f"| {rate(row['peer_tokens_per_second'])} | **{row['ratio']:.2f}** "
            f"| {row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f} | {size} |"
        )
    for ours in (True, False):
        missing = {}
        for name, reason in reasons.items():
            if (name in OURS) == ours:
                missing.setdefault(("all", f"not measured: {reason}"), []).append(name)
        for (name, test), reason in broken.items():
            if (name in OURS) == ours:
                missing.setdefault((title(args, test), f"failed: {reason}"), []).append(name)
        for (test, reason), names in missing.items():
            who = f"{'; '.join(names)} |" if ours else f"| {'; '.join(names)}"
            lines.append(f"| {test} | {who} | {reason.replace('|', '/')} | | | | | |")
    chosen = [
        f"{name}, {test}: {', '.join(f'{k} {v}' for k, v in option.items())}"
        for peer in dict.fromkeys(peers.values())
        for (name, test), option in peer.choices.items()
        if option
    ]
    samples = [sample for rounds_ in rounds.values() for round_ in rounds_ for sample in round_.values()]
    others = [sample.others for sample in samples if sample.others is not None]
    disturbed = sum(o >= OTHERS for o in others)
    if disturbed:
        lines += ["", f"Other processes kept more than {OTHERS} cores busy during {disturbed} of {len(others)} "
                  f"measurements, {max(others):.1f} at most: take the range of the ratios seriously."]
    if chosen:
        lines += ["", "Settings of the peers, the fastest of those tried: " + "; ".join(chosen) + "."]
    return "\n".join(lines)


def record(args, rounds, rows, versions, reasons, broken, peers):
    return dict(
        model=args.model.name,
        threads=args.threads,
        processor=processor(),
        system=f"{platform.system()} {platform.release()}, {sysconfig.get_platform()}",
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        versions=versions,
        tests={test: args.shape(test) for test in args.tests},
        repetitions=args.repetitions,
        rows=rows,
        rounds={
            test: [{name: dataclasses.asdict(sample) for name, sample in round_.items()} for round_ in samples]
            for test, samples in rounds.items()
        },
        settings={
            f"{name}, {test}": option
            for peer in dict.fromkeys(peers.values())
            for (name, test), option in peer.choices.items()
        },
        not_measured=reasons | {f"{name}, {test}": reason for (name, test), reason in broken.items()},
    )


if __name__ == "__main__":
    main()
