"""Scheduled messages with the real SDK: sent by the clock, once, with every moment on record."""

import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from letta_client import APIStatusError, Letta

from tests.doubles.openai_chat import OpenAIDouble, text
from tests.e2e.conftest import ServerProcess
from tests.e2e.test_durable_requests import wait_for

SAY = [{"role": "user", "content": "Good morning"}]


def ticks(server: ServerProcess, agent_id: str, schedule_id: str) -> Any:
    url = f"{server.url}/v1/agents/{agent_id}/schedule/{schedule_id}/ticks"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())


def test_a_message_is_sent_once_at_its_time(
    client: Letta, server: ServerProcess, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    engine.script(text("Morning."))
    at_ms = (time.time() + 1) * 1000
    made = client.agents.schedule.create(
        agent.id, messages=SAY, schedule={"type": "one-time", "scheduled_at": at_ms}, max_steps=3
    )
    assert made.next_scheduled_at is not None
    shown = client.agents.schedule.retrieve(made.id, agent_id=agent.id)
    assert shown.schedule.scheduled_at == at_ms
    assert shown.message.messages[0].content == "Good morning"
    listed = client.agents.schedule.list(agent.id)
    assert [each.id for each in listed.scheduled_messages] == [made.id]
    assert not listed.has_next_page
    (tick,) = wait_for(lambda: [t for t in ticks(server, agent.id, made.id) if t["status"] == "fired"] or None)
    run = wait_for(lambda: r if (r := client.runs.retrieve(tick["run_id"])).status == "completed" else None)
    assert run.background
    assert client.agents.schedule.retrieve(made.id, agent_id=agent.id).next_scheduled_time is None
    said = [m.content for m in client.agents.messages.list(agent.id).items if m.message_type != "system_message"]
    assert said == ["Good morning", "Morning."]
    assert client.agents.schedule.delete(made.id, agent_id=agent.id).success
    with pytest.raises(APIStatusError) as gone:
        client.agents.schedule.retrieve(made.id, agent_id=agent.id)
    assert gone.value.status_code == 404


def test_a_moment_that_passes_while_the_server_is_down_is_made_up_for(
    own_server: Callable[..., ServerProcess], engine: OpenAIDouble
) -> None:
    server = own_server()
    client = Letta(base_url=server.url, max_retries=0)
    agent = client.agents.create(model="openai/gpt-test", include_base_tools=False)
    made = client.agents.schedule.create(
        agent.id, messages=SAY, schedule={"scheduled_at": time.time() + 1.5, "type": "one-time"}
    )
    server.kill()
    time.sleep(2)
    server.start()
    (tick,) = wait_for(lambda: [t for t in ticks(server, agent.id, made.id) if t["status"] == "fired"] or None)
    wait_for(lambda: client.runs.retrieve(tick["run_id"]).status == "completed" or None)
    assert len([m for m in client.agents.messages.list(agent.id).items if m.message_type == "user_message"]) == 1


def test_a_recurring_message_knows_its_next_time(client: Letta, new_agent: Callable[..., Any]) -> None:
    agent = new_agent(timezone="Europe/Berlin")
    made = client.agents.schedule.create(
        agent.id, messages=SAY, schedule={"type": "recurring", "cron_expression": "30 9 * * 1-5"}
    )
    assert made.next_scheduled_at is not None
    shown = client.agents.schedule.retrieve(made.id, agent_id=agent.id)
    assert shown.schedule.cron_expression == "30 9 * * 1-5"


@pytest.mark.parametrize(
    ("schedule", "status", "where"),
    [
        ({"type": "recurring", "cron_expression": "often"}, 422, "cron_expression"),
        ({"type": "one-time", "scheduled_at": 1000}, 400, "in the past"),
        ({"type": "weekly"}, 422, "schedule"),
    ],
)
def test_a_wrong_schedule_is_refused_by_name(
    client: Letta, new_agent: Callable[..., Any], schedule: Any, status: int, where: str
) -> None:
    agent = new_agent()
    with pytest.raises(APIStatusError) as refused:
        client.agents.schedule.create(agent.id, messages=SAY, schedule=schedule)
    assert refused.value.status_code == status
    assert where in str(refused.value)
