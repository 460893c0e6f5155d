"""A run's events as a chat completion: deltas joined are the whole, and only the caller's own tools show."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from perdure.api.chat_completions import Choice, ChunkEncoder, completion
from perdure.core.events import (
    Event,
    LogEnded,
    ReasoningDelta,
    RunFailed,
    RunStopped,
    Said,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from perdure.core.messages import ToolCall
from perdure.core.runs import StopReason, Usage

HEAD = {"id": "chatcmpl-run-1", "created": 1, "model": "agent-1"}
OF: dict[str, Any] = {"step_id": "step-1", "at_us": 0}
ENDS: list[Event] = [RunStopped("end_turn"), UsageReported(Usage(1, 2, 3), 1), LogEnded()]


def text(content: str, message_id: str = "m1") -> Event:
    return TextDelta(message_id=message_id, part=0, text=content, **OF)


def asks(*calls: ToolCall) -> Event:
    return Said(message_id="m9", part=0, approval_calls=calls, **OF)


def whole(events: list[Event], *tools: str, as_json: bool = False) -> dict[str, Any]:
    return completion(HEAD, events, Choice(client_tools=frozenset(tools), whole=as_json))["choices"][0]


def frames(events: list[Event], *tools: str, as_json: bool = False, usage: bool = False) -> list[Any]:
    encoder = ChunkEncoder(HEAD, Choice(client_tools=frozenset(tools), whole=as_json), include_usage=usage)
    raw = b"".join(encoder.frames(at, [event]) for at, event in enumerate(events, 1)).decode()
    datas = [frame.removeprefix("data: ") for frame in raw.split("\n\n") if frame]
    assert datas[-1] == "[DONE]"
    return [json.loads(data) for data in datas[:-1]]


def test_calls_of_the_callers_tools_are_handed_over() -> None:
    calls = (ToolCall("c1", "mine", '{"a": 1}'), ToolCall("c2", "theirs", "{}"), ToolCall("c3", "mine", "{}"))
    choice = whole([asks(*calls), RunStopped("requires_approval")], "mine")
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "mine", "arguments": '{"a": 1}'}},
        {"id": "c3", "type": "function", "function": {"name": "mine", "arguments": "{}"}},
    ]


def test_a_call_that_waits_for_a_person_is_none_of_the_callers() -> None:
    choice = whole([asks(ToolCall("c2", "theirs", "{}")), RunStopped("requires_approval")], "mine")
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "requires_approval")
    assert "tool_calls" not in choice["message"]


def test_a_streamed_call_comes_in_pieces_and_its_stored_form_not_again() -> None:
    delta: dict[str, Any] = {"message_id": "m9", "part": 0, "needs_approval": True, **OF}
    events: list[Event] = [
        ToolCallDelta(tool_call_id="c1", name="mine", arguments="", **delta),
        ToolCallDelta(tool_call_id="c1", arguments='{"a"', **delta),
        ToolCallDelta(tool_call_id="c1", arguments=": 1}", **delta),
        asks(ToolCall("c1", "mine", '{"a": 1}')),
        RunStopped("requires_approval"),
        LogEnded(),
    ]
    pieces = [c for f in frames(events, "mine") for c in f["choices"][0]["delta"].get("tool_calls", ())]
    assert [piece["function"].get("arguments") for piece in pieces] == ["", '{"a"', ": 1}"]
    assert pieces[0] == {"index": 0, "id": "c1", "type": "function", "function": {"name": "mine", "arguments": ""}}


def test_an_answer_to_be_read_as_one_is_the_last_message_in_one_piece() -> None:
    events = [text("Let me see"), text('{"a"', "m2"), text(": 1}", "m2"), *ENDS]
    assert whole(events, as_json=True)["message"]["content"] == '{"a": 1}'
    contents = [f["choices"][0]["delta"].get("content") for f in frames(events, as_json=True)]
    assert [content for content in contents if content] == ['{"a": 1}']


def test_an_error_ends_a_stream_without_a_finish_reason() -> None:
    failed = RunFailed("run-1", "llm_rate_limit", "Too fast.", "slow down")
    sent = frames([text("Hel"), RunStopped("llm_api_error"), failed, LogEnded()])
    assert sent[-1] == {
        "error": {
            "message": "Too fast. slow down",
            "type": "rate_limit_error",
            "param": None,
            "code": "llm_rate_limit",
        }
    }
    assert all(frame["choices"][0]["finish_reason"] is None for frame in sent[:-1])


def test_finish_reasons() -> None:
    reasons: dict[StopReason, str] = {
        "end_turn": "stop",
        "tool_rule": "stop",
        "max_steps": "length",
        "max_tokens_exceeded": "length",
        "cancelled": "length",
    }
    assert {stop: whole([RunStopped(stop)])["finish_reason"] for stop in reasons} == reasons


_pieces = st.text(min_size=1, max_size=5)
_events = st.one_of(
    st.builds(text, _pieces, st.sampled_from(["m1", "m2"])),
    st.builds(lambda t: ReasoningDelta(message_id="m1", part=0, text=t, **OF), _pieces),
    st.builds(
        lambda at, name, a: ToolCallDelta(
            message_id="m1", part=1, tool_call_id=f"{name}{at}", name=name, arguments=a, **OF
        ),
        st.integers(0, 2),
        st.sampled_from(["mine", "theirs"]),
        _pieces,
    ),
)


@given(st.lists(_events, max_size=12), st.booleans())
def test_the_deltas_of_a_stream_joined_are_the_whole_message(events: list[Event], as_json: bool) -> None:
    events = [*events, *ENDS]
    message = whole(events, "mine", as_json=as_json)["message"]
    deltas = [frame["choices"][0]["delta"] for frame in frames(events, "mine", as_json=as_json)]
    assert "".join(delta.get("content") or "" for delta in deltas) == (message["content"] or "")
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == message.get("reasoning_content", "")
    arguments: dict[int, str] = {}
    for piece in [piece for delta in deltas for piece in delta.get("tool_calls", ())]:
        arguments[piece["index"]] = arguments.get(piece["index"], "") + piece["function"]["arguments"]
    assert [arguments[at] for at in sorted(arguments)] == [
        call["function"]["arguments"] for call in message.get("tool_calls", ())
    ]
