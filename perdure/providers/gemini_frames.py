"""What Gemini answers, streamed or whole: parts in, chunks out, at the end a ModelDone.

Invariant: the chunks joined are the ModelDone's parts and calls; streamed and whole answers of one content give equal results.
A part's signature closes it: nothing is joined to a signed part, so each signature goes back with what it signs.
"""

import uuid

import msgspec

from perdure.core.errors import ProviderError
from perdure.core.messages import ReasoningPart, TextPart, ToolCall
from perdure.core.model import (
    Chunk,
    ModelDone,
    ProviderExchange,
    ReasoningChunk,
    TextChunk,
    TokenLogprob,
    ToolCallChunk,
)
from perdure.providers.answer_frames import AnswerFrames
from perdure.providers.gemini_wire import (
    Candidate,
    Frame,
    FunctionCall,
    Part,
    WireUsage,
    decode_frame,
    decode_frames,
    token_logprobs,
    usage_of,
)
from perdure.providers.openai_frames import Finish

_FINISH: dict[str, Finish] = {
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "ESCALATION": "content_filter",
}
_BROKEN_CALLS = frozenset({"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"})
_FAILED = frozenset({"MISSING_THOUGHT_SIGNATURE", "MALFORMED_RESPONSE", "PUP_LIMITED_DISABLED"})


class _Open:
    """A part under way. `signed`: complete."""

    __slots__ = ("kind", "pieces", "signature")

    def __init__(self, kind: type[TextPart | ReasoningPart]) -> None:
        self.kind = kind
        self.pieces: list[str] = []
        self.signature: str | None = None

    def part(self) -> TextPart | ReasoningPart:
        text = "".join(self.pieces)
        return (
            TextPart(text, self.signature) if self.kind is TextPart else ReasoningPart(text, signature=self.signature)
        )


class GeminiAnswer(AnswerFrames):
    """One answer under way."""

    form = "answer of Gemini's API"
    unit = "candidate"

    def __init__(self, provider: str) -> None:
        super().__init__(provider)
        self._content: list[_Open] = []
        self._calls: list[ToolCall] = []
        self._calls_at = 0
        self._open: _Open | None = None
        self._finish: str | None = None
        self._finish_message: str | None = None
        self._blocked: str | None = None
        self._usage: WireUsage | None = None
        self._logprobs: list[TokenLogprob] = []
        self._model: str | None = None
        self._id: str | None = None
        self._frames: list[bytes] = []

    def done(self, *, request: bytes = b"") -> ModelDone:
        """The whole answer. ProviderError if its end never came, or if nothing came but the reason why."""
        if self.failure is not None:
            raise self.failure
        if self._blocked is not None:
            raise self._error(f"refused the prompt: {self._blocked}. Change what is asked")
        if self._finish is None:
            raise self._cut_off()
        content, calls = tuple(each.part() for each in self._content), tuple(self._calls)
        finish = _FINISH.get(self._finish, "stop")
        why = f"{self._finish}: {self._finish_message}" if self._finish_message else self._finish
        if self._finish in _FAILED or (finish == "content_filter" and not content and not calls):
            raise self._error(f"gave no answer: {why}", retryable=self._finish == "MALFORMED_RESPONSE")
        unparsed: tuple[tuple[str, str], ...] = ()
        if self._finish in _BROKEN_CALLS:
            unparsed = ((self._finish_message or "", f"it is no call of one of the tools ({self._finish})"),)
        return ModelDone(
            finish="tool_calls" if calls and finish == "stop" else finish,
            content=content,
            tool_calls=calls,
            calls_at=self._calls_at if calls and self._calls_at < len(content) else None,
            usage=usage_of(self._usage),
            model=self._model,
            logprobs=self._logprobs or None,
            unparsed=unparsed,
            exchange=ProviderExchange(request=request, response=b"[" + b",".join(self._frames) + b"]"),
            request_id=self._id,
        )

    def _decoded(self, data: bytes) -> list[Frame]:
        """A body that is not streamed as events is one frame, or a list of them."""
        try:
            return decode_frames(data) if data.lstrip()[:1] == b"[" else [decode_frame(data)]
        except (msgspec.DecodeError, UnicodeDecodeError) as cause:
            raise self._unreadable(data, cause) from cause

    def _take(self, data: bytes, chunks: list[Chunk]) -> None:
        for frame in self._decoded(data):
            self._take_frame(frame, data, chunks)

    def _take_frame(self, frame: Frame, data: bytes, chunks: list[Chunk]) -> None:
        if frame.error:
            raise self._failed(frame.error, data)
        self._frames.append(data)
        self._model = frame.model_version or self._model
        self._id = frame.response_id or self._id
        self._usage = frame.usage_metadata or self._usage
        feedback = frame.prompt_feedback
        if feedback is not None and feedback.block_reason:
            self._blocked = f"{feedback.block_reason} {feedback.block_reason_message or ''}".rstrip()
        for candidate in frame.candidates or ():
            if candidate.index == 0:
                self._take_candidate(candidate, chunks)

    def _take_candidate(self, candidate: Candidate, chunks: list[Chunk]) -> None:
        for part in (candidate.content.parts if candidate.content is not None else None) or ():
            if part.function_call is not None:
                self._take_call(part.function_call, part.thought_signature, chunks)
            elif part.text is not None or part.thought_signature:
                self._take_text(part, chunks)
        if candidate.finish_reason:
            self._finish = candidate.finish_reason
            self._finish_message = candidate.finish_message
        if candidate.logprobs_result is not None:
            self._logprobs += token_logprobs(candidate.logprobs_result)

    def _take_text(self, part: Part, chunks: list[Chunk]) -> None:
        kind = ReasoningPart if part.thought else TextPart
        text, signature = part.text or "", part.thought_signature or None
        if not text and not signature:
            return
        if self._open is None or self._open.kind is not kind:
            self._open = _Open(kind)
            self._content.append(self._open)
        if text:
            self._open.pieces.append(text)
        if kind is ReasoningPart:
            chunks.append(ReasoningChunk(text, signature=signature))
        elif text:
            chunks.append(TextChunk(text))
        if signature:
            self._open.signature = signature
            self._open = None

    def _take_call(self, call: FunctionCall, signature: str | None, chunks: list[Chunk]) -> None:
        """A call comes whole. Those without an id of their own, or with one that is taken, get one."""
        self._open = None
        at = len(self._content)
        if not self._calls:
            self._calls_at = at
        free = call.id and not any(other.id == call.id for other in self._calls)
        call_id = call.id if call.id and free else f"call_{uuid.uuid4().hex[:24]}"
        arguments = bytes(call.args).decode()
        arguments = "{}" if arguments in ("", "null") else arguments
        made = ToolCall(call_id, call.name or "", arguments, signature, at if at != self._calls_at else None)
        chunks.append(ToolCallChunk(len(self._calls), made.id, made.name, made.arguments, signature))
        self._calls.append(made)

    def _error(self, what: str, *, retryable: bool = False) -> ProviderError:
        return ProviderError(
            f"{self._provider} {what}.",
            kind="llm_error" if retryable else "llm_bad_request",
            retryable=retryable and not self.any_output,
        )
