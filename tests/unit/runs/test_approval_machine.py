"""Approvals as a state machine over the real loop and store: whatever is answered, repeated, cancelled, left alone or cut off by
a restart, every call is answered exactly once, no prompt is ill-formed, and the agent takes messages again.

PERDURE_PROMISES=long: a thousand courses instead of forty.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.recompile import first_system_message
from perdure.core.agents import Agent, AgentBundle, Block
from perdure.core.approvals import Pending, answered_ids
from perdure.core.errors import ProviderError
from perdure.core.history import history
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Approval, Message, TextPart, ToolCall, ToolReturn
from perdure.core.runs import ClientTool, Run, RunConfig
from perdure.runs.runner import Runner
from perdure.store import agents, conversations, messages
from perdure.store.base import Built
from perdure.store.migrate import migrate_sqlite
from perdure.store.runs import active_runs
from perdure.store.sqlite import SqliteStore
from perdure.store.tools import find_tool
from tests.doubles.models import Answer, OneModel, PlayedModel

FREE, GUARDED, CLIENTS = "memory_insert", "memory_rethink", "look_around"
RULES = ({"type": "requires_approval", "tool_name": GUARDED, "prompt_template": None},)
MORE_RULES: tuple[dict[str, Any], ...] = (
    {"type": "run_first", "tool_name": FREE, "args": {"new_string": "first"}},
    {"type": "run_first", "tool_name": CLIENTS, "args": {"nothing": "of the kind"}},
    {"type": "constrain_child_tools", "tool_name": FREE, "children": [GUARDED, CLIENTS], "child_arg_nodes": None},
    {"type": "parent_last_tool", "tool_name": GUARDED, "children": [FREE]},
    {
        "type": "conditional",
        "tool_name": CLIENTS,
        "child_output_mapping": {"seen": GUARDED},
        "default_child": None,
        "require_output_mapping": True,
    },
    {"type": "exit_loop", "tool_name": GUARDED},
    {"type": "required_before_exit", "tool_name": FREE},
    {"type": "max_count_per_step", "tool_name": GUARDED, "max_count_limit": 1},
)
ARGUMENTS = {
    FREE: {"label": "human", "new_string": "x"},
    GUARDED: {"label": "human", "new_memory": "y"},
    CLIENTS: {},
}

kinds = st.lists(st.sampled_from([FREE, GUARDED, CLIENTS]), min_size=1, max_size=4)
choices = st.lists(st.sampled_from(["approve", "deny", "edit", "return"]), min_size=1, max_size=4)
asking = st.lists(st.sampled_from([FREE, GUARDED, CLIENTS]), max_size=3)
turns = st.lists(st.one_of(kinds, st.just("said"), st.just("broken")), max_size=3)
picks = st.integers(0, 9)
what = st.sampled_from(["say", "answer", "repeat", "cancel", "restart", "expire"])
doings = st.lists(st.tuples(what, turns, choices, picks), min_size=1, max_size=5)


@pytest.fixture(scope="module", autouse=True)
def template(tmp_path_factory: pytest.TempPathFactory) -> None:
    ApprovalMachine.template = tmp_path_factory.mktemp("machine") / "empty.db"
    migrate_sqlite(ApprovalMachine.template)


class CheckedModel(PlayedModel):
    """Refuses what a provider would refuse: calls that the next message does not answer, returns of no call."""

    async def stream(self, prompt: Any, tokens: Any = None) -> AsyncIterator[Any]:
        check_well_formed(prompt.messages)
        async for batch in super().stream(prompt, tokens):
            yield batch


def check_well_formed(context: Sequence[Message], *, waiting: bool = False) -> None:
    """`waiting`: the last message may hold calls that nobody answered yet."""
    for at, message in enumerate(context):
        assert message.role in ("user", "assistant", "tool") or (message.role == "summary" and at == 0), message
        if message.role == "tool":
            called = [call.id for call in context[at - 1].tool_calls]
            assert [each.tool_call_id for each in message.tool_returns] == called
        elif message.tool_calls:
            last = at + 1 == len(context)
            assert waiting if last else context[at + 1].role == "tool"


class World:
    """One agent with a free tool, one that needs approval, and a client's tool in every request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = CheckedModel()
        self.registry = OneModel(self.model)
        self.calls = 0

    async def open(self) -> None:
        self.store = SqliteStore(self.folder / "perdure.db", synchronous="NORMAL")
        await ensure_builtin_tools(self.store)
        tools = [await self.store.read(lambda name=name: find_tool(name)) for name in (FREE, GUARDED)]
        now = now_us()
        self.agent = Agent(id=new_id("agent"), name="test", model="m", tool_rules=RULES, created_us=now, updated_us=now)
        block = Block(id=new_id("block"), label="human", value="Ada", created_us=now, updated_us=now)
        bundle = AgentBundle(agent=self.agent, blocks=(block,), tools=tuple(tool for tool in tools if tool))
        system = first_system_message(bundle)
        await self.store.write(lambda: agents.create_agent(bundle, new_blocks=[block.id], system_message=system))
        await self.start()

    async def start(self) -> None:
        self.runner = Runner(self.store, self.registry, None, approval_expiry_s=3600)  # type: ignore[arg-type]
        await self.runner.start()

    async def restart(self) -> None:
        """As after a crash: whatever was under way stops where it is."""
        await self.runner.stop(grace_s=0)
        await self.start()

    async def close(self) -> None:
        self.model.gate.set()
        await self.runner.stop(grace_s=0)
        await self.store.close()

    def plan(self, turn: Any) -> Answer:
        if turn == "said":
            return "ok"
        if turn == "broken":
            return ProviderError("down", kind="llm_bad_request", status=400)
        made: list[ToolCall] = []
        for name in turn:
            self.calls += 1
            made.append(ToolCall(f"call_{self.calls}", name, msgspec.json.encode(ARGUMENTS[name]).decode()))
        return made

    async def submit(self, *inputs: Message) -> str:
        now = now_us()
        run = Run(
            id=new_id("run"),
            agent_id=self.agent.id,
            conversation_id=self.agent.id,
            status="created",
            created_us=now,
            config=RunConfig(include_pings=False, max_steps=8, client_tools=(ClientTool(CLIENTS),)),
        )
        common = {"agent_id": self.agent.id, "conversation_id": self.agent.id, "run_id": run.id, "created_us": now}
        stored = tuple(msgspec.structs.replace(each, id=new_id("message"), **common) for each in inputs)
        submitted = await self.runner.submit(run, stored, (), wait=True)
        await submitted.durable
        return submitted.run_id

    async def idle(self) -> None:
        async with asyncio.timeout(20):
            while self.runner._jobs or await self.store.read(lambda: active_runs(conversation_id=self.agent.id)):
                await asyncio.sleep(0.001)

    async def said(self) -> list[Message]:
        state = await self.store.read(lambda: conversations.conversation_state(self.agent.id))
        found = await self.store.scan(lambda: messages.context_messages(state.id, state.head_ids, state.tail_from))
        return found[1:]

    async def pending(self) -> Pending | None:
        return (await self.store.read(lambda: conversations.conversation_state(self.agent.id))).pending

    async def stop_of(self, run_id: str) -> tuple[str, str | None]:
        run = await self.runner.run(run_id)
        return run.status, run.stop_reason


