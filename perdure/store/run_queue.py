"""Runs that are put in the queue by something other than a request, within its transaction. Whoever is free takes them up."""

import msgspec
from msgspec import Struct

from perdure.core.messages import Message
from perdure.core.runs import Run
from perdure.store.base import Query, Tx

_json = msgspec.json.Encoder().encode


class QueuedRun(Struct, frozen=True):
    run: Run
    inputs: tuple[Message, ...]


def queue_run(queued: QueuedRun) -> Tx[None]:
    run = queued.run
    yield Query(
        "insert_run",
        {
            "id": run.id,
            "agent_id": run.agent_id,
            "conversation_id": run.conversation_id,
            "status": "created",
            "background": int(run.background),
            "created_us": run.created_us,
            "attempts": 0,
            "config": _json(run.config),
            "input": _json(queued.inputs),
            "metadata": _json(run.metadata) if run.metadata else None,
        },
    )


def queue_length(conversation_id: str, most: int) -> Tx[int | None]:
    """How many runs wait for the conversation, at most `most`. None: there is no such conversation."""
    rows = yield Query("conversation_for_run", {"id": conversation_id})
    if not rows or rows[0][12] is not None:
        return None
    return min(rows[0][15], most)
