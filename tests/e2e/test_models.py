"""What is listed of models that their server loads: the window they have there, which is an agent's too."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from letta_client import APIStatusError, Letta

from tests.doubles.telling import Telling
from tests.e2e.conftest import ServerProcess


@pytest.fixture
def ollama() -> Iterator[Telling]:
    shown = {"model_info": {"qwen3.context_length": 40_960}, "capabilities": ["completion", "tools"]}
    loaded: dict[str, Any] = {"models": [{"model": "big:latest", "context_length": 16_384}]}
    made = Telling(("big:latest", "resting:latest"), {"/api/show": lambda _: shown, "/api/ps": loaded})
    yield made
    made.close()


@pytest.fixture
def lmstudio() -> Iterator[Telling]:
    entry = {
        "id": "qwen",
        "type": "llm",
        "state": "loaded",
        "max_context_length": 32_768,
        "loaded_context_length": 8192,
    }
    made = Telling(("qwen",), {"/api/v0/models": {"data": [entry]}})
    yield made
    made.close()


def test_a_model_has_the_window_it_is_loaded_with(
    own_server: Callable[..., ServerProcess], ollama: Telling, lmstudio: Telling
) -> None:
    server = own_server(OLLAMA_BASE_URL=ollama.base_url.removesuffix("/v1"), LMSTUDIO_BASE_URL=lmstudio.base_url)
    client = Letta(base_url=server.url, max_retries=0)
    windows = {model.handle: model.max_context_window for model in client.models.list()}
    wanted = {"ollama/big:latest": 16_384, "ollama/resting:latest": 40_960, "lmstudio/qwen": 8192}
    assert {handle: windows.get(handle) for handle in wanted} == wanted
    agent = client.agents.create(model="ollama/big", include_base_tools=False)
    assert agent.llm_config.context_window == 16_384
    with pytest.raises(APIStatusError) as refused:
        client.agents.create(model="lmstudio/qwen", context_window_limit=16_000, include_base_tools=False)
    assert refused.value.status_code == 400 and "8192" in str(refused.value.body)
    assert client.agents.messages.create(agent_id=agent.id, input="Hi").messages[0].content == "ok"
