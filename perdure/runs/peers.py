"""How an agent in a run reaches other agents: every message is a run of the other agent, on the one path all runs take.

Nobody ever waits for a busy conversation while somebody waits for him, so agents cannot block each other: an agent that is busy
answers in a conversation made for the question. Who led to a run (`metadata.callers`) and who waits for it (`metadata.waiting`)
is on record in it: the first bounds how far messages go, and nobody is asked who waits for the answer already.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec

from perdure.core.agents import AgentBundle, shown_as, shown_id
from perdure.core.conversations import Conversation
from perdure.core.errors import AgentError, Conflict, NotFound, ToolError
from perdure.core.events import Event, RunFailed, RunStopped, Said
from perdure.core.groups import Group
from perdure.core.ids import new_id, new_otid, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.runs import Run, RunConfig
from perdure.runs.context import Contexts, system_message
from perdure.runs.discussion import DISCUSSION_TURNS, Discussion
from perdure.runs.shielding import shielded
from perdure.store.agents import agent_bundle, agents_tagged, check_agent
from perdure.store.base import Store, Tx
from perdure.store.conversations import create_conversation
from perdure.store.groups import add_conversation, conversation_in, members
from perdure.tools.base import PeerAnswer

MOST_ASKED = 100
ASKED_AT_ONCE = 10


class Runs(Protocol):
    """What of the runner is needed here."""

    async def submit(self, run: Run, inputs: tuple[Message, ...], otids: tuple[str, ...], *, wait: bool) -> Any: ...

    async def outcome(self, run_id: str) -> list[Event]: ...

    async def cancel(self, run_id: str) -> str: ...

    def aside(self, run_id: str) -> AbstractContextManager[None]: ...


StandIn = Callable[[str, str], Awaitable[str]]
"""(rollout id, agent id) -> the copy that a rollout reaches instead of the agent. NotFound."""


class RunPeers:
    """The other agents as one run reaches them. Implements `tools.base.Peers`."""

    def __init__(
        self,
        runs: Runs,
        store: Store,
        contexts: Contexts,
        run: Run,
        bundle: AgentBundle,
        *,
        max_depth: int,
        stand_in: StandIn | None = None,
    ) -> None:
        self._runs = runs
        self._store = store
        self._contexts = contexts
        self._run = run
        self._agent = agent = bundle.agent
        self._group = bundle.group
        self._max_depth = max_depth
        before = run.metadata or {}
        self._rollout_id: str | None = agent.metadata.get("rollout_id") if shown_as(agent) is not None else None
        self._stand_in = stand_in
        self._discussion = Discussion(agent.name)
        self._callers = (*before.get("callers", ()), agent.id)
        self._known_as = shown_id(agent)
        self._waiting = (*before.get("waiting", ()), agent.id)

    async def ask(self, agent_id: str, message: str) -> PeerAnswer:
        place = await self._place(agent_id)
        self._check_not_waiting(place, agent_id)
        await self._check(place)
        return await self._answer(place, self._asking(message), agent_id)

    async def ask_tagged(
        self, message: str, match_all: Sequence[str], match_some: Sequence[str]
    ) -> Sequence[PeerAnswer]:
        self._check_depth()
        found = await self._store.read(
            lambda: agents_tagged(match_all, match_some, but=self._known_as, limit=MOST_ASKED + 1)
        )
        if len(found) > MOST_ASKED:
            raise ToolError(f"More than {MOST_ASKED} agents have these tags. Name tags that fewer have.")
        text = self._asking(message)
        return await together([lambda id=id: self._try(id, text) for id in found])

    async def tell(self, agent_id: str, message: str) -> None:
        place = await self._place(agent_id)
        if place == self._agent.id:
            raise ToolError("other_agent_id is your own id: name another agent.")
        await self._check(place)
        text = (
            f"[Incoming message from agent with ID '{self._known_as}' ({self._agent.name}), who does not wait for an "
            f"answer] {message}"
        )
        run, inputs = self._made(place, place, text, background=True)
        try:
            submitted = await self._runs.submit(run, inputs, (), wait=True)
        except AgentError as error:
            raise ToolError(f"Agent {agent_id} could not be reached: {error.message}") from error
        await submitted.durable

    async def ask_group(self, message: str) -> Sequence[PeerAnswer]:
        group = self._led()
        self._check_depth()
        names = await self._store.read(lambda: members(group.id))
        self._discussion.say(message)
        if group.manager_type == "round_robin":
            ids = list(names)
            turns = range(group.max_turns or len(ids)) if ids else range(0)
            return [await self._try_speak(group, ids[turn % len(ids)], names) for turn in turns]
        return await together([lambda id=id: self._try_speak(group, id, names) for id in names])

    async def ask_member(self, agent_id: str, message: str | None) -> PeerAnswer:
        group = self._led()
        self._check_depth()
        names = await self._store.read(lambda: members(group.id))
        if agent_id not in names:
            known = ", ".join(f"{id} ({name})" for id, name in names.items())
            raise ToolError(f"{agent_id!r} is no member of your group. Its members: {known or 'none'}.")
        self._discussion.check_open(group.max_turns or DISCUSSION_TURNS)
        if message is not None:
            self._discussion.say(message)
        elif self._discussion.empty:
            raise ToolError("message is missing: begin by telling the group what the discussion is about.")
        answer = await self._speak(group, agent_id, names)
        token = group.termination_token
        if token is not None and any(token in text for text in answer.said):
            self._discussion.over = f"{names[agent_id]} said {token}"
        return answer

    def _led(self) -> Group:
        if self._group is None or self._group.rests:
            raise ToolError("You lead no group that could be spoken to.")
        return self._group

    async def _try_speak(self, group: Group, agent_id: str, names: Mapping[str, str]) -> PeerAnswer:
        try:
            return await self._speak(group, agent_id, names)
        except ToolError as error:
            return PeerAnswer(agent_id=agent_id, error=error.message)

    async def _speak(self, group: Group, agent_id: str, names: Mapping[str, str]) -> PeerAnswer:
        """A member's turn, in its conversation of the group; in a new one where that is busy."""
        place = await self._place(agent_id)
        self._check_not_waiting(place, agent_id)
        text = self._discussion.news_for(agent_id)
        known = await self._store.read(lambda: conversation_in(group.id, place))
        try:
            if known is None:
                raise Conflict("The member has not spoken in this group yet.")
            answer = await self._outcome(*self._made(place, known, text, group_id=group.id), agent_id)
        except Conflict:
            new = await self._new_conversation(place, f"Group of {self._agent.name}", group_id=group.id)
            answer = await self._outcome(*self._made(place, new, text, group_id=group.id), agent_id)
        self._discussion.heard(agent_id, names[agent_id], answer.said)
        return answer

    async def _try(self, agent_id: str, text: str) -> PeerAnswer:
        try:
            place = await self._place(agent_id)
            self._check_not_waiting(place, agent_id)
            return await self._answer(place, text, agent_id)
        except ToolError as error:
            return PeerAnswer(agent_id=agent_id, error=error.message)

    def _asking(self, message: str) -> str:
        return (
            f"[Incoming message from agent with ID '{self._known_as}' ({self._agent.name}), who gets your answer as soon "
            f"as you have given it] {message}"
        )

    async def _place(self, agent_id: str) -> str:
        """Who a message to this agent goes to: in a rollout, the rollout's own copy of it."""
        if self._rollout_id is None or self._stand_in is None:
            return agent_id
        try:
            return await self._stand_in(self._rollout_id, agent_id)
        except NotFound:
            raise _unknown(agent_id) from None

    def _check_not_waiting(self, place: str, agent_id: str) -> None:
        if place == self._agent.id:
            raise ToolError("other_agent_id is your own id: name another agent.")
        if place in self._waiting:
            raise ToolError(
                f"Agent {agent_id} waits for your answer itself, so it cannot answer you now. Answer without asking it."
            )

    def _check_depth(self) -> None:
        if len(self._callers) > self._max_depth:
            raise ToolError(
                f"This message would go through more than {self._max_depth} agents, one reached by the other, which is "
                "the most this server allows (PERDURE_AGENT_DEPTH). Answer with what you have."
            )

    async def _check(self, agent_id: str) -> None:
        self._check_depth()
        try:
            await self._store.read(lambda: check_agent(agent_id))
        except NotFound:
            raise _unknown(agent_id) from None

    async def _answer(self, place: str, text: str, agent_id: str) -> PeerAnswer:
        """In the agent's own history; where that is busy, in a new conversation."""
        try:
            return await self._outcome(*self._made(place, place, text), agent_id)
        except Conflict:
            return await self._aside(place, text, agent_id)

    async def _aside(self, place: str, text: str, agent_id: str) -> PeerAnswer:
        conversation_id = await self._new_conversation(place, f"Asked by {self._agent.name} while busy")
        return await self._outcome(*self._made(place, conversation_id, text), agent_id)

    def _made(
        self, agent_id: str, conversation_id: str, text: str, *, background: bool = False, group_id: str | None = None
    ) -> tuple[Run, tuple[Message, ...]]:
        now = now_us()
        run = Run(
            id=new_id("run"),
            agent_id=agent_id,
            conversation_id=conversation_id,
            status="created",
            created_us=now,
            config=RunConfig(include_pings=False, background=background),
            background=background,
            metadata={
                "run_type": "agent_message",
                "parent_run_id": self._run.id,
                "callers": list(self._callers),
                "waiting": [] if background else list(self._waiting),
                **({"group_id": group_id} if group_id is not None else {}),
                **({"rollout_id": self._rollout_id} if self._rollout_id is not None else {}),
            },
        )
        message = Message(
            id=new_id("message"),
            role="system",
            created_us=now,
            content=(TextPart(text),),
            otid=new_otid(),
            sender_id=self._agent.id,
            group_id=group_id,
            agent_id=agent_id,
            conversation_id=conversation_id,
            run_id=run.id,
        )
        return run, (message,)

    async def _outcome(self, run: Run, inputs: tuple[Message, ...], agent_id: str) -> PeerAnswer:
        """What the run says, told as `agent_id`'s answer. Conflict if the conversation is busy, ToolError if the run fails.
        Cancelled itself, it cancels the run."""
        submitting = asyncio.ensure_future(self._runs.submit(run, inputs, (), wait=False))
        try:
            with self._runs.aside(self._run.id):
                await asyncio.shield(submitting)
                events = await self._runs.outcome(run.id)
        except asyncio.CancelledError:
            await shielded(self._call_off(submitting, run.id))
            raise
        except Conflict:
            raise
        except AgentError as error:
            raise ToolError(f"Agent {agent_id} could not be reached: {error.message}") from error
        return _answer_in(events, run, agent_id)

    async def _call_off(self, submitting: "asyncio.Future[Any]", run_id: str) -> None:
        await asyncio.wait([submitting])
        if submitting.exception() is None:
            await self._runs.cancel(run_id)

    async def _new_conversation(self, agent_id: str, summary: str, *, group_id: str | None = None) -> str:
        bundle = await self._store.read(lambda: agent_bundle(agent_id))
        now = now_us()
        conversation = Conversation(
            id=new_id("conv"), agent_id=agent_id, summary=summary, created_us=now, updated_us=now
        )
        text = await self._contexts.compile(bundle, conversation.id)
        system = system_message(text, agent_id, conversation.id)

        def tx() -> Tx[None]:
            yield from check_agent(agent_id)
            yield from create_conversation(conversation, system, bundle.agent.revision)
            if group_id is not None:
                yield from add_conversation(group_id, agent_id, conversation.id)

        await self._store.write(tx)
        return conversation.id


