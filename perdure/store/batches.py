"""Batches in the database: handed in whole, begun one by one in their order, ended when their last item has.

An item is claimed in the transaction that queues its run, so it is begun once, whoever crashes.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.batches import Batch, BatchItem, BatchRequest
from perdure.core.errors import Conflict, NotFound
from perdure.core.ids import new_id
from perdure.core.messages import Message
from perdure.core.runs import Run
from perdure.store.base import Built, Many, Query, Row, Tx
from perdure.store.batch_calls import look_now, wake_answered
from perdure.store.callbacks import add_callback
from perdure.store.listing import Filters, Page, Source, list_rows
from perdure.store.run_queue import QueuedRun, queue_run
from perdure.store.submissions import RequestKey, known_run, put_key, run_of_key

_json = msgspec.json.Encoder().encode
_batch = msgspec.json.Decoder(Batch).decode
_request = msgspec.json.Decoder(BatchRequest).decode
_message = msgspec.json.Decoder(Message).decode
_error = msgspec.json.Decoder(dict[str, Any]).decode

_BATCHES = Source("b.id, b.status, b.created_us, b.updated_us, b.completed_us, b.body", "batches", "b")
KEYS = "batches"  # where the keys of conversations' requests have their conversation
LOOK_AHEAD = 1000
AT_ONCE = 200


class Begun(Struct, frozen=True):
    """A run that was queued, or that goes on."""

    run_id: str
    conversation_id: str


def create_batch(batch: Batch, requests: Sequence[BatchRequest], key: RequestKey | None = None) -> Tx[str]:
    """Answers its id, or that of the batch that was handed in under this key before. Conflict if that was another."""
    if key is not None:
        if (known := (yield from run_of_key(KEYS, key, batch.created_us))) is not None:
            return known
        yield from put_key(KEYS, key, batch.id, batch.created_us)
    yield Query(
        "insert_batch",
        {
            "id": batch.id,
            "status": batch.status,
            "created_us": batch.created_us,
            "updated_us": batch.updated_us,
            "body": _json(batch),
        },
    )
    rows = [
        {
            "batch_id": batch.id,
            "position": position,
            "id": new_id("batch_item"),
            "agent_id": request.agent_id,
            "status": "waiting",
            "request": _json(request),
        }
        for position, request in enumerate(requests)
    ]
    yield Many("insert_batch_item", rows)
    return batch.id


def batch_by_id(batch_id: str) -> Tx[Batch]:
    rows = yield Query("batch_by_id", {"id": batch_id})
    if not rows:
        raise NotFound(f"Batch {batch_id} not found")
    return _read(rows[0])


def list_batches(page: Page, statuses: Sequence[str] | None) -> Tx[list[Batch]]:
    filters = Filters()
    if statuses is not None:
        filters.add_in("b.status", "status", statuses)
    rows = yield from list_rows(_BATCHES, filters, page, what="Batch")
    return [_read(row) for row in rows]


def count_items(batch_id: str) -> Tx[Counter[str]]:
    """How many items are in which state."""
    rows = yield Query("count_items", {"batch_id": batch_id})
    return Counter({row[0]: row[1] for row in rows})


def items_of_batch(batch_id: str, *, after: int = -1, limit: int = 1000) -> Tx[list[BatchItem]]:
    """In the order of the request, from behind position `after`."""
    rows = yield Query("items_of_batch", {"batch_id": batch_id, "after": after, "limit": limit})
    return [
        BatchItem(
            id=row[0], batch_id=row[1], position=row[2], agent_id=row[3], status=row[4], run_id=row[5], error=row[6]
        )
        for row in rows
    ]


def batches_going() -> Tx[bool]:
    """Whether any item waits or runs."""
    return bool((yield Query("batches_going")))


def begin_items(most: int, now: int) -> Tx[list[Begun]]:
    """Queue the next items' runs while fewer than `most` are under way: in order, one of an agent at a time.

    A run that waits for a provider's batch is not under way. Those whose answers have come go on before others begin.
    """
    running = yield Query("running_items")
    room = most - sum(not parked for _, parked in running)
    if room <= 0:
        return []
    begun = [Begun(each.run_id, each.conversation_id) for each in (yield from wake_answered(room))]
    taken = {agent_id for agent_id, _ in running}
    for item_id, batch_id, position, agent_id in (yield Query("waiting_items", {"limit": LOOK_AHEAD})):
        if len(begun) >= room:
            break
        if agent_id in taken:
            continue
        key = {"batch_id": batch_id, "position": position}
        request = _request((yield Query("item_request", key))[0][0])
        if not (yield Query("agent_exists", {"id": agent_id})):
            yield from _end_item(batch_id, position, "failed", f"Agent {agent_id} was deleted.", now)
            continue
        run_id = (yield from known_run(agent_id, request.otids, None, now)) or (
            yield from _queue(request, item_id, batch_id, now + len(begun))
        )
        yield Query("begin_item", {**key, "run_id": run_id})
        taken.add(agent_id)
        begun.append(Begun(run_id, agent_id))
    return begun


def _queue(request: BatchRequest, item_id: str, batch_id: str, now: int) -> Tx[str]:
    agent_id = request.agent_id
    via = (yield from batch_by_id(batch_id)).via
    run = Run(
        id=new_id("run"),
        agent_id=agent_id,
        conversation_id=agent_id,
        status="created",
        created_us=now,
        config=request.config,
        background=True,
        metadata={"run_type": "batch", "batch_id": batch_id, "batch_item_id": item_id, "via": via},
    )
    inputs = tuple(
        msgspec.structs.replace(message, created_us=now + at, run_id=run.id, batch_item_id=item_id)
        for at, message in enumerate(request.inputs)
    )
    yield from queue_run(QueuedRun(run, inputs))
    for otid in request.otids:
        yield Query("insert_otid", {"conversation_id": agent_id, "otid": otid, "run_id": run.id, "now": now})
    return run.id


def settle_items(now: int) -> Tx[int]:
    """Note which items' runs have ended, and end the batches that have no other. Answers how many items were settled."""
    rows = yield Query("ended_items", {"limit": AT_ONCE})
    for batch_id, position, status, error, run_id in rows:
        yield Query("drop_calls_of_run", {"run_id": run_id})
        if status is None:
            yield from _end_item(batch_id, position, "failed", "Its run was deleted.", now)
        else:
            yield from _end_item(batch_id, position, status, _said(error), now)
    return len(rows)


