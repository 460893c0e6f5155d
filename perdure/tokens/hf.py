"""A tokenizer from a `tokenizer.json`, safe against injection.

Invariant: `encode` never yields a control token's id, whatever the text says; control ids come only out of `split`, which
is for a chat template's own text.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.core.errors import Invalid
from perdure.core.tokens import TokenizerInfo

if TYPE_CHECKING:  # a large library, of which most servers need nothing
    from tokenizers import Tokenizer as Engine

LONG_TEXT = 8192

_MARKUP = re.compile(r"[<>\[\]|{}]")
_HTML = re.compile(
    r"</?(?:table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|p|br|ul|ol|li|blockquote|strong|em|b|i|u|s|sub|sup|code|pre|a|div|span)>"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class HfTokenizer:
    """Implements `tokens.base.Tokenizer`.

    Which added tokens are control tokens: all special ones, and others that are written like markup (`<think>` is not
    "special" in Qwen3, and still no user may write it). Added runs of blanks, words and HTML tags are ordinary text.
    """

    def __init__(
        self,
        definition: dict[str, Any],
        *,
        name: str,
        sha256: str,
        vocab_size: int | None = None,
        revision: str | None = None,
    ) -> None:
        added: list[dict[str, Any]] = definition.get("added_tokens") or []
        self._control = {token["content"]: token["id"] for token in added if _is_control(token)}
        self._control_ids = frozenset(self._control.values())
        self._splitter = _splitter([token for token in added if _is_control(token)])
        self._byte_level = _mentions(definition, "type", "ByteLevel")
        self._literal = {
            token["id"]: token["content"].encode() for token in added if self._byte_level or _is_control(token)
        }
        self._byte_fallback = bool(definition["model"].get("byte_fallback"))
        self._opening = _engine(definition)
        self._later = self._opening
        if _mentions(definition, "prepend_scheme", "first"):
            self._later = _engine(_with_prepend_scheme(definition, "never"))
        known = 1 + max(self._opening.get_vocab_size(with_added_tokens=True) - 1, *(token["id"] for token in added), -1)
        self.info = TokenizerInfo(
            name=name, sha256=sha256, vocab_size=max(known, vocab_size or 0), revision=revision, special=self._control
        )
        self._bytes: list[bytes | None] = [None] * self.info.vocab_size
        self._pieces: dict[str, list[str | int]] = {}

    def encode(self, text: str) -> list[int]:
        return self.encode_offsets(text, opens=True)[0]

    def encode_offsets(self, text: str, *, opens: bool) -> tuple[list[int], Sequence[tuple[int, int]]]:
        if not text:
            return [], []
        if not text.isascii():  # half a surrogate pair is no text, but JSON can carry one
            text = _SURROGATE.sub("\ufffd", text)
        encoding = _encode(self._opening if opens else self._later, text)
        ids: list[int] = encoding.ids
        if self._control_ids.isdisjoint(ids):
            return ids, _Offsets(encoding)
        return self._spell_out(text, opens=opens)

    def _spell_out(self, text: str, *, opens: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Encode a text whose own vocabulary entry is a control token: each such word is cut after its first character."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        cuts = [match.start() + 1 for word in self._control for match in re.finditer(re.escape(word), text)]
        bounds = sorted({0, len(text), *cuts})
        for start, end in pairwise(bounds):
            engine = self._opening if opens and start == 0 else self._later
            encoding = _encode(engine, text[start:end])
            ids.extend(encoding.ids)
            offsets.extend((start + a, start + b) for a, b in encoding.offsets)
        if not self._control_ids.isdisjoint(ids):
            raise Invalid(
                f"The text holds a control token that the tokenizer of {self.info.name} cannot spell out as ordinary text."
            )
        return ids, offsets

    def split(self, template: str) -> list[str | int]:
        found = self._pieces.get(template)
        if found is None:
            found = self._split(template)
            if len(template) < 512 and len(self._pieces) < 256:
                self._pieces[template] = found
        return found

    def _split(self, template: str) -> list[str | int]:
        if self._splitter is None:
            return [template] if template else []
        pieces: list[str | int] = []
        end = 0
        for match in self._splitter.finditer(template):
            if match.start() > end:
                pieces.append(template[end : match.start()])
            pieces.append(self._control[match[match.lastgroup or 0]])  # with the blanks that belong to it, or without
            end = match.end()
        if end < len(template):
            pieces.append(template[end:])
        return pieces

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """b"" for an id the vocabulary leaves unused (models often have more rows than tokens)."""
        try:
            known = self._bytes[token_id]
        except IndexError:
            return b""
        if known is None:
            known = self._bytes[token_id] = self._read_bytes(token_id)
        return known

    def _read_bytes(self, token_id: int) -> bytes:
        literal = self._literal.get(token_id)
        if literal is not None:
            return literal
        token = self._opening.id_to_token(token_id)
        if token is None:
            return b""
        if self._byte_level:
            return b"".join(_BYTE_OF.get(char, char.encode()) for char in token)
        if self._byte_fallback and (byte := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        return token.replace("\u2581", " ").encode()

    def special_id(self, token: str) -> int | None:
        return self._control.get(token)


class _Offsets(Sequence[tuple[int, int]]):
    """The characters of each id, looked up one by one: few are asked for, and a list of all would take long."""

    def __init__(self, encoding: Any) -> None:
        self._encoding = encoding

    def __len__(self) -> int:
        return len(self._encoding)

    def __getitem__(self, at: Any) -> Any:
        return self._encoding.token_to_chars(at) if isinstance(at, int) else [self[one] for one in range(len(self))[at]]


def _encode(engine: "Engine", text: str) -> Any:
    """Only the call for batches lets other threads run meanwhile."""
    if len(text) < LONG_TEXT:
        return engine.encode(text, add_special_tokens=False)
    return engine.encode_batch([text], add_special_tokens=False)[0]


def from_json(data: bytes, *, name: str, vocab_size: int | None = None, revision: str | None = None) -> HfTokenizer:
    """A tokenizer from the bytes of a `tokenizer.json`. ValueError if they are none."""
    definition: Any = msgspec.json.decode(data)
    if not isinstance(definition, dict) or "model" not in definition:
        raise ValueError("no tokenizer definition: an object with the key `model` is expected")
    return HfTokenizer(
        definition, name=name, sha256=hashlib.sha256(data).hexdigest(), vocab_size=vocab_size, revision=revision
    )


def _is_control(token: Mapping[str, Any]) -> bool:
    text = token["content"]
    return bool(token.get("special")) or (_MARKUP.search(text) is not None and _HTML.fullmatch(text) is None)


def _engine(definition: dict[str, Any]) -> "Engine":
    """The tokenizer with every control token's text read as ordinary text (`encode_special_tokens`)."""
    from tokenizers import Tokenizer

    added = [
        token | {"special": True} if _is_control(token) else token for token in definition.get("added_tokens") or []
    ]
    changed = definition | {"added_tokens": added, "post_processor": None, "truncation": None, "padding": None}
    engine = Tokenizer.from_str(msgspec.json.encode(changed).decode())
    engine.encode_special_tokens = True
    return engine


