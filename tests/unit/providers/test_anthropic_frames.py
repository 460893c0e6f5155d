"""Answers of the Messages API in every shape they come in."""

import json
from typing import Any

import pytest

from perdure.core.errors import ProviderError
from perdure.core.messages import HiddenReasoningPart, ReasoningPart, TextPart, ToolCall
from perdure.core.model import Chunk, ModelDone, ReasoningChunk, TextChunk, ToolCallChunk
from perdure.core.runs import Usage
from perdure.providers.anthropic_frames import MessagesAnswer

HEAD = {"type": "message_start", "message": {"id": "msg_1", "model": "m", "usage": {"input_tokens": 7}}}
STOP = {"type": "message_stop"}


def start(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}}


def delta(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def end(reason: str, **usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 3, **usage}}


def play(*events: Any) -> tuple[list[Chunk], ModelDone]:
    answer = MessagesAnswer("test")
    chunks = answer.feed([event if isinstance(event, bytes) else json.dumps(event).encode() for event in events])
    return [*chunks, *answer.finish()], answer.done()


def text(index: int, *pieces: str) -> list[dict[str, Any]]:
    return [start(index, "text", text=""), *(delta(index, "text_delta", text=piece) for piece in pieces), stop(index)]


def tool(index: int, id: str, *pieces: str, **fields: Any) -> list[dict[str, Any]]:
    block = start(index, "tool_use", id=id, name="f", **{"input": {}, **fields})
    return [block, *(delta(index, "input_json_delta", partial_json=piece) for piece in pieces), stop(index)]


def test_text_passes_verbatim_and_empty_blocks_are_no_parts() -> None:
    chunks, done = play(HEAD, *text(0, " a\n", "", "é "), *text(1), end("end_turn"), STOP)
    assert chunks == [TextChunk(" a\n"), TextChunk("é ")]
    assert done.content == (TextPart(" a\né "),) and done.finish == "stop"
    assert (done.request_id, done.model, done.calls_at, done.extra) == ("msg_1", "m", None, {})


def test_each_thinking_block_keeps_its_own_signature() -> None:
    omitted = [start(0, "thinking", thinking="", signature=""), delta(0, "signature_delta", signature="s0"), stop(0)]
    shown = [
        start(1, "thinking", thinking=""),
        delta(1, "thinking_delta", thinking="b"),
        delta(1, "signature_delta", signature="s1"),
        stop(1),
    ]
    chunks, done = play(HEAD, *omitted, *shown, *text(2, "c"), end("end_turn"), STOP)
    assert done.content == (ReasoningPart("", signature="s0"), ReasoningPart("b", signature="s1"), TextPart("c"))
    assert chunks[:3] == [ReasoningChunk("", signature="s0"), ReasoningChunk("b"), ReasoningChunk("", signature="s1")]


def test_thinking_that_was_cut_off_has_no_signature() -> None:
    _, done = play(HEAD, start(0, "thinking", thinking=""), delta(0, "thinking_delta", thinking="a"), end("max_tokens"))
    assert done.content == (ReasoningPart("a"),) and done.finish == "length"


def test_withheld_thinking_is_kept_whole() -> None:
    _, done = play(HEAD, start(0, "redacted_thinking", data="xyz"), stop(0), *text(1, "a"), end("end_turn"), STOP)
    assert done.content == (HiddenReasoningPart("xyz"), TextPart("a"))


def test_calls_know_where_they_came() -> None:
    _, done = play(
        HEAD, *text(0, "a"), *tool(1, "t1", '{"x":', "1}"), *text(2, "b"), *tool(3, "t2", "{}"), end("tool_use"), STOP
    )
    assert done.tool_calls == (ToolCall("t1", "f", '{"x":1}', at=1), ToolCall("t2", "f", "{}"))
    assert done.calls_at == 1 and done.content == (TextPart("a"), TextPart("b"))


def test_calls_after_all_parts_need_no_place() -> None:
    _, done = play(HEAD, *text(0, "a"), *tool(1, "t1", "{}"), *tool(2, "t2", "{}"), end("tool_use"), STOP)
    assert done.calls_at is None and [call.at for call in done.tool_calls] == [None, None]


@pytest.mark.parametrize(
    ("pieces", "fields", "arguments"),
    [
        ((), {}, "{}"),
        (("",), {}, "{}"),
        ((), {"input": {"x": [1, "é"]}}, '{"x": [1, "é"]}'),
        (("{", "}"), {"input": {"x": 1}}, "{}"),
    ],
)
def test_arguments_come_in_pieces_at_once_or_not_at_all(
    pieces: tuple[str, ...], fields: dict[str, Any], arguments: str
) -> None:
    events = [HEAD, *tool(0, "t1", *pieces, **fields), end("tool_use"), STOP]
    chunks, done = play(*[json.dumps(event, ensure_ascii=False).encode() for event in events])
    assert done.tool_calls[0].arguments == arguments
    assert "".join(each.arguments for each in chunks if isinstance(each, ToolCallChunk)) == arguments


def test_a_call_cut_off_before_its_arguments_is_not_made() -> None:
    _, done = play(HEAD, *tool(0, "t1", '{"a":1}'), *tool(1, "t2"), end("max_tokens"), STOP)
    assert [call.id for call in done.tool_calls] == ["t1"] and done.finish == "length"
    assert done.unparsed == (("f", "it was cut off at the output limit before its arguments"),)


