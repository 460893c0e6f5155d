"""Batches through the providers' own batch APIs: a real server, the real SDK, doubles of the APIs that official SDKs accept."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from letta_client import Letta

from tests.doubles import anthropic as claude_double
from tests.doubles.anthropic import AnthropicDouble
from tests.doubles.openai_chat import OpenAIDouble, call, text
from tests.doubles.openai_responses import ResponsesDouble
from tests.e2e.conftest import ServerProcess
from tests.e2e.test_batches import Batches, echoing
from tests.e2e.test_durable_requests import Receiver, receiver, wait_for

__all__ = ["echoing", "receiver"]

QUICK = {"PERDURE_BATCH_POLL": "0.1", "PERDURE_BATCH_GATHER": "30"}


@pytest.fixture(scope="module")
def batching(
    tmp_path_factory: pytest.TempPathFactory, engine: OpenAIDouble, database: Callable[[], dict[str, str]]
) -> Iterator[ServerProcess]:
    env = {"OPENAI_BASE_URL": engine.base_url, "OPENAI_API_KEY": "sk-test", **database(), **QUICK}
    process = ServerProcess(tmp_path_factory.mktemp("batching"), env)
    yield process
    assert process.stop() == 0, process.log()


@pytest.fixture
def client(batching: ServerProcess) -> Letta:
    return Letta(base_url=batching.url, max_retries=0)


@pytest.fixture
def batches(client: Letta) -> Batches:
    return Batches(client)


def agents(client: Letta, number: int, **fields: Any) -> list[str]:
    given = {"model": "openai/gpt-test", "include_base_tools": False, **fields}
    return [client.agents.create(**given).id for _ in range(number)]


def said(client: Letta, agent_id: str) -> list[str]:
    history = client.agents.messages.list(agent_id).items
    return [str(getattr(m, "content", "")) for m in history if m.message_type in ("user_message", "assistant_message")]


def test_the_requests_of_a_batch_go_to_the_provider_in_one_batch(
    batches: Batches, client: Letta, echoing: OpenAIDouble
) -> None:
    ids = agents(client, 5)
    made = batches.create([(id, f"word{at}") for at, id in enumerate(ids)], via="provider")
    job = batches.ended(made["id"])
    assert (job["status"], job["metadata"]["via"]) == ("completed", "provider")
    (batch,) = echoing.batches.batches.values()
    (handed,) = job["metadata"]["provider_batches"]
    assert handed == {
        "id": batch["id"],
        "provider": "openai",
        "model": "gpt-test",
        "requests": 5,
        "status": "ended",
    }
    assert [said(client, id) for id in ids] == [[f"word{at}", f"You said word{at}."] for at in range(5)]
    run = client.runs.retrieve(job["metadata"]["requests"][0]["run_id"])
    assert run.status == "completed"
    usage = client.runs.usage.retrieve(run.id)
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 5)


def with_a_tool(body: dict[str, Any]) -> dict[str, Any]:
    """First a call of the agent's memory tool, then an answer that knows what it returned."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return text(f"Noted after {last['content'][:6]}")
    return call("memory_insert", {"label": "human", "new_string": last["content"]})


def test_a_run_with_a_tool_call_takes_two_rounds_and_both_go_in_batches(
    batches: Batches, client: Letta, echoing: OpenAIDouble
) -> None:
    echoing.default = with_a_tool
    block = [{"label": "human", "value": "Known:"}]
    ids = [
        client.agents.create(model="openai/gpt-test", include_base_tools=True, memory_blocks=block).id  # type: ignore[arg-type]
        for _ in range(3)
    ]
    job = batches.ended(batches.create([(id, f"fact{at}") for at, id in enumerate(ids)], via="provider")["id"])
    assert job["metadata"]["request_counts"]["completed"] == 3, job
    assert [each["requests"] for each in job["metadata"]["provider_batches"]] == [3, 3]
    for at, id in enumerate(ids):
        run_id = job["metadata"]["requests"][at]["run_id"]
        assert len(list(client.runs.steps.list(run_id))) == 2
        usage = client.runs.usage.retrieve(run_id)
        assert (usage.prompt_tokens, usage.completion_tokens) == (20, 10)
        kinds = [m.message_type for m in client.agents.messages.list(id, order="asc").items]
        assert kinds[1:] == ["user_message", "tool_call_message", "tool_return_message", "assistant_message"]
        value = client.agents.blocks.retrieve("human", agent_id=id).value
        assert f"fact{at}" in value


