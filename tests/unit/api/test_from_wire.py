"""Letta JSON to values: settings come back as they were sent, and wrong ones are named."""

from typing import Any

import pytest
from msgspec import UNSET

from perdure.api.from_wire import agent_change, agent_spec, block_change, time_us, tool_change
from perdure.api.model_settings import llm_config, model_settings, shown_settings
from perdure.api.wire.agents import CreateAgent, UpdateAgent
from perdure.api.wire.blocks import UpdateBlock
from perdure.api.wire.tools import UpdateTool
from perdure.core.agents import Agent
from perdure.core.errors import Invalid


@pytest.mark.parametrize(
    "raw",
    [
        {"provider_type": "openai", "temperature": 0.3, "reasoning": {"reasoning_effort": "low"}, "strict": True},
        {"provider_type": "sglang", "tool_call_parser": "qwen25", "max_output_tokens": 77, "top_k": 5, "seed": 1},
        {"provider_type": "anthropic", "thinking": {"type": "enabled", "budget_tokens": 2048}, "effort": "xhigh"},
        {"provider_type": "moonshot", "something_new": [1]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}, "stop": ["x"]},
    ],
)
def test_settings_come_back_as_sent(raw: dict[str, Any]) -> None:
    agent = Agent(id="agent-1", name="a", model="openai/m", model_settings=model_settings(raw))
    shown = shown_settings(agent)
    assert raw.items() <= shown.items()
    assert {"provider_type", "parallel_tool_calls", "strict", "response_format"} <= shown.keys()


def test_settings_are_understood() -> None:
    parsed = model_settings(
        {
            "temperature": 0.3,
            "stop": "END",
            "reasoning": {"reasoning_effort": "low"},
            "thinking": {"type": "disabled"},
            "parallel_tool_calls": False,
            "return_token_ids": True,
        }
    )
    assert (parsed.temperature, parsed.stop, parsed.reasoning_effort) == (0.3, ("END",), "low")
    assert (parsed.enable_thinking, parsed.parallel_tool_calls, parsed.return_token_ids) == (False, False, True)
    assert model_settings({}).max_output_tokens is None  # what was not said is the provider's own affair


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"temperature": "hot"}, "model_settings.temperature: Expected"),
        ({"stop": [1]}, "model_settings.stop"),
        ({"max_output_tokens": 0}, "model_settings.max_output_tokens: must be between"),
        ({"top_logprobs": 21}, "model_settings.top_logprobs"),
        ({"response_format": {"type": "yaml"}}, "model_settings.response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "model_settings.response_format.json_schema"),
        ({"reasoning": {"reasoning_effort": 3}}, "model_settings.reasoning.reasoning_effort"),
        ({"tool_call_parser": "abacus"}, "model_settings.tool_call_parser: there is no parser 'abacus'. Leave it out"),
    ],
)
def test_a_wrong_setting_is_named(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid) as caught:
        model_settings(raw)
    assert caught.value.status == 422 and caught.value.message.startswith(said)


def test_llm_config_is_another_way_to_name_a_model() -> None:
    config = {
        "model": "m",
        "model_endpoint_type": "openai",
        "context_window": 1000,
        "temperature": 0.2,
        "max_tokens": 9,
    }
    spec = agent_spec(CreateAgent.model_validate({"llm_config": config}))
    assert (spec.model, spec.context_window_limit) == ("openai/m", 1000)
    assert (spec.model_settings.temperature, spec.model_settings.max_output_tokens) == (0.2, 9)
    named = agent_spec(CreateAgent.model_validate({"llm_config": config | {"handle": "x/y"}, "model": None}))
    assert named.model == "x/y"
    agent = Agent(id="agent-1", name="a", model="openai/m", model_settings=spec.model_settings, context_window=1000)
    assert config.items() <= llm_config(agent).items()


