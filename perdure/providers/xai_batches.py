"""xAI's batches: files of calls as OpenAI has them, batches that are known by counts, results that are asked for in pages.

Invariant: as of `openai_batches.py`; the mark of a batch is its name.
"""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from perdure.core.errors import ProviderError
from perdure.providers.batches import Handed, Look, Result, cancelled, failed
from perdure.providers.failures import grpc_status, message_in
from perdure.providers.openai_batches import MOST_PAGES, PAGE, OpenAIBatches

KEPT_S = 30 * 86_400  # the most it takes
CHAT = "/chat/completions"


class XaiBatches(OpenAIBatches):
    """Implements `batches.BatchApi`."""

    def _upload_fields(self, name: str) -> dict[str, str]:
        return {"expires_after": str(KEPT_S)}

    def _fields(self, handed: Handed) -> dict[str, Any]:
        if handed.path != CHAT:  # answers come as chat completions whatever was asked
            raise ProviderError(f"{self._endpoint.name} answers batches of chat completions only.", status=400)
        return {"name": handed.id, "input_file_id": handed.file}

    def _made(self, made: Any) -> str:
        return str(made["batch_id"])

    async def find(self, handed: Handed) -> str | None:
        after = ""
        for _ in range(MOST_PAGES):
            listed = await self._call(f"/batches?limit={PAGE}{after}")
            for batch in listed.get("batches") or ():
                if batch.get("name") == handed.id:
                    return self._made(batch)
            if not (token := listed.get("pagination_token")):
                return None
            after = f"&pagination_token={token}"
        return None

    async def look(self, remote_id: str) -> Look:
        batch = await self._call(f"/batches/{remote_id}")
        state = batch.get("state") or {}
        total, pending = state.get("num_requests") or 0, state.get("num_pending") or 0
        if total and not pending:
            return Look(state="ended", files=(remote_id,))
        if said := batch.get("cancel_by_xai_message"):
            return Look(state="failed", error=said) if not total else Look(state="ended", files=(remote_id,))
        # nothing of a file that is not read yet is pending either
        return Look(state="ended") if batch.get("cancel_time") and not total else Look(state="going")

    async def results(self, look: Look) -> AsyncGenerator[Result]:
        for remote_id in look.files:
            after = ""
            while True:
                path = f"/batches/{remote_id}/results?limit={PAGE}{after}"
                page = await self._call(path)
                for item in page.get("results") or ():
                    yield _result(item)
                if not (token := page.get("pagination_token")):
                    break
                after = f"&pagination_token={token}"

    def _cancel_path(self, remote_id: str) -> str:
        return f"/batches/{remote_id}:cancel"


def _result(item: dict[str, Any]) -> Result:
    outcome = item.get("batch_result") or {}
    completion = (outcome.get("response") or {}).get("chat_get_completion")
    if completion is not None:
        return Result(id=item["batch_request_id"], status=200, body=msgspec.json.encode(completion))
    status = grpc_status(outcome.get("error")) or 500
    if status == 499:
        return cancelled(item["batch_request_id"])
    return failed(item["batch_request_id"], status, item.get("error_message") or message_in(outcome))
