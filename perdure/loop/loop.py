"""The agent loop: call the model, run the tools it asks for, again, until a stop reason.

Yields batches of events as they happen (token streams only) and one StepResult a step; the caller commits the step before it
asks for more. Until then nothing of the step is in `turn.context`, so a step that fails leaves no trace in it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec

from perdure.core.begun import Begun
from perdure.core.effects import ToolOutcome
from perdure.core.errors import AgentError, ProviderError
from perdure.core.events import Event
from perdure.core.expand import expand
from perdure.core.ids import new_id, now_us, trace_id_of
from perdure.core.messages import Message
from perdure.core.model import ModelDone, Prompt
from perdure.core.runs import Step, StopReason
from perdure.loop import rules, structured
from perdure.loop.answer import Answer
from perdure.loop.begun import run_calls
from perdure.loop.broken_off import CutOff
from perdure.loop.endings import ending, note
from perdure.loop.legacy_answer import LegacyAnswer
from perdure.loop.parking import answered, called_before, park, resume, text_of, waiting_calls
from perdure.loop.shown import shown
from perdure.loop.turn import StepResult, Turn
from perdure.loop.verdicts import refuses_last, verdicts_on


async def run_loop(turn: Turn, *, again: bool = False) -> AsyncGenerator[Sequence[Event] | StepResult]:
    """Drive a run from where it stands. Ends after a StepResult whose `stop` is set. `again`: after a step that was given up."""
    if not again:
        turn.called.extend(called_before(turn.context, turn.run.id))
    if turn.answer is not None or turn.interrupted is not None:
        result = await (resume(turn) if turn.answer is not None else _finish_interrupted(turn))
        yield result
        if result.stop is not None:
            return
    while True:
        async with aclosing(_step(turn)) as step:
            async for item in step:
                yield item
                if isinstance(item, StepResult) and item.stop is not None:
                    return


def committed(turn: Turn, result: StepResult) -> None:
    """Take a committed step into the context."""
    turn.context.extend(result.messages if result.context is None else result.context)
    turn.begun = None
    if result.resumed:
        turn.answer, turn.later = None, ()
    else:
        turn.step_count += 1
    if result.outcome is not None:
        turn.called.extend((answer.name, text_of(answer)) for answer in result.outcome.returns if answer.ran)


async def _step(turn: Turn) -> AsyncGenerator[Sequence[Event] | StepResult]:
    started_us, started_ns = now_us(), time.perf_counter_ns()
    step_id, message_id = new_id("step"), new_id("message")
    constraint = rules.allowed_tools(turn.agent.tool_rules, [spec.name for spec in turn.specs], turn.called)
    cut: list[ModelDone] = []
    prompt = _prompt(turn, constraint, step_id, message_id, cut.append)
    answer = _answer(turn, message_id, step_id, started_us)
    done: ModelDone | None = None
    first_ns: int | None = None
    error: AgentError | None = None
    try:
        async with aclosing(turn.model.stream(prompt, turn.tokens)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                if first_ns is None:
                    first_ns = time.perf_counter_ns() - started_ns
                if batch and isinstance(batch[-1], ModelDone):
                    done = batch[-1]
                    batch = batch[:-1]
                if events := answer.take(batch):  # type: ignore[arg-type]
                    yield events
        if last := answer.ended():
            yield last
        if done is None:
            raise ProviderError(f"The model's answer ended early ({turn.model_handle}). Send the message again.")
    except AgentError as failure:
        error = failure
    except asyncio.CancelledError:
        clock = _clock(turn, step_id, started_us, started_ns, first_ns, None)
        turn.cut_off = CutOff(step=clock, message_id=message_id, done=cut[0] if cut else None)
        raise
    clock = _clock(turn, step_id, started_us, started_ns, first_ns, done)
    if done is None:
        assert error is not None
        yield _failed(clock, error, started_ns)
        return
    message = answer.message(
        done,
        run_id=turn.run.id,
        agent_id=turn.agent.id,
        conversation_id=turn.run.conversation_id,
        model=turn.model_handle,
    )
    yield await finish_step(turn, clock, message, done, started_ns)


def _clock(
    turn: Turn, step_id: str, started_us: int, started_ns: int, first_ns: int | None, done: ModelDone | None
) -> Step:
    """The step, as far as its model call goes."""
    return Step(
        id=step_id,
        run_id=turn.run.id,
        trace_id=trace_id_of(turn.run.id),
        agent_id=turn.agent.id,
        conversation_id=turn.run.conversation_id,
        created_us=started_us,
        status="success",
        provider_name=turn.provider_name,
        model=(done.model if done else None) or turn.model_name,
        model_handle=turn.model_handle,
        model_endpoint=turn.endpoint,
        context_window=turn.agent.context_window,
        step_start_ns=started_us * 1000,
        llm_request_start_ns=started_us * 1000,
        llm_request_ns=time.perf_counter_ns() - started_ns,
        ttft_ns=first_ns,
    )


def _answer(turn: Turn, message_id: str, step_id: str, at_us: int) -> Answer:
    legacy = turn.legacy
    own: dict[str, Any] = {"deltas": turn.run.config.stream_tokens, "asks": turn.asks}
    if turn.asks and rules.constrains(turn.agent.tool_rules):
        own["refuses"] = partial(refuses_last, turn)
    if legacy is None:
        return Answer(message_id, step_id, at_us, one_call=not turn.agent.model_settings.parallel_tool_calls, **own)
    return LegacyAnswer(message_id, step_id, at_us, speech=legacy.speech, form_of=legacy.form_of, **own)


def _prompt(
    turn: Turn, constraint: rules.Allowed, step_id: str, message_id: str, on_cut_off: Callable[[ModelDone], None]
) -> Prompt:
    specs = turn.specs if constraint.all_tools else [spec for spec in turn.specs if spec.name in constraint.names]
    choice = "auto"
    if not specs:
        choice = "none"
    elif constraint.forced:
        choice = specs[0].name if len(specs) == 1 else "required"
    elif turn.legacy is not None:
        choice = "required"
    agent, config = turn.agent, turn.run.config
    return Prompt(
        model=turn.model_name,
        system=turn.system_text,
        messages=turn.context,
        tools=specs,
        shown_tools=turn.specs,
        tool_choice=choice,
        parallel_tool_calls=agent.model_settings.parallel_tool_calls and not rules.constrains(agent.tool_rules),
        settings=agent.model_settings,
        context_window=agent.context_window,
        model_handle=turn.model_handle,
        assistant_message_id=message_id,
        agent_id=agent.id,
        conversation_id=turn.run.conversation_id,
        run_id=turn.run.id,
        step_id=step_id,
        system_message_id=turn.system.id,
        thinking_retention=agent.thinking_retention,
        want_logprobs=config.return_logprobs,
        top_logprobs=config.top_logprobs,
        compact_at=turn.compact_at,
        affinity=str(turn.run.metadata.get("group_id", "")) if turn.run.metadata else "",
        on_cut_off=on_cut_off,
    )


async def _finish_interrupted(turn: Turn) -> StepResult:
    """The step that an earlier worker got the model's answer for, and had begun to run the calls of."""
    before = turn.interrupted
    assert before is not None and before.message is not None and before.done is not None
    return await finish_step(turn, before.step, before.message, before.done, time.perf_counter_ns())