def test_single_settings_win_over_the_whole() -> None:
    body = {"model": "a/b", "model_settings": {"max_output_tokens": 5, "seed": 1}, "max_tokens": 7}
    settings = agent_spec(CreateAgent.model_validate(body)).model_settings
    assert (settings.max_output_tokens, settings.seed, settings.raw) == (7, 1, {"seed": 1})


def test_null_empties_only_what_can_be_empty() -> None:
    change = agent_change(
        UpdateAgent.model_validate({"name": None, "description": None, "tags": None, "metadata": None})
    )
    assert (change.name, change.description, change.tags, change.metadata) == (UNSET, None, UNSET, {})
    block = block_change(UpdateBlock.model_validate({"value": None, "description": None, "limit": None}))
    assert (block.value, block.description, block.limit) == (UNSET, None, UNSET)
    tool = tool_change(UpdateTool.model_validate({"source_code": None, "metadata_": None, "tags": ["a"]}))
    assert (tool.source_code, tool.metadata, tool.tags, tool.json_schema) == (UNSET, None, ("a",), UNSET)


def test_what_was_not_sent_stays() -> None:
    change = agent_change(UpdateAgent.model_validate({}))
    assert all(
        getattr(change, name) is UNSET for name in change.__struct_fields__ if name not in ("extra", "settings_changes")
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"mode": "odd"}, "mode"), ({"sliding_window_percentage": 2}, "percentage"), ({"clip_chars": "x"}, "clip_chars")],
)
def test_wrong_compaction_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        agent_spec(CreateAgent.model_validate({"compaction_settings": settings}))


def test_times() -> None:
    assert time_us("1970-01-01T00:00:01Z", "f") == 1_000_000
    assert time_us("1970-01-01", "f", end_of_day=True) == 86_400_000_000 - 1
    assert time_us("1970-01-01T01:00:00", "f", timezone="Europe/Paris") == 0
    assert time_us(None, "f") is None
    with pytest.raises(Invalid, match="f is 'soon'"):
        time_us("soon", "f")


@pytest.mark.parametrize(
    ("thinking", "why"),
    [
        ({"type": "sometimes"}, "model_settings.thinking.type"),
        ({"type": "enabled", "budget_tokens": "many"}, "model_settings.thinking.budget_tokens"),
        ({"type": "enabled", "budget_tokens": True}, "model_settings.thinking.budget_tokens"),
        ({"type": "adaptive", "display": "loud"}, "model_settings.thinking.display"),
    ],
)
def test_thinking_that_cannot_be_meant_is_named(thinking: dict[str, Any], why: str) -> None:
    with pytest.raises(Invalid, match=why) as refused:
        model_settings({"thinking": thinking})
    assert refused.value.status == 422


@pytest.mark.parametrize(
    ("said", "thinks", "budget"),
    [
        ({"model_settings": {"thinking": {"type": "enabled", "budget_tokens": 2048}}}, True, 2048),
        ({"model_settings": {"thinking": {"type": "disabled"}}}, False, None),
        ({"enable_reasoner": False}, False, None),
        ({"reasoning": True}, True, None),
        ({"reasoning": False, "enable_reasoner": True}, False, None),
        ({"max_reasoning_tokens": 4096}, True, 4096),
        ({"max_reasoning_tokens": 0}, None, None),
        ({"llm_config": {"model": "m", "enable_reasoner": True, "max_reasoning_tokens": 0}}, None, None),
        ({"llm_config": {"model": "m", "enable_reasoner": True, "max_reasoning_tokens": 1500}}, True, 1500),
        ({"llm_config": {"model": "m", "enable_reasoner": False}}, False, None),
    ],
)
def test_thinking_in_all_the_places_it_is_said(said: dict[str, Any], thinks: bool | None, budget: int | None) -> None:
    settings = agent_spec(CreateAgent.model_validate({"model": "anthropic/m", **said})).model_settings
    assert (settings.enable_thinking, settings.thinking_budget) == (thinks, budget)
    agent = Agent(id="agent-1", name="a", model="anthropic/m", model_settings=settings)
    assert llm_config(agent)["max_reasoning_tokens"] == (budget or 0)
