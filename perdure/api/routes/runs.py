"""Runs: look at them, their messages, steps and usage; delete ones that have ended."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from perdure.api.errors import json_response
from perdure.api.paging import Order, Page100
from perdure.api.run_resources import run_metrics, run_state, run_usage, step_json
from perdure.api.services import services
from perdure.api.to_wire import iso, letta_messages
from perdure.core.errors import NotFound
from perdure.core.messages import Message
from perdure.core.runs import Run, Step
from perdure.loop.shown import speech_of
from perdure.runs.turns import stored_turns
from perdure.store import agents, run_reads
from perdure.store import runs as run_store
from perdure.store.base import Tx
from perdure.store.callbacks import callback_of_run
from perdure.store.listing import Page
from perdure.store.messages import messages_of_run
from perdure.store.run_reads import ACTIVE, RunFilter
from perdure.store.steps import StepFilter, list_steps, steps_of_run

router = APIRouter(prefix="/runs", tags=["runs"])


class ListRunsQuery(Page100):
    limit: int | None = Field(100, ge=1, le=1000)
    agent_id: str | None = None
    agent_ids: list[str] | None = None
    statuses: list[Literal["created", "running", "completed", "failed", "cancelled"]] | None = None
    background: bool | None = None
    stop_reason: str | None = None
    conversation_id: str | None = None
    active: bool = False
    ascending: bool | None = None


class RunMessagesQuery(Page100):
    order: Order = "asc"


@router.get("", operation_id="list_runs")
async def list_runs(request: Request, query: Annotated[ListRunsQuery, Query()]) -> Response:
    return await _listed(request, query, query.statuses)


@router.get("/active", operation_id="list_active_runs", deprecated=True)
async def list_active(request: Request, query: Annotated[ListRunsQuery, Query()]) -> Response:
    return await _listed(request, query, ACTIVE)


async def _listed(request: Request, query: ListRunsQuery, statuses: Sequence[str] | None) -> Response:
    agents = [*(query.agent_ids or ()), *([query.agent_id] if query.agent_id is not None else ())]
    states = tuple(statuses) if statuses is not None else None
    if query.active:
        states = tuple(state for state in ACTIVE if states is None or state in states)
    wanted = RunFilter(
        agent_ids=tuple(agents) if agents else None,
        statuses=states,
        background=query.background,
        stop_reason=query.stop_reason,
        conversation_id=_conversation(query),
        default_conversation=query.conversation_id == "default",
    )
    page = query.page()
    if query.ascending is not None:
        page = Page(before=page.before, after=page.after, limit=page.limit, descending=not query.ascending)
    found = await services(request).store.scan(lambda: run_reads.list_runs(wanted, page))
    return json_response([run_state(run) for run in found])


def _conversation(query: ListRunsQuery) -> str | None:
    return None if query.conversation_id == "default" else query.conversation_id


@router.get("/{run_id}", operation_id="retrieve_run")
async def retrieve(request: Request, run_id: str) -> Response:
    """`metadata.result.turns` is the run's token record, where the request or its agent asked for token ids."""
    store = services(request).store
    run = await store.read(lambda: run_store.run_by_id(run_id))
    if run.config.return_token_ids or await store.read(lambda: agents.wants_token_ids(run.agent_id)):
        turns = await store.scan(lambda: stored_turns(run_id))
        metadata = dict(run.metadata or {})
        metadata["result"] = {**metadata.get("result", {}), "turns": turns}
        run = msgspec.structs.replace(run, metadata=metadata)
    state = run_state(run)
    if run.config.callback_url is not None and (told := await store.read(lambda: callback_of_run(run_id))) is not None:
        state["callback_sent_at"] = iso(told["sent_us"])
        state["callback_status_code"] = told["status_code"]
        state["callback_error"] = told["error"]
    return json_response(state)


@router.delete("/{run_id}", operation_id="delete_run")
async def delete(request: Request, run_id: str) -> Response:
    def tx() -> Tx[Run]:
        run = yield from run_store.run_by_id(run_id)
        yield from run_reads.delete_run(run_id)
        return run

    return json_response(run_state(await services(request).store.write(tx)))


