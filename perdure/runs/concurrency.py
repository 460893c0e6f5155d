"""What a message that arrives during a run does to it: nothing (it waits its turn), end it, or end it and take it back.

Invariant: what was shown stays on record; taking back changes what the model sees from now on, nothing else.
"""

from perdure.core.errors import Conflict
from perdure.core.ids import now_us
from perdure.runs.runner import Runner
from perdure.store import runs as run_store
from perdure.store.base import Store
from perdure.store.conversations import conversation_state, take_out_of_context

MAX_ROUNDS = 20


async def make_room(store: Store, runner: Runner, conversation_id: str, *, take_back: bool) -> None:
    """End what the conversation is busy with and what waits in it. `take_back`: out of its context too. Conflict: in vain."""
    ended: list[str] = []
    for _ in range(MAX_ROUNDS):
        active = await store.read(lambda: run_store.active_runs(conversation_id=conversation_id))
        if not active:
            break
        for run_id, _, _ in reversed(active):  # the queued ones first, so that none of them starts meanwhile
            await runner.cancel(run_id)
            ended.append(run_id)
    else:
        raise Conflict(
            f"Conversation {conversation_id} is given new messages faster than they can be ended. Send again."
        )
    state = await store.read(lambda: conversation_state(conversation_id))
    if state.pending is not None and state.pending.waits(now_us()):
        await runner.cancel(state.pending.run_id)  # denies what it waits for
        ended.append(state.pending.run_id)
    if take_back and ended:
        await store.write(lambda: take_out_of_context(conversation_id, tuple(ended), now_us()))
        runner.contexts.forget(conversation_id)
