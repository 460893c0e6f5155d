"""Settings, thinking and tools as each Claude model takes them."""

import json
from typing import Any

import pytest

from perdure.core.agents import ModelSettings
from perdure.core.messages import Message, TextPart, ToolCall
from perdure.core.model import Prompt, ToolSpec
from perdure.providers.anthropic_request import BINDING_CONTROLS, INTERLEAVED, Request, request_of
from perdure.providers.anthropic_schema import enforceable
from perdure.providers.claude_models import claude_traits

A, B = (ToolSpec(name, "does", {"type": "object", "properties": {}}) for name in "ab")
MANUAL, ADAPTIVE, ALWAYS = "claude-opus-4-5", "claude-opus-4-8", "claude-opus-5-5"


def settings(**raw: Any) -> ModelSettings:
    known = {key: value for key, value in raw.items() if key in ModelSettings.__struct_fields__}
    thinking = raw.get("thinking")
    if thinking is not None:
        known["enable_thinking"] = thinking.get("type") != "disabled"
        known["thinking_budget"] = thinking.get("budget_tokens")
    return ModelSettings(**known, raw=raw)


def asked(model: str = MANUAL, given: ModelSettings = ModelSettings(), **more: Any) -> Request:
    options = {key: more.pop(key) for key in ("thinking_missing", "drop_unbound") if key in more}
    hello = Message(id="message-1", role="user", created_us=1, content=(TextPart("hi"),))
    prompt = Prompt(**{"model": model, "system": "be", "messages": [hello], "settings": given, **more})
    return request_of(prompt, claude_traits(model), **options)


def fields(model: str = MANUAL, given: ModelSettings = ModelSettings(), **more: Any) -> dict[str, Any]:
    return asked(model, given, **more).fields


@pytest.mark.parametrize(
    ("model", "limit"),
    [
        ("claude-opus-5-5", 32_000),
        ("claude-opus-4-5-20251101", 32_000),
        ("us.anthropic.claude-opus-4-20250514-v1:0", 8_192),
        ("claude-3-5-haiku-20241022", 8_192),
        ("claude-3-haiku-20240307", 4_096),
        ("MiniMax-M2", 8_192),
    ],
)
def test_the_limit_nobody_said(model: str, limit: int) -> None:
    assert fields(model)["max_tokens"] == limit


def test_a_limit_above_the_models_own_is_its_own() -> None:
    assert fields(MANUAL, settings(max_output_tokens=1_000_000))["max_tokens"] == 64_000
    assert fields(MANUAL, settings(max_output_tokens=5))["max_tokens"] == 5
    assert fields("MiniMax-M2", settings(max_output_tokens=1_000_000))["max_tokens"] == 1_000_000


def test_sampling_is_left_out_where_it_would_be_refused() -> None:
    given = settings(temperature=1.5, top_p=0.9, top_k=40, stop=("END", " "))
    assert fields(MANUAL, given) == {"max_tokens": 32_000, "temperature": 1.0, "top_k": 40, "stop_sequences": ["END"]}
    plain = fields("claude-3-5-haiku-latest", given)
    assert (plain["temperature"], plain["top_p"], plain["top_k"]) == (1.0, 0.9, 40)
    assert fields(ADAPTIVE, given) == {"max_tokens": 32_000, "stop_sequences": ["END"]}
    thinking = settings(temperature=0.5, top_p=0.9, top_k=40, thinking={"type": "enabled", "budget_tokens": 2000})
    with_thinking = fields(MANUAL, thinking)
    assert with_thinking["top_p"] == 0.95 and not {"temperature", "top_k"} & set(with_thinking)


@pytest.mark.parametrize(
    ("model", "thinking", "sent"),
    [
        (MANUAL, None, None),
        (MANUAL, {"type": "enabled", "budget_tokens": 2000}, {"type": "enabled", "budget_tokens": 2000}),
        (MANUAL, {"type": "enabled", "budget_tokens": 5}, {"type": "enabled", "budget_tokens": 1024}),
        (MANUAL, {"type": "adaptive"}, {"type": "enabled", "budget_tokens": 1024}),
        (MANUAL, {"type": "disabled"}, None),
        (ADAPTIVE, None, None),
        (ADAPTIVE, {"type": "enabled", "budget_tokens": 2000}, {"type": "adaptive", "display": "summarized"}),
        (ADAPTIVE, {"type": "adaptive", "display": "omitted"}, {"type": "adaptive", "display": "omitted"}),
        (ADAPTIVE, {"type": "disabled"}, None),
        (ALWAYS, None, {"type": "adaptive", "display": "summarized"}),
        (ALWAYS, {"type": "disabled"}, {"type": "adaptive", "display": "omitted"}),
        ("claude-opus-5", {"type": "disabled"}, {"type": "disabled"}),
        ("claude-sonnet-5-5", {"type": "disabled"}, {"type": "between_tools"}),
        ("claude-opus-4-6", {"type": "enabled", "budget_tokens": 2000}, {"type": "enabled", "budget_tokens": 2000}),
        ("claude-opus-4-6", {"type": "adaptive"}, {"type": "adaptive"}),
        ("claude-3-5-haiku-latest", {"type": "enabled", "budget_tokens": 2000}, None),
    ],
)
def test_thinking_as_each_model_takes_it(model: str, thinking: Any, sent: Any) -> None:
    given = ModelSettings() if thinking is None else settings(thinking=thinking)
    assert fields(model, given).get("thinking") == sent


