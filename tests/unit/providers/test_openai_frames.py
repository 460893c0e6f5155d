"""Chat-completion answers in every shape servers give them."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.errors import ProviderError
from perdure.core.messages import HiddenReasoningPart, ReasoningPart, TextPart, ToolCall
from perdure.core.model import Chunk, ModelDone, ReasoningChunk, TextChunk, ToolCallChunk
from perdure.core.runs import Usage
from perdure.providers.openai_frames import ChatAnswer

encode = msgspec.json.encode


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "c-1", "model": "m", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def piece(index: int | None = 0, **fields: Any) -> dict[str, Any]:
    function = {key: fields.pop(key) for key in ("name", "arguments") if key in fields}
    made = {"function": function, **fields}
    return made if index is None else {"index": index, **made}


def play(*frames: Any, complete: bool = True) -> tuple[list[Chunk], ModelDone]:
    answer = ChatAnswer("test")
    chunks = answer.feed([frame if isinstance(frame, bytes) else encode(frame) for frame in frames])
    return chunks, answer.done(complete=complete)


def calls_of(*pieces: dict[str, Any]) -> tuple[ToolCall, ...]:
    frames = [delta(tool_calls=[each]) for each in pieces]
    chunks, done = play(*frames, delta("tool_calls"))
    joined: dict[int, list[Any]] = {}
    for chunk in chunks:
        assert isinstance(chunk, ToolCallChunk)
        entry = joined.setdefault(chunk.index, [chunk.id, chunk.name, ""])
        entry[2] += chunk.arguments
    assert [ToolCall(*entry) for _, entry in sorted(joined.items())] == list(done.tool_calls)
    return done.tool_calls


def test_text_passes_verbatim() -> None:
    chunks, done = play(delta(role="assistant", content=""), delta(content=" a\n"), delta(content="é "), delta("stop"))
    assert chunks == [TextChunk(" a\n"), TextChunk("é ")]
    assert done.content == (TextPart(" a\né "),) and done.finish == "stop"
    assert (done.request_id, done.model) == ("c-1", "m")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_comes_as_parts_in_order(name: str) -> None:
    frames = [
        delta(**{name: "a"}),
        delta(**{name: "b"}),
        delta(content="c"),
        delta(**{name: "d"}),
        delta("stop", content="e"),
    ]
    chunks, done = play(*frames)
    assert [type(chunk) for chunk in chunks] == [ReasoningChunk, ReasoningChunk, TextChunk, ReasoningChunk, TextChunk]
    assert done.content == (ReasoningPart("ab"), TextPart("c"), ReasoningPart("d"), TextPart("e"))


def test_calls_by_index() -> None:
    assert calls_of(
        piece(0, id="a", name="f", arguments=""),
        piece(0, arguments='{"x"'),
        piece(1, id="b", name="g"),
        piece(0, arguments=": 1}"),
        piece(1, arguments="{}"),
    ) == (ToolCall("a", "f", '{"x": 1}'), ToolCall("b", "g", "{}"))


def test_calls_without_an_index_are_told_apart_by_id_or_name() -> None:
    assert calls_of(
        piece(None, id="a", name="f", arguments="{"),
        piece(None, arguments="}"),
        piece(None, id="b", name="g", arguments="[]"),
        piece(None, id="a", arguments=" "),
    ) == (ToolCall("a", "f", "{} "), ToolCall("b", "g", "[]"))
    made = calls_of(piece(None, name="f", arguments="1"), piece(None, name="f", arguments="2"))
    assert [(call.name, call.arguments) for call in made] == [("f", "1"), ("f", "2")]


def test_calls_that_all_have_index_0_are_told_apart_by_id() -> None:
    made = calls_of(piece(0, id="a", name="f", arguments="1"), piece(0, id="b", name="g", arguments="2"))
    assert made == (ToolCall("a", "f", "1"), ToolCall("b", "g", "2"))


def test_a_name_told_again_or_an_id_that_changes_within_a_call_makes_no_second_call() -> None:
    made = calls_of(
        piece(0, id="a", name="f", arguments="{"), piece(0, id="a", name="f", arguments="}"), piece(0, id="z")
    )
    assert made == (ToolCall("a", "f", "{}"),)


def test_a_call_without_an_id_gets_one_of_its_own() -> None:
    made = calls_of(piece(0, name="f", arguments="{}"), piece(1, id="", name="g", arguments="{}"))
    assert all(call.id.startswith("call_") for call in made) and made[0].id != made[1].id


def test_two_calls_of_one_id_get_two() -> None:
    made = calls_of(piece(0, id="call_0", name="f", arguments="{}"), piece(1, id="call_0", name="g", arguments="{}"))
    assert made[0].id == "call_0" and made[1].id != "call_0"


def test_arguments_before_the_name_are_kept() -> None:
    assert calls_of(piece(0, id="a", arguments='{"a"', name=""), piece(0, name="f", arguments=":1}")) == (
        ToolCall("a", "f", '{"a":1}'),
    )


def test_a_call_that_is_never_named_is_unparsed() -> None:
    chunks, done = play(delta(tool_calls=[piece(0, id="a", arguments="{}")]), delta("tool_calls"))
    assert chunks == [] and done.tool_calls == () and done.finish == "stop"
    assert done.unparsed == (("{}", "the call has no tool name"),)


@pytest.mark.parametrize(
    ("said", "has_calls", "finish"),
    [
        ("stop", False, "stop"),
        ("stop", True, "tool_calls"),
        ("tool_calls", False, "stop"),
        ("function_call", True, "tool_calls"),
        ("length", True, "length"),
        ("max_tokens", False, "length"),
        ("content_filter", False, "content_filter"),
        ("eos", False, "stop"),
        ("abort", False, "abort"),
        ("something new", False, "stop"),
    ],
)
def test_finish_reasons(said: str, has_calls: bool, finish: str) -> None:
    fields: dict[str, Any] = {"tool_calls": [piece(0, id="a", name="f")]} if has_calls else {"content": "x"}
    assert play(delta(said, **fields))[1].finish == finish


def test_no_room_is_a_cut_answer_or_a_prompt_that_does_not_fit() -> None:
    reason = "model_context_window_exceeded"
    assert play(delta(reason, content="So far"))[1].finish == "length"
    with pytest.raises(ProviderError) as refused:
        play(delta(reason, content=""))
    assert refused.value.kind == "context_window_exceeded" and not refused.value.retryable


def test_a_finish_reason_may_come_late_or_twice() -> None:
    assert play(delta("length", content="x"), delta("length"), delta(content="y"))[1].content == (TextPart("xy"),)
    assert play(delta(content="x"), {"choices": [{"index": 0, "finish_reason": "length"}]})[1].finish == "length"


def test_a_stream_that_stops_without_saying_so_is_no_answer() -> None:
    with pytest.raises(ProviderError, match="ended before") as cut:
        play(delta(content="x"), complete=False)
    assert cut.value.kind == "llm_connection" and not cut.value.retryable
    with pytest.raises(ProviderError) as empty:
        play(complete=False)
    assert empty.value.retryable
    assert play(delta("stop", content="x"), complete=False)[1].finish == "stop"
    usage = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    assert play(delta(content="x"), usage, complete=False)[1].finish == "stop"


def test_an_answer_without_a_choice_is_empty() -> None:
    with pytest.raises(ProviderError) as empty:
        play()
    assert empty.value.kind == "llm_empty_response" and empty.value.retryable
    assert play(delta("stop"))[1].content == ()


def test_usage_with_its_details() -> None:
    told = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    assert play(delta("stop"), {"choices": [], "usage": told})[1].usage == Usage(10, 5, 15, 8, None, 3)
    assert play(delta("stop"), {"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}})[
        1
    ].usage == Usage(2, 3, 5)
    deepseek = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10, "prompt_cache_hit_tokens": 4}
    assert play(delta("stop"), {"choices": [], "usage": deepseek})[1].usage.cached_input_tokens == 4
    assert play({**delta("stop"), "usage": None})[1].usage == Usage()


def test_logprobs_with_alternatives() -> None:
    token = {"token": "é", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": [{"token": "e", "logprob": -1.0}]}
    frame = delta("stop", content="é")
    frame["choices"][0]["logprobs"] = {"content": [token], "refusal": None}
    logprobs = play(frame)[1].logprobs
    assert logprobs is not None and logprobs[0].token == "é" and logprobs[0].bytes == [195, 169]
    assert logprobs[0].top == (("e", -1.0, None),)


def test_a_refusal_is_text_and_marked() -> None:
    _, done = play(delta(refusal="I can"), delta("stop", refusal="not."))
    assert done.content == (TextPart("I cannot."),) and done.extra == {"refusal": True}


@pytest.mark.parametrize(
    ("frame", "kind", "status"),
    [
        ({"error": {"message": "slow down", "code": 429}}, "llm_rate_limit", 429),
        ({"error": {"message": "slow down", "code": "429"}}, "llm_rate_limit", 429),
        ({"error": {"message": "bad", "type": "BadRequestError"}}, "llm_bad_request", 400),
        ({"error": "it broke"}, "llm_error", None),
        ({"object": "error", "message": "maximum context length is 9", "code": 400}, "context_window_exceeded", 400),
        ([{"error": {"message": "no key", "code": 401}}], "llm_authentication", 401),
        (
            {"id": "x", "choices": [{"finish_reason": "error", "error": {"message": "up", "code": 502}}]},
            "llm_connection",
            502,
        ),
        ({"error": {"message": "overloaded", "type": "overloaded_error"}}, "llm_overloaded", 529),
    ],
)
def test_errors_inside_a_stream(frame: Any, kind: str, status: int | None) -> None:
    with pytest.raises(ProviderError) as failed:
        play(frame)
    assert (failed.value.kind, failed.value.status) == (kind, status)
    after = ChatAnswer("test")
    after.feed([encode(delta(content="x"))])
    if not isinstance(frame, dict) or "error" in frame:
        with pytest.raises(ProviderError) as late:
            after.feed([encode(frame)])
        assert not late.value.retryable


def test_what_is_no_json_is_named_and_shown() -> None:
    with pytest.raises(ProviderError, match="<html>"):
        play(b"<html>busy</html>")


def test_odd_frames_are_read() -> None:
    odd = {
        "id": 7,
        "choices": [
            {
                "index": None,
                "finish_reason": None,
                "delta": {
                    "content": [
                        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                        {"type": "text", "text": "a"},
                        "b",
                    ],
                    "tool_calls": {"index": "0", "id": 5, "function": {"name": "f", "arguments": {"x": 1}}},
                },
                "logprobs": "none",
            }
        ],
        "usage": {"prompt_tokens": 3.0, "completion_tokens": 1, "cost": 0.5, "total_tokens": None},
    }
    _, done = play(odd, b"  ", delta("stop"))
    assert done.content == (ReasoningPart("hm"), TextPart("ab"))
    assert done.tool_calls == (ToolCall("5", "f", '{"x":1}'),)
    assert done.usage == Usage(3, 1, 4)


def test_only_the_first_choice_counts() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}}, {"index": 0, "delta": {"content": "yes"}}]}
    assert play(other, delta("stop"))[1].content == (TextPart("yes"),)


def test_a_whole_answer_equals_the_streamed_one() -> None:
    message = {
        "role": "assistant",
        "content": "said",
        "reasoning_content": "thought",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    whole = {
        "id": "c-1",
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
    }
    _, one = play(whole)
    _, many = play(
        delta(reasoning_content="thought"),
        delta(content="sa"),
        delta(content="id"),
        delta(tool_calls=[piece(0, id="a", name="f", arguments="{")]),
        delta("tool_calls", tool_calls=[piece(0, arguments="}")]),
        {"choices": [], "usage": usage},
    )
    assert one.exchange == many.exchange
    assert one == many


@given(st.lists(st.tuples(st.sampled_from(["content", "reasoning"]), st.text(max_size=5)), max_size=20), st.data())
def test_chunks_joined_are_the_parts(said: list[tuple[str, str]], data: st.DataObject) -> None:
    frames = [encode(delta(**{name: value})) for name, value in said] + [encode(delta("stop"))]
    cut = data.draw(st.integers(0, len(frames)))
    answer = ChatAnswer("test")
    chunks = answer.feed(frames[:cut]) + answer.feed(frames[cut:])
    parts: list[Any] = []
    for chunk in chunks:
        assert isinstance(chunk, TextChunk | ReasoningChunk)
        kind = TextPart if isinstance(chunk, TextChunk) else ReasoningPart
        if parts and type(parts[-1]) is kind:
            parts[-1] = kind(parts[-1].text + chunk.text)
        else:
            parts.append(kind(chunk.text))
    assert tuple(parts) == answer.done(complete=True).content
    assert "".join(part.text for part in parts) == "".join(value for _, value in said)


def test_a_broken_answer_is_an_error_whatever_it_is_called() -> None:
    for reason in ("network_error", "insufficient_system_resource", "error"):
        with pytest.raises(ProviderError) as broken:
            play({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        assert broken.value.retryable
    assert play({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "sensitive"}]})[1].finish == (
        "content_filter"
    )


def test_what_minimax_says_is_wrong() -> None:
    for code, kind in ((1002, "llm_rate_limit"), (1004, "llm_authentication"), (1008, "llm_insufficient_credits")):
        with pytest.raises(ProviderError, match=f"no \\({code}\\)") as told:
            play({"choices": None, "base_resp": {"status_code": code, "status_msg": "no"}})
        assert told.value.kind == kind


def test_what_groq_says_beside_the_choices() -> None:
    with pytest.raises(ProviderError, match="over capacity"):
        play(
            {"choices": [{"index": 0, "delta": {"content": "x"}}]},
            {"choices": [], "x_groq": {"error": {"message": "over capacity", "code": 503}}},
        )


def test_details_that_are_all_the_thinking_there_is() -> None:
    pieces = [
        [{"type": "reasoning.summary", "index": 0, "summary": "Fir"}],
        [
            {"type": "reasoning.summary", "index": 0, "summary": "st."},
            {"type": "reasoning.encrypted", "index": 0, "data": "a"},
        ],
        [{"type": "reasoning.summary", "index": 1, "summary": "Then."}, "odd"],
    ]
    frames = [{"choices": [{"index": 0, "delta": {"reasoning_details": each}}]} for each in pieces]
    done = play(*frames, {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]})[1]
    thought = done.content[0]
    assert isinstance(thought, ReasoningPart) and thought.text == "First.Then."
    assert json.loads(thought.signature or "") == [
        {"type": "reasoning.summary", "index": 0, "summary": "First."},
        {"type": "reasoning.encrypted", "index": 0, "data": "a"},
        {"type": "reasoning.summary", "index": 1, "summary": "Then."},
    ]


def test_details_ride_on_what_there_is() -> None:
    details = [{"type": "reasoning.encrypted", "index": 0, "data": "sealed"}]
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    delta = {"reasoning_details": details, "content": "x", "tool_calls": [call]}
    done = play({"choices": [{"index": 0, "delta": delta, "finish_reason": "tool_calls"}]})[1]
    assert json.loads(done.tool_calls[0].signature or "") == details and done.content == (TextPart("x"),)
    said = play(
        {"choices": [{"index": 0, "delta": {"reasoning_details": details, "content": "x"}, "finish_reason": "stop"}]}
    )
    assert [json.loads(part.signature or "") for part in said[1].content if isinstance(part, TextPart)] == [details]
    alone = play({"choices": [{"index": 0, "delta": {"reasoning_details": details}, "finish_reason": "stop"}]})[1]
    assert isinstance(alone.content[0], HiddenReasoningPart)


def test_text_after_a_call_keeps_its_place() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    deltas: list[dict[str, Any]] = [{"content": "a"}, {"tool_calls": [call]}, {"content": "b"}]
    done = play(*({"choices": [{"index": 0, "delta": delta}]} for delta in deltas), {"choices": [], "usage": {}})[1]
    assert done.content == (TextPart("a"), TextPart("b")) and done.calls_at == 1


def test_thinking_between_tags_is_read_where_the_dialect_has_it() -> None:
    answer = ChatAnswer("acme", think_tags=True)
    chunks = answer.feed(
        [json.dumps({"choices": [{"index": 0, "delta": {"content": "<think>Hm</think>Hi <th"}}]}).encode()]
    )
    assert chunks == [ReasoningChunk("Hm"), TextChunk("Hi <th")]
    cut = ChatAnswer("acme", think_tags=True)
    assert cut.feed([json.dumps({"choices": [{"index": 0, "delta": {"content": "<thi"}}]}).encode()]) == []
    assert cut.finish() == [TextChunk("<thi")]
    assert cut.done(complete=True).content == (TextPart("<thi"),)
