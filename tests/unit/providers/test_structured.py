"""What chat APIs are sent of a wanted form, and what their models are told in words."""

import json
from typing import Any

import pytest

from perdure.core.agents import ModelSettings
from perdure.core.model import Prompt, ToolSpec
from perdure.providers.dialects import ChatProfile
from perdure.providers.http import Endpoint, Http
from perdure.providers.openai_chat import OpenAIChat
from perdure.providers.profiles import PROFILES
from tests.unit.tokens.test_grammar import SCHEMA

OBJECT = {"type": "json_object"}
FORM = {"type": "json_schema", "json_schema": {"name": "found", "schema": SCHEMA, "strict": True}}
TOOL = ToolSpec("find", "Finds.", {"type": "object", "properties": {}})


def asked(profile: ChatProfile, form: Any, *tools: ToolSpec) -> tuple[Any, str]:
    """(the response_format in the request, the system message)."""
    model = OpenAIChat(Http(), Endpoint("acme", "http://127.0.0.1:1/v1"), "m", profile)
    prompt = Prompt(
        model="m", system="Be brief.", messages=[], tools=tools, settings=ModelSettings(response_format=form)
    )
    body = json.loads(model.body(prompt))
    return body.get("response_format"), body["messages"][0]["content"]


def test_who_keeps_a_schema_is_sent_it_and_told_nothing() -> None:
    assert asked(PROFILES["openai"].chat, FORM) == (FORM, "Be brief.")
    assert asked(PROFILES["openai"].chat, FORM, TOOL) == (FORM, "Be brief.")


def test_who_keeps_only_objects_is_told_the_schema() -> None:
    sent, system = asked(PROFILES["deepseek"].chat, FORM)
    assert sent == OBJECT
    assert system.startswith("Be brief.\n\n") and json.dumps(SCHEMA, ensure_ascii=False) in system


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llamacpp", "groq"])
def test_who_would_lose_its_tools_is_only_told(kind: str) -> None:
    profile = PROFILES[kind].chat
    assert asked(profile, FORM) == (FORM, "Be brief.")
    sent, system = asked(profile, FORM, TOOL)
    assert sent is None and "JSON schema" in system


def test_an_object_is_always_spoken_of() -> None:
    for profile in (PROFILES["openai"].chat, PROFILES["lmstudio"].chat):
        sent, system = asked(profile, OBJECT)
        assert sent == (OBJECT if "json_object" in profile.formats else None)
        assert "JSON object" in system


def test_text_is_nothing_special() -> None:
    assert (
        asked(PROFILES["openai"].chat, {"type": "text"}) == asked(PROFILES["openai"].chat, None) == (None, "Be brief.")
    )
