"""What one checkpoint of a decoder family is made from: the table's row and helpers to write it shortly."""

from dataclasses import dataclass


@dataclass
class FamilyCase:
    exercises: str  # what an engine must get right to pass, in one sentence
    config: dict  # config.json, spelled as checkpoints on the hub spell it
    seed: int = 1
    dtype: str = "bfloat16"  # of the weights on disk
    gain: float = 1.4  # of a matrix: times 1 / sqrt(fan in) it is the standard deviation
    wide: tuple = ()  # endings of the names of tensors that stay float32 on disk
    prompts: tuple = (1, 9, 40)  # lengths of the recorded prompts
    hidden: int = 1  # the prompt whose hidden states are recorded
    greedy: tuple = (5,)  # lengths of the prompts continued greedily
    new_tokens: int = 24
    greedy_logits: bool = False  # record the logits of every greedy step
    recomputed: bool = False  # transformers drops the cache on the way: greedy steps are passes of their own
    form: object = None  # of the matrices on disk, if they are quantised: quantized_forms.py
    stored: object = None  # (state, config) -> state: what hub checkpoints do to names, and carry besides


def hub(architecture, model_type, vocab, hidden, inner, layers, heads, kv_heads, **more):
    """A config.json with the keys that nearly every family has."""
    return {
        "architectures": [architecture],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": inner,
        "max_position_embeddings": 256,
        "model_type": model_type,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": vocab,
    } | more


def without(config, *keys):
    """The config without keys that the family's checkpoints do not have."""
    return {key: value for key, value in config.items() if key not in keys}
