"""Making a conversation smaller because somebody asks for it, and telling what fills it.

A compaction that is asked for is a run like any other: it waits its turn, holds the conversation's lease and is on record.
"""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from perdure.agents.models import check_summarizer
from perdure.agents.pins import check_pins
from perdure.api.compaction_settings import compaction_settings
from perdure.api.context_overview import context_overview
from perdure.api.conversation_resources import Place, checked_conversation_id, place_of
from perdure.api.errors import json_response, run_error_response
from perdure.api.paging import AgentId
from perdure.api.services import Services, services
from perdure.core.agents import CompactionSettings
from perdure.core.errors import Conflict, Invalid
from perdure.core.events import RunFailed, Summarised
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message
from perdure.core.runs import Run, RunConfig
from perdure.memory.summary import summary_of
from perdure.runs.context_use import context_use
from perdure.store.base import Tx
from perdure.store.conversations import conversation_state
from perdure.store.messages import context_messages

router = APIRouter(tags=["compaction"])


class CompactionRequest(BaseModel):
    """`agent_id`: whose own history is meant where the path says `default`."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    compaction_settings: dict[str, Any] | None = None
    agent_id: str | None = None


@router.post("/agents/{agent_id}/summarize", operation_id="summarize_messages")
@router.post("/agents/{agent_id}/messages/compact", operation_id="compact_messages")
async def compact_agent(request: Request, agent_id: AgentId, body: CompactionRequest | None = None) -> Response:
    """Compact the agent's own history, after what is under way there."""
    settings = compaction_settings(body.compaction_settings if body is not None else None)
    return await _compact(services(request), Place(agent_id, agent_id), settings, wait=True)


@router.post("/conversations/{conversation_id}/compact", operation_id="compact_conversation")
async def compact_conversation(
    request: Request, conversation_id: str, body: CompactionRequest | None = None
) -> Response:
    """Compact a conversation; 409 while it is busy."""
    parts = services(request)
    wanted = checked_conversation_id(conversation_id, body.agent_id if body is not None else None)
    settings = compaction_settings(body.compaction_settings if body is not None else None)
    place = await parts.store.read(lambda: place_of(wanted))
    return await _compact(parts, place, settings, wait=False)


async def _compact(parts: Services, place: Place, settings: CompactionSettings | None, *, wait: bool) -> Response:
    await check_summarizer(parts.registry, settings)
    context = await parts.store.scan(lambda: _context(place, settings))
    if not context:
        raise Invalid(f"Nothing is in the context of {place.conversation_id}: there is nothing to compact.")
    if all(message.role in ("system", "summary") for message in context):
        return json_response(_answer(summary_of(context[-1]) if len(context) > 1 else "", len(context), len(context)))
    config = RunConfig(compact_only=True, compaction=settings, include_compaction_messages=True)
    run = Run(
        id=new_id("run"),
        agent_id=place.agent_id,
        conversation_id=place.conversation_id,
        status="created",
        created_us=now_us(),
        config=config,
        metadata={"run_type": "compact_messages"},
    )
    submitted = await parts.runner.submit(run, (), (), wait=wait)
    events = await parts.runner.outcome(submitted.run_id)
    if (failed := next((event for event in events if isinstance(event, RunFailed)), None)) is not None:
        ended = await parts.runner.run(run.id)
        return run_error_response(failed, ended.error or {})
    summarised = next((event for event in events if isinstance(event, Summarised)), None)
    if summarised is None or summarised.stats is None:
        raise Conflict(f"Run {run.id} was cancelled before the conversation was compacted.", run_id=run.id)
    stats = summarised.stats
    return json_response(_answer(summarised.summary, stats.messages_before, stats.messages_after))


def _context(place: Place, settings: CompactionSettings | None) -> Tx[list[Message]]:
    yield from check_pins(place.agent_id, settings)
    state = yield from conversation_state(place.conversation_id)
    return (yield from context_messages(state.id, state.head_ids, state.tail_from))


def _answer(summary: str, before: int, after: int) -> dict[str, Any]:
    return {"summary": summary, "num_messages_before": before, "num_messages_after": after}


@router.get("/agents/{agent_id}/context", operation_id="retrieve_agent_context_window")
async def agent_context(request: Request, agent_id: AgentId, conversation_id: str | None = None) -> Response:
    """What fills the context window, token by token; `conversation_id` for another conversation than the agent's own."""
    parts = services(request)
    wanted = agent_id if conversation_id in (None, "default") else checked_conversation_id(conversation_id)
    use = await context_use(parts.store, parts.registry, wanted)
    if use.bundle.agent.id != agent_id:
        raise Invalid(f"conversation_id: {conversation_id} is no conversation of agent {agent_id}")
    return json_response(context_overview(use))


@router.get("/conversations/{conversation_id}/context", operation_id="retrieve_conversation_context_window")
async def conversation_context(request: Request, conversation_id: str, agent_id: str | None = None) -> Response:
    parts = services(request)
    wanted = checked_conversation_id(conversation_id, agent_id)
    return json_response(context_overview(await context_use(parts.store, parts.registry, wanted)))