def _said(error: bytes | None) -> str | None:
    if error is None:
        return None
    found = _error(error)
    return str(found.get("message") or found.get("type"))


def _end_item(batch_id: str, position: int, status: str, error: str | None, now: int) -> Tx[None]:
    yield Query("end_item", {"batch_id": batch_id, "position": position, "status": status, "error": error})
    yield Query("touch_batch", {"id": batch_id, "now": now})
    yield from _end_if_done(batch_id, now)


def _end_if_done(batch_id: str, now: int) -> Tx[None]:
    """The last item's end is the batch's: failed where none succeeded. Who asked for it is told."""
    if (yield Query("item_left", {"batch_id": batch_id})):
        return
    counts = yield from count_items(batch_id)
    status = "failed" if counts["failed"] == sum(counts.values()) else "completed"
    batch = yield from batch_by_id(batch_id)
    ended = yield Query("end_batch", {"id": batch_id, "status": status, "now": now})
    if batch.callback_url is not None and (ended or batch.status == "cancelled"):
        yield from add_callback(batch_id, batch.callback_url, now)


def cancel_batch(batch_id: str, now: int) -> Tx[list[str]]:
    """No other item begins; answers the runs under way, to be cancelled. Conflict if the batch has ended otherwise."""
    batch = yield from batch_by_id(batch_id)
    if batch.status in ("completed", "failed"):
        raise Conflict(f"Batch {batch_id} has already {batch.status}; there is nothing to cancel.")
    if (yield Query("end_batch", {"id": batch_id, "status": "cancelled", "now": now})):
        yield Query("cancel_waiting_items", {"batch_id": batch_id})
        yield from look_now(batch_id, now)
        yield from _end_if_done(batch_id, now)
    rows = yield Query("runs_of_batch", {"batch_id": batch_id})
    return [row[0] for row in rows if row[0]]


def batch_messages(
    batch_id: str,
    *,
    agent_id: str | None = None,
    before: str | None = None,
    after: str | None = None,
    limit: int = 100,
    descending: bool = True,
) -> Tx[list[tuple[Message, str]]]:
    """What the batch's runs answered, with each one's item: not what they were asked. Cursors follow the order."""
    yield from batch_by_id(batch_id)
    where, params = ["i.batch_id = :batch_id"], dict[str, Any](batch_id=batch_id)
    if agent_id is not None:
        where.append("i.agent_id = :agent_id")
        params["agent_id"] = agent_id
    for name, cursor in (("after", after), ("before", before)):
        if cursor is None:
            continue
        rows = yield Query("message_by_id", {"id": cursor})
        if not rows:
            raise NotFound(f"Message {cursor} not found: it cannot be the `{name}` of a listing")
        where.append(f"m.pos {'<' if descending == (name == 'after') else '>'} :{name}")
        params[name] = rows[0][0]
    backwards = before is not None and after is None
    direction, sign = ("DESC", "<") if descending != backwards else ("ASC", ">")
    found: list[tuple[Message, str]] = []
    at: int | None = None
    while len(found) < limit:
        more = [*where, f"m.pos {sign} :at"] if at is not None else where
        rows = yield Built(
            "SELECT m.pos, m.body, i.id FROM batch_items i JOIN messages m ON m.run_id = i.run_id "
            f"WHERE {' AND '.join(more)} ORDER BY m.pos {direction} LIMIT :chunk",
            params | {"chunk": AT_ONCE} | ({"at": at} if at is not None else {}),
        )
        read = ((_message(body), item_id) for _, body, item_id in rows)
        found += [(message, item_id) for message, item_id in read if is_answer_of_agent(message)]
        if len(rows) < AT_ONCE:
            break
        at = rows[-1][0]
    return found[:limit][::-1] if backwards else found[:limit]


def is_answer_of_agent(message: Message) -> bool:
    if message.hidden:
        return False
    return message.role in ("assistant", "tool", "summary") or (message.role == "approval" and bool(message.tool_calls))


def _read(row: Row) -> Batch:
    return msgspec.structs.replace(
        _batch(row[5]), status=row[1], created_us=row[2], updated_us=row[3], completed_us=row[4]
    )
