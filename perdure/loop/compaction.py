"""The loop with an eye on the window: when a conversation has to be compacted, and what happens to the run around it.

Nothing is decided by a guess: a compaction is due when the provider refuses the prompt, when the model knows its prompt's exact
length beforehand, or when the tokens it reports after a step fill most of the window. The compaction itself is the caller's.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec import Struct

from perdure.core.errors import AgentError, PromptTooLong, ProviderError
from perdure.core.events import Event
from perdure.core.runs import StopReason
from perdure.loop.loop import run_loop
from perdure.loop.turn import StepResult, Turn

MAX_RETRIES = 3
FULL = 0.9

Trigger = Literal["context_window_exceeded", "pre_step_context_check", "post_step_context_check", "manual"]
_GOES_ON_TO_END: frozenset[StopReason] = frozenset({"end_turn", "tool_rule", "max_steps", "max_tokens_exceeded"})


@dataclass(slots=True, kw_only=True)
class CompactionDue:
    """Asks the caller to compact the turn's context before it goes on. `tokens`: what the context took, where known.

    The answer: `done`, or `error` with why not; neither: there was nothing to gain. `attempt`: how often this step has been
    tried again already.
    """

    trigger: Trigger
    tokens: int | None = None
    attempt: int = 0
    done: bool = False
    error: AgentError | None = None

    @property
    def needed(self) -> bool:
        """The run cannot go on without it."""
        return self.trigger == "context_window_exceeded"


class RunEnding(Struct, frozen=True):
    """The run ends, with nothing more to store: its last step is committed already."""

    stop: StopReason


LoopItem = Sequence[Event] | StepResult | CompactionDue | RunEnding


async def run_compacting(turn: Turn) -> AsyncGenerator[LoopItem]:
    """`run_loop`, with compactions before a step that does not fit and after one that filled the window."""
    attempt, begun, again = turn.attempts, False, True
    turn.compact_at = compact_at(turn)
    while again:
        again = False
        async with aclosing(run_loop(turn, again=begun)) as items:
            begun = True
            async for item in items:
                if not isinstance(item, StepResult):
                    yield item
                    continue
                due = refused(item, attempt)
                if due is not None:
                    yield due
                    attempt += 1
                    turn.compact_at = None
                    if due.done or not due.needed:
                        again = True
                        break
                    item = given_up(item, due)
                else:
                    attempt = 0
                    turn.compact_at = compact_at(turn)
                async for after in _committed_and_checked(turn, item):
                    yield after
                if item.stop is not None:
                    return


async def _committed_and_checked(turn: Turn, result: StepResult) -> AsyncGenerator[LoopItem]:
    """The step; after it a compaction, if it filled the window. A last step is stored before, and the run ends after it."""
    tokens = filled(turn, result)
    if tokens is None:
        yield result
        return
    yield msgspec.structs.replace(result, stop=None)
    yield CompactionDue(trigger="post_step_context_check", tokens=tokens)
    if result.stop is not None:
        yield RunEnding(result.stop)


def compact_at(turn: Turn) -> int | None:
    return None if turn.window is None else int(FULL * turn.window)


def refused(result: StepResult, attempt: int) -> CompactionDue | None:
    """A step that ended because its prompt was too long, if it may be tried again."""
    error = result.error
    if not isinstance(error, ProviderError) or error.kind != "context_window_exceeded" or attempt >= MAX_RETRIES:
        return None
    if isinstance(error, PromptTooLong):
        trigger = "pre_step_context_check" if error.fits else "context_window_exceeded"
        return CompactionDue(trigger=trigger, tokens=error.prompt_tokens, attempt=attempt)
    return CompactionDue(trigger="context_window_exceeded", attempt=attempt)


def given_up(result: StepResult, due: CompactionDue) -> StepResult:
    """A step whose context could not be made to fit: its error says why not."""
    error = due.error
    if error is None:
        return result
    kind = error.kind if isinstance(error, ProviderError) else "internal_error"
    stop: StopReason = "llm_api_error" if isinstance(error, ProviderError) else "error"
    if kind == "context_window_overflow_in_system_prompt":
        stop = kind
    said = {"message": error.message, "detail": getattr(error, "detail", None)}
    step = msgspec.structs.replace(result.step, stop_reason=stop, error_type=kind, error_data=said)
    return msgspec.structs.replace(result, step=step, stop=stop, error=error)


def filled(turn: Turn, result: StepResult) -> int | None:
    """The tokens in context after a step, if they are more than FULL of the window.

    What the provider counted, prompt and answer, without the thinking that the next prompt will not show again.
    """
    done = result.done
    if done is None or turn.window is None or (result.stop is not None and result.stop not in _GOES_ON_TO_END):
        return None
    usage = done.usage
    tokens = usage.prompt_tokens + usage.completion_tokens
    if done.capture is None or turn.agent.thinking_retention != "all":
        tokens -= min(usage.reasoning_tokens or 0, usage.completion_tokens)
    return tokens if tokens > FULL * turn.window else None
