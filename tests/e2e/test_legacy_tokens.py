"""Agents of the older types on an engine that takes ids: what they sampled comes back to the model id for id."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from letta_client import Letta

from perdure.tokens.verify import verify_bytes
from tests.doubles.sglang import SGLangDouble
from tests.doubles.tokenizers import small_tokenizer, small_tokenizer_folder
from tests.e2e.conftest import ServerProcess
from tests.e2e.test_legacy_agents import LOOK, seen


@pytest.fixture
def ids() -> Iterator[SGLangDouble]:
    double = SGLangDouble(small_tokenizer())
    yield double
    double.close()


def written(name: str, arguments: dict[str, Any]) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@pytest.mark.parametrize("agent_type", ["memgpt_agent", "memgpt_v2_agent"])
def test_each_call_goes_on_from_the_ids_of_the_one_before(
    own_server: Callable[..., ServerProcess], ids: SGLangDouble, tmp_path: Path, agent_type: str
) -> None:
    folder = small_tokenizer_folder(tmp_path / "tokenizers")
    server = own_server(SGLANG_BASE_URL=ids.base_url, PERDURE_TOKENIZERS=str(folder))
    client = Letta(base_url=server.url, max_retries=0)
    agent = client.agents.create(
        model="sglang/tiny",
        agent_type=agent_type,
        include_base_tools=False,
        tools=["send_message"],
        tool_ids=[client.tools.upsert(source_code=LOOK).id],
    )
    said = ["I saw  three.", 'A quay, "north".']
    for words in said:
        ids.script(
            written("look", {"thinking": "Where?", "quay": "north", "request_heartbeat": True}),
            written("send_message", {"thinking": "Now.", "message": words}),
        )
    for words in said:
        answer = client.agents.messages.create(agent_id=agent.id, input="How many?")
        assert seen(answer.messages)[-1] == ("assistant", words)
        assert answer.stop_reason.stop_reason == "tool_rule"
    prompts = [request["input_ids"] for request in ids.requests]
    assert len(prompts) == 4
    assert all(after[: len(before)] == before for before, after in pairwise(prompts))
    shown = small_tokenizer().decode(prompts[-1])
    assert shown.count("heartbeat") >= 3 and "I am here." in shown and said[0] in shown
    with urllib.request.urlopen(f"{server.url}/v1/trajectories?agent_id={agent.id}", timeout=30) as opened:
        data = opened.read()
    report = verify_bytes(data)
    assert report.ok, report.violations
    record = json.loads(data)
    assert len(record["segments"]) == 1 and len(record["calls"]) == 4
