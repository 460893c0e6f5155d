"""Anthropic's Message Batches: calls handed in with the batch itself, results as lines of one document.

Invariant: a batch carries no mark of ours, so one that is only found by its look is not taken for ours before its results say so.
"""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Raw, Struct

from perdure.providers.batches import Ask, BatchProfile, Handed, Look, Result, cancelled, expired, failed
from perdure.providers.failures import message_in, status_in
from perdure.providers.http import Endpoint, Http
from perdure.providers.jsonl import call_json, call_off, lines
from perdure.providers.openai_batches import MOST_PAGES, PAGE

CLOCKS_DIFFER_US = 60_000_000


class _Outcome(Struct):
    type: str
    message: Raw = Raw(b"")
    error: Any = None


class _Line(Struct):
    custom_id: str
    result: _Outcome


_line = msgspec.json.Decoder(_Line).decode


class AnthropicBatches:
    """Implements `batches.BatchApi`."""

    def __init__(self, http: Http, endpoint: Endpoint, profile: BatchProfile) -> None:
        self._http = http
        self._endpoint = endpoint
        self.profile = profile

    async def upload(self, handed: Handed, asks: Sequence[Ask]) -> None:
        return None

    async def create(self, handed: Handed, asks: Sequence[Ask]) -> str:
        calls = (b'{"custom_id":"' + ask.id.encode() + b'","params":' + ask.body + b"}" for ask in asks)
        body = b'{"requests":[' + b",".join(calls) + b"]}"
        path = f"{handed.path}/batches"
        made = await call_json(self._http, self._endpoint, path, body, headers=handed.headers, retry=False)
        return str(made["id"])

    async def find(self, handed: Handed) -> str | None:
        since, after = handed.created_us - CLOCKS_DIFFER_US, ""
        for _ in range(MOST_PAGES):
            listed = await call_json(self._http, self._endpoint, f"/messages/batches?limit={PAGE}{after}")
            for batch in listed["data"]:
                if _us(batch["created_at"]) < since:  # the newest come first
                    return None
                if sum(batch["request_counts"].values()) == handed.count and batch["id"] not in handed.others:
                    return str(batch["id"])
            if not listed.get("has_more"):
                return None
            after = f"&after_id={listed['last_id']}"
        return None

    async def look(self, remote_id: str) -> Look:
        batch = await call_json(self._http, self._endpoint, f"/messages/batches/{remote_id}")
        if batch["processing_status"] != "ended":
            return Look(state="going")
        return Look(state="ended", files=(remote_id,))

    async def results(self, look: Look) -> AsyncGenerator[Result]:
        for remote_id in look.files:
            async for line in lines(self._http, self._endpoint, f"/messages/batches/{remote_id}/results"):
                yield result_of(line)

    async def cancel(self, remote_id: str) -> None:
        await call_off(self._http, self._endpoint, f"/messages/batches/{remote_id}/cancel")


def result_of(line: bytes) -> Result:
    found = _line(line)
    outcome = found.result
    match outcome.type:
        case "succeeded":
            return Result(id=found.custom_id, status=200, body=bytes(outcome.message))
        case "errored":
            error = outcome.error.get("error") if isinstance(outcome.error, dict) else None
            status = status_in(error) or status_in(outcome.error) or 500
            return failed(found.custom_id, status, message_in(outcome.error))
        case "canceled":
            return cancelled(found.custom_id)
        case _:
            return expired(found.custom_id)


def _us(at: str) -> int:
    return round(datetime.fromisoformat(at).timestamp() * 1e6)
