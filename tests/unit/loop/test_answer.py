"""The answer under way: what a token stream is told, and what is stored, agree on which part is which."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.events import ReasoningDelta, Said, TextDelta, ToolCallDelta
from perdure.core.expand import expand
from perdure.core.messages import HiddenReasoningPart, Message, Part, ReasoningPart, TextPart, ToolCall
from perdure.core.model import Chunk, HiddenReasoningChunk, ModelDone, ReasoningChunk, TextChunk, ToolCallChunk
from perdure.loop.answer import Answer

WHO = {"run_id": "run-1", "agent_id": "agent-1", "conversation_id": "conv-1", "model": "acme/m"}


MESSAGE = "message-123e4567-e89b-42d3-8456-426614174001"
REQUEST = "message-123e4567-e89b-42d3-8456-426614174000"


def taken(chunks: list[Chunk], done: ModelDone) -> tuple[list[tuple[int, str]], Message]:
    """(part, what) of every delta, joined where they are of one part; and the stored message. Calls of `asking` wait."""
    answer = Answer(MESSAGE, "step-1", 1, deltas=True, asks=frozenset({"asking"}))
    told: list[tuple[int, str]] = []
    for chunk in chunks:
        for event in answer.take([chunk]):
            match event:
                case TextDelta():
                    what = ("text", event.part, event.text)
                case ReasoningDelta():
                    what = ("reasoning", event.part, event.text)
                case ToolCallDelta(needs_approval=True):
                    assert event.message_id == REQUEST
                    continue
                case ToolCallDelta():
                    what = ("calls", event.part, event.arguments or "")
                case Said(hidden_reasoning=str(data)):
                    what = ("hidden", event.part, data)
                case _:
                    raise AssertionError(event)
            told.append((what[1], f"{what[0]}:{what[2]}"))
    return _joined(told), answer.message(done, **WHO)


def _joined(told: list[tuple[int, str]]) -> list[tuple[int, str]]:
    parts: dict[int, str] = {}
    for part, what in told:
        kind, _, text = what.partition(":")
        parts[part] = parts.get(part, f"{kind}:") + text
    return sorted(parts.items())


def shown(message: Message) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for event in expand(message):
        assert isinstance(event, Said)
        if event.tool_calls:
            what = "calls:" + "".join(call.arguments for call in event.tool_calls)
        elif event.reasoning is not None:
            what = f"reasoning:{event.reasoning}"
        elif event.hidden_reasoning is not None:
            what = f"hidden:{event.hidden_reasoning}"
        else:
            what = f"text:{event.text}"
        found.append((event.part, what))
    return found


KINDS = st.lists(st.sampled_from(["text", "reasoning", "hidden", "call", "ask"]), min_size=1, max_size=8)


@given(kinds=KINDS, told_where=st.booleans())
def test_a_delta_and_its_stored_part_have_the_same_index(kinds: list[str], told_where: bool) -> None:
    chunks: list[Chunk] = []
    content: list[Part] = []
    calls: list[ToolCall] = []
    calls_at: int | None = None
    for number, kind in enumerate(kinds):
        text = f"<{number}>"
        if kind == "text":
            chunks.append(TextChunk(text))
            content.append(TextPart(text))
        elif kind == "reasoning":
            chunks.append(ReasoningChunk(text))
            content.append(ReasoningPart(text))
        elif kind == "hidden":
            chunks.append(HiddenReasoningChunk(text))
            content.append(HiddenReasoningPart(text))
        else:
            name = "f" if kind == "call" else "asking"
            calls_at = len(content) if calls_at is None else calls_at
            chunks.append(ToolCallChunk(len(calls), f"call_{number}", name, text))
            calls.append(ToolCall(f"call_{number}", name, text))
    done = ModelDone(
        finish="stop", content=tuple(content), tool_calls=tuple(calls), calls_at=calls_at if told_where else None
    )
    told, message = taken(chunks, done)
    message = msgspec.structs.replace(message, tool_calls=tuple(call for call in calls if call.name == "f"))
    after_calls = kinds[kinds.index("call") :] if "call" in kinds else []
    if "hidden" not in after_calls or (told_where and "ask" not in kinds):
        assert told == shown(message)


def test_where_the_calls_came_is_kept_as_the_provider_tells_it() -> None:
    content = (ReasoningPart("a", signature="s1"), ReasoningPart("b", signature="s2"))
    done = ModelDone(finish="tool_calls", content=content, tool_calls=(ToolCall("c", "f", "{}"),), calls_at=1)
    chunks = [ReasoningChunk("a", signature="s1"), ToolCallChunk(0, "c", "f", "{}"), ReasoningChunk("b")]
    _, message = taken(chunks, done)
    assert (message.content, message.calls_at) == (content, 1)


def test_an_answer_of_withheld_thinking_alone_is_not_hidden() -> None:
    done = ModelDone(finish="stop", content=(HiddenReasoningPart("x"),))
    told, message = taken([HiddenReasoningChunk("x")], done)
    assert not message.hidden and told == shown(message) == [(0, "hidden:x")]
