"""What all native renderers share: a prompt is a start, turns, and the beginning of the model's own; a bridge is the latter two.

Invariant: `bridge` only appends. It closes the sampled turn where the model did not, and never looks at the text of what the
engine has already seen.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, Literal

from msgspec import Struct

from perdure.core.dialect import OutputDialect, ToolFormat
from perdure.core.messages import Message
from perdure.core.model import ToolSpec
from perdure.core.tokens import RendererInfo
from perdure.tokens.assembly import Assembly
from perdure.tokens.base import NoBridge, Rendered, Tokenizer, TokenizerNotFound
from perdure.tokens.dialects import dialect_of
from perdure.tokens.utterances import Utterance, utterances

PREFILLED_IDS = 4  # a prompt that opens the thinking ends with its marker and a newline or two
Retention = Literal["all", "tool_cycle"]


class Opening(Struct, frozen=True):
    """What a prompt begins with. `message_id`: the system message's. `day`: when the conversation began."""

    system: str
    message_id: str
    tools: Sequence[ToolSpec]
    turns: Sequence[Utterance]
    day: date
    enable_thinking: bool | None


class Style(Struct, frozen=True):
    """How turns are written. `after`: the id of the model's last token, where the turns follow what it sampled."""

    retention: Retention
    enable_thinking: bool | None
    after: int | None = None


class NativeRenderer(ABC):
    """Implements `tokens.base.Renderer`; what differs between families are the methods below.

    `ends`: the tokens that end the model's turn; the first is put in where it is missing. `needs`: tokens the family is
    written with, without which the tokenizer is none of it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        name: str,
        version: str = "1",
        tool_format: ToolFormat,
        ends: Sequence[str],
        needs: Sequence[str] = (),
        config: str = "",
        template: str | None = None,
    ) -> None:
        missing = [token for token in (ends[0], *needs) if tokenizer.special_id(token) is None]
        if missing:
            raise TokenizerNotFound(f"The tokenizer {tokenizer.info.name} has no {' and '.join(missing)}.")
        self.tokenizer = tokenizer
        self.info = RendererInfo(name, version, sha256(config), sha256(template) if template is not None else None)
        self.dialect = dialect_of(tool_format, tokenizer)
        self._end = ends[0]
        found = (tokenizer.special_id(token) for token in ends)
        self.stop_token_ids = tuple(token_id for token_id in found if token_id is not None)
        self._closing = self._closing_ids()

    def _closing_ids(self) -> frozenset[int]:
        """The ids after which the model's turn is closed as its template closes one."""
        return frozenset(self.stop_token_ids[:1])

    @abstractmethod
    def _start(self, assembly: Assembly, opening: Opening) -> int:
        """What stands before the turns; how many of these it says already."""

    @abstractmethod
    def _turns(self, assembly: Assembly, turns: Sequence[Utterance], style: Style) -> None: ...

    @abstractmethod
    def _generation(self, assembly: Assembly, turns: Sequence[Utterance], enable_thinking: bool | None) -> bool:
        """The beginning of the model's turn, after `turns`; whether it opens the thinking."""

    def _between(self) -> str:
        """What stands between the end of the model's turn and the next."""
        return ""

    def _is_query(self, turn: Utterance) -> bool:
        """Whether a template that drops earlier thinking drops it when this turn comes."""
        return turn.role == "user"

    def _has_thoughts(self, ids: Sequence[int]) -> bool:
        ended = bool(ids) and ids[-1] in self._closing
        return has_thoughts(self.tokenizer, self.dialect, ids[:-1] if ended else ids)

    def _ends_thinking(self, ids: Sequence[int], start: int) -> bool:
        return ends_thinking(self.dialect, ids, start)

    def render(
        self,
        system: str,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        enable_thinking: bool | None = None,
        retention: Retention = "all",
        system_message_id: str = "",
    ) -> Rendered:
        assembly = Assembly(self.tokenizer, opens=True)
        turns = utterances(messages)
        opening = Opening(system, system_message_id, tools, turns, first_day(messages), enable_thinking)
        said = self._start(assembly, opening)
        self._turns(assembly, turns[said:], Style(retention, enable_thinking))
        return assembly.done(reasoning_open=self._generation(assembly, turns, enable_thinking))

    def bridge(
        self,
        previous_ids: Sequence[int],
        completion_start: int,
        new_messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        enable_thinking: bool | None = None,
        retention: Retention = "all",
    ) -> Rendered | NoBridge:
        turns = utterances(new_messages)
        if retention == "tool_cycle" and any(map(self._is_query, turns)) and self._has_thoughts(previous_ids):
            return NoBridge("thinking_drop", "the template drops earlier thinking when the user speaks again")
        assembly = Assembly(self.tokenizer, opens=False)
        last = previous_ids[-1] if len(previous_ids) > completion_start else None
        closed = last in self._closing
        thinking = self._ends_thinking(previous_ids, completion_start)
        if closed and thinking:
            return NoBridge("renderer_fallback", "the model ended its turn inside its thinking")
        if thinking and self.dialect.reasoning_close:
            assembly.synthesize(self.dialect.reasoning_close, "the answer ended inside its thinking")
        if not closed:
            assembly.synthesize(self._end, "the answer ended without its end-of-turn token")
        assembly.template(self._between())
        after = last if closed else self.tokenizer.special_id(self._end)
        self._turns(assembly, turns, Style("all", enable_thinking, after))
        return assembly.done(reasoning_open=self._generation(assembly, turns, enable_thinking))


def has_thoughts(tokenizer: Tokenizer, dialect: OutputDialect, ids: Sequence[int]) -> bool:
    """Whether a thinking span that is not a template's empty one stands anywhere in the ids."""
    opened, closed = thinking_ids(dialect)
    if opened is None or closed is None:
        return False
    at = find(ids, opened, 0)
    while at >= 0:
        end = find(ids, closed, at)
        if tokenizer.decode(ids[at + 1 : at + 8 if end < 0 else min(end, at + 8)]).strip():
            return True
        at = find(ids, opened, end) if end >= 0 else -1
    return False


def ends_thinking(dialect: OutputDialect, ids: Sequence[int], start: int) -> bool:
    """Whether the answer that begins at `start` ends inside a thinking span, perhaps one that the prompt's last ids opened."""
    opened, closed = thinking_ids(dialect)
    if opened is None or closed is None:
        return False
    at = rfind(ids, opened, max(0, start - PREFILLED_IDS))
    return at >= 0 and rfind(ids, closed, at) < 0


def thinking_ids(dialect: OutputDialect) -> tuple[int | None, int | None]:
    """The ids of the thinking's borders, where they are single tokens."""
    ids = dialect.marker_ids
    return ids.get(dialect.reasoning_open or ""), ids.get(dialect.reasoning_close or "")


def first_day(messages: Sequence[Message]) -> date:
    """The day (UTC) the first message was written: a template's date must not change with the clock."""
    return datetime.fromtimestamp((messages[0].created_us if messages else 0) / 1e6, UTC).date()


def arguments_of(arguments: str) -> dict[str, Any] | None:
    """A call's arguments; None if they are no JSON object, and must be shown as they were written."""
    try:
        parsed: Any = json.loads(arguments)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def find(ids: Sequence[int], token_id: int, start: int) -> int:
    try:
        return ids.index(token_id, start)
    except ValueError:
        return -1


def rfind(ids: Sequence[int], token_id: int, start: int) -> int:
    """Where the id last stands at or after `start`; -1 if nowhere."""
    return next((at for at in range(len(ids) - 1, start - 1, -1) if ids[at] == token_id), -1)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
