"""What a run amounts to so far: tokens, steps, turns and logprobs, and how its end and its error are kept and told.

Counted once per step, when its model call is there; a step that only answers calls of an earlier one adds nothing but turns.
"""

import time
from typing import Any

import msgspec

from perdure.core.errors import AgentError, Conflict, Invalid, NotFound, ProviderError
from perdure.core.events import Event, LogEnded, RunFailed, RunStopped, UsageReported
from perdure.core.model import ModelDone, ProviderExchange
from perdure.core.runs import Run, StopReason, Usage, status_of
from perdure.core.tokens import bytes_to_ids
from perdure.loop.turn import StepResult, Turn
from perdure.runs.turns import assistant_turn, tool_turns
from perdure.store.commits import RunEnd


class Tally:
    """Goes on from what the run had when this process took it up."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.usage: Usage = run.usage
        self.step_count = run.step_count
        self.context_tokens = run.context_tokens
        self.ttft_ns: int | None = run.ttft_ns
        self._logprobs: dict[str, Any] | None = None
        self._turns: list[dict[str, Any]] = []
        self._started_ns = time.perf_counter_ns()

    def first_output(self) -> None:
        if self.ttft_ns is None:
            self.ttft_ns = time.perf_counter_ns() - self._started_ns

    def count(self, turn: Turn, result: StepResult) -> None:
        if result.resumed:
            self._add_tool_turns(result)
            return
        self.step_count += 1
        done = result.done
        if done is None:
            return
        self.usage = self.usage + done.usage
        self.context_tokens = done.usage.total_tokens or None
        if done.logprobs is not None:
            self._logprobs = wire_logprobs(done)
        if self._run.config.return_token_ids and done.capture is not None:
            self._add_turns(turn, result, done)

    def count_unfinished(self, done: ModelDone | None) -> None:
        """A step that ends with its run. `done`: its model call, as far as it is known."""
        self.step_count += 1
        if done is not None:
            self.usage = self.usage + done.usage
            self.context_tokens = done.usage.total_tokens or None

    def _add_turns(self, turn: Turn, result: StepResult, done: ModelDone) -> None:
        assert done.capture is not None
        call = done.capture.call
        held = turn.tokens.ids if turn.tokens is not None and done.capture.segment is None else ()
        prompt = [*held, *bytes_to_ids(call.delta_ids)]
        self._turns.append(assistant_turn(call, prompt, result.messages[0]))
        self._add_tool_turns(result)

    def _add_tool_turns(self, result: StepResult) -> None:
        if not self._run.config.return_token_ids:
            return
        for message in result.messages:
            if message.role == "tool":
                self._turns.extend(tool_turns(message, result.step.id))

    def run_end(self, stop: StopReason, error: AgentError | None, now: int) -> RunEnd:
        metadata = dict(self._run.metadata or {})
        if self._logprobs is not None and self._run.config.return_logprobs:
            metadata["result"] = {"logprobs": self._logprobs}
        return RunEnd(
            status=status_of(stop),
            stop_reason=stop,
            completed_us=now,
            total_duration_ns=time.perf_counter_ns() - self._started_ns,
            error=error_record(error) if error is not None else None,
            metadata=metadata or None,
        )

    def last_events(
        self, stop: StopReason, error: AgentError | None, begun: tuple[str, ...] | None = None
    ) -> list[Event]:
        """`begun`: the runs that begin because this one ended."""
        last: list[Event] = [RunStopped(stop)]
        if error is not None:
            record = error_record(error)
            last.append(RunFailed(self._run.id, record["type"], record["message"], record["detail"]))
        elif stop != "cancelled":
            config = self._run.config
            last.append(
                UsageReported(
                    self.usage,
                    self.step_count,
                    self.context_tokens,
                    logprobs=self._logprobs if config.return_logprobs else None,
                    turns=self._turns if config.return_token_ids else None,
                    run_ids=begun,
                )
            )
        last.append(LogEnded())
        return last


def error_record(error: AgentError) -> dict[str, Any]:
    """How a run's error is kept and told: type, message, detail, and the HTTP status it means to who waits."""
    if isinstance(error, ProviderError):
        return {"type": error.kind, "message": error.message, "detail": error.detail, "status": error.status}
    if isinstance(error, Conflict):
        record = {"type": "conflict", "message": error.message, "detail": error.message, "status": 409}
        return record | ({"body": error.detail} if error.detail is not None else {})
    kind = "not_found" if isinstance(error, NotFound) else "invalid" if isinstance(error, Invalid) else "internal_error"
    return {"type": kind, "message": error.message, "detail": error.message, "status": None}


def exchange_of(result: StepResult) -> ProviderExchange | None:
    """What was sent for a step and what came back, also where that was a failure."""
    if result.done is not None:
        return result.done.exchange
    error = result.error
    if not isinstance(error, ProviderError) or error.sent is None:
        return None
    return ProviderExchange(request=error.sent, response=msgspec.json.encode({"error": error_record(error)}))


def wire_logprobs(done: ModelDone) -> dict[str, Any]:
    """The last call's logprobs in OpenAI's ChoiceLogprobs shape."""
    return {
        "content": [
            {
                "token": item.token,
                "logprob": item.logprob,
                "bytes": item.bytes,
                "top_logprobs": [{"token": token, "logprob": value, "bytes": raw} for token, value, raw in item.top],
            }
            for item in done.logprobs or ()
        ],
        "refusal": None,
    }
