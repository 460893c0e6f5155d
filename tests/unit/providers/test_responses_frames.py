"""Events of the Responses API: what they mean together, however often or seldom a thing is told."""

import json
from typing import Any

import pytest

from perdure.core.errors import ProviderError
from perdure.core.messages import HiddenReasoningPart, ReasoningPart, TextPart
from perdure.core.model import Chunk, ModelDone, ReasoningChunk, TextChunk, ToolCallChunk
from perdure.core.runs import Usage
from perdure.providers.responses_frames import ResponsesAnswer
from perdure.providers.responses_wire import Kept, kept_in, signature_of
from tests.doubles.openai_responses import item_events

REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "encrypted_content": "sealed",
    "summary": [{"type": "summary_text", "text": "First."}, {"type": "summary_text", "text": "Second."}],
}
MESSAGE = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "phase": "commentary",
    "content": [{"type": "output_text", "text": "Let me see."}],
}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": '{"at": "x"}'}


def final(*items: Any, status: str = "completed", **more: Any) -> dict[str, Any]:
    response = {"id": "resp_1", "object": "response", "model": "gpt-x", "status": status, "output": list(items), **more}
    return {"type": f"response.{status}", "response": response}


def play(*events: Any) -> tuple[list[Chunk], ModelDone]:
    answer = ResponsesAnswer("acme")
    chunks: list[Chunk] = []
    for event in events:
        chunks += answer.feed([json.dumps(event).encode()])
    return chunks, answer.done()


def streamed(*items: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    events = [event for index, item in enumerate(items) for event in item_events(item, index, 2)]
    return [{"type": "response.created", "response": {"id": "resp_1", "output": []}}, *events, final(*items, **more)]


def test_items_become_parts_and_calls_with_what_goes_back() -> None:
    chunks, done = play(*streamed(REASONING, MESSAGE, CALL))
    thought, said = done.content
    assert isinstance(thought, ReasoningPart) and thought.text == "First.\n\nSecond."
    assert kept_in(thought.signature) == Kept(id="rs_1", encrypted="sealed", cut=[("s", 6), ("s", 7)])
    assert said == TextPart("Let me see.", signature_of(Kept(id="msg_1", phase="commentary")))
    (call,) = done.tool_calls
    assert (call.id, call.name, call.arguments) == ("call_1", "look", '{"at": "x"}')
    assert kept_in(call.signature) == Kept(id="fc_1")
    assert (
        done.finish == "tool_calls" and done.calls_at is None and done.request_id == "resp_1" and done.model == "gpt-x"
    )
    assert "".join(each.text for each in chunks if isinstance(each, ReasoningChunk)) == thought.text
    assert [each.signature for each in chunks if isinstance(each, ReasoningChunk) and each.signature] == [
        thought.signature
    ]


def test_calls_know_where_they_came() -> None:
    _, done = play(*streamed(CALL, REASONING, MESSAGE, {**CALL, "id": "fc_2", "call_id": "call_2"}))
    assert done.calls_at == 0 and [call.at for call in done.tool_calls] == [None, 2]


def test_streamed_and_whole_are_the_same() -> None:
    items = (REASONING, MESSAGE, CALL, {**CALL, "id": "fc_2", "call_id": "call_2"})
    _, by_events = play(*streamed(*items))
    _, whole = play(final(*items)["response"])
    _, by_items = play(*({"type": "response.output_item.done", "output_index": 0, "item": REASONING}, final(*items)))
    for done in (whole, by_items):
        assert (done.content, done.tool_calls, done.calls_at) == (
            by_events.content,
            by_events.tool_calls,
            by_events.calls_at,
        )


def test_what_deltas_left_out_is_taken_from_what_is_told_later() -> None:
    events = [each for each in streamed(REASONING, MESSAGE, CALL) if not each["type"].endswith(".delta")]
    _, done = play(*events)
    assert [getattr(part, "text", None) for part in done.content] == ["First.\n\nSecond.", "Let me see."]
    assert done.tool_calls[0].arguments == '{"at": "x"}'
    lost = [each for each in streamed(MESSAGE) if each.get("delta") != "Let me"]
    assert play(*lost)[1].content[0].text == " see."  # type: ignore[union-attr]


def test_thinking_without_a_summary_is_kept_sealed() -> None:
    chunks, done = play(*streamed({**REASONING, "summary": []}, CALL))
    assert done.content == (HiddenReasoningPart(signature_of(Kept(id="rs_1", encrypted="sealed"))),)
    assert not any(isinstance(each, ReasoningChunk) for each in chunks)
    assert play(*streamed({**REASONING, "summary": [], "encrypted_content": None}, MESSAGE))[1].content == (
        TextPart("Let me see.", signature_of(Kept(id="msg_1", phase="commentary"))),
    )


def test_open_reasoning_text() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hmm."}]}
    place = {"item_id": "rs_1", "output_index": 0, "content_index": 0}
    events = [
        {"type": "response.reasoning_text.delta", **place, "delta": "Hm"},
        {"type": "response.reasoning_text.delta", **place, "delta": "m."},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
    ]
    _, done = play(*events, final(item))
    assert done.content == (ReasoningPart("Hmm.", signature=signature_of(Kept(id="rs_1", cut=[("c", 4)]))),)


def test_places_are_found_by_id_where_the_index_is_missing() -> None:
    events = streamed(MESSAGE, CALL, {**CALL, "id": "fc_2", "call_id": "call_2"})
    for event in events:
        event.pop("output_index", None)
    _, done = play(*events)
    assert [(call.id, call.arguments) for call in done.tool_calls] == [
        ("call_1", '{"at": "x"}'),
        ("call_2", '{"at": "x"}'),
    ]


def test_calls_without_an_id_or_with_the_same_one_are_told_apart() -> None:
    chunks, done = play(*streamed(CALL, {**CALL, "id": "fc_2"}, {**CALL, "id": "fc_3", "call_id": None}))
    ids = [call.id for call in done.tool_calls]
    assert len(set(ids)) == 3 and ids[0] == "call_1"
    assert [each.id for each in chunks if isinstance(each, ToolCallChunk) and each.id] == ids


def test_a_refusal_is_text_that_says_so() -> None:
    item = {"type": "message", "id": "msg_1", "content": [{"type": "refusal", "refusal": "I will not."}]}
    chunks, done = play(*streamed(item))
    assert "".join(each.text for each in chunks if isinstance(each, TextChunk)) == "I will not."
    assert done.extra == {"refusal": True} and done.finish == "stop"


@pytest.mark.parametrize(
    ("reason", "finish"), [("max_output_tokens", "length"), ("content_filter", "content_filter"), (None, "stop")]
)
def test_an_incomplete_response(reason: str | None, finish: str) -> None:
    details = {"reason": reason} if reason else None
    assert play(final(MESSAGE, status="incomplete", incomplete_details=details))[1].finish == finish
    assert play(final(status="incomplete", incomplete_details=details))[1].content == ()
    assert play(final(CALL, status="incomplete", incomplete_details=details))[1].finish == finish


def test_usage_with_cached_written_and_reasoning_tokens() -> None:
    usage = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 80, "cache_write_tokens": 20},
        "output_tokens": 50,
        "output_tokens_details": {"reasoning_tokens": 40},
        "total_tokens": 150,
    }
    assert play(final(MESSAGE, usage=usage))[1].usage == Usage(100, 50, 150, 80, 20, 40)
    assert play(final(MESSAGE, usage=None))[1].usage == Usage()