def _splitter(control: Sequence[Mapping[str, Any]]) -> re.Pattern[str] | None:
    """Finds control tokens, the longest first; blanks around one belong to it where its definition says so."""
    if not control:
        return None
    longest_first = sorted(control, key=lambda token: -len(token["content"]))
    blanks = r"\s*"
    words: list[str] = []
    for at, token in enumerate(longest_first):
        before, after = (blanks if token.get(side) else "" for side in ("lstrip", "rstrip"))
        word = re.escape(token["content"])
        words.append(f"{before}(?P<t{at}>{word}){after}" if before or after else word)  # groups make a search slow
    return re.compile("|".join(words))


def _mentions(node: Any, key: str, value: str) -> bool:
    """Whether a pre-tokenizer, normalizer or decoder of the definition has this setting; the vocabulary is not searched."""
    if isinstance(node, dict):
        return any(
            (name == key and child == value)
            or (name not in ("vocab", "merges", "added_tokens") and _mentions(child, key, value))
            for name, child in node.items()
        )
    return isinstance(node, list) and any(_mentions(child, key, value) for child in node)


def _with_prepend_scheme(node: Any, scheme: str) -> Any:
    if isinstance(node, dict):
        return {
            name: scheme
            if name == "prepend_scheme"
            else child
            if name in ("vocab", "merges", "added_tokens")
            else _with_prepend_scheme(child, scheme)
            for name, child in node.items()
        }
    return [_with_prepend_scheme(child, scheme) for child in node] if isinstance(node, list) else node


def _byte_alphabet() -> dict[str, int]:
    """The 256 printable characters byte-level vocabularies write bytes with, as GPT-2 defined them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


_BYTE_OF = {char: bytes([byte]) for char, byte in _byte_alphabet().items()}
