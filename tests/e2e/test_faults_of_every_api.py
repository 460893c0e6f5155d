"""The same faults of Claude, Gemini and the Responses API: shown once, asked again only while nothing was shown."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from letta_client import Letta

from tests.doubles import anthropic as claude
from tests.doubles.anthropic import AnthropicDouble
from tests.doubles.gemini import GeminiDouble
from tests.doubles.openai_chat import failure, text
from tests.doubles.openai_responses import ResponsesDouble
from tests.doubles.serving import Turn, TurnsDouble
from tests.e2e.conftest import ServerProcess
from tests.e2e.test_model_faults import asked

SAID = "this will break off here"


class Api(NamedTuple):
    """`before`, `after`: how many events come before there are words, and when some of them are out."""

    model: str
    double: TurnsDouble
    before: int
    after: int

    def says(self, words: str, **more: Any) -> Turn:
        return claude.text(words, **more) if isinstance(self.double, AnthropicDouble) else text(words, **more)

    def refuses(self, status: int, kind: str) -> Turn:
        if isinstance(self.double, AnthropicDouble):
            return claude.failure(status, kind, "because", {"retry-after": "0"})
        return failure(status, {"error": {"message": "because", "type": kind}}, {"retry-after": "0"})


@pytest.fixture(scope="module")
def apis() -> Iterator[dict[str, Api]]:
    made = {
        "anthropic": Api(f"anthropic/{claude.MODEL}", AnthropicDouble(), 2, 4),
        "responses": Api("openai/gpt-test", ResponsesDouble(), 2, 6),
        "gemini": Api("google_ai/gemini-test", GeminiDouble(), 0, 2),
    }
    yield made
    for each in made.values():
        each.double.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, apis: dict[str, Api]) -> Iterator[ServerProcess]:
    urls: dict[str, Any] = {name: each.double for name, each in apis.items()}
    env = {
        "ANTHROPIC_BASE_URL": urls["anthropic"].base_url,
        "OPENAI_BASE_URL": urls["responses"].base_url,
        "OPENAI_WIRE_API": "responses",
        "GEMINI_BASE_URL": urls["gemini"].base_url,
    }
    keys = {name.replace("_BASE_URL", "_API_KEY"): "k" for name in env if name.endswith("_BASE_URL")}
    folder: Path = tmp_path_factory.mktemp("perdure")
    process = ServerProcess(folder, env | keys)
    yield process
    assert process.stop() == 0, process.log()


@pytest.mark.parametrize("streamed", [False, True], ids=["sync", "streamed"])
@pytest.mark.parametrize("fault", ["refused", "too many", "dropped before a word", "dropped after some words"])
@pytest.mark.parametrize("name", ["anthropic", "responses", "gemini"])
def test_a_fault(server: ServerProcess, apis: dict[str, Api], name: str, fault: str, streamed: bool) -> None:
    api = apis[name]
    turn, attempts, status, error_type = {
        "refused": (api.refuses(401, "authentication_error"), 1, 401, "llm_authentication"),
        "too many": (api.refuses(429, "rate_limit_error"), 3, 429, "llm_rate_limit"),
        "dropped before a word": (api.says(SAID, pieces=8, die_after=api.before), 3, 502, "llm_error"),
        "dropped after some words": (api.says(SAID, pieces=8, die_after=api.after), 1, 502, "llm_error"),
    }[fault]
    client = Letta(base_url=server.url, max_retries=0)
    agent = client.agents.create(model=api.model, include_base_tools=False)
    api.double.default = turn
    api.double.requests.clear()
    found = asked(server, agent, streamed)
    assert len(api.double.requests) == attempts
    assert found[:2] == (200 if streamed else status, error_type)
    assert SAID.startswith(found[2]) and bool(found[2]) == (streamed and fault == "dropped after some words")
    api.double.default = api.says("ok")
    answer = client.agents.messages.create(agent_id=agent.id, input="And now?")
    assert [message.content for message in answer.messages] == ["ok"]
    assert SAID[:8] not in str(api.double.requests[-1])
