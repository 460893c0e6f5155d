"""Models for tests: `ScriptedModel` plays back turns, `ScriptedEngine` completions in token ids.

Invariant: the same script gives the same answer, whoever asks. The engine's logprobs are those of a real distribution (a hash
of all ids before), so scoring ids again gives exactly what was recorded with them.
"""

import asyncio
import heapq
import json
import math
import zlib
from array import array
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any, Literal

from msgspec import Struct

from perdure.core.errors import ProviderError
from perdure.core.experts import ExpertRows
from perdure.core.messages import ReasoningPart, TextPart, ToolCall
from perdure.core.model import Chunk, ModelDone, Prompt, ReasoningChunk, TextChunk, ToolCallChunk
from perdure.core.runs import Usage
from perdure.core.tokens import Finish, LogprobSemantics, VersionSpan
from perdure.providers.base import TokenBatch, TokenDone, TokenRequest, TokenStream
from perdure.providers.experts import ExpertsAsked
from perdure.providers.token_ids import check_ids
from perdure.tokens.base import Tokenizer


class Pause(Struct, frozen=True):
    """Nothing comes for a while."""

    seconds: float


class Call(Struct, frozen=True):
    """A tool call; `arguments` as an object or as the text the model writes. `id` None: call_1, call_2 ... in order."""

    name: str
    arguments: dict[str, Any] | str = {}
    id: str | None = None


Scripted = TextChunk | ReasoningChunk | Call | Pause | ProviderError


def text(value: str) -> TextChunk:
    return TextChunk(value)


def reasoning(value: str) -> ReasoningChunk:
    return ReasoningChunk(value)


def call(name: str, arguments: dict[str, Any] | str | None = None, *, id: str | None = None) -> Call:
    return Call(name, {} if arguments is None else arguments, id)


class ScriptedModel:
    """Each call plays the next turn, then `default` for ever. `prompts` are what it was asked; `abandoned` counts the
    answers closed before their end."""

    def __init__(
        self, turns: Iterable[Sequence[Scripted]] = (), *, default: Sequence[Scripted] = (TextChunk("ok"),)
    ) -> None:
        self.turns: deque[Sequence[Scripted]] = deque(turns)
        self.default = default
        self.prompts: list[Prompt] = []
        self.abandoned = 0
        self._calls = 0

    async def stream(
        self, prompt: Prompt, tokens: TokenStream | None = None
    ) -> AsyncGenerator[Sequence[Chunk | ModelDone], None]:
        self.prompts.append(prompt)
        turn = self.turns.popleft() if self.turns else self.default
        content: list[TextPart | ReasoningPart] = []
        calls: list[ToolCall] = []
        try:
            for item in turn:
                if isinstance(item, ProviderError):
                    raise item
                if isinstance(item, Pause):
                    await asyncio.sleep(item.seconds)
                    continue
                if isinstance(item, Call):
                    calls.append(self._made(item))
                    made = calls[-1]
                    yield (ToolCallChunk(len(calls) - 1, made.id, made.name, made.arguments),)
                    continue
                kind = TextPart if isinstance(item, TextChunk) else ReasoningPart
                if content and type(content[-1]) is kind:
                    content[-1] = kind(content[-1].text + item.text)
                else:
                    content.append(kind(item.text))
                yield (item,)
        except GeneratorExit:
            self.abandoned += 1
            raise
        yield (
            ModelDone(
                finish="tool_calls" if calls else "stop",
                content=tuple(content),
                tool_calls=tuple(calls),
                usage=Usage(10, 5, 15),
                model=prompt.model,
            ),
        )

    def _made(self, item: Call) -> ToolCall:
        self._calls += 1
        arguments = item.arguments if isinstance(item.arguments, str) else json.dumps(item.arguments)
        return ToolCall(item.id or f"call_{self._calls}", item.name, arguments)


class Completion(Struct, frozen=True, kw_only=True):
    """One answer of a ScriptedEngine: `text`, where control tokens are written by name, or `ids` as they are.

    The stop token follows unless `finish` is "length" or "abort". `fail_after` ids it raises `error`; `pause_s` goes before
    each batch of `batch` ids. `versions`: (version, number of ids) in order.
    """

    text: str = ""
    ids: tuple[int, ...] | None = None
    finish: Literal["stop", "length", "abort"] = "stop"
    batch: int = 4
    pause_s: float = 0.0
    fail_after: int | None = None
    error: ProviderError | None = None
    versions: tuple[tuple[str, int], ...] = ()


