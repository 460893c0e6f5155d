"""The frames of SGLang's `/generate` stream: bytes in, new ids with their logprobs out.

Frames repeat everything from the start (the default) or hold what is new (`--incremental-streaming-output`); each frame says
which by its own counts. Invariant: ids and logprobs given out are as many as the engine says it sampled, and at the end of a
repeating stream equal to its last frame, or the answer is a ProviderError.
"""

from typing import Any

import msgspec
from msgspec import Struct, field

from perdure.core.errors import ProviderError
from perdure.core.experts import ExpertRows
from perdure.core.tokens import Finish, VersionSpan
from perdure.providers.base import TokenBatch, TokenDone
from perdure.providers.experts import HEAVY, ExpertsAsked, from_int32
from perdure.providers.failures import DETAIL_CHARS, RETRYABLE_STATUSES, described, message_in, status_in

_EMPTY = msgspec.Raw(b"[]")

Row = tuple[float, int, Any]


class _Version(Struct):
    version: str
    start: int
    end: int


class _Meta(Struct, frozen=True):
    """The lists stay unread JSON: a repeating stream would have all of them decoded again with every token."""

    finish_reason: dict[str, Any] | None = None
    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    num_retractions: int | None = None
    weight_version: str | None = None
    weight_versions: list[_Version] | None = None
    output_token_logprobs: msgspec.Raw = _EMPTY
    output_top_logprobs: msgspec.Raw = _EMPTY
    e2e_latency: float | None = None
    routed_experts: str | None = None


_NO_META = _Meta()


class _Frame(Struct):
    output_ids: msgspec.Raw = _EMPTY
    meta_info: _Meta = _NO_META
    error: Any = None
    message: Any = None


class _ScoredMeta(Struct):
    input_token_logprobs: list[tuple[float | None, int, Any]] = field(default_factory=list)


class Scored(Struct):
    """The answer to a request for a prompt's logprobs."""

    meta_info: _ScoredMeta


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_ids = msgspec.json.Decoder(list[int]).decode
_decode_rows = msgspec.json.Decoder(list[Row]).decode
_decode_tops = msgspec.json.Decoder(list[list[Row] | None]).decode


