"""The body that hands in a batch, and a batch as Letta JSON."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from perdure.api.agentfile.messages import file_message
from perdure.api.input_messages import input_messages
from perdure.api.message_requests import SendRequest, check_send, run_config, wrong
from perdure.api.resources import MINE
from perdure.api.routes.messages import check_model, checked_agent_id
from perdure.api.services import Services
from perdure.api.to_wire import iso
from perdure.core.batches import Batch, BatchItem, BatchRequest, ProviderBatch, Via
from perdure.core.errors import Invalid, RequestError
from perdure.core.messages import Message
from perdure.providers.images import fetched, has_addresses, has_images
from perdure.store.agents import check_agent

MAX_BYTES = 256 * 1024 * 1024
CHECKED_AT_ONCE = 8


class CreateBatch(Struct):
    requests: list[SendRequest]
    callback_url: str | None = None
    via: Via | None = None


_decode = msgspec.json.Decoder(CreateBatch).decode


def decode_batch(body: bytes) -> CreateBatch:
    if len(body) > MAX_BYTES:
        raise Invalid(
            f"The request body has {len(body)} bytes; a batch may have {MAX_BYTES}. Hand it in as several.", status=413
        )
    try:
        batch = _decode(body)
    except msgspec.ValidationError as error:
        raise Invalid(f"The request body is wrong: {error}".replace("`$.", "`"), status=422) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"The request body is not valid JSON: {error}", status=422) from error
    if not batch.requests:
        raise wrong("requests", "must have at least one request")
    if batch.callback_url is not None and not batch.callback_url.startswith(("http://", "https://")):
        raise wrong("callback_url", "must be an http or https URL")
    return batch


async def batch_requests(parts: Services, batch: CreateBatch, now: int) -> list[BatchRequest]:
    """Every request checked as if it were sent by itself. What is raised names the request that is wrong."""
    free = asyncio.Semaphore(CHECKED_AT_ONCE)
    known: set[str] = set()

    async def one(at: int, request: SendRequest) -> BatchRequest:
        async with free:
            try:
                return await _request(parts, request, known, now)
            except RequestError as error:
                error.message = f"requests[{at}]: {error.message}"
                error.args = (error.message,)
                raise

    return list(await asyncio.gather(*(one(at, request) for at, request in enumerate(batch.requests))))


async def _request(parts: Services, request: SendRequest, known: set[str], now: int) -> BatchRequest:
    if request.agent_id is None:
        raise wrong("agent_id", "Field required")
    agent_id = checked_agent_id(request.agent_id)
    check_send(request)
    if agent_id not in known:
        await parts.store.read(lambda: check_agent(agent_id))
        known.add(agent_id)
    request.callback_url = None
    inputs, otids = input_messages(request, agent_id=agent_id, conversation_id=agent_id, run_id="", now=now)
    await check_model(parts, request, agent_id, agent_id, images=any(map(has_images, inputs)))
    if has_addresses(inputs):
        inputs = await fetched(inputs, parts.web)
    config = run_config(request, streaming=False, background=True)
    return BatchRequest(agent_id=agent_id, inputs=inputs, config=config, otids=otids)


def batch_job(
    batch: Batch,
    counts: Counter[str],
    items: Sequence[BatchItem] | None = None,
    told: dict[str, Any] | None = None,
    handed_in: Sequence[tuple[str, ProviderBatch]] | None = None,
) -> dict[str, Any]:
    """BatchJob. `metadata` counts the requests by state and, with `items`, says what became of each; with `handed_in`, which
    batches of providers were made for it."""
    total = {"total": sum(counts.values())}
    states = {state: counts[state] for state in ("waiting", "running", "completed", "failed", "cancelled")}
    metadata: dict[str, Any] = {"request_counts": total | states, "via": batch.via}
    if handed_in is not None:
        metadata["provider_batches"] = [
            {
                "id": each.remote_id,
                "provider": each.group.provider,
                "model": each.group.model,
                "requests": each.count,
                "status": status,
            }
            for status, each in handed_in
        ]
    if items is not None:
        metadata["requests"] = [
            {
                "id": item.id,
                "agent_id": item.agent_id,
                "run_id": item.run_id,
                "status": item.status,
                "error": item.error,
            }
            for item in items
        ]
    took = None if batch.completed_us is None else (batch.completed_us - batch.created_us) * 1000
    return {
        "id": batch.id,
        "status": batch.status,
        "job_type": "batch",
        "created_at": iso(batch.created_us),
        "updated_at": iso(batch.updated_us),
        "completed_at": iso(batch.completed_us),
        "stop_reason": None,
        "metadata": metadata,
        "background": None,
        "agent_id": None,
        "callback_url": batch.callback_url,
        "callback_sent_at": iso(told["sent_us"]) if told else None,
        "callback_status_code": told["status_code"] if told else None,
        "callback_error": told["error"] if told else None,
        "ttft_ns": None,
        "total_duration_ns": took,
        **MINE,
    }


def batch_message(message: Message, item_id: str, timezone: str) -> dict[str, Any]:
    """A message in the form the archived server stores it in, as its batches list them."""
    agent_id = message.agent_id or ""
    found = file_message(message, agent_id=agent_id, timezone=timezone)
    del found["type"]
    return found | {
        **MINE,
        "updated_at": None,
        "step_id": message.step_id,
        "run_id": message.run_id,
        "conversation_id": None if message.conversation_id == agent_id else message.conversation_id,
        "batch_item_id": item_id,
        "is_err": message.is_err,
    }
