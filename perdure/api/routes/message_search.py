"""Searching what was said, in everybody's conversations or one agent's."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from perdure.api.archive_resources import message_found_json, message_result_json, search_headers
from perdure.api.errors import json_response
from perdure.api.from_wire import time_us
from perdure.api.services import services
from perdure.core.errors import Invalid
from perdure.runs.search import Outcome
from perdure.store.agents import check_agent
from perdure.store.message_search import FoundMessage, MessageSearch

router = APIRouter(tags=["messages"])

_ROLES = {"user", "assistant"}


class SearchMessages(BaseModel):
    query: str
    search_mode: Literal["vector", "fts", "hybrid"] = "hybrid"
    agent_id: str | None = None
    conversation_id: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 50
    start_date: str | None = None
    end_date: str | None = None


class SearchAgentsMessages(SearchMessages):
    """As older clients search. Without a query: the newest. `roles`: of whom."""

    query: str | None = None  # type: ignore[assignment]
    roles: list[str] | None = None


@router.post("/messages/search", operation_id="search_all_messages")
async def search(request: Request, body: SearchMessages) -> Response:
    """What people and agents said, the best first. The first search of an agent's messages begins to embed them."""
    outcome = await _search(request, body, ())
    found = [message_found_json(hit) for hit in outcome.found]
    return json_response(found, headers=search_headers(outcome))


@router.post("/agents/messages/search", operation_id="search_messages")
async def search_of_agents(request: Request, body: SearchAgentsMessages) -> Response:
    """As `/v1/messages/search`, each with its ranks."""
    roles = tuple(body.roles or ())
    if strange := set(roles) - _ROLES - {"system", "tool"}:
        raise Invalid(f"roles: {', '.join(sorted(strange))} is none of user, assistant", status=422)
    outcome = await _search(request, body, roles)
    found: list[dict[str, Any]] = [message_result_json(hit) for hit in outcome.found]
    return json_response(found, headers=search_headers(outcome))


async def _search(request: Request, body: SearchMessages, roles: tuple[str, ...]) -> Outcome[FoundMessage]:
    parts = services(request)
    if (agent_id := body.agent_id) is not None:
        await parts.store.read(lambda: check_agent(agent_id))
    wanted = MessageSearch(
        query=body.query,
        agent_id=agent_id,
        conversation_id=_conversation(body),
        roles=roles,
        from_us=time_us(body.start_date, "start_date"),
        to_us=time_us(body.end_date, "end_date", end_of_day=True),
        limit=body.limit,
    )
    return await parts.search.messages(wanted, body.search_mode)


def _conversation(body: SearchMessages) -> str | None:
    """`default` is the conversation of the agent itself."""
    if body.conversation_id != "default":
        return body.conversation_id
    if body.agent_id is None:
        raise Invalid("conversation_id: default needs an agent_id, whose conversation it is", status=422)
    return body.agent_id
