"""The Anthropic double is good enough for the official SDK, and refuses what the API refuses, so what passes it counts."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic import Anthropic, APIStatusError

from tests.doubles.anthropic import (
    MODEL,
    AnthropicDouble,
    blocks,
    call,
    failure,
    redacted,
    signature_of,
    text,
    thinking,
)

HI: list[Any] = [{"role": "user", "content": "Hi"}]
TOOL: list[Any] = [{"name": "roll", "description": "Rolls.", "input_schema": {"type": "object", "properties": {}}}]


@pytest.fixture
def double() -> Iterator[AnthropicDouble]:
    made = AnthropicDouble()
    yield made
    made.close()


@pytest.fixture
def sdk(double: AnthropicDouble) -> Anthropic:
    return Anthropic(base_url=double.base_url, api_key="sk-ant", max_retries=0)


def test_a_whole_answer(double: AnthropicDouble, sdk: Anthropic) -> None:
    double.script(blocks(thinking("Dice."), "Rolling.", call("roll", {"sides": 6})))
    answer = sdk.messages.create(model=MODEL, max_tokens=99, messages=HI, tools=TOOL)
    assert [block.type for block in answer.content] == ["thinking", "text", "tool_use"]
    assert answer.content[0].type == "thinking" and answer.content[0].signature == signature_of("Dice.")
    assert answer.content[2].type == "tool_use" and answer.content[2].input == {"sides": 6}
    assert answer.stop_reason == "tool_use" and answer.usage.output_tokens == 5


def test_a_streamed_answer(double: AnthropicDouble, sdk: Anthropic) -> None:
    double.script(
        blocks(
            thinking("Two dice."),
            redacted("b3BhcXVl"),
            "Rolling.",
            call("roll", {"sides": 6}, id="toolu_1"),
            call("roll", {"sides": 8}, id="toolu_2"),
        )
    )
    with sdk.messages.stream(model=MODEL, max_tokens=99, messages=HI, tools=TOOL) as stream:
        words = list(stream.text_stream)
        answer = stream.get_final_message()
    assert "".join(words) == "Rolling." and len(words) > 1
    kinds = [block.type for block in answer.content]
    assert kinds == ["thinking", "redacted_thinking", "text", "tool_use", "tool_use"]
    assert answer.content[0].type == "thinking" and answer.content[0].signature == signature_of("Two dice.")
    assert [block.input for block in answer.content if block.type == "tool_use"] == [{"sides": 6}, {"sides": 8}]


def test_errors_and_the_models(double: AnthropicDouble, sdk: Anthropic) -> None:
    double.script(failure(529, "overloaded_error"), text("ok", error_after=3))
    with pytest.raises(APIStatusError) as refused:
        sdk.messages.create(model=MODEL, max_tokens=9, messages=HI)
    assert refused.value.status_code == 529
    with (
        pytest.raises(APIStatusError, match="Overloaded"),
        sdk.messages.stream(model=MODEL, max_tokens=9, messages=HI) as stream,
    ):
        stream.get_final_message()
    listed = list(sdk.models.list())
    assert [(model.id, model.max_input_tokens) for model in listed] == [(MODEL, 200_000)]


def _turn(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def _result(**more: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "4", **more}]}


USE = {"type": "tool_use", "id": "toolu_1", "name": "roll", "input": {}}
SIGNED = {"type": "thinking", "thinking": "Dice.", "signature": signature_of("Dice.")}


@pytest.mark.parametrize(
    ("messages", "more", "why"),
    [
        ([_turn({"type": "text", "text": "x"})], {}, "first message"),
        ([*HI, *HI], {}, "alternate"),
        ([*HI, _turn({"type": "text", "text": " "}), *HI], {}, "non-whitespace"),
        ([*HI, _turn(USE), *HI], {}, "without `tool_result`"),
        ([*HI, _turn({"type": "text", "text": "x"}), _result()], {}, "unexpected `tool_use_id`"),
        ([*HI, _turn({"type": "thinking", "thinking": "x"}, USE), _result()], {}, "signature: Field required"),
        ([*HI, _turn({**SIGNED, "thinking": "Edited."}, USE), _result()], {}, "Invalid `signature`"),
        ([*HI, _turn(USE), _result()], {"thinking": {"type": "enabled", "budget_tokens": 1024}}, "Expected `thinking`"),
        (HI, {"thinking": {"type": "enabled", "budget_tokens": 5000}}, "budget_tokens"),
        (
            HI,
            {"thinking": {"type": "enabled", "budget_tokens": 1024}, "tools": TOOL, "tool_choice": {"type": "any"}},
            "forces tool use",
        ),
    ],
)
def test_it_refuses_what_the_api_refuses(
    double: AnthropicDouble, sdk: Anthropic, messages: list[Any], more: dict[str, Any], why: str
) -> None:
    with pytest.raises(APIStatusError, match=why) as refused:
        sdk.messages.create(model=MODEL, max_tokens=2000, messages=messages, **more)
    assert refused.value.status_code == 400


def test_it_wants_its_thinking_back_unchanged(double: AnthropicDouble, sdk: Anthropic) -> None:
    double.script(blocks(thinking("Dice."), redacted("b3BhcXVl"), call("roll", {})))
    answer = sdk.messages.create(model=MODEL, max_tokens=99, messages=HI, tools=TOOL)
    content: list[Any] = [block.model_dump() for block in answer.content]
    back: list[Any] = [*HI, {"role": "assistant", "content": content}, _result()]
    assert sdk.messages.create(model=MODEL, max_tokens=99, messages=back, tools=TOOL).stop_reason == "end_turn"
    back[1] = {"role": "assistant", "content": [content[0], content[2]]}
    with pytest.raises(APIStatusError, match="cannot be modified"):
        sdk.messages.create(model=MODEL, max_tokens=99, messages=back, tools=TOOL)


def test_its_usage_tells_what_the_cache_gave(double: AnthropicDouble, sdk: Anthropic) -> None:
    system: list[Any] = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    first = sdk.messages.create(model=MODEL, max_tokens=9, messages=HI, system=system).usage
    again = sdk.messages.create(model=MODEL, max_tokens=9, messages=HI, system=system).usage
    assert (first.cache_creation_input_tokens, first.cache_read_input_tokens, first.input_tokens) == (1, 0, 1)
    assert (again.cache_creation_input_tokens, again.cache_read_input_tokens, again.input_tokens) == (0, 1, 1)


def test_a_batch_of_messages(double: AnthropicDouble, sdk: Anthropic) -> None:
    def say(body: dict[str, Any]) -> dict[str, Any]:
        said = body["messages"][0]["content"]
        return failure(529, "overloaded_error") if said == "too much" else text(f"You said {said}.")

    double.default = say
    double.batches.expire = "late"
    requests: Any = [
        {
            "custom_id": word[:3],
            "params": {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": word}]},
        }
        for word in ("good", "too much", "late")
    ]
    made = sdk.messages.batches.create(requests=requests)
    assert (made.processing_status, made.request_counts.processing) == ("in_progress", 3)
    assert sdk.messages.batches.retrieve(made.id).processing_status == "ended"
    results = {each.custom_id: each.result for each in sdk.messages.batches.results(made.id)}
    assert [results[id].type for id in ("goo", "too", "lat")] == ["succeeded", "errored", "expired"]
    good, bad = results["goo"], results["too"]
    assert good.type == "succeeded" and good.message.content[0].type == "text"
    assert good.message.content[0].text == "You said good."
    assert bad.type == "errored" and bad.error.error.type == "overloaded_error"
    assert [batch.id for batch in sdk.messages.batches.list(limit=1)] == [made.id]


def test_a_cancelled_batch_of_messages(double: AnthropicDouble, sdk: Anthropic) -> None:
    double.batches.gate = threading.Event()
    requests: Any = [{"custom_id": "a", "params": {"model": MODEL, "max_tokens": 9, "messages": HI}}]
    made = sdk.messages.batches.create(requests=requests)
    assert sdk.messages.batches.retrieve(made.id).processing_status == "in_progress"
    assert sdk.messages.batches.cancel(made.id).processing_status == "canceling"
    assert sdk.messages.batches.retrieve(made.id).request_counts.canceled == 1
    assert [each.result.type for each in sdk.messages.batches.results(made.id)] == ["canceled"]
    with pytest.raises(APIStatusError):
        sdk.messages.batches.cancel(made.id)
