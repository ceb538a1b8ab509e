"""Small tokenizers of the kinds the supported families ship, trained on a text of our own.

Each builder returns a `tokenizers.Tokenizer` and the tokenizer_config.json that
goes with it. The vocabularies hold a few hundred entries; a character that the
text below does not contain comes out as bytes.
"""

import json
from collections import Counter

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = """
The kettle had been singing for a while when the rain began, and nobody in the
kitchen could say whether it was the rain or the kettle that they heard. It's a
small house, we'll admit, and they've never wanted a larger one: two rooms, a
garden with 12 apple trees, and a gate that doesn't close. On the table lay a
map of the coast from 1987, a cup of coffee, and a letter beginning with the
words "Dear friend". She read the letter twice. Then she read the map instead.

Le café était déjà froid, mais elle l'a bu quand même; ça lui était égal.
Über den Dächern zog ein grauer Vogel nach Süden. El niño miró el río y señaló
una piedra. Чайник давно кипел, а дождь всё шёл и шёл. 雨が降っています。东京很远。
def weather(days):
    for day in range(days):
        print("rain", day)   # 🌧 again
"""

# Texts whose encoding is recorded for every tokenizer; added tokens are set in by `tricky`.
TRICKY = [
    "",
    " ",
    "   ",
    "The kettle",
    " The kettle",
    "The kettle ",
    "  two  spaces  everywhere  ",
    "rain\nrain\n\n\nkettle\n",
    "\n",
    "\n leading newline",
    "\tfor day in range(10):\n\t\tprint(day)\r\n",
    "It's we'll DON'T they'VE I'm",
    "1987 12345678 3.14159 1,000",
    "café déjà Über señaló",
    "cafe\u0301 de\u0301ja\u0300",
    "Чайник ещё не кипел",
    "雨が降っています。你好,世界!",
    "한국어 텍스트",
    "🌧 🙂 👍🏽 👩‍👩‍👧",
    "mixed 雨 and é and 🌧!?...",
    "no\u00a0break\u3000wide\u200bzero",
    "<not a token> <| neither |> </",
    "ﬁ ligature Å ångström",
]


def tricky(added):
    """TRICKY and the added tokens in all the places where they can stand in a text."""
    texts = list(TRICKY)
    for token in added:
        texts += [token, f"rain{token}kettle", f" {token} ", f"rain {token} kettle\n{token}\n"]
    return texts + ["".join(added), f"{added[0]}{added[0]} {added[-1]}"]


def train_byte_level(tokenizer, vocab_size):
    tokenizer.train_from_iterator(
        TEXT.strip().split("\n"),
        trainers.BpeTrainer(
            vocab_size=vocab_size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )


def regex_byte_level(regex, vocab_size, normalizer=None, **bpe):
    """Byte-level BPE after a splitting regex, as Llama 3 and Qwen have it."""
    tokenizer = Tokenizer(models.BPE(**bpe))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    train_byte_level(tokenizer, vocab_size)
    return tokenizer


def llama3():
    """Byte-level BPE with a beginning-of-text token put in front by the post-processor."""
    tokenizer = regex_byte_level(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        360,
        ignore_merges=True,
    )
    tokenizer.add_special_tokens(
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    )
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=True),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A",
                pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                special_tokens=[("<|begin_of_text|>", bos)],
            ),
        ]
    )
    return tokenizer, {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def sentencepiece_style(normalizer, pre_tokenizer):
    """BPE over characters with byte fallback, as converted from a sentencepiece model.

    Ids: <unk>, <s>, </s>, the 256 bytes, then the merged pieces, then the
    characters. The bytes are plain vocabulary entries and no added tokens.
    """
    counts = Counter(TEXT.replace(" ", "▁").replace("\n", ""))
    alphabet = sorted(counts, key=lambda c: (-counts[c], c))[:70]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        TEXT.strip().split("\n"),
        trainers.BpeTrainer(
            vocab_size=230, initial_alphabet=alphabet, limit_alphabet=len(alphabet), show_progress=False
        ),
    )
    learned = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    merged = {left + right for left, right in merges}
    pieces = sorted(learned["vocab"], key=learned["vocab"].get)
    pieces = [p for p in pieces if p in merged] + [p for p in pieces if p not in merged]
    entries = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + pieces
    vocab = {piece: i for i, piece in enumerate(entries)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocab["<s>"])]
    )
    return tokenizer, {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "legacy": False,
        "model_max_length": 1000000000000000019884624838656,
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
    }


def llama2():
    """Sentencepiece style with the space marker put in by the normalizer."""
    prepend = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return sentencepiece_style(prepend, None)


def mistral():
    """Sentencepiece style with the space marker put in by a Metaspace pre-tokenizer."""
    return sentencepiece_style(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False))


QWEN_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHATML = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{{- '<|im_start|>system\\nYou are a kettle.<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- endif %}"
)


def qwen2(extra=()):
    """Byte-level BPE after NFC, with ChatML tokens and no beginning-of-text token."""
    tokenizer = regex_byte_level(QWEN_REGEX, 340, normalizer=normalizers.NFC())
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    if extra:
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in extra])
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    added = json.loads(tokenizer.to_str())["added_tokens"]
    return tokenizer, {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added
        },
        "bos_token": None,
        "chat_template": CHATML,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def qwen3():
    """As qwen2, with added tokens that are not special: decoding keeps them."""
    return qwen2(extra=["<think>", "</think>"])


def gpt_neox():
    """Byte-level BPE with the GPT-2 splitting rule, as open-sci-ref models use it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False)
    train_byte_level(tokenizer, 320)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|padding|>"])
    return tokenizer, {
        "add_prefix_space": False,
        "bos_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": True,
        "eos_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<|endoftext|>",
    }
