"""The table of who can do what: true of the requests that are sent, and up to date in the docs."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.core.agents import ModelSettings
from perdure.core.messages import ImagePart, Message, TextPart
from perdure.core.model import Prompt, ToolSpec
from perdure.providers.anthropic import ClaudeModel, Direct
from perdure.providers.anthropic_messages import TurnEncoder
from perdure.providers.capabilities import COLUMNS, Capabilities, capabilities, cells, markdown
from perdure.providers.dialects import CHAT
from perdure.providers.gemini import Gemini
from perdure.providers.http import Endpoint, Http
from perdure.providers.openai_responses import OpenAIResponses
from perdure.providers.profiles import PROFILES

DOCS = Path(__file__).parents[3] / "docs" / "providers.md"
BEGIN, END = "<!-- capabilities -->\n", "<!-- /capabilities -->"
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "properties": {}}}}
TOOL = ToolSpec("f", "", {"type": "object", "properties": {"x": {"type": "string"}}}, strict=True)
IMAGE = ImagePart(url="https://example.com/cat.png", media_type="image/png")


def test_the_table_in_the_docs_is_what_the_profiles_say() -> None:
    before, _, rest = DOCS.read_text().partition(BEGIN)
    table, found, _ = rest.partition(END)
    assert before and found
    assert table.strip() == markdown().strip(), "put what `perdure providers --markdown` prints between the marks"


def test_every_provider_has_its_rows() -> None:
    rows = capabilities()
    assert {row.provider for row in rows} == {*PROFILES, "openai_compatible"}
    assert len({(row.provider, row.api) for row in rows}) == len(rows)
    assert all(len(cells(row)) == len(COLUMNS) for row in rows)
    assert set(CHAT) <= {row.provider for row in rows if row.api == "chat completions"}


def prompt(**more: Any) -> Prompt:
    hello = Message(id="", role="user", created_us=1, content=(TextPart("hi"), IMAGE))
    return Prompt(model="m", system="be", messages=[hello], **more)


def row(provider: str, api: str) -> Capabilities:
    return next(each for each in capabilities() if (each.provider, each.api) == (provider, api))


def bodies(provider: str) -> tuple[Capabilities, Any]:
    """A provider's row, and what turns a prompt into its request."""
    endpoint = Endpoint(provider, "http://127.0.0.1:1/v1")
    if provider == "openai":
        model = OpenAIResponses(Http(), endpoint, "some-model")
        return row(provider, "Responses"), model.body
    if provider == "google_ai":
        return row(provider, "generateContent"), Gemini(Http(), endpoint, "gemini-2.0-flash").body
    claude = ClaudeModel(Http(), Direct(endpoint), "claude-sonnet-4-5")
    return row(provider, "Messages"), lambda asked: claude.request(asked, TurnEncoder(provider))[1]


@pytest.mark.parametrize("provider", ["openai", "google_ai", "anthropic"])
def test_what_is_said_of_the_other_apis_is_what_they_are_sent(provider: str) -> None:
    said, body = bodies(provider)

    def sends(asked: Prompt, *words: str) -> bool:
        sent, without = body(asked), body(prompt(tools=asked.tools))
        return sent != without and any(word.encode() in sent for word in words)

    tools = [TOOL]
    assert sends(prompt(settings=ModelSettings(seed=7)), "seed") is said.seed
    assert sends(prompt(want_logprobs=True), "ogprobs") is said.logprobs
    assert sends(prompt(tools=tools, tool_choice="required"), "required", "ANY", "any") is said.forced
    assert sends(prompt(tools=tools, tool_choice="f"), '"name":"f"', '["f"]') is said.named
    assert sends(prompt(tools=tools, parallel_tool_calls=False), "parallel") is said.one_call
    assert (b'"strict":true' in body(prompt(tools=tools))) is said.strict
    held = ('"schema"', "responseSchema")
    alone, beside = (
        prompt(settings=ModelSettings(response_format=SCHEMA)),
        prompt(settings=ModelSettings(response_format=SCHEMA), tools=tools),
    )
    assert sends(alone, *held) is (said.form is not None)
    assert sends(beside, *held) is (said.form == "schema")
    assert (IMAGE.url or "").encode() in body(prompt()) and said.images == "by address or value"
    assert msgspec.json.decode(body(prompt()))
