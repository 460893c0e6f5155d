"""Sending messages: one path for every way of waiting. A request becomes a run; the answer is a reading of its event log.

Plain Starlette routes: this is the server's hot path.
"""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from perdure.api.endpoint import route
from perdure.api.errors import run_error_response
from perdure.api.frames import response
from perdure.api.input_messages import input_messages
from perdure.api.message_requests import Overrides, SendRequest, check_not_streaming, decode_send, run_config
from perdure.api.model_settings import model_settings
from perdure.api.run_resources import run_state
from perdure.api.services import Services, services
from perdure.api.sse import EventStream
from perdure.core.agents import Agent, ModelSettings
from perdure.core.conversations import agent_in, settings_over
from perdure.core.errors import Conflict, Invalid
from perdure.core.events import RunFailed, RunStopped
from perdure.core.ids import matches, new_id, now_us
from perdure.core.runs import Run
from perdure.providers.images import fetched, has_addresses, has_images, takes_images
from perdure.runs.concurrency import make_room
from perdure.runs.runner import Submitted
from perdure.store import agents
from perdure.store.conversation_reads import conversation_by_id
from perdure.store.events import check_log
from perdure.store.submissions import known_run

_encode = msgspec.json.Encoder().encode


def checked_agent_id(value: str) -> str:
    if not matches("agent", value):
        raise Invalid(
            f"agent_id: {value!r} should match pattern 'agent-{{uuid4}}'",
            status=422,
            examples=["agent-123e4567-e89b-42d3-8456-426614174000"],
        )
    return value


async def send(request: Request) -> ASGIApp:
    """`POST /v1/agents/{agent_id}/messages`: wait for the run, or stream it (`streaming: true`)."""
    agent_id = checked_agent_id(request.path_params["agent_id"])
    body = decode_send(await request.body(), request.headers.get("idempotency-key"))
    if body.streaming:
        return await stream_run(services(request), body, agent_id, agent_id, wait=True)
    check_not_streaming(body)
    return await answer_run(services(request), body, agent_id, agent_id, wait=True)


async def send_stream(request: Request) -> ASGIApp:
    """`POST /v1/agents/{agent_id}/messages/stream` (deprecated): as `send` with `streaming: true`."""
    agent_id = checked_agent_id(request.path_params["agent_id"])
    body = decode_send(await request.body(), request.headers.get("idempotency-key"))
    return await stream_run(services(request), body, agent_id, agent_id, wait=True)


async def send_async(request: Request) -> ASGIApp:
    """`POST /v1/agents/{agent_id}/messages/async`: the run, at once."""
    agent_id = checked_agent_id(request.path_params["agent_id"])
    body = decode_send(await request.body(), request.headers.get("idempotency-key"))
    parts = services(request)
    run, submitted = await submit(parts, body, agent_id, agent_id, streaming=False, background=True, wait=True)
    await submitted.durable
    if submitted.attached:
        run = await parts.runner.run(submitted.run_id)
    return Response(_encode(run_state(run)), media_type="application/json")


async def submit(
    parts: Services,
    body: SendRequest,
    agent_id: str,
    conversation_id: str,
    *,
    streaming: bool,
    background: bool,
    wait: bool,
    overrides: Overrides = Overrides(),
) -> tuple[Run, Submitted]:
    if body.model_settings is not None:
        overrides = await with_settings(parts, body.model_settings, agent_id, conversation_id, overrides)
    now = now_us()
    run = Run(
        id=new_id("run"),
        agent_id=agent_id,
        conversation_id=conversation_id,
        status="created",
        created_us=now,
        config=run_config(body, streaming=streaming, background=background, overrides=overrides),
        background=background,
        metadata={"run_type": "send_message"},
    )
    policy = body.concurrency or (parts.settings.concurrency if wait else "reject")
    inputs, otids = input_messages(body, agent_id=agent_id, conversation_id=conversation_id, run_id=run.id, now=now)
    await check_model(parts, body, agent_id, conversation_id, images=any(map(has_images, inputs)))
    if has_addresses(inputs):
        inputs = await fetched(inputs, parts.web)
    if policy in ("interrupt", "rollback") and not await parts.store.read(
        lambda: known_run(conversation_id, otids, body.key, now)
    ):
        await make_room(parts.store, parts.runner, conversation_id, take_back=policy == "rollback")
    return run, await parts.runner.submit(
        run, inputs, otids, wait=policy != "reject", lazy=not streaming and not background, key=body.key
    )


