"""The tokenizer inside a GGUF file."""

import struct
from pathlib import Path

import pytest

from perdure.tokens.gguf import gguf_tokenizer, read_metadata
from tests.doubles.tokenizers import smollm2


def _pair(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _texts(*values: str) -> bytes:
    return struct.pack("<IQ", 8, len(values)) + b"".join(map(_text, values))


def _gguf(path: Path, *pairs: bytes, version: int = 3) -> Path:
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", version, 0, len(pairs)) + b"".join(pairs))
    return path


def _small(path: Path, pre: str = "gpt-2", model: str = "gpt2") -> Path:
    return _gguf(
        path,
        _pair("tokenizer.ggml.model", 8, _text(model)),
        _pair("tokenizer.ggml.pre", 8, _text(pre)),
        _pair("tokenizer.ggml.tokens", 9, _texts("<s>", "a", "b", "ab", "Ġ", "Ġab")),
        _pair("tokenizer.ggml.token_type", 9, struct.pack("<IQ6i", 5, 6, 3, 1, 1, 1, 1, 1)),
        _pair("tokenizer.ggml.merges", 9, _texts("a b", "Ġ ab")),
        _pair("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 0)),
        _pair("general.alignment", 12, struct.pack("<d", 0.5)),
    )


def test_a_vocabulary_is_rebuilt(tmp_path: Path) -> None:
    metadata = read_metadata(_small(tmp_path / "small.gguf"))
    tokenizer = gguf_tokenizer(metadata, name="small")
    assert tokenizer.encode("ab ab") == [3, 5]
    assert tokenizer.split("<s>ab") == [0, "ab"]
    assert tokenizer.info.special == {"<s>": 0}
    assert metadata.token("eos") == "<s>"
    assert metadata.token("bos") is None
    assert metadata.chat_template is None


@pytest.mark.parametrize(("pre", "model"), [("brand-new", "gpt2"), ("default", "llama")])
def test_an_unknown_kind_is_refused_by_name(tmp_path: Path, pre: str, model: str) -> None:
    metadata = read_metadata(_small(tmp_path / "odd.gguf", pre, model))
    with pytest.raises(ValueError, match=f"{model}.*{pre}.*tokenizer.json"):
        gguf_tokenizer(metadata, name="odd")


def test_what_is_no_gguf_or_cut_off_is_refused(tmp_path: Path) -> None:
    whole = _small(tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[:150])
    with pytest.raises(ValueError, match="cannot be read"):
        read_metadata(cut)
    cut.write_bytes(b"nothing of the kind at all")
    with pytest.raises(ValueError, match="not a GGUF file"):
        read_metadata(cut)


def test_the_embedded_model_has_its_special_tokens_and_template() -> None:
    found = smollm2()
    assert found.tokenizer.info.vocab_size == 49_152
    assert found.tokenizer.special_id("<|im_end|>") == 2
    assert found.stop_token_ids == (2,)
    assert "<|im_start|>" in (found.chat_template or "")
    assert found.tokenizer.encode("Hello 123") == [19556, 216, 33, 34, 35]
