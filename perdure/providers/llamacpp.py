"""llama.cpp's own `/completion` with token ids, as a TokenEngine.

Invariant: every sampled id is recorded with its logprob. llama.cpp leaves ids that end inside a character out of its streams
and probabilities, and only the `tokens` of a whole answer has them all. So answers are asked for whole, a few tokens at a
time, each request going on where the last one ended; what probabilities then miss is asked for again by forced sampling.
What a grammar constrains is one request (`llamacpp_grammar.py`).
"""

import time
from array import array
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.errors import ProviderError
from perdure.core.tokens import Finish, LogprobSemantics
from perdure.providers.attempts import attempts
from perdure.providers.base import TokenBatch, TokenDone, TokenRequest
from perdure.providers.http import Endpoint, Http
from perdure.providers.llamacpp_grammar import Constraint
from perdure.providers.token_ids import check_ids, json_ids, with_ids

FIRST_PIECE = 2
SHORTEST_PIECE = 4
LONGEST_PIECE = 64
PIECE_S = 0.12
FORCED = 1000.0  # added to a logit, it wins whatever the others are
SOME_PROBS = 256
_WORD_TRIGGER = 1

_encode = msgspec.json.Encoder().encode

Top = list[tuple[float, int]]


class _Prob(Struct):
    id: int
    logprob: float = 0.0
    top_logprobs: list["_Prob"] = []