class Generation:
    """One answer under way, `request_id` as it was sent."""

    def __init__(
        self, provider: str, request_id: str, *, want_top: bool = False, experts: ExpertsAsked | None = None
    ) -> None:
        self.request_id: str | None = request_id
        self._provider = provider
        self._want_top = want_top
        self._experts = experts
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._repeats = False
        self._last: _Meta | None = None

    @property
    def heavy(self) -> bool:
        """`done` takes a while: many routed experts are to be read."""
        return self._experts is not None and self._last is not None and len(self._last.routed_experts or "") > HEAVY

    def take(self, frames: list[bytes]) -> TokenBatch | None:
        """What the frames add. Where the last one repeats all the others, only it is read."""
        if not frames:
            return None
        at = len(self._ids)
        tops: list[list[tuple[float, int]]] = []
        try:
            last = self._frame(frames[-1])
            held = _count(last.output_ids)
            if (
                len(frames) > 1 and held != last.meta_info.completion_tokens
            ):  # it does not hold everything from the start
                for data in frames[:-1]:
                    frame = self._frame(data)
                    self._add(frame, _count(frame.output_ids), tops)
            self._add(last, held, tops)
        except (msgspec.DecodeError, UnicodeDecodeError) as cause:
            raise self._unusable(f"a frame that cannot be read: {cause}") from cause
        if len(self._ids) == at:
            return None
        return TokenBatch(
            ids=self._ids[at:], logprobs=self._logprobs[at:], top_logprobs=tops if self._want_top else None
        )

    def done(self, request: bytes) -> TokenDone:
        meta = self._last
        reason = meta.finish_reason if meta is not None else None
        if meta is None or reason is None:
            raise ProviderError(
                f"The stream of {self._provider} ended before the generation did.",
                kind="llm_connection",
                retryable=not self._ids,
            )
        finish = self._finish(reason)
        return TokenDone(
            finish=finish,
            prompt_tokens=meta.prompt_tokens,
            cached_tokens=meta.cached_tokens,
            retractions=meta.num_retractions,
            versions=_versions(meta, len(self._ids)),
            engine_request_id=self.request_id,
            request=request,
            response={
                "output_ids": self._ids,
                "finish_reason": reason,
                "prompt_tokens": meta.prompt_tokens,
                "cached_tokens": meta.cached_tokens,
                "weight_version": meta.weight_version,
                "e2e_latency": meta.e2e_latency,
            },
            experts=self._routed(meta),
        )

    def _routed(self, meta: _Meta) -> ExpertRows | None:
        """The last sampled id has no row: nothing was computed of it yet."""
        if self._experts is None or meta.routed_experts is None or meta.prompt_tokens is None:
            return None
        rows = max(0, meta.prompt_tokens + len(self._ids) - 1 - self._experts.start)
        return from_int32(meta.routed_experts, self._experts, rows, self._provider)

    def _frame(self, data: bytes) -> _Frame:
        frame = _decode_frame(data)
        if frame.error or frame.meta_info is _NO_META:
            error = frame.error or frame.message or msgspec.json.decode(data)
            status = status_in(error)
            told = error.get("retryable") if isinstance(error, dict) else None
            raise described(
                self._provider,
                message_in(error) or data[:200].decode("utf-8", "replace"),
                status,
                raw=data[:DETAIL_CHARS],
                retryable=not self._ids and (status in RETRYABLE_STATUSES if told is None else bool(told)),
            )
        return frame

    def _add(self, frame: _Frame, held: int, tops: list[list[tuple[float, int]]]) -> None:
        """`held`: how many ids the frame has."""
        meta = frame.meta_info
        self._last = meta
        seen = len(self._ids)
        total = held + seen if meta.completion_tokens is None else meta.completion_tokens
        if held == total and seen:
            self._repeats = True
        if held == total and total >= seen:
            new = total - seen
        elif held + seen == total:
            new = held
        elif meta.finish_reason is not None and total == seen:
            new = 0  # an abort in the queue tells the last id once more
        else:
            raise self._unusable(f"{held} ids after {seen} where it has sampled {total}")
        if new:
            listed = meta.output_token_logprobs
            rows = _decode_rows(listed if new == held else _tail(bytes(listed), new))
            if len(rows) != new:
                raise self._unusable(f"{len(rows)} logprobs for {new} ids")
            self._ids += [token_id for _, token_id, _ in rows]
            self._logprobs += [logprob for logprob, _, _ in rows]
            if self._want_top:
                best = _decode_tops(meta.output_top_logprobs)[-new:]
                if len(best) != new:
                    raise self._unusable(f"the top logprobs of {len(best)} ids for {new}")
                tops += [[(logprob, token_id) for logprob, token_id, _ in top or ()] for top in best]
        if held and (held == new or (held == total and meta.finish_reason is not None)):
            self._check(frame, meta, held)

    def _check(self, frame: _Frame, meta: _Meta, held: int) -> None:
        """Hold what was given out against what this frame holds: all of it, or what is new."""
        if _decode_ids(frame.output_ids) != self._ids[-held:]:
            raise self._unusable("ids that do not agree with their logprobs")
        if self._repeats and [row[0] for row in _decode_rows(meta.output_token_logprobs)] != self._logprobs:
            raise self._unusable("logprobs that changed while the answer grew")

    def _finish(self, reason: dict[str, Any]) -> Finish:
        kind = reason.get("type")
        if kind == "abort":
            status = reason.get("status_code")
            if isinstance(status, int) and status >= 400:
                again = not self._ids and status in RETRYABLE_STATUSES
                raise described(self._provider, str(reason.get("message") or "aborted"), status, retryable=again)
            return Finish("abort", None, reason)
        if kind == "length":
            return Finish("length", None, reason)
        matched = reason.get("matched")
        if isinstance(matched, list):
            matched = matched[-1] if matched else None
        return Finish("stop", matched if isinstance(matched, int | str) else None, reason)

    def _unusable(self, what: str) -> ProviderError:
        return ProviderError(f"{self._provider} sent {what}: its token record is not usable.")


def _count(ids: msgspec.Raw) -> int:
    """How many numbers a JSON array of numbers has, without reading them."""
    data = bytes(ids)
    return data.count(b",") + 1 if len(data) > 2 else 0


def _tail(rows: bytes, count: int) -> bytes:
    """The last `count` rows of a JSON array of flat arrays, as one array; all of them if there are fewer."""
    at = len(rows)
    for _ in range(count):
        at = rows.rfind(b"[", 1, at)
        if at < 0:
            return rows
    return b"[" + rows[at:]


def _versions(meta: _Meta, sampled: int) -> tuple[VersionSpan, ...]:
    """Which weights sampled which ids. Engines that record no spans tell the one version at the end."""
    if meta.weight_versions is not None:
        return tuple(VersionSpan(each.version, each.start, each.end) for each in meta.weight_versions)
    return (VersionSpan(meta.weight_version, 0, sampled),) if meta.weight_version is not None else ()
