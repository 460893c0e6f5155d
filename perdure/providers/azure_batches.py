"""Azure OpenAI's batches: OpenAI's, for deployments made for batches, at either form of its addresses.

Invariant: as of `openai_batches.py`. Files expire, since a resource holds few that do not.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from perdure.core.errors import ProviderError
from perdure.providers.batches import Ask, BatchProfile, Handed
from perdure.providers.failures import message_in
from perdure.providers.http import Endpoint, Http
from perdure.providers.openai_batches import OpenAIBatches

KEPT_S = 14 * 86_400  # the least it takes
READ_S = 60.0
UNREAD = frozenset({"uploaded", "pending", "running"})
UNREADABLE = frozenset({"error", "failed", "deleting", "deleted"})


class AzureBatches(OpenAIBatches):
    """Implements `batches.BatchApi`. `api_version`: of the older API, which is named by date. `look_s`: how often a file that
    was uploaded is looked at."""

    def __init__(self, http: Http, endpoint: Endpoint, profile: BatchProfile, api_version: str | None) -> None:
        super().__init__(http, endpoint, profile)
        self._version = api_version
        self.look_s = 1.0

    def _at(self, path: str) -> str:
        if self._version is None:
            return path
        return f"{path}{'&' if '?' in path else '?'}api-version={self._version}"

    def _target(self, handed: Handed) -> str:
        return "/v1/responses" if handed.path.partition("?")[0].endswith("/responses") else "/chat/completions"

    def _upload_fields(self, name: str) -> dict[str, str]:
        if self._version is not None:
            return {"purpose": "batch"}
        return {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": str(KEPT_S)}

    def _fields(self, handed: Handed) -> dict[str, Any]:
        fields = super()._fields(handed)
        if self._version is None:
            fields["output_expires_after"] = {"anchor": "created_at", "seconds": KEPT_S}
        return fields

    async def create(self, handed: Handed, asks: Sequence[Ask]) -> str:
        await self._wait_until_read(handed.file)
        return await super().create(handed, asks)

    async def _wait_until_read(self, file: str | None) -> None:
        """A file is read after its upload, and none of a batch that is made before."""
        end = time.monotonic() + READ_S
        while True:
            found = await self._call(f"/files/{file}")
            status = found.get("status")
            if status in UNREADABLE:
                said = found.get("status_details") or message_in(found) or "it does not say why"
                raise ProviderError(f"{self._endpoint.name} cannot read the file of calls: {said}", status=400)
            if status not in UNREAD:
                return
            if time.monotonic() > end:
                raise ProviderError(f"{self._endpoint.name} is still reading the file of calls.", retryable=True)
            await asyncio.sleep(self.look_s)
