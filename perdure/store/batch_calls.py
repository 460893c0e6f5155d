"""Model calls that wait for a provider's batch: parked with their run, gathered, handed in, answered, taken up.

Invariant: a parked run's conversation is held by its call alone, so nobody else can begin on it; what becomes of the call is
written in the transaction that lets the run go on.
"""

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from perdure.core.batches import BatchCall, CallGroup, ProviderBatch
from perdure.store.base import Many, Query, Tx
from perdure.store.runs import PARKED, Lease

FOR_EVER_US = 4_000_000_000_000_000
AT_ONCE = 200

_json = msgspec.json.Encoder(order="deterministic").encode
_pack = msgspec.msgpack.Encoder().encode
_group = msgspec.json.Decoder(CallGroup).decode
_provider_batch = msgspec.json.Decoder(ProviderBatch).decode


class Answered(Struct, frozen=True, kw_only=True):
    """What a call came to. `direct`: it is to be made by itself; `final`: an error that stays one."""

    status: int = 200
    body: bytes = b""
    final: bool = False
    direct: bool = False


class StoredAnswer(Struct, frozen=True):
    """`place` and `number`: of which of the run's calls; `request`: as it was sent."""

    place: str
    number: int
    request: bytes
    answer: Answered


_answered = msgspec.msgpack.Decoder(Answered).decode


class Woken(Struct, frozen=True):
    run_id: str
    conversation_id: str


def park_call(lease: Lease, call: BatchCall) -> Tx[bool]:
    """Give the conversation back to nobody until the call has its answer. False: the run is to be cancelled, and goes to whoever
    looks next instead. LeaseLost if it is not ours."""
    if not (yield Query("park_run", {"id": lease.run_id})):
        yield from lease.checked("hand_over")
        return False
    yield from lease.checked("park_conversation", parked=PARKED, until=FOR_EVER_US)
    yield Query("drop_calls_of_other_steps", {"run_id": lease.run_id, "step": f"{call.step} %"})
    yield Query(
        "insert_batch_call",
        {
            "id": call.id,
            "batch_id": call.group.batch_id,
            "run_id": call.run_id,
            "conversation_id": call.conversation_id,
            "grp": _json(call.group).decode(),
            "place": f"{call.step} {call.at}",
            "number": call.number,
            "created_us": call.created_us,
            "size": len(call.body),
            "request": call.body,
        },
    )
    return True


def unpark(run_id: str) -> Tx[bool]:
    """Whoever looks next goes on with the run. False: it is not parked."""
    return bool((yield Query("unpark_conversation", {"run_id": run_id, "parked": PARKED})))


def answers_of_run(run_id: str) -> Tx[list[StoredAnswer]]:
    """In the order the calls were made, all of one step."""
    rows = yield Query("answers_of_run", {"run_id": run_id})
    return [StoredAnswer(row[0].partition(" ")[2], row[1], bytes(row[2]), _answered(row[3])) for row in rows]


def wake_answered(most: int) -> Tx[list[Woken]]:
    """Let at most `most` runs go on whose calls have been answered."""
    woken: list[Woken] = []
    for call_id, run_id, conversation_id, running in (yield Query("answered_calls", {"limit": most})):
        yield Query("take_call", {"id": call_id})
        if running and (yield from unpark(run_id)):
            woken.append(Woken(run_id, conversation_id))
    return woken


def ready_groups(now: int, gather_us: int) -> Tx[list[CallGroup]]:
    """The groups of calls that are to be handed in: nothing more of their batch will come soon, or they waited long enough."""
    ready: list[CallGroup] = []
    for grp, batch_id, oldest in (yield Query("waiting_groups", {"now": now})):
        if oldest + gather_us <= now or not (yield Query("more_to_come", {"batch_id": batch_id})):
            ready.append(_group(grp))
    return ready


