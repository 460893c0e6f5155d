"""Compacts a conversation in the middle of its run: sizes, cut, summary, and one commit that replaces the context.

Invariant: the context changes only together with a committed summary, under the run's lease. Whatever fails before that leaves
it as it was, and is on record as a failed step.
"""

import logging
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from perdure.core.agents import CompactionMode, CompactionSettings
from perdure.core.errors import AgentError, Invalid, ProviderError
from perdure.core.events import CompactionStarted, Summarised
from perdure.core.ids import new_id, now_us
from perdure.core.messages import CompactionStats, Evicted, Message
from perdure.loop.compaction import FULL, CompactionDue
from perdure.loop.cuts import Room, Sizes, cut_at, cut_of_all, message_length, room_in, worth_it
from perdure.loop.offer import system_text
from perdure.loop.parking import called_before, remembered
from perdure.loop.pins import apart, pinned_positions, spans, staying
from perdure.loop.sizes import counted_context, fixed_length, sizes_of
from perdure.loop.summarise import CHARS_PER_TOKEN, Assignment, Attempt, attempt_summary
from perdure.loop.turn import Turn
from perdure.memory.summary import clipped, framed, summary_of
from perdure.providers.base import CountsTokens
from perdure.providers.registry import Registry
from perdure.runs.context import Context, Contexts
from perdure.runs.shielding import shielded
from perdure.runs.summarizers import summarizers
from perdure.store.compaction import NewContext

if TYPE_CHECKING:
    from perdure.runs.worker import Worker
    from perdure.tools.executor import Executor

log = logging.getLogger(__name__)

LEAST_GAIN = 0.05
_CHAINS: dict[CompactionMode, tuple[CompactionMode, ...]] = {
    "self_compact_all": ("self_compact_all", "self_compact_sliding_window", "all"),
    "self_compact_sliding_window": ("self_compact_sliding_window", "all"),
    "sliding_window": ("sliding_window", "all"),
    "all": ("all",),
}


class Case(Struct, frozen=True, kw_only=True):
    """One compaction as it presents itself. `window`: in tokens; `tokens`: what the context takes, where known."""

    turn: Turn
    due: CompactionDue
    settings: CompactionSettings
    window: int
    tokens: int | None
    sizes: Sizes
    room: Room


class Written(Struct, frozen=True):
    """A summary of the first `cut` messages, and the call that wrote it."""

    summary: str
    cut: int
    attempt: Attempt


class Compactor:
    def __init__(self, registry: Registry, contexts: Contexts) -> None:
        self._registry = registry
        self._contexts = contexts

    async def compact(
        self, worker: "Worker", turn: Turn, context: Context, executor: "Executor", due: CompactionDue
    ) -> None:
        """Answers in `due`. Raises LeaseLost; every other failure is `due.error`."""
        case = await case_of(turn, due)
        assignments = list(assignments_of(case))
        if not assignments:
            due.error = nothing_left(case) if due.needed or due.trigger == "manual" else None
            return
        if due.trigger.endswith("_check") and not gains(case, assignments[0].cut):
            return
        worker.show([CompactionStarted(str(uuid.uuid4()), due.trigger, case.tokens, case.window, now_us())])
        written = await self._write(worker, context, case, assignments)
        if written is not None:
            await self._replace(worker, context, executor, case, written)
            due.done, due.error = True, None

    async def _write(
        self, worker: "Worker", context: Context, case: Case, assignments: list[Assignment]
    ) -> Written | None:
        """The first summary that succeeds, every attempt on record; None, with `due.error` set, when none does."""
        unusable: set[str] = set()
        for assignment in assignments:
            for summarizer in await summarizers(self._registry, case.turn, case.settings, assignment.mode):
                if summarizer.handle in unusable:
                    continue
                attempt = await attempt_summary(case.turn, summarizer, assignment)
                if attempt.summary is not None:
                    return Written(attempt.summary, assignment.cut, attempt)
                assert attempt.error is not None
                log.warning("run %s: no summary by %s: %s", worker.run.id, summarizer.handle, attempt.error.message)
                await worker.commit_attempt(context, attempt)
                case.due.error = _why_not(attempt.error)
                if not _size_was_wrong(attempt.error):
                    unusable.add(summarizer.handle)
        return None

    async def _replace(
        self, worker: "Worker", context: Context, executor: "Executor", case: Case, written: Written
    ) -> None:
        """Commit the summary with the context and the freshly compiled prompt it makes, and work on with them."""
        turn = case.turn
        system, bundle, private = await self._contexts.compiled_anew(context)
        shown = system_text(system.text, turn.run.config)
        pinned, kept = staying(turn.context, case.sizes, written.cut), turn.context[written.cut :]
        message = await summary_message(case, written, shown)
        assert message.compaction is not None
        new = NewContext(
            system=system,
            summary_id=message.id,
            kept_from=kept[0].id if kept else None,
            pinned=spans(turn.context, case.sizes, written.cut),
            compiled_revision=bundle.agent.revision,
            cause="compaction",
            detail=f"{written.cut - len(pinned)} of {len(turn.context)} messages were summarised",
        )
        summarised = Summarised(
            message_id=message.id,
            step_id=message.step_id,
            at_us=message.created_us,
            summary=summary_of(message),
            stats=message.compaction,
        )
        # cut in two by a cancellation, what is in memory would not be what is stored
        await shielded(worker.commit_attempt(context, written.attempt, message=message, new=new, events=(summarised,)))
        context.messages = turn.context = [message, *pinned, *kept]
        context.system = turn.system = system
        turn.system_text = shown
        context.bundle, context.private, context.seen_blocks = bundle, private, None
        executor.blocks = {block.label: block for block in bundle.blocks}
        if bundle.agent.memory_rendering == "append":
            self._contexts.remember_blocks(context)


