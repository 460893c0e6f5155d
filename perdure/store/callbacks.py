"""Callbacks to be delivered: who is to be told that a run has ended, and what became of telling them.

A row is inserted with its run, so a callback that was accepted is never forgotten.
"""

from typing import Any

from msgspec import Struct

from perdure.store.base import Query, Tx


class Callback(Struct, frozen=True):
    run_id: str
    url: str
    attempts: int


class Outcome(Struct, frozen=True, kw_only=True):
    """The last attempt: `status_code` where there was an answer, else `error`. `due_us` None: there will be no other."""

    sent_us: int
    status_code: int | None = None
    error: str | None = None
    due_us: int | None = None


def due_callbacks(now: int) -> Tx[list[Callback]]:
    """Those of ended runs whose time has come, at most 50."""
    rows = yield Query("due_callbacks", {"now": now})
    return [Callback(*row) for row in rows]


def take_callback(callback: Callback, until: int) -> Tx[bool]:
    """The right to make the next attempt, until then; False if another process has it."""
    return bool(
        (yield Query("take_callback", {"run_id": callback.run_id, "attempts": callback.attempts, "until": until}))
    )


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