def user() -> Message:
    return Message(id="", role="user", created_us=0, content=(TextPart("hello"),))


def answer_to(pending: Pending, choices: Sequence[str]) -> Message:
    """What a client sends: each choice for a call is "approve", "deny", "edit" or "return"; a client's call is never just
    approved."""
    approvals: list[Approval] = []
    returns: list[ToolReturn] = []
    for at, call in enumerate(call for call in pending.calls if call.asks):
        choice = choices[at % len(choices)]
        if choice == "deny":
            approvals.append(Approval(call.id, False, "no"))
        elif call.client or choice == "return":
            returns.append(ToolReturn(call.id, "", "success", "seen"))
        else:
            edited = '{"label": "human", "new_memory": "z"}' if choice == "edit" else None
            approvals.append(Approval(call.id, True, None, edited))
    return Message(id="", role="approval", created_us=0, approvals=tuple(approvals), tool_returns=tuple(returns))


class ApprovalMachine(RuleBasedStateMachine):
    template: Path

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="perdure-machine-"))
        shutil.copy(self.template, self.folder / "perdure.db")
        self.loop = asyncio.Runner()
        self.world = World(self.folder)
        self.go(self.world.open())
        self.answers: list[Message] = []
        self.runs: list[str] = []
        self.held = False

    def go(self, work: Any) -> Any:
        return self.loop.run(work)

    def settle(self) -> None:
        if not self.held:
            self.go(self.world.idle())

    def send(self, *inputs: Message) -> str:
        run_id = self.go(self.world.submit(*inputs))
        self.runs.append(run_id)
        self.settle()
        return run_id

    @rule(asking=asking, after=turns)
    def ask(self, asking: list[str], after: list[Any]) -> None:
        """A step that parks, if anything lets it."""
        self.say([[*asking, GUARDED], *after])

    @rule(turns=turns)
    def model_will(self, turns: list[Any]) -> None:
        self.world.model.answers.extend(self.world.plan(turn) for turn in turns)

    @rule(turns=turns)
    def say(self, turns: list[Any]) -> None:
        self.world.model.answers.extend(self.world.plan(turn) for turn in turns)
        waits = None if self.held else self.go(self.world.pending())
        before = len(self.go(self.world.said()))
        run_id = self.send(user())
        if waits is not None and waits.waits(now_us()):
            assert self.go(self.world.stop_of(run_id)) == ("failed", "error")
            assert len(self.go(self.world.said())) == before

    @rule(choices=choices, follow=st.booleans())
    def answer(self, choices: list[str], follow: bool) -> None:
        pending = self.go(self.world.pending())
        if pending is None:
            return
        waited = pending.waits(now_us()) and not self.held
        self.answers.append(answer_to(pending, choices))
        self.send(self.answers[-1], *([user()] if follow else []))
        if waited:
            after = self.go(self.world.pending())
            assert after is None or after.request_id != pending.request_id

    @rule(choices=choices)
    def answer_twice_at_once(self, choices: list[str]) -> None:
        pending = self.go(self.world.pending())
        if pending is None:
            return
        given = answer_to(pending, choices)
        self.answers.append(given)

        async def both() -> list[str]:
            return list(await asyncio.gather(self.world.submit(given), self.world.submit(given)))

        first, second = self.go(both())
        if pending.waits(now_us()) and not self.held:
            assert first == second
        self.runs.extend((first, second))
        self.settle()

    @rule(which=picks, follow=st.booleans())
    def repeat_an_answer(self, which: int, follow: bool) -> None:
        if self.answers:
            self.send(self.answers[which % len(self.answers)], *([user()] if follow else []))

    @rule()
    def answer_something_else(self) -> None:
        run_id = self.send(Message(id="", role="approval", created_us=0, approvals=(Approval("call_none", True),)))
        if not self.held:
            assert self.go(self.world.stop_of(run_id)) == ("failed", "error")

    @rule(which=picks)
    def cancel(self, which: int) -> None:
        """One of the newest runs."""
        if self.runs:
            self.go(self.world.runner.cancel(self.runs[-1 - which % min(len(self.runs), 4)]))
            self.settle()

    @precondition(lambda self: not self.held)
    @rule()
    def cancel_what_waits(self) -> None:
        pending = self.go(self.world.pending())
        if pending is not None:
            assert self.go(self.world.runner.cancel(pending.run_id)) == "cancelled"
            assert self.go(self.world.pending()) is None

    @rule(choices=choices)
    def cancel_while_answering(self, choices: list[str]) -> None:
        pending = self.go(self.world.pending())
        if pending is None:
            return
        given = answer_to(pending, choices)

        async def both() -> str:
            run_id = await self.world.submit(given)
            await self.world.runner.cancel(run_id)
            return run_id

        self.answers.append(given)
        self.runs.append(self.go(both()))
        self.settle()

    @rule()
    def time_passes(self) -> None:
        """The request expires."""

        def tx() -> Any:
            rows = yield Built("SELECT pending FROM conversations WHERE pending IS NOT NULL", {})
            for (pending,) in rows:
                expired = msgspec.structs.replace(msgspec.json.decode(pending, type=Pending), expires_us=1)
                yield Built("UPDATE conversations SET pending = :it", {"it": msgspec.json.encode(expired)})

        self.go(self.world.store.write(tx))

    @rule(doings=doings)
    def meanwhile(self, doings: list[tuple[str, list[Any], list[str], int]]) -> None:
        """While the model is thinking, everything else goes on."""
        self.world.model.gate.clear()
        self.held = True
        for doing, said, chosen, which in doings:
            match doing:
                case "say":
                    self.say(said)
                case "answer":
                    self.answer(chosen, False)
                case "repeat":
                    self.repeat_an_answer(which, False)
                case "cancel":
                    self.cancel(which)
                case "restart":
                    self.restart()
                case _:
                    self.time_passes()
        self.let_it_go()

    def let_it_go(self) -> None:
        self.world.model.gate.set()
        self.held = False
        self.settle()

    @rule()
    def restart(self) -> None:
        self.go(self.world.restart())
        self.settle()

    @rule(required=st.booleans(), more=st.lists(st.sampled_from(MORE_RULES), max_size=3))
    def change_the_rules(self, required: bool, more: list[dict[str, Any]]) -> None:
        changed = msgspec.structs.replace(self.world.agent, tool_rules=(*(RULES if required else ()), *more))
        self.go(self.world.store.write(lambda: agents.replace_agent(changed)))

    @invariant()
    def each_call_is_answered_once(self) -> None:
        if not hasattr(self, "world") or self.held:
            return
        stored = self.go(self.world.said())
        called = [call.id for message in stored for call in message.tool_calls]
        returned = [each.tool_call_id for message in stored for each in message.tool_returns if message.role == "tool"]
        assert len(set(called)) == len(called)
        assert len(set(returned)) == len(returned)
        pending = self.go(self.world.pending())
        left = {call.id for call in pending.calls} if pending is not None else set()
        assert set(called) - set(returned) == left
        thread = history(stored)
        check_well_formed(thread.messages, waiting=pending is not None)
        assert not any(message.id.endswith("-closed") for message in thread.messages)
        for message in stored:
            if message.role == "approval" and not message.tool_calls:
                assert set(answered_ids(message)) <= set(called)
        kept = self.world.runner.contexts._kept.get(self.world.agent.id)
        if kept is not None:
            state = self.go(self.world.store.read(lambda: conversations.conversation_state(self.world.agent.id)))
            if kept.version == state.context_version and kept.fence == state.fence:
                assert [message.id for message in kept.messages] == [message.id for message in thread.messages]

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.let_it_go()
            self.world.model.answers.clear()
            self.change_the_rules(True, [])
            if (pending := self.go(self.world.pending())) is not None:
                self.go(self.world.runner.cancel(pending.run_id))
            run_id = self.send(user())
            assert self.go(self.world.stop_of(run_id)) == ("completed", "end_turn")
            self.each_call_is_answered_once()
        finally:
            self.go(self.world.close())
            self.loop.close()
            shutil.rmtree(self.folder)


ApprovalMachine.TestCase.settings = settings(
    max_examples=1000 if os.environ.get("PERDURE_PROMISES") == "long" else 40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestApprovals = pytest.mark.timeout(1800)(ApprovalMachine.TestCase)
