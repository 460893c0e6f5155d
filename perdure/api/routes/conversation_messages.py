"""What is said in a conversation: sending, reading, taking a stream up again, cancelling.

One request at a time: a conversation that is busy answers 409 with the run it is busy with. Plain Starlette routes, as those
of `messages.py`.
"""

import asyncio

from starlette.requests import Request
from starlette.types import ASGIApp

from perdure.api.conversation_resources import Place, cancellable_runs, checked_conversation_id, place_of
from perdure.api.endpoint import route
from perdure.api.errors import json_response
from perdure.api.message_requests import StreamRequest, check_not_streaming, decode_send, decode_stream
from perdure.api.routes.messages import answer_run, stream_run
from perdure.api.routes.streams import message_page, message_types
from perdure.api.services import Services, services
from perdure.api.sse import EventStream
from perdure.api.to_wire import letta_messages
from perdure.core.errors import Conflict, Invalid, NotFound
from perdure.store import message_reads
from perdure.store.events import check_log
from perdure.store.runs import active_runs, run_of_otid

OTID_WAIT_S = 1.75
OTID_POLL_S = 0.05


async def _place(request: Request, agent_id: str | None) -> Place:
    wanted = checked_conversation_id(request.path_params["conversation_id"], agent_id)
    return await services(request).store.read(lambda: place_of(wanted))


async def send(request: Request) -> ASGIApp:
    """`POST /v1/conversations/{conversation_id}/messages`: stream the run, or wait for it (`streaming: false`)."""
    body = decode_send(await request.body(), request.headers.get("idempotency-key"))
    if body.streaming is False:
        check_not_streaming(body)
    place = await _place(request, body.agent_id)
    how = answer_run if body.streaming is False else stream_run
    return await how(services(request), body, place.agent_id, place.conversation_id, wait=False)


async def list_messages(request: Request) -> ASGIApp:
    """`GET /v1/conversations/{conversation_id}/messages`: newest first, or oldest first with `order=asc`.

    `after` goes on from a message in that order, so that every page follows the one before; `before` is always older.
    `default` lists as `GET /v1/agents/{agent_id}/messages` does: a page, oldest first.
    """
    query = request.query_params
    page, types = message_page(query), message_types(query)
    place = await _place(request, query.get("agent_id"))
    newest_first = query.get("order", "desc") == "desc" and not place.is_default
    if newest_first:
        if page["after"] and not page["before"]:
            page["before"], page["after"] = page["after"], None
        page["newest"] = True
    found = await services(request).store.scan(
        lambda: message_reads.list_messages(
            agent_id=place.agent_id,
            conversation_id=place.conversation_id,
            strict_cursor=place.is_default,
            **page,
        )
    )
    return json_response(letta_messages(found[::-1] if newest_first else found, types=types))


async def resume_stream(request: Request) -> ASGIApp:
    """`POST /v1/conversations/{conversation_id}/stream`: a run's events after `starting_after`, then live.

    The run is the one named by `run_id` or `otid`, else the newest that has not ended. Any client may follow it.
    """
    parts = services(request)
    body = decode_stream(await request.body())
    place = await _place(request, body.agent_id)
    run = await parts.runner.run(body.run_id or await _run_to_follow(parts, place, body))
    if run.conversation_id != place.conversation_id:
        raise NotFound(f"run_id: run {run.id} is not of conversation {place.conversation_id}")
    await parts.store.read(lambda: check_log(run))
    return EventStream(
        parts.runner,
        run,
        after=body.starting_after,
        pings=body.include_pings,
        ping_interval_s=parts.settings.ping_interval_s,
        numbered=True,
    )


async def _run_to_follow(parts: Services, place: Place, body: StreamRequest) -> str:
    if body.otid is not None:
        return await _run_of_otid(parts, place, body.otid)
    active = await parts.store.read(lambda: active_runs(conversation_id=place.conversation_id))
    if not active:
        raise Invalid(f"No active runs found for conversation {place.conversation_id}.")
    return active[-1][0]


async def _run_of_otid(parts: Services, place: Place, otid: str) -> str:
    """The request may still be on its way here, so it is waited for a moment."""
    for _ in range(round(OTID_WAIT_S / OTID_POLL_S) + 1):
        run_id = await parts.store.read(lambda: run_of_otid(place.conversation_id, otid))
        if run_id is not None:
            return run_id
        await asyncio.sleep(OTID_POLL_S)
    raise NotFound(f"otid: no run of conversation {place.conversation_id} has a message with otid {otid!r}")


async def cancel(request: Request) -> ASGIApp:
    """`POST /v1/conversations/{conversation_id}/cancel`: run id -> "cancelled", of every run that has not ended or waits for
    an approval."""
    parts = services(request)
    place = await _place(request, request.query_params.get("agent_id"))
    run_ids = await parts.store.read(lambda: cancellable_runs(place.conversation_id))
    if not run_ids:
        raise Conflict(f"Conversation {place.conversation_id} has no active runs to cancel.")
    for run_id in run_ids:
        await parts.runner.cancel(run_id)
    return json_response(dict.fromkeys(run_ids, "cancelled"))


_PATH = "/v1/conversations/{conversation_id}"
routes = [
    route("POST", f"{_PATH}/messages", send, "send_conversation_message"),
    route("GET", f"{_PATH}/messages", list_messages, "list_conversation_messages"),
    route("POST", f"{_PATH}/stream", resume_stream, "retrieve_conversation_stream"),
    route("POST", f"{_PATH}/cancel", cancel, "cancel_conversation"),
]
