"""Deleting what is not kept any longer, a little in each transaction. Each answers whether there may be more to do.

Messages, steps and token records are never deleted here. `before`: what ended earlier goes (microseconds).
"""

from perdure.core.traces import BASE_LIFE_US
from perdure.store.base import Query, Tx

AT_ONCE = 50


def expire_events(before: int, limit: int = AT_ONCE) -> Tx[bool]:
    """Event logs of runs that ended before then. A run that has not is remembered, and its log goes later."""
    at = yield Query("cleaned_to", {"name": "events"})
    at_us, at_id = at[0] if at else (0, "")
    runs = yield Query("runs_from", {"at_us": at_us, "at_id": at_id, "before": before, "limit": limit})
    for run_id, _, ended in runs:
        if ended:
            yield Query("delete_run_events", {"id": run_id})
        else:
            yield Query("leave_run", {"run_id": run_id})
    if runs:
        yield Query("clean_to", {"name": "events", "at_us": runs[-1][1], "at_id": runs[-1][0]})
    return len(runs) == limit


def expire_events_left(before: int, limit: int = AT_ONCE) -> Tx[bool]:
    """Event logs of the runs that had not ended when it was their turn."""
    runs = yield Query("runs_left", {"before": before, "limit": limit})
    for (run_id,) in runs:
        yield Query("delete_run_events", {"id": run_id})
        yield Query("run_not_left", {"run_id": run_id})
    return len(runs) == limit


def expire_traces(before: int, limit: int = AT_ONCE) -> Tx[bool]:
    """Requests and answers of the model calls of runs that began before then. The steps stay, without their traces."""
    at = yield Query("cleaned_to", {"name": "traces"})
    at_us, at_id = at[0] if at else (0, "")
    runs = yield Query("runs_from", {"at_us": at_us, "at_id": at_id, "before": before, "limit": limit})
    for run_id, _, _ in runs:
        yield Query("delete_run_traces", {"id": run_id})
    if runs:
        yield Query("clean_to", {"name": "traces", "at_us": runs[-1][1], "at_id": runs[-1][0]})
    return len(runs) == limit


def expire_trace_bases(before: int, limit: int = AT_ONCE) -> Tx[bool]:
    """What traces of requests were kept against, none of which is younger than `before`."""
    oldest = {"before": before - BASE_LIFE_US, "limit": limit}
    return len((yield Query("delete_old_trace_bases", oldest))) == limit


def expire_callbacks(before: int, limit: int = AT_ONCE) -> Tx[bool]:
    """What became of callbacks. One that is still to be delivered stays."""
    return len((yield Query("delete_told_callbacks", {"before": before, "limit": limit}))) == limit


def expire_request_keys(before: int, limit: int = AT_ONCE) -> Tx[bool]:
    return len((yield Query("delete_old_request_keys", {"before": before, "limit": limit}))) == limit


def schedule_ids(after: str, limit: int = AT_ONCE) -> Tx[list[str]]:
    rows = yield Query("schedules_after", {"id": after, "limit": limit})
    return [row[0] for row in rows]


def expire_ticks(schedule_id: str, before: int) -> Tx[None]:
    yield Query("delete_old_ticks", {"id": schedule_id, "before": before})


def expire_batches(before: int) -> Tx[bool]:
    """One batch that has ended, with its items; their runs stay."""
    rows = yield Query("old_batches", {"before": before, "limit": 1})
    for (batch_id,) in rows:
        yield Query("delete_batch_items", {"id": batch_id})
        yield Query("delete_batch_calls", {"id": batch_id})
        yield Query("delete_provider_batches", {"id": batch_id})
        yield Query("delete_batch", {"id": batch_id})
    return bool(rows)
