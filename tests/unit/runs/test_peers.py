"""Agents that send each other messages, on a real store with a played model each."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.create import create_agent
from perdure.agents.spec import AgentSpec
from perdure.core.events import Event, RunStopped, ToolsReturned
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart, ToolCall
from perdure.core.runs import Run, RunConfig
from perdure.runs.runner import Runner
from perdure.store import message_reads
from perdure.store.conversation_reads import ConversationFilter, list_conversations
from perdure.store.listing import Page
from perdure.store.sqlite import SqliteStore
from tests.doubles.fixed_registry import FixedRegistry, info
from tests.doubles.models import OneModel, PlayedModel

ASK = "send_message_to_agent_and_wait_for_reply"
TAGGED = "send_message_to_agents_matching_tags"
TELL = "send_message_to_agent_async"


class Registry(FixedRegistry):
    """One played model per handle."""

    def __init__(self) -> None:
        super().__init__()
        self.played: dict[str, PlayedModel] = {}

    def add(self, handle: str) -> PlayedModel:
        self._models[handle] = info(handle)
        self.played[handle] = PlayedModel()
        return self.played[handle]

    async def resolve(self, handle: str, **more: Any) -> Any:
        known = await super().resolve(handle)
        one = OneModel(self.played[handle])
        one.info = known.info  # type: ignore[assignment]
        return one


class World:
    def __init__(self, store: SqliteStore, **settings: Any) -> None:
        self.store = store
        self.registry = Registry()
        self.runner = Runner(store, self.registry, None, **settings)  # type: ignore[arg-type]
        self.ids: dict[str, str] = {}

    async def agent(self, name: str, *answers: Any, **more: Any) -> PlayedModel:
        model = self.registry.add(f"test/{name}")
        model.answers = list(answers)
        spec = AgentSpec(name=name, model=f"test/{name}", include_multi_agent_tools=True, **more)
        self.ids[name] = (await create_agent(self.store, self.registry, spec)).bundle.agent.id
        return model

    def call(self, tool: str, to: str = "", text: str = "hello", id: str = "call_1", **more: Any) -> ToolCall:
        args = {"message": text, **({"other_agent_id": self.ids.get(to, to)} if to else {}), **more}
        return ToolCall(id, tool, json.dumps(args))

    async def start(self, name: str, text: str = "go") -> str:
        agent_id, now = self.ids[name], now_us()
        run = Run(
            id=new_id("run"),
            agent_id=agent_id,
            conversation_id=agent_id,
            status="created",
            created_us=now,
            config=RunConfig(include_pings=False),
        )
        message = Message(
            id=new_id("message"),
            role="user",
            created_us=now,
            content=(TextPart(text),),
            agent_id=agent_id,
            conversation_id=agent_id,
            run_id=run.id,
        )
        await self.runner.submit(run, (message,), (), wait=True)
        return run.id

    async def send(self, name: str, text: str = "go") -> list[Event]:
        return await self.runner.outcome(await self.start(name, text))

    async def returned(self, name: str) -> list[tuple[str, str]]:
        return [
            (answer.status, str(answer.content))
            for event in await self.send(name)
            if isinstance(event, ToolsReturned)
            for answer in event.returns
        ]

    async def said_in(self, name: str) -> list[str]:
        found = await self.store.scan(lambda: message_reads.list_messages(agent_id=self.ids[name], limit=None))
        return [f"{m.role}: {m.text}" for m in found if m.conversation_id == self.ids[name]][1:]

    async def told(self, name: str) -> list[tuple[str, str]]:
        """What the agent's tools have returned to it, in all its conversations."""
        found = await self.store.scan(lambda: message_reads.list_messages(agent_id=self.ids[name], limit=None))
        return [(each.status, str(each.content)) for message in found for each in message.tool_returns]

    async def conversations(self, name: str) -> list[str | None]:
        views = await self.store.scan(lambda: list_conversations(ConversationFilter(agent_id=self.ids[name]), Page()))
        return [view.conversation.summary for view in views]


