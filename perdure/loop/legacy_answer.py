"""The answer of an older agent type while it arrives: its one call taken apart as it is written.

Invariant: the deltas of a part, joined, are what `shown` makes of the stored message.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from perdure.core.events import Event, ReasoningDelta, TextDelta, ToolCallDelta
from perdure.core.messages import LegacyForm, Message
from perdure.core.model import Chunk, ModelDone, ToolCallChunk
from perdure.loop.answer import Answer
from perdure.loop.shown import Speech, parts_of
from perdure.parsing.spoken_calls import Piece, SpokenCall


class LegacyAnswer(Answer):
    """`form_of`: how a tool's calls are written. Only the first call counts: these agents make one at a time."""

    def __init__(
        self,
        message_id: str,
        step_id: str,
        at_us: int,
        *,
        deltas: bool,
        asks: frozenset[str],
        refuses: Callable[[Sequence[str]], bool] | None = None,
        speech: Speech,
        form_of: Callable[[str], LegacyForm],
    ) -> None:
        super().__init__(message_id, step_id, at_us, deltas=deltas, asks=asks, refuses=refuses)
        self._speech = speech
        self._form_of = form_of
        self._only: int | None = None
        self._id = ""
        self._name = ""
        self._early = ""
        self._call: SpokenCall | None = None
        self._named = False

    def take(self, chunks: Sequence[Chunk]) -> list[Event]:
        events: list[Event] = []
        for chunk in chunks:
            if type(chunk) is ToolCallChunk:
                events += self._call_piece(chunk)
            else:
                events += map(_private, super().take((chunk,)))
        return events

    def ended(self) -> Sequence[Event]:
        return self._told(self._call.finish()) if self._call is not None else ()

    def message(self, done: ModelDone, **who: Any) -> Message:
        done = msgspec.structs.replace(done, tool_calls=done.tool_calls[:1])
        form = self._form_of(done.tool_calls[0].name) if done.tool_calls else LegacyForm()
        return msgspec.structs.replace(super().message(done, **who), legacy=form)

    def _call_piece(self, chunk: ToolCallChunk) -> list[Event]:
        self.any_output = True
        if self._only is None:
            self._only = chunk.index
        if chunk.index != self._only:
            return []
        self._id = self._id or chunk.id or ""
        self._name = self._name or chunk.name or ""
        if not self._is_asking(chunk):
            self._turn_to_call(chunk)
        self._early += chunk.arguments
        if not self._id or not self._name:
            return []
        if self._call is None:
            self._begin()
        if not self.deltas or self._call is None:
            return []
        text, self._early = self._early, ""
        return self._told(self._call.feed(text))

    def _turn_to_call(self, chunk: ToolCallChunk) -> None:
        if self._kind is not ToolCallChunk:
            self._turn_to(chunk)

    def _begin(self) -> None:
        """The call has a name, so it is known which of its arguments are what."""
        form = self._form_of(self._name)
        self._next_part += parts_of(form) - 1
        if self.deltas:
            self._call = SpokenCall(form.thoughts, self._speech.of(self._name))
            self._call_part = max(self._calls_part, 0) + parts_of(form) - 1
            self._thoughts_part = max(self._calls_part, 0)

    def _told(self, pieces: Sequence[Piece]) -> list[Event]:
        asking = self._only in self._asking
        common: dict[str, Any] = {
            "message_id": self._request_id if asking else self.message_id,
            "step_id": self.step_id,
            "at_us": self.at_us,
        }
        events: list[Event] = []
        for kind, text in pieces:
            if kind == "thoughts":
                events.append(ReasoningDelta(part=self._thoughts_part, text=text, native=False, **common))
            elif kind == "speech":
                events.append(TextDelta(part=self._call_part, text=text, **common))
            else:
                name, self._named = None if self._named else self._name, True
                delta = ToolCallDelta(
                    part=self._call_part,
                    tool_call_id=self._id,
                    name=name,
                    arguments=text or None,
                    needs_approval=asking,
                    **common,
                )
                events.append(delta)
        return events


def _private(event: Event) -> Event:
    """What is written outside of calls is thinking."""
    if not isinstance(event, TextDelta):
        return event
    return ReasoningDelta(
        message_id=event.message_id,
        step_id=event.step_id,
        at_us=event.at_us,
        part=event.part,
        text=event.text,
        native=False,
    )
