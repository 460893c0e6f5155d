"""Between a run and its calls that wait for a provider's batch: what is kept of one, and what the run reads of its answer."""

import logging
from collections.abc import Sequence

from perdure.core.batches import BatchCall, CallGroup
from perdure.core.errors import AgentError
from perdure.core.ids import new_id, now_us
from perdure.core.runs import Run
from perdure.providers.batched import KeptAnswer, ParkedCall
from perdure.runs.shielding import shielded
from perdure.runs.worker import Worker
from perdure.store.base import Store
from perdure.store.batch_calls import answers_of_run, park_call

log = logging.getLogger(__name__)


async def park(store: Store, worker: Worker, call: ParkedCall) -> None:
    """Leave a run until its call has been answered with the provider's batch."""
    parked = call_of(worker, call)
    try:
        await shielded(store.write(lambda: park_call(worker.lease, parked), quick=True))
    except AgentError:
        log.warning("run %s could not be parked; its lease will expire and it goes on", worker.run.id, exc_info=True)


def call_of(worker: Worker, call: ParkedCall) -> BatchCall:
    run = worker.run
    assert run.metadata is not None and worker.model is not None
    provider, model = worker.model
    return BatchCall(
        id=new_id("call"),
        run_id=run.id,
        conversation_id=run.conversation_id,
        group=CallGroup(
            batch_id=str(run.metadata["batch_id"]),
            provider=provider,
            model=model,
            path=call.path,
            headers=tuple(sorted(call.headers.items())),
            strict=run.metadata.get("via") == "provider",
        ),
        step=worker.step_count,
        at=call.at,
        number=call.number,
        created_us=now_us(),
        body=call.body,
    )


async def kept_answers(store: Store, run: Run) -> Sequence[KeptAnswer]:
    """The answers to the run's calls, in the order it made them."""
    return [
        KeptAnswer(
            at=stored.place,
            number=stored.number,
            request=stored.request,
            status=stored.answer.status,
            body=stored.answer.body,
            final=stored.answer.final,
            direct=stored.answer.direct,
        )
        for stored in await store.read(lambda: answers_of_run(run.id))
    ]
