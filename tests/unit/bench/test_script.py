from typing import Any

import msgspec
import pytest

from perdure.bench.script import END_OF_TURN, Reply, Script, chat, directive, generate, named_script


def request(text: str, *more: dict[str, Any], **fields: Any) -> bytes:
    messages = [{"role": "system", "content": "s [[bench tokens=99]]"}, {"role": "user", "content": text}, *more]
    return msgspec.json.encode({"model": "scripted", "messages": messages, **fields})


def frames(reply: Reply) -> list[Any]:
    data = b"".join((reply.head, *reply.chunks, reply.tail))
    texts = [part.removeprefix(b"data: ") for part in data.split(b"\n\n") if part]
    assert texts.pop() == b"[DONE]"
    return [msgspec.json.decode(text) for text in texts]


def test_the_last_directive_wins_and_the_rest_stays() -> None:
    script = directive(
        "[[bench tokens=1]] then [[bench tokens=7 pace=2.5 args=%7B%22a%20b%22%3A1%7D]]", Script(delay=3)
    )
    assert script == Script(tokens=7, pace=2.5, args='{"a b":1}', delay=3)
    assert directive("no directive", Script(tokens=4)) == Script(tokens=4)


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"'token'.*tokens"):
        directive("[[bench token=1]]", Script())


def test_a_model_name_can_say_it() -> None:
    assert named_script("scripted-tokens500-pace100") == Script(tokens=500, pace=100.0)


def test_only_the_last_user_message_directs() -> None:
    body = msgspec.json.decode(chat(request("hi [[bench tokens=2]]")).head)
    assert body["choices"][0]["message"]["content"] == "the quick"
    assert body["usage"]["completion_tokens"] == 2


def test_streamed_tokens_join_to_the_whole_answer() -> None:
    whole = msgspec.json.decode(chat(request("[[bench tokens=30]]")).head)
    seen = frames(chat(request("[[bench tokens=30]]", stream=True, stream_options={"include_usage": True})))
    deltas = [frame["choices"][0]["delta"].get("content") or "" for frame in seen if frame["choices"]]
    assert "".join(deltas) == whole["choices"][0]["message"]["content"]
    assert sum(1 for delta in deltas if delta) == 30
    assert seen[-1]["usage"]["completion_tokens"] == 30 and seen[-1]["choices"] == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_as_often_as_asked_then_answered(stream: bool) -> None:
    text = "[[bench tool=f calls=2 args=%7B%22long%22%3A%22argument%22%7D]]"
    tools = [{"type": "function", "function": {"name": "f"}}]
    returns = [{"role": "tool", "content": "ok"}] * 2

    def reason(done: int) -> str:
        reply = chat(request(text, *returns[:done], tools=tools, stream=stream))
        found = [frame for frame in frames(reply) if frame["choices"]] if stream else [msgspec.json.decode(reply.head)]
        choices = [frame["choices"][0] for frame in found]
        said = [choice["delta" if stream else "message"] for choice in choices]
        calls = [call for part in said for call in part.get("tool_calls", [])]
        if done < 2:
            assert calls[0]["function"]["name"] == "f"
            assert "".join(call["function"]["arguments"] for call in calls) == '{"long":"argument"}'
        return choices[-1]["finish_reason"]

    assert [reason(done) for done in range(3)] == ["tool_calls", "tool_calls", "stop"]


def test_without_tools_nothing_is_called() -> None:
    body = msgspec.json.decode(chat(request("[[bench tool=f]]")).head)
    assert body["choices"][0]["finish_reason"] == "stop"


def test_a_status_can_be_asked_for() -> None:
    assert chat(request("[[bench status=429]]")).status == 429


def test_ids_are_bytes_and_every_frame_brings_only_its_own() -> None:
    prompt = list(b"<|im_start|>user\nhi [[bench tokens=5]]")
    body = msgspec.json.encode({"input_ids": [258, *prompt], "return_logprob": True})
    whole = msgspec.json.decode(generate(body).head)
    assert whole["output_ids"] == [*b"the q", END_OF_TURN]
    assert [entry[1] for entry in whole["meta_info"]["output_token_logprobs"]] == whole["output_ids"]
    assert whole["meta_info"]["finish_reason"] == {"type": "stop", "matched": END_OF_TURN}
    streamed = frames(generate(msgspec.json.encode({"input_ids": prompt, "stream": True})))
    assert [i for frame in streamed for i in frame["output_ids"]] == whole["output_ids"]
    assert [frame["meta_info"]["completion_tokens"] for frame in streamed] == [1, 2, 3, 4, 5, 6]
    assert [frame["meta_info"]["finish_reason"] is None for frame in streamed] == [True] * 5 + [False]
