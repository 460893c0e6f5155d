"""How many runs one process drives at once, and how many may wait for one of its places.

Invariant: a run that waits for another run takes no place, so runs that ask each other never wait for each other's places.
"""

import contextlib
from collections import Counter
from collections.abc import Generator, Sized

from perdure.core.errors import Unavailable

RETRY_AFTER_S = 5.0


class Capacity:
    """`most`: runs driven at once; None: any number, 0: none, they are only accepted. `max_backlog`: runs of the database that
    may wait before no more are accepted; None: any number. `jobs`: those driven here."""

    def __init__(self, jobs: Sized, *, most: int | None = None, max_backlog: int | None = None) -> None:
        self.most = most
        self._jobs = jobs
        self._max_backlog = max_backlog
        self._aside: Counter[str] = Counter()
        self._counted = 0
        self._since = 0

    @property
    def room(self) -> int | None:
        """How many more may be begun here; None: any number."""
        return None if self.most is None else max(0, self.most - len(self._jobs) + len(self._aside))

    @property
    def full(self) -> bool:
        return self.most is not None and not self.room

    @property
    def tight(self) -> bool:
        """Whether others may wait for the place that was just left."""
        room = self.room
        return room is not None and self.most is not None and room * 8 <= self.most + 8

    @property
    def backlog(self) -> int:
        """Runs of the database that wait, as far as it is known here."""
        return self._counted + self._since

    def counted(self, waiting: int) -> None:
        """So many wait, by the database."""
        self._counted, self._since = waiting, 0

    def queued(self) -> None:
        """Another one waits since they were counted."""
        self._since += 1

    def check(self) -> None:
        """Unavailable when too many wait to accept another."""
        if self._max_backlog is not None and self._counted + self._since >= self._max_backlog:
            raise Unavailable(
                f"{self.backlog} runs are waiting to be driven, and no more are accepted (PERDURE_MAX_BACKLOG). "
                "Send again later.",
                retry_after_s=RETRY_AFTER_S,
            )

    @contextlib.contextmanager
    def aside(self, run_id: str) -> Generator[None]:
        """While it waits for another run."""
        self._aside[run_id] += 1
        try:
            yield
        finally:
            self._aside[run_id] -= 1
            if not self._aside[run_id]:
                del self._aside[run_id]