@pytest.fixture
async def make(store: SqliteStore) -> AsyncIterator[Callable[..., Any]]:
    await ensure_builtin_tools(store)
    made: list[World] = []

    async def new(**settings: Any) -> World:
        world = World(store, **settings)
        await world.runner.start()
        made.append(world)
        return world

    yield new
    for world in made:
        for model in world.registry.played.values():
            model.gate.set()
        await world.runner.stop()


@pytest.fixture
async def world(make: Callable[..., Any]) -> World:
    return await make()


async def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(2000):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to hold")


async def test_another_agents_answer_comes_back_every_time(world: World) -> None:
    await world.agent("Bob", "one", "two", "THREE")
    ask = [world.call(ASK, "Bob", f"Question {at}", id=f"call_{at}") for at in range(3)]
    ann = await world.agent("Ann")
    ann.answers = [ask[0], ask[1], ask[2], "done"]
    expected = [
        ("success", str({"agent_id": world.ids["Bob"], "response": [text]})) for text in ("one", "two", "THREE")
    ]
    assert await world.returned("Ann") == expected


async def test_a_message_arrives_once_and_as_it_was_written(world: World) -> None:
    bob = await world.agent("Bob")
    await world.agent("Ann", world.call(ASK, "Bob", "Meet at NOON"))
    await world.send("Ann")
    (prompt,) = bob.prompts
    message = prompt.messages[0]
    assert message.role == "system"
    assert message.text.startswith(f"[Incoming message from agent with ID '{world.ids['Ann']}'")
    assert message.text.endswith("] Meet at NOON")
    assert message.text.lower().count("meet at noon") == 1
    assert message.sender_id == world.ids["Ann"]


async def test_no_answer_is_told_as_such(world: World) -> None:
    await world.agent("Bob", "")
    await world.agent("Ann", world.call(ASK, "Bob"))
    assert await world.returned("Ann") == [
        ("success", str({"agent_id": world.ids["Bob"], "response": ["<no response>"]}))
    ]


async def test_an_agent_that_waits_for_the_answer_is_not_asked(world: World) -> None:
    await world.agent("Ann")
    await world.agent("Bob")
    world.registry.played["test/Ann"].answers = [world.call(ASK, "Bob"), "done"]
    world.registry.played["test/Bob"].answers = [world.call(ASK, "Ann"), "then without"]
    ((status, text),) = await world.returned("Ann")
    assert (status, "then without" in text) == ("success", True)
    ((status, text),) = await world.told("Bob")
    assert status == "error"
    assert "waits for your answer itself" in text


async def test_an_agent_cannot_ask_itself_or_nobody(world: World) -> None:
    ann = await world.agent("Ann")
    gone = new_id("agent")
    calls = [world.call(ASK, "Ann", id="a"), world.call(ASK, gone, id="b"), world.call(TELL, "Ann", id="c")]
    ann.answers = [[*calls, world.call(ASK, "Ann", "  ", id="d")]]
    own, nobody, told, empty = await world.returned("Ann")
    assert own == told == ("error", "other_agent_id is your own id: name another agent.")
    assert nobody[0] == "error" and f"There is no agent '{gone}'" in nobody[1]
    assert empty == ("error", "message is empty: there is nothing to send.")


async def test_questions_go_only_so_many_agents_deep(make: Callable[..., Any]) -> None:
    world = await make(max_agent_depth=2)
    for name in "DCBA":
        below = chr(ord(name) + 1)
        await world.agent(name, *([world.call(ASK, below)] if name != "D" else []), f"{name} is done")
    await world.send("A")
    assert world.registry.played["test/D"].prompts == []
    ((status, text),) = await world.told("C")
    assert status == "error"
    assert "more than 2 agents" in text and "PERDURE_AGENT_DEPTH" in text


