"""A provider's batch API in the process itself: what is handed in is answered when it is looked at, and remembered."""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import msgspec

from perdure.core.batches import Via
from perdure.core.errors import ProviderError
from perdure.providers.batched import BatchedHttp, BatchedModel, KeptAnswer
from perdure.providers.batches import Ask, BatchProfile, Handed, Look, Result
from perdure.providers.http import Endpoint
from perdure.providers.openai_chat import OpenAIChat
from tests.doubles.models import OneModel, PlayedModel

Body = dict[str, Any]


class PlayedBatches:
    """Implements `BatchApi`. `answer`: (status, body) of one call. `marked`: as its profile. `failures`: raised by `create`, one
    a time, after the batch was made if they have no status. `looks`: what `look` says before it lets a batch end."""

    def __init__(self, answer: Callable[[Body], tuple[int, Body]], *, marked: bool = True, requests: int = 100) -> None:
        self.profile = BatchProfile(requests=requests, marked=marked)
        self.made: dict[str, list[Ask]] = {}
        self.cancelled: list[str] = []
        self.failures: list[ProviderError] = []
        self.looks: list[Look] = []
        self.asked = 0
        self._marks: dict[str, str] = {}
        self._answer = answer

    @property
    def calls(self) -> Counter[str]:
        """How often each call was handed in."""
        return Counter(ask.id for asks in self.made.values() for ask in asks)

    async def upload(self, handed: Handed, asks: Sequence[Ask]) -> str | None:
        return f"file of {handed.id}" if self.profile.marked else None

    async def create(self, handed: Handed, asks: Sequence[Ask]) -> str:
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None and failure.status is not None:
            raise failure
        remote_id = f"remote-{len(self.made)}"
        self.made[remote_id] = list(asks)
        self._marks[remote_id] = handed.id
        if failure is not None:
            raise failure
        return remote_id

    async def find(self, handed: Handed) -> str | None:
        for remote_id, asks in self.made.items():
            mine = self._marks[remote_id] == handed.id if self.profile.marked else len(asks) == handed.count
            if mine and remote_id not in handed.others:
                return remote_id
        return None

    async def look(self, remote_id: str) -> Look:
        return self.looks.pop(0) if self.looks else Look(state="ended", files=(remote_id,))

    async def results(self, look: Look) -> AsyncGenerator[Result]:
        for ask in self.made[look.files[0]]:
            self.asked += 1
            status, body = self._answer(msgspec.json.decode(ask.body))
            yield Result(id=ask.id, status=status, body=msgspec.json.encode(body))

    async def cancel(self, remote_id: str) -> None:
        self.cancelled.append(remote_id)


class BatchingRegistry(OneModel):
    """A registry whose only model is called through `api`."""

    def __init__(self, api: PlayedBatches) -> None:
        super().__init__(PlayedModel())
        self.api: PlayedBatches | None = api

    async def batched(
        self, resolved: OneModel, via: Via, kept: Sequence[KeptAnswer], settings: Any = None
    ) -> BatchedModel:
        http = BatchedHttp(kept)
        model = OpenAIChat(http, Endpoint("test", "http://test.invalid/v1"), "played", stream=False)
        return BatchedModel(model, http, resolved.model)

    def batch_api(self, provider_name: str) -> PlayedBatches | None:
        return self.api


def completion(content: str, *calls: tuple[str, str, Body]) -> Body:
    """A chat completion. `calls`: (id, name, arguments)."""
    message: Body = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [
            {"id": id, "type": "function", "function": {"name": name, "arguments": msgspec.json.encode(args).decode()}}
            for id, name, args in calls
        ]
    finish = "tool_calls" if calls else "stop"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "played",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