async def finish_step(turn: Turn, clock: Step, message: Message, done: ModelDone, started_ns: int) -> StepResult:
    """Run the calls of a complete answer and say what the step comes to."""
    calls = message.tool_calls
    if not turn.agent.model_settings.parallel_tool_calls and len(calls) > 1:
        calls = calls[:1]
        message = msgspec.structs.replace(message, tool_calls=calls)
    verdicts = verdicts_on(turn, calls)
    if turn.asks and (waiting := waiting_calls(turn, calls, verdicts.refused)):
        clock = msgspec.structs.replace(clock, usage=done.usage, not_exact=done.not_exact, step_ns=_since(started_ns))
        return park(turn, clock, message, done, waiting, verdicts)
    outcome: ToolOutcome | None = None
    tools_ns: int | None = None
    if calls:
        tools_started = time.perf_counter_ns()
        outcome = await run_calls(turn, Begun(step=clock, message=message, done=done), calls, verdicts, {})
        tools_ns = time.perf_counter_ns() - tools_started
    if turn.legacy is None:
        stop, told = ending(turn, done, outcome, broken=verdicts.broken)
    else:
        stop, told = turn.legacy.ending(turn, done, calls, outcome, broken=verdicts.broken)
    messages = [message, *_after_answer(clock, message, outcome, told)]
    stop, correction, error = structured.verdict(turn, message, stop)
    if correction is not None:
        messages.append(correction)
    step = msgspec.structs.replace(
        clock,
        usage=done.usage,
        stop_reason=stop,
        not_exact=done.not_exact,
        tool_execution_ns=tools_ns,
        step_ns=_since(started_ns),
    )
    return StepResult(
        step=step if error is None else _with_error(step, error),
        messages=tuple(messages),
        events=_events(turn, messages),
        done=done,
        outcome=outcome,
        refused=verdicts.refused,
        prefilled=verdicts.prefilled,
        stop=stop,
        calls=calls,
        error=error,
    )


