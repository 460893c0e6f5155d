"""Answers of older agent types: what a token stream is told and what is stored show the same parts, however they are cut."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from perdure.core.events import Event, ReasoningDelta, Said, TextDelta, ToolCallDelta, ToolsReturned
from perdure.core.messages import LegacyForm, Message, Part, ReasoningPart, TextPart, ToolCall, ToolReturn
from perdure.core.model import Chunk, ModelDone, ReasoningChunk, TextChunk, ToolCallChunk
from perdure.loop.legacy_answer import LegacyAnswer
from perdure.loop.shown import Speech, shown

WHO = {"run_id": "run-1", "agent_id": "agent-1", "conversation_id": "conv-1", "model": "acme/m"}
MESSAGE = "message-123e4567-e89b-42d3-8456-426614174001"
REQUEST = "message-123e4567-e89b-42d3-8456-426614174000"
NAMES = st.sampled_from(["send_message", "look", "think_aloud"])
ARGUMENTS = st.lists(
    st.tuples(
        st.sampled_from(["thinking", "message", "quay", "request_heartbeat"]),
        st.sampled_from(["", "Hi \u00e9\n", 'a "b"']) | st.booleans(),
    ),
    max_size=4,
    unique_by=lambda pair: pair[0],
).map(lambda pairs: json.dumps(dict(pairs)))


def form_of(name: str) -> LegacyForm:
    return LegacyForm(None if name == "think_aloud" else "thinking")


def parts(events: list[Event]) -> list[tuple[str, int, str, str]]:
    """(message id, part, kind, text) of each part, in the order of their first events."""
    found: dict[tuple[str, int, str], str] = {}
    for event in events:
        match event:
            case TextDelta():
                kind, text = "text", event.text
            case ReasoningDelta():
                kind, text = f"reasoning {event.native}", event.text
            case ToolCallDelta():
                kind, text = (
                    "call" if not event.needs_approval else "asks",
                    (event.name or "") + (event.arguments or ""),
                )
            case Said(reasoning=str(text)):
                kind = f"reasoning {event.native}"
            case Said(text=str(text)):
                kind = "text"
            case Said():
                [call] = event.tool_calls or event.approval_calls
                kind, text = "call" if event.tool_calls else "asks", call.name + call.arguments
            case _:
                raise AssertionError(event)
        key = (event.message_id, event.part, kind)
        found[key] = found.get(key, "") + text
    return [(*key, text) for key, text in found.items()]


def cut(text: str, places: list[int]) -> list[str]:
    at = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(at)]


@given(
    st.sampled_from(["", "Private."]),
    st.sampled_from(["", "Native."]),
    NAMES,
    ARGUMENTS,
    st.sampled_from(["", "Afterthought."]),
    st.sampled_from([Speech(), Speech(None), Speech("look", "quay")]),
    st.lists(st.integers(0, 99), max_size=6),
)
def test_the_stream_and_the_stored_message_show_the_same_parts(
    text: str, native: str, name: str, arguments: str, after: str, speech: Speech, places: list[int]
) -> None:
    content: list[Part] = []
    chunks: list[Chunk] = []
    if native:
        content.append(ReasoningPart(native))
        chunks.append(ReasoningChunk(native))
    if text:
        content.append(TextPart(text))
        chunks += [TextChunk(piece) for piece in cut(text, places)]
    at = len(content)
    chunks.append(ToolCallChunk(0, "call_1", name))
    chunks += [ToolCallChunk(0, arguments=piece) for piece in cut(arguments, places)]
    chunks.append(ToolCallChunk(1, "call_2", "look", '{"never": "run"}'))
    if after:
        content.append(TextPart(after))
        chunks.append(TextChunk(after))
    done = ModelDone(
        finish="tool_calls",
        content=tuple(content),
        tool_calls=(ToolCall("call_1", name, arguments), ToolCall("call_2", "look", '{"never": "run"}')),
        calls_at=at,
    )
    streamed, stored = told(chunks, done, speech)
    assert streamed == parts(shown(stored, speech))
    assert stored.tool_calls == (ToolCall("call_1", name, arguments),)
    quiet, again = told(chunks, done, speech, deltas=False)
    assert quiet == [] and again == stored


def told(chunks: list[Chunk], done: ModelDone, speech: Speech, *, deltas: bool = True) -> tuple[Any, Message]:
    answer = LegacyAnswer(MESSAGE, "step-1", 1, deltas=deltas, asks=frozenset(), speech=speech, form_of=form_of)
    events = [event for chunk in chunks for event in answer.take([chunk])]
    events += answer.ended()
    return parts(events), answer.message(done, **WHO)


@given(ARGUMENTS, st.lists(st.integers(0, 99), max_size=6))
def test_a_call_that_waits_for_approval_is_shown_under_the_request(arguments: str, places: list[int]) -> None:
    answer = LegacyAnswer(MESSAGE, "step-1", 1, deltas=True, asks=frozenset({"look"}), speech=Speech(), form_of=form_of)
    events = list(answer.take([ToolCallChunk(0, "call_1", "look")]))
    events += answer.take([ToolCallChunk(0, arguments=piece) for piece in cut(arguments, places)])
    events += answer.ended()
    request = Message(
        id=REQUEST,
        role="approval",
        created_us=1,
        step_id="step-1",
        tool_calls=(ToolCall("call_1", "look", arguments),),
        legacy=form_of("look"),
    )
    assert parts(events) == parts(shown(request))


def test_speech_that_arrived_needs_no_return_and_speech_that_did_not_has_one() -> None:
    fine = ToolReturn("call_1", "send_message", "success", "Message sent.")
    tool = Message(id=MESSAGE, role="tool", created_us=1, tool_returns=(fine,), legacy=LegacyForm())
    assert shown(tool) == []
    assert len(shown(tool, Speech(None))) == 1
    failed = ToolReturn("call_1", "send_message", "error", "No message.")
    wrong = Message(id=MESSAGE, role="tool", created_us=1, tool_returns=(failed,), legacy=LegacyForm())
    [event] = shown(wrong)
    assert isinstance(event, ToolsReturned) and event.returns == (failed,)
    newer = Message(id=MESSAGE, role="tool", created_us=1, tool_returns=(fine,))
    assert len(shown(newer)) == 1