async def test_agents_that_keep_telling_each_other_come_to_an_end(make: Callable[..., Any]) -> None:
    world = await make(max_agent_depth=3)
    models = [await world.agent(name) for name in ("Ann", "Bob")]
    for model, other in zip(models, ("Bob", "Ann"), strict=True):
        model.answers = [item for at in range(9) for item in (world.call(TELL, other, id=f"call_{at}"), "told")]
    await world.send("Ann")
    await eventually(lambda: sum(len(model.prompts) for model in models) == 8)
    await eventually(lambda: not world.runner._jobs)  # pyright: ignore[reportPrivateUsage]
    told = [*await world.told("Ann"), *await world.told("Bob")]
    assert sorted(status for status, _ in told) == ["error", "success", "success", "success"]
    assert any("more than 3 agents" in text for _, text in told)


async def test_a_told_agent_may_ask_who_told_it(world: World) -> None:
    await world.agent("Ann")
    await world.agent("Bob")
    world.registry.played["test/Ann"].answers = [world.call(TELL, "Bob"), "told", "what about?"]
    world.registry.played["test/Bob"].answers = [world.call(ASK, "Ann"), "thanks"]
    assert await world.returned("Ann") == [("success", "Successfully sent message")]
    bob = world.registry.played["test/Bob"]
    await eventually(lambda: len(bob.prompts) == 2)
    assert [status for status, _ in await world.told("Bob")] == ["success"]


async def test_a_busy_agent_answers_in_a_conversation_of_its_own(world: World) -> None:
    bob = await world.agent("Bob", "slow", "quick")
    await world.agent("Ann", world.call(ASK, "Bob"))
    bob.gate.clear()
    slow = await world.start("Bob", "take your time")
    await eventually(lambda: len(bob.prompts) == 1)
    asking = await world.start("Ann")
    await eventually(lambda: len(bob.prompts) == 2)
    bob.gate.set()
    await world.runner.outcome(asking)
    await world.runner.outcome(slow)
    assert await world.said_in("Bob") == ["user: take your time", "assistant: slow"]
    assert await world.conversations("Bob") == ["Asked by Ann while busy"]


async def test_two_agents_that_ask_each_other_at_once_both_get_an_answer(world: World) -> None:
    models = [await world.agent(name) for name in ("Ann", "Bob")]
    for model, other in zip(models, ("Bob", "Ann"), strict=True):
        model.answers = [world.call(ASK, other), "one", "two"]
        model.gate.clear()
    runs = [await world.start("Ann"), await world.start("Bob")]
    await eventually(lambda: all(model.prompts for model in models))
    for model in models:
        model.gate.set()
    for run_id in runs:
        events = await world.runner.outcome(run_id)
        (returned,) = [event for event in events if isinstance(event, ToolsReturned)]
        assert returned.returns[0].status == "success"


async def test_tags_choose_who_is_asked_and_leave_out_the_sender(world: World) -> None:
    await world.agent("Bob", "bob", tags=("team", "red"))
    await world.agent("Cid", "cid", tags=("team", "blue"))
    await world.agent("Dan", "dan", tags=("red",))
    ann = await world.agent("Ann", tags=("team", "red"))
    wanted: list[dict[str, Any]] = [
        {"match_all": ["team"], "match_some": []},
        {"match_all": [], "match_some": ["red", "blue"]},
        {"match_all": ["team", "red"], "match_some": ["red"]},
        {"match_all": ["nobody"], "match_some": []},
        {"match_all": [], "match_some": []},
    ]
    ann.answers += [world.call(TAGGED, id=f"call_{at}", **match) for at, match in enumerate(wanted)]
    for name in ("Bob", "Cid", "Dan"):
        world.registry.played[f"test/{name}"].answers *= 3
    found = await world.returned("Ann")

    def of(*names: str) -> str:
        return str([{"agent_id": world.ids[name], "response": [name.lower()]} for name in names])

    assert [text for status, text in found if status == "success"] == [
        of("Bob", "Cid"),
        of("Bob", "Cid", "Dan"),
        of("Bob"),
        "[]",
    ]
    assert found[-1][0] == "error" and "name at least one tag" in found[-1][1]


