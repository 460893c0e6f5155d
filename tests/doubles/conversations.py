"""Made-up conversations and an engine that says what it is told, for the tests of token-exactness."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from perdure.core.ids import new_id
from perdure.core.messages import Message, TextPart, ToolReturn
from perdure.core.model import Chunk, ModelDone, Prompt, ToolSpec
from perdure.core.tokens import Finish
from perdure.providers.base import TokenBatch, TokenDone, TokenRequest
from perdure.providers.token_exact import TokenExactModel

TOOLS = (
    ToolSpec("look", "Looks <|im_end|> around.", {"type": "object", "properties": {"at": {"type": "string"}}}),
    ToolSpec("go", "Goes.", {"type": "object", "properties": {}}),
)
HOSTILE = (
    "<|im_end|>",
    "<|im_start|>system\n",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_response>",
    "<|endoftext|>",
    "<|user|>",
    "<|eot_id|>",
    "<｜Assistant｜>",
    "[INST]",
    "<|channel|>final<|message|>",
)

texts = st.lists(
    st.one_of(
        st.sampled_from(HOSTILE),
        st.sampled_from(["\n", "\n\n", " ", "é", "🙂", "the quick", "e\u0301", "\udc80"]),
        st.text(max_size=8),
    ),
    max_size=6,
).map("".join)


Said = tuple[Sequence[int], str]


class SaidEngine:
    """A TokenEngine whose answers are given, as ids or as what makes them from the prompt's; each sampled with logprob -0.5.

    A list of them is what it says when it is asked again and again.
    """

    kind = "sglang"
    base_url = "http://engine.test"
    logprob_semantics: Any = "raw"

    def __init__(
        self,
        answers: Sequence[Said | Callable[[Sequence[int]], Said | list[Said]]] = (),
        *,
        kind: str = "sglang",
        batch: int = 3,
    ) -> None:
        self.kind = kind
        self.answers = list(answers)
        self.requests: list[TokenRequest] = []
        self.closed = 0
        self._batch = batch

    async def generate(self, request: TokenRequest) -> AsyncIterator[TokenBatch | TokenDone]:
        self.requests.append(request)
        said = self.answers.pop(0)
        said = said(request.ids) if callable(said) else said
        if isinstance(said, list):
            self.answers[:0] = said[1:]
            said = said[0]
        ids, finish = said
        try:
            for part in _batched(ids, self._batch):
                top = [[(-0.5, one), (-1.5, 0)] for one in part] if request.top_logprobs else None
                yield TokenBatch(ids=list(part), logprobs=[-0.5] * len(part), top_logprobs=top)
                await asyncio.sleep(0)
            matched = ids[-1] if finish == "stop" and ids else None
            yield TokenDone(finish=Finish(finish, matched), prompt_tokens=len(request.ids), cached_tokens=0)
        finally:
            self.closed += 1

    async def score(self, model: str, ids: Any, start: int, vocab_size: int) -> list[float]:
        raise NotImplementedError


def _batched(ids: Sequence[int], size: int) -> list[Sequence[int]]:
    return [ids[at : at + size] for at in range(0, len(ids), size)]


def model_of(engine: Any, renderer: Any, **options: Any) -> TokenExactModel:
    return TokenExactModel(engine, renderer, provider_name="test", model_name="small", handle="test/small", **options)


def message(role: Any, text: str = "", **more: Any) -> Message:
    content = (TextPart(text),) if text else ()
    return Message(**({"id": new_id("message"), "role": role, "created_us": 1, "content": content} | more))


def prompt(messages: Sequence[Message], **more: Any) -> Prompt:
    given = {"model": "small", "system": "Be brief.", "messages": messages, "assistant_message_id": new_id("message")}
    return Prompt(**(given | more))


def answer(asked: Prompt, done: ModelDone) -> Message:
    return Message(
        id=asked.assistant_message_id, role="assistant", created_us=2, content=done.content, tool_calls=done.tool_calls
    )


def returns(done: ModelDone, text: str = "42") -> Message:
    answers = tuple(ToolReturn(call.id, call.name, "success", text) for call in done.tool_calls)
    return Message(id=new_id("message"), role="tool", created_us=3, tool_returns=answers)


async def call(model: TokenExactModel, asked: Prompt, tokens: Any = None) -> tuple[ModelDone, list[Chunk]]:
    chunks: list[Any] = []
    async for batch in model.stream(asked, tokens):
        chunks.extend(batch)
    assert isinstance(chunks[-1], ModelDone)
    return chunks[-1], chunks[:-1]
