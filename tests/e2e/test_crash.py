"""kill -9 at the worst moment: nothing accepted is lost, nothing committed is done twice, no run stays unfinished."""

import threading
import time
from collections.abc import Callable

import pytest
from letta_client import Letta

from tests.doubles.openai_chat import OpenAIDouble, call, text
from tests.e2e.conftest import ServerProcess

pytestmark = pytest.mark.slow


def ended(client: Letta, run_id: str, within_s: float = 10) -> str:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        status = client.runs.retrieve(run_id).status
        if status in ("completed", "failed", "cancelled"):
            return str(status)
        time.sleep(0.05)
    raise AssertionError(f"run {run_id} did not end within {within_s} s")


def test_a_run_killed_while_the_model_answers_is_finished_after_the_restart(
    own_server: Callable[..., ServerProcess], engine: OpenAIDouble
) -> None:
    server = own_server()
    client = Letta(base_url=server.url, max_retries=0)
    agent = client.agents.create(model="openai/gpt-test", include_base_tools=False)
    engine.gate = threading.Event()
    engine.script(text("lost with its server"), text("the answer"))
    run = client.agents.messages.create_async(agent_id=agent.id, input="Hi")
    while not engine.requests:
        time.sleep(0.01)
    server.kill()
    engine.gate.set()
    time.sleep(0.2)
    server.start()
    assert ended(client, run.id) == "completed"
    listed = client.agents.messages.list(agent_id=agent.id).items
    assert [m.message_type for m in listed] == ["system_message", "user_message", "assistant_message"]
    assert listed[2].content == "the answer"


def test_a_committed_step_is_not_repeated(own_server: Callable[..., ServerProcess], engine: OpenAIDouble) -> None:
    server = own_server()
    client = Letta(base_url=server.url, max_retries=0)
    agent = client.agents.create(
        model="openai/gpt-test",
        include_base_tools=True,
        memory_blocks=[{"label": "human", "value": "start"}],
    )
    engine.script(call("memory_insert", {"label": "human", "new_string": "one"}), text("never", delay_s=20))
    run = client.agents.messages.create_async(agent_id=agent.id, input="Note one")
    while len(engine.requests) < 2:
        time.sleep(0.01)
    server.kill()
    engine.script(text("noted"))
    server.start()
    assert ended(client, run.id) == "completed"
    assert client.agents.blocks.retrieve(agent_id=agent.id, block_label="human").value.count("one") == 1
    steps = client.runs.steps.list(run_id=run.id).items
    assert len(steps) == 2
    kinds = [m.message_type for m in client.agents.messages.list(agent_id=agent.id).items]
    assert kinds == ["system_message", "user_message", "tool_call_message", "tool_return_message", "assistant_message"]


def test_every_acknowledged_message_survives(own_server: Callable[..., ServerProcess], engine: OpenAIDouble) -> None:
    server = own_server()
    client = Letta(base_url=server.url, max_retries=0)
    agent = client.agents.create(model="openai/gpt-test", include_base_tools=False)
    engine.default = text("ok", delay_s=0.05)
    runs = [client.agents.messages.create_async(agent_id=agent.id, input=f"m{n}").id for n in range(10)]
    server.kill()
    server.start()
    engine.default = text("ok")
    for run_id in runs:
        assert ended(client, run_id, within_s=20) == "completed"
    said = [m.content for m in client.agents.messages.list(agent_id=agent.id).items if m.message_type == "user_message"]
    assert said == [f"m{n}" for n in range(10)]


def test_sigterm_hands_over_what_runs(own_server: Callable[..., ServerProcess], engine: OpenAIDouble) -> None:
    server = own_server()
    client = Letta(base_url=server.url, max_retries=0)
    agent = client.agents.create(model="openai/gpt-test", include_base_tools=False)
    engine.script(text("too late", delay_s=60), text("second try"))
    run = client.agents.messages.create_async(agent_id=agent.id, input="Hi")
    while not engine.requests:
        time.sleep(0.01)
    assert server.stop() == 0
    server.start()
    assert ended(client, run.id) == "completed"
