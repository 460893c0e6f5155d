"""Providers' limits hold for all servers and workers of one database together."""

from collections.abc import Callable

import pytest

from tests.doubles.openai_chat import OpenAIDouble, text
from tests.doubles.postgres import PostgresProcess, binaries
from tests.e2e.conftest import ServerProcess
from tests.e2e.test_two_servers import new_agent, sdk, wait_for
from tests.e2e.test_workers import WorkerProcess, start_worker

__all__ = ["start_worker"]

pytestmark = [pytest.mark.postgres, pytest.mark.skipif(binaries() is None, reason="no PostgreSQL here")]


def test_two_servers_and_a_worker_ask_no_more_at_once_than_is_allowed(
    postgres: PostgresProcess,
    own_server: Callable[..., ServerProcess],
    start_worker: Callable[..., WorkerProcess],
    engine: OpenAIDouble,
) -> None:
    url, limits = postgres.fresh(), {"PERDURE_LIMITS": "openai.concurrent=3"}
    clients = [sdk(own_server(PERDURE_DATABASE_URL=url, **limits, **more)) for more in ({}, {"PERDURE_MAX_RUNS": "2"})]
    start_worker(url, **limits)
    agents = [new_agent(clients[0]).id for _ in range(12)]
    engine.default = text("ok", delay_s=0.1)
    try:
        runs = [
            clients[at % 2].agents.messages.create_async(agent_id, input="Hi").id
            for _ in range(2)
            for at, agent_id in enumerate(agents)
        ]
        for run_id in runs:
            wait_for(lambda run_id=run_id: clients[0].runs.retrieve(run_id).status == "completed" or None, 60)
    finally:
        engine.default = text("ok")
    assert len(engine.requests) == 24
    assert engine.most_at_once == 3


def test_what_a_killed_server_asked_at_once_may_be_asked_by_another(
    postgres: PostgresProcess, own_server: Callable[..., ServerProcess], engine: OpenAIDouble
) -> None:
    url, limits = postgres.fresh(), "openai.concurrent=2"
    first = own_server(PERDURE_DATABASE_URL=url, PERDURE_LIMITS=limits)
    other = sdk(own_server(PERDURE_DATABASE_URL=url, PERDURE_LIMITS=limits))
    agents = [new_agent(other).id for _ in range(3)]
    engine.script(text("lost", delay_s=60), text("lost", delay_s=60))
    lost = [sdk(first).agents.messages.create_async(agent_id, input="Hi").id for agent_id in agents[:2]]
    wait_for(lambda: len(engine.requests) == 2 or None)
    waiting = other.agents.messages.create_async(agents[2], input="Hi").id
    first.kill()
    for run_id in (waiting, *lost):
        wait_for(lambda run_id=run_id: other.runs.retrieve(run_id).status == "completed" or None, 30)
    assert len(engine.requests) == 5, "nobody was asked for the third before there was a place"
    assert engine.most_at_once == 2
