"""A server with one place: agents take turns, and too long a queue is answered with 503 instead of growing for ever."""

import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from letta_client import APIStatusError, InternalServerError, Letta

from tests.doubles.openai_chat import OpenAIDouble, text
from tests.e2e.conftest import ServerProcess
from tests.e2e.test_two_servers import new_agent, sdk, wait_for


def status(client: Letta, run_id: str) -> str | None:
    return client.runs.retrieve(run_id).status


def when_accepted(client: Letta, agent_id: str) -> str | None:
    try:
        return client.agents.messages.create_async(agent_id, input="Hi").id
    except InternalServerError as error:
        assert error.status_code == 503
        return None  # what waits is counted once a second


def waiting(server: ServerProcess) -> float:
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith("perdure_runs_queued ")).split()[1])


def test_too_many_waiting_runs_are_answered_with_503_and_when_to_come_back(
    own_server: Callable[..., ServerProcess], engine: OpenAIDouble
) -> None:
    client = sdk(own_server(PERDURE_MAX_RUNS="1", PERDURE_MAX_BACKLOG="2"))
    agents = [new_agent(client).id for _ in range(4)]
    engine.script(text("One.", delay_s=3.0), text("Two."), text("Three."), text("Four."))
    runs = [client.agents.messages.create_async(agent_id, input="Hi").id for agent_id in agents[:3]]
    with pytest.raises(APIStatusError) as refused:
        client.agents.messages.create_async(agents[3], input="Hi")
    assert refused.value.status_code == 503
    assert int(refused.value.response.headers["Retry-After"]) >= 1
    assert "PERDURE_MAX_BACKLOG" in str(refused.value)
    for run_id in runs:
        wait_for(lambda run_id=run_id: status(client, run_id) == "completed" or None)
    accepted = wait_for(lambda: when_accepted(client, agents[3]))
    wait_for(lambda: status(client, accepted) == "completed" or None)


def test_an_agent_with_many_waiting_runs_lets_another_agent_in_between(
    own_server: Callable[..., ServerProcess], engine: OpenAIDouble
) -> None:
    server = own_server(PERDURE_MAX_RUNS="1")
    client = sdk(server)
    greedy, modest = new_agent(client), new_agent(client)
    places = [client.conversations.create(agent_id=greedy.id).id for _ in range(4)]
    engine.gate = threading.Event()
    client.agents.messages.create_async(greedy.id, input="greedy")
    wait_for(lambda: len(engine.requests) == 1 or None)
    with ThreadPoolExecutor(len(places)) as pool:
        talks = [
            pool.submit(lambda place=place: list(sdk(server).conversations.messages.create(place, input="greedy")))
            for place in places
        ]
        wait_for(lambda: waiting(server) >= len(places) or None)
        last = client.agents.messages.create_async(modest.id, input="modest")
        engine.gate.set()
        wait_for(lambda: status(client, last.id) == "completed" or None)
        for talk in talks:
            talk.result(30)
    order = [str(request["messages"][-1]["content"]) for request in engine.requests]
    assert len(order) == 6 and "modest" in "".join(order[1:3]), order
