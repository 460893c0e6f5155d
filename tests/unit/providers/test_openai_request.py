"""Settings as a dialect takes them."""

from typing import Any

import pytest

from perdure.core.agents import ModelSettings
from perdure.core.model import Prompt, ToolSpec
from perdure.providers.dialects import CHAT, ChatProfile
from perdure.providers.model_traits import ModelTraits, traits_of
from perdure.providers.openai_request import refused, request_fields


def fields(profile: ChatProfile, **settings: Any) -> dict[str, Any]:
    prompt = Prompt(model="m", system="", messages=(), settings=ModelSettings(**settings))
    return request_fields(prompt, profile, ModelTraits(), stream=False, drop=frozenset())


@pytest.mark.parametrize(
    ("profile", "settings", "sent"),
    [
        (ChatProfile(), {"reasoning_effort": "low", "enable_thinking": True}, {"reasoning_effort": "low"}),
        (ChatProfile(reasoning_effort=False), {"reasoning_effort": "low"}, {}),
        (ChatProfile(reasoning_object=True), {"reasoning_effort": "high"}, {"reasoning": {"effort": "high"}}),
        (ChatProfile(reasoning_object=True), {"enable_thinking": False}, {"reasoning": {"enabled": False}}),
        (ChatProfile(reasoning_object=True), {}, {}),
        (CHAT["zai"], {"enable_thinking": False, "reasoning_effort": "low"}, {"thinking": {"type": "disabled"}}),
        (CHAT["zai"], {"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        (CHAT["minimax"], {"enable_thinking": True}, {"thinking": {"type": "adaptive"}}),
        (CHAT["vllm"], {"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
    ],
)
def test_how_much_to_think(profile: ChatProfile, settings: Any, sent: Any) -> None:
    assert fields(profile, **settings) == sent


@pytest.mark.parametrize(
    ("kind", "model", "setting", "is_refused"),
    [
        ("moonshot", "kimi-k2.6", "temperature", True),
        ("moonshot", "moonshot-v1-8k", "temperature", False),
        ("together", "moonshotai/Kimi-K2", "temperature", False),
        ("xai", "grok-4-0709", "stop", True),
        ("xai", "grok-3-mini", "stop", False),
        ("xai", "grok-4-0709", "reasoning_effort", True),
        ("xai", "grok-4.7", "reasoning_effort", False),
        ("openrouter", "openai/o3-mini", "parallel_tool_calls", True),
        ("openrouter", "openai/gpt-5", "parallel_tool_calls", False),
        ("azure", "gpt-5", "temperature", True),
    ],
)
def test_what_a_model_refuses_here(kind: str, model: str, setting: str, is_refused: bool) -> None:
    assert (setting in refused(model, CHAT[kind], traits_of(model))) is is_refused


def test_calls_that_are_streamed_are_asked_for_only_where_they_can_be() -> None:
    prompt = Prompt(model="m", system="", messages=(), tools=[ToolSpec("f", "", {})])
    streamed = request_fields(prompt, CHAT["zai"], ModelTraits(), stream=True, drop=frozenset())
    whole = request_fields(prompt, CHAT["zai"], ModelTraits(), stream=False, drop=frozenset())
    assert (streamed, whole) == ({"stream": True, "tool_stream": True}, {})
