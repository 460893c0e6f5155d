"""Steps: look at them, their timings, traces and messages; say what one thinks of them."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from perdure.api.errors import json_response
from perdure.api.from_wire import time_us
from perdure.api.paging import Order, Page100, PageQuery, StepId
from perdure.api.routes.runs import cut
from perdure.api.run_resources import provider_trace, step_json, step_metrics
from perdure.api.services import services
from perdure.api.to_wire import letta_messages
from perdure.core.messages import Message
from perdure.core.runs import Step
from perdure.store import steps as step_store
from perdure.store.base import Tx
from perdure.store.messages import messages_of_run
from perdure.store.steps import StepFilter, Trace

router = APIRouter(prefix="/steps", tags=["steps"])

Feedback = Literal["positive", "negative"]


class ListStepsQuery(PageQuery):
    start_date: str | None = None
    end_date: str | None = None
    model: str | None = None
    agent_id: str | None = None
    trace_ids: list[str] | None = None
    feedback: Feedback | None = None
    has_feedback: bool | None = None
    tags: list[str] | None = None
    project_id: str | None = None


class GiveFeedback(BaseModel):
    feedback: Feedback | None = None
    tags: list[str] | None = None


class StepMessagesQuery(Page100):
    order: Order = "asc"


@router.get("", operation_id="list_steps")
async def list_steps(request: Request, query: Annotated[ListStepsQuery, Query()]) -> Response:
    wanted = StepFilter(
        agent_id=query.agent_id,
        model=query.model,
        feedback=query.feedback,
        has_feedback=query.has_feedback,
        from_us=time_us(query.start_date, "start_date"),
        to_us=time_us(query.end_date, "end_date", end_of_day=True),
        tags=tuple(query.tags or ()),
        trace_ids=tuple(query.trace_ids) if query.trace_ids is not None else None,
    )
    found = await services(request).store.scan(lambda: step_store.list_steps(wanted, query.page()))
    return json_response([step_json(step) for step in found])


@router.get("/{step_id}", operation_id="retrieve_step")
async def retrieve(request: Request, step_id: StepId) -> Response:
    return json_response(step_json(await services(request).store.read(lambda: step_store.step_by_id(step_id))))


@router.get("/{step_id}/metrics", operation_id="retrieve_metrics_for_step")
async def metrics(request: Request, step_id: StepId) -> Response:
    return json_response(step_metrics(await services(request).store.read(lambda: step_store.step_by_id(step_id))))


@router.get("/{step_id}/trace", operation_id="retrieve_trace_for_step")
async def trace(request: Request, step_id: StepId) -> Response:
    """What went to the provider and came back; null when it was not kept."""

    def tx() -> Tx[tuple[Step, Trace | None]]:
        step = yield from step_store.step_by_id(step_id)
        return step, (yield from step_store.trace_of_step(step_id))

    step, found = await services(request).store.read(tx)
    return json_response(provider_trace(step, found) if found is not None else None)


@router.patch("/{step_id}/feedback", operation_id="modify_feedback_for_step")
async def feedback(request: Request, step_id: StepId, body: GiveFeedback) -> Response:
    tags = tuple(body.tags or ())
    step = await services(request).store.write(lambda: step_store.give_feedback(step_id, body.feedback, tags))
    return json_response(step_json(step))


@router.get("/{step_id}/messages", operation_id="list_messages_for_step")
async def messages(request: Request, step_id: StepId, query: Annotated[StepMessagesQuery, Query()]) -> Response:
    def tx() -> Tx[list[Message]]:
        step = yield from step_store.step_by_id(step_id)
        found = yield from messages_of_run(step.run_id)
        return [message for message in found if message.step_id == step_id]

    found = await services(request).store.scan(tx)
    return json_response(letta_messages(cut(found, query.page(), "Message")))
