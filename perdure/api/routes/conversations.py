"""Conversations: create, look at, change, delete, fork, recompile. What is said in them: `conversation_messages.py`."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from perdure.agents.conversations import create_conversation, update_conversation
from perdure.agents.fork import fork_conversation
from perdure.agents.recompile import compiled_text, recompile
from perdure.api.conversation_resources import (
    cancellable_runs,
    checked_conversation_id,
    conversation_change,
    conversation_json,
    conversation_spec,
    own_conversation_id,
    place_of,
)
from perdure.api.errors import json_response
from perdure.api.services import Services, services
from perdure.api.wire.conversations import (
    CreateConversation,
    CreateConversationQuery,
    ForkQuery,
    ListConversationsQuery,
    RecompileConversation,
    RecompileConversationQuery,
    UpdateConversation,
)
from perdure.core.ids import now_us
from perdure.store.conversation_edits import delete_conversation
from perdure.store.conversation_reads import ConversationFilter, conversation_view, list_conversations
from perdure.store.listing import Page

router = APIRouter(prefix="/conversations", tags=["conversations"])

_ORDER_COLUMNS = {
    "created_at": "created_us",
    "last_run_completion": "last_run_us",
    "last_message_at": "last_message_us",
}
_ARCHIVED = {"unarchived": False, "archived": True, "all": None}


@router.post("", operation_id="create_conversation")
async def create(
    request: Request, query: Annotated[CreateConversationQuery, Query()], body: CreateConversation | None = None
) -> Response:
    parts = services(request)
    spec = conversation_spec(query.agent_id, body or CreateConversation.model_validate({}))
    return json_response(conversation_json(await create_conversation(parts.store, parts.registry, spec)))


@router.get("", operation_id="list_conversations")
async def list_all(request: Request, query: Annotated[ListConversationsQuery, Query()]) -> Response:
    """Hidden ones only with `include_hidden`; an agent's own history is not among them."""
    wanted = ConversationFilter(
        agent_id=query.agent_id,
        archived=_ARCHIVED[query.archive_status],
        summary_search=query.summary_search,
        with_hidden=query.include_hidden,
    )
    page = Page(
        before=query.before,
        after=query.after,
        limit=query.limit,
        descending=query.order == "desc",
        order_by=_ORDER_COLUMNS[query.order_by],
    )
    views = await services(request).store.scan(lambda: list_conversations(wanted, page))
    return json_response([conversation_json(view) for view in views])


@router.get("/{conversation_id}", operation_id="retrieve_conversation")
async def retrieve(request: Request, conversation_id: str, agent_id: str | None = None) -> Response:
    wanted = checked_conversation_id(conversation_id, agent_id)
    return json_response(conversation_json(await services(request).store.read(lambda: conversation_view(wanted))))


@router.patch("/{conversation_id}", operation_id="update_conversation")
async def update(request: Request, conversation_id: str, body: UpdateConversation) -> Response:
    parts = services(request)
    wanted = own_conversation_id(conversation_id)
    view = await update_conversation(parts.store, parts.registry, wanted, conversation_change(body))
    return json_response(conversation_json(view))


@router.delete("/{conversation_id}", operation_id="delete_conversation")
async def delete(request: Request, conversation_id: str) -> Response:
    """Its runs end, what waits for approval is denied, its own blocks go. Forks of it keep what they share."""
    parts = services(request)
    wanted = own_conversation_id(conversation_id)
    await parts.store.read(lambda: place_of(wanted))
    await _end_runs(parts, wanted)
    await parts.store.write(lambda: delete_conversation(wanted, now_us()))
    await _end_runs(parts, wanted)  # what was accepted between the two
    return json_response(None)


async def _end_runs(parts: Services, conversation_id: str) -> None:
    for run_id in await parts.store.read(lambda: cancellable_runs(conversation_id)):
        await parts.runner.cancel(run_id)


@router.post("/{conversation_id}/fork", operation_id="fork_conversation")
async def fork(request: Request, conversation_id: str, query: Annotated[ForkQuery, Query()]) -> Response:
    """A new conversation that goes on from this one, sharing what was said; up to `message_id` where that is given."""
    source_id = checked_conversation_id(conversation_id, query.agent_id)
    view = await services(request).store.write(
        lambda: fork_conversation(source_id, message_id=query.message_id, hidden=query.hidden)
    )
    return json_response(conversation_json(view))


@router.post("/{conversation_id}/recompile", operation_id="recompile_conversation")
async def recompile_prompt(
    request: Request,
    conversation_id: str,
    query: Annotated[RecompileConversationQuery, Query()],
    body: RecompileConversation | None = None,
) -> Response:
    """The compiled system prompt. `dry_run` leaves the stored one alone."""
    store = services(request).store
    wanted = checked_conversation_id(conversation_id, body.agent_id if body is not None else None)
    if query.dry_run:
        return json_response(await store.read(lambda: compiled_text(wanted)))
    return json_response(await store.write(lambda: recompile(wanted, "it was asked for")))