def test_a_batch_at_the_provider_survives_its_server_and_is_handed_in_once(
    own_server: Callable[..., ServerProcess], echoing: OpenAIDouble
) -> None:
    server = own_server(**QUICK)
    client = Letta(base_url=server.url, max_retries=0)
    echoing.default = with_a_tool
    block = [{"label": "human", "value": "Known:"}]
    ids = [
        client.agents.create(model="openai/gpt-test", include_base_tools=True, memory_blocks=block).id  # type: ignore[arg-type]
        for _ in range(3)
    ]
    gate = echoing.batches.gate = threading.Event()
    batches = Batches(client)
    made = batches.create([(id, f"fact{at}") for at, id in enumerate(ids)], via="provider")
    wait_for(lambda: echoing.batches.polls > 1 or None)
    server.kill()
    gate.set()
    server.start()
    job = batches.ended(made["id"])
    assert job["metadata"]["request_counts"]["completed"] == 3, job
    assert len(echoing.batches.batches) == 2  # one a round
    assert len(echoing.requests) == 6  # every call once
    for at, id in enumerate(ids):
        assert said(client, id) == [f"fact{at}", "Noted after " + said(client, id)[-1][-6:]]


def test_a_batch_whose_making_was_not_heard_of_is_found_and_not_made_again(
    own_server: Callable[..., ServerProcess], echoing: OpenAIDouble
) -> None:
    server = own_server(**QUICK)
    client = Letta(base_url=server.url, max_retries=0)
    echoing.batches.lose_answers = 1
    echoing.batches.gate = gate = threading.Event()
    ids = agents(client, 2)
    batches = Batches(client)
    made = batches.create([(id, "word") for id in ids], via="provider")
    wait_for(lambda: len(echoing.batches.batches) == 1 or None)
    server.kill()
    server.start()
    gate.set()
    job = batches.ended(made["id"])
    assert job["metadata"]["request_counts"]["completed"] == 2, job
    assert len(echoing.batches.batches) == 1


def test_cancelling_cancels_at_the_provider_too_and_frees_the_agents(
    batches: Batches, client: Letta, echoing: OpenAIDouble
) -> None:
    echoing.batches.gate = threading.Event()
    ids = agents(client, 3)
    made = batches.create([(id, "word") for id in ids], via="provider")
    wait_for(lambda: echoing.batches.polls > 1 or None)
    batches.cancel(made["id"])
    job = batches.ended(made["id"], within_s=20)
    assert job["status"] == "cancelled"
    assert [each["status"] for each in job["metadata"]["requests"]] == ["cancelled"] * 3
    (batch,) = echoing.batches.batches.values()
    wait_for(lambda: batch["status"] in ("cancelling", "cancelled") or None)
    assert client.agents.messages.create(ids[0], input="again").messages[0].content == "You said again."


def test_one_run_of_a_batch_at_the_provider_can_be_cancelled_alone(
    batches: Batches, client: Letta, echoing: OpenAIDouble
) -> None:
    echoing.batches.gate = gate = threading.Event()
    ids = agents(client, 2)
    made = batches.create([(id, "word") for id in ids], via="provider")
    wait_for(lambda: echoing.batches.polls > 1 or None)
    first = batches.retrieve(made["id"])["metadata"]["requests"][0]
    client.post(f"/v1/agents/{ids[0]}/messages/cancel", cast_to=object, body={"run_ids": [first["run_id"]]})
    wait_for(lambda: client.runs.retrieve(first["run_id"]).status == "cancelled" or None)
    gate.set()
    job = batches.ended(made["id"])
    assert [each["status"] for each in job["metadata"]["requests"]] == ["cancelled", "completed"]
    (batch,) = echoing.batches.batches.values()
    assert batch["status"] == "completed"


def test_a_request_that_fails_or_expires_fails_alone_and_says_why(
    batches: Batches, client: Letta, echoing: OpenAIDouble
) -> None:
    echoing.batches.expire = "too late"
    ids = agents(client, 3)
    words = ["good", "refuse", "too late"]
    job = batches.ended(batches.create(list(zip(ids, words, strict=True)), via="provider")["id"])
    first, refused, late = job["metadata"]["requests"]
    assert (first["status"], refused["status"], late["status"]) == ("completed", "failed", "failed")
    assert "Not this." in refused["error"]
    assert "ended before it came to this request" in late["error"]
    assert job["status"] == "completed"


def test_a_call_that_failed_for_the_moment_goes_with_the_next_batch(
    batches: Batches, client: Letta, echoing: OpenAIDouble
) -> None:
    echoing.script({"status": 500, "body": {"error": {"message": "A moment."}}, "headers": {}})
    ids = agents(client, 1)
    job = batches.ended(batches.create([(ids[0], "word")], via="provider")["id"])
    assert [each["status"] for each in job["metadata"]["requests"]] == ["completed"]
    assert len(echoing.batches.batches) == 2
    assert said(client, ids[0]) == ["word", "You said word."]


