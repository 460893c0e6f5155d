"""The OpenAI double is good enough for the official SDK, so what our translator makes of it counts."""

import json
import threading
from collections.abc import Iterator

import pytest
from openai import APIStatusError, OpenAI
from openai.types import Batch

from tests.doubles.embeddings import EmbeddingDouble, vector_of
from tests.doubles.openai_chat import OpenAIDouble, calls, failure, text


@pytest.fixture
def double() -> Iterator[OpenAIDouble]:
    made = OpenAIDouble()
    yield made
    made.close()


@pytest.fixture
def sdk(double: OpenAIDouble) -> OpenAI:
    return OpenAI(base_url=double.base_url, api_key="sk-test", max_retries=0)


def test_a_whole_answer(double: OpenAIDouble, sdk: OpenAI) -> None:
    double.script({**calls([("call_1", "roll", {"sides": 6})], content="Rolling."), "reasoning": "hm"})
    answer = sdk.chat.completions.create(model="gpt-test", messages=[{"role": "user", "content": "Hi"}])
    choice = answer.choices[0]
    assert choice.message.content == "Rolling."
    assert choice.message.tool_calls is not None
    (called,) = choice.message.tool_calls
    assert called.type == "function"
    assert called.function.arguments == '{"sides": 6}'
    assert choice.finish_reason == "tool_calls"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 15


def test_a_streamed_answer(double: OpenAIDouble, sdk: OpenAI) -> None:
    double.script(calls([("call_1", "roll", {"sides": 6}), ("call_2", "roll", {"sides": 8})], content="Rolling."))
    with sdk.chat.completions.stream(
        model="gpt-test", messages=[{"role": "user", "content": "Hi"}], stream_options={"include_usage": True}
    ) as stream:
        answer = stream.get_final_completion()
    message = answer.choices[0].message
    assert message.content == "Rolling."
    assert [call.function.arguments for call in message.tool_calls or []] == ['{"sides": 6}', '{"sides": 8}']
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 10


def test_an_error_and_the_models(double: OpenAIDouble, sdk: OpenAI) -> None:
    double.script(failure(429, {"error": {"message": "slow down", "type": "rate_limit"}}), text("ok"))
    with pytest.raises(APIStatusError) as refused:
        sdk.chat.completions.create(model="gpt-test", messages=[{"role": "user", "content": "Hi"}])
    assert refused.value.status_code == 429
    assert [model.id for model in sdk.models.list()] == ["gpt-test"]


def test_embeddings() -> None:
    double = EmbeddingDouble()
    sdk = OpenAI(base_url=double.base_url, api_key="sk-test", max_retries=0)
    for encoding in ("float", None):  # the SDK asks for base64 where it is not told, and decodes it
        extra = {} if encoding is None else {"encoding_format": encoding}
        answer = sdk.embeddings.create(model="text-embedding-test", input=["a dog", "a puppy"], **extra)  # type: ignore[call-overload]
        assert [item.index for item in answer.data] == [0, 1]
        assert answer.data[0].embedding == pytest.approx(vector_of("a dog"), abs=1e-6)
        assert answer.data[0].embedding == answer.data[1].embedding
    double.failures.append((400, {"error": {"message": "no", "code": "context_length_exceeded"}}))
    with pytest.raises(APIStatusError, match="no"):
        sdk.embeddings.create(model="text-embedding-test", input="x")
    double.close()


def batch_of(sdk: OpenAI, words: list[str]) -> Batch:
    lines = [
        {
            "custom_id": word,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "gpt-test", "messages": [{"role": "user", "content": word}]},
        }
        for word in words
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = sdk.files.create(file=("calls.jsonl", content), purpose="batch")
    return sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"mine": "yes"}
    )


def test_a_batch(double: OpenAIDouble, sdk: OpenAI) -> None:
    double.default = lambda body: (
        failure(400, {"error": {"message": "No."}})
        if body["messages"][0]["content"] == "bad"
        else text(f"You said {body['messages'][0]['content']}.")
    )
    double.batches.expire = "late"
    made = batch_of(sdk, ["good", "bad", "late"])
    assert (made.status, made.metadata) == ("validating", {"mine": "yes"})
    assert [sdk.batches.retrieve(made.id).status for _ in range(2)] == ["in_progress", "expired"]
    ended = sdk.batches.retrieve(made.id)
    assert ended.output_file_id is not None and ended.error_file_id is not None
    (good,) = map(json.loads, sdk.files.content(ended.output_file_id).text.splitlines())
    assert good["response"]["body"]["choices"][0]["message"]["content"] == "You said good."
    errors = {
        line["custom_id"]: line for line in map(json.loads, sdk.files.content(ended.error_file_id).text.splitlines())
    }
    assert errors["bad"]["response"]["status_code"] == 400
    assert errors["late"]["error"]["code"] == "batch_expired"
    assert [batch.id for batch in sdk.batches.list(limit=1)] == [made.id]


def test_a_batch_that_is_cancelled_or_wrong(double: OpenAIDouble, sdk: OpenAI) -> None:
    double.batches.gate = threading.Event()
    made = batch_of(sdk, ["a"])
    assert sdk.batches.cancel(made.id).status == "cancelling"
    assert sdk.batches.retrieve(made.id).status == "cancelled"
    wrong = batch_of(sdk, ["a", "a"])
    failed = sdk.batches.retrieve(wrong.id)
    assert failed.status == "failed" and failed.errors is not None and failed.errors.data is not None
    assert failed.errors.data[0].code == "duplicate_custom_id"
