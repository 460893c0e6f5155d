"""The whole loop as a state machine: random rules, approvals, client tools, full windows, pins, cancellations, failures and
restarts. After each: a history every provider takes, each call answered once, events that equal the stored messages, usage that
adds up, and rules that went by everything the request had called."""

import shutil
from collections.abc import Sequence, Set
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from perdure.core.agents import Agent, CompactionSettings
from perdure.core.errors import ProviderError
from perdure.core.events import Event, Said, Summarised, TextDelta, ToolCallDelta, ToolsReturned, UsageReported
from perdure.core.expand import expand
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message
from perdure.core.model import ModelDone
from perdure.core.runs import ClientTool, Run, RunConfig, Usage
from perdure.loop.rules import allowed_tools
from perdure.store import agents, events, message_reads, steps
from tests.unit.runs.test_approval_machine import (
    CLIENTS,
    FREE,
    GUARDED,
    MORE_RULES,
    RULES,
    ApprovalMachine,
    CheckedModel,
    World,
    kinds,
    template,
)
from tests.unit.runs.wire_checks import check_for_every_provider

__all__ = ["template"]

TOOLS = (FREE, GUARDED, CLIENTS)
RULES_TOO: tuple[dict[str, Any], ...] = (
    *MORE_RULES,
    {"type": "max_count_per_step", "tool_name": FREE, "max_count_limit": 2},
    {"type": "conditional", "tool_name": GUARDED, "child_output_mapping": {"z": FREE}, "default_child": CLIENTS},
)
what_comes = st.lists(st.one_of(kinds, st.sampled_from(["said", "broken", "full", "silent"])), min_size=1, max_size=6)


class WatchedModel(CheckedModel):
    """Counts differently each time, and looks at every prompt: whether a provider would take it, and what it may call."""

    def __init__(self, world: "LoopWorld") -> None:
        super().__init__()
        self.world = world
        self.told: dict[str, Usage] = {}
        self.count = 0
        self.faults: list[AssertionError] = []

    async def stream(self, prompt: Any, tokens: Any = None) -> Any:
        try:
            check_for_every_provider(prompt.messages)
            if prompt.system_message_id:  # a call for a summary has none
                await self.world.check_offer(prompt)
        except AssertionError as fault:  # would be taken for a run that failed
            self.faults.append(fault)
            raise
        self.count += 1
        self.usage = Usage(self.count, 2 * self.count, 3 * self.count, cached_input_tokens=self.count % 3)
        usage = self.usage
        async for batch in super().stream(prompt, tokens):
            if isinstance(batch[-1], ModelDone):
                self.told[prompt.step_id] = usage
                batch = [*batch[:-1], msgspec.structs.replace(batch[-1], usage=usage)]
            yield batch


