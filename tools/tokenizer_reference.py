#!/usr/bin/env python3
"""Makes small tokenizers of several kinds and records what transformers does with them.

    python tools/tokenizer_reference.py [testdata/tokenizers]

Writes a folder per tokenizer: tokenizer.json, tokenizer_config.json and
recorded.json, which holds texts with their ids and ids with their text.
"""

import json
import pathlib
import random
import sys

import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It doesn't stop, does it?",
    "Hello world! How are you today? I'm fine, thanks; they've gone and we're here.",
    "def main():\n    print('hello')\n    return 0\n",
    "Grüße aus Zürich, schöne Straße, été à la plage, señor niño.",
    "你好世界 今天天气很好 日本語のテキスト 한국어",
    "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}",
    "  leading and   multiple    spaces\tand tabs\n\nnewlines ",
] * 8

TEXTS = [
    "",
    " ",
    "Hello world",
    "  two leading spaces, and trailing  ",
    "It doesn't stop; they've gone !",
    "Grüße 你好 👋🏽 e\u0301 🏳️‍🌈 ཨོཾ",
    "line\nbreak\r\n\ttab",
    "<|turn|>user\nHi<|end|>\n<|turn|>assistant\n",
    "<s>text</s> and <extra> token<mark>s",
    "a.b,c!d?e' f",
    "    def f(x):\n        return x + 1\n",
    "\u00a0\u2028\ufeff\ufffd end",
]

SPECIAL = ["<unk>", "<s>", "</s>", "<|turn|>", "<|end|>"]


def trained(tokenizer, trainer):
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trained(tokenizer, trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def byte_fallback():
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained(tokenizer, trainers.BpeTrainer(vocab_size=520, special_tokens=SPECIAL + bytes_, limit_alphabet=60))
    raw = json.loads(tokenizer.to_str())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] in SPECIAL]
    raw["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]}
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return trained(tokenizer, trainers.UnigramTrainer(vocab_size=250, special_tokens=SPECIAL, unk_token="<unk>"))


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return trained(tokenizer, trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL))


def token(content, special):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": special}


KINDS = {
    "byte_level": (byte_level, {
        "bos_token": "<s>", "eos_token": "<|end|>", "clean_up_tokenization_spaces": True,
        # What tokenizer.json does not have, or has in another form.
        "added_tokens_decoder": {"500": token("<extra>", False), "501": token("<mark>", True)},
        "add_bos_token": False, "add_eos_token": True,
        "image_token": "<image>", "extra_special_tokens": ["<more>"],
    }),
    "byte_fallback": (byte_fallback, {
        "bos_token": {"__type": "AddedToken", **token("<s>", True)}, "eos_token": "</s>", "unk_token": "<unk>",
        "pad_token": None,
    }),
    "unigram": (unigram, {"eos_token": "</s>", "pad_token": "<pad>", "clean_up_tokenization_spaces": True}),
    "wordpiece": (wordpiece, {"eos_token": "</s>", "clean_up_tokenization_spaces": True}),
}


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "testdata/tokenizers")
    for name, (make, config) in KINDS.items():
        path = folder / name
        path.mkdir(parents=True, exist_ok=True)
        make().save(str(path / "tokenizer.json"), pretty=False)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
        (path / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
        tokenizer = AutoTokenizer.from_pretrained(path)
        encodings = [
            {"text": text, "with_special": tokenizer.encode(text), "plain": tokenizer.encode(text, add_special_tokens=False)}
            for text in TEXTS
        ]
        chance = random.Random(7)
        sequences = [entry["with_special"] for entry in encodings] + [entry["plain"] for entry in encodings]
        sequences += [[chance.randrange(len(tokenizer)) for _ in range(length)] for length in (1, 2, 5, 20, 60, 200) for _ in range(4)]
        sequences += [sum((entry["plain"] for entry in encodings), []) * 3]
        decodings = [
            {"ids": ids, "shown": tokenizer.decode(ids), "skipped": tokenizer.decode(ids, skip_special_tokens=True)}
            for ids in sequences
        ]
        record = {
            "transformers": transformers.__version__,
            "vocab_size": len(tokenizer),
            "special_tokens": tokenizer.special_tokens_map,
            "encodings": encodings,
            "decodings": decodings,
        }
        (path / "recorded.json").write_text(json.dumps(record, ensure_ascii=False) + "\n")
        print(name, len(tokenizer), tokenizer.special_tokens_map)


if __name__ == "__main__":
    main()
