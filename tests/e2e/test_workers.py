"""Servers that only accept, and workers that drive, on one PostgreSQL."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.openai_chat import OpenAIDouble, call, text
from tests.doubles.postgres import PostgresProcess, binaries
from tests.e2e.conftest import ServerProcess, WorkerProcess, clean_environment
from tests.e2e.test_messages import ROLL
from tests.e2e.test_two_servers import new_agent, sdk, wait_for

pytestmark = [pytest.mark.postgres, pytest.mark.skipif(binaries() is None, reason="no PostgreSQL here")]


@pytest.fixture
def start_worker(tmp_path: Path, engine: OpenAIDouble) -> Iterator[Callable[..., WorkerProcess]]:
    started: list[WorkerProcess] = []

    def start(url: str, **more: str) -> WorkerProcess:
        env = {"OPENAI_BASE_URL": engine.base_url, "OPENAI_API_KEY": "sk-test", "PERDURE_DATABASE_URL": url, **more}
        started.append(WorkerProcess(tmp_path / f"worker-{len(started)}", env))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def driver_of(url: str, run_id: str) -> int | None:
    """The process that holds the run's lease."""
    import asyncio

    import asyncpg

    async def ask() -> str | None:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval("SELECT lease_owner FROM conversations WHERE active_run_id = $1", run_id)
        finally:
            await connection.close()

    owner = asyncio.run(ask())
    return int(owner.split(":")[1]) if owner is not None else None


def test_a_killed_workers_run_is_finished_by_the_other_within_ten_seconds(
    postgres: PostgresProcess,
    own_server: Callable[..., ServerProcess],
    start_worker: Callable[[str], WorkerProcess],
    engine: OpenAIDouble,
) -> None:
    url = postgres.fresh()
    client = sdk(own_server(PERDURE_DATABASE_URL=url, PERDURE_RUNS="false"))
    workers = {worker.process.pid: worker for worker in (start_worker(url), start_worker(url))}
    tool = client.tools.upsert(source_code=ROLL)
    agent = new_agent(client, tool_ids=[tool.id])
    engine.script(call("roll", {"sides": 6}), text("lost", delay_s=60), text("Six."))
    run = client.agents.messages.create_async(agent.id, input="Roll.")
    frames: list[Any] = []
    follower = threading.Thread(target=lambda: frames.extend(client.runs.messages.stream(run.id, starting_after=0)))
    follower.start()
    wait_for(lambda: len(engine.requests) >= 2 or None)
    workers[wait_for(lambda: driver_of(url, run.id))].kill()
    killed = time.monotonic()
    follower.join(20)
    assert not follower.is_alive()
    assert time.monotonic() - killed < 12  # ten, and the way to the client
    assert client.runs.retrieve(run.id).status == "completed"
    seqs = [frame.seq_id for frame in frames if getattr(frame, "seq_id", None)]
    assert seqs == list(range(1, len(seqs) + 1))
    shown = [frame.message_type for frame in frames if frame.message_type.endswith("message")]
    assert shown == ["tool_call_message", "tool_return_message", "assistant_message"]


def test_a_worker_that_is_told_to_stop_hands_its_run_over_at_once(
    postgres: PostgresProcess,
    own_server: Callable[..., ServerProcess],
    start_worker: Callable[[str], WorkerProcess],
    engine: OpenAIDouble,
) -> None:
    url = postgres.fresh()
    client = sdk(own_server(PERDURE_DATABASE_URL=url, PERDURE_RUNS="false"))
    first = start_worker(url)
    agent = new_agent(client)
    engine.script(text("slow", delay_s=60), text("Done."))
    run = client.agents.messages.create_async(agent.id, input="Think.")
    wait_for(lambda: len(engine.requests) >= 1 or None)
    start_worker(url)
    assert first.stop() == 0, first.log()
    assert driver_of(url, run.id) != first.process.pid, "its lease was given back, not left to run out"
    wait_for(lambda: client.runs.retrieve(run.id).status == "completed" or None)


def test_a_run_of_a_worker_is_cancelled_from_a_server_and_the_conversation_goes_on(
    postgres: PostgresProcess,
    own_server: Callable[..., ServerProcess],
    start_worker: Callable[[str], WorkerProcess],
    engine: OpenAIDouble,
) -> None:
    url = postgres.fresh()
    client = sdk(own_server(PERDURE_DATABASE_URL=url, PERDURE_RUNS="false"))
    start_worker(url)
    agent = new_agent(client)
    engine.script(text("slow", delay_s=60), text("Next."), text("And next."))
    run = client.agents.messages.create_async(agent.id, input="Think long.")
    behind = client.agents.messages.create_async(agent.id, input="And then?")
    wait_for(lambda: len(engine.requests) >= 1 or None)
    client.agents.messages.cancel(agent.id, run_ids=[run.id])
    assert client.runs.retrieve(run.id).status == "cancelled"
    wait_for(lambda: client.runs.retrieve(behind.id).status == "completed" or None)
    assert client.agents.messages.create(agent.id, input="Still there?").messages[0].content == "And next."


def test_a_worker_needs_a_database_that_can_be_shared(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "perdure", "worker", "--data-dir", str(tmp_path)],
        env=clean_environment({}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1 and "postgresql://" in done.stderr


def test_a_batch_handed_in_at_a_server_without_runs_is_worked_off_by_workers(
    postgres: PostgresProcess,
    own_server: Callable[..., ServerProcess],
    start_worker: Callable[[str], WorkerProcess],
    engine: OpenAIDouble,
) -> None:
    url = postgres.fresh()
    client = sdk(own_server(PERDURE_DATABASE_URL=url, PERDURE_RUNS="false"))
    agents = [new_agent(client).id for _ in range(3)]
    engine.default = lambda body: text(f"You said {body['messages'][-1]['content']}.")
    try:
        requests = [{"agent_id": agents[at % 3], "input": str(at)} for at in range(9)]
        batch: Any = client.post("/v1/messages/batches", cast_to=object, body={"requests": requests})
        path = f"/v1/messages/batches/{batch['id']}"
        start_worker(url)

        def ended() -> Any:
            job: Any = client.get(path, cast_to=object)
            return job if job["status"] != "running" else None

        assert wait_for(ended, within_s=40)["metadata"]["request_counts"]["completed"] == 9
    finally:
        engine.default = text("ok")