def test_a_budget_leaves_room_for_the_answer() -> None:
    def of(limit: int | None, budget: int) -> tuple[int, int]:
        made = fields(MANUAL, settings(max_output_tokens=limit, thinking={"type": "enabled", "budget_tokens": budget}))
        return made["max_tokens"], made["thinking"]["budget_tokens"]

    assert of(4096, 1024) == (4096, 1024)
    assert of(4096, 10_000) == (14_096, 10_000)
    assert of(4096, 100_000) == (64_000, 63_999)
    assert of(100, 1024) == (1124, 1024)


def test_thinking_between_tool_calls_is_asked_for_where_it_must_be() -> None:
    given = settings(thinking={"type": "enabled", "budget_tokens": 2000})
    assert asked(MANUAL, given, tools=[A]).betas == [INTERLEAVED]
    assert asked(MANUAL, given).betas == [] and asked("claude-haiku-4-5", given, tools=[A]).betas == []
    assert asked(ADAPTIVE, given, tools=[A]).betas == []


def test_manual_thinking_does_not_begin_in_the_middle_of_a_turn() -> None:
    given = settings(thinking={"type": "enabled", "budget_tokens": 2000}, temperature=0.5)
    made = fields(MANUAL, given, thinking_missing=True)
    assert "thinking" not in made and made["temperature"] == 0.5
    assert "thinking" in fields(ADAPTIVE, given, thinking_missing=True)


def test_thinking_whose_context_changed_is_dropped_once_that_is_asked_for() -> None:
    made = asked(ALWAYS, drop_unbound=True)
    assert made.fields["thinking"]["block_binding"] == {"prefix_mismatch_behavior": "drop_block"}
    assert made.betas == [BINDING_CONTROLS]


@pytest.mark.parametrize(
    ("model", "effort", "sent"),
    [
        (ALWAYS, "xhigh", "xhigh"),
        (ALWAYS, "minimal", "low"),
        ("claude-opus-4-6", "xhigh", "high"),
        ("claude-opus-4-6", "max", "max"),
        (MANUAL, "max", "high"),
        ("claude-haiku-4-5", "high", None),
        (ALWAYS, "unheard_of", None),
        (ALWAYS, "none", None),
    ],
)
def test_effort_is_the_nearest_the_model_has(model: str, effort: str, sent: str | None) -> None:
    assert (fields(model, settings(reasoning_effort=effort)).get("output_config") or {}).get("effort") == sent


def test_effort_without_thinking_is_at_most_high() -> None:
    given = settings(reasoning_effort="max", thinking={"type": "disabled"})
    made = fields("claude-opus-5", given)
    assert made["thinking"] == {"type": "disabled"} and made["output_config"] == {"effort": "high"}


@pytest.mark.parametrize(
    ("choice", "more", "sent", "tools"),
    [
        ("auto", {}, None, [A]),
        ("auto", {"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}, [A]),
        ("required", {}, {"type": "any"}, [A]),
        ("a", {}, {"type": "tool", "name": "a"}, [A, B]),
        ("none", {}, {"type": "none"}, [A, B]),
    ],
)
def test_tool_choice(choice: str, more: dict[str, Any], sent: Any, tools: list[ToolSpec]) -> None:
    made = asked(MANUAL, tools=[A], shown_tools=[A, B], tool_choice=choice, **more)
    assert made.fields.get("tool_choice") == sent and list(made.tools) == tools


@pytest.mark.parametrize("model", [MANUAL, ALWAYS])
def test_a_tool_is_not_forced_where_that_is_refused(model: str) -> None:
    given = settings(thinking={"type": "enabled", "budget_tokens": 2000})
    made = asked(model, given, tools=[A], shown_tools=[A, B], tool_choice="a")
    assert "tool_choice" not in made.fields and list(made.tools) == [A]


def test_tools_of_a_context_are_sent_though_none_is_left() -> None:
    called = Message(id="message-2", role="assistant", created_us=2, tool_calls=(ToolCall("t", "gone", "{}"),))
    made = asked(messages=[called], tool_choice="none")
    assert [tool.name for tool in made.tools] == ["gone"] and made.fields["tool_choice"] == {"type": "none"}
    assert "tool_choice" not in fields(tool_choice="none")


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}


def test_output_formats() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    made = asked(MANUAL, settings(response_format=wanted))
    assert made.fields["output_config"]["format"]["schema"]["additionalProperties"] is False and made.note is None
    told = asked("claude-3-7-sonnet-latest", settings(response_format=wanted))
    assert "output_config" not in told.fields and told.note is not None
    assert json.loads(told.note.partition("\n")[2]) == SCHEMA
    plain = asked(MANUAL, settings(response_format={"type": "json_object"}))
    assert "output_config" not in plain.fields and plain.note is not None
    assert asked(MANUAL, settings(response_format={"type": "text"})).note is None


def test_schemas_say_in_words_what_the_api_does_not_enforce() -> None:
    schema = {
        "$schema": "x",
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": 1, "description": "a number"},
            "s": {"type": "array", "items": {"type": "string", "format": "date"}, "minItems": 1, "maxItems": 3},
            "u": {"oneOf": [{"type": "null"}, {"$ref": "#/$defs/d"}]},
        },
        "$defs": {"d": {"type": "object", "properties": {}, "additionalProperties": True}},
    }
    assert enforceable(schema) == {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "description": 'a number\n\n{"minimum": 1}'},
            "s": {
                "type": "array",
                "items": {"type": "string", "format": "date"},
                "minItems": 1,
                "description": '{"maxItems": 3}',
            },
            "u": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/d"}]},
        },
        "$defs": {"d": {"type": "object", "properties": {}, "additionalProperties": False}},
        "additionalProperties": False,
    }
