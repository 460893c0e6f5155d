"""Batches of messages to agents: handed in, looked at, listed, cancelled, and what came of them."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from perdure.api.batch_requests import batch_job, batch_message, batch_requests, decode_batch
from perdure.api.errors import json_response
from perdure.api.message_requests import request_key
from perdure.api.paging import Page100
from perdure.api.services import services
from perdure.core.batches import GOING, Batch
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message
from perdure.store import batches as batch_store
from perdure.store.agents import timezones
from perdure.store.base import Tx
from perdure.store.batch_calls import provider_batches_of
from perdure.store.callbacks import callback_of_run

router = APIRouter(prefix="/messages/batches", tags=["batches"])


class ListBatchesQuery(Page100):
    limit: int | None = Field(100, ge=1, le=1000)
    active: bool = True


class BatchMessagesQuery(Page100):
    limit: int | None = Field(100, ge=1, le=1000)
    agent_id: str | None = None


@router.post("", operation_id="create_batch")
async def create(request: Request) -> Response:
    """Hand in requests (`{requests: [{agent_id, messages, ...}], callback_url?, via?}`): each becomes a run, in their order.

    `via`: "provider" makes their model calls through the providers' own batch APIs, "queue" one by one, "auto" leaves it open.

    With the same `Idempotency-Key` header the same batch is the same batch, for 24 hours.
    """
    parts = services(request)
    data = await request.body()
    body = decode_batch(data)
    header = request.headers.get("idempotency-key")
    key = None if header is None else request_key(data, header)
    now = now_us()
    requests = await batch_requests(parts, body, now)
    batch = Batch(
        id=new_id("job"),
        status="running",
        created_us=now,
        updated_us=now,
        callback_url=body.callback_url,
        via=body.via or parts.settings.batch_via,
    )
    batch_id = await parts.store.write(lambda: batch_store.create_batch(batch, requests, key))
    parts.batches.wake()
    return await _shown(request, batch_id)


@router.get("", operation_id="list_batches")
async def listed(request: Request, query: Annotated[ListBatchesQuery, Query()]) -> Response:
    """Those that have not ended; `active=false`: all."""

    def tx() -> Tx[list[dict[str, object]]]:
        found = yield from batch_store.list_batches(query.page(), GOING if query.active else None)
        shown: list[dict[str, object]] = []
        for batch in found:
            shown.append(batch_job(batch, (yield from batch_store.count_items(batch.id))))
        return shown

    return json_response(await services(request).store.scan(tx))


@router.get("/{batch_id}", operation_id="retrieve_batch")
async def retrieve(request: Request, batch_id: str) -> Response:
    """`metadata.requests`: the run, and what became of it, of each request in their order (up to 1,000 of them)."""
    return await _shown(request, batch_id)


async def _shown(request: Request, batch_id: str) -> Response:
    def tx() -> Tx[dict[str, object]]:
        batch = yield from batch_store.batch_by_id(batch_id)
        counts = yield from batch_store.count_items(batch_id)
        items = yield from batch_store.items_of_batch(batch_id)
        told = yield from callback_of_run(batch_id)
        return batch_job(batch, counts, items, told, (yield from provider_batches_of(batch_id)))

    return json_response(await services(request).store.scan(tx))


@router.patch("/{batch_id}/cancel", operation_id="cancel_batch")
async def cancel(request: Request, batch_id: str) -> Response:
    """What waits never begins, what is under way is cancelled, what has ended stays."""
    await services(request).batches.cancel(batch_id)
    return json_response(None)


@router.get("/{batch_id}/messages", operation_id="list_batch_messages")
async def messages(request: Request, batch_id: str, query: Annotated[BatchMessagesQuery, Query()]) -> Response:
    """What the agents said and did, newest first unless `order=asc`. Cursors are message ids, in the order of the listing."""
    page = query.page()

    def tx() -> Tx[tuple[list[tuple[Message, str]], dict[str, str]]]:
        found = yield from batch_store.batch_messages(
            batch_id,
            agent_id=query.agent_id,
            before=page.before,
            after=page.after,
            limit=page.limit or 100,
            descending=page.descending,
        )
        zones = yield from timezones({message.agent_id for message, _ in found if message.agent_id})
        return found, zones

    found, zones = await services(request).store.scan(tx)
    shown = [batch_message(message, item, zones.get(message.agent_id or "", "UTC")) for message, item in found]
    return json_response({"messages": shown})
