"""The two seams of token-exactness: a Tokenizer and a Renderer.

A Renderer turns messages into ids the way the model's own chat template does, and extends a conversation without ever
re-rendering what an engine has already seen.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from perdure.core.dialect import OutputDialect
from perdure.core.messages import Message
from perdure.core.model import ToolSpec
from perdure.core.tokens import Cause, RendererInfo, Span, Synthesized, TokenizerInfo

__all__ = ["NoBridge", "OutputDialect", "Rendered", "Renderer", "RendererSettings", "Tokenizer", "TokenizerNotFound"]


class Tokenizer(Protocol):
    info: TokenizerInfo

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text. A special token's text inside it is spelt out in ordinary tokens, never its control id."""
        ...

    def encode_offsets(self, text: str, *, opens: bool) -> tuple[list[int], Sequence[tuple[int, int]]]:
        """`encode`, and the characters [start, end) each id stands for. `opens`: nothing stands before the text."""
        ...

    def split(self, template: str) -> list[str | int]:
        """A template's own text as ordinary pieces and the ids of the control tokens between them, in order."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens kept; bytes that are no UTF-8 become U+FFFD."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one id stands for, so that a stream can be decoded without waiting for whole characters' tokens."""
        ...

    def special_id(self, token: str) -> int | None:
        """The id of a special (control) token such as `<|im_end|>`; None if the model has none of that text."""
        ...


class Rendered(Struct, frozen=True, kw_only=True):
    """`ids` [T]; `spans` cover them in order; `reasoning_open`: the prompt ends inside a thinking span (prefilled)."""

    ids: list[int]
    spans: tuple[Span, ...]
    synthesized: tuple[Synthesized, ...] = ()
    reasoning_open: bool = False


class NoBridge(Struct, frozen=True):
    """Why a conversation cannot be extended as it stands: a new segment begins, for this recorded cause."""

    cause: Cause
    detail: str


class Renderer(Protocol):
    info: RendererInfo
    tokenizer: Tokenizer
    dialect: OutputDialect
    stop_token_ids: tuple[int, ...]

    def render(
        self,
        system: str,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        enable_thinking: bool | None = None,
        retention: Literal["all", "tool_cycle"] = "all",
        system_message_id: str = "",
    ) -> Rendered:
        """The whole prompt, ending at the generation prompt."""
        ...

    def bridge(
        self,
        previous_ids: Sequence[int],
        completion_start: int,
        new_messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        enable_thinking: bool | None = None,
        retention: Literal["all", "tool_cycle"] = "all",
    ) -> Rendered | NoBridge:
        """What to append to `previous_ids` (last prompt + completion; the completion begins at `completion_start`) so that
        `new_messages` follow and the model speaks next. Only the ids to append are returned. A NoBridge says why the
        prefix cannot be kept."""
        ...


class TokenizerNotFound(Exception):
    """No tokenizer for a model; the text names the model and the ways to give one."""


RendererSettings = dict[str, Any]
