"""Gemini's frames: parts and signatures, stops of every kind, errors."""

import json
from typing import Any

import pytest

from perdure.core.errors import ProviderError
from perdure.core.messages import ReasoningPart, TextPart, ToolCall
from perdure.core.model import Chunk, ModelDone, ReasoningChunk, TextChunk, ToolCallChunk
from perdure.core.runs import Usage
from perdure.providers.gemini_frames import GeminiAnswer


def frame(*parts: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    if "finishMessage" in more:
        candidate["finishMessage"] = more.pop("finishMessage")
    return {"candidates": [candidate], "modelVersion": "gemini-x", "responseId": "r1", **more}


def play(*frames: Any) -> tuple[list[Chunk], ModelDone]:
    answer = GeminiAnswer("acme")
    chunks = [chunk for each in frames for chunk in answer.feed([json.dumps(each).encode()])]
    return chunks, answer.done()


def call(name: str = "f", args: Any = None, **more: Any) -> dict[str, Any]:
    made = {"name": name, **({"args": args} if args is not None else {})}
    if "id" in more:
        made["id"] = more.pop("id")
    return {"functionCall": made, **more}


def test_thinking_text_and_calls() -> None:
    chunks, done = play(
        frame({"text": "Hm", "thought": True}),
        frame({"text": "m.", "thought": True}),
        frame({"text": "So"}, {"text": ": "}),
        frame(call(args={"a": 1}, id="x1", thoughtSignature="c2ln"), call("g")),
        frame({"text": "done"}, finish="STOP"),
    )
    assert done.content == (ReasoningPart("Hmm."), TextPart("So: "), TextPart("done"))
    first, second = done.tool_calls
    assert first == ToolCall("x1", "f", '{"a": 1}', "c2ln")
    assert (second.name, second.arguments, second.signature) == ("g", "{}", None) and second.id.startswith("call_")
    assert done.calls_at == 2 and done.finish == "tool_calls" and (done.model, done.request_id) == ("gemini-x", "r1")
    assert chunks == [
        *(ReasoningChunk("Hm"), ReasoningChunk("m."), TextChunk("So"), TextChunk(": ")),
        *(ToolCallChunk(0, "x1", "f", '{"a": 1}', "c2ln"), ToolCallChunk(1, second.id, "g", "{}"), TextChunk("done")),
    ]


def test_arguments_stay_as_they_were_written() -> None:
    raw = b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{"b" : 1.0,"a":"\\u00e9\\/"}}}]}}]}'
    answer = GeminiAnswer("acme")
    (chunk,) = answer.feed([raw])
    assert isinstance(chunk, ToolCallChunk) and chunk.arguments == '{"b" : 1.0,"a":"\\u00e9\\/"}'


def test_a_signature_closes_its_part() -> None:
    _, done = play(
        frame({"text": "a"}), frame({"text": "b", "thoughtSignature": "s1"}), frame({"text": "c"}, finish="STOP")
    )
    assert done.content == (TextPart("ab", "s1"), TextPart("c"))
    _, late = play(frame({"text": "ab"}), frame({"text": "", "thoughtSignature": "s1"}, finish="STOP"))
    assert late.content == (TextPart("ab", "s1"),)
    chunks, alone = play(frame(call(id="c")), frame({"thoughtSignature": "s2"}, finish="STOP"))
    assert alone.content == (TextPart("", "s2"),) and alone.calls_at == 0 and len(chunks) == 1
    _, thought = play(frame({"text": "h", "thought": True, "thoughtSignature": "s3"}, {"text": "i"}, finish="STOP"))
    assert thought.content == (ReasoningPart("h", signature="s3"), TextPart("i"))


def test_calls_with_the_same_id_are_told_apart() -> None:
    _, done = play(frame(call(id="x"), call(id="x"), finish="STOP"))
    assert done.tool_calls[0].id == "x" and done.tool_calls[1].id != "x"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("RECITATION", "content_filter")],
)
def test_why_it_stopped(reason: str, finish: str) -> None:
    assert play(frame({"text": "x"}, finish=reason))[1].finish == finish


