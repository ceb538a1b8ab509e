"""Writes testdata/traces/: traces of every family, healthy and with planted faults, and index.json, which lists them.

    python tools/make_traces.py

index.json is a list of

    {"trace": "gemma2_switches.safetensors", "checkpoint": "gemma2_switches", "tokens": [...], "dtype": "float32",
     "fault": null, "expect": null}

`checkpoint` is a folder of testdata/ and `dtype` what it was computed in. With `fault`, a name of faults.py, the
model that was recorded had that fault, and `expect` is the first point in the order of computing that is not as in the
healthy model. Traces with a fault have the points of the first two blocks and of the ends; they and those in bfloat16
are without `hook_result` and `hook_state`, which are large.

Prompts are short, but longer than small windows; of those, some rows were recorded and not all. Tokens are such that no
choice of experts hangs on rounding. Made again, the files are the same.
"""

import json
import shutil

import torch
import transformers

import checkpoints
import faults
import routing
import trace
import trace_check
from continuation import random_tokens
from reference import TESTDATA

SHORT = 6  # tokens of a prompt without a window
SEEN = 2e-4  # a fault's first wrong point differs by more than this

# A checkpoint of every family, and a second one of those whose blocks can be put together in other ways.
HEALTHY = """
    apertus_switches arcee_switches cohere_switches cohere2_switches deepseek_v2_hub deepseek_v3_switches
    ernie4_5_switches exaone4_switches falcon_grouped falcon_serial gemma_switches gemma2_switches gemma3_switches
    gemma3_wrapper glm_switches glm4_switches glm4_moe_switches gpt2_switches gpt_neox_hub gpt_neox_switches
    gpt_oss_switches granite_switches granitemoe_switches hunyuan_v1_dense_switches lfm2_switches llama_plain
    minimax_m2_switches mistral_window mixtral_switches nemotron_switches olmo_switches olmo2_switches
    olmo3_switches olmoe_switches opensci_bare phi_switches phi3_hub phimoe_switches qwen2_window qwen2_moe_switches
    qwen3_window qwen3_5_switches qwen3_5_wrapper qwen3_moe_switches qwen3_next_switches seed_oss_switches
    smollm3_switches stablelm_switches starcoder2_switches
""".split()
REDUCED = ["llama_plain", "gemma2_switches", "qwen3_moe_switches"]
# Fault -> a checkpoint that can have it, and the first point that is wrong.
FAULTY = {
    "zero_inv_freq": ("llama_plain", "blocks.0.attn.hook_rot_q"),
    "wrong_rope_theta": ("llama_biases", "blocks.0.attn.hook_rot_q"),
    "wrong_eps": ("llama_linear_rope", "blocks.0.ln1.hook_scale"),
    "missing_qk_norm": ("qwen3_tied", "blocks.0.attn.hook_q_normed"),
    "norm_plus_one": ("mistral_head_dim", "blocks.0.ln1.hook_out"),
    "wrong_head_mapping": ("smollm3_switches", "blocks.0.attn.hook_attn_scores"),
    "window_off_by_one": ("mistral_window", "blocks.0.attn.hook_attn_scores"),
    "interleaved_rope": ("qwen2_window", "blocks.0.attn.hook_rot_q"),
    "wrong_partial_rotary": ("glm_switches", "blocks.0.attn.hook_rot_q"),
    "dropped_bias": ("qwen2_layer_types", "blocks.0.attn.hook_q"),
    "wrong_soft_cap": ("gemma2_hub", "blocks.0.attn.hook_attn_scores"),
    "unscaled_attention": ("olmo2_hub", "blocks.0.attn.hook_attn_scores"),
    "missing_sink": ("gpt_oss_hub", "blocks.0.attn.hook_pattern"),
    "tanh_gelu": ("gpt_neox_hub", "blocks.0.mlp.hook_post"),
    "swapped_gate_and_up": ("llama_yarn", "blocks.0.mlp.hook_pre"),
    "renormalised_router": ("olmoe_hub", "blocks.0.mlp.hook_chosen_weights"),
    "choice_without_bias": ("deepseek_v3_hub", "blocks.1.mlp.hook_expert_indices"),
    "transposed_expert": ("mixtral_hub", "blocks.0.hook_mlp_out"),
    "missing_shared_gate": ("qwen2_moe_hub", "blocks.0.mlp.hook_shared_out"),
    "reversed_convolution": ("qwen3_next_switches", "blocks.1.attn.hook_conv"),
    "forgotten_decay_bias": ("qwen3_5_switches", "blocks.1.attn.hook_decay"),
    "missing_embedding_scale": ("gemma_hub", "hook_embed"),
    "positions_from_one": ("gpt2_hub", "hook_pos_embed"),
    "missing_residual_multiplier": ("granite_switches", "blocks.0.hook_attn_out"),
    "untied_head": ("qwen3_tied", "logits"),
    "missing_final_soft_cap": ("gemma2_hub", "logits"),
}
OF_FAULTY = ("hook_", "blocks.0.", "blocks.1.", "ln_final.", "logits")  # beginnings of names
LARGE = ("hook_result", "hook_state")  # which follow from others