@router.get("/{run_id}/messages", operation_id="list_messages_for_run")
async def messages(request: Request, run_id: str, query: Annotated[RunMessagesQuery, Query()]) -> Response:
    """What went into the run and came out of it. Cursors are message ids, in the order of the listing."""

    def tx() -> Tx[tuple[Run, list[Message]]]:
        run = yield from run_store.run_by_id(run_id)
        return run, (yield from messages_of_run(run_id))

    run, found = await services(request).store.scan(tx)
    page = cut(found, query.page(), "Message")
    config = run.config
    return json_response(
        letta_messages(
            page,
            types=config.include_return_message_types,
            compaction=config.include_compaction_messages,
            speech=speech_of(config),
        )
    )


def cut(messages: list[Message], page: Page, what: str) -> list[Message]:
    """One page of a whole list (oldest first). NotFound for a cursor that is not in it."""
    ordered = messages[::-1] if page.descending else messages
    ids = [message.id for message in ordered]
    for cursor in (page.after, page.before):
        if cursor is not None and cursor not in ids:
            raise NotFound(f"{what} {cursor} not found: it cannot be a cursor of this listing")
    start = ids.index(page.after) + 1 if page.after is not None else 0
    end = ids.index(page.before) if page.before is not None else len(ids)
    if page.limit is not None:
        if page.before is not None and page.after is None:
            start = max(start, end - page.limit)
        else:
            end = min(end, start + page.limit)
    return ordered[start:end]


@router.get("/{run_id}/usage", operation_id="retrieve_usage_for_run")
async def usage(request: Request, run_id: str) -> Response:
    run = await services(request).store.read(lambda: run_store.run_by_id(run_id))
    return json_response(run_usage(run.usage))


@router.get("/{run_id}/metrics", operation_id="retrieve_metrics_for_run")
async def metrics(request: Request, run_id: str) -> Response:
    def tx() -> Tx[tuple[Run, list[Message]]]:
        run = yield from run_store.run_by_id(run_id)
        return run, (yield from messages_of_run(run_id))

    run, found = await services(request).store.scan(tx)
    names = dict.fromkeys(call.name for message in found for call in message.tool_calls)
    return json_response(run_metrics(run, list(names)))


@router.get("/{run_id}/steps", operation_id="list_steps_for_run")
async def steps(request: Request, run_id: str, query: Annotated[Page100, Query()]) -> Response:
    def tx() -> Tx[list[Step]]:
        yield from run_store.run_by_id(run_id)
        return (yield from list_steps(StepFilter(run_id=run_id), query.page()))

    return json_response([step_json(step) for step in await services(request).store.scan(tx)])


@router.get("/{run_id}/trace", operation_id="retrieve_trace_for_run")
async def trace(request: Request, run_id: str, limit: Annotated[int, Query(ge=1)] = 1000) -> Response:
    """The run as spans: the run itself, each step, its model call and its tools' time."""

    def tx() -> Tx[tuple[Run, list[Step]]]:
        run = yield from run_store.run_by_id(run_id)
        return run, (yield from steps_of_run(run_id))

    run, found = await services(request).store.scan(tx)
    return json_response(spans(run, found)[:limit])


def spans(run: Run, steps: list[Step]) -> list[dict[str, object]]:
    """Times are nanoseconds since the epoch; what did not happen has no span."""
    start = run.created_us * 1000
    found = [_span(run.id, None, "run", start, run.total_duration_ns, {"agent_id": run.agent_id, "status": run.status})]
    for step in steps:
        begun = step.step_start_ns or step.created_us * 1000
        found.append(_span(step.id, run.id, "step", begun, step.step_ns, {"model": step.model, "status": step.status}))
        if step.llm_request_ns is not None:
            at = step.llm_request_start_ns or begun
            found.append(
                _span(f"{step.id}.llm", step.id, "llm_request", at, step.llm_request_ns, {"model": step.model})
            )
            if step.tool_execution_ns:
                tools_at = at + step.llm_request_ns
                found.append(_span(f"{step.id}.tools", step.id, "tool_execution", tools_at, step.tool_execution_ns, {}))
    return found


def _span(
    span_id: str, parent: str | None, name: str, start_ns: int, duration_ns: int | None, attributes: dict[str, object]
) -> dict[str, object]:
    return {
        "span_id": span_id,
        "parent_span_id": parent,
        "name": name,
        "start_time_ns": start_ns,
        "duration_ns": duration_ns,
        "attributes": attributes,
    }
