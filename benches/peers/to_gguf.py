"""Write a bf16 safetensors checkpoint of a qwen3 model as a GGUF file with the same weights.

    python to_gguf.py CHECKPOINT OUT.gguf
    python to_gguf.py --sweep FILE.gguf       bytes of weights that one token reads

Needs numpy and gguf. Matrices stay bf16, bit for bit; norms become f32, as llama.cpp wants them. There is no
tokenizer in the file: llama-bench draws its tokens at random.
"""

import argparse
import json
import pathlib
import sys

import gguf
import numpy as np

LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name):
    stem, _, last = name.rpartition(".")
    if last == "weight" and stem in OUTSIDE:
        return OUTSIDE[stem] + ".weight"
    if last == "weight" and stem.startswith("model.layers."):
        number, _, part = stem.removeprefix("model.layers.").partition(".")
        if part in LAYER:
            return f"blk.{number}.{LAYER[part]}.weight"
    sys.exit(f"{name}: no such tensor in a qwen3 model; this script converts nothing else")


def tensors(checkpoint):
    """Name and bits (uint16) of every tensor, not yet read."""
    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        sys.exit(f"{checkpoint}: no safetensors file here")
    for path in files:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        for name, info in header.items():
            if name == "__metadata__":
                continue
            if info["dtype"] != "BF16":
                sys.exit(f"{path}: {name} is {info['dtype']}; only bf16 checkpoints are converted")
            start, _ = info["data_offsets"]
            shape = tuple(info["shape"])
            yield name, np.memmap(path, dtype="<u2", mode="r", offset=8 + size + start, shape=shape)


def convert(checkpoint, out):
    config = json.loads((checkpoint / "config.json").read_text())
    if config.get("model_type") != "qwen3":
        sys.exit(f"{checkpoint}: model_type {config.get('model_type')}; only qwen3 is converted")
    rope = config.get("rope_parameters") or {}
    if config.get("rope_scaling") or rope.get("rope_type", "default") != "default":
        sys.exit(f"{checkpoint}: scaled RoPE is not converted")
    if config.get("use_sliding_window") or config.get("attention_bias"):
        sys.exit(f"{checkpoint}: sliding windows and biases are not converted")
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    partial = out.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "qwen3")
    writer.add_name(checkpoint.name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_freq_base(float(config.get("rope_theta") or rope["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    for name, bits in tensors(checkpoint):
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        if bits.ndim == 1:
            writer.add_tensor(gguf_name(name), (bits.astype(np.uint32) << 16).view(np.float32))
        else:
            writer.add_tensor(gguf_name(name), bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(out)


def sweep(path):
    """Every tensor once; of an embedding that is not the head as well only one row, which does not count."""
    sizes = {t.name: int(t.n_bytes) for t in gguf.GGUFReader(path).tensors}
    if "output.weight" in sizes:
        del sizes["token_embd.weight"]
    return sum(sizes.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path, nargs="?")
    parser.add_argument("out", type=pathlib.Path, nargs="?")
    parser.add_argument("--sweep", type=pathlib.Path, metavar="FILE")
    args = parser.parse_args()
    if args.sweep:
        print(sweep(args.sweep))
    elif args.checkpoint and args.out:
        convert(args.checkpoint, args.out)
    else:
        parser.error("give a checkpoint and a file to write, or --sweep and a file")


if __name__ == "__main__":
    main()
