"""Mistral's own vocabulary, tekken, with the control tokens of its later versions."""

import base64
import json
from functools import cache
from typing import Any

import pytest

from perdure.tokens.hf import _BYTE_OF, HfTokenizer, from_json
from tests.doubles.tokenizers import FETCHED

# the ranks that Mistral's later tokenizers give these
LATER = {32: "[ARGS]", 33: "[CALL_ID]", 34: "[THINK]", 35: "[/THINK]"}
FIRST = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)


@cache
def _file() -> dict[str, Any]:
    path = FETCHED / "tekken" / "tekken_240911.json"
    if not path.is_file():
        pytest.skip(f"no {path.name} in {path.parent}: run scripts/fetch_tokenizers.sh")
    return json.loads(path.read_bytes())


def special_tokens() -> dict[int, str]:
    return dict(enumerate(FIRST)) | LATER


@cache
def tekken() -> HfTokenizer:
    """Merges follow from the ranks: a token is merged out of the pairs that are tokens themselves."""
    config = _file()["config"]
    shift = config["default_num_special_tokens"]
    size = config["default_vocab_size"] - shift
    ranks = {base64.b64decode(one["token_bytes"]): one["rank"] for one in _file()["vocab"][:size]}
    names = {byte[0]: char for char, byte in _BYTE_OF.items()}

    def named(token: bytes) -> str:
        return "".join(names[byte] for byte in token)

    merges: list[tuple[str, str]] = []
    for token in ranks:
        pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in ranks and pair[1] in ranks]
        known.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [(named(left), named(right)) for left, right in known]
    cut = {"type": "Split", "pattern": {"Regex": config["pattern"]}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    definition = {
        "version": "1.0",
        "added_tokens": [{"id": rank, "content": text, **flags} for rank, text in special_tokens().items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "ignore_merges": True,
            "vocab": {named(token): rank + shift for token, rank in ranks.items()}
            | {text: rank for rank, text in special_tokens().items()},
            "merges": merges,
        },
    }
    return from_json(json.dumps(definition).encode(), name="tekken")


@cache
def mistral_common(version: str) -> Any:
    """The instruct tokenizer of mistral-common for this vocabulary; skips where it is not installed."""
    base = pytest.importorskip("mistral_common.tokens.tokenizers.base", reason="mistral-common is not installed")
    from mistral_common.tokens.tokenizers import instruct
    from mistral_common.tokens.tokenizers import tekken as theirs

    config = _file()["config"]
    names = dict(enumerate(FIRST)) | LATER
    special = [
        {"rank": rank, "token_str": names.get(rank, f"<SPECIAL_{rank}>"), "is_control": True}
        for rank in range(max(LATER) + 1)
    ]
    engine = theirs.Tekkenizer(
        _file()["vocab"],
        special,
        config["pattern"],
        config["default_vocab_size"],
        config["default_num_special_tokens"],
        base.TokenizerVersion(version),
    )
    kind = {"v11": instruct.InstructTokenizerV11, "v13": instruct.InstructTokenizerV13}[version]
    return kind(engine)
