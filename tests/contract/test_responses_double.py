"""The Responses double is good enough for the official SDK, so what our translator makes of it counts."""

from collections.abc import Iterator

import pytest
from openai import BadRequestError, OpenAI

from tests.doubles.openai_chat import calls, failure
from tests.doubles.openai_responses import ResponsesDouble


@pytest.fixture
def double() -> Iterator[ResponsesDouble]:
    made = ResponsesDouble()
    yield made
    made.close()


@pytest.fixture
def sdk(double: ResponsesDouble) -> OpenAI:
    return OpenAI(base_url=double.base_url, api_key="sk-test", max_retries=0)


TURN = {**calls([("call_1", "roll", {"sides": 6})], content="Rolling."), "reasoning": ["Dice.", "Six sides."]}


def test_a_whole_answer_and_its_follow_up(double: ResponsesDouble, sdk: OpenAI) -> None:
    double.script(TURN)
    first = sdk.responses.create(model="gpt-test", input="Hi", store=False)
    thought, said, call = first.output
    assert thought.type == "reasoning" and [each.text for each in thought.summary] == ["Dice.", "Six sides."]
    assert said.type == "message" and first.output_text == "Rolling."
    assert call.type == "function_call" and call.arguments == '{"sides": 6}'
    assert first.usage is not None and first.usage.output_tokens_details.reasoning_tokens == 2
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "4"}
    hello = {"type": "message", "role": "user", "content": "Hi"}
    items = [item.model_dump(exclude_none=True) for item in first.output]
    sdk.responses.create(model="gpt-test", input=[hello, *items, output], store=False)  # type: ignore[list-item]
    for wrong in (items[1:], items[:1], items[:2]):
        with pytest.raises(BadRequestError):
            sdk.responses.create(model="gpt-test", input=[hello, *wrong, output], store=False)  # type: ignore[list-item]
    broken = [{**items[0], "encrypted_content": "other"}, *items[1:]]
    with pytest.raises(BadRequestError, match="could not be verified"):
        sdk.responses.create(model="gpt-test", input=[hello, *broken, output], store=False)  # type: ignore[list-item]


def test_a_streamed_answer(double: ResponsesDouble, sdk: OpenAI) -> None:
    double.script({**TURN, "phase": "commentary"})
    kinds: list[str] = []
    with sdk.responses.stream(model="gpt-test", input="Hi", store=False) as stream:
        for event in stream:
            kinds.append(event.type)
        answer = stream.get_final_response()
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    assert answer.output_text == "Rolling." and answer.output[1].phase == "commentary"  # type: ignore[union-attr]
    assert answer.output[2].arguments == '{"sides": 6}'  # type: ignore[union-attr]
    assert answer.output[0].encrypted_content == "sealed-rs_0001"  # type: ignore[union-attr]


def test_a_refusal_an_incomplete_and_a_failed_response(double: ResponsesDouble, sdk: OpenAI) -> None:
    double.script(
        {"refusal": "I will not."},
        {"content": "Once", "finish": "length"},
        {"error": {"code": "server_error", "message": "Oops"}},
        failure(429, {"error": {"message": "slow down"}}),
    )
    refused = sdk.responses.create(model="gpt-test", input="Hi", store=False)
    assert refused.output[0].content[0].type == "refusal"  # type: ignore[union-attr]
    cut = sdk.responses.create(model="gpt-test", input="Hi", store=False)
    assert cut.incomplete_details is not None and cut.incomplete_details.reason == "max_output_tokens"
    failed = sdk.responses.create(model="gpt-test", input="Hi", store=False)
    assert failed.status == "failed" and failed.error is not None and failed.error.message == "Oops"
    with pytest.raises(Exception, match="slow down"):
        sdk.responses.create(model="gpt-test", input="Hi", store=False)
