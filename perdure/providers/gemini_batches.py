"""Gemini's batches: calls handed in and answered inside the requests, as operations that carry a name to be shown.

Invariant: a batch is handed in at most once under its mark, which is that name. Calls carry their ids as metadata, which comes
back beside their answers.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec

from perdure.providers.batches import Ask, BatchProfile, Handed, Look, Result, cancelled, failed
from perdure.providers.failures import grpc_status, message_in
from perdure.providers.http import Endpoint, Http
from perdure.providers.jsonl import call_json, call_off
from perdure.providers.openai_batches import MOST_PAGES, PAGE

KEY = "key"
ENDED = frozenset({"SUCCEEDED", "PARTIALLY_SUCCEEDED", "CANCELLED", "EXPIRED"})


class GeminiBatches:
    """Implements `batches.BatchApi`."""

    def __init__(self, http: Http, endpoint: Endpoint, profile: BatchProfile) -> None:
        self._http = http
        self._endpoint = endpoint
        self.profile = profile

    async def upload(self, handed: Handed, asks: Sequence[Ask]) -> None:
        return None

    async def create(self, handed: Handed, asks: Sequence[Ask]) -> str:
        calls = (b'{"request":' + ask.body + b',"metadata":{"key":"' + ask.id.encode() + b'"}}' for ask in asks)
        name = b'{"batch":{"displayName":"' + handed.id.encode()
        body = name + b'","inputConfig":{"requests":{"requests":[' + b",".join(calls) + b"]}}}}"
        path = handed.path.replace(":generateContent", ":batchGenerateContent")
        made = await call_json(self._http, self._endpoint, path, body, headers=handed.headers, retry=False)
        return str(made["name"])

    async def find(self, handed: Handed) -> str | None:
        after = ""
        for _ in range(MOST_PAGES):
            listed = await call_json(self._http, self._endpoint, f"/batches?pageSize={PAGE}{after}")
            for operation in listed.get("operations") or ():
                if (operation.get("metadata") or {}).get("displayName") == handed.id:
                    return str(operation["name"])
            if not (token := listed.get("nextPageToken")):
                return None
            after = f"&pageToken={token}"
        return None

    async def look(self, remote_id: str) -> Look:
        operation = await self._operation(remote_id)
        state = str((operation.get("metadata") or {}).get("state", "")).rpartition("STATE_")[2]
        if state == "FAILED":
            return Look(state="failed", error=message_in(operation.get("error")) or "it does not say why")
        return Look(state="ended", files=(remote_id,)) if state in ENDED else Look(state="going")

    async def _operation(self, remote_id: str) -> dict[str, Any]:
        return await call_json(self._http, self._endpoint, f"/{remote_id}")

    async def results(self, look: Look) -> AsyncGenerator[Result]:
        for remote_id in look.files:
            for item in _answers(await self._operation(remote_id)):
                yield _result(item)

    async def cancel(self, remote_id: str) -> None:
        await call_off(self._http, self._endpoint, f"/{remote_id}:cancel")


def _answers(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """What an operation holds of answers: below what it came to, or below what is said of it."""
    for place in ((operation.get("metadata") or {}).get("output"), operation.get("response")):
        found = (place or {}).get("inlinedResponses")
        if isinstance(found, dict):
            found = found.get("inlinedResponses")
        if found:
            return found
    return []


def _result(item: dict[str, Any]) -> Result:
    call_id = str((item.get("metadata") or {}).get(KEY, ""))
    if (response := item.get("response")) is not None:
        return Result(id=call_id, status=200, body=msgspec.json.encode(response))
    error = item.get("error")
    status = grpc_status(error) or 500
    return cancelled(call_id) if status == 499 else failed(call_id, status, message_in(error))