async def case_of(turn: Turn, due: CompactionDue) -> Case:
    window = turn.window or max(due.tokens or 0, turn.agent.context_window)
    # a refused prompt was at least as long as the window
    at_least = window if due.trigger == "context_window_exceeded" else None
    asked, own = turn.run.config.compaction, turn.agent.compaction_settings
    settings = asked or own or CompactionSettings()
    pins = {pin for each in (asked, own) if each is not None for pin in each.pinned_message_ids}
    sizes = apart(await sizes_of(turn, due.tokens or at_least), pinned_positions(turn.context, pins))
    room = room_in(window, sizes.fixed, settings.sliding_window_percentage)
    if due.attempt:
        # the last summary did not make it fit: less of everything
        shorter = max(16, room.summary >> (2 * due.attempt))
        room = Room(tail=room.tail / 2**due.attempt, most=room.most / 2**due.attempt, summary=shorter)
    tokens = due.tokens if due.tokens is not None or sizes.basis != "counted" else round(sizes.total)
    return Case(turn=turn, due=due, settings=settings, window=window, tokens=tokens, sizes=sizes, room=room)


def assignments_of(case: Case) -> Iterator[Assignment]:
    """The ways to go about it, the settings' own first; a step tried again begins further down."""
    context, sizes, room = case.turn.context, case.sizes, case.room
    chain = _CHAINS[case.settings.mode]
    for mode in chain[min(case.due.attempt, len(chain) - 1) :]:
        if mode in ("all", "self_compact_all"):
            cut = cut_of_all(context)
        else:
            cut = cut_at(context, sizes, case.settings.sliding_window_percentage, room)
        least = 2 if case.due.trigger == "manual" else 1
        if cut >= least and worth_it(context, sizes, cut, room):
            yield Assignment(mode=mode, cut=cut, tokens=room.summary, settings=case.settings)


def gains(case: Case, cut: int) -> bool:
    """Whether a compaction that nothing forces is worth its call: it must not come back after every step."""
    begins_with_summary = case.turn.context[0].role == "summary"
    if case.sizes.basis == "unknown" or (case.sizes.basis == "shared" and not begins_with_summary):
        return True
    return sum(case.sizes.each[:cut]) - case.room.summary >= LEAST_GAIN * case.window


