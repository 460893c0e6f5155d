"""What happens between a run's acceptance, or its being taken up again, and its first step."""

from collections.abc import Awaitable
from typing import Any

from perdure.core.approvals import still_waiting
from perdure.core.errors import AgentError
from perdure.core.history import open_calls
from perdure.core.messages import Message
from perdure.runs.assembly import Turns, as_agent_wants, via_of, with_overrides
from perdure.runs.compact import Compactor
from perdure.runs.context import Contexts
from perdure.runs.parked import kept_answers
from perdure.runs.taking_up import take_up
from perdure.runs.worker import Worker
from perdure.store import steps as step_store
from perdure.store.base import Store
from perdure.store.submissions import Accepted


class Driving:
    def __init__(self, store: Store, contexts: Contexts, turns: Turns, compactor: Compactor) -> None:
        self._store = store
        self._contexts = contexts
        self._turns = turns
        self._compactor = compactor

    async def drive(
        self,
        worker: Worker,
        accepted: Accepted,
        inputs: tuple[Message, ...] | None,
        durable: Awaitable[Any] | None,
    ) -> None:
        """`inputs`: of a run begun at once; None where they are to be read. `durable`: as of `Runner._start`. LeaseLost, and
        whatever ends the run with an error."""
        run = worker.run
        begun = await take_up(self._store, worker, again=True) if run.attempts > 1 else None
        kept = await kept_answers(self._store, run) if via_of(run) != "queue" else ()
        context = await self._contexts.load(accepted, inputs, durable, as_it_was=begun is not None or bool(kept))
        run = worker.run = as_agent_wants(run, with_overrides(context.bundle.agent, run.config).model_settings)
        if (
            run.attempts > 1
            and begun is None
            and (stop := await self._store.read(lambda: step_store.stop_of_last_step(run.id))) is not None
        ):
            await worker.end_now(context, stop)
            return
        admitted = accepted.admitted
        if admitted.answering is not None and context.answer is None:
            raise AgentError(f"The request {admitted.answering.request_id} is not in the context any more.")
        waits = accepted.state.pending if accepted.state is not None else None
        if (
            admitted.answering is None
            and waits is not None
            and not run.config.compact_only
            and open_calls(context.messages)
        ):
            raise still_waiting(waits)  # a failed run is to be taken up again, and something else waits by now
        turn, executor = await self._turns.turn(run, context, kept)
        turn.later = admitted.later
        if run.config.compact_only:
            await worker.compact_only(turn, context, executor, self._compactor)
        else:
            await worker.drive(turn, context, executor, self._compactor)