@pytest.mark.parametrize("reason", ["SAFETY", "RECITATION", "PROHIBITED_CONTENT", "SPII", "BLOCKLIST"])
def test_an_answer_that_was_stopped_before_it_began_is_an_error_that_says_why(reason: str) -> None:
    with pytest.raises(ProviderError, match=f"acme gave no answer: {reason}") as stopped:
        play({"candidates": [{"finishReason": reason}]})
    assert stopped.value.kind == "llm_bad_request" and not stopped.value.retryable


def test_a_refused_prompt() -> None:
    with pytest.raises(ProviderError, match="acme refused the prompt: PROHIBITED_CONTENT") as blocked:
        play({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 3}})
    assert blocked.value.kind == "llm_bad_request"


def test_a_malformed_call_is_told_to_the_model() -> None:
    words = "Malformed function call: print(default_api.f(a=))"
    _, done = play(frame(finish="MALFORMED_FUNCTION_CALL", finishMessage=words))
    ((text, why),) = done.unparsed
    assert text == words and "MALFORMED_FUNCTION_CALL" in why and done.tool_calls == ()


def test_usage_counts_thinking_as_completion() -> None:
    told = {
        "promptTokenCount": 100,
        "toolUsePromptTokenCount": 5,
        "cachedContentTokenCount": 80,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 30,
        "totalTokenCount": 155,
    }
    early = {"promptTokenCount": 100, "totalTokenCount": 100}
    frames = (frame({"text": "x"}, usageMetadata=early), frame(finish="STOP", usageMetadata=told))
    assert play(*frames)[1].usage == Usage(105, 50, 155, 80, None, 30)


def test_logprobs() -> None:
    result = {
        "chosenCandidates": [{"token": "x", "tokenId": 7, "logProbability": -0.5}],
        "topCandidates": [
            {"candidates": [{"token": "x", "logProbability": -0.5}, {"token": "y", "logProbability": -1}]}
        ],
    }
    made = frame({"text": "x"}, finish="STOP")
    made["candidates"][0]["logprobsResult"] = result
    found = play(made)[1].logprobs
    assert found is not None and (found[0].token, found[0].logprob) == ("x", -0.5)
    assert found[0].top == (("x", -0.5, None), ("y", -1.0, None))


@pytest.mark.parametrize(
    ("error", "kind", "retryable"),
    [
        ({"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED"}, "llm_rate_limit", True),
        ({"code": 503, "message": "The model is overloaded", "status": "UNAVAILABLE"}, "llm_overloaded", True),
        ({"code": 400, "message": "API key not valid. Please pass one."}, "llm_authentication", False),
        (
            {"code": 400, "message": "The input token count (2) exceeds the maximum number of tokens allowed (1)."},
            "context_window_exceeded",
            False,
        ),
    ],
)
def test_errors(error: Any, kind: str, retryable: bool) -> None:
    for body in ({"error": error}, [{"error": error}]):
        with pytest.raises(ProviderError) as failed:
            play(body)
        assert (failed.value.kind, failed.value.retryable) == (kind, retryable)
    with pytest.raises(ProviderError) as late:
        play(frame({"text": "x"}), {"error": error})
    assert not late.value.retryable


def test_an_error_in_the_same_read_comes_after_what_was_said() -> None:
    answer = GeminiAnswer("acme")
    frames = [json.dumps(each).encode() for each in (frame({"text": "x"}), {"error": {"code": 503, "message": "busy"}})]
    assert answer.feed(frames) == [TextChunk("x")]
    with pytest.raises(ProviderError, match="busy"):
        answer.done()


def test_a_stream_that_ends_before_the_answer_does() -> None:
    with pytest.raises(ProviderError) as cut:
        play(frame({"text": "x"}))
    assert cut.value.kind == "llm_connection" and not cut.value.retryable


def test_a_whole_answer_may_be_a_list_of_frames() -> None:
    answer = GeminiAnswer("acme")
    answer.feed([json.dumps([frame({"text": "a"}), frame({"text": "b"}, finish="STOP")]).encode()])
    assert answer.done().content == (TextPart("ab"),)


def test_what_is_no_answer_is_named() -> None:
    with pytest.raises(ProviderError, match="no answer of Gemini's API"):
        GeminiAnswer("acme").feed([b"<html>"])