class _Answer(Struct):
    tokens: list[int] = []
    stop_type: str = ""
    truncated: bool = False
    completion_probabilities: list[_Prob] = []
    content: str = ""
    timings: dict[str, Any] = {}
    model: str | None = None
    id_slot: int | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class LlamaCpp:
    """`endpoint` is the server's root."""

    kind = "llamacpp"
    logprob_semantics: LogprobSemantics = "raw"

    def __init__(self, http: Http, endpoint: Endpoint) -> None:
        self._http = http
        self._endpoint = endpoint
        self._plain_id: int | None = None

    @property
    def base_url(self) -> str:
        return self._endpoint.base_url

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenBatch | TokenDone, None]:
        return attempts(self._http, self._endpoint.retries, lambda: self._once(request))

    async def _once(self, request: TokenRequest) -> AsyncGenerator[TokenBatch | TokenDone, None]:
        if request.experts is not None:
            raise ProviderError(
                "llama.cpp does not tell which experts an id goes to. Leave model_settings.return_routed_experts out, or serve "
                "the model with SGLang or vLLM.",
                kind="llm_bad_request",
            )
        check_ids(self._endpoint.name, request.ids, request.vocab_size)
        ids, fields, constraint = request.ids[:], _fields(request), Constraint(request.grammar)
        left, piece = request.max_tokens, FIRST_PIECE
        first: tuple[bytes, _Answer] | None = None
        slot: int | None = None
        while True:
            wanted = min(constraint.longest(piece), left)
            if request.seed is not None:  # a piece must not repeat the random numbers of the one before
                fields["seed"] = (request.seed + len(ids) - len(request.ids)) % 2**32
            if slot is not None:
                fields["id_slot"] = slot  # where the prompt is; else another is taken if this one is not free yet
            body = with_ids(_encode({**fields, **constraint.fields(), "n_predict": wanted}), b'"prompt"', json_ids(ids))
            began = time.perf_counter()
            answer = await self._ask(body, begun=first is not None)
            first = first or (body, answer)
            slot = answer.id_slot
            piece = _next_piece(len(answer.tokens), time.perf_counter() - began)
            tokens, finish = _finish(answer, request.stop_token_ids, wanted, left)
            if tokens:
                placed = _placed(answer.tokens, answer.completion_probabilities)[: len(tokens)]
                yield await self._batch(ids, tokens, placed, request, slot)
                ids.extend(tokens)
                left -= len(tokens)
            if finish is not None:
                yield _done(request, finish, first, answer)
                return
            if constraint.triggered(answer.content, answer.stop_type == "word"):
                constraint.begin(await self._text(tokens))

    async def score(self, model: str, ids: "array[int]", start: int, vocab_size: int) -> list[float]:
        """One forced token a request: the server has no logprobs of a prompt. With its cache each costs one step."""
        check_ids(self._endpoint.name, ids, vocab_size)
        if start < 1:
            raise ValueError("start: the first id of a prompt has no logprob; begin at 1 or later.")
        slot = (await self._ask(with_ids(b'{"n_predict":0}', b'"prompt"', json_ids(ids[:start])))).id_slot
        return [(await self._forced(ids[:at], ids[at], vocab_size, 0, slot))[0] for at in range(start, len(ids))]

    async def _batch(
        self,
        context: "array[int]",
        tokens: list[int],
        placed: list[_Prob | None],
        request: TokenRequest,
        slot: int | None,
    ) -> TokenBatch:
        logprobs: list[float] = []
        tops: list[Top] = []
        for at, prob in enumerate(placed):
            if prob is not None:
                logprobs.append(prob.logprob)
                tops.append([(each.logprob, each.id) for each in prob.top_logprobs])
                continue
            before = context + array("i", tokens[:at])
            logprob, top = await self._forced(before, tokens[at], request.vocab_size, request.top_logprobs, slot)
            logprobs.append(logprob)
            tops.append(top)
        if not request.top_logprobs:
            return TokenBatch(ids=tokens, logprobs=logprobs)
        return TokenBatch(ids=tokens, logprobs=logprobs, top_logprobs=[top[: request.top_logprobs] for top in tops])

    async def _forced(
        self, context: "array[int]", token_id: int, vocab_size: int, top: int, slot: int | None
    ) -> tuple[float, Top]:
        """The raw logprob of one id after others: it is forced by its logit, which leaves the logprobs told as they are.

        The server tells nothing of an id that ends inside a character; then another id is forced and this one looked for
        among the likeliest, at last among all.
        """
        prob = await self._force(context, token_id, max(1, top), slot)
        if prob is None or prob.id != token_id:
            plain = await self._plain()
            for count in (max(SOME_PROBS, top), vocab_size):
                prob = await self._force(context, plain, count, slot)
                listed = prob.top_logprobs if prob is not None else []
                found = next((each for each in listed if each.id == token_id), None)
                if found is not None:
                    return found.logprob, [(each.logprob, each.id) for each in listed[:top]]
            raise ProviderError(
                f"{self._endpoint.name} tells no logprob of token id {token_id}: its record is not usable."
            )
        return prob.logprob, [(each.logprob, each.id) for each in prob.top_logprobs[:top]]

    async def _force(self, context: "array[int]", token_id: int, n_probs: int, slot: int | None) -> _Prob | None:
        fields = {
            "n_predict": 1,
            "n_probs": n_probs,
            "temperature": 0,
            "samplers": ["temperature"],
            "logit_bias": [[token_id, FORCED]],
            "return_tokens": True,
            "cache_prompt": True,
            "id_slot": -1 if slot is None else slot,
        }
        answer = await self._ask(with_ids(_encode(fields), b'"prompt"', json_ids(context)))
        if answer.tokens != [token_id]:
            raise ProviderError(f"{self._endpoint.name} did not sample the token it was made to: {answer.tokens}.")
        return answer.completion_probabilities[0] if answer.completion_probabilities else None

    async def _text(self, tokens: list[int]) -> str:
        answer = await self._http.call(self._endpoint, "/detokenize", _encode({"tokens": tokens}))
        return str(msgspec.json.decode(answer)["content"])

    async def _plain(self) -> int:
        """An id that is whole characters."""
        if self._plain_id is None:
            answer = await self._http.call(self._endpoint, "/tokenize", _encode({"content": "a"}))
            self._plain_id = int(msgspec.json.decode(answer)["tokens"][-1])
        return self._plain_id

    async def _ask(self, body: bytes, *, begun: bool = True) -> _Answer:
        """`begun`: some of the generation has been sampled, so failing now is final; else `attempts` asks again."""
        try:
            raw = await self._http.call(self._endpoint, "/completion", body, retry=begun)
            if not raw:
                message = f"{self._endpoint.name} ended its answer before it had begun."
                raise ProviderError(message, kind="llm_connection", retryable=True)
        except ProviderError as error:
            error.retryable = error.retryable and not begun
            raise
        try:
            return _decode(raw)
        except msgspec.DecodeError as cause:
            raise ProviderError(f"{self._endpoint.name} sent an answer that cannot be read: {cause}.") from cause


