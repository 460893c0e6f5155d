"""A run's event log at rest: chunks of events in the order they happened, each chunk one row."""

import msgspec

from perdure.core.errors import Gone
from perdure.core.events import Event
from perdure.core.runs import Run
from perdure.store.base import Query, Tx
from perdure.store.commits import EventChunk, insert_events
from perdure.store.runs import Lease

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Event])


def chunk(first_seq: int, events: list[Event]) -> EventChunk:
    """Encode events numbered from `first_seq` (at least one)."""
    return EventChunk(first_seq, first_seq + len(events) - 1, _encoder.encode(events))


def save_events(lease: Lease, stored: EventChunk, *, again: bool = False) -> Tx[None]:
    """Store events of a step that is still going on. LeaseLost if the fence is void. `again`: it may have been done already."""
    yield from lease.checked("hold_fence")
    if again and (yield from last_seq(lease.run_id)) >= stored.last_seq:
        return  # under this fence nobody else can have written them
    yield from insert_events(lease.run_id, stored)


def events_after(run_id: str, after: int) -> Tx[list[tuple[int, Event]]]:
    """The stored events with seq > `after`, in order, with their seq."""
    rows = yield Query("events_after", {"run_id": run_id, "after": after})
    found: list[tuple[int, Event]] = []
    for first_seq, body in rows:
        found += [(seq, event) for seq, event in events_of(first_seq, body) if seq > after]
    return found


def events_of(first_seq: int, body: bytes) -> list[tuple[int, Event]]:
    """A chunk's events with their seq."""
    return list(enumerate(_decoder.decode(body), first_seq))


def last_seq(run_id: str) -> Tx[int]:
    rows = yield Query("last_event_seq", {"run_id": run_id})
    return int(rows[0][0])


def check_log(run: Run) -> Tx[None]:
    """Gone if the run's events are not kept any more: every run that was begun and ended has some."""
    if run.status in ("created", "running") or run.attempts == 0 or (yield from last_seq(run.id)):
        return
    raise Gone(
        f"The stream of run {run.id} is not kept any more: it ended longer ago than the server keeps streams "
        f"(PERDURE_KEEP_STREAMS). What was said is at GET /v1/runs/{run.id}/messages."
    )
