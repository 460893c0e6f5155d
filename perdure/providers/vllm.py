"""vLLM with token ids, as a TokenEngine: `/inference/v1/generate`, or `/v1/completions` where that is not served.

Invariant: as for every engine, ids go in and ids come out with the engine's own logprobs. vLLM's are raw: before
temperature, penalties and `logit_bias`.
"""

from array import array
from typing import Any

import msgspec

from perdure.core.errors import ProviderError
from perdure.core.tokens import LogprobSemantics
from perdure.providers.base import TokenRequest
from perdure.providers.http import Answer, Endpoint, Http
from perdure.providers.token_ids import check_ids, json_ids, with_ids
from perdure.providers.token_stream import Aborts, Ids, asked, read
from perdure.providers.vllm_frames import Generation, Scored

GENERATE = "/inference/v1/generate"
ABORT = "/inference/v1/abort_requests"
COMPLETIONS = "/v1/completions"
NOT_SERVED = frozenset({403, 404, 405, 501})

_encode = msgspec.json.Encoder().encode
_decode_scored = msgspec.json.Decoder(Scored).decode

_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "seed",
)


class VLLM:
    """`endpoint` is the server's root, beside `/v1`."""

    kind = "vllm"
    logprob_semantics: LogprobSemantics = "raw"

    def __init__(self, http: Http, endpoint: Endpoint) -> None:
        self._http = http
        self._endpoint = endpoint
        self._completions = False
        self._aborts = Aborts(http, endpoint, ABORT, lambda request_id: {"request_ids": [request_id]})

    @property
    def base_url(self) -> str:
        return self._endpoint.base_url

    def generate(self, request: TokenRequest) -> Ids:
        return asked(self._http, self._endpoint, request, self._once)

    async def score(self, model: str, ids: "array[int]", start: int, vocab_size: int) -> list[float]:
        """By prefill: one request, whatever the length."""
        check_ids(self._endpoint.name, ids, vocab_size)
        if start < 1:
            raise ValueError("start: the first id of a prompt has no logprob; begin at 1 or later.")
        sampling = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        raw: bytes | None = None
        if not self._completions:
            body = with_ids(_encode({"model": model, "sampling_params": sampling}), b'"token_ids"', json_ids(ids))
            try:
                raw = await self._http.call(self._endpoint, GENERATE, body, retry=False)
            except ProviderError as error:
                self._fall_back(error)
        if raw is None:
            body = with_ids(_encode({"model": model, **sampling}), b'"prompt"', json_ids(ids))
            raw = await self._http.call(self._endpoint, COMPLETIONS, body, retry=False)
        try:
            return _decode_scored(raw).logprobs_of(ids, start)
        except (msgspec.DecodeError, KeyError) as cause:
            raise ProviderError(f"{self._endpoint.name} did not tell the logprobs of a prompt: {cause!r}.") from cause

    async def close(self) -> None:
        """Wait for the aborts under way."""
        await self._aborts.finish()

    def _once(self, request: TokenRequest) -> Ids:
        generation = Generation(
            self._endpoint.name,
            top_logprobs=request.top_logprobs,
            experts=request.experts,
            prompt_tokens=len(request.ids),
        )
        return read(lambda: self._open(request), generation, self._abort)

    async def _open(self, request: TokenRequest) -> tuple[Answer, bytes]:
        check_ids(self._endpoint.name, request.ids, request.vocab_size)
        ids = json_ids(request.ids)
        if not self._completions:
            body = with_ids(_encode(_generate_fields(request)), b'"token_ids"', ids)
            try:
                return await self._http.open(self._endpoint, GENERATE, body, retry=False), body
            except ProviderError as error:
                self._fall_back(error)
        body = with_ids(_encode(_completion_fields(request)), b'"prompt"', ids)
        return await self._http.open(self._endpoint, COMPLETIONS, body, retry=False), body

    def _fall_back(self, error: ProviderError) -> None:
        """Ask `/v1/completions` from now on, if the engine's own route is not served; else the error stands."""
        if error.status not in NOT_SERVED:
            raise error
        self._completions = True

    def _abort(self, request_id: str) -> None:
        """By the dropped connection alone where `/v1/completions` is asked: its answers cannot be named."""
        if not self._completions:
            self._aborts.begin(request_id)


def _sampling(request: TokenRequest) -> dict[str, Any]:
    fields = {name: value for name in _SAMPLING if (value := getattr(request, name)) is not None}
    if request.experts is not None:
        fields["routed_experts_prompt_start"] = request.experts.start
    if request.grammar is not None:
        fields["structured_outputs"] = _grammar(request.grammar)
    return fields | {
        "max_tokens": request.max_tokens,  # left out, it would fill the context
        "stop_token_ids": request.stop_token_ids,
        "logprobs": max(1, request.top_logprobs),
        "skip_special_tokens": False,
    }


def _generate_fields(request: TokenRequest) -> dict[str, Any]:
    return {
        "model": request.model,
        "request_id": request.request_id,
        "stream": True,
        "sampling_params": _sampling(request),
        "stream_options": {"include_usage": True},
    }


def _completion_fields(request: TokenRequest) -> dict[str, Any]:
    """Ids are asked for in place of token texts everywhere: texts do not tell tokens apart."""
    return {
        "model": request.model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        **_sampling(request),
    }


def _grammar(grammar: dict[str, Any]) -> dict[str, Any]:
    match grammar["kind"]:
        case "json_schema":
            return {"json": grammar["schema"]}
        case "regex":
            return {"regex": grammar["pattern"]}
        case "gbnf":
            return {"grammar": grammar["grammar"]}
        case kind:
            raise ProviderError(f"vLLM takes no grammar of kind {kind!r}.", kind="llm_bad_request")