async def summary_message(case: Case, written: Written, system_text: str) -> Message:
    """The message that stands for what was cut off, clipped to the room there is, with its statistics."""
    turn, cut = case.turn, written.cut
    pinned, kept = staying(turn.context, case.sizes, cut), turn.context[cut:]
    taken = case.sizes.fixed + sum(case.sizes.each[written.cut :])
    most = max(16, min(4 * case.room.summary, round(FULL * case.window - taken)))
    summary = clipped(within(written.summary, most, turn), case.settings.clip_chars)
    stats = CompactionStats(
        trigger=case.due.trigger,
        context_window=case.window,
        messages_before=1 + len(turn.context),
        messages_after=2 + len(pinned) + len(kept),
        tokens_before=case.tokens,
    )
    message = Message(
        id=new_id("message"),
        role="summary",
        created_us=now_us(),
        content=framed(summary, stats),
        agent_id=turn.agent.id,
        conversation_id=turn.run.conversation_id,
        run_id=turn.run.id,
        step_id=written.attempt.step.id,
        model=written.attempt.step.model_handle,
        evicted=Evicted(
            called=remembered(called_before(turn.context[:cut], turn.run.id)),
            pinned=tuple(each.id for each in pinned),
        ),
    )
    after = await tokens_after(case, system_text, [message, *pinned, *kept])
    return msgspec.structs.replace(message, compaction=msgspec.structs.replace(stats, tokens_after=after))


def within(summary: str, most: int, turn: Turn) -> str:
    """The summary, cut to about `most` tokens: counted where the model's tokenizer is known."""
    if not isinstance(turn.model, CountsTokens):
        return clipped(summary, int(most * CHARS_PER_TOKEN))
    while (tokens := turn.model.count_text(summary)) > most and len(summary) > 16:
        summary = clipped(summary, max(16, int(len(summary) * most / tokens * 0.97)))
    return summary


async def tokens_after(case: Case, system_text: str, messages: list[Message]) -> int | None:
    """Counted; else the share of the provider's own count that the new context has by its length; else unknown."""
    counted = await counted_context(case.turn, system_text, messages)
    if counted is not None:
        return counted.total
    if case.tokens is None:
        return None
    turn = case.turn
    before = fixed_length(turn.system_text, turn.specs) + sum(map(message_length, turn.context))
    after = fixed_length(system_text, turn.specs) + sum(map(message_length, messages))
    return round(case.tokens * after / max(before, 1))


def nothing_left(case: Case) -> AgentError | None:
    """Why a context that does not fit cannot be made smaller; None where only the provider knows."""
    fixed, said = round(case.sizes.fixed), round(sum(case.sizes.each))
    if case.due.trigger == "manual":
        return Invalid("The conversation was not compacted: a summary would not leave fewer messages than there are.")
    if case.sizes.basis == "unknown":
        return None
    if fixed >= said and case.sizes.pinned:
        return ProviderError(
            f"The system prompt and the {len(case.sizes.pinned)} pinned messages take about {fixed} tokens, too many for the "
            f"context window of {case.window}. Take ids out of compaction_settings.pinned_message_ids, shorten the system "
            f"prompt or memory blocks, or raise context_window_limit.",
            kind="context_window_exceeded",
        )
    if fixed >= said:
        return ProviderError(
            f"The system prompt with its memory and tools takes about {fixed} tokens, too many for the context window of "
            f"{case.window}. Shorten the system prompt or memory blocks, detach tools, or raise context_window_limit.",
            kind="context_window_overflow_in_system_prompt",
        )
    return ProviderError(
        f"The newest messages take about {said} tokens, which do not fit the context window of {case.window} beside the system "
        f"prompt's {fixed}, and nothing before them is left to summarise. Send less at once, or raise context_window_limit.",
        kind="context_window_exceeded",
    )


def _why_not(error: AgentError) -> AgentError:
    message = f"The conversation has outgrown its context window and could not be summarised: {error.message}"
    if not isinstance(error, ProviderError):
        return AgentError(message)
    return ProviderError(message, kind=error.kind, status=error.status, detail=error.detail)


def _size_was_wrong(error: AgentError) -> bool:
    """Another part of the conversation may succeed with the same model."""
    return isinstance(error, ProviderError) and error.kind in ("context_window_exceeded", "llm_empty_response")
