"""The runs that one process drives now, each a task.

Invariant: of one conversation only one takes steps; the next begins when the one before is through.
"""

import asyncio

from perdure.core.runs import Run
from perdure.runs.watch import LEASE_US


class Job:
    """One run this process drives."""

    __slots__ = ("_before", "cancelled", "conversation_id", "task")

    def __init__(self, conversation_id: str, before: "Job | None") -> None:
        self.conversation_id = conversation_id
        self._before = before
        self.cancelled = False
        self.task: asyncio.Task[None] | None = None

    async def until_first(self) -> None:
        """Wait for the conversation's run before this one, which has given its lease back but may still be taking its last
        step into the context. One that hangs after it lost its lease is not waited for long."""
        before, self._before = self._before, None
        if before is not None and before.task is not None:
            await asyncio.wait([before.task], timeout=LEASE_US / 1e6)


class Jobs(dict[str, Job]):
    """By run id. `newest`: of each conversation the one that was begun last."""

    def __init__(self) -> None:
        super().__init__()
        self.newest: dict[str, Job] = {}

    def begin(self, run: Run) -> Job:
        job = Job(run.conversation_id, self.newest.get(run.conversation_id))
        self[run.id] = self.newest[run.conversation_id] = job
        return job

    def end(self, run: Run, job: Job) -> None:
        """Another one may stand in its place: the run was taken up again here, after its lease had run out."""
        if self.get(run.id) is job:
            del self[run.id]
        if self.newest.get(run.conversation_id) is job:
            del self.newest[run.conversation_id]

    def stop(self, run_id: str) -> "asyncio.Task[None] | None":
        """Cancel a run that is driven here. Its task, which ends soon."""
        job = self.get(run_id)
        if job is None or job.task is None:
            return None
        if not job.cancelled:
            job.cancelled = True
            job.task.cancel()
        return job.task
