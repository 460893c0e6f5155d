"""Routed experts from an engine to a file: a real server, an SGLang that tells them, and what its users do with it."""

import json
import urllib.request
from array import array
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from letta_client import APIStatusError, Letta

from perdure.core.experts import ExpertRows
from perdure.core.tokens import ids_to_bytes
from perdure.providers.experts import ExpertsAsked
from perdure.providers.scripted import Completion, scripted_experts
from perdure.rollouts.export.parquet import load_parquet
from perdure.tokens.experts import decoded
from perdure.tokens.export import dump_jsonl
from perdure.tokens.record import RoutedExperts
from perdure.tokens.verify import verify_bytes
from tests.doubles.sglang import SGLangDouble
from tests.doubles.tokenizers import small_tokenizer, small_tokenizer_folder
from tests.e2e.conftest import ServerProcess
from tests.e2e.test_rollouts import ask, ended

WANTED = {"provider_type": "sglang", "return_routed_experts": True}
SIZE = {"num_hidden_layers": 2, "num_experts_per_tok": 2, "num_experts": 8}


@pytest.fixture(scope="module")
def engine_of_experts() -> Iterator[SGLangDouble]:
    double = SGLangDouble(small_tokenizer(), experts=(2, 2))
    yield double
    double.close()


@pytest.fixture
def moe(engine_of_experts: SGLangDouble) -> Iterator[SGLangDouble]:
    yield engine_of_experts
    engine_of_experts.reset()
    engine_of_experts.experts = (2, 2)


@pytest.fixture(scope="module")
def server(
    module_server: Callable[..., ServerProcess],
    engine_of_experts: SGLangDouble,
    tmp_path_factory: pytest.TempPathFactory,
) -> ServerProcess:
    folder: Path = small_tokenizer_folder(tmp_path_factory.mktemp("tokenizers"))
    (folder / "tiny" / "config.json").write_text(json.dumps(SIZE))
    return module_server(SGLANG_BASE_URL=engine_of_experts.base_url, PERDURE_TOKENIZERS=str(folder))


def new_agent(server: ServerProcess, settings: Any = None) -> tuple[Letta, str]:
    client = Letta(base_url=server.url, max_retries=0)
    agent = client.agents.create(
        model="sglang/tiny", include_base_tools=False, model_settings=WANTED if settings is None else settings
    )
    return client, str(agent.id)


def exported(server: ServerProcess, query: str) -> bytes:
    with urllib.request.urlopen(f"{server.url}/v1/trajectories?{query}", timeout=30) as opened:
        return opened.read()


def rows_of(segment: dict[str, Any]) -> ExpertRows:
    return decoded(RoutedExperts(**segment["routed_experts"]))


def true_rows(segment: dict[str, Any]) -> ExpertRows:
    ids = array("i")
    ids.frombytes(ids_to_bytes(segment["token_ids"]))
    return scripted_experts(ids, ExpertsAsked(layers=2, top_k=2, num_experts=8))


def test_they_go_from_the_engine_into_the_files(server: ServerProcess, moe: SGLangDouble) -> None:
    client, agent = new_agent(server)
    moe.script("Good morning.", "It goes on.", Completion(text="Half", finish="abort"), " and the rest.")
    for said in ("Hi", "And?", "More?"):
        client.agents.messages.create(agent_id=agent, input=said)
    starts = [body["routed_experts_start_len"] for body in moe.requests]
    assert starts[0] == 0 and all(b > a for a, b in pairwise(starts))
    data = exported(server, f"agent_id={agent}")
    [segment] = json.loads(data)["segments"]
    assert rows_of(segment) == true_rows(segment)
    report = verify_bytes(data)
    assert report.ok and report.checked["R4"] == len(segment["token_ids"]) - 1, report.violations
    assert dump_jsonl(load_parquet(exported(server, f"agent_id={agent}&format=parquet"))) == data
    [row] = exported(server, f"agent_id={agent}&format=verl").splitlines()
    assert len(json.loads(row)["routed_experts"]) == len(segment["token_ids"]) - 1


def test_a_conversation_goes_on_after_kill_9_from_the_rows_on_record(server: ServerProcess, moe: SGLangDouble) -> None:
    client, agent = new_agent(server)
    moe.script("Good morning.", "Still here.")
    client.agents.messages.create(agent_id=agent, input="Hi")
    server.kill()
    server.start()
    client.agents.messages.create(agent_id=agent, input="And now?")
    first, second = moe.requests
    [segment] = json.loads(exported(server, f"agent_id={agent}"))["segments"]
    assert second["routed_experts_start_len"] > len(first["input_ids"])
    assert rows_of(segment) == true_rows(segment)


def test_attempts_of_a_job_have_them_though_their_agent_has_not(server: ServerProcess, moe: SGLangDouble) -> None:
    client, agent = new_agent(server, {"provider_type": "sglang"})
    client.agents.messages.create(agent_id=agent, input="Hi")
    assert "return_routed_experts" not in moe.requests[0]
    asked = {
        "agent_id": agent,
        "tasks": [{"input": "Say something."}],
        "group_size": 2,
        "model_settings": {"return_routed_experts": True, "temperature": 1.0},
    }
    status, job = ask(server, "POST", "/v1/rollouts", asked)
    assert status == 201, job
    assert ended(server, job["id"])["counts"] == {"completed": 2}
    data = exported(server, f"job_id={job['id']}")
    report = verify_bytes(data)
    assert report.ok, report.violations
    for line in data.splitlines():
        for segment in json.loads(line)["segments"]:
            if 1 in segment["loss_mask"]:
                assert rows_of(segment) == true_rows(segment)


def test_an_engine_without_the_flag_ends_the_run_with_what_to_do(server: ServerProcess, moe: SGLangDouble) -> None:
    client, agent = new_agent(server)
    moe.experts = None
    with pytest.raises(APIStatusError, match="--enable-return-routed-experts"):
        client.agents.messages.create(agent_id=agent, input="Hi")


@pytest.mark.parametrize("shape", [[0, 2], [2], "2x2"])
def test_a_shape_that_cannot_be_is_refused_by_name(server: ServerProcess, shape: Any) -> None:
    with pytest.raises(APIStatusError, match=r"model_settings\.routed_experts_shape") as refused:
        new_agent(server, {**WANTED, "routed_experts_shape": shape})
    assert refused.value.status_code == 422
