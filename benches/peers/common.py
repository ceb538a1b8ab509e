"""What the scripts of this folder share: running programs, Python environments, llama.cpp, a quiet machine.

`args` is a parsed command line with `cache`, `model`, `threads`, `build_timeout` and `interpreters` (a Python for
each requirements-*.txt that has one already).
"""

import json
import math
import os
import pathlib
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

LLAMA_CPP_PYTHON = "0.3.36"
LLAMA_CPP_COMMIT = "0c1e57098"
LLAMA_CPP = f"llama.cpp {LLAMA_CPP_COMMIT} (llama-cpp-python {LLAMA_CPP_PYTHON})"

# More cores than this, kept busy by other processes, disturb a measurement.
OTHERS = 0.2


class Unavailable(Exception):
    """Something cannot be measured; the text says why and what to do."""


def end_on_terminate():
    """SIGTERM ends what runs as Ctrl-C does, also in a shell's background, where Ctrl-C itself is ignored."""

    def interrupt(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def say(text):
    print(text, file=sys.stderr, flush=True)


def execute(command, *, what, log=None, timeout, env=None):
    """Run a command and return its standard output; `Unavailable` says what failed, with the end of the output."""
    command = [str(part) for part in command]
    try:
        status, output, errors = communicate(command, timeout, {**os.environ, **(env or {})})
    except FileNotFoundError:
        raise Unavailable(f"{what}: {command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{what}: not done after {timeout} s (--timeout)") from None
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(" ".join(command) + "\n" + output + errors)
    if status:
        lines = (errors.strip() or output.strip()).splitlines()
        end = f"; all of it in {log}" if log else ""
        raise Unavailable(f"{what}: failed with {status}: {lines[-1] if lines else 'no output'}{end}")
    return output


def communicate(command, timeout, env):
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as child:
        try:
            output, errors = child.communicate(timeout=timeout)
        except BaseException:
            # It may have something to give back first.
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
            raise
    return child.returncode, output, errors


def parsed(text, what):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise Unavailable(f"{what}: printed no JSON: {text.strip()[:200]!r}") from None


def busy_seconds():
    """Seconds that all cores together have worked since the system started, and our children's part of it."""
    try:
        fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    ours = resource.getrusage(resource.RUSAGE_CHILDREN)
    all_ = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return all_ - ours.ru_utime - ours.ru_stime


def wait_for_quiet(patience):
    """Until other processes do little, but not longer than so many seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end and (before := busy_seconds()) is not None:
        time.sleep(1)
        if busy_seconds() - before < OTHERS:
            break


def weights(model):
    return sorted(model.glob("*.safetensors"))


def need_room(folder, bytes_, what):
    free = shutil.disk_usage(folder).free
    if free < bytes_:
        raise Unavailable(f"{what} needs {bytes_ / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free")


def parameters(model):
    """Weights of a checkpoint that one token needs: of an embedding table that is not the head one row, not counted."""
    config = json.loads((model / "config.json").read_text())
    if config.get("model_type") != "qwen3":
        sys.exit(f"{model}: model_type {config.get('model_type')}; the peers here are set up for qwen3 only")
    unused = "lm_head.weight" if config["tie_word_embeddings"] else "model.embed_tokens.weight"
    count = 0
    for path in weights(model):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, info in header.items():
            if name not in ("__metadata__", unused):
                count += math.prod(info["shape"])
    if not count:
        sys.exit(f"{model}: no safetensors file here")
    return count


def environment(args, requirements):
    """A Python that has what requirements-*.txt names: the one given for it, or a virtual environment of its own."""
    if given := args.interpreters.get(requirements):
        return given
    folder = args.cache / f"venv-{requirements}"
    python = folder / "bin" / "python"
    done = folder / "complete"
    wanted = (HERE / f"requirements-{requirements}.txt").read_text()
    if not done.is_file() or done.read_text() != wanted:
        say(f"making {folder}")
        log = args.cache / "logs" / f"venv-{requirements}.log"
        limits = dict(log=log, timeout=args.build_timeout)
        execute([sys.executable, "-m", "venv", "--clear", folder], what="python -m venv", **limits)
        install = [python, "-m", "pip", "install", "-r", HERE / f"requirements-{requirements}.txt"]
        execute(install, what="pip install", **limits)
        done.write_text(wanted)
    return python


def llama_cpp(args, python, tools):
    """The folder of these programs of llama.cpp, built if one is missing."""
    build = args.cache / f"llama.cpp-{LLAMA_CPP_PYTHON}" / "build"
    if not all((build / "bin" / tool).is_file() for tool in tools):
        compile_llama_cpp(args, python, build, tools)
    return build / "bin"


def compile_llama_cpp(args, python, build, tools):
    folder = build.parent
    logs = args.cache / "logs"
    if not (folder / "source").is_dir():
        say(f"downloading llama-cpp-python {LLAMA_CPP_PYTHON}")
        command = [python, "-m", "pip", "download", f"llama-cpp-python=={LLAMA_CPP_PYTHON}", "--no-deps"]
        command += ["--no-binary", "llama-cpp-python", "-d", folder]
        execute(command, what="pip download", log=logs / "llama.cpp-download.log", timeout=args.build_timeout)
        unpacked = folder / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)
        shutil.unpack_archive(next(folder.glob("*.tar.gz")), unpacked, filter="data")
        next(unpacked.iterdir()).rename(folder / "source")
    beside = pathlib.Path(python).parent
    cmake = beside / "cmake" if (beside / "cmake").is_file() else "cmake"
    ninja = beside / "ninja" if (beside / "ninja").is_file() else shutil.which("ninja")
    command = [cmake, "-S", folder / "source" / "vendor" / "llama.cpp", "-B", build]
    if ninja:
        command += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    on = ["GGML_NATIVE", "GGML_LLAMAFILE", "GGML_OPENMP", "LLAMA_BUILD_COMMON", "LLAMA_BUILD_TOOLS"]
    off = ["BUILD_SHARED_LIBS", "LLAMA_OPENSSL", "LLAMA_USE_PREBUILT_UI"]
    off += [f"LLAMA_BUILD_{part}" for part in ("TESTS", "EXAMPLES", "SERVER", "APP", "UI")]
    command += ["-DCMAKE_BUILD_TYPE=Release", f"-DLLAMA_BUILD_COMMIT={LLAMA_CPP_COMMIT}"]
    command += [f"-D{name}=ON" for name in on] + [f"-D{name}=OFF" for name in off]
    say(f"building llama.cpp in {build}")
    limits = dict(timeout=args.build_timeout)
    execute(command, what="cmake", log=logs / "llama.cpp-configure.log", **limits)
    command = [cmake, "--build", build, "-j", args.threads, "--target", *tools]
    execute(command, what="building llama.cpp", log=logs / "llama.cpp-build.log", **limits)


def gguf(args, python):
    """The checkpoint as one GGUF file with the same weights, made if it is missing."""
    path = args.cache / "gguf" / f"{args.model.name}.BF16.gguf"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        need_room(path.parent, sum(file.stat().st_size for file in weights(args.model)), "the GGUF file")
        say(f"making {path}")
        limits = dict(log=args.cache / "logs" / "to_gguf.log", timeout=args.build_timeout)
        execute([python, HERE / "to_gguf.py", args.model, path], what="to_gguf.py", **limits)
    return path


def processor():
    try:
        return re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()
