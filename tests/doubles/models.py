"""A model for unit tests of runs: plays back answers, remembers prompts, can be held at a gate."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from perdure.core.errors import AgentError
from perdure.core.messages import TextPart, ToolCall
from perdure.core.model import Chunk, ModelDone, Prompt, TextChunk, ToolCallChunk
from perdure.core.runs import Usage
from perdure.providers.base import ModelInfo, TokenStream

Answer = str | ToolCall | list[ToolCall] | Exception


class PlayedModel:
    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.default: Answer = "ok"
        self.prompts: list[Prompt] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.during: Callable[[], Any] | None = None
        self.usage = Usage(10, 5, 15)

    async def stream(
        self, prompt: Prompt, tokens: TokenStream | None = None
    ) -> AsyncIterator[Sequence[Chunk | ModelDone]]:
        self.prompts.append(msgspec.structs.replace(prompt, messages=list(prompt.messages)))
        answer = self.answers.pop(0) if self.answers else self.default
        await self.gate.wait()
        if self.during is not None:
            await self.during()
        if isinstance(answer, Exception):
            raise answer
        usage = self.usage
        if isinstance(answer, str):
            middle = len(answer) // 2
            yield [TextChunk(answer[:middle]), TextChunk(answer[middle:])]
            yield [ModelDone(finish="stop", content=(TextPart(answer),), usage=usage)]
            return
        calls = answer if isinstance(answer, list) else [answer]
        yield [ToolCallChunk(at, call.id, call.name, call.arguments) for at, call in enumerate(calls)]
        yield [ModelDone(finish="tool_calls", content=(), tool_calls=tuple(calls), usage=usage)]


class OneModel:
    """A registry with one model, whatever the handle."""

    def __init__(self, model: PlayedModel) -> None:
        self.model = model
        self.name = "played"
        self.provider_name = "test"
        self.endpoint = None
        self.info = None
        self.failure: AgentError | None = None
        self.info: ModelInfo | None = None

    async def small_model(self, handle: str) -> str | None:
        return None

    async def resolve(self, handle: str, **_: Any) -> "OneModel":
        if self.failure is not None:
            raise self.failure
        return self
