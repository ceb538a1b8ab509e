"""Does the engine agree with transformers on a checkpoint of a real model's shape? One command that makes, records and checks:

    python tools/acceptance.py                                  Qwen3-1.7B's shape: 3.2 GiB on disk, some 8 GiB of memory
    python tools/acceptance.py --memory 1GiB                    the engine in 1 GiB
    python tools/acceptance.py --layers 2                       quickly, with two of the layers
    python tools/acceptance.py --checkpoint DIR                 of a checkpoint that is there

The checkpoint has random weights (make_shape.py). transformers reads three short texts in float32 with eager attention
(validation.py), and `rheostat validate` compares: family, sizes, QK-norm, tokens, the ten likeliest tokens in their order, their
logits and the last residual. Then the reference is damaged, one number by 2e-3, and validate has to find it. The exit code is 0
if both come out as they should.

Without --checkpoint, everything is made in a folder that is removed in the end, or kept with --keep DIR.
"""

import argparse
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile

TOOLS = pathlib.Path(__file__).resolve().parent
ROOT = TOOLS.parent
TEXTS = ["To be, or not to be", "My lord, the king is dead."]
# As of any tokenizer: the vocabulary of the shape is larger than that of the tokenizer that lies beside it.
TOKENS = "785,6722,315,9625,374"


def run(command, expected=(0,)):
    print("$", shlex.join(map(str, command)), flush=True)
    code = subprocess.run(command, cwd=ROOT).returncode
    if code not in expected:
        sys.exit(f"acceptance.py: the last command ended with {code}, where {expected[0]} was expected")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=pathlib.Path, help="a checkpoint with a tokenizer, instead of a new one")
    parser.add_argument("--shape", default="qwen3-1.7b", help="the shape of the new one, as make_shape.py has it")
    parser.add_argument("--layers", help="how many of its layers")
    parser.add_argument("--keep", type=pathlib.Path, metavar="DIR", help="where to make it, and leave it")
    parser.add_argument("--memory", help="the engine's --memory")
    parser.add_argument("--rheostat", default="cargo run --release --quiet -p rheostat-cli --", metavar="COMMAND",
                        help="how the engine is started")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(arguments.keep or scratch).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = arguments.checkpoint and arguments.checkpoint.resolve()
        if checkpoint is None:
            checkpoint = folder / arguments.shape
            layers = ["--layers", arguments.layers] if arguments.layers else []
            if not (checkpoint / "config.json").is_file():
                run([sys.executable, TOOLS / "make_shape.py", arguments.shape, checkpoint, *layers,
                     "--tokenizer", ROOT / "assets/tiny-shakespeare"])
        recorded, damaged = folder / "reference.json", folder / "damaged.json"
        prompts = [word for text in TEXTS for word in ("--prompt", text)]
        run([sys.executable, TOOLS / "validation.py", checkpoint, *prompts, "--tokens", TOKENS, "--out", recorded])
        memory = ["--memory", arguments.memory] if arguments.memory else []
        validate = [*shlex.split(arguments.rheostat), "validate", checkpoint, *memory, "--reference"]
        run([*validate, recorded])
        reference = json.loads(recorded.read_text())
        reference["test_cases"][1]["top_10"][4]["logit"] += 2e-3
        damaged.write_text(json.dumps(reference))
        print("\nThe same with one logit of the reference moved by 2e-3, which has to be found:", flush=True)
        run([*validate, damaged], expected=(1,))
    print("\nacceptance.py: the engine agrees with transformers, and a damaged reference was found out.")


if __name__ == "__main__":
    main()
