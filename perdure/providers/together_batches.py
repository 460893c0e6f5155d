"""Together's batches: files of calls and results as OpenAI has them, jobs that are known by their file.

Invariant: as of `openai_batches.py`; what a batch carries as its mark is the file it was made of.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from perdure.providers.batches import Ask, Handed, Look, Result
from perdure.providers.jsonl import lines
from perdure.providers.openai_batches import OpenAIBatches, result_of

ENDED = frozenset({"COMPLETED", "EXPIRED", "CANCELLED"})


class TogetherBatches(OpenAIBatches):
    """Implements `batches.BatchApi`."""

    _upload_path = "/files/upload"

    def _upload_fields(self, name: str) -> dict[str, str]:
        return {"purpose": "batch-api", "file_name": name, "file_type": "jsonl"}

    def _file(self, handed: Handed, asks: Sequence[Ask]) -> bytes:
        return b"".join(b'{"custom_id":"' + ask.id.encode() + b'","body":' + ask.body + b"}\n" for ask in asks)

    def _fields(self, handed: Handed) -> dict[str, Any]:
        return {"input_file_id": handed.file, "endpoint": self._target(handed), "completion_window": "24h"}

    def _made(self, made: Any) -> str:
        return str(made["job"]["id"])

    async def find(self, handed: Handed) -> str | None:
        found = (job["id"] for job in await self._call("/batches") if job.get("input_file_id") == handed.file)
        return next(found, None)

    async def look(self, remote_id: str) -> Look:
        job = await self._call(f"/batches/{remote_id}")
        files = tuple(file for file in (job.get("output_file_id"), job.get("error_file_id")) if file)
        if job["status"] in ENDED or (job["status"] == "FAILED" and files):
            return Look(state="ended", files=files)
        if job["status"] == "FAILED":
            return Look(state="failed", error=job.get("error") or "it does not say why")
        return Look(state="going")

    async def results(self, look: Look) -> AsyncGenerator[Result]:
        for file in look.files:  # which may lie elsewhere
            async for line in lines(self._http, self._endpoint, f"/files/{file}/content", follow=True):
                yield result_of(line)
