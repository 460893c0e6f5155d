"""Runs as read back by clients: lists with filters, and deletion. `runs.py` has their life."""

from msgspec import Struct

from perdure.core.errors import Conflict
from perdure.core.runs import Run
from perdure.store.base import Query, Tx
from perdure.store.listing import Filters, Page, Source, list_rows
from perdure.store.runs import run_by_id, run_from_row

_RUNS = Source(
    "r.id, r.agent_id, r.conversation_id, r.status, r.background, r.created_us, r.completed_us, r.stop_reason, r.attempts, "
    "r.step_count, r.context_tokens, r.ttft_ns, r.total_duration_ns, r.config, r.usage, r.error, r.metadata",
    "runs",
    "r",
)
_OF_A_RUN = ("delete_run_events", "delete_run_traces", "delete_run_steps", "delete_run_otids", "delete_run_callback")


class RunFilter(Struct, frozen=True, kw_only=True):
    """None: not filtered by. `default_conversation`: only runs in agents' own histories."""

    agent_ids: tuple[str, ...] | None = None
    statuses: tuple[str, ...] | None = None
    background: bool | None = None
    stop_reason: str | None = None
    conversation_id: str | None = None
    default_conversation: bool = False


ACTIVE = ("created", "running")


def list_runs(wanted: RunFilter, page: Page) -> Tx[list[Run]]:
    filters = Filters()
    if wanted.agent_ids is not None:
        filters.add_in("r.agent_id", "agent", wanted.agent_ids)
    if wanted.statuses is not None:
        filters.add_in("r.status", "status", wanted.statuses)
        if set(wanted.statuses) <= set(ACTIVE):  # found among the few that are under way, not by walking over all
            filters.add("r.id IN (SELECT id FROM runs WHERE status IN ('created', 'running'))")
    if wanted.background is not None:
        filters.add("r.background = :background", background=int(wanted.background))
    if wanted.stop_reason is not None:
        filters.add("r.stop_reason = :stop_reason", stop_reason=wanted.stop_reason)
    if wanted.conversation_id is not None:
        filters.add("r.conversation_id = :conversation_id", conversation_id=wanted.conversation_id)
    if wanted.default_conversation:
        filters.add("r.conversation_id = r.agent_id")
    rows = yield from list_rows(_RUNS, filters, page, what="Run")
    return [run_from_row(row) for row in rows]


def delete_run(run_id: str) -> Tx[None]:
    """Delete a run that has ended, with its log, steps and traces; what was said stays in the conversation."""
    run = yield from run_by_id(run_id)
    if not (yield Query("delete_run", {"id": run_id})):
        raise Conflict(f"Run {run_id} has not ended. Cancel it first.", run_id=run_id)
    for name in _OF_A_RUN:
        yield Query(name, {"id": run_id, "conversation_id": run.conversation_id})
    yield Query("forget_request_key", {"conversation_id": run.conversation_id, "run_id": run_id})