async def with_settings(
    parts: Services, said: dict[str, Any], agent_id: str, conversation_id: str, overrides: Overrides
) -> Overrides:
    """A request's own model settings: what it says wins, the rest is the agent's. Invalid (422) names the wrong one."""
    over = model_settings(said)
    under = (await _agent_in(parts, agent_id, conversation_id)).model_settings
    merged = settings_over(under, over)
    changed = {
        name: msgspec.to_builtins(value)
        for name in ModelSettings.__struct_fields__
        if (value := getattr(merged, name)) != getattr(under, name)
    }
    return msgspec.structs.replace(overrides, settings={**changed, **(overrides.settings or {})})


async def _agent_in(parts: Services, agent_id: str, conversation_id: str) -> Agent:
    agent = await parts.store.read(lambda: agents.agent_by_id(agent_id))
    if conversation_id == agent_id:
        return agent
    return agent_in(agent, (await parts.store.read(lambda: conversation_by_id(conversation_id))).settings)


async def check_model(
    parts: Services, body: SendRequest, agent_id: str, conversation_id: str, *, images: bool = False
) -> None:
    """What must fail before anything is accepted: a model nobody serves, or one that cannot do what is asked of it."""
    if body.override_model is None and not body.return_token_ids and not images:
        return
    agent = await _agent_in(parts, agent_id, conversation_id)
    handle = body.override_model or agent.model
    resolved = await parts.registry.resolve(handle, settings=agent.model_settings, require_exact=body.return_token_ids)
    if images and not takes_images(resolved.model):
        raise Invalid(f"messages: {handle} takes no images. Send text, or use a model that does.")


async def answer_run(
    parts: Services, body: SendRequest, agent_id: str, conversation_id: str, *, wait: bool
) -> Response:
    """Accept the request and answer once its run has ended. `wait`: in turn, where the conversation is busy; else Conflict."""
    run, submitted = await submit(parts, body, agent_id, conversation_id, streaming=False, background=False, wait=wait)
    if submitted.attached:
        await _accepted_before(parts, submitted)
    events = await parts.runner.outcome(submitted.run_id)
    failed = next((event for event in events if isinstance(event, RunFailed)), None)
    if failed is not None:
        ended = await parts.runner.run(submitted.run_id)
        return run_error_response(failed, ended.error or {})
    if not any(isinstance(event, RunStopped) for event in events):
        raise Conflict(
            f"Run {submitted.run_id} is still going on elsewhere; look at it again.", run_id=submitted.run_id
        )
    answer = response(
        events,
        submitted.run_id,
        run.config.include_return_message_types,
        compaction=run.config.include_compaction_messages,
    )
    return Response(_encode(answer), media_type="application/json")


async def _accepted_before(parts: Services, submitted: Submitted) -> Run:
    """The run of a request that came again, maybe at the same moment: it can be read once it is on disk. Gone if its answer is
    not kept any more."""
    await submitted.durable
    run = await parts.runner.run(submitted.run_id)
    await parts.store.read(lambda: check_log(run))
    return run


async def stream_run(
    parts: Services, body: SendRequest, agent_id: str, conversation_id: str, *, wait: bool
) -> EventStream:
    """Accept the request and answer with its run's stream. `wait`: as for `answer_run`."""
    run, submitted = await submit(
        parts,
        body,
        agent_id,
        conversation_id,
        streaming=True,
        background=bool(body.background),
        wait=wait,
    )
    if submitted.attached:
        run = await _accepted_before(parts, submitted)
    return EventStream(
        parts.runner,
        run,
        durable=submitted.durable,
        pings=body.include_pings is not False,
        ping_interval_s=parts.settings.ping_interval_s,
    )


routes = [
    route("POST", "/v1/agents/{agent_id}/messages", send, "send_message"),
    route("POST", "/v1/agents/{agent_id}/messages/stream", send_stream, "create_agent_message_stream"),
    route("POST", "/v1/agents/{agent_id}/messages/async", send_async, "create_agent_message_async"),
]