class ScriptedEngine:
    """Implements `base.TokenEngine`. `requests` are what it was asked; `aborted` the ids of requests closed before their end.
    `answer`: says what each request is answered, instead of the next of `completions`. `tells_broken_off`: routed experts of
    answers that end with an abort too."""

    kind = "scripted"
    base_url = "scripted:"
    logprob_semantics: LogprobSemantics = "raw"

    def __init__(
        self,
        tokenizer: Tokenizer,
        completions: Iterable[str | Completion] = (),
        *,
        stop_token_id: int,
        default: str | Completion = "ok",
    ) -> None:
        self.completions: deque[str | Completion] = deque(completions)
        self.default = default
        self.answer: Callable[[TokenRequest], str | Completion] | None = None
        self.tells_broken_off = True
        self.requests: list[TokenRequest] = []
        self.aborted: list[str] = []
        self._tokenizer = tokenizer
        self._stop = stop_token_id

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenBatch | TokenDone, None]:
        check_ids(self.kind, request.ids, request.vocab_size)
        self.requests.append(request)
        if self.answer is not None:
            script = self.answer(request)
        else:
            script = self.completions.popleft() if self.completions else self.default
        completion = Completion(text=script) if isinstance(script, str) else script
        ids, finish = self._played(completion, request)
        lm = HashModel(request.vocab_size)
        context = request.ids[:]
        failing = completion.fail_after if completion.fail_after is not None else len(ids) + 1
        try:
            for at in range(0, min(len(ids), failing), completion.batch):
                if completion.pause_s:
                    await asyncio.sleep(completion.pause_s)
                piece = ids[at : min(at + completion.batch, failing)]
                logprobs, tops = [], []
                for token_id in piece:
                    logprobs.append(lm.logprob(context, token_id))
                    tops.append(lm.top(context, request.top_logprobs))
                    context.append(token_id)
                yield TokenBatch(ids=piece, logprobs=logprobs, top_logprobs=tops if request.top_logprobs else None)
            if failing <= len(ids):
                raise completion.error or ProviderError("The scripted engine died.", kind="llm_connection")
        except GeneratorExit:
            self.aborted.append(request.request_id)
            raise
        yield TokenDone(
            finish=finish,
            prompt_tokens=len(request.ids),
            versions=_spans(completion.versions, len(ids)),
            engine_request_id=request.request_id,
            experts=self._experts(context, request, finish),
        )

    def _experts(self, ids: "array[int]", request: TokenRequest, finish: Finish) -> ExpertRows | None:
        if request.experts is None or (finish.type == "abort" and not self.tells_broken_off):
            return None
        return scripted_experts(ids, request.experts)

    async def score(self, model: str, ids: "array[int]", start: int, vocab_size: int) -> list[float]:
        check_ids(self.kind, ids, vocab_size)
        lm = HashModel(vocab_size)
        return [lm.logprob(ids[:at], ids[at]) for at in range(start, len(ids))]

    def _played(self, completion: Completion, request: TokenRequest) -> tuple[list[int], Finish]:
        ids = list(completion.ids) if completion.ids is not None else self._encoded(completion.text)
        if completion.finish == "stop":
            ids.append(self._stop)
        if len(ids) > request.max_tokens:
            return ids[: request.max_tokens], Finish("length")
        return ids, Finish(completion.finish, self._stop if completion.finish == "stop" else None)

    def _encoded(self, value: str) -> list[int]:
        ids: list[int] = []
        for piece in self._tokenizer.split(value):
            ids += [piece] if isinstance(piece, int) else self._tokenizer.encode(piece)
        return ids


def scripted_experts(ids: "array[int]", asked: ExpertsAsked) -> ExpertRows:
    """The experts of a mixture without weights, 2 of 8 in each of 2 layers unless asked for others: of each id but the last, a
    hash of all ids up to it."""
    layers, top_k, experts = asked.layers or 2, asked.top_k or 2, asked.num_experts or 8
    rows = bytearray()
    for at in range(asked.start, len(ids) - 1):
        state = zlib.crc32(memoryview(ids)[: at + 1])
        for layer in range(layers):
            first = zlib.crc32(layer.to_bytes(4, "little"), state) % experts
            rows += bytes((first + rank) % experts for rank in range(top_k))
    return ExpertRows(
        start=asked.start, layers=layers, top_k=top_k, dtype="uint8", data=bytes(rows), num_experts=experts
    )


class HashModel:
    """A language model without weights.

    The bits of the next id, highest first, are coins whose bias is a hash of all ids before and of the bits so far. So every
    number of that many bits has a probability, together they make 1, and none takes a sum to compute.
    """

    def __init__(self, vocab_size: int) -> None:
        self._bits = max(1, (vocab_size - 1).bit_length())
        self._size = vocab_size

    def logprob(self, context: "array[int]", token_id: int) -> float:
        state = zlib.crc32(memoryview(context))
        total = 0.0
        for level in range(self._bits):
            prefix = token_id >> (self._bits - level)
            one = _coin(state, level, prefix)
            total += math.log(one if token_id >> (self._bits - level - 1) & 1 else 1.0 - one)
        return total

    def top(self, context: "array[int]", count: int) -> list[tuple[float, int]]:
        """The `count` likeliest ids, the likeliest first: best-first down the tree of bits."""
        state = zlib.crc32(memoryview(context))
        heap = [(0.0, 0, 0)]
        found: list[tuple[float, int]] = []
        while heap and len(found) < count:
            minus, level, prefix = heapq.heappop(heap)
            if level == self._bits:
                if prefix < self._size:
                    found.append((-minus, prefix))
                continue
            one = _coin(state, level, prefix)
            heapq.heappush(heap, (minus - math.log(1.0 - one), level + 1, prefix << 1))
            heapq.heappush(heap, (minus - math.log(one), level + 1, prefix << 1 | 1))
        return found


def _coin(state: int, level: int, prefix: int) -> float:
    """In (0.05, 0.95), from a mix of the three numbers (the finaliser of splitmix64)."""
    z = (state * 0x9E3779B97F4A7C15 + (prefix << 6 | level) * 0xD1B54A32D192ED03 + 1) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return 0.05 + 0.9 * ((z ^ z >> 31) / 2**64)


def _spans(versions: Sequence[tuple[str, int]], total: int) -> tuple[VersionSpan, ...]:
    spans: list[VersionSpan] = []
    at = 0
    for version, count in versions:
        spans.append(VersionSpan(version, at, min(at + count, total)))
        at += count
    return tuple(spans)