def test_who_asked_for_it_is_told_when_a_batch_at_a_provider_has_ended(
    own_server: Callable[..., ServerProcess], echoing: OpenAIDouble, receiver: str
) -> None:
    server = own_server(PERDURE_ALLOW_PRIVATE_URLS="true", PERDURE_BATCH_VIA="provider", **QUICK)
    client = Letta(base_url=server.url, max_retries=0)
    ids = agents(client, 2)
    made = Batches(client).create([(id, "word") for id in ids], callback_url=receiver)
    _, body = Receiver.heard.get(timeout=20)
    assert f'"job_id":"{made["id"]}","status":"completed"'.encode() in body
    assert len(echoing.batches.batches) == 1


@pytest.mark.parametrize("via", ["auto", "provider"])
def test_what_a_provider_takes_in_no_batch_is_called_one_by_one_or_fails_as_was_asked_for(
    own_server: Callable[..., ServerProcess], echoing: OpenAIDouble, tmp_path: Any, via: str
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        f'[providers.openai]\nbase_url = "{echoing.base_url}"\napi_key = "k"\nbatches = true\n', encoding="utf-8"
    )
    server = own_server(PERDURE_CONFIG=str(file), PERDURE_BATCH_VIA=via, PERDURE_LIMITS="openai.concurrent=1", **QUICK)
    client = Letta(base_url=server.url, max_retries=0)
    echoing.batches.refuse = (404, {"error": {"message": "No batches here."}})
    echoing.most_at_once = 0
    ids = agents(client, 2)
    job = Batches(client).ended(Batches(client).create([(id, "word") for id in ids])["id"])
    requests = job["metadata"]["requests"]
    if via == "auto":
        assert [each["status"] for each in requests] == ["completed"] * 2
        assert [said(client, id) for id in ids] == [["word", "You said word."]] * 2
        assert echoing.most_at_once == 1
    else:
        assert [each["status"] for each in requests] == ["failed"] * 2
        assert "No batches here." in requests[0]["error"]


def test_a_provider_without_a_batch_api_is_asked_through_the_queue(
    own_server: Callable[..., ServerProcess], echoing: OpenAIDouble
) -> None:
    server = own_server(DEEPSEEK_BASE_URL=echoing.base_url, DEEPSEEK_API_KEY="k", **QUICK)
    client = Letta(base_url=server.url, max_retries=0)
    ids = agents(client, 1, model="deepseek/gpt-test")
    job = Batches(client).ended(Batches(client).create([(ids[0], "word")], via="provider")["id"])
    assert (job["status"], job["metadata"]["provider_batches"]) == ("completed", [])
    assert not echoing.batches.batches


@pytest.fixture(scope="module")
def claude() -> Iterator[AnthropicDouble]:
    double = AnthropicDouble()
    yield double
    double.close()


@pytest.fixture
def on_claude(
    own_server: Callable[..., ServerProcess], claude: AnthropicDouble
) -> Iterator[tuple[ServerProcess, Letta, Batches]]:
    """A server with agents on Claude, whose double gives what `claude_answers` says."""
    server = own_server(ANTHROPIC_BASE_URL=claude.base_url, ANTHROPIC_API_KEY="sk-ant", **QUICK)
    client = Letta(base_url=server.url, max_retries=0)
    claude.default = claude_answers
    yield server, client, Batches(client)
    assert claude.refused == []
    claude.reset()


def claude_answers(body: dict[str, Any]) -> dict[str, Any]:
    last = body["messages"][-1]["content"]
    last = [{"type": "text", "text": last}] if isinstance(last, str) else last
    if last[-1]["type"] == "tool_result":
        return claude_double.text("Noted.")
    word = last[-1]["text"]
    if word == "refuse":
        return claude_double.failure(400, "invalid_request_error", "Not this.")
    if word.startswith("note"):
        arguments = {"label": "human", "new_string": word}
        return claude_double.blocks(claude_double.call("memory_insert", arguments, id=f"toolu_{word[4:]}"))
    return claude_double.text(f"You said {word}.")


def claude_agents(client: Letta, number: int) -> list[str]:
    block: Any = [{"label": "human", "value": "Known:"}]
    model = f"anthropic/{claude_double.MODEL}"
    return [client.agents.create(model=model, include_base_tools=True, memory_blocks=block).id for _ in range(number)]