def make_provider_batch(
    provider_batch_id: str, group: CallGroup, most: int, size: int, now: int
) -> Tx[ProviderBatch | None]:
    """A batch of the group's oldest calls, at most `most` of them and `size` bytes together. None: no call waits."""
    rows = yield Query("waiting_calls", {"grp": _json(group).decode(), "now": now, "limit": most})
    taken: list[str] = []
    for call_id, call_size in rows:
        size -= call_size + AT_ONCE  # what is around it
        if taken and size < 0:
            break
        taken.append(call_id)
    if not taken:
        return None
    made = ProviderBatch(id=provider_batch_id, group=group, created_us=now, count=len(taken))
    yield Query(
        "insert_provider_batch", {"id": made.id, "batch_id": group.batch_id, "due_us": now, "body": _json(made)}
    )
    yield Many("send_call", [{"id": call_id, "provider_batch_id": made.id} for call_id in taken])
    return made


def due_provider_batches(now: int) -> Tx[list[ProviderBatch]]:
    rows = yield Query("due_provider_batches", {"now": now, "limit": AT_ONCE})
    return [_provider_batch(row[0]) for row in rows]


def provider_batches_of(batch_id: str) -> Tx[list[tuple[str, ProviderBatch]]]:
    """("going" or "ended", the batch) of all that were made for a batch of ours, the first made first."""
    rows = yield Query("provider_batches_of", {"batch_id": batch_id})
    return sorted(((row[0], _provider_batch(row[1])) for row in rows), key=lambda each: each[1].created_us)


def provider_batch(provider_batch_id: str) -> Tx[ProviderBatch | None]:
    """As it is kept now; None if it has ended."""
    rows = yield Query("provider_batch", {"id": provider_batch_id})
    return _provider_batch(rows[0][1]) if rows and rows[0][0] == "going" else None


def change_provider_batch(changed: ProviderBatch, due_us: int) -> Tx[bool]:
    """False: it is another's by now; somebody else has handed it in."""
    stored = yield from provider_batch(changed.id)
    if stored is None or stored.remote_id not in (None, changed.remote_id, *changed.others):
        return False
    yield Query("change_provider_batch", {"id": changed.id, "due_us": due_us, "body": _json(changed)})
    return True


def sent_calls(provider_batch_id: str) -> Tx[list[tuple[str, bytes]]]:
    """(id, request) of the calls of a batch that have no answer."""
    rows = yield Query("sent_calls", {"id": provider_batch_id})
    return [(row[0], bytes(row[1])) for row in rows]


def is_wanted(provider_batch_id: str) -> Tx[bool]:
    """Whether any run still waits for it."""
    return bool((yield Query("call_wanted", {"id": provider_batch_id})))


def is_its_call(provider_batch_id: str, call_id: str) -> Tx[bool]:
    return bool((yield Query("call_of_provider_batch", {"id": call_id, "provider_batch_id": provider_batch_id})))


def answer_calls(provider_batch_id: str, answers: Iterable[tuple[str, Answered]]) -> Tx[None]:
    """May be done again: a call is answered once."""
    for call_id, answer in answers:
        row = {"id": call_id, "provider_batch_id": provider_batch_id, "answer": _pack(answer)}
        yield Query("answer_call", row)


def end_provider_batch(provider_batch_id: str, left: Answered | None) -> Tx[None]:
    """It is over; the calls of it that have no answer get `left`. None: nobody waits for them."""
    if left is not None:
        for call_id, _ in (yield Query("sent_calls", {"id": provider_batch_id})):
            yield from answer_calls(provider_batch_id, [(call_id, left)])
    yield Query("drop_sent_calls", {"id": provider_batch_id})
    yield Query("end_provider_batch", {"id": provider_batch_id})


def give_back_calls(provider_batch_id: str, due_us: int) -> Tx[None]:
    """The batch was not taken: its calls wait for another, not before `due_us`."""
    yield Query("wait_again", {"id": provider_batch_id, "due_us": due_us})
    yield Query("end_provider_batch", {"id": provider_batch_id})


def look_now(batch_id: str, now: int) -> Tx[None]:
    """Something has changed that its provider batches are to be looked at for."""
    yield Query("provider_batches_now", {"batch_id": batch_id, "now": now})


def anything_due(now: int) -> Tx[bool]:
    """Whether calls wait to be handed in, or batches that were are to be looked at."""
    return bool((yield Query("batch_calls_due", {"now": now})))
