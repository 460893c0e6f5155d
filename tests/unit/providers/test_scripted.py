"""The scripted model and engine."""

import math
from array import array
from typing import Any

import pytest

from perdure.core.errors import ProviderError
from perdure.core.messages import ReasoningPart, TextPart, ToolCall
from perdure.core.model import ModelDone, Prompt
from perdure.core.tokens import VersionSpan
from perdure.providers.base import TokenBatch, TokenDone, TokenRequest
from perdure.providers.scripted import (
    Completion,
    HashModel,
    Pause,
    ScriptedEngine,
    ScriptedModel,
    call,
    reasoning,
    text,
)
from tests.doubles.tokenizers import small_tokenizer

PROMPT = Prompt(model="m", system="", messages=[])


async def played(model: ScriptedModel) -> ModelDone:
    items = [item async for batch in model.stream(PROMPT) for item in batch]
    assert isinstance(items[-1], ModelDone)
    return items[-1]


async def test_turns_play_in_order_and_prompts_are_remembered() -> None:
    model = ScriptedModel(
        [[reasoning("hm"), text("a"), text("b"), call("f", {"x": 1}), call("g", "{", id="mine")], [text("c")]]
    )
    first = await played(model)
    assert first.content == (ReasoningPart("hm"), TextPart("ab")) and first.finish == "tool_calls"
    assert first.tool_calls == (ToolCall("call_1", "f", '{"x": 1}'), ToolCall("mine", "g", "{"))
    assert [(await played(model)).content for _ in range(2)] == [(TextPart("c"),), (TextPart("ok"),)]
    assert model.prompts == [PROMPT] * 3


async def test_turns_fail_pause_and_are_abandoned() -> None:
    model = ScriptedModel([[text("a"), ProviderError("no", kind="llm_timeout")], [text("a"), Pause(0.0), text("b")]])
    with pytest.raises(ProviderError, match="no"):
        await played(model)
    stream = model.stream(PROMPT)
    await anext(stream)
    await stream.aclose()
    assert model.abandoned == 1


def engine(*completions: str | Completion) -> ScriptedEngine:
    tokenizer = small_tokenizer()
    stop = tokenizer.special_id("<|im_end|>")
    assert stop is not None
    return ScriptedEngine(tokenizer, completions, stop_token_id=stop)


def request(**changes: Any) -> TokenRequest:
    tokenizer = small_tokenizer()
    asked: dict[str, Any] = {
        "model": "m",
        "ids": array("i", tokenizer.encode("hello")),
        "request_id": "r",
        "max_tokens": 100,
        "stop_token_ids": (),
        "vocab_size": tokenizer.info.vocab_size,
    }
    return TokenRequest(**asked | changes)


async def test_completions_come_as_ids_whose_logprobs_can_be_scored_again() -> None:
    tokenizer, scripted = small_tokenizer(), engine("<tool_call>\n{}\n</tool_call> é")
    asked = request(top_logprobs=3)
    ids, logprobs, tops = [], [], []
    done = None
    async for item in scripted.generate(asked):
        if isinstance(item, TokenBatch):
            ids += item.ids
            logprobs += item.logprobs
            tops += item.top_logprobs or []
        else:
            done = item
    assert isinstance(done, TokenDone) and done.finish.type == "stop"
    assert tokenizer.decode(ids) == "<tool_call>\n{}\n</tool_call> é<|im_end|>"
    assert ids[0] == tokenizer.special_id("<tool_call>")
    assert await scripted.score("m", asked.ids + array("i", ids), len(asked.ids), asked.vocab_size) == logprobs
    assert all(len(top) == 3 and top[0][0] >= top[1][0] >= top[2][0] for top in tops)


async def test_lengths_versions_failures_and_refusals() -> None:
    scripted = engine(
        Completion(ids=(1, 2, 3), versions=(("a", 1), ("b", 9))),
        Completion(ids=tuple(range(9)), finish="length"),
        Completion(ids=(1, 2, 3, 4), batch=3, fail_after=2),
    )
    first = [item async for item in scripted.generate(request())][-1]
    assert isinstance(first, TokenDone) and first.versions == (VersionSpan("a", 0, 1), VersionSpan("b", 1, 4))
    cut = [item async for item in scripted.generate(request(max_tokens=5))]
    assert isinstance(cut[-1], TokenDone) and cut[-1].finish.type == "length"
    assert sum(len(item.ids) for item in cut if isinstance(item, TokenBatch)) == 5
    given: list[int] = []
    with pytest.raises(ProviderError, match="died"):
        async for item in scripted.generate(request()):
            assert isinstance(item, TokenBatch)
            given += item.ids
    assert given == [1, 2]
    with pytest.raises(ProviderError, match="outside the vocabulary"):
        await anext(scripted.generate(request(ids=array("i", [-1]))))
    assert len(scripted.requests) == 3


def test_the_hash_model_is_a_distribution() -> None:
    lm, context = HashModel(64), array("i", [1, 2, 3])
    logprobs = [lm.logprob(context, token_id) for token_id in range(64)]
    assert math.isclose(sum(map(math.exp, logprobs)), 1.0)
    assert lm.top(context, 64) == sorted(((p, at) for at, p in enumerate(logprobs)), reverse=True)
    assert lm.logprob(array("i", [1, 2, 4]), 5) != logprobs[5]
    assert all(token_id < 50 for _, token_id in HashModel(50).top(context, 50))
