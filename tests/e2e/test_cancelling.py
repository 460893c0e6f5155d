"""A run is ended whatever it is doing, within half a second, and its conversation goes on at once."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from letta_client import Letta

from tests.doubles.openai_chat import OpenAIDouble, call, text
from tests.doubles.postgres import PostgresProcess, binaries
from tests.e2e.conftest import ServerProcess

SLEEP = '''
def sleep_long(seconds: int) -> str:
    """Sleep.

    Args:
        seconds: how long
    """
    import time

    time.sleep(seconds)
    return "slept"
'''
WITHIN_S = 0.5


@pytest.fixture(scope="module", params=["one server", pytest.param("two servers", marks=pytest.mark.postgres)])
def ends(
    request: pytest.FixtureRequest, module_server: Callable[..., ServerProcess]
) -> tuple[ServerProcess, ServerProcess]:
    """Where runs are started, and where they are cancelled."""
    if request.param == "one server":
        server = module_server()
        return server, server
    if binaries() is None:
        pytest.skip("no PostgreSQL here")
    postgres: PostgresProcess = request.getfixturevalue("postgres")
    url = postgres.fresh()
    return module_server(PERDURE_DATABASE_URL=url), module_server(PERDURE_DATABASE_URL=url)


def sdk(server: ServerProcess) -> Letta:
    return Letta(base_url=server.url, max_retries=0)


def until(what: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def cancel(client: Letta, agent_id: str, run_id: str) -> None:
    """The bound is the promise; what the machine's load adds is measured with a plain read, and given."""
    began = time.monotonic()
    client.runs.retrieve(run_id)
    load_s = time.monotonic() - began
    began = time.monotonic()
    client.agents.messages.cancel(agent_id, run_ids=[run_id])
    took_s = time.monotonic() - began
    run = client.runs.retrieve(run_id)
    assert (run.status, run.stop_reason) == ("cancelled", "cancelled")
    assert took_s < WITHIN_S + 20 * load_s, f"{took_s:.2f} s"


def answers_again(client: Letta, engine: OpenAIDouble, agent_id: str) -> list[dict[str, Any]]:
    """The conversation is free: the prompt of its next message."""
    engine.script(text("Ready."))
    said = client.agents.messages.create(agent_id, input="Still there?")
    assert said.messages[-1].content == "Ready."
    return [message for message in engine.requests[-1]["messages"] if message["role"] != "system"]


def kinds(client: Letta, agent_id: str) -> list[str]:
    return [m.message_type for m in client.agents.messages.list(agent_id, order="asc").items][1:]


def agent_on(client: Letta, **fields: Any) -> Any:
    return client.agents.create(model="openai/gpt-test", include_base_tools=False, **fields)


def test_a_run_that_waits_its_turn(ends: tuple[ServerProcess, ServerProcess], engine: OpenAIDouble) -> None:
    a, b = map(sdk, ends)
    agent = agent_on(a)
    engine.script(text("First.", delay_s=4))
    first = a.agents.messages.create_async(agent.id, input="One")
    until(lambda: len(engine.requests) > 0)
    second = a.agents.messages.create_async(agent.id, input="Two")
    frames: list[Any] = []
    follower = threading.Thread(target=lambda: frames.extend(a.runs.messages.stream(second.id)))
    follower.start()
    cancel(b, agent.id, second.id)
    follower.join(5)
    assert [getattr(f, "stop_reason", None) for f in frames if f.message_type == "stop_reason"] == ["cancelled"]
    until(lambda: a.runs.retrieve(first.id).status == "completed")
    assert [m["content"] for m in answers_again(b, engine, agent.id) if m["role"] == "user"] == ["One", "Still there?"]


def test_a_run_that_waits_for_the_engine(ends: tuple[ServerProcess, ServerProcess], engine: OpenAIDouble) -> None:
    a, b = map(sdk, ends)
    agent = agent_on(a)
    engine.script(text("slow", delay_s=30))
    run = a.agents.messages.create_async(agent.id, input="Think long.")
    until(lambda: len(engine.requests) > 0)
    cancel(b, agent.id, run.id)
    assert [m["role"] for m in answers_again(b, engine, agent.id)] == ["user", "user"]


def test_a_run_in_the_middle_of_its_answer(ends: tuple[ServerProcess, ServerProcess], engine: OpenAIDouble) -> None:
    a, b = map(sdk, ends)
    agent = agent_on(a)
    engine.script(text("one two three four five six seven eight", pieces=8, pause_s=1.0))
    stream = a.agents.messages.create(agent.id, input="Count.", streaming=True, stream_tokens=True, background=True)
    shown, run_id = "", ""
    for frame in stream:
        run_id = getattr(frame, "run_id", None) or run_id
        if frame.message_type == "assistant_message":
            shown += str(frame.content)
            break
    cancel(b, agent.id, run_id)
    shown += "".join(str(f.content) for f in stream if f.message_type == "assistant_message")
    last = b.agents.messages.list(agent.id, order="asc").items[-1]
    assert last.message_type == "assistant_message" and last.content == shown
    assert (last.model_extra or {})["interrupted"] == "cancelled"
    prompt = answers_again(b, engine, agent.id)
    assert [(m["role"], m["content"]) for m in prompt] == [
        ("user", "Count."),
        ("assistant", shown),
        ("user", "Still there?"),
    ]


def test_a_run_inside_a_tool(ends: tuple[ServerProcess, ServerProcess], engine: OpenAIDouble) -> None:
    a, b = map(sdk, ends)
    tool = a.tools.upsert(source_code=SLEEP)
    agent = agent_on(a, tool_ids=[tool.id])
    engine.script(call("sleep_long", {"seconds": 60}))
    run = a.agents.messages.create_async(agent.id, input="Sleep.")
    until(lambda: len(engine.requests) > 0)
    time.sleep(0.5)
    cancel(b, agent.id, run.id)
    assert kinds(b, agent.id) == ["user_message", "tool_call_message", "tool_return_message"]
    told = b.agents.messages.list(agent.id, order="asc").items[-1]
    assert told.status == "error" and "was cancelled. Whether it took effect is not known" in told.tool_return
    assert [m["role"] for m in answers_again(b, engine, agent.id)] == ["user", "assistant", "tool", "user"]


def test_a_run_that_waits_for_approval(ends: tuple[ServerProcess, ServerProcess], engine: OpenAIDouble) -> None:
    a, b = map(sdk, ends)
    tool = a.tools.upsert(source_code=SLEEP, default_requires_approval=True)
    rule: Any = {"type": "requires_approval", "tool_name": "sleep_long"}
    agent = agent_on(a, tool_ids=[tool.id], tool_rules=[rule])
    engine.script(call("sleep_long", {"seconds": 60}))
    run = a.agents.messages.create_async(agent.id, input="Sleep.")
    until(lambda: a.runs.retrieve(run.id).stop_reason == "requires_approval")
    cancel(b, agent.id, run.id)
    prompt = answers_again(b, engine, agent.id)
    assert [m["role"] for m in prompt] == ["user", "assistant", "tool", "user"]
    assert "denied" in prompt[2]["content"]