def inputs(case):
    """The prompt for a checkpoint, and the rows to record of it."""
    config = json.loads((TESTDATA / case / "config.json").read_text())
    config = config.get("text_config") or config
    window = config.get("sliding_window") or 0
    length = max(SHORT, window + 2) if window < 40 else SHORT
    for seed in range(1, 100):
        tokens = random_tokens(length, config["vocab_size"], seed)
        if is_clear(case, tokens):
            break
    rows = None if length <= SHORT else sorted({0, length // 2, length - 2, length - 1})
    return tokens, rows


@torch.no_grad()
def is_clear(case, tokens):
    """Whether experts are chosen by more than rounding."""
    model = trace.load(TESTDATA / case)
    if not any(type(module).__name__.endswith("Router") for module in model.modules()):
        return True
    with routing.watch(model) as choices:
        model(torch.tensor([tokens]))
    return choices.smallest >= routing.GAP


def healthy(case, dtype="float32"):
    tokens, rows = inputs(case)
    tensors, metadata = trace.record_trace(trace.load(TESTDATA / case, dtype), tokens, positions=rows)
    wrong = trace_check.complaints(tensors, metadata)
    assert not wrong and "missing" not in metadata, (case, wrong, metadata.get("missing"))
    if dtype == "float32":
        return write(case, case, tokens, tensors, metadata)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(LARGE)}
    return write(f"{case}_{dtype}", case, tokens, tensors, metadata)


def faulty(fault, case, expect):
    tokens, rows = inputs(case)
    model = trace.load(TESTDATA / case)
    right, _ = trace.record_trace(model, tokens, positions=rows)
    points = [name for name in right if name.startswith(OF_FAULTY) and not name.endswith(LARGE)]
    with faults.planted(model, fault):
        tensors, metadata = trace.record_trace(model, tokens, points, rows, allow_zero_rope=True)
    again, _ = trace.record_trace(model, tokens, positions=rows)
    assert all(torch.equal(tensor, again[name]) for name, tensor in right.items()), f"{fault} stays in the model"
    differing = [name for name, tensor in tensors.items() if not torch.equal(tensor, right[name])]
    difference = (tensors[expect].float() - right[expect].float()).nan_to_num().abs().max()
    assert differing[0] == expect and float(difference) > SEEN, (fault, differing[:3], difference)
    return write(fault, case, tokens, tensors, metadata, fault, expect)


def write(name, case, tokens, tensors, metadata, fault=None, expect=None):
    file = f"{name}.safetensors"
    trace.save(TESTDATA / "traces" / file, tensors, metadata)
    entry = {"trace": file, "checkpoint": case, "tokens": tokens, "dtype": metadata["dtype"]}
    return entry | {"fault": fault, "expect": expect}


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    families = {json.loads(path.read_text())["model_type"] for path in TESTDATA.glob("*/config.json")}
    covered = {json.loads((TESTDATA / case / "config.json").read_text())["model_type"] for case in HEALTHY}
    assert covered == families, f"families without a trace: {families - covered}"
    assert set(FAULTY) == set(faults.FAULTS), "every fault needs a trace"
    folder = TESTDATA / "traces"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    index = [healthy(case) for case in HEALTHY]
    index += [healthy(case, "bfloat16") for case in REDUCED]
    index += [faulty(fault, case, expect) for fault, (case, expect) in FAULTY.items()]
    checkpoints.write_json(folder / "index.json", index)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{len(index)} traces, {size // 1024} KiB")


if __name__ == "__main__":
    main()
