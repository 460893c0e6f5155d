"""SGLang's own `/generate` with token ids, as a TokenEngine.

Invariant: ids go in and ids come out; text is never asked for. Each id comes with the engine's own logprob of it, and what was
read of a stream is held against the engine's own last word where that repeats everything.
"""

import uuid
from array import array
from typing import Any

import msgspec

from perdure.core.errors import ProviderError
from perdure.core.tokens import LogprobSemantics
from perdure.providers.base import TokenRequest
from perdure.providers.http import Answer, Endpoint, Http
from perdure.providers.sglang_frames import Generation, Scored
from perdure.providers.token_ids import check_ids, json_ids, with_ids
from perdure.providers.token_stream import Aborts, Ids, asked, read

_encode = msgspec.json.Encoder().encode
_decode_scored = msgspec.json.Decoder(Scored).decode

# Our setting, its name among the sampling parameters. An unknown one is refused, so only what is set is sent.
_SAMPLING = (
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("min_p", "min_p"),
    ("frequency_penalty", "frequency_penalty"),
    ("presence_penalty", "presence_penalty"),
    ("repetition_penalty", "repetition_penalty"),
    ("seed", "sampling_seed"),
)


class SGLang:
    """`endpoint` is the server's root, beside `/v1`. Logprobs are after temperature and penalties, before top-k and top-p."""

    kind = "sglang"
    logprob_semantics: LogprobSemantics = "temperature"

    def __init__(self, http: Http, endpoint: Endpoint) -> None:
        self._http = http
        self._endpoint = endpoint
        self._aborts = Aborts(http, endpoint, "/abort_request", lambda rid: {"rid": rid, "abort_all": False})

    @property
    def base_url(self) -> str:
        return self._endpoint.base_url

    def generate(self, request: TokenRequest) -> Ids:
        return asked(self._http, self._endpoint, request, self._once)

    def _once(self, request: TokenRequest) -> Ids:
        generation = Generation(
            self._endpoint.name, request.request_id, want_top=request.top_logprobs > 0, experts=request.experts
        )
        return read(lambda: self._open(request), generation, self._aborts.begin)

    async def _open(self, request: TokenRequest) -> tuple[Answer, bytes]:
        check_ids(self._endpoint.name, request.ids, request.vocab_size)
        body = with_ids(_encode(self.fields(request)), b'"input_ids"', json_ids(request.ids))
        return await self._http.open(self._endpoint, "/generate", body, retry=False), body

    async def score(self, model: str, ids: "array[int]", start: int, vocab_size: int) -> list[float]:
        """By prefill: one request, whatever the length."""
        check_ids(self._endpoint.name, ids, vocab_size)
        if start < 1:
            raise ValueError("start: the first id of a prompt has no logprob; begin at 1 or later.")
        fields = {
            "rid": uuid.uuid4().hex,
            "return_logprob": True,
            "logprob_start_len": start - 1,
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        }
        body = with_ids(_encode(fields), b'"input_ids"', json_ids(ids))
        raw = await self._http.call(self._endpoint, "/generate", body, retry=False)
        try:
            rows = _decode_scored(raw).meta_info.input_token_logprobs[start - len(ids) :]
        except msgspec.DecodeError as cause:
            raise ProviderError(f"{self._endpoint.name} sent logprobs that cannot be read: {cause}.") from cause
        told = [token_id for _, token_id, _ in rows]
        logprobs = [logprob for logprob, _, _ in rows if logprob is not None]
        if told != ids[start:].tolist() or len(logprobs) != len(told):
            raise ProviderError(f"{self._endpoint.name} scored other ids than it was given.")
        return logprobs

    def fields(self, request: TokenRequest) -> dict[str, Any]:
        """The request but for the ids. `ignore_eos` is never set: it would switch the stop ids off too."""
        sampling: dict[str, Any] = {
            "max_new_tokens": request.max_tokens,
            "stop_token_ids": request.stop_token_ids,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "no_stop_trim": True,
        }
        for ours, theirs in _SAMPLING:
            if (value := getattr(request, ours)) is not None:
                sampling[theirs] = value
        if request.grammar is not None:
            sampling |= _grammar(request.grammar)
        fields: dict[str, Any] = {
            "rid": request.request_id,
            "stream": True,
            "return_logprob": True,
            "sampling_params": sampling,
        }
        if request.top_logprobs:
            fields["top_logprobs_num"] = request.top_logprobs
        if request.experts is not None:
            fields["return_routed_experts"] = True
            fields["routed_experts_start_len"] = request.experts.start
        return fields

    async def close(self) -> None:
        """Wait for the aborts under way."""
        await self._aborts.finish()


def _grammar(grammar: dict[str, Any]) -> dict[str, Any]:
    match grammar["kind"]:
        case "json_schema":
            return {"json_schema": _encode(grammar["schema"]).decode()}
        case "regex":
            return {"regex": grammar["pattern"]}
        case "gbnf":
            return {"ebnf": grammar["grammar"]}
        case kind:
            raise ProviderError(f"SGLang takes no grammar of kind {kind!r}.", kind="llm_bad_request")
