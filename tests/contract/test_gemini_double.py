"""The Gemini double is good enough for the official SDK, so what our translator makes of it counts."""

from collections.abc import Iterator

import pytest
from google import genai
from google.genai import errors, types

from tests.doubles.gemini import GeminiDouble
from tests.doubles.openai_chat import calls, failure, text

TURN = {
    **calls([("call_1", "roll", {"sides": 6}), ("call_2", "roll", {"sides": 8})], content="Rolling."),
    "reasoning": "Dice.",
}
TOOLS = types.Tool(function_declarations=[types.FunctionDeclaration(name="roll", description="Rolls.")])
CONFIG = types.GenerateContentConfig(
    tools=[TOOLS], automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True)
)


@pytest.fixture
def double() -> Iterator[GeminiDouble]:
    made = GeminiDouble()
    yield made
    made.close()


@pytest.fixture
def sdk(double: GeminiDouble) -> genai.Client:
    return genai.Client(api_key="key-test", http_options=types.HttpOptions(base_url=double.base_url))


def test_a_chat_with_calls_and_their_signatures(double: GeminiDouble, sdk: genai.Client) -> None:
    double.script(TURN, text("Four and seven."))
    chat = sdk.chats.create(model="gemini-test", config=CONFIG)
    first = chat.send_message("Roll")
    assert first.text == "Rolling." and first.function_calls is not None
    assert [(call.id, call.args) for call in first.function_calls] == [
        ("call_1", {"sides": 6}),
        ("call_2", {"sides": 8}),
    ]
    answers = [
        types.Part(function_response=types.FunctionResponse(id=call.id, name=call.name, response={"output": "4"}))
        for call in first.function_calls
    ]
    assert chat.send_message(answers).text == "Four and seven."
    usage = first.usage_metadata
    assert usage is not None and usage.thoughts_token_count == 2
    unsigned = [*chat.get_history()[:2], types.Content(role="user", parts=answers)]
    for part in unsigned[1].parts or ():
        part.thought_signature = None
    with pytest.raises(errors.ClientError, match="missing a `thought_signature`"):
        sdk.models.generate_content(model="gemini-test", contents=unsigned, config=CONFIG)  # type: ignore[arg-type]
    with pytest.raises(errors.ClientError, match="number of function response parts"):
        sdk.models.generate_content(model="gemini-test", contents=unsigned[:2], config=CONFIG)  # type: ignore[arg-type]


def test_a_streamed_answer(double: GeminiDouble, sdk: genai.Client) -> None:
    double.script(text("Hello there.", reasoning="A greeting."))
    frames = list(sdk.models.generate_content_stream(model="gemini-test", contents="Hi"))
    parts = [part for frame in frames for part in (frame.candidates or [])[0].content.parts or ()]  # type: ignore[union-attr]
    assert "".join(part.text or "" for part in parts if part.thought) == "A greeting."
    assert "".join(part.text or "" for part in parts if not part.thought) == "Hello there."
    assert parts[-1].thought_signature == b"sealed 1"
    assert (frames[-1].candidates or [])[0].finish_reason == types.FinishReason.STOP


def test_a_blocked_prompt_an_error_and_the_models(double: GeminiDouble, sdk: genai.Client) -> None:
    double.script({"blocked": "SAFETY"}, failure(429, {"error": {"code": 429, "message": "slow", "status": "X"}}))
    blocked = sdk.models.generate_content(model="gemini-test", contents="Hi")
    assert blocked.prompt_feedback is not None and blocked.prompt_feedback.block_reason == types.BlockedReason.SAFETY
    with pytest.raises(errors.ClientError, match="slow"):
        sdk.models.generate_content(model="gemini-test", contents="Hi")
    assert next(iter(model.name for model in sdk.models.list())) == "models/gemini-test"
    assert double.keys == ["key-test"] * 3


def test_a_batch(double: GeminiDouble, sdk: genai.Client) -> None:
    double.default = lambda body: (
        failure(400, {"error": {"message": "No."}})
        if body["contents"][0]["parts"][0]["text"] == "bad"
        else text("Yes.")
    )
    asked = [
        types.InlinedRequest(contents=types.Content(role="user", parts=[types.Part(text=word)]), metadata={"key": word})
        for word in ("good", "bad")
    ]
    made = sdk.batches.create(
        model="gemini-test", src=types.BatchJobSource(inlined_requests=asked), config={"display_name": "mine"}
    )
    assert made.name is not None and (made.state, made.display_name) == (types.JobState.JOB_STATE_PENDING, "mine")
    assert [sdk.batches.get(name=made.name).state for _ in range(2)] == [
        types.JobState.JOB_STATE_RUNNING,
        types.JobState.JOB_STATE_SUCCEEDED,
    ]
    ended = sdk.batches.get(name=made.name)
    assert ended.dest is not None and ended.dest.inlined_responses is not None
    good, bad = sorted(ended.dest.inlined_responses, key=lambda each: each.error is not None)
    assert good.response is not None and (good.response.text, good.metadata) == ("Yes.", {"key": "good"})
    assert bad.error is not None and (bad.error.message, bad.metadata) == ("No.", {"key": "bad"})
    assert [each.name for each in sdk.batches.list()] == [made.name]


def test_a_batch_that_is_cancelled(double: GeminiDouble, sdk: genai.Client) -> None:
    asked = types.InlinedRequest(contents=types.Content(role="user", parts=[types.Part(text="a")]))
    made = sdk.batches.create(model="gemini-test", src=types.BatchJobSource(inlined_requests=[asked]))
    assert made.name is not None
    sdk.batches.cancel(name=made.name)
    assert sdk.batches.get(name=made.name).state == types.JobState.JOB_STATE_CANCELLED