def _since(started_ns: int) -> int:
    return time.perf_counter_ns() - started_ns


async def redo_tools(turn: Turn, result: StepResult, stale: set[str]) -> StepResult:
    """Run a step's memory tools again on blocks that changed meanwhile; every other answer is kept."""
    assert result.outcome is not None
    keep = {answer.tool_call_id: answer for answer in result.outcome.returns if answer.tool_call_id not in stale}
    outcome = await turn.executor.execute(
        result.calls, refused=result.refused, prefilled=result.prefilled, step_id=result.step.id, keep=keep
    )
    if result.resumed:
        return answered(turn, msgspec.structs.replace(result, outcome=outcome))
    messages = tuple(
        msgspec.structs.replace(item, tool_returns=outcome.returns) if item.role == "tool" else item
        for item in result.messages
    )
    return msgspec.structs.replace(result, messages=messages, events=_events(turn, messages), outcome=outcome)


def _events(turn: Turn, messages: Sequence[Message]) -> tuple[Event, ...]:
    """What is published once the step is committed: whole messages, less the answer where its deltas were."""
    events: list[Event] = []
    for message in messages:
        if message.role == "user" or (turn.run.config.stream_tokens and message.role == "assistant"):
            continue
        events.extend(expand(message) if turn.legacy is None else shown(message, turn.legacy.speech))
    return tuple(events)


def _after_answer(step: Step, message: Message, outcome: ToolOutcome | None, told: str | None) -> list[Message]:
    """What follows the answer in the history: its tools' returns, and what the model is told."""
    common: dict[str, Any] = {
        "agent_id": message.agent_id,
        "conversation_id": message.conversation_id,
        "run_id": message.run_id,
        "step_id": step.id,
    }
    after: list[Message] = []
    if outcome is not None:
        after.append(
            Message(
                id=new_id("message"),
                role="tool",
                created_us=now_us(),
                tool_returns=outcome.returns,
                legacy=message.legacy,
                **common,
            )
        )
    if told is not None:
        after.append(note(told, **common))
    return after


def _failed(clock: Step, error: AgentError, started_ns: int) -> StepResult:
    kind = error.kind if isinstance(error, ProviderError) else "internal_error"
    stop: StopReason = "llm_api_error" if isinstance(error, ProviderError) else "error"
    if kind == "llm_insufficient_credits":
        stop = "insufficient_credits"
    elif kind == "llm_empty_response":
        stop = "invalid_llm_response"
    step = msgspec.structs.replace(clock, stop_reason=stop, step_ns=_since(started_ns))
    return StepResult(step=_with_error(step, error), stop=stop, error=error)


def _with_error(step: Step, error: AgentError) -> Step:
    return msgspec.structs.replace(
        step,
        status="failed",
        error_type=error.kind if isinstance(error, ProviderError) else "internal_error",
        error_data={"message": error.message, "detail": getattr(error, "detail", None)},
    )
