"""Callbacks to be delivered: who is to be told that a run or a batch has ended, and what became of telling them.

A run's row is inserted with it, a batch's when it ends, so a callback that was accepted is never forgotten.
"""

from typing import Any

from msgspec import Struct

from perdure.store.base import Query, Tx


class Callback(Struct, frozen=True):
    """`run_id`: of a run or a batch."""

    run_id: str
    url: str
    attempts: int
    due_us: int = 0


class Outcome(Struct, frozen=True, kw_only=True):
    """The last attempt: `status_code` where there was an answer, else `error`. `due_us` None: there will be no other."""

    sent_us: int
    status_code: int | None = None
    error: str | None = None
    due_us: int | None = None


def due_callbacks(now: int, after: Callback | None = None, limit: int = 50) -> Tx[list[Callback]]:
    """Those of what has ended whose time has come, at most `limit`, in their order `after` that one."""
    at = (after.due_us, after.run_id) if after is not None else (-1, "")
    rows = yield Query("due_callbacks", {"now": now, "after_us": at[0], "after_id": at[1], "limit": limit})
    return [Callback(*row) for row in rows]


def take_callback(callback: Callback, until: int) -> Tx[bool]:
    """The right to make the next attempt, until then; False if another process has it."""
    return bool(
        (yield Query("take_callback", {"run_id": callback.run_id, "attempts": callback.attempts, "until": until}))
    )


def add_callback(run_id: str, url: str, now: int) -> Tx[None]:
    """To be delivered once the run or batch has ended."""
    yield Query("insert_callback", {"run_id": run_id, "url": url, "due_us": now})


def forget_callback(run_id: str) -> Tx[None]:
    yield Query("delete_run_callback", {"id": run_id})


def callback_tried(run_id: str, outcome: Outcome) -> Tx[None]:
    yield Query(
        "callback_tried",
        {
            "run_id": run_id,
            "sent_us": outcome.sent_us,
            "status_code": outcome.status_code,
            "error": outcome.error,
            "done": int(outcome.due_us is None),
            "due_us": outcome.due_us or 0,
        },
    )


def callback_of_run(run_id: str) -> Tx[dict[str, Any] | None]:
    """{attempts, sent_us, status_code, error, done}; None if the run has none."""
    rows = yield Query("callback_of_run", {"run_id": run_id})
    if not rows:
        return None
    return dict(zip(("attempts", "sent_us", "status_code", "error", "done"), tuple(rows[0])[1:], strict=True))