@pytest.mark.parametrize(
    ("reason", "finish", "extra"),
    [
        ("end_turn", "stop", {}),
        ("stop_sequence", "stop", {}),
        ("pause_turn", "stop", {"stop_reason": "pause_turn"}),
        ("max_tokens", "length", {}),
        ("model_context_window_exceeded", "length", {"stop_reason": "model_context_window_exceeded"}),
        ("refusal", "content_filter", {"stop_reason": "refusal", "refusal": True}),
        ("something_new", "stop", {"stop_reason": "something_new"}),
    ],
)
def test_stop_reasons(reason: str, finish: str, extra: dict[str, Any]) -> None:
    _, done = play(HEAD, *text(0, "a"), end(reason), STOP)
    assert (done.finish, done.extra) == (finish, extra)


def test_a_refusal_says_why_where_the_api_does() -> None:
    why = {"type": "refusal", "category": "bio", "explanation": "no"}
    last = {"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_details": why}, "usage": {}}
    _, done = play(HEAD, last, STOP)
    assert done.extra["stop_details"] == why and done.content == ()


def test_usage_counts_the_cache_into_the_prompt() -> None:
    head = {
        "type": "message_start",
        "message": {
            "usage": {
                "input_tokens": 2,
                "cache_read_input_tokens": 30,
                "cache_creation_input_tokens": 400,
                "output_tokens": 1,
            }
        },
    }
    _, done = play(head, *text(0, "a"), end("end_turn", output_tokens_details={"thinking_tokens": 2}), STOP)
    assert done.usage == Usage(432, 3, 435, 30, 400, 2)
    later = end("end_turn", input_tokens=5, cache_read_input_tokens=31)
    assert play(head, later, STOP)[1].usage == Usage(436, 3, 439, 31, 400)


def test_unknown_events_and_blocks_are_skipped() -> None:
    chunks, done = play(
        HEAD,
        {"type": "ping"},
        {"type": "something_new", "x": 1},
        start(0, "server_tool_use", id="s", name="web_search", input={}),
        delta(0, "input_json_delta", partial_json="{}"),
        stop(0),
        start(1, "fallback"),
        stop(1),
        *text(2, "a"),
        delta(2, "citations_delta", citation={}),
        end("end_turn"),
        STOP,
    )
    assert chunks == [TextChunk("a")] and done.content == (TextPart("a"),)


def error(kind: str, message: str = "why") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "r"}


@pytest.mark.parametrize(
    ("body", "kind", "retryable"),
    [
        (error("overloaded_error"), "llm_overloaded", True),
        (error("rate_limit_error"), "llm_rate_limit", True),
        (error("api_error"), "llm_error", True),
        (error("timeout_error"), "llm_timeout", True),
        (error("invalid_request_error"), "llm_bad_request", False),
        (error("authentication_error"), "llm_authentication", False),
        (error("permission_error"), "llm_authentication", False),
        (error("billing_error"), "llm_insufficient_credits", False),
        (error("not_found_error"), "llm_bad_request", False),
        (
            error("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
            "context_window_exceeded",
            False,
        ),
        (
            error(
                "invalid_request_error", "input length and `max_tokens` exceed context limit: 199000 + 9000 > 200000"
            ),
            "context_window_exceeded",
            False,
        ),
        ({"message": "Internal server error"}, "llm_error", True),
    ],
)
def test_errors_in_the_stream(body: dict[str, Any], kind: str, retryable: bool) -> None:
    with pytest.raises(ProviderError) as raised:
        play(HEAD, body)
    assert (raised.value.kind, raised.value.retryable) == (kind, retryable)


def test_an_error_after_output_is_final_and_comes_after_it() -> None:
    answer = MessagesAnswer("test")
    frames = [HEAD, start(0, "text", text=""), delta(0, "text_delta", text="a"), error("overloaded_error")]
    assert answer.feed([json.dumps(each).encode() for each in frames]) == [TextChunk("a")]
    for ask in (lambda: answer.feed([]), answer.finish):
        with pytest.raises(ProviderError) as raised:
            ask()
        assert not raised.value.retryable


def test_a_stream_that_ends_early() -> None:
    with pytest.raises(ProviderError) as raised:
        play(HEAD, start(0, "text", text=""))
    assert raised.value.kind == "llm_connection" and raised.value.retryable
    with pytest.raises(ProviderError) as raised:
        play(HEAD, *text(0, "a"))
    assert not raised.value.retryable
    with pytest.raises(ProviderError) as raised:
        play()
    assert raised.value.kind == "llm_empty_response"


@pytest.mark.parametrize("data", [b"<html>", b"[1]", b"\xff", b'{"type": 1}'])
def test_what_is_no_message_is_an_error(data: bytes) -> None:
    with pytest.raises(ProviderError, match="no message of the Messages API"):
        play(data)


def test_the_trace_of_a_streamed_answer_is_the_whole_answer() -> None:
    signed = [start(0, "thinking", thinking="a"), delta(0, "signature_delta", signature="s"), stop(0)]
    half = [*tool(1, "t1", "{}"), *text(2, "b"), *tool(3, "t2", '{"x": 1')]
    _, done = play(HEAD, *signed, *half, end("max_tokens"), STOP)
    assert done.exchange is not None
    kept = json.loads(done.exchange.response)
    assert [block["type"] for block in kept["content"]] == ["thinking", "tool_use", "text", "tool_use"]
    assert kept["content"][0] == {"type": "thinking", "thinking": "a", "signature": "s"}
    assert kept["content"][3]["input"] == '{"x": 1' and kept["stop_reason"] == "max_tokens"