async def test_one_of_many_that_fails_does_not_spoil_the_others_answers(world: World) -> None:
    await world.agent("Bob", RuntimeError("broken"), tags=("team",))
    await world.agent("Cid", "cid", tags=("team",))
    await world.agent("Ann", world.call(TAGGED, match_all=["team"], match_some=[]))
    ((status, text),) = await world.returned("Ann")
    assert status == "success"
    assert "'error': 'Agent " in text and "broken" in text and "'response': ['cid']" in text


async def test_who_are_asked_together_answer_together(world: World) -> None:
    models = [await world.agent(name, tags=("team",)) for name in ("Bob", "Cid", "Dan")]
    for model in models:
        model.gate.clear()
    await world.agent("Ann", world.call(TAGGED, match_all=["team"], match_some=[]))
    run_id = await world.start("Ann")
    await eventually(lambda: all(model.prompts for model in models))
    for model in models:
        model.gate.set()
    await world.runner.outcome(run_id)


async def test_cancelling_a_run_cancels_those_it_waits_for(world: World) -> None:
    cid = await world.agent("Cid")
    await world.agent("Bob", world.call(ASK, "Cid"))
    await world.agent("Ann", world.call(ASK, "Bob"))
    cid.gate.clear()
    run_id = await world.start("Ann")
    await eventually(lambda: bool(cid.prompts))
    below = [other for other in world.runner._jobs if other != run_id]  # pyright: ignore[reportPrivateUsage]
    assert await world.runner.cancel(run_id) == "cancelled"
    assert len(below) == 2
    for other in (run_id, *below):
        assert (await world.runner.run(other)).status == "cancelled"
    cid.gate.set()
    assert any(isinstance(event, RunStopped) for event in await world.send("Cid"))


async def test_who_asked_is_on_record_in_the_run(world: World) -> None:
    bob = await world.agent("Bob")
    bob.gate.clear()
    await world.agent("Ann", world.call(ASK, "Bob"))
    parent = await world.start("Ann")
    await eventually(lambda: bool(bob.prompts))
    (child,) = [other for other in world.runner._jobs if other != parent]  # pyright: ignore[reportPrivateUsage]
    bob.gate.set()
    await world.runner.outcome(parent)
    metadata = (await world.runner.run(child)).metadata or {}
    assert (metadata["run_type"], metadata["parent_run_id"]) == ("agent_message", parent)
    assert metadata["callers"] == metadata["waiting"] == [world.ids["Ann"]]


async def test_an_older_agents_send_message_is_its_answer(world: World) -> None:
    speak = ToolCall("s", "send_message", json.dumps({"message": "spoken"}))
    await world.agent("Bob", speak, agent_type="memgpt_v2_agent")
    await world.agent("Ann", world.call(ASK, "Bob"))
    ((_, text),) = await world.returned("Ann")
    assert text == str({"agent_id": world.ids["Bob"], "response": ["spoken"]})


async def test_an_agent_that_waits_for_approval_is_no_answer(world: World) -> None:
    edit = ToolCall("e", "memory_insert", json.dumps({"label": "x", "new_string": "y"}))
    rule = {"type": "requires_approval", "tool_name": "memory_insert"}
    await world.agent("Bob", edit, tool_rules=(rule,))
    await world.agent("Ann", world.call(ASK, "Bob", id="1"), world.call(ASK, "Bob", id="2"))
    first, second = await world.returned("Ann")
    assert first[0] == second[0] == "error"
    assert "waits for a person's approval" in first[1]
    assert "did not answer" in second[1] and "approval" in second[1]