class LoopWorld(World):
    def __init__(self, folder: Any) -> None:
        super().__init__(folder)
        self.model = WatchedModel(self)
        self.registry.model = self.model
        self.rules: tuple[dict[str, Any], ...] = RULES
        self.pins: tuple[str, ...] = ()
        self.streams, self.max_steps = False, 8

    def plan(self, turn: Any) -> Any:
        if turn == "full":
            return ProviderError("too long", kind="context_window_exceeded", status=400)
        return "" if turn == "silent" else super().plan(turn)

    async def submit(self, *inputs: Message, compact: bool = False) -> str:
        now = now_us()
        run = Run(
            id=new_id("run"),
            agent_id=self.agent.id,
            conversation_id=self.agent.id,
            status="created",
            created_us=now,
            config=RunConfig(
                include_pings=False,
                stream_tokens=self.streams,
                max_steps=self.max_steps,
                client_tools=(ClientTool(CLIENTS),),
                compact_only=compact,
                compaction=CompactionSettings(mode="all") if compact else None,
            ),
        )
        common = {"agent_id": self.agent.id, "conversation_id": self.agent.id, "run_id": run.id, "created_us": now}
        stored = tuple(msgspec.structs.replace(each, id=new_id("message"), **common) for each in inputs)
        submitted = await self.runner.submit(run, stored, (), wait=True)
        await submitted.durable
        return submitted.run_id

    async def set_agent(self) -> None:
        """As its rules and pins are now."""

        def tx() -> Any:
            agent: Agent = yield from agents.agent_by_id(self.agent.id)
            kept = CompactionSettings(pinned_message_ids=self.pins)
            yield from agents.replace_agent(
                msgspec.structs.replace(agent, tool_rules=self.rules, compaction_settings=kept)
            )

        await self.store.write(tx)

    async def everything(self) -> list[Message]:
        """All that was ever stored, in order."""
        return await self.store.scan(lambda: message_reads.list_messages(agent_id=self.agent.id, limit=None))

    async def check_offer(self, prompt: Any) -> None:
        """The tools offered are those the rules allow after all that the request has called, wherever it is stored."""
        # through the writer: a run starts once its acceptance has executed, before a reader sees it
        stored = await self.store.write(lambda: message_reads.list_messages(agent_id=self.agent.id, limit=None))
        called = called_in(stored, prompt.run_id)
        allowed = allowed_tools(self.rules, TOOLS, called)
        expected = set(TOOLS) if allowed.all_tools else set(allowed.names)
        assert {tool.name for tool in prompt.tools} == expected, (called, self.rules)


def called_in(stored: Sequence[Message], run_id: str) -> list[tuple[str, str]]:
    """What was called in a request: by the run, by the run that asked for the approval it brought, and by the failed run it took
    up (it begins with no input of its own then)."""
    own = [message for message in stored if message.run_id == run_id]
    found: list[tuple[str, str]] = []
    first = own[0] if own else None
    if first is not None and first.role == "approval" and not first.tool_calls:
        answered = {each.tool_call_id for each in (*first.approvals, *first.tool_returns)}
        [asked] = [each for each in stored if each.role == "approval" and answered & {c.id for c in each.tool_calls}]
        assert asked.run_id is not None
        found = called_in(stored[: stored.index(asked)], asked.run_id)
    elif first is None or first.role not in ("user", "system"):
        before = stored[: stored.index(first)] if first is not None else stored
        earlier = next((each.run_id for each in reversed(before) if each.run_id is not None), None)
        found = called_in(before, earlier) if earlier is not None else []
    for message in own:
        for each in message.tool_returns if message.role == "tool" else ():
            if each.ran:
                text = each.content if isinstance(each.content, str) else ""
                found.append((each.name, text.partition("\n")[2] if text.startswith("[The approver") else text))
    return found


