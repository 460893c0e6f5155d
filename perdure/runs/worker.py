"""Drives one run: the loop's steps, each committed under the lease, then published. How a run ends is decided here, once.

The last events of a step are published after its commit; a worker whose lease is gone writes and publishes nothing more.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

import msgspec

from perdure.core.agents import Block
from perdure.core.approvals import Pending
from perdure.core.archives import Passage
from perdure.core.begun import Begun
from perdure.core.conversations import bundle_in
from perdure.core.errors import AgentError, ProviderError, StaleBlock, StaleGroup
from perdure.core.events import Event, RunStarted
from perdure.core.ids import now_us
from perdure.core.messages import Message
from perdure.core.runs import COMPLETED, Run, StopReason
from perdure.core.traces import TraceBase, kept
from perdure.loop.compaction import CompactionDue, RunEnding, run_compacting
from perdure.loop.loop import committed, redo_tools
from perdure.loop.summarise import Attempt
from perdure.loop.turn import StepResult, Turn
from perdure.memory.blocks import BlockEdit, applied
from perdure.providers.token_exact import extend, note_summary
from perdure.runs.compact import Compactor
from perdure.runs.context import Context
from perdure.runs.held import HeldEvents, OnCommit
from perdure.runs.journal import StepJournal
from perdure.runs.log import RunLog
from perdure.runs.outgoing import Outgoing
from perdure.runs.recorded import recorded
from perdure.runs.rest import Rest, next_rest
from perdure.runs.shielding import shielded
from perdure.runs.tally import Tally, exchange_of
from perdure.runs.unfinished import Unfinished, unanswered, unfinished_step
from perdure.store import agents
from perdure.store.approvals import Admission
from perdure.store.base import Store, Tx
from perdure.store.commits import BlockWrite, StepCommit, commit_step
from perdure.store.compaction import NewContext
from perdure.store.private_blocks import private_blocks
from perdure.store.runs import Lease
from perdure.tools.base import PassageInsert
from perdure.tools.builtin import EDITS
from perdure.tools.executor import Executor

log = logging.getLogger(__name__)

Observer = Callable[[Run, StepCommit], None]
MAX_STALE_RETRIES = 100  # each means that another conversation's edit was committed, so there is always progress


class Worker:
    """One run being driven. `cancel()` may come from anywhere, at any time.

    `admitted`: what was taken in of its submission. However the run ends, the calls it has to answer are answered.
    `journal`: the calls under way. `begun`: those that an earlier worker left, until the loop has taken them up.
    """

    def __init__(
        self,
        store: Store,
        run: Run,
        lease: Lease,
        runlog: RunLog,
        *,
        trace_limit: int,
        on_commit: OnCommit = lambda _run_id, _chunk: None,
        on_queued: Callable[[str], None] = lambda _: None,
        observers: Sequence[Observer] = (),
        admitted: Admission = Admission(),
        approval_expiry_us: int | None = None,
    ) -> None:
        self._store = store
        self._on_commit = on_commit
        self._on_queued = on_queued
        self._rest: Rest | None = None
        self._observers = observers
        self.run = run
        self.lease = lease
        self.log = runlog
        self._trace_limit = trace_limit
        self._approval_expiry_us = approval_expiry_us
        self._answering = admitted.answering
        self._later = admitted.later
        self._tally = Tally(run)
        held = HeldEvents(store, lease, runlog, on_saved=on_commit) if run.background else None
        self._out = Outgoing(runlog, held)
        self.journal = StepJournal(store, lease, before=self._out.flush)
        self._begun: Begun | None = None
        self._turn: Turn | None = None
        self._storing: list[Awaitable[object]] = []
        self._trace_base: TraceBase | None = None

    @property
    def model(self) -> tuple[str, str] | None:
        """(provider, model's name there) that the run is driven with."""
        return (self._turn.provider_name, self._turn.model_name) if self._turn is not None else None

    @property
    def step_count(self) -> int:
        """How many steps of the run are committed."""
        return self._tally.step_count

    def begin(self) -> None:
        """The first event; a resumed run has it already."""
        if self.log.last_seq == 0 and self.run.config.include_pings:
            self.log.append([RunStarted(self.run.id, self.run.created_us)])

    def take_up(self, begun: Begun | None) -> None:
        """The step that an earlier worker of the run was in the middle of, if there is one."""
        self._begun = begun
        self.journal.open = begun is not None

    async def drive(self, turn: Turn, context: Context, executor: Executor, compactor: Compactor) -> None:
        """Run the loop to its end. Raises LeaseLost; every other failure ends the run and is on record."""
        self._turn, turn.journal, turn.interrupted = turn, self.journal, self._begun
        self._storing = context.storing
        executor.journal = self.journal
        async with aclosing(run_compacting(turn)) as items:
            async for item in items:
                if isinstance(item, StepResult):
                    # cut in two by a cancellation, the next commit would write the same again
                    await shielded(self._commit(turn, context, executor, item))
                elif isinstance(item, CompactionDue):
                    await compactor.compact(self, turn, context, executor, item)
                elif isinstance(item, RunEnding):
                    await shielded(self.end_now(context, item.stop))
                else:
                    self._tally.first_output()
                    self.show(item)

    def show(self, events: Sequence[Event]) -> None:
        """What happens before the step it belongs to is committed."""
        self._out.show(events)

    async def compact_only(self, turn: Turn, context: Context, executor: Executor, compactor: Compactor) -> None:
        """A run that somebody asked for to compact the conversation. It may have done so before it was interrupted."""
        self._storing = context.storing
        due = CompactionDue(trigger="manual")
        if not any(message.role == "summary" and message.run_id == self.run.id for message in turn.context):
            await compactor.compact(self, turn, context, executor, due)
        if due.error is None:
            await self.finish_early("end_turn", None)
        else:
            await self.finish_early("llm_api_error" if isinstance(due.error, ProviderError) else "error", due.error)

    async def _commit(self, turn: Turn, context: Context, executor: Executor, result: StepResult) -> None:
        self._tally.count(turn, result)
        await self._out.take_held()
        if self.journal.open:
            await self.journal.at_rest()
        for _ in range(MAX_STALE_RETRIES):
            self._rest = await self._rest_after(context, result.stop, result.messages)
            commit = self._step_commit(context, result)
            try:
                await self._write(commit)
            except StaleGroup:
                continue  # another conversation's turn was counted meanwhile
            except StaleBlock:
                executor.blocks = await self._fresh_blocks(context)
                result = await redo_tools(turn, result, _memory_calls(result))
            else:
                break
        else:
            raise AgentError("A memory block keeps being changed by others while this agent edits it. Send again.")
        self._after_commit(turn, context, executor, result)
        for queued in commit.queued:
            self._on_queued(queued.run.conversation_id)

    async def end_now(self, context: Context, stop: StopReason) -> None:
        """End a run whose last step is committed already."""
        for _ in range(MAX_STALE_RETRIES):
            self._rest = rest = await self._rest_after(context, stop, ())
            try:
                await self.finish_early(stop, None, rest=rest)
            except StaleGroup:
                continue  # another conversation's turn was counted meanwhile
            for queued in rest.runs if rest is not None else ():
                self._on_queued(queued.run.conversation_id)
            return
        raise AgentError("The turns of this agent's group keep being counted by others. Send again.")

    async def _rest_after(self, context: Context, stop: StopReason | None, said: Sequence[Message]) -> Rest | None:
        """What the end of this turn means to the agent's sleeptime group, if it has one. `said`: not stored yet."""
        group = context.bundle.group
        if group is None or not group.rests or stop not in COMPLETED or stop == "requires_approval":
            return None
        agent = context.bundle.agent
        # the run's input may not be committed yet, so a reader would not see it
        looked = self._store.begin_write(lambda: next_rest(group, agent, self.run.id, said), lazy=True)
        return await looked.executed

    async def _write(self, commit: StepCommit) -> None:
        while self._storing:  # the prompt that the step was made with
            await self._storing.pop(0)
        attempts = 0

        def tx() -> Tx[None]:
            nonlocal attempts
            attempts += 1
            return commit_step(commit, again=attempts > 1)

        await self._store.write(tx, repeatable=True, quick=not commit.large)
        self._on_commit(self.run.id, commit.events)
        for observer in self._observers:
            try:
                observer(self.run, commit)
            except Exception:  # whoever looks on must not be able to end a run
                log.exception("an observer of run %s failed", self.run.id)

    def _step_commit(self, context: Context, result: StepResult) -> StepCommit:
        now = now_us()
        last = self._last_events(result.stop, result.error) if result.stop is not None else ()
        effects = result.outcome.effects if result.outcome else ()
        step = None if result.resumed else result.step
        exchange = exchange_of(result) if step is not None else None
        request, self._trace_base = None, context.trace_base
        if exchange is not None:
            request, self._trace_base = kept(exchange.request, self._trace_limit, context.trace_base, now)
        return StepCommit(
            lease=self.lease,
            agent_id=self.run.agent_id,
            now=now,
            usage=self._tally.usage,
            step_count=self._tally.step_count,
            messages=result.messages,
            parked=self._parked(result.parked, now) if result.parked is not None else None,
            settled=result.resumed,
            begun=self.journal.open,
            step=step,
            events=self._out.staged([*result.events, *last]),
            context_tokens=self._tally.context_tokens,
            ttft_ns=self._tally.ttft_ns,
            **recorded(result.done.capture if result.done else None, exchange, self._trace_limit, request),
            blocks=tuple(
                BlockWrite(effect.kind, effect.block, effect.base_version)
                for effect in effects
                if not isinstance(effect, PassageInsert)
            ),
            passages=tuple(
                Passage(id=effect.id, text=effect.text, tags=effect.tags, created_us=effect.created_us or 0)
                for effect in effects
                if isinstance(effect, PassageInsert)
            ),
            isolated=context.own.isolated,
            turn=self._rest.turn if self._rest else None,
            queued=self._rest.runs if self._rest else (),
            end=self._tally.run_end(result.stop, result.error, now) if result.stop is not None else None,
        )

    def _parked(self, pending: Pending, now: int) -> Pending:
        expiry = self._approval_expiry_us
        return msgspec.structs.replace(pending, at_us=now, expires_us=None if expiry is None else now + expiry)

    def _last_events(self, stop: StopReason, error: AgentError | None) -> list[Event]:
        begun = tuple(queued.run.id for queued in self._rest.runs) or None if self._rest else None
        return self._tally.last_events(stop, error, begun)

    def _after_commit(self, turn: Turn, context: Context, executor: Executor, result: StepResult) -> None:
        committed(turn, result)
        self._begun, self.journal.open = None, False
        context.trace_base = self._trace_base  # which is stored now
        if result.resumed:
            self._answering, self._later, context.answer = None, (), None
        done = result.done
        if done is not None and done.capture is not None and context.tokens is not None:
            extend(context.tokens, done.capture)
        if result.outcome is not None and result.outcome.effects:
            edits = [effect for effect in result.outcome.effects if isinstance(effect, BlockEdit)]
            executor.blocks = applied(executor.blocks, edits)
            if context.seen_blocks is not None:
                context.seen_blocks = {label: block.value for label, block in executor.blocks.items()}
        self._out.committed()

    async def commit_attempt(
        self,
        context: Context,
        attempt: Attempt,
        *,
        message: Message | None = None,
        new: NewContext | None = None,
        events: Sequence[Event] = (),
    ) -> None:
        """Put a call for a summary on record; with `new`, the summary `message` and the context that it makes too."""
        done = attempt.done
        capture = done.capture if done is not None else None
        tokens, extends = context.tokens, attempt.extends and capture is not None
        cause = tokens.break_cause if tokens is not None and extends else None
        record = recorded(capture, done.exchange if done is not None else None, self._trace_limit)
        record["consumed_cause"] = f"{cause[0]}: {cause[1]}" if cause else None
        if not extends:  # written from a prompt of its own: the conversation stays in its segment
            record["segment_id"] = None
        if done is not None:
            self._tally.usage += done.usage
        if message is not None and message.compaction is not None:
            self._tally.context_tokens = message.compaction.tokens_after
        await self._out.take_held()
        commit = StepCommit(
            lease=self.lease,
            agent_id=self.run.agent_id,
            now=now_us(),
            usage=self._tally.usage,
            step_count=self._tally.step_count,
            messages=(message,) if message is not None else (),
            step=attempt.step,
            events=self._out.staged(events),
            context_tokens=self._tally.context_tokens,
            ttft_ns=self._tally.ttft_ns,
            context=new,
            **record,
        )
        await self._write(commit)
        if tokens is not None and capture is not None:
            note_summary(tokens, capture, extends=extends)
        if new is not None:
            context.version += 1
            if tokens is not None:
                tokens.break_cause = (new.cause, new.detail)
        self._out.committed()

    async def _fresh_blocks(self, context: Context) -> dict[str, Block]:
        bundle = await self._store.read(lambda: agents.agent_bundle(self.run.agent_id))
        private = (
            await self._store.read(lambda: private_blocks(context.conversation_id)) if context.own.isolated else ()
        )
        context.bundle = bundle = bundle_in(bundle, context.own, private)
        return {block.label: block for block in bundle.blocks}

    async def finish_early(
        self, stop: StopReason, error: AgentError | None, *, refused: bool = False, rest: Rest | None = None
    ) -> None:
        """End a run that cannot go on: failed before or between steps, or cancelled. LeaseLost if it is not ours.

        `refused`: it was not let in by what its conversation waits for.
        """
        await self._out.take_held()
        await self.journal.at_rest()
        now = now_us()
        rest_of = self._unfinished(stop, now)
        done = rest_of.done
        if rest_of.step is not None:
            self._tally.count_unfinished(done)
        commit = StepCommit(
            lease=self.lease,
            agent_id=self.run.agent_id,
            now=now,
            usage=self._tally.usage,
            step_count=self._tally.step_count,
            messages=rest_of.messages,
            settled=self._answering is not None,
            begun=self.journal.open,
            step=rest_of.step,
            events=self._out.staged([*rest_of.events, *self._last_events(stop, error)]),
            context_tokens=self._tally.context_tokens,
            ttft_ns=self._tally.ttft_ns,
            **recorded(done.capture if done else None, done.exchange if done else None, self._trace_limit),
            turn=rest.turn if rest else None,
            queued=rest.runs if rest else (),
            end=msgspec.structs.replace(self._tally.run_end(stop, error, now), refused=refused),
        )
        await self._write(commit)
        self.journal.open = False
        self._out.committed()

    def _unfinished(self, stop: StopReason, now: int) -> Unfinished:
        turn, begun = self._turn, self._begun
        if turn is not None and turn.begun is not None:
            begun = turn.begun
            begun = msgspec.structs.replace(begun, returns={**begun.returns, **turn.executor.returned})
        if self._answering is not None:
            return unanswered(self._answering, self._later, self.run, begun, now)
        return unfinished_step(self.run, turn, begun, stop, self._out.so_far())


def _memory_calls(result: StepResult) -> set[str]:
    """The calls to run again when a block changed under them: every one that edits memory, as the edits of a step build on
    each other."""
    assert result.outcome is not None
    again = {*EDITS, "archival_memory_insert"}
    return {answer.tool_call_id for answer in result.outcome.returns if answer.name in again}
