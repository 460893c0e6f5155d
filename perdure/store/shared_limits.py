"""The book in which processes share what providers may be asked: one row that is read and written as a whole."""

from collections.abc import Callable
from typing import TypeVar

from perdure.core.ids import now_us
from perdure.store.base import Query, Tx

R = TypeVar("R")


def change_book(change: Callable[[bytes | None, int], tuple[bytes, R]]) -> Tx[R]:
    """`change` is given the book (None: there is none yet) and the database's time in microseconds; it may be called again."""
    ((body, now),) = yield Query("limit_book", {"now": now_us()})
    after, result = change(body, now)
    yield Query("put_limit_book", {"body": after})
    return result
