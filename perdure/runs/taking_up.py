"""What an earlier worker of a run left behind when it was lost: a step in the middle of its calls, an answer shown in part.

Invariant: what clients were shown stays in the history, under the id they were shown it by, whatever the run does next.
"""

from perdure.core.begun import Begun
from perdure.loop.broken_off import abandoned_answer
from perdure.runs.worker import Worker
from perdure.store.base import Store
from perdure.store.begun import begun_step, keep_abandoned, shown_so_far


async def take_up(store: Store, worker: Worker, *, again: bool) -> Begun | None:
    """The step whose calls were under way, now the worker's to finish. LeaseLost if the run is not ours any more.

    `again`: an answer that broke off will be asked for again; else the run ends now, and the answer stays as far as it came.
    """
    run = worker.run
    begun = await store.read(lambda: begun_step(run.id))
    worker.take_up(begun)
    if not run.background:  # what nobody can take up again was not stored before its step
        return begun
    shown, stored = await store.scan(lambda: shown_so_far(run.id))
    if begun is not None and begun.message is not None:
        stored.append(begun.message.id)
    answer = abandoned_answer(shown, stored, run, "retried" if again else "cancelled")
    if answer is not None:
        kept = answer
        await store.write(lambda: keep_abandoned(worker.lease, kept), repeatable=True)
    return begun
