"""Steps as read back: one, lists, their traces and the feedback people gave. A run's worker writes them."""

import msgspec
from msgspec import Struct

from perdure.core.errors import NotFound, StoreError
from perdure.core.runs import Step, StopReason
from perdure.core.traces import restored
from perdure.store.base import Query, Row, Tx
from perdure.store.listing import Filters, Page, Source, list_rows

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Step).decode
_STEPS = Source("s.body, s.feedback", "steps", "s")


class StepFilter(Struct, frozen=True, kw_only=True):
    """None: not filtered by. Dates are microseconds, both ends included."""

    run_id: str | None = None
    agent_id: str | None = None
    model: str | None = None
    feedback: str | None = None
    has_feedback: bool | None = None
    from_us: int | None = None
    to_us: int | None = None
    tags: tuple[str, ...] = ()
    trace_ids: tuple[str, ...] | None = None


class Trace(Struct, frozen=True):
    """What went to the provider and what came back: JSON bytes."""

    created_us: int
    request: bytes
    response: bytes


def _step(row: Row) -> Step:
    return msgspec.structs.replace(_decode(row[0]), feedback=row[1])


def step_by_id(step_id: str) -> Tx[Step]:
    rows = yield Query("step_by_id", {"id": step_id})
    if not rows:
        raise NotFound(f"Step {step_id} not found")
    return _step(rows[0])


def steps_of_run(run_id: str) -> Tx[list[Step]]:
    """All of them, oldest first."""
    rows = yield Query("steps_of_run", {"run_id": run_id})
    return [_step(row) for row in rows]


def stop_of_last_step(run_id: str) -> Tx[StopReason | None]:
    """Why the run's last step of the agent's own ended it, if it did."""
    steps = yield from steps_of_run(run_id)
    own = [step for step in steps if step.call_type == "agent_step"]
    return own[-1].stop_reason if own and own[-1].status == "success" else None


def list_steps(wanted: StepFilter, page: Page) -> Tx[list[Step]]:
    filters = Filters()
    for column in ("run_id", "agent_id", "model", "feedback"):
        if (value := getattr(wanted, column)) is not None:
            filters.add(f"s.{column} = :{column}", **{column: value})
    if wanted.has_feedback is not None:
        filters.add(f"s.feedback IS {'NOT ' if wanted.has_feedback else ''}NULL")
    if wanted.from_us is not None:
        filters.add("s.created_us >= :from_us", from_us=wanted.from_us)
    if wanted.to_us is not None:
        filters.add("s.created_us <= :to_us", to_us=wanted.to_us)
    if not wanted.tags and wanted.trace_ids is None:
        rows = yield from list_rows(_STEPS, filters, page, what="Step")
        return [_step(row) for row in rows]
    return (yield from _sift(wanted, filters, page))


def _sift(wanted: StepFilter, filters: Filters, page: Page) -> Tx[list[Step]]:
    """Tags and trace ids lie in the body: read page after page and keep what fits, until there is enough."""
    backwards = page.before is not None and page.after is None
    kept: list[Step] = []
    while True:
        rows = yield from list_rows(_STEPS, filters, msgspec.structs.replace(page, limit=500), what="Step")
        steps = [_step(row) for row in rows]
        fitting = [step for step in steps if _fits(step, wanted)]
        kept = fitting + kept if backwards else kept + fitting
        if len(steps) < 500 or (page.limit is not None and len(kept) >= page.limit):
            break
        cursor = {"before": steps[0].id} if backwards else {"after": steps[-1].id}
        page = msgspec.structs.replace(page, **cursor)
    if page.limit is None:
        return kept
    return kept[max(len(kept) - page.limit, 0) :] if backwards else kept[: page.limit]


def _fits(step: Step, wanted: StepFilter) -> bool:
    if wanted.trace_ids is not None and step.trace_id not in wanted.trace_ids:
        return False
    return not wanted.tags or not set(wanted.tags).isdisjoint(step.tags)


def give_feedback(step_id: str, feedback: str | None, tags: tuple[str, ...]) -> Tx[Step]:
    """Set the verdict and add tags; tags already there stay."""
    step = yield from step_by_id(step_id)
    changed = msgspec.structs.replace(step, feedback=feedback, tags=tuple(dict.fromkeys((*step.tags, *tags))))
    yield Query("set_feedback", {"id": step_id, "feedback": feedback, "body": _encode(changed)})
    return changed


def trace_of_step(step_id: str) -> Tx[Trace | None]:
    """NotFound for an unknown step; None when its trace was not kept."""
    yield from step_by_id(step_id)
    rows = yield Query("trace_of_step", {"step_id": step_id})
    if not rows:
        return None
    created_us, request, response, base_id, base = rows[0]
    if base_id is not None:
        if base is None:
            raise StoreError(f"The request of {step_id} cannot be read: what it was kept against, {base_id}, is gone.")
        request = restored(request, base)
    return Trace(created_us, request, response)
