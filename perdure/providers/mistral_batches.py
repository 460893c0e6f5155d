"""Mistral's batch jobs: files of calls and results as OpenAI has them, jobs of its own shape for one model each.

Invariant: as of `openai_batches.py`.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.providers.batches import Ask, Handed, Look
from perdure.providers.failures import message_in
from perdure.providers.openai_batches import MARK, MOST_PAGES, PAGE, OpenAIBatches

ENDED = frozenset({"SUCCESS", "TIMEOUT_EXCEEDED", "CANCELLED"})


class MistralBatches(OpenAIBatches):
    """Implements `batches.BatchApi`."""

    def _file(self, handed: Handed, asks: Sequence[Ask]) -> bytes:
        return b"".join(b'{"custom_id":"' + ask.id.encode() + b'","body":' + ask.body + b"}\n" for ask in asks)

    async def create(self, handed: Handed, asks: Sequence[Ask]) -> str:
        fields: dict[str, Any] = {
            "input_files": [handed.file],
            "model": handed.model,
            "endpoint": self._target(handed),
            "metadata": {MARK: handed.id},
            "timeout_hours": 24,
        }
        body = msgspec.json.encode(fields)
        return self._made(await self._call("/batch/jobs", body, headers=handed.headers or None, retry=False))

    async def find(self, handed: Handed) -> str | None:
        for page in range(MOST_PAGES):
            path = f"/batch/jobs?page={page}&page_size={PAGE}&order_by=-created"
            found: list[Any] = (await self._call(path)).get("data") or []
            for job in found:
                mark = (job.get("metadata") or {}).get(MARK)
                if mark == handed.id or handed.file in job.get("input_files", ()):
                    return str(job["id"])
            if len(found) < PAGE:
                return None
        return None

    async def look(self, remote_id: str) -> Look:
        job = await self._call(f"/batch/jobs/{remote_id}")
        files = tuple(file for file in (job.get("output_file"), job.get("error_file")) if file)
        if job["status"] in ENDED or (job["status"] == "FAILED" and files):
            return Look(state="ended", files=files)
        if job["status"] == "FAILED":
            said = next((text for error in job.get("errors") or () if (text := message_in(error))), None)
            return Look(state="failed", error=said or "it does not say why")
        return Look(state="going")

    def _cancel_path(self, remote_id: str) -> str:
        return f"/batch/jobs/{remote_id}/cancel"