def test_a_batch_over_anthropic_runs_tools_round_by_round_and_one_that_fails_fails_alone(
    on_claude: tuple[ServerProcess, Letta, Batches], claude: AnthropicDouble
) -> None:
    _, client, batches = on_claude
    claude.batches.expire = "too late"
    ids = claude_agents(client, 4)
    words = ["note0", "note1", "refuse", "too late"]
    job = batches.ended(batches.create(list(zip(ids, words, strict=True)), via="provider")["id"])
    requests = job["metadata"]["requests"]
    assert [each["status"] for each in requests] == ["completed", "completed", "failed", "failed"]
    assert "Not this." in requests[2]["error"]
    assert "ended before it came to this request" in requests[3]["error"]
    assert [each["requests"] for each in job["metadata"]["provider_batches"]] == [4, 2]
    assert [said(client, id) for id in ids[:2]] == [["note0", "Noted."], ["note1", "Noted."]]
    assert "note0" in client.agents.blocks.retrieve("human", agent_id=ids[0]).value
    assert all("anthropic-version" in headers for headers in claude.batches.headers)
    usage = client.runs.usage.retrieve(requests[0]["run_id"])
    assert usage.completion_tokens == 10


def test_a_batch_over_anthropic_survives_its_server(
    on_claude: tuple[ServerProcess, Letta, Batches], claude: AnthropicDouble
) -> None:
    server, client, batches = on_claude
    gate = claude.batches.gate = threading.Event()
    ids = claude_agents(client, 2)
    made = batches.create([(id, "word") for id in ids], via="provider")
    wait_for(lambda: claude.batches.polls > 1 or None)
    server.kill()
    gate.set()
    server.start()
    assert batches.ended(made["id"])["metadata"]["request_counts"]["completed"] == 2
    assert len(claude.batches.batches) == 1
    assert len(claude.requests) == 2


def test_a_batch_over_anthropic_that_only_looks_like_ours_is_not_taken_for_it(
    on_claude: tuple[ServerProcess, Letta, Batches], claude: AnthropicDouble
) -> None:
    server, client, batches = on_claude
    gate = claude.batches.gate = threading.Event()
    claude.batches.lose_answers = 1
    ids = claude_agents(client, 2)
    made = batches.create([(id, "word") for id in ids], via="provider")
    wait_for(lambda: len(claude.batches.batches) == 1 or None)
    server.kill()
    params = {"model": claude_double.MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "hers"}]}
    claude.batches.make([{"custom_id": f"hers-{at}", "params": params} for at in range(2)])
    server.start()
    gate.set()
    assert batches.ended(made["id"])["metadata"]["request_counts"]["completed"] == 2
    assert len(claude.batches.batches) == 2  # ours, and hers
    assert [said(client, id) for id in ids] == [["word", "You said word."]] * 2


def test_cancelling_a_batch_over_anthropic_cancels_it_there(
    on_claude: tuple[ServerProcess, Letta, Batches], claude: AnthropicDouble
) -> None:
    _, client, batches = on_claude
    claude.batches.gate = threading.Event()
    ids = claude_agents(client, 2)
    made = batches.create([(id, "word") for id in ids], via="provider")
    wait_for(lambda: claude.batches.polls > 1 or None)
    batches.cancel(made["id"])
    assert batches.ended(made["id"])["status"] == "cancelled"
    (batch,) = claude.batches.batches.values()
    wait_for(lambda: batch["cancel_initiated_at"])
    assert client.agents.messages.create(ids[0], input="again").messages[0].content == "You said again."


def test_a_batch_over_responses_takes_its_reasoning_along(
    own_server: Callable[..., ServerProcess], tmp_path: Any
) -> None:
    double = ResponsesDouble()
    server = own_server(OPENAI_BASE_URL=double.base_url, OPENAI_WIRE_API="responses", **QUICK)
    client = Letta(base_url=server.url, max_retries=0)
    block: Any = [{"label": "human", "value": "Known:"}]
    agent = client.agents.create(model="openai/gpt-test", include_base_tools=True, memory_blocks=block)
    noting = call("memory_insert", {"label": "human", "new_string": "fact"})
    double.script({**noting, "reasoning": "To be noted."}, text("Noted."))
    job = Batches(client).ended(Batches(client).create([(agent.id, "fact")], via="provider")["id"])
    assert job["metadata"]["request_counts"]["completed"] == 1, job
    assert [batch["endpoint"] for batch in double.batches.batches.values()] == ["/v1/responses"] * 2
    kinds = [m.message_type for m in client.agents.messages.list(agent.id, order="asc").items][1:]
    expected = ["user_message", "reasoning_message", "tool_call_message", "tool_return_message", "assistant_message"]
    assert kinds == expected
    assert [item["type"] for item in double.requests[1]["input"]][-3:] == [
        "reasoning",
        "function_call",
        "function_call_output",
    ]
    double.close()
