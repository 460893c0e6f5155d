"""A server is told to stop: what it drives ends in time or goes on elsewhere, whoever follows is let go, and nothing is lost."""

import socket
import threading
from collections.abc import Callable

import httpx
import pytest

from tests.doubles.openai_chat import OpenAIDouble, call, text
from tests.doubles.postgres import PostgresProcess, binaries
from tests.e2e.conftest import ServerProcess
from tests.e2e.test_messages import ROLL
from tests.e2e.test_two_servers import new_agent, sdk, wait_for

pytestmark = [pytest.mark.postgres, pytest.mark.skipif(binaries() is None, reason="no PostgreSQL here")]

CUT_OFF = "timeout graceful shutdown exceeded"


class Follower:
    """Reads a run's stream until it ends, from `after` on."""

    def __init__(self, server: ServerProcess, run_id: str, after: int = 0) -> None:
        self.lines: list[str] = []
        self.connected = threading.Event()
        self._url = f"{server.url}/v1/runs/{run_id}/stream"
        self._after = after
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with httpx.stream("POST", self._url, json={"starting_after": self._after}, timeout=60) as answer:
            self.connected.set()
            self.lines.extend(line for line in answer.iter_lines() if line)

    def ended(self) -> list[str]:
        """What it was told."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return [line for line in self.lines if line.startswith("data:")]


def refuses(server: ServerProcess) -> bool | None:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
    except OSError:
        return True
    return None


def test_what_does_not_end_in_time_goes_on_at_the_other_and_followers_with_it(
    postgres: PostgresProcess, own_server: Callable[..., ServerProcess], engine: OpenAIDouble
) -> None:
    url = postgres.fresh()
    a = own_server(PERDURE_DATABASE_URL=url, PERDURE_SHUTDOWN_GRACE="0.5")
    b = own_server(PERDURE_DATABASE_URL=url)
    agent = new_agent(sdk(a), tool_ids=[sdk(a).tools.upsert(source_code=ROLL).id])
    engine.script(call("roll", {"sides": 6}), text("lost", delay_s=60), text("Kept."), text("Next."))
    run = sdk(a).agents.messages.create_async(agent.id, input="Think.")
    wait_for(lambda: len(engine.requests) == 2 or None)
    queued = sdk(a).agents.messages.create_async(agent.id, input="And then?")
    here, there = Follower(a, run.id), Follower(b, run.id)
    waiting = Follower(a, queued.id)
    assert all(follower.connected.wait(20) for follower in (here, there, waiting))
    assert a.stop() == 0
    assert CUT_OFF not in a.log(), "nobody had to be cut off: all were let go"
    told = here.ended()
    assert told and told[-1] != "data: [DONE]" and "data: [DONE]" not in waiting.ended()
    whole = there.ended()
    assert whole[-1] == "data: [DONE]" and whole[: len(told)] == told
    again = Follower(b, run.id, after=len(told)).ended()
    assert told + again == whole, "taken up again at the other server, with no gap and nothing twice"
    assert "Kept." in "".join(whole)
    for one in (run, queued):
        wait_for(lambda one=one: sdk(b).runs.retrieve(one.id).status == "completed" or None)
    assert len(engine.requests) == 4, "the finished step was not paid for twice"


def test_what_ends_in_time_ends_here(
    postgres: PostgresProcess, own_server: Callable[..., ServerProcess], engine: OpenAIDouble
) -> None:
    url = postgres.fresh()
    a = own_server(PERDURE_DATABASE_URL=url, PERDURE_SHUTDOWN_GRACE="12")
    b = own_server(PERDURE_DATABASE_URL=url)
    agent = new_agent(sdk(a))
    engine.gate = threading.Event()
    run = sdk(a).agents.messages.create_async(agent.id, input="Think.")
    wait_for(lambda: len(engine.requests) == 1 or None)
    follower = Follower(a, run.id)
    assert follower.connected.wait(20)
    stopped: list[int] = []
    stopping = threading.Thread(target=lambda: stopped.append(a.stop()))
    stopping.start()
    wait_for(lambda: refuses(a))
    engine.gate.set()
    assert follower.ended()[-1] == "data: [DONE]"
    stopping.join(30)
    assert stopped == [0] and CUT_OFF not in a.log()
    assert sdk(b).runs.retrieve(run.id).status == "completed"
    assert len(engine.requests) == 1


def test_who_asks_while_it_stops_is_told_when_to_come_back(
    postgres: PostgresProcess, own_server: Callable[..., ServerProcess], engine: OpenAIDouble
) -> None:
    a = own_server(PERDURE_DATABASE_URL=postgres.fresh(), PERDURE_SHUTDOWN_GRACE="12")
    agent, other = new_agent(sdk(a)), new_agent(sdk(a))
    engine.gate = threading.Event()
    run = sdk(a).agents.messages.create_async(agent.id, input="Think.")
    wait_for(lambda: len(engine.requests) == 1 or None)
    body = b'{"input": "Hi"}'
    head = f"POST /v1/agents/{other.id}/messages HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", a.port), timeout=30) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())  # begun before, ended after
        wait_for(lambda: sdk(a).runs.retrieve(run.id).status == "running" or None)
        stopping = threading.Thread(target=a.stop)
        stopping.start()
        wait_for(lambda: refuses(a))
        connection.sendall(body)
        with connection.makefile("rb") as read:  # to its end: the connection is closed after it
            answer = read.read().decode().lower()
        assert answer.startswith("http/1.1 503") and "retry-after: 1" in answer and "shutting down" in answer
    engine.gate.set()
    stopping.join(30)
    assert not stopping.is_alive()
