"""The tokenizer and chat template inside a GGUF model file.

Only the metadata at the head of the file is read; weights are never touched. Invariant: a vocabulary is rebuilt only where its
pre-tokenizer is known here, so that ids equal the engine's own.
"""

import mmap
import struct
from pathlib import Path
from typing import Any

import msgspec

from perdure.tokens.hf import HfTokenizer, from_json

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_CONTROL, _USER_DEFINED = 3, 4

_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CASELESS_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_MODERN_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2_WORDS = _CASELESS_CONTRACTIONS + _MODERN_WORDS % r"\p{N}"
_LLAMA3_WORDS = _CASELESS_CONTRACTIONS + _MODERN_WORDS % r"\p{N}{1,3}"

# pre-tokenizer name -> the patterns that cut the text, one after the other
_PATTERNS: dict[str, tuple[str, ...]] = {
    "default": (_GPT2_WORDS,),
    "gpt-2": (_GPT2_WORDS,),
    "smollm": (r"\p{N}", _GPT2_WORDS),
    "starcoder": (r"\p{N}", _GPT2_WORDS),
    "qwen2": (_QWEN2_WORDS,),
    "llama-bpe": (_LLAMA3_WORDS,),
    "llama3": (_LLAMA3_WORDS,),
}
_COMPOSED = frozenset({"qwen2"})  # these models' own tokenizers compose characters (NFC) first
_WHOLE_WORDS = frozenset({"llama-bpe", "llama3"})  # a word that is in the vocabulary is not merged from its bytes


class GgufMetadata(msgspec.Struct, frozen=True):
    """The key-value pairs at the head of a GGUF file."""

    values: dict[str, Any]

    @property
    def chat_template(self) -> str | None:
        return self.values.get("tokenizer.chat_template")

    def token(self, key: str) -> str | None:
        """The text of a token such as "bos" or "eos"."""
        at = self.values.get(f"tokenizer.ggml.{key}_token_id")
        tokens = self.values.get("tokenizer.ggml.tokens", ())
        return tokens[at] if at is not None and at < len(tokens) else None


def read_metadata(path: Path) -> GgufMetadata:
    """ValueError when the file is no GGUF of version 2 or 3."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        magic, version = struct.unpack_from("<4sI", data, 0)
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"{path}: not a GGUF file of version 2 or 3")
        try:
            return GgufMetadata(_read_pairs(data))
        except (struct.error, KeyError, UnicodeDecodeError) as broken:
            raise ValueError(f"{path}: its metadata cannot be read: {broken!r}") from broken


def _read_pairs(data: mmap.mmap) -> dict[str, Any]:
    (count,) = struct.unpack_from("<Q", data, 16)
    at = 24
    values: dict[str, Any] = {}
    for _ in range(count):
        key, at = _read_string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        values[key], at = _read_value(data, at + 4, kind)
    return values


def _read_string(data: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    return data[at + 8 : end].decode(), end


def _read_value(data: mmap.mmap, at: int, kind: int) -> tuple[Any, int]:
    if kind == _STRING:
        return _read_string(data, at)
    if kind != _ARRAY:
        (value,) = struct.unpack_from("<" + _SCALARS[kind], data, at)
        return value, at + struct.calcsize("<" + _SCALARS[kind])
    element, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if element in _SCALARS:
        layout = f"<{count}{_SCALARS[element]}"
        return list(struct.unpack_from(layout, data, at)), at + struct.calcsize(layout)
    values: list[Any] = []
    for _ in range(count):
        value, at = _read_value(data, at, element)
        values.append(value)
    return values, at


def gguf_tokenizer(metadata: GgufMetadata, *, name: str) -> HfTokenizer:
    """The file's byte-level BPE vocabulary as a tokenizer. ValueError for a kind that is not known here."""
    values = metadata.values
    model, pre = values.get("tokenizer.ggml.model"), values.get("tokenizer.ggml.pre", "default")
    if model != "gpt2" or pre not in _PATTERNS:
        raise ValueError(
            f"the GGUF vocabulary of {name} is of kind {model!r} with pre-tokenizer {pre!r}, which is not supported; "
            "give the model's own tokenizer.json instead"
        )
    return from_json(msgspec.json.encode(_definition(values, pre)), name=name)


def _definition(values: dict[str, Any], pre: str) -> dict[str, Any]:
    """The vocabulary as a `tokenizer.json` holds one."""
    tokens: list[str] = values["tokenizer.ggml.tokens"]
    kinds: list[int] = values.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    added = [
        {"id": at, "content": token, "special": kind == _CONTROL, "normalized": False}
        | {"single_word": False, "lstrip": False, "rstrip": False}
        for at, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    cuts = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in _PATTERNS[pre]
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if pre in _COMPOSED else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*cuts, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre in _WHOLE_WORDS,
            "vocab": {token: at for at, token in enumerate(tokens)},
            "merges": values["tokenizer.ggml.merges"],
        },
    }