async def together(asked: Sequence[Callable[[], Awaitable[PeerAnswer]]]) -> list[PeerAnswer]:
    """All answers, in order; at most ASKED_AT_ONCE questions are open at a time."""
    free = asyncio.Semaphore(ASKED_AT_ONCE)

    async def one(ask: Callable[[], Awaitable[PeerAnswer]]) -> PeerAnswer:
        async with free:
            return await ask()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(ask)) for ask in asked]
    return [task.result() for task in tasks]


def _unknown(agent_id: str) -> ToolError:
    return ToolError(f"There is no agent {agent_id!r}. An agent's id is agent-... with a UUID.")


def _answer_in(events: Sequence[Event], run: Run, agent_id: str) -> PeerAnswer:
    stop: str | None = None
    said: list[str] = []
    for event in events:
        if isinstance(event, RunFailed):
            raise ToolError(f"Agent {agent_id} did not answer: {event.message} (run {run.id})")
        if isinstance(event, RunStopped):
            stop = event.reason
        if isinstance(event, Said):
            said.extend(_spoken(event, run.config))
    if stop == "requires_approval":
        raise ToolError(f"Agent {agent_id} waits for a person's approval before it can answer (run {run.id}).")
    if stop is None or stop == "cancelled":
        raise ToolError(f"Agent {agent_id} did not answer: its run {run.id} was cancelled.")
    return PeerAnswer(agent_id=agent_id, said=tuple(said))


def _spoken(event: Said, config: RunConfig) -> list[str]:
    """What was said to the sender: plain text, or by the tool that older agents speak with."""
    said = [event.text] if event.text else []
    for call in event.tool_calls:
        if call.name != config.assistant_message_tool_name:
            continue
        try:
            said.append(str(msgspec.json.decode(call.arguments)[config.assistant_message_tool_kwarg]))
        except (msgspec.DecodeError, KeyError, TypeError):
            continue  # the tool refused the call, and the agent went on
    return said
