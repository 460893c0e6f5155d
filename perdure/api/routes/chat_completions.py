"""`POST /v1/chat/completions`: an agent as the model of any OpenAI client.

The same path as every message: the request becomes a run, and the answer is a reading of its event log.
"""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from perdure.api.chat_completions import Choice, ChunkEncoder, completion
from perdure.api.chat_requests import decode_chat, first_tools, request_settings, send_request
from perdure.api.endpoint import route
from perdure.api.errors import run_error_response
from perdure.api.message_requests import Overrides, check_send
from perdure.api.openai_errors import ChatInvalid, in_openai_shape, openai_response
from perdure.api.routes.messages import submit
from perdure.api.services import Services, services
from perdure.api.sse import EventStream
from perdure.core.agents import Agent
from perdure.core.conversations import agent_in
from perdure.core.errors import Conflict, NotFound
from perdure.core.ids import matches
from perdure.core.runs import Run
from perdure.store import agents
from perdure.store.agents import AgentFilter
from perdure.store.base import Tx
from perdure.store.conversation_reads import conversation_by_id
from perdure.store.listing import Page

_encode = msgspec.json.Encoder().encode


async def create(request: Request) -> ASGIApp:
    """Chat with an agent: `model` is its id or name, or a conversation's id. Only what is new in `messages` is sent to it."""
    try:
        return await _create(request)
    except Exception as error:  # in this route's own shape, whatever it is
        return openai_response(error)


async def _create(request: Request) -> ASGIApp:
    parts = services(request)
    body = decode_chat(await request.body())
    agent, conversation_id = await parts.store.read(lambda: _addressed(body.model))
    sent = send_request(body, otid=request.headers.get("idempotency-key"))
    check_send(sent)
    run, submitted = await submit(
        parts,
        sent,
        agent.id,
        conversation_id,
        streaming=bool(body.stream),
        background=False,
        wait=True,
        overrides=Overrides(request_settings(body), first_tools(body)),
    )
    if submitted.attached:
        await submitted.durable
        run = await parts.runner.run(submitted.run_id)
    choice = _choice(agent, run)
    head = {"id": f"chatcmpl-{run.id}", "created": run.created_us // 1_000_000, "model": body.model}
    if not body.stream:
        return await _whole(parts, run, head, choice)
    options = body.stream_options
    return EventStream(
        parts.runner,
        run,
        durable=submitted.durable,
        ping_interval_s=parts.settings.ping_interval_s,
        encoder=ChunkEncoder(head, choice, include_usage=options is not None and options.include_usage),
    )


def _addressed(model: str) -> Tx[tuple[Agent, str]]:
    """The agent that `model` names, and the conversation: an agent's id or name, or a conversation's id."""
    if matches("conv", model):
        conversation = yield from conversation_by_id(model)
        agent = yield from agents.agent_by_id(conversation.agent_id)
        return agent_in(agent, conversation.settings), model
    if matches("agent", model):
        try:
            agent = yield from agents.agent_by_id(model)
        except NotFound as error:
            raise _no_such_model(model) from error
        return agent, agent.id
    views = yield from agents.list_agents(
        AgentFilter(name=model, with_hidden=True), Page(limit=2), blocks=False, tools=False, tags=False
    )
    if not views:
        raise _no_such_model(model)
    if len(views) > 1:
        raise ChatInvalid(f"model: several agents are named {model!r}; give the id of one", param="model")
    return views[0].bundle.agent, views[0].bundle.agent.id


def _no_such_model(model: str) -> ChatInvalid:
    message = f"model: there is no agent {model!r}; give the id or the name of one, or a conversation's id"
    return ChatInvalid(message, param="model", code="model_not_found", status=404)


def _choice(agent: Agent, run: Run) -> Choice:
    settings = run.config.override_settings or {}
    wanted = settings.get("response_format") or agent.model_settings.response_format or {}
    return Choice(
        client_tools=frozenset(tool.name for tool in run.config.client_tools),
        whole=wanted.get("type", "text") != "text",
    )


async def _whole(parts: Services, run: Run, head: dict[str, Any], choice: Choice) -> Response:
    events = await parts.runner.outcome(run.id)
    answer = completion(head, events, choice)
    if choice.failed is not None:
        ended = await parts.runner.run(run.id)
        return in_openai_shape(run_error_response(choice.failed, ended.error or {}))
    if choice.stop is None:
        raise Conflict(f"Run {run.id} is still going on elsewhere; look at it again.", run_id=run.id)
    return Response(_encode(answer), media_type="application/json")


routes = [route("POST", "/v1/chat/completions", create, "create_chat_completion")]
