"""Reading what was said, taking up a run's stream again, and ending runs."""

import asyncio
from typing import Any

import msgspec
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from perdure.agents.boot import boot_sequence
from perdure.api.endpoint import route
from perdure.api.message_requests import MESSAGE_TYPES, decode_cancel, decode_reset, decode_stream, wrong
from perdure.api.routes.messages import checked_agent_id
from perdure.api.services import services
from perdure.api.sse import EventStream
from perdure.api.to_wire import letta_messages
from perdure.core.errors import Conflict, Invalid, NotFound
from perdure.core.ids import matches, now_us
from perdure.loop.shown import SEND_MESSAGE, Speech
from perdure.runs.context import system_message
from perdure.store import agents, conversations, message_reads, messages
from perdure.store.approvals import forget_request, parked_runs
from perdure.store.base import Tx
from perdure.store.events import check_log
from perdure.store.runs import active_runs

_encode = msgspec.json.Encoder().encode


def _json(value: Any) -> Response:
    return Response(_encode(value), media_type="application/json")


def message_page(query: QueryParams) -> dict[str, Any]:
    """`before`, `after`, `limit`, `order` of a message listing. Invalid (422) names the wrong one."""
    text = query.get("limit", "100")
    if not text.lstrip("-").isdigit() or int(text) < 1:
        raise wrong("limit", f"must be a whole number of 1 or more, not {text!r}")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise wrong("order", f"must be asc or desc, not {order!r}")
    return {
        "before": query.get("before") or None,
        "after": query.get("after") or None,
        "limit": int(text),
        "newest": order == "desc" and not query.get("after"),
    }


def message_types(query: QueryParams) -> list[str] | None:
    kinds = query.getlist("include_return_message_types")
    for kind in kinds:
        if kind not in MESSAGE_TYPES:
            raise wrong("include_return_message_types", f"{kind!r} is no message type")
    return kinds or None


def listed_speech(query: QueryParams) -> Speech:
    """How a listing is to show what older agents say."""
    wanted = query.get("use_assistant_message", "true").lower()
    if wanted not in ("true", "false", "1", "0"):
        raise wrong("use_assistant_message", f"{wanted!r} is neither true nor false")
    if wanted in ("false", "0"):
        return Speech(None)
    return Speech(
        query.get("assistant_message_tool_name") or SEND_MESSAGE.tool,
        query.get("assistant_message_tool_kwarg") or SEND_MESSAGE.argument,
    )


async def list_agent_messages(request: Request) -> ASGIApp:
    """`GET /v1/agents/{agent_id}/messages`: a page, oldest first; `order` says which end it is taken from."""
    store = services(request).store
    agent_id = checked_agent_id(request.path_params["agent_id"])
    await store.read(lambda: agents.agent_by_id(agent_id))
    page, types = message_page(request.query_params), message_types(request.query_params)
    conversation_id = request.query_params.get("conversation_id")
    if conversation_id == "default":
        conversation_id = agent_id
    found = await store.scan(
        lambda: message_reads.list_messages(agent_id=agent_id, conversation_id=conversation_id, **page)
    )
    return _json(letta_messages(found, types=types, speech=listed_speech(request.query_params)))


async def list_all_messages(request: Request) -> ASGIApp:
    """`GET /v1/messages/`: across agents, a page, oldest first."""
    store = services(request).store
    page, types = message_page(request.query_params), message_types(request.query_params)
    conversation_id = request.query_params.get("conversation_id")
    found = await store.scan(lambda: message_reads.list_messages(conversation_id=conversation_id, **page))
    return _json(letta_messages(found, types=types))


async def retrieve_message(request: Request) -> ASGIApp:
    """`GET /v1/messages/{message_id}`: the message as the list of parts a client sees."""
    message_id = request.path_params["message_id"]
    if not matches("message", message_id):
        raise Invalid(
            f"message_id: {message_id!r} should match pattern 'message-{{uuid4}}'",
            status=422,
            examples=["message-123e4567-e89b-42d3-8456-426614174000"],
        )
    found = await services(request).store.read(lambda: messages.message_by_id(message_id))
    if found is None:
        raise NotFound(f"Message {message_id} not found")
    return _json(letta_messages([found[1]]))