def _fields(request: TokenRequest) -> dict[str, Any]:
    """The request but for prompt, length and grammar.

    Once anything about sampling is set, what is not set is neutral, and temperature comes first as in other engines:
    llama.cpp's own defaults (top-k 40, top-p 0.95, min-p 0.05) would change what a temperature means.
    """
    fields: dict[str, Any] = {
        "n_probs": max(1, request.top_logprobs),
        "return_tokens": True,
        "cache_prompt": True,
        "repeat_penalty": request.repetition_penalty if request.repetition_penalty is not None else 1.0,
    }
    chosen = {
        "temperature": request.temperature,
        "top_k": request.top_k,
        "top_p": request.top_p,
        "min_p": request.min_p,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
    }
    if any(value is not None for value in chosen.values()):
        neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        fields |= neutral | {name: value for name, value in chosen.items() if value is not None}
        fields["top_k"] = max(0, fields["top_k"])
        fields["samplers"] = ["penalties", "temperature", "top_k", "top_p", "min_p"]
    return fields


def _finish(answer: _Answer, stops: Sequence[int], wanted: int, left: int) -> tuple[list[int], Finish | None]:
    """The ids that count, and how the generation ended; None: it goes on."""
    tokens = answer.tokens
    at = next((index for index, token_id in enumerate(tokens) if token_id in stops), None)
    if at is not None:
        return tokens[: at + 1], Finish("stop", tokens[at], answer.stop_type)
    if answer.stop_type == "eos":
        return tokens, Finish("stop", tokens[-1] if tokens else None, answer.stop_type)
    if answer.stop_type not in ("limit", "word"):
        return tokens, Finish("abort", None, answer.stop_type)
    if answer.stop_type == "word":  # what follows is under a grammar
        wanted = 0
    ended = len(tokens) >= left or len(tokens) < wanted or answer.truncated
    return tokens, Finish("length", None, answer.stop_type) if ended else None


def _next_piece(tokens: int, seconds: float) -> int:
    """As many tokens as come in about PIECE_S, so that a reader sees the answer grow."""
    rate = max(1, tokens) / max(seconds, 1e-4)
    return max(SHORTEST_PIECE, min(LONGEST_PIECE, round(rate * PIECE_S)))


def _placed(tokens: Sequence[int], probs: Sequence[_Prob]) -> list[_Prob | None]:
    """For each token its probability, or None where it has none for certain.

    `probs` leaves some tokens out. One is certain where the earliest and the latest place it can have are the same.
    """
    if len(tokens) == len(probs) and all(prob.id == token for token, prob in zip(tokens, probs, strict=True)):
        return list(probs)
    first = _places(tokens, [prob.id for prob in probs])
    last = _places(tokens[::-1], [prob.id for prob in reversed(probs)])
    placed: list[_Prob | None] = [None] * len(tokens)
    if first is None or last is None:
        return placed
    for at, mirrored, prob in zip(first, reversed(last), probs, strict=True):
        if at == len(tokens) - 1 - mirrored:
            placed[at] = prob
    return placed


def _places(tokens: Sequence[int], wanted: Sequence[int]) -> list[int] | None:
    """Where each of `wanted` comes first, in order."""
    places: list[int] = []
    at = 0
    for token_id in wanted:
        while at < len(tokens) and tokens[at] != token_id:
            at += 1
        if at == len(tokens):
            return None
        places.append(at)
        at += 1
    return places


def _done(request: TokenRequest, finish: Finish, first: tuple[bytes, _Answer], last: _Answer) -> TokenDone:
    body, answer = first
    cached = answer.timings.get("cache_n")
    return TokenDone(
        finish=finish,
        prompt_tokens=len(request.ids),
        cached_tokens=cached if isinstance(cached, int) else None,
        request=body,
        response={"model": last.model, "stop_type": last.stop_type, "timings": last.timings},
    )
