"""The table of checkpoints that reference.py makes under testdata/."""

from dataclasses import dataclass

import toy_tokenizers
from quantized import Quantization


@dataclass
class Case:
    exercises: str  # what an engine must get right to pass, in one sentence
    config: dict  # config.json
    seed: int
    dtype: str = "float32"  # of the weights on disk
    prompts: tuple = (1, 17, 45)  # lengths of the recorded prompts
    hidden: bool = True  # record the hidden states too, and not the logits alone
    greedy: tuple = (5,)  # lengths of the prompts continued greedily
    greedy_logits: bool = False  # record the logits of every greedy step
    generation_config: dict | None = None
    shards: int = 1
    head: str | None = None  # what a tied checkpoint stores as lm_head.weight
    short_norm_names: bool = False  # opensci: q_norm instead of q_layernorm
    tokenizer: object = None  # a builder of toy_tokenizers
    texts: tuple = ()  # texts continued greedily, where there is a tokenizer
    chat: bool = False  # record the rendering of the chat template
    quantization: Quantization | None = None


def config(architecture, model_type, vocab, hidden, inner, layers, heads, kv_heads, **more):
    """A config.json; `kv_heads` None leaves the key out."""
    values = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
    } | more
    if kv_heads is None:
        del values["num_key_value_heads"]
    return values


def llama(*sizes, **more):
    return config("LlamaForCausalLM", "llama", *sizes, **more)


def mistral(*sizes, **more):
    return config("MistralForCausalLM", "mistral", *sizes, **more)


def qwen2(*sizes, **more):
    return config("Qwen2ForCausalLM", "qwen2", *sizes, **more)


def qwen3(*sizes, **more):
    return config("Qwen3ForCausalLM", "qwen3", *sizes, **more)


CASES = {}

# ---------------------------------------------------------------- llama

CASES["llama_plain"] = Case(
    "Llama 2 shape: as many key as query heads (num_key_value_heads absent), untied head, "
    "rope_theta and torch_dtype at the top of the config.",
    llama(331, 56, 88, 2, 4, None, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0,
          rope_scaling=None, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, torch_dtype="float32",
          transformers_version="4.31.0", use_cache=True, pretraining_tp=1, initializer_range=0.02),
    seed=2, prompts=(1, 17, 33),
)