class LoopMachine(ApprovalMachine):
    @initialize()
    def begin(self) -> None:
        super().begin()
        self.go(self.world.close())
        for left in self.folder.glob("perdure.db*"):
            left.unlink()
        shutil.copy(self.template, self.folder / "perdure.db")
        self.world = LoopWorld(self.folder)
        self.go(self.world.open())
        self.stay: set[str] = set()

    @rule(turns=what_comes)
    def will_come(self, turns: list[Any]) -> None:
        self.world.model.answers.extend(self.world.plan(turn) for turn in turns)

    @rule(streams=st.booleans(), most=st.integers(1, 8))
    def ask_otherwise(self, streams: bool, most: int) -> None:
        self.world.streams, self.world.max_steps = streams, most

    @precondition(lambda self: not self.held)
    @rule()
    def compact(self) -> None:
        self.runs.append(self.go(self.world.submit(compact=True)))
        self.settle()

    @precondition(lambda self: not self.held)
    @rule(which=st.lists(st.integers(0, 50), max_size=3))
    def pin(self, which: list[int]) -> None:
        context = self.go(self.world.said())
        mine = [each for each in context if each.role in ("user", "assistant", "tool") or each.tool_calls]
        self.stay = {mine[at % len(mine)].id for at in which} if mine else set()
        self.world.pins = tuple(sorted(self.stay))
        self.go(self.world.set_agent())

    @precondition(lambda self: not self.held)
    @rule(required=st.booleans(), more=st.lists(st.sampled_from(RULES_TOO), max_size=4))
    def change_the_rules(self, required: bool, more: list[dict[str, Any]]) -> None:
        self.world.rules = (*(RULES if required else ()), *more)
        self.go(self.world.set_agent())

    @invariant()
    def all_of_it_holds(self) -> None:
        if not isinstance(getattr(self, "world", None), LoopWorld) or self.held:
            return
        for fault in self.world.model.faults:
            raise fault
        stored = self.go(self.world.everything())
        self.calls_are_answered_once(stored)
        context = {message.id for message in self.go(self.world.said())}
        assert self.stay <= context, "something pinned is gone"
        for run_id in dict.fromkeys(self.runs):
            self.go(self.run_adds_up(run_id, [each for each in stored if each.run_id == run_id]))

    def calls_are_answered_once(self, stored: Sequence[Message]) -> None:
        called = [call.id for message in stored for call in message.tool_calls]
        returned = [each.tool_call_id for message in stored if message.role == "tool" for each in message.tool_returns]
        pending = self.go(self.world.pending())
        left = {call.id for call in pending.calls} if pending is not None else set()
        assert len(set(called)) == len(called) and len(set(returned)) == len(returned)
        assert set(called) - set(returned) == left and set(returned) <= set(called)

    async def run_adds_up(self, run_id: str, stored: Sequence[Message]) -> None:
        world = self.world
        run = await world.runner.run(run_id)
        assert run.status in ("completed", "failed", "cancelled")
        made = await world.store.read(lambda: steps.steps_of_run(run_id))
        total = Usage()
        for step in made:
            assert step.usage == world.model.told.get(step.id, Usage())
            total = total + step.usage
        assert run.usage == total
        logged = [event for _, event in await world.store.scan(lambda: events.events_after(run_id, 0))]
        reported = [event.usage for event in logged if isinstance(event, UsageReported)]
        assert reported in ([], [run.usage])
        assert len(reported) == 1 or run.status != "completed"
        events_equal_messages(logged, stored)


def events_equal_messages(logged: Sequence[Event], stored: Sequence[Message]) -> None:
    """Whole messages as they are, deltas put together. Deltas of a step that was never committed may be there beside them."""
    asked = {call.id for message in stored if message.role == "approval" for call in message.tool_calls}
    shown = [message for message in stored if message.role in ("assistant", "approval", "tool", "summary")]
    shown = [message for message in shown if not _ended_from_outside(message, asked)]
    expected = [
        event for message in shown for event in expand(message) if isinstance(event, Said | ToolsReturned | Summarised)
    ]
    whole = [event for event in logged if isinstance(event, Said | ToolsReturned | Summarised)]
    said = [event for event in expected if event not in whole]
    assert [event for event in expected if event in whole] == whole, "events of messages that are not stored, or twice"
    pieces: dict[tuple[str, int], list[str]] = {}
    for event in logged:
        if isinstance(event, TextDelta):
            pieces.setdefault((event.message_id, event.part), []).append(event.text)
        elif isinstance(event, ToolCallDelta):
            piece = f"<{event.tool_call_id}:{event.name}>" if event.name else ""
            pieces.setdefault((event.message_id, event.part), []).append(piece + (event.arguments or ""))
    for event in said:
        assert isinstance(event, Said), event
        calls = event.tool_calls or event.approval_calls
        text = "".join(f"<{call.id}:{call.name}>{call.arguments}" for call in calls) if calls else event.text
        assert "".join(pieces[event.message_id, event.part]) == text


def _ended_from_outside(message: Message, asked: Set[str]) -> bool:
    """What closed a request after the log of the run that `asked` had ended: no run returns what it asked for itself."""
    return message.role == "tool" and any(each.tool_call_id in asked for each in message.tool_returns)


LoopMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestLoop = LoopMachine.TestCase