async def reset_messages(request: Request) -> ASGIApp:
    """`PATCH /v1/agents/{agent_id}/reset-messages`: an empty history, or as it began; the token record stays."""
    parts = services(request)
    agent_id = checked_agent_id(request.path_params["agent_id"])
    wanted = decode_reset(await request.body())
    bundle = await parts.store.read(lambda: agents.agent_bundle(agent_id))
    text = await parts.runner.contexts.compile(bundle, None)
    revision, now = bundle.agent.revision, now_us()

    def reset() -> Tx[None]:
        state = yield from conversations.conversation_state(agent_id)
        if state.active_run_id is not None and state.lease_until_us >= now:
            raise Conflict(
                f"Agent {agent_id} is answering a message; cancel run {state.active_run_id} or wait for its end.",
                run_id=state.active_run_id,
            )
        found = yield from messages.message_by_id(state.head_ids[0]) if state.head_ids else _none()
        system = system_message(text, agent_id, agent_id, replacing=found[1] if found else None)
        if found:
            yield from messages.rewrite_message(system)
        else:
            yield from messages.insert_messages((system,))
        yield from message_reads.delete_messages(agent_id, but=system.id)
        yield from forget_request(agent_id)
        first = boot_sequence(bundle.agent, bundle.tools) if wanted.add_default_initial_messages else ()
        yield from messages.insert_messages(first)
        ids = (system.id, *(message.id for message in first))
        yield from conversations.set_context(
            agent_id, ids, cause="reset: messages reset", compiled_revision=revision, now=now
        )

    await parts.store.write(reset)
    return _json(None)


def _none() -> Tx[None]:
    return None
    yield  # a transaction that asks for nothing


async def resume_stream(request: Request) -> ASGIApp:
    """`POST /v1/runs/{run_id}/stream`: the events after `starting_after`, then live."""
    parts = services(request)
    body = decode_stream(await request.body())
    run = await parts.runner.run(request.path_params["run_id"])
    if not run.background:
        raise Invalid(f"Run {run.id} was not created in background mode, so it cannot be streamed again.")
    await parts.store.read(lambda: check_log(run))
    return EventStream(
        parts.runner,
        run,
        after=body.starting_after,
        pings=body.include_pings,
        ping_interval_s=parts.settings.ping_interval_s,
    )


async def cancel_messages(request: Request) -> ASGIApp:
    """`POST /v1/agents/{agent_id}/messages/cancel`: run id -> "cancelled"; all active runs unless `run_ids` names some."""
    parts = services(request)
    agent_id = checked_agent_id(request.path_params["agent_id"])
    run_ids = decode_cancel(await request.body()).run_ids
    if run_ids is None:
        active = await parts.store.read(lambda: active_runs(agent_id=agent_id))
        parked = await parts.store.read(lambda: parked_runs(agent_id))
        run_ids = [*(run_id for run_id, _, _ in active), *parked]
    if not run_ids:
        raise Conflict(f"Agent {agent_id} has no active runs to cancel.")
    await asyncio.gather(*(parts.runner.cancel(run_id) for run_id in dict.fromkeys(run_ids)))
    return _json(dict.fromkeys(run_ids, "cancelled"))


class _MessageId(StringConvertor):
    """A path under /v1/messages that is not another resource's."""

    regex = "(?!batches$)[^/]+"


register_url_convertor("message_id", _MessageId())

routes = [
    route("GET", "/v1/agents/{agent_id}/messages", list_agent_messages, "list_messages"),
    route("POST", "/v1/agents/{agent_id}/messages/cancel", cancel_messages, "cancel_message"),
    route("PATCH", "/v1/agents/{agent_id}/reset-messages", reset_messages, "reset_messages"),
    route("GET", "/v1/messages", list_all_messages, "list_all_messages"),
    route("GET", "/v1/messages/{message_id:message_id}", retrieve_message, "retrieve_message"),
    route("POST", "/v1/runs/{run_id}/stream", resume_stream, "retrieve_run_stream"),
]
