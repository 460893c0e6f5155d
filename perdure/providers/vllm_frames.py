"""The frames of vLLM's token streams: bytes in, new ids with their logprobs out.

Three shapes are read: `/inference/v1/generate` (logprobs by token id, or by "token_id:N" on older servers), `/v1/completions`
and `/v1/chat/completions` with ids asked for. Invariant: every id has one usable logprob, or the answer is a ProviderError.
"""

from typing import Any

import msgspec
from msgspec import Struct, field

from perdure.core.errors import ProviderError
from perdure.core.experts import ExpertRows
from perdure.core.tokens import Finish, VersionSpan
from perdure.providers.base import TokenBatch, TokenDone
from perdure.providers.experts import HEAVY, ExpertsAsked, from_npy
from perdure.providers.failures import DETAIL_CHARS, RETRYABLE_STATUSES, described, message_in, status_in

CLAMPED = -9999.0  # stands for a logprob that is missing or was too small to tell
TOKEN_ID = "token_id:"
_NULL = msgspec.Raw(b"null")

Top = list[tuple[float, int]]


class _Token(Struct):
    logprob: float
    token_id: int | None = None
    token: str | None = None
    rank: int | None = None
    top_logprobs: list["_Token"] = []

    @property
    def id(self) -> int:
        return self.token_id if self.token_id is not None else _id_in(self.token or "")


class _Logprobs(Struct):
    """`content`: of generate; the others: of completions."""

    content: list[_Token] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class _Version(Struct):
    version: str
    start: int
    end: int


class _Choice(Struct):
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    weight_versions: list[_Version] | None = None
    prompt_logprobs: list[dict[str, Any] | None] | None = None
    routed_experts: msgspec.Raw = _NULL  # a server that tells them at all tells them in every answer: read if wanted


class _Details(Struct):
    cached_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Frame(Struct):
    request_id: str | None = None
    id: str | None = None
    choices: list[_Choice] = field(default_factory=list)
    usage: _Usage | None = None
    error: Any = None
    prompt_token_ids: list[int] | None = None


class Scored(Struct):
    """The answer to a request for a prompt's logprobs, from either route."""

    prompt_logprobs: list[dict[str, Any] | None] | None = None
    choices: list[_Choice] = field(default_factory=list)

    def logprobs_of(self, ids: Any, start: int) -> list[float]:
        """KeyError where one of the ids is not told."""
        told = self.prompt_logprobs
        if told is None and self.choices:
            told = self.choices[0].prompt_logprobs
        if told is None or len(told) != len(ids):
            raise KeyError("prompt_logprobs")
        return [float((told[at] or {})[str(ids[at])]["logprob"]) for at in range(start, len(ids))]


_decode = msgspec.json.Decoder(_Frame).decode
_decode_text = msgspec.json.Decoder(str | None).decode


