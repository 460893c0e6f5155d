"""The model's answer while it arrives: chunks in, client-visible deltas and finally the stored message out.

A delta's part index is the one the stored message's part will have (`core/expand.py`), so both carry the same otid.
"""

from collections.abc import Callable, Sequence

import msgspec

from perdure.core.events import Event, ReasoningDelta, Said, TextDelta, ToolCallDelta
from perdure.core.ids import preceding_id
from perdure.core.messages import HiddenReasoningPart, Message, Part, ReasoningPart, TextPart
from perdure.core.model import Chunk, HiddenReasoningChunk, ModelDone, ReasoningChunk, TextChunk, ToolCallChunk


class Answer:
    """One answer under way. `deltas`: produce events for a token stream (otherwise only order is tracked).

    `asks`: the tools whose calls wait for approval; these calls go into a message of their own, the request. `refuses`: whether
    the last of calls of these names is one that the tool rules do not let through, so that nobody is asked about it.
    `one_call`: of several calls only the first counts, the others are left out.
    """

    def __init__(
        self,
        message_id: str,
        step_id: str,
        at_us: int,
        *,
        deltas: bool,
        asks: frozenset[str] = frozenset(),
        refuses: Callable[[Sequence[str]], bool] | None = None,
        one_call: bool = False,
    ) -> None:
        self.message_id = message_id
        self.step_id = step_id
        self.at_us = at_us
        self.deltas = deltas
        self.any_output = False
        self._kind: type[Chunk] | None = None
        self._content_kind: type[Chunk] | None = None
        self._content_part = 0
        self._next_part = 0
        self._part = 0
        self._calls_part = -1
        self._said_after = 0
        self._call_ids: dict[int, str] = {}
        self._asks = asks
        self._refuses = refuses
        self._one_call = one_call
        self._first_call: int | None = None
        self._names: list[str] = []
        self._asking: set[int] = set()
        self._request_id = ""

    def take(self, chunks: Sequence[Chunk]) -> list[Event]:
        """The events the chunks mean to a token stream; [] when nobody watches."""
        events: list[Event] = []
        for chunk in chunks:
            self.any_output = True
            if self._one_call and type(chunk) is ToolCallChunk and not self._is_first(chunk):
                continue
            if self._asks and type(chunk) is ToolCallChunk and self._is_asking(chunk):
                if self.deltas and (event := self._call_event(chunk)) is not None:
                    events.append(event)
                continue
            unseen = type(chunk) is ReasoningChunk and not chunk.text and self._kind is not ReasoningChunk
            if not unseen and (type(chunk) is not self._kind or type(chunk) is HiddenReasoningChunk):
                self._turn_to(chunk)
            if self._calls_part >= 0 and (type(chunk) is TextChunk or type(chunk) is ReasoningChunk):
                self._said_after += len(chunk.text)
            if self.deltas and not unseen and (event := self._event(chunk)) is not None:
                events.append(event)
        return events

    def _is_first(self, chunk: ToolCallChunk) -> bool:
        if self._first_call is None:
            self._first_call = chunk.index
        return chunk.index == self._first_call

    def _is_asking(self, chunk: ToolCallChunk) -> bool:
        """Whether the call waits for approval: told by its name, which comes with its first piece."""
        if chunk.name:
            self._names.append(chunk.name)
        if chunk.name in self._asks and not (self._refuses is not None and self._refuses(self._names)):
            self._asking.add(chunk.index)
            self._request_id = preceding_id(self.message_id)
        return chunk.index in self._asking

    def _turn_to(self, chunk: Chunk) -> None:
        """Another kind of chunk: another part, but for more calls, and for content that calls only interrupted. Withheld
        thinking is always a part of its own."""
        self._kind = kind = type(chunk)
        if kind is ToolCallChunk:
            if self._calls_part < 0:
                self._calls_part = self._next_part
                self._next_part += 1
                self._content_kind = None
            self._part = self._calls_part
        elif kind is self._content_kind and kind is not HiddenReasoningChunk:
            self._part = self._content_part
        else:
            self._content_kind = kind
            self._part = self._content_part = self._next_part
            self._next_part += 1

    def _event(self, chunk: Chunk) -> Event | None:
        if type(chunk) is TextChunk:
            return TextDelta(
                message_id=self.message_id, step_id=self.step_id, at_us=self.at_us, part=self._part, text=chunk.text
            )
        if type(chunk) is ReasoningChunk:
            return ReasoningDelta(
                message_id=self.message_id,
                step_id=self.step_id,
                at_us=self.at_us,
                part=self._part,
                text=chunk.text,
                native=chunk.native,
                signature=chunk.signature,
            )
        if type(chunk) is HiddenReasoningChunk:
            return Said(
                message_id=self.message_id,
                step_id=self.step_id,
                at_us=self.at_us,
                part=self._part,
                hidden_reasoning=chunk.data or "",
            )
        assert type(chunk) is ToolCallChunk
        return self._call_event(chunk)

    def _call_event(self, chunk: ToolCallChunk) -> Event | None:
        call_id = chunk.id or self._call_ids.get(chunk.index)
        if call_id is None:
            return None
        self._call_ids[chunk.index] = call_id
        if not chunk.name and not chunk.arguments:
            return None
        asking = chunk.index in self._asking
        return ToolCallDelta(
            message_id=self._request_id if asking else self.message_id,
            step_id=self.step_id,
            at_us=self.at_us,
            part=self._part,
            tool_call_id=call_id,
            name=chunk.name,
            arguments=chunk.arguments or None,
            needs_approval=asking,
        )

    def ended(self) -> Sequence[Event]:
        """What the end of the answer means to a token stream."""
        return ()

    def message(self, done: ModelDone, *, run_id: str, agent_id: str, conversation_id: str, model: str) -> Message:
        """The stored form. Hidden when the model said nothing at all (its tokens may still be on record).

        Calls that wait for approval have no place among the parts, so where they came does not count.
        """
        content, calls_at = done.content, done.calls_at if done.tool_calls and not self._asking else None
        if calls_at is None and self._said_after and done.tool_calls:
            content, calls_at = _split_before(done.content, self._said_after)
        empty = not done.tool_calls and not any(_says(part) for part in content)
        return Message(
            id=self.message_id,
            role="assistant",
            created_us=self.at_us,
            content=content,
            tool_calls=done.tool_calls,
            calls_at=calls_at,
            agent_id=agent_id,
            conversation_id=conversation_id,
            run_id=run_id,
            step_id=self.step_id,
            model=model,
            hidden=empty,
        )


def _says(part: Part) -> bool:
    return isinstance(part, HiddenReasoningPart) or bool(getattr(part, "text", ""))


def _split_before(content: tuple[Part, ...], tail: int) -> tuple[tuple[Part, ...], int]:
    """`content`, cut in two `tail` characters before its end, and the index of the first part behind the cut."""
    at = len(content)
    while at > 0 and tail > 0:
        at -= 1
        part = content[at]
        if not isinstance(part, TextPart | ReasoningPart):
            continue
        if len(part.text) > tail:
            cut = len(part.text) - tail
            head = msgspec.structs.replace(part, text=part.text[:cut], signature=None)
            rest = msgspec.structs.replace(part, text=part.text[cut:])
            return (*content[:at], head, rest, *content[at + 1 :]), at + 1
        tail -= len(part.text)
    return content, at
