"""Batches through the batch APIs of providers that do not do it as OpenAI does: a real server, the real SDK, a double of each."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from letta_client import Letta
from msgspec import Struct

from tests.doubles.azure_batches import AzureDouble
from tests.doubles.gemini import GeminiDouble
from tests.doubles.openai_chat import OpenAIDouble, call, failure, text
from tests.doubles.together_batches import TogetherDouble
from tests.doubles.xai_batches import XaiDouble
from tests.e2e.conftest import ServerProcess
from tests.e2e.test_batches import Batches

QUICK = {"PERDURE_BATCH_POLL": "0.1", "PERDURE_BATCH_GATHER": "30"}


class Kind(Struct, frozen=True, kw_only=True):
    """`url`, `key`: the variables that configure it. `more`: others it needs."""

    model: str
    make: Callable[[], OpenAIDouble]
    url: str
    key: str
    more: dict[str, str] = {}


AZURE = partial(Kind, model="azure/gpt-test", url="AZURE_OPENAI_ENDPOINT", key="AZURE_OPENAI_API_KEY")
KINDS = {
    "azure": AZURE(make=AzureDouble),
    "azure older": AZURE(make=partial(AzureDouble, older=True), more={"AZURE_API_VERSION": "2024-10-21"}),
    "together": Kind(model="together/gpt-test", make=TogetherDouble, url="TOGETHER_BASE_URL", key="TOGETHER_API_KEY"),
    "xai": Kind(model="xai/gpt-test", make=XaiDouble, url="XAI_BASE_URL", key="XAI_API_KEY"),
    "gemini": Kind(model="google_ai/gemini-test", make=GeminiDouble, url="GEMINI_BASE_URL", key="GEMINI_API_KEY"),
}


class On:
    """A server with agents on one of them."""

    def __init__(self, kind: Kind, double: OpenAIDouble, server: ServerProcess) -> None:
        self.kind = kind
        self.double = double
        self.client = Letta(base_url=server.url, max_retries=0)
        self.batches = Batches(self.client)

    def agents(self, number: int) -> list[str]:
        block: Any = [{"label": "human", "value": "Known:"}]
        given: Any = {"model": self.kind.model, "include_base_tools": True, "memory_blocks": block}
        return [self.client.agents.create(**given).id for _ in range(number)]


@pytest.fixture(params=list(KINDS))
def on(request: pytest.FixtureRequest, own_server: Callable[..., ServerProcess]) -> Iterator[On]:
    kind = KINDS[request.param]
    double = kind.make()
    double.default = answers
    yield On(kind, double, own_server(**{kind.url: double.base_url, kind.key: "key-1", **kind.more}, **QUICK))
    double.close()


def answers(body: dict[str, Any]) -> dict[str, Any]:
    """A call of the agent's memory tool, and an answer when it has returned. "refuse": an error."""
    last = json.dumps((body.get("messages") or body["contents"])[-1])
    if "refuse" in last:
        return failure(400, {"error": {"message": "Not this."}})
    if "fact" in last and "Known" not in last:
        note = {"label": "human", "new_string": "a fact"}
        return call("memory_insert", note, id=f"call_{abs(hash(last))}")
    return text("Noted.")


def test_runs_go_through_it_round_by_round_and_one_that_fails_fails_alone(on: On) -> None:
    ids = on.agents(3)
    words = ["fact one", "fact two", "refuse"]
    job = on.batches.ended(on.batches.create(list(zip(ids, words, strict=True)), via="provider")["id"])
    assert [each["requests"] for each in job["metadata"]["provider_batches"]] == [3, 2], job
    assert [each["status"] for each in job["metadata"]["requests"]] == ["completed", "completed", "failed"], job
    assert "Not this." in job["metadata"]["requests"][2]["error"]
    for id in ids[:2]:
        kinds = [m.message_type for m in on.client.agents.messages.list(id, order="asc").items]
        assert kinds[1:] == ["user_message", "tool_call_message", "tool_return_message", "assistant_message"]
        assert "a fact" in on.client.agents.blocks.retrieve("human", agent_id=id).value
    usage = on.client.runs.usage.retrieve(job["metadata"]["requests"][0]["run_id"])
    assert (usage.prompt_tokens, usage.completion_tokens) == (20, 10)


def test_a_batch_whose_making_was_not_heard_of_is_found_and_not_made_again(on: On) -> None:
    on.double.batches.lose_answers = 1
    job = on.batches.ended(on.batches.create([(on.agents(1)[0], "word")], via="provider")["id"])
    assert job["metadata"]["request_counts"]["completed"] == 1, job
    assert len(on.double.batches.batches) == 1


def test_what_it_takes_in_no_batch_is_called_one_by_one_where_that_was_left_open(
    own_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    double = XaiDouble()
    double.batches.fail = {"message": "JSONL file validation failed: the model is not supported for batch processing."}
    file = tmp_path / "config.toml"
    section = f'[providers.xai]\nbase_url = "{double.base_url}"\napi_key = "k"\nbatches = true\n'
    file.write_text(section, encoding="utf-8")
    on = On(KINDS["xai"], double, own_server(PERDURE_CONFIG=str(file), **QUICK))
    job = on.batches.ended(on.batches.create([(on.agents(1)[0], "word")])["id"])
    assert job["metadata"]["request_counts"]["completed"] == 1, job
    assert (len(double.batches.batches), len(double.requests)) == (1, 1)
    double.close()