class Generation:
    """One answer under way. `request_id`: the engine's own id of it, once it has told it. `prompt_ids`: the prompt as the
    engine used it, where it wrote that itself. `token_texts`: logprobs name their tokens by text, so they are told by place.
    """

    def __init__(
        self,
        provider: str,
        *,
        top_logprobs: int = 0,
        token_texts: bool = False,
        experts: ExpertsAsked | None = None,
        prompt_tokens: int = 0,
    ) -> None:
        self.request_id: str | None = None
        self.prompt_ids: list[int] | None = None
        self._provider = provider
        self._top = top_logprobs
        self._texts = token_texts
        self._experts = experts
        self._prompt_tokens = prompt_tokens
        self._routed: str | None = None
        self._ids: list[int] = []
        self._reason: tuple[str, int | str | None] | None = None
        self._usage: _Usage | None = None
        self._versions: list[_Version] = []

    @property
    def completion_tokens(self) -> int | None:
        """How many it sampled by its own count, once it has told it."""
        return self._usage.completion_tokens if self._usage is not None else None

    @property
    def heavy(self) -> bool:
        """`done` takes a while: many routed experts are to be read."""
        return len(self._routed or "") > HEAVY

    def take(self, frames: list[bytes]) -> TokenBatch | None:
        ids: list[int] = []
        logprobs: list[float] = []
        tops: list[Top] = []
        try:
            for data in frames:
                frame = _decode(data)
                if frame.error:
                    self._fail(frame.error, data)
                self.request_id = self.request_id or frame.request_id or frame.id
                self.prompt_ids = frame.prompt_token_ids or self.prompt_ids
                self._usage = frame.usage or self._usage
                for choice in frame.choices:
                    self._take(choice, ids, logprobs, tops)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as cause:
            raise self._unusable(f"a frame that cannot be read: {cause}") from cause
        if not ids:
            return None
        self._ids += ids
        return TokenBatch(ids=ids, logprobs=logprobs, top_logprobs=tops if self._top else None)

    def done(self, request: bytes) -> TokenDone:
        if self._reason is None:
            raise ProviderError(
                f"The stream of {self._provider} ended before the generation did.",
                kind="llm_connection",
                retryable=not self._ids,
            )
        reason, matched = self._reason
        usage = self._usage or _Usage()
        details = usage.prompt_tokens_details
        finish = self._finish(reason, matched)
        return TokenDone(
            finish=finish,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=details.cached_tokens if details is not None else None,
            versions=tuple(VersionSpan(each.version, each.start, each.end) for each in self._versions),
            engine_request_id=self.request_id,
            request=request,
            response={"token_ids": self._ids, "finish_reason": reason, "stop_reason": matched},
            experts=self._rows(finish),
        )

    def _rows(self, finish: Finish) -> ExpertRows | None:
        """The last sampled id has no row: nothing was computed of it yet."""
        if self._experts is None or self._routed is None:
            return None
        rows = max(0, self._prompt_tokens + len(self._ids) - 1 - self._experts.start)
        return from_npy(self._routed, self._experts, rows, self._provider, partial=finish.type == "abort")

    def _take(self, choice: _Choice, ids: list[int], logprobs: list[float], tops: list[Top]) -> None:
        new = choice.token_ids or []
        if new:
            told = self._told(choice.logprobs, new)
            if [token_id for token_id, _, _ in told] != new:
                raise self._unusable(f"{len(new)} ids with the logprobs of {len(told)} others")
            for token_id, logprob, top in told:
                if logprob <= CLAMPED:
                    raise self._unusable(f"no logprob for id {token_id}")
                ids.append(token_id)
                logprobs.append(logprob)
                tops.append(top)
        if choice.finish_reason is not None:
            self._reason = (choice.finish_reason, choice.stop_reason)
        if self._experts is not None:
            self._routed = _decode_text(choice.routed_experts) or self._routed
        if choice.weight_versions:
            self._versions = choice.weight_versions

    def _told(self, logprobs: _Logprobs | None, new: list[int]) -> list[tuple[int, float, Top]]:
        if logprobs is None:
            raise self._unusable("ids without logprobs")
        if logprobs.content is not None and self._texts:
            return [(token_id, token.logprob, []) for token_id, token in zip(new, logprobs.content, strict=False)]
        if logprobs.content is not None:
            return [(token.id, token.logprob, self._best(token)) for token in logprobs.content]
        listed = logprobs.top_logprobs or [None] * len(logprobs.tokens or ())
        rows = zip(logprobs.tokens or (), logprobs.token_logprobs or (), listed, strict=True)
        return [
            (
                _id_in(token),
                logprob,
                sorted(((p, _id_in(each)) for each, p in (top or {}).items()), reverse=True)[: self._top],
            )
            for token, logprob, top in rows
        ]

    def _best(self, token: _Token) -> Top:
        """The likeliest ids. vLLM lists the sampled one among them whether it belongs there or not."""
        ranked = sorted(((each.logprob, each.id) for each in token.top_logprobs), reverse=True)
        return ranked[: self._top]

    def _finish(self, reason: str, matched: int | str | None) -> Finish:
        if reason == "length":
            return Finish("length", None, reason)
        if reason in ("stop", "tool_calls"):
            if matched is None and self._ids:  # the model's own end-of-sequence id is not named
                matched = self._ids[-1]
            return Finish("stop", matched, reason)
        return Finish("abort", matched, reason)

    def _fail(self, error: Any, data: bytes) -> None:
        status = status_in(error)
        retryable = not self._ids and (status is None or status in RETRYABLE_STATUSES)
        text = message_in(error) or data[:200].decode("utf-8", "replace")
        raise described(self._provider, text, status, raw=data[:DETAIL_CHARS], retryable=retryable)

    def _unusable(self, what: str) -> ProviderError:
        return ProviderError(f"{self._provider} sent {what}: its token record is not usable.")


def _id_in(token: str) -> int:
    """ValueError for a token told as text."""
    if not token.startswith(TOKEN_ID):
        raise ValueError(f"the token {token!r} is told as text, not as an id")
    return int(token.removeprefix(TOKEN_ID))
