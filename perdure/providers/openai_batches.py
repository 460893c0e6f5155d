"""OpenAI's Batch API and those that share its shape: a file of calls, a batch made of it, files of results.

Invariant: a batch is handed in at most once under its mark. What was uploaded for nothing costs nothing.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from perdure.providers.batches import Ask, BatchProfile, Handed, Look, Result, cancelled, expired, failed
from perdure.providers.failures import message_in
from perdure.providers.http import Endpoint, Http
from perdure.providers.jsonl import call_json, call_off, lines, multipart

MARK = "perdure_batch"
PAGE = 100
MOST_PAGES = 20
ENDED = frozenset({"completed", "expired", "cancelled"})
# a queue that is full now, which says nothing of the calls
BUSY = frozenset({"token_limit_exceeded", "rate_limit_exceeded", "request_limit_exceeded"})


class _Response(Struct):
    status_code: int = 200
    body: Raw = Raw(b"null")


class _Line(Struct):
    custom_id: str
    response: _Response | None = None
    error: Any = None


_line = msgspec.json.Decoder(_Line).decode


class OpenAIBatches:
    """Implements `batches.BatchApi`. Others that have its shape say where they differ."""

    _upload_path = "/files"

    def __init__(self, http: Http, endpoint: Endpoint, profile: BatchProfile) -> None:
        self._http = http
        self._endpoint = endpoint
        self.profile = profile

    async def upload(self, handed: Handed, asks: Sequence[Ask]) -> str:
        name = f"{handed.id}.jsonl"
        body, kind = multipart(self._upload_fields(name), name, self._file(handed, asks))
        made = await self._call(self._upload_path, body, headers={"Content-Type": kind})
        return str(made["id"])

    def _upload_fields(self, name: str) -> dict[str, str]:
        return {"purpose": "batch"}

    def _file(self, handed: Handed, asks: Sequence[Ask]) -> bytes:
        url = b'","method":"POST","url":"' + self._target(handed).encode() + b'","body":'
        return b"".join(b'{"custom_id":"' + ask.id.encode() + url + ask.body + b"}\n" for ask in asks)

    def _target(self, handed: Handed) -> str:
        """What the calls of a batch are of, as its file names it."""
        return f"/v1{handed.path}"

    def _at(self, path: str) -> str:
        """Where a path of the batch API lies."""
        return path

    async def _call(self, path: str, body: bytes | None = None, **more: Any) -> Any:
        return await call_json(self._http, self._endpoint, self._at(path), body, **more)

    async def create(self, handed: Handed, asks: Sequence[Ask]) -> str:
        body = msgspec.json.encode(self._fields(handed))
        return self._made(await self._call("/batches", body, headers=handed.headers, retry=False))

    def _fields(self, handed: Handed) -> dict[str, Any]:
        return {
            "input_file_id": handed.file,
            "endpoint": self._target(handed),
            "completion_window": "24h",
            "metadata": {MARK: handed.id},
        }

    def _made(self, made: Any) -> str:
        return str(made["id"])

    async def find(self, handed: Handed) -> str | None:
        after = ""
        for _ in range(MOST_PAGES):
            listed = await self._call(f"/batches?limit={PAGE}{after}")
            found: list[Any] = listed.get("data") or []
            for batch in found:
                mark = (batch.get("metadata") or {}).get(MARK)
                if mark == handed.id or (handed.file is not None and batch.get("input_file_id") == handed.file):
                    return str(batch["id"])
            if not listed.get("has_more") or not found:
                return None
            after = f"&after={found[-1]['id']}"
        return None

    async def look(self, remote_id: str) -> Look:
        batch = await self._call(f"/batches/{remote_id}")
        status = batch["status"]
        if status in ENDED:
            files = (batch.get("output_file_id"), batch.get("error_file_id"))
            return Look(state="ended", files=tuple(file for file in files if file))
        if status == "failed":
            errors = (batch.get("errors") or {}).get("data") or []
            said = next((text for error in errors if (text := message_in(error))), "it does not say why")
            busy = any(isinstance(error, dict) and error.get("code") in BUSY for error in errors)
            return Look(state="failed", error=said, busy=busy)
        return Look(state="going")

    async def results(self, look: Look) -> AsyncGenerator[Result]:
        for file in look.files:
            path = self._at(f"/files/{file}/content")
            async for line in lines(self._http, self._endpoint, path):
                yield result_of(line)

    async def cancel(self, remote_id: str) -> None:
        await call_off(self._http, self._endpoint, self._at(self._cancel_path(remote_id)))

    def _cancel_path(self, remote_id: str) -> str:
        return f"/batches/{remote_id}/cancel"


def result_of(line: bytes) -> Result:
    found = _line(line)
    if found.response is not None and bytes(found.response.body) not in (b"null", b""):
        return Result(id=found.custom_id, status=found.response.status_code, body=bytes(found.response.body))
    match found.error:
        case {"code": "batch_expired"}:
            return expired(found.custom_id)
        case {"code": "batch_cancelled"}:
            return cancelled(found.custom_id)
        case error:
            return failed(found.custom_id, 500, message_in(error))