CASES["llama_llama3_rope"] = Case(
    "Llama 3 shape: three query heads on one key head, tied head, bfloat16 weights, and llama3 rope scaling "
    "with frequencies in the low, the medium and the high band.",
    llama(131, 72, 100, 3, 3, 1, max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=500000.0,
          rope_scaling={"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                        "original_max_position_embeddings": 64, "rope_type": "llama3"},
          tie_word_embeddings=True, attention_bias=False, mlp_bias=False, bos_token_id=1, eos_token_id=[2, 3],
          torch_dtype="bfloat16", transformers_version="4.43.0"),
    seed=3, dtype="bfloat16", prompts=(1, 17, 70),
)

CASES["llama_biases"] = Case(
    "Biases on every linear layer, a head_dim that is not hidden_size / heads, and float16 weights.",
    llama(131, 40, 88, 2, 4, 2, head_dim=24, max_position_embeddings=256, rms_norm_eps=1e-3, rope_theta=10000.0,
          tie_word_embeddings=False, attention_bias=True, mlp_bias=True, eos_token_id=2, torch_dtype="float16"),
    seed=1, dtype="float16",
)

CASES["llama_long"] = Case(
    "Prompts that end just before, on and after a multiple of 128 keys, and seven query heads on one key head.",
    llama(67, 56, 88, 2, 7, 1, max_position_embeddings=512, rms_norm_eps=1e-6, rope_theta=10000.0,
          tie_word_embeddings=False, torch_dtype="bfloat16"),
    seed=2, dtype="bfloat16", prompts=(128, 129, 300), hidden=False, greedy=(120,),
)

CASES["llama_defaults"] = Case(
    "A config that leaves out every key that has a default: rms_norm_eps, hidden_act, rope_theta, "
    "max_position_embeddings, tie_word_embeddings, num_key_value_heads.",
    {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 131, "hidden_size": 40,
     "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 2},
    seed=2, prompts=(1, 17),
)

CASES["llama_linear_rope"] = Case(
    "Linear rope scaling in its oldest spelling (`type`).",
    llama(131, 48, 88, 2, 4, 2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0,
          rope_scaling={"factor": 2.5, "type": "linear"}, tie_word_embeddings=False, torch_dtype="bfloat16"),
    seed=1, dtype="bfloat16",
)

CASES["llama_dynamic_rope"] = Case(
    "Dynamic rope scaling: prompts below, at and beyond max_position_embeddings, and greedy continuations that "
    "cross it, where every step turns with the base of its own length while cached keys stay as they were.",
    llama(131, 40, 88, 2, 5, 1, head_dim=24, max_position_embeddings=32, rms_norm_eps=1e-5, rope_theta=10000.0,
          rope_scaling={"factor": 4.0, "type": "dynamic"}, tie_word_embeddings=False, torch_dtype="bfloat16"),
    seed=3, dtype="bfloat16", prompts=(20, 32, 33, 70), greedy=(20, 45), greedy_logits=True,
)

CASES["llama_yarn"] = Case(
    "Yarn rope scaling in the newer spelling (`rope_parameters`), attention factor by default from the factor.",
    llama(131, 48, 88, 2, 2, 1, max_position_embeddings=256, rms_norm_eps=1e-5,
          rope_parameters={"factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0,
                           "rope_type": "yarn"},
          tie_word_embeddings=False, dtype="bfloat16", transformers_version="5.0.0"),
    seed=1, dtype="bfloat16", prompts=(1, 17, 90),
)

CASES["llama_yarn_mscale"] = Case(
    "Yarn rope scaling with beta_fast, beta_slow, mscale, mscale_all_dim and an untruncated correction range.",
    llama(131, 48, 88, 2, 2, 1, max_position_embeddings=256, rms_norm_eps=1e-5,
          rope_parameters={"beta_fast": 5.0, "beta_slow": 0.5, "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.4,
                           "original_max_position_embeddings": 64, "rope_theta": 5000.0, "rope_type": "yarn",
                           "truncate": False},
          tie_word_embeddings=False, dtype="bfloat16", transformers_version="5.0.0"),
    seed=1, dtype="bfloat16",
)

CASES["llama_yarn_attention_factor"] = Case(
    "Yarn rope scaling in the older spelling with an explicit attention_factor.",
    llama(131, 48, 88, 2, 2, 1, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0,
          rope_scaling={"attention_factor": 0.8, "factor": 4.0, "original_max_position_embeddings": 64,
                        "type": "yarn"},
          tie_word_embeddings=False, torch_dtype="bfloat16"),
    seed=1, dtype="bfloat16",
)

# -------------------------------------------------------------- mistral

CASES["mistral_window"] = Case(
    "A sliding window of 8 on every layer, in prompts longer than it and in decoding.",
    mistral(131, 48, 100, 3, 6, 2, max_position_embeddings=256, rms_norm_eps=1e-3, rope_theta=10000.0,
            sliding_window=8, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, torch_dtype="float16"),
    seed=6, dtype="float16", prompts=(1, 8, 9, 45), greedy=(5, 30),
)

CASES["mistral_head_dim"] = Case(
    "No window, a head_dim of its own with a hidden_size that the number of heads does not divide, bfloat16.",
    mistral(199, 40, 88, 2, 3, 1, head_dim=24, max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=1000000.0,
            sliding_window=None, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, torch_dtype="bfloat16"),
    seed=1, dtype="bfloat16",
)

CASES["mistral_defaults"] = Case(
    "A config that leaves out every key that has a default, which for num_key_value_heads is 8 and not the heads.",
    {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": 67, "hidden_size": 64,
     "intermediate_size": 56, "num_hidden_layers": 1, "num_attention_heads": 16, "torch_dtype": "bfloat16"},
    seed=1, dtype="bfloat16", prompts=(1, 17),
)

# ---------------------------------------------------------------- qwen2

CASES["qwen2_window"] = Case(
    "Biases on q, k and v alone, and a sliding window from layer max_window_layers on.",
    qwen2(131, 56, 88, 4, 4, 2, max_position_embeddings=256, rms_norm_eps=1e-3, rope_theta=1000000.0,
          use_sliding_window=True, sliding_window=8, max_window_layers=2, tie_word_embeddings=False,
          torch_dtype="bfloat16"),
    seed=3, dtype="bfloat16",
)

CASES["qwen2_layer_types"] = Case(
    "An explicit layer_types list that goes against max_window_layers, tied head, bfloat16, 7 query heads a key head.",
    qwen2(131, 56, 72, 3, 7, 1, max_position_embeddings=256, max_window_layers=28, rms_norm_eps=1e-6,
          rope_parameters={"rope_theta": 1000000.0, "rope_type": "default"}, use_sliding_window=True,
          sliding_window=11, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
          tie_word_embeddings=True, dtype="bfloat16", transformers_version="5.0.0"),
    seed=2, dtype="bfloat16",
)

# ---------------------------------------------------------------- qwen3

CASES["qwen3_tied"] = Case(
    "Per-head norms of q and k, head_dim 24, tied head with an equal lm_head.weight stored all the same, bfloat16.",
    qwen3(199, 40, 88, 3, 4, 2, head_dim=24, max_position_embeddings=256, rms_norm_eps=1e-6, rope_theta=1000000.0,
          rope_scaling=None, attention_bias=False, use_sliding_window=False, sliding_window=None,
          max_window_layers=3, tie_word_embeddings=True, torch_dtype="bfloat16"),
    seed=9, dtype="bfloat16", head="equal",
)

CASES["qwen3_head_differs"] = Case(
    "tie_word_embeddings true but a different lm_head.weight stored: transformers 5 then uses the stored head.",
    qwen3(131, 40, 56, 2, 2, 2, head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-6, rope_theta=10000.0,
          tie_word_embeddings=True, torch_dtype="float32"),
    seed=5, prompts=(1, 17), head="different",
)

CASES["qwen3_sharded"] = Case(
    "Weights in three files with an index, untied head, attention biases, yarn rope scaling, bfloat16.",
    qwen3(131, 56, 88, 3, 4, 1, head_dim=24, max_position_embeddings=256, rms_norm_eps=1e-6, rope_theta=1000000.0,
          rope_scaling={"factor": 4.0, "original_max_position_embeddings": 64, "rope_type": "yarn"},
          attention_bias=True, tie_word_embeddings=False, torch_dtype="bfloat16"),
    seed=11, dtype="bfloat16", shards=3,
)

CASES["qwen3_window"] = Case(
    "A sliding window on the later layers together with per-head norms, float16.",
    qwen3(131, 40, 72, 3, 4, 4, head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-3, rope_theta=10000.0,
          use_sliding_window=True, sliding_window=8, max_window_layers=1, tie_word_embeddings=False,
          torch_dtype="float16"),
    seed=2, dtype="float16",
)

CASES["qwen3_defaults"] = Case(
    "A config that leaves out every key that has a default, which for head_dim is 128 and not hidden_size / heads.",
    {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 67, "hidden_size": 40,
     "intermediate_size": 56, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
     "torch_dtype": "bfloat16"},
    seed=1, dtype="bfloat16", prompts=(1, 17),
)

# -------------------------------------------------------------- opensci

CASES["opensci_flags"] = Case(
    "open-sci-ref with its switches in the config and norms called q_layernorm and k_layernorm, untied, float32.",
    config("OpensciForCausalLM", "opensci", 131, 40, 72, 2, 4, 4, max_position_embeddings=256, rms_norm_eps=1e-3,
           rope_theta=10000.0, qk_layernorm=True, attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
           torch_dtype="float32"),
    seed=3,
)

CASES["opensci_bare"] = Case(
    "open-sci-ref without qk_layernorm and mlp_bias in the config (both are on) and norms called q_norm and k_norm, "
    "tied, grouped heads, bfloat16.",
    config("OpenSciForCausalLM", "opensci", 131, 48, 88, 3, 4, 2, max_position_embeddings=256, rms_norm_eps=1e-5,
           rope_theta=100000.0, attention_bias=True, tie_word_embeddings=True, torch_dtype="bfloat16"),
    seed=10, dtype="bfloat16", short_norm_names=True,
)

# ------------------------------------------------- quantised by compressed-tensors

CASES["quant_llama_int4"] = Case(
    "4-bit weights in groups of 32 with bfloat16 scales, a quantised head of its own.",
    llama(131, 64, 96, 2, 4, 2, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0,
          tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, torch_dtype="bfloat16"),
    seed=1, dtype="bfloat16", quantization=Quantization(4, 32, ignore=()),
)

CASES["quant_qwen3_int8"] = Case(
    "8-bit weights in groups of 128 with bfloat16 scales, a head that is kept as it is, per-head norms.",
    qwen3(131, 128, 256, 2, 4, 2, head_dim=32, max_position_embeddings=256, rms_norm_eps=1e-6, rope_theta=1000000.0,
          tie_word_embeddings=False, torch_dtype="bfloat16"),
    seed=2, dtype="bfloat16", quantization=Quantization(8, 128),
)

CASES["quant_qwen2_int4"] = Case(
    "4-bit weights in groups of 64 with float16 scales, biases on q, k and v, one projection that is kept as it is, "
    "tied head.",
    qwen2(131, 64, 128, 2, 4, 2, max_position_embeddings=256, rms_norm_eps=1e-6, rope_theta=1000000.0,
          tie_word_embeddings=True, torch_dtype="float16"),
    seed=1, dtype="float16", quantization=Quantization(4, 64, ignore=("model.layers.1.mlp.down_proj", "lm_head")),
)

CASES["quant_mistral_int8"] = Case(
    "8-bit weights with one float32 scale for each row (strategy channel), a sliding window, and widths that are no "
    "multiple of 32.",
    mistral(131, 48, 88, 2, 6, 2, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0,
            sliding_window=8, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, torch_dtype="float32"),
    seed=2, quantization=Quantization(8, None),
)

# ------------------------------------------------- with a tokenizer

CASES["text_llama3"] = Case(
    "Text to text: byte-level BPE, a beginning-of-text token from the post-processor, end tokens from "
    "generation_config.json and not from config.json.",
    llama(365, 48, 88, 2, 4, 1, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=500000.0,
          tie_word_embeddings=True, bos_token_id=360, eos_token_id=361, torch_dtype="bfloat16"),
    seed=1, dtype="bfloat16", prompts=(1, 17), tokenizer=toy_tokenizers.llama3,
    generation_config={"bos_token_id": 360, "do_sample": True, "eos_token_id": [361, 364], "temperature": 0.6,
                       "top_p": 0.9},
    texts=("The kettle", "Dear friend, it's 1987 and 雨が", "🙂"),
)

CASES["text_llama2"] = Case(
    "Text to text: sentencepiece style BPE with byte fallback, space marker by the normalizer, <s> in front.",
    llama(489, 40, 88, 2, 4, 2, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0,
          tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, torch_dtype="float16"),
    seed=2, dtype="float16", prompts=(1, 17), tokenizer=toy_tokenizers.llama2,
    generation_config={"bos_token_id": 1, "eos_token_id": 2},
    texts=("The kettle", "Over the café: 한 🙂"),
)

CASES["text_mistral"] = Case(
    "Text to text: sentencepiece style BPE with byte fallback, space marker by a Metaspace pre-tokenizer, no "
    "generation_config.json (the end token is config.json's).",
    mistral(489, 40, 88, 2, 4, 2, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0,
            sliding_window=16, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, torch_dtype="bfloat16"),
    seed=2, dtype="bfloat16", prompts=(1, 17), tokenizer=toy_tokenizers.mistral,
    texts=("The kettle", " leading space", "Über den 한"),
)

CASES["text_qwen2"] = Case(
    "Text to text: byte-level BPE after NFC, several end tokens in generation_config.json, one of which stops a "
    "continuation early, a chat template, and a model vocabulary larger than the tokenizer's.",
    qwen2(352, 56, 88, 2, 7, 1, max_position_embeddings=256, rms_norm_eps=1e-6, rope_theta=1000000.0,
          use_sliding_window=False, sliding_window=128, max_window_layers=2, tie_word_embeddings=True,
          bos_token_id=340, eos_token_id=342, torch_dtype="bfloat16"),
    seed=12, dtype="bfloat16", prompts=(1, 17), tokenizer=toy_tokenizers.qwen2, chat=True,
    generation_config={"bos_token_id": 340, "do_sample": True, "eos_token_id": [342, 340], "pad_token_id": 340,
                       "temperature": 0.7, "top_k": 20, "top_p": 0.8},
    texts=("The kettle", "cafe\u0301 1987", "<|im_start|>user\nrain?<|im_end|>\n<|im_start|>assistant\n"),
)

CASES["text_qwen3"] = Case(
    "Text to text: as text_qwen2 with added tokens that are not special, so that decoding keeps them.",
    qwen3(345, 40, 72, 2, 4, 2, head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-6, rope_theta=1000000.0,
          tie_word_embeddings=True, bos_token_id=340, eos_token_id=342, torch_dtype="bfloat16"),
    seed=2, dtype="bfloat16", prompts=(1, 17), tokenizer=toy_tokenizers.qwen3, chat=True,
    generation_config={"bos_token_id": 340, "do_sample": True, "eos_token_id": [342, 340], "pad_token_id": 340,
                       "temperature": 0.6, "top_k": 20, "top_p": 0.95},
    texts=("The kettle", "<think>\nrain\n</think>\n"),
)

CASES["text_opensci"] = Case(
    "Text to text: byte-level BPE with the GPT-2 splitting rule, nothing put in front.",
    config("OpensciForCausalLM", "opensci", 322, 40, 72, 2, 4, 4, max_position_embeddings=256, rms_norm_eps=1e-5,
           rope_theta=10000.0, qk_layernorm=True, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
           bos_token_id=320, eos_token_id=320, torch_dtype="bfloat16"),
    seed=29, dtype="bfloat16", prompts=(1, 17), tokenizer=toy_tokenizers.gpt_neox,
    texts=("The kettle", "Чайник 1987"),
)
