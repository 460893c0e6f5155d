"""The scripted engine's tokenizer, made on the spot: an id below 256 is that byte, the next two begin and end a turn.

Invariant: the ids are those that `script.py` answers with, so no tokenizer has to be fetched to measure the token path.
"""

from pathlib import Path

import msgspec

from perdure.bench.script import END_OF_TURN

START_OF_TURN = 256
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer_json() -> bytes:
    """A `tokenizer.json`: byte-level BPE without merges."""
    special = [
        {"id": number, "content": text, "special": True, "normalized": False, "single_word": False}
        | {"lstrip": False, "rstrip": False}
        for number, text in ((START_OF_TURN, "<|im_start|>"), (END_OF_TURN, "<|im_end|>"))
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {char: byte for byte, char in enumerate(_alphabet())}, "merges": []},
    }
    return msgspec.json.encode(definition)


def byte_tokenizer_folder(path: Path, name: str = "scripted") -> Path:
    """Write it under `path`, a folder as PERDURE_TOKENIZERS names one, as that of the model `name`. Answers the model's own."""
    folder = path / name
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_bytes(byte_tokenizer_json())
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "generation_config.json").write_bytes(msgspec.json.encode({"eos_token_id": END_OF_TURN}))
    return folder


def _alphabet() -> list[str]:
    """The character that byte-level BPE writes each byte as: itself where it can be seen, else one from U+0100 on."""
    seen = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in seen else next(spare)) for byte in range(256)]