def test_logprobs() -> None:
    token = {"token": "Let", "logprob": -0.5, "bytes": [76], "top_logprobs": [{"token": "Let", "logprob": -0.5}]}
    part = {"type": "output_text", "text": "Let me see.", "logprobs": [token]}
    found = play(final({**MESSAGE, "content": [part]}))[1].logprobs
    assert found is not None and (found[0].token, found[0].logprob, found[0].bytes) == ("Let", -0.5, [76])
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    delta = {"type": "response.output_text.delta", **place, "delta": "Let", "logprobs": [token]}
    assert play(delta, final())[1].logprobs == found


@pytest.mark.parametrize(
    ("event", "kind", "retryable"),
    [
        (final(status="failed", error={"code": "server_error", "message": "Oops"}), "llm_error", True),
        (final(status="failed", error={"code": "rate_limit_exceeded", "message": "Slow"}), "llm_rate_limit", True),
        (final(status="failed", error={"code": "invalid_prompt", "message": "No"}), "llm_bad_request", False),
        ({"type": "error", "code": "server_error", "message": "Oops", "param": None}, "llm_error", True),
        (
            {
                "type": "error",
                "error": {"type": "invalid_request_error", "code": "context_length_exceeded", "message": "x"},
            },
            "context_window_exceeded",
            False,
        ),
        ({"error": {"message": "You exceeded your current quota"}}, "llm_insufficient_credits", False),
    ],
)
def test_errors_are_told_by_what_they_are(event: Any, kind: str, retryable: bool) -> None:
    with pytest.raises(ProviderError) as failed:
        play(event)
    assert (failed.value.kind, failed.value.retryable) == (kind, retryable)
    with pytest.raises(ProviderError) as late:
        play({"type": "response.output_text.delta", "output_index": 0, "delta": "x"}, event)
    assert not late.value.retryable


def test_a_stream_that_ends_before_the_answer_does() -> None:
    with pytest.raises(ProviderError) as cut:
        play(*streamed(MESSAGE)[:-1])
    assert cut.value.kind == "llm_connection" and not cut.value.retryable
    with pytest.raises(ProviderError) as nothing:
        play({"type": "response.created", "response": {"id": "resp_1"}})
    assert nothing.value.retryable


def test_an_answer_without_output_is_an_error_and_an_empty_message_is_not() -> None:
    with pytest.raises(ProviderError) as empty:
        play(final())
    assert empty.value.kind == "llm_empty_response"
    assert play(final({**MESSAGE, "content": []}))[1].content == ()


def test_what_is_no_event_is_named() -> None:
    with pytest.raises(ProviderError, match="no answer of the Responses API"):
        ResponsesAnswer("acme").feed([b"<html>"])


def test_events_it_does_not_know_are_passed_over() -> None:
    unknown = [
        {"type": "response.web_search_call.searching", "output_index": 0, "item_id": "ws_1"},
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "web_search_call", "id": "ws_1"}},
        {"type": "response.some_new_thing", "delta": "x"},
        {"type": "keepalive"},
    ]
    assert play(*unknown, final(MESSAGE))[1].content[0].text == "Let me see."  # type: ignore[union-attr]


def test_nothing_is_read_after_the_end() -> None:
    answer = ResponsesAnswer("acme")
    answer.feed([json.dumps(final(MESSAGE)).encode()])
    assert answer.ended and answer.feed([json.dumps(final(CALL)).encode()]) == []
    assert answer.done().tool_calls == ()
