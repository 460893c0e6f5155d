"""A run's events on their way to its followers: shown as they happen, or staged with the step that they belong to.

Invariant: what is staged is shown after its commit, and then everything shown is stored.
"""

from collections.abc import Sequence

from perdure.core.events import Event
from perdure.runs.held import HeldEvents
from perdure.runs.log import RunLog
from perdure.store import events as event_store
from perdure.store.commits import EventChunk


class Outgoing:
    """`held`: where the run outlives its request, what happens within a step goes through it."""

    def __init__(self, runlog: RunLog, held: HeldEvents | None) -> None:
        self._log = runlog
        self._held = held
        self._unshown: list[Event] = []
        self._staged: list[Event] = []

    def show(self, events: Sequence[Event]) -> None:
        """What happens before the step it belongs to is committed."""
        if self._held is not None:
            self._held.add(events)
        else:
            self._log.append(events)

    async def flush(self) -> None:
        """Before the calls of a step are on record: what was said to come before them is not lost with this worker then."""
        if self._held is not None:
            await self._held.flush()

    async def take_held(self) -> None:
        """Before a step is committed: what waits to be stored goes with it."""
        if self._held is not None:
            self._unshown.extend(await self._held.take())

    def so_far(self) -> list[Event]:
        """What this process has shown, or is about to show with the next commit."""
        return [*self._log.events, *self._unshown]

    def staged(self, events: Sequence[Event]) -> EventChunk | None:
        """The step's last events and what is not stored yet, for its commit. Staging again takes the first back."""
        self._staged = [*self._unshown, *events]
        unsaved = [*self._log.unsaved(), *self._staged]
        return event_store.chunk(self._log.saved + 1, unsaved) if unsaved else None

    def committed(self) -> None:
        """The commit of what was staged is in the database: it is shown."""
        self._log.append(self._staged)
        self._log.saved = self._log.last_seq
        self._staged = []
        self._unshown.clear()
