"""Whom an attempt's agent talks to: copies of its own, known by the ids of what they were copied from."""

import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import pytest

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.create import create_agent
from perdure.agents.groups import GroupSpec, Manager, create_group
from perdure.agents.spec import AgentSpec
from perdure.core.messages import ToolCall
from perdure.core.rollouts import Attempt, JobSpec, Task
from perdure.rollouts.attempt import Attempts
from perdure.rollouts.driver import Rollouts
from perdure.rollouts.fork import stand_in
from perdure.runs.runner import Runner
from perdure.store import message_reads
from perdure.store import rollouts as rollout_store
from perdure.store.agents import agent_by_id
from perdure.store.sqlite import SqliteStore
from tests.doubles.models import PlayedModel
from tests.unit.runs.test_peers import ASK, TAGGED, Registry

GROUP = "send_message_to_all_agents_in_group"


class World:
    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.registry = Registry()
        self.runner = Runner(store, self.registry, None, stand_in=partial(stand_in, store))  # type: ignore[arg-type]
        self.rollouts = Rollouts(store, self.runner, Attempts(store, self.runner, None, holder=self.runner.owner))  # type: ignore[arg-type]
        self.ids: dict[str, str] = {}

    async def agent(self, name: str, *answers: Any, tags: Sequence[str] = ()) -> PlayedModel:
        model = self.registry.add(f"test/{name}")
        model.answers = list(answers)
        spec = AgentSpec(name=name, model=f"test/{name}", include_multi_agent_tools=True, tags=tuple(tags))
        self.ids[name] = (await create_agent(self.store, self.registry, spec)).bundle.agent.id
        return model

    def ask(self, to: str, tool: str = ASK, **more: Any) -> ToolCall:
        args = {"message": "hello", **({"other_agent_id": self.ids.get(to, to)} if to else {}), **more}
        return ToolCall("call_1", tool, json.dumps(args))

    async def attempts(self, count: int) -> list[Attempt]:
        tasks = (Task(id="one", turns=("Go",)),)
        job = await self.rollouts.submit(
            JobSpec(agent_id=self.ids["Ann"], tasks=tasks, group_size=count, max_concurrency=1)
        )
        await self.rollouts._jobs[job.id]
        made = await self.store.read(lambda: rollout_store.attempts_of(job.id))
        assert [attempt.status for attempt in made] == ["completed"] * count, made
        return made

    async def said_in(self, agent_id: str) -> list[str]:
        found = await self.store.scan(lambda: message_reads.list_messages(agent_id=agent_id, limit=None))
        return [f"{m.role}: {m.text}" for m in found][1:]

    async def returned_in(self, agent_id: str) -> list[Any]:
        found = await self.store.scan(lambda: message_reads.list_messages(agent_id=agent_id, limit=None))
        return [answer for message in found for answer in message.tool_returns]

    async def copy(self, attempt: Attempt, name: str) -> str:
        found = await self.store.read(lambda: rollout_store.copy_in(attempt.id, self.ids[name]))
        assert found is not None
        return found


@pytest.fixture
async def world(store: SqliteStore) -> AsyncIterator[World]:
    await ensure_builtin_tools(store)
    made = World(store)
    await made.runner.start()
    yield made
    await made.rollouts.stop()
    await made.runner.stop()


def shown(model: PlayedModel) -> list[Any]:
    """What a model was asked, without the ids of messages."""
    return [(prompt.system, [(m.role, m.text) for m in prompt.messages]) for prompt in model.prompts]


async def test_each_attempt_talks_to_a_copy_of_its_own_that_is_shown_the_same(world: World) -> None:
    bob = await world.agent("Bob", "one", "two")
    ann = await world.agent("Ann")
    ann.answers = [world.ask("Bob"), "done", world.ask("Bob"), "done"]
    first, second = await world.attempts(2)
    copies = [await world.copy(attempt, "Bob") for attempt in (first, second)]
    assert len({*copies, world.ids["Bob"]}) == 3
    assert await world.said_in(world.ids["Bob"]) == []
    assert [(await world.said_in(copy))[-1] for copy in copies] == ["assistant: one", "assistant: two"]
    asked = shown(bob)
    assert len(asked) == 2 and asked[0] == asked[1]
    assert world.ids["Ann"] in asked[0][1][-1][1], "Bob is told who asks by the id that Ann is known by"
    assert ann.prompts[0].messages[-1].text == "Go"
    (answer,) = await world.returned_in(str(first.agent_id))
    assert world.ids["Bob"] in str(answer.content) and copies[0] not in str(answer.content)
    agent = await world.store.read(lambda: agent_by_id(copies[0]))
    assert agent.hidden and agent.metadata == {
        "copy_of": world.ids["Bob"],
        "job_id": first.job_id,
        "rollout_id": first.id,
    }


async def test_one_who_asks_back_reaches_the_attempt_itself(world: World) -> None:
    bob = await world.agent("Bob")
    ann = await world.agent("Ann")
    ann.answers = [world.ask("Bob"), "done"]
    bob.answers = [world.ask("Ann"), "answered"]
    (attempt,) = await world.attempts(1)
    (refused,) = await world.returned_in(await world.copy(attempt, "Bob"))
    assert refused.status == "error" and "waits for your answer" in str(refused.content)
    assert len(await world.store.read(lambda: rollout_store.copies_in(attempt.id))) == 2


async def test_tags_find_the_agents_there_are_and_reach_their_copies(world: World) -> None:
    bob = await world.agent("Bob", tags=["crew"])
    ann = await world.agent("Ann", tags=["crew"])
    crew = ToolCall("call_1", TAGGED, json.dumps({"message": "hi", "match_all": ["crew"], "match_some": []}))
    ann.answers = [crew, "done", crew, "done"]
    first, second = await world.attempts(2)
    assert len(bob.prompts) == 2 and len(ann.prompts) == 4
    assert await world.said_in(world.ids["Bob"]) == []
    assert await world.copy(first, "Bob") != await world.copy(second, "Bob")


async def test_an_agent_that_is_not_there_is_a_tool_error(world: World) -> None:
    ann = await world.agent("Ann")
    ann.answers = [world.ask("agent-none"), "done"]
    (attempt,) = await world.attempts(1)
    (answer,) = await world.returned_in(str(attempt.agent_id))
    assert answer.status == "error" and "There is no agent 'agent-none'" in str(answer.content)


async def test_a_leader_of_a_group_leads_a_group_of_copies(world: World) -> None:
    bob = await world.agent("Bob", "aye", "aye")
    ann = await world.agent("Ann")
    led = Manager(manager_type="supervisor", manager_agent_id=world.ids["Ann"])
    await world.store.write(lambda: create_group(GroupSpec(agent_ids=(world.ids["Bob"],), manager=led)))
    tool: Callable[..., ToolCall] = partial(ToolCall, "call_1", GROUP)
    ann.answers = [tool(json.dumps({"message": "all hands"})), "done"] * 2
    attempts = await world.attempts(2)
    assert await world.said_in(world.ids["Bob"]) == []
    for attempt in attempts:
        assert "assistant: aye" in await world.said_in(await world.copy(attempt, "Bob"))
    assert len(bob.prompts) == 2
    asked = [system for system, _ in shown(bob)]
    assert re.sub("CONVERSATION_ID: .*", "", asked[0]) == re.sub("CONVERSATION_ID: .*", "", asked[1])
