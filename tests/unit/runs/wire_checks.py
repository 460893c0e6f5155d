"""What every provider asks of a history, checked on the very bytes that would be sent to it."""

import json
from collections.abc import Sequence
from typing import Any

from perdure.core.messages import Message
from perdure.providers.anthropic_messages import TurnEncoder
from perdure.providers.gemini_messages import ContentEncoder
from perdure.providers.openai_messages import MessageEncoder
from perdure.providers.profiles import CHAT
from perdure.providers.responses_messages import InputEncoder
from perdure.tokens.qwen3 import Qwen3Renderer
from tests.doubles.tokenizers import small_tokenizer


def check_for_every_provider(messages: Sequence[Message]) -> None:
    """A history that a model is asked with: every call answered, right behind the answer that made it, and once."""
    check_openai(json.loads(b"".join(MessageEncoder(CHAT["openai_compatible"]).messages("system", messages))))
    check_responses(json.loads(b"".join(InputEncoder("test").input(messages))))
    check_anthropic(json.loads(b"".join(TurnEncoder("test").context(list(messages), marks=False).pieces)))
    check_gemini(json.loads(ContentEncoder("test").contents(messages)))
    Qwen3Renderer(small_tokenizer()).render("system", messages, ())


def check_openai(sent: list[dict[str, Any]]) -> None:
    waiting: list[str] = []
    for message in sent:
        if message["role"] == "tool":
            assert message["tool_call_id"] in waiting, "a return of no call"
            waiting.remove(message["tool_call_id"])
            continue
        assert not waiting, "calls that the next messages do not answer"
        waiting = [call["id"] for call in message.get("tool_calls") or ()]
        assert message.get("content") or waiting, "an empty message"
    assert not waiting


def check_responses(sent: list[dict[str, Any]]) -> None:
    waiting: set[str] = set()
    answered: list[str] = []
    for item in sent:
        if item["type"] == "function_call":
            waiting.add(item["call_id"])
        elif item["type"] == "function_call_output":
            assert item["call_id"] in waiting, "an output of no call"
            waiting.remove(item["call_id"])
            answered.append(item["call_id"])
    assert not waiting
    assert len(answered) == len(set(answered))


def check_anthropic(sent: list[dict[str, Any]]) -> None:
    assert sent[0]["role"] == "user" and sent[-1]["role"] == "user"
    asked: list[str] = []
    role = "assistant"
    for turn in sent:
        assert turn["role"] != role, "two turns of one side"
        role = turn["role"]
        blocks = turn["content"] if isinstance(turn["content"], list) else [{"type": "text", "text": turn["content"]}]
        assert blocks
        kinds = [block["type"] for block in blocks]
        if role == "user":
            results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
            assert sorted(results) == sorted(asked), "tool_use without its tool_result right behind it"
            assert kinds[: len(results)] == ["tool_result"] * len(results), "results come first"
        asked = [block["id"] for block in blocks if block["type"] == "tool_use"]
    assert not asked


def check_gemini(sent: list[dict[str, Any]]) -> None:
    assert sent[0]["role"] == "user"
    asked = 0
    for content in sent:
        returned = sum("functionResponse" in part for part in content["parts"])
        if asked or returned:
            assert content["role"] == "user" and returned == asked, "as many responses as calls, right behind them"
        asked = sum("functionCall" in part for part in content["parts"])
    assert not asked
